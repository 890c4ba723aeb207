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
#include <limits>

#include "infonce_objective.h"
#include "infonce_passes.h"
#include "kernel_table.h"
#include "packing.h"
#include "rows.h"
#include "stope/error.h"
#include "stope/infonce.h"
#include "stope/workspace.h"
#include "tasks.h"

namespace stope {

inline constexpr std::int64_t kMostTileColumns = 512;
inline constexpr std::int64_t kInfonceSlabRows = 4096;
inline constexpr std::int64_t kInfonceSlabUnit = 2 * kInfonceStrip;
inline constexpr std::int64_t kInfonceTaskRows = 64;  // of loops over single rows
inline constexpr int kMaxInfonceThreads = 1024;

// Rows of a slab of a sieve: by the problem's shape alone, so that threads change nothing.
std::int64_t sieve_rows(const InfonceProblem& problem);

// A row as it lies in memory, and what it has to be multiplied by.
struct InfonceRow {
  const float* data;
  float factor;
};

// Rows of a matrix, or the rows that `index` picks from it.
struct InfonceSide {
  const Matrix* matrix = nullptr;
  const std::int64_t* index = nullptr;
  std::int64_t count = 0;
  const float* factors = nullptr;  // 1 / norm of every row of the matrix; nullptr: dot products

  // `scratch` holds one row.
  InfonceRow row(const KernelTable& kernels, std::int64_t i, float* scratch) const;
};

// One set of rows against one set of columns, where guided with the guide's.
struct InfoncePass : InfoncePassRules {
  InfonceSide rows, columns, guide_rows, guide_columns;
};

// A strip of a slab against a block of columns.
struct InfonceTile {
  const InfoncePass* pass;
  InfonceTerms* terms;  // the shift is the row's
  std::int64_t first_row, first_column;
  int rows, columns;
  std::int64_t slab_row;  // of the first row
  bool plain;  // nothing is masked, and every entry's logit is its score times the multiplier
};

// What one thread works with; operands are packed by the kernels.
struct InfonceSpace {
  std::int8_t *left, *left_inner, *right, *right_inner, *guide_left, *guide_right;
  float* tile;
  float* guide_tile;
  void* weights;  // a packed tile of weights
  float* rows;    // a strip of float rows
};

// What a scan takes memory for. A sieve scores codes of its own.
enum class InfonceUse { kForward, kBackward, kSieve };

class InfonceScan {
 public:
  std::size_t bytes() const { return workspace_.bytes(); }

 protected:
  InfonceScan(const InfonceProblem& problem, InfonceUse use, Workspace workspace);

  // Checks the inputs and finds what is needed of every row and column.
  void prepare();

  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    run_tasks(problem_.execution, tasks, [this] { return report(); }, body);
  }
  // body(i, thread) for every row of [0, rows).
  template <typename Body>
  void parallel_rows(std::int64_t rows, Body&& body) {
    parallel(divide_up(rows, kInfonceTaskRows), [&](std::int64_t task, int thread) {
      const std::int64_t end = std::min((task + 1) * kInfonceTaskRows, rows);
      for (std::int64_t i = task * kInfonceTaskRows; i < end; ++i) body(i, thread);
    });
  }
  bool report() const;

  // What the state of row i means: its loss and what is told beside it.
  void tell_row(std::int64_t i, const InfonceForward& out);
  // After the last row: refuses a loss beyond float32.
  void finish_rows() const;

  std::int64_t slab_begin(std::int64_t slab) const {
    return std::min(slab * divide_up(rows_, kInfonceSlabUnit) / slabs_ * kInfonceSlabUnit, rows_);
  }
  std::int64_t slab_end(std::int64_t slab) const { return slab_begin(slab + 1); }
  std::int64_t positive_count() const { return problem_.positives.offsets[rows_]; }
  RowPositives positives(std::int64_t i) const {
    return positives_of(problem_, positive_scores_, i);
  }

  // The positives' scores of the slab, and the limits that follow from them.
  void find_limits(std::int64_t begin, std::int64_t end, const InfonceSpace& space);
  // The limits alone, where the scores are known.
  void limit_rows(std::int64_t begin, std::int64_t end, const InfonceSpace& space);

  // For every block of columns before(block), body(tile) for its tiles, after(block). The tiles'
  // consumer scores them.
  template <typename Before, typename Body, typename After>
  void scan(const InfoncePass& pass, std::int64_t begin, std::int64_t end,
            const InfonceSpace& space, Before before, Body body, After after) {
    pack_rows(pass.rows, begin, end, space.left, space.left_inner, space);
    if (pass.guided) pack_rows(pass.guide_rows, begin, end, space.guide_left, nullptr, space);
    std::int64_t block = 0;
    for (std::int64_t c = 0; c < pass.columns.count; c += tile_columns_, ++block) {
      const std::int64_t last = std::min(c + tile_columns_, pass.columns.count);
      pack_columns(pass.columns, c, last, space.right, space.right_inner, space);
      if (pass.guided) pack_columns(pass.guide_columns, c, last, space.guide_right, nullptr, space);
      before(block);
      InfonceTerms terms = terms_of(pass, c);
      kernels_.bfloat16.begin_tiles();
      for (std::int64_t r = begin; r < end; r += kInfonceStrip) {
        const InfonceTile tile = {
            &pass,
            &terms,
            r,
            c,
            static_cast<int>(std::min<std::int64_t>(kInfonceStrip, end - r)),
            static_cast<int>(last - c),
            r - begin,
            is_plain(pass, terms, r, std::min(r + kInfonceStrip, end), c, last)};
        body(tile);
      }
      kernels_.bfloat16.end_tiles();
      after(block);
    }
  }

  // Packs rows [begin, end) of a side for the scores and, unless `inner` is nullptr, for the
  // gradients; the last groups are filled up with zeros.
  template <typename Pack>
  void pack(Pack pack_group, const InfonceSide& side, std::int64_t begin, std::int64_t end,
            std::int8_t* operand, std::int8_t* inner, const InfonceSpace& space) const {
    const std::int64_t depth = side.matrix->columns;
    const std::int64_t groups = round_up(end - begin, kInfoncePadding) / kLanes;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t first = begin + g * kLanes;
      const float* rows[kLanes];
      float factors[kLanes];
      const auto count = static_cast<int>(std::clamp<std::int64_t>(end - first, 0, kLanes));
      for (int r = 0; r < count; ++r) {
        const InfonceRow row = side.row(kernels_, first + r, space.rows + r * depth);
        rows[r] = row.data;
        factors[r] = row.factor;
      }
      pack_group(precision_, rows, factors, count, depth, g, operand);
      if (inner != nullptr)
        kernels_.infonce.pack_inner(precision_, rows, factors, count, depth, g, inner);
    }
  }
  void pack_rows(const InfonceSide& side, std::int64_t begin, std::int64_t end,
                 std::int8_t* operand, std::int8_t* inner, const InfonceSpace& space) const {
    pack(kernels_.infonce.pack_left, side, begin, end, operand, inner, space);
  }
  void pack_columns(const InfonceSide& side, std::int64_t begin, std::int64_t end,
                    std::int8_t* operand, std::int8_t* inner, const InfonceSpace& space) const {
    pack(kernels_.infonce.pack_right, side, begin, end, operand, inner, space);
  }
  // Bytes of one row of a packed operand.
  std::int64_t row_bytes(std::int64_t depth) const {
    return round_up(depth, kInfoncePadding) * bytes_of(kernels_.infonce.element_bytes);
  }

  int bytes_of(const BytesByPrecision& bytes) const {
    return precision_ == Precision::kFloat32 ? bytes.float32 : bytes.bfloat16;
  }

  void score(const InfonceTile& tile, const InfonceSpace& space) const;
  void score_guide(const InfonceTile& tile, const InfonceSpace& space) const;
  // For the kernels that score a plain tile and use it in one go.
  InfonceStrip strip_of(const InfonceTile& tile, const InfonceSpace& space) const;

  float best_positive(std::int64_t i) const { return limits_[i].positive; }

  // Masks row r of a scored tile; `survey` counts what is left.
  void mask_row(const InfonceTile& tile, int r, const InfonceSpace& space,
                InfonceSurvey* survey) const;
  // Then the query's own hard negatives get the score whose logit is theirs, unless rows are wide.
  // True where there are any in the tile.
  bool give_own_scores(const InfonceTile& tile, int r, const InfonceSpace& space) const;
  const InfonceTerms& terms_of_row(const InfonceTile& tile, std::int64_t i) const {
    if (tile.terms->kind == kInfonceSigmoid)
      tile.terms->shift = static_cast<float>(logit_shift(problem_, positives(i)));
    return *tile.terms;
  }

  // body(column, score, logit) for what is left of row r, in double: where is_wide says so of the
  // longest rows. Kernels do not see such rows.
  template <typename Body>
  void each_wide(const InfonceTile& tile, int r, const InfonceSpace& space, const WideTerms& terms,
                 Body body) const {
    const float* scores = space.tile + r * tile_stride_;
    bool own[kMostTileColumns] = {};
    mark_own(tile, tile.first_row + r, own);
    for (int c = 0; c < tile.columns; ++c) {
      if (scores[c] == -std::numeric_limits<float>::infinity()) continue;
      const float log_weight = tile.terms->log_weights == nullptr ? 0 : tile.terms->log_weights[c];
      const double logit = own[c] ? own_logit(problem_, static_cast<double>(scores[c])) +
                                        static_cast<double>(log_weight)
                                  : terms.logit(scores[c], log_weight);
      body(c, static_cast<double>(scores[c]), logit);
    }
  }
  WideTerms wide_terms_of(const InfonceTile& tile, std::int64_t i) const {
    return wide_terms(problem_, multiplier_of(problem_, tile.pass->kind),
                      logit_shift(problem_, positives(i)));
  }

  InfonceTerms terms_of(const InfoncePass& pass, std::int64_t first_column) const;
  // Flags the query's own hard negatives, where their logits are of another form.
  void mark_own(const InfonceTile& tile, std::int64_t i, bool* own) const;
  // Rows [begin, end) against columns [first_column, last_column): nothing is masked, and every
  // entry's logit is its score times the multiplier.
  bool is_plain(const InfoncePass& pass, const InfonceTerms& terms, std::int64_t begin,
                std::int64_t end, std::int64_t first_column, std::int64_t last_column) const;
  // What no logit exceeds; after prepare.
  double largest_logit() const { return largest_logit_; }

  struct RowLimits {
    float upper, lower;  // of the scores that masks look at
    float positive;      // the best positive's score
  };
  RowLimits* limits_ = nullptr;
  bool has_limits() const;

  const InfonceProblem& problem_;
  const KernelTable& kernels_;
  const Precision precision_;
  Workspace workspace_;
  const std::int64_t tile_columns_;
  // No power of two: rows of a tile go to different sets of a cache.
  const std::int64_t tile_stride_;
  const std::int64_t rows_, depth_;
  std::int64_t slab_rows_, slabs_;  // slab_rows_: of the largest
  InfonceSide sides_[kInfonceMatrices];
  const InfonceSide &queries_ = sides_[kQueries], &documents_ = sides_[kDocuments];
  bool wide_ = false;  // after prepare
  InfoncePass passes_[kMostInfoncePasses];
  int pass_count_ = 0;
  InfonceSpace spaces_[kMaxInfonceThreads];
  float* positive_scores_ = nullptr;
  std::atomic<std::int64_t> done_{0};
  std::int64_t total_ = 1;

 private:
  InfonceSide rows_of(InfoncePassKind kind, int guide) const;
  void make_passes();
  double check(int number);
  double logit_of(const double* longest) const;
  template <typename Write>
  void score_positives(std::int64_t begin, std::int64_t end, const InfonceSide& queries,
                       const InfonceSide& documents, std::int8_t* left, std::int8_t* right,
                       const InfonceSpace& space, Write write) const;
  void limit_row(std::int64_t i);
  void hide(const InfonceTile& tile, std::int64_t i, float* scores) const;

  double largest_logit_ = 0;
  FirstRow beyond_;                       // of the losses
  std::int32_t* row_groups_ = nullptr;    // of every positive
  std::int32_t* query_groups_ = nullptr;  // of every query's first positive
  std::int32_t* hidden_ = nullptr;
  float* factors_[kInfonceMatrices] = {};
};

}  // namespace stope
