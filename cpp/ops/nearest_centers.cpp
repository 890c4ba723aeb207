// nearest_centers: which center each row is nearest to, with bounds from one call to the next.
//
//   pack the centers; how far did those of each group go?
//   for each block of rows, in parallel
//     for each row: score it with its own center, canonically; move its bounds
//     for each group of centers: scan the rows whose bound lets it hold a better one
//       a tile -> the row's new bound -> candidates that reach the row's threshold
//     for each row: rescore its candidates
//
// A row with no group to scan costs one score. The threshold is a row's own score from the
// beginning, so that few others become candidates. Extra memory: the packed centers, and under
// cosine the centers normalised; a block of at most 256 rows and their codes, twice, per thread.
#include "stope/nearest_centers.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <stdexcept>

#include "bounds.h"
#include "dispatch.h"
#include "drift.h"
#include "packing.h"
#include "rows.h"
#include "scan.h"
#include "tasks.h"

namespace stope {
namespace {

constexpr std::int64_t kMostGroups = 64;
constexpr std::int64_t kBlockBytes = 96 << 10;  // of codes
constexpr std::int64_t kLeastRows = 32, kMostRows = 256;
constexpr int kCandidates = 16;                      // of a row, before they are rescored
constexpr std::uint64_t kBits = 0x4332322132212110;  // nibble n: the bits set in n, 0 to 15
constexpr int kBatch = 8;                            // centers of one call of the exact kernels

std::int64_t panels_of(std::int64_t centers) { return divide_up(centers, kLanes); }
std::int64_t group_panels(std::int64_t centers) {
  return divide_up(panels_of(centers), kMostGroups);
}

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
        panels_(panels_of(call.centers.rows)),
        width_(group_panels(call.centers.rows)),
        groups_(center_groups(call.centers.rows)),
        block_rows_(std::clamp(kBlockBytes / shape_.query_bytes, kLeastRows, kMostRows)),
        workspace_(workspace) {
    if (call.metric == Metric::kDot)
      throw std::invalid_argument(
          "metric is dot, and centers are near by a distance or a cosine; give one of these");
    const std::int64_t depth = shape_.depth;
    packed_ = workspace_.take<std::int8_t>(panels_ * shape_.bytes);
    if (!read_in_place(call.centers, call.metric))
      center_values_ = workspace_.take<float>(call.centers.rows * depth);
    ways_ = workspace_.take<float>(groups_);
    scratch_ = workspace_.take<Scratch>(call.execution.threads);
    for (std::int64_t t = 0; t < call.execution.threads; ++t) {
      Scratch scratch = {};
      scratch.rows = workspace_.take<Row>(block_rows_);
      scratch.scans = workspace_.take<RowScan>(block_rows_);
      scratch.terms = workspace_.take<RowTerms>(block_rows_);
      scratch.needs = workspace_.take<std::uint64_t>(block_rows_);
      scratch.picked = workspace_.take<std::int32_t>(block_rows_);
      const std::int64_t code_bytes = (block_rows_ + kMaxTileRows) * shape_.query_bytes;
      scratch.codes = workspace_.take<std::int8_t>(code_bytes);
      scratch.picked_codes = workspace_.take<std::int8_t>(code_bytes);
      scratch.pack = workspace_.take<float>(kLanes * depth);
      if (!read_in_place(call.rows, call.metric))
        scratch.values = workspace_.take<float>(block_rows_ * depth);
      if (scratch_ != nullptr) scratch_[t] = scratch;
    }
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    parallel(panels_, [&](std::int64_t panel, int thread) { pack_centers(panel, thread); });
    if (known_)
      parallel(groups_, [&](std::int64_t group, int thread) { measure_way(group, thread); });
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
    Bounds::Line highest;
    float* reached;
    std::int64_t before;  // the center of the last call, or -1
  };
  // and what its candidates need.
  struct Row {
    std::int64_t row;
    const float* values;
    QueryBound bound;
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
    std::uint64_t* needs;  // the groups that each row needs, as bits
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

  const float* center(std::int64_t id) const {
    return center_values_ == nullptr ? static_cast<const float*>(row_data(call_.centers, id))
                                     : center_values_ + id * shape_.depth;
  }

  void pack_centers(std::int64_t panel, int thread) {
    pack_one_panel(kernels_, scan_, call_.centers, call_.metric, panel, shape_,
                   scratch_[thread].pack, packed_ + panel * shape_.bytes, &center_fault_);
    if (center_values_ == nullptr) return;
    const std::int64_t end = std::min((panel + 1) * kLanes, call_.centers.rows);
    for (std::int64_t id = panel * kLanes; id < end; ++id)
      float_row(kernels_, call_.centers, call_.metric, id, center_values_ + id * shape_.depth);
  }

  // The longest way of a center of the group, rounded up.
  void measure_way(std::int64_t group, int thread) {
    double longest = 0;
    const std::int64_t end = std::min((group + 1) * width_ * kLanes, call_.centers.rows);
    for (std::int64_t id = group * width_ * kLanes; id < end; ++id) {
      const float* from =
          float_row(kernels_, call_.before, call_.metric, id, scratch_[thread].pack);
      const float* to = center(id);
      double sum = 0;
      for (std::int64_t d = 0; d < shape_.depth; ++d) {
        const double step = static_cast<double>(to[d]) - static_cast<double>(from[d]);
        sum += step * step;
      }
      longest = std::max(longest, sum);
    }
    ways_[group] = static_cast<float>(std::sqrt(longest) * (1 + 0x1p-20));
  }

  void score(const float* values, const float* const* centers, int count, float* scores) const {
    const auto exact =
        call_.metric == Metric::kEuclidean ? kernels_.exact_distance : kernels_.exact_dot;
    exact(&values, 1, centers, count, shape_.depth, scores, kBatch);
  }

  void assign(std::int64_t first, std::int64_t end, const Scratch& scratch) {
    std::int64_t open = 0;
    for (std::int64_t row = first; row < end; ++row) {
      if (known_ && row + 1 < end)
        prefetch_row(center(call_.labels[row + 1]), shape_.depth * std::int64_t{sizeof(float)});
      if (begin_row(row, open, scratch)) ++open;
    }
    if (open == 0) return;
    std::fill_n(scratch.codes + open * shape_.query_bytes, kMaxTileRows * shape_.query_bytes,
                std::int8_t{0});
    level_terms(scratch.terms, open, scan_.tile_rows);
    scan_.begin_tiles();
    for (std::int64_t group = 0; group < groups_;) group += scan_groups(group, open, scratch);
    scan_.end_tiles();
    for (std::int64_t r = 0; r < open; ++r)
      finish_row(scratch.rows[r], scratch.scans[r], &scratch.terms[r]);
  }

  // Makes the row number `place` of the open ones; false where it keeps its center.
  bool begin_row(std::int64_t row, std::int64_t place, const Scratch& scratch) {
    Row& made = scratch.rows[place];
    RowScan& scan = scratch.scans[place];
    made.row = row;
    made.values =
        float_row(kernels_, call_.rows, call_.metric, row,
                  scratch.values == nullptr ? nullptr : scratch.values + place * shape_.depth);
    scan.reached = call_.reached + row * groups_;
    scan.before = made.center = -1;
    made.score = -kInfinity;
    scratch.needs[place] = ~std::uint64_t{0};
    if (known_) {
      scan.before = made.center = call_.labels[row];
      const float* own = center(made.center);
      score(made.values, &own, 1, &made.score);
      const BoundMove move = drift_.move(ways_, groups_, made.score);
      scratch.needs[place] = kernels_.move_bounds(scan.reached, &move);
      if (scratch.needs[place] == 0) {
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
    scan.highest = bounds_.highest(made.bound);
    made.least = made.score;
    made.count = 0;
    scratch.terms[place] = bounds_.terms(made.bound, made.least, kInfinity);
    return true;
  }

  // Scans the open rows that need the group; or, as that is faster where most do, all of them, and
  // by as many groups as a tile has room for. Returns how many groups that was.
  std::int64_t scan_groups(std::int64_t group, std::int64_t open, const Scratch& scratch) {
    static_assert(kMaxTilePanels <= 4, "a nibble is enough");
    const std::int64_t room = std::max<std::int64_t>(scan_.tile_panels / width_, 1);
    std::int64_t span = std::min(room, groups_ - group);
    const std::uint64_t mask = (std::uint64_t{1} << span) - 1;
    std::int64_t needs = 0, count = 0;
    for (std::int64_t r = 0; r < open; ++r)
      needs += static_cast<std::int64_t>(kBits >> (scratch.needs[r] >> group & mask) * 4 & 15u);
    const bool all = needs * 4 >= open * span * 3;
    if (!all) span = 1;
    for (std::int64_t r = 0; r < open; ++r) {
      scratch.picked[count] = static_cast<std::int32_t>(r);
      count += all ? 1 : static_cast<std::int64_t>(scratch.needs[r] >> group & 1u);
    }
    const std::int8_t* codes = scratch.codes;
    if (count < open) {
      for (std::int64_t p = 0; p < count; ++p)
        std::memcpy(scratch.picked_codes + p * shape_.query_bytes,
                    scratch.codes + scratch.picked[p] * shape_.query_bytes,
                    static_cast<std::size_t>(shape_.query_bytes));
      codes = scratch.picked_codes;
    }
    for (std::int64_t p = 0; p < count; ++p)
      std::fill_n(scratch.scans[scratch.picked[p]].reached + group, span, -1e38f);
    const std::int64_t end = std::min((group + span) * width_, panels_);
    for (std::int64_t panel = group * width_; panel < end; panel += scan_.tile_panels) {
      const PanelRun run = {
          packed_ + panel * shape_.bytes, shape_.bytes, shape_.footer_offset,
          static_cast<int>(std::min<std::int64_t>(scan_.tile_panels, end - panel))};
      for (std::int64_t p = 0; p < count; p += scan_.tile_rows) {
        const QueryTile tile = {
            codes + p * shape_.query_bytes, shape_.query_bytes,
            static_cast<int>(std::min<std::int64_t>(scan_.tile_rows, count - p))};
        scan_tile(tile, scratch.picked + p, panel, run, count == open, scratch);
      }
    }
    return span;
  }

  void scan_tile(const QueryTile& queries, const std::int32_t* picked, std::int64_t panel,
                 const PanelRun& run, bool whole, const Scratch& scratch) {
    alignas(64) TileEntry tile[kMaxTileRows * kTileStride];
    RowTerms gathered[kMaxTileRows];
    const RowTerms* terms = whole ? scratch.terms + picked[0] : gathered;  // levelled already
    float most[kMaxTileRows * kMaxTilePanels];
    scan_.score_panels(&queries, &run, shape_.depth, tile, kTileStride);
    const std::int64_t first = panel * kLanes, width = run.count * kLanes;
    const std::int64_t valid = std::min(call_.centers.rows - first, width);
    for (int r = 0; r < queries.rows; ++r) {
      TileEntry* entries = tile + r * kTileStride;
      if (!whole) gathered[r] = scratch.terms[picked[r]];
      const std::int64_t own = scratch.scans[picked[r]].before - first;
      if (own >= 0 && own < valid) entries[own] = scan_.excluded;
      if (valid < width) std::fill(entries + valid, entries + width, scan_.excluded);
    }
    std::int64_t groups[kMaxTilePanels];
    for (int p = 0; p < run.count; ++p) groups[p] = width_ == 1 ? panel + p : (panel + p) / width_;
    if (!whole) level_terms(gathered, queries.rows, scan_.tile_rows);
    scan_.reach(tile, kTileStride, queries.rows, terms, &run, bounds_.euclidean(), most);
    for (int r = 0; r < queries.rows; ++r) {
      const RowScan& scan = scratch.scans[picked[r]];
      const float* reached = most + r * kMaxTilePanels;
      bool hit = false;
      for (int p = 0; p < run.count; ++p) {
        float& bound = scan.reached[groups[p]];
        bound = std::max(bound, Drift::bound(scan.highest.at(reached[p])));
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
    row.candidates[row.count++] = {kInfinity, static_cast<std::int32_t>(first + best)};
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
      row.candidates[row.count++] = {score.upper, static_cast<std::int32_t>(first + c)};
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
        centers[batch] = center(ids[batch]);
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

  void finish_row(Row& row, const RowScan& scan, RowTerms* terms) const {
    settle(row, terms);
    if (known_ && row.center != scan.before) {  // which is now one of the others
      float& bound = scan.reached[scan.before / kLanes / width_];
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
  const std::int64_t panels_, width_, groups_, block_rows_;  // width_: panels of a group
  Workspace workspace_;
  RowFault row_fault_, center_fault_;
  std::atomic<std::int64_t> done_ = 0;
  std::int8_t* packed_ = nullptr;
  float* center_values_ = nullptr;  // where centers cannot be read in place
  float* ways_ = nullptr;           // [groups]
  Scratch* scratch_ = nullptr;
};

}  // namespace

std::int64_t center_groups(std::int64_t centers) {
  return divide_up(panels_of(centers), group_panels(centers));
}

std::size_t nearest_centers_workspace_bytes(const NearestCentersCall& call) {
  return NearestCenters(call).bytes();
}

void nearest_centers(const NearestCentersCall& call) {
  NearestCenters(call, Workspace(call.execution)).run();
}

}  // namespace stope
