// Kernels before a scan: rows as bfloat16 codes with what they lost, and queries ready to begin.
// Sixteen rows to a block, half a warp each.
#pragma once

#include "bounds.cuh"
#include "panels.cuh"
#include "rows.cuh"

namespace stope::cuda {

inline constexpr int kPackThreads = 256;
inline constexpr std::int64_t kPackRows = kPackThreads / kCanonicalLanes;

struct PackArguments {
  PlacedRows from;
  Metric metric;
  std::int64_t first_row, rows;  // by their places
  std::int64_t first_id;         // what faults call the matrix's first row
  Panels panels;
  std::int64_t first_place;  // of the first row in the panels
  RowFactors* factors;       // [rows], or nullptr
  RowFaults* faults;
};

// The nearest bfloat16, ties to even.
STOPE_DEVICE std::uint32_t round_to_bfloat16(float x) {
  const std::uint32_t bits = bits_of(x);
  return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

STOPE_KERNEL(kPackThreads) pack_rows(PackArguments a) {
  const std::int64_t wanted = block_x() * kPackRows + thread() / kCanonicalLanes;
  // Both halves of a warp take every step together; beyond the end the last row is packed again.
  const std::int64_t place = wanted < a.rows ? wanted : a.rows - 1;
  const std::int64_t row = row_at(a.from, a.first_row + place);
  const RowMeasure measure = measure_row(a.from.matrix, a.metric, row);
  const RowReader x = reader(a.from.matrix, a.metric, row, measure.factors);
  float largest = measure.largest;
  if (a.metric == Metric::kCosine && largest != 0.0f)
    largest = magnitude(mul_rn(mul_rn(largest, measure.factors.prescale), measure.factors.inverse));
  constexpr float kMostInverse = 0x1p100f;  // so that products with it stay finite
  float inverse = power_of_two_inverse(largest);
  inverse = largest == 0.0f ? 1.0f : inverse > kMostInverse ? kMostInverse : inverse;
  float residual = 0.0f, norm = 0.0f;
  std::uint16_t* codes = codes_of(a.panels, a.first_place + place);
  for (std::int64_t i = half_lane(); i < a.panels.depth_padded; i += kCanonicalLanes) {
    const float t = mul_rn(x[i], inverse);
    const std::uint32_t code = round_to_bfloat16(t);
    const float lost = sub_rn(t, float_of(code << 16));
    residual = fma_rn(lost, lost, residual);
    norm = fma_rn(t, t, norm);
    if (wanted < a.rows) codes[i] = static_cast<std::uint16_t>(code);
  }
  const float inflate = inflation(x.depth);
  ScanRow out;
  out.inverse = inverse;
  out.scale = div_rn(1.0f, inverse);
  constexpr float kResidualFloor = 0x1p-40f;  // of t's own underflow
  residual = sqrt_rn(sum_of_half(residual)) * inflate;
  out.residual = largest == 0.0f ? 0.0f : residual + kResidualFloor;
  out.norm = sqrt_rn(sum_of_half(norm)) * inflate;
  const float least_norm = out.norm * (1.0f - 3.0f * (inflate - 1.0f));
  out.half_square = 0.5f * (1.0f - 0x1p-18f) * least_norm * least_norm * out.scale;
  note_faults(a.first_id + row, measure.finite, out.norm * out.scale, a.faults);
  if (half_lane() != 0 || wanted >= a.rows) return;
  *scan_row_of(a.panels, a.first_place + place) = out;
  if (a.factors != nullptr) a.factors[place] = measure.factors;
}

struct StartArguments {
  BoundRules rules;
  std::int64_t first_query, queries;
  Panels panels;
  float floor;            // of all queries
  const float* floors;    // of each of them instead, or nullptr
  const float* ceilings;  // likewise
  QueryBound* bounds;
  QueryTerms* terms;
  QueryState* states;
  std::int64_t* above;
};

// Empty lists. A floor above the ceiling leaves nothing eligible, but what lies above the ceiling
// is still counted, so the lower one of both is the threshold.
STOPE_KERNEL(kPackThreads) start_queries(StartArguments a) {
  const std::int64_t i = block_x() * std::int64_t{kPackThreads} + thread();
  if (i >= a.queries) return;
  QueryState state = {0, 0, 0.0f, a.floor, infinity()};
  if (a.floors != nullptr) state.floor = a.floors[a.first_query + i];
  if (a.ceilings != nullptr) state.ceiling = a.ceilings[a.first_query + i];
  state.least = state.floor < state.ceiling ? state.floor : state.ceiling;
  const QueryBound bound = query_bound(a.rules, *scan_row_of(a.panels, i));
  a.bounds[i] = bound;
  a.terms[i] = query_terms(a.rules, bound, state.least);
  a.states[i] = state;
  a.above[i] = 0;
}

}  // namespace stope::cuda
