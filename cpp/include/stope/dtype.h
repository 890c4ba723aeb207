// Element types that cross the border, and what scores are computed in. Kernels include this file,
// so it holds no functions.
#pragma once

#include <cstdint>

namespace stope {

enum class DType : std::int32_t { kFloat32, kFloat16, kBFloat16, kInt8 };

// A search is exact, or as exact as its int8 or bfloat16 scan; the loss multiplies float32 or
// bfloat16.
enum class Precision : std::int32_t { kExact, kFloat32, kBFloat16, kInt8 };

}  // namespace stope
