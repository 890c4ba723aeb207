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

// `from` is ordinary host memory: it has been read when this returns.
inline void copy_to_device(void* to, const void* from, std::size_t bytes, void* stream) {
  if (bytes == 0) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)),
        "cudaMemcpyAsync to the device");
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
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  const cudaError_t recorded = cudaEventRecord(event, static_cast<cudaStream_t>(before));
  const cudaError_t waits = recorded != cudaSuccess
                                ? recorded
                                : cudaStreamWaitEvent(static_cast<cudaStream_t>(after), event, 0);
  (void)cudaEventDestroy(event);  // lives on until it has happened
  check(waits, "cudaStreamWaitEvent");
}
// The device that memory lies on; -1 for memory that CUDA does not know.
inline int device_of_memory(const void* memory) {
  cudaPointerAttributes attributes = {};
  check(cudaPointerGetAttributes(&attributes, memory), "cudaPointerGetAttributes");
  const bool known =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return known ? attributes.device : -1;
}

}  // namespace stope::cuda
