// The candidates of one query: a bounded buffer that keeps whatever could still be among the k
// best.
//
// An entry carries bounds of its canonical score; lower == upper means that it is exact. A lower of
// -infinity marks an entry whose eligibility (floor, ceiling) is not yet proven, so that it never
// raises the threshold. `least` is a proven lower bound of the k-th best eligible score.
#pragma once

#include <algorithm>

#include "bounds.h"
#include "rows.h"

namespace stope {

struct Candidate {
  float upper;
  float lower;
  std::int32_t id;

  bool exact() const { return lower == upper; }
};

// (score descending, id ascending), on exact entries.
inline bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.upper != b.upper ? a.upper > b.upper : a.id < b.id;
}

// Which scores a query accepts, and how many it refused for being too high.
struct Eligibility {
  float floor = -kInfinity;
  float ceiling = kInfinity;
  std::int64_t above = 0;

  // Scores below this are of no use. A floor above the ceiling leaves nothing eligible, but what
  // lies above the ceiling is still counted.
  float least() const { return std::min(floor, ceiling); }

  // Returns false when the entry is out; an entry that straddles a limit loses its lower bound.
  bool admit(Candidate* entry) {
    if (entry->lower > ceiling) {
      ++above;
      return false;
    }
    if (entry->upper <= ceiling && entry->upper < floor) return false;
    if (entry->upper > ceiling || entry->lower < floor) entry->lower = -kInfinity;
    return true;
  }
};

struct CandidateList {
  Candidate* entries = nullptr;
  std::int64_t count = 0;
  std::int64_t limit = 0;  // the count at which the threshold is raised again
  float least = -kInfinity;
};

// What a thread lends to the candidates while it works on them.
struct CandidateScratch {
  float* lowers;      // [splits * capacity + 16]
  float* rows;        // [ExactScorer::scratch_floats(depth)]
  Candidate* merged;  // [splits * capacity], unused when splits == 1
};

// The query that a list belongs to.
struct QueryRow {
  std::int64_t row;
  const float* values;
};

class CandidateSelector {
 public:
  CandidateSelector(const KernelTable& kernels, std::int64_t k, const ExactScorer& scorer)
      : kernels_(kernels), k_(k), capacity_(capacity_for(k)), scorer_(scorer) {}

  static std::int64_t capacity_for(std::int64_t k) { return 2 * k + 640; }

  // An empty list in `entries`, which has room for capacity_for(k).
  CandidateList list(Candidate* entries, float least) const {
    return {entries, 0, next_limit(k_), least};
  }

  // Time to refine: an entry that passes a stale threshold costs more than raising it does.
  bool due(const CandidateList& list) const { return list.count == list.limit; }

  void refine(CandidateList* list, const QueryRow& query, Eligibility* eligibility,
              const CandidateScratch& scratch) const {
    if (list->count == capacity_)
      compact(list, query, eligibility, scratch);
    else
      tighten(list, scratch.lowers);
    list->limit = next_limit(list->count);
  }

  // Make room, by cheap means first: the threshold that the lower bounds prove; when that leaves a
  // crowd, the exact scores of the k most promising; when that leaves too many, exact scores of
  // all. Afterwards at most three quarters of the buffer are in use.
  void compact(CandidateList* list, const QueryRow& query, Eligibility* eligibility,
               const CandidateScratch& scratch) const {
    tighten(list, scratch.lowers);
    if (list->count > k_ + (capacity_ - k_) / 2) {
      settle_best(list, query, eligibility, scratch);
      drop_below_least(list);
    }
    if (list->count > capacity_ / 4 * 3) settle(list, query, eligibility, scratch);
  }

  // Drop what cannot be among the k best any more. `lowers` has room for 16 values more.
  void tighten(CandidateList* list, float* lowers) const {
    if (list->count >= k_) {
      for (std::int64_t i = 0; i < list->count; ++i) lowers[i] = list->entries[i].lower;
      std::fill_n(lowers + list->count, kLanes, -kInfinity);
      list->least = std::max(list->least, kernels_.reached_by(lowers, list->count, k_));
    }
    drop_below_least(list);
  }

  // Leaves the k best, exact and in order; later entries of the list are gone.
  void finish(CandidateList* list, const QueryRow& query, Eligibility* eligibility,
              const CandidateScratch& scratch) const {
    Candidate* entries = list->entries;
    std::sort(entries, entries + list->count,
              [](const Candidate& a, const Candidate& b) { return a.upper > b.upper; });
    // Best first: once the k-th exact score beats an upper bound, it beats all later ones. The
    // settled entries are gathered, as a heap with the worst on top, in the part already read.
    std::int64_t best = 0;
    for (std::int64_t i = 0; i < list->count; i += ExactScorer::kBatch) {
      if (best == k_ && entries[i].upper < entries[0].upper) break;
      const int batch =
          static_cast<int>(std::min<std::int64_t>(ExactScorer::kBatch, list->count - i));
      for (std::int64_t ahead = i + batch;
           ahead < std::min(i + batch + ExactScorer::kBatch, list->count); ++ahead)
        scorer_.prefetch(entries[ahead].id);
      Candidate settled[ExactScorer::kBatch];
      std::copy(entries + i, entries + i + batch, settled);
      const int kept = settle_batch(settled, batch, query, eligibility, scratch.rows);
      for (int s = 0; s < kept; ++s) {
        if (best < k_) {
          entries[best++] = settled[s];
          std::push_heap(entries, entries + best, ranks_before);
        } else if (ranks_before(settled[s], entries[0])) {
          std::pop_heap(entries, entries + best, ranks_before);
          entries[best - 1] = settled[s];
          std::push_heap(entries, entries + best, ranks_before);
        }
      }
    }
    std::sort_heap(entries, entries + best, ranks_before);
    list->count = best;
  }

 private:
  // Half as many again: raising the threshold costs a few cycles per entry that came since.
  std::int64_t next_limit(std::int64_t count) const {
    constexpr std::int64_t kLeastGrowth = 64;
    return std::min(count + std::max(count / 2, kLeastGrowth), capacity_);
  }

  // Without branches: whether an entry stays is as good as random.
  static void drop_below_least(CandidateList* list) {
    Candidate* entries = list->entries;
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < list->count; ++i) {
      const Candidate entry = entries[i];
      entries[kept] = entry;
      kept += entry.upper >= list->least ? 1 : 0;
    }
    list->count = kept;
  }

  // Make the k entries with the highest upper bounds exact: their lowest score is a threshold that
  // no error widens.
  void settle_best(CandidateList* list, const QueryRow& query, Eligibility* eligibility,
                   const CandidateScratch& scratch) const {
    if (list->count <= k_) return;
    std::nth_element(list->entries, list->entries + (k_ - 1), list->entries + list->count,
                     [](const Candidate& a, const Candidate& b) { return a.upper > b.upper; });
    CandidateList best = {list->entries, k_, capacity_, list->least};
    settle(&best, query, eligibility, scratch);
    if (best.count == k_) {
      float least = kInfinity;
      for (std::int64_t i = 0; i < k_; ++i) least = std::min(least, best.entries[i].upper);
      list->least = std::max(list->least, least);
    }
    std::copy(list->entries + k_, list->entries + list->count, list->entries + best.count);
    list->count -= k_ - best.count;
  }

  // Score every entry that is not exact, drop the ineligible, keep the k best.
  void settle(CandidateList* list, const QueryRow& query, Eligibility* eligibility,
              const CandidateScratch& scratch) const {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < list->count; i += ExactScorer::kBatch) {
      const int batch =
          static_cast<int>(std::min<std::int64_t>(ExactScorer::kBatch, list->count - i));
      Candidate settled[ExactScorer::kBatch];
      std::copy(list->entries + i, list->entries + i + batch, settled);
      const int count = settle_batch(settled, batch, query, eligibility, scratch.rows);
      std::copy(settled, settled + count, list->entries + kept);
      kept += count;
    }
    list->count = kept;
    if (kept > k_) {
      std::nth_element(list->entries, list->entries + (k_ - 1), list->entries + kept, ranks_before);
      list->count = k_;
      list->least = std::max(list->least, list->entries[k_ - 1].upper);
    }
  }

  // Makes the entries exact, removes those that are not eligible; returns how many remain.
  int settle_batch(Candidate* entries, int count, const QueryRow& query, Eligibility* eligibility,
                   float* rows) const {
    std::int32_t open[ExactScorer::kBatch];
    int open_count = 0;
    for (int i = 0; i < count; ++i)
      if (!entries[i].exact()) open[open_count++] = i;
    if (open_count > 0) {
      float scores[ExactScorer::kBatch];
      scorer_.score(
          query.row, query.values, [&](int i) { return std::int64_t{entries[open[i]].id}; },
          open_count, rows, scores);
      for (int i = 0; i < open_count; ++i)
        entries[open[i]].lower = entries[open[i]].upper = scores[i];
    }
    int kept = 0;
    for (int i = 0; i < count; ++i)
      if (eligibility->admit(&entries[i])) entries[kept++] = entries[i];
    return kept;
  }

  const KernelTable& kernels_;
  std::int64_t k_;
  std::int64_t capacity_;
  const ExactScorer& scorer_;
};

}  // namespace stope
