// What every ISA file ends with: the peak loops and the table of the templates it compiled.
#pragma once

namespace {

// An integer as a type, for choosing a template by a run-time value.
template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

}  // namespace

#include "exact.inl.h"
#include "pack.inl.h"
#include "score.inl.h"
#include "select.inl.h"

namespace {

constexpr int kPeakChains = 8;  // enough to cover latency times throughput on every listed CPU

std::int64_t peak_int8(std::int64_t rounds) {
  alignas(64) std::int8_t bytes[64] = {1, 2, 3};
  alignas(64) std::int32_t sink[16];
  i32x16 acc[kPeakChains];
  for (auto& a : acc) a = zero_i32();
  const q8x4 q = broadcast_q8(bytes);
  const s8x64 x = load_s8(bytes);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kPeakChains; ++c) acc[c] = dot4(acc[c], q, x);
  }
  for (auto& a : acc) {
    store_i32(sink, a);
    asm volatile("" : : "m"(sink));
  }
  return rounds * kPeakChains * 64 * 2;
}

std::int64_t peak_float32(std::int64_t rounds) {
  float sink[16] = {};
  f32x16 acc[kPeakChains];
  for (auto& a : acc) a = set_f32(0.0f);
  const f32x16 x = set_f32(0x1p-60f);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kPeakChains; ++c) acc[c] = fma_f32(x, x, acc[c]);
  }
  for (auto& a : acc) {
    store_f32(sink, a);
    asm volatile("" : : "m"(sink));
  }
  return rounds * kPeakChains * 16 * 2;
}

void no_tiles() {}

void fill(stope::KernelTable* table, const char* name) {
  table->name = name;
  table->tile_rows = kTileRows;
  table->tile_panels = kTilePanels;
  table->widen = widen;
  table->normalise = normalise;
  table->quantise = quantise;
  table->pack_panel = pack_panel;
  table->begin_tiles = no_tiles;
  table->end_tiles = no_tiles;
  table->score_panels = score_panels;
  table->select = select;
  table->reached_by = reached_by;
  table->exact_dot = exact_dot;
  table->exact_distance = exact_distance;
  table->exact_dot_int8 = exact_dot_int8;
  table->peak_int8 = peak_int8;
  table->peak_float32 = peak_float32;
}

}  // namespace
