// cp.async: from global to shared memory without a detour through registers (PTX ISA, 9.7.9.25).
#pragma once

#include "thread.cuh"

namespace stope::cuda {

// Sixteen bytes, both addresses multiples of 16. Where not `there`, zeros, and nothing is read.
STOPE_DEVICE void copy_async_16(void* shared, const void* global, bool there) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
               "r"(there ? 16 : 0)
               : "memory");
}
// The copies that this thread began since the last one are a group.
STOPE_DEVICE void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the latest kLeft groups of this thread have arrived; a barrier shows them to
// others.
template <int kLeft>
STOPE_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

}  // namespace stope::cuda
