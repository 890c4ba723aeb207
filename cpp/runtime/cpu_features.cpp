#include "cpu_features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace stope {
namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool bit(unsigned word, int index) { return (word >> index & 1u) != 0; }

// The register states that the operating system saves: a feature without its bit would fault.
std::uint64_t saved_states() {
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

bool request_amx() {
#if defined(__linux__)
  constexpr long kArchReqXcompPerm = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures detect() {
  CpuFeatures found;
  const Registers one = cpuid(1, 0), seven = cpuid(7, 0);
  if (!bit(one.ecx, 27)) return found;  // OSXSAVE
  const std::uint64_t states = saved_states();
  constexpr std::uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  found.avx2 = (states & kYmm) == kYmm && bit(one.ecx, 12) && bit(one.ecx, 29) && bit(seven.ebx, 5);
  found.avx512 = found.avx2 && (states & kZmm) == kZmm && bit(seven.ebx, 16) &&
                 bit(seven.ebx, 17) && bit(seven.ebx, 30) && bit(seven.ebx, 31) &&
                 bit(seven.ecx, 11);
  const Registers seven_one = cpuid(7, 1);
  const bool bf16 = bit(seven_one.eax, 5);
  found.avx512_bf16 = found.avx512 && bf16;
  const Registers zero = cpuid(0, 0);
  found.slow_pairs = zero.ebx == 0x756e6547;  // "Genu" of GenuineIntel
#if defined(STOPE_EMULATE_AMX)
  constexpr bool kEmulated = true;
#else
  constexpr bool kEmulated = false;
#endif
#if defined(STOPE_EMULATE_AVXVNNI)
  found.avxvnni = found.avx512;
#else
  found.avxvnni = found.avx2 && bit(seven_one.eax, 4);
#endif
  found.amx = found.avx512 &&
              (kEmulated || ((states & kTiles) == kTiles && bit(seven.edx, 22) &&
                             bit(seven.edx, 24) && bit(seven.edx, 25) && bf16 && request_amx()));
  return found;
}

#else

CpuFeatures detect() { return {}; }

#endif

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace stope
