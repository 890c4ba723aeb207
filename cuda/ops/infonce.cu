// infonce has no kernels yet: it says so.
#include "stope/infonce.h"

#include "stope/error.h"

namespace stope {
namespace {

[[noreturn]] void refuse() {
  throw DeviceError(
      "infonce was given arrays on a CUDA device, where it does not run yet; move them to the CPU");
}

}  // namespace

void infonce_forward_cuda(const InfonceProblem&, const InfonceForward&) { refuse(); }
void infonce_backward_cuda(const InfonceProblem&, const InfonceBackward&) { refuse(); }

}  // namespace stope
