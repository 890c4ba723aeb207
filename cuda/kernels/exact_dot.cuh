// The canonical score (docs/concepts/exactness.md): sixteen float32 lanes start at +0; lane l
// takes elements l,
// l + 16, ... by fused multiply-add, the missing elements of the last group count as zeros (their
// multiply-add is done too), and the lanes are added by the canonical tree. A score of int8 rows
// under the dot product is their exact int32 sum. The bits are the CPU's.
#pragma once

#include "rows.cuh"

namespace stope::cuda {

STOPE_DEVICE bool scored_as_int8(const Matrix& corpus, Metric metric) {
  return corpus.dtype == DType::kInt8 && metric == Metric::kDot;
}

// One step of lane l.
template <bool kDistance>
STOPE_DEVICE float accumulate(float q, float x, float sum) {
  if constexpr (kDistance) {
    const float t = sub_rn(q, x);
    return fma_rn(t, t, sum);
  } else {
    return fma_rn(q, x, sum);
  }
}
template <bool kDistance>
STOPE_DEVICE float score_of_sum(float sum) {
  return kDistance ? -sqrt_rn(sum) : sum;
}

template <bool kDistance>
STOPE_DEVICE float exact_sum(const RowReader& q, const RowReader& x) {
  float sum = 0.0f;
  for (std::int64_t i = half_lane(); i - half_lane() < x.depth; i += kCanonicalLanes)
    sum = accumulate<kDistance>(q[i], x[i], sum);
  return score_of_sum<kDistance>(sum_of_half(sum));
}

// By half a warp; every lane gets the score.
STOPE_DEVICE float exact_score(const RowReader& q, const RowReader& x, Metric metric) {
  if (x.dtype == DType::kInt8 && metric == Metric::kDot) {
    std::int32_t sum = 0;
    const auto *a = static_cast<const std::int8_t*>(q.row),
               *b = static_cast<const std::int8_t*>(x.row);
    for (std::int64_t i = half_lane(); i < x.depth; i += kCanonicalLanes) sum += a[i] * b[i];
    return to_float_rn(sum_of_half(sum));
  }
  return metric == Metric::kEuclidean ? exact_sum<true>(q, x) : exact_sum<false>(q, x);
}

}  // namespace stope::cuda
