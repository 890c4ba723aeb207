// Element types that cross the border. Kernels include this file, so it holds no functions.
#pragma once

#include <cstdint>

namespace stope {

enum class DType : std::int32_t { kFloat32, kFloat16, kBFloat16, kInt8 };

}  // namespace stope
