// Streams of the emulated machine: queues of work that runs when somebody waits for it.
//
// What a real stream leaves to chance shows up here, at its extremes. STOPE_EMULATED_STREAMS names
// the streams that run as late as they may; the others run at once:
//   own      those that the library makes (without the variable, too): a kernel that does not wait
//            for a copy reads what was there before
//   caller   a copy that does not wait for a kernel overwrites what the kernel has yet to read
//   all      a host that does not wait for a copy overwrites what the copy has yet to read
#pragma once

#include <cstdint>
#include <functional>

namespace stope::cuda::emulated {

// A place in a stream: behind the first `count` pieces of its work.
struct Mark {
  void* stream = nullptr;
  std::uint64_t count = 0;
};

void enqueue(void* stream, std::function<void()> work);  // or a part of the graph being recorded
Mark mark(void* stream);
// Runs what lies before the mark; at once, as a host does that waits.
void run_until(const Mark& mark);

void* make_stream();
void end_stream(void* stream);  // after its work has run
// At the end of a call: runs what it has left behind.
void run_everything() noexcept;

}  // namespace stope::cuda::emulated
