#include "search.h"

#include <algorithm>
#include <stdexcept>

#include "faults.h"
#include "launch.h"
#include "pack.cuh"
#include "scan.cuh"
#include "take_in.h"

namespace stope {
namespace cuda {
namespace {

void launch_pack(const PackArguments& arguments, void* stream) {
  launch("pack_rows", pack_rows,
         {.blocks_x = divide_up(arguments.rows, kPackRows), .threads = kPackThreads}, stream,
         arguments);
}

}  // namespace

Search::Search(const TopkCall& call, const CudaTopkPlan& plan, const TopkMemory& memory,
               const SearchScope& scope)
    : call_(call),
      stream_(call.execution.stream),
      plan_(plan),
      memory_(memory),
      scope_(scope),
      // int8 rows under the dot product have exact scores at the price of approximate ones.
      rules_(bound_rules(call.metric,
                         call.precision != Precision::kExact &&
                             !(call.corpus.dtype == DType::kInt8 && call.metric == Metric::kDot),
                         plan.depth_padded)),
      // Both are rows of one matrix, whose first faulty row is told.
      corpus_faults_(memory.faults + (scope.reach == Reach::kAll ? 1 : 0)) {
  if (!plan_.streams) return;
  if (is_recording(stream_))
    throw std::invalid_argument(
        "corpus is in host memory while the stream records a CUDA graph, which a replay would "
        "not read again; move it to the device, or search outside of the graph");
  if (plan_.stages && call.execution.pinned_bytes < topk_cuda_pinned_bytes(call))
    throw std::logic_error("the pinned memory is smaller than what was asked for");
  host_rows_.emplace(call.corpus, plan_.chunk, memory_.blocks,
                     plan_.stages ? call.execution.pinned : nullptr, call.execution);
}

void Search::walk() {
  const std::int64_t queries = call_.queries.rows;
  clear_faults(memory_.faults, 2, stream_);
  const auto bring = [&](const auto* from, std::int64_t count, auto* to) {
    if (from != nullptr) take_in(from, count, to, stream_);
  };
  bring(call_.exclude.offsets, queries + 1, memory_.exclude_offsets);
  bring(call_.exclude.ids, TopkMemory::excluded(call_), memory_.exclude_ids);
  bring(call_.ceilings, queries, memory_.ceilings);
  bring(call_.floors, queries, memory_.floors);
  std::int64_t done = 0, total = 0;
  for (std::int64_t first = 0; first < queries; first += plan_.pass)
    total += range(first).end - range(first).first;
  for (first_query_ = 0; first_query_ < queries; first_query_ += plan_.pass) {
    queries_ = std::min(plan_.pass, queries - first_query_);
    start();
    const auto [begin, end] = range(first_query_);
    if (host_rows_) host_rows_->send(begin, std::min(plan_.chunk, end - begin));
    for (first_row_ = begin; first_row_ < end; first_row_ += plan_.chunk) {
      rows_ = std::min(plan_.chunk, end - first_row_);
      work_on_chunk(end);
      done += rows_;
      const Progress& progress = call_.execution.progress;
      if (progress.step != nullptr && !progress.step(progress.context, done, total))
        throw Interrupted();
    }
  }
}

void Search::raise() const {
  raise_faults(memory_.faults, stream_, call_.queries_name, call_.corpus_name);
}

Rescoring Search::rescoring(std::int64_t first) const {
  return {{call_.queries, scope_.order},
          {corpus_, scope_.order},
          first_id_,
          first_query_ + first,
          rules_,
          memory_.factors + first};
}

Search::Range Search::range(std::int64_t first_query) const {
  const std::int64_t rows = call_.corpus.rows, place = scope_.first_place + first_query;
  const std::int64_t queries = std::min(plan_.pass, call_.queries.rows - first_query);
  switch (scope_.reach) {
    case Reach::kEarlier: return {0, place + queries};
    case Reach::kLater: return {std::min(place + 1, rows), rows};
    case Reach::kAll: break;
  }
  return {0, rows};
}

void Search::pack(const Matrix& matrix, std::int64_t first, std::int64_t rows,
                  std::int64_t first_id, const Panels& panels, RowFactors* factors,
                  RowFaults* faults) const {
  launch_pack(
      {{matrix, scope_.order}, call_.metric, first, rows, first_id, panels, 0, factors, faults},
      stream_);
}

void Search::start() {
  // Rows of the corpus have its numbers in messages.
  pack(call_.queries, first_query_, queries_, scope_.order == nullptr ? scope_.first_place : 0,
       memory_.queries, memory_.factors, memory_.faults);
  launch("start_queries", start_queries,
         {.blocks_x = divide_up(queries_, kPackThreads), .threads = kPackThreads}, stream_,
         StartArguments{rules_, first_query_, queries_, memory_.queries, scope_.floor,
                        memory_.floors, memory_.ceilings, memory_.bounds, memory_.terms,
                        memory_.states, memory_.above});
}

void Search::work_on_chunk(std::int64_t end) {
  const std::int64_t next = first_row_ + rows_;
  corpus_ = host_rows_ ? host_rows_->receive(rows_) : call_.corpus;
  first_id_ = host_rows_ ? first_row_ : 0;
  panels_ = memory_.corpus;
  if (call_.packed.data == nullptr)
    pack(corpus_, first_row_ - first_id_, rows_, first_id_, panels_, nullptr, corpus_faults_);
  else
    panels_.data =
        static_cast<std::byte*>(panels_.data) + first_row_ / kTileSide * panels_.panel_bytes;
  for (std::int64_t first = 0; first < queries_; first += plan_.group) {
    const std::int64_t queries = std::min(plan_.group, queries_ - first);
    scan(first, queries);
    consume(first, queries, next == end);
  }
  if (!host_rows_) return;
  host_rows_->done();
  if (next < end) host_rows_->send(next, std::min(plan_.chunk, end - next));
}

void Search::scan(std::int64_t first, std::int64_t queries) {
  launch("scan_tile", scan_tile,
         {.blocks_x = divide_up(rows_, kTileSide),
          .blocks_y = divide_up(queries, kTileSide),
          .threads = kScanThreads,
          .shared_bytes = kScanSharedBytes},
         stream_,
         ScanArguments{
             static_cast<const std::uint16_t*>(memory_.queries.data) + first * plan_.depth_padded,
             panels_, queries, rows_, plan_.depth_padded, first_query_ + first, first_row_, rules_,
             memory_.bounds + first, memory_.terms + first, memory_.states + first, memory_.entries,
             plan_.capacity, memory_.above + first, memory_.exclude_offsets, memory_.exclude_ids,
             scope_.reach, scope_.first_place + first_query_ + first});
}

}  // namespace cuda

void pack_cuda(const PackCall& call) {
  using namespace cuda;
  void* stream = call.execution.stream;
  const DeviceScope scope(call.execution.device);
  if (reinterpret_cast<std::uintptr_t>(call.packed) % 16 != 0)
    throw std::logic_error("memory for a packed corpus must start at a multiple of 16 bytes");
  Workspace workspace(call.execution);
  auto* faults = workspace.take<RowFaults>(1);
  clear_faults(faults, 1, stream);
  launch_pack({{call.corpus},
               call.metric,
               call.first_row,
               call.corpus.rows - call.first_row,
               0,
               corpus_panels(call.packed, call.corpus.columns),
               call.first_row,
               nullptr,
               faults},
              stream);
  if (is_recording(stream)) return;
  RowFaults found;
  copy_to_host(&found, faults, sizeof(found), stream);
  refuse(found, call.name, call.first_row);
}

}  // namespace stope
