// A private pool of threads: one parallel loop at a time, the caller works too.
//
// Sized by set_num_threads, STOPE_NUM_THREADS, OMP_NUM_THREADS, then the processors this process
// may use. Workers start when first needed, sleep between loops, and are started anew in a child
// process after fork. Two Python threads that call operations at once take turns, loop by loop. A
// loop that begins inside a callback of another one, on this thread or on one that the callback
// waits for, runs on its calling thread alone: the results are the same bits.
#pragma once

#include <cstdint>
#include <type_traits>

namespace stope {

// A task must not throw; it is told its own number and the number of the thread that runs it.
using Task = void (*)(void* context, std::int64_t task, int thread);
// Called by the calling thread between its tasks; returning false stops the loop early.
using Poll = bool (*)(void* context);

// Returns false when poll stopped it. Workers run with IEEE rounding, denormals and no traps.
bool run_parallel(int threads, std::int64_t tasks, Task task, void* task_context,
                  Poll poll = nullptr, void* poll_context = nullptr);

// body(task, thread) for every task in [0, tasks).
template <typename Body>
bool parallel_for(int threads, std::int64_t tasks, Body&& body, Poll poll = nullptr,
                  void* poll_context = nullptr) {
  using Plain = std::remove_reference_t<Body>;
  const Task call = [](void* context, std::int64_t task, int thread) {
    (*static_cast<Plain*>(context))(task, thread);
  };
  void* context = const_cast<void*>(static_cast<const void*>(&body));
  return run_parallel(threads, tasks, call, context, poll, poll_context);
}

}  // namespace stope
