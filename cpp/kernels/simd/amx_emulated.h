// AMX tile instructions in plain C++, for machines without them: what each does, one loop a piece.
//
// Included before amx.cpp by the build option STOPE_EMULATE_AMX, so that its loops, its tile shapes
// and everything above run unchanged under the tests. Far too slow for anything else. An
// instruction on a tile that the thread has not configured aborts, as the processor would fault.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

struct EmulatedTile {
  std::uint8_t bytes[16][64];
};
struct EmulatedTiles {
  bool configured = false;
  std::uint16_t bytes_per_row[16];
  std::uint8_t rows[16];
  EmulatedTile tile[8];
};
thread_local EmulatedTiles emulated_tiles;

inline EmulatedTile& emulated_tile(int number) {
  EmulatedTiles& state = emulated_tiles;
  if (!state.configured || state.rows[number] != 16 || state.bytes_per_row[number] != 64)
    std::abort();
  return state.tile[number];
}

inline void emulate_loadconfig(const void* configuration) {
  const auto* bytes = static_cast<const std::uint8_t*>(configuration);
  if (bytes[0] != 1 || bytes[1] != 0) std::abort();
  EmulatedTiles& state = emulated_tiles;
  std::memcpy(state.bytes_per_row, bytes + 16, sizeof(state.bytes_per_row));
  std::memcpy(state.rows, bytes + 48, sizeof(state.rows));
  std::memset(state.tile, 0, sizeof(state.tile));
  state.configured = true;
}
inline void emulate_release() { emulated_tiles.configured = false; }
inline void emulate_zero(int number) {
  std::memset(&emulated_tile(number), 0, sizeof(EmulatedTile));
}
inline void emulate_load(int number, const void* base, std::int64_t stride) {
  for (int r = 0; r < 16; ++r)
    std::memcpy(emulated_tile(number).bytes[r], static_cast<const char*>(base) + r * stride, 64);
}
inline void emulate_store(int number, void* base, std::int64_t stride) {
  for (int r = 0; r < 16; ++r)
    std::memcpy(static_cast<char*>(base) + r * stride, emulated_tile(number).bytes[r], 64);
}

// sum[m][n] += a[m][4k + j] * b[k][4n + j], both signed
inline void emulate_dpbssd(int sum, int a, int b) {
  for (int m = 0; m < 16; ++m) {
    std::int32_t row[16];
    std::memcpy(row, emulated_tile(sum).bytes[m], sizeof(row));
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n)
        for (int j = 0; j < 4; ++j)
          row[n] += static_cast<std::int8_t>(emulated_tile(a).bytes[m][4 * k + j]) *
                    static_cast<std::int8_t>(emulated_tile(b).bytes[k][4 * n + j]);
    std::memcpy(emulated_tile(sum).bytes[m], row, sizeof(row));
  }
}

inline float emulated_bfloat16(const std::uint8_t* p) {
  std::uint16_t word;
  std::memcpy(&word, p, sizeof(word));
  const std::uint32_t bits = static_cast<std::uint32_t>(word) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// sum[m][n] += a[m][2k] * b[k][2n] + a[m][2k + 1] * b[k][2n + 1]
inline void emulate_dpbf16ps(int sum, int a, int b) {
  for (int m = 0; m < 16; ++m) {
    float row[16];
    std::memcpy(row, emulated_tile(sum).bytes[m], sizeof(row));
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n)
        for (int j = 0; j < 2; ++j)
          row[n] += emulated_bfloat16(emulated_tile(a).bytes[m] + 4 * k + 2 * j) *
                    emulated_bfloat16(emulated_tile(b).bytes[k] + 4 * n + 2 * j);
    std::memcpy(emulated_tile(sum).bytes[m], row, sizeof(row));
  }
}

}  // namespace

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stream_loadd
#undef _tile_stored
#undef _tile_dpbssd
#undef _tile_dpbf16ps
#define _tile_loadconfig(configuration) emulate_loadconfig(configuration)
#define _tile_release() emulate_release()
#define _tile_zero(number) emulate_zero(number)
#define _tile_loadd(number, base, stride) emulate_load(number, base, stride)
#define _tile_stream_loadd(number, base, stride) emulate_load(number, base, stride)
#define _tile_stored(number, base, stride) emulate_store(number, base, stride)
#define _tile_dpbssd(sum, a, b) emulate_dpbssd(sum, a, b)
#define _tile_dpbf16ps(sum, a, b) emulate_dpbf16ps(sum, a, b)
