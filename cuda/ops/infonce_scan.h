// The loops under infonce, forward and backward: parts of a pass, packed and scored into the
// workspace, for a consumer. Plain form: one kernel after the other on the caller's stream.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "faults.h"
#include "infonce_plan.h"
#include "infonce_prepare.cuh"
#include "measure.h"
#include "stope/error.h"
#include "take_in.h"

namespace stope::cuda {

class InfonceScan {
 protected:
  InfonceScan(const InfonceProblem& given, bool backward)
      : given_(given),
        problem_(given),
        stream_(given.execution.stream),
        workspace_(given.execution),
        memory_(given, backward, &workspace_),
        rows_(given.queries.rows),
        depth_(given.queries.columns),
        entries_(given.positives.offsets[rows_]) {}

  // Measures the rows, and finds what the passes need; positives' scores go to `positive_scores`.
  void prepare(float* positive_scores) {
    bring_vectors();
    clear_faults(memory_.faults, kInfonceFaults, stream_);
    const InfonceProblem& p = problem_;
    for (int m = 0; m < (p.has_guide ? kInfonceMatrices : kGuide); ++m)
      measure(matrix_of(p, m), metric_of(m), memory_.factors[m], memory_.faults + m, stream_);
    by_thread("note_entries", note_entries, rows_,
              EntryArguments{p, memory_.entry_rows, memory_.row_groups, memory_.query_groups});
    if (memory_.hidden != nullptr) {
      fill_bytes(memory_.hidden, 0,
                 static_cast<std::size_t>(p.documents.rows) * sizeof(std::int32_t), stream_);
      const std::int64_t hard = given_.hard_negatives.offsets[rows_];
      by_thread("mark_columns", mark_columns, hard,
                MarkArguments{p.hard_negatives.ids, hard, memory_.hidden, 1});
      by_thread("mark_columns", mark_columns, entries_,
                MarkArguments{p.positives.ids, entries_, memory_.hidden, 0});
    }
    make_passes();
    positive_scores_ = positive_scores;
    score_positives(queries_, documents_, positive_scores);
    if (p.has_guide)
      score_positives(passes_[0].guide_rows, passes_[0].guide_columns,
                      memory_.guide_scores_of_positives);
    by_thread(
        "find_limits", find_limits, rows_,
        LimitArguments{p, positive_scores, memory_.guide_scores_of_positives, memory_.limits});
  }

  // body(view) for every part of a pass, whose scores are then in the workspace and whose packed
  // rows and columns in memory_.left and memory_.right.
  template <typename Body>
  void scan(const InfoncePass& pass, Body body) {
    for (std::int64_t r = 0; r < pass.rows.count; r += kInfonceRows) {
      InfoncePart part = {r, std::min(kInfonceRows, pass.rows.count - r), 0, 0};
      pack(pass.rows, r, part.rows, memory_.left);
      if (pass.guided) pack(pass.guide_rows, r, part.rows, memory_.guide_left);
      for (std::int64_t c = 0; c < pass.columns.count; c += kInfonceColumns) {
        part.first_column = c;
        part.columns = std::min(kInfonceColumns, pass.columns.count - c);
        pack(pass.columns, c, part.columns, memory_.right);
        score(part, memory_.left, memory_.right, depth_, memory_.scores);
        if (pass.guided) {
          pack(pass.guide_columns, c, part.columns, memory_.guide_right);
          score(part, memory_.guide_left, memory_.guide_right, problem_.guide_queries.columns,
                memory_.guide_scores);
        }
        body(InfonceRowsView{problem_, pass, part, memory_.scores, memory_.guide_scores,
                             memory_.limits, memory_.row_groups, positive_scores_});
      }
      report(part.rows);
    }
  }

  template <typename Arguments>
  void by_thread(const char* name, void (*kernel)(Arguments), std::int64_t count,
                 const Arguments& arguments) {
    launch(name, kernel,
           {.blocks_x = divide_up(count, kInfonceThreads), .threads = kInfonceThreads}, stream_,
           arguments);
  }
  template <typename Arguments>
  void by_warp(const char* name, void (*kernel)(Arguments), std::int64_t count,
               const Arguments& arguments) {
    launch(name, kernel, {.blocks_x = divide_up(count, kInfonceWarps), .threads = kInfonceThreads},
           stream_, arguments);
  }
  template <typename T>
  void tiles(const char* name, void (*kernel)(T), std::int64_t rows, std::int64_t columns,
             std::size_t shared_bytes, const T& arguments) {
    launch(name, kernel,
           {.blocks_x = divide_up(columns, kProductSide),
            .blocks_y = divide_up(rows, kProductSide),
            .threads = kProductThreads,
            .shared_bytes = shared_bytes},
           stream_, arguments);
  }

  // What is told at the end, where the operation waits for its stream: whoever reads the results
  // would wait for as much, and rows that may not be scored are then refused by the call that was
  // given them. A stream that records a graph must not be waited for; a replay cannot throw either,
  // so the last kernels make every loss and gradient a NaN where there are such rows (`any_fault`).
  void raise_faults(const char* result) const {
    if (is_recording(stream_)) return;
    RowFaults faults[kInfonceFaults];
    copy_to_host(faults, memory_.faults, sizeof(faults), stream_);
    for (int m = 0; m < kInfonceMatrices; ++m) refuse(faults[m], kInfonceNames[m]);
    const std::int64_t gradient = faults[kGradientFaults].not_finite;
    if (gradient != kNoRow)
      throw std::invalid_argument("row_gradients[" + std::to_string(gradient) +
                                  "] is NaN or an infinity; give finite numbers");
    const RowFaults& beyond = faults[kResultFaults];
    if (beyond.not_finite != kNoRow) refuse_beyond(result, beyond.not_finite);
    if (beyond.too_long != kNoRow) refuse_beyond("the gradient of documents", beyond.too_long);
  }

  bool narrow() const { return problem_.precision == Precision::kBFloat16; }

  const InfonceProblem& given_;  // lists and vectors in host memory
  InfonceProblem problem_;       // and on the device
  void* stream_;
  Workspace workspace_;
  const InfonceMemory memory_;
  const std::int64_t rows_, depth_, entries_;
  InfonceSide queries_, documents_;
  InfoncePass passes_[kMostInfoncePasses];
  int pass_count_ = 0;

 private:
  template <typename T>
  void bring(const T** vector, std::int64_t count, T* to) {
    if (*vector == nullptr) return;
    take_in(*vector, count, to, stream_);
    *vector = to;
  }
  void bring(IdLists* lists, std::int64_t* offsets, std::int64_t* ids) {
    if (lists->offsets == nullptr) return;
    const std::int64_t count = lists->offsets[rows_];
    bring(&lists->offsets, rows_ + 1, offsets);
    bring(&lists->ids, count, ids);
  }
  // The problem's lists and vectors, from host memory.
  void bring_vectors() {
    InfonceProblem& p = problem_;
    bring(&p.positives, memory_.positive_offsets, memory_.positive_ids);
    bring(&p.exclude, memory_.exclude_offsets, memory_.exclude_ids);
    bring(&p.hard_negatives, memory_.hard_offsets, memory_.hard_ids);
    bring(&p.positive_weights, entries_, memory_.positive_weights);
    bring(&p.log_weights, p.documents.rows, memory_.log_weights);
    bring(&p.document_groups, p.documents.rows, memory_.document_groups);
    bring(&p.queue_groups, p.queue.rows, memory_.queue_groups);
    bring(&p.ceilings, rows_, memory_.ceilings);
    bring(&p.floors, rows_, memory_.floors);
  }

  Metric metric_of(int matrix) const { return matrix < kGuide ? problem_.metric : Metric::kCosine; }
  InfonceSide side(int number) const {
    const Matrix& matrix = matrix_of(problem_, number);
    return {matrix, metric_of(number), nullptr, matrix.rows, memory_.factors[number]};
  }
  InfonceSide rows_of(InfoncePassKind kind, int guide) const {
    if (from_queries(kind)) return side(guide + kQueries);
    // One positive per query, checked by the caller: the list of ids is an index.
    InfonceSide answers = side(guide + kDocuments);
    answers.index = problem_.positives.ids;
    answers.count = rows_;
    return answers;
  }

  void make_passes() {
    queries_ = side(kQueries);
    documents_ = side(kDocuments);
    each_pass(problem_, memory_.query_groups, memory_.hidden, [&](const InfoncePassRules& rules) {
      const int columns = columns_of(rules.kind);
      passes_[pass_count_++] = {rules, rows_of(rules.kind, 0), side(columns),
                                rows_of(rules.kind, kGuide), side(kGuide + columns)};
    });
  }

  void score_positives(const InfonceSide& queries, const InfonceSide& documents, float* scores) {
    const PositiveArguments arguments = {
        queries, documents, memory_.entry_rows, problem_.positives.ids, entries_, scores};
    if (narrow())
      by_warp("score_positives_bfloat16", score_positives_bfloat16, divide_up(entries_, 8),
              arguments);
    else
      by_thread("score_positives_float32", score_positives_float32, entries_, arguments);
  }

  void pack(const InfonceSide& side, std::int64_t first, std::int64_t rows, void* out) {
    if (narrow())
      by_warp("pack_side", pack_side<Bfloat16>, rows,
              PackSideArguments<Bfloat16>{side, first, rows, static_cast<Bfloat16*>(out)});
    else
      by_warp("pack_side", pack_side<float>, rows,
              PackSideArguments<float>{side, first, rows, static_cast<float*>(out)});
  }

  void score(const InfoncePart& part, const void* left, const void* right, std::int64_t depth,
             float* scores) {
    if (narrow())
      score_as<Bfloat16>(part, left, right, depth, scores);
    else
      score_as<float>(part, left, right, depth, scores);
  }
  template <typename T>
  void score_as(const InfoncePart& part, const void* left, const void* right, std::int64_t depth,
                float* scores) {
    tiles("score_part", score_part<T>, part.rows, part.columns, kProductBytes<T>,
          ScoreArguments<T>{static_cast<const T*>(left), static_cast<const T*>(right), part.rows,
                            part.columns, depth, scores});
  }

  void report(std::int64_t rows) {
    std::int64_t total = 0;
    for (int p = 0; p < pass_count_; ++p) total += passes_[p].rows.count;
    done_ += rows;
    const Progress& progress = given_.execution.progress;
    if (progress.step != nullptr && !progress.step(progress.context, done_, total))
      throw Interrupted();
  }

  const float* positive_scores_ = nullptr;
  std::int64_t done_ = 0;
};

}  // namespace stope::cuda
