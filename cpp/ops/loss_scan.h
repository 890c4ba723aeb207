// Score a tile, hand it to a consumer: the loops under the loss, forward and backward.
//
// A pass scores one set of rows against one set of columns, for instance queries against documents;
// its row i adds to the loss of query i, whatever its rows are. A task is a slab of rows; it walks
// over blocks of columns, and over tiles of the slab inside a block. The order of everything that
// is summed depends on kTileRows and kTileColumns alone, so results do not depend on the threads.
#pragma once

#include <algorithm>

#include "kernel_table.h"
#include "rows.h"
#include "stope/infonce.h"
#include "workspace.h"

namespace stope {

inline constexpr std::int64_t kLossTileRows = 128;
inline constexpr std::int64_t kLossTileColumns = 256;
inline constexpr std::int64_t kLossSlabRows = 1024;

// Rows of a matrix, or the rows that `index` picks from it.
struct LossSide {
  const Matrix* matrix = nullptr;
  const std::int64_t* index = nullptr;
  std::int64_t count = 0;
  Metric metric = Metric::kCosine;

  const float* row(const KernelTable& kernels, std::int64_t i, float* scratch) const {
    return float_row(kernels, *matrix, metric, index == nullptr ? i : index[i], scratch);
  }
};

struct LossPass {
  enum class Kind {
    kQueryToDocument,
    kQueryToQueue,
    kQueryToQuery,
    kDocumentToQuery,
    kDocumentToDocument
  };
  Kind kind;
  LossSide rows, columns;
  LossSide guide_rows, guide_columns;    // matrix is null without a guide
  const std::int32_t* groups = nullptr;  // of the columns
  const float* log_weights = nullptr;    // of the columns
  const std::int32_t* hidden = nullptr;  // columns whose flag is 1 are hidden from other rows
  bool limited = false;                  // whether the limits apply
  std::int64_t first_id = 0;  // id of column 0 among best negatives, or -1: no candidates

  bool ranks() const { return first_id >= 0; }
};

// One packed operand of up to `capacity` rows.
struct LossOperand {
  std::int8_t* data = nullptr;

  static std::int64_t bytes(const KernelTable& kernels, LossPrecision precision,
                            std::int64_t capacity, std::int64_t depth) {
    return round_up(capacity, kLossPadding) * round_up(depth, kLossPadding) *
           kernels.loss.element_bytes[precision];
  }
};

// Packs rows [first, end) of a side from group 0 on; groups are filled up to the padding.
template <typename Pack>
void pack_side(const KernelTable& kernels, LossPrecision precision, const LossSide& side,
               std::int64_t first, std::int64_t end, Pack pack, float* scratch) {
  const std::int64_t depth = side.matrix->columns;
  const std::int64_t groups = round_up(end - first, kLossPadding) / kLanes;
  for (std::int64_t g = 0; g < groups; ++g) {
    const float* rows[kLanes];
    const std::int64_t begin = first + g * kLanes;
    const auto count = static_cast<int>(std::clamp<std::int64_t>(end - begin, 0, kLanes));
    for (int r = 0; r < count; ++r) rows[r] = side.row(kernels, begin + r, scratch + r * depth);
    pack(precision, rows, count, depth, g);
  }
}

}  // namespace stope
