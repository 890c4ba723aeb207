// The extension module: one register function per operation.
#include <pybind11/pybind11.h>

#include "stope/error.h"

namespace stope::python {

void register_group_sums(pybind11::module_& module);
void register_hard_negatives(pybind11::module_& module);
void register_infonce(pybind11::module_& module);
void register_nearest_centers(pybind11::module_& module);
void register_neighbors(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_similarity(pybind11::module_& module);
void register_topk(pybind11::module_& module);

}  // namespace stope::python

PYBIND11_MODULE(_core, module) {
  module.doc() = "The compiled core of stope; use the functions of the package instead.";
  // std::invalid_argument becomes ValueError, std::runtime_error RuntimeError (pybind11's rules).
  stope::python::register_group_sums(module);
  stope::python::register_hard_negatives(module);
  stope::python::register_infonce(module);
  stope::python::register_nearest_centers(module);
  stope::python::register_neighbors(module);
  stope::python::register_runtime(module);
  stope::python::register_similarity(module);
  stope::python::register_topk(module);
}
