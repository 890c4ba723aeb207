// device/copy.cuh on the emulated machine: what is not waited for has not arrived.
#pragma once

#include "thread.cuh"

namespace stope::cuda {

STOPE_DEVICE void copy_async_16(void* shared, const void* global, bool there) {
  emulated::copy_later(shared, global, there);
}
STOPE_DEVICE void end_copy_group() { emulated::end_copy_group(); }
template <int kLeft>
STOPE_DEVICE void wait_for_copies() {
  emulated::wait_for_copies(kLeft);
}

}  // namespace stope::cuda
