// infonce: a contrastive loss over tiles of scores that are never kept.
//
// Forward: every tile is masked and folded into the sums of its rows. Backward: the same tile is
// scored again, turned into weights, and multiplied with both of its operands. Positives are no
// part of the tiles: their scores come from the same arithmetic, so that limits relative to a
// positive are exact, and their gradients are added through the lists.
//
// Gradients of rows belong to the slab that owns them; those of columns are added slab by slab, in
// the order of the slabs, each waiting for the one before: no partial copies and no dependence on
// the threads. Extra memory: the packed slab, block and tile of every thread, statistics per row;
// with query-to-query or document-to-* also one float row per query.
#include "stope/infonce.h"

#include <atomic>
#include <cmath>
#include <new>
#include <thread>

#include "dispatch.h"
#include "loss_scan.h"
#include "objectives.h"
#include "packing.h"
#include "parallel.h"
#include "stope/error.h"

namespace stope {
namespace {

constexpr std::int64_t kRowsPerTask = 64;
constexpr float kNoLimit = std::numeric_limits<float>::infinity();
constexpr int kMaxPasses = 5;
constexpr double kShortestRow = 1e-30;  // gradients through shorter rows are cut off

// What one thread works with.
struct ThreadSpace {
  LossOperand left, left_inner, right, right_inner, guide_left, guide_right;
  float* tile;
  float* guide_tile;
  std::int8_t* weights;  // a packed tile of weights
  float* rows;           // 16 float rows
};

struct RowLimits {
  float upper, lower;  // of the scores that masks look at
  float positive;      // the best positive's score
};

class Infonce {
 public:
  Infonce(const InfonceProblem& problem, bool backward, Workspace workspace)
      : problem_(problem),
        kernels_(stope::kernels()),
        precision_(problem.precision == LossArithmetic::kFloat32 ? kLossFloat32 : kLossBfloat16),
        workspace_(workspace),
        rows_(problem.queries.rows),
        depth_(problem.queries.columns) {
    const std::int64_t threads = problem.execution.threads;
    slab_rows_ = std::min(kLossSlabRows, round_up(divide_up(rows_, 4 * threads), kLossTileRows));
    slabs_ = divide_up(rows_, slab_rows_);
    const std::int64_t positives = list_end(problem.positives);
    const auto operand = [&](std::int64_t capacity, const Matrix& matrix) {
      return LossOperand{workspace_.take<std::int8_t>(
          LossOperand::bytes(kernels_, precision_, capacity, matrix.columns))};
    };
    for (int t = 0; t < std::min<std::int64_t>(threads, kMaxSpaces); ++t) {
      ThreadSpace& space = spaces_[t];
      space.left = operand(slab_rows_, problem.queries);
      space.right = operand(kLossTileColumns, problem.queries);
      if (backward) {
        space.left_inner = operand(slab_rows_, problem.queries);
        space.right_inner = operand(kLossTileColumns, problem.queries);
        space.weights = workspace_.take<std::int8_t>(kLossTileRows * kLossTileColumns * 4);
      }
      space.tile = workspace_.take<float>(kLossTileRows * kLossTileColumns);
      std::int64_t widest = depth_;
      if (problem.has_guide) {
        space.guide_left = operand(slab_rows_, problem.guide_queries);
        space.guide_right = operand(kLossTileColumns, problem.guide_queries);
        space.guide_tile = workspace_.take<float>(kLossTileRows * kLossTileColumns);
        widest = std::max(widest, problem.guide_queries.columns);
      }
      space.rows = workspace_.take<float>((kLanes + 1) * widest);
    }
    positive_scores_ = workspace_.take<float>(positives);
    limits_ = workspace_.take<RowLimits>(rows_);
    if (problem.document_groups != nullptr) {
      row_groups_ = workspace_.take<std::int32_t>(positives);
      query_groups_ = workspace_.take<std::int32_t>(rows_);
    }
    if (problem.hard_negatives.offsets != nullptr &&
        !(problem.foreign_hard_negatives && problem.documents_see_hard_negatives))
      hidden_ = workspace_.take<std::int32_t>(problem.documents.rows);
    make_passes();
    if (!backward) return;
    coefficients_ = workspace_.take<LossCoefficients>(rows_);
    positive_gradients_ = workspace_.take<double>(positives);
    moments_ = workspace_.take<double>(rows_);
    bias_moments_ = workspace_.take<double>(rows_);
    progress_ = workspace_.take<std::atomic<std::int64_t>>(slabs_);
    document_offsets_ = workspace_.take<std::int64_t>(problem.documents.rows + 1);
    document_entries_ = workspace_.take<std::int64_t>(positives);
    entry_rows_ = workspace_.take<std::int64_t>(positives);
    if (pass_count_ > (problem.queue.rows > 0 ? 2 : 1))
      beside_ = workspace_.take<float>(rows_ * depth_);
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void forward(const InfonceForward& out) {
    prepare();
    total_ = slabs_;
    parallel(slabs_, [&](std::int64_t slab, int thread) { forward_slab(slab, thread, out); });
    report();
  }

  void backward(const InfonceBackward& out) {
    prepare();
    total_ = slabs_ * pass_count_;
    parallel(slabs_, [&](std::int64_t slab, int thread) { weigh_slab(slab, thread, out); });
    clear(out.queries, rows_);
    if (out.documents != nullptr) clear(out.documents, problem_.documents.rows);
    for (int p = 0; p < pass_count_; ++p) run_pass(passes_[p], out);
    add_positives(out);
    finish(out);
    report();
  }

 private:
  static constexpr int kMaxSpaces = 1024;

  static std::int64_t list_begin(const IdLists& lists, std::int64_t i) { return lists.offsets[i]; }
  std::int64_t list_end(const IdLists& lists) const { return lists.offsets[rows_]; }

  // --- set-up -----------------------------------------------------------------------------------

  void make_passes() {
    const InfonceProblem& p = problem_;
    const Metric metric = p.metric;
    const LossSide queries = {&p.queries, nullptr, rows_, metric};
    const LossSide documents = {&p.documents, nullptr, p.documents.rows, metric};
    // One positive per query, checked by the caller: the list of ids is an index.
    const LossSide answers = {&p.documents, p.positives.ids, rows_, metric};
    LossSide guide_queries, guide_documents, guide_answers, guide_queue;
    if (p.has_guide) {
      guide_queries = {&p.guide_queries, nullptr, rows_, Metric::kCosine};
      guide_documents = {&p.guide_documents, nullptr, p.documents.rows, Metric::kCosine};
      guide_answers = {&p.guide_documents, p.positives.ids, rows_, Metric::kCosine};
      guide_queue = {&p.guide_queue, nullptr, p.queue.rows, Metric::kCosine};
    }
    using Kind = LossPass::Kind;
    if (p.directions.query_to_document) {
      LossPass pass = {Kind::kQueryToDocument, queries, documents, guide_queries, guide_documents};
      pass.groups = p.document_groups;
      pass.log_weights = p.log_weights;
      pass.hidden = p.foreign_hard_negatives ? nullptr : hidden_;
      pass.limited = true;
      add(pass);
      if (p.queue.rows > 0) {
        LossPass queue = {Kind::kQueryToQueue,
                          queries,
                          {&p.queue, nullptr, p.queue.rows, metric},
                          guide_queries,
                          guide_queue};
        queue.groups = p.queue_groups;
        queue.limited = true;
        queue.first_id = p.documents.rows;
        add(queue);
      }
    }
    if (p.directions.query_to_query) {
      LossPass pass = {Kind::kQueryToQuery, queries, queries, guide_queries, guide_queries};
      pass.groups = query_groups_;
      pass.limited = true;
      pass.first_id = -1;
      add(pass);
    }
    if (p.directions.document_to_query) {
      LossPass pass = {Kind::kDocumentToQuery, answers, queries, guide_answers, guide_queries};
      pass.groups = query_groups_;
      pass.limited = p.has_guide;
      pass.first_id = -1;
      add(pass);
    }
    if (p.directions.document_to_document) {
      LossPass pass = {Kind::kDocumentToDocument, answers, documents, guide_answers,
                       guide_documents};
      pass.groups = p.document_groups;
      pass.log_weights = p.log_weights;
      pass.hidden = p.documents_see_hard_negatives && p.foreign_hard_negatives ? nullptr : hidden_;
      pass.limited = p.has_guide;
      pass.first_id = -1;
      add(pass);
    }
  }
  void add(const LossPass& pass) { passes_[pass_count_++] = pass; }

  void prepare() {
    check(problem_.queries, problem_.metric, "queries");
    check(problem_.documents, problem_.metric, "documents");
    check(problem_.queue, problem_.metric, "queue");
    if (problem_.has_guide) {
      check(problem_.guide_queries, Metric::kCosine, "guide_queries");
      check(problem_.guide_documents, Metric::kCosine, "guide_documents");
      check(problem_.guide_queue, Metric::kCosine, "guide_queue");
    }
    const IdLists& positives = problem_.positives;
    if (problem_.document_groups != nullptr) {
      for (std::int64_t e = 0; e < list_end(positives); ++e)
        row_groups_[e] = problem_.document_groups[positives.ids[e]];
      for (std::int64_t i = 0; i < rows_; ++i) {
        const std::int64_t e = list_begin(positives, i);
        query_groups_[i] = e < positives.offsets[i + 1] ? row_groups_[e] : -1;
      }
    }
    if (hidden_ != nullptr) {
      std::fill_n(hidden_, problem_.documents.rows, 0);
      const IdLists& hard = problem_.hard_negatives;
      for (std::int64_t e = 0; e < list_end(hard); ++e) hidden_[hard.ids[e]] = 1;
      for (std::int64_t e = 0; e < list_end(positives); ++e) hidden_[positives.ids[e]] = 0;
    }
  }

  void check(const Matrix& matrix, Metric metric, const char* name) {
    RowFault fault;
    const double longest = static_cast<double>(kLargestNorm) /
                           std::sqrt(static_cast<double>(std::max<std::int64_t>(depth_, 1)));
    parallel(divide_up(matrix.rows, kRowsPerTask), [&](std::int64_t task, int thread) {
      const std::int64_t end = std::min((task + 1) * kRowsPerTask, matrix.rows);
      for (std::int64_t i = task * kRowsPerTask; i < end; ++i) {
        const float* row = float_row(kernels_, matrix, Metric::kDot, i, spaces_[thread].rows);
        bool finite;
        const float largest = kernels_.largest_magnitude(row, matrix.columns, &finite);
        if (!finite)
          fault.note_not_finite(i);
        else if (metric == Metric::kDot && !(static_cast<double>(largest) < longest))
          fault.note_too_long(i);
      }
    });
    fault.raise(name);
  }

  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    const Poll poll = [](void* self) { return static_cast<Infonce*>(self)->report(); };
    if (!parallel_for(problem_.execution.threads, tasks, body, poll, this)) throw Interrupted();
  }
  bool report() const {
    const Progress& progress = problem_.execution.progress;
    return progress.step == nullptr ||
           progress.step(progress.context, std::min(done_.load(), total_), total_);
  }

  std::int64_t slab_begin(std::int64_t slab) const { return slab * slab_rows_; }
  std::int64_t slab_end(std::int64_t slab) const {
    return std::min((slab + 1) * slab_rows_, rows_);
  }
  RowPositives positives_of(std::int64_t i) const {
    const std::int64_t e = list_begin(problem_.positives, i);
    return {positive_scores_ + e,
            problem_.positive_weights == nullptr ? nullptr : problem_.positive_weights + e,
            problem_.positives.offsets[i + 1] - e};
  }

  // --- positives and the limits that follow from them -------------------------------------------

  // scores[entry] of the positives of rows [begin, end), from the tiles' own arithmetic.
  template <typename Write>
  void score_positives(std::int64_t begin, std::int64_t end, const LossSide& queries,
                       const LossSide& documents, const LossOperand& left, const LossOperand& right,
                       float* tile, float* scratch, Write write) {
    const IdLists& lists = problem_.positives;
    const std::int64_t depth = queries.matrix->columns;
    const auto pack = [&](LossPrecision precision, const float* const* rows, int count,
                          std::int64_t d, std::int64_t group) {
      kernels_.loss.pack_left(precision, rows, count, d, group, left.data);
    };
    for (std::int64_t first = begin; first < end; first += kLanes) {
      const std::int64_t last = std::min(first + kLanes, end);
      pack_side(kernels_, precision_, queries, first, last, pack, scratch);
      for (std::int64_t e = lists.offsets[first]; e < lists.offsets[last]; e += kLanes) {
        const auto count =
            static_cast<int>(std::min<std::int64_t>(kLanes, lists.offsets[last] - e));
        const float* rows[kLanes];
        for (int c = 0; c < count; ++c)
          rows[c] = documents.row(kernels_, lists.ids[e + c], scratch + c * depth);
        kernels_.loss.pack_right(precision_, rows, count, depth, 0, right.data);
        kernels_.loss.pack_right(precision_, rows, 0, depth, 1, right.data);
        kernels_.loss.score(precision_, left.data, right.data, kLanes, kLanes, depth, tile,
                            kLossTileColumns);
        std::int64_t row = first;
        for (int c = 0; c < count; ++c) {
          while (lists.offsets[row + 1] <= e + c) ++row;
          write(e + c, row, tile[(row - first) * kLossTileColumns + c]);
        }
      }
    }
  }

  void find_limits(std::int64_t begin, std::int64_t end, const ThreadSpace& space) {
    const InfonceProblem& p = problem_;
    kernels_.bfloat16.begin_tiles();
    const LossSide queries = {&p.queries, nullptr, rows_, p.metric};
    const LossSide documents = {&p.documents, nullptr, p.documents.rows, p.metric};
    for (std::int64_t i = begin; i < end; ++i) limits_[i] = {kNoLimit, -kNoLimit, kNoLimit};
    score_positives(begin, end, queries, documents, space.left, space.right, space.tile, space.rows,
                    [&](std::int64_t e, std::int64_t, float s) { positive_scores_[e] = s; });
    for (std::int64_t i = begin; i < end; ++i) {
      const RowPositives found = positives_of(i);
      if (found.count == 0) continue;
      limits_[i].upper = *std::min_element(found.scores, found.scores + found.count);
      limits_[i].positive = *std::max_element(found.scores, found.scores + found.count);
    }
    if (p.has_guide) {
      const LossSide guide_queries = {&p.guide_queries, nullptr, rows_, Metric::kCosine};
      const LossSide guide_documents = {&p.guide_documents, nullptr, p.documents.rows,
                                        Metric::kCosine};
      for (std::int64_t i = begin; i < end; ++i) limits_[i].upper = kNoLimit;
      score_positives(begin, end, guide_queries, guide_documents, space.guide_left,
                      space.guide_right, space.guide_tile, space.rows,
                      [&](std::int64_t, std::int64_t i, float s) {
                        limits_[i].upper = std::min(limits_[i].upper, s);
                      });
    }
    kernels_.bfloat16.end_tiles();
    for (std::int64_t i = begin; i < end; ++i) {
      const double positive = static_cast<double>(limits_[i].upper);
      double upper = static_cast<double>(kNoLimit);
      if (positives_of(i).count > 0) {
        if (p.has_absolute_margin) upper = std::min(upper, positive - p.absolute_margin);
        if (p.has_relative_margin)
          upper = std::min(upper, positive - std::abs(positive) * p.relative_margin);
      }
      float rounded = static_cast<float>(upper);
      if (static_cast<double>(rounded) > upper) rounded = std::nextafter(rounded, -kNoLimit);
      if (p.ceilings != nullptr) rounded = std::min(rounded, p.ceilings[i]);
      limits_[i].upper = rounded;
      if (p.floors != nullptr) limits_[i].lower = p.floors[i];
    }
  }

  // --- one tile
  // -----------------------------------------------------------------------------------

  struct Tile {
    const LossPass* pass;
    std::int64_t first_row, first_column;
    int rows, columns;
  };

  // Calls body(tile) for every tile of the slab; before(block, first_column, end_column) first.
  template <typename Before, typename Body, typename After>
  void scan(const LossPass& pass, std::int64_t begin, std::int64_t end, const ThreadSpace& space,
            Before before, Body body, After after) {
    const LossKernels& k = kernels_.loss;
    pack(pass.rows, begin, end, k.pack_left, space.left, space);
    if (pass.guide_rows.matrix != nullptr)
      pack(pass.guide_rows, begin, end, k.pack_left, space.guide_left, space);
    const std::int64_t row_bytes =
        LossOperand::bytes(kernels_, precision_, kLossPadding, depth_) / kLossPadding;
    std::int64_t block = 0;
    for (std::int64_t c = 0; c < pass.columns.count; c += kLossTileColumns, ++block) {
      const std::int64_t last = std::min(c + kLossTileColumns, pass.columns.count);
      pack(pass.columns, c, last, k.pack_right, space.right, space);
      if (pass.guide_rows.matrix != nullptr)
        pack(pass.guide_columns, c, last, k.pack_right, space.guide_right, space);
      before(block, c, last);
      for (std::int64_t r = begin; r < end; r += kLossTileRows) {
        const Tile tile = {&pass, r, c, static_cast<int>(std::min(kLossTileRows, end - r)),
                           static_cast<int>(last - c)};
        kernels_.bfloat16.begin_tiles();
        k.score(precision_, space.left.data + (r - begin) * row_bytes, space.right.data, tile.rows,
                tile.columns, depth_, space.tile, kLossTileColumns);
        if (pass.guide_rows.matrix != nullptr) {
          const std::int64_t depth = problem_.guide_queries.columns;
          const std::int64_t guide_row_bytes =
              LossOperand::bytes(kernels_, precision_, kLossPadding, depth) / kLossPadding;
          k.score(precision_, space.guide_left.data + (r - begin) * guide_row_bytes,
                  space.guide_right.data, tile.rows, tile.columns, depth, space.guide_tile,
                  kLossTileColumns);
        }
        body(tile);
        kernels_.bfloat16.end_tiles();
      }
      after(block);
    }
  }

  template <typename Pack>
  void pack(const LossSide& side, std::int64_t begin, std::int64_t end, Pack pack_group,
            const LossOperand& operand, const ThreadSpace& space) {
    pack_side(
        kernels_, precision_, side, begin, end,
        [&](LossPrecision precision, const float* const* rows, int count, std::int64_t depth,
            std::int64_t group) { pack_group(precision, rows, count, depth, group, operand.data); },
        space.rows);
  }

  // body(column, index) for the ids of list i that lie in the tile.
  template <typename Body>
  static void in_tile(const IdLists& lists, std::int64_t i, const Tile& tile, Body body) {
    if (lists.offsets == nullptr) return;
    const std::int64_t* begin = lists.ids + lists.offsets[i];
    const std::int64_t* end = lists.ids + lists.offsets[i + 1];
    if (end - begin > 8) begin = std::lower_bound(begin, end, tile.first_column);
    for (; begin < end && *begin < tile.first_column + tile.columns; ++begin)
      if (*begin >= tile.first_column) body(*begin - tile.first_column);
  }

  // Row r of a scored tile, masked; `survey` counts what is left. Then own hard negatives get the
  // score whose logit is theirs.
  void mask_row(const Tile& tile, int r, const ThreadSpace& space, LossSurvey* survey) const {
    const LossPass& pass = *tile.pass;
    const LossKernels& k = kernels_.loss;
    const std::int64_t i = tile.first_row + r;
    float* scores = space.tile + r * kLossTileColumns;
    using Kind = LossPass::Kind;
    const IdLists& hard = problem_.hard_negatives;
    const auto drop = [&](std::int64_t c) { scores[c] = -kNoLimit; };
    if (pass.hidden != nullptr) hide(tile, i, scores);
    const bool self = pass.columns.matrix == &problem_.queries && i >= tile.first_column &&
                      i < tile.first_column + tile.columns;
    const std::int64_t own = i - tile.first_column;
    const float kept = self ? scores[own] : 0.0f;
    const bool limited =
        pass.limited && (limits_[i].upper < kNoLimit || limits_[i].lower > -kNoLimit);
    if (limited || pass.groups != nullptr) {
      const IdLists& positives = problem_.positives;
      const std::int64_t e = positives.offsets[i];
      const LossMask mask = {
          pass.guide_rows.matrix != nullptr ? space.guide_tile + r * kLossTileColumns : scores,
          limited ? limits_[i].upper : kNoLimit,
          limited ? limits_[i].lower : -kNoLimit,
          pass.groups == nullptr ? nullptr : pass.groups + tile.first_column,
          pass.groups == nullptr ? nullptr : row_groups_ + e,
          static_cast<int>(positives.offsets[i + 1] - e)};
      k.mask(scores, tile.columns, &mask);
    }
    if (pass.kind == Kind::kQueryToQuery && self) drop(own);
    if (pass.kind == Kind::kDocumentToQuery && self) scores[own] = kept;
    if (pass.kind == Kind::kQueryToDocument || pass.kind == Kind::kDocumentToDocument) {
      in_tile(problem_.positives, i, tile, drop);
      in_tile(problem_.exclude, i, tile, drop);
    }
    if (pass.kind == Kind::kDocumentToDocument) in_tile(hard, i, tile, drop);
    if (survey != nullptr)
      k.survey(scores, tile.columns, limits_[i].positive, tile.first_column + pass.first_id,
               survey);
    if (pass.kind == Kind::kQueryToDocument && has_own_logits()) {
      const double multiplier = problem_.scale + problem_.in_batch_hardness;
      in_tile(hard, i, tile, [&](std::int64_t c) {
        if (scores[c] == -kNoLimit) return;
        const double logit =
            (problem_.scale + problem_.hard_hardness) * static_cast<double>(scores[c]) +
            problem_.hard_log_weight;
        scores[c] = static_cast<float>(logit / multiplier);
      });
    }
  }

  bool has_own_logits() const {
    return problem_.hard_negatives.offsets != nullptr &&
           (problem_.hard_log_weight != 0 || problem_.hard_hardness != problem_.in_batch_hardness);
  }

  // Drops the hard negatives of other queries, or all of them for documents.
  void hide(const Tile& tile, std::int64_t i, float* scores) const {
    constexpr int kMost = kLossTileColumns;
    float kept[kMost];
    int count = 0;
    const bool own = tile.pass->kind == LossPass::Kind::kQueryToDocument;
    if (own)
      in_tile(problem_.hard_negatives, i, tile, [&](std::int64_t c) { kept[count++] = scores[c]; });
    constexpr std::int32_t kHidden = 1;
    const LossMask mask = {scores,   kNoLimit, -kNoLimit, tile.pass->hidden + tile.first_column,
                           &kHidden, 1};
    kernels_.loss.mask(scores, tile.columns, &mask);
    count = 0;
    if (own)
      in_tile(problem_.hard_negatives, i, tile, [&](std::int64_t c) { scores[c] = kept[count++]; });
  }

  LossTerms terms_of(const LossPass& pass, std::int64_t i, std::int64_t first_column) const {
    LossTerms terms = {};
    const Objective objective = problem_.objective;
    const bool local = objective == Objective::kPairwise || objective == Objective::kSigmoid;
    terms.kind = local                               ? kLossSigmoid
                 : objective == Objective::kHardness ? kLossHardness
                                                     : kLossSoftmax;
    terms.focal = problem_.focal;
    const bool bonus =
        pass.kind == LossPass::Kind::kQueryToDocument || pass.kind == LossPass::Kind::kQueryToQueue;
    terms.multiplier =
        static_cast<float>(problem_.scale + (bonus ? problem_.in_batch_hardness : 0.0));
    terms.focal_margin = static_cast<float>(problem_.focal_margin);
    terms.beta = static_cast<float>(problem_.beta);
    terms.shift = RowObjective::shift(problem_, positives_of(i));
    terms.log_weights = pass.log_weights == nullptr ? nullptr : pass.log_weights + first_column;
    return terms;
  }

  // --- forward
  // ------------------------------------------------------------------------------------

  void forward_slab(std::int64_t slab, int thread, const InfonceForward& out) {
    const ThreadSpace& space = spaces_[thread];
    const std::int64_t begin = slab_begin(slab), end = slab_end(slab);
    find_limits(begin, end, space);
    for (std::int64_t i = begin; i < end; ++i) {
      store_sums(out.state, i, {-kNoLimit, 0, 0}, 0);
      out.best_negatives[i] = -1;
      out.best_negative_scores[i] = -kNoLimit;
      out.negatives[i] = 0;
      out.ranks[i] = 1;
    }
    for (int p = 0; p < pass_count_; ++p)
      scan(
          passes_[p], begin, end, space, [](std::int64_t, std::int64_t, std::int64_t) {},
          [&](const Tile& tile) { fold_tile(tile, space, out); }, [](std::int64_t) {});
    for (std::int64_t i = begin; i < end; ++i) finish_row(i, out);
    ++done_;
  }

  void fold_tile(const Tile& tile, const ThreadSpace& space, const InfonceForward& out) {
    for (int r = 0; r < tile.rows; ++r) {
      const std::int64_t i = tile.first_row + r;
      LossSurvey survey = {0, 0, out.best_negative_scores[i], out.best_negatives[i]};
      mask_row(tile, r, space, &survey);
      out.negatives[i] += survey.kept;
      if (tile.pass->ranks()) {
        out.ranks[i] += survey.above;
        out.best_negative_scores[i] = survey.best;
        out.best_negatives[i] = survey.best_index;
      }
      const LossTerms terms = terms_of(*tile.pass, i, tile.first_column);
      LossSums sums = load_sums(out.state, i);
      kernels_.loss.fold(space.tile + r * kLossTileColumns, tile.columns, &terms, &sums);
      store_sums(out.state, i, sums, 0);
    }
  }

  void finish_row(std::int64_t i, const InfonceForward& out) {
    const RowPositives positives = positives_of(i);
    const LossSums sums = load_sums(out.state, i);
    const RowObjective row(problem_, positives, sums, out.negatives[i]);
    out.losses[i] = static_cast<float>(row.loss());
    out.log_sum_exp[i] = static_cast<float>(row.log_sum_exp());
    if (positives.count == 0) out.ranks[i] = 0;
    store_sums(out.state, i, sums, out.negatives[i]);
    std::copy_n(positives.scores, positives.count,
                out.positive_scores + list_begin(problem_.positives, i));
  }

  static LossSums load_sums(const double* state, std::int64_t i) {
    const double* s = state + i * kInfonceState;
    return {static_cast<float>(s[0]), s[1], s[2]};
  }
  static void store_sums(double* state, std::int64_t i, const LossSums& sums, std::int64_t kept) {
    double* s = state + i * kInfonceState;
    s[0] = static_cast<double>(sums.reference);
    s[1] = sums.first;
    s[2] = sums.second;
    s[3] = static_cast<double>(kept);
  }

  // --- backward
  // -----------------------------------------------------------------------------------

  // The weights of every row's negatives, and the gradients of its positives' logits.
  void weigh_slab(std::int64_t slab, int thread, const InfonceBackward& out) {
    const std::int64_t begin = slab_begin(slab), end = slab_end(slab);
    find_limits(begin, end, spaces_[thread]);
    for (std::int64_t i = begin; i < end; ++i) {
      const RowPositives positives = positives_of(i);
      const auto kept = static_cast<std::int64_t>(out.state[i * kInfonceState + 3]);
      const LossSums sums = load_sums(out.state, i);
      const RowObjective row(problem_, positives, sums, kept);
      const double gradient = static_cast<double>(out.row_gradients[i]);
      coefficients_[i] = row.negatives(gradient);
      moments_[i] = bias_moments_[i] = 0;
      for (std::int64_t p = 0; p < positives.count; ++p) {
        const std::int64_t e = list_begin(problem_.positives, i) + p;
        const double score = static_cast<double>(positives.scores[p]);
        const double weight = gradient == 0 ? 0 : row.positive(p, gradient);
        moments_[i] += weight * score * (problem_.focal ? score : 1);
        bias_moments_[i] += weight;
        positive_gradients_[e] = weight * (problem_.focal ? 2 * score : 1);
        entry_rows_[e] = i;
      }
    }
  }

  void clear(float* out, std::int64_t rows) {
    parallel(divide_up(rows, kLossSlabRows), [&](std::int64_t task, int) {
      const std::int64_t begin = task * kLossSlabRows;
      const std::int64_t end = std::min(begin + kLossSlabRows, rows);
      std::fill(out + begin * depth_, out + end * depth_, 0.0f);
    });
  }

  void run_pass(const LossPass& pass, const InfonceBackward& out) {
    using Kind = LossPass::Kind;
    const bool from_queries = pass.rows.matrix == &problem_.queries;
    const bool beside = !from_queries || pass.kind == Kind::kQueryToQuery;
    float* rows_out = beside ? beside_ : out.queries;
    float* columns_out = pass.columns.matrix == &problem_.queries     ? out.queries
                         : pass.columns.matrix == &problem_.documents ? out.documents
                                                                      : nullptr;
    if (beside) clear(beside_, rows_);
    for (std::int64_t s = 0; s < slabs_; ++s) new (progress_ + s) std::atomic<std::int64_t>(0);
    parallel(slabs_, [&](std::int64_t slab, int thread) {
      backward_slab(pass, slab, spaces_[thread], rows_out, columns_out);
      ++done_;
    });
    const bool last_of_queries = pass.kind == Kind::kQueryToQueue ||
                                 (pass.kind == Kind::kQueryToDocument && problem_.queue.rows == 0);
    if (beside || last_of_queries) gather_moments(pass, rows_out);
    if (!beside) return;
    if (from_queries) {
      parallel(divide_up(rows_, kRowsPerTask), [&](std::int64_t task, int) {
        const std::int64_t end = std::min((task + 1) * kRowsPerTask, rows_) * depth_;
        for (std::int64_t x = task * kRowsPerTask * depth_; x < end; ++x)
          out.queries[x] += beside_[x];
      });
    } else if (out.documents != nullptr) {
      // Rows that share a document add to it one after the other.
      for (std::int64_t i = 0; i < rows_; ++i)
        add_scaled(beside_ + i * depth_, 1.0f, out.documents + pass.rows.index[i] * depth_);
    }
  }

  // dL/dscale of the negatives: the gradient of a row lies along the row.
  void gather_moments(const LossPass& pass, const float* gradients) {
    if (problem_.focal) return;
    parallel(divide_up(rows_, kRowsPerTask), [&](std::int64_t task, int thread) {
      const std::int64_t end = std::min((task + 1) * kRowsPerTask, rows_);
      for (std::int64_t i = task * kRowsPerTask; i < end; ++i)
        moments_[i] +=
            dot(pass.rows.row(kernels_, i, spaces_[thread].rows), gradients + i * depth_);
    });
  }

  void backward_slab(const LossPass& pass, std::int64_t slab, const ThreadSpace& space,
                     float* rows_out, float* columns_out) {
    const LossKernels& k = kernels_.loss;
    const std::int64_t begin = slab_begin(slab), end = slab_end(slab);
    const std::int64_t row_bytes =
        LossOperand::bytes(kernels_, precision_, kLossPadding, depth_) / kLossPadding;
    if (columns_out != nullptr) pack(pass.rows, begin, end, k.pack_inner, space.left_inner, space);
    scan(
        pass, begin, end, space,
        [&](std::int64_t block, std::int64_t first, std::int64_t last) {
          pack(pass.columns, first, last, k.pack_inner, space.right_inner, space);
          if (slab > 0 && columns_out != nullptr) wait_for(progress_[slab - 1], block + 1);
        },
        [&](const Tile& tile) {
          weigh_tile(tile, space);
          k.accumulate(precision_, space.tile, kLossTileColumns, tile.rows, tile.columns, false,
                       space.right_inner.data, depth_, rows_out + tile.first_row * depth_, depth_,
                       space.weights);
          if (columns_out != nullptr)
            k.accumulate(precision_, space.tile, kLossTileColumns, tile.rows, tile.columns, true,
                         space.left_inner.data + (tile.first_row - begin) * row_bytes, depth_,
                         columns_out + tile.first_column * depth_, depth_, space.weights);
        },
        [&](std::int64_t block) { progress_[slab].store(block + 1, std::memory_order_release); });
  }

  void weigh_tile(const Tile& tile, const ThreadSpace& space) {
    const int padded = static_cast<int>(round_up(tile.columns, kLossPadding));
    for (int r = 0; r < tile.rows; ++r) {
      const std::int64_t i = tile.first_row + r;
      float* scores = space.tile + r * kLossTileColumns;
      if (coefficients_[i].first == 0.0f && coefficients_[i].second == 0.0f) {
        std::fill_n(scores, padded, 0.0f);
        continue;
      }
      mask_row(tile, r, space, nullptr);
      const LossTerms terms = terms_of(*tile.pass, i, tile.first_column);
      double total = 0, moment = 0;
      kernels_.loss.weigh(scores, tile.columns, padded, &terms, &coefficients_[i], &total, &moment);
      bias_moments_[i] += total;
      if (problem_.focal) moments_[i] += moment;
    }
  }

  // The slab before is at work on another thread, at most one block ahead or behind.
  static void wait_for(const std::atomic<std::int64_t>& progress, std::int64_t block) {
    for (int spins = 0; progress.load(std::memory_order_acquire) < block; ++spins)
      if (spins > 64) std::this_thread::yield();
  }

  // --- positives' gradients, then from unit rows to the caller's ---------------------------------

  void add_positives(const InfonceBackward& out) {
    const IdLists& lists = problem_.positives;
    const LossSide queries = {&problem_.queries, nullptr, rows_, problem_.metric};
    const LossSide documents = {&problem_.documents, nullptr, problem_.documents.rows,
                                problem_.metric};
    parallel(divide_up(rows_, kRowsPerTask), [&](std::int64_t task, int thread) {
      const std::int64_t end = std::min((task + 1) * kRowsPerTask, rows_);
      for (std::int64_t i = task * kRowsPerTask; i < end; ++i)
        for (std::int64_t e = lists.offsets[i]; e < lists.offsets[i + 1]; ++e)
          add_scaled(documents.row(kernels_, lists.ids[e], spaces_[thread].rows),
                     static_cast<float>(positive_gradients_[e]), out.queries + i * depth_);
    });
    if (out.documents == nullptr) return;
    transpose_positives();
    parallel(divide_up(documents.count, kRowsPerTask), [&](std::int64_t task, int thread) {
      const std::int64_t end = std::min((task + 1) * kRowsPerTask, documents.count);
      for (std::int64_t j = task * kRowsPerTask; j < end; ++j)
        for (std::int64_t n = document_offsets_[j]; n < document_offsets_[j + 1]; ++n) {
          const std::int64_t e = document_entries_[n];
          add_scaled(queries.row(kernels_, entry_rows_[e], spaces_[thread].rows),
                     static_cast<float>(positive_gradients_[e]), out.documents + j * depth_);
        }
    });
  }

  // The entries of the positives by document, in ascending order.
  void transpose_positives() {
    const IdLists& lists = problem_.positives;
    const std::int64_t documents = problem_.documents.rows, entries = list_end(lists);
    std::fill_n(document_offsets_, documents + 1, 0);
    for (std::int64_t e = 0; e < entries; ++e) ++document_offsets_[lists.ids[e] + 1];
    for (std::int64_t j = 0; j < documents; ++j) document_offsets_[j + 1] += document_offsets_[j];
    for (std::int64_t e = entries - 1; e >= 0; --e)
      document_entries_[--document_offsets_[lists.ids[e] + 1]] = e;
    // Every end has moved down to its start: offsets are one place too far on.
    for (std::int64_t j = 0; j < documents; ++j) document_offsets_[j] = document_offsets_[j + 1];
    document_offsets_[documents] = entries;
  }

  void finish(const InfonceBackward& out) {
    double scale = 0, bias = 0;
    for (std::int64_t i = 0; i < rows_; ++i) {
      scale += moments_[i];
      bias += bias_moments_[i];
    }
    *out.scale = scale;
    *out.bias = bias;
    unscale(problem_.queries, out.queries);
    if (out.documents != nullptr) unscale(problem_.documents, out.documents);
  }

  // g -> scale * g, and through the normalisation: (g - x <x, g>) / |row| with x = row / |row|.
  void unscale(const Matrix& matrix, float* gradients) {
    parallel(divide_up(matrix.rows, kRowsPerTask), [&](std::int64_t task, int thread) {
      float* scratch = spaces_[thread].rows;
      const std::int64_t end = std::min((task + 1) * kRowsPerTask, matrix.rows);
      for (std::int64_t i = task * kRowsPerTask; i < end; ++i) {
        float* g = gradients + i * depth_;
        double factor = problem_.scale;
        if (problem_.metric == Metric::kCosine) {
          const float* raw = float_row(kernels_, matrix, Metric::kDot, i, scratch);
          const double norm = std::sqrt(square(raw));
          const float* unit = float_row(kernels_, matrix, Metric::kCosine, i, scratch);
          add_scaled(unit, static_cast<float>(-dot(unit, g)), g);
          factor = norm == 0 ? 0 : factor / std::max(norm, kShortestRow);
        }
        const auto f = static_cast<float>(factor);
        for (std::int64_t x = 0; x < depth_; ++x) g[x] *= f;
      }
    });
  }

  double dot(const float* a, const float* b) const {
    double sum[4] = {};
    std::int64_t x = 0;
    for (; x + 4 <= depth_; x += 4)
      for (int l = 0; l < 4; ++l)
        sum[l] += static_cast<double>(a[x + l]) * static_cast<double>(b[x + l]);
    for (; x < depth_; ++x) sum[0] += static_cast<double>(a[x]) * static_cast<double>(b[x]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
  double square(const float* a) const { return dot(a, a); }
  void add_scaled(const float* x, float factor, float* out) const {
    for (std::int64_t d = 0; d < depth_; ++d) out[d] += factor * x[d];
  }

  const InfonceProblem& problem_;
  const KernelTable& kernels_;
  LossPrecision precision_;
  Workspace workspace_;
  std::int64_t rows_, depth_, slab_rows_, slabs_;
  ThreadSpace spaces_[kMaxSpaces];
  LossPass passes_[kMaxPasses];
  int pass_count_ = 0;
  std::atomic<std::int64_t> done_{0};
  std::int64_t total_ = 1;
  float* positive_scores_ = nullptr;
  RowLimits* limits_ = nullptr;
  std::int32_t* row_groups_ = nullptr;
  std::int32_t* query_groups_ = nullptr;
  std::int32_t* hidden_ = nullptr;
  LossCoefficients* coefficients_ = nullptr;
  double* positive_gradients_ = nullptr;
  double* moments_ = nullptr;
  double* bias_moments_ = nullptr;
  std::atomic<std::int64_t>* progress_ = nullptr;
  std::int64_t* document_offsets_ = nullptr;
  std::int64_t* document_entries_ = nullptr;
  std::int64_t* entry_rows_ = nullptr;
  float* beside_ = nullptr;
};

}  // namespace

std::size_t infonce_forward_workspace_bytes(const InfonceProblem& problem) {
  return Infonce(problem, false, {}).bytes();
}
std::size_t infonce_backward_workspace_bytes(const InfonceProblem& problem) {
  return Infonce(problem, true, {}).bytes();
}

void infonce_forward(const InfonceProblem& problem, const InfonceForward& out) {
  if (problem.execution.device.kind == DeviceKind::kCuda) return infonce_forward_cuda(problem, out);
  Infonce(problem, false, Workspace(problem.execution)).forward(out);
}
void infonce_backward(const InfonceProblem& problem, const InfonceBackward& out) {
  if (problem.execution.device.kind == DeviceKind::kCuda)
    return infonce_backward_cuda(problem, out);
  Infonce(problem, true, Workspace(problem.execution)).backward(out);
}

}  // namespace stope
