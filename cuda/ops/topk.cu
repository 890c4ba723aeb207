// topk: scan bfloat16 tiles on tensor cores, keep what the bounds cannot rule out, rescore that
// canonically.
//
//   for each pass of queries (plan.cpp)
//     pack the queries
//     for each chunk of the corpus
//       pack the chunk, unless the caller has packed the corpus
//       for each group of the pass (their lists fit a budget)
//         scan the chunk (score a tile -> exclude -> candidates) -> refine every list
//     the last refinement rescores, orders and writes
//
// Everything is queued on the caller's stream; the only wait is for the check of rows at the end.
// A corpus on the device is rescored there at the end, and a pass is one group. One in host memory
// passes through two buffers (host_rows.h): survivors of a chunk are rescored while its rows are
// there, and the host waits for buffers.
#include "stope/topk.h"

#include <algorithm>
#include <optional>
#include <stdexcept>

#include "faults.h"
#include "host_rows.h"
#include "launch.h"
#include "pack.cuh"
#include "plan.h"
#include "refine.cuh"
#include "scan.cuh"

namespace stope {
namespace cuda {
namespace {

void launch_pack(const PackArguments& arguments, void* stream) {
  launch("pack_rows", pack_rows,
         {.blocks_x = divide_up(arguments.rows, kPackRows), .threads = kPackThreads}, stream,
         arguments);
}

class Topk {
 public:
  explicit Topk(const TopkCall& call)
      : call_(call),
        stream_(call.execution.stream),
        plan_(plan_topk_cuda(call)),
        // int8 rows under the dot product have exact scores at the price of approximate ones.
        rules_(bound_rules(call.metric,
                           call.precision != Precision::kExact &&
                               !(call.corpus.dtype == DType::kInt8 && call.metric == Metric::kDot),
                           plan_.depth_padded)),
        workspace_(call.execution),
        memory_(call, plan_, &workspace_) {
    if (!plan_.streams) return;
    if (is_recording(stream_))
      throw std::invalid_argument(
          "corpus is in host memory while the stream records a CUDA graph, which a replay would "
          "not read again; move it to the device, or search outside of the graph");
    if (plan_.stages && call.execution.pinned_bytes < topk_cuda_pinned_bytes(call))
      throw std::logic_error("the pinned memory is smaller than what was asked for");
    host_rows_.emplace(call.corpus, plan_.chunk, memory_.blocks,
                       plan_.stages ? call.execution.pinned : nullptr, call.execution);
  }

  void run() {
    clear_faults(memory_.faults, 2, stream_);
    take_in(call_.exclude.offsets, call_.queries.rows + 1, memory_.exclude_offsets);
    take_in(call_.exclude.ids, TopkMemory::excluded(call_), memory_.exclude_ids);
    take_in(call_.ceilings, call_.queries.rows, memory_.ceilings);
    take_in(call_.floors, call_.queries.rows, memory_.floors);
    const std::int64_t total = divide_up(call_.queries.rows, plan_.pass) * call_.corpus.rows;
    std::int64_t done = 0;
    for (first_query_ = 0; first_query_ < call_.queries.rows; first_query_ += plan_.pass) {
      queries_ = std::min(plan_.pass, call_.queries.rows - first_query_);
      start();
      if (host_rows_) host_rows_->send(0, std::min(plan_.chunk, call_.corpus.rows));
      for (first_row_ = 0; first_row_ < call_.corpus.rows; first_row_ += plan_.chunk) {
        rows_ = std::min(plan_.chunk, call_.corpus.rows - first_row_);
        work_on_chunk();
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

  void work_on_chunk() {
    const std::int64_t next = first_row_ + rows_;
    corpus_ = host_rows_ ? host_rows_->receive(rows_) : call_.corpus;
    first_id_ = host_rows_ ? first_row_ : 0;
    panels_ = memory_.corpus;
    if (call_.packed.data == nullptr)
      launch_pack({corpus_, call_.metric, first_row_ - first_id_, rows_, first_id_, panels_, 0,
                   nullptr, memory_.faults + 1},
                  stream_);
    else
      panels_.data =
          static_cast<std::byte*>(panels_.data) + first_row_ / kTileSide * panels_.panel_bytes;
    for (std::int64_t first = 0; first < queries_; first += plan_.group) {
      const std::int64_t queries = std::min(plan_.group, queries_ - first);
      scan(first, queries);
      refine(first, queries, next == call_.corpus.rows);
    }
    if (!host_rows_) return;
    host_rows_->done();
    if (next < call_.corpus.rows)
      host_rows_->send(next, std::min(plan_.chunk, call_.corpus.rows - next));
  }

  void start() {
    launch_pack({call_.queries, call_.metric, first_query_, queries_, 0, memory_.queries, 0,
                 memory_.factors, memory_.faults},
                stream_);
    launch("start_queries", start_queries,
           {.blocks_x = divide_up(queries_, kPackThreads), .threads = kPackThreads}, stream_,
           StartArguments{rules_, first_query_, queries_, memory_.queries, memory_.floors,
                          memory_.ceilings, memory_.bounds, memory_.terms, memory_.states,
                          memory_.above});
  }

  // Of a group: `queries` of the pass from `first` on.
  void scan(std::int64_t first, std::int64_t queries) {
    launch(
        "scan_tile", scan_tile,
        {.blocks_x = divide_up(rows_, kTileSide),
         .blocks_y = divide_up(queries, kTileSide),
         .threads = kScanThreads,
         .shared_bytes = kScanSharedBytes},
        stream_,
        ScanArguments{
            static_cast<const std::uint16_t*>(memory_.queries.data) + first * plan_.depth_padded,
            panels_, queries, rows_, plan_.depth_padded, first_query_ + first, first_row_, rules_,
            memory_.bounds + first, memory_.terms + first, memory_.states + first, memory_.entries,
            plan_.capacity, memory_.above + first, memory_.exclude_offsets, memory_.exclude_ids});
  }

  void refine(std::int64_t first, std::int64_t queries, bool last) {
    launch("refine_list", refine_list,
           {.blocks_x = queries, .threads = kSelectThreads, .shared_bytes = sizeof(SelectMemory)},
           stream_,
           RefineArguments{call_.queries,
                           corpus_,
                           first_id_,
                           first_query_ + first,
                           static_cast<std::int32_t>(call_.k),
                           plan_.keep,
                           plan_.capacity,
                           last || plan_.streams,
                           last,
                           rules_,
                           memory_.factors + first,
                           memory_.bounds + first,
                           memory_.terms + first,
                           memory_.states + first,
                           memory_.entries,
                           memory_.kept == nullptr ? nullptr : memory_.kept + first * call_.k,
                           memory_.above + first,
                           call_.scores,
                           call_.ids,
                           call_.above_ceiling});
  }

  const TopkCall& call_;
  void* stream_;
  const CudaTopkPlan plan_;
  const BoundRules rules_;
  Workspace workspace_;
  const TopkMemory memory_;
  std::optional<HostRows> host_rows_;
  std::int64_t first_query_ = 0, queries_ = 0;  // of the pass
  std::int64_t first_row_ = 0, rows_ = 0;       // of the chunk
  Matrix corpus_;                               // what is on the device of it, from first_id_ on
  std::int64_t first_id_ = 0;
  Panels panels_ = {};  // of the chunk
};

}  // namespace
}  // namespace cuda

void pack_cuda(const PackCall& call) {
  using namespace cuda;
  void* stream = call.execution.stream;
  const DeviceScope scope(call.execution.device);
  if (reinterpret_cast<std::uintptr_t>(call.packed) % 16 != 0)
    throw std::logic_error("memory for a packed corpus must start at a multiple of 16 bytes");
  Workspace workspace(call.execution);
  auto* faults = workspace.take<RowFaults>(1);
  clear_faults(faults, 1, stream);
  launch_pack({call.corpus, call.metric, call.first_row, call.corpus.rows - call.first_row, 0,
               corpus_panels(call.packed, call.corpus.columns), call.first_row, nullptr, faults},
              stream);
  if (is_recording(stream)) return;
  RowFaults found;
  copy_to_host(&found, faults, sizeof(found), stream);
  refuse(found, call.name, call.first_row);
}

void topk_cuda(const TopkCall& call) {
  const cuda::DeviceScope scope(call.execution.device);
  cuda::Topk(call).run();
}

}  // namespace stope
