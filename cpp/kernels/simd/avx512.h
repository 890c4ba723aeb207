// Sixteen lanes as one 512-bit register (Cascade Lake, Ice Lake, Zen 4 onwards: F BW DQ VL VNNI).
//
//   instruction              | latency | per cycle (Ice Lake server / Zen 4)
//   vfmadd231ps zmm          | 4       | 2 / 1
//   vpdpbusd zmm             | 5 / 4   | 2 / 1    64 u8*s8 multiply-adds into 16 int32
//   vpshufb zmm              | 1 / 2   | 1 / 1    64 levels by their four bits
//   vcvtdq2ps zmm            | 4       | 2 / 1
//   vcmpps k, zmm            | 4       | 1 / 1
//   vpbroadcastd zmm, m32    | load    | 2 / 1
// vpdpbusd wants one unsigned operand: queries are stored as u + 128, and the panel's correction,
// -128 * sum(x), starts the accumulator. The sum wraps like int32 and ends exact.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
constexpr int kExactRows = 4;
constexpr int kExactColumns = 4;
constexpr int kBfloat16TileRows = 6;
constexpr int kBfloat16TilePanels = 3;
constexpr int kFewTileRows = 8;
constexpr int kInfonceRows = 8;
constexpr int kInfonceVectors = 3;
constexpr int kQueryOffset = 128;

using f32x16 = __m512;
using i32x16 = __m512i;
using s8x64 = __m512i;
using q8x4 = __m512i;
struct bf16x32 {
  __m512 even, odd;
};

inline f32x16 set_f32(float value) { return _mm512_set1_ps(value); }
inline f32x16 load_f32(const float* p) { return _mm512_loadu_ps(p); }
inline f32x16 load_partial_f32(const float* p, int count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
inline void store_f32(float* p, f32x16 a) { _mm512_storeu_ps(p, a); }
inline f32x16 add_f32(f32x16 a, f32x16 b) { return _mm512_add_ps(a, b); }
inline f32x16 sub_f32(f32x16 a, f32x16 b) { return _mm512_sub_ps(a, b); }
inline f32x16 mul_f32(f32x16 a, f32x16 b) { return _mm512_mul_ps(a, b); }
inline f32x16 fma_f32(f32x16 a, f32x16 b, f32x16 c) { return _mm512_fmadd_ps(a, b, c); }
inline f32x16 max_f32(f32x16 a, f32x16 b) { return _mm512_max_ps(a, b); }
inline f32x16 min_f32(f32x16 a, f32x16 b) { return _mm512_min_ps(a, b); }
inline f32x16 abs_f32(f32x16 a) { return _mm512_abs_ps(a); }
inline f32x16 sqrt_f32(f32x16 a) { return _mm512_sqrt_ps(a); }
inline f32x16 round_f32(f32x16 a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline float reduce_add(f32x16 a) {
  const __m256 sum8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 sum4 = _mm_add_ps(_mm256_castps256_ps128(sum8), _mm256_extractf128_ps(sum8, 1));
  const __m128 sum2 = _mm_add_ps(sum4, _mm_movehl_ps(sum4, sum4));
  return _mm_cvtss_f32(_mm_add_ss(sum2, _mm_movehdup_ps(sum2)));
}
inline float reduce_max(f32x16 a) { return _mm512_reduce_max_ps(a); }
inline std::uint32_t mask_ge(f32x16 a, f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline std::uint32_t mask_gt(f32x16 a, f32x16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }

inline f32x16 div_f32(f32x16 a, f32x16 b) { return _mm512_div_ps(a, b); }
inline f32x16 where_le(f32x16 a, f32x16 b, f32x16 yes, f32x16 no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LE_OQ), no, yes);
}
inline f32x16 where_equal(i32x16 group, std::int32_t wanted, f32x16 yes, f32x16 no) {
  return _mm512_mask_blend_ps(_mm512_cmpeq_epi32_mask(group, _mm512_set1_epi32(wanted)), no, yes);
}
inline f32x16 times_power_of_two(f32x16 a, f32x16 n) { return _mm512_scalef_ps(a, n); }
inline f32x16 round_to_bf16(f32x16 a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  return _mm512_castsi512_ps(
      _mm512_and_si512(up, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline void store_i8(std::int8_t* p, f32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}

inline i32x16 load_i32(const std::int32_t* p) { return _mm512_loadu_si512(p); }
inline void store_i32(std::int32_t* p, i32x16 a) { _mm512_storeu_si512(p, a); }
inline i32x16 zero_i32() { return _mm512_setzero_si512(); }
inline i32x16 add_i32(i32x16 a, i32x16 b) { return _mm512_add_epi32(a, b); }
inline f32x16 to_f32(i32x16 a) { return _mm512_cvtepi32_ps(a); }

inline s8x64 load_s8(const std::int8_t* p) { return _mm512_loadu_si512(p); }
inline void load_levels(const std::int8_t* p, const std::int8_t* levels, s8x64* x) {
  const __m512i table =
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
  const __m512i lower = _mm512_set1_epi8(15);
  const __m512i halves = load_s8(p);
  x[0] = _mm512_shuffle_epi8(table, _mm512_and_si512(halves, lower));
  x[1] = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(halves, 4), lower));
}
inline q8x4 broadcast_q8(const std::int8_t* p) {
  std::int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return _mm512_set1_epi32(bytes);
}
inline i32x16 dot4(i32x16 acc, q8x4 q, s8x64 x) { return _mm512_dpbusd_epi32(acc, q, x); }

inline bf16x32 widen_pairs(__m512i pairs) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(pairs, upper))};
}
inline bf16x32 load_bf16(const std::int8_t* p) { return widen_pairs(load_s8(p)); }
inline bf16x32 broadcast_bf16(const std::int8_t* p) { return widen_pairs(broadcast_q8(p)); }
inline void store_bf16(std::uint16_t* p, f32x16 a) {
  const __m512i words = _mm512_srli_epi32(_mm512_castps_si512(a), 16);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(words));
}

inline f32x16 load_half(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

}  // namespace
