// What kernels and the host keep in the workspace: plain structs, no functions.
#pragma once

#include <cstdint>

#include "stope/matrix.h"

namespace stope::cuda {

inline constexpr int kCanonicalLanes = 16;  // of the canonical sum: half a warp

// What cosine multiplies a row's elements by, one after the other: 1 for ordinary magnitudes and
// else a power of two; then 1 / norm, 0 for a zero row.
struct RowFactors {
  float prescale;
  float inverse;
};

// The first row that may not be scored; kNoRow where there is none.
struct RowFaults {
  std::int64_t not_finite;
  std::int64_t too_long;
};
inline constexpr int kNoRowByte = 0x7f;  // memory filled with it holds kNoRow
inline constexpr std::int64_t kNoRow = 0x7f7f7f7f7f7f7f7f;

// Products of norms below this limit cannot overflow float32, in any order of summation.
inline constexpr float kLargestNorm = 0x1p63f;

}  // namespace stope::cuda
