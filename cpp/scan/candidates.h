// The candidates of one query: a bounded buffer that keeps whatever could still be among the k
// best.
//
// An entry carries bounds of its canonical score; lower == upper means that it is exact. A lower of
// -infinity marks an entry whose eligibility (floor, ceiling) is not yet proven, so that it never
// raises the threshold. `least` is a proven lower bound of the k-th best eligible score, or a guess
// at one that the answer must confirm: k scores that reach it.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

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
  std::int64_t scored = 0;  // entries, to make room
};

// What a thread lends to the candidates while it works on them.
struct CandidateScratch {
  float* lowers;      // [splits * capacity + 16]
  float* rows;        // [ExactScorer::scratch_floats(depth)]
  Candidate* merged;  // [splits * capacity], unused when splits == 1
  // Of a single split:
  std::uint64_t* keys;  // [2 * capacity]
  Candidate* sorted;    // [capacity]
};

// Rows of the corpus that stand for all, one from each of equally long runs; where in its run is as
// good as random, so that no order of the corpus is mirrored.
struct RowSample {
  std::int64_t corpus_rows = 0;
  std::int64_t rows = 0;  // 0: too few would tell anything
  std::int64_t rank = 0;  // in the sample; the row there is almost surely not among the k best

  RowSample() = default;
  RowSample(std::int64_t n, std::int64_t k) : corpus_rows(n) {
    constexpr std::int64_t kExpected = 62;  // of the k best in the sample, where they are many
    constexpr std::int64_t kLeastRun = 16, kFewBest = 50;
    constexpr std::int64_t kThrift = 3200;  // the sample saves work in proportion to k
    const std::int64_t count = std::min({kExpected * n / k, n / kLeastRun, n * k / kThrift});
    const double expected =
        static_cast<double>(count) * static_cast<double>(k) / static_cast<double>(n);
    rank = static_cast<std::int64_t>(std::ceil(expected + 4 * std::sqrt(expected) + 4));
    rows = k < kFewBest || rank > k ? 0 : count;
  }

  // It is scanned without regard to what is excluded: one row of it may be.
  bool allows(const IdLists& excluded, std::int64_t row) const {
    return excluded.offsets == nullptr ||
           (excluded.offsets[row + 1] - excluded.offsets[row]) * rows <= corpus_rows;
  }

  std::int64_t id(std::int64_t j) const {
    const std::int64_t begin = corpus_rows / rows * j, run = corpus_rows / rows;
    const std::uint64_t mixed = static_cast<std::uint64_t>(j + 1) * 0x9e3779b97f4a7c15u;
    return begin + static_cast<std::int64_t>((mixed >> 32) % static_cast<std::uint64_t>(run));
  }
};

// Exact entries, highest score first, equal ones in the order they come in. `keys` has room for
// twice as many.
inline void sort_by_score(const Candidate* entries, std::int64_t count, std::uint64_t* keys,
                          Candidate* sorted) {
  // (complement of the score as an ordered integer, place in `entries`), by radix, last digit
  // first.
  constexpr int kDigitBits = 11, kDigits = 3, kPlaces = 1 << kDigitBits;
  constexpr std::int64_t kFew = 256;  // below it a sort by comparison is faster
  const auto digit = [](std::uint64_t key, int d) {
    return static_cast<std::size_t>(key >> (32 + d * kDigitBits)) & (kPlaces - 1);
  };
  std::int32_t starts[kDigits][kPlaces];
  const bool radix = count >= kFew;
  if (radix) std::fill_n(&starts[0][0], kDigits * kPlaces, 0);
  for (std::int64_t i = 0; i < count; ++i) {
    // Adding zero makes -0 the +0 it is equal to.
    const auto bits = std::bit_cast<std::uint32_t>(entries[i].upper + 0.0f);
    const std::uint32_t descending = (bits >> 31) != 0 ? bits : ~bits & 0x7fffffffu;
    keys[i] = std::uint64_t{descending} << 32 | static_cast<std::uint64_t>(i);
    if (radix)
      for (int d = 0; d < kDigits; ++d) ++starts[d][digit(keys[i], d)];
  }
  if (!radix) {
    std::sort(keys, keys + count);
  } else {
    std::uint64_t* from = keys;
    std::uint64_t* to = keys + count;
    for (int d = 0; d < kDigits; ++d) {
      std::exclusive_scan(starts[d], starts[d] + kPlaces, starts[d], 0);
      for (std::int64_t i = 0; i < count; ++i) to[starts[d][digit(from[i], d)]++] = from[i];
      std::swap(from, to);
    }
    keys = from;
  }
  for (std::int64_t i = 0; i < count; ++i) sorted[i] = entries[keys[i] & 0xffffffffu];
}

class CandidateSelector {
 public:
  CandidateSelector(const KernelTable& kernels, std::int64_t k, const ExactScorer& scorer)
      : CandidateSelector(kernels, k, capacity_for(k), scorer) {}
  // With lists of another capacity, which takes more exact scores where it is less. With `wide`
  // bounds, thresholds are exact scores.
  CandidateSelector(const KernelTable& kernels, std::int64_t k, std::int64_t capacity,
                    const ExactScorer& scorer, bool wide = false)
      : kernels_(kernels), k_(k), capacity_(capacity), wide_(wide), scorer_(scorer) {}

  static std::int64_t capacity_for(std::int64_t k) { return 3 * k + 640; }

  // An empty list in `entries`, which has room for the capacity.
  CandidateList list(Candidate* entries, float least) const {
    return {entries, 0, next_limit(k_), least};
  }

  // Time to refine: an entry that passes a stale threshold costs more than raising it does.
  bool due(const CandidateList& list) const { return list.count == list.limit; }

  void refine(CandidateList* list, const QueryRow& query, Eligibility* eligibility,
              const CandidateScratch& scratch) const {
    if (list->count == capacity_)
      compact(list, query, eligibility, scratch);
    else if (wide_)
      sharpen(list, query, eligibility, scratch);
    else
      tighten(list, scratch.lowers);
    list->limit = next_limit(list->count);
  }

  // Make room, by cheap means first: the threshold that the lower bounds prove; when that leaves a
  // crowd, the exact scores of the k most promising; when that leaves too many, exact scores of
  // all. Afterwards a fifth of the buffer beyond k is free.
  void compact(CandidateList* list, const QueryRow& query, Eligibility* eligibility,
               const CandidateScratch& scratch) const {
    tighten(list, scratch.lowers);
    const std::int64_t most = k_ + (capacity_ - k_) / 5 * 4;
    if (list->count > most) {
      settle_best(list, query, eligibility, scratch);
      drop_below_least(list);
    }
    if (list->count > most) {
      list->scored += open(*list);
      settle(list, query, eligibility, scratch);
    }
  }

  // Entries that are not exact and may be among the k best.
  static std::int64_t open(const CandidateList& list) {
    return std::count_if(list.entries, list.entries + list.count, [&](const Candidate& entry) {
      return !entry.exact() && entry.upper >= list.least;
    });
  }

  // The k best so far become exact, so that the threshold is as high as it can be by now.
  void sharpen(CandidateList* list, const QueryRow& query, Eligibility* eligibility,
               const CandidateScratch& scratch) const {
    tighten(list, scratch.lowers);
    settle_best(list, query, eligibility, scratch);
    drop_below_least(list);
  }

  // A value that k of the lower bounds reach; `lowers` has room for 16 values more.
  float reached(float* lowers, std::int64_t count) const {
    if (count < k_) return -kInfinity;
    std::fill_n(lowers + count, kLanes, -kInfinity);
    return kernels_.reached_by(lowers, count, k_);
  }

  // Drop what cannot be among the k best any more. `lowers` has room for 16 values more.
  void tighten(CandidateList* list, float* lowers) const {
    for (std::int64_t i = 0; i < list->count; ++i) lowers[i] = list->entries[i].lower;
    list->least = std::max(list->least, reached(lowers, list->count));
    drop_below_least(list);
  }

  // The k-th best score as far as the bounds tell, -infinity if there are fewer: no proof, but
  // twice as near as one. `values` has room for the list.
  float estimate(const CandidateList& list, float* values) const {
    if (list.count < k_) return -kInfinity;
    for (std::int64_t i = 0; i < list.count; ++i)
      values[i] = 0.5f * (list.entries[i].lower + list.entries[i].upper);
    std::nth_element(values, values + (k_ - 1), values + list.count, std::greater<float>());
    return values[k_ - 1];
  }

  // Asks for the rows of a list that is finished soon.
  void prefetch(const CandidateList& list) const { prefetch(list, 0, list.count); }

  // Ready for a rescorer that goes by rows: without the hopeless, in ascending order of ids.
  void line_up(CandidateList* list, float* lowers) const {
    tighten(list, lowers);
    const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
    Candidate* end = list->entries + list->count;
    if (!std::is_sorted(list->entries, end, by_id)) std::sort(list->entries, end, by_id);
  }

  // As finish, of exact entries in ascending order of ids; they end in `scratch.sorted`.
  void finish_exact(CandidateList* list, Eligibility* eligibility,
                    const CandidateScratch& scratch) const {
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < list->count; ++i)
      if (eligibility->admit(&list->entries[i])) list->entries[kept++] = list->entries[i];
    list->count = kept;
    tighten(list, scratch.lowers);
    sort_by_score(list->entries, list->count, scratch.keys, scratch.sorted);
    list->entries = scratch.sorted;
    list->count = std::min(list->count, k_);
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
      prefetch(*list, i + batch);
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
      prefetch(*list, i + batch);
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

  // Asks for the rows of the next batch while one is scored: they lie here and there.
  void prefetch(const CandidateList& list, std::int64_t first) const {
    prefetch(list, first, std::min(first + ExactScorer::kBatch, list.count));
  }
  void prefetch(const CandidateList& list, std::int64_t first, std::int64_t end) const {
    for (std::int64_t i = first; i < end; ++i)
      if (!list.entries[i].exact()) scorer_.prefetch(list.entries[i].id);
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
  bool wide_;
  const ExactScorer& scorer_;
};

}  // namespace stope
