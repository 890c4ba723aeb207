// pairs_above: the pairs of a block of rows of x with rows of y that reach a threshold.
//
//   the walk of search.h, with the threshold as every query's floor
//     after each chunk: score canonically what each list holds, append what reaches the threshold
//     to the pairs, in any order, and empty the list
//   wait for the check of rows and the number of pairs
//   order the pairs by row, and those of a row by (score descending, id ascending)
//
// Counting alone, a pair is scored only where its bounds do not decide. Pairs beyond the capacity
// are counted and not kept.
#include <stdexcept>

#include "launch.h"
#include "search.h"
#include "settle.cuh"
#include "stope/neighbors.h"

namespace stope {
namespace cuda {
namespace {

class PairsAbove : public Search {
 public:
  PairsAbove(const PairsAboveCall& call, const PairsAboveMemory& memory)
      : Search(memory.search, memory.plan, memory.lists,
               {.reach = call.within ? Reach::kLater : Reach::kAll,
                .first_place = call.first,
                .floor = call.threshold}),
        pairs_call_(call),
        pairs_memory_(memory) {}

  void run() {
    const std::int64_t rows = call_.queries.rows;
    if (is_recording(stream_))
      throw std::invalid_argument(
          "pairs_above is called while the stream records a CUDA graph, and has to know how many "
          "pairs there are; call it outside of the graph");
    fill_bytes(pairs_call_.counts, 0, static_cast<std::size_t>(rows) * sizeof(std::int64_t),
               stream_);
    fill_bytes(pairs_memory_.total, 0, sizeof(std::int64_t), stream_);
    walk();
    raise();
    if (!keeps()) return;
    std::int64_t total;
    copy_to_host(&total, pairs_memory_.total, sizeof(total), stream_);
    if (total <= pairs_call_.capacity) put_in_order(rows, total);
  }

 private:
  bool keeps() const { return pairs_call_.ids != nullptr; }

  void consume(std::int64_t first, std::int64_t queries, bool) override {
    launch("settle_list", settle_list,
           {.blocks_x = queries, .threads = kSelectThreads, .shared_bytes = sizeof(SettleMemory)},
           stream_,
           SettleArguments{rescoring(first), pairs_call_.threshold, keeps(), plan_.capacity,
                           memory_.states + first, memory_.entries, pairs_call_.counts,
                           pairs_memory_.total, pairs_memory_.pairs, pairs_call_.capacity});
  }

  void put_in_order(std::int64_t rows, std::int64_t total) {
    const OrderArguments arguments = {rows,
                                      pairs_call_.counts,
                                      pairs_memory_.starts,
                                      total,
                                      pairs_memory_.pairs,
                                      pairs_memory_.ordered,
                                      pairs_call_.ids,
                                      pairs_call_.scores};
    launch("start_rows", start_rows,
           {.threads = kSelectThreads, .shared_bytes = kSelectThreads * sizeof(std::int64_t)},
           stream_, arguments);
    launch("gather_rows", gather_rows,
           {.blocks_x = divide_up(total, kSelectThreads), .threads = kSelectThreads}, stream_,
           arguments);
    launch("write_rows", write_rows, {.blocks_x = rows, .threads = kSelectThreads}, stream_,
           arguments);
  }

  const PairsAboveCall& pairs_call_;
  const PairsAboveMemory& pairs_memory_;
};

}  // namespace
}  // namespace cuda

void pairs_above_cuda(const PairsAboveCall& call) {
  using namespace cuda;
  const DeviceScope device(call.execution.device);
  Workspace workspace(call.execution);
  const PairsAboveMemory memory(call, &workspace);
  PairsAbove(call, memory).run();
}

}  // namespace stope
