#include "stope/neighbors.h"

#include <pybind11/stl.h>

#include "words.h"

namespace stope::python {
namespace {

void check_same_kind(const Matrix& x, const Matrix& y) {
  if (x.columns != y.columns)
    throw py::value_error("y has dim " + std::to_string(y.columns) + " but x has dim " +
                          std::to_string(x.columns) + "; give rows of one encoder");
  if ((x.dtype == DType::kInt8) != (y.dtype == DType::kInt8))
    throw py::type_error(std::string(x.dtype == DType::kInt8 ? "x" : "y") +
                         " is int8 and the other is not; give both as int8 or neither");
}

using OptionalVector = std::optional<py::buffer>;

// The order and the offsets must outlive the call.
const std::int64_t* import_order(const OptionalVector& order, std::int64_t rows) {
  return order ? import_vector<std::int64_t>(*order, "order", rows, false) : nullptr;
}

RowGroups import_groups(const OptionalVector& offsets) {
  RowGroups groups;
  if (!offsets) return groups;
  const py::ssize_t entries = offsets->request().size;
  groups.offsets = import_vector<std::int64_t>(*offsets, "offsets", entries, false);
  groups.count = entries - 1;
  return groups;
}

void run_pairs_above(const py::object& x, const std::optional<py::object>& y,
                     const std::optional<py::buffer>& packed, const OptionalVector& order,
                     const OptionalVector& offsets, std::int64_t first, std::int64_t end,
                     const std::string& metric, float threshold, const py::object& counts,
                     const std::optional<py::object>& ids, const std::optional<py::object>& scores,
                     std::int64_t capacity, std::int64_t stream, int threads,
                     const py::object& allocate, const py::object& progress,
                     const std::optional<CudaTopkBudget>& budget) {
  const Array rows = import_matrix(x, "x", stream);
  const Array others = y ? import_matrix(*y, "y", stream) : rows;
  check_same_kind(rows.matrix, others.matrix);
  PythonProgress reporter(progress);
  PairsAboveCall call;
  call.x = rows.matrix;
  call.y = others.matrix;
  call.within = !y;
  const auto bytes = static_cast<py::ssize_t>(packed_bytes(call.y.rows, call.y.columns));
  if (packed) call.packed = import_vector<std::uint8_t>(*packed, "packed", bytes, false);
  call.order = import_order(order, rows.matrix.rows);
  call.groups = import_groups(offsets);
  call.first = first;
  call.end = end;
  call.metric = parse_word(metric, "metric", kMetrics);
  call.threshold = threshold;
  const Device device = rows.matrix.device;
  call.counts = import_result<std::int64_t>(counts, "counts", end - first, device);
  if (ids && scores) {
    call.capacity = capacity;
    call.ids = import_result<std::int64_t>(*ids, "ids", capacity, device);
    call.scores = import_result<float>(*scores, "scores", capacity, device);
  }
  if (budget) call.budget = *budget;
  call.execution = execution_on(device, stream, threads);
  call.execution.progress = reporter.progress();
  const WorkspaceLoan loan(allocate, pairs_above_workspace_bytes(call), &call.execution);
  run_without_gil(pairs_above, call, &reporter);
}

void run_nearest_earlier(const py::object& x, const OptionalVector& order,
                         const OptionalVector& offsets, const std::string& metric, float threshold,
                         const py::object& scores, const py::object& ids, std::int64_t stream,
                         int threads, const py::object& allocate, const py::object& progress,
                         const std::optional<CudaTopkBudget>& budget) {
  const Array rows = import_matrix(x, "x", stream);
  PythonProgress reporter(progress);
  NearestEarlierCall call;
  call.rows = rows.matrix;
  call.order = import_order(order, rows.matrix.rows);
  call.groups = import_groups(offsets);
  call.metric = parse_word(metric, "metric", kMetrics);
  call.threshold = threshold;
  const Device device = rows.matrix.device;
  call.scores = import_result<float>(scores, "scores", rows.matrix.rows, device);
  call.ids = import_result<std::int64_t>(ids, "ids", rows.matrix.rows, device);
  if (budget) call.budget = *budget;
  call.execution = execution_on(device, stream, threads);
  call.execution.progress = reporter.progress();
  const WorkspaceLoan loan(allocate, nearest_earlier_workspace_bytes(call), &call.execution);
  run_without_gil(nearest_earlier, call, &reporter);
}

void run_knn_graph(const py::object& x, std::int64_t k, const std::string& metric,
                   const py::object& scores, const py::object& ids, int threads,
                   const py::object& allocate, const py::object& progress) {
  const Array rows = import_matrix(x, "x");
  PythonProgress reporter(progress);
  KnnGraphCall call;
  call.rows = rows.matrix;
  call.k = k;
  call.metric = parse_word(metric, "metric", kMetrics);
  const Device cpu;
  call.scores = import_result<float>(scores, "scores", rows.matrix.rows * k, cpu);
  call.ids = import_result<std::int64_t>(ids, "ids", rows.matrix.rows * k, cpu);
  call.execution = execution_on(cpu, 0, threads);
  call.execution.progress = reporter.progress();
  const WorkspaceLoan loan(allocate, knn_graph_workspace_bytes(call), &call.execution);
  run_without_gil(knn_graph, call, &reporter);
}

}  // namespace

void register_neighbors(py::module_& module) {
  module.def("pairs_above", &run_pairs_above, py::kw_only(), py::arg("x"), py::arg("y"),
             py::arg("packed"), py::arg("order"), py::arg("offsets"), py::arg("first"),
             py::arg("end"), py::arg("metric"), py::arg("threshold"), py::arg("counts"),
             py::arg("ids"), py::arg("scores"), py::arg("capacity"), py::arg("stream") = 0,
             py::arg("threads"), py::arg("allocate"), py::arg("progress"),
             py::arg("budget") = py::none());
  module.def("nearest_earlier", &run_nearest_earlier, py::kw_only(), py::arg("x"), py::arg("order"),
             py::arg("offsets"), py::arg("metric"), py::arg("threshold"), py::arg("scores"),
             py::arg("ids"), py::arg("stream") = 0, py::arg("threads"), py::arg("allocate"),
             py::arg("progress"), py::arg("budget") = py::none());
  module.def("knn_graph", &run_knn_graph, py::kw_only(), py::arg("x"), py::arg("k"),
             py::arg("metric"), py::arg("scores"), py::arg("ids"), py::arg("threads"),
             py::arg("allocate"), py::arg("progress"));
}

}  // namespace stope::python
