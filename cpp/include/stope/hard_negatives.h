// hard_negatives: what mining needs beside topk: the canonical scores of given pairs, from which
// the ceilings of the margins follow, and a reproducible choice among the eligible candidates.
#pragma once

#include "stope/matrix.h"

namespace stope {

struct PairScoresCall {
  Matrix queries;
  Matrix corpus;
  Metric metric = Metric::kDot;
  IdLists pairs;            // query i is scored against every id of list i
  float* scores = nullptr;  // [pairs.offsets[queries.rows]]
  Execution execution;
};

std::size_t pair_scores_workspace_bytes(const PairScoresCall& call);
void pair_scores(const PairScoresCall& call);

// Keys for a uniform choice without replacement: the m smallest keys of a row are the sample.
// keys[i, r] depends on (seed, first_query + i, ids[i, r]) alone; an id of -1 gets the largest key.
void sampling_keys(std::uint64_t seed, std::int64_t first_query, const std::int64_t* ids,
                   std::int64_t rows, std::int64_t columns, std::uint64_t* keys);

// The same on a GPU; the stub throws DeviceError when the library was built without CUDA.
std::size_t pair_scores_cuda_workspace_bytes(const PairScoresCall& call);
void pair_scores_cuda(const PairScoresCall& call);

}  // namespace stope
