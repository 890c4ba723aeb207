// device/warp.cuh on the emulated machine.
#pragma once

#include <bit>
#include <cstring>

#include "thread.cuh"

namespace stope::cuda {

inline constexpr unsigned kWarp = 32;

STOPE_DEVICE unsigned lane() { return thread() % kWarp; }

namespace emulated {
template <typename T>
T shuffle(const char* instruction, T value, unsigned source) {
  const Slot* slots = exchange(instruction, &value, sizeof(value));
  std::memcpy(&value, slots[source].bytes, sizeof(value));
  return value;
}
}  // namespace emulated

template <typename T>
STOPE_DEVICE T shuffle_down(T value, unsigned distance, unsigned width = kWarp) {
  const unsigned end = (lane() / width + 1) * width;
  return emulated::shuffle("shuffle_down", value,
                           lane() + distance < end ? lane() + distance : lane());
}
template <typename T>
STOPE_DEVICE T shuffle_xor(T value, unsigned mask, unsigned width = kWarp) {
  const unsigned end = (lane() / width + 1) * width;
  return emulated::shuffle("shuffle_xor", value, (lane() ^ mask) < end ? lane() ^ mask : lane());
}
template <typename T>
STOPE_DEVICE T shuffle_from(T value, unsigned source, unsigned width = kWarp) {
  return emulated::shuffle("shuffle_from", value, lane() / width * width + source % width);
}
STOPE_DEVICE std::uint32_t ballot(bool value) {
  const emulated::Slot* slots = emulated::exchange("ballot", &value, sizeof(value));
  std::uint32_t bits = 0;
  for (unsigned l = 0; l < kWarp; ++l) {
    bool set;
    std::memcpy(&set, slots[l].bytes, sizeof(set));
    bits |= static_cast<std::uint32_t>(set) << l;
  }
  return bits;
}
STOPE_DEVICE unsigned count_bits(std::uint32_t bits) {
  return static_cast<unsigned>(std::popcount(bits));
}

STOPE_DEVICE void warp_barrier() {
  const char nothing = 0;
  emulated::exchange("warp_barrier", &nothing, sizeof(nothing));
}

}  // namespace stope::cuda
