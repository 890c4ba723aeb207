// The host's calls on a stream: copies, fills, waiting. Device memory is the caller's.
#pragma once

#include "check.h"
#include "stope/matrix.h"

namespace stope::cuda {

// Makes a device the current one of this thread for as long as it lives.
class DeviceScope {
 public:
  explicit DeviceScope(Device device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    check(cudaSetDevice(device.index), "cudaSetDevice");
  }
  ~DeviceScope() { (void)cudaSetDevice(before_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = 0;
};

// A stream of the library's own, for work beside the caller's. At its end it is waited for.
class OwnStream {
 public:
  OwnStream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  ~OwnStream() {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaStreamDestroy(stream_);
  }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  void* get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// A place in a stream that others wait for. One that was never recorded lies behind everybody.
class Event {
 public:
  Event() {
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(void* stream) {
    check(cudaEventRecord(event_, static_cast<cudaStream_t>(stream)), "cudaEventRecord");
  }
  void wait() const { check(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  // What is queued on the stream from now on waits for the event.
  void hold_back(void* stream) const {
    check(cudaStreamWaitEvent(static_cast<cudaStream_t>(stream), event_, 0), "cudaStreamWaitEvent");
  }

 private:
  cudaEvent_t event_ = nullptr;
};

// `from` is ordinary host memory: it has been read when this returns.
inline void copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)),
        "cudaMemcpyAsync to the device");
}
// `from` is pinned host memory, which must not change before the copy has run. Rows become
// adjacent.
inline void copy_rows_to_device(void* to, const void* from, std::int64_t row_stride_bytes,
                                std::int64_t row_bytes, std::int64_t rows, void* stream) {
  const auto width = static_cast<std::size_t>(row_bytes), height = static_cast<std::size_t>(rows);
  const auto s = static_cast<cudaStream_t>(stream);
  if (row_stride_bytes == row_bytes || rows == 1)
    check(cudaMemcpyAsync(to, from, width * height, cudaMemcpyHostToDevice, s),
          "cudaMemcpyAsync to the device");
  else
    check(cudaMemcpy2DAsync(to, width, from, static_cast<std::size_t>(row_stride_bytes), width,
                            height, cudaMemcpyHostToDevice, s),
          "cudaMemcpy2DAsync to the device");
}
// Waits: `to` has been written when this returns.
inline void copy_to_host(void* to, const void* from, std::size_t bytes, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  if (bytes > 0)
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, s),
          "cudaMemcpyAsync to the host");
  check(cudaStreamSynchronize(s), "cudaStreamSynchronize");
}
inline void fill_bytes(void* to, int value, std::size_t bytes, void* stream) {
  if (bytes == 0) return;
  check(cudaMemsetAsync(to, value, bytes, static_cast<cudaStream_t>(stream)), "cudaMemsetAsync");
}
// A stream whose work is recorded as a graph must not be waited for.
inline bool is_recording(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}
// What is queued on `after` from now on waits for what is queued on `before` so far.
inline void order_after(void* after, void* before) {
  if (after == before) return;
  Event event;  // to CUDA it lives on until it has happened
  event.record(before);
  event.hold_back(after);
}
// The device that memory lies on; -1 for memory that CUDA does not know.
inline int device_of_memory(const void* memory) {
  cudaPointerAttributes attributes = {};
  check(cudaPointerGetAttributes(&attributes, memory), "cudaPointerGetAttributes");
  const bool known =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return known ? attributes.device : -1;
}
// Host memory that the device copies from by itself.
inline bool is_pinned(const void* memory) {
  cudaPointerAttributes attributes = {};
  check(cudaPointerGetAttributes(&attributes, memory), "cudaPointerGetAttributes");
  return attributes.type == cudaMemoryTypeHost;
}

}  // namespace stope::cuda
