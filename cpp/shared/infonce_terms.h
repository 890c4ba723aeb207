// How scores become logits, limits and sums: what kernels compute in float32, said once, and in
// double for rows whose logits float32 cannot tell apart.
//
//   logit = multiplier * S + log_weight          (focal: multiplier * S * (S + focal_margin))
//   softmax: e^x with x = logit - reference      hardness: e^((1 + beta) x) and e^(beta x)
//   sigmoid: softplus(logit + shift) and its derivative
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "host_device.h"
#include "stope/infonce.h"

namespace stope {

// Constants, because nvcc calls no function of the host's library on the device.
inline constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
inline constexpr float kNoUpperLimit = std::numeric_limits<float>::infinity();

STOPE_SHARED double softplus(double x) {
  return x > 0 ? x + ::log1p(::exp(-x)) : ::log1p(::exp(x));
}
STOPE_SHARED double sigmoid(double x) {
  return x >= 0 ? 1 / (1 + ::exp(-x)) : ::exp(x) / (1 + ::exp(x));
}
STOPE_SHARED double log_add(double a, double b) {
  const double high = a < b ? b : a, low = a < b ? a : b;
  return low == kMinusInfinity ? high : high + ::log1p(::exp(low - high));
}

enum class TermsKind : std::int32_t { kSoftmax, kHardness, kSigmoid };

STOPE_SHARED TermsKind terms_kind(const InfonceOptions& o) {
  if (o.objective == Objective::kPairwise || o.objective == Objective::kSigmoid)
    return TermsKind::kSigmoid;
  return o.objective == Objective::kHardness ? TermsKind::kHardness : TermsKind::kSoftmax;
}

// Multipliers of S, with the bonus of hardness: of negatives from the batch or the queue, and of a
// query's own hard negatives.
STOPE_SHARED double in_batch_multiplier(const InfonceOptions& o) {
  const bool harder =
      o.hardness == Hardness::kInBatchNegatives || o.hardness == Hardness::kAllNegatives;
  return o.scale + (harder ? o.hardness_strength : 0.0);
}
STOPE_SHARED double own_multiplier(const InfonceOptions& o) {
  const bool harder =
      o.hardness == Hardness::kHardNegatives || o.hardness == Hardness::kAllNegatives;
  return o.scale + (harder ? o.hardness_strength : 0.0);
}

// Whether a query's own hard negatives have logits of another form than the rest.
STOPE_SHARED bool has_own_logits(const InfonceProblem& p) {
  return p.hard_negatives.offsets != nullptr &&
         (p.hard_negative_log_weight != 0 || own_multiplier(p) != in_batch_multiplier(p));
}
STOPE_SHARED double own_logit(const InfonceOptions& o, double score) {
  return own_multiplier(o) * score + o.hard_negative_log_weight;
}
// The score whose logit, by the multiplier of the others, is that of an own hard negative.
STOPE_SHARED float own_score(const InfonceOptions& o, float score) {
  return static_cast<float>(own_logit(o, static_cast<double>(score)) / in_batch_multiplier(o));
}

// From the lowest positive score to what a negative may have at most, rounded down.
STOPE_SHARED float upper_limit(const InfonceOptions& o, double positive) {
  double upper = static_cast<double>(kNoUpperLimit);
  if (o.has_absolute_margin) upper = positive - o.absolute_margin;
  if (o.has_relative_margin) {
    const double limit = positive - ::fabs(positive) * o.relative_margin;
    upper = limit < upper ? limit : upper;
  }
  const float rounded = static_cast<float>(upper);
  return static_cast<double>(rounded) > upper ? ::nextafterf(rounded, -kNoUpperLimit) : rounded;
}

// Float32 holds a logit to one part in 2^24. Up to here what is lost of a reference changes no
// exponential beyond float32's range; what is added to logits (log weights, and pairwise a
// positive's logit) loses digits sooner. Rows beyond are summed in double.
STOPE_SHARED bool is_wide(const InfonceProblem& p, double logit) {
  const bool adds =
      p.objective == Objective::kPairwise || p.log_weights != nullptr || has_own_logits(p);
  return !(::fabs(logit) < (adds ? 0x1p20 : 0x1p30) / (1 + p.beta));
}

// The terms of one row in double.
struct WideTerms {
  TermsKind kind;
  bool focal;
  double multiplier, focal_margin, beta, shift;

  STOPE_SHARED double logit(float score, float log_weight) const {
    const double s = static_cast<double>(score);
    return multiplier * (focal ? s * (s + focal_margin) : s) + static_cast<double>(log_weight);
  }
  // Of x = logit - reference, or logit + shift.
  STOPE_SHARED double first(double x) const {
    if (kind == TermsKind::kSigmoid) return softplus(x);
    return ::exp(kind == TermsKind::kHardness ? x * (1 + beta) : x);
  }
  STOPE_SHARED double second(double x) const {
    if (kind == TermsKind::kSigmoid) return sigmoid(x);
    return kind == TermsKind::kHardness ? ::exp(x * beta) : 0.0;
  }
  // dL / dlogit.
  STOPE_SHARED double weight(double logit, double reference, double by_first,
                             double by_second) const {
    if (kind == TermsKind::kSigmoid) return by_first * sigmoid(logit + shift);
    const double x = logit - reference;
    return by_first * first(x) + (by_second == 0 ? 0 : by_second * second(x));
  }
};

STOPE_SHARED WideTerms wide_terms(const InfonceOptions& o, double multiplier, double shift) {
  return {terms_kind(o), o.focal, multiplier, o.focal_margin, o.beta, shift};
}

// Sums move to a larger reference; there are none at the first.
STOPE_SHARED void move_reference(const WideTerms& terms, double reference, InfonceState* state) {
  const double gap = state->reference - reference;
  const bool none = state->reference == kMinusInfinity;
  state->first = none ? 0 : state->first * terms.first(gap);
  state->second = none ? 0 : state->second * terms.second(gap);
  state->reference = reference;
}

}  // namespace stope
