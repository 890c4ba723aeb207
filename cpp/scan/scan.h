// Score a tile, hand it to a consumer: the loop under every search.
//
// Tasks are (block of queries) x (range of panels). Inside a task, a few panels stay in the
// first-level cache while all of the block's queries, which fit the second level, pass by; a
// consumer that raises its thresholds while the scan runs sees the effect in the next tile.
#pragma once

#include <algorithm>

#include "kernel_table.h"
#include "packing.h"

namespace stope {

// Quantised queries: row i starts at codes + i * shape.query_bytes; readable kMaxTileRows beyond.
struct ScanQueries {
  const std::int8_t* codes;
  std::int64_t first, end;
  int tile_rows = 0;  // 0: as the kernels have them for many
};

// Queries of a tile, where there are no more than these.
inline int tile_rows_for(const ScanKernels& kernels, std::int64_t queries) {
  return queries <= kernels.few_rows ? kernels.few_rows : kernels.tile_rows;
}

// Panels [first, end) of the corpus; panel p lies at data + (p - first) * shape.bytes.
struct ScanPanels {
  const std::int8_t* data;
  std::int64_t first, end;
};

// Entries of a tile's row: the tile handed to a consumer has rows of this many.
inline constexpr std::int64_t kTileStride = kMaxTilePanels * kLanes;

// consume(first_query, rows, first_panel, panels, tile) for every tile for which
// worth(first_query, queries, first_panel, panels, tile) holds, which may use the tile's memory.
template <typename Consumer, typename Worth>
void scan(const ScanKernels& kernels, const PanelShape& shape, const ScanQueries& queries,
          const ScanPanels& panels, Consumer&& consume, Worth&& worth) {
  alignas(64) TileEntry tile[kMaxTileRows * kTileStride];
  const int tile_rows = queries.tile_rows != 0 ? queries.tile_rows : kernels.tile_rows;
  kernels.begin_tiles();
  for (std::int64_t panel = panels.first; panel < panels.end; panel += kernels.tile_panels) {
    const PanelRun run = {
        panels.data + (panel - panels.first) * shape.bytes, shape.bytes, shape.footer_offset,
        static_cast<int>(std::min<std::int64_t>(kernels.tile_panels, panels.end - panel))};
    for (std::int64_t row = queries.first; row < queries.end; row += tile_rows) {
      const QueryTile block = {
          queries.codes + row * shape.query_bytes, shape.query_bytes,
          static_cast<int>(std::min<std::int64_t>(tile_rows, queries.end - row))};
      if (!worth(row, block, panel, run, tile)) continue;
      kernels.score_panels(&block, &run, shape.depth, tile, kTileStride);
      consume(row, block.rows, panel, run, tile);
    }
  }
  kernels.end_tiles();
}

template <typename Consumer>
void scan(const ScanKernels& kernels, const PanelShape& shape, const ScanQueries& queries,
          const ScanPanels& panels, Consumer&& consume) {
  scan(kernels, shape, queries, panels, consume, [](auto&&...) { return true; });
}

}  // namespace stope
