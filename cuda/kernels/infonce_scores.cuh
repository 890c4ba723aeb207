// Kernels around the products of infonce: operands from the caller's rows, scores, and gradients
// from weights. T is float or Bfloat16, what is multiplied.
#pragma once

#include "infonce_types.h"
#include "rows.cuh"
#include "tile_product.cuh"

namespace stope::cuda {

inline constexpr int kInfonceThreads = 256;
inline constexpr std::int64_t kInfonceWarps = kInfonceThreads / kWarp;

STOPE_DEVICE RowReader side_reader(const InfonceSide& side, std::int64_t i) {
  const std::int64_t row = side.index == nullptr ? i : side.index[i];
  return reader(side.matrix, side.metric, row, side.factors[row]);
}

// The row or entry that this warp of the grid works on.
STOPE_DEVICE std::int64_t warp_of_grid() { return block_x() * kInfonceWarps + thread() / kWarp; }
STOPE_DEVICE std::int64_t thread_of_grid() {
  return std::int64_t{block_x()} * kInfonceThreads + thread();
}

template <typename T>
struct PackSideArguments {
  InfonceSide side;
  std::int64_t first, rows;
  T* out;  // [rows][depth]
};
// A warp to a row.
template <typename T>
STOPE_KERNEL(kInfonceThreads)
pack_side(PackSideArguments<T> a) {
  const std::int64_t row = warp_of_grid(), depth = a.side.matrix.columns;
  if (row >= a.rows) return;
  const RowReader x = side_reader(a.side, a.first + row);
  for (std::int64_t k = lane(); k < depth; k += kWarp) convert(x[k], a.out + row * depth + k);
}

template <typename T>
struct ScoreArguments {
  const T *left, *right;  // [rows][depth], [columns][depth]
  std::int64_t rows, columns, depth;
  float* scores;  // [rows][columns]
};
template <typename T>
STOPE_KERNEL(kProductThreads)
score_part(ScoreArguments<T> a) {
  multiply_tile<T>(Operand<T>{a.left, a.rows, a.depth, 1},
                   Operand<T>{a.right, a.columns, a.depth, 1},
                   std::int64_t{block_y()} * kProductSide, std::int64_t{block_x()} * kProductSide,
                   a.depth, [&](std::int64_t row, std::int64_t column, float sum) {
                     a.scores[row * a.columns + column] = sum;
                   });
}

template <typename T>
struct GradientArguments {
  const float* weights;  // [rows][columns]
  std::int64_t rows, columns;
  bool of_columns;  // weights' . others, else weights . others
  const T* others;  // [columns or rows][depth]
  std::int64_t depth;
  float* gradients;  // [rows or columns][depth], added to
};
template <typename T>
STOPE_KERNEL(kProductThreads)
add_gradients(GradientArguments<T> a) {
  const Operand<float> weights = a.of_columns ? Operand<float>{a.weights, a.columns, 1, a.columns}
                                              : Operand<float>{a.weights, a.rows, a.columns, 1};
  multiply_tile<T>(
      weights, Operand<T>{a.others, a.depth, 1, a.depth}, std::int64_t{block_y()} * kProductSide,
      std::int64_t{block_x()} * kProductSide, a.of_columns ? a.rows : a.columns,
      [&](std::int64_t row, std::int64_t k, float sum) { a.gradients[row * a.depth + k] += sum; });
}

// scores[e] of the pair of entry e: row rows.row_of_entry[e] against the document columns.ids[e],
// by the tiles' own arithmetic, so that limits relative to a positive are exact.
struct PositiveArguments {
  InfonceSide queries, documents;
  const std::int64_t* entry_rows;
  const std::int64_t* ids;
  std::int64_t entries;
  float* scores;
};

// A thread to a pair.
STOPE_KERNEL(kInfonceThreads) score_positives_float32(PositiveArguments a) {
  const std::int64_t e = thread_of_grid();
  if (e >= a.entries) return;
  const RowReader q = side_reader(a.queries, a.entry_rows[e]);
  const RowReader x = side_reader(a.documents, a.ids[e]);
  float sum = 0.0f;
  for (std::int64_t at = 0; at < q.depth; at += kProductSlab) {
    float slab = 0.0f;
    for (unsigned k = 0; k < kProductSlab; ++k) slab = fma_rn(q[at + k], x[at + k], slab);
    sum = add_rn(sum, slab);
  }
  a.scores[e] = sum;
}

// Elements k and k + 1 of a row as a word.
STOPE_DEVICE std::uint32_t bfloat16_pair(const RowReader& x, std::int64_t k) {
  return std::uint32_t{to_bfloat16(x[k]).bits} | std::uint32_t{to_bfloat16(x[k + 1]).bits} << 16;
}

// A warp to eight pairs: row g of the fragment is a query, column g its document.
STOPE_KERNEL(kInfonceThreads) score_positives_bfloat16(PositiveArguments a) {
  const std::int64_t first = warp_of_grid() * 8;
  if (first >= a.entries) return;
  const unsigned g = lane() / 4, t = lane() % 4;
  const std::int64_t e = first + g < a.entries ? first + g : a.entries - 1;
  const RowReader q = side_reader(a.queries, a.entry_rows[e]);
  const RowReader x = side_reader(a.documents, a.ids[e]);
  FragmentC sum = {};
  for (std::int64_t at = 0; at < q.depth; at += kProductSlab) {
    for (std::int64_t k = at + 2 * t; k < at + kProductSlab; k += 16)
      multiply_add(&sum, {{bfloat16_pair(q, k), 0, bfloat16_pair(q, k + 8), 0}},
                   {{bfloat16_pair(x, k), bfloat16_pair(x, k + 8)}});
  }
  if (first + g < a.entries && g / 2 == t) a.scores[e] = sum.sum[g % 2];
}

}  // namespace stope::cuda
