#include "machine.h"

#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <ucontext.h>

#include "stope/error.h"

namespace stope::cuda::emulated {
namespace {

constexpr unsigned kLanes = 32;
constexpr std::size_t kStackBytes = 256 << 10;
constexpr std::size_t kGuardBytes = 1024;      // behind the shared memory
constexpr int kPoison = 0xff;                  // NaN as float, -1 as integer
constexpr std::size_t kMostShared = 99 << 10;  // what every GPU since sm_80 grants

struct Copy {
  void* to;
  const void* from;
  bool there;
};

struct Fiber {
  ucontext_t start;
  std::jmp_buf here;
  std::unique_ptr<std::byte[]> stack;
  bool started = false, done = false;
  const std::uint64_t* barrier = nullptr;  // waits until it is no longer `seen`
  std::uint64_t seen = 0;
  std::uint64_t exchanges = 0;
  std::vector<std::vector<Copy>> groups;  // complete ones, the oldest first
  std::vector<Copy> open;
};

struct Warp {
  Slot slots[2][kLanes];
  const char* instruction = nullptr;
  unsigned arrived = 0;
  std::uint64_t generation = 0;
};

// Numbers 0 .. count - 1 in an order that depends on the seed; 0 is the natural one.
std::vector<std::int64_t> order(std::int64_t count, std::uint64_t seed) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(count));
  std::iota(numbers.begin(), numbers.end(), 0);
  for (std::size_t i = numbers.size(); seed != 0 && i > 1; --i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    std::swap(numbers[i - 1], numbers[(seed >> 33) % i]);
  }
  return numbers;
}

std::uint64_t chosen_order() {
  const char* text = std::getenv("STOPE_EMULATED_ORDER");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

double chosen_rounding() {
  const char* text = std::getenv("STOPE_EMULATED_ROUNDING");
  return text == nullptr ? 0 : std::strtod(text, nullptr);
}

class Machine {
 public:
  void run(const char* name, void (*body)(const void*), const void* context, std::int64_t blocks_x,
           std::int64_t blocks_y, int threads, std::size_t shared_bytes) {
    name_ = name;
    if (threads < 1 || threads > 1024 || threads % static_cast<int>(kLanes) != 0)
      fail("is launched with " + std::to_string(threads) + " threads in a block");
    if (blocks_y > 65535) fail("is launched with more than 65535 rows of blocks");
    if (shared_bytes > kMostShared)
      fail("asks for " + std::to_string(shared_bytes) + " bytes of shared memory");
    body_ = body;
    context_ = context;
    const std::uint64_t seed = chosen_order();
    product_error_ = chosen_rounding();
    position_.blocks_x = static_cast<unsigned>(blocks_x);
    position_.blocks_y = static_cast<unsigned>(blocks_y);
    position_.threads = static_cast<unsigned>(threads);
    for (const std::int64_t block : order(blocks_x * blocks_y, seed)) {
      position_.block_x = static_cast<unsigned>(block % blocks_x);
      position_.block_y = static_cast<unsigned>(block / blocks_x);
      run_block(shared_bytes, seed);
    }
  }

  const Position& position() const { return position_; }
  std::byte* shared() { return reinterpret_cast<std::byte*>(shared_.data()); }
  double product_error() const { return product_error_; }
  Fiber& fiber() { return fibers_[position_.thread]; }

  void block_barrier() {
    if (++arrived_ == position_.threads) {
      arrived_ = 0;
      ++generation_;
    } else {
      wait(&generation_);
    }
  }

  const Slot* exchange(const char* instruction, const void* mine, std::size_t bytes) {
    Warp& warp = warps_[position_.thread / kLanes];
    Slot* slots = warp.slots[fiber().exchanges++ % 2];
    std::memcpy(slots[position_.thread % kLanes].bytes, mine, bytes);
    if (warp.arrived == 0) warp.instruction = instruction;
    if (std::strcmp(warp.instruction, instruction) != 0)
      fault("meets lanes of its warp in another instruction");
    if (++warp.arrived == kLanes) {
      warp.arrived = 0;
      ++warp.generation;
    } else {
      wait(&warp.generation);
    }
    return slots;
  }

  [[noreturn]] void fault(const char* what) {
    fault_ = what;
    std::longjmp(scheduler_, 1);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw DeviceError(std::string(name_) + " " + what + " (emulated)");
  }

  void run_block(std::size_t shared_bytes, std::uint64_t seed) {
    constexpr std::size_t kWord = sizeof(std::max_align_t);
    shared_.resize((shared_bytes + kGuardBytes + kWord - 1) / kWord);
    std::memset(shared_.data(), kPoison, shared_.size() * kWord);
    const unsigned threads = position_.threads;
    while (fibers_.size() < threads) fibers_.emplace_back();
    warps_.resize(threads / kLanes);
    for (unsigned t = 0; t < threads; ++t) reset(&fibers_[t]);
    for (Warp& warp : warps_) warp.arrived = 0;
    arrived_ = 0;
    const std::vector<std::int64_t> warps = order(threads / kLanes, seed);
    const std::vector<std::int64_t> lanes = order(kLanes, seed + (seed != 0));
    for (unsigned left = threads; left > 0;) {
      unsigned ran = 0;
      for (const std::int64_t warp : warps) ran += run_warp(warp, lanes, &left);
      if (ran == 0) fail("waits for a thread that never comes");
    }
    const std::byte* guard = shared() + shared_bytes;
    for (std::size_t i = 0; i < kGuardBytes; ++i)
      if (guard[i] != std::byte{kPoison}) fail("writes beyond its shared memory");
  }

  // Until none of its lanes can go on; returns how often one did.
  unsigned run_warp(std::int64_t warp, const std::vector<std::int64_t>& lanes, unsigned* left) {
    unsigned ran = 0;
    for (bool again = true; again;) {
      again = false;
      for (const std::int64_t lane : lanes) {
        const auto t = static_cast<unsigned>(warp * kLanes + lane);
        Fiber& fiber = fibers_[t];
        if (fiber.done || (fiber.barrier != nullptr && *fiber.barrier == fiber.seen)) continue;
        resume(t);
        if (fiber.done) --*left;
        ++ran;
        again = true;
      }
    }
    return ran;
  }

  void reset(Fiber* fiber) {
    if (fiber->stack == nullptr) fiber->stack.reset(new std::byte[kStackBytes]);
    fiber->started = fiber->done = false;
    fiber->barrier = nullptr;
    fiber->exchanges = 0;
    fiber->groups.clear();
    fiber->open.clear();
  }

  void resume(unsigned t) {
    position_.thread = t;
    Fiber& fiber = fibers_[t];
    fault_ = nullptr;
    if (setjmp(scheduler_) == 0) {
      if (fiber.started) std::longjmp(fiber.here, 1);
      fiber.started = true;
      getcontext(&fiber.start);
      fiber.start.uc_stack.ss_sp = fiber.stack.get();
      fiber.start.uc_stack.ss_size = kStackBytes;
      fiber.start.uc_link = nullptr;
      makecontext(&fiber.start, &Machine::enter, 0);
      setcontext(&fiber.start);
    }
    if (fault_ != nullptr)
      fail("thread " + std::to_string(position_.thread) + " of block " +
           std::to_string(position_.block_x) + ", " + std::to_string(position_.block_y) + " " +
           fault_);
  }

  void wait(const std::uint64_t* barrier) {
    Fiber& self = fiber();
    self.barrier = barrier;
    self.seen = *barrier;
    if (setjmp(self.here) == 0) std::longjmp(scheduler_, 1);
  }

  static void enter();

  const char* name_ = "";
  void (*body_)(const void*) = nullptr;
  const void* context_ = nullptr;
  Position position_ = {};
  std::vector<std::max_align_t> shared_;
  std::vector<Fiber> fibers_;
  std::vector<Warp> warps_;
  unsigned arrived_ = 0;
  std::uint64_t generation_ = 0;
  std::jmp_buf scheduler_;
  const char* fault_ = nullptr;
  double product_error_ = 0;
};

Machine& machine() {
  thread_local Machine instance;
  return instance;
}

void Machine::enter() {
  Machine& m = machine();
  m.body_(m.context_);
  m.fiber().done = true;
  std::longjmp(m.scheduler_, 1);
}

}  // namespace

const Position& position() { return machine().position(); }
std::byte* shared_memory() { return machine().shared(); }
void block_barrier() { machine().block_barrier(); }
const Slot* exchange(const char* instruction, const void* mine, std::size_t bytes) {
  return machine().exchange(instruction, mine, bytes);
}
double product_error() { return machine().product_error(); }
void fault(const char* what) { machine().fault(what); }

void copy_later(void* to, const void* from, bool there) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  if (!aligned(to) || (there && !aligned(from)))
    fault("copies 16 bytes between addresses that are no multiples of 16");
  machine().fiber().open.push_back({to, from, there});
}
void end_copy_group() {
  Fiber& fiber = machine().fiber();
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}
void wait_for_copies(std::size_t left) {
  Fiber& fiber = machine().fiber();
  while (fiber.groups.size() > left) {
    for (const Copy& copy : fiber.groups.front()) {
      std::memset(copy.to, 0, 16);
      if (copy.there) std::memcpy(copy.to, copy.from, 16);
    }
    fiber.groups.erase(fiber.groups.begin());
  }
}

void run(const char* name, void (*body)(const void*), const void* context, std::int64_t blocks_x,
         std::int64_t blocks_y, int threads, std::size_t shared_bytes) {
  machine().run(name, body, context, blocks_x, blocks_y, threads, shared_bytes);
}

namespace {

struct Graph {
  bool open = false;
  std::vector<std::function<void()>> work;
  std::string error;
};
Graph& graph() {
  static Graph instance;
  return instance;
}

}  // namespace

bool is_recording() { return graph().open; }
void record(std::function<void()> work) { graph().work.push_back(std::move(work)); }
void refuse_in_graph(const char* call) {
  if (is_recording())
    throw DeviceError(std::string(call) + " failed: its stream records a graph (emulated)");
}

}  // namespace stope::cuda::emulated

void stope_emulated_record(int on) {
  auto& graph = stope::cuda::emulated::graph();
  if (on != 0) graph.work.clear();
  graph.open = on != 0;
}

const char* stope_emulated_replay() {
  auto& graph = stope::cuda::emulated::graph();
  try {
    for (const auto& work : graph.work) work();
  } catch (const stope::DeviceError& error) {
    graph.error = error.what();
    return graph.error.c_str();
  }
  return nullptr;
}
