#include "stope/topk.h"

#include <pybind11/stl.h>

#include "stope/runtime.h"
#include "words.h"

namespace stope::python {
namespace {

template <typename T>
T* optional_vector(const std::optional<py::buffer>& buffer, const char* name, py::ssize_t size,
                   bool writable) {
  return buffer ? import_vector<T>(*buffer, name, size, writable) : nullptr;
}

// The halves of a matrix in host memory.
std::uint8_t* import_halves(const std::optional<py::buffer>& halves, const Matrix& matrix,
                            bool writable) {
  const auto bytes = static_cast<py::ssize_t>(packed_half_bytes(matrix.rows, matrix.columns));
  return optional_vector<std::uint8_t>(halves, "halves", bytes, writable);
}

// The panels of a matrix, on its device.
std::uint8_t* import_packed(const py::object& packed, const Matrix& matrix, bool writable) {
  const bool cuda = matrix.device.kind == DeviceKind::kCuda;
  const std::size_t bytes = cuda ? packed_cuda_bytes(matrix.rows, matrix.columns)
                                 : packed_bytes(matrix.rows, matrix.columns);
  if (cuda)
    return import_result<std::uint8_t>(packed, "packed", static_cast<py::ssize_t>(bytes),
                                       matrix.device);
  return import_vector<std::uint8_t>(py::reinterpret_borrow<py::buffer>(packed), "packed",
                                     static_cast<py::ssize_t>(bytes), writable);
}

void run_topk(const py::object& queries, const py::object& corpus, std::int64_t k,
              const std::string& metric, const std::string& precision,
              const std::optional<py::object>& packed, const std::optional<py::buffer>& halves,
              const std::optional<py::buffer>& exclude_offsets,
              const std::optional<py::buffer>& exclude_ids,
              const std::optional<py::buffer>& allowed, const std::optional<py::buffer>& ceilings,
              const std::optional<py::buffer>& floors, const py::object& scores,
              const py::object& ids, const std::optional<py::object>& above_ceiling,
              const std::string& queries_name, const std::string& corpus_name, std::int64_t stream,
              int threads, const py::object& allocate, const py::object& progress,
              const std::optional<py::object>& allocate_pinned,
              const std::optional<CudaTopkBudget>& budget) {
  const Array q = import_matrix(queries, "queries", stream);
  const Array c = import_matrix(corpus, "corpus", stream);
  check_pair(q, c, true);
  PythonProgress reporter(progress);
  const std::int64_t rows = q.matrix.rows;
  TopkCall call;
  call.queries_name = queries_name.c_str();
  call.corpus_name = corpus_name.c_str();
  call.queries = q.matrix;
  call.corpus = c.matrix;
  call.k = k;
  call.metric = parse_word(metric, "metric", kMetrics);
  call.precision = parse_word(precision, "precision", kScanPrecisions);
  if (packed) call.packed.data = import_packed(*packed, c.matrix, false);
  call.packed.halves = import_halves(halves, c.matrix, false);
  call.exclude.offsets =
      optional_vector<std::int64_t>(exclude_offsets, "exclude offsets", rows + 1, false);
  call.exclude.ids = optional_vector<std::int64_t>(exclude_ids, "exclude ids", -1, false);
  call.allowed = optional_vector<std::uint8_t>(
      allowed, "allowed", static_cast<py::ssize_t>((c.matrix.rows + 7) / 8), false);
  call.ceilings = optional_vector<float>(ceilings, "ceiling", rows, false);
  call.floors = optional_vector<float>(floors, "floor", rows, false);
  const Device device = q.matrix.device;
  if (call.allowed != nullptr && device.kind == DeviceKind::kCuda)
    throw py::value_error(
        "allowed is given on a CUDA device; give the rows that are allowed alone");
  call.scores = import_result<float>(scores, "out scores", rows * k, device);
  call.ids = import_result<std::int64_t>(ids, "out ids", rows * k, device);
  if (above_ceiling)
    call.above_ceiling = import_result<std::int64_t>(*above_ceiling, "above_ceiling", rows, device);
  call.execution = execution_on(device, stream, threads);
  call.execution.progress = reporter.progress();
  if (budget) call.budget = *budget;
  std::optional<py::object> pinned;  // lives until the call is over
  if (device.kind == DeviceKind::kCuda && c.matrix.device.kind == DeviceKind::kCpu) {
    call.corpus_is_pinned = cuda_is_pinned(c.matrix.data);
    call.execution.pinned_bytes = topk_cuda_pinned_bytes(call);
    if (call.execution.pinned_bytes > 0) {
      pinned = allocate_pinned.value()(call.execution.pinned_bytes);
      call.execution.pinned =
          import_vector<std::uint8_t>(py::reinterpret_borrow<py::buffer>(*pinned), "pinned memory",
                                      static_cast<py::ssize_t>(call.execution.pinned_bytes), true);
    }
  }
  const WorkspaceLoan loan(allocate, topk_workspace_bytes(call), &call.execution);
  run_without_gil(topk, call, &reporter);
}

void run_pack(const py::object& corpus, const std::string& name, const std::string& metric,
              std::int64_t first_row, const py::object& packed,
              const std::optional<py::buffer>& halves, std::int64_t stream, int threads,
              const py::object& allocate, const py::object& progress) {
  const Array c = import_matrix(corpus, name.c_str(), stream);
  PythonProgress reporter(progress);
  PackCall call;
  call.name = name.c_str();
  call.corpus = c.matrix;
  call.metric = parse_word(metric, "metric", kMetrics);
  call.first_row = first_row;
  call.packed = import_packed(packed, c.matrix, true);
  call.halves = import_halves(halves, c.matrix, true);
  call.execution = execution_on(c.matrix.device, stream, threads);
  call.execution.progress = reporter.progress();
  const WorkspaceLoan loan(allocate, pack_workspace_bytes(call), &call.execution);
  run_without_gil(pack, call, &reporter);
}

}  // namespace

void register_topk(py::module_& module) {
  py::class_<CudaTopkBudget>(module, "CudaTopkBudget")
      .def(py::init([](std::int64_t list_bytes, std::int64_t code_bytes, std::int64_t block_bytes) {
             return CudaTopkBudget{list_bytes, code_bytes, block_bytes};
           }),
           py::kw_only(), py::arg("list_bytes"), py::arg("code_bytes"), py::arg("block_bytes"));
  module.def("topk", &run_topk, py::kw_only(), py::arg("queries"), py::arg("corpus"), py::arg("k"),
             py::arg("metric"), py::arg("precision"), py::arg("packed"), py::arg("halves"),
             py::arg("exclude_offsets"), py::arg("exclude_ids"), py::arg("allowed") = py::none(),
             py::arg("ceilings"), py::arg("floors"), py::arg("scores"), py::arg("ids"),
             py::arg("above_ceiling"), py::arg("queries_name"), py::arg("corpus_name"),
             py::arg("stream") = 0, py::arg("threads"), py::arg("allocate"), py::arg("progress"),
             py::arg("allocate_pinned") = py::none(), py::arg("budget") = py::none());
  module.def("pack", &run_pack, py::kw_only(), py::arg("corpus"), py::arg("name"),
             py::arg("metric"), py::arg("first_row"), py::arg("packed"), py::arg("halves"),
             py::arg("stream") = 0, py::arg("threads"), py::arg("allocate"), py::arg("progress"));
  module.def(
      "cuda_topk_plan",
      [](std::int64_t queries, std::int64_t rows, std::int64_t columns, std::int64_t k,
         bool in_host_memory, const std::optional<CudaTopkBudget>& budget) {
        TopkCall call;
        if (budget) call.budget = *budget;
        call.queries.rows = queries;
        call.corpus.rows = rows;
        call.queries.columns = call.corpus.columns = columns;
        call.k = k;
        if (!in_host_memory) call.corpus.device.kind = DeviceKind::kCuda;
        const CudaTopkPlan plan = plan_topk_cuda(call);
        py::dict out;
        out["depth_padded"] = plan.depth_padded;
        out["pass"] = plan.pass;
        out["group"] = plan.group;
        out["chunk"] = plan.chunk;
        out["keep"] = plan.keep;
        out["capacity"] = plan.capacity;
        out["workspace_bytes"] = topk_cuda_workspace_bytes(call);
        out["pinned_bytes"] = topk_cuda_pinned_bytes(call);
        return out;
      },
      py::kw_only(), py::arg("queries"), py::arg("rows"), py::arg("columns"), py::arg("k"),
      py::arg("in_host_memory") = false, py::arg("budget") = py::none());
  module.def("packed_bytes", &packed_bytes, py::arg("rows"), py::arg("columns"));
  module.def("packed_half_bytes", &packed_half_bytes, py::arg("rows"), py::arg("columns"));
  module.def("packed_cuda_bytes", &packed_cuda_bytes, py::arg("rows"), py::arg("columns"));
  module.def(
      "matrix_shape",
      [](const py::object& object, const char* name) {
        const Matrix matrix = import_matrix(object, name).matrix;
        constexpr const char* kDtypes[] = {"float32", "float16", "bfloat16", "int8"};
        return py::make_tuple(matrix.rows, matrix.columns, kDtypes[static_cast<int>(matrix.dtype)],
                              device_name(matrix.device));
      },
      py::arg("array"), py::arg("name"));
}

}  // namespace stope::python
