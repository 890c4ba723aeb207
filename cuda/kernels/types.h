// What kernels and the host keep in the workspace: plain structs, no functions.
#pragma once

#include <cstdint>

#include "stope/matrix.h"

namespace stope::cuda {

inline constexpr int kCanonicalLanes = 16;  // of the canonical sum: half a warp

// The scan's tile: so many queries by so many rows of the corpus, in slabs of so many elements.
inline constexpr std::int64_t kTileSide = 128;
inline constexpr std::int64_t kSlabDepth = 32;

// What cosine multiplies a row's elements by, one after the other: 1 for ordinary magnitudes and
// else a power of two; then 1 / norm, 0 for a zero row.
struct RowFactors {
  float prescale;
  float inverse;
};

// Rows of a matrix in an order: place p holds row order[p], or row p.
struct PlacedRows {
  Matrix matrix;
  const std::int64_t* order = nullptr;
};

// Which rows of the corpus a query may find, where it is one of them: by their places.
enum class Reach : std::int32_t { kAll, kEarlier, kLater };

// The first row that may not be scored; kNoRow where there is none.
struct RowFaults {
  std::int64_t not_finite;
  std::int64_t too_long;
};
inline constexpr int kNoRowByte = 0x7f;  // memory filled with it holds kNoRow
inline constexpr std::int64_t kNoRow = 0x7f7f7f7f7f7f7f7f;

// A row as the scan sees it: x ~ scale * u with u in bfloat16 and scale a power of two.
struct ScanRow {
  float scale;
  float inverse;      // 1 / scale
  float residual;     // upper bound of ||x - scale * u|| / scale
  float norm;         // upper bound of ||x|| / scale
  float half_square;  // lower bound of ||x||^2 / (2 * scale)
};

// Packed rows: panel after panel of so many rows, each the codes (bfloat16, [panel_rows]
// [depth_padded]) and then the ScanRows of all its rows.
struct Panels {
  void* data;
  std::int64_t panel_rows, panel_bytes;
  std::int64_t depth_padded;
};

// A query's part in the bounds of a score (bounds.cuh).
struct QueryBound {
  double scale;
  double residual_weight;          // >= ||u||
  double norm_weight;              // >= R + slop * ||q|| / scale
  double rounding_weight;          // >= what the first test's float32 loses, if norm_weight is not
  double square_low, square_high;  // bounds of ||q||^2
};

// A row of the corpus can be a candidate only when
//   dot >= lower * x.inverse + bias * x.half_square - residual * x.residual - norm * x.norm.
struct QueryTerms {
  float lower, residual, norm, bias;
};

// lower == upper: the canonical score itself. A lower of -infinity marks an entry whose eligibility
// (floor, ceiling) is not yet proven, so that it never raises the threshold.
struct Candidate {
  float upper;
  float lower;
  std::int32_t id;
};

// The search of one query. `least` is a proven lower bound of its k-th best eligible score.
struct QueryState {
  std::int32_t count;
  std::int32_t kept;  // so many of them lie in memory of their own between two chunks
  float least;
  float floor, ceiling;
};

// A pair whose score reaches the threshold; rows count from the block's beginning.
struct FoundPair {
  std::int32_t row;
  std::int32_t id;
  float score;
};

// Products of norms below this limit cannot overflow float32, in any order of summation.
inline constexpr float kLargestNorm = 0x1p63f;

}  // namespace stope::cuda
