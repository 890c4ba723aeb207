// Heads: of a tile the first part of the depth is scored alone, where that often shows that none of
// its rows reaches what select asks for.
//
// With codes u = (u1, u2) and v = (v1, v2), cut at some depth, u.v <= u1.v1 + ||u2|| ||v2||. Of the
// rows q = a_q (u + r), x = a_x (v + s) that they are of (bounds.h),
//   ||u2|| <= ||q2|| / a_q + ||r||   and   a_x ||v2|| <= ||x2|| + a_x ||s||.
// How much is left of the norm says which thresholds a head can tell of: with half of it left in
// both rows, cosines of 0.9 need one of 0.8 between the heads. Which cut pays, if any, shows in
// trials.
#pragma once

#include <algorithm>
#include <cmath>

#include "bounds.h"
#include "packing.h"
#include "scan.h"
#include "stope/workspace.h"

namespace stope {

inline constexpr int kMostCuts = 4;

// The cut that lets a thread score least, found again every now and then since thresholds rise.
class HeadTrials {
 public:
  // The cut of the next tile, or `cuts`: all of it at once. `depths` ends with the whole depth.
  int next(int cuts, const std::int64_t* depths) {
    if (tile_ == kPeriod) *this = HeadTrials();
    if (tile_ == cuts * kTrials) {
      double least = 1;
      best_ = cuts;
      for (int cut = 0; cut < cuts; ++cut) {
        const double share = static_cast<double>(depths[cut]) / static_cast<double>(depths[cuts]) +
                             static_cast<double>(passed_[cut]) / kTrials;
        if (share < least) best_ = cut;
        least = std::min(share, least);
      }
    }
    const std::int64_t tile = tile_++;
    return tile < cuts * kTrials ? static_cast<int>(tile % cuts) : best_;
  }
  void note(int cut, bool passed) { passed_[cut] += passed ? 1 : 0; }

 private:
  static constexpr std::int64_t kTrials = 32, kPeriod = 8192;
  std::int64_t tile_ = 0;
  std::int64_t passed_[kMostCuts] = {};
  int best_ = 0;
};

// What a thread knows of the heads of its two blocks.
struct HeadScratch {
  std::int64_t rows, columns;
  float* row_tails;     // [cuts][rows]
  float* column_tails;  // [cuts][columns]
  float* column_bases;  // [cuts][columns]
  float* zeros;         // [depth]
  std::int8_t* zero;    // the codes of a row of zeros, and room for a tile
  HeadTrials* trials;
};

class Heads {
 public:
  Heads(const KernelTable& kernels, const ScanKernels& scan, const PanelShape& shape,
        const Bounds& bounds, bool wanted)
      : kernels_(kernels), scan_(scan), shape_(shape), bounds_(bounds) {
    constexpr std::int64_t kSixths = 6;  // cuts after one to four of them
    for (std::int64_t i = 1; wanted && i <= kMostCuts; ++i) {
      const std::int64_t depth = round_up(divide_up(i * shape.depth, kSixths), kDepthMultiple);
      if (depth < shape.depth && (cuts_ == 0 || depth > depths_[cuts_ - 1]))
        depths_[cuts_++] = depth;
    }
    depths_[cuts_] = shape.depth;
  }

  int cuts() const { return cuts_; }

  HeadScratch take(Workspace* workspace, std::int64_t rows, std::int64_t columns) const {
    HeadScratch scratch = {};
    if (cuts_ == 0) return scratch;
    scratch.rows = rows;
    scratch.columns = round_up(columns, kLanes);
    scratch.row_tails = workspace->take<float>(cuts_ * scratch.rows);
    scratch.column_tails = workspace->take<float>(cuts_ * scratch.columns);
    scratch.column_bases = workspace->take<float>(cuts_ * scratch.columns);
    scratch.zeros = workspace->take<float>(shape_.depth);
    scratch.zero = workspace->take<std::int8_t>(kMaxTileRows * shape_.query_bytes);
    scratch.trials = workspace->take<HeadTrials>(1);
    if (scratch.trials == nullptr) return scratch;
    *scratch.trials = HeadTrials();
    std::fill_n(scratch.zeros, shape_.depth, 0.0f);
    std::fill_n(scratch.zero, kMaxTileRows * shape_.query_bytes, std::int8_t{0});
    RowStats stats;
    scan_.quantise(scratch.zeros, shape_.depth, shape_.depth_padded, 0, scratch.zero, &stats);
    return scratch;
  }

  // Row number `row` of the block.
  void add_row(const float* values, const RowStats& stats, std::int64_t row,
               const HeadScratch& scratch) const {
    double tails[kMostCuts];
    measure(values, tails);
    for (int cut = 0; cut < cuts_; ++cut) {
      const double tail = tails[cut] / static_cast<double>(stats.scale) + stats.residual;
      scratch.row_tails[cut * scratch.rows + row] = Bounds::round_up(tail);
    }
  }

  // A packed panel of `count` rows, the first of them column number `first` of the block.
  void add_panel(const float* const* rows, int count, const std::int8_t* panel, std::int64_t first,
                 const HeadScratch& scratch) const {
    const PanelFooter& footer = shape_.footer(panel);
    alignas(64) TileEntry tile[kMaxTileRows * kTileStride];
    const QueryTile zero = {scratch.zero, shape_.query_bytes, 1};
    const PanelRun run = {panel, shape_.bytes, shape_.footer_offset, 1};
    double tails[kLanes][kMostCuts] = {};
    for (int c = 0; c < count; ++c) measure(rows[c], tails[c]);
    for (int cut = 0; cut < cuts_; ++cut) {
      const std::int64_t at = cut * scratch.columns + first;
      // What a table adds to every product to begin with, less what it took away by this depth.
      scan_.score_panels(&zero, &run, depths_[cut], tile, kTileStride);
      for (int c = 0; c < kLanes; ++c) {
        const double scale = footer.scale[c], base = -scale * bounds_.dot(tile[c]);
        scratch.column_tails[at + c] =
            Bounds::round_up(tails[c][cut] + scale * static_cast<double>(footer.residual[c]));
        scratch.column_bases[at + c] = Bounds::round_up(base + std::fabs(base) * 0x1p-20);
      }
    }
  }

  // Whether a tile has to be scored: `terms` are its rows', `first` its first column in the block.
  bool hit(const QueryTile& queries, std::int64_t row, std::int64_t first, const RowTerms* terms,
           const PanelRun& run, TileEntry* tile, const HeadScratch& scratch) const {
    const int cut = scratch.trials->next(cuts_, depths_);
    if (cut == cuts_) return true;
    scan_.score_panels(&queries, &run, depths_[cut], tile, kTileStride);
    const std::int64_t at = cut * scratch.columns + first;
    const HeadTerms heads = {scratch.row_tails + cut * scratch.rows + row,
                             scratch.column_tails + at, scratch.column_bases + at};
    const bool hit = scan_.head_rows(tile, kTileStride, queries.rows, terms, &run,
                                     bounds_.euclidean(), &heads) != 0;
    scratch.trials->note(cut, hit);
    return hit;
  }

 private:
  // Upper bounds of the norms of what is left of a row after each cut.
  void measure(const float* row, double* tails) const {
    const double inflation = static_cast<double>(shape_.depth + 64) * 0x1p-23;
    double sum = static_cast<double>(shape_.depth + 2) * 0x1p-149;  // for what underflows
    for (int cut = cuts_ - 1; cut >= 0; --cut) {
      const float* part = row + depths_[cut];
      float square;
      kernels_.exact_dot(&part, 1, &part, 1, depths_[cut + 1] - depths_[cut], &square, 1);
      sum += static_cast<double>(square);
      tails[cut] = std::sqrt(sum) * (1 + inflation);
    }
  }

  const KernelTable& kernels_;
  const ScanKernels& scan_;
  const PanelShape& shape_;
  const Bounds& bounds_;
  int cuts_ = 0;
  std::int64_t depths_[kMostCuts + 1] = {};
};

}  // namespace stope
