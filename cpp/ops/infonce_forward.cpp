// infonce, forward: every tile is masked and folded into the sums of its rows.
//
// Positives are no part of the tiles: their scores come from the same arithmetic, so that limits
// relative to a positive are exact. Extra memory: the packed slab, block and tile of every thread,
// statistics per row.
#include <cmath>

#include "infonce_sieve.h"
#include "stope/infonce.h"

namespace stope {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

class Forward : InfonceScan {
 public:
  Forward(const InfonceProblem& problem, Workspace workspace)
      : InfonceScan(problem, InfonceUse::kForward, workspace) {}
  using InfonceScan::bytes;

  void run(const InfonceForward& out) {
    prepare();
    total_ = slabs_;
    parallel(slabs_, [&](std::int64_t slab, int thread) {
      run_slab(slab_begin(slab), slab_end(slab), spaces_[thread], out);
      ++done_;
    });
    finish_rows();
  }

 private:
  static InfonceSums load(const InfonceState& state) {
    return {static_cast<float>(state.reference), state.first, state.second};
  }
  static void store(const InfonceSums& sums, InfonceState* state) {
    *state = {static_cast<double>(sums.reference), sums.first, sums.second, 0, kMinusInfinity};
  }

  void run_slab(std::int64_t begin, std::int64_t end, const InfonceSpace& space,
                const InfonceForward& out) {
    find_limits(begin, end, space);
    for (std::int64_t i = begin; i < end; ++i) {
      out.state[i] = {kMinusInfinity, 0, 0, 0, kMinusInfinity};
      out.best_negatives[i] = -1;
      out.best_negative_scores[i] = kMasked;
      out.negatives[i] = 0;
      out.ranks[i] = 1;
    }
    const auto nothing = [](auto...) {};
    for (int p = 0; p < pass_count_; ++p)
      scan(
          passes_[p], begin, end, space, nothing,
          [&](const InfonceTile& tile) {
            if (tile.plain) return fold_plain(tile, space, out);
            score(tile, space);
            for (int r = 0; r < tile.rows; ++r) fold(tile, r, space, out);
          },
          nothing);
    for (std::int64_t i = begin; i < end; ++i) finish(i, out);
  }

  static InfonceSurvey survey_of(std::int64_t i, const InfonceForward& out) {
    return {0, 0, 0, out.best_negative_scores[i], out.best_negatives[i]};
  }
  static void note(const InfonceTile& tile, std::int64_t i, const InfonceSurvey& survey,
                   const InfonceForward& out) {
    out.negatives[i] += survey.kept;
    if (tile.pass->first_id < 0) return;
    out.ranks[i] += survey.above;
    out.best_negative_scores[i] = survey.best;
    out.best_negatives[i] = survey.best_index;
  }

  void fold_plain(const InfonceTile& tile, const InfonceSpace& space, const InfonceForward& out) {
    float positives[kInfonceStrip];
    InfonceSurvey surveys[kInfonceStrip];
    InfonceSums sums[kInfonceStrip];
    for (int r = 0; r < tile.rows; ++r) {
      const std::int64_t i = tile.first_row + r;
      positives[r] = best_positive(i);
      surveys[r] = survey_of(i, out);
      sums[r] = load(out.state[i]);
    }
    const InfonceStrip strip = strip_of(tile, space);
    kernels_.infonce.score_fold(precision_, &strip, tile.terms, positives,
                                tile.first_column + tile.pass->first_id, surveys, sums);
    for (int r = 0; r < tile.rows; ++r) {
      note(tile, tile.first_row + r, surveys[r], out);
      store(sums[r], &out.state[tile.first_row + r]);
    }
  }

  void fold(const InfonceTile& tile, int r, const InfonceSpace& space, const InfonceForward& out) {
    const std::int64_t i = tile.first_row + r;
    InfonceSurvey survey = survey_of(i, out);
    mask_row(tile, r, space, &survey);
    note(tile, i, survey, out);
    if (wide_) return fold_wide(tile, r, space, &out.state[i]);
    const bool own = give_own_scores(tile, r, space);
    const float largest = own ? std::numeric_limits<float>::quiet_NaN() : survey.largest;
    const InfonceTerms& terms = terms_of_row(tile, i);
    InfonceSums sums = load(out.state[i]);
    kernels_.infonce.fold(space.tile + r * tile_stride_, tile.columns, largest, &terms, &sums);
    store(sums, &out.state[i]);
  }

  void fold_wide(const InfonceTile& tile, int r, const InfonceSpace& space, InfonceState* state) {
    const WideTerms terms = wide_terms_of(tile, tile.first_row + r);
    double less = -terms.shift;
    if (terms.kind != TermsKind::kSigmoid) {
      double top = kMinusInfinity;
      each_wide(tile, r, space, terms,
                [&](int, double, double logit) { top = std::max(top, logit); });
      if (top == kMinusInfinity) return;
      // Narrow rows have a float32 reference, on either device.
      if (!is_wide(problem_, top)) top = static_cast<double>(static_cast<float>(top));
      if (top > state->reference) move_reference(terms, top, state);
      less = state->reference;
    }
    each_wide(tile, r, space, terms, [&](int, double, double logit) {
      state->first += terms.first(logit - less);
      state->second += terms.second(logit - less);
    });
  }

  void finish(std::int64_t i, const InfonceForward& out) {
    out.state[i].kept = static_cast<double>(out.negatives[i]);
    out.kept[i] = out.negatives[i];
    out.left_out[i] = 0.0f;
    tell_row(i, out);
  }
};

}  // namespace

std::size_t infonce_forward_workspace_bytes(const InfonceProblem& problem) {
  if (problem.execution.device.kind == DeviceKind::kCuda)
    return infonce_forward_cuda_workspace_bytes(problem);
  const std::size_t dense = Forward(problem, {}).bytes();
  return may_sift(problem) ? std::max(dense, sieve_forward_workspace_bytes(problem)) : dense;
}

void infonce_forward(const InfonceProblem& problem, const InfonceForward& out) {
  if (problem.execution.device.kind == DeviceKind::kCuda) return infonce_forward_cuda(problem, out);
  if (may_sift(problem) && sieve_forward(problem, out)) return;
  Forward(problem, Workspace(problem.execution)).run(out);
}

}  // namespace stope
