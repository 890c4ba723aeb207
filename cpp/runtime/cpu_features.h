// Which instruction sets this processor and this operating system can run.
#pragma once

namespace stope {

struct CpuFeatures {
  bool avx2 = false;         // with FMA and F16C
  bool avxvnni = false;      // that and AVX-VNNI
  bool avx512 = false;       // F, BW, DQ, VL and VNNI
  bool avx512_bf16 = false;  // that and BF16
  bool slow_pairs = false;   // of bfloat16 (vdpbf16ps): on Intel's cores they are slower than FMA
  bool amx = false;          // tiles, int8 and bfloat16, with the kernel's permission to use them
};

// Detected once; asks Linux for the AMX tile state when the processor has it.
const CpuFeatures& cpu_features();

}  // namespace stope
