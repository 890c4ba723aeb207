// group_sums: rows added to sums by group, in float64.
//
// A block takes 128 columns of a group, a thread one of them: it adds the group's rows one after
// another as they lie, which is the CPU's order, so that the bits are the CPU's. Rows come sorted
// by group. A group's rows are added by as many threads as there are columns, so that few groups of
// many rows take long.
#include "stope/group_sums.h"

#include "faults.h"
#include "measure.h"
#include "plan.h"

namespace stope {
namespace cuda {
namespace {

constexpr int kThreads = 128;

struct SumArguments {
  Matrix rows;
  Metric metric;
  const RowFactors* factors;
  const std::int64_t* order;
  const std::int64_t* starts;
  double* sums;
};

STOPE_KERNEL(kThreads) sum_groups(SumArguments a) {
  const std::int64_t column = block_y() * std::int64_t{kThreads} + thread();
  if (column >= a.rows.columns) return;
  double sum = a.sums[block_x() * a.rows.columns + column];
  const std::int64_t end = a.starts[block_x() + 1];
#pragma unroll 4  // rows are loaded before those ahead of them have been added
  for (std::int64_t at = a.starts[block_x()]; at < end; ++at) {
    const std::int64_t row = a.order[at];
    sum += static_cast<double>(reader(a.rows, a.metric, row, a.factors[row])[column]);
  }
  a.sums[block_x() * a.rows.columns + column] = sum;
}

}  // namespace
}  // namespace cuda

void group_sums_cuda(const GroupSumsCall& call) {
  using namespace cuda;
  void* stream = call.execution.stream;
  const DeviceScope scope(call.execution.device);
  Workspace workspace(call.execution);
  const GroupSumsMemory memory(call, &workspace);
  clear_faults(memory.faults, 2, stream);
  measure(call.rows, call.metric, memory.factors, memory.faults, stream);
  launch("sum_groups", sum_groups,
         {.blocks_x = call.num_groups,
          .blocks_y = divide_up(call.rows.columns, kThreads),
          .threads = kThreads},
         stream,
         SumArguments{call.rows, call.metric, memory.factors, call.order, call.starts, call.sums});
  raise_faults(memory.faults, stream, "x", "x");
}

}  // namespace stope
