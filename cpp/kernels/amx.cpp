// int8 tiles: 32 queries against two panels at a time (simd/amx.h says why this shape).
#include <cstddef>

#include "kernel_table.h"
#include "simd/amx.h"

namespace {

using stope::kLanes;
using stope::PanelFooter;
using stope::QueryTile;

// Tile numbers are immediates, so the four accumulators are written out: C0 C1 / C2 C3.
template <bool kTwoRows, bool kTwoPanels>
inline void score_pair(const std::int8_t* queries, std::int64_t stride, const std::int8_t* panel,
                       std::int64_t panel_bytes, std::int64_t depth_padded, std::int32_t* tile,
                       std::int64_t tile_stride) {
  const std::int8_t* lower_queries = queries + kAmxTileSide * stride;
  const std::int8_t* next_panel = panel + panel_bytes;
  const std::int64_t correction =
      depth_padded * kLanes + static_cast<std::int64_t>(offsetof(PanelFooter, correction));
  _tile_loadd(0, panel + correction, 0);
  if constexpr (kTwoPanels) _tile_loadd(1, next_panel + correction, 0);
  if constexpr (kTwoRows) _tile_loadd(2, panel + correction, 0);
  if constexpr (kTwoRows && kTwoPanels) _tile_loadd(3, next_panel + correction, 0);
  for (std::int64_t depth = 0; depth < depth_padded; depth += kAmxTileBytes) {
    _tile_loadd(4, queries + depth, stride);
    _tile_loadd(6, panel + depth * kLanes, kAmxTileBytes);
    _tile_dpbusd(0, 4, 6);
    if constexpr (kTwoPanels) {
      _tile_loadd(7, next_panel + depth * kLanes, kAmxTileBytes);
      _tile_dpbusd(1, 4, 7);
    }
    if constexpr (kTwoRows) {
      _tile_loadd(5, lower_queries + depth, stride);
      _tile_dpbusd(2, 5, 6);
      if constexpr (kTwoPanels) _tile_dpbusd(3, 5, 7);
    }
  }
  const std::int64_t stride_bytes = tile_stride * static_cast<std::int64_t>(sizeof(std::int32_t));
  std::int32_t* lower_tile = tile + kAmxTileSide * tile_stride;
  _tile_stored(0, tile, stride_bytes);
  if constexpr (kTwoPanels) _tile_stored(1, tile + kLanes, stride_bytes);
  if constexpr (kTwoRows) _tile_stored(2, lower_tile, stride_bytes);
  if constexpr (kTwoRows && kTwoPanels) _tile_stored(3, lower_tile + kLanes, stride_bytes);
}

void score_panels(const QueryTile* queries, const std::int8_t* panels, std::int64_t panel_bytes,
                  int panel_count, std::int64_t /*depth: tiles are padded*/,
                  std::int64_t depth_padded, std::int32_t* tile, std::int64_t stride) {
  const bool two_rows = queries->rows > kAmxTileSide;
  for (int p = 0; p < panel_count; p += 2) {
    const bool two_panels = p + 1 < panel_count;
    const auto score = two_rows ? (two_panels ? score_pair<true, true> : score_pair<true, false>)
                                : (two_panels ? score_pair<false, true> : score_pair<false, false>);
    score(queries->data, queries->stride, panels + p * panel_bytes, panel_bytes, depth_padded,
          tile + p * kLanes, stride);
  }
}

std::int64_t peak_int8(std::int64_t rounds) {
  begin_tiles();
  for (std::int64_t i = 0; i < rounds; ++i) {
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  end_tiles();
  return rounds * 4 * kAmxTileSide * kAmxTileSide * kAmxTileBytes * 2;
}

}  // namespace

namespace stope {

// On top of the AVX-512 table: what tiles do better, the rest as it is.
void fill_amx(KernelTable* table) {
  table->name = "amx";
  table->tile_rows = kAmxRows;
  table->tile_panels = kMaxTilePanels;
  table->begin_tiles = begin_tiles;
  table->end_tiles = end_tiles;
  table->score_panels = score_panels;
  table->peak_int8 = peak_int8;
}

}  // namespace stope
