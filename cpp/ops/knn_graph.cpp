// knn_graph: of every row the k best others. A score serves both of its rows: half the products.
//
//   for each block against itself, and then for each pair of blocks of each round of a tournament,
//   in parallel
//     scan: a tile -> select by the rows' thresholds, select by the columns' thresholds -> both
//           rows' candidates
//   for each row, in parallel: rescore, order, write
//
// A block has but one task in a round, so that the lists of its rows are the task's own. Extra
// memory: a list of 2k + 98 candidates for every row, since all are open until the end.
#include <bit>

#include "blocks.h"
#include "candidates.h"
#include "dispatch.h"
#include "stope/neighbors.h"

namespace stope {
namespace {

constexpr std::int64_t kRowsPerTask = 64;

class KnnGraph {
 public:
  explicit KnnGraph(const KnnGraphCall& call, Workspace workspace = {})
      : call_(call),
        blocks_(stope::kernels(), call.rows, call.rows, call.metric, nullptr, false),
        scorer_(blocks_.kernels(), call.rows, call.rows, call.metric),
        selector_(blocks_.kernels(), call.k, capacity(), scorer_),
        rows_{call.rows},
        block_rows_(blocks_.block_rows(call.rows.rows, blocks_for(call.execution.threads))),
        workspace_(workspace) {
    const std::int64_t threads = call.execution.threads;
    entries_ = workspace_.take<Candidate>(call.rows.rows * capacity());
    lists_ = workspace_.take<CandidateList>(call.rows.rows);
    scratch_ = workspace_.take<Scratch>(threads);
    for (std::int64_t t = 0; t < threads; ++t) {
      Scratch scratch = {};
      scratch.blocks = blocks_.take(&workspace_, block_rows_, block_rows_);
      scratch.scale = workspace_.take<float>(block_rows_);
      scratch.half_square = workspace_.take<float>(block_rows_);
      scratch.lower = workspace_.take<float>(block_rows_);
      scratch.bias = workspace_.take<float>(block_rows_);
      scratch.tile_residual = workspace_.take<float>(tiles());
      scratch.tile_norm = workspace_.take<float>(tiles());
      scratch.candidates.lowers = workspace_.take<float>(capacity() + kLanes);
      scratch.candidates.rows = scratch.blocks.rows;
      if (scratch_ != nullptr) scratch_[t] = scratch;
    }
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    const std::int64_t rows = call_.rows.rows;
    for (std::int64_t i = 0; i < rows; ++i)
      lists_[i] = selector_.list(entries_ + i * capacity(), -kInfinity);
    std::int64_t starts[2];
    BlockRounds rounds({nullptr, 1, rows}, block_rows_, starts, call_.execution);
    rounds.run([&](const Block& block,
                   int thread) { scan_blocks(block, block, Reach::kEarlier, scratch_[thread]); },
               [&] { fault_.raise("x"); },
               [&](const Block& later, const Block& earlier, int thread) {
                 scan_blocks(later, earlier, Reach::kAll, scratch_[thread]);
               });
    rounds.parallel(divide_up(rows, kRowsPerTask), [&](std::int64_t task, int thread) {
      const Block block = block_at(task, kRowsPerTask, rows);
      if (block.count() > 0) ready(block.first, scratch_[thread]);
      for (std::int64_t row = block.first; row < block.end; ++row) {
        if (row + 1 < block.end) ready(row + 1, scratch_[thread]);
        finish(row, scratch_[thread]);
      }
    });
  }

 private:
  enum class Asking { kRow, kColumns };

  struct Scratch {
    BlockScratch blocks;
    float* scale;          // of the queries, as columns read them
    float* half_square;    // of the queries, likewise
    float* tile_residual;  // [tiles], the largest of a tile's queries
    float* tile_norm;
    float* lower;  // of the columns
    float* bias;   // of the columns
    CandidateScratch candidates;
  };

  std::int64_t capacity() const { return 2 * call_.k + 98; }
  std::int64_t tiles() const { return divide_up(block_rows_, blocks_.scan_kernels().tile_rows); }

  void scan_blocks(const Block& queries, const Block& columns, Reach reach,
                   const Scratch& scratch) {
    const BlockScratch& packed = scratch.blocks;
    const bool euclidean = blocks_.bounds().euclidean();
    const auto least = [&](std::int64_t place) { return lists_[place].least; };
    blocks_.load_queries(rows_, queries, least, packed, &fault_);
    blocks_.load_panels(rows_, columns, packed, &fault_);
    if (fault_.noted()) return;
    load_terms(queries, columns, scratch);
    const ScanKernels& scan = blocks_.scan_kernels();
    std::uint64_t masks[kMaxTileRows];
    blocks_.run(
        queries, columns, reach, packed,
        [&](std::int64_t row, int rows, std::int64_t column, const PanelRun& run,
            const TileEntry* tile) {
          std::uint32_t hits = scan.select(tile, kTileStride, rows, packed.terms + row, &run,
                                           euclidean, masks, nullptr);
          for (; hits != 0; hits &= hits - 1) {
            const int r = std::countr_zero(hits);
            offer_all(queries, row + r, columns, column, masks[r], run, tile + r * kTileStride,
                      scratch, Asking::kRow);
          }
          const std::int64_t t = row / scan.tile_rows;
          const ColumnTerms terms = {scratch.lower + column,   scratch.bias + column,
                                     scratch.scale + row,      scratch.half_square + row,
                                     scratch.tile_residual[t], scratch.tile_norm[t]};
          hits = scan.select_columns(tile, kTileStride, rows, &terms, &run, euclidean, masks);
          for (; hits != 0; hits &= hits - 1) {
            const int r = std::countr_zero(hits);
            offer_all(queries, row + r, columns, column, masks[r], run, tile + r * kTileStride,
                      scratch, Asking::kColumns);
          }
        },
        [](auto&&...) { return true; });
  }

  // What select_columns reads of the queries and of the columns.
  void load_terms(const Block& queries, const Block& columns, const Scratch& scratch) const {
    const std::int64_t tile_rows = blocks_.scan_kernels().tile_rows;
    std::fill_n(scratch.bias, block_rows_, 0.0f);
    std::fill_n(scratch.tile_residual, tiles(), 0.0f);
    std::fill_n(scratch.tile_norm, tiles(), 0.0f);
    for (std::int64_t i = 0; i < queries.count(); ++i) {
      const QueryBound& q = scratch.blocks.bounds[i];
      scratch.scale[i] = static_cast<float>(q.scale);
      scratch.half_square[i] = static_cast<float>(q.square_low / 2);
      float& residual = scratch.tile_residual[i / tile_rows];
      float& norm = scratch.tile_norm[i / tile_rows];
      residual = std::max(residual, Bounds::round_up(q.scale * q.residual_weight));
      norm = std::max(norm, Bounds::round_up(q.scale * q.norm_weight));
    }
    for (std::int64_t c = 0; c < round_up(columns.count(), kLanes); ++c) {
      if (c < columns.count())
        set_column(columns.first + c, c, scratch);
      else  // no row: nothing reaches it
        scratch.lower[c] = kInfinity;
    }
  }

  void set_column(std::int64_t row, std::int64_t c, const Scratch& scratch) const {
    const std::int8_t* panel = scratch.blocks.panels + c / kLanes * blocks_.shape().bytes;
    RowTerms terms;
    blocks_.bounds().set_lower(
        blocks_.bounds().column(blocks_.shape().footer(panel), static_cast<int>(c % kLanes)),
        lists_[row].least, &terms);
    scratch.lower[c] = terms.lower;
    scratch.bias[c] = terms.bias;
  }

  // The masked columns of one row of a tile, number `query` of its block, as candidates of that
  // row; or it as theirs.
  void offer_all(const Block& queries, std::int64_t query, const Block& columns,
                 std::int64_t column, std::uint64_t mask, const PanelRun& run,
                 const TileEntry* dots, const Scratch& scratch, Asking asking) {
    const std::int64_t row = queries.first + query;
    for (; mask != 0; mask &= mask - 1) {
      const int c = std::countr_zero(mask);
      if (blocks_.excluded(dots[c])) continue;
      const Interval score = blocks_.score(scratch.blocks.bounds[query], run, c, dots[c]);
      const std::int64_t other = columns.first + column + c;
      const std::int64_t owner = asking == Asking::kRow ? row : other;
      if (!offer(owner, asking == Asking::kRow ? other : row, score, scratch)) continue;
      // A block against itself has every row on both sides.
      const std::int64_t q = owner - queries.first, p = owner - columns.first;
      if (q >= 0 && q < queries.count())
        blocks_.bounds().set_lower(scratch.blocks.bounds[q], lists_[owner].least,
                                   &scratch.blocks.terms[q]);
      if (p >= 0 && p < columns.count()) set_column(owner, p, scratch);
    }
  }

  // True where the threshold of the row's list may have risen.
  bool offer(std::int64_t row, std::int64_t id, const Interval& score, const Scratch& scratch) {
    CandidateList& list = lists_[row];
    if (score.upper < list.least) return false;
    list.entries[list.count++] = {score.upper, score.lower, static_cast<std::int32_t>(id)};
    if (!selector_.due(list)) return false;
    Eligibility any;
    const bool full = list.count == capacity();  // then alone are rows read
    selector_.refine(&list, {row, full ? values(row, scratch) : nullptr}, &any, scratch.candidates);
    return true;
  }

  const float* values(std::int64_t row, const Scratch& scratch) const {
    return float_row(blocks_.kernels(), call_.rows, call_.metric, row, scratch.blocks.query);
  }

  // The row's last candidates are known, and on their way from memory.
  void ready(std::int64_t row, const Scratch& scratch) {
    selector_.tighten(&lists_[row], scratch.candidates.lowers);
    selector_.prefetch(lists_[row]);
  }

  void finish(std::int64_t row, const Scratch& scratch) {
    CandidateList& list = lists_[row];
    Eligibility any;
    selector_.finish(&list, {row, values(row, scratch)}, &any, scratch.candidates);
    for (std::int64_t r = 0; r < call_.k; ++r) {
      call_.scores[row * call_.k + r] = list.entries[r].upper;
      call_.ids[row * call_.k + r] = list.entries[r].id;
    }
  }

  const KnnGraphCall& call_;
  const BlockScan blocks_;
  const ExactScorer scorer_;
  const CandidateSelector selector_;
  const PlacedRows rows_;
  const std::int64_t block_rows_;
  Workspace workspace_;
  RowFault fault_;
  Candidate* entries_ = nullptr;    // [rows][capacity]
  CandidateList* lists_ = nullptr;  // [rows]
  Scratch* scratch_ = nullptr;
};

}  // namespace

std::size_t knn_graph_workspace_bytes(const KnnGraphCall& call) { return KnnGraph(call).bytes(); }

void knn_graph(const KnnGraphCall& call) { KnnGraph(call, Workspace(call.execution)).run(); }

}  // namespace stope
