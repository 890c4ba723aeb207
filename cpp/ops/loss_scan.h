// Score a tile, hand it to a consumer: the loops under the loss, forward and backward.
//
// A pass scores one set of rows against one set of columns, for instance queries against documents;
// its row i adds to the loss of query i, whatever its rows are. A task is a slab of rows; it walks
// over blocks of columns, and over strips of 32 rows inside a block: a strip's scores stay in the
// first-level cache until they are folded or turned into packed weights. The order of everything
// that is summed depends on these shapes alone, so results do not depend on the threads.
#pragma once

#include <algorithm>
#include <atomic>

#include "kernel_table.h"
#include "objectives.h"
#include "parallel.h"
#include "rows.h"
#include "stope/error.h"
#include "stope/infonce.h"
#include "stope/workspace.h"

namespace stope {

inline constexpr std::int64_t kMostTileColumns = 512;
inline constexpr std::int64_t kLossSlabRows = 4096;
inline constexpr std::int64_t kLossSlabUnit = 2 * kLossStrip;
inline constexpr std::int64_t kLossTaskRows = 64;  // of loops over single rows
inline constexpr int kMaxLossPasses = 5;
inline constexpr int kMaxLossThreads = 1024;

// A row as it lies in memory, and what it has to be multiplied by.
struct LossRow {
  const float* data;
  float factor;
};

// Rows of a matrix, or the rows that `index` picks from it.
struct LossSide {
  const Matrix* matrix = nullptr;
  const std::int64_t* index = nullptr;
  std::int64_t count = 0;
  const float* factors = nullptr;  // 1 / norm of every row of the matrix; nullptr: dot products

  // `scratch` holds one row.
  LossRow row(const KernelTable& kernels, std::int64_t i, float* scratch) const;
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
  LossSide guide_rows, guide_columns;    // matrix is nullptr without a guide
  const std::int32_t* groups = nullptr;  // of the columns
  const float* log_weights = nullptr;    // of the columns
  const std::int32_t* hidden = nullptr;  // columns flagged 1 are other rows' hard negatives
  bool limited = false;                  // whether the limits apply
  std::int64_t first_id = -1;  // id of column 0 among best negatives; -1: they come from elsewhere

  bool guided() const { return guide_rows.matrix != nullptr; }
};

// A strip of a slab against a block of columns.
struct LossTile {
  const LossPass* pass;
  LossTerms* terms;  // the shift is the row's
  std::int64_t first_row, first_column;
  int rows, columns;
  std::int64_t slab_row;  // of the first row
  bool plain;  // nothing is masked, and every entry's logit is its score times the multiplier
};

// What one thread works with; operands are packed by the kernels.
struct LossSpace {
  std::int8_t *left, *left_inner, *right, *right_inner, *guide_left, *guide_right;
  float* tile;
  float* guide_tile;
  void* weights;  // a packed tile of weights
  float* rows;    // a strip of float rows
};

class LossScan {
 public:
  std::size_t bytes() const { return workspace_.bytes(); }

 protected:
  LossScan(const InfonceProblem& problem, bool backward, Workspace workspace);

  // Checks the inputs and finds what is needed of every row and column.
  void prepare();

  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    const Poll poll = [](void* self) { return static_cast<LossScan*>(self)->report(); };
    if (!parallel_for(problem_.execution.threads, tasks, body, poll, this)) throw Interrupted();
  }
  // body(i, thread) for every row of [0, rows).
  template <typename Body>
  void parallel_rows(std::int64_t rows, Body&& body) {
    parallel(divide_up(rows, kLossTaskRows), [&](std::int64_t task, int thread) {
      const std::int64_t end = std::min((task + 1) * kLossTaskRows, rows);
      for (std::int64_t i = task * kLossTaskRows; i < end; ++i) body(i, thread);
    });
  }
  bool report() const;

  std::int64_t slab_begin(std::int64_t slab) const {
    return std::min(slab * divide_up(rows_, kLossSlabUnit) / slabs_ * kLossSlabUnit, rows_);
  }
  std::int64_t slab_end(std::int64_t slab) const { return slab_begin(slab + 1); }
  std::int64_t positive_count() const { return problem_.positives.offsets[rows_]; }
  RowPositives positives_of(std::int64_t i) const;

  // The positives' scores of the slab, and the limits that follow from them.
  void find_limits(std::int64_t begin, std::int64_t end, const LossSpace& space);

  // For every block of columns before(block), body(tile) for its tiles, after(block). The tiles'
  // consumer scores them.
  template <typename Before, typename Body, typename After>
  void scan(const LossPass& pass, std::int64_t begin, std::int64_t end, const LossSpace& space,
            Before before, Body body, After after) {
    pack_rows(pass.rows, begin, end, space.left, space.left_inner, space);
    if (pass.guided()) pack_rows(pass.guide_rows, begin, end, space.guide_left, nullptr, space);
    std::int64_t block = 0;
    for (std::int64_t c = 0; c < pass.columns.count; c += tile_columns_, ++block) {
      const std::int64_t last = std::min(c + tile_columns_, pass.columns.count);
      pack_columns(pass.columns, c, last, space.right, space.right_inner, space);
      if (pass.guided())
        pack_columns(pass.guide_columns, c, last, space.guide_right, nullptr, space);
      before(block);
      LossTerms terms = terms_of(pass, c);
      kernels_.bfloat16.begin_tiles();
      for (std::int64_t r = begin; r < end; r += kLossStrip) {
        const LossTile tile = {&pass,
                               &terms,
                               r,
                               c,
                               static_cast<int>(std::min<std::int64_t>(kLossStrip, end - r)),
                               static_cast<int>(last - c),
                               r - begin,
                               is_plain(pass, terms, r, std::min(r + kLossStrip, end), c, last)};
        body(tile);
      }
      kernels_.bfloat16.end_tiles();
      after(block);
    }
  }

  // Packs rows [begin, end) of a side for the scores and, unless `inner` is nullptr, for the
  // gradients; the last groups are filled up with zeros.
  template <typename Pack>
  void pack(Pack pack_group, const LossSide& side, std::int64_t begin, std::int64_t end,
            std::int8_t* operand, std::int8_t* inner, const LossSpace& space) const {
    const std::int64_t depth = side.matrix->columns;
    const std::int64_t groups = round_up(end - begin, kLossPadding) / kLanes;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t first = begin + g * kLanes;
      const float* rows[kLanes];
      float factors[kLanes];
      const auto count = static_cast<int>(std::clamp<std::int64_t>(end - first, 0, kLanes));
      for (int r = 0; r < count; ++r) {
        const LossRow row = side.row(kernels_, first + r, space.rows + r * depth);
        rows[r] = row.data;
        factors[r] = row.factor;
      }
      pack_group(precision_, rows, factors, count, depth, g, operand);
      if (inner != nullptr)
        kernels_.loss.pack_inner(precision_, rows, factors, count, depth, g, inner);
    }
  }
  void pack_rows(const LossSide& side, std::int64_t begin, std::int64_t end, std::int8_t* operand,
                 std::int8_t* inner, const LossSpace& space) const {
    pack(kernels_.loss.pack_left, side, begin, end, operand, inner, space);
  }
  void pack_columns(const LossSide& side, std::int64_t begin, std::int64_t end,
                    std::int8_t* operand, std::int8_t* inner, const LossSpace& space) const {
    pack(kernels_.loss.pack_right, side, begin, end, operand, inner, space);
  }
  // Bytes of one row of a packed operand.
  std::int64_t row_bytes(std::int64_t depth) const {
    return round_up(depth, kLossPadding) * kernels_.loss.element_bytes[precision_];
  }

  void score(const LossTile& tile, const LossSpace& space) const;
  // For the kernels that score a plain tile and use it in one go.
  LossStrip strip_of(const LossTile& tile, const LossSpace& space) const;

  float best_positive(std::int64_t i) const { return limits_[i].positive; }

  // Masks row r of a scored tile; `survey` counts what is left. Then the query's own hard negatives
  // get the score whose logit is theirs.
  void mask_row(const LossTile& tile, int r, const LossSpace& space, LossSurvey* survey) const;
  const LossTerms& terms_of_row(const LossTile& tile, std::int64_t i) const {
    if (tile.terms->kind == kLossSigmoid)
      tile.terms->shift = RowObjective::shift(problem_, positives_of(i));
    return *tile.terms;
  }

  const InfonceProblem& problem_;
  const KernelTable& kernels_;
  const LossPrecision precision_;
  Workspace workspace_;
  const std::int64_t tile_columns_;
  // No power of two: rows of a tile go to different sets of a cache.
  const std::int64_t tile_stride_;
  const std::int64_t rows_, depth_;
  std::int64_t slab_rows_, slabs_;  // slab_rows_: of the largest
  LossSide queries_, documents_;
  LossPass passes_[kMaxLossPasses];
  int pass_count_ = 0;
  LossSpace spaces_[kMaxLossThreads];
  float* positive_scores_ = nullptr;
  std::atomic<std::int64_t> done_{0};
  std::int64_t total_ = 1;

 private:
  struct RowLimits {
    float upper, lower;  // of the scores that masks look at
    float positive;      // the best positive's score
  };

  LossSide side(const Matrix& matrix, Metric metric, const float* factors) const;
  void make_passes();
  LossTerms terms_of(const LossPass& pass, std::int64_t first_column) const;
  void check(const Matrix& matrix, Metric metric, float* factors, const char* name);
  bool is_plain(const LossPass& pass, const LossTerms& terms, std::int64_t begin, std::int64_t end,
                std::int64_t first_column, std::int64_t last_column) const;
  bool has_limits() const;
  template <typename Write>
  void score_positives(std::int64_t begin, std::int64_t end, const LossSide& queries,
                       const LossSide& documents, std::int8_t* left, std::int8_t* right,
                       const LossSpace& space, Write write) const;
  void limit_row(std::int64_t i);
  void hide(const LossTile& tile, std::int64_t i, float* scores) const;
  bool has_own_logits() const;

  RowLimits* limits_ = nullptr;
  std::int32_t* row_groups_ = nullptr;    // of every positive
  std::int32_t* query_groups_ = nullptr;  // of every query's first positive
  std::int32_t* hidden_ = nullptr;
  float* factors_[6] = {};  // queries, documents, queue, and the guide's
};

}  // namespace stope
