// Intel AMX tiles (Sapphire Rapids onwards), on top of AVX-512 for everything that is not a tile.
//
//   instruction           | cycles                | what it does
//   tdpbssd               | latency 52, 1 per 16  | C[16][16] += A[16][64] (s8) . B[16][16][4] (s8)
//   tdpbf16ps             | latency 52, 1 per 16  | C[16][16] += A[16][32] . B[16][16][2] (bf16)
//   tileloadd             | 8 per tile from L1    | 16 rows of 64 bytes, any stride
//   tilestored            | 16 per tile           | likewise
// Eight tiles: four accumulators (32 queries x 32 corpus rows), two of A, two of B, so that four
// products hide four loads. A corpus panel is a B tile as it lies.
//
// The configuration belongs to the thread and other libraries set their own: begin and end
// surround every scan.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kAmxTileSide = 16;   // rows of every tile
constexpr int kAmxTileBytes = 64;  // of every row
constexpr int kAmxRows = 2 * kAmxTileSide;

struct alignas(64) TileConfiguration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {};
  std::uint8_t rows[16] = {};
};

void begin_tiles() {
  TileConfiguration configuration;
  for (int t = 0; t < 8; ++t) {
    configuration.bytes_per_row[t] = kAmxTileBytes;
    configuration.rows[t] = kAmxTileSide;
  }
  // gcc's intrinsic tells the compiler of the first eight bytes alone: without this line the stores
  // above are dropped as dead, and the tiles have no rows.
  asm volatile("" : : "r"(&configuration) : "memory");
  _tile_loadconfig(&configuration);
}

void end_tiles() { _tile_release(); }

}  // namespace
