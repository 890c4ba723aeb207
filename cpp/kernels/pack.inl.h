// Widening, normalising and quantising rows; included after one simd header.
//
// What the scan needs to know of a quantised row are rigorous upper bounds in units of its scale:
//   residual >= ||x - scale*u|| / scale,   norm >= ||x|| / scale.
// Both sums are float32; `inflation` covers the rounding of any summation order.
#pragma once

#include "flush.inl.h"
#include "format.inl.h"

namespace {

using stope::DType;
using stope::kLanes;
using stope::PanelFooter;
using stope::RowStats;

constexpr std::uintptr_t kPrefetchBytes = 4096;

inline float inflation(std::int64_t depth) {
  return 1.0f + static_cast<float>(depth + 64) * 0x1p-23f;
}

void widen(DType dtype, const void* src, std::int64_t depth, float* dst) {
  switch (dtype) {
    case DType::kFloat32:
      __builtin_memcpy(dst, src, static_cast<std::size_t>(depth) * sizeof(float));
      return;
    case DType::kFloat16: {
      const auto* halves = static_cast<const std::uint16_t*>(src);
      std::int64_t i = 0;
      for (; i + kLanes <= depth; i += kLanes) store_f32(dst + i, load_half(halves + i));
      if (i < depth) {
        std::uint16_t tail[kLanes] = {};
        float wide[kLanes];
        const auto rest = static_cast<std::size_t>(depth - i);
        __builtin_memcpy(tail, halves + i, rest * sizeof(std::uint16_t));
        store_f32(wide, load_half(tail));
        __builtin_memcpy(dst + i, wide, rest * sizeof(float));
      }
      return;
    }
    case DType::kBFloat16: {
      const auto* words = static_cast<const std::uint16_t*>(src);
      for (std::int64_t i = 0; i < depth; ++i) {
        const std::uint32_t bits = static_cast<std::uint32_t>(words[i]) << 16;
        __builtin_memcpy(dst + i, &bits, sizeof(bits));
      }
      return;
    }
    case DType::kInt8: {
      const auto* bytes = static_cast<const std::int8_t*>(src);
      for (std::int64_t i = 0; i < depth; ++i) dst[i] = static_cast<float>(bytes[i]);
      return;
    }
  }
}

// body(i, count) for every group of 16 elements; count < 16 only in the last.
template <typename Body>
inline void for_each_group(std::int64_t depth, Body body) {
  std::int64_t i = 0;
  for (; i + kLanes <= depth; i += kLanes) body(i, kLanes);
  if (i < depth) body(i, static_cast<int>(depth - i));
}
inline f32x16 load_group(const float* p, int count) {
  return count == kLanes ? load_f32(p) : load_partial_f32(p, count);
}

// Of a row: the largest magnitude, whether it is finite, and the lanes of its sum of squares.
inline float survey_row(const float* row, std::int64_t depth, bool* finite, f32x16* squares) {
  f32x16 largest = set_f32(0.0f), poison = set_f32(0.0f), sum = set_f32(0.0f);
  for_each_group(depth, [&](std::int64_t i, int count) {
    // The next rows, if they lie one after another: the processor's own prefetch stops at a page.
    __builtin_prefetch(
        reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(row + i) + kPrefetchBytes));
    const f32x16 x = load_group(row + i, count);
    largest = max_f32(largest, abs_f32(x));
    poison = fma_f32(x, set_f32(0.0f), poison);  // NaN and infinity times zero are NaN
    sum = fma_f32(x, x, sum);
  });
  *finite = reduce_add(poison) == 0.0f;
  *squares = sum;
  return reduce_max(largest);
}
inline float largest_magnitude(const float* row, std::int64_t depth, bool* finite) {
  f32x16 squares;
  return survey_row(row, depth, finite, &squares);
}

inline bool is_ordinary(float largest) {
  return largest == 0.0f || (largest >= 0x1p-40f && largest <= 0x1p40f);
}
inline float inverse_root(f32x16 squares) {
  const float norm = __builtin_sqrtf(reduce_add(squares));
  return norm == 0.0f ? 0.0f : 1.0f / norm;
}
inline float inverse_norm(const float* row, std::int64_t depth, f32x16 prescale) {
  f32x16 sum = set_f32(0.0f);
  for_each_group(depth, [&](std::int64_t i, int count) {
    const f32x16 x = mul_f32(load_group(row + i, count), prescale);
    sum = fma_f32(x, x, sum);
  });
  return inverse_root(sum);
}
inline void store_group(float* p, f32x16 x, int count) {
  if (count == kLanes) return store_f32(p, x);
  float tail[kLanes];
  store_f32(tail, x);
  __builtin_memcpy(p, tail, static_cast<std::size_t>(count) * sizeof(float));
}

void measure(const float* row, std::int64_t depth, stope::RowMeasure* out) {
  f32x16 squares;
  out->largest = survey_row(row, depth, &out->finite, &squares);
  out->inverse_norm = is_ordinary(out->largest) ? inverse_root(squares) : __builtin_nanf("");
}

// Canonical: x' = x * s with s a power of two (1 for ordinary magnitudes), out = x' * (1 / ||x'||).
void normalise(const float* row, std::int64_t depth, float* out) {
  bool finite;
  f32x16 squares;
  const float largest = survey_row(row, depth, &finite, &squares);
  const bool ordinary = is_ordinary(largest);
  const f32x16 prescale = set_f32(ordinary ? 1.0f : power_of_two_inverse(largest));
  const f32x16 inverse =
      set_f32(ordinary ? inverse_root(squares) : inverse_norm(row, depth, prescale));
  for_each_group(depth, [&](std::int64_t i, int count) {
    const f32x16 x = mul_f32(load_group(row + i, count), prescale);
    store_group(out + i, mul_f32(x, inverse), count);
  });
}

void combine(const float* row, float factor, float keep, std::int64_t depth, float* out) {
  const f32x16 f = set_f32(factor), k = set_f32(keep);
  for_each_group(depth, [&](std::int64_t i, int count) {
    const f32x16 kept = mul_f32(load_group(out + i, count), k);
    store_group(out + i, fma_f32(load_group(row + i, count), f, kept), count);
  });
}

void add_wide(const float* __restrict row, std::int64_t depth, double* __restrict sums) {
  for (std::int64_t i = 0; i < depth; ++i) sums[i] += static_cast<double>(row[i]);
}

std::uint64_t move_bounds(float* bounds, const stope::BoundMove* move) {
  const f32x16 zero = set_f32(0.0f), tiny = set_f32(stope::kTinySquare);
  const f32x16 slack = set_f32(move->slack), rest = set_f32(1.0f - move->slack);
  const f32x16 limit = set_f32(move->limit);
  std::uint64_t open = 0;
  for_each_group(move->count, [&](std::int64_t i, int count) {
    const f32x16 way = load_group(move->ways + i, count);
    f32x16 bound = load_group(bounds + i, count);
    if (move->squared) {
      const f32x16 square = max_f32(sub_f32(sub_f32(zero, bound), tiny), zero);
      const f32x16 left = max_f32(sub_f32(mul_f32(sqrt_f32(square), rest), way), zero);
      bound = sub_f32(tiny, mul_f32(mul_f32(left, left), rest));
    } else {
      bound = add_f32(bound, fma_f32(way, set_f32(1 + 0x1p-18f), slack));
    }
    store_group(bounds + i, bound, count);
    const std::uint64_t lanes = (std::uint64_t{1} << count) - 1;
    open |= (~std::uint64_t{mask_gt(limit, bound)} & lanes) << i;
  });
  return open;
}

void scale_bounds(float* bounds, std::int64_t count, std::uint64_t which, float base, float slope) {
  const f32x16 lowest = set_f32(-1e38f), loss = set_f32(0x1p-20f);
  const f32x16 lost = set_f32(__builtin_fabsf(base) * 0x1p-20f + stope::kTinySquare * 0x1p-10f);
  const auto scaled = [&](f32x16 bound) {
    const f32x16 low = max_f32(bound, lowest), most = fma_f32(abs_f32(low), loss, low);
    const f32x16 value = max_f32(fma_f32(set_f32(slope), most, set_f32(base)), lowest);
    return add_f32(fma_f32(abs_f32(value), loss, value), lost);
  };
  for_each_group(count, [&](std::int64_t i, int lanes) {
    const std::uint64_t whole = (std::uint64_t{1} << lanes) - 1, wanted = which >> i & whole;
    if (wanted == 0) return;
    float changed[kLanes];
    store_f32(changed, scaled(load_group(bounds + i, lanes)));
    if (wanted == whole) return store_group(bounds + i, load_f32(changed), lanes);
    for (std::uint64_t left = wanted; left != 0; left &= left - 1) {
      const int lane = __builtin_ctzll(left);
      bounds[i + lane] = changed[lane];
    }
  });
}

// A few vectors of `out` at a time, in registers while all rows pass by.
template <int kVectors>
inline void add_rows_block(const float* const* rows, const float* weights, std::int64_t count,
                           std::int64_t at, float* out) {
  f32x16 sum[kVectors];
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) sum[v] = load_f32(out + at + v * kLanes);
  for (std::int64_t e = 0; e < count; ++e) {
    const float* row = rows[e] + at;
    const f32x16 weight = set_f32(weights[e]);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) sum[v] = fma_f32(weight, load_f32(row + v * kLanes), sum[v]);
  }
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) store_f32(out + at + v * kLanes, sum[v]);
}

void add_rows(const float* const* rows, const float* weights, std::int64_t count,
              std::int64_t depth, float* out) {
  const unsigned before = flush_subnormals();
  constexpr int kWide = 8;  // two such blocks hide the latency of an FMA on any listed CPU
  std::int64_t at = 0;
  for (; at + kWide * kLanes <= depth; at += kWide * kLanes)
    add_rows_block<kWide>(rows, weights, count, at, out);
  for (; at + kLanes <= depth; at += kLanes) add_rows_block<1>(rows, weights, count, at, out);
  if (at < depth) {
    const auto rest = static_cast<int>(depth - at);
    f32x16 sum = load_partial_f32(out + at, rest);
    for (std::int64_t e = 0; e < count; ++e)
      sum = fma_f32(set_f32(weights[e]), load_partial_f32(rows[e] + at, rest), sum);
    store_group(out + at, sum, rest);
  }
  end_flush(before);
}

inline float root_mean_square(const float* row, std::int64_t depth) {
  f32x16 sum = set_f32(0.0f);
  for_each_group(depth, [&](std::int64_t i, int count) {
    const f32x16 x = load_group(row + i, count);
    sum = fma_f32(x, x, sum);
  });
  return __builtin_sqrtf(reduce_add(sum) / static_cast<float>(depth));
}

// write(i, codes) receives the 16 codes of the group at element i; zeros beyond the depth.
template <typename Format, typename Write>
inline RowStats quantise_row(const float* row, std::int64_t depth, float fixed_scale, Write write) {
  RowStats stats;
  const float largest = largest_magnitude(row, depth, &stats.finite);
  float scale = fixed_scale > 0.0f ? fixed_scale : Format::scale(largest);
  if (scale < kSmallestScale) scale = kSmallestScale;
  if (largest == 0.0f || !stats.finite) scale = 1.0f;
  const f32x16 inverse = set_f32(1.0f / scale), minus_scale = set_f32(-scale);
  f32x16 residual = set_f32(0.0f), norm = set_f32(0.0f), sum = set_f32(0.0f);
  for_each_group(depth, [&](std::int64_t i, int count) {
    const f32x16 x = load_group(row + i, count);
    const f32x16 t = mul_f32(x, inverse);
    const f32x16 u = Format::round(t);
    const f32x16 r = mul_f32(fma_f32(minus_scale, u, x), inverse);
    residual = fma_f32(r, r, residual);
    norm = fma_f32(t, t, norm);
    sum = add_f32(sum, u);
    write(i, u);
  });
  const float inflate = inflation(depth);
  stats.scale = scale;
  stats.residual = largest == 0.0f
                       ? 0.0f
                       : __builtin_sqrtf(reduce_add(residual)) * inflate + Format::kResidualFloor;
  stats.norm = __builtin_sqrtf(reduce_add(norm)) * inflate;
  const float total = reduce_add(sum);
  stats.sum = stats.finite ? static_cast<std::int32_t>(total) : 0;
  return stats;
}

template <typename Format>
void quantise(const float* row, std::int64_t depth, std::int64_t depth_padded, float fixed_scale,
              void* out, RowStats* stats) {
  auto* bytes = static_cast<std::int8_t*>(out);
  // By value: a pointer that the loop below reads again and again would keep it from being wide.
  *stats = quantise_row<Format>(row, depth, fixed_scale, [bytes](std::int64_t i, f32x16 codes) {
    Format::store(bytes + i * Format::kElementBytes, codes);
  });
  const std::int64_t written = (depth + kLanes - 1) / kLanes * kLanes;
  for (std::int64_t i = written * Format::kElementBytes; i < depth_padded * Format::kElementBytes;
       ++i)
    bytes[i] = 0;
  if constexpr (Format::kQueryOffset != 0)
    for (std::int64_t i = 0; i < depth_padded; ++i)
      bytes[i] =
          static_cast<std::int8_t>(static_cast<std::uint8_t>(bytes[i]) + Format::kQueryOffset);
}

template <typename Format>
std::uint32_t pack_panel(const float* const* rows, int count, std::int64_t depth,
                         std::int64_t depth_padded, float fixed_scale, std::int8_t* panel) {
  const std::int64_t value_bytes = depth_padded * kLanes * Format::kPanelBits / 8;
  const std::int64_t written = (depth + kLanes - 1) / kLanes * kLanes;
  if (count < kLanes || written < depth_padded)
    __builtin_memset(panel, 0, static_cast<std::size_t>(value_bytes));
  PanelFooter footer;
  std::uint32_t not_finite = 0;
  for (int c = 0; c < kLanes; ++c) {
    RowStats stats = {1.0f, 0.0f, 0.0f, 0, true};
    if (c < count) {
      if constexpr (Format::kPanelBits == 4)
        fixed_scale = Format::scale(root_mean_square(rows[c], depth));
      stats = quantise_row<Format>(rows[c], depth, fixed_scale, [&](std::int64_t i, f32x16 codes) {
        std::int8_t bytes[kLanes * Format::kElementBytes];
        Format::store(bytes, codes);
        Format::place(panel, i, c, bytes);
      });
      if (!stats.finite) not_finite |= 1u << c;
    }
    const float least_norm = stats.norm * (1.0f - 3.0f * (inflation(depth) - 1.0f));
    footer.scale[c] = stats.scale;
    footer.inverse[c] = 1.0f / stats.scale;
    footer.residual[c] = stats.residual;
    footer.norm[c] = stats.norm;
    footer.half_square[c] = 0.5f * (1.0f - 0x1p-18f) * least_norm * least_norm * stats.scale;
    footer.correction[c] = -128 * stats.sum;
  }
  __builtin_memcpy(panel + value_bytes, &footer, sizeof(footer));
  return not_finite;
}

}  // namespace
