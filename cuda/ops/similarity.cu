// similarity: every score in its canonical form, 32 x 32 of them to a block.
//
// Slabs of 32 elements of the tile's rows go through shared memory, widened and normalised on the
// way. A thread keeps the sixteen canonical lanes of 2 x 2 scores in registers.
#include "stope/similarity.h"

#include "exact_dot.cuh"
#include "faults.h"
#include "measure.h"
#include "plan.h"

namespace stope {
namespace cuda {
namespace {

constexpr int kSide = 32;        // of a tile
constexpr int kThreadSide = 16;  // threads along a side
constexpr int kPer = kSide / kThreadSide;
constexpr int kThreads = kThreadSide * kThreadSide;
constexpr int kSlab = 32;
constexpr int kStride = kSlab + 4;  // rows of the slab start in different banks
constexpr std::int64_t kMostGridRows = 65535;

struct Arguments {
  Matrix queries, corpus;
  Metric metric;
  const RowFactors* query_factors;
  const RowFactors* corpus_factors;
  float* scores;
  std::int64_t score_stride;
  std::int64_t first_query;
};

// The canonical tree over lanes that one thread keeps.
template <int kLanes>
STOPE_DEVICE float sum_of_lanes(const float (&lanes)[kLanes]) {
  if constexpr (kLanes == 1) {
    return lanes[0];
  } else {
    float halved[kLanes / 2];
#pragma unroll
    for (int l = 0; l < kLanes / 2; ++l) halved[l] = add_rn(lanes[l], lanes[l + kLanes / 2]);
    return sum_of_lanes(halved);
  }
}

enum class Kind { kDot, kDistance, kInt8 };

STOPE_DEVICE void load_slab(const Matrix& matrix, Metric metric, const RowFactors* factors,
                            std::int64_t first_row, std::int64_t first_depth, float* slab) {
#pragma unroll 1  // unrolled, the loads of four rows need more registers than there are
  for (unsigned e = thread(); e < kSide * kSlab; e += kThreads) {
    const std::int64_t row = first_row + e / kSlab;
    float value = 0.0f;
    if (row < matrix.rows)
      value = reader(matrix, metric, row, factors[row])[first_depth + e % kSlab];
    slab[e / kSlab * kStride + e % kSlab] = value;
  }
}

template <Kind kKind>
STOPE_KERNEL(kThreads)
score_tile(Arguments a) {
  float* q = shared_memory<float>();
  float* x = q + kSide * kStride;
  const std::int64_t first_row = a.first_query + std::int64_t{block_y()} * kSide;
  const std::int64_t first_column = std::int64_t{block_x()} * kSide;
  const unsigned row = thread() / kThreadSide, column = thread() % kThreadSide;
  float sums[kPer][kPer][kCanonicalLanes] = {};
  std::int32_t int_sums[kPer][kPer] = {};
  for (std::int64_t depth = 0; depth < a.corpus.columns; depth += kSlab) {
    load_slab(a.queries, a.metric, a.query_factors, first_row, depth, q);
    load_slab(a.corpus, a.metric, a.corpus_factors, first_column, depth, x);
    block_barrier();
    // The canonical sum ends with the group of sixteen that holds the last element.
    for (int group = 0; group < kSlab && depth + group < a.corpus.columns;
         group += kCanonicalLanes) {
#pragma unroll
      for (int l = 0; l < kCanonicalLanes; ++l) {
#pragma unroll
        for (int r = 0; r < kPer; ++r) {
#pragma unroll
          for (int c = 0; c < kPer; ++c) {
            const float qv = q[(row + r * kThreadSide) * kStride + group + l];
            const float xv = x[(column + c * kThreadSide) * kStride + group + l];
            if constexpr (kKind == Kind::kInt8)
              int_sums[r][c] += static_cast<std::int32_t>(qv) * static_cast<std::int32_t>(xv);
            else
              sums[r][c][l] = accumulate<kKind == Kind::kDistance>(qv, xv, sums[r][c][l]);
          }
        }
      }
    }
    block_barrier();
  }
#pragma unroll
  for (int r = 0; r < kPer; ++r) {
#pragma unroll
    for (int c = 0; c < kPer; ++c) {
      const std::int64_t i = first_row + row + r * kThreadSide;
      const std::int64_t j = first_column + column + c * kThreadSide;
      if (i >= a.queries.rows || j >= a.corpus.rows) continue;
      a.scores[i * a.score_stride + j] =
          kKind == Kind::kInt8 ? to_float_rn(int_sums[r][c])
                               : score_of_sum<kKind == Kind::kDistance>(sum_of_lanes(sums[r][c]));
    }
  }
}

}  // namespace
}  // namespace cuda

void similarity_cuda(const SimilarityCall& call) {
  using namespace cuda;
  void* stream = call.execution.stream;
  const DeviceScope scope(call.execution.device);
  Workspace workspace(call.execution);
  const SimilarityMemory memory(call, &workspace);
  clear_faults(memory.faults, 2, stream);
  measure(call.queries, call.metric, memory.queries, memory.faults, stream);
  measure(call.corpus, call.metric, memory.corpus, memory.faults + 1, stream);
  const auto kernel = call.corpus.dtype == DType::kInt8 && call.metric == Metric::kDot
                          ? score_tile<Kind::kInt8>
                      : call.metric == Metric::kEuclidean ? score_tile<Kind::kDistance>
                                                          : score_tile<Kind::kDot>;
  Arguments arguments = {call.queries,  call.corpus, call.metric,       memory.queries,
                         memory.corpus, call.scores, call.score_stride, 0};
  constexpr std::int64_t kMostRows = kMostGridRows * kSide;
  for (; arguments.first_query < call.queries.rows; arguments.first_query += kMostRows) {
    const std::int64_t left = call.queries.rows - arguments.first_query;
    launch("score_tile", kernel,
           {.blocks_x = divide_up(call.corpus.rows, kSide),
            .blocks_y = divide_up(left < kMostRows ? left : kMostRows, kSide),
            .threads = kThreads,
            .shared_bytes = 2 * kSide * kStride * sizeof(float)},
           stream, arguments);
  }
  raise_faults(memory.faults, stream);
}

}  // namespace stope
