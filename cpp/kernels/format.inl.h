// The formats of a scan, as policies for the templates of packing, scoring and selecting.
//
//   Int8:      u = round(x / scale), scale = max|x| / 127;       four elements to a chunk
//   Bfloat16:  u = x / scale rounded to 8 bits, scale = 2^e;     two elements to a chunk
//   Int4:      u = the nearest of 15 levels;                     eight elements in two chunks
//
// The levels are the best ones for Gaussian elements (Lloyd's rule) and leave 0.104 of their
// length.
//
// kChunks chunks lie in kChunkRowBytes bytes of a panel, and are loaded together.
#pragma once

#include "kernel_table.h"

namespace {

using stope::TileEntry;

constexpr int kPanelRows = stope::kLanes;
constexpr int kChunkBytes = 4;
constexpr int kChunkRowBytes = kChunkBytes * kPanelRows;
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

// Sixteen codes, from element i of row c on, to where they belong among the values of a panel.
template <int kBytes>
inline void place_codes(std::int8_t* panel, std::int64_t i, int c, const std::int8_t* codes) {
  constexpr int kElements = kChunkBytes / kBytes;  // of one chunk
  for (int g = 0; g < kPanelRows / kElements; ++g)
    __builtin_memcpy(panel + (i / kElements + g) * kChunkRowBytes + kChunkBytes * c,
                     codes + kChunkBytes * g, kChunkBytes);
}

struct Int8 {
  static constexpr int kElementBytes = 1;
  static constexpr int kPanelBits = 8, kChunks = 1;
  static constexpr bool kExactSums = true;
  static constexpr int kQueryOffset = ::kQueryOffset;
  static constexpr int kRows = kTileRows, kPanels = kTilePanels, kFewRows = kFewTileRows;
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
  static void place(std::int8_t* panel, std::int64_t i, int c, const std::int8_t* codes) {
    place_codes<kElementBytes>(panel, i, c, codes);
  }
  static void load(const std::int8_t* p, Corpus* x) { x[0] = load_s8(p); }
  static Query broadcast(const std::int8_t* p) { return broadcast_q8(p); }
  static Sum zero() { return zero_i32(); }
  static Sum add(Sum a, Sum b) { return add_i32(a, b); }
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
  static constexpr int kPanelBits = 16, kChunks = 1;
  static constexpr bool kExactSums = false;
  static constexpr int kQueryOffset = 0;
  static constexpr int kRows = kBfloat16TileRows, kPanels = kBfloat16TilePanels;
  static constexpr int kFewRows = kRows;
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
  static Sum zero() { return set_f32(0.0f); }
  static Sum start(const stope::PanelFooter*) { return zero(); }
  static Sum add(Sum a, Sum b) { return add_f32(a, b); }
  static void place(std::int8_t* panel, std::int64_t i, int c, const std::int8_t* codes) {
    place_codes<kElementBytes>(panel, i, c, codes);
  }
  static void load(const std::int8_t* p, Corpus* x) { x[0] = load_bf16(p); }
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

// Levels by their four bits: the third is the sign.
alignas(16) constexpr std::int8_t kLevels[16] = {0, 13,  26,  40,  56,  73,  95,  127,
                                                 0, -13, -26, -40, -56, -73, -95, -127};
constexpr int kPositiveLevels = 8;

struct LevelBits {
  std::uint8_t of[128];  // of a level without its sign
  constexpr LevelBits() : of() {
    for (int level = 0; level < kPositiveLevels; ++level)
      of[kLevels[level]] = static_cast<std::uint8_t>(level);
  }
};
constexpr LevelBits kLevelBits;

// What a panel holds of the corpus, for the queries of an int8 format.
template <typename Queries>
struct Int4 : Queries {
  static constexpr int kPanelBits = 4, kChunks = 2;
  static constexpr int kRows = kFewTileRows, kPanels = 1, kFewRows = kRows;
  using Corpus = typename Queries::Corpus;

  // For a row of this root mean square.
  static float scale(float rms) { return rms * 0.021125f; }
  static f32x16 round(f32x16 t) {
    const f32x16 magnitude = abs_f32(t), zero = set_f32(0.0f);
    f32x16 level = zero;
    for (int i = 1; i < kPositiveLevels; ++i) {
      const auto low = static_cast<float>(kLevels[i - 1]), high = static_cast<float>(kLevels[i]);
      level = where_le(magnitude, set_f32(0.5f * (low + high)), level, set_f32(high));
    }
    return where_le(t, zero, sub_f32(zero, level), level);
  }
  static std::uint8_t bits(std::int8_t level) {
    return level < 0 ? static_cast<std::uint8_t>(kLevelBits.of[-level] | 8u) : kLevelBits.of[level];
  }
  static void place(std::int8_t* panel, std::int64_t i, int c, const std::int8_t* codes) {
    for (int pair = 0; pair < 2; ++pair, codes += 2 * kChunkBytes)
      for (int j = 0; j < kChunkBytes; ++j)
        panel[(i / 8 + pair) * kChunkRowBytes + kChunkBytes * c + j] =
            static_cast<std::int8_t>(bits(codes[j]) | bits(codes[kChunkBytes + j]) << 4);
  }
  static void load(const std::int8_t* p, Corpus* x) { load_levels(p, kLevels, x); }
};

}  // namespace
