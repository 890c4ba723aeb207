#include "packing.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.h"
#include "rows.h"
#include "stope/error.h"
#include "stope/topk.h"
#include "tasks.h"

namespace stope {

void RowFault::raise(const char* argument, std::int64_t first_row) const {
  const std::string name(argument);
  if (const std::int64_t row = not_finite_.row(); row != INT64_MAX)
    throw std::invalid_argument(name + " has a NaN or an infinity in row " +
                                std::to_string(row - first_row) + "; remove or repair that row");
  if (const std::int64_t row = too_long_.row(); row != INT64_MAX)
    throw std::invalid_argument(
        name + " has a norm of 2^63 (9.2e18) or more in row " + std::to_string(row - first_row) +
        ", so float32 scores could overflow; scale it down or use metric='cosine'");
}

namespace {
constexpr int kIndexElementBytes = 1;          // a packed corpus is int8,
constexpr int kHalfBits = 4;                   // and its halves of so many bits
constexpr double kLargestInt8Residual = 0.04;  // of queries and corpus together
}  // namespace

float fixed_scale(const Matrix& matrix, Metric metric) {
  return scored_as_int8(matrix, metric) ? 1.0f : 0.0f;
}

namespace {

// How much of a row's length int8 codes lose on average, in a sample of the matrix: about 0.007 for
// ordinary embeddings of 384 elements, more when a few elements dwarf the others.
double int8_residual(const KernelTable& kernels, const Matrix& matrix, Metric metric) {
  constexpr std::int64_t kSample = 64;
  const PanelShape shape(matrix.columns, kernels.int8.element_bytes);
  std::vector<float> row(static_cast<std::size_t>(shape.depth));
  std::vector<std::int8_t> codes(static_cast<std::size_t>(shape.query_bytes));
  const std::int64_t step = std::max<std::int64_t>(matrix.rows / kSample, 1);
  double sum = 0;
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < matrix.rows; i += step) {
    RowStats stats;
    kernels.int8.quantise(float_row(kernels, matrix, metric, i, row.data()), shape.depth,
                          shape.depth_padded, fixed_scale(matrix, metric), codes.data(), &stats);
    if (!stats.finite || stats.norm == 0.0f) continue;
    sum += static_cast<double>(stats.residual) / stats.norm;
    ++count;
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

}  // namespace

const ScanKernels& exact_scan(const KernelTable& kernels, const Matrix& queries,
                              const Matrix& corpus, Metric metric) {
  if (scored_as_int8(queries, metric)) return kernels.int8;
  const double residual =
      int8_residual(kernels, queries, metric) + int8_residual(kernels, corpus, metric);
  return residual > kLargestInt8Residual ? kernels.bfloat16 : kernels.int8_exact;
}

const ScanKernels& packed_scan(const KernelTable& kernels, const Matrix& queries, Metric metric) {
  return scored_as_int8(queries, metric) ? kernels.int8 : kernels.int8_exact;
}

void pack_floats(const ScanKernels& scan, const float* const* rows, const std::int64_t* ids,
                 int count, float fixed, const PanelShape& shape, std::int8_t* out,
                 RowFault* fault) {
  const std::uint32_t not_finite =
      scan.pack_panel(rows, count, shape.depth, shape.depth_padded, fixed, out);
  const PanelFooter& footer = shape.footer(out);
  for (int c = 0; c < count; ++c) {
    if ((not_finite >> c & 1u) != 0)
      fault->note_not_finite(ids[c]);
    else if (!(footer.norm[c] * footer.scale[c] < kLargestNorm))
      fault->note_too_long(ids[c]);
  }
}

void pack_rows(const KernelTable& kernels, const ScanKernels& scan, const Matrix& corpus,
               Metric metric, const std::int64_t* ids, int count, const PanelShape& shape,
               float* scratch, std::int8_t* out, RowFault* fault) {
  const float* rows[kLanes] = {};
  for (int c = 0; c < count; ++c)
    rows[c] = float_row(kernels, corpus, metric, ids[c], scratch + c * shape.depth);
  pack_floats(scan, rows, ids, count, fixed_scale(corpus, metric), shape, out, fault);
}

void pack_one_panel(const KernelTable& kernels, const ScanKernels& scan, const Matrix& corpus,
                    Metric metric, std::int64_t panel, const PanelShape& shape, float* scratch,
                    std::int8_t* out, RowFault* fault) {
  const std::int64_t first = panel * kLanes;
  const int count = static_cast<int>(std::min<std::int64_t>(kLanes, corpus.rows - first));
  std::int64_t ids[kLanes];
  std::iota(ids, ids + count, first);
  pack_rows(kernels, scan, corpus, metric, ids, count, shape, scratch, out, fault);
}

std::size_t packed_bytes(std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(divide_up(rows, kLanes) *
                                  PanelShape(columns, kIndexElementBytes).bytes);
}

std::size_t packed_half_bytes(std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(divide_up(rows, kLanes) *
                                  PanelShape(columns, kIndexElementBytes, kHalfBits).bytes);
}

std::size_t pack_workspace_bytes(const PackCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return pack_cuda_workspace_bytes(call);
  Workspace workspace;
  workspace.take<float>(call.execution.threads * kLanes * call.corpus.columns);
  return workspace.bytes();
}

void pack(const PackCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return pack_cuda(call);
  const KernelTable& kernels = stope::kernels();
  const std::int64_t columns = call.corpus.columns;
  Workspace workspace(call.execution);
  const std::int64_t scratch_floats = kLanes * columns;
  auto* scratch = workspace.take<float>(call.execution.threads * scratch_floats);
  const std::int64_t first = call.first_row / kLanes;
  const std::int64_t panels = divide_up(call.corpus.rows, kLanes) - first;
  constexpr std::int64_t kPanelsPerTask = 64;
  std::int64_t done = 0;
  RowFault fault;
  const auto pack_to = [&](void* packed, const ScanKernels& scan, std::int64_t panel, int thread) {
    const PanelShape shape(columns, scan.element_bytes, scan.panel_bits);
    pack_one_panel(kernels, scan, call.corpus, call.metric, panel, shape,
                   scratch + thread * scratch_floats,
                   static_cast<std::int8_t*>(packed) + panel * shape.bytes, &fault);
  };
  // In slices, so that progress is reported and a stop is heard.
  constexpr std::int64_t kSlice = 64 * kPanelsPerTask;
  for (std::int64_t begin = 0; begin < panels; begin += kSlice) {
    const std::int64_t end = std::min(begin + kSlice, panels);
    parallel_for(call.execution.threads, divide_up(end - begin, kPanelsPerTask),
                 [&](std::int64_t task, int thread) {
                   const std::int64_t start = begin + task * kPanelsPerTask;
                   for (std::int64_t p = start; p < std::min(start + kPanelsPerTask, end); ++p) {
                     pack_to(call.packed, kernels.int8, first + p, thread);
                     if (call.halves != nullptr)
                       pack_to(call.halves, kernels.int4, first + p, thread);
                   }
                 });
    fault.raise(call.name, call.first_row);
    done = std::min(end * kLanes, call.corpus.rows);
    if (!tell(call.execution, done, call.corpus.rows)) throw Interrupted();
  }
}

}  // namespace stope
