#include "arrays.h"

#include <chrono>
#include <cstring>
#include <optional>

#include "dlpack.h"
#include "stope/runtime.h"

namespace stope::python {
namespace {

constexpr std::int64_t kMostRows = INT32_MAX;
constexpr std::int64_t kMostColumns = 65536;

// What every source of arrays is reduced to before the common checks.
struct Description {
  const void* data = nullptr;
  std::int64_t ndim = 0;
  std::int64_t shape[2] = {0, 0};
  std::int64_t stride_bytes[2] = {0, 0};
  std::optional<DType> dtype;
  std::int64_t item_bytes = 0;
  Device device;
};

std::string type_name(const py::handle& object) {
  return py::str(py::type::of(object).attr("__name__"));
}

std::string dtype_name(const py::handle& object) {
  return py::hasattr(object, "dtype") ? std::string(py::str(object.attr("dtype"))) : "unknown";
}

std::optional<DType> dlpack_dtype(const DlTensor& tensor) {
  if (tensor.type_lanes != 1) return std::nullopt;
  if (tensor.type_code == kDlFloat && tensor.type_bits == 32) return DType::kFloat32;
  if (tensor.type_code == kDlFloat && tensor.type_bits == 16) return DType::kFloat16;
  if (tensor.type_code == kDlBfloat && tensor.type_bits == 16) return DType::kBFloat16;
  if (tensor.type_code == kDlInt && tensor.type_bits == 8) return DType::kInt8;
  return std::nullopt;
}

std::optional<DType> buffer_dtype(const std::string& format) {
  const std::string code =
      format.size() == 2 && (format[0] == '=' || format[0] == '<' || format[0] == '@')
          ? format.substr(1)
          : format;
  if (code == "f") return DType::kFloat32;
  if (code == "e") return DType::kFloat16;
  if (code == "b") return DType::kInt8;
  return std::nullopt;
}

Description describe(const DlTensor& tensor) {
  Description d;
  d.data = static_cast<const char*>(tensor.data) + tensor.byte_offset;
  d.ndim = tensor.ndim;
  d.dtype = dlpack_dtype(tensor);
  d.item_bytes = tensor.type_bits / 8;
  if (d.ndim == 2) {
    for (int axis = 0; axis < 2; ++axis) d.shape[axis] = tensor.shape[axis];
    const std::int64_t row = tensor.strides == nullptr ? d.shape[1] : tensor.strides[0];
    const std::int64_t column = tensor.strides == nullptr ? 1 : tensor.strides[1];
    d.stride_bytes[0] = row * d.item_bytes;
    d.stride_bytes[1] = column * d.item_bytes;
  }
  return d;
}

// DLPack's numbers of streams: 1 is the default one, which is 0 to CUDA; -1 asks for no order.
std::int64_t dlpack_stream(StreamNumber stream) { return stream == 0 ? 1 : stream; }

py::object dlpack_capsule(const py::object& object, py::dict arguments) {
  const py::object exporter = object.attr("__dlpack__");
  py::dict versioned = arguments.attr("copy")();
  versioned["max_version"] = py::make_tuple(1, 0);
  try {
    return exporter(**versioned);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return exporter(**arguments);
}

const DlTensor& dlpack_tensor(const py::object& capsule, const char* name) {
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned") != 0)
    return static_cast<DlManagedTensorVersioned*>(
               PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"))
        ->tensor;
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor") != 0)
    return static_cast<DlManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->tensor;
  throw py::type_error(std::string(name) + " exports a DLPack capsule of an unknown kind");
}

// Arrays whose memory does not hold what they mean.
void refuse_lazy(const py::object& object, const std::string& name) {
  const auto module = py::type::of(object).attr("__module__").cast<std::string>();
  const std::string kind = type_name(object);
  if (module == "pyarrow.lib" && (kind == "ChunkedArray" || kind.ends_with("ListArray")))
    throw py::type_error(name + " is a " + kind + " of Arrow; give stope.data.from_arrow(" + name +
                         "), which copies nothing where it is in one piece");
  if (py::hasattr(object, "harden_mask") && object.attr("mask").attr("any")().cast<bool>())
    throw py::value_error(name + " has masked elements; leave those rows out, or fill them with " +
                          name + ".filled(0)");
  if (py::hasattr(object, "is_neg") && object.attr("is_neg")().cast<bool>())
    throw py::value_error(name + " is a lazily negated tensor; give " + name + ".resolve_neg()");
}

// Empty when the object exports no DLPack capsule in its present state.
std::optional<Description> by_dlpack(const py::object& object, const char* name,
                                     StreamNumber stream, py::object* owner) {
  if (!py::hasattr(object, "__dlpack__") || !py::hasattr(object, "__dlpack_device__"))
    return std::nullopt;
  py::tuple device;
  try {
    device = object.attr("__dlpack_device__")();
  } catch (py::error_already_set& error) {
    throw py::value_error(std::string(name) + " is on a device that cannot be read (" +
                          std::string(py::str(error.value())) + "); move it to the CPU");
  }
  const int kind = py::int_(device[0]).cast<int>();
  const bool cuda = kind == kDlCuda || kind == kDlCudaManaged;
  if (!cuda && kind != kDlCpu && kind != kDlCudaHost)
    throw py::value_error(std::string(name) + " is on a device of DLPack type " +
                          std::to_string(kind) + "; move it to the CPU or to a CUDA device");
  py::dict arguments;
  if (cuda) arguments["stream"] = dlpack_stream(stream);
  try {
    *owner = dlpack_capsule(object, arguments);
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_BufferError) && !error.matches(PyExc_RuntimeError)) throw;
    if (PyObject_CheckBuffer(object.ptr()) != 0) return std::nullopt;
    throw py::value_error(std::string(name) +
                          " cannot be read: " + std::string(py::str(error.value())));
  }
  Description d = describe(dlpack_tensor(*owner, name));
  if (cuda) d.device = {DeviceKind::kCuda, device[1].cast<int>()};
  return d;
}

// Shape and strides of the two array interfaces.
void describe_interface(const py::dict& interface, Description* d) {
  const auto shape = interface["shape"].cast<py::tuple>();
  d->data =
      reinterpret_cast<const void*>(interface["data"].cast<py::tuple>()[0].cast<std::uintptr_t>());
  d->ndim = static_cast<std::int64_t>(shape.size());
  if (d->ndim != 2) return;
  for (std::size_t axis = 0; axis < 2; ++axis) d->shape[axis] = shape[axis].cast<std::int64_t>();
  d->stride_bytes[0] = d->shape[1] * d->item_bytes;
  d->stride_bytes[1] = d->item_bytes;
  if (!interface.contains("strides") || interface["strides"].is_none()) return;
  const auto strides = interface["strides"].cast<py::tuple>();
  for (std::size_t axis = 0; axis < 2; ++axis)
    d->stride_bytes[axis] = strides[axis].cast<std::int64_t>();
}

std::optional<Description> by_cuda_array_interface(const py::object& object, StreamNumber stream) {
  if (!py::hasattr(object, "__cuda_array_interface__")) return std::nullopt;
  const py::dict interface = object.attr("__cuda_array_interface__");
  const auto type = interface["typestr"].cast<std::string>();
  Description d;
  d.dtype = type == "<f4"   ? std::optional(DType::kFloat32)
            : type == "<f2" ? std::optional(DType::kFloat16)
            : type == "|i1" ? std::optional(DType::kInt8)
                            : std::nullopt;
  d.item_bytes = std::stoll(type.substr(2));
  describe_interface(interface, &d);
  // The interface does not tell the device; memory without elements may be a null pointer.
  const int index = d.data == nullptr ? 0 : cuda_device_of(d.data);
  d.device = {DeviceKind::kCuda, index < 0 ? 0 : index};
  if (stream != kNoStream && interface.contains("stream") && !interface["stream"].is_none()) {
    const auto theirs = interface["stream"].cast<std::int64_t>();
    cuda_order_after(d.device, reinterpret_cast<void*>(stream),
                     reinterpret_cast<void*>(theirs == 1 ? 0 : theirs));
  }
  return d;
}

std::optional<Description> by_buffer(const py::object& object, py::object* owner) {
  if (PyObject_CheckBuffer(object.ptr()) == 0) return std::nullopt;
  auto view = std::make_unique<py::buffer_info>();
  try {
    *view = py::reinterpret_borrow<py::buffer>(object).request();
  } catch (py::error_already_set& error) {
    if (error.matches(PyExc_ValueError) || error.matches(PyExc_BufferError)) return std::nullopt;
    throw;
  }
  Description d;
  d.data = view->ptr;
  d.ndim = view->ndim;
  d.dtype = buffer_dtype(view->format);
  d.item_bytes = view->itemsize;
  if (d.ndim == 2)
    for (std::size_t axis = 0; axis < 2; ++axis) {
      d.shape[axis] = view->shape[axis];
      d.stride_bytes[axis] = view->strides[axis];
    }
  *owner = py::capsule(view.release(), [](void* p) { delete static_cast<py::buffer_info*>(p); });
  return d;
}

// ml_dtypes.bfloat16 crosses only here, as typestr "<V2" with its name in the dtype.
std::optional<Description> by_array_interface(const py::object& object) {
  if (!py::hasattr(object, "__array_interface__")) return std::nullopt;
  const py::dict interface = object.attr("__array_interface__");
  if (interface["typestr"].cast<std::string>() != "<V2" || dtype_name(object) != "bfloat16")
    return std::nullopt;
  Description d;
  d.dtype = DType::kBFloat16;
  d.item_bytes = 2;
  describe_interface(interface, &d);
  return d;
}

bool is_unaligned(const void* data, std::int64_t item_bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(item_bytes) != 0;
}

Matrix check(const Description& d, const py::object& object, const std::string& name) {
  if (d.ndim != 2)
    throw py::value_error(name + " has " + std::to_string(d.ndim) +
                          (d.ndim == 1 ? " dimension" : " dimensions") +
                          "; give a matrix of shape [rows, dim]" +
                          (d.ndim == 1 ? ", for a single row " + name + "[None, :]" : ""));
  if (!d.dtype)
    throw py::type_error(name + " has dtype " + dtype_name(object) +
                         "; cast it to float32 (or float16, bfloat16, int8), for example " + name +
                         ".astype('float32')");
  if (d.shape[1] == 0) throw py::value_error(name + " has dim 0; rows need at least one element");
  if (d.shape[1] > kMostColumns)
    throw py::value_error(name + " has dim " + std::to_string(d.shape[1]) + "; the most is " +
                          std::to_string(kMostColumns));
  if (d.shape[0] > kMostRows)
    throw py::value_error(name + " has " + std::to_string(d.shape[0]) + " rows; the most is " +
                          std::to_string(kMostRows) + ", so search it in parts");
  if (d.shape[0] > 0 && d.shape[1] > 1 && d.stride_bytes[1] != d.item_bytes)
    throw py::value_error(name + " has a strided last axis (" + std::to_string(d.stride_bytes[1]) +
                          " bytes apart); make its rows contiguous with numpy.ascontiguousarray(" +
                          name + ") or .contiguous()");
  if (d.shape[0] > 0 && (is_unaligned(d.data, d.item_bytes) ||
                         (d.shape[0] > 1 && d.stride_bytes[0] % d.item_bytes != 0)))
    throw py::value_error(name + " is not aligned: not all of its rows begin at a multiple of " +
                          std::to_string(d.item_bytes) + " bytes; make a copy, " + name +
                          ".copy() or .clone()");
  return {d.data, d.shape[0], d.shape[1], d.stride_bytes[0], *d.dtype, d.device};
}

}  // namespace

Array import_matrix(const py::object& object, const char* name, StreamNumber stream) {
  refuse_lazy(object, name);
  Array array;
  array.owner = object;
  py::object capsule;
  std::optional<Description> found = by_dlpack(object, name, stream, &capsule);
  if (!found) found = by_cuda_array_interface(object, stream);
  if (!found) found = by_array_interface(object);
  if (!found) found = by_buffer(object, &capsule);
  if (!found)
    throw py::type_error(
        std::string(name) + " is a " + type_name(object) +
        (py::hasattr(object, "dtype") ? " of dtype " + dtype_name(object) : "") +
        "; give an array of float32, float16, bfloat16 or int8 (NumPy, torch, or anything with "
        "DLPack), perhaps numpy.asarray(" +
        name + ", 'float32')");
  if (capsule) array.owner = py::make_tuple(object, capsule);
  array.matrix = check(*found, object, name);
  return array;
}

template <typename T>
T* import_vector(const py::buffer& buffer, const char* name, py::ssize_t size, bool writable) {
  const py::buffer_info info = buffer.request(writable);
  const bool contiguous =
      info.size == 0 || info.ndim == 0 || PyBuffer_IsContiguous(info.view(), 'C') != 0;
  if (info.itemsize != static_cast<py::ssize_t>(sizeof(T)) || !contiguous ||
      (size >= 0 && info.size != size) || (info.size > 0 && is_unaligned(info.ptr, sizeof(T))))
    throw py::value_error(std::string(name) + " must be an aligned, C-contiguous array of " +
                          std::to_string(size) + " elements of " + std::to_string(sizeof(T)) +
                          " bytes");
  return static_cast<T*>(info.ptr);
}

template std::int32_t* import_vector<std::int32_t>(const py::buffer&, const char*, py::ssize_t,
                                                   bool);
template double* import_vector<double>(const py::buffer&, const char*, py::ssize_t, bool);
template float* import_vector<float>(const py::buffer&, const char*, py::ssize_t, bool);
template std::int64_t* import_vector<std::int64_t>(const py::buffer&, const char*, py::ssize_t,
                                                   bool);
template std::uint64_t* import_vector<std::uint64_t>(const py::buffer&, const char*, py::ssize_t,
                                                     bool);
template std::uint8_t* import_vector<std::uint8_t>(const py::buffer&, const char*, py::ssize_t,
                                                   bool);

template <typename T>
T* import_result(const py::object& object, const char* name, py::ssize_t size,
                 const Device& device) {
  if (device.kind == DeviceKind::kCpu) {
    if (PyObject_CheckBuffer(object.ptr()) == 0)
      throw py::type_error(std::string(name) + " is a " + type_name(object) +
                           "; give a NumPy array");
    return import_vector<T>(py::reinterpret_borrow<py::buffer>(object), name, size, true);
  }
  py::dict arguments;
  arguments["stream"] = dlpack_stream(kNoStream);
  const py::object capsule = dlpack_capsule(object, arguments);
  const DlTensor& tensor = dlpack_tensor(capsule, name);
  const auto place = object.attr("__dlpack_device__")().cast<py::tuple>();
  const int kind = py::int_(place[0]).cast<int>();
  if ((kind != kDlCuda && kind != kDlCudaManaged) || place[1].cast<int>() != device.index)
    throw py::value_error(std::string(name) + " is not on " + device_name(device) +
                          ", where queries and corpus are");
  std::int64_t count = 1;
  bool contiguous = true;
  for (std::int32_t axis = tensor.ndim - 1; axis >= 0; --axis) {
    if (tensor.strides != nullptr && tensor.shape[axis] != 1)
      contiguous = contiguous && tensor.strides[axis] == count;
    count *= tensor.shape[axis];
  }
  if (tensor.type_bits != 8 * sizeof(T) || (!contiguous && count > 0) ||
      (size >= 0 && count != size))
    throw py::value_error(std::string(name) + " must be a C-contiguous array of " +
                          std::to_string(size) + " elements of " + std::to_string(sizeof(T)) +
                          " bytes");
  return reinterpret_cast<T*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
}

template float* import_result<float>(const py::object&, const char*, py::ssize_t, const Device&);
template std::uint8_t* import_result<std::uint8_t>(const py::object&, const char*, py::ssize_t,
                                                   const Device&);
template double* import_result<double>(const py::object&, const char*, py::ssize_t, const Device&);
template std::int64_t* import_result<std::int64_t>(const py::object&, const char*, py::ssize_t,
                                                   const Device&);

std::string device_name(const Device& device) {
  return device.kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

Execution execution_on(const Device& device, StreamNumber stream, int threads) {
  Execution execution;
  execution.device = device;
  execution.stream = reinterpret_cast<void*>(stream);
  execution.threads = threads;
  return execution;
}

bool PythonProgress::step(void* context, std::int64_t done, std::int64_t total) {
  auto* self = static_cast<PythonProgress*>(context);
  using Clock = std::chrono::steady_clock;
  const std::int64_t now =
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count();
  constexpr std::int64_t kInterval = 30'000'000;
  self->total_ = total;
  if (now - self->last_nanoseconds_ < kInterval) return true;
  self->last_nanoseconds_ = now;
  return self->released_->with_gil([self, done] { return self->hear(done); });
}

bool PythonProgress::hear(std::int64_t done) {
  if (PyErr_CheckSignals() != 0) {
    pending_.emplace();
    return false;
  }
  return call(done);
}

bool PythonProgress::call(std::int64_t done) {
  if (callback_.is_none()) return true;
  PyObject* result = PyObject_CallFunction(callback_.ptr(), "LL", static_cast<long long>(done),
                                           static_cast<long long>(total_));
  if (result == nullptr) {
    pending_.emplace();
    return false;
  }
  Py_DECREF(result);
  return true;
}

void PythonProgress::raise_pending() {
  if (pending_) throw py::error_already_set(*pending_);
}

void PythonProgress::finish() {
  if (!outliving_the_interpreter([this] { return call(total_); })) raise_pending();
}

void check_pair(const Array& queries, const Array& corpus, bool streams) {
  const Matrix &q = queries.matrix, &c = corpus.matrix;
  const bool streamed = streams && c.device.kind == DeviceKind::kCpu;
  if (!streamed && (q.device.kind != c.device.kind || q.device.index != c.device.index))
    throw py::value_error("queries are on " + device_name(q.device) + " but corpus is on " +
                          device_name(c.device) + "; move one to the other's device");
  if (q.columns != c.columns)
    throw py::value_error("corpus has dim " + std::to_string(c.columns) + " but queries have dim " +
                          std::to_string(q.columns));
  if ((q.dtype == DType::kInt8) != (c.dtype == DType::kInt8))
    throw py::type_error(std::string(q.dtype == DType::kInt8 ? "queries are" : "corpus is") +
                         " int8 and the other is not; give both as int8 or neither");
}

WorkspaceLoan::WorkspaceLoan(const py::object& allocate, std::size_t bytes, Execution* execution) {
  constexpr std::size_t kAlignment = 64;
  memory_ = outliving_the_interpreter([&] { return allocate(bytes + kAlignment); });
  auto address = reinterpret_cast<std::uintptr_t>(
      import_result<std::uint8_t>(memory_, "workspace", -1, execution->device));
  address = (address + kAlignment - 1) / kAlignment * kAlignment;
  execution->workspace = reinterpret_cast<void*>(address);
  execution->workspace_bytes = bytes;
}

}  // namespace stope::python
