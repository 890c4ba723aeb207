// What the splits of a corpus know of one query, and what of a tile they may not take.
#pragma once

#include <algorithm>

#include "candidates.h"
#include "rows.h"
#include "scan.h"

namespace stope {

// One split's view of one query.
struct TopkSplit {
  CandidateList list;
  Eligibility eligibility;
  std::int64_t next_excluded;
};

// All splits' views of one query.
struct TopkSplits {
  TopkSplit* first;
  std::int64_t count, stride;

  TopkSplit& operator[](std::int64_t split) const { return first[split * stride]; }
};

// Gives them the best threshold that they prove together; returns how many candidates are still to
// be scored, or were to make room.
inline std::int64_t share_threshold(const CandidateSelector& selector, const QueryRow& query,
                                    const TopkSplits& splits, const CandidateScratch& scratch) {
  float least = -kInfinity;
  std::int64_t count = 0, passed = 0;
  for (std::int64_t split = 0; split < splits.count; ++split) {
    CandidateList& list = splits[split].list;
    selector.sharpen(&list, query, &splits[split].eligibility, scratch);
    least = std::max(least, list.least);
  }
  // Only now: sharpening works in the same memory.
  for (std::int64_t split = 0; split < splits.count; ++split) {
    const CandidateList& list = splits[split].list;
    for (std::int64_t e = 0; e < list.count; ++e) scratch.lowers[count++] = list.entries[e].lower;
  }
  least = std::max(least, selector.reached(scratch.lowers, count));
  for (std::int64_t split = 0; split < splits.count; ++split) {
    CandidateList& list = splits[split].list;
    list.least = least;
    passed += CandidateSelector::open(list) + list.scored;
  }
  return passed;
}

// Their candidates in one list, and in `eligibility` how many they refused.
inline CandidateList merged(const TopkSplits& splits, Candidate* entries,
                            Eligibility* eligibility) {
  CandidateList list = splits[0].list;
  list.entries = entries;
  list.count = 0;
  for (std::int64_t split = 0; split < splits.count; ++split) {
    const TopkSplit& part = splits[split];
    std::copy_n(part.list.entries, part.list.count, list.entries + list.count);
    list.count += part.list.count;
    list.least = std::max(list.least, part.list.least);
    if (split > 0) eligibility->above += part.eligibility.above;
  }
  return list;
}

// Marks what a tile's queries exclude among panels [panel, panel + count).
inline void exclude_ids(const IdLists& lists, const std::int64_t* query_rows, TopkSplit* states,
                        int rows, std::int64_t panel, int count, TileEntry excluded,
                        TileEntry* tile) {
  const std::int64_t begin = panel * kLanes, end = (panel + count) * kLanes;
  for (int r = 0; r < rows; ++r) {
    const std::int64_t list_end = lists.offsets[query_rows[r] + 1];
    std::int64_t& next = states[r].next_excluded;
    // A chunk is scanned once per query, in ascending panels, so the cursor never goes back.
    for (; next < list_end && lists.ids[next] < end; ++next)
      tile[r * kTileStride + lists.ids[next] - begin] = excluded;
  }
}

// Marks the columns from `valid` on, which are no rows of the corpus.
inline void exclude_padding(int rows, std::int64_t valid, TileEntry excluded, TileEntry* tile) {
  for (int r = 0; r < rows; ++r)
    std::fill(tile + r * kTileStride + valid, tile + (r + 1) * kTileStride, excluded);
}

// Whether any query may find a row. A sample that hears of it stands for the rows that are left.
inline bool allows(const std::uint8_t* allowed, std::int64_t id) {
  return allowed == nullptr || (allowed[id / 8] >> (id % 8) & 1) != 0;
}

// The answer to a query; short rows end in -infinity and -1.
inline void write_best(const CandidateList& list, std::int64_t k, float* scores,
                       std::int64_t* ids) {
  for (std::int64_t r = 0; r < k; ++r) {
    scores[r] = r < list.count ? list.entries[r].upper : -kInfinity;
    ids[r] = r < list.count ? list.entries[r].id : -1;
  }
}

}  // namespace stope
