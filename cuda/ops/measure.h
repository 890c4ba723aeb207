// What similarity, pairs and the loss do with every matrix first.
#pragma once

#include "launch.h"
#include "measure.cuh"
#include "stope/workspace.h"

namespace stope::cuda {

// What cosine multiplies each row by, and the first rows that may not be scored.
inline void measure(const Matrix& matrix, Metric metric, RowFactors* factors, RowFaults* faults,
                    void* stream) {
  launch("measure_rows", measure_rows,
         {.blocks_x = divide_up(matrix.rows, kMeasureRows), .threads = kMeasureThreads}, stream,
         MeasureArguments{matrix, metric, factors, faults});
}

}  // namespace stope::cuda
