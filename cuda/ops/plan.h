// What each operation takes from the workspace, and in which portions it works: plain C++, so that
// tests reach it without a GPU.
#pragma once

#include "stope/group_sums.h"
#include "stope/hard_negatives.h"
#include "stope/neighbors.h"
#include "stope/similarity.h"
#include "stope/topk.h"
#include "stope/workspace.h"
#include "types.h"

namespace stope::cuda {

struct SimilarityMemory {
  RowFaults* faults;    // [2], of the queries and of the corpus
  RowFactors* queries;  // [queries.rows]
  RowFactors* corpus;   // [corpus.rows]

  SimilarityMemory(const SimilarityCall& call, Workspace* workspace)
      : faults(workspace->take<RowFaults>(2)),
        queries(workspace->take<RowFactors>(call.queries.rows)),
        corpus(workspace->take<RowFactors>(call.corpus.rows)) {}
};

struct PairMemory {
  RowFaults* faults;      // [2]
  RowFactors* queries;    // [queries.rows]
  std::int64_t* offsets;  // [queries.rows + 1], the call's lists on the device
  std::int64_t* ids;

  PairMemory(const PairScoresCall& call, Workspace* workspace)
      : faults(workspace->take<RowFaults>(2)),
        queries(workspace->take<RowFactors>(call.queries.rows)),
        offsets(workspace->take<std::int64_t>(call.queries.rows + 1)),
        ids(workspace->take<std::int64_t>(call.pairs.offsets[call.queries.rows])) {}
};

struct GroupSumsMemory {
  RowFaults* faults;    // [2], the first of them used
  RowFactors* factors;  // [rows.rows]

  GroupSumsMemory(const GroupSumsCall& call, Workspace* workspace)
      : faults(workspace->take<RowFaults>(2)),
        factors(workspace->take<RowFactors>(call.rows.rows)) {}
};

inline std::int64_t row_bytes(const Matrix& matrix) {
  return matrix.columns * element_bytes(matrix.dtype);
}

inline Panels panels_at(void* data, std::int64_t panel_rows, std::int64_t depth_padded) {
  const std::int64_t row_bytes = depth_padded * static_cast<std::int64_t>(sizeof(std::uint16_t)) +
                                 static_cast<std::int64_t>(sizeof(ScanRow));
  return {data, panel_rows, panel_rows * row_bytes, depth_padded};
}
// Rows of the corpus are packed in panels of a tile, so that a packed corpus can grow.
inline Panels corpus_panels(void* data, std::int64_t columns) {
  return panels_at(data, kTileSide, round_up(columns, kSlabDepth));
}

inline constexpr int kBlocks = 2;  // of host rows: one is scanned while the other one arrives

struct TopkMemory {
  RowFaults* faults;  // [2]
  // Of one pass:
  Panels queries;       // one panel of [pass] rows
  RowFactors* factors;  // [pass]
  QueryBound* bounds;   // [pass]
  QueryTerms* terms;    // [pass]
  QueryState* states;   // [pass]
  std::int64_t* above;  // [pass]
  Candidate* kept;      // [pass][k] between two chunks, where a pass has several groups
  // Of one group of queries:
  Candidate* entries;  // [group][capacity]
  // Of one chunk of the corpus:
  Panels corpus;      // [chunk] rows, or all that the caller has packed
  std::byte* blocks;  // [kBlocks][chunk] rows as they come from host memory, if they do
  // What the call has in host memory, where it has it:
  std::int64_t* exclude_offsets;  // [queries.rows + 1]
  std::int64_t* exclude_ids;
  float* ceilings;  // [queries.rows]
  float* floors;    // [queries.rows]

  TopkMemory(const TopkCall& call, const CudaTopkPlan& plan, Workspace* w)
      : faults(w->take<RowFaults>(2)),
        queries(panels_at(nullptr, plan.pass, plan.depth_padded)),
        factors(w->take<RowFactors>(plan.pass)),
        bounds(w->take<QueryBound>(plan.pass)),
        terms(w->take<QueryTerms>(plan.pass)),
        states(w->take<QueryState>(plan.pass)),
        above(w->take<std::int64_t>(plan.pass)),
        kept(plan.pass > plan.group ? w->take<Candidate>(plan.pass * call.k) : nullptr),
        entries(w->take<Candidate>(plan.group * plan.capacity)),
        corpus(corpus_panels(const_cast<void*>(call.packed.data), call.corpus.columns)),
        blocks(plan.streams ? w->take<std::byte>(kBlocks * plan.chunk * row_bytes(call.corpus))
                            : nullptr),
        exclude_offsets(optional(call.exclude.offsets, call.queries.rows + 1, w)),
        exclude_ids(optional(call.exclude.offsets, excluded(call), w)),
        ceilings(optional(call.ceilings, call.queries.rows, w)),
        floors(optional(call.floors, call.queries.rows, w)) {
    queries.data = w->take<std::byte>(queries.panel_bytes);
    if (call.packed.data == nullptr)
      corpus.data = w->take<std::byte>(plan.chunk / kTileSide * corpus.panel_bytes);
  }

  static std::int64_t excluded(const TopkCall& call) {
    return call.exclude.offsets == nullptr ? 0 : call.exclude.offsets[call.queries.rows];
  }

 private:
  template <typename T>
  static T* optional(const T* given, std::int64_t count, Workspace* workspace) {
    return given == nullptr ? nullptr : workspace->take<T>(count);
  }
};

// Searches of rows among each other, as topk's calls.
TopkCall topk_call(const NearestEarlierCall& call);
TopkCall topk_call(const PairsAboveCall& call);

struct NearestEarlierMemory {
  TopkCall search;
  CudaTopkPlan plan;
  std::int64_t* order;  // [rows.rows], where the call has one
  TopkMemory lists;

  NearestEarlierMemory(const NearestEarlierCall& call, Workspace* workspace)
      : search(topk_call(call)),
        plan(plan_topk_cuda(search)),
        order(call.order == nullptr ? nullptr : workspace->take<std::int64_t>(call.rows.rows)),
        lists(search, plan, workspace) {}
};

struct PairsAboveMemory {
  TopkCall search;
  CudaTopkPlan plan;
  std::int64_t* total;
  std::int64_t* starts;  // [end - first]
  FoundPair* pairs;      // [capacity]
  Candidate* ordered;    // [capacity]
  TopkMemory lists;

  PairsAboveMemory(const PairsAboveCall& call, Workspace* workspace)
      : search(topk_call(call)),
        plan(plan_topk_cuda(search)),
        total(workspace->take<std::int64_t>(1)),
        starts(workspace->take<std::int64_t>(call.end - call.first)),
        pairs(workspace->take<FoundPair>(call.capacity)),
        ordered(workspace->take<Candidate>(call.capacity)),
        lists(search, plan, workspace) {}
};

}  // namespace stope::cuda
