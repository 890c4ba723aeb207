// The structs of the DLPack exchange format, versions 0 and 1 (dmlc.github.io/dlpack).
#pragma once

#include <cstdint>

namespace stope::python {

enum DlDeviceType : std::int32_t { kDlCpu = 1, kDlCuda = 2, kDlCudaHost = 3, kDlCudaManaged = 13 };
enum DlTypeCode : std::uint8_t { kDlInt = 0, kDlFloat = 2, kDlBfloat = 4 };

struct DlTensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t ndim;
  std::uint8_t type_code;
  std::uint8_t type_bits;
  std::uint16_t type_lanes;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; nullptr means C-contiguous
  std::uint64_t byte_offset;
};

// The beginning of DLManagedTensor.
struct DlManagedTensor {
  DlTensor tensor;
};

// The beginning of DLManagedTensorVersioned.
struct DlManagedTensorVersioned {
  std::uint32_t major, minor;
  void* manager_context;
  void (*deleter)(DlManagedTensorVersioned*);
  std::uint64_t flags;
  DlTensor tensor;
};

}  // namespace stope::python
