// Score a tile: dot products of a few queries with a few panels, accumulators in registers.
//
//   tile[r][c] = sum over chunks g, elements j of query[r][g][j] * panel[g][c][j]
//
// One load per panel and one broadcast per query serve kRows * kPanels multiply-adds.
#pragma once

#include "format.inl.h"

namespace {

using stope::kLanes;
using stope::PanelFooter;
using stope::PanelRun;
using stope::QueryTile;

constexpr int kChunkBytes = 4;
constexpr int kChunkRowBytes = kChunkBytes * kLanes;

template <typename Format, int kRows, int kPanels>
inline void score_block(const QueryTile& queries, const PanelRun& panels, int first,
                        std::int64_t depth, TileEntry* tile, std::int64_t stride) {
  constexpr int kElements = kChunkBytes / Format::kElementBytes;
  const std::int8_t* data = panels.data + first * panels.bytes;
  const auto* query = static_cast<const std::int8_t*>(queries.data);
  const std::int64_t query_stride = queries.stride;
  typename Format::Sum sum[kRows][kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const auto start = Format::start(
        reinterpret_cast<const PanelFooter*>(data + p * panels.bytes + panels.footer_offset));
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) sum[r][p] = start;
  }
  const std::int64_t chunks = (depth + kElements - 1) / kElements;
  for (std::int64_t g = 0; g < chunks; ++g) {
    typename Format::Corpus x[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p)
      x[p] = Format::load(data + p * panels.bytes + g * kChunkRowBytes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const auto q = Format::broadcast(query + r * query_stride + g * kChunkBytes);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) sum[r][p] = Format::multiply_add(sum[r][p], q, x[p]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p)
      Format::store_tile(tile + r * stride + (first + p) * kLanes, sum[r][p]);
}

template <typename Format, int kPanels, int kRows = Format::kRows>
inline void score_rows(const QueryTile& queries, const PanelRun& panels, int first,
                       std::int64_t depth, TileEntry* tile, std::int64_t stride) {
  if constexpr (kRows > 1) {
    if (queries.rows < kRows)
      return score_rows<Format, kPanels, kRows - 1>(queries, panels, first, depth, tile, stride);
  }
  score_block<Format, kRows, kPanels>(queries, panels, first, depth, tile, stride);
}

template <typename Format>
void score_panels(const QueryTile* queries, const PanelRun* panels, std::int64_t depth,
                  TileEntry* tile, std::int64_t stride) {
  int p = 0;
  for (; p + Format::kPanels <= panels->count; p += Format::kPanels)
    score_rows<Format, Format::kPanels>(*queries, *panels, p, depth, tile, stride);
  for (; p < panels->count; ++p) score_rows<Format, 1>(*queries, *panels, p, depth, tile, stride);
}

constexpr int kPeakChains = 8;  // enough to cover latency times throughput on every listed CPU

template <typename Format>
std::int64_t peak(std::int64_t rounds) {
  alignas(64) std::int8_t bytes[kChunkRowBytes] = {1, 2, 3};
  TileEntry sink[kLanes];
  alignas(64) PanelFooter footer = {};
  typename Format::Sum sum[kPeakChains];
  for (auto& s : sum) s = Format::start(&footer);
  const auto q = Format::broadcast(bytes);
  const auto x = Format::load(bytes);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kPeakChains; ++c) sum[c] = Format::multiply_add(sum[c], q, x);
  }
  for (auto& s : sum) {
    Format::store_tile(sink, s);
    asm volatile("" : : "m"(sink));
  }
  constexpr int kElements = kChunkBytes / Format::kElementBytes;
  return rounds * kPeakChains * kLanes * kElements * 2;
}

}  // namespace
