#include "loss_scan.h"

#include <cmath>

#include "dispatch.h"
#include "packing.h"

namespace stope {
namespace {

constexpr float kNoLimit = std::numeric_limits<float>::infinity();

// body(column) for the ids of list i that lie in the tile.
template <typename Body>
void in_tile(const IdLists& lists, std::int64_t i, const LossTile& tile, Body body) {
  if (lists.offsets == nullptr) return;
  const std::int64_t* begin = lists.ids + lists.offsets[i];
  const std::int64_t* end = lists.ids + lists.offsets[i + 1];
  if (end - begin > 8) begin = std::lower_bound(begin, end, tile.first_column);
  for (; begin < end && *begin < tile.first_column + tile.columns; ++begin)
    if (*begin >= tile.first_column) body(*begin - tile.first_column);
}
// Whether the lists of rows [begin, end) name a column of the tile.
bool any_in_tile(const IdLists& lists, std::int64_t begin, std::int64_t end, const LossTile& tile) {
  bool found = false;
  if (lists.offsets == nullptr) return found;
  for (std::int64_t i = begin; i < end; ++i)
    in_tile(lists, i, tile, [&](std::int64_t) { found = true; });
  return found;
}

// A block of columns, whose rows are packed twice: half as many when elements take twice as much.
std::int64_t block_columns(const LossKernels& kernels, LossPrecision precision) {
  return kLossWeightRows * 2 / kernels.element_bytes[precision];
}

}  // namespace

LossRow LossSide::row(const KernelTable& kernels, std::int64_t i, float* scratch) const {
  if (index != nullptr) i = index[i];
  const float factor = factors == nullptr ? 1.0f : factors[i];
  // A row of extreme length has no factor: it is normalised as a whole.
  if (std::isnan(factor)) return {float_row(kernels, *matrix, Metric::kCosine, i, scratch), 1.0f};
  return {float_row(kernels, *matrix, Metric::kDot, i, scratch), factor};
}

LossScan::LossScan(const InfonceProblem& problem, bool backward, Workspace workspace)
    : problem_(problem),
      kernels_(stope::kernels()),
      precision_(problem.precision == LossArithmetic::kFloat32 ? kLossFloat32 : kLossBfloat16),
      workspace_(workspace),
      tile_columns_(backward ? block_columns(kernels_.loss, precision_) : kMostTileColumns),
      tile_stride_(tile_columns_ + kLanes),
      rows_(problem.queries.rows),
      depth_(problem.queries.columns) {
  const std::int64_t threads = std::min(problem.execution.threads, kMaxLossThreads);
  // As many slabs for every thread, of nearly as many rows: every slab packs all the columns, so
  // few are better. Backward, one a thread is no faster, and would take twice the memory.
  const std::int64_t fewest = backward ? std::max(divide_up(rows_, kLossSlabRows), 2 * threads)
                                       : std::max(divide_up(rows_, 2 * kLossSlabRows), threads);
  const std::int64_t units = divide_up(rows_, kLossSlabUnit);
  slabs_ = std::min(units, round_up(fewest, threads));
  slab_rows_ = divide_up(units, slabs_) * kLossSlabUnit;
  const std::int64_t tile = kLossStrip * tile_stride_;
  const std::int64_t row = row_bytes(depth_), guide_depth = problem.guide_queries.columns;
  for (std::int64_t t = 0; t < threads; ++t) {
    LossSpace& space = spaces_[t];
    space = {};
    space.left = workspace_.take<std::int8_t>(slab_rows_ * row);
    space.right = workspace_.take<std::int8_t>(tile_columns_ * row);
    if (backward) {
      space.left_inner = workspace_.take<std::int8_t>(round_up(slab_rows_, kLossChunk) * row);
      space.right_inner = workspace_.take<std::int8_t>(tile_columns_ * row);
      space.weights = workspace_.take<std::int8_t>(kLossWeightRows * tile_columns_ *
                                                   kernels_.loss.weight_bytes[precision_]);
    }
    space.tile = workspace_.take<float>(tile);
    if (problem.has_guide) {
      space.guide_left = workspace_.take<std::int8_t>(slab_rows_ * row_bytes(guide_depth));
      space.guide_right = workspace_.take<std::int8_t>(tile_columns_ * row_bytes(guide_depth));
      space.guide_tile = workspace_.take<float>(tile);
    }
    space.rows = workspace_.take<float>(kLossStrip * std::max(depth_, guide_depth));
  }
  positive_scores_ = workspace_.take<float>(positive_count());
  limits_ = workspace_.take<RowLimits>(rows_);
  const std::int64_t sizes[] = {rows_, problem.documents.rows, problem.queue.rows};
  for (int f = 0; f < 6; ++f)
    if (f < 3 ? problem.metric == Metric::kCosine : problem.has_guide)
      factors_[f] = workspace_.take<float>(sizes[f % 3]);
  if (problem.document_groups != nullptr) {
    row_groups_ = workspace_.take<std::int32_t>(positive_count());
    query_groups_ = workspace_.take<std::int32_t>(rows_);
  }
  if (problem.hard_negatives.offsets != nullptr &&
      !(problem.foreign_hard_negatives && problem.documents_see_hard_negatives))
    hidden_ = workspace_.take<std::int32_t>(problem.documents.rows);
  make_passes();
}

LossSide LossScan::side(const Matrix& matrix, Metric metric, const float* factors) const {
  return {&matrix, nullptr, matrix.rows, metric == Metric::kCosine ? factors : nullptr};
}

void LossScan::make_passes() {
  using Kind = LossPass::Kind;
  const InfonceProblem& p = problem_;
  queries_ = side(p.queries, p.metric, factors_[0]);
  documents_ = side(p.documents, p.metric, factors_[1]);
  const LossSide queue = side(p.queue, p.metric, factors_[2]);
  // One positive per query, checked by the caller: the list of ids is an index.
  LossSide answers = documents_;
  answers.index = p.positives.ids;
  answers.count = rows_;
  LossSide guide_queries, guide_documents, guide_queue, guide_answers;
  if (p.has_guide) {
    guide_queries = side(p.guide_queries, Metric::kCosine, factors_[3]);
    guide_documents = side(p.guide_documents, Metric::kCosine, factors_[4]);
    guide_queue = side(p.guide_queue, Metric::kCosine, factors_[5]);
    guide_answers = guide_documents;
    guide_answers.index = p.positives.ids;
    guide_answers.count = rows_;
  }
  const auto add = [&](Kind kind, const LossSide& rows, const LossSide& columns,
                       const LossSide& guide_rows, const LossSide& guide_columns) -> LossPass& {
    LossPass& pass = passes_[pass_count_++];
    pass = {kind, rows, columns, guide_rows, guide_columns};
    pass.limited = p.has_guide;
    return pass;
  };
  LossPass& first =
      add(Kind::kQueryToDocument, queries_, documents_, guide_queries, guide_documents);
  first.groups = p.document_groups;
  first.log_weights = p.log_weights;
  first.hidden = p.foreign_hard_negatives ? nullptr : hidden_;
  first.limited = true;
  first.first_id = 0;
  if (p.queue.rows > 0) {
    LossPass& pass = add(Kind::kQueryToQueue, queries_, queue, guide_queries, guide_queue);
    pass.groups = p.queue_groups;
    pass.limited = true;
    pass.first_id = p.documents.rows;
  }
  if (p.directions.query_to_query) {
    LossPass& pass = add(Kind::kQueryToQuery, queries_, queries_, guide_queries, guide_queries);
    pass.groups = query_groups_;
    pass.limited = true;
  }
  if (p.directions.document_to_query)
    add(Kind::kDocumentToQuery, answers, queries_, guide_answers, guide_queries).groups =
        query_groups_;
  if (p.directions.document_to_document) {
    LossPass& pass =
        add(Kind::kDocumentToDocument, answers, documents_, guide_answers, guide_documents);
    pass.groups = p.document_groups;
    pass.log_weights = p.log_weights;
    pass.hidden = hidden_;
  }
}

void LossScan::prepare() {
  const InfonceProblem& p = problem_;
  check(p.queries, p.metric, factors_[0], "queries");
  check(p.documents, p.metric, factors_[1], "documents");
  check(p.queue, p.metric, factors_[2], "queue");
  if (p.has_guide) {
    check(p.guide_queries, Metric::kCosine, factors_[3], "guide_queries");
    check(p.guide_documents, Metric::kCosine, factors_[4], "guide_documents");
    check(p.guide_queue, Metric::kCosine, factors_[5], "guide_queue");
  }
  if (p.document_groups != nullptr) {
    for (std::int64_t e = 0; e < positive_count(); ++e)
      row_groups_[e] = p.document_groups[p.positives.ids[e]];
    for (std::int64_t i = 0; i < rows_; ++i) {
      const std::int64_t e = p.positives.offsets[i];
      query_groups_[i] = e < p.positives.offsets[i + 1] ? row_groups_[e] : -1;
    }
  }
  if (hidden_ != nullptr) {
    const IdLists& hard = p.hard_negatives;
    std::fill_n(hidden_, p.documents.rows, 0);
    for (std::int64_t e = 0; e < hard.offsets[rows_]; ++e) hidden_[hard.ids[e]] = 1;
    for (std::int64_t e = 0; e < positive_count(); ++e) hidden_[p.positives.ids[e]] = 0;
  }
}

void LossScan::check(const Matrix& matrix, Metric metric, float* factors, const char* name) {
  RowFault fault;
  const double longest = static_cast<double>(kLargestNorm) /
                         std::sqrt(static_cast<double>(std::max<std::int64_t>(depth_, 1)));
  parallel_rows(matrix.rows, [&](std::int64_t i, int thread) {
    RowMeasure measure;
    kernels_.measure(float_row(kernels_, matrix, Metric::kDot, i, spaces_[thread].rows),
                     matrix.columns, &measure);
    if (!measure.finite)
      fault.note_not_finite(i);
    else if (metric == Metric::kDot && !(static_cast<double>(measure.largest) < longest))
      fault.note_too_long(i);
    if (metric == Metric::kCosine) factors[i] = measure.inverse_norm;
  });
  fault.raise(name);
}

bool LossScan::report() const {
  const Progress& progress = problem_.execution.progress;
  return progress.step == nullptr ||
         progress.step(progress.context, std::min(done_.load(), total_), total_);
}

RowPositives LossScan::positives_of(std::int64_t i) const {
  const std::int64_t e = problem_.positives.offsets[i];
  const float* weights = problem_.positive_weights;
  return {positive_scores_ + e, weights == nullptr ? nullptr : weights + e,
          problem_.positives.offsets[i + 1] - e};
}

// write(entry, row, score) for the positives of rows [begin, end), by the tiles' own arithmetic.
template <typename Write>
void LossScan::score_positives(std::int64_t begin, std::int64_t end, const LossSide& queries,
                               const LossSide& documents, std::int8_t* left, std::int8_t* right,
                               const LossSpace& space, Write write) const {
  const IdLists& lists = problem_.positives;
  const std::int64_t depth = queries.matrix->columns;
  LossSide answers = documents;
  answers.index = lists.ids;
  answers.count = positive_count();
  for (std::int64_t first = begin; first < end; first += kLanes) {
    const std::int64_t last = std::min(first + kLanes, end);
    pack_rows(queries, first, last, left, nullptr, space);
    std::int64_t row = first;
    for (std::int64_t e = lists.offsets[first]; e < lists.offsets[last]; e += kLanes) {
      const std::int64_t stop = std::min(e + kLanes, lists.offsets[last]);
      pack_columns(answers, e, stop, right, nullptr, space);
      kernels_.loss.score(precision_, left, right, kLanes, kLanes, depth, space.tile, tile_stride_);
      for (std::int64_t entry = e; entry < stop; ++entry) {
        while (lists.offsets[row + 1] <= entry) ++row;
        write(entry, row, space.tile[(row - first) * tile_stride_ + entry - e]);
      }
    }
  }
}

void LossScan::find_limits(std::int64_t begin, std::int64_t end, const LossSpace& space) {
  kernels_.bfloat16.begin_tiles();
  score_positives(begin, end, queries_, documents_, space.left, space.right, space,
                  [&](std::int64_t e, std::int64_t, float s) { positive_scores_[e] = s; });
  for (std::int64_t i = begin; i < end; ++i) {
    const RowPositives found = positives_of(i);
    const auto* last = found.scores + found.count;
    limits_[i] = {kNoLimit, -kNoLimit, kNoLimit};
    if (found.count == 0) continue;
    limits_[i].positive = *std::max_element(found.scores, last);
    if (!problem_.has_guide) limits_[i].upper = *std::min_element(found.scores, last);
  }
  if (problem_.has_guide)
    score_positives(begin, end, passes_[0].guide_rows, passes_[0].guide_columns, space.guide_left,
                    space.guide_right, space, [&](std::int64_t, std::int64_t i, float s) {
                      limits_[i].upper = std::min(limits_[i].upper, s);
                    });
  kernels_.bfloat16.end_tiles();
  for (std::int64_t i = begin; i < end; ++i) limit_row(i);
}

// From the lowest positive score, in limits_[i].upper, to what a negative may have at most.
void LossScan::limit_row(std::int64_t i) {
  const InfonceProblem& p = problem_;
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

void LossScan::score(const LossTile& tile, const LossSpace& space) const {
  const LossKernels& k = kernels_.loss;
  const LossStrip strip = strip_of(tile, space);
  k.score(precision_, strip.left, strip.right, tile.rows, tile.columns, depth_, space.tile,
          tile_stride_);
  if (!tile.pass->guided()) return;
  const std::int64_t depth = problem_.guide_queries.columns;
  k.score(precision_, space.guide_left + tile.slab_row * row_bytes(depth), space.guide_right,
          tile.rows, tile.columns, depth, space.guide_tile, tile_stride_);
}

LossStrip LossScan::strip_of(const LossTile& tile, const LossSpace& space) const {
  return {space.left + tile.slab_row * row_bytes(depth_),
          space.right,
          tile.rows,
          tile.columns,
          depth_,
          space.tile,
          tile_stride_};
}

bool LossScan::has_limits() const {
  const InfonceProblem& p = problem_;
  return p.has_absolute_margin || p.has_relative_margin || p.ceilings != nullptr ||
         p.floors != nullptr;
}

// Rows [begin, end) against columns [first_column, last_column): as mask_row and terms_of say.
bool LossScan::is_plain(const LossPass& pass, const LossTerms& terms, std::int64_t begin,
                        std::int64_t end, std::int64_t first_column,
                        std::int64_t last_column) const {
  using Kind = LossPass::Kind;
  if (terms.kind != kLossSoftmax || terms.focal || terms.log_weights != nullptr) return false;
  if (pass.hidden != nullptr || pass.groups != nullptr || (pass.limited && has_limits()))
    return false;
  const auto count = static_cast<int>(last_column - first_column);
  const LossTile tile = {&pass, nullptr, begin, first_column, 0, count, 0, false};
  if (pass.columns.matrix == &problem_.queries && begin < last_column && first_column < end)
    return false;
  if (pass.columns.matrix == &problem_.documents &&
      (any_in_tile(problem_.positives, begin, end, tile) ||
       any_in_tile(problem_.exclude, begin, end, tile)))
    return false;
  return !(pass.kind == Kind::kDocumentToDocument ||
           (pass.kind == Kind::kQueryToDocument && has_own_logits())) ||
         !any_in_tile(problem_.hard_negatives, begin, end, tile);
}

void LossScan::mask_row(const LossTile& tile, int r, const LossSpace& space,
                        LossSurvey* survey) const {
  using Kind = LossPass::Kind;
  const LossPass& pass = *tile.pass;
  const std::int64_t i = tile.first_row + r, own = i - tile.first_column;
  float* scores = space.tile + r * tile_stride_;
  const auto drop = [&](std::int64_t c) { scores[c] = -kNoLimit; };
  const bool self = pass.columns.matrix == &problem_.queries && own >= 0 && own < tile.columns;
  const float own_score = self ? scores[own] : 0.0f;
  if (pass.hidden != nullptr) hide(tile, i, scores);
  const RowLimits limits =
      pass.limited ? limits_[i] : RowLimits{kNoLimit, -kNoLimit, limits_[i].positive};
  if (limits.upper < kNoLimit || limits.lower > -kNoLimit || pass.groups != nullptr) {
    const std::int64_t e = problem_.positives.offsets[i];
    LossMask mask = {scores, limits.upper, limits.lower, nullptr, nullptr, 0};
    if (pass.guided()) mask.values = space.guide_tile + r * tile_stride_;
    if (pass.groups != nullptr) {
      mask.groups = pass.groups + tile.first_column;
      mask.row_groups = row_groups_ + e;
      mask.row_group_count = static_cast<int>(problem_.positives.offsets[i + 1] - e);
    }
    kernels_.loss.mask(scores, tile.columns, &mask);
  }
  if (pass.kind == Kind::kQueryToQuery && self) drop(own);
  if (pass.kind == Kind::kDocumentToQuery && self) scores[own] = own_score;
  if (pass.columns.matrix == &problem_.documents) {
    in_tile(problem_.positives, i, tile, drop);
    in_tile(problem_.exclude, i, tile, drop);
  }
  if (pass.kind == Kind::kDocumentToDocument) in_tile(problem_.hard_negatives, i, tile, drop);
  if (survey != nullptr)
    kernels_.loss.survey(scores, tile.columns, limits.positive, tile.first_column + pass.first_id,
                         survey);
  if (pass.kind != Kind::kQueryToDocument || !has_own_logits()) return;
  const double multiplier = problem_.scale + problem_.in_batch_hardness;
  in_tile(problem_.hard_negatives, i, tile, [&](std::int64_t c) {
    if (scores[c] == -kNoLimit) return;
    const double logit =
        (problem_.scale + problem_.hard_hardness) * static_cast<double>(scores[c]) +
        problem_.hard_log_weight;
    scores[c] = static_cast<float>(logit / multiplier);
    if (survey != nullptr) survey->largest = std::numeric_limits<float>::quiet_NaN();
  });
}

bool LossScan::has_own_logits() const {
  return problem_.hard_negatives.offsets != nullptr &&
         (problem_.hard_log_weight != 0 || problem_.hard_hardness != problem_.in_batch_hardness);
}

// Drops the hard negatives of other queries; from documents, all of them.
void LossScan::hide(const LossTile& tile, std::int64_t i, float* scores) const {
  constexpr std::int32_t kHidden = 1;
  float kept[kMostTileColumns];
  int count = 0;
  const bool own = tile.pass->kind == LossPass::Kind::kQueryToDocument;
  const auto each_own = [&](auto body) {
    count = 0;
    if (own) in_tile(problem_.hard_negatives, i, tile, body);
  };
  each_own([&](std::int64_t c) { kept[count++] = scores[c]; });
  const LossMask mask = {scores,   kNoLimit, -kNoLimit, tile.pass->hidden + tile.first_column,
                         &kHidden, 1};
  kernels_.loss.mask(scores, tile.columns, &mask);
  each_own([&](std::int64_t c) { scores[c] = kept[count++]; });
}

LossTerms LossScan::terms_of(const LossPass& pass, std::int64_t first_column) const {
  using Kind = LossPass::Kind;
  const Objective objective = problem_.objective;
  const bool local = objective == Objective::kPairwise || objective == Objective::kSigmoid;
  const bool bonus = pass.kind == Kind::kQueryToDocument || pass.kind == Kind::kQueryToQueue;
  LossTerms terms = {};
  terms.kind = local                               ? kLossSigmoid
               : objective == Objective::kHardness ? kLossHardness
                                                   : kLossSoftmax;
  terms.focal = problem_.focal;
  terms.rough = precision_ == kLossBfloat16;
  terms.multiplier =
      static_cast<float>(problem_.scale + (bonus ? problem_.in_batch_hardness : 0.0));
  terms.focal_margin = static_cast<float>(problem_.focal_margin);
  terms.beta = static_cast<float>(problem_.beta);
  terms.log_weights = pass.log_weights == nullptr ? nullptr : pass.log_weights + first_column;
  return terms;
}

}  // namespace stope
