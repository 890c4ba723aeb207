// What the kernels and the host of infonce share: plain structs, no functions.
#pragma once

#include <cstdint>

#include "stope/infonce.h"
#include "types.h"

namespace stope::cuda {

// The scores of so many rows and columns are in the workspace at once.
inline constexpr std::int64_t kLossRows = 2048;
inline constexpr std::int64_t kLossColumns = 4096;

inline constexpr int kMostLossPasses = 5;
inline constexpr int kLossMatrices = 6;  // queries, documents, queue, and the guide's

// Rows of a matrix, or those that `index` picks from it.
struct LossSide {
  Matrix matrix;
  Metric metric = Metric::kDot;
  const std::int64_t* index = nullptr;
  std::int64_t count = 0;
  const RowFactors* factors = nullptr;  // of every row of the matrix
};

// One set of rows against one set of columns; row i adds to the loss of query i.
enum class LossPassKind : std::int32_t {
  kQueryToDocument,
  kQueryToQueue,
  kQueryToQuery,
  kDocumentToQuery,
  kDocumentToDocument
};
struct LossPass {
  LossPassKind kind;
  LossSide rows, columns;
  LossSide guide_rows, guide_columns;    // where guided
  const std::int32_t* groups = nullptr;  // of the columns
  const float* log_weights = nullptr;    // of the columns
  const std::int32_t* hidden = nullptr;  // columns flagged 1 are other rows' hard negatives
  bool limited = false;                  // whether the limits apply
  bool guided = false;                   // whether they apply to the guide's scores
  std::int64_t first_id = -1;  // id of column 0 among best negatives; -1: they come from elsewhere
};

// The part of a pass whose scores are in the workspace.
struct LossPart {
  std::int64_t first_row, rows, first_column, columns;
};

struct RowLimits {
  float upper, lower;  // of the scores that masks look at
  float positive;      // the best positive's score
};

// A row's state between the passes. softmax: sum of e^(logit - reference); hardness: of both its
// exponentials; pairwise and sigmoid: of softplus and of its derivative.
struct LossState {
  double reference, first, second, kept;
};
static_assert(sizeof(LossState) == kInfonceState * sizeof(double));

// Weight = first * (first exponential) + second * (second exponential), or first * derivative.
struct LossCoefficients {
  float reference, first, second;
};

// Entries of the positives by document: list j is entries[offsets[j]] .. [offsets[j + 1] - 1].
struct EntriesByDocument {
  const std::int64_t* offsets;
  const std::int64_t* entries;
};

}  // namespace stope::cuda
