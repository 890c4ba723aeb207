// What every ISA file ends with: the templates on its sixteen lanes, and the table they fill.
#pragma once

#include "accumulate.inl.h"
#include "exact.inl.h"
#include "format.inl.h"
#include "score.inl.h"
#include "softmax.inl.h"

#include "pack.inl.h"
#include "select.inl.h"

namespace {

std::int64_t peak_float32(std::int64_t rounds) {
  float sink[kLanes] = {};
  f32x16 sum[kPeakChains];
  for (auto& s : sum) s = set_f32(0.0f);
  const f32x16 x = set_f32(0x1p-60f);
  for (std::int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kPeakChains; ++c) sum[c] = fma_f32(x, x, sum[c]);
  }
  for (auto& s : sum) {
    store_f32(sink, s);
    asm volatile("" : : "m"(sink));
  }
  return rounds * kPeakChains * kLanes * 2;
}

void no_tiles() {}

template <typename Format>
void fill_scan(stope::ScanKernels* scan) {
  scan->element_bytes = Format::kElementBytes;
  scan->panel_bits = Format::kPanelBits;
  scan->excluded = Format::excluded();
  scan->tile_rows = Format::kRows;
  scan->few_rows = Format::kFewRows;
  scan->tile_panels = Format::kPanels;
  scan->quantise = quantise<Format>;
  scan->pack_panel = pack_panel<Format>;
  scan->begin_tiles = no_tiles;
  scan->end_tiles = no_tiles;
  scan->score_panels = score_panels<Format>;
  scan->select = select<Format>;
  scan->head_rows = head_rows<Format>;
  scan->select_columns = select_columns<Format>;
  scan->reach = reach<Format>;
  scan->reach_entries = reach_entries<Format>;
  scan->read_tile = read_tile<Format>;
  scan->peak = peak<Format>;
}

// `queries` is the format of the table's int8_exact.
template <typename Queries>
void fill_int4(stope::KernelTable* table) {
  fill_scan<Int4<Queries>>(&table->int4);
  table->int4.quantise = table->int8_exact.quantise;
}

// Sums are accumulated as rows.
void keep_order(stope::Precision, int, std::int64_t, bool, float*, float*) {}

void fill_infonce(stope::InfonceKernels* infonce) {
  infonce->element_bytes.float32 = sizeof(float);
  infonce->element_bytes.bfloat16 = sizeof(float);
  infonce->weight_bytes.float32 = sizeof(float);
  infonce->weight_bytes.bfloat16 = sizeof(float);
  infonce->pack_left = pack_rows;
  infonce->pack_right = pack_columns;
  infonce->pack_inner = pack_rows;
  infonce->score = score_tile;
  infonce->pack_weights = keep_weights;
  infonce->accumulate = accumulate_tile;
  infonce->order_sums = keep_order;
  infonce->mask = mask_scores;
  infonce->survey = survey_scores;
  infonce->fold = fold_scores;
  infonce->sift = sift_scores;
  infonce->weigh = weigh_scores;
  infonce->score_fold = score_fold;
  infonce->score_weigh = score_weigh;
}

void fill(stope::KernelTable* table, const char* name) {
  table->name = name;
  fill_scan<Int8>(&table->int8);
  table->int8_exact = table->int8;
  fill_int4<Int8>(table);
  fill_scan<Bfloat16>(&table->bfloat16);
  fill_infonce(&table->infonce);
  table->measure = measure;
  table->combine = combine;
  table->add_wide = add_wide;
  table->move_bounds = move_bounds;
  table->scale_bounds = scale_bounds;
  table->add_rows = add_rows;
  table->widen = widen;
  table->normalise = normalise;
  table->reached_by = reached_by;
  table->exact_dot = exact_dot;
  table->exact_distance = exact_distance;
  table->exact_dot_int8 = exact_dot_int8;
  table->peak_float32 = peak_float32;
}

}  // namespace
