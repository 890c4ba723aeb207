// similarity: scores[i, j] = metric(queries[i], corpus[j]), the canonical float32 score.
#pragma once

#include "stope/matrix.h"

namespace stope {

struct SimilarityCall {
  Matrix queries;
  Matrix corpus;
  Metric metric = Metric::kDot;
  float* scores = nullptr;  // [queries.rows, corpus.rows], rows `score_stride` floats apart
  std::int64_t score_stride = 0;
  Execution execution;
};

std::size_t similarity_workspace_bytes(const SimilarityCall& call);
void similarity(const SimilarityCall& call);

// The same on a GPU; the stub throws DeviceError when the library was built without CUDA.
std::size_t similarity_cuda_workspace_bytes(const SimilarityCall& call);
void similarity_cuda(const SimilarityCall& call);

}  // namespace stope
