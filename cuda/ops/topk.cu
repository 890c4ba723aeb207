#include "stope/topk.h"

#include "stope/error.h"

namespace stope {
void topk_cuda(const TopkCall&) {
  throw DeviceError("topk does not run on CUDA devices yet; move the arrays to the CPU");
}
}  // namespace stope
