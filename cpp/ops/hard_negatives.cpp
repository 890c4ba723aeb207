// hard_negatives: canonical scores of listed pairs, and the keys of a reproducible choice.
//
// A key is splitmix64's finaliser folded over (seed, query, id): independent of threads, chunks and
// of which other candidates there are.
#include "stope/hard_negatives.h"

#include <algorithm>

#include "dispatch.h"
#include "packing.h"
#include "rows.h"
#include "stope/workspace.h"
#include "tasks.h"

namespace stope {
namespace {

constexpr std::int64_t kRowsPerTask = 32;

struct PairScratch {
  float* rows;
  float* query;
  std::int8_t* codes;
};

PairScratch take(Workspace* workspace, const PairScoresCall& call) {
  const std::int64_t threads = call.execution.threads, depth = call.corpus.columns;
  return {workspace->take<float>(threads * ExactScorer::scratch_floats(depth)),
          workspace->take<float>(threads * depth),
          workspace->take<std::int8_t>(threads * PanelShape(depth, 1).depth_padded)};
}

std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

std::size_t pair_scores_workspace_bytes(const PairScoresCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda)
    return pair_scores_cuda_workspace_bytes(call);
  Workspace workspace;
  take(&workspace, call);
  return workspace.bytes();
}

void pair_scores(const PairScoresCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return pair_scores_cuda(call);
  const KernelTable& kernels = stope::kernels();
  const PanelShape shape(call.corpus.columns, 1);
  Workspace workspace(call.execution);
  const PairScratch scratch = take(&workspace, call);
  const ExactScorer scorer(kernels, call.queries, call.corpus, call.metric);
  RowFault query_fault, corpus_fault;
  const auto check = [&](const float* row, std::int64_t index, int thread, const Matrix& matrix,
                         RowFault* fault) {
    RowStats stats;
    kernels.int8.quantise(row, shape.depth, shape.depth_padded, fixed_scale(matrix, call.metric),
                          scratch.codes + thread * shape.depth_padded, &stats);
    fault->note(stats, index);
  };
  const auto body = [&](std::int64_t task, int thread) {
    float* rows = scratch.rows + thread * ExactScorer::scratch_floats(shape.depth);
    const std::int64_t end = std::min((task + 1) * kRowsPerTask, call.queries.rows);
    for (std::int64_t i = task * kRowsPerTask; i < end; ++i) {
      const float* query =
          float_row(kernels, call.queries, call.metric, i, scratch.query + thread * shape.depth);
      check(query, i, thread, call.queries, &query_fault);
      const std::int64_t last = call.pairs.offsets[i + 1];
      for (std::int64_t p = call.pairs.offsets[i]; p < last; p += ExactScorer::kBatch) {
        const int count = static_cast<int>(std::min<std::int64_t>(ExactScorer::kBatch, last - p));
        float scores[ExactScorer::kBatch];
        const auto id = [&](int j) { return call.pairs.ids[p + j]; };
        for (int j = 0; j < count; ++j)
          check(float_row(kernels, call.corpus, call.metric, id(j), rows), id(j), thread,
                call.corpus, &corpus_fault);
        scorer.score(i, query, id, count, rows, scores);
        std::copy_n(scores, count, call.scores + p);
      }
    }
  };
  run_tasks(
      call.execution, divide_up(call.queries.rows, kRowsPerTask),
      [&] { return tell(call.execution, 0, 1); }, body);
  query_fault.raise("queries");
  corpus_fault.raise("corpus");
}

void sampling_keys(std::uint64_t seed, std::int64_t first_query, const std::int64_t* ids,
                   std::int64_t rows, std::int64_t columns, std::uint64_t* keys) {
  for (std::int64_t i = 0; i < rows; ++i) {
    const std::uint64_t query = mix(mix(seed) ^ static_cast<std::uint64_t>(first_query + i));
    for (std::int64_t r = 0; r < columns; ++r) {
      const std::int64_t id = ids[i * columns + r];
      keys[i * columns + r] =
          id < 0 ? UINT64_MAX : mix(query ^ static_cast<std::uint64_t>(id)) >> 1;
    }
  }
}

}  // namespace stope
