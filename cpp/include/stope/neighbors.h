// neighbors: what is asked of the rows of one matrix about each other (or of two matrices): pairs
// above a threshold, the nearest earlier row, the nearest others. All decisions are those of the
// canonical scores.
#pragma once

#include "stope/matrix.h"
#include "stope/topk.h"

namespace stope {

// Rows that are compared with those of their own group alone, on the CPU: `order` has the groups'
// rows one after another, group g's at places offsets[g] .. offsets[g + 1] - 1.
struct RowGroups {
  const std::int64_t* offsets = nullptr;  // optional [count + 1], from 0 to the number of rows
  std::int64_t count = 1;
};

// The pairs of a block of rows of x with rows of y whose score reaches the threshold.
struct PairsAboveCall {
  Matrix x;
  Matrix y;
  bool within = false;  // y is x: of a pair of its rows, once, the later one is named as y's
  const void* packed = nullptr;  // optional: the panels of y (PackedCorpus), on the CPU alone,
                                 // and not within
  const std::int64_t* order = nullptr;  // optional [rows], within alone: a permutation; of a pair
                                        // the row that comes later is named as y's
  RowGroups groups;                     // within alone
  std::int64_t first = 0, end = 0;      // the block of x, by places in the order
  Metric metric = Metric::kDot;
  float threshold = 0;             // inclusive
  std::int64_t* counts = nullptr;  // [end - first], pairs of each row, whatever the capacity
  // Row after row, (score descending, id ascending) in each; nothing is written where the capacity
  // does not hold them all. nullptr: the pairs are counted, and scored only where bounds do not
  // decide.
  std::int64_t capacity = 0;
  std::int64_t* ids = nullptr;  // [capacity]
  float* scores = nullptr;      // [capacity]
  CudaTopkBudget budget;
  Execution execution;
};

std::size_t pairs_above_workspace_bytes(const PairsAboveCall& call);
void pairs_above(const PairsAboveCall& call);

// Of every row the most similar one that comes earlier, the earliest of equal ones.
struct NearestEarlierCall {
  Matrix rows;
  const std::int64_t* order = nullptr;  // optional [rows], a permutation: who comes first
  RowGroups groups;
  Metric metric = Metric::kDot;
  float threshold = 0;          // inclusive; -infinity for none
  float* scores = nullptr;      // [rows], -infinity where there is none
  std::int64_t* ids = nullptr;  // [rows], -1 where there is none
  CudaTopkBudget budget;
  Execution execution;
};

std::size_t nearest_earlier_workspace_bytes(const NearestEarlierCall& call);
void nearest_earlier(const NearestEarlierCall& call);

// On the CPU alone: of every row the k best others, ordered by (score descending, id ascending).
struct KnnGraphCall {
  Matrix rows;
  Metric metric = Metric::kDot;
  std::int64_t k = 0;           // below the number of rows
  float* scores = nullptr;      // [rows, k]
  std::int64_t* ids = nullptr;  // [rows, k]
  Execution execution;
};

std::size_t knn_graph_workspace_bytes(const KnnGraphCall& call);
void knn_graph(const KnnGraphCall& call);

// The same on a GPU; the stub throws DeviceError when the library was built without CUDA.
std::size_t pairs_above_cuda_workspace_bytes(const PairsAboveCall& call);
void pairs_above_cuda(const PairsAboveCall& call);
std::size_t nearest_earlier_cuda_workspace_bytes(const NearestEarlierCall& call);
void nearest_earlier_cuda(const NearestEarlierCall& call);

}  // namespace stope
