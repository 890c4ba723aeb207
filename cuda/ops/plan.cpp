#include "plan.h"

#include <algorithm>

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

CudaTopkPlan plan_topk_cuda(std::int64_t queries, std::int64_t rows, std::int64_t columns,
                            std::int64_t k) {
  using namespace cuda;
  constexpr std::int64_t kEntryBytes = 256 << 20;  // of the lists of a group
  constexpr std::int64_t kCodeBytes = 256 << 20;   // of a group and of a chunk, each
  constexpr std::int64_t kLeastChunk = 4096, kMostChunk = 65536;
  constexpr auto kEntry = static_cast<std::int64_t>(sizeof(Candidate));
  CudaTopkPlan plan = {};
  plan.depth_padded = round_up(columns, kSlabDepth);
  plan.keep = 2 * k + 512;
  const std::int64_t row_bytes =
      plan.depth_padded * static_cast<std::int64_t>(sizeof(std::uint16_t));
  const std::int64_t all_rows = round_up(rows, kTileSide);
  const std::int64_t fitting = std::max(kCodeBytes / row_bytes / kTileSide * kTileSide, kTileSide);
  const std::int64_t least_chunk = std::min({kLeastChunk, all_rows, fitting});
  plan.group = std::clamp<std::int64_t>(kEntryBytes / ((plan.keep + least_chunk) * kEntry), 1,
                                        std::min(std::max<std::int64_t>(queries, 1), fitting));
  // Tiles of queries that are full, where there are several.
  if (plan.group > kTileSide && plan.group < queries)
    plan.group = plan.group / kTileSide * kTileSide;
  const std::int64_t room = kEntryBytes / (plan.group * kEntry) - plan.keep;
  plan.chunk = std::clamp<std::int64_t>(room / kTileSide * kTileSide, least_chunk,
                                        std::min({kMostChunk, all_rows, fitting}));
  plan.capacity = plan.keep + plan.chunk;
  return plan;
}

std::size_t topk_cuda_workspace_bytes(const TopkCall& call) {
  cuda::Workspace workspace;
  const cuda::TopkMemory memory(call, cuda::topk_plan(call), &workspace);
  return workspace.bytes();
}

}  // namespace stope
