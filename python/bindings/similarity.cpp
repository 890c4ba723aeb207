#include "stope/similarity.h"

#include "words.h"

namespace stope::python {

void register_similarity(py::module_& module) {
  module.def(
      "similarity",
      [](const py::object& queries, const py::object& corpus, const std::string& metric,
         const py::object& scores, std::int64_t stream, int threads, const py::object& allocate,
         const py::object& progress) {
        const Array q = import_matrix(queries, "queries", stream);
        const Array c = import_matrix(corpus, "corpus", stream);
        check_pair(q, c);
        PythonProgress reporter(progress);
        SimilarityCall call;
        call.queries = q.matrix;
        call.corpus = c.matrix;
        call.metric = parse_word(metric, "metric", kMetrics);
        call.scores = import_result<float>(scores, "out", call.queries.rows * call.corpus.rows,
                                           call.queries.device);
        call.score_stride = call.corpus.rows;
        call.execution = execution_on(call.queries.device, stream, threads);
        call.execution.progress = reporter.progress();
        const WorkspaceLoan loan(allocate, similarity_workspace_bytes(call), &call.execution);
        run_without_gil(similarity, call, &reporter);
      },
      py::kw_only(), py::arg("queries"), py::arg("corpus"), py::arg("metric"), py::arg("scores"),
      py::arg("stream") = 0, py::arg("threads"), py::arg("allocate"), py::arg("progress"));
}

}  // namespace stope::python
