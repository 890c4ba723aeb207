// Kernels that show what the emulated machine does; test_cuda_machine.py compiles and runs it.
// One argument names the kernel; what it finds is printed.
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "copy.cuh"
#include "launch.h"
#include "math.cuh"
#include "mma.cuh"
#include "stope/error.h"
#include "warp.cuh"

namespace stope::cuda {
namespace {

struct MmaArguments {
  const std::uint16_t *a, *b;  // [16][16] and [8][16], bfloat16
  float* c;                    // [16][8]
};

// The fragments come from shared memory by asynchronous copies and ldmatrix, as in a scan.
STOPE_KERNEL(32) product(MmaArguments g) {
  auto* a = shared_memory<std::uint16_t>();
  std::uint16_t* b = a + 16 * 16;
  copy_async_16(a + 8 * lane(), g.a + 8 * lane(), true);
  copy_async_16(b + 8 * (lane() % 16), g.b + 8 * (lane() % 16), true);
  end_copy_group();
  wait_for_copies<0>();
  warp_barrier();
  FragmentA x;
  load_matrices(x.word, a + (lane() % 16) * 16 + lane() / 16 * 8);
  std::uint32_t words[4];
  load_matrices(words, b + (lane() % 8) * 16 + lane() / 8 % 2 * 8);
  FragmentC sum = {};
  multiply_add(&sum, x, {{words[0], words[1]}});
  for (unsigned i = 0; i < 4; ++i)
    g.c[(lane() / 4 + i / 2 * 8) * 8 + lane() % 4 * 2 + i % 2] = sum.sum[i];
}

int run_product() {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::uint16_t a[16 * 16], b[8 * 16];
  float wide_a[16 * 16], wide_b[8 * 16], c[16 * 8];
  const auto fill = [&](std::uint16_t* narrow, float* wide, int count) {
    for (int i = 0; i < count; ++i) {
      narrow[i] = static_cast<std::uint16_t>(bits_of(normal(random)) >> 16);
      wide[i] = float_of(static_cast<std::uint32_t>(narrow[i]) << 16);
    }
  };
  fill(a, wide_a, 16 * 16);
  fill(b, wide_b, 8 * 16);
  launch("product", product, {.shared_bytes = 1024}, nullptr, MmaArguments{a, b, c});
  double worst = 0;
  for (int row = 0; row < 16; ++row)
    for (int column = 0; column < 8; ++column) {
      double exact = 0, magnitude = 0;
      for (int d = 0; d < 16; ++d) {
        const double term = double{wide_a[row * 16 + d]} * double{wide_b[column * 16 + d]};
        exact += term;
        magnitude += std::fabs(term);
      }
      worst = std::max(worst, std::fabs(c[row * 8 + column] - exact) / magnitude);
    }
  std::printf("%s\n", worst < 0x1p-23 ? "product is right" : "product is WRONG");
  return 0;
}

struct Numbers {
  std::int64_t* out;
};

// sum of thread numbers by shuffles, ballots and shared memory; the order of threads is free.
STOPE_KERNEL(128) sums(Numbers g) {
  auto* partial = shared_memory<std::int32_t>();
  auto value = static_cast<std::int32_t>(thread());
  for (unsigned distance = 16; distance > 0; distance /= 2) value += shuffle_down(value, distance);
  if (lane() == 0) partial[thread() / kWarp] = value;
  const std::uint32_t odd = ballot(thread() % 2 == 1);
  block_barrier();
  if (thread() == 0) {
    for (unsigned w = 0; w < threads() / kWarp; ++w) atomic_add(g.out, partial[w]);
    atomic_add(g.out, std::int64_t{1000000} * count_bits(odd));
  }
}
STOPE_KERNEL(64) skips_a_barrier(Numbers) {
  if (thread() != 40) block_barrier();
}
STOPE_KERNEL(32) meets_another_instruction(Numbers) {
  if (lane() < 16)
    ballot(true);
  else
    warp_barrier();
}
STOPE_KERNEL(32) writes_too_far(Numbers) { shared_memory<char>()[64 + lane()] = 1; }
STOPE_KERNEL(32) misaligned_copy(Numbers g) {
  copy_async_16(shared_memory<char>() + 4, g.out, true);
}
// Reads what another warp writes, without a barrier between: the order decides.
STOPE_KERNEL(64) races(Numbers g) {
  auto* word = shared_memory<std::int32_t>();
  if (thread() == 0) word[0] = 7;
  if (thread() == 63) g.out[0] = word[0];
}
// Reads before the copy was waited for: still poison.
STOPE_KERNEL(32) does_not_wait(Numbers g) {
  auto* word = shared_memory<std::int32_t>();
  if (lane() == 0) {
    copy_async_16(word, g.out + 2, true);
    end_copy_group();
    g.out[0] = word[0];
    wait_for_copies<0>();
    g.out[1] = word[0];
  }
}

int run_numbers(void (*kernel)(Numbers), int threads, std::int64_t blocks) {
  alignas(16) std::int64_t out[4] = {0, 0, 5, 5};
  launch("kernel", kernel, {.blocks_x = blocks, .threads = threads, .shared_bytes = 64}, nullptr,
         Numbers{out});
  std::printf("%lld %lld\n", static_cast<long long>(out[0]), static_cast<long long>(out[1]));
  return 0;
}

int run_halves() {
  // Every half, against the meaning of its bits.
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const float got = half_to_float(static_cast<std::uint16_t>(bits));
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double sign = (bits & 0x8000) != 0 ? -1 : 1;
    const double expected = exponent == 31  ? (mantissa == 0 ? sign * INFINITY : NAN)
                            : exponent == 0 ? sign * std::ldexp(mantissa, -24)
                                            : sign * std::ldexp(1024 + mantissa, exponent - 25);
    const bool same = std::isnan(expected) ? std::isnan(got) : double{got} == expected;
    if (!same || std::signbit(got) != (sign < 0)) return std::printf("half %x is WRONG\n", bits);
  }
  std::printf("halves are right\n");
  return 0;
}

int run(const std::string& name) {
  if (name == "product") return run_product();
  if (name == "halves") return run_halves();
  if (name == "sums") return run_numbers(sums, 128, 3);
  if (name == "skips_a_barrier") return run_numbers(skips_a_barrier, 64, 1);
  if (name == "meets_another_instruction") return run_numbers(meets_another_instruction, 32, 1);
  if (name == "writes_too_far") return run_numbers(writes_too_far, 32, 1);
  if (name == "misaligned_copy") return run_numbers(misaligned_copy, 32, 1);
  if (name == "races") return run_numbers(races, 64, 1);
  if (name == "does_not_wait") return run_numbers(does_not_wait, 32, 1);
  std::printf("no kernel '%s'\n", name.c_str());
  return 2;
}

}  // namespace
}  // namespace stope::cuda

int main(int, char** arguments) {
  try {
    return stope::cuda::run(arguments[1]);
  } catch (const stope::DeviceError& error) {
    std::printf("DeviceError: %s\n", error.what());
    return 0;
  }
}
