// The scan: tiles of 128 queries x 128 rows by tensor cores, and what the certificate cannot rule
// out appended to the lists of candidates.
//
//   block: 256 threads, 2 x 4 warps, each 64 x 32 of the tile in 4 x 4 products of 16 x 8
//   slabs of 32 elements, three on their way from global memory by cp.async
//   shared memory: rows of a slab lie 80 bytes apart, so that ldmatrix meets no bank twice
#pragma once

#include "bounds.cuh"
#include "copy.cuh"
#include "mma.cuh"
#include "panels.cuh"
#include "warp.cuh"

namespace stope::cuda {

struct ScanArguments {
  const std::uint16_t* query_codes;  // [queries][depth_padded]
  Panels panels;                     // of the chunk; a tile lies in one of them
  std::int64_t queries, rows;
  std::int64_t depth_padded;
  std::int64_t first_query, first_row;  // of the group and of the chunk
  BoundRules rules;
  const QueryBound* bounds;
  const QueryTerms* terms;
  QueryState* states;
  Candidate* entries;  // [queries][capacity]
  std::int64_t capacity;
  std::int64_t* above;
  const std::int64_t* exclude_offsets;  // of all queries, or nullptr
  const std::int64_t* exclude_ids;
  Reach reach;
  std::int64_t first_place;  // of the group's queries among the rows, where they are some of them
};

inline constexpr int kScanThreads = 256;
inline constexpr int kStages = 3;
inline constexpr int kSlabStride = kSlabDepth + 8;
inline constexpr int kSlabElements = 2 * static_cast<int>(kTileSide) * kSlabStride;
inline constexpr std::size_t kScanSharedBytes = kStages * kSlabElements * sizeof(std::uint16_t);
inline constexpr int kWarpRows = 64, kWarpColumns = 32;
inline constexpr int kRowTiles = kWarpRows / 16, kColumnTiles = kWarpColumns / 8;
inline constexpr unsigned kWarpsAcross = kTileSide / kWarpColumns;
static_assert((kTileSide / kWarpRows) * (kTileSide / kWarpColumns) * 32 == kScanThreads);

// This thread's part of 128 rows of a slab: 64 bytes a row, in four pieces.
STOPE_DEVICE void copy_slab(std::uint16_t* to, const std::uint16_t* from, std::int64_t rows,
                            std::int64_t depth_padded, std::int64_t depth) {
  constexpr unsigned kPieces = kSlabDepth / 8;
  for (unsigned piece = thread(); piece < kTileSide * kPieces; piece += kScanThreads) {
    const unsigned row = piece / kPieces, part = piece % kPieces;
    const bool there = row < rows;
    const std::int64_t source = there ? row : 0;
    copy_async_16(to + row * kSlabStride + part * 8,
                  from + source * depth_padded + depth + part * 8, there);
  }
}

// Whether one of the places [place, end) may find one of the rows [row, row_end).
STOPE_DEVICE bool reaches(Reach reach, std::int64_t place, std::int64_t end, std::int64_t row,
                          std::int64_t row_end) {
  return reach == Reach::kAll || (reach == Reach::kEarlier ? row < end - 1 : row_end - 1 > place);
}

// Whether the list of the query holds the id; lists ascend.
STOPE_DEVICE bool is_excluded(const ScanArguments& a, std::int64_t query, std::int64_t id) {
  if (a.exclude_offsets == nullptr) return false;
  std::int64_t low = a.exclude_offsets[query], high = a.exclude_offsets[query + 1];
  const std::int64_t end = high;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (a.exclude_ids[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return low < end && a.exclude_ids[low] == id;
}

// What passed the first test. Lists have room for a whole chunk beside what the last refinement
// left, so the place is always there; their order is that of arrival and means nothing.
STOPE_DEVICE void consider(const ScanArguments& a, std::int64_t query, std::int64_t row,
                           const ScanRow& x, float dot) {
  const Interval score = score_bounds(a.rules, a.bounds[query], x, static_cast<double>(dot));
  const std::int64_t id = a.first_row + row;
  QueryState* state = a.states + query;
  Candidate entry = {score.upper, score.lower, static_cast<std::int32_t>(id)};
  const std::int64_t place = a.first_place + query;
  if (!reaches(a.reach, place, place + 1, id, id + 1)) return;
  if (entry.upper < state->least || is_excluded(a, a.first_query + query, id)) return;
  bool is_above;
  if (admit(*state, &entry, &is_above))
    a.entries[query * a.capacity + atomic_add(&state->count, 1)] = entry;
  else if (is_above)
    atomic_add(a.above + query, 1);
}

STOPE_KERNEL(kScanThreads) scan_tile(ScanArguments a) {
  auto* slabs = shared_memory<std::uint16_t>();
  const std::int64_t first_query = std::int64_t{block_y()} * kTileSide;
  const std::int64_t first_row = std::int64_t{block_x()} * kTileSide;
  const std::int64_t place = a.first_place + first_query, id = a.first_row + first_row;
  if (!reaches(a.reach, place, place + kTileSide, id, id + kTileSide)) return;
  const std::uint16_t* query_codes = a.query_codes + first_query * a.depth_padded;
  const unsigned warp = thread() / kWarp;
  const unsigned warp_row = warp / kWarpsAcross * kWarpRows;
  const unsigned warp_column = warp % kWarpsAcross * kWarpColumns;
  const auto count = static_cast<int>(a.depth_padded / kSlabDepth);
  const std::uint16_t* codes = codes_of(a.panels, first_row);
  FragmentC sums[kRowTiles][kColumnTiles] = {};

  const auto copy = [&](int slab) {
    if (slab < count) {
      std::uint16_t* to = slabs + slab % kStages * kSlabElements;
      copy_slab(to, query_codes, a.queries - first_query, a.depth_padded, slab * kSlabDepth);
      copy_slab(to + kTileSide * kSlabStride, codes, a.rows - first_row, a.depth_padded,
                slab * kSlabDepth);
    }
    end_copy_group();
  };
  for (int slab = 0; slab < kStages - 1; ++slab) copy(slab);
  for (int slab = 0; slab < count; ++slab) {
    wait_for_copies<kStages - 2>();
    block_barrier();
    copy(slab + kStages - 1);  // to where the slab before this one was, which all have left
    const std::uint16_t* q = slabs + slab % kStages * kSlabElements;
    const std::uint16_t* x = q + kTileSide * kSlabStride;
#pragma unroll
    for (unsigned depth = 0; depth < kSlabDepth; depth += 16) {
      FragmentA rows[kRowTiles];
#pragma unroll
      for (unsigned r = 0; r < kRowTiles; ++r)
        load_matrices(rows[r].word, q + (warp_row + r * 16 + lane() % 16) * kSlabStride + depth +
                                        lane() / 16 * 8);
#pragma unroll
      for (unsigned c = 0; c < kColumnTiles; c += 2) {
        std::uint32_t words[4];
        load_matrices(
            words, x + (warp_column + c * 8 + lane() / 16 * 8 + lane() % 8) * kSlabStride + depth +
                       lane() / 8 % 2 * 8);
#pragma unroll
        for (unsigned r = 0; r < kRowTiles; ++r) {
          multiply_add(&sums[r][c], rows[r], {{words[0], words[1]}});
          multiply_add(&sums[r][c + 1], rows[r], {{words[2], words[3]}});
        }
      }
    }
  }

  // The slabs' memory now holds what the first test needs of the tile's queries and rows.
  wait_for_copies<0>();
  block_barrier();
  auto* terms = shared_memory<QueryTerms>();
  auto* scan_rows = reinterpret_cast<ScanRow*>(terms + kTileSide);
  for (unsigned i = thread(); i < kTileSide; i += kScanThreads) {
    if (first_query + i < a.queries) terms[i] = a.terms[first_query + i];
    if (first_row + i < a.rows) scan_rows[i] = *scan_row_of(a.panels, first_row + i);
  }
  block_barrier();
#pragma unroll
  for (unsigned r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (unsigned c = 0; c < kColumnTiles; ++c) {
#pragma unroll
      for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = warp_row + r * 16 + lane() / 4 + i / 2 * 8;
        const unsigned column = warp_column + c * 8 + lane() % 4 * 2 + i % 2;
        if (first_query + row >= a.queries || first_row + column >= a.rows) continue;
        const QueryTerms t = terms[row];
        const ScanRow x = scan_rows[column];
        const float dot = sums[r][c].sum[i];
        if (dot >= t.lower * x.inverse + t.bias * x.half_square - t.residual * x.residual -
                       t.norm * x.norm)
          consider(a, first_query + row, first_row + column, x, dot);
      }
    }
  }
}

}  // namespace stope::cuda
