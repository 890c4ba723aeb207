// What a call has in host memory, to the device on the call's stream.
#pragma once

#include <algorithm>
#include <cstring>

#include "launch.h"
#include "literal.cuh"
#include "stream.h"

namespace stope::cuda {

// `from` has been read when this returns. A graph would read it at every replay, when it is gone:
// there the values travel as arguments of kernels, which the graph keeps, 4,000 bytes in each.
template <typename T>
void take_in(const T* from, std::int64_t count, T* to, void* stream) {
  static_assert(sizeof(T) % sizeof(std::uint32_t) == 0);
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  if (!is_recording(stream)) return copy_to_device(to, from, bytes, stream);
  const auto* source = reinterpret_cast<const std::byte*>(from);
  LiteralArguments part = {};
  part.to = reinterpret_cast<std::uint32_t*>(to);
  for (std::size_t at = 0; at < bytes; at += sizeof(part.words), part.to += kLiteralWords) {
    const std::size_t size = std::min(bytes - at, sizeof(part.words));
    std::memcpy(part.words, source + at, size);
    part.count = static_cast<std::uint32_t>(size / sizeof(std::uint32_t));
    launch("write_literal", write_literal, {.threads = kLiteralThreads}, stream, part);
  }
}

}  // namespace stope::cuda
