#include "stope/hard_negatives.h"

#include "words.h"

namespace stope::python {

void register_hard_negatives(py::module_& module) {
  module.def(
      "pair_scores",
      [](const py::object& queries, const py::object& corpus, const std::string& metric,
         const py::buffer& offsets, const py::buffer& ids, const py::object& scores,
         std::int64_t stream, int threads, const py::object& allocate, const py::object& progress) {
        const Array q = import_matrix(queries, "queries", stream);
        const Array c = import_matrix(corpus, "corpus", stream);
        check_pair(q, c);
        PythonProgress reporter(progress);
        PairScoresCall call;
        call.queries = q.matrix;
        call.corpus = c.matrix;
        call.metric = parse_word(metric, "metric", kMetrics);
        call.pairs.offsets =
            import_vector<std::int64_t>(offsets, "offsets", q.matrix.rows + 1, false);
        call.pairs.ids = import_vector<std::int64_t>(ids, "ids", -1, false);
        call.scores = import_result<float>(scores, "scores", call.pairs.offsets[q.matrix.rows],
                                           q.matrix.device);
        call.execution = execution_on(q.matrix.device, stream, threads);
        call.execution.progress = reporter.progress();
        const WorkspaceLoan loan(allocate, pair_scores_workspace_bytes(call), &call.execution);
        run_without_gil(pair_scores, call, &reporter);
      },
      py::kw_only(), py::arg("queries"), py::arg("corpus"), py::arg("metric"), py::arg("offsets"),
      py::arg("ids"), py::arg("scores"), py::arg("stream") = 0, py::arg("threads"),
      py::arg("allocate"), py::arg("progress"));
  module.def(
      "sampling_keys",
      [](std::uint64_t seed, std::int64_t first_query, const py::buffer& ids, std::int64_t rows,
         std::int64_t columns, const py::buffer& keys) {
        sampling_keys(seed, first_query,
                      import_vector<std::int64_t>(ids, "ids", rows * columns, false), rows, columns,
                      import_vector<std::uint64_t>(keys, "keys", rows * columns, true));
      },
      py::kw_only(), py::arg("seed"), py::arg("first_query"), py::arg("ids"), py::arg("rows"),
      py::arg("columns"), py::arg("keys"));
}

}  // namespace stope::python
