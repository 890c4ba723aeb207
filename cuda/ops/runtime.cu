// What the border asks CUDA for.
#include "stope/runtime.h"

#include "stream.h"

namespace stope {

bool cuda_built() { return true; }

int cuda_device_of(const void* memory) { return cuda::device_of_memory(memory); }

bool cuda_is_pinned(const void* memory) { return cuda::is_pinned(memory); }

void cuda_order_after(Device device, void* after, void* before) {
  const cuda::DeviceScope scope(device);
  cuda::order_after(after, before);
}

}  // namespace stope
