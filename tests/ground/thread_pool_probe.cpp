// Loops of several threads at once on the pool, begun in callbacks and beside them;
// test_nested_calls.py builds it with ThreadSanitizer. Prints how many sums were wrong.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "parallel.h"

namespace {

struct Callback {
  std::function<void()> body;
  int calls = 0;

  static bool poll(void* self) {
    auto* callback = static_cast<Callback*>(self);
    if (++callback->calls == 4) callback->body();
    return true;
  }
};

std::int64_t sum(int threads, Callback* callback = nullptr) {
  constexpr std::int64_t kTasks = 200, kTerms = 20'000;
  std::vector<std::int64_t> sums(kTasks);
  stope::parallel_for(
      threads, kTasks,
      [&](std::int64_t task, int) {
        for (std::int64_t i = 0; i < kTerms; ++i) sums[task] += (i * task) ^ (i >> 3);
      },
      callback == nullptr ? nullptr : &Callback::poll, callback);
  std::int64_t total = 0;
  for (const std::int64_t part : sums) total += part;
  return total;
}

}  // namespace

int main() {
  const std::int64_t expected = sum(1);
  std::atomic<int> wrong{0};
  const auto check = [&](Callback* callback) {
    if (sum(4, callback) != expected) ++wrong;
  };
  const auto repeat = [&](const std::function<void()>& body) {
    for (int i = 0; i < 20; ++i) {
      Callback callback{body};
      check(&callback);
    }
  };
  const auto nested = [&] { check(nullptr); };
  const auto waits = [&] { std::thread(nested).join(); };
  std::vector<std::thread> threads;
  threads.emplace_back([&] { repeat([] {}); });
  threads.emplace_back([&] { repeat(nested); });
  threads.emplace_back([&] { repeat(waits); });
  threads.emplace_back([&] { repeat(waits); });
  for (std::thread& thread : threads) thread.join();
  std::printf("%d wrong\n", wrong.load());
  std::fflush(stdout);
  std::_Exit(0);  // the pool's threads sleep on
}
