// The kernel table in use. An operation takes it once, before its loops.
#pragma once

#include "kernel_table.h"

namespace stope {

const KernelTable& kernels();

}  // namespace stope
