#include <cstddef>

#include "kernel_table.h"
#include "simd/avx2.h"

#include "fill.inl.h"

namespace stope {

void fill_avx2(KernelTable* table) { fill(table, "avx2"); }

}  // namespace stope
