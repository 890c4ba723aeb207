// What the kernels and the host of infonce share: plain structs, no functions.
#pragma once

#include <cstdint>

#include "infonce_objective.h"
#include "infonce_passes.h"
#include "stope/infonce.h"
#include "types.h"

namespace stope::cuda {

// The scores of so many rows and columns are in the workspace at once.
inline constexpr std::int64_t kInfonceRows = 2048;
inline constexpr std::int64_t kInfonceColumns = 4096;

// Faults: one entry a matrix, one of the row gradients, and one of results beyond float32: losses
// or gradients of queries (not_finite), gradients of documents (too_long).
inline constexpr int kGradientFaults = kInfonceMatrices, kResultFaults = kInfonceMatrices + 1;
inline constexpr int kInfonceFaults = kInfonceMatrices + 2;

// Rows of a matrix, or those that `index` picks from it.
struct InfonceSide {
  Matrix matrix;
  Metric metric = Metric::kDot;
  const std::int64_t* index = nullptr;
  std::int64_t count = 0;
  const RowFactors* factors = nullptr;  // of every row of the matrix
};

// One set of rows against one set of columns, where guided with the guide's.
struct InfoncePass : InfoncePassRules {
  InfonceSide rows, columns, guide_rows, guide_columns;
};

// The part of a pass whose scores are in the workspace.
struct InfoncePart {
  std::int64_t first_row, rows, first_column, columns;
};

struct RowLimits {
  float upper, lower;  // of the scores that masks look at
  float positive;      // the best positive's score
};

// Entries of the positives by document: list j is entries[offsets[j]] .. [offsets[j + 1] - 1].
struct EntriesByDocument {
  const std::int64_t* offsets;
  const std::int64_t* entries;
};

}  // namespace stope::cuda
