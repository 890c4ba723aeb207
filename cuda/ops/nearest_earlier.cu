// nearest_earlier: the best one of the rows that come earlier, as topk finds it: of the tiles that
// hold none of them nothing is scanned, and a pass ends with its own rows.
#include "search.h"
#include "stope/neighbors.h"
#include "take_in.h"

namespace stope {

void nearest_earlier_cuda(const NearestEarlierCall& call) {
  using namespace cuda;
  const DeviceScope device(call.execution.device);
  Workspace workspace(call.execution);
  const NearestEarlierMemory memory(call, &workspace);
  if (memory.order != nullptr)
    take_in(call.order, call.rows.rows, memory.order, call.execution.stream);
  topk_within(memory.search, memory.plan, memory.lists,
              {.reach = Reach::kEarlier, .order = memory.order, .floor = call.threshold});
}

}  // namespace stope
