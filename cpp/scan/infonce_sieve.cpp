#include "infonce_sieve.h"

#include <cmath>

#include "dispatch.h"

namespace stope {
namespace {

constexpr std::int64_t kLeastRows = 256, kLeastColumns = 1024;  // fewer are not worth a sample

}  // namespace

std::int64_t infonce_columns(const InfonceProblem& p) {
  std::int64_t columns = p.documents.rows + p.queue.rows;
  if (p.directions.query_to_query) columns += p.queries.rows;
  if (p.directions.document_to_query) columns += p.queries.rows;
  if (p.directions.document_to_document) columns += p.documents.rows;
  return columns;
}

std::int64_t sieve_rows(const InfonceProblem& p) {
  constexpr std::int64_t kMostPairs = 1 << 28;  // of a slab
  const std::int64_t fit = std::clamp<std::int64_t>(kMostPairs / infonce_columns(p), 64, 1024);
  // At least eight tasks, whatever the threads.
  return std::min(fit, round_up(divide_up(p.queries.rows, 8), kInfonceSlabUnit));
}

bool may_sift(const InfonceProblem& p) {
  return p.drop > 0 && p.queries.rows >= kLeastRows && infonce_columns(p) >= kLeastColumns &&
         terms_kind(p) == TermsKind::kSoftmax && !p.focal;
}

InfonceSieve::InfonceSieve(const InfonceProblem& problem, Workspace workspace)
    : InfonceScan(problem, InfonceUse::kSieve, workspace),
      scan_(kernels_.int8),
      shape_(problem.queries.columns, scan_.element_bytes),
      bounds_(Metric::kDot, problem.queries.columns, true, false),
      absolute_(static_cast<double>(problem.queries.columns + 2) * 0x1p-149) {
  const std::int64_t threads = std::min(problem.execution.threads, kMaxInfonceThreads);
  for (std::int64_t t = 0; t < threads; ++t) {
    Space& space = sieves_[t];
    space.codes = workspace_.take<std::int8_t>((slab_rows_ + kMaxTileRows) * shape_.query_bytes);
    space.bounds = workspace_.take<QueryBound>(slab_rows_);
    space.scales = workspace_.take<float>(slab_rows_ + kMaxTileRows);
    space.panels = workspace_.take<std::int8_t>(tile_columns_ / kLanes * shape_.bytes);
    space.rows = workspace_.take<float>(slab_rows_ * depth_);
    space.columns = workspace_.take<float>(tile_columns_ * depth_);
    space.scratch = workspace_.take<float>(ExactScorer::scratch_floats(depth_));
  }
}

void InfonceSieve::find_canonical_limits(std::int64_t begin, std::int64_t end, int thread) {
  const ExactScorer scorer(kernels_, problem_.queries, problem_.documents, problem_.metric);
  const InfonceSpace& space = spaces_[thread];
  const IdLists& lists = problem_.positives;
  for (std::int64_t i = begin; i < end; ++i) {
    const float* query = float_row(kernels_, problem_.queries, problem_.metric, i, space.rows);
    for (std::int64_t e = lists.offsets[i]; e < lists.offsets[i + 1]; e += ExactScorer::kBatch) {
      const auto count =
          static_cast<int>(std::min<std::int64_t>(ExactScorer::kBatch, lists.offsets[i + 1] - e));
      scorer.score(
          i, query, [&](int p) { return lists.ids[e + p]; }, count, sieves_[thread].scratch,
          positive_scores_ + e);
    }
  }
  limit_rows(begin, end, space);
}

void InfonceSieve::load_rows(const InfonceSide& side, std::int64_t begin, std::int64_t end,
                             float* rows) const {
  for (std::int64_t i = begin; i < end; ++i, rows += depth_) {
    const std::int64_t from = side.index == nullptr ? i : side.index[i];
    const float* row = float_row(kernels_, *side.matrix, problem_.metric, from, rows);
    if (row != rows) std::copy_n(row, depth_, rows);
  }
}

void InfonceSieve::quantise_rows(std::int64_t count, const Space& space) const {
  for (std::int64_t i = 0; i < count; ++i) {
    RowStats stats;
    scan_.quantise(space.rows + i * depth_, depth_, shape_.depth_padded, 0.0f,
                   space.codes + i * shape_.query_bytes, &stats);
    space.bounds[i] = bounds_.query(stats);
    space.scales[i] = stats.scale;
  }
  std::fill_n(space.codes + count * shape_.query_bytes, kMaxTileRows * shape_.query_bytes,
              std::int8_t{0});
  std::fill_n(space.scales + count, kMaxTileRows, 0.0f);
}

void InfonceSieve::quantise_columns(std::int64_t count, Space* space) const {
  double residual = 0, norm = 0;
  for (std::int64_t first = 0; first < count; first += kLanes) {
    const float* rows[kLanes];
    const auto lanes = static_cast<int>(std::min<std::int64_t>(kLanes, count - first));
    for (int l = 0; l < lanes; ++l) rows[l] = space->columns + (first + l) * depth_;
    std::int8_t* panel = space->panels + first / kLanes * shape_.bytes;
    scan_.pack_panel(rows, lanes, depth_, shape_.depth_padded, 0.0f, panel);
    const PanelFooter& footer = shape_.footer(panel);
    for (int l = 0; l < lanes; ++l) {
      const double scale = footer.scale[l];
      residual = std::max(residual, scale * footer.residual[l]);
      norm = std::max(norm, scale * footer.norm[l]);
    }
  }
  space->residual = residual;
  space->norm = norm;
}

void InfonceSieve::scan_tile(const InfonceTile& tile, const Space& space,
                             const InfonceSpace& shared) const {
  alignas(64) TileEntry entries[kMaxTileRows * kMaxTilePanels * kLanes];
  constexpr std::int64_t kStride = kMaxTilePanels * kLanes;
  const std::int64_t panels = divide_up(tile.columns, kLanes);
  scan_.begin_tiles();
  for (std::int64_t p = 0; p < panels; p += scan_.tile_panels) {
    const PanelRun run = {space.panels + p * shape_.bytes, shape_.bytes, shape_.footer_offset,
                          static_cast<int>(std::min<std::int64_t>(scan_.tile_panels, panels - p))};
    for (int r = 0; r < tile.rows; r += scan_.tile_rows) {
      const std::int64_t row = tile.slab_row + r;
      const QueryTile rows = {space.codes + row * shape_.query_bytes, shape_.query_bytes,
                              std::min(scan_.tile_rows, tile.rows - r)};
      scan_.score_panels(&rows, &run, depth_, entries, kStride);
      scan_.read_tile(entries, kStride, rows.rows, space.scales + row, &run,
                      shared.tile + r * tile_stride_ + p * kLanes, tile_stride_);
    }
  }
  scan_.end_tiles();
  if (!tile.pass->guided) return;
  kernels_.bfloat16.begin_tiles();
  score_guide(tile, shared);
  kernels_.bfloat16.end_tiles();
}

double InfonceSieve::logit_error(const InfonceTile& tile, double error) const {
  double steepest = multiplier_of(problem_, tile.pass->kind);
  if (has_own_logits(problem_)) steepest = std::max(steepest, own_multiplier(problem_));
  return steepest * error + largest_logit() * 0x1p-20;  // and what float32 loses of logits
}

void InfonceSieve::settle_at(float limit, const InfonceTile& tile, int r, double error,
                             int thread) const {
  if (std::isinf(limit)) return;
  float* scores = spaces_[thread].tile + r * tile_stride_;
  const auto low = static_cast<float>(static_cast<double>(limit) - error * (1 + 0x1p-20));
  const auto high = static_cast<float>(static_cast<double>(limit) + error * (1 + 0x1p-20));
  InfonceSurvey from_low = {}, past_high = {};
  from_low.best = past_high.best = kNoUpperLimit;
  kernels_.infonce.survey(scores, tile.columns, std::nextafter(low, -kNoUpperLimit), 0, &from_low);
  kernels_.infonce.survey(scores, tile.columns, high, 0, &past_high);
  if (from_low.above == past_high.above) return;
  const float *row = row_of(tile, r, sieves_[thread]), *columns[kMostTileColumns];
  int places[kMostTileColumns + 1], count = 0;
  for (int c = 0; c < tile.columns; ++c) {  // without branches that nothing predicts
    places[count] = c;
    count += static_cast<int>(scores[c] >= low) & static_cast<int>(scores[c] <= high);
  }
  for (int e = 0; e < count; ++e) columns[e] = sieves_[thread].columns + places[e] * depth_;
  float settled[kMostTileColumns];
  kernels_.exact_dot(&row, 1, columns, count, depth_, settled, kMostTileColumns);
  for (int e = 0; e < count; ++e) scores[places[e]] = settled[e];
}

void InfonceSieve::settle_limits(const InfonceTile& tile, int r, double error, int thread) const {
  if (!tile.pass->limited || tile.pass->guided) return;
  const RowLimits& limits = limits_[tile.first_row + r];
  settle_at(limits.upper, tile, r, error, thread);
  settle_at(limits.lower, tile, r, error, thread);
}

float InfonceSieve::pass(const InfonceTile& tile, int r, double least, double slack,
                         float reference, int thread, Passed* passed) const {
  const Space& space = sieves_[thread];
  const float* scores = spaces_[thread].tile + r * tile_stride_;
  const double lowest = least - slack;
  constexpr float kLowest = -std::numeric_limits<float>::max();
  const InfonceSieveTerms sieve = {tile.terms->multiplier, tile.terms->log_weights,
                                   lowest > static_cast<double>(kLowest)
                                       ? std::nextafter(static_cast<float>(lowest), kLowest)
                                       : kLowest,
                                   reference};
  std::uint64_t bits[kMostTileColumns / 64];
  const float rest = kernels_.infonce.sift(scores, tile.columns, &sieve, bits);
  passed->count = 0;
  for (int word = 0; word * 64 < tile.columns; ++word)
    for (std::uint64_t left = bits[word]; left != 0; left &= left - 1)
      passed->columns[passed->count++] = word * 64 + std::countr_zero(left);
  if (passed->count == 0) return rest;
  const float* row = row_of(tile, r, space);
  const float* columns[kMostTileColumns];
  for (int e = 0; e < passed->count; ++e) columns[e] = space.columns + passed->columns[e] * depth_;
  kernels_.exact_dot(&row, 1, columns, passed->count, depth_, passed->scores, kMostTileColumns);
  const double multiplier = multiplier_of(problem_, tile.pass->kind);
  bool own[kMostTileColumns] = {};
  mark_own(tile, tile.first_row + r, own);
  for (int e = 0; e < passed->count; ++e) {
    const int c = passed->columns[e];
    const auto score = static_cast<double>(passed->scores[e]);
    double logit = own[c] ? own_logit(problem_, score) : multiplier * score;
    if (tile.terms->log_weights != nullptr)
      logit += static_cast<double>(tile.terms->log_weights[c]);
    passed->logits[e] = static_cast<float>(logit);
  }
  return rest;
}

}  // namespace stope
