// What infonce takes from the workspace: plain C++, so that tests reach it without a GPU.
#pragma once

#include "infonce_types.h"
#include "stope/workspace.h"

namespace stope::cuda {

struct InfonceMemory {
  // What the call has in host memory:
  std::int64_t *positive_offsets, *positive_ids;
  std::int64_t *exclude_offsets, *exclude_ids;
  std::int64_t *hard_offsets, *hard_ids;
  float* positive_weights;
  float* log_weights;
  std::int32_t *document_groups, *queue_groups;
  float *ceilings, *floors;
  // What is found of rows, entries and columns:
  RowFaults* faults;                      // [kInfonceFaults]
  RowFactors* factors[kInfonceMatrices];  // of every row of a matrix
  std::int64_t* entry_rows;               // [entries]
  std::int32_t* row_groups;               // [entries]
  std::int32_t* query_groups;             // [queries]
  std::int32_t* hidden;                   // [documents]
  RowLimits* limits;                      // [queries]
  float* guide_scores_of_positives;       // [entries]
  // One part of a pass; operands are float or bfloat16:
  void *left, *right, *guide_left, *guide_right;
  float *scores, *guide_scores;
  // The backward pass:
  float* positive_scores;                             // [entries]
  NegativeWeights* coefficients;                      // [queries]
  double *moments, *bias_moments;                     // [queries]
  double* entry_gradients;                            // [entries]
  std::int64_t *document_offsets, *document_entries;  // [documents + 1], [entries]
  float* beside;                                      // [queries][dim]

  InfonceMemory(const InfonceProblem& p, bool backward, Workspace* w) {
    const std::int64_t rows = p.queries.rows, documents = p.documents.rows;
    const std::int64_t entries = p.positives.offsets[rows];
    const auto lists = [&](const IdLists& given, std::int64_t** offsets, std::int64_t** ids) {
      *offsets = take_if<std::int64_t>(given.offsets != nullptr, rows + 1, w);
      *ids = take_if<std::int64_t>(given.offsets != nullptr,
                                   given.offsets == nullptr ? 0 : given.offsets[rows], w);
    };
    lists(p.positives, &positive_offsets, &positive_ids);
    lists(p.exclude, &exclude_offsets, &exclude_ids);
    lists(p.hard_negatives, &hard_offsets, &hard_ids);
    positive_weights = take_if<float>(p.positive_weights != nullptr, entries, w);
    log_weights = take_if<float>(p.log_weights != nullptr, documents, w);
    document_groups = take_if<std::int32_t>(p.document_groups != nullptr, documents, w);
    queue_groups = take_if<std::int32_t>(p.queue_groups != nullptr, p.queue.rows, w);
    ceilings = take_if<float>(p.ceilings != nullptr, rows, w);
    floors = take_if<float>(p.floors != nullptr, rows, w);

    faults = w->take<RowFaults>(kInfonceFaults);
    for (int m = 0; m < kInfonceMatrices; ++m)
      factors[m] = take_if<RowFactors>(m < kGuide || p.has_guide, matrix_of(p, m % kGuide).rows, w);
    entry_rows = w->take<std::int64_t>(entries);
    row_groups = take_if<std::int32_t>(p.document_groups != nullptr, entries, w);
    query_groups = take_if<std::int32_t>(p.document_groups != nullptr, rows, w);
    hidden = take_if<std::int32_t>(hides_columns(p), documents, w);
    limits = w->take<RowLimits>(rows);
    guide_scores_of_positives = take_if<float>(p.has_guide, entries, w);

    const std::int64_t part_rows = least(rows, kInfonceRows);
    const std::int64_t part_columns =
        least(most(rows, most(documents, p.queue.rows)), kInfonceColumns);
    const auto operand = [&](bool wanted, std::int64_t count, std::int64_t depth) {
      const std::int64_t bytes = p.precision == Precision::kFloat32 ? 4 : 2;
      return take_if<std::byte>(wanted, count * depth * bytes, w);
    };
    left = operand(true, part_rows, p.queries.columns);
    right = operand(true, part_columns, p.queries.columns);
    guide_left = operand(p.has_guide, part_rows, p.guide_queries.columns);
    guide_right = operand(p.has_guide, part_columns, p.guide_queries.columns);
    scores = w->take<float>(part_rows * part_columns);
    guide_scores = take_if<float>(p.has_guide, part_rows * part_columns, w);

    positive_scores = take_if<float>(backward, entries, w);
    coefficients = take_if<NegativeWeights>(backward, rows, w);
    moments = take_if<double>(backward, rows, w);
    bias_moments = take_if<double>(backward, rows, w);
    entry_gradients = take_if<double>(backward, entries, w);
    document_offsets = take_if<std::int64_t>(backward, documents + 1, w);
    document_entries = take_if<std::int64_t>(backward, entries, w);
    beside = take_if<float>(backward && has_other_directions(p), rows * p.queries.columns, w);
  }

 private:
  template <typename T>
  static T* take_if(bool wanted, std::int64_t count, Workspace* workspace) {
    return wanted ? workspace->take<T>(count) : nullptr;
  }
  static std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
  static std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }
};

}  // namespace stope::cuda
