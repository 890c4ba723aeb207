// One row of scores, by a warp: masked, surveyed, folded into the row's sums, turned into weights.
//
//   fold:   reference = max(logit), first = sum e^(logit - reference), ...
//   weigh:  S -> dL/dS / multiplier
// Logits are taken relative to the reference in one fused multiply-add, so their error is that of
// the difference, not that of the logit. A lane sums columns l, l + 32, ... in double, then the
// lanes are added by a tree. Both kernels mask by the same function from the same scores.
#pragma once

#include "infonce_scores.cuh"
#include "infonce_types.h"
#include "math.cuh"
#include "transcendental.cuh"

namespace stope::cuda {

// What both kernels look at; the problem's lists and vectors lie on the device.
struct InfonceRowsView {
  InfonceProblem problem;
  InfoncePass pass;
  InfoncePart part;
  float* scores;              // [part.rows][part.columns]
  const float* guide_scores;  // likewise, where guided
  const RowLimits* limits;
  const std::int32_t* row_groups;  // of every positive
  const float* positive_scores;
};

STOPE_DEVICE float masked_score() { return -float_of(0x7f800000u); }
STOPE_DEVICE float no_limit() { return float_of(0x7f800000u); }
STOPE_DEVICE float not_a_number() { return float_of(0x7fc00000u); }

// Whether a row of any matrix, or a row gradient, may not be used; then no result means anything.
STOPE_DEVICE bool any_fault(const RowFaults* faults) {
  for (int m = 0; m <= kGradientFaults; ++m)
    if (faults[m].not_finite != kNoRow || faults[m].too_long != kNoRow) return true;
  return false;
}

template <typename T>
STOPE_DEVICE T sum_of_warp(T value) {
  for (unsigned mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
STOPE_DEVICE float largest_of_warp(float value) {
  for (unsigned mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// body(column of the part) for the ids of list i that lie in the part, each by one lane.
template <typename Body>
STOPE_DEVICE void each_listed(const IdLists& lists, std::int64_t i, const InfoncePart& part,
                              Body body) {
  if (lists.offsets == nullptr) return;
  for (std::int64_t e = lists.offsets[i] + lane(); e < lists.offsets[i + 1]; e += kWarp) {
    const std::int64_t column = lists.ids[e] - part.first_column;
    if (column >= 0 && column < part.columns) body(column);
  }
}

// Ids ascend.
STOPE_DEVICE bool is_listed(const IdLists& lists, std::int64_t i, std::int64_t id) {
  std::int64_t low = lists.offsets[i], high = lists.offsets[i + 1];
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (lists.ids[middle] == id) return true;
    if (lists.ids[middle] < id)
      low = middle + 1;
    else
      high = middle;
  }
  return false;
}

// Whether a rule that looks at column j alone drops it; `judged` is the score that limits are for.
STOPE_DEVICE bool is_dropped(const InfonceRowsView& v, const RowLimits& limits, std::int64_t i,
                             std::int64_t j, float judged) {
  const InfoncePass& pass = v.pass;
  if (pass.kind == InfoncePassKind::kDocumentToQuery && i == j) return false;
  if (pass.kind == InfoncePassKind::kQueryToQuery && i == j) return true;
  if (pass.hidden != nullptr && pass.hidden[j] != 0 &&
      !(pass.kind == InfoncePassKind::kQueryToDocument &&
        is_listed(v.problem.hard_negatives, i, j)))
    return true;
  if (judged > limits.upper || judged < limits.lower) return true;
  if (pass.groups == nullptr) return false;
  const std::int64_t end = v.problem.positives.offsets[i + 1];
  for (std::int64_t e = v.problem.positives.offsets[i]; e < end; ++e)
    if (v.row_groups[e] == pass.groups[j]) return true;
  return false;
}

STOPE_DEVICE void mask_row(const InfonceRowsView& v, std::int64_t r) {
  const std::int64_t i = v.part.first_row + r;
  float* scores = v.scores + r * v.part.columns;
  const float* judged = v.pass.guided ? v.guide_scores + r * v.part.columns : scores;
  const RowLimits limits =
      v.pass.limited ? v.limits[i] : RowLimits{no_limit(), -no_limit(), no_limit()};
  for (std::int64_t c = lane(); c < v.part.columns; c += kWarp)
    if (is_dropped(v, limits, i, v.part.first_column + c, judged[c])) scores[c] = masked_score();
  warp_barrier();
  const bool all = v.pass.kind == InfoncePassKind::kDocumentToDocument;
  if (all || v.pass.kind == InfoncePassKind::kQueryToDocument) {
    const auto drop = [&](std::int64_t c) { scores[c] = masked_score(); };
    each_listed(v.problem.positives, i, v.part, drop);
    each_listed(v.problem.exclude, i, v.part, drop);
    if (all) each_listed(v.problem.hard_negatives, i, v.part, drop);
  }
  warp_barrier();
}

struct InfonceTerms {
  TermsKind kind;
  bool focal;
  float multiplier, focal_margin, beta, shift;
  const float* log_weights;  // of the part's columns, or nullptr

  // The logit less `less`, of a score that is not masked.
  STOPE_DEVICE float logit(float score, std::int64_t column, float less) const {
    const float offset = log_weights == nullptr ? -less : sub_rn(log_weights[column], less);
    const float s = focal ? mul_rn(score, add_rn(score, focal_margin)) : score;
    return fma_rn(s, multiplier, offset);
  }
};
STOPE_DEVICE double shift_of(const InfonceRowsView& v, std::int64_t i) {
  return logit_shift(v.problem, positives_of(v.problem, v.positive_scores, i));
}
STOPE_DEVICE InfonceTerms terms_of(const InfonceRowsView& v, std::int64_t i) {
  const InfonceProblem& p = v.problem;
  return {terms_kind(p),
          p.focal,
          to_float_rn(multiplier_of(p, v.pass.kind)),
          to_float_rn(p.focal_margin),
          to_float_rn(p.beta),
          to_float_rn(shift_of(v, i)),
          v.pass.log_weights == nullptr ? nullptr : v.pass.log_weights + v.part.first_column};
}

// The query's own hard negatives get the score whose logit is theirs.
STOPE_DEVICE void set_own_logits(const InfonceRowsView& v, std::int64_t r) {
  if (v.pass.kind != InfoncePassKind::kQueryToDocument || !has_own_logits(v.problem)) return;
  float* scores = v.scores + r * v.part.columns;
  each_listed(v.problem.hard_negatives, v.part.first_row + r, v.part, [&](std::int64_t c) {
    if (scores[c] != masked_score()) scores[c] = own_score(v.problem, scores[c]);
  });
  warp_barrier();
}

// body(column, score, logit) for what is left of row r, in double: where is_wide says so. Own hard
// negatives have the score whose logit is theirs.
template <typename Body>
STOPE_DEVICE void each_wide(const InfonceRowsView& v, std::int64_t r, const WideTerms& terms,
                            Body body) {
  const float* scores = v.scores + r * v.part.columns;
  const float* log_weights =
      v.pass.log_weights == nullptr ? nullptr : v.pass.log_weights + v.part.first_column;
  for (std::int64_t c = lane(); c < v.part.columns; c += kWarp)
    if (scores[c] != masked_score())
      body(c, double{scores[c]},
           terms.logit(scores[c], log_weights == nullptr ? 0.0f : log_weights[c]));
}
STOPE_DEVICE WideTerms wide_terms_of(const InfonceRowsView& v, std::int64_t i) {
  return wide_terms(v.problem, multiplier_of(v.problem, v.pass.kind), shift_of(v, i));
}
// A row whose positive is taken from every logit.
STOPE_DEVICE bool is_wide_shift(const InfonceRowsView& v, std::int64_t i) {
  return v.problem.objective == Objective::kPairwise && is_wide(v.problem, shift_of(v, i));
}
STOPE_DEVICE double largest_of_warp(double value) {
  for (unsigned mask = kWarp / 2; mask > 0; mask /= 2) {
    const double other = shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// sigmoid(x) and softplus(x) from e = e^-|x|.
STOPE_DEVICE float sigmoid_of(float x, float e) {
  return div_rn(x >= 0.0f ? 1.0f : e, add_rn(1.0f, e));
}
STOPE_DEVICE float softplus_of(float x, float e) {
  return add_rn(x > 0.0f ? x : 0.0f, log1p_of(e));
}

struct FoldArguments {
  InfonceRowsView view;
  InfonceForward out;
};

STOPE_DEVICE void survey_row(const FoldArguments& a, std::int64_t r) {
  const InfonceRowsView& v = a.view;
  const std::int64_t i = v.part.first_row + r;
  const float* scores = v.scores + r * v.part.columns;
  const float positive = v.limits[i].positive;
  std::int64_t kept = 0, above = 0, best_column = v.part.columns;
  float best = masked_score();
  for (std::int64_t c = lane(); c < v.part.columns; c += kWarp) {
    const float s = scores[c];
    kept += s > masked_score() ? 1 : 0;
    above += s > positive ? 1 : 0;
    if (s > best) {
      best = s;
      best_column = c;
    }
  }
  kept = sum_of_warp(kept);
  above = sum_of_warp(above);
  for (unsigned mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(best, mask);
    const std::int64_t column = shuffle_xor(best_column, mask);
    if (other > best || (other == best && column < best_column)) {
      best = other;
      best_column = column;
    }
  }
  if (lane() != 0) return;
  a.out.negatives[i] += kept;
  if (v.pass.first_id < 0) return;
  a.out.ranks[i] += above;
  // Columns come in ascending order: an equal score found later has a larger id.
  if (best > a.out.best_negative_scores[i]) {
    a.out.best_negative_scores[i] = best;
    a.out.best_negatives[i] = v.pass.first_id + v.part.first_column + best_column;
  }
}

STOPE_DEVICE void fold_wide(const FoldArguments& a, std::int64_t r) {
  const InfonceRowsView& v = a.view;
  const std::int64_t i = v.part.first_row + r;
  const WideTerms terms = wide_terms_of(v, i);
  InfonceState after = a.out.state[i];
  double less = -terms.shift;
  if (terms.kind != TermsKind::kSigmoid) {
    double top = kMinusInfinity;
    each_wide(v, r, terms,
              [&](std::int64_t, double, double logit) { top = logit > top ? logit : top; });
    top = largest_of_warp(top);
    // Narrow rows have a float32 reference, on either device.
    if (!is_wide(v.problem, top)) top = double{to_float_rn(top)};
    if (top > after.reference) move_reference(terms, top, &after);
    less = after.reference;
  }
  double first = 0, second = 0;
  each_wide(v, r, terms, [&](std::int64_t, double, double logit) {
    first += terms.first(logit - less);
    second += terms.second(logit - less);
  });
  after.first += sum_of_warp(first);
  after.second += sum_of_warp(second);
  if (lane() == 0) a.out.state[i] = after;
}

STOPE_KERNEL(kInfonceThreads, 4) fold_rows(FoldArguments a) {
  const InfonceRowsView& v = a.view;
  const std::int64_t r = warp_of_grid();
  if (r >= v.part.rows) return;
  mask_row(v, r);
  survey_row(a, r);
  set_own_logits(v, r);
  const std::int64_t i = v.part.first_row + r;
  const float* scores = v.scores + r * v.part.columns;
  const InfonceTerms terms = terms_of(v, i);
  const InfonceState before = a.out.state[i];
  InfonceState after = before;
  double first = 0, second = 0;
  if (terms.kind == TermsKind::kSigmoid) {
    if (is_wide_shift(v, i)) return fold_wide(a, r);
    for (std::int64_t c = lane(); c < v.part.columns; c += kWarp) {
      if (scores[c] == masked_score()) continue;
      const float x = terms.logit(scores[c], c, -terms.shift), e = exp_of(-magnitude(x));
      first += double{softplus_of(x, e)};
      second += double{sigmoid_of(x, e)};
    }
  } else {
    float top = masked_score();
    for (std::int64_t c = lane(); c < v.part.columns; c += kWarp) {
      if (scores[c] == masked_score()) continue;
      const float x = terms.logit(scores[c], c, 0.0f);
      // What float32 does not hold makes the row a wide one.
      if (!(magnitude(x) < no_limit()))
        top = no_limit();
      else if (x > top)
        top = x;
    }
    top = largest_of_warp(top);
    if (top == masked_score()) return;
    const bool begun = before.reference != kMinusInfinity;
    if (is_wide(v.problem, double{top}) || (begun && is_wide(v.problem, before.reference)))
      return fold_wide(a, r);
    const bool two = terms.kind == TermsKind::kHardness;
    if (double{top} > before.reference) {
      // Earlier sums move to the new reference; there are none at the first.
      const double gap = before.reference - double{top};
      after.reference = double{top};
      after.first *= exp_of(two ? (1.0 + double{terms.beta}) * gap : gap);
      after.second *= exp_of(double{terms.beta} * gap);
      if (before.reference == kMinusInfinity) after.first = after.second = 0;
    }
    const float reference = to_float_rn(after.reference);
    for (std::int64_t c = lane(); c < v.part.columns; c += kWarp) {
      if (scores[c] == masked_score()) continue;
      const float x = terms.logit(scores[c], c, reference);
      first += double{exp_of(two ? mul_rn(x, add_rn(1.0f, terms.beta)) : x)};
      if (two) second += double{exp_of(mul_rn(x, terms.beta))};
    }
  }
  after.first += sum_of_warp(first);
  after.second += sum_of_warp(second);
  if (lane() == 0) a.out.state[i] = after;
}

struct WeighArguments {
  InfonceRowsView view;
  const NegativeWeights* coefficients;
  double* moments;       // dL / dscale of a row, added to if focal
  double* bias_moments;  // dL / dbias of a row, added to for sigmoid and pairwise
};

STOPE_DEVICE void weigh_wide(const WeighArguments& a, std::int64_t r) {
  const InfonceRowsView& v = a.view;
  const std::int64_t i = v.part.first_row + r;
  const WideTerms terms = wide_terms_of(v, i);
  const NegativeWeights by = a.coefficients[i];
  float* scores = v.scores + r * v.part.columns;
  double moment = 0;
  each_wide(v, r, terms, [&](std::int64_t c, double score, double logit) {
    double weight = terms.weight(logit, by.reference, double{by.first}, double{by.second});
    if (terms.focal) {
      moment += weight * score * (score + terms.focal_margin);
      weight *= 2 * score + terms.focal_margin;
    }
    scores[c] = to_float_rn(weight);
  });
  for (std::int64_t c = lane(); c < v.part.columns; c += kWarp)
    if (scores[c] == masked_score()) scores[c] = 0.0f;
  moment = sum_of_warp(moment);
  if (lane() == 0 && terms.focal) a.moments[i] += moment;
}

STOPE_KERNEL(kInfonceThreads) weigh_rows(WeighArguments a) {
  const InfonceRowsView& v = a.view;
  const std::int64_t r = warp_of_grid();
  if (r >= v.part.rows) return;
  const std::int64_t i = v.part.first_row + r;
  float* scores = v.scores + r * v.part.columns;
  const NegativeWeights by = a.coefficients[i];
  if (by.first == 0.0f && by.second == 0.0f) {
    for (std::int64_t c = lane(); c < v.part.columns; c += kWarp) scores[c] = 0.0f;
    return;
  }
  mask_row(v, r);
  set_own_logits(v, r);
  const InfonceTerms terms = terms_of(v, i);
  const bool local = terms.kind == TermsKind::kSigmoid;
  if (local ? is_wide_shift(v, i) : is_wide(v.problem, by.reference)) return weigh_wide(a, r);
  const float reference = to_float_rn(by.reference);
  double total = 0, moment = 0;
  for (std::int64_t c = lane(); c < v.part.columns; c += kWarp) {
    const float s = scores[c];
    float weight = 0.0f;
    if (s != masked_score()) {
      const float x = terms.logit(s, c, local ? -terms.shift : reference);
      if (local) {
        weight = mul_rn(by.first, sigmoid_of(x, exp_of(-magnitude(x))));
        total += double{weight};
      } else if (terms.kind == TermsKind::kHardness) {
        weight = fma_rn(by.first, exp_of(mul_rn(x, add_rn(1.0f, terms.beta))),
                        mul_rn(by.second, exp_of(mul_rn(x, terms.beta))));
      } else {
        weight = mul_rn(by.first, exp_of(x));
      }
      if (terms.focal) {
        moment += double{weight} * double{mul_rn(s, add_rn(s, terms.focal_margin))};
        weight = mul_rn(weight, fma_rn(s, 2.0f, terms.focal_margin));
      }
    }
    scores[c] = weight;
  }
  total = sum_of_warp(total);
  moment = sum_of_warp(moment);
  if (lane() != 0) return;
  if (local) a.bias_moments[i] += total;
  if (terms.focal) a.moments[i] += moment;
}

}  // namespace stope::cuda
