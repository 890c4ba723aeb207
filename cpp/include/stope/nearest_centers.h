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
  std::int64_t* labels = nullptr;      // [rows.rows], what the last call found and this one finds
  float* scores = nullptr;             // [rows.rows], of each row and its center
  // [rows.rows, center_groups(centers.rows)], from call to call: what no center of a group exceeds,
  // but for the row's own.
  float* reached = nullptr;
  Execution execution;
};

// Groups of centers for each of which a row keeps a bound: at most 64.
std::int64_t center_groups(std::int64_t centers);

std::size_t nearest_centers_workspace_bytes(const NearestCentersCall& call);
// On the CPU.
void nearest_centers(const NearestCentersCall& call);

}  // namespace stope
