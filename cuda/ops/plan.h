// What each operation takes from the workspace, and in which portions it works: plain C++, so that
// tests reach it without a GPU.
#pragma once

#include "stope/hard_negatives.h"
#include "stope/similarity.h"
#include "types.h"
#include "workspace.h"

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

}  // namespace stope::cuda
