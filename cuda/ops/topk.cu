// topk: scan bfloat16 tiles on tensor cores, keep what the bounds cannot rule out, rescore that
// canonically.
//
//   the walk of search.h; after each chunk: refine every list
//   the last refinement rescores, orders and writes
//
// The only wait is for the check of rows at the end. A corpus on the device is rescored there at
// the end, and a pass is one group. Of one in host memory survivors of a chunk are rescored while
// its rows are there.
#include "stope/topk.h"

#include "launch.h"
#include "refine.cuh"
#include "search.h"

namespace stope {
namespace cuda {
namespace {

class Topk : public Search {
 public:
  using Search::Search;

 private:
  void consume(std::int64_t first, std::int64_t queries, bool last) override {
    launch("refine_list", refine_list,
           {.blocks_x = queries, .threads = kSelectThreads, .shared_bytes = sizeof(SelectMemory)},
           stream_,
           RefineArguments{rescoring(first), static_cast<std::int32_t>(call_.k), plan_.keep,
                           plan_.capacity, last || plan_.streams, last, memory_.bounds + first,
                           memory_.terms + first, memory_.states + first, memory_.entries,
                           memory_.kept == nullptr ? nullptr : memory_.kept + first * call_.k,
                           memory_.above + first, call_.scores, call_.ids, call_.above_ceiling});
  }
};

}  // namespace

void topk_within(const TopkCall& call, const CudaTopkPlan& plan, const TopkMemory& memory,
                 const SearchScope& scope) {
  Topk topk(call, plan, memory, scope);
  topk.walk();
  topk.raise();
}

}  // namespace cuda

void topk_cuda(const TopkCall& call) {
  const cuda::DeviceScope device(call.execution.device);
  const CudaTopkPlan plan = plan_topk_cuda(call);
  Workspace workspace(call.execution);
  const cuda::TopkMemory memory(call, plan, &workspace);
  cuda::topk_within(call, plan, memory, {});
}

}  // namespace stope
