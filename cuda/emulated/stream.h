// runtime/stream.h on the emulated machine: devices 0 and 1, which are the same; streams run at
// once.
#pragma once

#include <cstring>

#include "machine.h"
#include "stope/error.h"
#include "stope/matrix.h"

namespace stope::cuda {

class DeviceScope {
 public:
  explicit DeviceScope(Device device) {
    if (device.index < 0 || device.index > 1)
      throw DeviceError("cudaSetDevice failed: the emulated machine has devices 0 and 1 only");
  }
};

inline void copy_to_device(void* to, const void* from, std::size_t bytes, void* /*stream*/) {
  emulated::refuse_in_graph("cudaMemcpyAsync to the device");
  if (bytes > 0) std::memcpy(to, from, bytes);
}
inline void copy_to_host(void* to, const void* from, std::size_t bytes, void* /*stream*/) {
  emulated::refuse_in_graph("cudaStreamSynchronize");
  if (bytes > 0) std::memcpy(to, from, bytes);
}
inline void fill_bytes(void* to, int value, std::size_t bytes, void* /*stream*/) {
  if (bytes == 0) return;
  if (emulated::is_recording())
    emulated::record([=] { std::memset(to, value, bytes); });
  else
    std::memset(to, value, bytes);
}
inline bool is_recording(void* /*stream*/) { return emulated::is_recording(); }
inline void order_after(void* /*after*/, void* /*before*/) {}
inline int device_of_memory(const void* /*memory*/) { return 0; }

}  // namespace stope::cuda
