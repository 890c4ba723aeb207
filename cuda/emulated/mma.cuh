// device/mma.cuh on the emulated machine, in the same layout. A sum of sixteen products and the
// accumulator is cut off, not rounded, to float32; STOPE_EMULATED_ROUNDING makes it worse.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "warp.cuh"

namespace stope::cuda {

struct FragmentA {
  std::uint32_t word[4];
};
struct FragmentB {
  std::uint32_t word[2];
};
struct FragmentC {
  float sum[4];
};

namespace emulated {
inline float cut_off(double value) {
  const auto rounded = static_cast<float>(value);
  return std::fabs(static_cast<double>(rounded)) > std::fabs(value) ? std::nextafter(rounded, 0.0f)
                                                                    : rounded;
}
// Element `depth` (0 or 1) of a word.
inline float bfloat16(std::uint32_t word, int depth) {
  return std::bit_cast<float>(depth == 0 ? word << 16 : word & 0xffff0000u);
}
}  // namespace emulated

STOPE_DEVICE void multiply_add(FragmentC* c, const FragmentA& a, const FragmentB& b) {
  struct Operands {
    FragmentA a;
    FragmentB b;
  };
  const Operands mine = {a, b};
  const emulated::Slot* slots = emulated::exchange("mma", &mine, sizeof(mine));
  for (unsigned half = 0; half < 2; ++half) {
    // c.sum[2 half + j]: row lane / 4 + 8 half, column 2 (lane % 4) + j
    Operands rows[4];
    for (unsigned t = 0; t < 4; ++t)
      std::memcpy(&rows[t], slots[lane() / 4 * 4 + t].bytes, sizeof(Operands));
    bool nothing = true;  // rows of zeros, which fill tiles up, add nothing
    for (const Operands& row : rows) nothing &= (row.a.word[half] | row.a.word[2 + half]) == 0;
    for (unsigned j = 0; j < 2 && !nothing; ++j) {
      double sum = c->sum[2 * half + j], largest = std::fabs(sum);
      for (unsigned t = 0; t < 4; ++t) {
        Operands column;
        std::memcpy(&column, slots[(2 * (lane() % 4) + j) * 4 + t].bytes, sizeof(Operands));
        for (unsigned upper = 0; upper < 2; ++upper)
          for (int depth = 0; depth < 2; ++depth) {
            const double term =
                static_cast<double>(emulated::bfloat16(rows[t].a.word[2 * upper + half], depth)) *
                static_cast<double>(emulated::bfloat16(column.b.word[upper], depth));
            sum += term;
            largest = std::fmax(largest, std::fabs(term));
          }
      }
      // The sign is a bit of the sum itself, far down.
      const double error = emulated::product_error() * 0x1p-23 * largest;
      sum += (std::bit_cast<std::uint64_t>(sum) >> 27 & 1) != 0 ? error : -error;
      c->sum[2 * half + j] = emulated::cut_off(sum);
    }
  }
}

STOPE_DEVICE void load_matrices(std::uint32_t (&words)[4], const void* row) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0)
    emulated::fault("loads a row of a matrix from an address that is no multiple of 16");
  const emulated::Slot* slots = emulated::exchange("ldmatrix", row, 16);
  for (unsigned m = 0; m < 4; ++m)
    std::memcpy(&words[m], slots[8 * m + lane() / 4].bytes + lane() % 4 * 4, 4);
}

}  // namespace stope::cuda
