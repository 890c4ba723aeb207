// Canonical scores for the candidates of many queries at once, in the order of the corpus: a row is
// read once for all queries of a block that want it, where query after query would read rows here
// and there, each as often as it is wanted.
//
//   task = (block of queries that fit a cache) x (range of rows)
//     for each chunk of rows
//       gather the block's open candidates in the chunk, order them by row
//       for each row: score it against its queries, four at a time
#pragma once

#include <algorithm>

#include "candidates.h"
#include "stope/workspace.h"

namespace stope {

// A query and its candidates, in ascending order of ids.
struct RescoreQuery {
  QueryRow query;
  Candidate* entries;
  std::int64_t count;
};

class RowwiseRescorer {
  struct Pair {
    Candidate* entry;
    QueryRow query;
  };

 public:
  RowwiseRescorer(const ExactScorer& scorer, const Matrix& corpus, std::int64_t threads)
      : scorer_(scorer),
        rows_(corpus.rows),
        most_queries_(std::max<std::int64_t>(
            kBlockBytes / (corpus.columns * static_cast<std::int64_t>(sizeof(float))), 32)),
        threads_(threads) {}

  // What a thread needs while it works on a task.
  struct Scratch {
    std::int64_t* cursors;  // [block_queries]
    Pair* pairs;            // [kPairs]
    Pair* ordered;          // [kPairs]
    float* rows;            // [ExactScorer::scratch_floats(depth)]
  };

  Scratch take(Workspace* workspace, std::int64_t queries, float* rows) const {
    return {workspace->take<std::int64_t>(std::min(most_queries_, queries)),
            workspace->take<Pair>(kPairs), workspace->take<Pair>(kPairs), rows};
  }

  std::int64_t tasks(std::int64_t queries) const { return blocks(queries) * ranges(queries); }

  // query(i) returns the RescoreQuery of query i of `queries`.
  template <typename Query>
  void run(std::int64_t task, std::int64_t queries, Query&& query, const Scratch& scratch) const {
    const std::int64_t parts = blocks(queries), per_block = divide_up(queries, parts);
    const std::int64_t first = task % parts * per_block, end = std::min(first + per_block, queries);
    const std::int64_t per_range = round_up(divide_up(rows_, ranges(queries)), kChunkRows);
    const std::int64_t row = task / parts * per_range, row_end = std::min(row + per_range, rows_);
    for (std::int64_t i = first; i < end; ++i) {
      const RescoreQuery q = query(i);
      scratch.cursors[i - first] =
          std::lower_bound(q.entries, q.entries + q.count, row,
                           [](const Candidate& entry, std::int64_t id) { return entry.id < id; }) -
          q.entries;
    }
    for (std::int64_t chunk = row; chunk < row_end; chunk += kChunkRows) {
      const std::int64_t chunk_end = std::min(chunk + kChunkRows, row_end);
      std::int64_t count = 0;
      for (std::int64_t i = first; i < end; ++i) {
        const RescoreQuery q = query(i);
        std::int64_t c = scratch.cursors[i - first];
        for (; c < q.count && q.entries[c].id < chunk_end; ++c) {
          if (q.entries[c].exact()) continue;
          if (count == kPairs) {
            score(chunk, scratch, count);
            count = 0;
          }
          scratch.pairs[count++] = {&q.entries[c], q.query};
        }
        scratch.cursors[i - first] = c;
      }
      score(chunk, scratch, count);
    }
  }

 private:
  static constexpr std::int64_t kBlockBytes = 3 << 19;  // of queries, in the second-level cache
  static constexpr std::int64_t kChunkRows = 1024;
  static constexpr std::int64_t kPairs = 4096;
  static constexpr std::int64_t kTasksPerThread = 4;
  static constexpr int kAhead = 6;  // rows under way from memory

  std::int64_t blocks(std::int64_t queries) const { return divide_up(queries, most_queries_); }
  std::int64_t ranges(std::int64_t queries) const {
    const std::int64_t wanted = divide_up(kTasksPerThread * threads_, blocks(queries));
    return std::clamp<std::int64_t>(wanted, 1, divide_up(rows_, kChunkRows));
  }

  // The pairs of one chunk, in any order.
  void score(std::int64_t chunk, const Scratch& scratch, std::int64_t count) const {
    std::int32_t starts[kChunkRows + 1] = {};
    for (std::int64_t p = 0; p < count; ++p) ++starts[scratch.pairs[p].entry->id - chunk + 1];
    for (std::int64_t r = 0; r < kChunkRows; ++r) starts[r + 1] += starts[r];
    for (std::int64_t p = 0; p < count; ++p)
      scratch.ordered[starts[scratch.pairs[p].entry->id - chunk]++] = scratch.pairs[p];
    const Pair* end = scratch.ordered + count;
    const Pair* ahead = scratch.ordered;
    for (int a = 0; a < kAhead; ++a) ahead = prefetch(ahead, end);
    for (const Pair* pair = scratch.ordered; pair < end;) {
      ahead = prefetch(ahead, end);
      const std::int32_t id = pair->entry->id;
      QueryRow queries[ExactScorer::kBatch];
      float scores[ExactScorer::kBatch];
      int wanted = 0;
      for (; wanted < ExactScorer::kBatch && pair + wanted < end && pair[wanted].entry->id == id;
           ++wanted)
        queries[wanted] = pair[wanted].query;
      scorer_.score_row(id, queries, wanted, scratch.rows, scores);
      for (int w = 0; w < wanted; ++w, ++pair) pair->entry->lower = pair->entry->upper = scores[w];
    }
  }

  // The row of `pair` is asked for; returns the first pair of the next row.
  const Pair* prefetch(const Pair* pair, const Pair* end) const {
    if (pair == end) return end;
    const std::int32_t id = pair->entry->id;
    scorer_.prefetch(id);
    while (pair < end && pair->entry->id == id) ++pair;
    return pair;
  }

  const ExactScorer& scorer_;
  std::int64_t rows_, most_queries_, threads_;
};

}  // namespace stope
