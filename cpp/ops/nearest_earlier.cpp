// nearest_earlier: of every row the best row that comes earlier, the earliest of equal ones; with
// groups, of those in its own.
//
//   for each round of a tournament of blocks, for each pair of blocks in it, in parallel
//     scan: rows of the later block against those of the earlier one, a tile at a time
//       -> select by the best score so far -> score canonically what passes
//
// A block has but one task in a round, so that the best so far of its rows, which lies in the
// results, is the task's own. The first round takes every block against itself.
#include <bit>

#include "blocks.h"
#include "dispatch.h"
#include "stope/neighbors.h"

namespace stope {
namespace {

class NearestEarlier {
 public:
  explicit NearestEarlier(const NearestEarlierCall& call, Workspace workspace = {})
      : call_(call),
        blocks_(stope::kernels(), call.rows, call.rows, call.metric, nullptr,
                call.threshold > -kInfinity, true),
        scorer_(blocks_.kernels(), call.rows, call.rows, call.metric),
        rows_{call.rows, call.order},
        block_rows_(blocks_.block_rows(call.rows.rows, blocks_for(call.execution.threads))),
        workspace_(workspace) {
    const std::int64_t threads = call.execution.threads;
    starts_ = workspace_.take<std::int64_t>(call.groups.count + 1);
    scratch_ = workspace_.take<BlockScratch>(threads);
    for (std::int64_t t = 0; t < threads; ++t) {
      const BlockScratch scratch = blocks_.take(&workspace_, block_rows_, block_rows_);
      if (scratch_ != nullptr) scratch_[t] = scratch;
    }
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    const std::int64_t rows = call_.rows.rows;
    std::fill_n(call_.scores, rows, -kInfinity);
    std::fill_n(call_.ids, rows, std::int64_t{-1});  // places until the end
    BlockRounds rounds({call_.groups.offsets, call_.groups.count, rows}, block_rows_, starts_,
                       call_.execution);
    rounds.run([&](const Block& block, int thread) { scan_blocks(block, block, scratch_[thread]); },
               [&] { fault_.raise("x"); },
               [&](const Block& later, const Block& earlier, int thread) {
                 scan_blocks(later, earlier, scratch_[thread]);
               });
    if (call_.order != nullptr)
      for (std::int64_t i = 0; i < rows; ++i)
        if (call_.ids[i] >= 0) call_.ids[i] = call_.order[call_.ids[i]];
  }

 private:
  void scan_blocks(const Block& queries, const Block& columns, const BlockScratch& scratch) {
    const auto least = [&](std::int64_t place) {
      return std::max(call_.threshold, call_.scores[rows_.row(place)]);
    };
    blocks_.load_panels(rows_, columns, scratch, &fault_);
    blocks_.load_queries(rows_, queries, least, scratch, &fault_, columns);
    if (fault_.noted()) return;
    blocks_.select(queries, columns, Reach::kEarlier, scratch,
                   [&](std::int64_t query, std::int64_t column, std::uint64_t mask,
                       const PanelRun& run, const TileEntry* dots) {
                     collect(queries, query, columns, columns.first + column, mask, run, dots,
                             scratch);
                   });
  }

  // Of what passed in one row of a tile, whatever the others' bounds do not rule out is scored.
  void collect(const Block& queries, std::int64_t query, const Block& columns,
               std::int64_t first_place, std::uint64_t mask, const PanelRun& run,
               const TileEntry* dots, const BlockScratch& scratch) {
    const std::int64_t place = queries.first + query, row = rows_.row(place);
    float& best = call_.scores[row];
    std::int64_t& best_place = call_.ids[row];
    float uppers[kTileStride], least = std::max(call_.threshold, best);
    std::int64_t places[kTileStride];
    int count = 0;
    for (; mask != 0; mask &= mask - 1) {
      const int column = std::countr_zero(mask);
      if (blocks_.excluded(dots[column])) continue;
      const Interval score = blocks_.score(scratch.bounds[query], run, column, dots[column]);
      if (score.upper < least) continue;
      least = std::max(least, score.lower);
      uppers[count] = score.upper;
      places[count++] = first_place + column;
    }
    const float* values = nullptr;
    for (int next = 0; next < count;) {
      std::int64_t batch[ExactScorer::kBatch];
      int open = 0;
      for (; next < count && open < ExactScorer::kBatch; ++next)
        if (uppers[next] >= least) batch[open++] = places[next];
      if (open == 0) break;
      if (values == nullptr)
        values = blocks_.values_at(rows_, place, columns, scratch, scratch.query);
      float scores[ExactScorer::kBatch];
      scorer_.score(
          row, values, [&](int i) { return rows_.row(batch[i]); },
          [&](int i, float* buffer) {
            return blocks_.values_at(rows_, batch[i], columns, scratch, buffer);
          },
          open, scratch.rows, scores);
      for (int i = 0; i < open; ++i) {
        if (scores[i] < call_.threshold) continue;
        if (best_place >= 0 && (scores[i] < best || (scores[i] == best && batch[i] > best_place)))
          continue;
        best = scores[i];
        best_place = batch[i];
      }
      least = std::max(least, best);
    }
    blocks_.bounds().set_lower(scratch.bounds[query], std::max(call_.threshold, best),
                               &scratch.terms[query]);
  }

  const NearestEarlierCall& call_;
  const BlockScan blocks_;
  const ExactScorer scorer_;
  const PlacedRows rows_;
  const std::int64_t block_rows_;
  Workspace workspace_;
  RowFault fault_;
  std::int64_t* starts_ = nullptr;
  BlockScratch* scratch_ = nullptr;
};

}  // namespace

std::size_t nearest_earlier_workspace_bytes(const NearestEarlierCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda)
    return nearest_earlier_cuda_workspace_bytes(call);
  return NearestEarlier(call).bytes();
}

void nearest_earlier(const NearestEarlierCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return nearest_earlier_cuda(call);
  NearestEarlier(call, Workspace(call.execution)).run();
}

}  // namespace stope
