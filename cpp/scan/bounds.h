// The certificate: rigorous bounds of a canonical score from a scan of codes.
//
// With q = a_q (u + r) and x = a_x (v + s), u and v the codes, r and s what they lost,
//   q.x = a_q a_x (u.v + u.s + r.(v + s)),  so  |q.x / (a_q a_x) - u.v| <= ||u|| S + R ||x|| / a_x
// where R >= ||r||, S >= ||s||. To this comes the canonical score's own rounding, at most
// gamma ||q|| ||x|| with gamma = (depth / 16 + 8) 2^-24, a bfloat16 scan's rounding (gamma with
// depth
// + 2; int8 sums are exact), and the float32 rounding of the comparison in the select kernel:
// `slop` covers them with room. `absolute` covers underflow.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernel_table.h"
#include "stope/matrix.h"

namespace stope {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Interval {
  float lower;
  float upper;
};

// One query: its scale and the weights of the panel's residual and norm in the error.
struct QueryBound {
  double scale = 1;
  double residual_weight = 0;              // >= ||u||
  double norm_weight = 0;                  // >= R + slop * ||q|| / a_q
  double rounding_weight = 0;              // >= what select's float32 loses, if norm_weight is not
  double square_low = 0, square_high = 0;  // bounds of ||q||^2
};

class Bounds {
 public:
  Bounds(Metric metric, std::int64_t depth, bool exact_sums, bool approximate)
      : metric_(metric),
        exact_sums_(exact_sums),
        approximate_(approximate),
        slop_(0x1p-19 + (static_cast<double>(depth) / (exact_sums ? 16 : 1) + 16) * 0x1p-22),
        absolute_(static_cast<double>(depth + 2) * 0x1p-149),
        inflation_(static_cast<double>(depth + 64) * 0x1p-23) {}

  bool euclidean() const { return metric_ == Metric::kEuclidean; }

  QueryBound query(const RowStats& stats) const {
    QueryBound q;
    q.scale = stats.scale;
    const double norm = stats.norm;
    if (!approximate_) {
      q.residual_weight = norm + stats.residual;
      q.norm_weight = stats.residual + slop_ * norm;
    } else {
      q.rounding_weight = slop_ * norm;
    }
    const double low = norm * (1 - 3 * inflation_) * q.scale;
    q.square_low = low * low;
    q.square_high = norm * norm * q.scale * q.scale;
    return q;
  }

  // The dot product that a tile of the scan holds.
  double dot(TileEntry entry) const {
    return exact_sums_ ? static_cast<double>(entry.i32) : static_cast<double>(entry.f32);
  }

  // The bounds of the canonical score, given the scan's dot product and lane c of a footer.
  Interval score(const QueryBound& q, const PanelFooter& x, int c, double dot) const {
    const double unit = q.scale * x.scale[c];
    const double middle = unit * dot;
    const double error = unit * (q.residual_weight * x.residual[c] + q.norm_weight * x.norm[c]) +
                         (approximate_ ? 0 : absolute_);
    if (!euclidean())
      return {static_cast<float>(middle - error), static_cast<float>(middle + error)};
    const double norm = static_cast<double>(x.norm[c]) * x.scale[c];
    const double square_high = norm * norm;
    const double square_low = 2.0 * x.half_square[c] * x.scale[c];
    if (approximate_) {
      const double square = q.square_high + square_high - 2 * middle;
      const auto score = static_cast<float>(-std::sqrt(std::max(square, 0.0)));
      return {score, score};
    }
    const double far = (q.square_high + square_high - 2 * middle + 2 * error) * (1 + slop_);
    const double near = (q.square_low + square_low - 2 * middle - 2 * error) * (1 - slop_);
    return {static_cast<float>(-std::sqrt(std::max(far + absolute_, 0.0)) * (1 + 0x1p-20)),
            static_cast<float>(-std::sqrt(std::max(near - absolute_, 0.0)) * (1 - 0x1p-20))};
  }

  // As much of a bound as set_lower needs, for lane c of a panel: a column that asks for rows.
  QueryBound column(const PanelFooter& x, int c) const {
    QueryBound q;
    q.scale = x.scale[c];
    q.square_low = 2.0 * x.half_square[c] * x.scale[c];
    return q;
  }

  // What select needs for one query: pass what may reach `least`, refuse what must exceed `most`.
  RowTerms terms(const QueryBound& q, float least, float most) const {
    RowTerms t = {};
    t.residual = round_up(q.residual_weight);
    t.norm = round_up(q.norm_weight + q.rounding_weight);
    set_lower(q, least, &t);
    set_upper(q, most, &t);
    return t;
  }

  static float round_up(double value) {
    return std::nextafter(static_cast<float>(value), kInfinity);
  }

  void set_lower(const QueryBound& q, float least, RowTerms* t) const {
    if (least == -kInfinity) {
      t->lower = -kInfinity;
    } else if (!euclidean()) {
      t->lower = clamp_low((least - absolute_) / q.scale);
    } else {
      const double distance = least;
      const double reach = (distance * distance * (1 + 0x1p-18) + absolute_) / (1 - slop_);
      const double slack = (q.square_low + reach) * 0x1p-20;
      t->lower = clamp_low((q.square_low - reach - slack) / (2 * q.scale));
    }
    t->bias = euclidean() ? static_cast<float>((1 - 0x1p-20) / q.scale) : 0.0f;
  }

  // No canonical score of a panel is above `least` where set_lower would say more than `most`: so
  // none is above base + slope * most, which is set_lower solved for `least`; as a score, or as
  // minus a squared distance.
  struct Line {
    double base, slope;
  };
  Line highest(const QueryBound& q) const {
    // No subnormal: an Intel processor takes a hundred cycles and more to multiply and add one.
    if (!euclidean()) return {std::max(absolute_, 0x1p-126), q.scale};
    const double factor = (1 - slop_) / (1 + 0x1p-18) / (1 + 0x1p-20);
    return {absolute_ - q.square_low * (1 - 0x1p-20) * factor, 2 * q.scale * factor};
  }

 private:
  void set_upper(const QueryBound& q, float most, RowTerms* t) const {
    // A finite stand-in for "no ceiling" that no score in these units reaches.
    t->upper = kInfinity;
    t->upper_bias = 0;
    if (most == kInfinity || (euclidean() && most >= 0)) return;
    if (!euclidean()) {
      t->upper = std::max(static_cast<float>((most + absolute_) / q.scale), -1e38f);
      return;
    }
    const double distance = most;
    const double reach = (distance * distance * (1 - 0x1p-18) - absolute_) / (1 + slop_);
    const double slack = (q.square_high + std::fabs(reach)) * 0x1p-20;
    t->upper =
        std::max(static_cast<float>((q.square_high - reach + slack) / (2 * q.scale)), -1e38f);
    t->upper_bias = static_cast<float>((1 + 8 * inflation_ + 0x1p-16) / q.scale);
  }

  // Too low a threshold only lets more candidates pass.
  static float clamp_low(double value) { return static_cast<float>(std::min(value, 1e38)); }

  Metric metric_;
  bool exact_sums_, approximate_;
  double slop_, absolute_, inflation_;
};

// Gives the rows of a tile the largest weights among them. Tiles start at multiples of tile_rows.
inline void level_terms(RowTerms* terms, std::int64_t count, int tile_rows) {
  for (std::int64_t first = 0; first < count; first += tile_rows) {
    RowTerms* tile = terms + first;
    const std::int64_t rows = std::min<std::int64_t>(tile_rows, count - first);
    float residual = 0, norm = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      residual = std::max(residual, tile[r].residual);
      norm = std::max(norm, tile[r].norm);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      tile[r].tile_residual = residual;
      tile[r].tile_norm = norm;
    }
  }
}

}  // namespace stope
