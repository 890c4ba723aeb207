// Score a tile, hand it to a consumer: the loop under every search.
//
// Tasks are (block of queries) x (range of panels). Inside a task, a chunk of panels that fits the
// second-level cache is scored against all of the block's queries, tile by tile; a consumer that
// raises its thresholds while the scan runs sees the effect in the next tile.
#pragma once

#include <algorithm>

#include "kernel_table.h"
#include "packing.h"

namespace stope {

// Quantised queries: row i starts at codes + i * depth_padded; readable up to kMaxTileRows more.
struct ScanQueries {
  const std::int8_t* codes;
  std::int64_t first, end;
};

// Panels [first, end) of the corpus; panel p lies at data + (p - first) * shape.bytes.
struct ScanPanels {
  const std::int8_t* data;
  std::int64_t first, end;
};

inline constexpr std::int64_t kChunkBytes = 192 << 10;

// consume(first_query, rows, first_panel, panel_count, panels, tile): tile has rows of
// kTileStride int32.
inline constexpr std::int64_t kTileStride = kMaxTilePanels * kLanes;

template <typename Consumer>
void scan(const KernelTable& kernels, const PanelShape& shape, const ScanQueries& queries,
          const ScanPanels& panels, Consumer&& consume) {
  alignas(64) std::int32_t tile[kMaxTileRows * kTileStride];
  const std::int64_t tile_panels = kernels.tile_panels;
  const std::int64_t chunk =
      std::max<std::int64_t>(round_up(kChunkBytes / shape.bytes, tile_panels), tile_panels);
  kernels.begin_tiles();
  for (std::int64_t begin = panels.first; begin < panels.end; begin += chunk) {
    const std::int64_t end = std::min(begin + chunk, panels.end);
    for (std::int64_t row = queries.first; row < queries.end; row += kernels.tile_rows) {
      const QueryTile block = {
          queries.codes + row * shape.depth_padded, shape.depth_padded,
          static_cast<int>(std::min<std::int64_t>(kernels.tile_rows, queries.end - row))};
      for (std::int64_t panel = begin; panel < end; panel += tile_panels) {
        const int count = static_cast<int>(std::min(tile_panels, end - panel));
        const std::int8_t* data = panels.data + (panel - panels.first) * shape.bytes;
        kernels.score_panels(&block, data, shape.bytes, count, shape.depth,
                             shape.depth_padded, tile, kTileStride);
        consume(row, block.rows, panel, count, data, tile);
      }
    }
  }
  kernels.end_tiles();
}

}  // namespace stope
