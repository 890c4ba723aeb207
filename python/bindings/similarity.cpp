#include "stope/similarity.h"

#include "arrays.h"

namespace stope::python {

void register_similarity(py::module_& module) {
  module.def(
      "similarity",
      [](const py::object& queries, const py::object& corpus, const std::string& metric,
         const py::buffer& scores, int threads, const py::object& allocate,
         const py::object& progress) {
        const Array q = import_matrix(queries, "queries"), c = import_matrix(corpus, "corpus");
        check_pair(q, c);
        PythonProgress reporter(progress);
        SimilarityCall call;
        call.queries = q.matrix;
        call.corpus = c.matrix;
        call.metric = parse_metric(metric);
        call.scores =
            import_vector<float>(scores, "out", call.queries.rows * call.corpus.rows, true);
        call.score_stride = call.corpus.rows;
        call.execution.device = call.queries.device;
        call.execution.threads = threads;
        call.execution.progress = reporter.progress();
        const WorkspaceLoan loan(allocate, similarity_workspace_bytes(call), &call.execution);
        run_without_gil(similarity, call, &reporter);
      },
      py::kw_only(), py::arg("queries"), py::arg("corpus"), py::arg("metric"), py::arg("scores"),
      py::arg("threads"), py::arg("allocate"), py::arg("progress"));
}

}  // namespace stope::python
