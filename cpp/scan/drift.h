// What a bound of a row and some centers is worth once the centers have moved.
//
// A bound V is kept as a score (cosine), or as minus a squared distance, so that the scan's numbers
// become bounds by a multiplication (Bounds::highest, the kernel `scale_bounds`). With F the
// canonical score or distance, D the real one, s the relative rounding of F (of F^2 for distances),
// delta >= the way of every center of the group, and t = 2^-100 for what underflows:
//   cosine:     F' <= D' + s <= D + |x| delta + s <= V + (1 + 2^-18) delta + 3 s
//   euclidean:  D >= L = sqrt((T - t) (1 - s)) with T = -V,  D' >= max(L - delta, 0),
//               F'^2 >= D'^2 (1 - s) - t
// What float32 loses here is relative, and covered by 2^-20. The kernel `move_bounds` works it out.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernel_table.h"
#include "stope/matrix.h"

namespace stope {

class Drift {
 public:
  Drift(Metric metric, std::int64_t depth)
      : euclidean_(metric == Metric::kEuclidean),
        rounding_(static_cast<float>(0x1p-19 + (static_cast<double>(depth) / 16 + 16) * 0x1p-22)) {}

  // A canonical score as a bound: not above it, and not below it.
  float below(float score) const { return euclidean_ ? -square(score, 1 + 0x1p-22) : score; }
  float above(float score) const { return euclidean_ ? -square(score, 1 - 0x1p-22) : score; }

  // How bounds move for a row that scores `own` with its own center, where the centers of each
  // group went `ways` at most. What the limit then leaves open could score as much.
  BoundMove move(const float* ways, std::int64_t groups, float own) const {
    const float slack = 4 * rounding_ + (euclidean_ ? 0x1p-20f : 0.0f);
    return {ways, groups, euclidean_, slack, below(own)};
  }

 private:
  static float square(float score, double factor) {
    return static_cast<float>(static_cast<double>(score) * score * factor);
  }

  bool euclidean_;
  float rounding_;
};

}  // namespace stope
