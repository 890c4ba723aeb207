// group_sums: the rows of group g are added to sums[g], in float64, one after another as they lie.
// So the rows of one shard after those of another make the sums of all, bit for bit.
#pragma once

#include "stope/matrix.h"

namespace stope {

struct GroupSumsCall {
  Matrix rows;
  Metric metric = Metric::kDot;          // under cosine rows are normalised first
  const std::int64_t* groups = nullptr;  // [rows.rows], on the CPU
  // On a GPU, and there: the rows group by group, each group's as they lie, and where it begins.
  const std::int64_t* order = nullptr;   // [rows.rows]
  const std::int64_t* starts = nullptr;  // [num_groups + 1]
  std::int64_t num_groups = 0;
  double* sums = nullptr;  // [num_groups, rows.columns], finite
  Execution execution;
};

std::size_t group_sums_workspace_bytes(const GroupSumsCall& call);
// std::invalid_argument names a row that is not finite, and on the CPU a group out of range.
void group_sums(const GroupSumsCall& call);

// The same on a GPU, in the CPU's bits; the stub throws DeviceError when the library was built
// without CUDA. A row too long for float32 scores is refused there as well.
std::size_t group_sums_cuda_workspace_bytes(const GroupSumsCall& call);
void group_sums_cuda(const GroupSumsCall& call);

}  // namespace stope
