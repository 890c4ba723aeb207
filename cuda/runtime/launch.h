// Launching a kernel that takes one plain struct.
#pragma once

#include "check.h"

namespace stope::cuda {

struct LaunchShape {
  std::int64_t blocks_x = 1;
  std::int64_t blocks_y = 1;  // at most 65535
  int threads = 32;           // of a block, a multiple of 32
  std::size_t shared_bytes = 0;
};

// Queued on `stream`; nothing waits. An empty grid is no launch at all.
template <typename Arguments>
void launch(const char* name, void (*kernel)(Arguments), const LaunchShape& shape, void* stream,
            Arguments arguments) {
  if (shape.blocks_x == 0 || shape.blocks_y == 0) return;
  constexpr std::size_t kUnasked = 48 << 10;  // more shared memory must be asked for
  const auto* function = reinterpret_cast<const void*>(kernel);
  if (shape.shared_bytes > kUnasked)
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shape.shared_bytes)),
          name);
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(shape.blocks_x), static_cast<unsigned>(shape.blocks_y));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  void* pointers[] = {&arguments};
  check(cudaLaunchKernelExC(&config, function, pointers), name);
}

}  // namespace stope::cuda
