// What a row's sums mean: the loss of a row, and the weights its gradient gives to every column.
//
// n is the log-sum-exp of the negatives, l_p the logit of positive p, z = log(e^n + sum e^l_p),
// Y_p its share of the row's positive weight, sp(x) = log(1 + e^x) (methods.md, H1, H9, E3, E4).
//   out        z - sum Y_p l_p                 in         z - log sum e^l_p
//   excl       sum Y_p sp(n - l_p)             decoupled  n - sum Y_p l_p
//   hardness   sp(log Ng - l_p)                pairwise   sum over negatives of sp(l_j - l_p)
//   sigmoid    sum over negatives of sp(l_j) + sum y_p sp(-l_p)
// A positive dominates without cancellation: its own term never enters a difference.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "kernel_table.h"
#include "stope/infonce.h"

namespace stope {

inline constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

// A row's sums, and how many negatives they are of, as the forward pass leaves them to the other.
inline LossSums load_sums(const double* state, std::int64_t i) {
  const double* s = state + i * kInfonceState;
  return {static_cast<float>(s[0]), s[1], s[2]};
}
inline void store_sums(double* state, std::int64_t i, const LossSums& sums, std::int64_t kept) {
  double* s = state + i * kInfonceState;
  s[0] = static_cast<double>(sums.reference);
  s[1] = sums.first;
  s[2] = sums.second;
  s[3] = static_cast<double>(kept);
}

inline double softplus(double x) {
  return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}
inline double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
inline double log_add(double a, double b) {
  if (a < b) std::swap(a, b);
  return b == kMinusInfinity ? a : a + std::log1p(std::exp(b - a));
}

// The positives of one row.
struct RowPositives {
  const float* scores;
  const float* weights;  // or nullptr: all 1
  std::int64_t count;
};

class RowObjective {
 public:
  RowObjective(const InfonceProblem& problem, const RowPositives& positives, const LossSums& sums,
               std::int64_t kept)
      : problem_(problem), positives_(positives), sums_(sums), kept_(kept) {
    for (std::int64_t p = 0; p < positives_.count; ++p) {
      total_weight_ += weight(p);
      log_positives_ = log_add(log_positives_, logit(p));
    }
    for (std::int64_t p = 0; p < positives_.count; ++p) mean_positive_ += share(p) * logit(p);
    if (sums_.first > 0 && is_softmax()) negatives_ = sums_.reference + std::log(sums_.first);
  }

  bool is_softmax() const {
    return problem_.objective != Objective::kPairwise &&
           problem_.objective != Objective::kSigmoid && problem_.objective != Objective::kHardness;
  }

  // Of the whole partition; of the negatives alone for a row without positives.
  double log_sum_exp() const {
    switch (problem_.objective) {
      case Objective::kPairwise:
      case Objective::kSigmoid: return sums_.first;
      case Objective::kHardness:
        return kept_ == 0 ? log_positives_ : log_add(hardness().log_negatives, log_positives_);
      case Objective::kDecoupled: return negatives_;
      default: return log_add(negatives_, log_positives_);
    }
  }

  double loss() const {
    if (positives_.count == 0) return 0;
    switch (problem_.objective) {
      case Objective::kOut:
        if (positives_.count == 1) return softplus(negatives_ - mean_positive_);
        return log_sum_exp() - mean_positive_;
      case Objective::kIn: return softplus(negatives_ - log_positives_);
      case Objective::kExcl: {
        double sum = 0;
        for (std::int64_t p = 0; p < positives_.count; ++p)
          sum += share(p) * softplus(negatives_ - logit(p));
        return sum;
      }
      case Objective::kDecoupled: return kept_ == 0 ? 0 : negatives_ - mean_positive_;
      case Objective::kHardness:
        return kept_ == 0 ? 0 : softplus(hardness().log_negatives - mean_positive_);
      case Objective::kPairwise: return sums_.first;
      case Objective::kSigmoid: {
        double sum = sums_.first;
        for (std::int64_t p = 0; p < positives_.count; ++p) sum += weight(p) * softplus(-logit(p));
        return sum;
      }
    }
    return 0;
  }

  // dL/dlogit of the negatives, as the kernel wants it.
  LossCoefficients negatives(double gradient) const {
    LossCoefficients out{0.0f, 0.0f, 0.0f};
    if (positives_.count == 0 || kept_ == 0 || gradient == 0) return out;
    if (problem_.objective == Objective::kPairwise || problem_.objective == Objective::kSigmoid) {
      out.first = static_cast<float>(gradient);
      return out;
    }
    out.reference = sums_.reference;
    double first = 0, second = 0;
    switch (problem_.objective) {
      case Objective::kExcl: {
        double pull = 0;
        for (std::int64_t p = 0; p < positives_.count; ++p)
          pull += share(p) * sigmoid(negatives_ - logit(p));
        first = pull / sums_.first;
        break;
      }
      case Objective::kDecoupled: first = 1 / sums_.first; break;
      case Objective::kHardness: {
        const Hardness h = hardness();
        const double pull = sigmoid(h.log_negatives - mean_positive_) * h.by_reweighted;
        first = pull * (problem_.detach_hardness ? 1 : 1 + problem_.beta) / sums_.first;
        if (!problem_.detach_hardness) second = -pull * problem_.beta / sums_.second;
        break;
      }
      default: first = std::exp(sums_.reference - log_sum_exp());
    }
    out.first = static_cast<float>(gradient * first);
    out.second = static_cast<float>(gradient * second);
    return out;
  }

  // dL/dlogit of positive p.
  double positive(std::int64_t p, double gradient) const {
    const double x = logit(p);
    double out = 0;
    switch (problem_.objective) {
      case Objective::kOut:
        out = positives_.count == 1 ? -sigmoid(negatives_ - x)
                                    : std::exp(x - log_sum_exp()) - share(p);
        break;
      case Objective::kIn:
        out = -sigmoid(negatives_ - log_positives_) * std::exp(x - log_positives_);
        break;
      case Objective::kExcl: out = -share(p) * sigmoid(negatives_ - x); break;
      case Objective::kDecoupled: out = kept_ == 0 ? 0 : -share(p); break;
      case Objective::kHardness:
        if (kept_ > 0) {
          const Hardness h = hardness();
          out = sigmoid(h.log_negatives - x) * (h.by_positive - 1);
        }
        break;
      case Objective::kPairwise: out = -sums_.second; break;
      case Objective::kSigmoid: out = -weight(p) * sigmoid(-x); break;
    }
    return gradient * out;
  }

  // What the kernel adds to every logit.
  static float shift(const InfonceProblem& problem, const RowPositives& positives) {
    if (problem.objective == Objective::kSigmoid) return static_cast<float>(problem.bias);
    if (problem.objective != Objective::kPairwise || positives.count == 0) return 0.0f;
    return static_cast<float>(-positive_logit(problem, positives.scores[0]));
  }

  static double positive_logit(const InfonceProblem& problem, double score) {
    return problem.scale * score * (problem.focal ? score : 1) +
           (problem.objective == Objective::kSigmoid ? problem.bias : 0);
  }

 private:
  struct Hardness {
    double log_negatives;  // log Ng
    double by_reweighted;  // d log Ng / d log R
    double by_positive;    // d log Ng / d l_p
  };
  Hardness hardness() const {
    const double count = std::log(static_cast<double>(kept_));
    const double reweighted =
        sums_.reference + std::log(sums_.first) - std::log(sums_.second) + count;
    const double prior = problem_.positive_prior;
    if (prior <= 0) return {reweighted, 1, 0};
    const double expected = std::log(prior) + count + mean_positive_;
    const double least = count - problem_.scale;
    if (expected >= reweighted) return {least, 0, 0};
    const double share = std::exp(expected - reweighted);
    const double debiased = reweighted + std::log1p(-share) - std::log1p(-prior);
    if (debiased < least) return {least, 0, 0};
    return {debiased, 1 / (1 - share), -share / (1 - share)};
  }

  double weight(std::int64_t p) const {
    return positives_.weights == nullptr ? 1 : static_cast<double>(positives_.weights[p]);
  }
  double share(std::int64_t p) const { return weight(p) / total_weight_; }
  double logit(std::int64_t p) const {
    return positive_logit(problem_, static_cast<double>(positives_.scores[p]));
  }

  const InfonceProblem& problem_;
  const RowPositives& positives_;
  const LossSums& sums_;
  std::int64_t kept_;
  double total_weight_ = 0;
  double mean_positive_ = 0;
  double log_positives_ = kMinusInfinity;
  double negatives_ = kMinusInfinity;
};

}  // namespace stope
