// Sixteen lanes in plain C++: the meaning of every function the other ISA headers provide.
#pragma once

#include <cstdint>

namespace {

constexpr int kTileRows = 4;
constexpr int kTilePanels = 1;
constexpr int kExactRows = 1;
constexpr int kExactColumns = 1;
constexpr int kBfloat16TileRows = 4;
constexpr int kBfloat16TilePanels = 1;
constexpr int kFewTileRows = 4;
constexpr int kInfonceRows = 4;
constexpr int kInfonceVectors = 1;
constexpr int kQueryOffset = 0;  // added to a query's int8 before it is stored

struct f32x16 {
  float lane[16];
};
struct i32x16 {
  std::int32_t lane[16];
};
struct s8x64 {
  std::int8_t value[64];  // [16 rows][4 elements]
};
struct q8x4 {
  const std::int8_t* data;
};
// Pairs of bfloat16, widened: lane c holds the first (even) and the second (odd) of pair c.
struct bf16x32 {
  f32x16 even, odd;
};

template <typename F>
inline f32x16 map_lanes(F f) {
  f32x16 out;
  for (int l = 0; l < 16; ++l) out.lane[l] = f(l);
  return out;
}

inline f32x16 set_f32(float value) {
  return map_lanes([=](int) { return value; });
}
inline f32x16 load_f32(const float* p) {
  return map_lanes([=](int l) { return p[l]; });
}
inline f32x16 load_partial_f32(const float* p, int count) {
  return map_lanes([=](int l) { return l < count ? p[l] : 0.0f; });
}
inline void store_f32(float* p, f32x16 a) {
  for (int l = 0; l < 16; ++l) p[l] = a.lane[l];
}
inline f32x16 add_f32(f32x16 a, f32x16 b) {
  return map_lanes([&](int l) { return a.lane[l] + b.lane[l]; });
}
inline f32x16 sub_f32(f32x16 a, f32x16 b) {
  return map_lanes([&](int l) { return a.lane[l] - b.lane[l]; });
}
inline f32x16 mul_f32(f32x16 a, f32x16 b) {
  return map_lanes([&](int l) { return a.lane[l] * b.lane[l]; });
}
inline f32x16 fma_f32(f32x16 a, f32x16 b, f32x16 c) {
  return map_lanes([&](int l) { return __builtin_fmaf(a.lane[l], b.lane[l], c.lane[l]); });
}
inline f32x16 max_f32(f32x16 a, f32x16 b) {
  return map_lanes([&](int l) { return a.lane[l] > b.lane[l] ? a.lane[l] : b.lane[l]; });
}
inline f32x16 min_f32(f32x16 a, f32x16 b) {
  return map_lanes([&](int l) { return a.lane[l] < b.lane[l] ? a.lane[l] : b.lane[l]; });
}
inline f32x16 abs_f32(f32x16 a) {
  return map_lanes([&](int l) { return __builtin_fabsf(a.lane[l]); });
}
inline f32x16 sqrt_f32(f32x16 a) {
  return map_lanes([&](int l) { return __builtin_sqrtf(a.lane[l]); });
}
inline f32x16 round_f32(f32x16 a) {
  return map_lanes([&](int l) { return __builtin_rintf(a.lane[l]); });
}
// l + (l+8), l + (l+4), l + (l+2), l + (l+1): the canonical tree.
inline float reduce_add(f32x16 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) a.lane[l] += a.lane[l + half];
  return a.lane[0];
}
inline float reduce_max(f32x16 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int l = 0; l < half; ++l)
      if (a.lane[l + half] > a.lane[l]) a.lane[l] = a.lane[l + half];
  return a.lane[0];
}
// Bit l is set where a >= b (a > b).
inline std::uint32_t mask_ge(f32x16 a, f32x16 b) {
  std::uint32_t mask = 0;
  for (int l = 0; l < 16; ++l) mask |= static_cast<std::uint32_t>(a.lane[l] >= b.lane[l]) << l;
  return mask;
}
inline std::uint32_t mask_gt(f32x16 a, f32x16 b) {
  std::uint32_t mask = 0;
  for (int l = 0; l < 16; ++l) mask |= static_cast<std::uint32_t>(a.lane[l] > b.lane[l]) << l;
  return mask;
}

inline f32x16 div_f32(f32x16 a, f32x16 b) {
  return map_lanes([&](int l) { return a.lane[l] / b.lane[l]; });
}
// a <= b ? yes : no; group == wanted ? yes : no.
inline f32x16 where_le(f32x16 a, f32x16 b, f32x16 yes, f32x16 no) {
  return map_lanes([&](int l) { return a.lane[l] <= b.lane[l] ? yes.lane[l] : no.lane[l]; });
}
inline f32x16 where_equal(i32x16 group, std::int32_t wanted, f32x16 yes, f32x16 no) {
  return map_lanes([&](int l) { return group.lane[l] == wanted ? yes.lane[l] : no.lane[l]; });
}
// a * 2^n for an integral n in [-126, 127].
inline f32x16 times_power_of_two(f32x16 a, f32x16 n) {
  return map_lanes([&](int l) {
    const auto bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(n.lane[l]) + 127) << 23;
    float power;
    __builtin_memcpy(&power, &bits, sizeof(power));
    return a.lane[l] * power;
  });
}
// Rounded to the eight significant bits of bfloat16, ties to even.
inline f32x16 round_to_bf16(f32x16 a) {
  return map_lanes([&](int l) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &a.lane[l], sizeof(bits));
    bits = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    float rounded;
    __builtin_memcpy(&rounded, &bits, sizeof(rounded));
    return rounded;
  });
}

// Integral values in [-128, 127], so the conversion is exact.
inline void store_i8(std::int8_t* p, f32x16 a) {
  for (int l = 0; l < 16; ++l) p[l] = static_cast<std::int8_t>(a.lane[l]);
}

inline i32x16 load_i32(const std::int32_t* p) {
  i32x16 out;
  for (int l = 0; l < 16; ++l) out.lane[l] = p[l];
  return out;
}
inline void store_i32(std::int32_t* p, i32x16 a) {
  for (int l = 0; l < 16; ++l) p[l] = a.lane[l];
}
inline i32x16 zero_i32() { return i32x16{}; }
inline i32x16 add_i32(i32x16 a, i32x16 b) {
  for (int l = 0; l < 16; ++l) a.lane[l] += b.lane[l];
  return a;
}
inline f32x16 to_f32(i32x16 a) {
  return map_lanes([&](int l) { return static_cast<float>(a.lane[l]); });
}

inline s8x64 load_s8(const std::int8_t* p) {
  s8x64 x;
  __builtin_memcpy(x.value, p, sizeof(x.value));
  return x;
}
// x[0] by the lower halves of 64 bytes, x[1] by the upper ones.
inline void load_levels(const std::int8_t* p, const std::int8_t* levels, s8x64* x) {
  for (int i = 0; i < 64; ++i) {
    const auto halves = static_cast<std::uint8_t>(p[i]);
    x[0].value[i] = levels[halves & 15u];
    x[1].value[i] = levels[halves >> 4];
  }
}
inline q8x4 broadcast_q8(const std::int8_t* p) { return {p}; }
// acc[c] += sum_j q[j] * x[c][j]
inline i32x16 dot4(i32x16 acc, q8x4 q, const s8x64& x) {
  for (int c = 0; c < 16; ++c)
    for (int j = 0; j < 4; ++j) acc.lane[c] += q.data[j] * x.value[4 * c + j];
  return acc;
}

inline float bf16_to_float(const std::int8_t* p) {
  std::uint16_t word;
  __builtin_memcpy(&word, p, sizeof(word));
  const std::uint32_t bits = static_cast<std::uint32_t>(word) << 16;
  float out;
  __builtin_memcpy(&out, &bits, sizeof(out));
  return out;
}
inline bf16x32 load_bf16(const std::int8_t* p) {
  return {map_lanes([=](int l) { return bf16_to_float(p + 4 * l); }),
          map_lanes([=](int l) { return bf16_to_float(p + 4 * l + 2); })};
}
// One pair in every lane.
inline bf16x32 broadcast_bf16(const std::int8_t* p) {
  return {set_f32(bf16_to_float(p)), set_f32(bf16_to_float(p + 2))};
}
// Values with eight significant bits, so dropping the lower half is exact.
inline void store_bf16(std::uint16_t* p, f32x16 a) {
  for (int l = 0; l < 16; ++l) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &a.lane[l], sizeof(bits));
    p[l] = static_cast<std::uint16_t>(bits >> 16);
  }
}

inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  std::uint32_t exponent = (half >> 10) & 0x1fu;
  std::uint32_t mantissa = half & 0x3ffu;
  std::uint32_t bits;
  if (exponent == 31) {
    bits = 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = ((exponent + 112) << 23) | (mantissa << 13);
  } else if (mantissa != 0) {
    exponent = 113;
    while ((mantissa & 0x400u) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    bits = (exponent << 23) | ((mantissa & 0x3ffu) << 13);
  } else {
    bits = 0;
  }
  bits |= sign;
  float out;
  __builtin_memcpy(&out, &bits, sizeof(out));
  return out;
}
inline f32x16 load_half(const std::uint16_t* p) {
  return map_lanes([=](int l) { return half_to_float(p[l]); });
}

}  // namespace
