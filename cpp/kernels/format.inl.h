// The two formats of a scan, as policies for the templates of packing, scoring and selecting.
//
//   Int8:      u = round(x / scale), scale = max|x| / 127;       four elements to a chunk
//   Bfloat16:  u = x / scale rounded to 8 bits, scale = 2^e;     two elements to a chunk
#pragma once

#include "kernel_table.h"

namespace {

using stope::TileEntry;

constexpr float kSmallestScale = 0x1p-100f;  // so that 1 / scale is finite

// 2^-exponent(m), so that m * it lies in [1, 2); within float32's normal range.
inline float power_of_two_inverse(float m) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &m, sizeof(bits));
  int exponent = static_cast<int>((bits >> 23) & 0xffu) - 127;
  if (exponent > 126) exponent = 126;
  if (exponent < -126) exponent = -126;
  bits = static_cast<std::uint32_t>(127 - exponent) << 23;
  float out;
  __builtin_memcpy(&out, &bits, sizeof(out));
  return out;
}

struct Int8 {
  static constexpr int kElementBytes = 1;
  static constexpr int kQueryOffset = ::kQueryOffset;
  static constexpr int kRows = kTileRows, kPanels = kTilePanels;
  static constexpr float kResidualFloor = 0x1p-10f;
  using Sum = i32x16;
  using Corpus = s8x64;
  using Query = q8x4;

  static float scale(float largest) { return largest * (1.0f / 127.0f); }
  static f32x16 round(f32x16 t) {
    return min_f32(max_f32(round_f32(t), set_f32(-127.0f)), set_f32(127.0f));
  }
  static void store(void* p, f32x16 codes) { store_i8(static_cast<std::int8_t*>(p), codes); }
  static Sum start(const stope::PanelFooter* footer) {
    if constexpr (kQueryOffset != 0) return load_i32(footer->correction);
    return zero_i32();
  }
  static Corpus load(const std::int8_t* p) { return load_s8(p); }
  static Query broadcast(const std::int8_t* p) { return broadcast_q8(p); }
  static Sum multiply_add(Sum sum, Query q, Corpus x) { return dot4(sum, q, x); }
  static void store_tile(TileEntry* p, Sum sum) { store_i32(&p->i32, sum); }
  static f32x16 load_tile(const TileEntry* p) { return to_f32(load_i32(&p->i32)); }
  static TileEntry excluded() {
    TileEntry entry;
    entry.i32 = INT32_MIN;
    return entry;
  }
};

struct Bfloat16 {
  static constexpr int kElementBytes = 2;
  static constexpr int kQueryOffset = 0;
  static constexpr int kRows = kBfloat16TileRows, kPanels = kBfloat16TilePanels;
  static constexpr float kResidualFloor = 0x1p-40f;
  using Sum = f32x16;
  using Corpus = bf16x32;
  using Query = bf16x32;

  static float scale(float largest) { return 1.0f / power_of_two_inverse(largest); }
  // Veltkamp's split: the upper 8 bits of the significand, rounded to nearest.
  static f32x16 round(f32x16 t) {
    const f32x16 spread = mul_f32(t, set_f32(65537.0f));
    return sub_f32(spread, sub_f32(spread, t));
  }
  static void store(void* p, f32x16 codes) { store_bf16(static_cast<std::uint16_t*>(p), codes); }
  static Sum start(const stope::PanelFooter*) { return set_f32(0.0f); }
  static Corpus load(const std::int8_t* p) { return load_bf16(p); }
  static Query broadcast(const std::int8_t* p) { return broadcast_bf16(p); }
  static Sum multiply_add(Sum sum, Query q, Corpus x) {
    return fma_f32(q.odd, x.odd, fma_f32(q.even, x.even, sum));
  }
  static void store_tile(TileEntry* p, Sum sum) { store_f32(&p->f32, sum); }
  static f32x16 load_tile(const TileEntry* p) { return load_f32(&p->f32); }
  static TileEntry excluded() {
    TileEntry entry;
    entry.f32 = -__builtin_inff();
    return entry;
  }
};

}  // namespace
