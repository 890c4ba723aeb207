// Streams of the emulated machine: queues of work that runs when somebody waits for it.
//
// What a real stream leaves to chance shows up here, at both extremes:
//   - by default the caller's streams run at once, and those that the library makes as late as they
//     may: a kernel that does not wait for a copy reads what was there before
//   - STOPE_EMULATED_STREAMS=late turns that around: a copy that does not wait for a kernel
//     overwrites what the kernel has yet to read
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
