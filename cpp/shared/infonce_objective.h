// What a row's sums mean: the loss of a row, and the weights its gradient gives to every column, in
// double, on either device.
//
// n is the log-sum-exp of the negatives, l_p the logit of positive p, z = log(e^n + sum e^l_p),
// Y_p its share of the row's positive weight, sp(x) = log(1 + e^x) (docs/methods.md, H1, H9, E3,
// E4).
//   out        z - sum Y_p l_p                 in         z - log sum e^l_p
//   excl       sum Y_p sp(n - l_p)             decoupled  n - sum Y_p l_p
//   hardness   sp(log Ng - l_p)                pairwise   sum over negatives of sp(l_j - l_p)
//   sigmoid    sum over negatives of sp(l_j) + sum y_p sp(-l_p)
// A positive dominates without cancellation: its own term never enters a difference.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "infonce_terms.h"

namespace stope {

// The positives of one row.
struct RowPositives {
  const float* scores;
  const float* weights;  // or nullptr: all 1
  std::int64_t count;

  STOPE_SHARED double weight(std::int64_t p) const {
    return weights == nullptr ? 1 : static_cast<double>(weights[p]);
  }
};
// `scores` are those of all the problem's positives.
STOPE_SHARED RowPositives positives_of(const InfonceProblem& problem, const float* scores,
                                       std::int64_t i) {
  const std::int64_t e = problem.positives.offsets[i];
  const float* weights = problem.positive_weights;
  return {scores + e, weights == nullptr ? nullptr : weights + e,
          problem.positives.offsets[i + 1] - e};
}

STOPE_SHARED double positive_logit(const InfonceProblem& problem, double score) {
  return problem.scale * score * (problem.focal ? score : 1) +
         (problem.objective == Objective::kSigmoid ? problem.bias : 0);
}

// What is added to every logit of a row.
STOPE_SHARED double logit_shift(const InfonceProblem& problem, const RowPositives& positives) {
  if (problem.objective == Objective::kSigmoid) return problem.bias;
  if (problem.objective != Objective::kPairwise || positives.count == 0) return 0;
  return -positive_logit(problem, static_cast<double>(positives.scores[0]));
}

// Weight of a negative = first * (first exponential) + second * (second exponential), or
// first * derivative.
struct NegativeWeights {
  double reference;
  float first, second;
};

class RowObjective {
 public:
  STOPE_SHARED RowObjective(const InfonceProblem& problem, const RowPositives& positives,
                            const InfonceState& state)
      : problem_(problem), positives_(positives), state_(state) {
    // Beside a logit of 2^52, double does not hold the logarithm of a sum either.
    const bool relative = terms_kind(problem) != TermsKind::kSigmoid && state.first > 0;
    if (relative && is_wide(problem, state.reference)) base_ = state.reference;
    for (std::int64_t p = 0; p < positives_.count; ++p) {
      total_weight_ += positives_.weight(p);
      log_positives_ = log_add(log_positives_, logit(p));
    }
    for (std::int64_t p = 0; p < positives_.count; ++p) mean_positive_ += share(p) * logit(p);
    if (state_.first > 0 && terms_kind(problem) == TermsKind::kSoftmax)
      negatives_ = (state_.reference - base_) + ::log(state_.first);
  }

  // Of the whole partition; of the negatives alone for a row without positives.
  STOPE_SHARED double log_sum_exp() const { return base_ + relative_log_sum_exp(); }

  STOPE_SHARED double loss() const {
    if (positives_.count == 0) return 0;
    switch (problem_.objective) {
      case Objective::kOut:
        if (positives_.count == 1) return softplus(negatives_ - mean_positive_);
        return relative_log_sum_exp() - mean_positive_;
      case Objective::kIn: return softplus(negatives_ - log_positives_);
      case Objective::kExcl: {
        double sum = 0;
        for (std::int64_t p = 0; p < positives_.count; ++p)
          sum += share(p) * softplus(negatives_ - logit(p));
        return sum;
      }
      case Objective::kDecoupled: return state_.kept == 0 ? 0 : negatives_ - mean_positive_;
      case Objective::kHardness:
        return state_.kept == 0 ? 0 : softplus(hardness().log_negatives - mean_positive_);
      case Objective::kPairwise: return state_.first;
      case Objective::kSigmoid: {
        double sum = state_.first;
        for (std::int64_t p = 0; p < positives_.count; ++p)
          sum += positives_.weight(p) * softplus(-logit(p));
        return sum;
      }
    }
    return 0;
  }

  // dL/dlogit of the negatives.
  STOPE_SHARED NegativeWeights negatives(double gradient) const {
    if (positives_.count == 0 || state_.kept == 0 || gradient == 0) return {0, 0.0f, 0.0f};
    double first = 0, second = 0;
    switch (problem_.objective) {
      case Objective::kPairwise:
      case Objective::kSigmoid: return {0, static_cast<float>(gradient), 0.0f};
      case Objective::kExcl: {
        double pull = 0;
        for (std::int64_t p = 0; p < positives_.count; ++p)
          pull += share(p) * sigmoid(negatives_ - logit(p));
        first = pull / state_.first;
        break;
      }
      case Objective::kDecoupled: first = 1 / state_.first; break;
      case Objective::kHardness: {
        const Debiased h = hardness();
        const double pull = sigmoid(h.log_negatives - mean_positive_) * h.by_reweighted;
        first = pull * (problem_.detach_hardness ? 1 : 1 + problem_.beta) / state_.first;
        if (!problem_.detach_hardness) second = -pull * problem_.beta / state_.second;
        break;
      }
      default: first = ::exp((state_.reference - base_) - relative_log_sum_exp());
    }
    return {state_.reference, static_cast<float>(gradient * first),
            static_cast<float>(gradient * second)};
  }

  // dL/dlogit of positive p. Where some of the negatives' mass gets no gradient, the positives bear
  // as much less, so that a row's gradients sum to zero.
  STOPE_SHARED double positive(std::int64_t p, double gradient) const {
    const double x = logit(p);
    double out = 0;
    switch (problem_.objective) {
      case Objective::kOut:
        out = positives_.count == 1
                  ? -sigmoid(negatives_ - x) * (1 - left_out())
                  : ::exp(x - relative_log_sum_exp()) - share(p) +
                        left_out() * share(p) * ::exp(negatives_ - relative_log_sum_exp());
        break;
      case Objective::kIn:
        out = -sigmoid(negatives_ - log_positives_) * ::exp(x - log_positives_) * (1 - left_out());
        break;
      case Objective::kExcl: out = -share(p) * sigmoid(negatives_ - x) * (1 - left_out()); break;
      case Objective::kDecoupled: out = state_.kept == 0 ? 0 : -share(p) * (1 - left_out()); break;
      case Objective::kHardness:
        if (state_.kept > 0) {
          const Debiased h = hardness();
          out = sigmoid(h.log_negatives - x) * (h.by_positive - 1);
        }
        break;
      case Objective::kPairwise: out = -state_.second; break;
      case Objective::kSigmoid: out = -positives_.weight(p) * sigmoid(-x); break;
    }
    return gradient * out;
  }

 private:
  STOPE_SHARED double relative_log_sum_exp() const {
    switch (problem_.objective) {
      case Objective::kPairwise:
      case Objective::kSigmoid: return state_.first;
      case Objective::kHardness:
        return state_.kept == 0 ? log_positives_
                                : log_add(hardness().log_negatives, log_positives_);
      case Objective::kDecoupled: return negatives_;
      default: return log_add(negatives_, log_positives_);
    }
  }

  struct Debiased {
    double log_negatives;  // log Ng
    double by_reweighted;  // d log Ng / d log R
    double by_positive;    // d log Ng / d l_p
  };
  STOPE_SHARED Debiased hardness() const {
    const double count = ::log(state_.kept);
    const double reweighted =
        (state_.reference - base_) + ::log(state_.first) - ::log(state_.second) + count;
    const double prior = problem_.positive_prior;
    if (prior <= 0) return {reweighted, 1, 0};
    const double expected = ::log(prior) + count + mean_positive_;
    const double least = count - problem_.scale - base_;
    if (expected >= reweighted) return {least, 0, 0};
    const double taken = ::exp(expected - reweighted);
    const double debiased = reweighted + ::log1p(-taken) - ::log1p(-prior);
    if (debiased < least) return {least, 0, 0};
    return {debiased, 1 / (1 - taken), -taken / (1 - taken)};
  }

  // Of a softmax.
  STOPE_SHARED double left_out() const {
    return state_.second > 0 ? state_.second / state_.first : 0;
  }
  STOPE_SHARED double share(std::int64_t p) const { return positives_.weight(p) / total_weight_; }
  STOPE_SHARED double logit(std::int64_t p) const {
    return positive_logit(problem_, static_cast<double>(positives_.scores[p])) - base_;
  }

  const InfonceProblem& problem_;
  const RowPositives& positives_;
  const InfonceState& state_;
  double base_ = 0;  // what every logit here is less, of a wide row
  double total_weight_ = 0;
  double mean_positive_ = 0;
  double log_positives_ = kMinusInfinity;
  double negatives_ = kMinusInfinity;
};

}  // namespace stope
