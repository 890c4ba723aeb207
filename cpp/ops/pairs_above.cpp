// pairs_above: the pairs of a block of rows of x with rows of y that reach a threshold.
//
//   for each task = (part of the block) x (block of y), in parallel
//     scan: score a tile -> what is not within reach is excluded -> select by the threshold
//     score canonically what passes, and append it to the pairs, in any order
//   order the pairs by row, and those of a row by (score descending, id ascending)
//
// With groups, each of them has such tasks, with its part of the block and its own rows. Rows are
// known by their places until the end.
//
// Counting alone, a pair is scored only where its bounds do not decide. Pairs beyond the capacity
// are counted and not kept: the caller learns how many there are and asks for fewer rows at once.
#include <atomic>
#include <bit>

#include "blocks.h"
#include "dispatch.h"
#include "stope/neighbors.h"

namespace stope {
namespace {

constexpr std::int64_t kTasksPerThread = 4;
constexpr std::int64_t kRowsPerTask = 64;  // of those that put pairs in order

struct FoundPair {
  std::int32_t row;  // its place, counted from the block's beginning
  std::int32_t id;   // the other's place
  float score;
};

class PairsAbove {
 public:
  explicit PairsAbove(const PairsAboveCall& call, Workspace workspace = {})
      : call_(call),
        blocks_(stope::kernels(), call.x, call.y, call.metric, call.packed, true),
        scorer_(blocks_.kernels(), call.x, call.y, call.metric),
        groups_{call.groups.offsets, call.groups.count, call.y.rows},
        rows_(call.end - call.first),
        workspace_(workspace) {
    const std::int64_t threads = call.execution.threads;
    first_group_ = call.groups.offsets == nullptr ? 0 : group_of(call.first);
    num_groups_ = call.groups.offsets == nullptr ? 1 : group_of(call.end - 1) + 1 - first_group_;
    task_starts_ = workspace_.take<std::int64_t>(num_groups_ + 1);
    query_rows_ = blocks_.block_rows(rows_, 1);
    column_rows_ = blocks_.block_rows(call.y.rows, kTasksPerThread * threads);
    starts_ = workspace_.take<std::int64_t>(rows_ + 1);
    if (keeps()) {
      pairs_ = workspace_.take<FoundPair>(call.capacity);
      ordered_ = workspace_.take<FoundPair>(call.capacity);
    }
    scratch_ = workspace_.take<BlockScratch>(threads);
    for (std::int64_t t = 0; t < threads; ++t) {
      const BlockScratch scratch = blocks_.take(&workspace_, query_rows_, column_rows_);
      if (scratch_ != nullptr) scratch_[t] = scratch;
    }
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    std::fill_n(call_.counts, rows_, std::int64_t{0});
    GroupTasks tasks(task_starts_, num_groups_);
    total_ = tasks.set([&](std::int64_t g) {
      const Sides sides = sides_of(g);
      return parts(sides) * std::max<std::int64_t>(blocks(sides), 1);
    });
    parallel(total_, [&](std::int64_t task, int thread) {
      const Sides sides = sides_of(tasks.group_of(&task));
      const Block part = block_at(task % parts(sides), query_rows_, sides.queries.count());
      const Block block = block_at(task / parts(sides), column_rows_, sides.columns.count());
      scan_blocks({sides.queries.first + part.first, sides.queries.first + part.end},
                  {sides.columns.first + block.first, sides.columns.first + block.end},
                  scratch_[thread]);
      ++done_;
    });
    x_fault_.raise("x");
    y_fault_.raise("y");
    if (keeps() && next_ <= call_.capacity) put_in_order();
  }

 private:
  // Of a group: its part of the block, and what that is compared with.
  struct Sides {
    Block queries, columns;
  };

  std::int64_t group_of(std::int64_t place) const {
    const std::int64_t* offsets = call_.groups.offsets;
    return std::upper_bound(offsets, offsets + call_.groups.count + 1, place) - offsets - 1;
  }
  Sides sides_of(std::int64_t g) const {
    const Block group = groups_.at(first_group_ + g);
    if (!call_.within) return {{call_.first, call_.end}, group};
    const Block queries = {std::max(group.first, call_.first), std::min(group.end, call_.end)};
    return {queries, {std::min(queries.first + 1, group.end), group.end}};
  }
  std::int64_t parts(const Sides& sides) const {
    return divide_up(sides.queries.count(), query_rows_);
  }
  std::int64_t blocks(const Sides& sides) const {
    return divide_up(sides.columns.count(), column_rows_);
  }
  std::int64_t x_row(std::int64_t place) const {
    return call_.order == nullptr ? place : call_.order[place];
  }
  std::int64_t y_row(std::int64_t place) const { return call_.within ? x_row(place) : place; }

  bool keeps() const { return call_.ids != nullptr; }

  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    run_tasks(
        call_.execution, tasks, [this] { return tell(call_.execution, done_, total_); }, body);
  }

  void scan_blocks(const Block& queries, const Block& columns, const BlockScratch& scratch) {
    const auto least = [&](std::int64_t) { return call_.threshold; };
    blocks_.load_queries({call_.x, call_.order}, queries, least, scratch, &x_fault_);
    if (columns.count() <= 0 || (call_.within && columns.end <= queries.first + 1)) return;
    blocks_.load_panels({call_.y, call_.within ? call_.order : nullptr}, columns, scratch,
                        call_.within ? &x_fault_ : &y_fault_);
    if (x_fault_.noted() || y_fault_.noted()) return;
    const Reach reach = call_.within ? Reach::kLater : Reach::kAll;
    blocks_.select(queries, columns, reach, scratch,
                   [&](std::int64_t query, std::int64_t column, std::uint64_t mask,
                       const PanelRun& run, const TileEntry* dots) {
                     collect(queries.first + query, scratch.bounds[query], columns.first + column,
                             mask, run, dots, scratch);
                   });
  }

  void collect(std::int64_t place, const QueryBound& query, std::int64_t first_other,
               std::uint64_t mask, const PanelRun& run, const TileEntry* dots,
               const BlockScratch& scratch) {
    std::int64_t others[ExactScorer::kBatch];
    std::int64_t certain = 0;
    int open = 0;
    for (; mask != 0; mask &= mask - 1) {
      const int column = std::countr_zero(mask);
      if (blocks_.excluded(dots[column])) continue;
      const Interval score = blocks_.score(query, run, column, dots[column]);
      if (score.upper < call_.threshold) continue;
      if (!keeps() && score.lower >= call_.threshold) {
        ++certain;
        continue;
      }
      others[open++] = first_other + column;
      if (open == ExactScorer::kBatch) {
        settle(place, others, open, scratch);
        open = 0;
      }
    }
    if (open > 0) settle(place, others, open, scratch);
    if (certain > 0) add_to_count(place, certain);
  }

  void settle(std::int64_t place, const std::int64_t* others, int count,
              const BlockScratch& scratch) {
    float scores[ExactScorer::kBatch];
    const std::int64_t row = x_row(place);
    const float* query = float_row(blocks_.kernels(), call_.x, call_.metric, row, scratch.query);
    scorer_.score(row, query, [&](int i) { return y_row(others[i]); }, count, scratch.rows, scores);
    FoundPair found[ExactScorer::kBatch];
    int reaching = 0;
    for (int i = 0; i < count; ++i)
      if (scores[i] >= call_.threshold)
        found[reaching++] = {static_cast<std::int32_t>(place - call_.first),
                             static_cast<std::int32_t>(others[i]), scores[i]};
    if (reaching == 0) return;
    add_to_count(place, reaching);
    if (!keeps()) return;
    const std::int64_t next = next_.fetch_add(reaching, std::memory_order_relaxed);
    if (next + reaching <= call_.capacity) std::copy_n(found, reaching, pairs_ + next);
  }

  void add_to_count(std::int64_t place, std::int64_t count) {
    std::atomic_ref(call_.counts[place - call_.first]).fetch_add(count, std::memory_order_relaxed);
  }

  void put_in_order() {
    starts_[0] = 0;
    for (std::int64_t i = 0; i < rows_; ++i) starts_[i + 1] = starts_[i] + call_.counts[i];
    for (std::int64_t p = 0; p < next_; ++p) ordered_[starts_[pairs_[p].row]++] = pairs_[p];
    // Every start has moved to its row's end.
    parallel(divide_up(rows_, kRowsPerTask), [&](std::int64_t task, int) {
      const std::int64_t end_row = std::min((task + 1) * kRowsPerTask, rows_);
      for (std::int64_t i = task * kRowsPerTask; i < end_row; ++i) {
        FoundPair* end = ordered_ + starts_[i];
        std::sort(end - call_.counts[i], end, [](const FoundPair& a, const FoundPair& b) {
          return a.score != b.score ? a.score > b.score : a.id < b.id;
        });
        for (std::int64_t p = starts_[i] - call_.counts[i]; p < starts_[i]; ++p) {
          call_.ids[p] = y_row(ordered_[p].id);
          call_.scores[p] = ordered_[p].score;
        }
      }
    });
  }

  const PairsAboveCall& call_;
  const BlockScan blocks_;
  const ExactScorer scorer_;
  const PlaceGroups groups_;
  std::int64_t first_group_ = 0, num_groups_ = 1;  // those that have rows of the block
  std::int64_t rows_, query_rows_ = 0, column_rows_ = 0;
  Workspace workspace_;
  RowFault x_fault_, y_fault_;
  std::atomic<std::int64_t> next_ = 0;  // pairs so far, kept or not
  std::atomic<std::int64_t> done_ = 0;  // tasks
  std::int64_t total_ = 1;
  std::int64_t* task_starts_ = nullptr;  // [num_groups + 1]
  std::int64_t* starts_ = nullptr;       // [rows + 1]
  FoundPair* pairs_ = nullptr;           // [capacity]
  FoundPair* ordered_ = nullptr;         // [capacity]
  BlockScratch* scratch_ = nullptr;
};

}  // namespace

std::size_t pairs_above_workspace_bytes(const PairsAboveCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda)
    return pairs_above_cuda_workspace_bytes(call);
  return PairsAbove(call).bytes();
}

void pairs_above(const PairsAboveCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return pairs_above_cuda(call);
  PairsAbove(call, Workspace(call.execution)).run();
}

}  // namespace stope
