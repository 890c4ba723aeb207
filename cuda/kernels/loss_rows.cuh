// One row of scores, by a warp: masked, surveyed, folded into the row's sums, turned into weights.
//
//   fold:   reference = max(logit), first = sum e^(logit - reference), ...
//   weigh:  S -> dL/dS / multiplier
// Logits are taken relative to the reference in one fused multiply-add, so their error is that of
// the difference, not that of the logit. A lane sums columns l, l + 32, ... in double, then the
// lanes are added by a tree. Both kernels mask by the same function from the same scores.
#pragma once

#include "loss_objective.cuh"
#include "loss_scores.cuh"

namespace stope::cuda {

// What both kernels look at; the problem's lists and vectors lie on the device.
struct LossRowsView {
  InfonceProblem problem;
  LossPass pass;
  LossPart part;
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
  for (int m = 0; m <= kLossMatrices; ++m)
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
STOPE_DEVICE void each_listed(const IdLists& lists, std::int64_t i, const LossPart& part,
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
STOPE_DEVICE bool is_dropped(const LossRowsView& v, const RowLimits& limits, std::int64_t i,
                             std::int64_t j, float judged) {
  const LossPass& pass = v.pass;
  if (pass.kind == LossPassKind::kDocumentToQuery && i == j) return false;
  if (pass.kind == LossPassKind::kQueryToQuery && i == j) return true;
  if (pass.hidden != nullptr && pass.hidden[j] != 0 &&
      !(pass.kind == LossPassKind::kQueryToDocument && is_listed(v.problem.hard_negatives, i, j)))
    return true;
  if (judged > limits.upper || judged < limits.lower) return true;
  if (pass.groups == nullptr) return false;
  const std::int64_t end = v.problem.positives.offsets[i + 1];
  for (std::int64_t e = v.problem.positives.offsets[i]; e < end; ++e)
    if (v.row_groups[e] == pass.groups[j]) return true;
  return false;
}

STOPE_DEVICE void mask_row(const LossRowsView& v, std::int64_t r) {
  const std::int64_t i = v.part.first_row + r;
  float* scores = v.scores + r * v.part.columns;
  const float* judged = v.pass.guided ? v.guide_scores + r * v.part.columns : scores;
  const RowLimits limits =
      v.pass.limited ? v.limits[i] : RowLimits{no_limit(), -no_limit(), no_limit()};
  for (std::int64_t c = lane(); c < v.part.columns; c += kWarp)
    if (is_dropped(v, limits, i, v.part.first_column + c, judged[c])) scores[c] = masked_score();
  warp_barrier();
  const bool all = v.pass.kind == LossPassKind::kDocumentToDocument;
  if (all || v.pass.kind == LossPassKind::kQueryToDocument) {
    const auto drop = [&](std::int64_t c) { scores[c] = masked_score(); };
    each_listed(v.problem.positives, i, v.part, drop);
    each_listed(v.problem.exclude, i, v.part, drop);
    if (all) each_listed(v.problem.hard_negatives, i, v.part, drop);
  }
  warp_barrier();
}

struct LossTerms {
  enum class Kind { kSoftmax, kHardness, kSigmoid };
  Kind kind;
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
STOPE_DEVICE LossTerms terms_of(const LossRowsView& v, std::int64_t i) {
  const InfonceProblem& p = v.problem;
  const bool bonus =
      v.pass.kind == LossPassKind::kQueryToDocument || v.pass.kind == LossPassKind::kQueryToQueue;
  LossTerms terms;
  terms.kind = p.objective == Objective::kPairwise || p.objective == Objective::kSigmoid
                   ? LossTerms::Kind::kSigmoid
               : p.objective == Objective::kHardness ? LossTerms::Kind::kHardness
                                                     : LossTerms::Kind::kSoftmax;
  terms.focal = p.focal;
  terms.multiplier = to_float_rn(p.scale + (bonus ? p.in_batch_hardness : 0.0));
  terms.focal_margin = to_float_rn(p.focal_margin);
  terms.beta = to_float_rn(p.beta);
  terms.shift = logit_shift(p, positives_of(p, v.positive_scores, i));
  terms.log_weights =
      v.pass.log_weights == nullptr ? nullptr : v.pass.log_weights + v.part.first_column;
  return terms;
}

// The query's own hard negatives get the score whose logit is theirs.
STOPE_DEVICE void set_own_logits(const LossRowsView& v, std::int64_t r) {
  const InfonceProblem& p = v.problem;
  if (v.pass.kind != LossPassKind::kQueryToDocument ||
      (p.hard_log_weight == 0 && p.hard_hardness == p.in_batch_hardness))
    return;
  float* scores = v.scores + r * v.part.columns;
  each_listed(p.hard_negatives, v.part.first_row + r, v.part, [&](std::int64_t c) {
    if (scores[c] == masked_score()) return;
    const double logit = (p.scale + p.hard_hardness) * double{scores[c]} + p.hard_log_weight;
    scores[c] = to_float_rn(logit / (p.scale + p.in_batch_hardness));
  });
  warp_barrier();
}

// sigmoid(x) and softplus(x) from e = e^-|x|.
STOPE_DEVICE float sigmoid_of(float x, float e) {
  return div_rn(x >= 0.0f ? 1.0f : e, add_rn(1.0f, e));
}
STOPE_DEVICE float softplus_of(float x, float e) {
  return add_rn(x > 0.0f ? x : 0.0f, log1p_of(e));
}

struct FoldArguments {
  LossRowsView view;
  InfonceForward out;
};

STOPE_DEVICE void survey_row(const FoldArguments& a, std::int64_t r) {
  const LossRowsView& v = a.view;
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

STOPE_KERNEL(kLossThreads) fold_rows(FoldArguments a) {
  const LossRowsView& v = a.view;
  const std::int64_t r = warp_of_grid();
  if (r >= v.part.rows) return;
  mask_row(v, r);
  survey_row(a, r);
  set_own_logits(v, r);
  const std::int64_t i = v.part.first_row + r;
  const float* scores = v.scores + r * v.part.columns;
  const LossTerms terms = terms_of(v, i);
  auto* state = reinterpret_cast<LossState*>(a.out.state) + i;
  const LossState before = *state;
  LossState after = before;
  double first = 0, second = 0;
  if (terms.kind == LossTerms::Kind::kSigmoid) {
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
      top = x > top ? x : top;
    }
    top = largest_of_warp(top);
    if (top == masked_score()) return;
    const bool two = terms.kind == LossTerms::Kind::kHardness;
    if (double{top} > before.reference) {
      // Earlier sums move to the new reference; there are none at the first.
      const double gap = before.reference - double{top};
      after.reference = double{top};
      after.first *= exp_of(two ? (1.0 + double{terms.beta}) * gap : gap);
      after.second *= exp_of(double{terms.beta} * gap);
      if (before.reference == minus_infinity()) after.first = after.second = 0;
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
  if (lane() == 0) *state = after;
}

struct WeighArguments {
  LossRowsView view;
  const LossCoefficients* coefficients;
  double* moments;       // dL / dscale of a row, added to if focal
  double* bias_moments;  // dL / dbias of a row, added to for sigmoid and pairwise
};

STOPE_KERNEL(kLossThreads) weigh_rows(WeighArguments a) {
  const LossRowsView& v = a.view;
  const std::int64_t r = warp_of_grid();
  if (r >= v.part.rows) return;
  const std::int64_t i = v.part.first_row + r;
  float* scores = v.scores + r * v.part.columns;
  const LossCoefficients by = a.coefficients[i];
  if (by.first == 0.0f && by.second == 0.0f) {
    for (std::int64_t c = lane(); c < v.part.columns; c += kWarp) scores[c] = 0.0f;
    return;
  }
  mask_row(v, r);
  set_own_logits(v, r);
  const LossTerms terms = terms_of(v, i);
  const bool local = terms.kind == LossTerms::Kind::kSigmoid;
  double total = 0, moment = 0;
  for (std::int64_t c = lane(); c < v.part.columns; c += kWarp) {
    const float s = scores[c];
    float weight = 0.0f;
    if (s != masked_score()) {
      const float x = terms.logit(s, c, local ? -terms.shift : by.reference);
      if (local) {
        weight = mul_rn(by.first, sigmoid_of(x, exp_of(-magnitude(x))));
        total += double{weight};
      } else if (terms.kind == LossTerms::Kind::kHardness) {
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
