// Operands and weights of the loss as bfloat16 tiles, for the instruction sets that multiply pairs
// of bfloat16: included by their files alone, after kSplitDepth.
//
// A tile is 1 KiB in one piece: 16 rows of 32 bfloat16 (left), or 16 pairs of 16 rows (right: pairs
// along the depth; inner: pairs of neighbouring rows, as weights times rows sums over rows).
// In float32 precision an element is two bfloat16 parts, x = high + low, and a product is
//   high . high + low . high + high . low
// with an error of at most 3 * 2^-18 of |x| |y|, summed in float32. Errors of many elements cancel:
// a cosine is off by 1e-6 at depth 384. Rows below kSplitDepth, which each instruction set says,
// take the float32 loops instead.
#pragma once

#include "accumulate.inl.h"
#include "kernel_table.h"

namespace {

constexpr std::int64_t kTileBytes = 1024;
constexpr int kTileLine = 64;   // bytes
constexpr int kTileDepth = 32;  // bfloat16 of a left tile's row; rows of an inner tile
constexpr int kBlock = 32;      // rows, columns of two tiles

// std::min would be a weak symbol of this instruction set.
template <typename T>
inline T least(T a, T b) {
  return a < b ? a : b;
}

// Where the tiles of two neighbouring strips of an operand lie: [strip][part][step].
struct TileStrips {
  const std::int8_t* data;
  std::int64_t strip_bytes, part_bytes, step_bytes;
  const std::int8_t* at(int strip, int part, std::int64_t step) const {
    return data + strip * strip_bytes + part * part_bytes + step * step_bytes;
  }
};

inline bool without_tiles(Precision precision, std::int64_t depth) {
  return precision == stope::Precision::kFloat32 && depth < kSplitDepth;
}
inline int parts_of(Precision precision) { return precision == stope::Precision::kFloat32 ? 2 : 1; }

// The high part of x, or what it leaves.
inline f32x16 part_of(f32x16 x, int part) { return part == 0 ? x : sub_f32(x, round_to_bf16(x)); }

// 32 floats to 32 bfloat16 in order, rounded to the nearest.
inline __m512i to_bf16(f32x16 first, f32x16 second) {
#if defined(__AVX512BF16__)
  const __m512bh both = _mm512_cvtne2ps_pbh(second, first);
  __m512i out;
  __builtin_memcpy(&out, &both, sizeof(out));
  return out;
#else
  const __m512i a = _mm512_srli_epi32(_mm512_castps_si512(round_to_bf16(first)), 16);
  const __m512i b = _mm512_srli_epi32(_mm512_castps_si512(round_to_bf16(second)), 16);
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)),
                            _mm512_cvtepi32_epi16(b), 1);
#endif
}
inline __m512i pack_32(f32x16 first, f32x16 second, int part) {
  return to_bf16(part_of(first, part), part_of(second, part));
}
// Lane l: element l of `even` below, of `odd` above.
inline __m512i pair_up(f32x16 even, f32x16 odd, int part) {
#if defined(__AVX512BF16__)
  alignas(64) static constexpr std::uint16_t kPairs[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_permutexvar_epi16(_mm512_load_si512(kPairs), pack_32(even, odd, part));
#else
  const __m512i low = _mm512_castps_si512(round_to_bf16(part_of(even, part)));
  const __m512i high = _mm512_castps_si512(round_to_bf16(part_of(odd, part)));
  return _mm512_or_si512(_mm512_srli_epi32(low, 16), high);
#endif
}

// Transposes 16 x 16 lanes of 32 bits.
inline void transpose(__m512i* row) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(row[i], row[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(row[i], row[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    row[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    row[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    row[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    row[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(row[i], row[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(row[i + 8], row[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    row[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    row[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    row[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    row[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// The rows of a group, each times its factor; zeros beyond them.
struct GroupRows {
  const float* const* rows;
  const float* factors;
  int count;
  std::int64_t depth;
  f32x16 load(int r, std::int64_t i) const {
    if (r >= count || i >= depth) return set_f32(0.0f);
    const std::int64_t rest = depth - i;
    const float* p = rows[r] + i;
    return mul_f32(rest >= kLanes ? load_f32(p) : load_partial_f32(p, static_cast<int>(rest)),
                   set_f32(factors[r]));
  }
};

// Tiles of one group of 16 rows, by part, then by 32 elements of depth.
inline std::int8_t* group_tiles(void* base, std::int64_t group, int parts, std::int64_t depth) {
  return static_cast<std::int8_t*>(base) +
         group * parts * (padded_depth(depth) / kTileDepth) * kTileBytes;
}

void pack_left_tiles(Precision precision, const float* const* rows, const float* factors, int count,
                     std::int64_t depth, std::int64_t group, void* base) {
  if (without_tiles(precision, depth))
    return pack_rows(precision, rows, factors, count, depth, group, base);
  const int parts = parts_of(precision);
  const GroupRows given = {rows, factors, count, depth};
  std::int8_t* out = group_tiles(base, group, parts, depth);
  for (int part = 0; part < parts; ++part)
    for (std::int64_t i = 0; i < padded_depth(depth); i += kTileDepth, out += kTileBytes)
      for (int r = 0; r < kLanes; ++r) {
        _mm512_store_si512(out + r * kTileLine,
                           pack_32(given.load(r, i), given.load(r, i + kLanes), part));
      }
}

void pack_right_tiles(Precision precision, const float* const* rows, const float* factors,
                      int count, std::int64_t depth, std::int64_t group, void* base) {
  if (without_tiles(precision, depth))
    return pack_columns(precision, rows, factors, count, depth, group, base);
  const int parts = parts_of(precision);
  const GroupRows given = {rows, factors, count, depth};
  std::int8_t* out = group_tiles(base, group, parts, depth);
  for (int part = 0; part < parts; ++part)
    for (std::int64_t i = 0; i < padded_depth(depth); i += kTileDepth, out += kTileBytes) {
      __m512i pairs[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        pairs[r] = pack_32(given.load(r, i), given.load(r, i + kLanes), part);
      }
      transpose(pairs);
      for (int r = 0; r < kLanes; ++r) _mm512_store_si512(out + r * kTileLine, pairs[r]);
    }
}

// An inner tile holds 32 rows, two groups. Inside a chunk tiles go by 16 of the depth, then part,
// then 32 rows: what one block of products reads lies in one piece.
constexpr int kInnerTiles = stope::kInfonceChunk / kTileDepth;
constexpr std::int64_t kInnerBytes = kInnerTiles * kTileBytes;  // of a part

void pack_inner_tiles(Precision precision, const float* const* rows, const float* factors,
                      int count, std::int64_t depth, std::int64_t group, void* base) {
  if (without_tiles(precision, depth))
    return pack_rows(precision, rows, factors, count, depth, group, base);
  const int parts = parts_of(precision);
  const GroupRows given = {rows, factors, count, depth};
  const std::int64_t strips = padded_depth(depth) / kLanes;
  const std::int64_t chunk = group * kLanes / stope::kInfonceChunk, tile = group / 2 % kInnerTiles;
  std::int8_t* out = static_cast<std::int8_t*>(base) + chunk * strips * parts * kInnerBytes +
                     tile * kTileBytes + group % 2 * (kTileBytes / 2);
  for (std::int64_t s = 0; s < strips; ++s)
    for (int part = 0; part < parts; ++part, out += kInnerBytes)
      for (int p = 0; p < kLanes / 2; ++p) {
        _mm512_store_si512(out + p * kTileLine, pair_up(given.load(2 * p, s * kLanes),
                                                        given.load(2 * p + 1, s * kLanes), part));
      }
}

// The operand of weights.
struct InnerTiles {
  const std::int8_t* data;
  int parts;
  std::int64_t depth;

  std::int64_t strip_bytes() const { return parts * kInnerBytes; }
  // Of the chunk that row `first` begins, from depth d on.
  TileStrips at(std::int64_t d, int first) const {
    const std::int64_t strip = first / stope::kInfonceChunk * (padded_depth(depth) / kLanes);
    return {data + (strip + d / kLanes) * strip_bytes(), strip_bytes(), kInnerBytes, kTileBytes};
  }
};

// A tile of weights as left tiles, [16 rows][part][32 columns], then transposed,
// [16 columns][part][32 rows], of which a strip is one step.
struct WeightLayout {
  std::int64_t across_part, across_group, down, down_part, down_group;

  WeightLayout(int parts, int columns)
      : across_part((columns + kTileDepth - 1) / kTileDepth * kTileBytes),
        across_group(parts * across_part),
        down(stope::kInfonceWeightRows / kLanes * across_group),
        down_part(stope::kInfonceWeightRows / kTileDepth * kTileBytes),
        down_group(parts * down_part) {}
};

// The weights of a product, whose rows are those of its sums.
inline TileStrips weight_tiles(const stope::InfonceProduct& product, int parts) {
  const WeightLayout layout(parts, product.columns);
  const auto* packed = static_cast<const std::int8_t*>(product.weights);
  return product.transposed
             ? TileStrips{packed + layout.down, layout.down_group, layout.down_part, kTileBytes}
             : TileStrips{packed, layout.across_group, layout.across_part, kTileBytes};
}

// Of a block of 32 x 32 weights.
void transpose_block(const std::int8_t* across, std::int64_t across_group, std::int8_t* down,
                     std::int64_t down_group) {
  __m512i low[kLanes], high[kLanes];  // pairs of rows: columns 8 n to 8 n + 3, the others
  for (int r = 0; r < kBlock; r += 2) {
    const std::int8_t* line = across + r / kLanes * across_group + r % kLanes * kTileLine;
    const __m512i even = _mm512_load_si512(line);
    const __m512i odd = _mm512_load_si512(line + kTileLine);
    low[r / 2] = _mm512_unpacklo_epi16(even, odd);
    high[r / 2] = _mm512_unpackhi_epi16(even, odd);
  }
  transpose(low);
  transpose(high);
  for (int i = 0; i < kLanes; ++i) {
    const int column = i / 4 * 8 + i % 4;
    std::int8_t* out = down + column / kLanes * down_group + column % kLanes * kTileLine;
    _mm512_store_si512(out, low[i]);
    _mm512_store_si512(out + 4 * kTileLine, high[i]);
  }
}

// A strip's weights, as they come: a row of a block, and the block when its rows are in.
struct WeightTiles {
  WeightLayout layout;
  std::int8_t* across;
  std::int8_t* down;

  WeightTiles(void* tile, int parts, int part, int first_row, int columns)
      : layout(parts, columns),
        across(static_cast<std::int8_t*>(tile) + first_row / kLanes * layout.across_group +
               part * layout.across_part),
        down(static_cast<std::int8_t*>(tile) + layout.down + part * layout.down_part +
             first_row / kTileDepth * kTileBytes) {}
  void set_row(int r, int column, __m512i weights) const {
    _mm512_store_si512(across + r / kLanes * layout.across_group +
                           column / kTileDepth * kTileBytes + r % kLanes * kTileLine,
                       weights);
  }
  void finish_block(int column) const {
    transpose_block(across + column / kTileDepth * kTileBytes, layout.across_group,
                    down + column / kLanes * layout.down_group, layout.down_group);
  }
};

void pack_weight_tiles(Precision precision, const float* weights, std::int64_t stride,
                       int first_row, int rows, int columns, std::int64_t depth, void* tile) {
  if (without_tiles(precision, depth))
    return keep_weights(precision, weights, stride, first_row, rows, columns, depth, tile);
  const int parts = parts_of(precision);
  for (int part = 0; part < parts; ++part) {
    const WeightTiles out(tile, parts, part, first_row, columns);
    for (int c = 0; c < columns; c += kBlock) {
      for (int r = 0; r < kBlock; ++r) {
        const float* line = weights + r * stride + c;
        out.set_row(r, c,
                    r < rows ? pack_32(load_f32(line), load_f32(line + kLanes), part)
                             : _mm512_setzero_si512());
      }
      out.finish_block(c);
    }
  }
}

}  // namespace
