// Canonical scores of what a scan has left in a query's list, by one block.
#pragma once

#include "exact_dot.cuh"
#include "select.cuh"

namespace stope::cuda {

struct Rescoring {
  PlacedRows queries;
  PlacedRows corpus;      // the rows that are on the device,
  std::int64_t first_id;  // from this one on
  std::int64_t first_query;
  BoundRules rules;
  const RowFactors* factors;  // of the queries from the first on
};

// Canonical scores for the entries that have none, half a warp each.
STOPE_DEVICE void rescore(const Rescoring& a, std::int64_t query, Candidate* entries,
                          std::int32_t count) {
  const Metric metric = a.rules.metric;
  const std::int64_t query_row = row_at(a.queries, a.first_query + query);
  const RowReader q = reader(a.queries.matrix, metric, query_row, a.factors[query]);
  constexpr std::int32_t kAtOnce = kSelectThreads / kCanonicalLanes;
  for (std::int32_t first = 0; first < count; first += kAtOnce) {
    const std::int32_t wanted = first + static_cast<std::int32_t>(thread()) / kCanonicalLanes;
    const bool open = wanted < count && entries[wanted].lower != entries[wanted].upper;
    if (ballot(open) == 0) continue;  // both halves of a warp take every step together
    // An entry that has its score may be of a row that is gone.
    const std::int64_t row = row_at(a.corpus, open ? entries[wanted].id - a.first_id : 0);
    RowFactors factors = {1.0f, 1.0f};
    if (metric == Metric::kCosine) factors = measure_row(a.corpus.matrix, metric, row).factors;
    const float score = exact_score(q, reader(a.corpus.matrix, metric, row, factors), metric);
    warp_barrier();  // a lane of the other half may still be reading its entry
    if (open && half_lane() == 0) {
      entries[wanted].upper = score;
      entries[wanted].lower = score;
    }
  }
  block_barrier();
}

}  // namespace stope::cuda
