// pair_scores: the canonical scores of listed pairs, half a warp to a pair.
#include "stope/hard_negatives.h"

#include "exact_dot.cuh"
#include "faults.h"
#include "measure.h"
#include "plan.h"
#include "take_in.h"

namespace stope {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kPairsPerBlock = kThreads / kCanonicalLanes;

struct Arguments {
  Matrix queries, corpus;
  Metric metric;
  const RowFactors* query_factors;
  const std::int64_t* offsets;
  const std::int64_t* ids;
  std::int64_t pairs;
  float* scores;
  RowFaults* faults;  // of the corpus
};

// The list that holds entry p: the last one that does not begin behind it.
STOPE_DEVICE std::int64_t list_of(const std::int64_t* offsets, std::int64_t lists, std::int64_t p) {
  std::int64_t low = 0, high = lists;  // offsets[low] <= p < offsets[high]
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (offsets[middle] <= p ? low : high) = middle;
  }
  return low;
}

STOPE_KERNEL(kThreads) score_pairs(Arguments a) {
  const std::int64_t wanted = block_x() * kPairsPerBlock + thread() / kCanonicalLanes;
  // Both halves of a warp take every step together; beyond the end the last pair is scored again.
  const std::int64_t pair = wanted < a.pairs ? wanted : a.pairs - 1;
  const std::int64_t i = list_of(a.offsets, a.queries.rows, pair), j = a.ids[pair];
  const RowMeasure measure = measure_row(a.corpus, a.metric, j);
  const RowReader q = reader(a.queries, a.metric, i, a.query_factors[i]);
  const RowReader x = reader(a.corpus, a.metric, j, measure.factors);
  const float norm = a.metric == Metric::kCosine ? 1.0f : norm_above(x, measure.largest);
  note_faults(j, measure.finite, norm, a.faults);
  const float score = exact_score(q, x, a.metric);
  if (half_lane() == 0) a.scores[pair] = score;
}

}  // namespace
}  // namespace cuda

void pair_scores_cuda(const PairScoresCall& call) {
  using namespace cuda;
  void* stream = call.execution.stream;
  const DeviceScope scope(call.execution.device);
  Workspace workspace(call.execution);
  const PairMemory memory(call, &workspace);
  const std::int64_t rows = call.queries.rows, pairs = call.pairs.offsets[rows];
  take_in(call.pairs.offsets, rows + 1, memory.offsets, stream);
  take_in(call.pairs.ids, pairs, memory.ids, stream);
  clear_faults(memory.faults, 2, stream);
  measure(call.queries, call.metric, memory.queries, memory.faults, stream);
  launch("score_pairs", score_pairs,
         {.blocks_x = divide_up(pairs, kPairsPerBlock), .threads = kThreads}, stream,
         Arguments{call.queries, call.corpus, call.metric, memory.queries, memory.offsets,
                   memory.ids, pairs, call.scores, memory.faults + 1});
  raise_faults(memory.faults, stream);
}

}  // namespace stope
