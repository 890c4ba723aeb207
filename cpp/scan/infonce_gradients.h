// The loss's gradients, wherever the weights of negatives come from: sums that passes add to, what
// the positives give, and the way back through the normalisation.
//
// Gradients of rows belong to the slab that owns them; those of columns are added slab by slab, in
// the order of the slabs, each waiting for the one before: no partial copies and no dependence on
// the threads. Directions other than query-to-document take one float row per query beside.
#pragma once

#include <cmath>
#include <new>
#include <thread>

#include "infonce_scan.h"

namespace stope {

// 1 / norm where the norm or its square leaves float32; gradients through shorter rows than
// kShortestRow are cut off.
inline float extreme_inverse_norm(const KernelTable& kernels, const Matrix& matrix, std::int64_t i,
                                  float* scratch) {
  constexpr double kShortestRow = 1e-30;
  const float* row = float_row(kernels, matrix, Metric::kDot, i, scratch);
  double sum = 0;
  for (std::int64_t d = 0; d < matrix.columns; ++d)
    sum += static_cast<double>(row[d]) * static_cast<double>(row[d]);
  return static_cast<float>(1 / std::max(std::sqrt(sum), kShortestRow));
}

// A matrix of gradients in the making.
struct GradientSums {
  float* data = nullptr;
  std::int64_t rows = 0;
  bool begun = false;      // else the first products are stored, not added
  bool in_blocks = false;  // in the order in which kernels accumulate
};

// Scan is an InfonceScan; kInBlocks: its products are the kernels', which accumulate in blocks.
template <typename Scan, bool kInBlocks>
class InfonceGradients : public Scan {
 protected:
  using Sums = GradientSums;
  using Scan::depth_, Scan::documents_, Scan::done_, Scan::kernels_;
  using Scan::parallel, Scan::pass_count_, Scan::passes_, Scan::positive_count, Scan::positives;
  using Scan::precision_, Scan::problem_, Scan::queries_, Scan::report, Scan::rows_;
  using Scan::slab_begin, Scan::slab_end, Scan::slabs_, Scan::spaces_, Scan::total_, Scan::wide_;
  using Scan::workspace_;

  template <typename... Arguments>
  explicit InfonceGradients(const InfonceProblem& problem, Arguments... arguments)
      : Scan(problem, arguments...) {
    coefficients_ = workspace_.template take<InfonceCoefficients>(rows_);
    references_ = workspace_.template take<double>(rows_);
    moments_ = workspace_.template take<double>(rows_);
    bias_moments_ = workspace_.template take<double>(rows_);
    entry_gradients_ = workspace_.template take<double>(positive_count());
    entry_rows_ = workspace_.template take<std::int64_t>(positive_count());
    document_offsets_ = workspace_.template take<std::int64_t>(problem.documents.rows + 1);
    document_entries_ = workspace_.template take<std::int64_t>(positive_count());
    progress_ = workspace_.template take<std::atomic<std::int64_t>>(slabs_);
    if (has_other_directions(problem))
      beside_out_ = {workspace_.template take<float>(rows_ * depth_), rows_};
  }
  // find_limits(begin, end, thread) for every slab, then run_slab(number, slab, thread, rows_out,
  // columns_out) for every pass and slab.
  template <typename FindLimits, typename RunSlab>
  void run_passes(const InfonceBackward& out, FindLimits find_limits, RunSlab run_slab) {
    this->prepare();
    total_ = slabs_ * pass_count_;
    parallel(slabs_, [&](std::int64_t slab, int thread) {
      find_limits(slab_begin(slab), slab_end(slab), thread);
      for (std::int64_t i = slab_begin(slab); i < slab_end(slab); ++i) weigh_row(i, out);
    });
    queries_out_ = {out.queries, rows_};
    documents_out_ = {out.documents, problem_.documents.rows};
    if constexpr (kInBlocks) {
      touch(queries_out_);
      touch(documents_out_);
    }
    for (int p = 0; p < pass_count_; ++p) run_pass(p, run_slab);
    finish();
    *out.scale = *out.bias = 0;
    for (std::int64_t i = 0; i < rows_; ++i) {
      *out.scale += moments_[i];
      if (problem_.objective == Objective::kSigmoid) *out.bias += bias_moments_[i];
    }
    report();
  }

  // The slab before is at work on another thread, a few blocks ahead or behind.
  void wait_for(std::int64_t slab, std::int64_t block) const {
    if (slab == 0) return;
    for (int spins = 0; progress_[slab - 1].load(std::memory_order_acquire) <= block; ++spins)
      if (spins > 64) std::this_thread::yield();
  }
  void is_done(std::int64_t slab, std::int64_t block) const {
    progress_[slab].store(block + 1, std::memory_order_release);
  }

  InfonceCoefficients* coefficients_;
  double* references_;  // of wide rows
  double *moments_, *bias_moments_;

 private:
  // The weights of a row's negatives, and the gradients of its positives' scores, by the scale.
  void weigh_row(std::int64_t i, const InfonceBackward& out) {
    const RowPositives row_positives = positives(i);
    const RowObjective row(problem_, row_positives, out.state[i]);
    const double gradient = static_cast<double>(out.row_gradients[i]);
    const NegativeWeights negatives = row.negatives(gradient);
    coefficients_[i] = {static_cast<float>(negatives.reference), negatives.first, negatives.second};
    if (wide_) references_[i] = negatives.reference;
    moments_[i] = bias_moments_[i] = 0;
    for (std::int64_t p = 0; p < row_positives.count; ++p) {
      const std::int64_t e = problem_.positives.offsets[i] + p;
      const double score = static_cast<double>(row_positives.scores[p]);
      const double weight = gradient == 0 ? 0 : row.positive(p, gradient);
      moments_[i] += weight * score * (problem_.focal ? score : 1);
      bias_moments_[i] += weight;
      entry_gradients_[e] = weight * (problem_.focal ? 2 * score : 1);
      entry_rows_[e] = i;
    }
  }

  // Writes to every page: the system makes new ones for all the threads at once, not for the one
  // that adds the first gradients while others wait for it.
  void touch(const Sums& sums) {
    if (sums.data == nullptr) return;
    constexpr std::int64_t kPage = 4096 / sizeof(float), kTask = 512 * kPage;
    const std::int64_t count = sums.rows * depth_;
    parallel(divide_up(count, kTask), [&](std::int64_t task, int) {
      const std::int64_t end = std::min((task + 1) * kTask, count);
      for (std::int64_t i = task * kTask; i < end; i += kPage) sums.data[i] = 0.0f;
    });
  }

  void order(const Sums& sums, std::int64_t strip, int thread, bool back) const {
    const std::int64_t first = strip * kInfonceStrip;
    const auto rows = static_cast<int>(std::min<std::int64_t>(kInfonceStrip, sums.rows - first));
    kernels_.infonce.order_sums(precision_, rows, depth_, back, sums.data + first * depth_,
                                spaces_[thread].rows);
  }
  // In the order in which a pass adds; where nothing is stored first, of zeros.
  void begin(Sums* sums) {
    if (sums->data == nullptr) return;
    if constexpr (!kInBlocks) {
      if (!sums->begun)
        parallel(divide_up(sums->rows, kInfonceStrip), [&](std::int64_t strip, int) {
          const std::int64_t first = strip * kInfonceStrip;
          const std::int64_t rows = std::min<std::int64_t>(kInfonceStrip, sums->rows - first);
          std::fill_n(sums->data + first * depth_, rows * depth_, 0.0f);
        });
      return;
    }
    if (sums->begun && !sums->in_blocks)
      parallel(divide_up(sums->rows, kInfonceStrip),
               [&](std::int64_t strip, int thread) { order(*sums, strip, thread, false); });
    sums->in_blocks = true;
  }
  // body(i, row i, thread) for all rows, which are no longer in blocks.
  template <typename Body>
  void each_row(Sums* sums, Body body) {
    parallel(divide_up(sums->rows, kInfonceStrip), [&](std::int64_t strip, int thread) {
      if (sums->in_blocks) order(*sums, strip, thread, true);
      const std::int64_t end = std::min((strip + 1) * kInfonceStrip, sums->rows);
      for (std::int64_t i = strip * kInfonceStrip; i < end; ++i)
        body(i, sums->data + i * depth_, thread);
    });
    sums->in_blocks = false;
  }
  void to_rows(Sums* sums) {
    if (sums->in_blocks) each_row(sums, [](auto...) {});
  }

  template <typename RunSlab>
  void run_pass(int number, RunSlab& run_slab) {
    using Kind = InfoncePassKind;
    const InfoncePass& pass = passes_[number];
    const bool queries = from_queries(pass.kind);
    // Columns that are queries get their gradients where rows that are queries would.
    const bool beside = !queries || pass.kind == Kind::kQueryToQuery;
    Sums none;
    Sums* rows_out = beside ? &beside_out_ : &queries_out_;
    const int columns = columns_of(pass.kind);
    Sums* columns_out = columns == kQueries     ? &queries_out_
                        : columns == kDocuments ? &documents_out_
                                                : &none;
    if (beside) beside_out_.begun = false;
    begin(rows_out);
    begin(columns_out);
    for (std::int64_t s = 0; s < slabs_; ++s) new (progress_ + s) std::atomic<std::int64_t>(0);
    parallel(slabs_, [&](std::int64_t slab, int thread) {
      run_slab(number, slab, thread, *rows_out, *columns_out);
      ++done_;
    });
    rows_out->begun = columns_out->begun = true;
    const bool queue_follows =
        number + 1 < pass_count_ && passes_[number + 1].kind == Kind::kQueryToQueue;
    if (!queue_follows && !problem_.focal) add_moments(pass, rows_out);
    if (!beside) return;
    if (queries) {
      to_rows(&queries_out_);
      each_row(&beside_out_, [&](std::int64_t i, const float* row, int) {
        kernels_.combine(row, 1.0f, 1.0f, depth_, queries_out_.data + i * depth_);
      });
    } else if (documents_out_.data != nullptr) {
      to_rows(&documents_out_);
      to_rows(&beside_out_);
      // One after the other: queries may share a document.
      for (std::int64_t i = 0; i < rows_; ++i)
        kernels_.combine(beside_out_.data + i * depth_, 1.0f, 1.0f, depth_,
                         documents_out_.data + pass.rows.index[i] * depth_);
    }
  }

  // What the negatives add to dL/dscale: sum_j G_ij S_ij is the gradient of row i along row i.
  void add_moments(const InfoncePass& pass, Sums* gradients) {
    each_row(gradients, [&](std::int64_t i, const float* gradient, int thread) {
      const InfonceRow row = pass.rows.row(kernels_, i, spaces_[thread].rows);
      moments_[i] += static_cast<double>(dot(row.data, gradient) * row.factor);
    });
  }
  float dot(const float* a, const float* b) const {
    float out;
    kernels_.exact_dot(&a, 1, &b, 1, depth_, &out, 1);
    return out;
  }

  // Adds what the positives give, and goes from normalised rows to the given ones.
  void finish() {
    const IdLists& lists = problem_.positives;
    FirstRow queries_beyond, documents_beyond;
    const auto add = [&](const InfonceSide& side, std::int64_t row, std::int64_t entry, int thread,
                         float* gradient) {
      const InfonceRow from = side.row(kernels_, row, spaces_[thread].rows);
      const auto weight = static_cast<float>(entry_gradients_[entry]);
      kernels_.combine(from.data, weight * from.factor, 1.0f, depth_, gradient);
    };
    each_row(&queries_out_, [&](std::int64_t i, float* gradient, int thread) {
      for (std::int64_t e = lists.offsets[i]; e < lists.offsets[i + 1]; ++e)
        add(documents_, lists.ids[e], e, thread, gradient);
      to_given_row(queries_, i, thread, gradient);
      if (!is_finite(gradient)) queries_beyond.note(i);
    });
    if (queries_beyond.noted()) refuse_beyond("the gradient of queries", queries_beyond.row());
    if (documents_out_.data == nullptr) return;
    order_by_document(problem_.positives, positive_count(), documents_.count, document_offsets_,
                      document_entries_);
    each_row(&documents_out_, [&](std::int64_t j, float* gradient, int thread) {
      for (std::int64_t n = document_offsets_[j]; n < document_offsets_[j + 1]; ++n)
        add(queries_, entry_rows_[document_entries_[n]], document_entries_[n], thread, gradient);
      to_given_row(documents_, j, thread, gradient);
      if (!is_finite(gradient)) documents_beyond.note(j);
    });
    if (documents_beyond.noted())
      refuse_beyond("the gradient of documents", documents_beyond.row());
  }

  bool is_finite(const float* gradient) const {
    RowMeasure measure;
    kernels_.measure(gradient, depth_, &measure);
    return measure.finite;
  }

  // g -> scale * g, and through the normalisation: (g - x <x, g>) / |row| with x = row / |row|.
  void to_given_row(const InfonceSide& side, std::int64_t i, int thread, float* g) const {
    const auto scale = static_cast<float>(problem_.scale);
    if (side.factors == nullptr) return kernels_.combine(g, 0.0f, scale, depth_, g);
    float* scratch = spaces_[thread].rows;
    const float inverse = std::isnan(side.factors[i])
                              ? extreme_inverse_norm(kernels_, *side.matrix, i, scratch)
                              : side.factors[i];
    const InfonceRow row = side.row(kernels_, i, scratch);
    const float keep = scale * inverse;
    const float along = dot(row.data, g) * row.factor;
    kernels_.combine(row.data, -along * row.factor * keep, keep, depth_, g);
  }

  double* entry_gradients_;  // dL / dS of every positive, by the scale
  std::int64_t* entry_rows_;
  std::int64_t *document_offsets_, *document_entries_;
  std::atomic<std::int64_t>* progress_;
  Sums queries_out_, documents_out_;
  Sums beside_out_;  // what rows that are no queries, or columns too, add to gradients afterwards
};

}  // namespace stope
