// Tensor core products of bfloat16: c[16 x 8] += a[16 x 16] b[16 x 8], summed in float32
// (PTX ISA, mma.m16n8k16; sm_80). With g = lane / 4 and t = lane % 4 a lane holds, two to a word:
//   a.word[0]: row g,     depths 2t, 2t + 1        b.word[0]: depths 2t, 2t + 1,     column g
//   a.word[1]: row g + 8, depths 2t, 2t + 1        b.word[1]: depths 2t + 8, 2t + 9, column g
//   a.word[2]: row g,     depths 2t + 8, 2t + 9    c.sum[0], [1]: row g,     columns 2t, 2t + 1
//   a.word[3]: row g + 8, depths 2t + 8, 2t + 9    c.sum[2], [3]: row g + 8, columns 2t, 2t + 1
#pragma once

#include "thread.cuh"

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

STOPE_DEVICE void multiply_add(FragmentC* c, const FragmentA& a, const FragmentB& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c->sum[0]), "+f"(c->sum[1]), "+f"(c->sum[2]), "+f"(c->sum[3])
      : "r"(a.word[0]), "r"(a.word[1]), "r"(a.word[2]), "r"(a.word[3]), "r"(b.word[0]),
        "r"(b.word[1]));
}

// Four matrices of 8 rows x 16 bytes in shared memory: lane l brings the address of row l % 8 of
// matrix l / 8 (a multiple of 16); words[m] is word lane % 4 of row lane / 4 of matrix m.
STOPE_DEVICE void load_matrices(std::uint32_t (&words)[4], const void* row) {
  const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(from)
               : "memory");
}

}  // namespace stope::cuda
