// From a CUDA status to DeviceError, with the call and CUDA's text.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "stope/error.h"

namespace stope::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  // An error that was only noted (a bad launch) would otherwise be reported by the next call again.
  (void)cudaGetLastError();
  throw DeviceError(std::string(call) + " failed: " + cudaGetErrorString(status) + " (" +
                    cudaGetErrorName(status) + ")");
}

}  // namespace stope::cuda
