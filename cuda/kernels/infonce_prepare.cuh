// Kernels that run once, over rows, entries of the positives or columns: what the passes need
// beforehand, and the results of the forward pass.
#pragma once

#include "infonce_rows.cuh"

namespace stope::cuda {

struct EntryArguments {
  InfonceProblem problem;
  std::int64_t* entry_rows;    // [entries]
  std::int32_t* row_groups;    // [entries], with document groups
  std::int32_t* query_groups;  // [queries], of the first positive, -1 without; likewise
};
// A thread to a query.
STOPE_KERNEL(kInfonceThreads) note_entries(EntryArguments a) {
  const std::int64_t i = thread_of_grid();
  if (i >= a.problem.queries.rows) return;
  const IdLists& lists = a.problem.positives;
  const std::int64_t begin = lists.offsets[i], end = lists.offsets[i + 1];
  for (std::int64_t e = begin; e < end; ++e) a.entry_rows[e] = i;
  if (a.problem.document_groups == nullptr) return;
  for (std::int64_t e = begin; e < end; ++e)
    a.row_groups[e] = a.problem.document_groups[lists.ids[e]];
  a.query_groups[i] = begin < end ? a.row_groups[begin] : -1;
}

struct MarkArguments {
  const std::int64_t* ids;
  std::int64_t count;
  std::int32_t* flags;
  std::int32_t value;
};
// A thread to an id; those that name the same column write the same.
STOPE_KERNEL(kInfonceThreads) mark_columns(MarkArguments a) {
  const std::int64_t e = thread_of_grid();
  if (e < a.count) a.flags[a.ids[e]] = a.value;
}

struct LimitArguments {
  InfonceProblem problem;
  const float* positive_scores;
  const float* guide_scores;  // of the positives, with a guide
  RowLimits* limits;          // [queries]
};

// A thread to a query.
STOPE_KERNEL(kInfonceThreads) find_limits(LimitArguments a) {
  const std::int64_t i = thread_of_grid();
  const InfonceProblem& p = a.problem;
  if (i >= p.queries.rows) return;
  const float* judged = p.has_guide ? a.guide_scores : a.positive_scores;
  float lowest = no_limit(), best = -no_limit();
  const std::int64_t begin = p.positives.offsets[i], end = p.positives.offsets[i + 1];
  for (std::int64_t e = begin; e < end; ++e) {
    lowest = judged[e] < lowest ? judged[e] : lowest;
    best = a.positive_scores[e] > best ? a.positive_scores[e] : best;
  }
  RowLimits limits = {no_limit(), -no_limit(), begin < end ? best : no_limit()};
  if (begin < end) limits.upper = upper_limit(p, double{lowest});
  if (p.ceilings != nullptr && p.ceilings[i] < limits.upper) limits.upper = p.ceilings[i];
  if (p.floors != nullptr) limits.lower = p.floors[i];
  a.limits[i] = limits;
}

struct OutcomeArguments {
  InfonceProblem problem;
  InfonceForward out;
  RowFaults* faults;
};
// A thread to a query: before the first pass.
STOPE_KERNEL(kInfonceThreads) start_rows(OutcomeArguments a) {
  const std::int64_t i = thread_of_grid();
  if (i >= a.problem.queries.rows) return;
  a.out.state[i] = {kMinusInfinity, 0, 0, 0, kMinusInfinity};
  a.out.best_negatives[i] = -1;
  a.out.best_negative_scores[i] = masked_score();
  a.out.negatives[i] = 0;
  a.out.ranks[i] = 1;
}
// A thread to a query: after the last pass.
STOPE_KERNEL(kInfonceThreads, 2) finish_rows(OutcomeArguments a) {
  const std::int64_t i = thread_of_grid();
  if (i >= a.problem.queries.rows) return;
  a.out.state[i].kept = static_cast<double>(a.out.negatives[i]);
  a.out.kept[i] = a.out.negatives[i];
  a.out.left_out[i] = 0.0f;
  const InfonceState sums = a.out.state[i];
  const RowPositives positives = positives_of(a.problem, a.out.positive_scores, i);
  const RowObjective row(a.problem, positives, sums);
  const bool faulty = any_fault(a.faults);
  a.out.losses[i] = faulty ? not_a_number() : to_float_rn(row.loss());
  if (!is_finite(a.out.losses[i])) atomic_min(&a.faults[kResultFaults].not_finite, i);
  a.out.log_sum_exp[i] = faulty ? not_a_number() : to_float_rn(row.log_sum_exp());
  if (positives.count == 0) a.out.ranks[i] = 0;
}

struct WeighPositivesArguments {
  InfonceProblem problem;
  InfonceBackward out;
  const float* positive_scores;
  NegativeWeights* coefficients;  // [queries]
  double* moments;                // [queries]
  double* bias_moments;           // [queries]
  double* entry_gradients;        // [entries], dL / dS by the scale
  RowFaults* faults;              // of the row gradients
};
// A thread to a query: the weights of its negatives, the gradients of its positives' scores.
STOPE_KERNEL(kInfonceThreads) weigh_positives(WeighPositivesArguments a) {
  const std::int64_t i = thread_of_grid();
  const InfonceProblem& p = a.problem;
  if (i >= p.queries.rows) return;
  const float upstream = a.out.row_gradients[i];
  if (!is_finite(upstream)) atomic_min(&a.faults->not_finite, i);
  const InfonceState state = a.out.state[i];
  const RowPositives positives = positives_of(p, a.positive_scores, i);
  const RowObjective row(p, positives, state);
  const double gradient = double{upstream};
  a.coefficients[i] = row.negatives(gradient);
  double moment = 0, bias_moment = 0;
  for (std::int64_t k = 0; k < positives.count; ++k) {
    const double score = double{positives.scores[k]};
    const double weight = gradient == 0 ? 0 : row.positive(k, gradient);
    moment += weight * score * (p.focal ? score : 1);
    bias_moment += weight;
    a.entry_gradients[p.positives.offsets[i] + k] = weight * (p.focal ? 2 * score : 1);
  }
  a.moments[i] = moment;
  a.bias_moments[i] = bias_moment;
}

}  // namespace stope::cuda
