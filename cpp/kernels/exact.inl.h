// The canonical scores: every ISA, thread count and device produces these bits.
//
// Sixteen float32 lanes start at +0; lane l takes elements l, l + 16, ... by fused multiply-add,
// and the missing elements of the last group count as zeros (their fma is done too). The lanes are
// then added l + (l+8), l + (l+4), l + (l+2), l + (l+1).
//   dot:      sum of q_i * x_i
//   distance: -sqrt of the sum of t_i * t_i, t_i = q_i - x_i
#pragma once

#include "kernel_table.h"

namespace {

template <bool kDistance>
inline f32x16 accumulate(f32x16 q, f32x16 x, f32x16 sum) {
  if constexpr (kDistance) {
    const f32x16 t = sub_f32(q, x);
    return fma_f32(t, t, sum);
  } else {
    return fma_f32(q, x, sum);
  }
}

template <bool kDistance, int kRows, int kColumns>
inline void exact_block(const float* const* queries, const float* const* corpus, std::int64_t depth,
                        float* scores, std::int64_t stride) {
  f32x16 sum[kRows][kColumns];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) sum[r][c] = set_f32(0.0f);
  const auto step = [&](auto load) {
    f32x16 x[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) x[c] = load(corpus[c]);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const f32x16 q = load(queries[r]);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) sum[r][c] = accumulate<kDistance>(q, x[c], sum[r][c]);
    }
  };
  std::int64_t i = 0;
  for (; i + stope::kLanes <= depth; i += stope::kLanes)
    step([i](const float* row) { return load_f32(row + i); });
  const int rest = static_cast<int>(depth - i);
  if (rest > 0) step([i, rest](const float* row) { return load_partial_f32(row + i, rest); });
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      const float total = reduce_add(sum[r][c]);
      scores[r * stride + c] = kDistance ? -__builtin_sqrtf(total) : total;
    }
}

template <bool kDistance>
inline void exact_scores(const float* const* queries, int rows, const float* const* corpus,
                         int columns, std::int64_t depth, float* scores, std::int64_t stride) {
  int r = 0;
  for (; r + kExactRows <= rows; r += kExactRows) {
    int c = 0;
    for (; c + kExactColumns <= columns; c += kExactColumns)
      exact_block<kDistance, kExactRows, kExactColumns>(queries + r, corpus + c, depth,
                                                        scores + r * stride + c, stride);
    for (; c < columns; ++c)
      exact_block<kDistance, kExactRows, 1>(queries + r, corpus + c, depth, scores + r * stride + c,
                                            stride);
  }
  for (; r < rows; ++r) {
    int c = 0;
    for (; c + kExactColumns <= columns; c += kExactColumns)
      exact_block<kDistance, 1, kExactColumns>(queries + r, corpus + c, depth,
                                               scores + r * stride + c, stride);
    for (; c < columns; ++c)
      exact_block<kDistance, 1, 1>(queries + r, corpus + c, depth, scores + r * stride + c, stride);
  }
}

void exact_dot(const float* const* queries, int rows, const float* const* corpus, int columns,
               std::int64_t depth, float* scores, std::int64_t stride) {
  exact_scores<false>(queries, rows, corpus, columns, depth, scores, stride);
}
void exact_distance(const float* const* queries, int rows, const float* const* corpus, int columns,
                    std::int64_t depth, float* scores, std::int64_t stride) {
  exact_scores<true>(queries, rows, corpus, columns, depth, scores, stride);
}

std::int32_t exact_dot_int8(const std::int8_t* a, const std::int8_t* b, std::int64_t depth) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < depth; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace
