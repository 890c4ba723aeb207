// Sums that come to less than the smallest normal number.
//
// On Intel's cores an operation whose result is subnormal takes a hundred cycles and more. Encoders
// have dimensions of 1e-33 (all-MiniLM-L6-v2 has two), and weights times these are so small.
// Results only: numbers that come in are read as they are.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace {

// From now on this thread's subnormal results become zeros. Returns what was the rule before. (No
// object that ends this by itself: kernels have no exceptions, and export no handlers of them.)
inline unsigned flush_subnormals() {
#if defined(__SSE__)
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | _MM_FLUSH_ZERO_ON);
  return before;
#else
  return 0;
#endif
}
inline void end_flush([[maybe_unused]] unsigned before) {
#if defined(__SSE__)
  _mm_setcsr(before);
#endif
}

}  // namespace
