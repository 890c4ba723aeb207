// A kernel: what cosine multiplies the rows of a matrix by, and which of them may not be scored.
// Sixteen rows to a block, half a warp each.
#pragma once

#include "rows.cuh"

namespace stope::cuda {

struct MeasureArguments {
  Matrix matrix;
  Metric metric;
  RowFactors* factors;  // [rows]
  RowFaults* faults;
};

inline constexpr int kMeasureThreads = 256;
inline constexpr std::int64_t kMeasureRows = kMeasureThreads / kCanonicalLanes;

STOPE_KERNEL(kMeasureThreads) measure_rows(MeasureArguments a) {
  const std::int64_t wanted = block_x() * kMeasureRows + thread() / kCanonicalLanes;
  // Both halves of a warp take every step together; beyond the end the last row is read again.
  const std::int64_t row = wanted < a.matrix.rows ? wanted : a.matrix.rows - 1;
  const RowMeasure measure = measure_row(a.matrix, a.metric, row);
  const RowReader x = reader(a.matrix, a.metric, row, measure.factors);
  const float norm = a.metric == Metric::kCosine ? 1.0f : norm_above(x, measure.largest);
  note_faults(row, measure.finite, norm, a.faults);
  if (half_lane() == 0) a.factors[row] = measure.factors;
}

}  // namespace stope::cuda
