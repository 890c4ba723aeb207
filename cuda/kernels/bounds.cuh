// The certificate: rigorous bounds of a canonical score from a scan of bfloat16 codes.
//
// With q = a_q (u + r) and x = a_x (v + s), u and v the codes, r and s what they lost,
//   q.x = a_q a_x (u.v + u.s + r.(v + s)),  so  |q.x / (a_q a_x) - u.v| <= ||u|| S + R ||x|| / a_x
// where R >= ||r||, S >= ||s||. To this come three roundings, each a multiple of ||u|| ||v||:
//   - the canonical score's own, at most (depth / 16 + 8) 2^-24
//   - the tensor core's. One product of depth 16 adds 16 exact products to the sum. Measured
//     hardware aligns all 17 terms to the largest and cuts off what lies below its last place, at
//     worst 2^-23 of the largest, term by term and once more for the sum; some do it in two steps
//     of depth 8. That is at most 20 * 2^-23 for every 16 of depth; 32 * 2^-23 leaves room and
//     makes depth * 2^-22.
//   - the float32 rounding of the first test
// `slop` = 2^-19 + (depth + 16) 2^-21 covers them twice. `absolute` covers underflow.
#pragma once

#include "math.cuh"
#include "types.h"

namespace stope::cuda {

struct BoundRules {
  Metric metric;
  bool approximate;  // scores are the scan's, without bounds
  double slop, absolute, inflation;
};

inline BoundRules bound_rules(Metric metric, bool approximate, std::int64_t depth) {
  const auto d = static_cast<double>(depth);
  return {metric, approximate, 0x1p-19 + (d + 16) * 0x1p-21, (d + 2) * 0x1p-149,
          (d + 64) * 0x1p-23};
}

struct Interval {
  float lower;
  float upper;
};

STOPE_DEVICE float infinity() { return float_of(0x7f800000u); }
STOPE_DEVICE double larger(double a, double b) { return a > b ? a : b; }
// The next float32 up from a value that is not negative.
STOPE_DEVICE float above(double value) { return float_of(bits_of(to_float_rn(value)) + 1); }

STOPE_DEVICE QueryBound query_bound(const BoundRules& rules, const ScanRow& row) {
  QueryBound q = {};
  const double norm = row.norm, residual = row.residual;
  q.scale = row.scale;
  if (rules.approximate) {
    q.rounding_weight = rules.slop * norm;
  } else {
    q.residual_weight = norm + residual;
    q.norm_weight = residual + rules.slop * norm;
  }
  const double low = norm * (1 - 3 * rules.inflation) * q.scale;
  q.square_low = low * low;
  q.square_high = norm * norm * q.scale * q.scale;
  return q;
}

STOPE_DEVICE Interval score_bounds(const BoundRules& rules, const QueryBound& q, const ScanRow& x,
                                   double dot) {
  const double unit = q.scale * x.scale;
  const double middle = unit * dot;
  const double error = unit * (q.residual_weight * x.residual + q.norm_weight * x.norm) +
                       (rules.approximate ? 0 : rules.absolute);
  if (rules.metric != Metric::kEuclidean)
    return {to_float_rn(middle - error), to_float_rn(middle + error)};
  const double norm = static_cast<double>(x.norm) * x.scale;
  const double square_high = norm * norm, square_low = 2.0 * x.half_square * x.scale;
  if (rules.approximate) {
    const float score = to_float_rn(-sqrt(larger(q.square_high + square_high - 2 * middle, 0)));
    return {score, score};
  }
  const double far =
      (q.square_high + square_high - 2 * middle + 2 * error) * (1 + rules.slop) + rules.absolute;
  const double near =
      (q.square_low + square_low - 2 * middle - 2 * error) * (1 - rules.slop) - rules.absolute;
  return {to_float_rn(-sqrt(larger(far, 0)) * (1 + 0x1p-20)),
          to_float_rn(-sqrt(larger(near, 0)) * (1 - 0x1p-20))};
}

// The first test for scores that may reach `least`. A threshold too low only lets more pass.
STOPE_DEVICE QueryTerms query_terms(const BoundRules& rules, const QueryBound& q, float least) {
  const bool euclidean = rules.metric == Metric::kEuclidean;
  QueryTerms t = {-infinity(), above(q.residual_weight), above(q.norm_weight + q.rounding_weight),
                  euclidean ? to_float_rn((1 - 0x1p-20) / q.scale) : 0.0f};
  if (least == -infinity()) return t;
  double lower;
  if (!euclidean) {
    lower = (least - rules.absolute) / q.scale;
  } else {
    const double distance = least;
    const double reach = (distance * distance * (1 + 0x1p-18) + rules.absolute) / (1 - rules.slop);
    const double slack = (q.square_low + reach) * 0x1p-20;
    lower = (q.square_low - reach - slack) / (2 * q.scale);
  }
  t.lower = to_float_rn(lower < 1e38 ? lower : 1e38);
  return t;
}

// Returns false when the entry is out; an entry that straddles a limit loses its lower bound.
STOPE_DEVICE bool admit(const QueryState& state, Candidate* entry, bool* is_above) {
  *is_above = entry->lower > state.ceiling;
  if (*is_above) return false;
  if (entry->upper <= state.ceiling && entry->upper < state.floor) return false;
  if (entry->upper > state.ceiling || entry->lower < state.floor) entry->lower = -infinity();
  return true;
}

}  // namespace stope::cuda
