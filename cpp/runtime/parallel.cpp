#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
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

// How many loops this thread is inside: more than one when a callback calls an operation again.
thread_local int depth = 0;

class Inside {
 public:
  Inside() { ++depth; }
  ~Inside() { --depth; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

struct Loop {
  std::int64_t tasks = 0;
  Task task = nullptr;
  void* context = nullptr;
  Poll poll = nullptr;
  void* poll_context = nullptr;
  int workers = 0;  // beside the caller
  // Odd while the caller is in a callback of this loop, which runs on the pool; nullptr elsewhere.
  std::atomic<std::uint64_t>* callbacks = nullptr;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> stopped{false};

  // Whether to go on.
  bool ask() {
    if (poll == nullptr) return true;
    if (callbacks != nullptr) callbacks->fetch_add(1);
    const bool goes_on = poll(poll_context);
    if (callbacks != nullptr) callbacks->fetch_add(1);
    if (!goes_on) stopped.store(true, std::memory_order_relaxed);
    return goes_on;
  }
};

// A forked child has none of its parent's threads: what they had in hand is lost there.
std::atomic<std::uint64_t> forks{0};

void work(Loop* loop, int thread) {
  const DefaultFloatingPoint environment;
  const std::uint64_t forks_before = forks.load(std::memory_order_relaxed);
  for (;;) {
    if (loop->stopped.load(std::memory_order_relaxed)) return;
    if (thread == 0) {
      const bool goes_on = loop->ask();
      if (loop->workers > 0 && forks.load(std::memory_order_relaxed) != forks_before)
        throw std::runtime_error(
            "this process was forked inside a callback of an operation, whose other threads stayed "
            "in the parent; leave the child with os._exit, or call the operation anew");
      if (!goes_on) return;
    }
    const std::int64_t task = loop->next.fetch_add(1, std::memory_order_relaxed);
    if (task >= loop->tasks) return;
    loop->task(loop->context, task, thread);
  }
}

class Pool {
 public:
  // Alone on this thread when the pool's loop cannot go on: its caller is in a callback, which may
  // wait for this very call.
  void run(Loop* loop) {
    if (!take_turn(loop)) {
      if (loop->stopped.load()) return;
      loop->workers = 0;
      loop->callbacks = nullptr;
      work(loop, 0);
      return;
    }
    try {
      publish(loop);
    } catch (...) {
      end_turn();
      throw;
    }
    start_.notify_all();
    work(loop, 0);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      done_.wait(lock, [this] { return pending_ == 0; });
      loop_ = nullptr;
    }
    end_turn();
  }

 private:
  bool take_turn(Loop* loop) {
    constexpr std::chrono::milliseconds kPatience{20};
    std::unique_lock<std::mutex> lock(turn_);
    const std::uint64_t forks_before = forks.load();
    std::uint64_t seen = 0;
    while (busy_) {
      turn_ended_.wait_for(lock, kPatience);
      if (!busy_) break;
      const std::uint64_t now = callbacks_.load();
      if (now % 2 == 1 && now == seen) return false;
      seen = now;
      lock.unlock();
      if (!loop->ask() || forks.load() != forks_before) return false;
      lock.lock();
    }
    busy_ = true;
    loop->callbacks = &callbacks_;
    return true;
  }

  void end_turn() {
    {
      const std::lock_guard<std::mutex> lock(turn_);
      busy_ = false;
    }
    turn_ended_.notify_one();
  }

  void publish(Loop* loop) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (static_cast<int>(threads_.size()) < loop->workers) {
      const int thread = static_cast<int>(threads_.size()) + 1;
      try {
        threads_.emplace_back([this, thread, seen = generation_] { serve(thread, seen); });
      } catch (const std::system_error& error) {
        throw std::runtime_error("cannot start thread " + std::to_string(thread + 1) + " of " +
                                 std::to_string(loop->workers + 1) + " (" + error.what() +
                                 "); lower the number with stope.set_num_threads or "
                                 "STOPE_NUM_THREADS, or raise the limit of processes");
      }
    }
    loop_ = loop;
    pending_ = loop->workers;
    ++generation_;
  }

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
  std::condition_variable turn_ended_;
  bool busy_ = false;
  std::atomic<std::uint64_t> callbacks_{0};
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
    pthread_atfork(nullptr, nullptr, [] {
      the_pool.store(new Pool);
      forks.fetch_add(1);
    });
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
  loop.workers = useful > 1 && depth == 0 ? static_cast<int>(useful) - 1 : 0;
  const Inside inside;
  if (loop.workers == 0)
    work(&loop, 0);
  else
    pool().run(&loop);
  return !loop.stopped.load();
}

}  // namespace stope
