#include <cstddef>

#include "kernel_table.h"
#include "simd/avx2.h"

#include "fill.inl.h"

namespace {

// Queries of seven bits, stored as u + 64: maddubs takes them as they are, without a sign to move
// and without saturating, in three instructions for the four of Int8.
struct NarrowInt8 : Int8 {
  static constexpr int kQueryOffset = 64;
  static constexpr int kRows = kNarrowTileRows, kFewRows = kRows;
  using Query = __m256i;

  static float scale(float largest) { return largest * (1.0f / 63.0f); }
  static f32x16 round(f32x16 t) {
    return min_f32(max_f32(round_f32(t), set_f32(-63.0f)), set_f32(63.0f));
  }
  // The footer's correction is for an offset of 128.
  static Sum start(const stope::PanelFooter* footer) {
    return half_i32(load_i32(footer->correction));
  }
  static Query broadcast(const std::int8_t* p) { return broadcast_unsigned(p); }
  static Sum multiply_add(Sum sum, Query q, Corpus x) { return dot4_unsigned(sum, q, x); }
};

// The scale is always the row's own: the codes of int8 rows would not fit.
void quantise_narrow(const float* row, std::int64_t depth, std::int64_t depth_padded, float,
                     void* out, RowStats* stats) {
  quantise<NarrowInt8>(row, depth, depth_padded, 0.0f, out, stats);
}

}  // namespace

namespace stope {

void fill_avx2(KernelTable* table) {
  fill(table, "avx2");
  fill_scan<NarrowInt8>(&table->int8_exact);
  table->int8_exact.quantise = quantise_narrow;
  table->int8_exact.pack_panel = table->int8.pack_panel;
  fill_int4<NarrowInt8>(table);
}

}  // namespace stope
