#include "plan.h"

#include <algorithm>

namespace stope {
namespace {

template <typename Memory, typename... Parts>
std::size_t bytes_of(const Parts&... parts) {
  Workspace workspace;
  const Memory memory(parts..., &workspace);
  return workspace.bytes();
}

}  // namespace

std::size_t similarity_cuda_workspace_bytes(const SimilarityCall& call) {
  return bytes_of<cuda::SimilarityMemory>(call);
}

std::size_t pair_scores_cuda_workspace_bytes(const PairScoresCall& call) {
  return bytes_of<cuda::PairMemory>(call);
}

std::size_t group_sums_cuda_workspace_bytes(const GroupSumsCall& call) {
  return bytes_of<cuda::GroupSumsMemory>(call);
}

CudaTopkPlan plan_topk_cuda(const TopkCall& call) {
  using namespace cuda;
  constexpr std::int64_t kLeastChunk = 4096, kMostChunk = 65536;
  constexpr auto kEntry = static_cast<std::int64_t>(sizeof(Candidate));
  const std::int64_t queries = std::max<std::int64_t>(call.queries.rows, 1);
  CudaTopkPlan plan = {};
  plan.streams = call.corpus.device.kind == DeviceKind::kCpu;
  plan.stages = plan.streams &&
                !(call.corpus_is_pinned && call.corpus.row_stride_bytes >= row_bytes(call.corpus));
  plan.depth_padded = round_up(call.corpus.columns, kSlabDepth);
  plan.keep = 2 * call.k + 512;
  const std::int64_t code_bytes =
      plan.depth_padded * static_cast<std::int64_t>(sizeof(std::uint16_t));
  const auto fitting = [](std::int64_t budget, std::int64_t bytes) {
    return std::max(budget / bytes / kTileSide * kTileSide, kTileSide);
  };
  const std::int64_t most_queries = fitting(call.budget.code_bytes, code_bytes);
  const std::int64_t most_rows = std::min(
      {kMostChunk, round_up(call.corpus.rows, kTileSide), most_queries,
       plan.streams ? fitting(call.budget.block_bytes, row_bytes(call.corpus)) : kMostChunk});
  const std::int64_t least_chunk = std::min(kLeastChunk, most_rows);
  plan.group =
      std::clamp<std::int64_t>(call.budget.list_bytes / ((plan.keep + least_chunk) * kEntry), 1,
                               std::min(queries, most_queries));
  // Tiles of queries that are full, where there are several.
  if (plan.group > kTileSide && plan.group < queries)
    plan.group = plan.group / kTileSide * kTileSide;
  const std::int64_t room = call.budget.list_bytes / (plan.group * kEntry) - plan.keep;
  plan.chunk = std::clamp<std::int64_t>(room / kTileSide * kTileSide, least_chunk, most_rows);
  plan.capacity = plan.keep + plan.chunk;
  plan.pass = plan.group;
  // The way from host memory is the narrow one, so that as many groups as can be share it.
  if (plan.streams) {
    const std::int64_t most = call.budget.code_bytes / (code_bytes + call.k * kEntry);
    plan.pass = std::min(queries, std::max(most / plan.group, std::int64_t{1}) * plan.group);
  }
  return plan;
}

std::size_t packed_cuda_bytes(std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(divide_up(rows, cuda::kTileSide) *
                                  cuda::corpus_panels(nullptr, columns).panel_bytes);
}

std::size_t pack_cuda_workspace_bytes(const PackCall&) {
  Workspace workspace;
  workspace.take<cuda::RowFaults>(1);
  return workspace.bytes();
}

std::size_t topk_cuda_pinned_bytes(const TopkCall& call) {
  const CudaTopkPlan plan = plan_topk_cuda(call);
  if (!plan.stages) return 0;
  return static_cast<std::size_t>(cuda::kBlocks * plan.chunk * cuda::row_bytes(call.corpus));
}

std::size_t topk_cuda_workspace_bytes(const TopkCall& call) {
  return bytes_of<cuda::TopkMemory>(call, plan_topk_cuda(call));
}

TopkCall cuda::topk_call(const NearestEarlierCall& call) {
  TopkCall search;
  search.queries = search.corpus = call.rows;
  search.queries_name = search.corpus_name = "x";
  search.metric = call.metric;
  search.k = 1;
  search.scores = call.scores;
  search.ids = call.ids;
  search.budget = call.budget;
  search.execution = call.execution;
  return search;
}

TopkCall cuda::topk_call(const PairsAboveCall& call) {
  TopkCall search;
  search.queries = call.x;
  search.queries.data =
      static_cast<const std::byte*>(call.x.data) + call.first * call.x.row_stride_bytes;
  search.queries.rows = call.end - call.first;
  search.corpus = call.y;
  search.queries_name = "x";
  search.corpus_name = call.within ? "x" : "y";
  search.metric = call.metric;
  search.budget = call.budget;
  search.execution = call.execution;
  return search;
}

std::size_t nearest_earlier_cuda_workspace_bytes(const NearestEarlierCall& call) {
  return bytes_of<cuda::NearestEarlierMemory>(call);
}

std::size_t pairs_above_cuda_workspace_bytes(const PairsAboveCall& call) {
  return bytes_of<cuda::PairsAboveMemory>(call);
}

}  // namespace stope
