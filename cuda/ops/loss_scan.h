// The loops under infonce, forward and backward: parts of a pass, packed and scored into the
// workspace, for a consumer. Plain form: one kernel after the other on the caller's stream.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>

#include "faults.h"
#include "loss_plan.h"
#include "loss_prepare.cuh"
#include "measure.h"
#include "stope/error.h"
#include "take_in.h"

namespace stope::cuda {

class LossScan {
 protected:
  LossScan(const InfonceProblem& given, bool backward)
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
    clear_faults(memory_.faults, kLossMatrices + 1, stream_);
    const InfonceProblem& p = problem_;
    const Matrix* matrices[] = {&p.queries,       &p.documents,       &p.queue,
                                &p.guide_queries, &p.guide_documents, &p.guide_queue};
    for (int m = 0; m < (p.has_guide ? kLossMatrices : 3); ++m)
      measure(*matrices[m], m < 3 ? p.metric : Metric::kCosine, memory_.factors[m],
              memory_.faults + m, stream_);
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
  void scan(const LossPass& pass, Body body) {
    for (std::int64_t r = 0; r < pass.rows.count; r += kLossRows) {
      LossPart part = {r, std::min(kLossRows, pass.rows.count - r), 0, 0};
      pack(pass.rows, r, part.rows, memory_.left);
      if (pass.guided) pack(pass.guide_rows, r, part.rows, memory_.guide_left);
      for (std::int64_t c = 0; c < pass.columns.count; c += kLossColumns) {
        part.first_column = c;
        part.columns = std::min(kLossColumns, pass.columns.count - c);
        pack(pass.columns, c, part.columns, memory_.right);
        score(part, memory_.left, memory_.right, depth_, memory_.scores);
        if (pass.guided) {
          pack(pass.guide_columns, c, part.columns, memory_.guide_right);
          score(part, memory_.guide_left, memory_.guide_right, problem_.guide_queries.columns,
                memory_.guide_scores);
        }
        body(LossRowsView{problem_, pass, part, memory_.scores, memory_.guide_scores,
                          memory_.limits, memory_.row_groups, positive_scores_});
      }
      report(part.rows);
    }
  }

  template <typename Arguments>
  void by_thread(const char* name, void (*kernel)(Arguments), std::int64_t count,
                 const Arguments& arguments) {
    launch(name, kernel, {.blocks_x = divide_up(count, kLossThreads), .threads = kLossThreads},
           stream_, arguments);
  }
  template <typename Arguments>
  void by_warp(const char* name, void (*kernel)(Arguments), std::int64_t count,
               const Arguments& arguments) {
    launch(name, kernel, {.blocks_x = divide_up(count, kLossWarps), .threads = kLossThreads},
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
  void raise_row_faults() const {
    if (is_recording(stream_)) return;
    static constexpr const char* kNames[kLossMatrices] = {
        "queries", "documents", "queue", "guide_queries", "guide_documents", "guide_queue"};
    RowFaults found[kLossMatrices + 1];
    copy_to_host(found, memory_.faults, sizeof(found), stream_);
    for (int m = 0; m < kLossMatrices; ++m) refuse(found[m], kNames[m]);
    const std::int64_t gradient = found[kLossMatrices].not_finite;
    if (gradient != kNoRow)
      throw std::invalid_argument("row_gradients[" + std::to_string(gradient) +
                                  "] is NaN or an infinity; give finite numbers");
  }

  bool narrow() const { return problem_.precision == LossArithmetic::kBfloat16; }

  const InfonceProblem& given_;  // lists and vectors in host memory
  InfonceProblem problem_;       // and on the device
  void* stream_;
  Workspace workspace_;
  const LossMemory memory_;
  const std::int64_t rows_, depth_, entries_;
  LossSide queries_, documents_;
  LossPass passes_[kMostLossPasses];
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

  LossSide side(const Matrix& matrix, Metric metric, int number) const {
    return {matrix, metric, nullptr, matrix.rows, memory_.factors[number]};
  }
  // One positive per query, checked by the caller: the list of ids is an index.
  LossSide answers(LossSide documents) const {
    documents.index = problem_.positives.ids;
    documents.count = rows_;
    return documents;
  }

  void make_passes() {
    using Kind = LossPassKind;
    const InfonceProblem& p = problem_;
    queries_ = side(p.queries, p.metric, 0);
    documents_ = side(p.documents, p.metric, 1);
    const LossSide queue = side(p.queue, p.metric, 2);
    const LossSide guide_queries = side(p.guide_queries, Metric::kCosine, 3);
    const LossSide guide_documents = side(p.guide_documents, Metric::kCosine, 4);
    const LossSide guide_queue = side(p.guide_queue, Metric::kCosine, 5);
    const auto add = [&](Kind kind, const LossSide& rows, const LossSide& columns,
                         const LossSide& guide_rows, const LossSide& guide_columns) -> LossPass& {
      LossPass& pass = passes_[pass_count_++];
      pass = {kind, rows, columns, guide_rows, guide_columns};
      pass.limited = pass.guided = p.has_guide;
      return pass;
    };
    LossPass& first =
        add(Kind::kQueryToDocument, queries_, documents_, guide_queries, guide_documents);
    first.groups = p.document_groups;
    first.log_weights = p.log_weights;
    first.hidden = p.foreign_hard_negatives ? nullptr : memory_.hidden;
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
      pass.groups = memory_.query_groups;
      pass.limited = true;
    }
    if (p.directions.document_to_query)
      add(Kind::kDocumentToQuery, answers(documents_), queries_, answers(guide_documents),
          guide_queries)
          .groups = memory_.query_groups;
    if (p.directions.document_to_document) {
      LossPass& pass = add(Kind::kDocumentToDocument, answers(documents_), documents_,
                           answers(guide_documents), guide_documents);
      pass.groups = p.document_groups;
      pass.log_weights = p.log_weights;
      pass.hidden = memory_.hidden;
    }
  }

  void score_positives(const LossSide& queries, const LossSide& documents, float* scores) {
    const PositiveArguments arguments = {
        queries, documents, memory_.entry_rows, problem_.positives.ids, entries_, scores};
    if (narrow())
      by_warp("score_positives_bfloat16", score_positives_bfloat16, divide_up(entries_, 8),
              arguments);
    else
      by_thread("score_positives_float32", score_positives_float32, entries_, arguments);
  }

  void pack(const LossSide& side, std::int64_t first, std::int64_t rows, void* out) {
    if (narrow())
      by_warp("pack_side", pack_side<Bfloat16>, rows,
              PackSideArguments<Bfloat16>{side, first, rows, static_cast<Bfloat16*>(out)});
    else
      by_warp("pack_side", pack_side<float>, rows,
              PackSideArguments<float>{side, first, rows, static_cast<float*>(out)});
  }

  void score(const LossPart& part, const void* left, const void* right, std::int64_t depth,
             float* scores) {
    if (narrow())
      score_as<Bfloat16>(part, left, right, depth, scores);
    else
      score_as<float>(part, left, right, depth, scores);
  }
  template <typename T>
  void score_as(const LossPart& part, const void* left, const void* right, std::int64_t depth,
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
