// The loss's products on bfloat16 tiles; included by amx.cpp alone.
//
// A tile is 1 KiB in one piece: 16 rows of 32 bfloat16 (left), or 16 pairs of 16 rows (right: pairs
// along the depth; inner: pairs of neighbouring rows, as weights times rows sums over rows).
// In float32 precision an element is two bfloat16 parts, x = high + low, and a product is
//   high . high + low . high + high . low
// with an error of at most 3 * 2^-18 of |x| |y|, summed in float32. Errors of many elements cancel:
// a cosine is off by 1e-6 at depth 384. Rows below kSplitDepth take the float32 loops instead.
#pragma once

#include "accumulate.inl.h"
#include "kernel_table.h"

namespace {

constexpr std::int64_t kSplitDepth = 256;
constexpr std::int64_t kTileBytes = 1024;
constexpr int kTileDepth = 32;  // bfloat16 of a left tile's row; rows of an inner tile
constexpr int kBlock = 32;      // rows, columns of two tiles

inline bool without_tiles(LossPrecision precision, std::int64_t depth) {
  return precision == stope::kLossFloat32 && depth < kSplitDepth;
}
inline int parts_of(LossPrecision precision) { return precision == stope::kLossFloat32 ? 2 : 1; }

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

void pack_left_tiles(LossPrecision precision, const float* const* rows, const float* factors,
                     int count, std::int64_t depth, std::int64_t group, void* base) {
  if (without_tiles(precision, depth))
    return pack_rows(precision, rows, factors, count, depth, group, base);
  const int parts = parts_of(precision);
  const GroupRows given = {rows, factors, count, depth};
  std::int8_t* out = group_tiles(base, group, parts, depth);
  for (int part = 0; part < parts; ++part)
    for (std::int64_t i = 0; i < padded_depth(depth); i += kTileDepth, out += kTileBytes)
      for (int r = 0; r < kLanes; ++r) {
        _mm512_store_si512(out + r * kAmxTileBytes,
                           pack_32(given.load(r, i), given.load(r, i + kLanes), part));
      }
}

void pack_right_tiles(LossPrecision precision, const float* const* rows, const float* factors,
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
      for (int r = 0; r < kLanes; ++r) _mm512_store_si512(out + r * kAmxTileBytes, pairs[r]);
    }
}

// An inner tile holds 32 rows, two groups. Inside a chunk tiles go by 16 of the depth, then part,
// then 32 rows: what one block of products reads lies in one piece.
constexpr int kChunkTiles = stope::kLossChunk / kTileDepth;

void pack_inner_tiles(LossPrecision precision, const float* const* rows, const float* factors,
                      int count, std::int64_t depth, std::int64_t group, void* base) {
  if (without_tiles(precision, depth))
    return pack_rows(precision, rows, factors, count, depth, group, base);
  const int parts = parts_of(precision);
  const GroupRows given = {rows, factors, count, depth};
  const std::int64_t strips = padded_depth(depth) / kLanes;
  const std::int64_t chunk = group * kLanes / stope::kLossChunk, tile = group / 2 % kChunkTiles;
  std::int8_t* out = static_cast<std::int8_t*>(base) +
                     (chunk * strips * parts * kChunkTiles + tile) * kTileBytes +
                     group % 2 * (kTileBytes / 2);
  for (std::int64_t s = 0; s < strips; ++s)
    for (int part = 0; part < parts; ++part, out += kChunkTiles * kTileBytes)
      for (int p = 0; p < kLanes / 2; ++p) {
        _mm512_store_si512(
            out + p * kAmxTileBytes,
            pair_up(given.load(2 * p, s * kLanes), given.load(2 * p + 1, s * kLanes), part));
      }
}

// Weights as left tiles, [16 rows][part][32 columns]: those of the strip packed last, then all of
// the transposed tile, [16 columns][part][32 rows], of which a strip is one step.
constexpr std::int64_t kAcrossBytes = kChunkTiles * kTileBytes;  // of a part
constexpr std::int64_t kDownBytes = stope::kLossWeightRows / kTileDepth * kTileBytes;
inline std::int8_t* transposed_weights(void* tile, int parts) {
  return static_cast<std::int8_t*>(tile) + kBlock / kLanes * parts * kAcrossBytes;
}

// Of a block of 32 x 32 weights.
void transpose_block(const std::int8_t* across, std::int64_t across_group, std::int8_t* down,
                     std::int64_t down_group) {
  __m512i low[kLanes], high[kLanes];  // pairs of rows: columns 8 n to 8 n + 3, the others
  for (int r = 0; r < kBlock; r += 2) {
    const std::int8_t* line = across + r / kLanes * across_group + r % kLanes * kAmxTileBytes;
    const __m512i even = _mm512_load_si512(line);
    const __m512i odd = _mm512_load_si512(line + kAmxTileBytes);
    low[r / 2] = _mm512_unpacklo_epi16(even, odd);
    high[r / 2] = _mm512_unpackhi_epi16(even, odd);
  }
  transpose(low);
  transpose(high);
  for (int i = 0; i < kLanes; ++i) {
    const int column = i / 4 * 8 + i % 4;
    std::int8_t* out = down + column / kLanes * down_group + column % kLanes * kAmxTileBytes;
    _mm512_store_si512(out, low[i]);
    _mm512_store_si512(out + 4 * kAmxTileBytes, high[i]);
  }
}

// A strip's weights, as they come: a row of a block, and the block when its rows are in.
struct WeightTiles {
  std::int8_t* across;
  std::int8_t* down;
  std::int64_t across_group, down_group;

  WeightTiles(void* tile, int parts, int part, int first_row)
      : across(static_cast<std::int8_t*>(tile) + part * kAcrossBytes),
        down(transposed_weights(tile, parts) + part * kDownBytes +
             first_row / kTileDepth * kTileBytes),
        across_group(parts * kAcrossBytes),
        down_group(parts * kDownBytes) {}
  void set_row(int r, int column, __m512i weights) const {
    _mm512_store_si512(across + r / kLanes * across_group + column / kTileDepth * kTileBytes +
                           r % kLanes * kAmxTileBytes,
                       weights);
  }
  void finish_block(int column) const {
    transpose_block(across + column / kTileDepth * kTileBytes, across_group,
                    down + column / kLanes * down_group, down_group);
  }
};

void pack_weight_tiles(LossPrecision precision, const float* weights, std::int64_t stride,
                       int first_row, int rows, int columns, std::int64_t depth, void* tile) {
  if (without_tiles(precision, depth))
    return keep_weights(precision, weights, stride, first_row, rows, columns, depth, tile);
  const int parts = parts_of(precision);
  for (int part = 0; part < parts; ++part) {
    const WeightTiles out(tile, parts, part, first_row);
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

// Where the tiles of two neighbouring strips of an operand lie: [strip][part][step].
struct TileStrips {
  const std::int8_t* data;
  std::int64_t strip_bytes, part_bytes, step_bytes;
  const std::int8_t* at(int strip, int part, std::int64_t step) const {
    return data + strip * strip_bytes + part * part_bytes + step * step_bytes;
  }
};

// A block of sums that comes next: brought near, four rows with every step of this one's products.
struct NextSums {
  const float* data;
  std::int64_t stride;
  int rows;
  void step(std::int64_t step) const {
    constexpr int kRowsPerStep = 4;
    const auto first = static_cast<int>(step) * kRowsPerStep;
    if (first + kRowsPerStep > rows) return;
    for (int r = first; r < first + kRowsPerStep; ++r) {
      __builtin_prefetch(data + r * stride);
      __builtin_prefetch(data + r * stride + kLanes);
    }
  }
};
// The left operand's next strip: a slab of them is larger than the second-level cache.
struct NextStrip {
  const std::int8_t* data;
  void step(std::int64_t) {
    constexpr int kLinesPerStep = 4;
    for (int i = 0; i < kLinesPerStep; ++i, data += 64) __builtin_prefetch(data, 0, 2);
  }
};

// Tiles 0 to 3 += the products of two strips by two, over all steps. Loads lie between products, as
// late as they can: the unit takes them while it multiplies. b and the sums are read once before
// they are read again a strip later: their loads say so, and leave the first-level cache to a.
// What is done beside the products, at every step, hardly costs anything: it is other units' work.
template <typename Beside>
inline void multiply_strips(const TileStrips& a, const TileStrips& b, int parts, std::int64_t steps,
                            Beside& beside) {
  for (std::int64_t k = 0; k < steps; ++k) {
    const int last = parts - 1;  // of a: low, then high
    _tile_stream_loadd(6, b.at(0, 0, k), kAmxTileBytes);
    _tile_loadd(4, a.at(0, last, k), kAmxTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_stream_loadd(7, b.at(1, 0, k), kAmxTileBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a.at(1, last, k), kAmxTileBytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    beside.step(k);
    if (parts == 1) continue;
    _tile_loadd(4, a.at(0, 0, k), kAmxTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a.at(1, 0, k), kAmxTileBytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    _tile_stream_loadd(6, b.at(0, 1, k), kAmxTileBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    _tile_stream_loadd(7, b.at(1, 1, k), kAmxTileBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
inline void load_sums(const float* out, std::int64_t stride) {
  const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(float));
  _tile_stream_loadd(0, out, bytes);
  _tile_stream_loadd(1, out + kLanes, bytes);
  _tile_stream_loadd(2, out + kLanes * stride, bytes);
  _tile_stream_loadd(3, out + kLanes * stride + kLanes, bytes);
}
inline void store_sums(float* out, std::int64_t stride) {
  const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(float));
  _tile_stored(0, out, bytes);
  _tile_stored(1, out + kLanes, bytes);
  _tile_stored(2, out + kLanes * stride, bytes);
  _tile_stored(3, out + kLanes * stride + kLanes, bytes);
}
// Stores a block and loads the next: a sum of one lies between those of the other.
inline void exchange_sums(float* out, const float* next, std::int64_t stride) {
  const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t below = kLanes * stride;
  _tile_stored(0, out, bytes);
  _tile_stream_loadd(0, next, bytes);
  _tile_stored(1, out + kLanes, bytes);
  _tile_stream_loadd(1, next + kLanes, bytes);
  _tile_stored(2, out + below, bytes);
  _tile_stream_loadd(2, next + below, bytes);
  _tile_stored(3, out + below + kLanes, bytes);
  _tile_stream_loadd(3, next + below + kLanes, bytes);
}

// Depth goes in pieces whose strips of 32 rows stay in the first-level cache while the columns
// stream past them; sums wait in the output between pieces.
constexpr std::int64_t kPieceBytes = 24 << 10;

void score_tiles(LossPrecision precision, const void* left, const void* right, int rows,
                 int columns, std::int64_t depth, float* tile, std::int64_t stride) {
  if (without_tiles(precision, depth))
    return score_tile(precision, left, right, rows, columns, depth, tile, stride);
  const int parts = parts_of(precision);
  const std::int64_t steps = padded_depth(depth) / kTileDepth;
  const std::int64_t group = parts * steps * kTileBytes, part = steps * kTileBytes;
  const std::int64_t most = kPieceBytes / (2 * parts * kTileBytes);
  const std::int64_t pieces = (steps + most - 1) / most, piece = (steps + pieces - 1) / pieces;
  NextStrip next = {static_cast<const std::int8_t*>(left) +
                    (rows + kBlock - 1) / kBlock * (kBlock / kLanes) * group};
  for (std::int64_t k = 0; k < steps; k += piece)
    for (int r = 0; r < rows; r += kBlock)
      for (int c = 0; c < columns; c += kBlock) {
        const std::int64_t skipped = k * kTileBytes;
        const TileStrips a = {static_cast<const std::int8_t*>(left) + r / kLanes * group + skipped,
                              group, part, kTileBytes};
        const TileStrips b = {static_cast<const std::int8_t*>(right) + c / kLanes * group + skipped,
                              group, part, kTileBytes};
        float* out = tile + r * stride + c;
        if (k > 0)
          load_sums(out, stride);
        else
          zero_sums();
        multiply_strips(a, b, parts, steps - k < piece ? steps - k : piece, next);
        store_sums(out, stride);
      }
}

// Copies a ragged block of the output beside itself, so that tiles may load and store all of it.
class RaggedBlock {
 public:
  RaggedBlock(float* out, std::int64_t stride, int rows, int columns)
      : out_(out), stride_(stride), rows_(rows), bytes_(static_cast<std::size_t>(columns) * 4) {
    __builtin_memset(block_, 0, sizeof(block_));
    for (int r = 0; r < rows_; ++r) __builtin_memcpy(block_[r], out_ + r * stride_, bytes_);
    asm volatile("" : : : "memory");  // gcc's tile loads do not say that they read memory
  }
  void write_back() {
    for (int r = 0; r < rows_; ++r) __builtin_memcpy(out_ + r * stride_, block_[r], bytes_);
  }
  float* data() { return block_[0]; }

 private:
  alignas(64) float block_[kBlock][kBlock];
  float* out_;
  std::int64_t stride_;
  int rows_;
  std::size_t bytes_;
};

void accumulate_tiles(LossPrecision precision, const void* tile, int first_row, int rows,
                      int columns, bool transposed, const void* inner, std::int64_t depth,
                      float* out, std::int64_t out_stride) {
  if (without_tiles(precision, depth))
    return accumulate_tile(precision, tile, first_row, rows, columns, transposed, inner, depth, out,
                           out_stride);
  const int parts = parts_of(precision);
  const std::int64_t strip = parts * kAcrossBytes, chunk = padded_depth(depth) / kLanes * strip;
  const std::int64_t part = transposed ? kDownBytes : kAcrossBytes;
  const auto* packed = static_cast<const std::int8_t*>(tile);
  if (transposed) packed += kBlock / kLanes * strip;
  asm volatile("" : : : "memory");
  const int out_rows = transposed ? columns : rows, sums = transposed ? rows : columns;
  // Along the depth first: the next block down would lie a multiple of 4 KiB further for common
  // dims, and its loads would wait for the stores of this one.
  for (int r = 0; r < out_rows; r += kBlock) {
    const std::int8_t* strips = packed + r / kLanes * parts * part;
    const int rows_here = out_rows - r < kBlock ? out_rows - r : kBlock;
    const auto multiply = [&](std::int64_t d, int next_rows) {
      const auto* b = static_cast<const std::int8_t*>(inner) + d / kLanes * strip;
      NextSums next = {out + r * out_stride + d + kBlock, out_stride, next_rows};
      for (int first = 0; first < sums; first += stope::kLossChunk, b += chunk) {
        const int count = sums - first < stope::kLossChunk ? sums - first : stope::kLossChunk;
        multiply_strips({strips + first / kTileDepth * kTileBytes, parts * part, part, kTileBytes},
                        {b, strip, kAcrossBytes, kTileBytes}, parts,
                        (count + kTileDepth - 1) / kTileDepth, next);
        next.rows = 0;
      }
    };
    float* row = out + r * out_stride;
    const std::int64_t whole = rows_here == kBlock ? depth / kBlock * kBlock : 0;
    if (whole > 0) load_sums(row, out_stride);
    for (std::int64_t d = 0; d < whole; d += kBlock) {
      const bool last = d + kBlock == whole;
      multiply(d, last ? 0 : kBlock);
      if (last)
        store_sums(row + d, out_stride);
      else
        exchange_sums(row + d, row + d + kBlock, out_stride);
    }
    for (std::int64_t d = whole; d < depth; d += kBlock) {
      const auto depth_here = static_cast<int>(depth - d < kBlock ? depth - d : kBlock);
      RaggedBlock ragged(row + d, out_stride, rows_here, depth_here);
      load_sums(ragged.data(), kBlock);
      multiply(d, 0);
      store_sums(ragged.data(), kBlock);
      ragged.write_back();
    }
  }
}

}  // namespace
