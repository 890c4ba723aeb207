// The library's own state: which instruction set is in use, how many threads, how it was built.
#pragma once

#include <cstddef>
#include <cstdint>

#include "stope/matrix.h"

namespace stope {

// Instruction sets from the plainest to the widest; available_isas() lists those that this machine
// and this build can run, ended by nullptr.
const char* const* available_isas();
const char* current_isa();
void select_isa(const char* name);  // std::invalid_argument when it is not available

// A kernel table, read as words: addresses of kernels, and smaller numbers. For tests.
struct KernelWords {
  const std::uintptr_t* words;
  std::size_t count;
};
KernelWords kernel_words(const char* isa);  // as select_isa

int num_threads();
void set_num_threads(int count);

struct BuildInfo {
  const char* version;
  const char* compiler;
  const char* flags;
  const char* build_type;
  const char* build_folder;
  bool cuda;
};
BuildInfo build_info();
bool cuda_built();

// The CUDA device that memory lies on, -1 for none; whether it is host memory that a device copies
// from by itself; and: what is queued on the stream `after` from
// now on waits for what is queued on `before` so far. DeviceError in a build without CUDA.
int cuda_device_of(const void* memory);
bool cuda_is_pinned(const void* memory);
void cuda_order_after(Device device, void* after, void* before);

// Operations per second of one core with the current instruction set: the scan's int8 and bfloat16
// multiply-adds and the float32 one, each measured on registers for about `seconds`.
struct Peak {
  double int8_operations_per_second;
  double bfloat16_operations_per_second;
  double float32_operations_per_second;
};
Peak measure_peak(double seconds);

}  // namespace stope
