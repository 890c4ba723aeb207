// Pairs that reach a threshold: between two chunks one block settles the list of one query; at the
// end pairs are put in order, row after row, (score descending, id ascending) in each.
#pragma once

#include "rescore.cuh"

namespace stope::cuda {

struct SettleArguments {
  Rescoring rows;
  float threshold;
  bool keeps;             // else pairs are counted, and scored only where bounds do not decide
  std::int64_t capacity;  // of a list
  QueryState* states;
  Candidate* entries;
  std::int64_t* counts;  // [all queries]
  std::int64_t* total;   // pairs so far, kept or not
  FoundPair* pairs;      // [room], in any order
  std::int64_t room;
};

struct SettleMemory {
  SelectMemory select;
  std::int64_t place;
};

STOPE_KERNEL(kSelectThreads, 5) settle_list(SettleArguments a) {
  auto* memory = shared_memory<SettleMemory>();
  const std::int64_t query = block_x(), row = a.rows.first_query + query;
  Candidate* entries = a.entries + query * a.capacity;
  std::int32_t count = a.states[query].count, certain = 0;
  if (count == 0) return;
  if (!a.keeps) {
    const std::int32_t all = count;
    count = keep_entries(
        entries, count, [&](Candidate* entry) { return entry->lower < a.threshold; },
        &memory->select);
    certain = all - count;
  }
  rescore(a.rows, query, entries, count);
  count = keep_entries(
      entries, count, [&](Candidate* entry) { return entry->upper >= a.threshold; },
      &memory->select);
  if (thread() == 0) {
    a.states[query].count = 0;
    a.counts[row] += certain + count;
    if (a.keeps && count > 0) memory->place = atomic_add(a.total, std::int64_t{count});
  }
  if (!a.keeps || count == 0) return;
  block_barrier();
  if (memory->place + count > a.room) return;
  for (auto i = static_cast<std::int32_t>(thread()); i < count; i += kSelectThreads)
    a.pairs[memory->place + i] = {static_cast<std::int32_t>(row), entries[i].id, entries[i].upper};
}

struct OrderArguments {
  std::int64_t rows;
  const std::int64_t* counts;  // [rows]
  std::int64_t* starts;        // [rows]
  std::int64_t total;
  const FoundPair* pairs;  // [total]
  Candidate* ordered;      // [total]
  std::int64_t* ids;       // [total]
  float* scores;           // [total]
};

// Where every row's pairs begin: by one block.
STOPE_KERNEL(kSelectThreads) start_rows(OrderArguments a) {
  auto* sums = shared_memory<std::int64_t>();
  const std::int64_t part = (a.rows + kSelectThreads - 1) / kSelectThreads, first = thread() * part;
  const std::int64_t end = first + part < a.rows ? first + part : a.rows;
  std::int64_t sum = 0;
  for (std::int64_t row = first; row < end; ++row) sum += a.counts[row];
  sums[thread()] = sum;
  block_barrier();
  std::int64_t start = 0;
  for (unsigned t = 0; t < thread(); ++t) start += sums[t];
  for (std::int64_t row = first; row < end; ++row) {
    a.starts[row] = start;
    start += a.counts[row];
  }
}

// Every start moves to its row's end.
STOPE_KERNEL(kSelectThreads) gather_rows(OrderArguments a) {
  const std::int64_t p = std::int64_t{block_x()} * kSelectThreads + thread();
  if (p >= a.total) return;
  const FoundPair pair = a.pairs[p];
  a.ordered[atomic_add(a.starts + pair.row, std::int64_t{1})] = {pair.score, pair.score, pair.id};
}

STOPE_KERNEL(kSelectThreads) write_rows(OrderArguments a) {
  const std::int64_t count = a.counts[block_x()], first = a.starts[block_x()] - count;
  sort_entries(a.ordered + first, count);
  for (std::int64_t p = first + thread(); p < first + count; p += kSelectThreads) {
    a.ids[p] = a.ordered[p].id;
    a.scores[p] = a.ordered[p].upper;
  }
}

}  // namespace stope::cuda
