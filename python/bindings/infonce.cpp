#include "stope/infonce.h"

#include <vector>

#include "arrays.h"

namespace stope::python {
namespace {

// The problem as Python gives it: one dict of matrices, vectors and numbers, None where there is
// none. Whatever it borrows stays alive as long as this.
class ProblemArguments {
 public:
  explicit ProblemArguments(const py::dict& given) : given_(given) {
    problem.queries = matrix("queries");
    problem.documents = matrix("documents");
    const py::ssize_t queries = problem.queries.rows, documents = problem.documents.rows;
    if (has("queue")) problem.queue = matrix("queue");
    problem.metric = parse_metric(number<std::string>("metric"));
    problem.precision = static_cast<LossArithmetic>(number<int>("precision"));
    problem.objective = static_cast<Objective>(number<int>("objective"));
    problem.directions = {number<bool>("query_to_query"), number<bool>("document_to_query"),
                          number<bool>("document_to_document")};
    problem.positives = lists("positives", queries);
    problem.positive_weights =
        vector<float>("positive_weights", problem.positives.offsets[queries]);
    if (has("exclude_offsets")) problem.exclude = lists("exclude", queries);
    if (has("hard_negatives_offsets")) problem.hard_negatives = lists("hard_negatives", queries);
    problem.foreign_hard_negatives = number<bool>("foreign_hard_negatives");
    problem.documents_see_hard_negatives = number<bool>("documents_see_hard_negatives");
    problem.scale = number<double>("scale");
    problem.bias = number<double>("bias");
    problem.beta = number<double>("beta");
    problem.positive_prior = number<double>("positive_prior");
    problem.detach_hardness = number<bool>("detach_hardness");
    problem.focal = has("focal_margin");
    if (problem.focal) problem.focal_margin = number<double>("focal_margin");
    problem.in_batch_hardness = number<double>("in_batch_hardness");
    problem.hard_hardness = number<double>("hard_hardness");
    problem.hard_log_weight = number<double>("hard_log_weight");
    problem.log_weights = vector<float>("log_weights", documents);
    problem.document_groups = vector<std::int32_t>("document_groups", documents);
    problem.queue_groups = vector<std::int32_t>("queue_groups", problem.queue.rows);
    problem.has_absolute_margin = has("absolute_margin");
    if (problem.has_absolute_margin) problem.absolute_margin = number<double>("absolute_margin");
    problem.has_relative_margin = has("relative_margin");
    if (problem.has_relative_margin) problem.relative_margin = number<double>("relative_margin");
    problem.ceilings = vector<float>("ceilings", queries);
    problem.floors = vector<float>("floors", queries);
    problem.has_guide = has("guide_queries");
    if (problem.has_guide) {
      problem.guide_queries = matrix("guide_queries");
      problem.guide_documents = matrix("guide_documents");
      if (has("guide_queue")) problem.guide_queue = matrix("guide_queue");
    }
    problem.execution.device = problem.queries.device;
    problem.execution.threads = number<int>("threads");
  }

  InfonceProblem problem;

 private:
  py::object get(const char* name) const { return given_[name]; }
  bool has(const char* name) const { return !get(name).is_none(); }
  template <typename T>
  T number(const char* name) const {
    return get(name).cast<T>();
  }
  Matrix matrix(const char* name) {
    owners_.push_back(import_matrix(get(name), name));
    return owners_.back().matrix;
  }
  template <typename T>
  const T* vector(const char* name, py::ssize_t size) {
    if (!has(name)) return nullptr;
    buffers_.push_back(get(name).cast<py::buffer>());
    return import_vector<T>(buffers_.back(), name, size, false);
  }
  IdLists lists(const std::string& name, py::ssize_t rows) {
    const auto* offsets = vector<std::int64_t>((name + "_offsets").c_str(), rows + 1);
    return {offsets, vector<std::int64_t>((name + "_ids").c_str(), offsets[rows])};
  }

  const py::dict& given_;
  std::vector<Array> owners_;
  std::vector<py::buffer> buffers_;
};

void run_forward(const py::dict& given, const py::buffer& losses, const py::buffer& log_sum_exp,
                 const py::buffer& positive_scores, const py::buffer& negatives,
                 const py::buffer& best_negatives, const py::buffer& best_negative_scores,
                 const py::buffer& ranks, const py::buffer& state, const py::object& allocate,
                 const py::object& progress) {
  ProblemArguments arguments(given);
  InfonceProblem& problem = arguments.problem;
  PythonProgress reporter(progress);
  problem.execution.progress = reporter.progress();
  const py::ssize_t rows = problem.queries.rows;
  InfonceForward out;
  out.losses = import_vector<float>(losses, "losses", rows, true);
  out.log_sum_exp = import_vector<float>(log_sum_exp, "log_sum_exp", rows, true);
  out.positive_scores = import_vector<float>(positive_scores, "positive_scores",
                                             problem.positives.offsets[rows], true);
  out.negatives = import_vector<std::int64_t>(negatives, "negatives", rows, true);
  out.best_negatives = import_vector<std::int64_t>(best_negatives, "best_negatives", rows, true);
  out.best_negative_scores =
      import_vector<float>(best_negative_scores, "best_negative_scores", rows, true);
  out.ranks = import_vector<std::int64_t>(ranks, "ranks", rows, true);
  out.state = import_vector<double>(state, "state", rows * kInfonceState, true);
  const WorkspaceLoan loan(allocate, infonce_forward_workspace_bytes(problem), &problem.execution);
  const auto call = [&](const InfonceProblem& p) { infonce_forward(p, out); };
  run_without_gil(call, problem, &reporter);
}

py::tuple run_backward(const py::dict& given, const py::buffer& state,
                       const py::buffer& row_gradients, const py::buffer& queries,
                       const py::object& documents, const py::object& allocate,
                       const py::object& progress) {
  ProblemArguments arguments(given);
  InfonceProblem& problem = arguments.problem;
  PythonProgress reporter(progress);
  problem.execution.progress = reporter.progress();
  const py::ssize_t rows = problem.queries.rows, dim = problem.queries.columns;
  double scale = 0, bias = 0;
  InfonceBackward out;
  out.state = import_vector<double>(state, "state", rows * kInfonceState, false);
  out.row_gradients = import_vector<float>(row_gradients, "row_gradients", rows, false);
  out.queries = import_vector<float>(queries, "queries", rows * dim, true);
  if (!documents.is_none())
    out.documents = import_vector<float>(documents.cast<py::buffer>(), "documents",
                                         problem.documents.rows * dim, true);
  out.scale = &scale;
  out.bias = &bias;
  const WorkspaceLoan loan(allocate, infonce_backward_workspace_bytes(problem), &problem.execution);
  const auto call = [&](const InfonceProblem& p) { infonce_backward(p, out); };
  run_without_gil(call, problem, &reporter);
  return py::make_tuple(scale, bias);
}

}  // namespace

void register_infonce(py::module_& module) {
  module.attr("INFONCE_STATE") = kInfonceState;
  module.def("infonce_forward", &run_forward, py::kw_only(), py::arg("problem"), py::arg("losses"),
             py::arg("log_sum_exp"), py::arg("positive_scores"), py::arg("negatives"),
             py::arg("best_negatives"), py::arg("best_negative_scores"), py::arg("ranks"),
             py::arg("state"), py::arg("allocate"), py::arg("progress"));
  module.def("infonce_backward", &run_backward, py::kw_only(), py::arg("problem"), py::arg("state"),
             py::arg("row_gradients"), py::arg("queries"), py::arg("documents"),
             py::arg("allocate"), py::arg("progress"));
}

}  // namespace stope::python
