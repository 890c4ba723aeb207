// The walk that searches have in common; what they do with the lists of candidates is their own.
//
//   for each pass of queries (plan.cpp)
//     pack the queries
//     for each chunk of the corpus within reach
//       pack the chunk, unless the caller has packed the corpus
//       for each group of the pass (their lists fit a budget)
//         scan the chunk (score a tile -> exclude -> candidates) -> consume the lists
//
// Everything is queued on the caller's stream, and nothing waits, unless the corpus is in host
// memory: then it passes through two buffers (host_rows.h), and the host waits for those.
#pragma once

#include <limits>
#include <optional>

#include "host_rows.h"
#include "plan.h"
#include "rescore.cuh"

namespace stope::cuda {

// What a search looks at, beside what its call says.
struct SearchScope {
  Reach reach = Reach::kAll;            // else queries are rows of the corpus
  std::int64_t first_place = 0;         // that of the first query, also in messages
  const std::int64_t* order = nullptr;  // on the device: the row in each place
  // Of queries that have none of their own.
  float floor = -std::numeric_limits<float>::infinity();
};

class Search {
 public:
  // `memory` is the plan's; the call outlives the search.
  Search(const TopkCall& call, const CudaTopkPlan& plan, const TopkMemory& memory,
         const SearchScope& scope);
  virtual ~Search() = default;
  Search(const Search&) = delete;
  Search& operator=(const Search&) = delete;

  void walk();
  // Waits; throws if a row was found that may not be searched.
  void raise() const;

 protected:
  // The lists of `queries` of the pass from `first` on, after each chunk and after the `last` one.
  virtual void consume(std::int64_t first, std::int64_t queries, bool last) = 0;
  Rescoring rescoring(std::int64_t first) const;

  const TopkCall& call_;
  void* const stream_;
  const CudaTopkPlan plan_;
  const TopkMemory memory_;

 private:
  struct Range {
    std::int64_t first, end;
  };
  // The rows within reach of a pass.
  Range range(std::int64_t first_query) const;
  void start();
  void work_on_chunk(std::int64_t end);
  void scan(std::int64_t first, std::int64_t queries);
  void pack(const Matrix& matrix, std::int64_t first, std::int64_t rows, std::int64_t first_id,
            const Panels& panels, RowFactors* factors, RowFaults* faults) const;

  const SearchScope scope_;
  const BoundRules rules_;
  RowFaults* const corpus_faults_;
  std::optional<HostRows> host_rows_;
  std::int64_t first_query_ = 0, queries_ = 0;  // of the pass
  std::int64_t first_row_ = 0, rows_ = 0;       // of the chunk
  Matrix corpus_;                               // what is on the device of it, from first_id_ on
  std::int64_t first_id_ = 0;
  Panels panels_ = {};  // of the chunk
};

// The k best within the scope (topk.cu).
void topk_within(const TopkCall& call, const CudaTopkPlan& plan, const TopkMemory& memory,
                 const SearchScope& scope);

}  // namespace stope::cuda
