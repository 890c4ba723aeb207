// Select from a tile: which candidates could still be among the best of their query.
//
// The thresholds are exact bounds in units of the two scales (kernel_table.h); the float32
// rounding of this comparison is part of the error term the caller put in.
#pragma once

#include "format.inl.h"

namespace {

using stope::RowTerms;

// A condition as a type, for choosing a template by a run-time value.
template <bool kValue>
struct Flag {
  static constexpr bool value = kValue;
};

// What the first test compares with a row's `lower`, for panels [first, first + kPanels).
template <typename Format, bool kBias, int kPanels>
class Reach {
 public:
  Reach(const RowTerms* terms, const PanelRun& panels, int first) : first_(first) {
    const f32x16 residual = set_f32(terms[0].tile_residual), norm = set_f32(terms[0].tile_norm);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      const PanelFooter* footer = footer_of(panels, first + p);
      scale_[p] = load_f32(footer->scale);
      error_[p] = mul_f32(scale_[p], fma_f32(norm, load_f32(footer->norm),
                                             mul_f32(residual, load_f32(footer->residual))));
      if constexpr (kBias)
        half_square_[p] = sub_f32(set_f32(0.0f), mul_f32(scale_[p], load_f32(footer->half_square)));
    }
  }

  // Of panel first + p, for the row of a tile that begins at `dots`.
  f32x16 of(const TileEntry* dots, const RowTerms& row, int p) const {
    const f32x16 dot = Format::load_tile(dots + (first_ + p) * kLanes);
    const f32x16 most = fma_f32(dot, scale_[p], error_[p]);
    if constexpr (kBias) return fma_f32(set_f32(row.bias), half_square_[p], most);
    return most;
  }

 private:
  int first_;
  f32x16 scale_[kPanels], error_[kPanels], half_square_[kPanels];
};

// The first test: the rows with a candidate in panels [first, first + kPanels), as bits. What lies
// above a ceiling passes too, for no threshold is above its ceiling.
template <typename Format, bool kBias, int kPanels>
inline std::uint32_t hit_rows(const TileEntry* tile, std::int64_t stride, int rows,
                              const RowTerms* terms, const PanelRun& panels, int first) {
  const Reach<Format, kBias, kPanels> reach(terms, panels, first);
  std::uint32_t hits = 0;
  for (int r = 0; r < rows; ++r) {
    f32x16 largest = reach.of(tile + r * stride, terms[r], 0);
#pragma GCC unroll 4
    for (int p = 1; p < kPanels; ++p)
      largest = max_f32(largest, reach.of(tile + r * stride, terms[r], p));
    const bool hit = mask_ge(largest, set_f32(terms[r].lower)) != 0;
    hits |= static_cast<std::uint32_t>(hit) << r;
  }
  return hits;
}

// As hit_rows, of a tile that holds a part of the dot products.
template <typename Format, bool kBias, int kPanels>
inline std::uint32_t head_hits(const TileEntry* tile, std::int64_t stride, int rows,
                               const RowTerms* terms, const PanelRun& panels, int first,
                               const stope::HeadTerms& heads) {
  const Reach<Format, kBias, kPanels> reach(terms, panels, first);
  f32x16 tail[kPanels], base[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    tail[p] = load_f32(heads.tails + (first + p) * kLanes);
    base[p] = load_f32(heads.bases + (first + p) * kLanes);
  }
  std::uint32_t hits = 0;
  for (int r = 0; r < rows; ++r) {
    const f32x16 row_tail = set_f32(heads.row_tails[r]);
    const auto most = [&](int p) {
      return fma_f32(row_tail, tail[p], add_f32(reach.of(tile + r * stride, terms[r], p), base[p]));
    };
    f32x16 largest = most(0);
#pragma GCC unroll 4
    for (int p = 1; p < kPanels; ++p) largest = max_f32(largest, most(p));
    const bool hit = mask_ge(largest, set_f32(terms[r].lower)) != 0;
    hits |= static_cast<std::uint32_t>(hit) << r;
  }
  return hits;
}

template <typename Format, bool kBias>
inline std::uint32_t head_rows_block(const TileEntry* tile, std::int64_t stride, int rows,
                                     const RowTerms* terms, const PanelRun& panels,
                                     const stope::HeadTerms& heads) {
  std::uint32_t hits = 0;
  int p = 0;
  for (; p + 4 <= panels.count; p += 4)
    hits |= head_hits<Format, kBias, 4>(tile, stride, rows, terms, panels, p, heads);
  for (; p < panels.count; ++p)
    hits |= head_hits<Format, kBias, 1>(tile, stride, rows, terms, panels, p, heads);
  return hits;
}

template <typename Format>
std::uint32_t head_rows(const TileEntry* tile, std::int64_t stride, int rows, const RowTerms* terms,
                        const PanelRun* panels, bool biased, const stope::HeadTerms* heads) {
  return biased ? head_rows_block<Format, true>(tile, stride, rows, terms, *panels, *heads)
                : head_rows_block<Format, false>(tile, stride, rows, terms, *panels, *heads);
}

template <typename Format, bool kBias>
inline void reach_block(const TileEntry* tile, std::int64_t stride, int rows, const RowTerms* terms,
                        const PanelRun& panels, float* most) {
  for (int p = 0; p < panels.count; ++p) {
    const Reach<Format, kBias, 1> reach(terms, panels, p);
    for (int r = 0; r < rows; ++r)
      most[r * stope::kMaxTilePanels + p] = reduce_max(reach.of(tile + r * stride, terms[r], 0));
  }
}

template <typename Format>
void reach(const TileEntry* tile, std::int64_t stride, int rows, const RowTerms* terms,
           const PanelRun* panels, bool biased, float* most) {
  biased ? reach_block<Format, true>(tile, stride, rows, terms, *panels, most)
         : reach_block<Format, false>(tile, stride, rows, terms, *panels, most);
}

template <typename Format, bool kBias>
inline void reach_entries_block(const TileEntry* tile, std::int64_t stride, int rows,
                                const RowTerms* terms, const PanelRun& panels, float* entries) {
  for (int p = 0; p < panels.count; ++p) {
    const Reach<Format, kBias, 1> reach(terms, panels, p);
    for (int r = 0; r < rows; ++r)
      store_f32(entries + r * stride + p * kLanes, reach.of(tile + r * stride, terms[r], 0));
  }
}

template <typename Format>
void reach_entries(const TileEntry* tile, std::int64_t stride, int rows, const RowTerms* terms,
                   const PanelRun* panels, bool biased, float* entries) {
  biased ? reach_entries_block<Format, true>(tile, stride, rows, terms, *panels, entries)
         : reach_entries_block<Format, false>(tile, stride, rows, terms, *panels, entries);
}

// The second test, of one row.
template <typename Format, bool kBias, bool kCeiling>
inline std::uint64_t select_row(const TileEntry* tile, const RowTerms& row, const PanelRun& panels,
                                f32x16 excluded, std::int64_t* above) {
  std::uint64_t kept = 0;
  for (int p = 0; p < panels.count; ++p) {
    const PanelFooter* footer = footer_of(panels, p);
    const f32x16 inverse = load_f32(footer->inverse), residual = load_f32(footer->residual);
    const f32x16 norm = load_f32(footer->norm), half_square = load_f32(footer->half_square);
    const f32x16 dot = Format::load_tile(tile + p * kLanes);
    const f32x16 error = fma_f32(set_f32(row.norm), norm, mul_f32(set_f32(row.residual), residual));
    f32x16 least = sub_f32(mul_f32(set_f32(row.lower), inverse), error);
    if constexpr (kBias) least = fma_f32(set_f32(row.bias), half_square, least);
    std::uint32_t mask = mask_ge(dot, least);
    if constexpr (kCeiling) {
      f32x16 most = fma_f32(set_f32(row.upper), inverse, error);
      if constexpr (kBias) most = fma_f32(set_f32(row.upper_bias), half_square, most);
      const std::uint32_t refused = mask_gt(dot, most) & mask_gt(dot, excluded);
      *above += __builtin_popcount(refused);
      mask &= ~refused;
    }
    kept |= static_cast<std::uint64_t>(mask) << (kLanes * p);
  }
  return kept;
}

template <typename Format, bool kBias, bool kCeiling>
inline std::uint32_t select_block(const TileEntry* tile, std::int64_t stride, int rows,
                                  const RowTerms* terms, const PanelRun& panels,
                                  std::uint64_t* masks, std::int64_t* above) {
  std::uint32_t hits = 0;
  int p = 0;
  for (; p + 4 <= panels.count; p += 4)
    hits |= hit_rows<Format, kBias, 4>(tile, stride, rows, terms, panels, p);
  for (; p < panels.count; ++p)
    hits |= hit_rows<Format, kBias, 1>(tile, stride, rows, terms, panels, p);
  const TileEntry barred = Format::excluded();
  alignas(64) TileEntry barred_lanes[kLanes];
  for (auto& lane : barred_lanes) lane = barred;
  const f32x16 excluded = Format::load_tile(barred_lanes);
  for (std::uint32_t left = hits; left != 0; left &= left - 1) {
    const int r = __builtin_ctz(left);
    masks[r] = select_row<Format, kBias, kCeiling>(tile + r * stride, terms[r], panels, excluded,
                                                   kCeiling ? above + r : nullptr);
  }
  return hits;
}

template <typename Format>
std::uint32_t select(const TileEntry* tile, std::int64_t stride, int rows, const RowTerms* terms,
                     const PanelRun* panels, bool biased, std::uint64_t* masks,
                     std::int64_t* above) {
  const auto run = [&](auto bias, auto ceiling) {
    return select_block<Format, decltype(bias)::value, decltype(ceiling)::value>(
        tile, stride, rows, terms, *panels, masks, above);
  };
  if (biased)
    return above == nullptr ? run(Flag<true>{}, Flag<false>{}) : run(Flag<true>{}, Flag<true>{});
  return above == nullptr ? run(Flag<false>{}, Flag<false>{}) : run(Flag<false>{}, Flag<true>{});
}

// Of panels [first, first + kPanels), side by side, so that no maximum waits for the one before.
template <typename Format, bool kBias, int kPanels>
inline std::uint32_t column_hits(const TileEntry* tile, std::int64_t stride, int rows,
                                 const stope::ColumnTerms& terms, const PanelRun& panels, int first,
                                 std::uint32_t hits, std::uint64_t* masks) {
  f32x16 least[kPanels], bias[kPanels], largest[kPanels];
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const PanelFooter* footer = footer_of(panels, first + p);
    const f32x16 error = fma_f32(set_f32(terms.norm), load_f32(footer->norm),
                                 mul_f32(set_f32(terms.residual), load_f32(footer->residual)));
    least[p] = sub_f32(load_f32(terms.lower + (first + p) * kLanes), error);
    if constexpr (kBias)
      bias[p] = sub_f32(set_f32(0.0f), load_f32(terms.bias + (first + p) * kLanes));
  }
  const auto reached = [&](int r, int p) {
    const f32x16 dot = Format::load_tile(tile + r * stride + (first + p) * kLanes);
    f32x16 score = mul_f32(dot, set_f32(terms.scale[r]));
    if constexpr (kBias) score = fma_f32(bias[p], set_f32(terms.half_square[r]), score);
    return score;
  };
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) largest[p] = reached(0, p);
  for (int r = 1; r < rows; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) largest[p] = max_f32(largest[p], reached(r, p));
  std::uint32_t any = 0;
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) any |= mask_ge(largest[p], least[p]);
  if (any == 0) return hits;
  // Without branches: where one column hits, others often do.
  for (int r = 0; r < rows; ++r) {
    std::uint64_t mask = 0;
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p)
      mask |= std::uint64_t{mask_ge(reached(r, p), least[p])} << (kLanes * p);
    const std::uint64_t before = (hits >> r & 1u) != 0 ? masks[r] : 0;
    masks[r] = before | mask << (kLanes * first);
    hits |= static_cast<std::uint32_t>(mask != 0) << r;
  }
  return hits;
}

template <typename Format, bool kBias>
inline std::uint32_t select_columns_block(const TileEntry* tile, std::int64_t stride, int rows,
                                          const stope::ColumnTerms& terms, const PanelRun& panels,
                                          std::uint64_t* masks) {
  std::uint32_t hits = 0;
  int p = 0;
  for (; p + 4 <= panels.count; p += 4)
    hits = column_hits<Format, kBias, 4>(tile, stride, rows, terms, panels, p, hits, masks);
  for (; p < panels.count; ++p)
    hits = column_hits<Format, kBias, 1>(tile, stride, rows, terms, panels, p, hits, masks);
  return hits;
}

template <typename Format>
std::uint32_t select_columns(const TileEntry* tile, std::int64_t stride, int rows,
                             const stope::ColumnTerms* terms, const PanelRun* panels, bool biased,
                             std::uint64_t* masks) {
  return biased ? select_columns_block<Format, true>(tile, stride, rows, *terms, *panels, masks)
                : select_columns_block<Format, false>(tile, stride, rows, *terms, *panels, masks);
}

template <typename Format>
void read_tile(const TileEntry* tile, std::int64_t stride, int rows, const float* scales,
               const PanelRun* panels, float* scores, std::int64_t scores_stride) {
  for (int p = 0; p < panels->count; ++p) {
    const PanelFooter* footer = footer_of(*panels, p);
    const f32x16 scale = load_f32(footer->scale);
    for (int r = 0; r < rows; ++r) {
      const f32x16 dot = Format::load_tile(tile + r * stride + p * kLanes);
      store_f32(scores + r * scores_stride + p * kLanes,
                mul_f32(dot, mul_f32(set_f32(scales[r]), scale)));
    }
  }
}

// Float32 numbers in their order as integers, and back.
inline std::int32_t ordered_bits(float value) {
  std::int32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits >= 0 ? bits : INT32_MIN - bits;
}
inline float from_ordered_bits(std::int32_t bits) {
  if (bits < 0) bits = INT32_MIN - bits;
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

// Bisection over the float32 numbers, one pass of compares a step, until the count is near enough.
float reached_by(const float* values, std::int64_t count, std::int64_t k) {
  const auto reaching = [&](float bound) {
    const f32x16 bounds = set_f32(bound);
    std::int64_t reached = 0;
    for (std::int64_t i = 0; i < count; i += kLanes)
      reached += __builtin_popcount(mask_ge(load_f32(values + i), bounds));
    return reached;
  };
  constexpr float kLowest = -__FLT_MAX__;
  if (reaching(kLowest) < k) return -__builtin_inff();
  f32x16 largest = set_f32(kLowest);
  for (std::int64_t i = 0; i < count; i += kLanes) largest = max_f32(largest, load_f32(values + i));
  // Invariant: at least k values reach `low`.
  std::int32_t low = ordered_bits(kLowest);
  std::int32_t high = ordered_bits(reduce_max(largest));
  if (reaching(from_ordered_bits(high)) >= k) return from_ordered_bits(high);
  const std::int64_t enough = k + k / 16;
  while (static_cast<std::int64_t>(high) - low > 1) {
    const auto middle = static_cast<std::int32_t>((static_cast<std::int64_t>(low) + high) / 2);
    const std::int64_t reached = reaching(from_ordered_bits(middle));
    (reached >= k ? low : high) = middle;
    if (reached >= k && reached <= enough) break;
  }
  return from_ordered_bits(low);
}

}  // namespace
