#include <cstddef>

#include "kernel_table.h"
#include "simd/generic.h"

#include "fill.inl.h"

namespace stope {

void fill_generic(KernelTable* table) { fill(table, "generic"); }

}  // namespace stope
