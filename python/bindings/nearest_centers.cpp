#include "stope/nearest_centers.h"

#include "words.h"

namespace stope::python {

void register_nearest_centers(py::module_& module) {
  module.def("center_groups", center_groups, py::arg("centers"));
  module.def("group_centers", group_centers, py::arg("centers"));
  module.def(
      "nearest_centers",
      [](const py::object& rows, const py::object& centers, const py::object& before,
         const std::string& metric, const py::buffer& order, const py::buffer& labels,
         const py::buffer& scores, const py::buffer& reached, int threads,
         const py::object& allocate, const py::object& progress) {
        const Array x = import_matrix(rows, "x");
        const Array to = import_matrix(centers, "init");
        PythonProgress reporter(progress);
        NearestCentersCall call;
        call.rows = x.matrix;
        call.centers = to.matrix;
        Array from;
        if (!before.is_none()) from = import_matrix(before, "init");
        call.before = from.matrix;
        call.metric = parse_word(metric, "metric", kMetrics);
        const std::int64_t count = x.matrix.rows;
        call.order = import_vector<std::int64_t>(order, "order", to.matrix.rows, false);
        call.labels = import_vector<std::int64_t>(labels, "labels", count, true);
        call.scores = import_vector<float>(scores, "scores", count, true);
        call.reached =
            import_vector<float>(reached, "reached", count * center_groups(to.matrix.rows), true);
        call.execution = execution_on(x.matrix.device, 0, threads);
        call.execution.progress = reporter.progress();
        const WorkspaceLoan loan(allocate, nearest_centers_workspace_bytes(call), &call.execution);
        run_without_gil(nearest_centers, call, &reporter);
      },
      py::kw_only(), py::arg("rows"), py::arg("centers"), py::arg("before"), py::arg("metric"),
      py::arg("order"), py::arg("labels"), py::arg("scores"), py::arg("reached"),
      py::arg("threads"), py::arg("allocate"), py::arg("progress"));
}

}  // namespace stope::python
