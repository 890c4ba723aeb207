// device/thread.cuh on the emulated machine.
#pragma once

#include <cstdint>
#include <utility>

#include "machine.h"

#define STOPE_DEVICE inline
#define STOPE_KERNEL(...) [[maybe_unused]] static void

namespace stope::cuda {

STOPE_DEVICE unsigned block_x() { return emulated::position().block_x; }
STOPE_DEVICE unsigned block_y() { return emulated::position().block_y; }
STOPE_DEVICE unsigned blocks_x() { return emulated::position().blocks_x; }
STOPE_DEVICE unsigned blocks_y() { return emulated::position().blocks_y; }
STOPE_DEVICE unsigned thread() { return emulated::position().thread; }
STOPE_DEVICE unsigned threads() { return emulated::position().threads; }

STOPE_DEVICE void block_barrier() { emulated::block_barrier(); }

template <typename T>
STOPE_DEVICE T* shared_memory() {
  return reinterpret_cast<T*>(emulated::shared_memory());
}

// Fibers change places only where they wait, so nothing comes between.
STOPE_DEVICE std::int32_t atomic_add(std::int32_t* p, std::int32_t value) {
  return std::exchange(*p, *p + value);
}
STOPE_DEVICE std::int64_t atomic_add(std::int64_t* p, std::int64_t value) {
  return std::exchange(*p, *p + value);
}
STOPE_DEVICE void atomic_min(std::int64_t* p, std::int64_t value) {
  if (value < *p) *p = value;
}

}  // namespace stope::cuda
