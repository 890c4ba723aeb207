// What passes a sieve, slab by slab, until the levels of its rows are final.
#pragma once

#include "infonce_sieve.h"

namespace stope {

// A row of a slab. Masses are relative to e^reference.
struct SiftedRow {
  InfonceSums sums;   // of what passed, canonical
  double rest;        // of what did not, as the scan has it
  double certified;   // of what did not, at most
  double least;       // the highest level so far
  double first_mass;  // what the first block holds at least
  bool held;          // while entries are thinned out: those below the level are not counted yet
  bool again;         // sifted again, at a level that does not move
};

// The entries of a sweep, by pass, block, row and column.
struct InfonceSweep {
  std::int64_t count;
  std::uint32_t* counts;  // of every block
};
// Of a slab.
struct InfonceHarvest {
  SiftedRow* rows;
  SiftedEntry* entries;
  std::int64_t used, scored;  // entries, and how many were scored for them
  std::int64_t crowd;         // of entries, that has to be thinned out
  InfonceSweep sweeps[2];     // of all rows, and of those that were sifted again
  float* by_row;              // logits, row by row
  std::int64_t* starts;       // of every row in these
};

// Removes from the first sweep what keep(entry) refuses.
template <typename Keep>
void retain(std::int64_t blocks, InfonceHarvest* harvest, Keep keep) {
  InfonceSweep& sweep = harvest->sweeps[0];
  const SiftedEntry* from = harvest->entries;
  SiftedEntry* to = harvest->entries;
  for (std::int64_t b = 0; b < blocks; ++b) {
    const SiftedEntry* first = to;
    for (const SiftedEntry* last = from + sweep.counts[b]; from < last; ++from)
      if (keep(*from)) *to++ = *from;
    sweep.counts[b] = static_cast<std::uint32_t>(to - first);
  }
  sweep.count = harvest->used = to - harvest->entries;
}

// Fills by_row.
inline void order_by_row(std::int64_t rows, InfonceHarvest* harvest) {
  std::int64_t* starts = harvest->starts;
  std::fill_n(starts, rows + 1, std::int64_t{0});
  const SiftedEntry* entries = harvest->entries;
  for (std::int64_t e = 0; e < harvest->used; ++e) ++starts[entries[e].row() + 1];
  for (std::int64_t r = 0; r < rows; ++r) starts[r + 1] += starts[r];
  for (std::int64_t e = 0; e < harvest->used; ++e)
    harvest->by_row[starts[entries[e].row()]++] = entries[e].logit;
  // Every start has moved to its row's end.
  std::copy_backward(starts, starts + rows, starts + rows + 1);
  starts[0] = 0;
}

// Whether it has the level of its row.
inline bool reaches(const InfonceHarvest& harvest, const SiftedEntry& entry) {
  return static_cast<double>(entry.logit) >= harvest.rows[entry.row()].least;
}

}  // namespace stope
