// The border for memory: rank, dtype, strides, device and writability of the caller's arrays.
#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <cxxabi.h>
#include <memory>
#include <optional>
#include <string>

#include "stope/error.h"
#include "stope/matrix.h"

namespace stope::python {

namespace py = pybind11;

// A borrowed array. `owner` keeps the memory alive.
struct Array {
  Matrix matrix;
  py::object owner;
};

// A CUDA stream as Python tells it: a pointer, 0 for the default stream.
using StreamNumber = std::int64_t;
// Only looked at, not read: nothing need be ready.
inline constexpr StreamNumber kNoStream = -1;

// A matrix by DLPack, then __cuda_array_interface__, __array_interface__ (ml_dtypes.bfloat16), then
// the buffer protocol. What is on a CUDA device is ready for `stream`. Refuses, naming the
// argument: not an array, wrong rank, wrong dtype, a strided last axis, unaligned elements.
Array import_matrix(const py::object& object, const char* name, StreamNumber stream = kNoStream);

// Same device, same dim, both int8 or neither; with `streams`, the corpus may be in host memory
// where the queries are on a device.
void check_pair(const Array& queries, const Array& corpus, bool streams = false);

// The elements of a C-contiguous array of exactly `size` elements (any size when negative).
template <typename T>
T* import_vector(const py::buffer& buffer, const char* name, py::ssize_t size, bool writable);

// Memory to write `size` elements to (any number when negative), contiguous and on that device.
template <typename T>
T* import_result(const py::object& object, const char* name, py::ssize_t size,
                 const Device& device);

// "cpu" or "cuda:0".
std::string device_name(const Device& device);

// Scratch memory from Python's `allocate(bytes)`, aligned for the core, lent to an execution.
class WorkspaceLoan {
 public:
  WorkspaceLoan(const py::object& allocate, std::size_t bytes, Execution* execution);

 private:
  py::object memory_;
};

// Where an operation runs: on the device of its arrays, on the caller's stream.
Execution execution_on(const Device& device, StreamNumber stream, int threads);

// body(), which may take the GIL. Once the interpreter is on its way out it ends a thread that asks
// for the GIL by unwinding it through our frames, which would let go of what it does not hold; such
// a thread sleeps here instead until the process has ended.
template <typename Body>
auto outliving_the_interpreter(const Body& body) {
  try {
    return body();
  } catch (const abi::__forced_unwind&) {
    for (;;) pause();
  }
}

// The GIL, released for as long as this lives.
class ReleasedGil {
 public:
  ReleasedGil() : state_(PyEval_SaveThread()) {}
  ~ReleasedGil() {
    outliving_the_interpreter([this] { PyEval_RestoreThread(state_); });
  }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

  // body() with the GIL, on the thread that released it. It comes back with that thread's own
  // state: PyGILState_Ensure would make a new one, of an interpreter that may be gone by now.
  template <typename Body>
  auto with_gil(const Body& body) {
    return outliving_the_interpreter([&] {
      PyEval_RestoreThread(state_);
      const auto result = body();
      state_ = PyEval_SaveThread();
      return result;
    });
  }

 private:
  PyThreadState* state_;
};

// The progress callback and Ctrl-C, as the core asks for them: at most every 30 ms, with the GIL.
class PythonProgress {
 public:
  explicit PythonProgress(py::object callback) : callback_(std::move(callback)) {}
  Progress progress() { return {&PythonProgress::step, this}; }
  // The operation begins, on the thread that released the GIL and asks from now on.
  void begin(ReleasedGil* released) { released_ = released; }
  // Re-raises what the callback or the signal handler raised.
  void raise_pending();
  // The last report: everything is done.
  void finish();

 private:
  static bool step(void* context, std::int64_t done, std::int64_t total);
  bool hear(std::int64_t done);  // with the GIL
  bool call(std::int64_t done);

  py::object callback_;
  ReleasedGil* released_ = nullptr;
  std::int64_t last_nanoseconds_ = 0;
  std::int64_t total_ = 0;
  std::optional<py::error_already_set> pending_;
};

// operation(call) without the GIL; a stop asked for by Python comes back as Python's exception.
template <typename Operation, typename Call>
void run_without_gil(const Operation& operation, const Call& call, PythonProgress* progress) {
  try {
    ReleasedGil released;
    progress->begin(&released);
    operation(call);
  } catch (const Interrupted&) {
    progress->raise_pending();
    throw;
  }
  progress->finish();
}

}  // namespace stope::python
