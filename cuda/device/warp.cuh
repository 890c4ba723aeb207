// What the 32 lanes of a warp exchange. Every function is called by all of them together.
#pragma once

#include "thread.cuh"

namespace stope::cuda {

inline constexpr unsigned kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

STOPE_DEVICE unsigned lane() { return threadIdx.x % kWarp; }

// The value of lane `lane() + distance` (lane() ^ mask; `source`) within groups of `width` lanes.
// Beyond the group's end a lane gets its own value.
template <typename T>
STOPE_DEVICE T shuffle_down(T value, unsigned distance, unsigned width = kWarp) {
  return __shfl_down_sync(kAllLanes, value, distance, static_cast<int>(width));
}
template <typename T>
STOPE_DEVICE T shuffle_xor(T value, unsigned mask, unsigned width = kWarp) {
  return __shfl_xor_sync(kAllLanes, value, static_cast<int>(mask), static_cast<int>(width));
}
template <typename T>
STOPE_DEVICE T shuffle_from(T value, unsigned source, unsigned width = kWarp) {
  return __shfl_sync(kAllLanes, value, static_cast<int>(source), static_cast<int>(width));
}
// Bit l is set where lane l brings true.
STOPE_DEVICE std::uint32_t ballot(bool value) { return __ballot_sync(kAllLanes, value); }
STOPE_DEVICE unsigned count_bits(std::uint32_t bits) { return static_cast<unsigned>(__popc(bits)); }

// What the lanes wrote before is seen by the others after.
STOPE_DEVICE void warp_barrier() { __syncwarp(); }

}  // namespace stope::cuda
