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

// Chains of multiply-adds for one sum. With few rows the depth is divided among several, so that
// none waits for the one before; float32 keeps to one, whose rounding does not depend on the rows.
template <typename Format>
constexpr int parts_for(int sums) {
  return !Format::kExactSums || sums > 3 ? Format::kChunks : sums > 1 ? 2 : 4;
}

inline const PanelFooter* footer_of(const PanelRun& panels, int p) {
  return reinterpret_cast<const PanelFooter*>(panels.data + p * panels.bytes +
                                              panels.footer_offset);
}

template <typename Format, int kRows, int kPanels>
inline void score_block(const QueryTile& queries, const PanelRun& panels, int first,
                        std::int64_t depth, TileEntry* tile, std::int64_t stride) {
  constexpr int kElements = kChunkBytes / Format::kElementBytes;
  constexpr int kParts = parts_for<Format>(kRows * kPanels),
                kSums = kRows * kPanels < 4 ? kParts : 1;
  const std::int8_t* data = panels.data + first * panels.bytes;
  const auto* query = static_cast<const std::int8_t*>(queries.data);
  const std::int64_t query_stride = queries.stride;
  typename Format::Sum sum[kSums][kRows][kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const auto start = Format::start(footer_of(panels, first + p));
#pragma GCC unroll 4
    for (int s = 0; s < kSums; ++s)
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) sum[s][r][p] = s == 0 ? start : Format::zero();
  }
  const std::int64_t chunks = (depth + kElements - 1) / kElements;
  for (std::int64_t g = 0; g < chunks; g += kParts) {
    typename Format::Corpus x[kPanels][kParts];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 4
      for (int part = 0; part < kParts; part += Format::kChunks) {
        const std::int8_t* chunk =
            data + p * panels.bytes + (g + part) / Format::kChunks * kChunkRowBytes;
        Format::load(chunk, &x[p][part]);
      }
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part)
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const auto q = Format::broadcast(query + r * query_stride + (g + part) * kChunkBytes);
#pragma GCC unroll 4
        for (int p = 0; p < kPanels; ++p) {
          auto& to = sum[part % kSums][r][p];
          to = Format::multiply_add(to, q, x[p][part]);
        }
      }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
#pragma GCC unroll 4
      for (int s = 1; s < kSums; ++s) sum[0][r][p] = Format::add(sum[0][r][p], sum[s][r][p]);
      Format::store_tile(tile + r * stride + (first + p) * kLanes, sum[0][r][p]);
    }
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

// Few queries wait for memory, which is read one panel after another up to twice as fast as several
// panels side by side (Zen 4).
template <typename Format>
void score_panels(const QueryTile* queries, const PanelRun* panels, std::int64_t depth,
                  TileEntry* tile, std::int64_t stride) {
  int p = 0;
  if (!Format::kExactSums || queries->rows == Format::kRows)
    for (; p + Format::kPanels <= panels->count; p += Format::kPanels)
      score_rows<Format, Format::kPanels>(*queries, *panels, p, depth, tile, stride);
  for (; p < panels->count; ++p)
    score_rows<Format, 1, Format::kFewRows>(*queries, *panels, p, depth, tile, stride);
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
  typename Format::Corpus x[Format::kChunks];
  Format::load(bytes, x);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kPeakChains; ++c) sum[c] = Format::multiply_add(sum[c], q, x[0]);
  }
  for (auto& s : sum) {
    Format::store_tile(sink, s);
    asm volatile("" : : "m"(sink));
  }
  constexpr int kElements = kChunkBytes / Format::kElementBytes;
  return rounds * kPeakChains * kLanes * kElements * 2;
}

}  // namespace
