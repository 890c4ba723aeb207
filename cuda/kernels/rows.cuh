// Rows as the float32 elements that the canonical score is defined on, read by half a warp: lane l
// of sixteen takes elements l, l + 16, ...
#pragma once

#include "math.cuh"
#include "types.h"
#include "warp.cuh"

namespace stope::cuda {

STOPE_DEVICE unsigned half_lane() { return lane() % kCanonicalLanes; }

STOPE_DEVICE const void* row_of(const Matrix& matrix, std::int64_t row) {
  return static_cast<const char*>(matrix.data) + row * matrix.row_stride_bytes;
}

STOPE_DEVICE std::int64_t row_at(const PlacedRows& rows, std::int64_t place) {
  return rows.order == nullptr ? place : rows.order[place];
}

STOPE_DEVICE float element(DType dtype, const void* row, std::int64_t i) {
  switch (dtype) {
    case DType::kFloat32: return static_cast<const float*>(row)[i];
    case DType::kFloat16: return half_to_float(static_cast<const std::uint16_t*>(row)[i]);
    case DType::kBFloat16:
      return float_of(static_cast<std::uint32_t>(static_cast<const std::uint16_t*>(row)[i]) << 16);
    case DType::kInt8: return to_float_rn(std::int32_t{static_cast<const std::int8_t*>(row)[i]});
  }
  return 0.0f;
}

// A row whose elements are widened and, for cosine, normalised as they are read.
struct RowReader {
  const void* row;
  std::int64_t depth;
  DType dtype;
  bool scaled;
  RowFactors factors;

  STOPE_DEVICE float operator[](std::int64_t i) const {
    if (i >= depth) return 0.0f;
    const float x = element(dtype, row, i);
    return scaled ? mul_rn(mul_rn(x, factors.prescale), factors.inverse) : x;
  }
};
STOPE_DEVICE RowReader reader(const Matrix& matrix, Metric metric, std::int64_t row,
                              const RowFactors& factors) {
  return {row_of(matrix, row), matrix.columns, matrix.dtype, metric == Metric::kCosine, factors};
}

// l + (l+8), l + (l+4), l + (l+2), l + (l+1): the canonical tree; every lane gets the sum.
STOPE_DEVICE float sum_of_half(float value) {
  for (unsigned half = kCanonicalLanes / 2; half > 0; half /= 2)
    value = add_rn(value, shuffle_down(value, half, kCanonicalLanes));
  return shuffle_from(value, 0, kCanonicalLanes);
}
STOPE_DEVICE std::int32_t sum_of_half(std::int32_t value) {
  for (unsigned half = kCanonicalLanes / 2; half > 0; half /= 2)
    value += shuffle_xor(value, half, kCanonicalLanes);
  return value;
}
STOPE_DEVICE float largest_of_half(float value) {
  for (unsigned half = kCanonicalLanes / 2; half > 0; half /= 2) {
    const float other = shuffle_xor(value, half, kCanonicalLanes);
    value = other > value ? other : value;
  }
  return value;
}

STOPE_DEVICE float magnitude(float x) { return float_of(bits_of(x) & 0x7fffffffu); }
STOPE_DEVICE bool is_finite(float x) { return (bits_of(x) & 0x7f800000u) != 0x7f800000u; }

// 2^-exponent(m), so that m times it lies in [1, 2); within float32's normal range.
STOPE_DEVICE float power_of_two_inverse(float m) {
  std::int32_t exponent = static_cast<std::int32_t>(bits_of(m) >> 23 & 0xffu) - 127;
  exponent = exponent > 126 ? 126 : exponent < -126 ? -126 : exponent;
  return float_of(static_cast<std::uint32_t>(127 - exponent) << 23);
}

// Of any summation order of `depth` squares.
STOPE_DEVICE float inflation(std::int64_t depth) {
  return 1.0f + static_cast<float>(depth + 64) * 0x1p-23f;
}

// What half a warp finds out about a row; every lane gets all of it.
struct RowMeasure {
  RowFactors factors;
  float largest;  // |x|
  bool finite;
};
STOPE_DEVICE RowMeasure measure_row(const Matrix& matrix, Metric metric, std::int64_t row) {
  const void* data = row_of(matrix, row);
  RowMeasure out = {{1.0f, 1.0f}, 0.0f, true};
  std::int32_t infinite = 0;
  for (std::int64_t i = half_lane(); i < matrix.columns; i += kCanonicalLanes) {
    const float x = element(matrix.dtype, data, i);
    if (!is_finite(x)) infinite = 1;
    if (magnitude(x) > out.largest) out.largest = magnitude(x);
  }
  out.largest = largest_of_half(out.largest);
  out.finite = sum_of_half(infinite) == 0;
  if (metric != Metric::kCosine) return out;
  const bool ordinary = out.largest == 0.0f || (out.largest >= 0x1p-40f && out.largest <= 0x1p40f);
  out.factors.prescale = ordinary ? 1.0f : power_of_two_inverse(out.largest);
  const RowReader x = {data, matrix.columns, matrix.dtype, true, {out.factors.prescale, 1.0f}};
  float sum = 0.0f;
  for (std::int64_t i = half_lane(); i - half_lane() < matrix.columns; i += kCanonicalLanes)
    sum = fma_rn(x[i], x[i], sum);
  const float norm = sqrt_rn(sum_of_half(sum));
  out.factors.inverse = norm == 0.0f ? 0.0f : div_rn(1.0f, norm);
  return out;
}

// An upper bound of the norm of a measured row, as it is read for the metric.
STOPE_DEVICE float norm_above(const RowReader& x, float largest) {
  const float inverse = power_of_two_inverse(largest);
  float sum = 0.0f;
  for (std::int64_t i = half_lane(); i - half_lane() < x.depth; i += kCanonicalLanes) {
    const float t = x[i] * inverse;
    sum = fma_rn(t, t, sum);
  }
  return sqrt_rn(sum_of_half(sum)) * inflation(x.depth) / inverse;
}

// One lane of the half warp tells.
STOPE_DEVICE void note_faults(std::int64_t row, bool finite, float norm, RowFaults* faults) {
  if (half_lane() != 0) return;
  if (!finite)
    atomic_min(&faults->not_finite, row);
  else if (!(norm < kLargestNorm))
    atomic_min(&faults->too_long, row);
}

}  // namespace stope::cuda
