// topk: scan bfloat16 tiles on tensor cores, keep what the bounds cannot rule out, rescore that
// canonically.
//
//   for each group of queries (plan.cpp: their lists fit a budget)
//     pack the queries
//     for each chunk of the corpus
//       pack the chunk -> scan it (score a tile -> exclude -> candidates) -> refine every list
//     the last refinement rescores, orders and writes
//
// Everything is queued on the caller's stream; the only wait is for the check of rows at the end.
#include "stope/topk.h"

#include <algorithm>

#include "faults.h"
#include "launch.h"
#include "pack.cuh"
#include "plan.h"
#include "refine.cuh"
#include "scan.cuh"

namespace stope {
namespace cuda {
namespace {

class Topk {
 public:
  explicit Topk(const TopkCall& call)
      : call_(call),
        stream_(call.execution.stream),
        plan_(topk_plan(call)),
        // int8 rows under the dot product have exact scores at the price of approximate ones.
        rules_(bound_rules(call.metric,
                           call.precision != Precision::kExact &&
                               !(call.corpus.dtype == DType::kInt8 && call.metric == Metric::kDot),
                           plan_.depth_padded)),
        workspace_(call.execution),
        memory_(call, plan_, &workspace_) {}

  void run() {
    clear_faults(memory_.faults, 2, stream_);
    take_in(call_.exclude.offsets, call_.queries.rows + 1, memory_.exclude_offsets);
    take_in(call_.exclude.ids, TopkMemory::excluded(call_), memory_.exclude_ids);
    take_in(call_.ceilings, call_.queries.rows, memory_.ceilings);
    take_in(call_.floors, call_.queries.rows, memory_.floors);
    const std::int64_t total = divide_up(call_.queries.rows, plan_.group) * call_.corpus.rows;
    std::int64_t done = 0;
    for (first_query_ = 0; first_query_ < call_.queries.rows; first_query_ += plan_.group) {
      queries_ = std::min(plan_.group, call_.queries.rows - first_query_);
      start();
      for (first_row_ = 0; first_row_ < call_.corpus.rows; first_row_ += plan_.chunk) {
        rows_ = std::min(plan_.chunk, call_.corpus.rows - first_row_);
        pack(call_.corpus, first_row_, rows_, memory_.codes, memory_.rows, nullptr,
             memory_.faults + 1);
        scan();
        refine(first_row_ + rows_ == call_.corpus.rows);
        done += rows_;
        const Progress& progress = call_.execution.progress;
        if (progress.step != nullptr && !progress.step(progress.context, done, total))
          throw Interrupted();
      }
    }
    raise_faults(memory_.faults, stream_);
  }

 private:
  template <typename T>
  void take_in(const T* given, std::int64_t count, T* to) {
    if (to != nullptr)
      copy_to_device(to, given, static_cast<std::size_t>(count) * sizeof(T), stream_);
  }

  void pack(const Matrix& matrix, std::int64_t first, std::int64_t rows, std::uint16_t* codes,
            ScanRow* scan_rows, RowFactors* factors, RowFaults* faults) {
    launch("pack_rows", pack_rows,
           {.blocks_x = divide_up(rows, kPackRows), .threads = kPackThreads}, stream_,
           PackArguments{matrix, call_.metric, first, rows, plan_.depth_padded, codes, scan_rows,
                         factors, faults});
  }

  void start() {
    pack(call_.queries, first_query_, queries_, memory_.query_codes, memory_.query_rows,
         memory_.factors, memory_.faults);
    launch("start_queries", start_queries,
           {.blocks_x = divide_up(queries_, kPackThreads), .threads = kPackThreads}, stream_,
           StartArguments{rules_, first_query_, queries_, memory_.query_rows, memory_.floors,
                          memory_.ceilings, memory_.bounds, memory_.terms, memory_.states,
                          memory_.above});
  }

  void scan() {
    launch("scan_tile", scan_tile,
           {.blocks_x = divide_up(rows_, kTileSide),
            .blocks_y = divide_up(queries_, kTileSide),
            .threads = kScanThreads,
            .shared_bytes = kScanSharedBytes},
           stream_,
           ScanArguments{memory_.query_codes, memory_.codes, queries_, rows_, plan_.depth_padded,
                         first_query_, first_row_, rules_, memory_.bounds, memory_.terms,
                         memory_.rows, memory_.states, memory_.entries, plan_.capacity,
                         memory_.above, memory_.exclude_offsets, memory_.exclude_ids});
  }

  void refine(bool last) {
    launch("refine_list", refine_list,
           {.blocks_x = queries_, .threads = kSelectThreads, .shared_bytes = sizeof(SelectMemory)},
           stream_,
           RefineArguments{call_.queries, call_.corpus, first_query_,
                           static_cast<std::int32_t>(call_.k), plan_.keep, plan_.capacity, last,
                           rules_, memory_.factors, memory_.bounds, memory_.terms, memory_.states,
                           memory_.entries, memory_.above, call_.scores, call_.ids,
                           call_.above_ceiling});
  }

  const TopkCall& call_;
  void* stream_;
  const CudaTopkPlan plan_;
  const BoundRules rules_;
  Workspace workspace_;
  const TopkMemory memory_;
  std::int64_t first_query_ = 0, queries_ = 0;  // of the group
  std::int64_t first_row_ = 0, rows_ = 0;       // of the chunk
};

}  // namespace
}  // namespace cuda

void topk_cuda(const TopkCall& call) {
  const cuda::DeviceScope scope(call.execution.device);
  cuda::Topk(call).run();
}

}  // namespace stope
