// Carves the caller's workspace into arrays; without one it only counts the bytes. For ops, on
// either device: kernels get the arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "stope/matrix.h"

namespace stope {

class Workspace {
 public:
  Workspace() = default;
  explicit Workspace(const Execution& execution)
      : base_(static_cast<std::byte*>(execution.workspace)), size_(execution.workspace_bytes) {}

  template <typename T>
  T* take(std::int64_t count) {
    constexpr std::size_t kAlignment = 64;
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    std::byte* start = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    // The size was asked for a moment ago; on a CPU another instruction set needs another.
    if (base_ != nullptr && used_ > size_)
      throw std::runtime_error(
          "the workspace is smaller than what the operation takes: the instruction set was changed "
          "while it began; repeat it");
    return reinterpret_cast<T*>(start);
  }

  std::size_t bytes() const { return used_; }

 private:
  std::byte* base_ = nullptr;
  std::size_t size_ = 0;
  std::size_t used_ = 0;
};

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
inline std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }

}  // namespace stope
