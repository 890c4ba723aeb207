// Strips of scores folded, or turned into weights, while they are multiplied; included by amx.cpp
// alone.
//
// Tiles and vectors are units of their own, but one waits for the other when a strip is scored
// first and folded then. Here the rows of a block are worked on at the steps of the next block's
// products, and cost little more than those products alone.
#pragma once

#include "amx_infonce.inl.h"
#include "exponential.inl.h"

namespace {

using stope::InfonceCoefficients;
using stope::InfonceKernels;
using stope::InfonceStrip;
using stope::InfonceSums;
using stope::InfonceSurvey;
using stope::InfonceTerms;

// The AVX-512 table's, set with the table.
InfonceKernels vector_infonce = {};

// The work on one group of blocks, piece by piece, at the steps of the next group.
template <typename Work>
struct WorkBeside {
  Work work;
  NextStrip next;
  int pieces, steps;      // of a group
  int left = 0, due = 0;  // at first there is no group before

  void step(std::int64_t k) {
    next.step(k);
    for (due += pieces; due >= steps && left > 0; due -= steps, --left) work.piece();
  }
  void rest() {
    for (; left > 0; --left) work.piece();
  }
  void start(int column) {
    rest();
    work.start(column);
    left = pieces;
    due = 0;
  }
};

// Columns are whole groups of Work::kWidth; the precision is bfloat16. Where depth goes in pieces,
// the columns go in spans whose sums stay near the strip, and rows are worked on at the steps of
// the last piece.
constexpr int kSpan = 4 * kBlock;

template <typename Work>
inline void score_beside(const InfonceStrip& strip, const Work& work) {
  const std::int64_t steps = padded_depth(strip.depth) / kTileDepth, group = steps * kTileBytes;
  const std::int64_t piece = depth_piece(steps, 1), last = (steps - 1) / piece * piece;
  const auto* left = static_cast<const std::int8_t*>(strip.left);
  const auto* right = static_cast<const std::int8_t*>(strip.right);
  WorkBeside<Work> beside = {work,
                             {left, 1, steps, strip.columns},
                             work.pieces(),
                             static_cast<int>(Work::kWidth / kBlock * (steps - last))};
  for (int span = 0; span < strip.columns; span += kSpan) {
    const int end = least(span + kSpan, strip.columns);
    for (std::int64_t k = 0; k < steps; k += piece) {
      const std::int64_t skipped = k * kTileBytes;
      const TileStrips a = {left + skipped, group, group, kTileBytes};
      for (int c = span; c < end; c += kBlock) {
        const TileStrips b = {right + c / kLanes * group + skipped, group, group, kTileBytes};
        float* out = strip.tile + Work::place(c);
        if (k > 0)
          load_sums(out, strip.stride);
        else
          zero_sums();
        if (k < last)
          multiply_strips<Kept::kLeft>(a, b, 1, piece, beside.next);
        else
          multiply_strips<Kept::kLeft>(a, b, 1, steps - last, beside);
        store_sums(out, strip.stride);
        if (k == last && (c + kBlock) % Work::kWidth == 0) beside.start(c + kBlock - Work::kWidth);
      }
    }
  }
  beside.rest();
}

inline void score_strip(Precision precision, const InfonceStrip& strip) {
  score_tiles(precision, strip.left, strip.right, strip.rows, strip.columns, strip.depth,
              strip.tile, strip.stride);
}
template <typename Work>
inline bool goes_beside(Precision precision, const InfonceStrip& strip) {
  return precision == stope::Precision::kBFloat16 && strip.columns % Work::kWidth == 0;
}

// Sums of a row's exponentials by lane, and its largest scores.
struct FoldLanes {
  alignas(64) float sums[kBlock][kLanes];
  alignas(64) float largest[kBlock][kLanes];
  float offsets[kBlock];
};

// A piece is a row of two blocks.
struct FoldWork {
  static constexpr int kWidth = 2 * kBlock;
  int rows;
  const float* tile;
  std::int64_t stride;
  f32x16 multiplier;
  FoldLanes* lanes;
  const float* scores = nullptr;
  int row = 0;

  static int place(int column) { return column; }
  int pieces() const { return rows; }
  void start(int column) {
    scores = tile + place(column);
    row = 0;
  }
  void piece() {
    const f32x16 offset = set_f32(lanes->offsets[row]);
    f32x16 sum = load_f32(lanes->sums[row]), largest = load_f32(lanes->largest[row]);
#pragma GCC unroll 4
    for (int c = 0; c < kWidth; c += kLanes) {
      const f32x16 s = load_f32(scores + c);
      largest = max_f32(largest, s);
      sum = add_f32(sum, exp2_rough(fma_f32(s, multiplier, offset)));
    }
    store_f32(lanes->sums[row], sum);
    store_f32(lanes->largest[row], largest);
    scores += stride;
    ++row;
  }
};

struct WeighLanes {
  float offsets[kBlock], smallest[kBlock], first[kBlock];
};
// A piece is a row of a block, or after the last one its transposition.
struct WeighWork {
  static constexpr int kWidth = kBlock;
  int rows;
  const float* tile;
  std::int64_t stride;
  f32x16 multiplier;
  const WeighLanes* lanes;
  WeightTiles out;
  const float* scores = nullptr;
  int row = 0, first_column = 0;

  // Scores are wanted no longer than until the next span's are there.
  static int place(int column) { return column % (2 * kSpan); }
  int pieces() const { return rows + 1; }
  void start(int column) {
    scores = tile + place(column);
    row = 0;
    first_column = column;
  }
  void piece() {
    if (row == rows) return out.finish_block(first_column);
    const f32x16 offset = set_f32(lanes->offsets[row]), smallest = set_f32(lanes->smallest[row]);
    const f32x16 first = set_f32(lanes->first[row]);
    const auto weigh = [&](f32x16 s) {
      return mul_f32(first, exp2_rough(fma_f32(s, multiplier, offset), smallest));
    };
    out.set_row(row, first_column,
                to_bf16(weigh(load_f32(scores)), weigh(load_f32(scores + kLanes))));
    scores += stride;
    ++row;
  }
};

// A logit may be above the reference by this much before a strip's sums start anew with another.
constexpr float kFarAbove = 40.0f;

void score_fold_tiles(Precision precision, const InfonceStrip* strip, const InfonceTerms* terms,
                      const float* positives, std::int64_t first_index, InfonceSurvey* surveys,
                      InfonceSums* sums) {
  const auto fold = [&](int r) {
    const float* scores = strip->tile + r * strip->stride;
    vector_infonce.survey(scores, strip->columns, positives[r], first_index, &surveys[r]);
    vector_infonce.fold(scores, strip->columns, surveys[r].largest, terms, &sums[r]);
  };
  bool started = goes_beside<FoldWork>(precision, *strip);
  for (int r = 0; r < strip->rows; ++r) started &= sums[r].reference > -__builtin_inff();
  if (!started) {
    score_strip(precision, *strip);
    for (int r = 0; r < strip->rows; ++r) fold(r);
    return;
  }
  FoldLanes lanes;
  for (int r = 0; r < strip->rows; ++r) {
    store_f32(lanes.sums[r], set_f32(0.0f));
    store_f32(lanes.largest[r], set_f32(-__builtin_inff()));
    lanes.offsets[r] = -sums[r].reference * kLog2E;
  }
  score_beside(*strip, FoldWork{strip->rows, strip->tile, strip->stride,
                                set_f32(terms->multiplier * kLog2E), &lanes});
  for (int r = 0; r < strip->rows; ++r) {
    const float largest = reduce_max(load_f32(lanes.largest[r]));
    if (largest * terms->multiplier > sums[r].reference + kFarAbove) {
      fold(r);
      continue;
    }
    sums[r].first += static_cast<double>(reduce_add(load_f32(lanes.sums[r])));
    if (largest > positives[r] || largest > surveys[r].best) {
      vector_infonce.survey(strip->tile + r * strip->stride, strip->columns, positives[r],
                            first_index, &surveys[r]);
    } else {
      surveys[r].kept += strip->columns;
      surveys[r].largest = largest;
    }
  }
}

void score_weigh_tiles(Precision precision, const InfonceStrip* strip, const InfonceTerms* terms,
                       const InfonceCoefficients* coefficients, int first_row, void* weights) {
  if (!goes_beside<WeighWork>(precision, *strip)) {
    score_strip(precision, *strip);
    const int padded = (strip->columns + kBlock - 1) / kBlock * kBlock;
    double total = 0, moment = 0;
    for (int r = 0; r < strip->rows; ++r)
      vector_infonce.weigh(strip->tile + r * strip->stride, strip->columns, padded, terms,
                           &coefficients[r], &total, &moment);
    return pack_weight_tiles(precision, strip->tile, strip->stride, first_row, strip->rows,
                             strip->columns, strip->depth, weights);
  }
  WeighLanes lanes;
  for (int r = 0; r < strip->rows; ++r) {
    lanes.offsets[r] = -coefficients[r].reference * kLog2E;
    lanes.smallest[r] = smallest_power(coefficients[r].first);
    lanes.first[r] = coefficients[r].first;
  }
  const WeightTiles out(weights, 1, 0, first_row, strip->columns);
  for (int r = strip->rows; r < kBlock; ++r)
    for (int c = 0; c < strip->columns; c += kBlock) out.set_row(r, c, _mm512_setzero_si512());
  score_beside(*strip, WeighWork{strip->rows, strip->tile, strip->stride,
                                 set_f32(terms->multiplier * kLog2E), &lanes, out});
}

void fill_amx_infonce(stope::InfonceKernels* infonce) {
  infonce->element_bytes.float32 = 2 * 2;
  infonce->element_bytes.bfloat16 = 2;
  // Two bytes a part, as they are and transposed.
  infonce->weight_bytes.float32 = 2 * 2 * 2;
  infonce->weight_bytes.bfloat16 = 2 * 2;
  infonce->pack_left = pack_left_tiles;
  infonce->pack_right = pack_right_tiles;
  infonce->pack_inner = pack_inner_tiles;
  infonce->score = score_tiles;
  infonce->pack_weights = pack_weight_tiles;
  infonce->accumulate = accumulate_tiles;
  infonce->order_sums = order_blocks;
  vector_infonce = *infonce;
  infonce->score_fold = score_fold_tiles;
  infonce->score_weigh = score_weigh_tiles;
}

}  // namespace
