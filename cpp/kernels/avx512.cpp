#include <cstddef>

#include "kernel_table.h"
#include "simd/avx512.h"

#include "fill.inl.h"

namespace stope {

void fill_avx512(KernelTable* table) { fill(table, "avx512"); }

}  // namespace stope
