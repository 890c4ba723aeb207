// group_sums: the rows of group g are added to sums[g], in float64, one after another as they lie.
// So the rows of one shard after those of another make the sums of all, bit for bit.
#pragma once

#include "stope/matrix.h"

namespace stope {

struct GroupSumsCall {
  Matrix rows;
  Metric metric = Metric::kDot;          // under cosine rows are normalised first
  const std::int64_t* groups = nullptr;  // [rows.rows]
  std::int64_t num_groups = 0;
  double* sums = nullptr;  // [num_groups, rows.columns], finite
  Execution execution;
};

std::size_t group_sums_workspace_bytes(const GroupSumsCall& call);
// On the CPU; std::invalid_argument names a group out of range and a row that is not finite.
void group_sums(const GroupSumsCall& call);

}  // namespace stope
