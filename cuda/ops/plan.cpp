#include "plan.h"

namespace stope {

std::size_t similarity_cuda_workspace_bytes(const SimilarityCall& call) {
  cuda::Workspace workspace;
  const cuda::SimilarityMemory memory(call, &workspace);
  return workspace.bytes();
}

std::size_t pair_scores_cuda_workspace_bytes(const PairScoresCall& call) {
  cuda::Workspace workspace;
  const cuda::PairMemory memory(call, &workspace);
  return workspace.bytes();
}

}  // namespace stope
