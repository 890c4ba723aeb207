// Blocks of rows against blocks of rows, for answers about all pairs of rows: a task packs the two
// blocks that it scans in its own thread's memory, so that nothing is kept of them. Panels that an
// index has are read where they are.
//
// Rows stand in places: the caller's order, or that of the matrix. The pairs of blocks of one
// matrix come in rounds, in each of which no block occurs twice: whatever a task keeps of the rows
// of its two blocks is its own while it runs, without locks.
#pragma once

#include <algorithm>
#include <bit>

#include "bounds.h"
#include "heads.h"
#include "packing.h"
#include "rows.h"
#include "scan.h"
#include "tasks.h"

namespace stope {

// Rows of a matrix in an order: place p holds row order[p], or row p.
struct PlacedRows {
  const Matrix& matrix;
  const std::int64_t* order = nullptr;
  std::int64_t row(std::int64_t place) const { return order == nullptr ? place : order[place]; }
};

// Places [first, end).
struct Block {
  std::int64_t first, end;
  std::int64_t count() const { return end - first; }
};

// Groups of places, one after another, in each of which rows are compared: where they begin, and
// the end of the last; or all rows together.
struct PlaceGroups {
  const std::int64_t* offsets;  // optional [count + 1]
  std::int64_t count, rows;
  Block at(std::int64_t group) const {
    return offsets == nullptr ? Block{0, rows} : Block{offsets[group], offsets[group + 1]};
  }
};

// Tasks of groups, one group's after another's: `starts` tells them, [groups + 1].
class GroupTasks {
 public:
  GroupTasks(std::int64_t* starts, std::int64_t groups) : starts_(starts), groups_(groups) {}
  // Group g has tasks(g) of them; returns how many there are.
  template <typename Tasks>
  std::int64_t set(Tasks&& tasks) {
    starts_[0] = 0;
    for (std::int64_t g = 0; g < groups_; ++g) starts_[g + 1] = starts_[g] + tasks(g);
    return starts_[groups_];
  }
  // Of a task its group; the task then counts in it.
  std::int64_t group_of(std::int64_t* task) const {
    const std::int64_t* after = std::upper_bound(starts_, starts_ + groups_ + 1, *task);
    *task -= after[-1];
    return after - starts_ - 1;
  }

 private:
  std::int64_t* starts_;
  std::int64_t groups_;
};

inline Block block_at(std::int64_t index, std::int64_t rows, std::int64_t all) {
  return {index * rows, std::min((index + 1) * rows, all)};
}

// Which columns a row is scored against, by their places.
enum class Reach { kAll, kEarlier, kLater };

// How many blocks of all rows keep threads busy. They are packed again for each that they meet, so
// that one thread is better off with few.
inline std::int64_t blocks_for(std::int64_t threads) {
  constexpr std::int64_t kBlocksPerThread = 8;
  return threads == 1 ? 1 : kBlocksPerThread * threads;
}

// The pairs of different blocks, as a tournament plays them: rounds() rounds of tasks() pairs.
class Tournament {
 public:
  explicit Tournament(std::int64_t blocks) : blocks_(blocks), seats_(round_up(blocks, 2)) {}
  std::int64_t rounds() const { return seats_ - 1; }
  std::int64_t tasks() const { return seats_ / 2; }
  // False where one of the two is missing; `later` has the higher number.
  bool pair(std::int64_t round, std::int64_t task, std::int64_t* earlier,
            std::int64_t* later) const {
    const std::int64_t turn = seats_ - 1;
    const std::int64_t a = task == 0 ? turn : (round + task) % turn;
    const std::int64_t b = (round + turn - task) % turn;
    *earlier = std::min(a, b);
    *later = std::max(a, b);
    return *later < blocks_;
  }

 private:
  std::int64_t blocks_, seats_;
};

// The blocks of each group of places: each by itself, and then all pairs of them. `starts` has room
// for the groups and one more.
class BlockRounds {
 public:
  BlockRounds(const PlaceGroups& groups, std::int64_t block_rows, std::int64_t* starts,
              const Execution& execution)
      : groups_(groups),
        block_rows_(block_rows),
        tasks_(starts, groups.count),
        execution_(execution) {
    for (std::int64_t g = 0; g < groups.count; ++g)
      if (blocks(g) > 1) total_ = std::max(total_, Tournament(blocks(g)).rounds() + 1);
  }

  // alone(block, thread); read() when that has seen every row; both(later, earlier, thread).
  template <typename Alone, typename Read, typename Both>
  void run(Alone&& alone, Read&& read, Both&& both) {
    const auto at = [&](std::int64_t group, std::int64_t index) {
      const Block all = groups_.at(group), block = block_at(index, block_rows_, all.count());
      return Block{all.first + block.first, all.first + block.end};
    };
    parallel(tasks_.set([&](std::int64_t g) { return blocks(g); }),
             [&](std::int64_t task, int thread) {
               const std::int64_t group = tasks_.group_of(&task);
               alone(at(group, task), thread);
             });
    read();
    for (done_ = 1; done_ < total_; ++done_) {
      const std::int64_t round = done_ - 1;
      const auto tasks = [&](std::int64_t g) {
        const Tournament tournament(blocks(g));
        return round < tournament.rounds() ? tournament.tasks() : 0;
      };
      parallel(tasks_.set(tasks), [&](std::int64_t task, int thread) {
        const std::int64_t group = tasks_.group_of(&task);
        std::int64_t earlier, later;
        if (Tournament(blocks(group)).pair(round, task, &earlier, &later))
          both(at(group, later), at(group, earlier), thread);
      });
    }
  }

  // body(task, thread) for every task; progress is counted in rounds.
  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    run_tasks(execution_, tasks, [this] { return tell(execution_, done_, total_); }, body);
  }

 private:
  std::int64_t blocks(std::int64_t group) const {
    return divide_up(groups_.at(group).count(), block_rows_);
  }

  const PlaceGroups groups_;
  const std::int64_t block_rows_;
  GroupTasks tasks_;
  std::int64_t done_ = 0, total_ = 1;
  const Execution& execution_;
};

// What a thread lends to a task.
struct BlockScratch {
  std::int8_t* codes;  // of the queries
  QueryBound* bounds;  // of the queries
  RowTerms* terms;     // of the queries
  std::int8_t* panels;
  float* pack;   // [kLanes * depth]
  float* query;  // [depth]
  float* rows;   // [ExactScorer::scratch_floats(depth)]
  float* kept;   // [kept rows][depth], the first of the columns
  HeadScratch heads;
};

class BlockScan {
 public:
  // With `heads`, select looks at the first part of the depth where that spares products; with
  // `keeps`, columns that had to be normalised or widened are kept, as many as fit a cache, for
  // values_at.
  BlockScan(const KernelTable& kernels, const Matrix& queries, const Matrix& corpus, Metric metric,
            const void* packed, bool heads, bool keeps = false)
      : kernels_(kernels),
        scan_(packed == nullptr ? exact_scan(kernels, queries, corpus, metric)
                                : packed_scan(kernels, queries, metric)),
        metric_(metric),
        packed_(static_cast<const std::int8_t*>(packed)),
        shape_(corpus.columns, scan_.element_bytes),
        bounds_(metric, corpus.columns, &scan_ != &kernels.bfloat16, false),
        heads_(kernels, scan_, shape_, bounds_, heads && packed == nullptr),
        kept_rows_(keeps && packed == nullptr && !read_in_place(corpus, metric)
                       ? kKeptBytes / (corpus.columns * std::int64_t{sizeof(float)})
                       : 0) {}
  BlockScan(const BlockScan&) = delete;  // heads_ refers to the others
  BlockScan& operator=(const BlockScan&) = delete;

  // Rows of a block where `tasks` blocks are wanted of `rows`: whole tiles, few enough for a cache.
  std::int64_t block_rows(std::int64_t rows, std::int64_t tasks) const {
    const std::int64_t most = std::clamp(kBlockBytes / shape_.query_bytes, kLeastRows, kMostRows);
    const std::int64_t wanted = std::max(divide_up(rows, tasks), kLeastRows);
    return round_up(std::min(wanted, most), kMultiple);
  }

  BlockScratch take(Workspace* workspace, std::int64_t query_rows, std::int64_t panel_rows) const {
    BlockScratch scratch = {};
    scratch.codes = workspace->take<std::int8_t>((query_rows + kMaxTileRows) * shape_.query_bytes);
    scratch.bounds = workspace->take<QueryBound>(query_rows);
    scratch.terms = workspace->take<RowTerms>(query_rows);
    if (packed_ == nullptr)
      scratch.panels = workspace->take<std::int8_t>(divide_up(panel_rows, kLanes) * shape_.bytes);
    scratch.pack = workspace->take<float>(kLanes * shape_.depth);
    scratch.query = workspace->take<float>(shape_.depth);
    scratch.rows = workspace->take<float>(ExactScorer::scratch_floats(shape_.depth));
    scratch.kept = workspace->take<float>(std::min(kept_rows_, panel_rows) * shape_.depth);
    scratch.heads = heads_.take(workspace, query_rows, panel_rows);
    return scratch;
  }

  // The float row at a place, which is among the kept ones of the columns or made in `buffer`.
  const float* values_at(const PlacedRows& rows, std::int64_t place, const Block& columns,
                         const BlockScratch& scratch, float* buffer) const {
    const std::int64_t column = place - columns.first;
    if (column >= 0 && column < std::min(columns.count(), kept_rows_))
      return scratch.kept + column * shape_.depth;
    return float_row(kernels_, rows.matrix, metric_, rows.row(place), buffer);
  }

  // Quantises the block's rows; least(place) is the score that a row's candidates must reach.
  // `loaded` are the columns, where they were loaded before.
  template <typename Least>
  void load_queries(const PlacedRows& rows, const Block& block, Least&& least,
                    const BlockScratch& scratch, RowFault* fault,
                    const Block& loaded = {0, 0}) const {
    const float scale = fixed_scale(rows.matrix, metric_);
    const bool heads = heads_.cuts() > 0;
    for (std::int64_t i = 0; i < block.count(); ++i) {
      const std::int64_t row = rows.row(block.first + i);
      prefetch_ahead(rows, block.first + i, block.end);
      const float* values = values_at(rows, block.first + i, loaded, scratch, scratch.query);
      RowStats stats;
      scan_.quantise(values, shape_.depth, shape_.depth_padded, scale,
                     scratch.codes + i * shape_.query_bytes, &stats);
      fault->note(stats, row);
      if (heads) heads_.add_row(values, stats, i, scratch.heads);
      scratch.bounds[i] = bounds_.query(stats);
      scratch.terms[i] = bounds_.terms(scratch.bounds[i], least(block.first + i), kInfinity);
    }
    std::fill_n(scratch.codes + block.count() * shape_.query_bytes,
                kMaxTileRows * shape_.query_bytes, std::int8_t{0});
    level_terms(scratch.terms, block.count(), scan_.tile_rows);
  }

  void load_panels(const PlacedRows& rows, const Block& block, const BlockScratch& scratch,
                   RowFault* fault) const {
    if (packed_ != nullptr) return;
    const float scale = fixed_scale(rows.matrix, metric_);
    scan_.begin_tiles();
    for (std::int64_t first = 0; first < block.count(); first += kLanes) {
      std::int64_t ids[kLanes];
      const float* values[kLanes] = {};
      const int count = static_cast<int>(std::min<std::int64_t>(kLanes, block.count() - first));
      for (int c = 0; c < count; ++c) {
        ids[c] = rows.row(block.first + first + c);
        prefetch_ahead(rows, block.first + first + c, block.end);
        float* row = first + c < kept_rows_ ? scratch.kept + (first + c) * shape_.depth
                                            : scratch.pack + c * shape_.depth;
        values[c] = float_row(kernels_, rows.matrix, metric_, ids[c], row);
      }
      std::int8_t* panel = scratch.panels + first / kLanes * shape_.bytes;
      pack_floats(scan_, values, ids, count, scale, shape_, panel, fault);
      if (heads_.cuts() > 0) heads_.add_panel(values, count, panel, first, scratch.heads);
    }
    scan_.end_tiles();
  }

  // consume(first_query, rows, first_column, panels, tile) for the tiles of two blocks that have
  // pairs within reach, and are worth it (scan.h); the entries of the others are excluded. Queries
  // and columns count from the beginning of their blocks.
  template <typename Consumer, typename Worth>
  void run(const Block& queries, const Block& columns, Reach reach, const BlockScratch& scratch,
           Consumer&& consume, Worth&& worth) const {
    const std::int8_t* block =
        packed_ == nullptr ? scratch.panels : packed_ + columns.first / kLanes * shape_.bytes;
    // As many queries as the second-level cache holds, at once.
    const std::int64_t part = round_up(kPartBytes / shape_.query_bytes + 1, scan_.tile_rows);
    for (std::int64_t begin = 0; begin < queries.count(); begin += part) {
      const std::int64_t end = std::min(begin + part, queries.count());
      std::int64_t first_column = 0, end_column = columns.count();
      if (reach == Reach::kLater)
        first_column = std::max<std::int64_t>(queries.first + begin + 1 - columns.first, 0);
      if (reach == Reach::kEarlier)
        end_column = std::min(queries.first + end - 1 - columns.first, end_column);
      const std::int64_t first = first_column / kLanes;
      if (first_column >= end_column) continue;
      const ScanPanels panels = {block + first * shape_.bytes, first,
                                 divide_up(end_column, kLanes)};
      scan(
          scan_, shape_, {scratch.codes, begin, end}, panels,
          [&](std::int64_t row, int rows, std::int64_t panel, const PanelRun& run,
              TileEntry* tile) {
            exclude(reach, queries.first + row, rows, columns, panel * kLanes, run.count * kLanes,
                    tile);
            consume(row, rows, panel * kLanes, run, tile);
          },
          [&](std::int64_t row, const QueryTile& tile_queries, std::int64_t panel,
              const PanelRun& run, TileEntry* tile) {
            const std::int64_t self = queries.first + row - columns.first - panel * kLanes;
            if (reach == Reach::kEarlier && self + tile_queries.rows <= 1) return false;
            if (reach == Reach::kLater && self + 1 >= run.count * kLanes) return false;
            return worth(row, tile_queries, panel, run, tile);
          });
    }
  }

  // collect(query, first_column, mask, panels, dots) for the rows of tiles that may have an entry
  // to reach the row's terms; the mask has a bit for each that may.
  template <typename Collect>
  void select(const Block& queries, const Block& columns, Reach reach, const BlockScratch& scratch,
              Collect&& collect) const {
    std::uint64_t masks[kMaxTileRows];
    run(
        queries, columns, reach, scratch,
        [&](std::int64_t row, int rows, std::int64_t column, const PanelRun& panels,
            const TileEntry* tile) {
          std::uint32_t hits = scan_.select(tile, kTileStride, rows, scratch.terms + row, &panels,
                                            bounds_.euclidean(), masks, nullptr);
          for (; hits != 0; hits &= hits - 1) {
            const int r = std::countr_zero(hits);
            collect(row + r, column, masks[r], panels, tile + r * kTileStride);
          }
        },
        [&](std::int64_t row, const QueryTile& tile_queries, std::int64_t panel,
            const PanelRun& panels, TileEntry* tile) {
          return heads_.cuts() == 0 || heads_.hit(tile_queries, row, panel * kLanes,
                                                  scratch.terms + row, panels, tile, scratch.heads);
        });
  }

  // What the scan says of one entry: the bounds of its canonical score.
  Interval score(const QueryBound& query, const PanelRun& run, int column, TileEntry dot) const {
    const PanelFooter& footer = shape_.footer(run.data + column / kLanes * shape_.bytes);
    return bounds_.score(query, footer, column % kLanes, bounds_.dot(dot));
  }
  bool excluded(TileEntry entry) const { return entry.i32 == scan_.excluded.i32; }

  const KernelTable& kernels() const { return kernels_; }
  const ScanKernels& scan_kernels() const { return scan_; }
  const PanelShape& shape() const { return shape_; }
  const Bounds& bounds() const { return bounds_; }

 private:
  static constexpr std::int64_t kBlockBytes = 3 << 20;  // of queries, and of panels
  static constexpr std::int64_t kPartBytes = 192 << 10;
  static constexpr std::int64_t kKeptBytes = 3 << 20;
  static constexpr std::int64_t kLeastRows = 256;
  static constexpr std::int64_t kMostRows = 4096;  // a task should end before Ctrl-C seems dead
  static constexpr std::int64_t kMultiple = kMaxTilePanels * kLanes;

  // Rows in an order of their own lie here and there.
  void prefetch_ahead(const PlacedRows& rows, std::int64_t place, std::int64_t end) const {
    constexpr std::int64_t kAhead = 4;
    if (rows.order != nullptr && place + kAhead < end)
      prefetch_row(row_data(rows.matrix, rows.row(place + kAhead)),
                   shape_.depth * element_bytes(rows.matrix.dtype));
  }

  // `place` is that of the tile's first row, `column` counts from the block's beginning.
  void exclude(Reach reach, std::int64_t place, int rows, const Block& columns, std::int64_t column,
               std::int64_t width, TileEntry* tile) const {
    const std::int64_t valid = std::min(columns.count() - column, width);
    const std::int64_t first = place - columns.first - column;  // the column that is the first row
    const bool whole = reach == Reach::kAll || (reach == Reach::kEarlier && first >= width) ||
                       (reach == Reach::kLater && first + rows <= 0);
    if (whole && valid == width) return;
    for (int r = 0; r < rows; ++r) {
      TileEntry* entries = tile + r * kTileStride;
      const std::int64_t self = first + r;
      std::fill(entries + valid, entries + width, scan_.excluded);
      if (reach == Reach::kEarlier)
        std::fill(entries + std::clamp<std::int64_t>(self, 0, valid), entries + valid,
                  scan_.excluded);
      else if (reach == Reach::kLater)
        std::fill(entries, entries + std::clamp<std::int64_t>(self + 1, 0, valid), scan_.excluded);
    }
  }

  const KernelTable& kernels_;
  const ScanKernels& scan_;
  Metric metric_;
  const std::int8_t* packed_;  // of the whole corpus, whose blocks then begin with a panel
  PanelShape shape_;
  Bounds bounds_;
  Heads heads_;
  const std::int64_t kept_rows_;
};

}  // namespace stope
