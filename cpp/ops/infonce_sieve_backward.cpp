// infonce, backward, of what a forward pass through a sieve has kept: for every block of columns
// the entries with weight, remembered or found again, times the rows of either side.
//
//   d rows    += sum over a row's entries of weight * column
//   d columns += sum over a column's entries of weight * row
//
// Extra memory: as forward, and the entries of a slab against a block.
#include "infonce_gradients.h"
#include "infonce_sieve.h"

namespace stope {
namespace {

class SieveBackward : InfonceGradients<InfonceSieve, false> {
 public:
  SieveBackward(const InfonceProblem& problem, Workspace workspace)
      : InfonceGradients(problem, workspace) {
    const std::int64_t threads = std::min(problem.execution.threads, kMaxInfonceThreads);
    const std::int64_t most = slab_rows_ * tile_columns_;
    for (std::int64_t t = 0; t < threads; ++t) {
      products_[t].entries = workspace_.take<SiftedEntry>(most);
      products_[t].weights = workspace_.take<float>(most);
      products_[t].order = workspace_.take<std::int32_t>(most);
      products_[t].rows = workspace_.take<const float*>(std::max(slab_rows_, tile_columns_));
      products_[t].row_weights = workspace_.take<float>(std::max(slab_rows_, tile_columns_));
    }
  }
  using InfonceScan::bytes;

  void run(const InfonceBackward& out) {
    run_passes(
        out,
        [&](std::int64_t begin, std::int64_t end, int thread) {
          find_canonical_limits(begin, end, thread);
        },
        [&](int number, std::int64_t slab, int thread, const Sums& rows_out,
            const Sums& columns_out) {
          const SlabMemory memory(out.memory, slab, slabs_, all_blocks());
          if (memory.remembers())
            run_remembered(number, slab, memory, thread, rows_out, columns_out);
          else
            run_again(passes_[number], slab, out, thread, rows_out, columns_out);
        });
  }

 private:
  // What a thread works with.
  struct Products {
    SiftedEntry* entries;  // of a slab against a block
    float* weights;        // of these
    std::int32_t* order;   // of these, by column
    const float** rows;    // of one sum
    float* row_weights;    // of one sum
    std::int64_t count;
  };

  void run_remembered(int number, std::int64_t slab, const SlabMemory& memory, int thread,
                      const Sums& rows_out, const Sums& columns_out) {
    const InfoncePass& pass = passes_[number];
    const std::uint32_t* counts = memory.counts();
    const SiftedEntry* entries = memory.entries();
    for (int p = 0; p < number; ++p)
      for (std::int64_t b = 0; b < blocks_of(passes_[p]); ++b) entries += *counts++;
    const Space& space = sieves_[thread];
    load_rows(pass.rows, slab_begin(slab), slab_end(slab), space.rows);
    for (std::int64_t b = 0; b < blocks_of(pass); ++b, entries += *counts++) {
      const std::int64_t c = b * tile_columns_;
      if (*counts > 0)
        load_rows(pass.columns, c, std::min(c + tile_columns_, pass.columns.count), space.columns);
      if (columns_out.data != nullptr) wait_for(slab, b);
      multiply(entries, *counts, slab_begin(slab), c, thread, rows_out, columns_out);
      is_done(slab, b);
    }
  }

  void run_again(const InfoncePass& pass, std::int64_t slab, const InfonceBackward& out, int thread,
                 const Sums& rows_out, const Sums& columns_out) {
    Products& products = products_[thread];
    sift(
        pass, slab_begin(slab), slab_end(slab), thread, [](const InfonceTile&) { return true; },
        [&](std::int64_t) { products.count = 0; },
        [&](const InfonceTile& tile, int r, double error) {
          const std::int64_t i = tile.first_row + r;
          if (coefficients_[i].first != 0.0f) find(tile, r, error, out.state[i], thread);
        },
        [&](std::int64_t b, std::int64_t c) {
          if (columns_out.data != nullptr) wait_for(slab, b);
          multiply(products.entries, products.count, slab_begin(slab), c, thread, rows_out,
                   columns_out);
          is_done(slab, b);
        });
  }

  void find(const InfonceTile& tile, int r, double error, const InfonceState& state, int thread) {
    Products& products = products_[thread];
    if (!tile.plain) {
      settle_limits(tile, r, error, thread);
      mask_row(tile, r, spaces_[thread], nullptr);
      give_own_scores(tile, r, spaces_[thread]);
    }
    Passed passed;
    pass(tile, r, state.least, logit_error(tile, error), static_cast<float>(state.reference),
         thread, &passed);
    const std::int64_t place = (tile.slab_row + r) * kMostTileColumns;
    for (int e = 0; e < passed.count; ++e)
      if (static_cast<double>(passed.logits[e]) >= state.least)
        products.entries[products.count++] = {static_cast<std::uint32_t>(place + passed.columns[e]),
                                              passed.logits[e]};
  }

  // Entries by row and column, of rows from `begin` and columns from `first` on.
  void multiply(const SiftedEntry* entries, std::int64_t count, std::int64_t begin,
                std::int64_t first, int thread, const Sums& rows_out, const Sums& columns_out) {
    Products& products = products_[thread];
    const Space& space = sieves_[thread];
    std::int64_t ends[kMostTileColumns + 1] = {};
    for (std::int64_t e = 0; e < count;) {
      const std::int64_t row = entries[e].row(), i = begin + row;
      int run = 0;
      float* weights = products.weights + e;
      float logits[kMostTileColumns];
      for (; e + run < count && entries[e + run].row() == row; ++run) {
        const int column = entries[e + run].column();
        logits[run] = entries[e + run].logit;
        products.rows[run] = space.columns + column * depth_;
        ++ends[column + 1];
      }
      weigh(i, run, logits);
      std::copy_n(logits, run, weights);
      kernels_.add_rows(products.rows, weights, run, depth_, rows_out.data + i * depth_);
      e += run;
    }
    if (columns_out.data == nullptr) return;
    for (int c = 0; c < kMostTileColumns; ++c) ends[c + 1] += ends[c];
    for (std::int64_t e = 0; e < count; ++e)
      products.order[ends[entries[e].column()]++] = static_cast<std::int32_t>(e);
    std::int64_t at = 0;
    for (int c = 0; c < kMostTileColumns; ++c) {
      std::int64_t run = 0;
      for (; at < ends[c]; ++at, ++run) {
        const std::int32_t e = products.order[at];
        products.rows[run] = space.rows + entries[e].row() * depth_;
        products.row_weights[run] = products.weights[e];
      }
      if (run > 0)
        kernels_.add_rows(products.rows, products.row_weights, run, depth_,
                          columns_out.data + (first + c) * depth_);
    }
  }

  // Logits of row i become weights.
  void weigh(std::int64_t i, int count, float* logits) const {
    // The reference of a row without gradient says nothing.
    if (coefficients_[i].first == 0.0f) {
      std::fill_n(logits, count, 0.0f);
      return;
    }
    InfonceTerms terms = {};
    terms.kind = kInfonceSoftmax;
    terms.multiplier = 1;
    double total = 0, moment = 0;
    kernels_.infonce.weigh(logits, count, count, &terms, &coefficients_[i], &total, &moment);
  }

  Products products_[kMaxInfonceThreads];
};

}  // namespace

std::size_t sieve_backward_workspace_bytes(const InfonceProblem& problem) {
  return SieveBackward(problem, {}).bytes();
}
void sieve_backward(const InfonceProblem& problem, const InfonceBackward& out) {
  SieveBackward(problem, Workspace(problem.execution)).run(out);
}

}  // namespace stope
