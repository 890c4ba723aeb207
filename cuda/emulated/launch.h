// runtime/launch.h on the emulated machine.
#pragma once

#include "machine.h"
#include "streams.h"

namespace stope::cuda {

struct LaunchShape {
  std::int64_t blocks_x = 1;
  std::int64_t blocks_y = 1;
  int threads = 32;
  std::size_t shared_bytes = 0;
};

template <typename Arguments>
void launch(const char* name, void (*kernel)(Arguments), const LaunchShape& shape, void* stream,
            Arguments arguments) {
  if (shape.blocks_x == 0 || shape.blocks_y == 0) return;
  struct Context {
    void (*kernel)(Arguments);
    Arguments arguments;
  };
  emulated::enqueue(stream, [name, shape, context = Context{kernel, arguments}] {
    emulated::run(
        name,
        [](const void* p) {
          const auto* c = static_cast<const Context*>(p);
          c->kernel(c->arguments);
        },
        &context, shape.blocks_x, shape.blocks_y, shape.threads, shape.shared_bytes);
  });
}

}  // namespace stope::cuda
