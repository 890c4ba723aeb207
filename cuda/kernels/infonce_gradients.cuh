// Kernels between the gradients of scores and those of the caller's rows, by a warp to a row. Every
// element of a result belongs to one lane, which adds in the order of the lists: no atomics.
#pragma once

#include "infonce_rows.cuh"

namespace stope::cuda {

struct MomentArguments {
  InfonceSide rows;
  const float* gradients;  // [rows.count][depth], of this pass alone
  double* moments;         // [rows.count], added to
};
// What the negatives add to dL/dscale: sum_j G_ij S_ij is the gradient of row i along row i.
STOPE_KERNEL(kInfonceThreads) add_moments(MomentArguments a) {
  const std::int64_t i = warp_of_grid();
  if (i >= a.rows.count) return;
  const RowReader x = side_reader(a.rows, i);
  double sum = 0;
  for (std::int64_t k = lane(); k < x.depth; k += kWarp)
    sum += double{x[k]} * double{a.gradients[i * x.depth + k]};
  sum = sum_of_warp(sum);
  if (lane() == 0) a.moments[i] += sum;
}

struct AddRowsArguments {
  const float* from;  // [rows][depth]
  std::int64_t rows, depth;
  EntriesByDocument by_document;   // or offsets nullptr: row i goes to row i
  const std::int64_t* entry_rows;  // with by_document
  float* to;
};
// Adds to every row of `to` its own row of `from`, or those of the queries that it answers.
STOPE_KERNEL(kInfonceThreads) add_rows(AddRowsArguments a) {
  const std::int64_t j = warp_of_grid();
  if (j >= a.rows) return;
  const std::int64_t* offsets = a.by_document.offsets;
  const std::int64_t begin = offsets == nullptr ? 0 : offsets[j];
  const std::int64_t end = offsets == nullptr ? 1 : offsets[j + 1];
  for (std::int64_t k = lane(); k < a.depth; k += kWarp) {
    float sum = a.to[j * a.depth + k];
    for (std::int64_t n = begin; n < end; ++n) {
      const std::int64_t i = offsets == nullptr ? j : a.entry_rows[a.by_document.entries[n]];
      sum = add_rn(sum, a.from[i * a.depth + k]);
    }
    a.to[j * a.depth + k] = sum;
  }
}

struct AddPositivesArguments {
  InfonceSide others;  // rows whose multiples are added
  std::int64_t rows;
  const std::int64_t* offsets;     // [rows + 1]
  const std::int64_t* entries;     // of every place in a list; nullptr: the place itself
  const std::int64_t* other_rows;  // of every entry
  const double* entry_gradients;   // of every entry
  float* gradients;                // [rows][depth], added to
};
STOPE_KERNEL(kInfonceThreads) add_positives(AddPositivesArguments a) {
  const std::int64_t i = warp_of_grid(), depth = a.others.matrix.columns;
  if (i >= a.rows) return;
  for (std::int64_t n = a.offsets[i]; n < a.offsets[i + 1]; ++n) {
    const std::int64_t e = a.entries == nullptr ? n : a.entries[n];
    const RowReader x = side_reader(a.others, a.other_rows[e]);
    const float weight = to_float_rn(a.entry_gradients[e]);
    float* gradients = a.gradients + i * depth;
    for (std::int64_t k = lane(); k < depth; k += kWarp)
      gradients[k] = fma_rn(weight, x[k], gradients[k]);
  }
}

struct GivenRowsArguments {
  InfonceSide side;
  double scale;
  float* gradients;  // [side.count][depth]
  const RowFaults* faults;
  std::int64_t* beyond;  // the first row that float32 does not hold
};
// g -> scale * g, and through the normalisation: (g - x <x, g>) / |row| with x = row / |row|.
STOPE_KERNEL(kInfonceThreads) to_given_rows(GivenRowsArguments a) {
  const std::int64_t i = warp_of_grid();
  if (i >= a.side.count) return;
  const RowReader x = side_reader(a.side, i);
  float* g = a.gradients + i * x.depth;
  float keep = to_float_rn(a.scale), along = 0.0f;
  if (any_fault(a.faults)) {
    for (std::int64_t k = lane(); k < x.depth; k += kWarp) g[k] = not_a_number();
    return;
  }
  if (x.scaled) {
    // Gradients through rows that are shorter than this are cut off.
    constexpr double kMostInverse = 1e30;
    const double inverse = double{x.factors.prescale} * double{x.factors.inverse};
    keep = to_float_rn(a.scale * (inverse < kMostInverse ? inverse : kMostInverse));
    double sum = 0;
    for (std::int64_t k = lane(); k < x.depth; k += kWarp) sum += double{x[k]} * double{g[k]};
    along = to_float_rn(sum_of_warp(sum));
  }
  for (std::int64_t k = lane(); k < x.depth; k += kWarp) {
    g[k] = mul_rn(keep, x.scaled ? fma_rn(-along, x[k], g[k]) : g[k]);
    if (!is_finite(g[k])) atomic_min(a.beyond, i);
  }
}

struct SumArguments {
  const double* moments[2];  // [rows], nullptr: zeros
  std::int64_t rows;
  double* sums[2];
  const RowFaults* faults;
};
// By one block: every thread its rows in order, then a tree.
STOPE_KERNEL(kInfonceThreads) sum_moments(SumArguments a) {
  double* partial = shared_memory<double>();
  for (int m = 0; m < 2; ++m) {
    double sum = 0;
    if (a.moments[m] != nullptr)
      for (std::int64_t i = thread(); i < a.rows; i += kInfonceThreads) sum += a.moments[m][i];
    partial[thread()] = sum;
    block_barrier();
    for (unsigned half = kInfonceThreads / 2; half > 0; half /= 2) {
      if (thread() < half) partial[thread()] += partial[thread() + half];
      block_barrier();
    }
    if (thread() == 0) *a.sums[m] = any_fault(a.faults) ? double{not_a_number()} : partial[0];
    block_barrier();
  }
}

}  // namespace stope::cuda
