#include "infonce_scan.h"

#include <cmath>

#include "dispatch.h"
#include "packing.h"

namespace stope {
namespace {

constexpr float kNoLimit = std::numeric_limits<float>::infinity();

// body(column) for the ids of list i that lie in the tile.
template <typename Body>
void in_tile(const IdLists& lists, std::int64_t i, const InfonceTile& tile, Body body) {
  if (lists.offsets == nullptr) return;
  const std::int64_t* begin = lists.ids + lists.offsets[i];
  const std::int64_t* end = lists.ids + lists.offsets[i + 1];
  if (end - begin > 8) begin = std::lower_bound(begin, end, tile.first_column);
  for (; begin < end && *begin < tile.first_column + tile.columns; ++begin)
    if (*begin >= tile.first_column) body(*begin - tile.first_column);
}
// Whether the lists of rows [begin, end) name a column of the tile.
bool any_in_tile(const IdLists& lists, std::int64_t begin, std::int64_t end,
                 const InfonceTile& tile) {
  bool found = false;
  if (lists.offsets == nullptr) return found;
  for (std::int64_t i = begin; i < end; ++i)
    in_tile(lists, i, tile, [&](std::int64_t) { found = true; });
  return found;
}

}  // namespace

InfonceRow InfonceSide::row(const KernelTable& kernels, std::int64_t i, float* scratch) const {
  if (index != nullptr) i = index[i];
  const float factor = factors == nullptr ? 1.0f : factors[i];
  // A row of extreme length has no factor: it is normalised as a whole.
  if (std::isnan(factor)) return {float_row(kernels, *matrix, Metric::kCosine, i, scratch), 1.0f};
  return {float_row(kernels, *matrix, Metric::kDot, i, scratch), factor};
}

InfonceScan::InfonceScan(const InfonceProblem& problem, InfonceUse use, Workspace workspace)
    : problem_(problem),
      kernels_(stope::kernels()),
      precision_(problem.precision),
      workspace_(workspace),
      // A block's rows are packed twice: half as many when elements take twice as much.
      tile_columns_(use == InfonceUse::kBackward
                        ? kInfonceWeightRows * 2 / bytes_of(kernels_.infonce.element_bytes)
                        : kMostTileColumns),
      tile_stride_(tile_columns_ + kLanes),
      rows_(problem.queries.rows),
      depth_(problem.queries.columns) {
  const std::int64_t threads = std::min(problem.execution.threads, kMaxInfonceThreads);
  // As many slabs for every thread, of nearly as many rows: every slab packs all the columns, so
  // few are better. Backward, one a thread is no faster, and would take twice the memory.
  const bool backward = use == InfonceUse::kBackward, sieve = use == InfonceUse::kSieve;
  const std::int64_t fewest = backward ? std::max(divide_up(rows_, kInfonceSlabRows), 2 * threads)
                                       : std::max(divide_up(rows_, 2 * kInfonceSlabRows), threads);
  const std::int64_t units = divide_up(rows_, kInfonceSlabUnit);
  slabs_ =
      std::min(units, sieve ? divide_up(rows_, sieve_rows(problem)) : round_up(fewest, threads));
  slab_rows_ = divide_up(units, slabs_) * kInfonceSlabUnit;
  const std::int64_t tile = kInfonceStrip * tile_stride_;
  const std::int64_t row = row_bytes(depth_), guide_depth = problem.guide_queries.columns;
  for (std::int64_t t = 0; t < threads; ++t) {
    InfonceSpace& space = spaces_[t];
    space = {};
    if (!sieve) {
      space.left = workspace_.take<std::int8_t>(slab_rows_ * row);
      space.right = workspace_.take<std::int8_t>(tile_columns_ * row);
    }
    if (backward) {
      space.left_inner = workspace_.take<std::int8_t>(round_up(slab_rows_, kInfonceChunk) * row);
      space.right_inner = workspace_.take<std::int8_t>(tile_columns_ * row);
      space.weights = workspace_.take<std::int8_t>(kInfonceWeightRows * tile_columns_ *
                                                   bytes_of(kernels_.infonce.weight_bytes));
    }
    space.tile = workspace_.take<float>(tile);
    if (problem.has_guide) {
      space.guide_left = workspace_.take<std::int8_t>(slab_rows_ * row_bytes(guide_depth));
      space.guide_right = workspace_.take<std::int8_t>(tile_columns_ * row_bytes(guide_depth));
      space.guide_tile = workspace_.take<float>(tile);
    }
    space.rows = workspace_.take<float>(kInfonceStrip * std::max(depth_, guide_depth));
  }
  positive_scores_ = workspace_.take<float>(positive_count());
  limits_ = workspace_.take<RowLimits>(rows_);
  for (int m = 0; m < kInfonceMatrices; ++m)
    if (m < kGuide ? problem.metric == Metric::kCosine : problem.has_guide)
      factors_[m] = workspace_.take<float>(matrix_of(problem, m % kGuide).rows);
  if (problem.document_groups != nullptr) {
    row_groups_ = workspace_.take<std::int32_t>(positive_count());
    query_groups_ = workspace_.take<std::int32_t>(rows_);
  }
  if (hides_columns(problem)) hidden_ = workspace_.take<std::int32_t>(problem.documents.rows);
  make_passes();
}

InfonceSide InfonceScan::rows_of(InfoncePassKind kind, int guide) const {
  if (from_queries(kind)) return sides_[guide + kQueries];
  // One positive per query, checked by the caller: the list of ids is an index.
  InfonceSide answers = sides_[guide + kDocuments];
  answers.index = problem_.positives.ids;
  answers.count = rows_;
  return answers;
}

void InfonceScan::make_passes() {
  for (int m = 0; m < kInfonceMatrices; ++m) {
    const Matrix& matrix = matrix_of(problem_, m);
    sides_[m] = {&matrix, nullptr, matrix.rows, factors_[m]};
  }
  each_pass(problem_, query_groups_, hidden_, [&](const InfoncePassRules& rules) {
    const int columns = columns_of(rules.kind);
    passes_[pass_count_++] = {rules, rows_of(rules.kind, 0), sides_[columns],
                              rows_of(rules.kind, kGuide), sides_[kGuide + columns]};
  });
}

void InfonceScan::prepare() {
  const InfonceProblem& p = problem_;
  double longest[kInfonceMatrices] = {};
  for (int m = 0; m < (p.has_guide ? kInfonceMatrices : kGuide); ++m) longest[m] = check(m);
  largest_logit_ = logit_of(longest);
  wide_ = p.objective != Objective::kSigmoid && is_wide(p, largest_logit_);
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

// Notes what normalises the rows of a matrix, and returns what no row is longer than.
double InfonceScan::check(int number) {
  const Matrix& matrix = matrix_of(problem_, number);
  const bool cosine = number >= kGuide || problem_.metric == Metric::kCosine;
  const double root = std::sqrt(static_cast<double>(std::max<std::int64_t>(depth_, 1)));
  const double most = static_cast<double>(kLargestNorm) / root;
  RowFault fault;
  double longest[kMaxInfonceThreads] = {};
  parallel_rows(matrix.rows, [&](std::int64_t i, int thread) {
    RowMeasure measure;
    kernels_.measure(float_row(kernels_, matrix, Metric::kDot, i, spaces_[thread].rows),
                     matrix.columns, &measure);
    const double largest = static_cast<double>(measure.largest);
    if (!measure.finite)
      fault.note_not_finite(i);
    else if (!cosine && !(largest < most))
      fault.note_too_long(i);
    if (cosine) factors_[number][i] = measure.inverse_norm;
    const bool measured = measure.inverse_norm > 0;
    const double norm = measured ? 1 / static_cast<double>(measure.inverse_norm) : largest * root;
    longest[thread] = std::max(longest[thread], norm);
  });
  fault.raise(kInfonceNames[number]);
  return cosine ? 1 : *std::max_element(longest, longest + kMaxInfonceThreads);
}

// What no logit exceeds, with rows that are not longer than this.
double InfonceScan::logit_of(const double* longest) const {
  const InfonceProblem& p = problem_;
  double score = 1;  // scores of 0 by what float32 does not hold would make NaN
  for (int n = 0; n < pass_count_; ++n) {
    const double rows = longest[from_queries(passes_[n].kind) ? kQueries : kDocuments];
    score = std::max(score, rows * longest[columns_of(passes_[n].kind)]);
  }
  double weight = 0;
  if (p.log_weights != nullptr)
    for (std::int64_t j = 0; j < p.documents.rows; ++j)
      weight = std::max(weight, static_cast<double>(std::abs(p.log_weights[j])));
  const double multiplier = std::max(in_batch_multiplier(p), own_multiplier(p));
  return multiplier * score * (p.focal ? score + std::abs(p.focal_margin) : 1) + weight +
         std::abs(p.hard_negative_log_weight);
}

bool InfonceScan::report() const {
  return tell(problem_.execution, std::min(done_.load(), total_), total_);
}

void InfonceScan::tell_row(std::int64_t i, const InfonceForward& out) {
  const RowPositives row_positives = positives(i);
  const RowObjective row(problem_, row_positives, out.state[i]);
  out.losses[i] = static_cast<float>(row.loss());
  out.log_sum_exp[i] = static_cast<float>(row.log_sum_exp());
  if (!std::isfinite(out.losses[i])) beyond_.note(i);
  if (row_positives.count == 0) out.ranks[i] = 0;
  std::copy_n(row_positives.scores, row_positives.count,
              out.positive_scores + problem_.positives.offsets[i]);
}

void InfonceScan::finish_rows() const {
  if (beyond_.noted()) refuse_beyond("losses", beyond_.row());
  report();
}

// write(entry, row, score) for the positives of rows [begin, end), by the tiles' own arithmetic.
template <typename Write>
void InfonceScan::score_positives(std::int64_t begin, std::int64_t end, const InfonceSide& queries,
                                  const InfonceSide& documents, std::int8_t* left,
                                  std::int8_t* right, const InfonceSpace& space,
                                  Write write) const {
  const IdLists& lists = problem_.positives;
  const std::int64_t depth = queries.matrix->columns;
  InfonceSide answers = documents;
  answers.index = lists.ids;
  answers.count = positive_count();
  for (std::int64_t first = begin; first < end; first += kLanes) {
    const std::int64_t last = std::min(first + kLanes, end);
    pack_rows(queries, first, last, left, nullptr, space);
    std::int64_t row = first;
    for (std::int64_t e = lists.offsets[first]; e < lists.offsets[last]; e += kLanes) {
      const std::int64_t stop = std::min(e + kLanes, lists.offsets[last]);
      pack_columns(answers, e, stop, right, nullptr, space);
      kernels_.infonce.score(precision_, left, right, kLanes, kLanes, depth, space.tile,
                             tile_stride_);
      for (std::int64_t entry = e; entry < stop; ++entry) {
        while (lists.offsets[row + 1] <= entry) ++row;
        write(entry, row, space.tile[(row - first) * tile_stride_ + entry - e]);
      }
    }
  }
}

void InfonceScan::find_limits(std::int64_t begin, std::int64_t end, const InfonceSpace& space) {
  kernels_.bfloat16.begin_tiles();
  score_positives(begin, end, queries_, documents_, space.left, space.right, space,
                  [&](std::int64_t e, std::int64_t, float s) { positive_scores_[e] = s; });
  kernels_.bfloat16.end_tiles();
  limit_rows(begin, end, space);
}

void InfonceScan::limit_rows(std::int64_t begin, std::int64_t end, const InfonceSpace& space) {
  for (std::int64_t i = begin; i < end; ++i) {
    const RowPositives row = positives(i);
    limits_[i] = {kNoLimit, -kNoLimit, kNoLimit};
    if (row.count == 0) continue;
    limits_[i].positive = *std::max_element(row.scores, row.scores + row.count);
    if (!problem_.has_guide)
      limits_[i].upper = *std::min_element(row.scores, row.scores + row.count);
  }
  if (problem_.has_guide) {
    kernels_.bfloat16.begin_tiles();
    score_positives(begin, end, passes_[0].guide_rows, passes_[0].guide_columns, space.guide_left,
                    space.guide_right, space, [&](std::int64_t, std::int64_t i, float s) {
                      limits_[i].upper = std::min(limits_[i].upper, s);
                    });
    kernels_.bfloat16.end_tiles();
  }
  for (std::int64_t i = begin; i < end; ++i) limit_row(i);
}

// From the lowest positive score, in limits_[i].upper, to what a negative may have at most.
void InfonceScan::limit_row(std::int64_t i) {
  const InfonceProblem& p = problem_;
  float upper = kNoLimit;
  if (positives(i).count > 0) upper = upper_limit(p, static_cast<double>(limits_[i].upper));
  limits_[i].upper = p.ceilings == nullptr ? upper : std::min(upper, p.ceilings[i]);
  if (p.floors != nullptr) limits_[i].lower = p.floors[i];
}

void InfonceScan::score(const InfonceTile& tile, const InfonceSpace& space) const {
  const InfonceKernels& k = kernels_.infonce;
  const InfonceStrip strip = strip_of(tile, space);
  k.score(precision_, strip.left, strip.right, tile.rows, tile.columns, depth_, space.tile,
          tile_stride_);
  if (tile.pass->guided) score_guide(tile, space);
}

void InfonceScan::score_guide(const InfonceTile& tile, const InfonceSpace& space) const {
  const std::int64_t depth = problem_.guide_queries.columns;
  kernels_.infonce.score(precision_, space.guide_left + tile.slab_row * row_bytes(depth),
                         space.guide_right, tile.rows, tile.columns, depth, space.guide_tile,
                         tile_stride_);
}

InfonceStrip InfonceScan::strip_of(const InfonceTile& tile, const InfonceSpace& space) const {
  return {space.left + tile.slab_row * row_bytes(depth_),
          space.right,
          tile.rows,
          tile.columns,
          depth_,
          space.tile,
          tile_stride_};
}

bool InfonceScan::has_limits() const {
  const InfonceProblem& p = problem_;
  return p.has_absolute_margin || p.has_relative_margin || p.ceilings != nullptr ||
         p.floors != nullptr;
}

bool InfonceScan::is_plain(const InfoncePass& pass, const InfonceTerms& terms, std::int64_t begin,
                           std::int64_t end, std::int64_t first_column,
                           std::int64_t last_column) const {
  using Kind = InfoncePassKind;
  if (wide_) return false;
  if (terms.kind != kInfonceSoftmax || terms.focal || terms.log_weights != nullptr) return false;
  if (pass.hidden != nullptr || pass.groups != nullptr || (pass.limited && has_limits()))
    return false;
  const auto count = static_cast<int>(last_column - first_column);
  const InfonceTile tile = {&pass, nullptr, begin, first_column, 0, count, 0, false};
  if (columns_of(pass.kind) == kQueries && begin < last_column && first_column < end) return false;
  if (columns_of(pass.kind) == kDocuments && (any_in_tile(problem_.positives, begin, end, tile) ||
                                              any_in_tile(problem_.exclude, begin, end, tile)))
    return false;
  return !(pass.kind == Kind::kDocumentToDocument ||
           (pass.kind == Kind::kQueryToDocument && has_own_logits(problem_))) ||
         !any_in_tile(problem_.hard_negatives, begin, end, tile);
}

void InfonceScan::mask_row(const InfonceTile& tile, int r, const InfonceSpace& space,
                           InfonceSurvey* survey) const {
  using Kind = InfoncePassKind;
  const InfoncePass& pass = *tile.pass;
  const std::int64_t i = tile.first_row + r, own = i - tile.first_column;
  float* scores = space.tile + r * tile_stride_;
  const auto drop = [&](std::int64_t c) { scores[c] = -kNoLimit; };
  const bool self = columns_of(pass.kind) == kQueries && own >= 0 && own < tile.columns;
  const float self_score = self ? scores[own] : 0.0f;
  if (pass.hidden != nullptr) hide(tile, i, scores);
  const RowLimits limits =
      pass.limited ? limits_[i] : RowLimits{kNoLimit, -kNoLimit, limits_[i].positive};
  if (limits.upper < kNoLimit || limits.lower > -kNoLimit || pass.groups != nullptr) {
    const std::int64_t e = problem_.positives.offsets[i];
    InfonceMask mask = {scores, limits.upper, limits.lower, nullptr, nullptr, 0};
    if (pass.guided) mask.values = space.guide_tile + r * tile_stride_;
    if (pass.groups != nullptr) {
      mask.groups = pass.groups + tile.first_column;
      mask.row_groups = row_groups_ + e;
      mask.row_group_count = static_cast<int>(problem_.positives.offsets[i + 1] - e);
    }
    kernels_.infonce.mask(scores, tile.columns, &mask);
  }
  if (pass.kind == Kind::kQueryToQuery && self) drop(own);
  if (pass.kind == Kind::kDocumentToQuery && self) scores[own] = self_score;
  if (columns_of(pass.kind) == kDocuments) {
    in_tile(problem_.positives, i, tile, drop);
    in_tile(problem_.exclude, i, tile, drop);
  }
  if (pass.kind == Kind::kDocumentToDocument) in_tile(problem_.hard_negatives, i, tile, drop);
  if (survey != nullptr)
    kernels_.infonce.survey(scores, tile.columns, limits.positive,
                            tile.first_column + pass.first_id, survey);
}

bool InfonceScan::give_own_scores(const InfonceTile& tile, int r, const InfonceSpace& space) const {
  bool any = false;
  if (tile.pass->kind != InfoncePassKind::kQueryToDocument || wide_ || !has_own_logits(problem_))
    return any;
  float* scores = space.tile + r * tile_stride_;
  in_tile(problem_.hard_negatives, tile.first_row + r, tile, [&](std::int64_t c) {
    if (scores[c] == -kNoLimit) return;
    scores[c] = own_score(problem_, scores[c]);
    any = true;
  });
  return any;
}

void InfonceScan::mark_own(const InfonceTile& tile, std::int64_t i, bool* own) const {
  if (tile.pass->kind == InfoncePassKind::kQueryToDocument && has_own_logits(problem_))
    in_tile(problem_.hard_negatives, i, tile, [&](std::int64_t c) { own[c] = true; });
}

// Drops the hard negatives of other queries; from documents, all of them.
void InfonceScan::hide(const InfonceTile& tile, std::int64_t i, float* scores) const {
  constexpr std::int32_t kHidden = 1;
  float kept[kMostTileColumns];
  int count = 0;
  const bool own = tile.pass->kind == InfoncePassKind::kQueryToDocument;
  const auto each_own = [&](auto body) {
    count = 0;
    if (own) in_tile(problem_.hard_negatives, i, tile, body);
  };
  each_own([&](std::int64_t c) { kept[count++] = scores[c]; });
  const InfonceMask mask = {scores,   kNoLimit, -kNoLimit, tile.pass->hidden + tile.first_column,
                            &kHidden, 1};
  kernels_.infonce.mask(scores, tile.columns, &mask);
  each_own([&](std::int64_t c) { scores[c] = kept[count++]; });
}

InfonceTerms InfonceScan::terms_of(const InfoncePass& pass, std::int64_t first_column) const {
  static_assert(static_cast<int>(TermsKind::kSoftmax) == kInfonceSoftmax &&
                static_cast<int>(TermsKind::kHardness) == kInfonceHardness &&
                static_cast<int>(TermsKind::kSigmoid) == kInfonceSigmoid);
  InfonceTerms terms = {};
  terms.kind = static_cast<InfonceKind>(terms_kind(problem_));
  terms.focal = problem_.focal;
  terms.rough = precision_ == Precision::kBFloat16;
  terms.multiplier = static_cast<float>(multiplier_of(problem_, pass.kind));
  terms.focal_margin = static_cast<float>(problem_.focal_margin);
  terms.beta = static_cast<float>(problem_.beta);
  terms.log_weights = pass.log_weights == nullptr ? nullptr : pass.log_weights + first_column;
  return terms;
}

}  // namespace stope
