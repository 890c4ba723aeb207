#include "streams.h"

#include <cstdlib>
#include <deque>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "machine.h"

namespace stope::cuda::emulated {
namespace {

struct Queue {
  std::deque<std::function<void()>> work;
  std::uint64_t queued = 0, done = 0;
};

// Of one host thread: no call hands its streams to another.
struct Streams {
  std::map<void*, Queue> queues;
  std::set<void*> own;
};

Streams& streams() {
  thread_local Streams instance;
  return instance;
}

bool runs_late(void* stream) {
  const char* text = std::getenv("STOPE_EMULATED_STREAMS");
  const std::string_view late = text == nullptr ? "own" : text;
  return late == "all" || streams().own.contains(stream) == (late == "own");
}

}  // namespace

void run_until(const Mark& mark) {
  Queue& queue = streams().queues[mark.stream];
  while (queue.done < mark.count) {
    const std::function<void()> work = std::move(queue.work.front());
    queue.work.pop_front();
    ++queue.done;
    work();
  }
}

Mark mark(void* stream) { return {stream, streams().queues[stream].queued}; }

void enqueue(void* stream, std::function<void()> work) {
  if (is_recording()) return record(std::move(work));
  Queue& queue = streams().queues[stream];
  queue.work.push_back(std::move(work));
  ++queue.queued;
  if (!runs_late(stream)) run_until(mark(stream));
}

void* make_stream() {
  auto* stream = new char;
  streams().own.insert(stream);
  return stream;
}

void end_stream(void* stream) {
  streams().own.erase(stream);
  streams().queues.erase(stream);
  delete static_cast<char*>(stream);
}

void run_everything() noexcept {
  for (auto& [stream, queue] : streams().queues) {
    try {
      run_until({stream, queue.queued});
    } catch (...) {
      // The call has failed already, or has no one left to tell: what is behind it is dropped.
      queue.done = queue.queued;
      queue.work.clear();
    }
  }
}

}  // namespace stope::cuda::emulated
