// Selection in a query's list by one block: the k-th key by radix, keeping what a predicate keeps,
// and a sort. Nothing depends on the order of the entries.
#pragma once

#include "bounds.cuh"
#include "warp.cuh"

namespace stope::cuda {

inline constexpr int kSelectThreads = 256;
inline constexpr int kSelectWarps = kSelectThreads / 32;
inline constexpr int kPlaces = 256;  // of a digit; one thread each
static_assert(kPlaces == kSelectThreads);

// What the threads of a block share.
struct SelectMemory {
  std::int32_t places[kPlaces];
  std::int32_t kept[kSelectWarps];
  std::int32_t digit;
  std::int32_t rank;
};

// Ascending where scores descend; -0 counts as the +0 it is equal to.
STOPE_DEVICE std::uint32_t descending(float score) {
  const std::uint32_t bits = bits_of(add_rn(score, 0.0f));
  return bits >> 31 != 0 ? bits : ~bits & 0x7fffffffu;
}
STOPE_DEVICE float score_of(std::uint32_t key) {
  return float_of(key >> 31 != 0 ? key : ~key & 0x7fffffffu);
}
// (score descending, id ascending), on exact entries: no two are equal.
STOPE_DEVICE std::uint64_t ranking_key(const Candidate& entry) {
  return std::uint64_t{descending(entry.upper)} << 32 | static_cast<std::uint32_t>(entry.id);
}

// The rank-th smallest (from 1) of key(0) .. key(count - 1), of so many bits; rank <= count.
template <int kBits, typename Key>
STOPE_DEVICE std::uint64_t nth_key(std::int32_t count, std::int32_t rank, const Key& key,
                                   SelectMemory* memory) {
  std::uint64_t found = 0;
  for (int shift = kBits - 8; shift >= 0; shift -= 8) {
    memory->places[thread()] = 0;
    block_barrier();
    for (auto i = static_cast<std::int32_t>(thread()); i < count; i += kSelectThreads) {
      const std::uint64_t value = key(i);
      if (shift == kBits - 8 || value >> (shift + 8) == found >> (shift + 8))
        atomic_add(&memory->places[value >> shift & (kPlaces - 1)], 1);
    }
    block_barrier();
    if (thread() < kWarp) {
      constexpr int kPer = kPlaces / 32;
      std::int32_t mine = 0;
      for (int p = 0; p < kPer; ++p) mine += memory->places[lane() * kPer + p];
      std::int32_t before = 0;  // of the lanes before this one
      for (unsigned l = 0; l < kWarp; ++l) {
        const std::int32_t other = shuffle_from(mine, l);
        if (l < lane()) before += other;
      }
      for (int p = 0; p < kPer; ++p) {
        const std::int32_t here = memory->places[lane() * kPer + p];
        if (before < rank && rank <= before + here) {
          memory->digit = static_cast<std::int32_t>(lane()) * kPer + p;
          memory->rank = rank - before;
        }
        before += here;
      }
    }
    block_barrier();
    found |= static_cast<std::uint64_t>(memory->digit) << shift;
    rank = memory->rank;
  }
  return found;
}

// Moves the entries that keep(&entry) is true for to the front, possibly changed; returns how many.
template <typename Keep>
STOPE_DEVICE std::int32_t keep_entries(Candidate* entries, std::int32_t count, const Keep& keep,
                                       SelectMemory* memory) {
  std::int32_t kept = 0;
  for (std::int32_t first = 0; first < count; first += kSelectThreads) {
    const std::int32_t i = first + static_cast<std::int32_t>(thread());
    Candidate entry = {};
    bool stays = false;
    if (i < count) {
      entry = entries[i];
      stays = keep(&entry);
    }
    const std::uint32_t bits = ballot(stays);
    if (lane() == 0) memory->kept[thread() / kWarp] = static_cast<std::int32_t>(count_bits(bits));
    block_barrier();  // now all of these entries have been read, and places are free
    std::int32_t place = kept + static_cast<std::int32_t>(count_bits(bits & ((1u << lane()) - 1u)));
    for (unsigned w = 0; w < kSelectWarps; ++w) {
      if (w < thread() / kWarp) place += memory->kept[w];
      kept += memory->kept[w];
    }
    if (stays) entries[place] = entry;
    block_barrier();
  }
  return kept;
}

// Sorts exact entries.
STOPE_DEVICE void sort_entries(Candidate* entries, std::int64_t count) {
  // Bitonic: two sorted runs of `half` entries are merged by halves, the second one read backwards.
  // Every exchange puts the smaller one in front, so that what is missing behind the last entry of
  // a whole number of runs would never move.
  const auto exchange = [&](std::int64_t low, std::int64_t high) {
    if (high >= count) return;
    const Candidate a = entries[low], b = entries[high];
    if (ranking_key(a) < ranking_key(b)) return;
    entries[low] = b;
    entries[high] = a;
  };
  for (std::int64_t half = 1; half < count; half *= 2) {
    const std::int64_t pairs = (count + 2 * half - 1) / (2 * half) * half;
    for (std::int64_t p = thread(); p < pairs; p += kSelectThreads)
      exchange(p / half * 2 * half + p % half, (p / half + 1) * 2 * half - 1 - p % half);
    block_barrier();
    for (std::int64_t step = half / 2; step > 0; step /= 2) {
      for (std::int64_t p = thread(); p < pairs; p += kSelectThreads)
        exchange(p / step * 2 * step + p % step, p / step * 2 * step + p % step + step);
      block_barrier();
    }
  }
}

}  // namespace stope::cuda
