// Float arithmetic that the compiler may neither fuse nor split, and reinterpreted bits.
//
// nvcc contracts a * b + c by default; these do not, so that the bits are the CPU's.
#pragma once

#include "thread.cuh"

namespace stope::cuda {

STOPE_DEVICE float add_rn(float a, float b) { return __fadd_rn(a, b); }
STOPE_DEVICE float sub_rn(float a, float b) { return __fsub_rn(a, b); }
STOPE_DEVICE float mul_rn(float a, float b) { return __fmul_rn(a, b); }
STOPE_DEVICE float div_rn(float a, float b) { return __fdiv_rn(a, b); }
STOPE_DEVICE float sqrt_rn(float a) { return __fsqrt_rn(a); }
STOPE_DEVICE float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
STOPE_DEVICE float to_float_rn(std::int32_t a) { return __int2float_rn(a); }
STOPE_DEVICE float to_float_rn(double a) { return __double2float_rn(a); }

STOPE_DEVICE std::uint32_t bits_of(float a) { return __float_as_uint(a); }
STOPE_DEVICE float float_of(std::uint32_t bits) { return __uint_as_float(bits); }
STOPE_DEVICE float half_to_float(std::uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

}  // namespace stope::cuda
