#include "stope/infonce.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "words.h"

namespace stope::python {
namespace {

using Options = InfonceOptions;

template <auto Member>
void read(const py::handle& value, Options* options) {
  options->*Member = value.cast<std::remove_reference_t<decltype(options->*Member)>>();
}
template <auto Has, auto Member>
void read_optional(const py::handle& value, Options* options) {
  options->*Has = !value.is_none();
  if (options->*Has) read<Member>(value, options);
}

// How an option is read, by the name that Python gives it.
struct OptionReader {
  const char* name;
  void (*read)(const py::handle& value, Options* options);
};
constexpr OptionReader kReaders[] = {
    {"metric",
     [](const py::handle& value, Options* o) {
       o->metric = parse_word(value.cast<std::string>(), "metric", kMetrics);
     }},
    {"precision",
     [](const py::handle& value, Options* o) {
       o->precision = parse_word(value.cast<std::string>(), "precision", kInfoncePrecisions);
     }},
    {"objective",
     [](const py::handle& value, Options* o) {
       o->objective = parse_word(value.cast<std::string>(), "objective", kObjectives);
     }},
    {"hardness",
     [](const py::handle& value, Options* o) {
       if (!value.is_none())
         o->hardness = parse_word(value.cast<std::string>(), "hardness", kHardness);
     }},
    {"directions",
     [](const py::handle& value, Options* o) {
       o->directions = {value.contains("query_to_query"), value.contains("document_to_query"),
                        value.contains("document_to_document")};
     }},
    {"scale", read<&Options::scale>},
    {"bias", read<&Options::bias>},
    {"beta", read<&Options::beta>},
    {"positive_prior", read<&Options::positive_prior>},
    {"detach_hardness", read<&Options::detach_hardness>},
    {"focal_margin", read_optional<&Options::focal, &Options::focal_margin>},
    {"foreign_hard_negatives", read<&Options::foreign_hard_negatives>},
    {"documents_see_hard_negatives", read<&Options::documents_see_hard_negatives>},
    {"hard_negative_log_weight", read<&Options::hard_negative_log_weight>},
    {"hardness_strength", read<&Options::hardness_strength>},
    {"drop", read<&Options::drop>},
    {"absolute_margin", read_optional<&Options::has_absolute_margin, &Options::absolute_margin>},
    {"relative_margin", read_optional<&Options::has_relative_margin, &Options::relative_margin>},
};

Options read_options(const py::kwargs& words) {
  Options options;
  for (const auto& [key, value] : words) {
    const auto name = key.cast<std::string>();
    const auto* reader = std::find_if(std::begin(kReaders), std::end(kReaders),
                                      [&](const OptionReader& r) { return name == r.name; });
    if (reader == std::end(kReaders))
      throw py::type_error("infonce has no option '" + name + "' in this build of the core");
    reader->read(value, &options);
  }
  return options;
}

// The problem with what it borrows from Python, which stays alive as long as this.
class Problem {
 public:
  // Of the matrices and vectors, None where there is none; lists are (offsets, ids).
  Problem(const Options& options, const py::dict& arrays, int threads, StreamNumber stream)
      : arrays_(arrays), stream_(stream) {
    static_cast<Options&>(problem) = options;
    problem.queries = matrix("queries");
    problem.documents = matrix("documents");
    problem.queue = matrix("queue");
    const py::ssize_t queries = problem.queries.rows, documents = problem.documents.rows;
    problem.positives = lists("positives", queries);
    problem.positive_weights =
        vector<float>("positive_weights", problem.positives.offsets[queries]);
    problem.exclude = lists("exclude", queries);
    problem.hard_negatives = lists("hard_negatives", queries);
    problem.log_weights = vector<float>("log_weights", documents);
    problem.document_groups = vector<std::int32_t>("document_groups", documents);
    problem.queue_groups = vector<std::int32_t>("queue_groups", problem.queue.rows);
    problem.ceilings = vector<float>("ceilings", queries);
    problem.floors = vector<float>("floors", queries);
    problem.has_guide = !get("guide_queries").is_none();
    problem.guide_queries = matrix("guide_queries");
    problem.guide_documents = matrix("guide_documents");
    problem.guide_queue = matrix("guide_queue");
    problem.execution = execution_on(problem.queries.device, stream, threads);
  }

  InfonceProblem problem;

 private:
  py::object get(const char* name) const { return arrays_[name]; }
  Matrix matrix(const char* name) {
    if (get(name).is_none()) return {};
    owners_.push_back(import_matrix(get(name), name, stream_));
    const Device &here = owners_.back().matrix.device, &queries = owners_.front().matrix.device;
    if (here.kind != queries.kind || here.index != queries.index)
      throw py::value_error("queries are on " + device_name(queries) + " but " + name + " is on " +
                            device_name(here) + "; move them to one device");
    return owners_.back().matrix;
  }
  template <typename T>
  const T* vector(const char* name, py::ssize_t size) {
    return get(name).is_none() ? nullptr : borrow<T>(get(name), name, size);
  }
  template <typename T>
  const T* borrow(const py::object& array, const char* name, py::ssize_t size) {
    buffers_.push_back(array.cast<py::buffer>());
    return import_vector<T>(buffers_.back(), name, size, false);
  }
  IdLists lists(const char* name, py::ssize_t rows) {
    if (get(name).is_none()) return {};
    const auto pair = get(name).cast<std::pair<py::object, py::object>>();
    const auto* offsets = borrow<std::int64_t>(pair.first, name, rows + 1);
    return {offsets, borrow<std::int64_t>(pair.second, name, offsets[rows])};
  }

  const py::dict arrays_;
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

// The words that a pass may remember in, in host memory.
InfonceMemory import_memory(const py::buffer& memory, bool written) {
  const py::ssize_t slots = memory.request().size;
  return {reinterpret_cast<std::uint64_t*>(import_vector<double>(memory, "memory", slots, written)),
          slots};
}

void run_forward(const Problem& given, const py::object& losses, const py::object& log_sum_exp,
                 const py::object& positive_scores, const py::object& negatives,
                 const py::object& best_negatives, const py::object& best_negative_scores,
                 const py::object& ranks, const py::object& kept, const py::object& left_out,
                 const py::object& state, const py::object& memory, const py::object& allocate,
                 const py::object& progress) {
  InfonceProblem problem = given.problem;
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
  out.kept = import_result<std::int64_t>(kept, "kept", rows, device);
  out.left_out = import_result<float>(left_out, "left_out", rows, device);
  if (!memory.is_none()) out.memory = import_memory(memory.cast<py::buffer>(), true);
  out.state = reinterpret_cast<InfonceState*>(
      import_result<double>(state, "state", rows * kInfonceState, device));
  const WorkspaceLoan loan(allocate, infonce_forward_workspace_bytes(problem), &problem.execution);
  const auto call = [&](const InfonceProblem& p) { infonce_forward(p, out); };
  run_without_gil(call, problem, &reporter);
}

void run_backward(const Problem& given, const py::object& state, const py::object& memory,
                  const py::object& row_gradients, const py::object& queries,
                  const py::object& documents, const py::object& scale_and_bias,
                  const py::object& allocate, const py::object& progress) {
  InfonceProblem problem = given.problem;
  PythonProgress reporter(progress);
  problem.execution.progress = reporter.progress();
  const py::ssize_t rows = problem.queries.rows, dim = problem.queries.columns;
  const Device& device = problem.queries.device;
  InfonceBackward out;
  out.state = reinterpret_cast<const InfonceState*>(
      import_given<double>(state, "state", rows * kInfonceState, device));
  if (!memory.is_none()) out.memory = import_memory(memory.cast<py::buffer>(), false);
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
  py::class_<Options>(module, "InfonceOptions").def(py::init(&read_options));
  py::class_<Problem>(module, "InfonceProblem")
      .def(py::init<const Options&, const py::dict&, int, StreamNumber>(), py::arg("options"),
           py::arg("arrays"), py::arg("threads"), py::arg("stream") = 0);
  module.def("infonce_forward", &run_forward, py::kw_only(), py::arg("problem"), py::arg("losses"),
             py::arg("log_sum_exp"), py::arg("positive_scores"), py::arg("negatives"),
             py::arg("best_negatives"), py::arg("best_negative_scores"), py::arg("ranks"),
             py::arg("kept"), py::arg("left_out"), py::arg("state"), py::arg("memory"),
             py::arg("allocate"), py::arg("progress"));
  module.def("infonce_backward", &run_backward, py::kw_only(), py::arg("problem"), py::arg("state"),
             py::arg("memory"), py::arg("row_gradients"), py::arg("queries"), py::arg("documents"),
             py::arg("scale_and_bias"), py::arg("allocate"), py::arg("progress"));
}

}  // namespace stope::python
