// device/math.cuh on the emulated machine; the build forbids the compiler to fuse (-ffp-contract).
#pragma once

#include <bit>
#include <cmath>

#include "thread.cuh"

namespace stope::cuda {

STOPE_DEVICE float add_rn(float a, float b) { return a + b; }
STOPE_DEVICE float sub_rn(float a, float b) { return a - b; }
STOPE_DEVICE float mul_rn(float a, float b) { return a * b; }
STOPE_DEVICE float div_rn(float a, float b) { return a / b; }
STOPE_DEVICE float sqrt_rn(float a) { return std::sqrt(a); }
STOPE_DEVICE float fma_rn(float a, float b, float c) { return std::fma(a, b, c); }
STOPE_DEVICE float to_float_rn(std::int32_t a) { return static_cast<float>(a); }
STOPE_DEVICE float to_float_rn(double a) { return static_cast<float>(a); }

STOPE_DEVICE std::uint32_t bits_of(float a) { return std::bit_cast<std::uint32_t>(a); }
STOPE_DEVICE float float_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }
STOPE_DEVICE float half_to_float(std::uint16_t bits) {
  const std::uint32_t sign = (bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
  // Shifted into place, the exponent is 112 too small; a product puts it right, subnormals too.
  const float finite = float_of(magnitude << 13) * 0x1p112f;
  const std::uint32_t word =
      magnitude < 0x7c00u ? bits_of(finite) : 0x7f800000u | (magnitude & 0x3ffu) << 13;
  return float_of(sign | word);
}

}  // namespace stope::cuda
