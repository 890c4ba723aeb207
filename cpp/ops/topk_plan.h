// How topk goes about a call: the scan, the sample, the sizes of groups, blocks and regions; and
// what it keeps of queries and passes.
#pragma once

#include <algorithm>

#include "candidates.h"
#include "packing.h"
#include "rows.h"
#include "scan.h"
#include "stope/topk.h"

namespace stope {

// What a search knows of one query.
struct TopkQuery {
  QueryBound bound;
  const float* values;
  float floor, ceiling;
  float guess;   // a threshold without proof, or -infinity
  bool refuted;  // fewer than k scores reach the guess
};

// One way over the rows of the sample or the corpus.
enum class TopkPassKind { kSample, kFirst, kRepeated };
struct TopkPass {
  std::int64_t rows;
  bool packs;  // here, region by region
  const CandidateSelector* selector;
  std::int64_t region_panels;
  TopkPassKind kind;
};

// How the corpus is scanned, and the panels of it that are there.
struct TopkFormat {
  const ScanKernels& kernels;
  PanelShape shape;
  const std::int8_t* packed;  // nullptr: packed by topk, region by region

  TopkFormat(const ScanKernels& scan, std::int64_t columns, const void* panels)
      : kernels(scan),
        shape(columns, scan.element_bytes, scan.panel_bits),
        packed(static_cast<const std::int8_t*>(panels)) {}
};

struct TopkPlan {
  TopkFormat format;
  bool int8;
  TopkFormat halves;  // where they pay
  bool has_halves;
  std::int64_t capacity;  // of a list of candidates
  RowSample sample;
  std::int64_t splits;  // of the corpus, each with candidates of its own
  std::int64_t group;   // queries searched at once
  std::int64_t block;   // queries of one task
  bool samples;
  std::int64_t region_panels, sample_panels;  // of a region of the corpus, of the sample
  std::int64_t buffer_panels;                 // of the larger one of those that topk packs

  TopkPlan(const TopkCall& call, const KernelTable& kernels)
      : format(choose_format(call, kernels)),
        int8(&format.kernels != &kernels.bfloat16),
        halves(kernels.int4, call.corpus.columns, call.packed.halves),
        has_halves(&format.kernels == &kernels.int8_exact && format.packed != nullptr &&
                   halves.packed != nullptr),
        sample(call.corpus.rows, call.k) {
    const std::int64_t threads = call.execution.threads;
    const std::int64_t queries = std::max<std::int64_t>(call.queries.rows, 1);
    splits = std::clamp<std::int64_t>(divide_up(kFewQueries * threads, queries), 1, threads);
    capacity = CandidateSelector::capacity_for(call.k);
    if (has_halves) capacity = std::max(capacity, kHalvesCandidates / splits);
    const std::int64_t list_bytes =
        capacity * static_cast<std::int64_t>(sizeof(Candidate)) * splits;
    group = std::max<std::int64_t>({kCandidateBytes / list_bytes, 2 * kMaxTileRows,
                                    std::min(kManyQueries, kMostCandidateBytes / list_bytes)});
    group = std::min(group, queries);
    const PanelShape& shape = format.shape;
    const std::int64_t tile_rows = tile_rows_for(format.kernels, group);
    // Blocks small enough that every thread gets several, or one where each has its own split.
    const std::int64_t most = round_up(kBlockBytes / shape.query_bytes, tile_rows);
    block = round_up(splits == threads ? group : divide_up(group, 4 * threads), tile_rows);
    block = std::clamp<std::int64_t>(block, tile_rows, std::max<std::int64_t>(most, tile_rows));
    samples = !has_halves && sample.rows > 0 && splits == 1 && group >= kFewQueries * threads;
    // A region that several blocks scan should stay in a cache.
    const bool scanned_once = group <= block * threads;
    const std::int64_t region_bytes = format.packed != nullptr && scanned_once
                                          ? kIndexRegionBytes
                                          : kRegionBytes * std::max<std::int64_t>(threads / 4, 1);
    const auto panels_in = [&](std::int64_t bytes) {
      return std::max<std::int64_t>(bytes / shape.bytes, kMaxTilePanels * splits);
    };
    region_panels = std::min(panels_in(region_bytes), divide_up(call.corpus.rows, kLanes));
    sample_panels = std::min(panels_in(kRegionBytes), divide_up(sample.rows, kLanes));
    buffer_panels =
        std::max(format.packed != nullptr ? 0 : region_panels, samples ? sample_panels : 0);
  }

  // Whether reading the rows that passed takes less than halves have saved.
  bool halves_pay(std::int64_t passed, std::int64_t halved_rows, const Matrix& corpus) const {
    const std::int64_t saved_bytes = format.shape.bytes - halves.shape.bytes;  // of a panel
    const std::int64_t row_bytes = corpus.columns * element_bytes(corpus.dtype);
    return passed * row_bytes * kLanes <= halved_rows * saved_bytes;
  }

  // Where the region ends that begins at a panel. With halves, regions grow from a share of the
  // corpus on, so that each begins with a threshold from many rows.
  std::int64_t region_end(std::int64_t begin, std::int64_t region, std::int64_t panels) const {
    if (has_halves) region = std::min(std::max(begin, divide_up(panels, kFirstShare)), region);
    return std::min(begin + region, panels);
  }

 private:
  static constexpr std::int64_t kCandidateBytes = 32 << 20;
  // Where fewer than kManyQueries would fit: each group packs the corpus once more.
  static constexpr std::int64_t kMostCandidateBytes = 64 << 20;
  static constexpr std::int64_t kManyQueries = 2048;
  static constexpr std::int64_t kRegionBytes = 2 << 20;
  static constexpr std::int64_t kIndexRegionBytes = 64
                                                    << 20;  // how often a search reports progress
  static constexpr std::int64_t kBlockBytes = 192 << 10;    // of queries, in the second-level cache
  static constexpr std::int64_t kFewQueries = 64;  // per thread; below it corpora are split

  static constexpr std::int64_t kHalvesCandidates = 1 << 15;  // of a query; scored late, if at all
  static constexpr std::int64_t kFirstShare = 32;

  static const ScanKernels& choose_scan(const TopkCall& call, const KernelTable& kernels) {
    if (call.precision == Precision::kBFloat16) return kernels.bfloat16;
    if (call.precision == Precision::kInt8) return kernels.int8;
    if (call.packed.data != nullptr) return packed_scan(kernels, call.queries, call.metric);
    return exact_scan(kernels, call.queries, call.corpus, call.metric);
  }
  static TopkFormat choose_format(const TopkCall& call, const KernelTable& kernels) {
    const ScanKernels& scan = choose_scan(call, kernels);
    return {scan, call.corpus.columns, &scan == &kernels.bfloat16 ? nullptr : call.packed.data};
  }
};

}  // namespace stope
