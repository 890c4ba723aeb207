// similarity: every score, written tile by tile in its canonical form.
//
// Blocks of kBlock queries by kBlock corpus rows; rows that cannot be read in place are widened and
// normalised once per block. Extra memory: two blocks of float rows per thread.
#include "stope/similarity.h"

#include <algorithm>

#include "dispatch.h"
#include "packing.h"
#include "rows.h"
#include "tasks.h"

namespace stope {
namespace {

constexpr std::int64_t kBlock = 64;

struct Block {
  const float* rows[kBlock];
  const std::int8_t* int8_rows[kBlock];
  std::int64_t first, count;
};

class Similarity {
 public:
  explicit Similarity(const SimilarityCall& call, Workspace workspace = {})
      : call_(call), kernels_(stope::kernels()), workspace_(workspace) {
    const std::int64_t threads = call.execution.threads;
    query_rows_ = workspace_.take<float>(threads * kBlock * call.queries.columns);
    corpus_rows_ = workspace_.take<float>(threads * kBlock * call.corpus.columns);
    codes_ =
        workspace_.take<std::int8_t>(threads * PanelShape(call.corpus.columns, 1).depth_padded);
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    check(call_.queries, "queries");
    check(call_.corpus, "corpus");
    const std::int64_t query_blocks = divide_up(call_.queries.rows, kBlock);
    total_ = divide_up(call_.corpus.rows, kBlock);
    for (done_ = 0; done_ < total_; ++done_) {
      // A column of blocks at a time: the corpus block stays in cache for all queries.
      parallel(query_blocks, [&](std::int64_t task, int thread) {
        const Block queries = load(call_.queries, task, query_rows_, thread);
        const Block corpus = load(call_.corpus, done_, corpus_rows_, thread);
        score(queries, corpus);
      });
    }
    report();
  }

 private:
  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    run_tasks(call_.execution, tasks, [this] { return report(); }, body);
  }
  bool report() const { return tell(call_.execution, done_, total_); }

  void check(const Matrix& matrix, const char* name) {
    RowFault fault;
    const PanelShape shape(matrix.columns, 1);
    parallel(divide_up(matrix.rows, kBlock), [&](std::int64_t task, int thread) {
      float* scratch = corpus_rows_ + thread * kBlock * matrix.columns;
      const std::int64_t end = std::min((task + 1) * kBlock, matrix.rows);
      for (std::int64_t row = task * kBlock; row < end; ++row) {
        RowStats stats;
        kernels_.int8.quantise(float_row(kernels_, matrix, call_.metric, row, scratch), shape.depth,
                               shape.depth_padded, fixed_scale(matrix, call_.metric),
                               codes_ + thread * shape.depth_padded, &stats);
        fault.note(stats, row);
      }
    });
    fault.raise(name);
  }

  Block load(const Matrix& matrix, std::int64_t index, float* scratch, int thread) const {
    Block block;
    block.first = index * kBlock;
    block.count = std::min(kBlock, matrix.rows - block.first);
    scratch += thread * kBlock * matrix.columns;
    for (std::int64_t i = 0; i < block.count; ++i) {
      block.int8_rows[i] = static_cast<const std::int8_t*>(row_data(matrix, block.first + i));
      if (!scored_as_int8(matrix, call_.metric))
        block.rows[i] = float_row(kernels_, matrix, call_.metric, block.first + i,
                                  scratch + i * matrix.columns);
    }
    return block;
  }

  void score(const Block& queries, const Block& corpus) const {
    float* out = call_.scores + queries.first * call_.score_stride + corpus.first;
    if (scored_as_int8(call_.corpus, call_.metric)) {
      for (std::int64_t r = 0; r < queries.count; ++r)
        for (std::int64_t c = 0; c < corpus.count; ++c)
          out[r * call_.score_stride + c] = static_cast<float>(kernels_.exact_dot_int8(
              queries.int8_rows[r], corpus.int8_rows[c], call_.corpus.columns));
      return;
    }
    const auto exact =
        call_.metric == Metric::kEuclidean ? kernels_.exact_distance : kernels_.exact_dot;
    exact(queries.rows, static_cast<int>(queries.count), corpus.rows,
          static_cast<int>(corpus.count), call_.corpus.columns, out, call_.score_stride);
  }

  const SimilarityCall& call_;
  const KernelTable& kernels_;
  Workspace workspace_;
  std::int64_t done_ = 0, total_ = 1;
  float* query_rows_ = nullptr;
  float* corpus_rows_ = nullptr;
  std::int8_t* codes_ = nullptr;
};

}  // namespace

std::size_t similarity_workspace_bytes(const SimilarityCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return similarity_cuda_workspace_bytes(call);
  return Similarity(call).bytes();
}

void similarity(const SimilarityCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return similarity_cuda(call);
  Similarity(call, Workspace(call.execution)).run();
}

}  // namespace stope
