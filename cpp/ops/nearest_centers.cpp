// nearest_centers: which center each row is nearest to, with bounds from one call to the next.
//
//   pack the centers; how far did those of each group go?
//   for each block of rows, in parallel
//     for each row: score it with its own center, canonically; move its bounds
//     for each group of centers: scan the rows whose bound lets it hold a better one
//       a tile -> the row's new bound -> candidates that reach the row's threshold
//     for each row: rescore its candidates
//
// A row with no group to scan costs one score, which is its threshold otherwise. Extra memory: of
// moved_centers.h, and per thread codes, twice, and scores with fast centers of at most 256 rows.
#include "stope/nearest_centers.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <stdexcept>

#include "bits.h"
#include "bounds.h"
#include "dispatch.h"
#include "drift.h"
#include "moved_centers.h"
#include "packing.h"
#include "rows.h"
#include "scan.h"
#include "tasks.h"

namespace stope {
namespace {

constexpr std::int64_t kBlockBytes = 96 << 10;  // of codes
constexpr std::int64_t kLeastRows = 32, kMostRows = 256;
constexpr int kCandidates = 16;  // of a row, before they are rescored
constexpr int kBatch = 8;        // centers of one call of the exact kernels

class NearestCenters {
 public:
  explicit NearestCenters(const NearestCentersCall& call, Workspace workspace = {})
      : call_(call),
        kernels_(stope::kernels()),
        scan_(exact_scan(kernels_, call.rows, call.centers, call.metric)),
        shape_(call.rows.columns, scan_.element_bytes),
        bounds_(call.metric, call.rows.columns, &scan_ != &kernels_.bfloat16, false),
        drift_(call.metric, call.rows.columns),
        known_(call.before.data != nullptr),
        block_rows_(std::clamp(kBlockBytes / shape_.query_bytes, kLeastRows, kMostRows)),
        words_(divide_up(block_rows_, kWordBits)),
        workspace_(workspace),
        centers_(call, kernels_, scan_, shape_, &workspace_) {
    if (call.metric == Metric::kDot)
      throw std::invalid_argument(
          "metric is dot, and centers are near by a distance or a cosine; give one of these");
    scratch_ = workspace_.take<Scratch>(call.execution.threads);
    for (std::int64_t t = 0; t < call.execution.threads; ++t) {
      Scratch scratch = {};
      scratch.rows = workspace_.take<Row>(block_rows_);
      scratch.scans = workspace_.take<RowScan>(block_rows_);
      scratch.terms = workspace_.take<RowTerms>(block_rows_);
      scratch.needs = workspace_.take<std::uint64_t>(block_rows_);
      scratch.wanted = workspace_.take<std::uint64_t>(groups_ * words_);
      scratch.fast_rows = workspace_.take<std::int32_t>(block_rows_);
      scratch.fast_reached = workspace_.take<float>(block_rows_ * fast_lanes_);
      scratch.picked = workspace_.take<std::int32_t>(block_rows_);
      for (std::int8_t** codes : {&scratch.codes, &scratch.picked_codes})
        *codes = workspace_.take<std::int8_t>((block_rows_ + kMaxTileRows) * shape_.query_bytes);
      scratch.pack = workspace_.take<float>(kLanes * shape_.depth);
      if (!read_in_place(call.rows, call.metric))
        scratch.values = workspace_.take<float>(block_rows_ * shape_.depth);
      if (scratch_ != nullptr) scratch_[t] = scratch;
    }
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    centers_.prepare([&](std::int64_t tasks, auto&& body) { parallel(tasks, body); },
                     [&](int thread) { return scratch_[thread].pack; }, &center_fault_);
    parallel(divide_up(call_.rows.rows, block_rows_), [&](std::int64_t task, int thread) {
      const std::int64_t first = task * block_rows_;
      const std::int64_t end = std::min(first + block_rows_, call_.rows.rows);
      assign(first, end, scratch_[thread]);
      done_ += end - first;
    });
    row_fault_.raise("x");
    center_fault_.raise("init");
  }

 private:
  struct Candidate {
    float upper;
    std::int32_t id;
  };

  // A row that some center could take from its own one: what every tile reads of it,
  struct RowScan {
    float* reached;       // of the groups that are scanned, in units of the scan
    std::int64_t before;  // the place of the last call's center, or -1
    std::int64_t fast;    // its place among the fast ones, or -1
  };
  // and what its candidates need.
  struct Row {
    std::int64_t row;
    const float* values;
    QueryBound bound;
    Bounds::Line highest;
    float before_score;
    std::int64_t center;  // the best of those scored, or -1
    float score;
    float least;  // some center scores at least this
    int count;
    Candidate candidates[kCandidates];
  };

  struct Scratch {
    Row* rows;
    RowScan* scans;
    RowTerms* terms;
    std::uint64_t* needs;     // the groups that each row needs, as bits
    std::uint64_t* wanted;    // the rows that need each group: `words_` a group
    std::int32_t* fast_rows;  // the open rows that the fast centers are scanned for
    float* fast_reached;      // [block_rows][fast centers], in units of the scan
    std::int32_t* picked;
    std::int8_t* codes;
    std::int8_t* picked_codes;
    float* pack;    // [kLanes * depth]
    float* values;  // [block_rows * depth] where rows cannot be read in place
  };

  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    run_tasks(
        call_.execution, tasks, [this] { return tell(call_.execution, done_, call_.rows.rows); },
        body);
  }

  void score(const float* values, const float* const* centers, int count, float* scores) const {
    const auto exact =
        call_.metric == Metric::kEuclidean ? kernels_.exact_distance : kernels_.exact_dot;
    exact(&values, 1, centers, count, shape_.depth, scores, kBatch);
  }

  void assign(std::int64_t first, std::int64_t end, const Scratch& scratch) {
    std::int64_t open = 0, fast = 0;
    for (std::int64_t row = first; row < end; ++row) {
      if (known_ && row + 1 < end) centers_.prefetch(call_.labels[row + 1]);
      bool with_fast = false;
      if (!begin_row(row, open, &with_fast, scratch)) continue;
      if (with_fast) scratch.fast_rows[fast++] = static_cast<std::int32_t>(open);
      ++open;
    }
    if (open == 0) return;
    std::fill_n(scratch.codes + open * shape_.query_bytes, kMaxTileRows * shape_.query_bytes,
                std::int8_t{0});
    level_terms(scratch.terms, open, scan_.tile_rows);
    turn_bits(scratch.needs, open, groups_, words_, scratch.wanted);
    scan_.begin_tiles();
    if (fast > 0) scan_fast_centers(fast, scratch);
    for (std::int64_t group = 0; group < groups_;) group += scan_groups(group, open, scratch);
    scan_.end_tiles();
    for (std::int64_t r = 0; r < open; ++r)
      finish_row(scratch.rows[r], scratch.scans[r], scratch.needs[r], &scratch.terms[r]);
  }

  // Makes the row number `place` of the open ones; false where it keeps its center.
  bool begin_row(std::int64_t row, std::int64_t place, bool* with_fast, const Scratch& scratch) {
    Row& made = scratch.rows[place];
    RowScan& scan = scratch.scans[place];
    made.row = row;
    made.values =
        float_row(kernels_, call_.rows, call_.metric, row,
                  scratch.values == nullptr ? nullptr : scratch.values + place * shape_.depth);
    scan.reached = call_.reached + row * groups_;
    scan.before = scan.fast = made.center = -1;
    made.score = -kInfinity;
    scratch.needs[place] = ~std::uint64_t{0};
    if (known_) {
      made.center = call_.labels[row];
      scan.before = centers_.place(made.center);
      const float* own = centers_.values(made.center);
      score(made.values, &own, 1, &made.score);
      scan.fast = centers_.fast_place(made.center);
      scratch.needs[place] = move_bounds(scan.reached, made.score, with_fast);
      if (scratch.needs[place] == 0 && !*with_fast) {
        call_.scores[row] = made.score;
        return false;
      }
    } else {
      std::fill_n(scan.reached, groups_, kInfinity);
    }
    RowStats stats;
    scan_.quantise(made.values, shape_.depth, shape_.depth_padded, 0,
                   scratch.codes + place * shape_.query_bytes, &stats);
    row_fault_.note(stats, row);
    if (stats.norm == 0.0f && call_.metric == Metric::kCosine) {  // scores 0 with every center
      call_.labels[row] = 0;
      call_.scores[row] = 0.0f;
      return false;
    }
    made.before_score = made.score;
    made.bound = bounds_.query(stats);
    made.highest = bounds_.highest(made.bound);
    made.least = made.score;
    made.count = 0;
    scratch.terms[place] = bounds_.terms(made.bound, made.least, kInfinity);
    return true;
  }

  // The groups that a row needs; with the fast centers apart, if that makes them fewer by more than
  // these take.
  std::uint64_t move_bounds(float* reached, float own, bool* with_fast) const {
    const BoundMove all = drift_.move(centers_.ways(true), groups_, own);
    if (fast_lanes_ == 0) return kernels_.move_bounds(reached, &all);
    const BoundMove slow = drift_.move(centers_.ways(false), groups_, own);
    alignas(64) float moved[kMostGroups];
    std::copy_n(reached, groups_, moved);
    const std::uint64_t needs = kernels_.move_bounds(moved, &slow);
    const std::uint64_t all_needs = kernels_.move_bounds(reached, &all);
    *with_fast = std::popcount(all_needs) > std::popcount(needs) + fast_lanes_ / kLanes;
    if (!*with_fast) return all_needs;
    std::copy_n(moved, groups_, reached);
    return needs;
  }

  // The fast centers, first and for themselves: each may raise its group's bound.
  void scan_fast_centers(std::int64_t count, const Scratch& scratch) {
    std::copy_n(scratch.fast_rows, count, scratch.picked);
    scan_picked(panels_, panels_ + centers_.fast_panels(), count, false, scratch);
    for (std::int64_t p = 0; p < count; ++p) {
      float* reached = scratch.scans[scratch.picked[p]].reached;
      float* raised = scratch.fast_reached + scratch.picked[p] * fast_lanes_;
      const Bounds::Line& highest = scratch.rows[scratch.picked[p]].highest;
      kernels_.scale_bounds(raised, fast_lanes_, ~std::uint64_t{0},
                            static_cast<float>(highest.base), static_cast<float>(highest.slope));
      centers_.raise_bounds(raised, reached);
    }
  }

  // Scans the open rows that need the group; or, as that is faster where most do, all of them, and
  // by as many groups as a tile has room for. Returns how many groups that was.
  std::int64_t scan_groups(std::int64_t group, std::int64_t open, const Scratch& scratch) {
    const std::int64_t room = std::max<std::int64_t>(scan_.tile_panels / width_, 1);
    const std::uint64_t* wanted = scratch.wanted + group * words_;
    std::int64_t span = std::min(room, groups_ - group), count = 0;
    const bool all = count_bits(wanted, span * words_) * 4 >= open * span * 3;
    if (all) {
      const std::uint64_t groups = ((std::uint64_t{1} << span) - 1) << group;
      for (; count < open; ++count) {
        scratch.picked[count] = static_cast<std::int32_t>(count);
        scratch.needs[count] |= groups;
      }
    } else {
      span = 1;
      count = list_bits(wanted, words_, scratch.picked);
    }
    if (count > 0)
      scan_picked(group * width_, std::min((group + span) * width_, panels_), count, count == open,
                  scratch);
    return span;
  }

  // Scores the picked rows, or `whole`: all that are open, with panels [first, end).
  void scan_picked(std::int64_t first, std::int64_t end, std::int64_t count, bool whole,
                   const Scratch& scratch) {
    const std::int8_t* codes = scratch.codes;
    if (!whole) {
      for (std::int64_t p = 0; p < count; ++p)
        std::memcpy(scratch.picked_codes + p * shape_.query_bytes,
                    scratch.codes + scratch.picked[p] * shape_.query_bytes,
                    static_cast<std::size_t>(shape_.query_bytes));
      codes = scratch.picked_codes;
    }
    for (std::int64_t panel = first; panel < end; panel += scan_.tile_panels) {
      const PanelRun run =
          centers_.run(panel, std::min<std::int64_t>(scan_.tile_panels, end - panel));
      for (std::int64_t p = 0; p < count; p += scan_.tile_rows) {
        const QueryTile tile = {
            codes + p * shape_.query_bytes, shape_.query_bytes,
            static_cast<int>(std::min<std::int64_t>(scan_.tile_rows, count - p))};
        scan_tile(tile, scratch.picked + p, panel, run, whole, scratch);
      }
    }
  }

  void scan_tile(const QueryTile& queries, const std::int32_t* picked, std::int64_t panel,
                 const PanelRun& run, bool whole, const Scratch& scratch) {
    alignas(64) TileEntry tile[kMaxTileRows * kTileStride];
    RowTerms gathered[kMaxTileRows];
    const RowTerms* terms = whole ? scratch.terms + picked[0] : gathered;  // levelled already
    float most[kMaxTileRows * kMaxTilePanels];
    scan_.score_panels(&queries, &run, shape_.depth, tile, kTileStride);
    const std::int64_t first = panel * kLanes, width = run.count * kLanes;
    const std::int64_t valid = centers_.centers_of(panel, run.count);
    const std::int64_t fast_first = first - panels_ * kLanes;
    const bool fast = fast_first >= 0;
    for (int r = 0; r < queries.rows; ++r) {
      TileEntry* entries = tile + r * kTileStride;
      if (!whole) gathered[r] = scratch.terms[picked[r]];
      const RowScan& scan = scratch.scans[picked[r]];
      const std::int64_t own = fast ? scan.fast - fast_first : scan.before - first;
      if (own >= 0 && own < valid) entries[own] = scan_.excluded;
      if (valid < width) std::fill(entries + valid, entries + width, scan_.excluded);
    }
    std::int64_t groups[kMaxTilePanels];
    bool begins[kMaxTilePanels];  // its group
    for (int p = 0; p < run.count; ++p) {
      groups[p] = width_ == 1 ? panel + p : (panel + p) / width_;
      begins[p] = panel + p == groups[p] * width_;
    }
    if (!whole) level_terms(gathered, queries.rows, scan_.tile_rows);
    scan_.reach(tile, kTileStride, queries.rows, terms, &run, bounds_.euclidean(), most);
    if (fast) {
      float entries[kMaxTileRows * kTileStride];
      scan_.reach_entries(tile, kTileStride, queries.rows, terms, &run, bounds_.euclidean(),
                          entries);
      for (int r = 0; r < queries.rows; ++r)
        std::copy_n(entries + r * kTileStride, width,
                    scratch.fast_reached + picked[r] * fast_lanes_ + fast_first);
    }
    for (int r = 0; r < queries.rows; ++r) {
      const RowScan& scan = scratch.scans[picked[r]];
      const float* reached = most + r * kMaxTilePanels;
      bool hit = false;
      for (int p = 0; p < run.count; ++p) {
        if (!fast) {
          float& most_yet = scan.reached[groups[p]];
          most_yet = begins[p] ? reached[p] : std::max(most_yet, reached[p]);
        }
        hit = hit || reached[p] >= terms[r].lower;
      }
      if (!hit) continue;
      Row& row = scratch.rows[picked[r]];
      RowTerms* own_terms = scratch.terms + picked[r];
      if (row.center < 0) begin_scores(row, own_terms, run, tile + r * kTileStride, first);
      collect(row, own_terms, run, tile + r * kTileStride, first);
    }
  }

  // A row that knows no center scores the first panel's most promising one, so that its threshold
  // is of use at once.
  void begin_scores(Row& row, RowTerms* terms, const PanelRun& run, const TileEntry* dots,
                    std::int64_t first) const {
    const PanelFooter& footer = shape_.footer(run.data);
    std::int64_t best = 0;
    double largest = -HUGE_VAL;
    for (int c = 0; c < std::min<std::int64_t>(kLanes, call_.centers.rows - first); ++c) {
      const double half = bounds_.euclidean() ? footer.half_square[c] / row.bound.scale : 0;
      const double about = footer.scale[c] * (bounds_.dot(dots[c]) - half);
      if (about > largest) best = c;
      largest = std::max(about, largest);
    }
    row.candidates[row.count++] = {kInfinity, centers_.id(first + best)};
    settle(row, terms);
  }

  // The entries of a row of a tile that reach its threshold, as candidates.
  void collect(Row& row, RowTerms* own_terms, const PanelRun& run, const TileEntry* dots,
               std::int64_t first) {
    std::uint64_t mask = 0;
    if (scan_.select(dots, kTileStride, 1, own_terms, &run, bounds_.euclidean(), &mask, nullptr) ==
        0)
      return;
    for (; mask != 0; mask &= mask - 1) {
      const int c = std::countr_zero(mask);
      if (dots[c].i32 == scan_.excluded.i32) continue;
      const PanelFooter& footer = shape_.footer(run.data + c / kLanes * shape_.bytes);
      const Interval score = bounds_.score(row.bound, footer, c % kLanes, bounds_.dot(dots[c]));
      if (score.upper < row.least) continue;
      if (row.count == kCandidates) settle(row, own_terms);
      row.candidates[row.count++] = {score.upper, centers_.id(first + c)};
      if (score.lower > row.least) raise(row, score.lower, own_terms);
    }
  }

  void raise(Row& row, float least, RowTerms* terms) const {
    row.least = least;
    bounds_.set_lower(row.bound, least, terms);
  }

  // The best of the row's candidates and its center by their canonical scores.
  void settle(Row& row, RowTerms* terms) const {
    for (int next = 0; next < row.count;) {
      std::int32_t ids[kBatch];
      const float* centers[kBatch];
      float scores[kBatch];
      int batch = 0;
      for (; next < row.count && batch < kBatch; ++next) {
        if (row.candidates[next].upper < row.least) continue;
        ids[batch] = row.candidates[next].id;
        centers[batch] = centers_.values(ids[batch]);
        ++batch;
      }
      if (batch == 0) break;
      score(row.values, centers, batch, scores);
      for (int b = 0; b < batch; ++b) {
        if (scores[b] < row.score || (scores[b] == row.score && ids[b] > row.center)) continue;
        row.score = scores[b];
        row.center = ids[b];
      }
    }
    row.count = 0;
    if (row.score > row.least) raise(row, row.score, terms);
  }

  void finish_row(Row& row, const RowScan& scan, std::uint64_t scanned, RowTerms* terms) const {
    settle(row, terms);
    kernels_.scale_bounds(scan.reached, groups_, scanned, static_cast<float>(row.highest.base),
                          static_cast<float>(row.highest.slope));
    if (known_ && row.center != centers_.id(scan.before)) {  // which is now one of the others
      float& bound = scan.reached[centers_.group_of(centers_.id(scan.before))];
      bound = std::max(bound, drift_.above(row.before_score));
    }
    call_.labels[row.row] = row.center;
    call_.scores[row.row] = row.score;
  }

  const NearestCentersCall& call_;
  const KernelTable& kernels_;
  const ScanKernels& scan_;
  const PanelShape shape_;
  const Bounds bounds_;
  const Drift drift_;
  const bool known_;
  const std::int64_t block_rows_, words_;  // words_: of a bit for each of a block's rows
  Workspace workspace_;
  MovedCenters centers_;
  const std::int64_t panels_ = centers_.panels(), width_ = centers_.width(),
                     groups_ = centers_.groups(), fast_lanes_ = centers_.fast_panels() * kLanes;
  RowFault row_fault_, center_fault_;
  std::atomic<std::int64_t> done_ = 0;
  Scratch* scratch_ = nullptr;
};

}  // namespace

std::int64_t center_groups(std::int64_t centers) {
  return divide_up(panels_of(centers), group_panels(centers));
}

std::int64_t group_centers(std::int64_t centers) { return group_panels(centers) * kLanes; }

std::size_t nearest_centers_workspace_bytes(const NearestCentersCall& call) {
  return NearestCenters(call).bytes();
}

void nearest_centers(const NearestCentersCall& call) {
  NearestCenters(call, Workspace(call.execution)).run();
}

}  // namespace stope
