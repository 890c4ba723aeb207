#include "infonce_plan.h"

namespace stope {
namespace {

std::size_t bytes(const InfonceProblem& problem, bool backward) {
  Workspace workspace;
  const cuda::InfonceMemory memory(problem, backward, &workspace);
  return workspace.bytes();
}

}  // namespace

std::size_t infonce_forward_cuda_workspace_bytes(const InfonceProblem& problem) {
  return bytes(problem, false);
}
std::size_t infonce_backward_cuda_workspace_bytes(const InfonceProblem& problem) {
  return bytes(problem, true);
}

}  // namespace stope
