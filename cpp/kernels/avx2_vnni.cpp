// AVX2 with products of four bytes (Alder Lake, Zen 5 onwards: AVX-VNNI). For the int8 scans.
//
//   instruction                    | per cycle (Alder Lake P / Zen 5) | what it does
//   vpdpbusd ymm, VEX-coded        | 2 / 2                            | 8 int32 += 4 u8 * s8 each
// One instruction for the three of AVX2, and nothing saturates: queries keep their eight bits, as
// u + 128. The build option STOPE_EMULATE_AVXVNNI takes the EVEX-coded instruction of AVX-512.
#include <cstddef>

#include "kernel_table.h"
#include "simd/avx2.h"

#include "fill.inl.h"

namespace {

struct UnsignedInt8 : Int8 {
  static constexpr int kQueryOffset = 128;
  static constexpr int kRows = kNarrowTileRows, kFewRows = kRows;
  using Query = __m256i;

  static Sum start(const stope::PanelFooter* footer) { return load_i32(footer->correction); }
  static Query broadcast(const std::int8_t* p) { return broadcast_unsigned(p); }
  static Sum multiply_add(Sum sum, Query q, Corpus x) {
    return {_mm256_dpbusd_avx_epi32(sum.low, q, x.low),
            _mm256_dpbusd_avx_epi32(sum.high, q, x.high)};
  }
};

}  // namespace

namespace stope {

void fill_avx2_vnni(KernelTable* table) {
  fill(table, "avxvnni");
  fill_scan<UnsignedInt8>(&table->int8);
  table->int8_exact = table->int8;
  fill_int4<UnsignedInt8>(table);
}

}  // namespace stope
