// Exponentials of sixteen lanes, for the loss.
#pragma once

#include <cstdint>

namespace {

constexpr float kSmallestExponent = -87.3f;  // e^x is a normal number above
// And 2^x above this, also where a polynomial comes out a little low: at -126 it would not be, and
// every entry that is far below the others would cost a hundred cycles.
constexpr float kSmallestPower = -125.99f;
constexpr float kSmallestWeightPower = -80.0f;  // of weights, beside the largest
constexpr float kSmallestWeight = 0x1p-80f;
constexpr float kLog2E = 1.44269504088896341f;

// e^x for x <= 88, within 2 units in the last place; 0 below kSmallestExponent.
inline f32x16 exp_f32(f32x16 x) {
  const f32x16 bounded = max_f32(x, set_f32(kSmallestExponent));
  const f32x16 n = round_f32(mul_f32(bounded, set_f32(1.44269504088896341f)));
  f32x16 r = fma_f32(n, set_f32(-0.693359375f), bounded);
  r = fma_f32(n, set_f32(2.12194440e-4f), r);
  f32x16 p = set_f32(1.9875691500e-4f);
  p = fma_f32(p, r, set_f32(1.3981999507e-3f));
  p = fma_f32(p, r, set_f32(8.3334519073e-3f));
  p = fma_f32(p, r, set_f32(4.1665795894e-2f));
  p = fma_f32(p, r, set_f32(1.6666665459e-1f));
  p = fma_f32(p, r, set_f32(5.0000001201e-1f));
  p = add_f32(fma_f32(p, mul_f32(r, r), r), set_f32(1.0f));
  return where_le(x, set_f32(kSmallestExponent), set_f32(0.0f), times_power_of_two(p, n));
}

// 2^x for x <= 120, within 3e-6 (least squares, iterated to even errors); 2^smallest at the least.
inline f32x16 exp2_rough(f32x16 x, f32x16 smallest = set_f32(kSmallestPower)) {
  const f32x16 bounded = max_f32(x, smallest);
  const f32x16 n = round_f32(bounded);
  const f32x16 r = sub_f32(bounded, n);
  f32x16 p = set_f32(9.57010143e-3f);
  p = fma_f32(p, r, set_f32(5.59178603e-2f));
  p = fma_f32(p, r, set_f32(2.40247448e-1f));
  p = fma_f32(p, r, set_f32(6.93121815e-1f));
  p = fma_f32(p, r, set_f32(9.99999261e-1f));
  return times_power_of_two(p, n);
}

// The x above which factor * 2^x counts as a weight. Gradients are sums of products with weights,
// and where some of these are no normal numbers, each costs a hundred cycles and more: so weights
// end at 2^-80 of the largest, far from what float32 can tell, and all that is made of them is
// normal.
inline float smallest_power(float factor) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &factor, sizeof(bits));
  const int exponent = static_cast<int>(bits >> 23 & 0xff) - 127;
  const float normal = kSmallestPower - static_cast<float>(exponent < 0 ? exponent : 0);
  return normal < kSmallestWeightPower ? kSmallestWeightPower : normal;
}

}  // namespace
