// A kernel that writes its own arguments to memory: so a CUDA graph keeps values that were in host
// memory when it was recorded.
#pragma once

#include "thread.cuh"

namespace stope::cuda {

inline constexpr unsigned kLiteralWords = 1000;  // a kernel's arguments take 4,096 bytes at most
inline constexpr int kLiteralThreads = 256;

struct LiteralArguments {
  std::uint32_t* to;
  std::uint32_t count;
  std::uint32_t words[kLiteralWords];
};
static_assert(sizeof(LiteralArguments) <= 4096);

STOPE_KERNEL(kLiteralThreads) write_literal(LiteralArguments a) {
  for (unsigned e = thread(); e < a.count; e += kLiteralThreads) a.to[e] = a.words[e];
}

}  // namespace stope::cuda
