// topk: the k best corpus rows of every query, ordered by (score descending, id ascending).
#pragma once

#include "stope/matrix.h"

namespace stope {

// A corpus packed once for many searches; `data` holds packed_bytes(rows, columns) bytes, `halves`
// packed_half_bytes: codes of half as many bits, which searches of few queries read first. Both are
// 64-byte aligned and the same on every ISA. On a GPU: packed_cuda_bytes, 16-byte aligned, no
// halves.
struct PackedCorpus {
  const void* data = nullptr;
  const void* halves = nullptr;  // optional; read first wherever they are there
};

struct PackCall {
  Matrix corpus;
  Metric metric = Metric::kDot;
  std::int64_t first_row = 0;   // rows before the panel that holds this one are packed already
  const char* name = "corpus";  // of the new rows, in messages, which count from first_row
  void* packed = nullptr;
  void* halves = nullptr;  // optional
  Execution execution;
};

// How much memory of each kind a search on a GPU takes for a portion; tests make it small.
struct CudaTopkBudget {
  std::int64_t list_bytes = 256 << 20;  // candidates of a group of queries
  std::int64_t code_bytes = 256 << 20;  // packed queries, and packed rows of a chunk, each
  std::int64_t block_bytes = 64 << 20;  // rows on their way from host memory, two such blocks
};

struct TopkCall {
  Matrix queries;
  Matrix corpus;
  PackedCorpus packed;  // optional
  Metric metric = Metric::kDot;
  Precision precision = Precision::kExact;
  std::int64_t k = 0;
  IdLists exclude;                        // optional
  const std::uint8_t* allowed = nullptr;  // optional, on the CPU alone: a bit for each corpus row,
                                          // lowest first; above_ceiling does not look at it
  const float* ceilings = nullptr;        // optional [queries.rows], inclusive
  const float* floors = nullptr;          // optional [queries.rows], inclusive
  const char* queries_name = "queries";   // in messages about their rows
  const char* corpus_name = "corpus";     // likewise
  float* scores = nullptr;                // [queries.rows, k], short rows end in -infinity
  std::int64_t* ids = nullptr;            // [queries.rows, k], short rows end in -1
  std::int64_t* above_ceiling = nullptr;  // optional [queries.rows]: rows refused by the ceiling
  CudaTopkBudget budget;
  // On a GPU the corpus may be in host memory; whether the device copies from it by itself.
  bool corpus_is_pinned = false;
  Execution execution;
};

std::size_t packed_bytes(std::int64_t rows, std::int64_t columns);
std::size_t packed_half_bytes(std::int64_t rows, std::int64_t columns);
std::size_t pack_workspace_bytes(const PackCall& call);
void pack(const PackCall& call);

std::size_t topk_workspace_bytes(const TopkCall& call);
void topk(const TopkCall& call);

// How topk_cuda goes about a call of this size: groups of queries, chunks of the corpus, lists of
// candidates with room for a whole chunk beside what is kept of those before.
struct CudaTopkPlan {
  std::int64_t depth_padded;
  std::int64_t pass;      // queries that go through the corpus together, one group or more
  std::int64_t group;     // queries whose lists lie side by side
  std::int64_t chunk;     // rows scanned by one launch
  std::int64_t keep;      // the most entries of a list when a chunk begins
  std::int64_t capacity;  // keep + chunk
  bool streams;           // chunks come from host memory
  bool stages;            // by way of pinned buffers
};
CudaTopkPlan plan_topk_cuda(const TopkCall& call);

// The same on a GPU; the stub throws DeviceError when the library was built without CUDA.
std::size_t packed_cuda_bytes(std::int64_t rows, std::int64_t columns);
std::size_t pack_cuda_workspace_bytes(const PackCall& call);
void pack_cuda(const PackCall& call);
std::size_t topk_cuda_workspace_bytes(const TopkCall& call);
std::size_t topk_cuda_pinned_bytes(const TopkCall& call);
void topk_cuda(const TopkCall& call);

}  // namespace stope
