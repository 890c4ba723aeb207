#include "stope/runtime.h"

#include "arrays.h"

namespace stope::python {

void register_runtime(py::module_& module) {
  module.def("available_isas", [] {
    py::list names;
    for (const char* const* name = available_isas(); *name != nullptr; ++name) names.append(*name);
    return names;
  });
  module.def("current_isa", &current_isa);
  module.def(
      "select_isa", [](const std::string& name) { select_isa(name.c_str()); }, py::arg("name"));
  module.def(
      "kernel_words",
      [](const std::string& isa) {
        const KernelWords table = kernel_words(isa.c_str());
        py::list words;
        for (std::size_t i = 0; i < table.count; ++i) words.append(table.words[i]);
        return words;
      },
      py::arg("isa"));
  module.def("num_threads", &num_threads);
  module.def("set_num_threads", &set_num_threads, py::arg("count"));
  module.def("build_info", [] {
    const BuildInfo info = build_info();
    py::dict out;
    out["version"] = info.version;
    out["compiler"] = info.compiler;
    out["flags"] = info.flags;
    out["build_type"] = info.build_type;
    out["build_dir"] = info.build_folder;
    out["cuda"] = info.cuda;
    return out;
  });
  module.def(
      "measure_peak",
      [](double seconds) {
        Peak peak;
        {
          const ReleasedGil released;
          peak = measure_peak(seconds);
        }
        py::dict out;
        out["int8"] = peak.int8_operations_per_second;
        out["bfloat16"] = peak.bfloat16_operations_per_second;
        out["float32"] = peak.float32_operations_per_second;
        return out;
      },
      py::arg("seconds") = 0.1);
}

}  // namespace stope::python
