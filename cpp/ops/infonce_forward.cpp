// infonce, forward: every tile is masked and folded into the sums of its rows.
//
// Positives are no part of the tiles: their scores come from the same arithmetic, so that limits
// relative to a positive are exact. Extra memory: the packed slab, block and tile of every thread,
// statistics per row.
#include "loss_scan.h"
#include "stope/infonce.h"

namespace stope {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

class Forward : LossScan {
 public:
  Forward(const InfonceProblem& problem, Workspace workspace)
      : LossScan(problem, false, workspace) {}
  using LossScan::bytes;

  void run(const InfonceForward& out) {
    prepare();
    total_ = slabs_;
    parallel(slabs_, [&](std::int64_t slab, int thread) {
      run_slab(slab_begin(slab), slab_end(slab), spaces_[thread], out);
      ++done_;
    });
    report();
  }

 private:
  void run_slab(std::int64_t begin, std::int64_t end, const LossSpace& space,
                const InfonceForward& out) {
    find_limits(begin, end, space);
    for (std::int64_t i = begin; i < end; ++i) {
      store_sums(out.state, i, {kMasked, 0, 0}, 0);
      out.best_negatives[i] = -1;
      out.best_negative_scores[i] = kMasked;
      out.negatives[i] = 0;
      out.ranks[i] = 1;
    }
    const auto nothing = [](auto...) {};
    for (int p = 0; p < pass_count_; ++p)
      scan(
          passes_[p], begin, end, space, nothing,
          [&](const LossTile& tile) {
            if (tile.plain) return fold_plain(tile, space, out);
            score(tile, space);
            for (int r = 0; r < tile.rows; ++r) fold(tile, r, space, out);
          },
          nothing);
    for (std::int64_t i = begin; i < end; ++i) finish(i, out);
  }

  static LossSurvey survey_of(std::int64_t i, const InfonceForward& out) {
    return {0, 0, 0, out.best_negative_scores[i], out.best_negatives[i]};
  }
  static void note(const LossTile& tile, std::int64_t i, const LossSurvey& survey,
                   const InfonceForward& out) {
    out.negatives[i] += survey.kept;
    if (tile.pass->first_id < 0) return;
    out.ranks[i] += survey.above;
    out.best_negative_scores[i] = survey.best;
    out.best_negatives[i] = survey.best_index;
  }

  void fold_plain(const LossTile& tile, const LossSpace& space, const InfonceForward& out) {
    float positives[kLossStrip];
    LossSurvey surveys[kLossStrip];
    LossSums sums[kLossStrip];
    for (int r = 0; r < tile.rows; ++r) {
      const std::int64_t i = tile.first_row + r;
      positives[r] = best_positive(i);
      surveys[r] = survey_of(i, out);
      sums[r] = load_sums(out.state, i);
    }
    const LossStrip strip = strip_of(tile, space);
    kernels_.loss.score_fold(precision_, &strip, tile.terms, positives,
                             tile.first_column + tile.pass->first_id, surveys, sums);
    for (int r = 0; r < tile.rows; ++r) {
      note(tile, tile.first_row + r, surveys[r], out);
      store_sums(out.state, tile.first_row + r, sums[r], 0);
    }
  }

  void fold(const LossTile& tile, int r, const LossSpace& space, const InfonceForward& out) {
    const std::int64_t i = tile.first_row + r;
    LossSurvey survey = survey_of(i, out);
    mask_row(tile, r, space, &survey);
    note(tile, i, survey, out);
    const LossTerms& terms = terms_of_row(tile, i);
    LossSums sums = load_sums(out.state, i);
    kernels_.loss.fold(space.tile + r * tile_stride_, tile.columns, survey.largest, &terms, &sums);
    store_sums(out.state, i, sums, 0);
  }

  void finish(std::int64_t i, const InfonceForward& out) {
    const RowPositives positives = positives_of(i);
    const LossSums sums = load_sums(out.state, i);
    const RowObjective row(problem_, positives, sums, out.negatives[i]);
    out.losses[i] = static_cast<float>(row.loss());
    out.log_sum_exp[i] = static_cast<float>(row.log_sum_exp());
    if (positives.count == 0) out.ranks[i] = 0;
    store_sums(out.state, i, sums, out.negatives[i]);
    std::copy_n(positives.scores, positives.count,
                out.positive_scores + problem_.positives.offsets[i]);
  }
};

}  // namespace

std::size_t infonce_forward_workspace_bytes(const InfonceProblem& problem) {
  if (problem.execution.device.kind == DeviceKind::kCuda)
    return infonce_forward_cuda_workspace_bytes(problem);
  return Forward(problem, {}).bytes();
}

void infonce_forward(const InfonceProblem& problem, const InfonceForward& out) {
  if (problem.execution.device.kind == DeviceKind::kCuda) return infonce_forward_cuda(problem, out);
  Forward(problem, Workspace(problem.execution)).run(out);
}

}  // namespace stope
