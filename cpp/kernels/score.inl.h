// Score a tile: int32 dot products of up to kTileRows queries and kTilePanels panels.
//
//   tile[r][c] = sum over g, j of query[r][4g + j] * panel[g][c][j]
//
// All accumulators stay in registers: kTileRows * kTilePanels of them, one load per panel and one
// broadcast per query for each group of four elements.
#pragma once

#include "kernel_table.h"

namespace {

using stope::kLanes;
using stope::PanelFooter;
using stope::QueryTile;

template <int kRows, int kPanels>
inline void score_block(const std::int8_t* queries, std::int64_t stride,
                        const std::int8_t* panels, std::int64_t panel_bytes, std::int64_t depth,
                        std::int64_t depth_padded, std::int32_t* tile, std::int64_t tile_stride) {
  i32x16 acc[kRows][kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    i32x16 start = zero_i32();
    if constexpr (kQueryOffset != 0) {
      const std::int8_t* footer = panels + p * panel_bytes + depth_padded * kLanes;
      start = load_i32(reinterpret_cast<const std::int32_t*>(
          footer + offsetof(PanelFooter, correction)));
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) acc[r][p] = start;
  }
  const std::int64_t groups = (depth + 3) / 4;
  for (std::int64_t g = 0; g < groups; ++g) {
    s8x64 x[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) x[p] = load_s8(panels + p * panel_bytes + g * 4 * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const q8x4 q = broadcast_q8(queries + r * stride + g * 4);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) acc[r][p] = dot4(acc[r][p], q, x[p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) store_i32(tile + r * tile_stride + p * kLanes, acc[r][p]);
}

template <int kPanels>
inline void score_rows(const QueryTile* queries, const std::int8_t* panels,
                       std::int64_t panel_bytes, std::int64_t depth, std::int64_t depth_padded,
                       std::int32_t* tile, std::int64_t tile_stride) {
  const auto run = [&](auto rows) {
    score_block<decltype(rows)::value, kPanels>(queries->data, queries->stride, panels,
                                                panel_bytes, depth, depth_padded, tile, tile_stride);
  };
  switch (queries->rows) {
    case 1: return run(Count<1>{});
    case 2: return run(Count<2>{});
    case 3: return run(Count<3>{});
    case 4: return run(Count<4>{});
    case 5: return run(Count<5>{});
    default: return run(Count<6>{});
  }
}

void score_panels(const QueryTile* queries, const std::int8_t* panels, std::int64_t panel_bytes,
                  int panel_count, std::int64_t depth, std::int64_t depth_padded,
                  std::int32_t* tile, std::int64_t stride) {
  int p = 0;
  for (; p + kTilePanels <= panel_count; p += kTilePanels)
    score_rows<kTilePanels>(queries, panels + p * panel_bytes, panel_bytes, depth,
                            depth_padded, tile + p * kLanes, stride);
  for (; p < panel_count; ++p)
    score_rows<1>(queries, panels + p * panel_bytes, panel_bytes, depth, depth_padded,
                  tile + p * kLanes, stride);
}

}  // namespace
