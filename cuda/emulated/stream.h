// runtime/stream.h on the emulated machine: devices 0 and 1, which are the same.
#pragma once

#include <cstdlib>
#include <cstring>
#include <vector>

#include "machine.h"
#include "stope/error.h"
#include "stope/matrix.h"
#include "streams.h"

namespace stope::cuda {

class DeviceScope {
 public:
  explicit DeviceScope(Device device) {
    if (device.index < 0 || device.index > 1)
      throw DeviceError("cudaSetDevice failed: the emulated machine has devices 0 and 1 only");
  }
  ~DeviceScope() { emulated::run_everything(); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
};

class OwnStream {
 public:
  OwnStream() : stream_(emulated::make_stream()) {}
  ~OwnStream() {
    emulated::run_everything();
    emulated::end_stream(stream_);
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  void* get() const { return stream_; }

 private:
  void* stream_;
};

class Event {
 public:
  void record(void* stream) { mark_ = emulated::mark(stream); }
  void wait() const { emulated::run_until(mark_); }
  void hold_back(void* stream) const {
    emulated::enqueue(stream, [mark = mark_] { emulated::run_until(mark); });
  }

 private:
  emulated::Mark mark_;
};

inline void copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  emulated::refuse_in_graph("cudaMemcpyAsync to the device");
  if (bytes == 0) return;
  const auto* first = static_cast<const std::byte*>(from);
  emulated::enqueue(stream, [to, given = std::vector<std::byte>(first, first + bytes)] {
    std::memcpy(to, given.data(), given.size());
  });
}
inline void copy_rows_to_device(void* to, const void* from, std::int64_t row_stride_bytes,
                                std::int64_t row_bytes, std::int64_t rows, void* stream) {
  emulated::enqueue(stream, [=] {
    for (std::int64_t row = 0; row < rows; ++row)
      std::memcpy(static_cast<std::byte*>(to) + row * row_bytes,
                  static_cast<const std::byte*>(from) + row * row_stride_bytes,
                  static_cast<std::size_t>(row_bytes));
  });
}
inline void copy_to_host(void* to, const void* from, std::size_t bytes, void* stream) {
  emulated::refuse_in_graph("cudaStreamSynchronize");
  emulated::run_until(emulated::mark(stream));
  if (bytes > 0) std::memcpy(to, from, bytes);
}
inline void fill_bytes(void* to, int value, std::size_t bytes, void* stream) {
  if (bytes > 0) emulated::enqueue(stream, [=] { std::memset(to, value, bytes); });
}
inline bool is_recording(void* /*stream*/) { return emulated::is_recording(); }
inline void order_after(void* after, void* before) {
  if (after == before) return;
  Event event;
  event.record(before);
  event.hold_back(after);
}
inline int device_of_memory(const void* /*memory*/) { return 0; }
inline bool is_pinned(const void* /*memory*/) {
  return std::getenv("STOPE_EMULATED_PINNED") != nullptr;
}

}  // namespace stope::cuda
