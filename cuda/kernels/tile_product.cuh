// out[row, column] = sum over depth of left[row, depth] * right[column, depth]: 64 x 64 of them to
// a block of 256 threads, in slabs of 32 depths that go through shared memory.
//
//   float: a thread has rows y + 16 r and columns x + 16 c; a slab is summed by fused multiply-add
//          from 0 and then added, so that errors grow with the slabs, not with the depth
//   Bfloat16: a warp has 16 rows and 32 columns as four tensor core tiles
// The order of the sum is that of the depths, whatever the tile and the place in it.
#pragma once

#include "math.cuh"
#include "mma.cuh"
#include "warp.cuh"

namespace stope::cuda {

struct Bfloat16 {
  std::uint16_t bits;
};

// To nearest, ties to even; x is finite.
STOPE_DEVICE Bfloat16 to_bfloat16(float x) {
  const std::uint32_t bits = bits_of(x);
  return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
STOPE_DEVICE void convert(float from, float* to) { *to = from; }
STOPE_DEVICE void convert(float from, Bfloat16* to) { *to = to_bfloat16(from); }
STOPE_DEVICE void convert(Bfloat16 from, Bfloat16* to) { *to = from; }

inline constexpr unsigned kProductSide = 64;
inline constexpr unsigned kProductSlab = 32;
inline constexpr int kProductThreads = 256;

// From one row of a slab in shared memory to the next: odd for single words; a multiple of 16 bytes
// for ldmatrix, with eight rows in different banks.
template <typename T>
inline constexpr unsigned kProductStride = kProductSlab + (sizeof(T) == sizeof(float) ? 1 : 8);
template <typename T>
inline constexpr std::size_t kProductBytes = 2 * kProductSide * kProductStride<T> * sizeof(T);

// Element (row, depth) is data[row * row_stride + depth * depth_stride]; zero from `rows` on.
template <typename T>
struct Operand {
  const T* data;
  std::int64_t rows, row_stride, depth_stride;
};

// Sums of a tile, as the threads of the block share them.
template <typename T>
struct TileSums;

template <>
struct TileSums<float> {
  static constexpr unsigned kSide = 16, kPer = kProductSide / kSide;
  float sums[kPer][kPer] = {};

  STOPE_DEVICE void add_slab(const float* left, const float* right) {
    constexpr unsigned kStride = kProductStride<float>;
    const float* rows = left + thread() / kSide * kStride;
    const float* columns = right + thread() % kSide * kStride;
    float slab[kPer][kPer] = {};
    for (unsigned depth = 0; depth < kProductSlab; ++depth) {
      float column[kPer];
#pragma unroll
      for (unsigned c = 0; c < kPer; ++c) column[c] = columns[c * kSide * kStride + depth];
#pragma unroll
      for (unsigned r = 0; r < kPer; ++r) {
        const float row = rows[r * kSide * kStride + depth];
#pragma unroll
        for (unsigned c = 0; c < kPer; ++c) slab[r][c] = fma_rn(row, column[c], slab[r][c]);
      }
    }
#pragma unroll
    for (unsigned r = 0; r < kPer; ++r) {
#pragma unroll
      for (unsigned c = 0; c < kPer; ++c) sums[r][c] = add_rn(sums[r][c], slab[r][c]);
    }
  }

  // store(row, column, sum) for the thread's own.
  template <typename Store>
  STOPE_DEVICE void each(Store store) const {
#pragma unroll
    for (unsigned r = 0; r < kPer; ++r) {
#pragma unroll
      for (unsigned c = 0; c < kPer; ++c)
        store(thread() / kSide + r * kSide, thread() % kSide + c * kSide, sums[r][c]);
    }
  }
};

template <>
struct TileSums<Bfloat16> {
  static constexpr unsigned kRows = 16, kColumns = 32, kTiles = kColumns / 8;
  FragmentC sums[kTiles] = {};

  STOPE_DEVICE static unsigned first_row() {
    return thread() / kWarp % (kProductSide / kRows) * kRows;
  }
  STOPE_DEVICE static unsigned first_column() {
    return thread() / kWarp / (kProductSide / kRows) * kColumns;
  }

  STOPE_DEVICE void add_slab(const Bfloat16* left, const Bfloat16* right) {
    constexpr unsigned kStride = kProductStride<Bfloat16>;
    const unsigned l = lane();
    const Bfloat16* rows = left + (first_row() + l % 16) * kStride + l / 16 * 8;
    const Bfloat16* columns =
        right + (first_column() + l / 16 * 8 + l % 8) * kStride + l / 8 % 2 * 8;
#pragma unroll
    for (unsigned depth = 0; depth < kProductSlab; depth += 16) {
      FragmentA a;
      load_matrices(a.word, rows + depth);
#pragma unroll
      for (unsigned t = 0; t < kTiles; t += 2) {
        std::uint32_t words[4];
        load_matrices(words, columns + t * 8 * kStride + depth);
        multiply_add(&sums[t], a, {{words[0], words[1]}});
        multiply_add(&sums[t + 1], a, {{words[2], words[3]}});
      }
    }
  }

  template <typename Store>
  STOPE_DEVICE void each(Store store) const {
#pragma unroll
    for (unsigned t = 0; t < kTiles; ++t) {
#pragma unroll
      for (unsigned i = 0; i < 4; ++i)
        store(first_row() + lane() / 4 + i / 2 * 8, first_column() + t * 8 + lane() % 4 * 2 + i % 2,
              sums[t].sum[i]);
    }
  }
};

// Neighbouring threads read neighbouring elements, whichever way the operand lies.
template <typename T, typename From>
STOPE_DEVICE void load_slab(const Operand<From>& from, std::int64_t first_row,
                            std::int64_t first_depth, std::int64_t depth, T* slab) {
  const bool along = from.depth_stride == 1;
#pragma unroll 4
  for (unsigned e = thread(); e < kProductSide * kProductSlab; e += kProductThreads) {
    const unsigned row = along ? e / kProductSlab : e % kProductSide;
    const unsigned at = along ? e % kProductSlab : e / kProductSide;
    T value = {};
    if (first_row + row < from.rows && first_depth + at < depth)
      convert(
          from.data[(first_row + row) * from.row_stride + (first_depth + at) * from.depth_stride],
          &value);
    slab[row * kProductStride<T> + at] = value;
  }
}

// By a whole block, with kProductBytes<T> of shared memory: store(row, column, sum) for every pair
// of rows that the operands have in the tile that starts there.
template <typename T, typename Left, typename Right, typename Store>
STOPE_DEVICE void multiply_tile(const Operand<Left>& left, const Operand<Right>& right,
                                std::int64_t first_row, std::int64_t first_column,
                                std::int64_t depth, Store store) {
  T* rows = shared_memory<T>();
  T* columns = rows + kProductSide * kProductStride<T>;
  TileSums<T> sums;
  for (std::int64_t at = 0; at < depth; at += kProductSlab) {
    load_slab(left, first_row, at, depth, rows);
    load_slab(right, first_column, at, depth, columns);
    block_barrier();
    sums.add_slab(rows, columns);
    block_barrier();
  }
  sums.each([&](unsigned row, unsigned column, float sum) {
    if (first_row + row < left.rows && first_column + column < right.rows)
      store(first_row + row, first_column + column, sum);
  });
}

}  // namespace stope::cuda
