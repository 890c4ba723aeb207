// The loss's three products in float32: scores = X . Y', and weights times an operand.
//
//   out[r][16 v + l] (+)= sum over k of a[r][k] * b[k][v][l]
// One loop serves all three: elements of a are broadcast from any two strides, so that a tile of
// weights is read as it lies or transposed; b is a vector of 16. `left` and `inner` are the rows
// themselves, `right` is a panel [depth][16 rows]. An entry sums over k in ascending order by fused
// multiply-add, wherever it lies in a block; then such sums are added up in order. Errors grow with
// the length of a sum, so it is kScoreSum of a score, whose error counts 1 / temperature times, and
// a tile's columns of a row's gradient. A column's goes on from what is there, as tiles of rows end
// where slabs do, which depend on the threads.
#pragma once

#include "flush.inl.h"
#include "kernel_table.h"

namespace {

using stope::kInfoncePadding;
using stope::kLanes;
using stope::Precision;

constexpr std::int64_t kScoreSum = 64;

struct Scalars {  // a[r][k]
  const float* data;
  std::int64_t row_stride, k_stride;
};
struct Vectors {  // b[k][v], 16 floats each
  const float* data;
  std::int64_t k_stride, vector_stride;
};
struct Span {                   // of k
  std::int64_t depth, longest;  // of one sum
  bool add;                     // to what is there
};

template <int kNumber>
struct Count {
  static constexpr int kCount = kNumber;
};

inline std::int64_t padded_depth(std::int64_t depth) {
  return (depth + kInfoncePadding - 1) / kInfoncePadding * kInfoncePadding;
}

// `width` elements of the vectors are in the output; beyond them nothing is read or written. With
// kGoOn there is one sum, which begins with what is there.
template <int kRows, int kVectors, bool kGoOn>
inline void multiply_block(const Scalars& a, const Vectors& b, const Span& span, float* out,
                           std::int64_t out_stride, int width) {
  const float* scalar = a.data;
  const float* vector = b.data;
  const std::int64_t row_stride = a.row_stride, vector_stride = b.vector_stride;
  std::int64_t k = 0;
  bool add = !kGoOn && span.add;
  do {
    f32x16 sum[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const float* p = out + r * out_stride + v * kLanes;
        const int rest = width - v * kLanes;
        if (!kGoOn)
          sum[r][v] = set_f32(0.0f);
        else
          sum[r][v] = rest >= kLanes ? load_f32(p) : load_partial_f32(p, rest);
      }
    const std::int64_t left = span.depth - k;
    const std::int64_t stop = k + (left < span.longest ? left : span.longest);
    for (; k < stop; ++k) {
      f32x16 y[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) y[v] = load_f32(vector + v * vector_stride);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const f32x16 x = set_f32(scalar[r * row_stride]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[r][v] = fma_f32(x, y[v], sum[r][v]);
      }
      scalar += a.k_stride;
      vector += b.k_stride;
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        float* p = out + r * out_stride + v * kLanes;
        const int rest = width - v * kLanes;
        if (rest >= kLanes) {
          store_f32(p, add ? add_f32(load_f32(p), sum[r][v]) : sum[r][v]);
        } else {
          if (add) sum[r][v] = add_f32(load_partial_f32(p, rest), sum[r][v]);
          float lanes[kLanes];
          store_f32(lanes, sum[r][v]);
          __builtin_memcpy(p, lanes, static_cast<std::size_t>(rest) * sizeof(float));
        }
      }
    add = true;
  } while (k < span.depth);
}

template <int kVectors, bool kGoOn, int kRows = kInfonceRows>
inline void multiply_rows(const Scalars& a, int rows, const Vectors& b, const Span& span,
                          float* out, std::int64_t out_stride, int width) {
  if constexpr (kRows > 1) {
    if (rows < kRows)
      return multiply_rows<kVectors, kGoOn, kRows - 1>(a, rows, b, span, out, out_stride, width);
  }
  multiply_block<kRows, kVectors, kGoOn>(a, b, span, out, out_stride, width);
}

template <bool kGoOn>
void multiply(const Scalars& a, int rows, const Vectors& b, std::int64_t columns, const Span& span,
              float* out, std::int64_t out_stride) {
  const auto strip = [&](auto vectors, std::int64_t first, int width) {
    constexpr int kVectors = decltype(vectors)::kCount;
    const Vectors part = {b.data + first / kLanes * b.vector_stride, b.k_stride, b.vector_stride};
    for (int r = 0; r < rows; r += kInfonceRows) {
      const Scalars block = {a.data + r * a.row_stride, a.row_stride, a.k_stride};
      multiply_rows<kVectors, kGoOn>(block, rows - r, part, span, out + r * out_stride + first,
                                     out_stride, width);
    }
  };
  std::int64_t c = 0;
  for (; c + kInfonceVectors * kLanes <= columns; c += kInfonceVectors * kLanes)
    strip(Count<kInfonceVectors>(), c, kInfonceVectors * kLanes);
  for (; c < columns; c += kLanes) {
    const std::int64_t rest = columns - c;
    strip(Count<1>(), c, rest < kLanes ? static_cast<int>(rest) : kLanes);
  }
}

// body(i, x) for every vector of a row times its factor, rounded as the precision asks, zeros
// beyond the depth.
template <typename Body>
inline void for_each_vector(Precision precision, const float* row, float factor, std::int64_t depth,
                            Body body) {
  for (std::int64_t i = 0; i < padded_depth(depth); i += kLanes) {
    f32x16 x = set_f32(0.0f);
    if (row != nullptr && i < depth) {
      const std::int64_t rest = depth - i;
      x = rest >= kLanes ? load_f32(row + i) : load_partial_f32(row + i, static_cast<int>(rest));
      x = mul_f32(x, set_f32(factor));
      if (precision == stope::Precision::kBFloat16) x = round_to_bf16(x);
    }
    body(i, x);
  }
}

void pack_rows(Precision precision, const float* const* rows, const float* factors, int count,
               std::int64_t depth, std::int64_t group, void* base) {
  float* out = static_cast<float*>(base) + group * kLanes * padded_depth(depth);
  for (int r = 0; r < kLanes; ++r, out += padded_depth(depth))
    for_each_vector(precision, r < count ? rows[r] : nullptr, r < count ? factors[r] : 0.0f, depth,
                    [&](std::int64_t i, f32x16 x) { store_f32(out + i, x); });
}

void pack_columns(Precision precision, const float* const* rows, const float* factors, int count,
                  std::int64_t depth, std::int64_t group, void* base) {
  float* out = static_cast<float*>(base) + group * kLanes * padded_depth(depth);
  for (int r = 0; r < kLanes; ++r)
    for_each_vector(precision, r < count ? rows[r] : nullptr, r < count ? factors[r] : 0.0f, depth,
                    [&](std::int64_t i, f32x16 x) {
                      float lanes[kLanes];
                      store_f32(lanes, x);
                      for (int l = 0; l < kLanes; ++l) out[(i + l) * kLanes + r] = lanes[l];
                    });
}

void score_tile(Precision, const void* left, const void* right, int rows, int columns,
                std::int64_t depth, float* tile, std::int64_t stride) {
  const std::int64_t padded = padded_depth(depth);
  const int whole = (columns + kLanes - 1) / kLanes * kLanes;
  multiply<false>({static_cast<const float*>(left), padded, 1}, rows,
                  {static_cast<const float*>(right), kLanes, kLanes * padded}, whole,
                  {depth, kScoreSum, false}, tile, stride);
}

// Weights stay as they are: one row after another.
void keep_weights(Precision, const float* weights, std::int64_t stride, int first_row, int rows,
                  int columns, std::int64_t, void* tile) {
  float* out = static_cast<float*>(tile) + static_cast<std::int64_t>(first_row) * columns;
  for (int r = 0; r < rows; ++r, out += columns)
    __builtin_memcpy(out, weights + r * stride, static_cast<std::size_t>(columns) * sizeof(float));
}

void accumulate_tile(Precision, const stope::InfonceProduct* product) {
  const stope::InfonceProduct& p = *product;
  const std::int64_t down = p.transposed ? 1 : p.columns, along = p.transposed ? p.columns : 1;
  const std::int64_t inner = p.transposed ? p.rows : p.columns;
  const auto sum = p.transposed && p.add ? multiply<true> : multiply<false>;
  const unsigned before = flush_subnormals();
  sum({static_cast<const float*>(p.weights), down, along}, p.transposed ? p.columns : p.rows,
      {static_cast<const float*>(p.inner), padded_depth(p.depth), kLanes}, p.depth,
      {inner, inner, p.add}, p.out, p.depth);
  end_flush(before);
}

}  // namespace
