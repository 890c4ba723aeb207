#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cfenv>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "stope/runtime.h"

namespace stope {
namespace {

constexpr int kMaxThreads = 1024;

// The default floating-point environment for as long as a thread computes for us: flush-to-zero
// set by another library would change score bits.
class DefaultFloatingPoint {
 public:
  DefaultFloatingPoint() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFloatingPoint() { std::fesetenv(&saved_); }
  DefaultFloatingPoint(const DefaultFloatingPoint&) = delete;
  DefaultFloatingPoint& operator=(const DefaultFloatingPoint&) = delete;

 private:
  std::fenv_t saved_;
};

struct Loop {
  std::int64_t tasks = 0;
  Task task = nullptr;
  void* context = nullptr;
  Poll poll = nullptr;
  void* poll_context = nullptr;
  int workers = 0;  // beside the caller
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> stopped{false};
};

void work(Loop* loop, int thread) {
  const DefaultFloatingPoint environment;
  const bool polls = thread == 0 && loop->poll != nullptr;
  for (;;) {
    if (loop->stopped.load(std::memory_order_relaxed)) return;
    if (polls && !loop->poll(loop->poll_context)) {
      loop->stopped.store(true, std::memory_order_relaxed);
      return;
    }
    const std::int64_t task = loop->next.fetch_add(1, std::memory_order_relaxed);
    if (task >= loop->tasks) return;
    loop->task(loop->context, task, thread);
  }
}

class Pool {
 public:
  void run(Loop* loop) {
    const std::lock_guard<std::mutex> turn(turn_);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      while (static_cast<int>(threads_.size()) < loop->workers) {
        const int thread = static_cast<int>(threads_.size()) + 1;
        threads_.emplace_back([this, thread, seen = generation_] { serve(thread, seen); });
      }
      loop_ = loop;
      pending_ = loop->workers;
      ++generation_;
    }
    start_.notify_all();
    work(loop, 0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
    loop_ = nullptr;
  }

 private:
  void serve(int thread, std::uint64_t seen) {
    for (;;) {
      Loop* loop;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        start_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
        loop = loop_ != nullptr && thread <= loop_->workers ? loop_ : nullptr;
      }
      if (loop == nullptr) continue;
      work(loop, thread);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_;  // one loop at a time
  std::mutex mutex_;
  std::condition_variable start_, done_;
  std::vector<std::thread> threads_;
  Loop* loop_ = nullptr;
  std::uint64_t generation_ = 0;
  int pending_ = 0;
};

// Never destroyed: workers may sleep in it while the process exits. A forked child has none of its
// parent's threads, so it begins with a new pool and leaves the old one's memory alone.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
  static const bool prepared = [] {
    the_pool.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] { the_pool.store(new Pool); });
    return true;
  }();
  static_cast<void>(prepared);
  return *the_pool.load();
}

// 0 when the text is no number of threads. OMP_NUM_THREADS may be a list: its first number counts.
int parse_count(const char* text) {
  char* end = nullptr;
  const long count = std::strtol(text, &end, 10);
  const bool whole = end != text && (*end == '\0' || *end == ',');
  return whole && count > 0 && count <= kMaxThreads ? static_cast<int>(count) : 0;
}

int default_threads() {
  if (const char* text = std::getenv("STOPE_NUM_THREADS"); text != nullptr && *text != '\0') {
    if (const int count = parse_count(text)) return count;
    throw std::invalid_argument(std::string("STOPE_NUM_THREADS is '") + text +
                                "'; give a number from 1 to " + std::to_string(kMaxThreads));
  }
  if (const char* text = std::getenv("OMP_NUM_THREADS"); text != nullptr)
    if (const int count = parse_count(text)) return count;
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0)
    if (const int count = CPU_COUNT(&allowed)) return count;
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count == 0 ? 1 : static_cast<int>(count);
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count{default_threads()};
  return count;
}

}  // namespace

int num_threads() { return thread_count().load(); }

void set_num_threads(int count) {
  if (count < 1 || count > kMaxThreads)
    throw std::invalid_argument("num_threads is " + std::to_string(count) +
                                "; give a number from 1 to " + std::to_string(kMaxThreads));
  thread_count().store(count);
}

bool run_parallel(int threads, std::int64_t tasks, Task task, void* task_context, Poll poll,
                  void* poll_context) {
  Loop loop;
  loop.tasks = tasks;
  loop.task = task;
  loop.context = task_context;
  loop.poll = poll;
  loop.poll_context = poll_context;
  const std::int64_t useful = tasks < threads ? tasks : threads;
  loop.workers = useful > 1 ? static_cast<int>(useful) - 1 : 0;
  if (loop.workers == 0)
    work(&loop, 0);
  else
    pool().run(&loop);
  return !loop.stopped.load();
}

}  // namespace stope
