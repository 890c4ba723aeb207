// infonce, backward: every tile is scored again, turned into weights, and multiplied with both of
// its operands. Positives are no part of the tiles: their gradients are added through the lists.
//
// Extra memory: the packed slab, block and tile of every thread, statistics per row; with
// query-to-query or document-to-* also one float row per query.
#include "infonce_gradients.h"
#include "infonce_sieve.h"
#include "stope/infonce.h"

namespace stope {
namespace {

class Backward : InfonceGradients<InfonceScan, true> {
 public:
  Backward(const InfonceProblem& problem, Workspace workspace)
      : InfonceGradients(problem, InfonceUse::kBackward, workspace) {}
  using InfonceScan::bytes;

  void run(const InfonceBackward& out) {
    run_passes(
        out,
        [&](std::int64_t begin, std::int64_t end, int thread) {
          find_limits(begin, end, spaces_[thread]);
        },
        [&](int pass, std::int64_t slab, int thread, const Sums& rows_out,
            const Sums& columns_out) {
          run_slab(passes_[pass], slab, spaces_[thread], rows_out, columns_out);
        });
  }

 private:
  void run_slab(const InfoncePass& pass, std::int64_t slab, const InfonceSpace& space,
                const Sums& rows_out, const Sums& columns_out) {
    const InfonceKernels& k = kernels_.infonce;
    const std::int64_t begin = slab_begin(slab), end = slab_end(slab);
    scan(
        pass, begin, end, space,
        [&](std::int64_t block) {
          if (columns_out.data != nullptr) wait_for(slab, block);
        },
        [&](const InfonceTile& tile) {
          const auto row = static_cast<int>(tile.slab_row % kInfonceWeightRows);
          if (is_plain_weigh(tile)) {
            const InfonceStrip scores = strip_of(tile, space);
            k.score_weigh(precision_, &scores, tile.terms, coefficients_ + tile.first_row, row,
                          space.weights);
          } else {
            score(tile, space);
            for (int r = 0; r < tile.rows; ++r) weigh(tile, r, space);
            k.pack_weights(precision_, space.tile, tile_stride_, row, tile.rows, tile.columns,
                           depth_, space.weights);
          }
          const int rows = row + tile.rows;
          if (rows < kInfonceWeightRows && tile.first_row + tile.rows < end) return;
          const std::int64_t first = tile.slab_row - row;
          InfonceProduct product = {space.weights,
                                    rows,
                                    tile.columns,
                                    false,
                                    space.right_inner,
                                    depth_,
                                    rows_out.data + (begin + first) * depth_,
                                    rows_out.begun || tile.first_column > 0};
          k.accumulate(precision_, &product);
          if (columns_out.data == nullptr) return;
          product.transposed = true;
          product.inner = space.left_inner + first * row_bytes(depth_);
          product.out = columns_out.data + tile.first_column * depth_;
          product.add = columns_out.begun || begin + first > 0;
          k.accumulate(precision_, &product);
        },
        [&](std::int64_t block) { is_done(slab, block); });
  }

  // A row of coefficient 0 may have no finite reference.
  bool is_plain_weigh(const InfonceTile& tile) const {
    const InfonceCoefficients* rows = coefficients_ + tile.first_row;
    return tile.plain && std::all_of(rows, rows + tile.rows,
                                     [](const InfonceCoefficients& c) { return c.first != 0.0f; });
  }

  void weigh(const InfonceTile& tile, int r, const InfonceSpace& space) {
    const std::int64_t i = tile.first_row + r;
    const auto padded = static_cast<int>(round_up(tile.columns, kInfoncePadding));
    float* scores = space.tile + r * tile_stride_;
    if (coefficients_[i].first == 0.0f && coefficients_[i].second == 0.0f) {
      std::fill_n(scores, padded, 0.0f);
      return;
    }
    mask_row(tile, r, space, nullptr);
    if (wide_) return weigh_wide(tile, r, padded, space);
    give_own_scores(tile, r, space);
    const InfonceTerms& terms = terms_of_row(tile, i);
    double total = 0, moment = 0;
    kernels_.infonce.weigh(scores, tile.columns, padded, &terms, &coefficients_[i], &total,
                           &moment);
    bias_moments_[i] += total;
    if (problem_.focal) moments_[i] += moment;
  }

  void weigh_wide(const InfonceTile& tile, int r, int padded, const InfonceSpace& space) {
    const std::int64_t i = tile.first_row + r;
    const WideTerms terms = wide_terms_of(tile, i);
    float weights[kMostTileColumns] = {};
    each_wide(tile, r, space, terms, [&](int c, double score, double logit) {
      const InfonceCoefficients& by = coefficients_[i];
      double weight = terms.weight(logit, references_[i], static_cast<double>(by.first),
                                   static_cast<double>(by.second));
      if (terms.focal) {
        moments_[i] += weight * score * (score + terms.focal_margin);
        weight *= 2 * score + terms.focal_margin;
      }
      weights[c] = static_cast<float>(weight);
    });
    std::copy_n(weights, padded, space.tile + r * tile_stride_);
  }
};

}  // namespace

std::size_t infonce_backward_workspace_bytes(const InfonceProblem& problem) {
  if (problem.execution.device.kind == DeviceKind::kCuda)
    return infonce_backward_cuda_workspace_bytes(problem);
  const std::size_t dense = Backward(problem, {}).bytes();
  return may_sift(problem) ? std::max(dense, sieve_backward_workspace_bytes(problem)) : dense;
}

void infonce_backward(const InfonceProblem& problem, const InfonceBackward& out) {
  if (problem.execution.device.kind == DeviceKind::kCuda)
    return infonce_backward_cuda(problem, out);
  const std::int64_t rows = problem.queries.rows;
  const bool sifted =
      may_sift(problem) && std::any_of(out.state, out.state + rows, [](const InfonceState& row) {
        return row.least > kMinusInfinity;
      });
  if (sifted) return sieve_backward(problem, out);
  Backward(problem, Workspace(problem.execution)).run(out);
}

}  // namespace stope
