// infonce: the contrastive loss and its gradients, a part of the scores at a time.
//
//   forward:   pack -> score a part -> mask, survey and fold its rows
//   backward:  pack -> score a part -> mask and weigh its rows -> weights . columns, weights' .
//   rows
// A part is at most 2,048 x 4,096 scores, in the workspace. Positives are no part of the passes:
// their scores come from the same arithmetic, so that limits relative to a positive are exact, and
// their gradients are added through the lists. Every sum has one owner and a fixed order.
#include "stope/infonce.h"

#include <vector>

#include "infonce_gradients.cuh"
#include "infonce_scan.h"

namespace stope {
namespace cuda {
namespace {

class Forward : InfonceScan {
 public:
  explicit Forward(const InfonceProblem& problem) : InfonceScan(problem, false) {}

  void run(const InfonceForward& out) {
    prepare(out.positive_scores);
    by_thread("start_rows", start_rows, rows_, OutcomeArguments{problem_, out, memory_.faults});
    for (int p = 0; p < pass_count_; ++p)
      scan(passes_[p], [&](const InfonceRowsView& view) {
        by_warp("fold_rows", fold_rows, view.part.rows, FoldArguments{view, out});
      });
    by_thread("finish_rows", finish_rows, rows_, OutcomeArguments{problem_, out, memory_.faults});
    raise_faults("losses");
  }
};

class Backward : InfonceScan {
 public:
  explicit Backward(const InfonceProblem& problem) : InfonceScan(problem, true) {}

  void run(const InfonceBackward& out) {
    prepare(memory_.positive_scores);
    order_entries_by_document();
    by_thread("weigh_positives", weigh_positives, rows_,
              WeighPositivesArguments{problem_, out, memory_.positive_scores, memory_.coefficients,
                                      memory_.moments, memory_.bias_moments,
                                      memory_.entry_gradients, memory_.faults + kGradientFaults});
    clear(out.queries, rows_);
    if (out.documents != nullptr) clear(out.documents, problem_.documents.rows);
    for (int p = 0; p < pass_count_; ++p) run_pass(p, out);
    add_positives_of_rows(out);
    to_given("to_given_rows", queries_, out.queries, &beyond()->not_finite);
    if (out.documents != nullptr)
      to_given("to_given_rows", documents_, out.documents, &beyond()->too_long);
    const bool has_bias = problem_.objective == Objective::kSigmoid;
    launch("sum_moments", sum_moments,
           {.threads = kInfonceThreads, .shared_bytes = kInfonceThreads * sizeof(double)}, stream_,
           SumArguments{{memory_.moments, has_bias ? memory_.bias_moments : nullptr},
                        rows_,
                        {out.scale, out.bias},
                        memory_.faults});
    raise_faults("the gradient of queries");
  }

 private:
  void clear(float* out, std::int64_t rows) {
    fill_bytes(out, 0, static_cast<std::size_t>(rows * depth_) * sizeof(float), stream_);
  }

  void run_pass(int number, const InfonceBackward& out) {
    const InfoncePass& pass = passes_[number];
    const bool queries = from_queries(pass.kind);
    // Columns that are queries get their gradients where rows that are queries would.
    const bool beside = !queries || pass.kind == InfoncePassKind::kQueryToQuery;
    float* rows_out = beside ? memory_.beside : out.queries;
    const int columns = columns_of(pass.kind);
    float* columns_out = columns == kQueries ? out.queries
                         : columns == kQueue ? nullptr
                                             : out.documents;
    if (beside) clear(memory_.beside, rows_);
    scan(pass, [&](const InfonceRowsView& view) {
      by_warp("weigh_rows", weigh_rows, view.part.rows,
              WeighArguments{view, memory_.coefficients, memory_.moments, memory_.bias_moments});
      const InfoncePart& part = view.part;
      accumulate(part, false, memory_.right, rows_out + part.first_row * depth_);
      if (columns_out != nullptr)
        accumulate(part, true, memory_.left, columns_out + part.first_column * depth_);
    });
    const bool queue_follows =
        number + 1 < pass_count_ && passes_[number + 1].kind == InfoncePassKind::kQueryToQueue;
    if (!queue_follows && !problem_.focal)
      by_warp("add_moments", add_moments, rows_,
              MomentArguments{pass.rows, rows_out, memory_.moments});
    if (!beside) return;
    if (queries)
      by_warp("add_rows", add_rows, rows_,
              AddRowsArguments{memory_.beside, rows_, depth_, {}, nullptr, out.queries});
    else if (out.documents != nullptr)
      by_warp("add_rows", add_rows, problem_.documents.rows,
              AddRowsArguments{memory_.beside, problem_.documents.rows, depth_, by_document(),
                               memory_.entry_rows, out.documents});
  }

  void accumulate(const InfoncePart& part, bool of_columns, const void* others, float* gradients) {
    if (narrow())
      accumulate_as<Bfloat16>(part, of_columns, others, gradients);
    else
      accumulate_as<float>(part, of_columns, others, gradients);
  }
  template <typename T>
  void accumulate_as(const InfoncePart& part, bool of_columns, const void* others,
                     float* gradients) {
    tiles("add_gradients", add_gradients<T>, of_columns ? part.columns : part.rows, depth_,
          kProductBytes<T>,
          GradientArguments<T>{memory_.scores, part.rows, part.columns, of_columns,
                               static_cast<const T*>(others), depth_, gradients});
  }

  void add_positives_of_rows(const InfonceBackward& out) {
    by_warp("add_positives", add_positives, rows_,
            AddPositivesArguments{documents_, rows_, problem_.positives.offsets, nullptr,
                                  problem_.positives.ids, memory_.entry_gradients, out.queries});
    if (out.documents == nullptr) return;
    by_warp("add_positives", add_positives, problem_.documents.rows,
            AddPositivesArguments{queries_, problem_.documents.rows, memory_.document_offsets,
                                  memory_.document_entries, memory_.entry_rows,
                                  memory_.entry_gradients, out.documents});
  }

  RowFaults* beyond() const { return memory_.faults + kResultFaults; }

  void to_given(const char* name, const InfonceSide& side, float* gradients, std::int64_t* beyond) {
    by_warp(name, to_given_rows, side.count,
            GivenRowsArguments{side, problem_.scale, gradients, memory_.faults, beyond});
  }

  EntriesByDocument by_document() const {
    return {memory_.document_offsets, memory_.document_entries};
  }

  // The entries of the positives by document, in ascending order.
  void order_entries_by_document() {
    const auto documents = static_cast<std::size_t>(problem_.documents.rows);
    std::vector<std::int64_t> offsets(documents + 1), entries(static_cast<std::size_t>(entries_));
    order_by_document(given_.positives, entries_, problem_.documents.rows, offsets.data(),
                      entries.data());
    take_in(offsets.data(), problem_.documents.rows + 1, memory_.document_offsets, stream_);
    take_in(entries.data(), entries_, memory_.document_entries, stream_);
  }
};

}  // namespace
}  // namespace cuda

void infonce_forward_cuda(const InfonceProblem& problem, const InfonceForward& out) {
  const cuda::DeviceScope scope(problem.execution.device);
  cuda::Forward(problem).run(out);
}
void infonce_backward_cuda(const InfonceProblem& problem, const InfonceBackward& out) {
  const cuda::DeviceScope scope(problem.execution.device);
  cuda::Backward(problem).run(out);
}

}  // namespace stope
