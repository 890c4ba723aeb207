// One row of a tile of scores: masked, surveyed, folded into a log-sum-exp, turned into weights.
//
//   fold:   reference = max(logit), first = sum e^(logit - reference), ...
//   weigh:  S -> dL/dS / multiplier
// Logits are taken relative to the reference in one fused multiply-add, so their error is that of
// the difference, not that of the logit. Sums run over 16 lanes inside a tile and in double across
// tiles.
#pragma once

#include "accumulate.inl.h"
#include "exponential.inl.h"
#include "kernel_table.h"

namespace {

using stope::InfonceCoefficients;
using stope::InfonceKind;
using stope::InfonceMask;
using stope::InfonceSums;
using stope::InfonceSurvey;
using stope::InfonceTerms;
using stope::kLanes;

constexpr float kMasked = -__builtin_inff();
constexpr float kSmallestFinite = -3.4028234663852886e38f;

constexpr float kLaneNumbers[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

template <InfonceKind kKind>
struct Constant {
  static constexpr InfonceKind kValue = kKind;
};

// Whether logits are scores times the multiplier, and their exponentials may be rough.
template <InfonceKind kKind, bool kFocal>
inline bool is_plain(const InfonceTerms& terms) {
  return kKind == stope::kInfonceSoftmax && !kFocal && terms.rough && terms.log_weights == nullptr;
}

// log(1 + e) for 0 <= e <= 1: 2 atanh(t) with t = e / (2 + e) <= 1/3.
inline f32x16 log1p_f32(f32x16 e) {
  const f32x16 t = div_f32(e, add_f32(e, set_f32(2.0f)));
  const f32x16 t2 = mul_f32(t, t);
  f32x16 p = set_f32(2.0f / 15.0f);
  for (int odd = 13; odd > 0; odd -= 2) p = fma_f32(p, t2, set_f32(2.0f / static_cast<float>(odd)));
  return mul_f32(p, t);
}

// Entries beyond the count count as masked.
inline f32x16 load_scores(const float* p, int count) {
  if (count >= kLanes) return load_f32(p);
  if (count <= 0) return set_f32(kMasked);
  const f32x16 partial = load_partial_f32(p, count);
  const f32x16 lane = load_f32(kLaneNumbers);
  return where_le(set_f32(static_cast<float>(count)), lane, set_f32(kMasked), partial);
}
inline f32x16 load_weights(const float* p, int count) {
  if (p == nullptr) return set_f32(0.0f);
  return count >= kLanes ? load_f32(p) : load_partial_f32(p, count);
}
inline void store_scores(float* p, f32x16 x, int count) {
  if (count >= kLanes) return store_f32(p, x);
  float lanes[kLanes];
  store_f32(lanes, x);
  __builtin_memcpy(p, lanes, static_cast<std::size_t>(count) * sizeof(float));
}

void mask_scores(float* scores, int count, const InfonceMask* mask) {
  const f32x16 upper = set_f32(mask->upper), lower = set_f32(mask->lower);
  const f32x16 dropped = set_f32(kMasked);
  for (int c = 0; c < count; c += kLanes) {
    const int rest = count - c;
    f32x16 s = load_scores(scores + c, rest);
    const f32x16 v = load_scores(mask->values + c, rest);
    s = where_le(v, upper, s, dropped);
    s = where_le(lower, v, s, dropped);
    if (mask->groups != nullptr) {
      std::int32_t tail[kLanes] = {};
      const std::int32_t* groups = mask->groups + c;
      if (rest < kLanes) {
        __builtin_memcpy(tail, groups, static_cast<std::size_t>(rest) * sizeof(std::int32_t));
        groups = tail;
      }
      const i32x16 group = load_i32(groups);
      for (int g = 0; g < mask->row_group_count; ++g)
        s = where_equal(group, mask->row_groups[g], dropped, s);
    }
    store_scores(scores + c, s, rest);
  }
}

void survey_scores(const float* scores, int count, float positive, std::int64_t first_index,
                   InfonceSurvey* survey) {
  const f32x16 limit = set_f32(positive), lowest = set_f32(kMasked);
  f32x16 best = lowest, other = lowest;  // two, so that one need not wait for the other
  std::int64_t kept = 0, above = 0;
  const auto count_in = [&](f32x16 s) {
    kept += __builtin_popcount(mask_gt(s, lowest));
    above += __builtin_popcount(mask_gt(s, limit));
    return s;
  };
  int c = 0;
  for (; c + 2 * kLanes <= count; c += 2 * kLanes) {
    best = max_f32(best, count_in(load_f32(scores + c)));
    other = max_f32(other, count_in(load_f32(scores + c + kLanes)));
  }
  for (; c < count; c += kLanes) best = max_f32(best, count_in(load_scores(scores + c, count - c)));
  best = max_f32(best, other);
  survey->kept += kept;
  survey->above += above;
  const float found = reduce_max(best);
  survey->largest = found;
  if (!(found > survey->best)) return;
  survey->best = found;
  for (int i = 0; i < count; ++i)
    if (scores[i] == found) {
      survey->best_index = first_index + i;
      return;
    }
}

// The logit less `less`.
template <bool kFocal>
inline f32x16 logit(f32x16 s, const InfonceTerms& terms, f32x16 log_weight, f32x16 less) {
  const f32x16 multiplier = set_f32(terms.multiplier);
  const f32x16 offset = sub_f32(log_weight, less);
  if constexpr (kFocal) {
    const f32x16 shifted = mul_f32(s, add_f32(s, set_f32(terms.focal_margin)));
    return where_le(s, set_f32(kSmallestFinite), set_f32(kMasked),
                    fma_f32(shifted, multiplier, offset));
  }
  return fma_f32(s, multiplier, offset);
}

template <InfonceKind kKind, bool kFocal>
void fold_row(const float* scores, int count, float largest, const InfonceTerms& terms,
              InfonceSums* sums) {
  const float* weights = terms.log_weights;
  f32x16 first = set_f32(0.0f), second = set_f32(0.0f);
  const auto each = [&](f32x16 less, auto take) {
    int c = 0;
    if (weights == nullptr)
      for (; c + kLanes <= count; c += kLanes)
        take(logit<kFocal>(load_f32(scores + c), terms, set_f32(0.0f), less));
    for (; c < count; c += kLanes)
      take(logit<kFocal>(load_scores(scores + c, count - c), terms,
                         load_weights(weights == nullptr ? nullptr : weights + c, count - c),
                         less));
  };
  if constexpr (kKind == stope::kInfonceSigmoid) {
    each(set_f32(-terms.shift), [&](f32x16 x) {
      const f32x16 e = exp_f32(sub_f32(set_f32(0.0f), abs_f32(x)));
      const f32x16 plus = max_f32(x, set_f32(0.0f));
      const f32x16 share =
          div_f32(where_le(set_f32(0.0f), x, set_f32(1.0f), e), add_f32(set_f32(1.0f), e));
      first = add_f32(first, add_f32(plus, log1p_f32(e)));
      second = add_f32(second, share);
    });
    sums->first += static_cast<double>(reduce_add(first));
    sums->second += static_cast<double>(reduce_add(second));
    return;
  }
  float reference = largest * terms.multiplier;  // logits rise with scores, but for what is added
  if (kFocal || weights != nullptr || largest != largest) {
    f32x16 top = set_f32(kMasked);
    each(set_f32(0.0f), [&](f32x16 x) { top = max_f32(top, x); });
    reference = reduce_max(top);
  }
  if (reference == kMasked) return;
  const float beta = terms.beta;
  if (reference > sums->reference) {
    // Earlier sums move to the new reference; there are none at the first.
    if (sums->reference != kMasked) {
      const double gap = static_cast<double>(sums->reference) - static_cast<double>(reference);
      constexpr bool kTwo = kKind == stope::kInfonceHardness;
      sums->first *= __builtin_exp(kTwo ? (1.0 + static_cast<double>(beta)) * gap : gap);
      if (kTwo) sums->second *= __builtin_exp(static_cast<double>(beta) * gap);
    }
    sums->reference = reference;
  }
  if (is_plain<kKind, kFocal>(terms)) {
    const f32x16 multiplier = set_f32(terms.multiplier * kLog2E);
    const f32x16 offset = set_f32(-sums->reference * kLog2E);
    const auto power = [&](f32x16 x) { return exp2_rough(fma_f32(x, multiplier, offset)); };
    int c = 0;
    for (; c + 2 * kLanes <= count; c += 2 * kLanes) {
      first = add_f32(first, power(load_f32(scores + c)));
      second = add_f32(second, power(load_f32(scores + c + kLanes)));
    }
    for (; c < count; c += kLanes)
      first = add_f32(first, power(load_scores(scores + c, count - c)));
    first = add_f32(first, second);
    sums->first += static_cast<double>(reduce_add(first));
    return;
  }
  each(set_f32(sums->reference), [&](f32x16 x) {
    if constexpr (kKind == stope::kInfonceHardness) {
      first = add_f32(first, exp_f32(mul_f32(x, set_f32(1.0f + beta))));
      second = add_f32(second, where_le(x, set_f32(kSmallestFinite), set_f32(0.0f),
                                        exp_f32(mul_f32(x, set_f32(beta)))));
    } else {
      first = add_f32(first, exp_f32(x));
    }
  });
  sums->first += static_cast<double>(reduce_add(first));
  if constexpr (kKind == stope::kInfonceHardness)
    sums->second += static_cast<double>(reduce_add(second));
}

void fold_scores(const float* scores, int count, float largest, const InfonceTerms* terms,
                 InfonceSums* sums) {
  const auto fold = [&](auto kind) {
    constexpr InfonceKind kKind = decltype(kind)::kValue;
    terms->focal ? fold_row<kKind, true>(scores, count, largest, *terms, sums)
                 : fold_row<kKind, false>(scores, count, largest, *terms, sums);
  };
  switch (terms->kind) {
    case stope::kInfonceSoftmax: return fold(Constant<stope::kInfonceSoftmax>());
    case stope::kInfonceHardness: return fold(Constant<stope::kInfonceHardness>());
    case stope::kInfonceSigmoid: return fold(Constant<stope::kInfonceSigmoid>());
  }
}

float sift_scores(const float* scores, int count, const stope::InfonceSieveTerms* sieve,
                  std::uint64_t* passed) {
  const f32x16 multiplier = set_f32(sieve->multiplier * kLog2E);
  const f32x16 unit = set_f32(kLog2E), zero = set_f32(0.0f), smallest = set_f32(kSmallestPower);
  const f32x16 offset = set_f32(-sieve->reference * kLog2E);
  const f32x16 slope = set_f32(sieve->multiplier), least = set_f32(sieve->least);
  f32x16 sum = zero;
  for (int c = 0; c < count; c += kLanes) {
    const f32x16 s = load_scores(scores + c, count - c);
    f32x16 power = offset, logit = zero;
    if (sieve->log_weights != nullptr) {
      logit = load_weights(sieve->log_weights + c, count - c);
      power = fma_f32(logit, unit, offset);
    }
    logit = fma_f32(s, slope, logit);
    power = fma_f32(s, multiplier, power);
    const f32x16 term = where_le(power, smallest, zero, exp2_rough(power));
    sum = add_f32(sum, where_le(least, logit, zero, term));
    if (c % 64 == 0) passed[c / 64] = 0;
    passed[c / 64] |= static_cast<std::uint64_t>(mask_ge(logit, least)) << (c % 64);
  }
  return reduce_add(sum);
}

template <InfonceKind kKind, bool kFocal>
void weigh_row(float* scores, int count, int padded, const InfonceTerms& terms,
               const InfonceCoefficients& coefficients, double* total, double* moment) {
  const float* weights = terms.log_weights;
  const f32x16 zero = set_f32(0.0f), one = set_f32(1.0f);
  const f32x16 first = set_f32(coefficients.first), second = set_f32(coefficients.second);
  const f32x16 less =
      set_f32(kKind == stope::kInfonceSigmoid ? -terms.shift : coefficients.reference);
  const f32x16 least = mul_f32(abs_f32(first), set_f32(kSmallestWeight));
  f32x16 sum = zero, moments = zero;
  const auto weigh = [&](int c, f32x16 s, f32x16 log_weight) {
    const f32x16 x = logit<kFocal>(s, terms, log_weight, less);
    f32x16 weight;
    if constexpr (kKind == stope::kInfonceSigmoid) {
      const f32x16 e = exp_f32(sub_f32(zero, abs_f32(x)));
      weight = mul_f32(first, div_f32(where_le(zero, x, one, e), add_f32(one, e)));
    } else if constexpr (kKind == stope::kInfonceHardness) {
      const f32x16 tail = mul_f32(second, exp_f32(mul_f32(x, set_f32(terms.beta))));
      weight = fma_f32(first, exp_f32(mul_f32(x, set_f32(1.0f + terms.beta))), tail);
    } else {
      weight = mul_f32(first, exp_f32(x));
    }
    weight = where_le(abs_f32(weight), least, zero, weight);
    if constexpr (kKind != stope::kInfonceSoftmax || kFocal)
      weight = where_le(s, set_f32(kSmallestFinite), zero, weight);
    if constexpr (kKind == stope::kInfonceSigmoid) sum = add_f32(sum, weight);
    if constexpr (kFocal) {
      const f32x16 bounded = where_le(s, set_f32(kSmallestFinite), zero, s);
      const f32x16 margin = set_f32(terms.focal_margin);
      moments = fma_f32(weight, mul_f32(bounded, add_f32(bounded, margin)), moments);
      weight = mul_f32(weight, fma_f32(bounded, set_f32(2.0f), margin));
    }
    store_f32(scores + c, weight);
  };
  int at = 0;
  if (is_plain<kKind, kFocal>(terms)) {
    const f32x16 multiplier = set_f32(terms.multiplier * kLog2E);
    const f32x16 offset = set_f32(-coefficients.reference * kLog2E);
    const f32x16 smallest = set_f32(smallest_power(coefficients.first));
    for (; at + kLanes <= count; at += kLanes) {
      const f32x16 x = fma_f32(load_f32(scores + at), multiplier, offset);
      const f32x16 weight = mul_f32(first, exp2_rough(x, smallest));
      store_f32(scores + at, where_le(x, smallest, zero, weight));
    }
  } else if (weights == nullptr)
    for (; at + kLanes <= count; at += kLanes) weigh(at, load_f32(scores + at), zero);
  for (; at < padded; at += kLanes) {
    const bool none = weights == nullptr || at >= count;
    weigh(at, load_scores(scores + at, count - at),
          load_weights(none ? nullptr : weights + at, count - at));
  }
  if constexpr (kKind == stope::kInfonceSigmoid) *total += static_cast<double>(reduce_add(sum));
  if constexpr (kFocal) *moment += static_cast<double>(reduce_add(moments));
}

void weigh_scores(float* scores, int count, int padded, const InfonceTerms* terms,
                  const InfonceCoefficients* coefficients, double* total, double* moment) {
  const auto weigh = [&](auto kind) {
    constexpr InfonceKind kKind = decltype(kind)::kValue;
    terms->focal
        ? weigh_row<kKind, true>(scores, count, padded, *terms, *coefficients, total, moment)
        : weigh_row<kKind, false>(scores, count, padded, *terms, *coefficients, total, moment);
  };
  switch (terms->kind) {
    case stope::kInfonceSoftmax: return weigh(Constant<stope::kInfonceSoftmax>());
    case stope::kInfonceHardness: return weigh(Constant<stope::kInfonceHardness>());
    case stope::kInfonceSigmoid: return weigh(Constant<stope::kInfonceSigmoid>());
  }
}

void score_fold(stope::Precision precision, const stope::InfonceStrip* strip,
                const InfonceTerms* terms, const float* positives, std::int64_t first_index,
                InfonceSurvey* surveys, InfonceSums* sums) {
  score_tile(precision, strip->left, strip->right, strip->rows, strip->columns, strip->depth,
             strip->tile, strip->stride);
  for (int r = 0; r < strip->rows; ++r) {
    const float* scores = strip->tile + r * strip->stride;
    survey_scores(scores, strip->columns, positives[r], first_index, &surveys[r]);
    fold_scores(scores, strip->columns, surveys[r].largest, terms, &sums[r]);
  }
}

void score_weigh(stope::Precision precision, const stope::InfonceStrip* strip,
                 const InfonceTerms* terms, const InfonceCoefficients* coefficients, int first_row,
                 void* weights) {
  score_tile(precision, strip->left, strip->right, strip->rows, strip->columns, strip->depth,
             strip->tile, strip->stride);
  const int padded = (strip->columns + stope::kInfoncePadding - 1) / stope::kInfoncePadding *
                     stope::kInfoncePadding;
  double total = 0, moment = 0;
  for (int r = 0; r < strip->rows; ++r)
    weigh_scores(strip->tile + r * strip->stride, strip->columns, padded, terms, &coefficients[r],
                 &total, &moment);
  keep_weights(precision, strip->tile, strip->stride, first_row, strip->rows, strip->columns,
               strip->depth, weights);
}

}  // namespace
