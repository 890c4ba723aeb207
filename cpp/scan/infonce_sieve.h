// Scan, certify, skip: the loss where most of a row's softmax is nothing.
//
// Rows are scored against blocks of columns by codes of one byte. With the bound of that scan, an
// entry either is certain to lie below the row's least logit, and only its exponential counts, or
// it is scored canonically and handed on if it reaches that logit. So what is left out depends on
// canonical scores, on the scan's sums (the same on every ISA) and on shapes, not on the threads.
//
//   for every block of columns: quantise it, and widen it to rows of float32
//     for every strip of rows: score its codes -> mask -> sift -> score what passes
#pragma once

#include <bit>

#include "bounds.h"
#include "infonce_scan.h"

namespace stope {

// Columns of all passes.
std::int64_t infonce_columns(const InfonceProblem& problem);
// Whether the loss may leave something out, by its shapes and options alone.
bool may_sift(const InfonceProblem& problem);

// An entry with weight. place: row of the slab * kMostTileColumns + column of the block.
struct SiftedEntry {
  std::uint32_t place;
  float logit;
  std::int64_t row() const { return place / kMostTileColumns; }
  int column() const { return static_cast<int>(place % kMostTileColumns); }
};
static_assert(sizeof(SiftedEntry) == sizeof(std::uint64_t));

// A slab's part of what a forward pass remembers: how many entries (kForgotten: they did not fit),
// how many of every block, the entries by pass, block, row and column.
class SlabMemory {
 public:
  static constexpr std::uint64_t kForgotten = ~std::uint64_t{0};

  SlabMemory() = default;
  SlabMemory(const InfonceMemory& memory, std::int64_t slab, std::int64_t slabs,
             std::int64_t blocks) {
    const std::int64_t slots = memory.slots / slabs, head = 1 + divide_up(blocks, 2);
    if (slots <= head) return;
    total_ = memory.words + slab * slots;
    counts_ = reinterpret_cast<std::uint32_t*>(total_ + 1);
    entries_ = reinterpret_cast<SiftedEntry*>(total_ + head);
    room_ = slots - head;
  }
  bool remembers() const { return total_ != nullptr && *total_ != kForgotten; }
  // Returns whether there is room for them.
  bool begin(std::int64_t count) const {
    if (total_ == nullptr) return false;
    *total_ = count <= room_ ? static_cast<std::uint64_t>(count) : kForgotten;
    return count <= room_;
  }
  std::uint32_t* counts() const { return counts_; }
  SiftedEntry* entries() const { return entries_; }

 private:
  std::uint64_t* total_ = nullptr;
  std::uint32_t* counts_ = nullptr;
  SiftedEntry* entries_ = nullptr;
  std::int64_t room_ = 0;
};

class InfonceSieve : public InfonceScan {
 protected:
  InfonceSieve(const InfonceProblem& problem, Workspace workspace);

  // Beside an InfonceSpace, of a thread.
  struct Space {
    std::int8_t* codes;  // of a slab's rows
    QueryBound* bounds;  // of a slab's rows
    float* scales;       // of a slab's rows
    std::int8_t* panels;
    float* rows;            // [slab_rows][depth], canonical
    float* columns;         // [kMostTileColumns][depth], canonical
    float* scratch;         // [ExactScorer::scratch_floats(depth)]
    double residual, norm;  // the largest of the block's rows, times their scales
  };

  // A row of a tile, sifted: what passes, column by column.
  struct Passed {
    int count;
    int columns[kMostTileColumns];
    float scores[kMostTileColumns];  // canonical
    float logits[kMostTileColumns];
  };

  std::int64_t blocks_of(const InfoncePass& pass) const {
    return divide_up(pass.columns.count, tile_columns_);
  }
  std::int64_t all_blocks() const {
    std::int64_t blocks = 0;
    for (int p = 0; p < pass_count_; ++p) blocks += blocks_of(passes_[p]);
    return blocks;
  }

  // The positives' canonical scores of rows [begin, end), and the limits that follow from them.
  void find_canonical_limits(std::int64_t begin, std::int64_t end, int thread);

  void load_rows(const InfonceSide& side, std::int64_t begin, std::int64_t end, float* rows) const;
  void quantise_rows(std::int64_t count, const Space& space) const;
  void quantise_columns(std::int64_t count, Space* space) const;

  // before(block), body(tile, r, error) for every row of every tile that is wanted,
  // after(block, first_column); the tile of scores holds the scan's, none further than `error` from
  // the canonical one.
  template <typename Wanted, typename Before, typename Body, typename After>
  void sift(const InfoncePass& pass, std::int64_t begin, std::int64_t end, int thread,
            Wanted wanted, Before before, Body body, After after) {
    Space& space = sieves_[thread];
    const InfonceSpace& shared = spaces_[thread];
    load_rows(pass.rows, begin, end, space.rows);
    quantise_rows(end - begin, space);
    if (pass.guided) pack_rows(pass.guide_rows, begin, end, shared.guide_left, nullptr, shared);
    std::int64_t block = 0;
    for (std::int64_t c = 0; c < pass.columns.count; c += tile_columns_, ++block) {
      const std::int64_t last = std::min(c + tile_columns_, pass.columns.count);
      load_rows(pass.columns, c, last, space.columns);
      quantise_columns(last - c, &space);
      if (pass.guided)
        pack_columns(pass.guide_columns, c, last, shared.guide_right, nullptr, shared);
      before(block);
      InfonceTerms terms = terms_of(pass, c);
      const std::int64_t strip = kInfonceStrip / scan_.tile_rows * scan_.tile_rows;
      for (std::int64_t r = begin; r < end; r += strip) {
        const std::int64_t rows = std::min(strip, end - r);
        const InfonceTile tile = {&pass,
                                  &terms,
                                  r,
                                  c,
                                  static_cast<int>(rows),
                                  static_cast<int>(last - c),
                                  r - begin,
                                  is_plain(pass, terms, r, r + rows, c, last)};
        if (!wanted(tile)) continue;
        scan_tile(tile, space, shared);
        for (int row = 0; row < tile.rows; ++row)
          body(tile, row, error_of(space.bounds[tile.slab_row + row], space));
      }
      after(block, c);
    }
  }

  // Entries of a masked row of scores that may have a logit of `least` or more, scored
  // canonically; returns the sum of e^(logit - reference) of the others, by the scan's logits.
  // Logits of the scan are off by at most `slack`.
  float pass(const InfonceTile& tile, int r, double least, double slack, float reference,
             int thread, Passed* passed) const;
  // The canonical score of row r of the tile and column c of its block.
  float canonical(const InfonceTile& tile, int r, int c, int thread) const {
    const Space& space = sieves_[thread];
    const float *row = row_of(tile, r, space), *column = space.columns + c * depth_;
    float score;
    kernels_.exact_dot(&row, 1, &column, 1, depth_, &score, 1);
    return score;
  }
  // Scores that may lie on either side of `limit` become canonical.
  void settle_at(float limit, const InfonceTile& tile, int r, double error, int thread) const;
  // Likewise of the row's limits.
  void settle_limits(const InfonceTile& tile, int r, double error, int thread) const;

  // By how much a logit is off, at most, where its score is by `error`.
  double logit_error(const InfonceTile& tile, double error) const;

  Space sieves_[kMaxInfonceThreads];

 private:
  void scan_tile(const InfonceTile& tile, const Space& space, const InfonceSpace& shared) const;
  double error_of(const QueryBound& row, const Space& space) const {
    return row.scale * (row.residual_weight * space.residual + row.norm_weight * space.norm) +
           absolute_;
  }
  const float* row_of(const InfonceTile& tile, int r, const Space& space) const {
    return space.rows + (tile.slab_row + r) * depth_;
  }

  const ScanKernels& scan_;
  const PanelShape shape_;
  const Bounds bounds_;
  const double absolute_;
};

// The two passes of the loss through a sieve (cpp/ops). The forward one is false where the dense
// way is faster: nothing is left out then, and `out` is to be written anew.
std::size_t sieve_forward_workspace_bytes(const InfonceProblem& problem);
bool sieve_forward(const InfonceProblem& problem, const InfonceForward& out);
std::size_t sieve_backward_workspace_bytes(const InfonceProblem& problem);
void sieve_backward(const InfonceProblem& problem, const InfonceBackward& out);

}  // namespace stope
