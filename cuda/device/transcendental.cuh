// Exponentials and logarithms of CUDA's library: at most 2 units in the last place off (CUDA C++
// Programming Guide, mathematical functions), subnormals included.
#pragma once

#include "thread.cuh"

namespace stope::cuda {

STOPE_DEVICE float exp_of(float x) { return ::expf(x); }
STOPE_DEVICE double exp_of(double x) { return ::exp(x); }
STOPE_DEVICE double log_of(double x) { return ::log(x); }
STOPE_DEVICE float log1p_of(float x) { return ::log1pf(x); }
STOPE_DEVICE double log1p_of(double x) { return ::log1p(x); }
// The next float32 towards minus infinity.
STOPE_DEVICE float next_below(float x) { return ::nextafterf(x, -__int_as_float(0x7f800000)); }

}  // namespace stope::cuda
