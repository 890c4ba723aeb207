#include "stope/group_sums.h"

#include <pybind11/stl.h>

#include "words.h"

namespace stope::python {
namespace {

void run_group_sums(const py::object& rows, const std::string& metric,
                    const std::optional<py::buffer>& groups, const std::optional<py::object>& order,
                    const std::optional<py::object>& starts, std::int64_t num_groups,
                    const py::object& sums, std::int64_t stream, int threads,
                    const py::object& allocate, const py::object& progress) {
  const Array x = import_matrix(rows, "x", stream);
  const Device device = x.matrix.device;
  PythonProgress reporter(progress);
  GroupSumsCall call;
  call.rows = x.matrix;
  call.metric = parse_word(metric, "metric", kMetrics);
  if (groups) call.groups = import_vector<std::int64_t>(*groups, "groups", x.matrix.rows, false);
  if (order && starts) {
    call.order = import_result<std::int64_t>(*order, "order", x.matrix.rows, device);
    call.starts = import_result<std::int64_t>(*starts, "starts", num_groups + 1, device);
  }
  if ((device.kind == DeviceKind::kCpu ? call.groups : call.order) == nullptr)
    throw py::value_error("x is on " + device_name(device) +
                          "; give groups on the CPU, order and starts on a device");
  call.num_groups = num_groups;
  call.sums = import_result<double>(sums, "sums", num_groups * x.matrix.columns, device);
  call.execution = execution_on(device, stream, threads);
  call.execution.progress = reporter.progress();
  const WorkspaceLoan loan(allocate, group_sums_workspace_bytes(call), &call.execution);
  run_without_gil(group_sums, call, &reporter);
}

}  // namespace

void register_group_sums(py::module_& module) {
  module.def("group_sums", &run_group_sums, py::kw_only(), py::arg("rows"), py::arg("metric"),
             py::arg("groups") = py::none(), py::arg("order") = py::none(),
             py::arg("starts") = py::none(), py::arg("num_groups"), py::arg("sums"),
             py::arg("stream") = 0, py::arg("threads"), py::arg("allocate"), py::arg("progress"));
}

}  // namespace stope::python
