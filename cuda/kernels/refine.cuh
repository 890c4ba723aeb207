// Between two chunks, and at the end: one block refines the list of one query.
//
//   0. Where groups of queries take turns with the lists, what was kept of this one comes back.
//   1. The k-th best lower bound proves a threshold; what cannot reach it goes.
//   2. Where more is left than may be, at the end, and where the chunk's rows will be gone:
//   canonical scores of all that is left,
//      eligibility by them, and the k best.
//   3. At the end: sorted, and written to the caller's arrays.
#pragma once

#include "rescore.cuh"
#include "select.cuh"

namespace stope::cuda {

struct RefineArguments {
  Rescoring rows;
  std::int32_t k;
  std::int64_t keep, capacity;
  bool rescores;  // whatever is left
  bool last;
  const QueryBound* bounds;
  QueryTerms* terms;
  QueryState* states;
  Candidate* entries;
  Candidate* kept;  // [queries][k], or nullptr
  std::int64_t* above;
  float* scores;                // [all queries][k]
  std::int64_t* ids;            // likewise
  std::int64_t* above_ceiling;  // [all queries], or nullptr
};

STOPE_DEVICE void write_answer(const RefineArguments& a, std::int64_t query,
                               const Candidate* entries, std::int32_t count) {
  const std::int64_t row = row_at(a.rows.queries, a.rows.first_query + query), first = row * a.k;
  for (auto r = static_cast<std::int32_t>(thread()); r < a.k; r += kSelectThreads) {
    a.scores[first + r] = r < count ? entries[r].upper : -infinity();
    a.ids[first + r] = r < count ? row_at(a.rows.corpus, entries[r].id) : -1;
  }
  if (thread() == 0 && a.above_ceiling != nullptr) a.above_ceiling[row] = a.above[query];
}

STOPE_KERNEL(kSelectThreads, 5) refine_list(RefineArguments a) {
  auto* memory = shared_memory<SelectMemory>();
  const std::int64_t query = block_x();
  QueryState* state = a.states + query;
  Candidate* entries = a.entries + query * a.capacity;
  std::int32_t count = state->count;
  float least = state->least;
  for (auto i = static_cast<std::int32_t>(thread()); i < state->kept; i += kSelectThreads)
    entries[i] = a.kept[query * a.k + i];
  block_barrier();
  const auto raise = [&](float proven) {
    if (proven > least) least = proven;
  };
  if (count >= a.k) {
    const auto lower = [&](std::int32_t i) { return std::uint64_t{descending(entries[i].lower)}; };
    raise(score_of(static_cast<std::uint32_t>(nth_key<32>(count, a.k, lower, memory))));
    block_barrier();
    count = keep_entries(
        entries, count, [&](Candidate* entry) { return entry->upper >= least; }, memory);
  }
  if (a.rescores || count > a.keep) {
    rescore(a.rows, query, entries, count);
    std::int64_t refused = 0;
    const auto eligible = [&](Candidate* entry) {
      bool is_above;
      const bool stays = admit(*state, entry, &is_above);
      if (is_above) ++refused;
      return stays;
    };
    count = keep_entries(entries, count, eligible, memory);
    if (refused != 0) atomic_add(a.above + query, refused);
    if (count > a.k) {
      const auto ranking = [&](std::int32_t i) { return ranking_key(entries[i]); };
      const std::uint64_t worst = nth_key<64>(count, a.k, ranking, memory);
      block_barrier();
      count = keep_entries(
          entries, count, [&](Candidate* entry) { return ranking_key(*entry) <= worst; }, memory);
      raise(score_of(static_cast<std::uint32_t>(worst >> 32)));
    }
  }
  if (a.last) {
    sort_entries(entries, count);
    block_barrier();
    write_answer(a, query, entries, count);
    return;
  }
  if (a.kept != nullptr)
    for (auto i = static_cast<std::int32_t>(thread()); i < count; i += kSelectThreads)
      a.kept[query * a.k + i] = entries[i];
  if (thread() == 0) {
    state->count = count;
    state->kept = a.kept == nullptr ? 0 : count;
    state->least = least;
    a.terms[query] = query_terms(a.rows.rules, a.bounds[query], least);
  }
}

}  // namespace stope::cuda
