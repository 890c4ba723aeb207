// int8 and bfloat16 tiles: 32 queries against two panels at a time (simd/amx.h says why this
// shape).
#include <cstdint>

#include "kernel_table.h"
#include "simd/amx.h"
#include "simd/avx512.h"

namespace {
constexpr std::int64_t kSplitDepth = 256;  // from here on float32 rows go as two parts
}

#include "amx_strip.inl.h"

namespace {

using stope::PanelFooter;
using stope::PanelRun;
using stope::QueryTile;
using stope::ScanKernels;
using stope::TileEntry;

// Tile numbers are literals in gcc's intrinsics, so each product is written out. C0 C1 / C2 C3 are
// tiles 0 to 3 (upper and lower queries x first and second panel), A is 4 and 5, B is 6 and 7.
struct Int8Tiles {
  static constexpr int kElementBytes = 1;
  static void product0() { _tile_dpbssd(0, 4, 6); }
  static void product1() { _tile_dpbssd(1, 4, 7); }
  static void product2() { _tile_dpbssd(2, 5, 6); }
  static void product3() { _tile_dpbssd(3, 5, 7); }
};
struct Bfloat16Tiles {
  static constexpr int kElementBytes = 2;
  static void product0() { _tile_dpbf16ps(0, 4, 6); }
  static void product1() { _tile_dpbf16ps(1, 4, 7); }
  static void product2() { _tile_dpbf16ps(2, 5, 6); }
  static void product3() { _tile_dpbf16ps(3, 5, 7); }
};

template <typename Tiles, bool kTwoRows, bool kTwoPanels>
inline void score_pair(const QueryTile& queries, const PanelRun& panels, int first,
                       std::int64_t depth_bytes, TileEntry* tile, std::int64_t stride) {
  const auto* upper = static_cast<const std::int8_t*>(queries.data);
  const std::int8_t* lower = upper + kAmxTileSide * queries.stride;
  const std::int8_t* panel = panels.data + first * panels.bytes;
  const std::int8_t* next = panel + panels.bytes;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t byte = 0; byte < depth_bytes; byte += kAmxTileBytes) {
    _tile_loadd(4, upper + byte, queries.stride);
    _tile_loadd(6, panel + byte * kLanes, kAmxTileBytes);
    Tiles::product0();
    if constexpr (kTwoPanels) {
      _tile_loadd(7, next + byte * kLanes, kAmxTileBytes);
      Tiles::product1();
    }
    if constexpr (kTwoRows) {
      _tile_loadd(5, lower + byte, queries.stride);
      Tiles::product2();
      if constexpr (kTwoPanels) Tiles::product3();
    }
  }
  const std::int64_t stride_bytes = stride * static_cast<std::int64_t>(sizeof(TileEntry));
  TileEntry* out = tile + first * kLanes;
  TileEntry* lower_out = out + kAmxTileSide * stride;
  _tile_stored(0, out, stride_bytes);
  if constexpr (kTwoPanels) _tile_stored(1, out + kLanes, stride_bytes);
  if constexpr (kTwoRows) _tile_stored(2, lower_out, stride_bytes);
  if constexpr (kTwoRows && kTwoPanels) _tile_stored(3, lower_out + kLanes, stride_bytes);
}

template <typename Tiles>
void score_panels(const QueryTile* queries, const PanelRun* panels, std::int64_t depth,
                  TileEntry* tile, std::int64_t stride) {
  const std::int64_t depth_bytes = depth * Tiles::kElementBytes;
  for (int p = 0; p < panels->count; p += 2) {
    const bool two_rows = queries->rows > kAmxTileSide, two_panels = p + 1 < panels->count;
    const auto score =
        two_rows ? (two_panels ? score_pair<Tiles, true, true> : score_pair<Tiles, true, false>)
                 : (two_panels ? score_pair<Tiles, false, true> : score_pair<Tiles, false, false>);
    score(*queries, *panels, p, depth_bytes, tile, stride);
  }
}

template <typename Tiles>
std::int64_t peak(std::int64_t rounds) {
  begin_tiles();
  for (std::int64_t i = 0; i < rounds; ++i) {
    Tiles::product0();
    Tiles::product1();
    Tiles::product2();
    Tiles::product3();
  }
  end_tiles();
  constexpr int kElements = kAmxTileBytes / Tiles::kElementBytes;
  return rounds * 4 * kAmxTileSide * kAmxTileSide * kElements * 2;
}

// The AVX-512 table's, set with the table.
decltype(ScanKernels::quantise) quantise_unsigned = nullptr;

// Both operands are signed here, so the AVX-512 table's codes lose their offset of 128, and the
// accumulators need no correction: loading it cost a tenth of the scoring.
void quantise_signed(const float* row, std::int64_t depth, std::int64_t depth_padded,
                     float fixed_scale, void* out, stope::RowStats* stats) {
  quantise_unsigned(row, depth, depth_padded, fixed_scale, out, stats);
  auto* codes = static_cast<std::uint8_t*>(out);
  for (std::int64_t i = 0; i < depth_padded; ++i) codes[i] ^= 0x80u;
}

template <typename Tiles>
void fill_scan(ScanKernels* scan) {
  scan->tile_rows = kAmxRows;
  scan->few_rows = kAmxRows;
  scan->tile_panels = stope::kMaxTilePanels;
  scan->begin_tiles = begin_tiles;
  scan->end_tiles = end_tiles;
  scan->score_panels = score_panels<Tiles>;
  scan->peak = peak<Tiles>;
}

}  // namespace

namespace stope {

// On top of the AVX-512 table: what tiles do better, the rest as it is.
void fill_amx(KernelTable* table) {
  table->name = "amx";
  fill_scan<Int8Tiles>(&table->int8);
  quantise_unsigned = table->int8.quantise;
  table->int8.quantise = quantise_signed;
  table->int8_exact = table->int8;
  fill_scan<Bfloat16Tiles>(&table->bfloat16);
  fill_amx_infonce(&table->infonce);
}

}  // namespace stope
