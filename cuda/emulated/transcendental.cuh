// device/transcendental.cuh on the emulated machine.
#pragma once

#include <cmath>
#include <limits>

#include "thread.cuh"

namespace stope::cuda {

STOPE_DEVICE float exp_of(float x) { return std::exp(x); }
STOPE_DEVICE double exp_of(double x) { return std::exp(x); }
STOPE_DEVICE double log_of(double x) { return std::log(x); }
STOPE_DEVICE float log1p_of(float x) { return std::log1p(x); }
STOPE_DEVICE double log1p_of(double x) { return std::log1p(x); }
STOPE_DEVICE float next_below(float x) {
  return std::nextafter(x, -std::numeric_limits<float>::infinity());
}

}  // namespace stope::cuda
