// AVX-512 with products of bfloat16 pairs (Cooper Lake, Zen 4 onwards).
//
//   instruction           | per cycle (Zen 4) | what it does
//   vdpbf16ps zmm         | 1                 | 16 float32 += 2 products each; denormals are zeros
//   vfmadd231ps zmm       | 1                 | 16 float32 += 1 product each
// For scans and the loss in bfloat16: a float32 in two parts would take three of the first for one
// of the second. Panels and tiles are as it reads them: pairs of one row are broadcast, those of
// sixteen rows lie side by side. Eight rows by two vectors take ten loads for sixteen products.
#include <cstddef>
#include <cstdint>

#include "kernel_table.h"
#include "simd/avx512.h"

#include "score.inl.h"

namespace {
constexpr std::int64_t kSplitDepth = INT64_MAX;  // float32 rows never go as two parts
}

#include "bf16_pack.inl.h"

namespace {

using stope::InfonceCoefficients;
using stope::InfonceKernels;
using stope::InfonceProduct;
using stope::InfonceStrip;
using stope::InfonceSums;
using stope::InfonceSurvey;
using stope::InfonceTerms;

inline f32x16 dot2_bf16(f32x16 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

struct Bfloat16Pairs : Bfloat16 {
  static constexpr int kRows = 6, kPanels = 4, kFewRows = kRows;
  using Corpus = __m512i;
  using Query = __m512i;
  static void load(const std::int8_t* p, Corpus* x) { x[0] = load_s8(p); }
  static Query broadcast(const std::int8_t* p) { return broadcast_q8(p); }
  static Sum multiply_add(Sum sum, Query q, Corpus x) { return dot2_bf16(sum, q, x); }
};

// Sums of kRows rows and up to 32 columns; beyond the mask nothing is read or written.
constexpr int kRows = 8;
constexpr int kPairs = kTileLine / 4;
struct Sums {
  float* out;
  std::int64_t stride;
  int rows;
  std::uint32_t columns;  // a bit each
};
inline Sums sums_at(float* out, std::int64_t stride, std::int64_t rows, std::int64_t columns) {
  return {out, stride, rows < kRows ? static_cast<int>(rows) : kRows,
          columns < kBlock ? (1u << columns) - 1 : ~0u};
}

// sums = or += rows of a strip of `a` times two strips of b, over tiles of 16 pairs.
inline void multiply_pairs(const std::int8_t* a, std::int64_t a_step, const TileStrips& b,
                           std::int64_t steps, const Sums& sums, bool add) {
  const auto left = static_cast<__mmask16>(sums.columns),
             right = static_cast<__mmask16>(sums.columns >> kLanes);
  f32x16 sum[kRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const bool there = add && r < sums.rows;
    const float* p = sums.out + r * sums.stride;
    sum[r][0] = there ? _mm512_maskz_loadu_ps(left, p) : set_f32(0.0f);
    sum[r][1] = there ? _mm512_maskz_loadu_ps(right, p + kLanes) : set_f32(0.0f);
  }
  for (std::int64_t k = 0; k < steps; ++k) {
    const std::int8_t* x = a + k * a_step;
    const std::int8_t* y = b.at(0, 0, k);
    for (int pair = 0; pair < kPairs; ++pair, x += 4, y += kTileLine) {
      const __m512i first = load_s8(y), second = load_s8(y + b.strip_bytes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m512i both = broadcast_q8(x + r * kTileLine);
        sum[r][0] = dot2_bf16(sum[r][0], both, first);
        sum[r][1] = dot2_bf16(sum[r][1], both, second);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    if (r >= sums.rows) break;
    float* p = sums.out + r * sums.stride;
    _mm512_mask_storeu_ps(p, left, sum[r][0]);
    _mm512_mask_storeu_ps(p + kLanes, right, sum[r][1]);
  }
}

// Where row r of an operand begins, in the tile of its strip.
inline const std::int8_t* row_of(const TileStrips& strips, std::int64_t r, std::int64_t step) {
  return strips.at(static_cast<int>(r / kLanes), 0, step) + r % kLanes * kTileLine;
}

void score_pairs(Precision precision, const void* left, const void* right, int rows, int columns,
                 std::int64_t depth, float* tile, std::int64_t stride) {
  if (without_tiles(precision, depth))
    return score_tile(precision, left, right, rows, columns, depth, tile, stride);
  const std::int64_t steps = padded_depth(depth) / kTileDepth, group = steps * kTileBytes;
  const TileStrips a = {static_cast<const std::int8_t*>(left), group, 0, kTileBytes};
  for (int c = 0; c < columns; c += kBlock) {
    const TileStrips b = {static_cast<const std::int8_t*>(right) + c / kLanes * group, group, 0,
                          kTileBytes};
    for (int r = 0; r < rows; r += kRows)
      multiply_pairs(row_of(a, r, 0), kTileBytes, b, steps,
                     sums_at(tile + r * stride + c, stride, kRows, kBlock), false);
  }
}

// For every 32 of the depth and chunk of rows of the inner operand, which the first-level cache
// keeps, all rows of the sums pass by.
void accumulate_pairs(Precision precision, const InfonceProduct* product) {
  const std::int64_t depth = product->depth;
  if (without_tiles(precision, depth)) return accumulate_tile(precision, product);
  const bool transposed = product->transposed;
  const int rows = transposed ? product->columns : product->rows;
  const int inner_rows = transposed ? product->rows : product->columns;
  const TileStrips weights = weight_tiles(*product, 1);
  const InnerTiles inner = {static_cast<const std::int8_t*>(product->inner), 1, depth};
  for (std::int64_t d = 0; d < depth; d += kBlock)
    for (int first = 0; first < inner_rows; first += stope::kInfonceChunk) {
      const TileStrips b = inner.at(d, first);
      const int count = least(stope::kInfonceChunk, inner_rows - first);
      const std::int64_t steps = (count + kTileDepth - 1) / kTileDepth;
      for (int r = 0; r < rows; r += kRows)
        multiply_pairs(row_of(weights, r, first / kTileDepth), kTileBytes, b, steps,
                       sums_at(product->out + r * depth + d, depth, rows - r, depth - d),
                       product->add || first > 0);
    }
}

// The AVX-512 table's, for what is done to scores.
InfonceKernels float_infonce = {};

void score_fold_pairs(Precision precision, const InfonceStrip* strip, const InfonceTerms* terms,
                      const float* positives, std::int64_t first_index, InfonceSurvey* surveys,
                      InfonceSums* sums) {
  score_pairs(precision, strip->left, strip->right, strip->rows, strip->columns, strip->depth,
              strip->tile, strip->stride);
  for (int r = 0; r < strip->rows; ++r) {
    const float* scores = strip->tile + r * strip->stride;
    float_infonce.survey(scores, strip->columns, positives[r], first_index, &surveys[r]);
    float_infonce.fold(scores, strip->columns, surveys[r].largest, terms, &sums[r]);
  }
}

void score_weigh_pairs(Precision precision, const InfonceStrip* strip, const InfonceTerms* terms,
                       const InfonceCoefficients* coefficients, int first_row, void* weights) {
  score_pairs(precision, strip->left, strip->right, strip->rows, strip->columns, strip->depth,
              strip->tile, strip->stride);
  const int padded = (strip->columns + kBlock - 1) / kBlock * kBlock;
  double total = 0, moment = 0;
  for (int r = 0; r < strip->rows; ++r)
    float_infonce.weigh(strip->tile + r * strip->stride, strip->columns, padded, terms,
                        &coefficients[r], &total, &moment);
  pack_weight_tiles(precision, strip->tile, strip->stride, first_row, strip->rows, strip->columns,
                    strip->depth, weights);
}

}  // namespace

namespace stope {

// On top of the AVX-512 table: what pairs do better, the rest as it is.
void fill_avx512_bf16(KernelTable* table) {
  table->name = "avx512_bf16";
  ScanKernels& scan = table->bfloat16;
  scan.tile_rows = Bfloat16Pairs::kRows;
  scan.few_rows = Bfloat16Pairs::kRows;
  scan.tile_panels = Bfloat16Pairs::kPanels;
  scan.score_panels = score_panels<Bfloat16Pairs>;
  scan.peak = peak<Bfloat16Pairs>;
  InfonceKernels& infonce = table->infonce;
  float_infonce = infonce;
  infonce.element_bytes.bfloat16 = 2;
  infonce.weight_bytes.bfloat16 = 2 * 2;  // as they are and transposed
  infonce.pack_left = pack_left_tiles;
  infonce.pack_right = pack_right_tiles;
  infonce.pack_inner = pack_inner_tiles;
  infonce.score = score_pairs;
  infonce.pack_weights = pack_weight_tiles;
  infonce.accumulate = accumulate_pairs;
  infonce.score_fold = score_fold_pairs;
  infonce.score_weigh = score_weigh_pairs;
}

}  // namespace stope
