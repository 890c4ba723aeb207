// Sixteen lanes as two 256-bit registers (Haswell and Zen 1 onwards: AVX2, FMA, F16C).
//
//   instruction                      | latency  | per cycle (Skylake / Zen 3)
//   vfmadd231ps ymm                  | 4        | 2 / 2
//   vpmaddubsw, vpmaddwd ymm         | 5 / 3    | 2 / 2    u8*s8 pairs -> s16, s16 pairs -> s32
//   vpsignb, vpabsb ymm              | 1        | 2 / 4    the sign of q moved onto x
//   vpshufb ymm                      | 1        | 1 / 2    32 levels by their four bits
//   vcvtdq2ps, vcmpps, vmovmskps     | 4, 4, 2  | 2, 2, 1
// A step of dot4 is sign + maddubs + madd + add: 32 multiply-adds in four instructions, against
// 8 in one for float32. |q| and |x| stay below 128, so a pair is at most 2 * 127 * 127 = 32,258
// and maddubs never saturates.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kTileRows = 4;
constexpr int kTilePanels = 1;
constexpr int kNarrowTileRows = 6;
constexpr int kExactRows = 2;
constexpr int kExactColumns = 2;
constexpr int kBfloat16TileRows = 4;
constexpr int kBfloat16TilePanels = 1;
constexpr int kFewTileRows = 4;
constexpr int kInfonceRows = 6;
constexpr int kInfonceVectors = 1;
constexpr int kQueryOffset = 0;

struct f32x16 {
  __m256 low, high;
};
struct i32x16 {
  __m256i low, high;
};
struct s8x64 {
  __m256i low, high;
};
struct q8x4 {
  __m256i value, magnitude;
};
struct bf16x32 {
  f32x16 even, odd;
};

inline f32x16 set_f32(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline f32x16 load_f32(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline __m256i partial_mask(int count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
}
inline f32x16 load_partial_f32(const float* p, int count) {
  return {_mm256_maskload_ps(p, partial_mask(count)),
          _mm256_maskload_ps(p + 8, partial_mask(count - 8))};
}
inline void store_f32(float* p, f32x16 a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
inline f32x16 add_f32(f32x16 a, f32x16 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline f32x16 sub_f32(f32x16 a, f32x16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline f32x16 mul_f32(f32x16 a, f32x16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline f32x16 fma_f32(f32x16 a, f32x16 b, f32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline f32x16 max_f32(f32x16 a, f32x16 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline f32x16 min_f32(f32x16 a, f32x16 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline f32x16 abs_f32(f32x16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline f32x16 sqrt_f32(f32x16 a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
inline f32x16 round_f32(f32x16 a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, mode), _mm256_round_ps(a.high, mode)};
}
inline float reduce_add(f32x16 a) {
  const __m256 sum8 = _mm256_add_ps(a.low, a.high);
  const __m128 sum4 = _mm_add_ps(_mm256_castps256_ps128(sum8), _mm256_extractf128_ps(sum8, 1));
  const __m128 sum2 = _mm_add_ps(sum4, _mm_movehl_ps(sum4, sum4));
  return _mm_cvtss_f32(_mm_add_ss(sum2, _mm_movehdup_ps(sum2)));
}
inline float reduce_max(f32x16 a) {
  const __m256 max8 = _mm256_max_ps(a.low, a.high);
  const __m128 max4 = _mm_max_ps(_mm256_castps256_ps128(max8), _mm256_extractf128_ps(max8, 1));
  const __m128 max2 = _mm_max_ps(max4, _mm_movehl_ps(max4, max4));
  return _mm_cvtss_f32(_mm_max_ss(max2, _mm_movehdup_ps(max2)));
}
template <int kPredicate>
inline std::uint32_t compare(f32x16 a, f32x16 b) {
  const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, kPredicate));
  const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, kPredicate));
  return static_cast<std::uint32_t>(low | (high << 8));
}
inline std::uint32_t mask_ge(f32x16 a, f32x16 b) { return compare<_CMP_GE_OQ>(a, b); }
inline std::uint32_t mask_gt(f32x16 a, f32x16 b) { return compare<_CMP_GT_OQ>(a, b); }

inline f32x16 div_f32(f32x16 a, f32x16 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline f32x16 where_le(f32x16 a, f32x16 b, f32x16 yes, f32x16 no) {
  return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LE_OQ)),
          _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LE_OQ))};
}
inline f32x16 where_equal(i32x16 group, std::int32_t wanted, f32x16 yes, f32x16 no) {
  const __m256i value = _mm256_set1_epi32(wanted);
  const __m256 low = _mm256_castsi256_ps(_mm256_cmpeq_epi32(group.low, value));
  const __m256 high = _mm256_castsi256_ps(_mm256_cmpeq_epi32(group.high, value));
  return {_mm256_blendv_ps(no.low, yes.low, low), _mm256_blendv_ps(no.high, yes.high, high)};
}
inline __m256 power_of_two(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline f32x16 times_power_of_two(f32x16 a, f32x16 n) {
  return {_mm256_mul_ps(a.low, power_of_two(n.low)), _mm256_mul_ps(a.high, power_of_two(n.high))};
}
inline __m256 round_half_to_bf16(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  return _mm256_castsi256_ps(
      _mm256_and_si256(up, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline f32x16 round_to_bf16(f32x16 a) {
  return {round_half_to_bf16(a.low), round_half_to_bf16(a.high)};
}

inline void store_i8(std::int8_t* p, f32x16 a) {
  const __m256i low = _mm256_cvtps_epi32(a.low), high = _mm256_cvtps_epi32(a.high);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline i32x16 load_i32(const std::int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline void store_i32(std::int32_t* p, i32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.high);
}
inline i32x16 zero_i32() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline i32x16 add_i32(i32x16 a, i32x16 b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline f32x16 to_f32(i32x16 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

inline s8x64 load_s8(const std::int8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline void load_levels(const std::int8_t* p, const std::int8_t* levels, s8x64* x) {
  const __m256i table =
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
  const __m256i lower = _mm256_set1_epi8(15);
  const s8x64 halves = load_s8(p);
  const auto by_lower = [&](__m256i h) {
    return _mm256_shuffle_epi8(table, _mm256_and_si256(h, lower));
  };
  x[0] = {by_lower(halves.low), by_lower(halves.high)};
  x[1] = {by_lower(_mm256_srli_epi16(halves.low, 4)), by_lower(_mm256_srli_epi16(halves.high, 4))};
}
inline q8x4 broadcast_q8(const std::int8_t* p) {
  std::int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  const __m256i value = _mm256_set1_epi32(bytes);
  return {value, _mm256_abs_epi8(value)};
}
inline __m256i dot4_half(__m256i acc, q8x4 q, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(q.magnitude, _mm256_sign_epi8(x, q.value));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline i32x16 dot4(i32x16 acc, q8x4 q, s8x64 x) {
  return {dot4_half(acc.low, q, x.low), dot4_half(acc.high, q, x.high)};
}

inline i32x16 half_i32(i32x16 a) {
  return {_mm256_srai_epi32(a.low, 1), _mm256_srai_epi32(a.high, 1)};
}
// Queries that are unsigned and below 128.
inline __m256i broadcast_unsigned(const std::int8_t* p) {
  std::int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return _mm256_set1_epi32(bytes);
}
inline __m256i dot4_unsigned_half(__m256i acc, __m256i q, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(q, x);
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline i32x16 dot4_unsigned(i32x16 acc, __m256i q, s8x64 x) {
  return {dot4_unsigned_half(acc.low, q, x.low), dot4_unsigned_half(acc.high, q, x.high)};
}

inline bf16x32 widen_pairs(__m256i low, __m256i high) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
           _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(low, upper)),
           _mm256_castsi256_ps(_mm256_and_si256(high, upper))}};
}
inline bf16x32 load_bf16(const std::int8_t* p) {
  const s8x64 pairs = load_s8(p);
  return widen_pairs(pairs.low, pairs.high);
}
inline bf16x32 broadcast_bf16(const std::int8_t* p) {
  std::int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  const __m256i pair = _mm256_set1_epi32(bytes);
  return widen_pairs(pair, pair);
}
inline void store_bf16(std::uint16_t* p, f32x16 a) {
  const __m256i low = _mm256_srli_epi32(_mm256_castps_si256(a.low), 16);
  const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(a.high), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8));
}

inline f32x16 load_half(const std::uint16_t* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}

}  // namespace
