// Where a thread is, what its block shares, and atomics on integers: one instruction a function.
//
// emulated/ holds a header of the same name with the same functions in plain C++. The build chooses
// one of the two folders, so kernels are written once and ask nobody where they run.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define STOPE_DEVICE __device__ __forceinline__
// A kernel: STOPE_KERNEL(threads of a block) name(Arguments arguments) { ... }; a second number,
// how many blocks a multiprocessor should hold, bounds the registers where the compiler would
// spill.
#define STOPE_KERNEL(...) static __global__ void __launch_bounds__(__VA_ARGS__)

namespace stope::cuda {

STOPE_DEVICE unsigned block_x() { return blockIdx.x; }
STOPE_DEVICE unsigned block_y() { return blockIdx.y; }
STOPE_DEVICE unsigned blocks_x() { return gridDim.x; }
STOPE_DEVICE unsigned blocks_y() { return gridDim.y; }
STOPE_DEVICE unsigned thread() { return threadIdx.x; }
STOPE_DEVICE unsigned threads() { return blockDim.x; }

// Every thread of the block has come here, and sees what the others wrote before.
STOPE_DEVICE void block_barrier() { __syncthreads(); }

// The block's shared memory, of the size that the launch asked for; starts at a multiple of 16.
template <typename T>
STOPE_DEVICE T* shared_memory() {
  extern __shared__ uint4 stope_shared_memory[];
  return reinterpret_cast<T*>(stope_shared_memory);
}

// Each returns what was there before. Sums and extremes of integers do not depend on the order.
STOPE_DEVICE std::int32_t atomic_add(std::int32_t* p, std::int32_t value) {
  return atomicAdd(p, value);
}
STOPE_DEVICE std::int64_t atomic_add(std::int64_t* p, std::int64_t value) {
  return static_cast<std::int64_t>(
      atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value)));
}
STOPE_DEVICE void atomic_min(std::int64_t* p, std::int64_t value) {
  atomicMin(reinterpret_cast<long long*>(p), static_cast<long long>(value));
}

}  // namespace stope::cuda
