// nearest_centers: of every row the center with the highest canonical score, ties to the lower
// number, round after round of centers that move.
#pragma once

#include "stope/matrix.h"

namespace stope {

struct NearestCentersCall {
  Matrix rows;
  Matrix centers;                      // float32
  Matrix before;                       // the centers of the last call; no data: this is the first
  Metric metric = Metric::kEuclidean;  // or kCosine
  // A permutation of the centers: its first 16 are a group, and so on, or multiples of 16 where
  // that would be more than 64 groups. The same from call to call, as long as `reached` is.
  const std::int64_t* order = nullptr;
  std::int64_t* labels = nullptr;  // [rows.rows], what the last call found and this one finds
  float* scores = nullptr;         // [rows.rows], of each row and its center
  // [rows.rows, center_groups(centers.rows)], from call to call: what no center of a group exceeds,
  // but for the row's own; infinity where nothing is known.
  float* reached = nullptr;
  Execution execution;
};

// Groups of centers for each of which a row keeps a bound: at most 64.
std::int64_t center_groups(std::int64_t centers);
// Centers of each but the last.
std::int64_t group_centers(std::int64_t centers);

std::size_t nearest_centers_workspace_bytes(const NearestCentersCall& call);
// On the CPU.
void nearest_centers(const NearestCentersCall& call);

}  // namespace stope
