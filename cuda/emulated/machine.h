// A machine that runs kernels on the CPU, one block after another, so that their logic is tested
// where there is no GPU. Far too slow for anything else; device memory is host memory.
//
// The threads of a block are fibers that run until they wait: at a block barrier, or for the other
// lanes of their warp. What real hardware would leave to chance shows up here:
//   - STOPE_EMULATED_ORDER=<n> runs blocks, warps and lanes in another order for every n
//   - STOPE_EMULATED_ROUNDING=<x> makes every tensor core product wrong by x * 2^-23 of its largest
//     term, up or down as if by chance: bounds have to cover 20 (kernels/bounds.cuh)
//   - shared memory starts as NaNs, and a block that writes beyond it is found
//   - an asynchronous copy arrives no sooner than it is waited for
//   - a stream that records a graph runs nothing until the graph is replayed, and neither waits nor
//     reads host memory: see stope_emulated_record
//   - lanes that meet in different instructions, and barriers that some thread never reaches, end
//     the launch with DeviceError
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace stope::cuda::emulated {

struct Position {
  unsigned block_x, block_y, blocks_x, blocks_y, threads, thread;
};

// Of the thread that runs.
const Position& position();
std::byte* shared_memory();
void block_barrier();

inline constexpr std::size_t kSlotBytes = 64;
struct Slot {
  alignas(16) std::byte bytes[kSlotBytes];
};
// Every lane of the warp brings `bytes` bytes to the instruction of that name; the result holds
// what all 32 brought, until the lane's next but one exchange.
const Slot* exchange(const char* instruction, const void* mine, std::size_t bytes);

// Units of 2^-23 of the largest term.
double product_error();

void copy_later(void* to, const void* from, bool there);
void end_copy_group();
void wait_for_copies(std::size_t left);

// The launch cannot go on: what(thread) goes wrong. Called by emulated instructions.
[[noreturn]] void fault(const char* what);

// Runs body(arguments) as every thread of every block.
void run(const char* name, void (*body)(const void* context), const void* context,
         std::int64_t blocks_x, std::int64_t blocks_y, int threads, std::size_t shared_bytes);

// Whether streams record a graph, and what is queued meanwhile.
bool is_recording();
void record(std::function<void()> work);
// Throws DeviceError if a graph is recorded: `call` would spoil it.
void refuse_in_graph(const char* call);

}  // namespace stope::cuda::emulated

// For tests, which call them through ctypes: every stream begins to record a new graph (1) or ends
// it (0); the graph runs once. The result of the latter is null or says what went wrong.
extern "C" {
__attribute__((visibility("default"))) void stope_emulated_record(int on);
__attribute__((visibility("default"))) const char* stope_emulated_replay();
}
