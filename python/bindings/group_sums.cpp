#include "stope/group_sums.h"

#include "words.h"

namespace stope::python {

void register_group_sums(py::module_& module) {
  module.def(
      "group_sums",
      [](const py::object& rows, const std::string& metric, const py::buffer& groups,
         std::int64_t num_groups, const py::buffer& sums, int threads, const py::object& allocate,
         const py::object& progress) {
        const Array x = import_matrix(rows, "x");
        if (x.matrix.device.kind != DeviceKind::kCpu)
          throw py::value_error("x is on " + device_name(x.matrix.device) +
                                ", and rows are added up on the CPU; move it there with .cpu()");
        PythonProgress reporter(progress);
        GroupSumsCall call;
        call.rows = x.matrix;
        call.metric = parse_word(metric, "metric", kMetrics);
        call.groups = import_vector<std::int64_t>(groups, "groups", x.matrix.rows, false);
        call.num_groups = num_groups;
        call.sums = import_vector<double>(sums, "sums", num_groups * x.matrix.columns, true);
        call.execution = execution_on(x.matrix.device, 0, threads);
        call.execution.progress = reporter.progress();
        const WorkspaceLoan loan(allocate, group_sums_workspace_bytes(call), &call.execution);
        run_without_gil(group_sums, call, &reporter);
      },
      py::kw_only(), py::arg("rows"), py::arg("metric"), py::arg("groups"), py::arg("num_groups"),
      py::arg("sums"), py::arg("threads"), py::arg("allocate"), py::arg("progress"));
}

}  // namespace stope::python
