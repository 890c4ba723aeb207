// topk: scan int8 (or bfloat16) tiles, keep what the bounds cannot rule out, rescore that
// canonically.
//
//   for each group of queries (their candidates fit kCandidateBytes)
//     quantise the queries
//     for each region of the corpus (packed here, or part of the index)
//       for each task = (block of queries) x (split of the region), in parallel
//         scan: score a tile -> exclude -> select -> candidates
//       meanwhile: pack the next region
//     for each query, in parallel: rescore, order, write
//
// With few queries the panels are split among the threads, each split with candidates of its own.
// Extra memory: kCandidateBytes + 2 * kRegionBytes + O(k) per query of one group.
#include "stope/topk.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "bounds.h"
#include "candidates.h"
#include "dispatch.h"
#include "packing.h"
#include "parallel.h"
#include "rows.h"
#include "scan.h"
#include "stope/error.h"

namespace stope {
namespace {

constexpr std::int64_t kCandidateBytes = 32 << 20;
constexpr std::int64_t kRegionBytes = 2 << 20;
constexpr std::int64_t kIndexRegionBytes = 64 << 20;  // how often an index search reports progress
constexpr std::int64_t kBlockBytes = 192 << 10;       // of queries, in the second-level cache
constexpr std::int64_t kPackPanels = 16;              // of one task
constexpr double kLargestInt8Loss = 0.04;             // of queries and corpus together
constexpr std::int64_t kFewQueries = 64;              // per thread; below it the corpus is split

class Topk {
 public:
  explicit Topk(const TopkCall& call, Workspace workspace = {})
      : call_(call),
        kernels_(stope::kernels()),
        scan_(choose_scan(call, kernels_)),
        int8_(&scan_ != &kernels_.bfloat16),
        packed_(int8_ ? static_cast<const std::int8_t*>(call.packed.data) : nullptr),
        shape_(call.corpus.columns, scan_.element_bytes),
        bounds_(call.metric, call.corpus.columns, int8_, call.precision != Precision::kExact),
        scorer_(kernels_, call.queries, call.corpus, call.metric),
        selector_(kernels_, call.k, scorer_),
        workspace_(workspace) {
    plan();
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    total_ = divide_up(call_.queries.rows, group_) * call_.corpus.rows;
    for (std::int64_t first = 0; first < call_.queries.rows; first += group_) {
      first_query_ = first;
      group_rows_ = std::min(group_, call_.queries.rows - first);
      prepare_queries();
      if (packed_ == nullptr) pack_first_region();
      for (std::int64_t panel = 0; panel < panels_; panel += region_panels_)
        scan_region(panel, std::min(panel + region_panels_, panels_));
      finish_group();
    }
  }

 private:
  struct QueryState {
    QueryBound bound;
    const float* values;
    float floor, ceiling;
  };
  // One split's view of one query.
  struct SplitState {
    CandidateList list;
    Eligibility eligibility;
    std::int64_t next_excluded;
  };
  struct ThreadScratch {
    float* pack;
    CandidateScratch candidates;
  };

  // int8 is the fastest scan; an exact search takes bfloat16 where int8 would lose so much of the
  // rows that rescoring the doubtful would cost more than it saves (measured on AVX-512 and AVX2).
  static const ScanKernels& choose_scan(const TopkCall& call, const KernelTable& kernels) {
    if (call.precision == Precision::kBFloat16) return kernels.bfloat16;
    if (call.precision == Precision::kInt8 || scored_as_int8(call.queries, call.metric))
      return kernels.int8;
    if (call.packed.data != nullptr) return kernels.int8_exact;
    const double loss = int8_loss(kernels, call.queries, call.metric) +
                        int8_loss(kernels, call.corpus, call.metric);
    return loss > kLargestInt8Loss ? kernels.bfloat16 : kernels.int8_exact;
  }

  void plan() {
    const std::int64_t threads = call_.execution.threads;
    const std::int64_t depth = shape_.depth;
    const std::int64_t capacity = CandidateSelector::capacity_for(call_.k);
    panels_ = divide_up(call_.corpus.rows, kLanes);
    splits_ = std::clamp<std::int64_t>(
        divide_up(kFewQueries * threads, std::max<std::int64_t>(call_.queries.rows, 1)), 1,
        threads);
    const std::int64_t list_bytes =
        capacity * static_cast<std::int64_t>(sizeof(Candidate)) * splits_;
    group_ = std::min(std::max<std::int64_t>(kCandidateBytes / list_bytes, 2 * kMaxTileRows),
                      std::max<std::int64_t>(call_.queries.rows, 1));
    // Blocks small enough that every thread gets several.
    const std::int64_t most = round_up(kBlockBytes / shape_.query_bytes, scan_.tile_rows);
    block_ =
        std::clamp<std::int64_t>(round_up(divide_up(group_, 4 * threads), scan_.tile_rows),
                                 scan_.tile_rows, std::max<std::int64_t>(most, scan_.tile_rows));
    // A region that several blocks scan should stay in a cache.
    const bool packed = packed_ != nullptr, scanned_once = group_ <= block_ * threads;
    const std::int64_t region_bytes = packed && scanned_once
                                          ? kIndexRegionBytes
                                          : kRegionBytes * std::max<std::int64_t>(threads / 4, 1);
    region_panels_ = std::min(
        std::max<std::int64_t>(region_bytes / shape_.bytes, kMaxTilePanels * splits_), panels_);

    queries_ = workspace_.take<QueryState>(group_);
    codes_ = workspace_.take<std::int8_t>((group_ + kMaxTileRows) * shape_.query_bytes);
    if (!read_in_place(call_.queries, call_.metric))
      query_values_ = workspace_.take<float>(group_ * depth);
    terms_ = workspace_.take<RowTerms>(splits_ * group_);
    states_ = workspace_.take<SplitState>(splits_ * group_);
    entries_ = workspace_.take<Candidate>(splits_ * group_ * capacity);
    above_ = workspace_.take<std::int64_t>(splits_ * group_);
    if (!packed) {
      region_ = workspace_.take<std::int8_t>(region_panels_ * shape_.bytes);
      next_region_ = workspace_.take<std::int8_t>(region_panels_ * shape_.bytes);
    }
    scratch_ = workspace_.take<ThreadScratch>(threads);
    for (std::int64_t t = 0; t < threads; ++t) {
      ThreadScratch scratch = {};
      if (!packed) scratch.pack = workspace_.take<float>(kLanes * depth);
      scratch.candidates.rows = workspace_.take<float>(ExactScorer::scratch_floats(depth));
      scratch.candidates.lowers = workspace_.take<float>(splits_ * capacity + kLanes);
      if (splits_ > 1) scratch.candidates.merged = workspace_.take<Candidate>(splits_ * capacity);
      if (codes_ != nullptr) scratch_[t] = scratch;
    }
  }

  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    const Poll poll = [](void* self) { return static_cast<Topk*>(self)->report(); };
    if (!parallel_for(call_.execution.threads, tasks, body, poll, this)) throw Interrupted();
  }
  bool report() const {
    const Progress& progress = call_.execution.progress;
    return progress.step == nullptr || progress.step(progress.context, done_, total_);
  }

  void prepare_queries() {
    RowFault fault;
    const float scale = fixed_scale(call_.queries, call_.metric);
    constexpr std::int64_t kRowsPerTask = 64;
    parallel(divide_up(group_rows_, kRowsPerTask), [&](std::int64_t task, int) {
      const std::int64_t begin = task * kRowsPerTask;
      for (std::int64_t i = begin; i < std::min(begin + kRowsPerTask, group_rows_); ++i)
        prepare_query(i, scale, &fault);
    });
    fault.raise("queries");
    level_terms();
    std::fill_n(codes_ + group_rows_ * shape_.query_bytes, kMaxTileRows * shape_.query_bytes,
                std::int8_t{0});
  }

  void prepare_query(std::int64_t i, float scale, RowFault* fault) {
    const std::int64_t row = first_query_ + i;
    QueryState& query = queries_[i];
    float* scratch = query_values_ == nullptr ? nullptr : query_values_ + i * shape_.depth;
    query.values = float_row(kernels_, call_.queries, call_.metric, row, scratch);
    RowStats stats;
    scan_.quantise(query.values, shape_.depth, shape_.depth_padded, scale,
                   codes_ + i * shape_.query_bytes, &stats);
    if (!stats.finite)
      fault->note_not_finite(row);
    else if (!(stats.norm * stats.scale < kLargestNorm))
      fault->note_too_long(row);
    query.bound = bounds_.query(stats);
    query.floor = call_.floors == nullptr ? -kInfinity : call_.floors[row];
    query.ceiling = call_.ceilings == nullptr ? kInfinity : call_.ceilings[row];
    for (std::int64_t split = 0; split < splits_; ++split) {
      const std::int64_t s = split * group_ + i;
      states_[s] = {};
      states_[s].eligibility = {query.floor, query.ceiling, 0};
      states_[s].list = selector_.list(entries_ + s * CandidateSelector::capacity_for(call_.k),
                                       states_[s].eligibility.least());
      terms_[s] = bounds_.terms(query.bound, states_[s].list.least, query.ceiling);
      above_[s] = 0;
    }
  }

  // Gives the rows of a tile the largest weights among them. Tiles start at multiples of tile_rows.
  void level_terms() {
    for (std::int64_t split = 0; split < splits_; ++split) {
      for (std::int64_t first = 0; first < group_rows_; first += scan_.tile_rows) {
        RowTerms* tile = terms_ + split * group_ + first;
        const std::int64_t rows = std::min<std::int64_t>(scan_.tile_rows, group_rows_ - first);
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
  }

  void scan_region(std::int64_t first, std::int64_t end) {
    const std::int8_t* data = packed_ == nullptr ? region_ : packed_ + first * shape_.bytes;
    const std::int64_t blocks = divide_up(group_rows_, block_);
    const std::int64_t per_split = round_up(divide_up(end - first, splits_), scan_.tile_panels);
    const std::int64_t scans = blocks * splits_;
    const std::int64_t next_end =
        packed_ == nullptr ? std::min(end + region_panels_, panels_) : end;
    RowFault fault;
    parallel(scans + divide_up(next_end - end, kPackPanels), [&](std::int64_t task, int thread) {
      if (task >= scans)
        return pack_panels(end + (task - scans) * kPackPanels, next_end, end, next_region_, thread,
                           &fault);
      const std::int64_t split = task % splits_, row = task / splits_ * block_;
      const std::int64_t begin = first + split * per_split;
      const ScanPanels panels = {data + (begin - first) * shape_.bytes, begin,
                                 std::min(begin + per_split, end)};
      if (panels.first < panels.end)
        scan_block(split, {codes_, row, std::min(row + block_, group_rows_)}, panels,
                   scratch_[thread].candidates);
    });
    fault.raise("corpus");
    std::swap(region_, next_region_);
    done_ += std::min(end * kLanes, call_.corpus.rows) - first * kLanes;
  }

  void pack_first_region() {
    RowFault fault;
    parallel(divide_up(region_panels_, kPackPanels), [&](std::int64_t task, int thread) {
      pack_panels(task * kPackPanels, region_panels_, 0, region_, thread, &fault);
    });
    fault.raise("corpus");
  }

  // Packs kPackPanels panels from `begin` on, but none from `end` on; panel `first` lies at `out`.
  void pack_panels(std::int64_t begin, std::int64_t end, std::int64_t first, std::int8_t* out,
                   int thread, RowFault* fault) {
    for (std::int64_t p = begin; p < std::min(begin + kPackPanels, end); ++p)
      pack_one_panel(kernels_, scan_, call_.corpus, call_.metric, p, shape_, scratch_[thread].pack,
                     out + (p - first) * shape_.bytes, fault);
  }

  void scan_block(std::int64_t split, const ScanQueries& queries, const ScanPanels& panels,
                  const CandidateScratch& scratch) {
    SplitState* states = states_ + split * group_;
    RowTerms* terms = terms_ + split * group_;
    std::int64_t* above = call_.ceilings == nullptr ? nullptr : above_ + split * group_;
    const bool excludes = call_.exclude.offsets != nullptr;
    if (excludes)
      for (std::int64_t i = queries.first; i < queries.end; ++i)
        states[i].next_excluded = first_excluded(first_query_ + i, panels.first * kLanes);
    std::uint64_t masks[kMaxTileRows];
    scan(scan_, shape_, queries, panels,
         [&](std::int64_t row, int rows, std::int64_t panel, const PanelRun& run, TileEntry* tile) {
           if (excludes) exclude(states + row, row, rows, panel, run.count, tile);
           if ((panel + run.count) * kLanes > call_.corpus.rows) exclude_padding(rows, panel, tile);
           std::uint32_t hits =
               scan_.select(tile, kTileStride, rows, terms + row, &run, bounds_.euclidean(), masks,
                            above == nullptr ? nullptr : above + row);
           for (; hits != 0; hits &= hits - 1) {
             const int r = std::countr_zero(hits);
             collect(row + r, &states[row + r], &terms[row + r], masks[r], panel, run.data,
                     tile + r * kTileStride, scratch);
           }
         });
  }

  std::int64_t first_excluded(std::int64_t query, std::int64_t id) const {
    const IdLists& lists = call_.exclude;
    const std::int64_t* end = lists.ids + lists.offsets[query + 1];
    return std::lower_bound(lists.ids + lists.offsets[query], end, id) - lists.ids;
  }

  void exclude(SplitState* states, std::int64_t row, int rows, std::int64_t panel, int count,
               TileEntry* tile) const {
    const std::int64_t begin = panel * kLanes, end = (panel + count) * kLanes;
    for (int r = 0; r < rows; ++r) {
      const std::int64_t list_end = call_.exclude.offsets[first_query_ + row + r + 1];
      std::int64_t& next = states[r].next_excluded;
      // A chunk is scanned once per query, in ascending panels, so the cursor never goes back.
      for (; next < list_end && call_.exclude.ids[next] < end; ++next)
        tile[r * kTileStride + call_.exclude.ids[next] - begin] = scan_.excluded;
    }
  }

  void exclude_padding(int rows, std::int64_t panel, TileEntry* tile) const {
    const std::int64_t valid = call_.corpus.rows - panel * kLanes;
    for (int r = 0; r < rows; ++r)
      std::fill(tile + r * kTileStride + valid, tile + (r + 1) * kTileStride, scan_.excluded);
  }

  // Bit 16 * p + c of the mask is row c of the p-th panel at `panels`.
  void collect(std::int64_t i, SplitState* state, RowTerms* terms, std::uint64_t mask,
               std::int64_t first_panel, const std::int8_t* panels, const TileEntry* dots,
               const CandidateScratch& scratch) {
    const QueryState& query = queries_[i];
    for (; mask != 0; mask &= mask - 1) {
      const int column = std::countr_zero(mask);
      if (dots[column].i32 == scan_.excluded.i32) continue;
      const PanelFooter& footer = shape_.footer(panels + column / kLanes * shape_.bytes);
      const double dot =
          int8_ ? static_cast<double>(dots[column].i32) : static_cast<double>(dots[column].f32);
      const Interval score = bounds_.score(query.bound, footer, column % kLanes, dot);
      Candidate entry = {score.upper, score.lower,
                         static_cast<std::int32_t>(first_panel * kLanes + column)};
      if (entry.upper < state->list.least || !state->eligibility.admit(&entry)) continue;
      state->list.entries[state->list.count++] = entry;
      if (selector_.due(state->list)) {
        selector_.refine(&state->list, {first_query_ + i, query.values}, &state->eligibility,
                         scratch);
        bounds_.set_lower(query.bound, state->list.least, terms);
      }
    }
  }

  void finish_group() {
    constexpr std::int64_t kRowsPerTask = 16;
    parallel(divide_up(group_rows_, kRowsPerTask), [&](std::int64_t task, int thread) {
      const std::int64_t begin = task * kRowsPerTask;
      for (std::int64_t i = begin; i < std::min(begin + kRowsPerTask, group_rows_); ++i)
        finish_query(i, scratch_[thread].candidates);
    });
  }

  void finish_query(std::int64_t i, const CandidateScratch& scratch) {
    const std::int64_t row = first_query_ + i;
    CandidateList list = states_[i].list;
    Eligibility eligibility = states_[i].eligibility;
    std::int64_t above = above_[i];
    if (splits_ > 1) {
      list.entries = scratch.merged;
      list.count = 0;
      for (std::int64_t split = 0; split < splits_; ++split) {
        const SplitState& part = states_[split * group_ + i];
        std::copy_n(part.list.entries, part.list.count, list.entries + list.count);
        list.count += part.list.count;
        list.least = std::max(list.least, part.list.least);
        if (split > 0) {
          eligibility.above += part.eligibility.above;
          above += above_[split * group_ + i];
        }
      }
    }
    selector_.tighten(&list, scratch.lowers);
    selector_.finish(&list, {row, queries_[i].values}, &eligibility, scratch);
    float* scores = call_.scores + row * call_.k;
    std::int64_t* ids = call_.ids + row * call_.k;
    for (std::int64_t r = 0; r < call_.k; ++r) {
      scores[r] = r < list.count ? list.entries[r].upper : -kInfinity;
      ids[r] = r < list.count ? list.entries[r].id : -1;
    }
    if (call_.above_ceiling != nullptr) call_.above_ceiling[row] = above + eligibility.above;
  }

  const TopkCall& call_;
  const KernelTable& kernels_;
  const ScanKernels& scan_;
  bool int8_;
  const std::int8_t* packed_;  // nullptr: packed here, region by region
  PanelShape shape_;
  Bounds bounds_;
  ExactScorer scorer_;
  CandidateSelector selector_;
  Workspace workspace_;

  std::int64_t panels_ = 0, splits_ = 1, group_ = 0, region_panels_ = 0, block_ = 0;
  std::int64_t first_query_ = 0, group_rows_ = 0, done_ = 0, total_ = 0;

  QueryState* queries_ = nullptr;
  std::int8_t* codes_ = nullptr;
  float* query_values_ = nullptr;
  RowTerms* terms_ = nullptr;           // [splits][group]
  SplitState* states_ = nullptr;        // [splits][group]
  Candidate* entries_ = nullptr;        // [splits][group][capacity]
  std::int64_t* above_ = nullptr;       // [splits][group], counted by select
  std::int8_t* region_ = nullptr;       // the packed panels of one region
  std::int8_t* next_region_ = nullptr;  // and of the next
  ThreadScratch* scratch_ = nullptr;
};

}  // namespace

std::size_t topk_workspace_bytes(const TopkCall& call) { return Topk(call).bytes(); }

void topk(const TopkCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return topk_cuda(call);
  Topk(call, Workspace(call.execution)).run();
}

}  // namespace stope
