#include "stope/infonce.h"

#include <vector>

#include "arrays.h"

namespace stope::python {
namespace {

// The problem as Python gives it: one dict of matrices, vectors and numbers, None where there is
// none. Whatever it borrows stays alive as long as this.
class ProblemArguments {
 public:
  ProblemArguments(const py::dict& given, StreamNumber stream) : given_(given), stream_(stream) {
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
    problem.execution = execution_on(problem.queries.device, stream, number<int>("threads"));
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
    owners_.push_back(import_matrix(get(name), name, stream_));
    const Device &here = owners_.back().matrix.device, &queries = owners_.front().matrix.device;
    if (here.kind != queries.kind || here.index != queries.index)
      throw py::value_error("queries are on " + device_name(queries) + " but " + name + " is on " +
                            device_name(here) + "; move them to one device");
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
  const StreamNumber stream_;
  std::vector<Array> owners_;
  std::vector<py::buffer> buffers_;
};

// `size` elements that are only read, on the problem's device.
template <typename T>
const T* import_given(const py::object& object, const char* name, py::ssize_t size,
                      const Device& device) {
  if (device.kind == DeviceKind::kCuda) return import_result<T>(object, name, size, device);
  return import_vector<T>(object.cast<py::buffer>(), name, size, false);
}

void run_forward(const py::dict& given, const py::object& losses, const py::object& log_sum_exp,
                 const py::object& positive_scores, const py::object& negatives,
                 const py::object& best_negatives, const py::object& best_negative_scores,
                 const py::object& ranks, const py::object& state, std::int64_t stream,
                 const py::object& allocate, const py::object& progress) {
  ProblemArguments arguments(given, stream);
  InfonceProblem& problem = arguments.problem;
  PythonProgress reporter(progress);
  problem.execution.progress = reporter.progress();
  const py::ssize_t rows = problem.queries.rows;
  const Device& device = problem.queries.device;
  InfonceForward out;
  out.losses = import_result<float>(losses, "losses", rows, device);
  out.log_sum_exp = import_result<float>(log_sum_exp, "log_sum_exp", rows, device);
  out.positive_scores = import_result<float>(positive_scores, "positive_scores",
                                             problem.positives.offsets[rows], device);
  out.negatives = import_result<std::int64_t>(negatives, "negatives", rows, device);
  out.best_negatives = import_result<std::int64_t>(best_negatives, "best_negatives", rows, device);
  out.best_negative_scores =
      import_result<float>(best_negative_scores, "best_negative_scores", rows, device);
  out.ranks = import_result<std::int64_t>(ranks, "ranks", rows, device);
  out.state = import_result<double>(state, "state", rows * kInfonceState, device);
  const WorkspaceLoan loan(allocate, infonce_forward_workspace_bytes(problem), &problem.execution);
  const auto call = [&](const InfonceProblem& p) { infonce_forward(p, out); };
  run_without_gil(call, problem, &reporter);
}

void run_backward(const py::dict& given, const py::object& state, const py::object& row_gradients,
                  const py::object& queries, const py::object& documents,
                  const py::object& scale_and_bias, std::int64_t stream, const py::object& allocate,
                  const py::object& progress) {
  ProblemArguments arguments(given, stream);
  InfonceProblem& problem = arguments.problem;
  PythonProgress reporter(progress);
  problem.execution.progress = reporter.progress();
  const py::ssize_t rows = problem.queries.rows, dim = problem.queries.columns;
  const Device& device = problem.queries.device;
  InfonceBackward out;
  out.state = import_given<double>(state, "state", rows * kInfonceState, device);
  out.row_gradients = import_given<float>(row_gradients, "row_gradients", rows, device);
  out.queries = import_result<float>(queries, "queries", rows * dim, device);
  if (!documents.is_none())
    out.documents =
        import_result<float>(documents, "documents", problem.documents.rows * dim, device);
  out.scale = import_result<double>(scale_and_bias, "scale_and_bias", 2, device);
  out.bias = out.scale + 1;
  const WorkspaceLoan loan(allocate, infonce_backward_workspace_bytes(problem), &problem.execution);
  const auto call = [&](const InfonceProblem& p) { infonce_backward(p, out); };
  run_without_gil(call, problem, &reporter);
}

}  // namespace

void register_infonce(py::module_& module) {
  module.attr("INFONCE_STATE") = kInfonceState;
  module.def("infonce_forward", &run_forward, py::kw_only(), py::arg("problem"), py::arg("losses"),
             py::arg("log_sum_exp"), py::arg("positive_scores"), py::arg("negatives"),
             py::arg("best_negatives"), py::arg("best_negative_scores"), py::arg("ranks"),
             py::arg("state"), py::arg("stream") = 0, py::arg("allocate"), py::arg("progress"));
  module.def("infonce_backward", &run_backward, py::kw_only(), py::arg("problem"), py::arg("state"),
             py::arg("row_gradients"), py::arg("queries"), py::arg("documents"),
             py::arg("scale_and_bias"), py::arg("stream") = 0, py::arg("allocate"),
             py::arg("progress"));
}

}  // namespace stope::python
