// Views of the caller's memory: nothing here owns or copies anything.
#pragma once

#include <cstddef>
#include <cstdint>

#include "stope/dtype.h"

namespace stope {

enum class DeviceKind : std::int32_t { kCpu, kCuda };

struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  std::int32_t index = 0;
};

// Rows are `row_stride_bytes` apart (negative is allowed); elements of a row are contiguous.
struct Matrix {
  const void* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t row_stride_bytes = 0;
  DType dtype = DType::kFloat32;
  Device device;
};

inline std::int64_t element_bytes(DType dtype) {
  return dtype == DType::kFloat32 ? 4 : dtype == DType::kInt8 ? 1 : 2;
}

// One ascending list of row numbers per query: list i is ids[offsets[i]] .. ids[offsets[i + 1] -
// 1].
struct IdLists {
  const std::int64_t* offsets = nullptr;
  const std::int64_t* ids = nullptr;
};

enum class Metric : std::int32_t { kDot, kCosine, kEuclidean };

// Called now and then from the calling thread; returning false stops the operation (Interrupted).
struct Progress {
  bool (*step)(void* context, std::int64_t done, std::int64_t total) = nullptr;
  void* context = nullptr;
};

// Where an operation runs and the scratch memory that the caller lends it.
struct Execution {
  Device device;
  void* stream = nullptr;
  int threads = 1;
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
  void* pinned = nullptr;  // host memory that the device copies from by itself, where it is needed
  std::size_t pinned_bytes = 0;
  Progress progress;
};

}  // namespace stope
