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

#include <cmath>
#include <new>
#include <thread>

#include "loss_scan.h"

namespace stope {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

LossSums load_sums(const double* state, std::int64_t i) {
  const double* s = state + i * kInfonceState;
  return {static_cast<float>(s[0]), s[1], s[2]};
}
void store_sums(double* state, std::int64_t i, const LossSums& sums, std::int64_t kept) {
  double* s = state + i * kInfonceState;
  s[0] = static_cast<double>(sums.reference);
  s[1] = sums.first;
  s[2] = sums.second;
  s[3] = static_cast<double>(kept);
}

// 1 / norm where the norm or its square leaves float32; gradients through shorter rows than
// kShortestRow are cut off.
float extreme_inverse_norm(const KernelTable& kernels, const Matrix& matrix, std::int64_t i,
                           float* scratch) {
  constexpr double kShortestRow = 1e-30;
  const float* row = float_row(kernels, matrix, Metric::kDot, i, scratch);
  double sum = 0;
  for (std::int64_t d = 0; d < matrix.columns; ++d)
    sum += static_cast<double>(row[d]) * static_cast<double>(row[d]);
  return static_cast<float>(1 / std::max(std::sqrt(sum), kShortestRow));
}

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

class Backward : LossScan {
 public:
  Backward(const InfonceProblem& problem, Workspace workspace)
      : LossScan(problem, true, workspace) {
    coefficients_ = workspace_.take<LossCoefficients>(rows_);
    moments_ = workspace_.take<double>(rows_);
    bias_moments_ = workspace_.take<double>(rows_);
    entry_gradients_ = workspace_.take<double>(positive_count());
    entry_rows_ = workspace_.take<std::int64_t>(positive_count());
    document_offsets_ = workspace_.take<std::int64_t>(problem.documents.rows + 1);
    document_entries_ = workspace_.take<std::int64_t>(positive_count());
    progress_ = workspace_.take<std::atomic<std::int64_t>>(slabs_);
    if (problem.directions.query_to_query || problem.directions.document_to_query ||
        problem.directions.document_to_document)
      beside_ = workspace_.take<float>(rows_ * depth_);
  }
  using LossScan::bytes;

  void run(const InfonceBackward& out) {
    prepare();
    total_ = slabs_ * pass_count_;
    parallel(slabs_, [&](std::int64_t slab, int thread) {
      find_limits(slab_begin(slab), slab_end(slab), spaces_[thread]);
      for (std::int64_t i = slab_begin(slab); i < slab_end(slab); ++i) weigh_row(i, out);
    });
    touch(out.queries, rows_);
    if (out.documents != nullptr) touch(out.documents, problem_.documents.rows);
    for (int p = 0; p < pass_count_; ++p) run_pass(p, out);
    add_positives(out);
    to_given_rows(queries_, out.queries);
    if (out.documents != nullptr) to_given_rows(documents_, out.documents);
    *out.scale = *out.bias = 0;
    for (std::int64_t i = 0; i < rows_; ++i) {
      *out.scale += moments_[i];
      if (problem_.objective == Objective::kSigmoid) *out.bias += bias_moments_[i];
    }
    report();
  }

 private:
  // The weights of a row's negatives, and the gradients of its positives' scores, by the scale.
  void weigh_row(std::int64_t i, const InfonceBackward& out) {
    const RowPositives positives = positives_of(i);
    const auto kept = static_cast<std::int64_t>(out.state[i * kInfonceState + 3]);
    const LossSums sums = load_sums(out.state, i);
    const RowObjective row(problem_, positives, sums, kept);
    const double gradient = static_cast<double>(out.row_gradients[i]);
    coefficients_[i] = row.negatives(gradient);
    moments_[i] = bias_moments_[i] = 0;
    for (std::int64_t p = 0; p < positives.count; ++p) {
      const std::int64_t e = problem_.positives.offsets[i] + p;
      const double score = static_cast<double>(positives.scores[p]);
      const double weight = gradient == 0 ? 0 : row.positive(p, gradient);
      moments_[i] += weight * score * (problem_.focal ? score : 1);
      bias_moments_[i] += weight;
      entry_gradients_[e] = weight * (problem_.focal ? 2 * score : 1);
      entry_rows_[e] = i;
    }
  }

  // Writes to every page: the system makes new ones for all the threads at once, not for the one
  // that adds the first gradients while others wait for it.
  void touch(float* out, std::int64_t rows) {
    constexpr std::int64_t kPage = 4096 / sizeof(float), kTask = 512 * kPage;
    const std::int64_t count = rows * depth_;
    parallel(divide_up(count, kTask), [&](std::int64_t task, int) {
      const std::int64_t end = std::min((task + 1) * kTask, count);
      for (std::int64_t i = task * kTask; i < end; i += kPage) out[i] = 0.0f;
    });
  }

  void run_pass(int number, const InfonceBackward& out) {
    using Kind = LossPass::Kind;
    const LossPass& pass = passes_[number];
    const bool from_queries = pass.rows.matrix == &problem_.queries;
    // Columns that are queries get their gradients where rows that are queries would.
    const bool beside = !from_queries || pass.kind == Kind::kQueryToQuery;
    float* rows_out = beside ? beside_ : out.queries;
    float* columns_out = pass.columns.matrix == &problem_.queries     ? out.queries
                         : pass.columns.matrix == &problem_.documents ? out.documents
                                                                      : nullptr;
    const bool rows_begin = number == 0 || beside, columns_begin = number == 0;
    if (!rows_begin) order_sums(rows_out, rows_, false);
    if (!columns_begin && columns_out != nullptr)
      order_sums(columns_out, pass.columns.count, false);
    for (std::int64_t s = 0; s < slabs_; ++s) new (progress_ + s) std::atomic<std::int64_t>(0);
    parallel(slabs_, [&](std::int64_t slab, int thread) {
      run_slab(pass, slab, spaces_[thread], {rows_out, rows_begin}, {columns_out, columns_begin});
      ++done_;
    });
    order_sums(rows_out, rows_, true);
    if (columns_out != nullptr) order_sums(columns_out, pass.columns.count, true);
    const bool queue_follows =
        number + 1 < pass_count_ && passes_[number + 1].kind == Kind::kQueryToQueue;
    if (!queue_follows && !problem_.focal) add_moments(pass, rows_out);
    if (!beside) return;
    if (from_queries) {
      parallel_rows(rows_, [&](std::int64_t i, int) {
        kernels_.combine(beside_ + i * depth_, 1.0f, 1.0f, depth_, out.queries + i * depth_);
      });
    } else if (out.documents != nullptr) {
      // One after the other: queries may share a document.
      for (std::int64_t i = 0; i < rows_; ++i)
        kernels_.combine(beside_ + i * depth_, 1.0f, 1.0f, depth_,
                         out.documents + pass.rows.index[i] * depth_);
    }
  }

  // To the order in which kernels accumulate, or `back` to rows.
  void order_sums(float* sums, std::int64_t rows, bool back) {
    parallel(divide_up(rows, kLossStrip), [&](std::int64_t strip, int thread) {
      const std::int64_t first = strip * kLossStrip;
      kernels_.loss.order_sums(precision_,
                               static_cast<int>(std::min<std::int64_t>(kLossStrip, rows - first)),
                               depth_, back, sums + first * depth_, spaces_[thread].rows);
    });
  }

  // Where a pass adds, or if it is the first to do so begins, a matrix of sums.
  struct Sums {
    float* data;
    bool begin;
  };

  void run_slab(const LossPass& pass, std::int64_t slab, const LossSpace& space, Sums rows_out,
                Sums columns_out) {
    const LossKernels& k = kernels_.loss;
    const std::int64_t begin = slab_begin(slab), end = slab_end(slab);
    scan(
        pass, begin, end, space,
        [&](std::int64_t block) {
          if (slab > 0 && columns_out.data != nullptr) wait_for(progress_[slab - 1], block + 1);
        },
        [&](const LossTile& tile) {
          const auto row = static_cast<int>(tile.slab_row % kLossWeightRows);
          if (is_plain_weigh(tile)) {
            const LossStrip scores = strip_of(tile, space);
            k.score_weigh(precision_, &scores, tile.terms, coefficients_ + tile.first_row, row,
                          space.weights);
          } else {
            score(tile, space);
            for (int r = 0; r < tile.rows; ++r) weigh(tile, r, space);
            k.pack_weights(precision_, space.tile, tile_stride_, row, tile.rows, tile.columns,
                           depth_, space.weights);
          }
          const int rows = row + tile.rows;
          if (rows < kLossWeightRows && tile.first_row + tile.rows < end) return;
          const std::int64_t first = tile.slab_row - row;
          LossProduct product = {space.weights,
                                 rows,
                                 tile.columns,
                                 false,
                                 space.right_inner,
                                 depth_,
                                 rows_out.data + (begin + first) * depth_,
                                 !rows_out.begin || tile.first_column > 0};
          k.accumulate(precision_, &product);
          if (columns_out.data == nullptr) return;
          product.transposed = true;
          product.inner = space.left_inner + first * row_bytes(depth_);
          product.out = columns_out.data + tile.first_column * depth_;
          product.add = !columns_out.begin || begin + first > 0;
          k.accumulate(precision_, &product);
        },
        [&](std::int64_t block) { progress_[slab].store(block + 1, std::memory_order_release); });
  }

  // A row of coefficient 0 may have no finite reference.
  bool is_plain_weigh(const LossTile& tile) const {
    const LossCoefficients* rows = coefficients_ + tile.first_row;
    return tile.plain && std::all_of(rows, rows + tile.rows,
                                     [](const LossCoefficients& c) { return c.first != 0.0f; });
  }

  void weigh(const LossTile& tile, int r, const LossSpace& space) {
    const std::int64_t i = tile.first_row + r;
    const auto padded = static_cast<int>(round_up(tile.columns, kLossPadding));
    float* scores = space.tile + r * tile_stride_;
    if (coefficients_[i].first == 0.0f && coefficients_[i].second == 0.0f) {
      std::fill_n(scores, padded, 0.0f);
      return;
    }
    mask_row(tile, r, space, nullptr);
    const LossTerms& terms = terms_of_row(tile, i);
    double total = 0, moment = 0;
    kernels_.loss.weigh(scores, tile.columns, padded, &terms, &coefficients_[i], &total, &moment);
    bias_moments_[i] += total;
    if (problem_.focal) moments_[i] += moment;
  }

  // The slab before is at work on another thread, a few blocks ahead or behind.
  static void wait_for(const std::atomic<std::int64_t>& progress, std::int64_t block) {
    for (int spins = 0; progress.load(std::memory_order_acquire) < block; ++spins)
      if (spins > 64) std::this_thread::yield();
  }

  // What the negatives add to dL/dscale: sum_j G_ij S_ij is the gradient of row i along row i.
  void add_moments(const LossPass& pass, const float* gradients) {
    parallel_rows(rows_, [&](std::int64_t i, int thread) {
      const LossRow row = pass.rows.row(kernels_, i, spaces_[thread].rows);
      moments_[i] += static_cast<double>(dot(row.data, gradients + i * depth_) * row.factor);
    });
  }
  float dot(const float* a, const float* b) const {
    float out;
    kernels_.exact_dot(&a, 1, &b, 1, depth_, &out, 1);
    return out;
  }

  void add_positives(const InfonceBackward& out) {
    const IdLists& lists = problem_.positives;
    const auto add = [&](const LossSide& side, std::int64_t row, std::int64_t entry, int thread,
                         float* gradient) {
      const LossRow from = side.row(kernels_, row, spaces_[thread].rows);
      const auto weight = static_cast<float>(entry_gradients_[entry]);
      kernels_.combine(from.data, weight * from.factor, 1.0f, depth_, gradient);
    };
    parallel_rows(rows_, [&](std::int64_t i, int thread) {
      for (std::int64_t e = lists.offsets[i]; e < lists.offsets[i + 1]; ++e)
        add(documents_, lists.ids[e], e, thread, out.queries + i * depth_);
    });
    if (out.documents == nullptr) return;
    transpose_positives();
    parallel_rows(documents_.count, [&](std::int64_t j, int thread) {
      for (std::int64_t n = document_offsets_[j]; n < document_offsets_[j + 1]; ++n)
        add(queries_, entry_rows_[document_entries_[n]], document_entries_[n], thread,
            out.documents + j * depth_);
    });
  }

  // The entries of the positives by document, in ascending order.
  void transpose_positives() {
    const IdLists& lists = problem_.positives;
    const std::int64_t documents = documents_.count, entries = positive_count();
    std::fill_n(document_offsets_, documents + 1, 0);
    for (std::int64_t e = 0; e < entries; ++e) ++document_offsets_[lists.ids[e] + 1];
    for (std::int64_t j = 0; j < documents; ++j) document_offsets_[j + 1] += document_offsets_[j];
    for (std::int64_t e = entries - 1; e >= 0; --e)
      document_entries_[--document_offsets_[lists.ids[e] + 1]] = e;
    // Every end has moved down to its start: offsets are one place too far on.
    for (std::int64_t j = 0; j < documents; ++j) document_offsets_[j] = document_offsets_[j + 1];
    document_offsets_[documents] = entries;
  }

  // g -> scale * g, and through the normalisation: (g - x <x, g>) / |row| with x = row / |row|.
  void to_given_rows(const LossSide& side, float* gradients) {
    const auto scale = static_cast<float>(problem_.scale);
    parallel_rows(side.count, [&](std::int64_t i, int thread) {
      float* g = gradients + i * depth_;
      if (side.factors == nullptr) return kernels_.combine(g, 0.0f, scale, depth_, g);
      float* scratch = spaces_[thread].rows;
      const float inverse = std::isnan(side.factors[i])
                                ? extreme_inverse_norm(kernels_, *side.matrix, i, scratch)
                                : side.factors[i];
      const LossRow row = side.row(kernels_, i, scratch);
      const float keep = scale * inverse;
      const float along = dot(row.data, g) * row.factor;
      kernels_.combine(row.data, -along * row.factor * keep, keep, depth_, g);
    });
  }

  LossCoefficients* coefficients_;
  double *moments_, *bias_moments_;
  double* entry_gradients_;  // dL / dS of every positive, by the scale
  std::int64_t* entry_rows_;
  std::int64_t *document_offsets_, *document_entries_;
  std::atomic<std::int64_t>* progress_;
  float* beside_ = nullptr;
};

}  // namespace

std::size_t infonce_forward_workspace_bytes(const InfonceProblem& problem) {
  if (problem.execution.device.kind == DeviceKind::kCuda)
    return infonce_forward_cuda_workspace_bytes(problem);
  return Forward(problem, {}).bytes();
}
std::size_t infonce_backward_workspace_bytes(const InfonceProblem& problem) {
  if (problem.execution.device.kind == DeviceKind::kCuda)
    return infonce_backward_cuda_workspace_bytes(problem);
  return Backward(problem, {}).bytes();
}

void infonce_forward(const InfonceProblem& problem, const InfonceForward& out) {
  if (problem.execution.device.kind == DeviceKind::kCuda) return infonce_forward_cuda(problem, out);
  Forward(problem, Workspace(problem.execution)).run(out);
}
void infonce_backward(const InfonceProblem& problem, const InfonceBackward& out) {
  if (problem.execution.device.kind == DeviceKind::kCuda)
    return infonce_backward_cuda(problem, out);
  Backward(problem, Workspace(problem.execution)).run(out);
}

}  // namespace stope
