// topk: scan int8 (or bfloat16) tiles, keep what the bounds cannot rule out, rescore that
// canonically.
//
//   for each group of queries (their candidates fit a budget, topk_plan.h)
//     quantise the queries
//     scan a sample of the corpus likewise, for a threshold that most likely k scores reach
//     for each region of the corpus (packed here, or part of the index)
//       for each task = (block of queries) x (split of the region), in parallel
//         scan: score a tile -> exclude -> select -> candidates
//       meanwhile: pack the next region
//     rescore: by rows of the corpus where many candidates share them, or query by query
//     for each query, in parallel: order, write
//     all that again, without a sample, for the queries whose threshold k scores do not reach
//
// With few queries the panels are split among the threads, each split with candidates of its own.
// Extra memory: the candidates of a group (32 MiB, or up to 64 MiB where k is so large that fewer
// than 2,048 queries would fit), two regions of 2 MiB, O(k) per thread.
#include "stope/topk.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <numeric>
#include <stdexcept>

#include "bounds.h"
#include "candidates.h"
#include "dispatch.h"
#include "packing.h"
#include "rescore.h"
#include "rows.h"
#include "scan.h"
#include "splits.h"
#include "tasks.h"
#include "topk_plan.h"

namespace stope {
namespace {

constexpr std::int64_t kPackPanels = 16;        // of one task
constexpr std::int64_t kRowwiseCandidates = 2;  // per corpus row; from there on rescored by rows

class Topk {
 public:
  explicit Topk(const TopkCall& call, Workspace workspace = {})
      : call_(call),
        kernels_(stope::kernels()),
        plan_(call, kernels_),
        format_(&plan_.format),
        bounds_(call.metric, call.corpus.columns, plan_.int8, call.precision != Precision::kExact),
        scorer_(kernels_, call.queries, call.corpus, call.metric),
        selector_(kernels_, call.k, plan_.capacity, scorer_, plan_.has_halves),
        sample_selector_(kernels_, plan_.sample.rank, scorer_),
        rescorer_(scorer_, call.corpus, call.execution.threads),
        workspace_(workspace) {
    take_workspace();
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    total_ = divide_up(call_.queries.rows, plan_.group) * call_.corpus.rows;
    for (std::int64_t first = 0; first < call_.queries.rows; first += plan_.group) {
      group_rows_ = std::min(plan_.group, call_.queries.rows - first);
      std::iota(query_rows_, query_rows_ + group_rows_, first);
      if (plan_.samples) {
        pass_ = {plan_.sample.rows, true, &sample_selector_, plan_.sample_panels,
                 TopkPassKind::kSample};
        prepare_queries();
        scan_pass();
        start_over_from_sample();
      }
      pass_ = {call_.corpus.rows, format_->packed == nullptr, &selector_, plan_.region_panels,
               TopkPassKind::kFirst};
      if (!plan_.samples) prepare_queries();
      scan_pass();
      finish_group();
      group_rows_ = keep_refuted();
      if (group_rows_ == 0) continue;
      pass_.kind = TopkPassKind::kRepeated;
      prepare_queries();
      scan_pass();
      finish_group();
    }
  }

 private:
  struct ThreadScratch {
    float* pack;
    CandidateScratch candidates;
    RowwiseRescorer::Scratch rescore;
  };

  void take_workspace() {
    const std::int64_t depth = shape().depth, lists = plan_.splits * plan_.group;
    query_rows_ = workspace_.take<std::int64_t>(plan_.group);
    queries_ = workspace_.take<TopkQuery>(plan_.group);
    codes_ = workspace_.take<std::int8_t>((plan_.group + kMaxTileRows) * shape().query_bytes);
    if (!read_in_place(call_.queries, call_.metric))
      query_values_ = workspace_.take<float>(plan_.group * depth);
    terms_ = workspace_.take<RowTerms>(lists);
    states_ = workspace_.take<TopkSplit>(lists);
    entries_ = workspace_.take<Candidate>(lists * plan_.capacity);
    above_ = workspace_.take<std::int64_t>(lists);
    region_ = workspace_.take<std::int8_t>(plan_.buffer_panels * shape().bytes);
    next_region_ = workspace_.take<std::int8_t>(plan_.buffer_panels * shape().bytes);
    scratch_ = workspace_.take<ThreadScratch>(call_.execution.threads);
    for (std::int64_t t = 0; t < call_.execution.threads; ++t) {
      ThreadScratch scratch = {};
      if (plan_.buffer_panels > 0) scratch.pack = workspace_.take<float>(kLanes * depth);
      scratch.candidates.rows = workspace_.take<float>(ExactScorer::scratch_floats(depth));
      scratch.candidates.lowers = workspace_.take<float>(plan_.splits * plan_.capacity + kLanes);
      if (plan_.splits > 1) {
        scratch.candidates.merged = workspace_.take<Candidate>(plan_.splits * plan_.capacity);
      } else {
        scratch.candidates.keys = workspace_.take<std::uint64_t>(2 * plan_.capacity);
        scratch.candidates.sorted = workspace_.take<Candidate>(plan_.capacity);
      }
      scratch.rescore = rescorer_.take(&workspace_, plan_.group, scratch.candidates.rows);
      if (codes_ != nullptr) scratch_[t] = scratch;
    }
  }

  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    run_tasks(call_.execution, tasks, [this] { return report(); }, body);
  }
  // body(i, thread) for every query of the group.
  template <typename Body>
  void for_each_query(Body&& body) {
    constexpr std::int64_t kRowsPerTask = 16;
    parallel(divide_up(group_rows_, kRowsPerTask), [&](std::int64_t task, int thread) {
      const std::int64_t begin = task * kRowsPerTask;
      for (std::int64_t i = begin; i < std::min(begin + kRowsPerTask, group_rows_); ++i)
        body(i, thread);
    });
  }
  const ScanKernels& scan_kernels() const { return format_->kernels; }
  int tile_rows() const { return tile_rows_for(scan_kernels(), plan_.group); }
  const PanelShape& shape() const { return format_->shape; }
  bool report() const { return tell(call_.execution, done_, total_); }

  void prepare_queries() {
    RowFault fault;
    format_ = &plan_.format;
    halved_rows_ = 0;
    for_each_query([&](std::int64_t i, int) { prepare_query(i, &fault); });
    fault.raise(call_.queries_name);
    level_all_terms();
    std::fill_n(codes_ + group_rows_ * shape().query_bytes, kMaxTileRows * shape().query_bytes,
                std::int8_t{0});
  }

  void prepare_query(std::int64_t i, RowFault* fault) {
    const std::int64_t row = query_rows_[i];
    TopkQuery& query = queries_[i];
    float* scratch = query_values_ == nullptr ? nullptr : query_values_ + i * shape().depth;
    query.values = float_row(kernels_, call_.queries, call_.metric, row, scratch);
    quantise_query(i, fault);
    query.floor = call_.floors == nullptr ? -kInfinity : call_.floors[row];
    query.ceiling = call_.ceilings == nullptr ? kInfinity : call_.ceilings[row];
    start_lists(i, -kInfinity);
  }

  void quantise_query(std::int64_t i, RowFault* fault) {
    RowStats stats;
    format_->kernels.quantise(queries_[i].values, shape().depth, shape().depth_padded,
                              fixed_scale(call_.queries, call_.metric),
                              codes_ + i * shape().query_bytes, &stats);
    fault->note(stats, query_rows_[i]);
    queries_[i].bound = bounds_.query(stats);
  }

  void set_terms(std::int64_t i) {
    for (std::int64_t s = i; s < plan_.splits * plan_.group; s += plan_.group)
      terms_[s] = bounds_.terms(queries_[i].bound, states_[s].list.least, queries_[i].ceiling);
  }
  QueryRow query_row(std::int64_t i) const { return {query_rows_[i], queries_[i].values}; }
  TopkSplits splits_of(std::int64_t i) const { return {states_ + i, plan_.splits, plan_.group}; }

  void start_lists(std::int64_t i, float guess) {
    TopkQuery& query = queries_[i];
    const float least = Eligibility{query.floor, query.ceiling, 0}.least();
    // No threshold is above its ceiling.
    query.guess = std::min(guess, query.ceiling);
    if (query.guess <= least) query.guess = -kInfinity;
    for (std::int64_t split = 0; split < plan_.splits; ++split) {
      const std::int64_t s = split * plan_.group + i;
      states_[s] = {};
      states_[s].eligibility = {query.floor, query.ceiling, 0};
      states_[s].list =
          pass_.selector->list(entries_ + s * plan_.capacity, std::max(least, query.guess));
      above_[s] = 0;
    }
    set_terms(i);
  }

  void level_all_terms() {
    for (std::int64_t split = 0; split < plan_.splits; ++split)
      level_terms(terms_ + split * plan_.group, group_rows_, tile_rows());
  }

  // Empty lists, with what the sample says of the k-th best score as their threshold. A guess too
  // low costs a little time, one too high the time of a second search; neither changes an answer.
  void start_over_from_sample() {
    const bool faulty = fault_.noted();  // the first pass says which row it is
    pass_.selector = &selector_;
    for_each_query([&](std::int64_t i, int thread) {
      float* values = scratch_[thread].candidates.lowers;
      start_lists(i, faulty || !plan_.sample.allows(call_.exclude, query_rows_[i])
                         ? -kInfinity
                         : sample_selector_.estimate(states_[i].list, values));
    });
    level_all_terms();
  }

  // Moves the queries without an answer to the front; returns how many there are.
  std::int64_t keep_refuted() {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < group_rows_; ++i)
      if (queries_[i].refuted) query_rows_[kept++] = query_rows_[i];
    return kept;
  }

  void scan_pass() {
    panels_ = divide_up(pass_.rows, kLanes);
    fault_.clear();
    if (pass_.packs) pack_first_region();
    for (std::int64_t panel = 0; panel < panels_;) {
      if (pass_.kind != TopkPassKind::kSample)
        fault_.raise(call_.corpus_name);
      else if (fault_.noted())
        return;
      const std::int64_t end = plan_.region_end(panel, pass_.region_panels, panels_);
      scan_region(panel, end);
      if (plan_.has_halves && end < panels_) between_regions((end - panel) * kLanes);
      panel = end;
    }
  }

  // The next region begins with what all splits know by now. It reads half the bytes of a row,
  // unless so many rows pass that reading these in full takes more than that saves.
  void between_regions(std::int64_t rows) {
    std::int64_t passed = 0;
    for (std::int64_t i = 0; i < group_rows_; ++i)
      passed += share_threshold(selector_, query_row(i), splits_of(i), scratch_[0].candidates);
    const bool halves = format_ == &plan_.halves;
    if (halves) halved_rows_ += rows;
    if (halves ? !plan_.halves_pay(passed, halved_rows_, call_.corpus) : halved_rows_ == 0) {
      format_ = halves ? &plan_.format : &plan_.halves;
      RowFault none;  // the queries are in order by now
      for (std::int64_t i = 0; i < group_rows_; ++i) quantise_query(i, &none);
    }
    for (std::int64_t i = 0; i < group_rows_; ++i) set_terms(i);
    level_all_terms();
  }

  void scan_region(std::int64_t first, std::int64_t end) {
    const std::int8_t* data = pass_.packs ? region_ : format_->packed + first * shape().bytes;
    const std::int64_t blocks = divide_up(group_rows_, plan_.block);
    const std::int64_t per_split =
        round_up(divide_up(end - first, plan_.splits), scan_kernels().tile_panels);
    const std::int64_t scans = blocks * plan_.splits;
    const std::int64_t next_end = pass_.packs ? std::min(end + pass_.region_panels, panels_) : end;
    parallel(scans + divide_up(next_end - end, kPackPanels), [&](std::int64_t task, int thread) {
      if (task >= scans)
        return pack_panels(end + (task - scans) * kPackPanels, next_end, end, next_region_, thread);
      const std::int64_t split = task % plan_.splits, row = task / plan_.splits * plan_.block;
      const std::int64_t begin = first + split * per_split;
      const ScanPanels panels = {data + (begin - first) * shape().bytes, begin,
                                 std::min(begin + per_split, end)};
      if (panels.first < panels.end)
        scan_block(split, {codes_, row, std::min(row + plan_.block, group_rows_), tile_rows()},
                   panels, scratch_[thread].candidates);
    });
    std::swap(region_, next_region_);
    if (pass_.kind == TopkPassKind::kFirst)
      done_ += std::min(end * kLanes, call_.corpus.rows) - first * kLanes;
  }

  void pack_first_region() {
    const std::int64_t end = std::min(pass_.region_panels, panels_);
    parallel(divide_up(end, kPackPanels), [&](std::int64_t task, int thread) {
      pack_panels(task * kPackPanels, end, 0, region_, thread);
    });
  }

  // Packs kPackPanels panels from `begin` on, but none from `end` on; panel `first` lies at `out`.
  void pack_panels(std::int64_t begin, std::int64_t end, std::int64_t first, std::int8_t* out,
                   int thread) {
    for (std::int64_t p = begin; p < std::min(begin + kPackPanels, end); ++p) {
      std::int64_t ids[kLanes];
      const int count = static_cast<int>(std::min<std::int64_t>(kLanes, pass_.rows - p * kLanes));
      for (int c = 0; c < count; ++c) ids[c] = row_id(p * kLanes + c);
      pack_rows(kernels_, scan_kernels(), call_.corpus, call_.metric, ids, count, shape(),
                scratch_[thread].pack, out + (p - first) * shape().bytes, &fault_);
    }
  }

  // The corpus row that is row j of this pass.
  std::int64_t row_id(std::int64_t j) const {
    return pass_.kind == TopkPassKind::kSample ? plan_.sample.id(j) : j;
  }

  void scan_block(std::int64_t split, const ScanQueries& queries, const ScanPanels& panels,
                  const CandidateScratch& scratch) {
    TopkSplit* states = states_ + split * plan_.group;
    RowTerms* terms = terms_ + split * plan_.group;
    std::int64_t* above = call_.ceilings == nullptr ? nullptr : above_ + split * plan_.group;
    const bool excludes = call_.exclude.offsets != nullptr && pass_.kind != TopkPassKind::kSample;
    if (excludes)
      for (std::int64_t i = queries.first; i < queries.end; ++i)
        states[i].next_excluded = first_from(call_.exclude, query_rows_[i], panels.first * kLanes);
    std::uint64_t masks[kMaxTileRows];
    scan(scan_kernels(), shape(), queries, panels,
         [&](std::int64_t row, int rows, std::int64_t panel, const PanelRun& run, TileEntry* tile) {
           if (excludes)
             exclude_ids(call_.exclude, query_rows_ + row, states + row, rows, panel, run.count,
                         scan_kernels().excluded, tile);
           if ((panel + run.count) * kLanes > pass_.rows)
             exclude_padding(rows, pass_.rows - panel * kLanes, scan_kernels().excluded, tile);
           std::uint32_t hits = scan_kernels().select(tile, kTileStride, rows, terms + row, &run,
                                                      bounds_.euclidean(), masks,
                                                      above == nullptr ? nullptr : above + row);
           for (; hits != 0; hits &= hits - 1) {
             const int r = std::countr_zero(hits);
             collect(row + r, &states[row + r], &terms[row + r], masks[r], panel, run.data,
                     tile + r * kTileStride, scratch);
           }
         });
  }

  // Bit 16 * p + c of the mask is row c of the p-th panel at `panels`.
  void collect(std::int64_t i, TopkSplit* state, RowTerms* terms, std::uint64_t mask,
               std::int64_t first_panel, const std::int8_t* panels, const TileEntry* dots,
               const CandidateScratch& scratch) {
    const TopkQuery& query = queries_[i];
    for (; mask != 0; mask &= mask - 1) {
      const int column = std::countr_zero(mask);
      const std::int64_t id = row_id(first_panel * kLanes + column);
      if (dots[column].i32 == scan_kernels().excluded.i32 || !allows(call_.allowed, id)) continue;
      const PanelFooter& footer = shape().footer(panels + column / kLanes * shape().bytes);
      const Interval score =
          bounds_.score(query.bound, footer, column % kLanes, bounds_.dot(dots[column]));
      Candidate entry = {score.upper, score.lower, static_cast<std::int32_t>(id)};
      if (entry.upper < state->list.least || !state->eligibility.admit(&entry)) continue;
      state->list.entries[state->list.count++] = entry;
      if (pass_.selector->due(state->list)) {
        pass_.selector->refine(&state->list, query_row(i), &state->eligibility, scratch);
        bounds_.set_lower(query.bound, state->list.least, terms);
      }
    }
  }

  void finish_group() {
    std::atomic<std::int64_t> open = 0;
    rowwise_ = plan_.splits == 1;
    if (rowwise_) {
      for_each_query([&](std::int64_t i, int thread) {
        selector_.line_up(&states_[i].list, scratch_[thread].candidates.lowers);
        open += states_[i].list.count;
      });
      rowwise_ = open >= kRowwiseCandidates * call_.corpus.rows;
    }
    if (rowwise_) {
      parallel(rescorer_.tasks(group_rows_), [&](std::int64_t task, int thread) {
        const auto query = [&](std::int64_t i) {
          const CandidateList& list = states_[i].list;
          return RescoreQuery{query_row(i), list.entries, list.count};
        };
        rescorer_.run(task, group_rows_, query, scratch_[thread].rescore);
      });
    }
    for_each_query(
        [&](std::int64_t i, int thread) { finish_query(i, scratch_[thread].candidates); });
  }

  void finish_query(std::int64_t i, const CandidateScratch& scratch) {
    const std::int64_t row = query_rows_[i];
    TopkQuery& query = queries_[i];
    CandidateList list = states_[i].list;
    Eligibility eligibility = states_[i].eligibility;
    std::int64_t above = above_[i];
    if (plan_.splits > 1) {
      list = merged(splits_of(i), scratch.merged, &eligibility);
      for (std::int64_t split = 1; split < plan_.splits; ++split)
        above += above_[split * plan_.group + i];
    }
    if (rowwise_) {
      selector_.finish_exact(&list, &eligibility, scratch);
    } else {
      if (plan_.splits > 1) selector_.tighten(&list, scratch.lowers);
      selector_.finish(&list, query_row(i), &eligibility, scratch);
    }
    query.refuted = query.guess != -kInfinity &&
                    (list.count < call_.k || list.entries[call_.k - 1].upper < query.guess);
    if (query.refuted) return;
    write_best(list, call_.k, call_.scores + row * call_.k, call_.ids + row * call_.k);
    if (call_.above_ceiling != nullptr) call_.above_ceiling[row] = above + eligibility.above;
  }

  const TopkCall& call_;
  const KernelTable& kernels_;
  const TopkPlan plan_;
  const TopkFormat* format_;
  Bounds bounds_;
  ExactScorer scorer_;
  CandidateSelector selector_;
  CandidateSelector sample_selector_;
  RowwiseRescorer rescorer_;
  Workspace workspace_;

  TopkPass pass_ = {};
  RowFault fault_;
  bool rowwise_ = false;
  std::int64_t halved_rows_ = 0;  // scanned by halves
  std::int64_t panels_ = 0, group_rows_ = 0, done_ = 0, total_ = 0;

  std::int64_t* query_rows_ = nullptr;  // of the caller's queries
  TopkQuery* queries_ = nullptr;
  std::int8_t* codes_ = nullptr;
  float* query_values_ = nullptr;
  RowTerms* terms_ = nullptr;           // [splits][group]
  TopkSplit* states_ = nullptr;         // [splits][group]
  Candidate* entries_ = nullptr;        // [splits][group][capacity]
  std::int64_t* above_ = nullptr;       // [splits][group], counted by select
  std::int8_t* region_ = nullptr;       // the packed panels of one region
  std::int8_t* next_region_ = nullptr;  // and of the next
  ThreadScratch* scratch_ = nullptr;
};

}  // namespace

std::size_t topk_workspace_bytes(const TopkCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return topk_cuda_workspace_bytes(call);
  return Topk(call).bytes();
}

void topk(const TopkCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return topk_cuda(call);
  Topk(call, Workspace(call.execution)).run();
}

}  // namespace stope
