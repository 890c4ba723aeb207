// Rows of the caller's matrices as the float32 rows that the canonical score is defined on.
#pragma once

#include <algorithm>

#include "kernel_table.h"
#include "stope/matrix.h"

namespace stope {

inline const void* row_data(const Matrix& matrix, std::int64_t row) {
  return static_cast<const char*>(matrix.data) + row * matrix.row_stride_bytes;
}

// Asks for a row that is read soon: its first two kilobytes, which the processor then goes on from.
inline void prefetch_row(const void* row, std::int64_t bytes) {
  constexpr std::int64_t kMostBytes = 2048;
  for (std::int64_t byte = 0; byte < bytes && byte < kMostBytes; byte += 64)
    __builtin_prefetch(static_cast<const char*>(row) + byte);
}

// int8 under the dot product has an exact int32 score; every other combination goes by float32.
inline bool scored_as_int8(const Matrix& matrix, Metric metric) {
  return matrix.dtype == DType::kInt8 && metric == Metric::kDot;
}

// Float32 matrices can be read in place unless the metric normalises their rows.
inline bool read_in_place(const Matrix& matrix, Metric metric) {
  return matrix.dtype == DType::kFloat32 && metric != Metric::kCosine;
}

// The row as float32, widened and normalised as the metric asks; `scratch` holds one row.
inline const float* float_row(const KernelTable& kernels, const Matrix& matrix, Metric metric,
                              std::int64_t row, float* scratch) {
  const void* source = row_data(matrix, row);
  if (read_in_place(matrix, metric)) return static_cast<const float*>(source);
  if (matrix.dtype != DType::kFloat32) {
    kernels.widen(matrix.dtype, source, matrix.columns, scratch);
    source = scratch;
  }
  if (metric == Metric::kCosine)
    kernels.normalise(static_cast<const float*>(source), matrix.columns, scratch);
  return static_cast<const float*>(source == scratch || metric == Metric::kCosine ? scratch
                                                                                  : source);
}

// The place in lists.ids of the first id of list `row` that is not below `id`.
inline std::int64_t first_from(const IdLists& lists, std::int64_t row, std::int64_t id) {
  const std::int64_t* end = lists.ids + lists.offsets[row + 1];
  return std::lower_bound(lists.ids + lists.offsets[row], end, id) - lists.ids;
}

// A query: its number and its float row.
struct QueryRow {
  std::int64_t row;
  const float* values;
};

// The canonical scores of one query against `count` corpus rows, four at a time.
class ExactScorer {
 public:
  static constexpr int kBatch = 8;
  static std::int64_t scratch_floats(std::int64_t depth) { return kBatch * depth; }

  ExactScorer(const KernelTable& kernels, const Matrix& queries, const Matrix& corpus,
              Metric metric)
      : kernels_(kernels), queries_(queries), corpus_(corpus), metric_(metric) {}

  // `query` is the query's float row; ids(i) names corpus rows; scratch holds scratch_floats.
  template <typename Ids>
  void score(std::int64_t query_row, const float* query, Ids ids, int count, float* scratch,
             float* scores) const {
    const auto values = [&](int i, float* row) {
      return float_row(kernels_, corpus_, metric_, ids(i), row);
    };
    score(query_row, query, ids, values, count, scratch, scores);
  }

  // As above, where values(i, row) gives the float row of ids(i), if need be in `row`.
  template <typename Ids, typename Values>
  void score(std::int64_t query_row, const float* query, Ids ids, Values values, int count,
             float* scratch, float* scores) const {
    if (scored_as_int8(corpus_, metric_)) {
      const auto* q = static_cast<const std::int8_t*>(row_data(queries_, query_row));
      for (int i = 0; i < count; ++i)
        scores[i] = static_cast<float>(kernels_.exact_dot_int8(
            q, static_cast<const std::int8_t*>(row_data(corpus_, ids(i))), corpus_.columns));
      return;
    }
    const float* rows[kBatch];
    for (int i = 0; i < count; ++i) rows[i] = values(i, scratch + i * corpus_.columns);
    const auto exact = metric_ == Metric::kEuclidean ? kernels_.exact_distance : kernels_.exact_dot;
    exact(&query, 1, rows, count, corpus_.columns, scores, kBatch);
  }

  // The scores of one corpus row against `count` queries, at most kBatch.
  void score_row(std::int64_t id, const QueryRow* queries, int count, float* scratch,
                 float* scores) const {
    if (scored_as_int8(corpus_, metric_)) {
      const auto* row = static_cast<const std::int8_t*>(row_data(corpus_, id));
      for (int i = 0; i < count; ++i)
        scores[i] = static_cast<float>(kernels_.exact_dot_int8(
            static_cast<const std::int8_t*>(row_data(queries_, queries[i].row)), row,
            corpus_.columns));
      return;
    }
    const float* values[kBatch];
    for (int i = 0; i < count; ++i) values[i] = queries[i].values;
    const float* row = float_row(kernels_, corpus_, metric_, id, scratch);
    const auto exact = metric_ == Metric::kEuclidean ? kernels_.exact_distance : kernels_.exact_dot;
    exact(values, count, &row, 1, corpus_.columns, scores, 1);
  }

  void prefetch(std::int64_t id) const {
    prefetch_row(row_data(corpus_, id), corpus_.columns * element_bytes(corpus_.dtype));
  }

 private:
  const KernelTable& kernels_;
  const Matrix& queries_;
  const Matrix& corpus_;
  Metric metric_;
};

}  // namespace stope
