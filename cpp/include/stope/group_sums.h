// group_sums: sums[g] = the sum of the rows of group g, in float64, one after another as they lie.
#pragma once

#include "stope/matrix.h"

namespace stope {

struct GroupSumsCall {
  Matrix rows;
  Metric metric = Metric::kDot;          // under cosine rows are normalised first
  const std::int64_t* groups = nullptr;  // [rows.rows]
  std::int64_t num_groups = 0;
  double* sums = nullptr;  // [num_groups, rows.columns]
  Execution execution;
};

std::size_t group_sums_workspace_bytes(const GroupSumsCall& call);
// On the CPU; std::invalid_argument names a group out of range and a row that is not finite.
void group_sums(const GroupSumsCall& call);

}  // namespace stope
