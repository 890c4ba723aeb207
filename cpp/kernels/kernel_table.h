// The kernel table: block sizes and function pointers, one table per instruction set.
//
// A scan has a format, int8 or bfloat16. Either way sixteen corpus rows lie side by side in a
// panel, the same bytes on every ISA, in chunks of four bytes (four int8 or two bfloat16 of one
// row):
//   chunk values[depth_padded * panel_bits / 32][16 rows]
//   PanelFooter                            what the 16 rows were scaled by and lost
// with depth_padded = depth rounded up to 64. Row x is stored as x ~ scale * u: for int8
// |u| <= 127, for bfloat16 scale is a power of two and |u| < 2. In int4 panels u is one of fifteen
// int8 levels; a byte's halves name two of them, the lower one that of the even chunk.
//
// Kernels check nothing, allocate nothing, throw nothing. All pointers are valid for what the
// comment beside them says; nothing is assumed aligned unless stated.
#pragma once

#include <cstdint>

#include "stope/dtype.h"

namespace stope {

inline constexpr int kLanes = 16;          // the canonical sum has 16 lanes; a panel has 16 rows
inline constexpr int kDepthMultiple = 64;  // one AMX tile row
inline constexpr int kMaxTileRows = 32;    // over all tables
inline constexpr int kMaxTilePanels = 4;   // over all tables

struct PanelFooter {
  float scale[kLanes];
  float inverse[kLanes];            // 1 / scale
  float residual[kLanes];           // upper bound of ||x - scale*u|| / scale
  float norm[kLanes];               // upper bound of ||x|| / scale
  float half_square[kLanes];        // lower bound of ||x||^2 / (2 * scale)
  std::int32_t correction[kLanes];  // int8: -128 * sum(u), undoes the offset of unsigned queries
};

// What one quantised row was scaled by and lost; the footer's four numbers for a single row.
struct RowStats {
  float scale;
  float residual;
  float norm;
  std::int32_t sum;
  bool finite;
};

// How the bounds of one row on `count` groups of centers move (scan/drift.h has why): by
//   squared:  V = -T,  T' = max((1 - slack) sqrt(max(T - tiny, 0)) - way, 0)^2 (1 - slack) - tiny
//   else:     V' = V + way (1 + 2^-18) + slack
inline constexpr float kTinySquare = 0x1p-100f;
struct BoundMove {
  const float* ways;
  std::int64_t count;  // at most 64
  bool squared;
  float slack;
  float limit;
};

struct RowMeasure {
  bool finite;
  float largest;       // |x|
  float inverse_norm;  // what `normalise` multiplies by: 0 for a zero row; NaN where the row is so
                       // long or short that it is brought near 1 first
};

// select keeps a candidate when its row of the tile has one with
//   dot * scale + tile_residual * x.residual * scale + tile_norm * x.norm * scale
//     >= lower + bias * half_square * scale
// (a first test, cheap as one query's number against numbers of the panel) and
//   dot >= lower * inverse + bias * half_square - residual * x.residual - norm * x.norm
// and, with ceilings, counts it as above and drops it when
//   dot >  upper * inverse + upper_bias * half_square + residual * x.residual + norm * x.norm.
struct RowTerms {
  float lower;
  float upper;
  float residual;
  float norm;
  float bias;  // 0 unless the metric is euclidean
  float upper_bias;
  float tile_residual;  // at least the residual and norm of every row of its tile
  float tile_norm;
};

// select_columns keeps a candidate when a column of the tile, whose own answers the rows may be,
// has one with
//   dot * scale >= lower + bias * half_square - residual * x.residual - norm * x.norm
// where x is the column, as its panel's footer says; scale and half_square are a row's.
struct ColumnTerms {
  const float* lower;        // of the tile's columns
  const float* bias;         // of the tile's columns; unused unless the metric is euclidean
  const float* scale;        // of its rows
  const float* half_square;  // of its rows: lower bounds of ||q||^2 / 2
  float residual;            // at least scale times the residual weight of every row
  float norm;                // likewise for the norm's weight
};

// What head_rows reads where a tile holds the dot products of the first part of the depth alone: it
// keeps a row when it has an entry with
//   dot * scale + base + row_tail * tail >= the right side of select's first test,
//                                          its errors added on the left as there
struct HeadTerms {
  const float* row_tails;  // of the tile's rows: what is left of the codes, at most
  const float* tails;      // of its columns: what is left of x, codes and what they lost, at most
  const float* bases;      // of its columns
};

// A block of quantised queries: `rows` rows, `stride` bytes apart, zero-padded to depth_padded.
struct QueryTile {
  const void* data;
  std::int64_t stride;
  int rows;
};

// Panels one after another, `bytes` apart; each has its footer at `footer_offset`.
struct PanelRun {
  const std::int8_t* data;
  std::int64_t bytes;
  std::int64_t footer_offset;
  int count;
};

// One entry of a tile: the scan's dot product in units of both scales, int32 or float32 bits.
union TileEntry {
  std::int32_t i32;
  float f32;
};

// The kernels of one format.
struct ScanKernels {
  int element_bytes;   // of a query
  int panel_bits;      // of an element in a panel
  TileEntry excluded;  // an entry that is no candidate: below every dot product
  int tile_rows;       // queries of one score_panels call, at most kMaxTileRows
  int few_rows;        // likewise where there are no more, at least tile_rows
  int tile_panels;     // panels of one score_panels call, at most kMaxTilePanels

  // Quantise one query row (written to depth_padded elements, in this table's own encoding).
  // fixed_scale > 0 replaces the scale that suits the row.
  void (*quantise)(const float* row, std::int64_t depth, std::int64_t depth_padded,
                   float fixed_scale, void* out, RowStats* stats);

  // Quantise up to 16 corpus rows into one panel; missing rows become zero rows. Returns a bit
  // mask of the rows that hold a NaN or an infinity.
  std::uint32_t (*pack_panel)(const float* const* rows, int count, std::int64_t depth,
                              std::int64_t depth_padded, float fixed_scale, std::int8_t* panel);

  // Surround the score_panels calls of one thread.
  void (*begin_tiles)();
  void (*end_tiles)();

  // tile[r * stride + 16 * p + c] = dot product of query r and row c of panel p.
  void (*score_panels)(const QueryTile* queries, const PanelRun* panels, std::int64_t depth,
                       TileEntry* tile, std::int64_t stride);

  // Returns the rows that may have candidates, as bits. For these, bit 16 * p + c of masks[r]:
  // candidate kept, row c of panel p; above[r] += candidates above the ceiling (above may be
  // nullptr: no ceilings). `biased` says that some bias is not 0.
  std::uint32_t (*select)(const TileEntry* tile, std::int64_t stride, int rows,
                          const RowTerms* terms, const PanelRun* panels, bool biased,
                          std::uint64_t* masks, std::int64_t* above);

  // The rows that may have candidates, as bits, as far as the first part of the depth tells.
  std::uint32_t (*head_rows)(const TileEntry* tile, std::int64_t stride, int rows,
                             const RowTerms* terms, const PanelRun* panels, bool biased,
                             const HeadTerms* heads);

  // As select, where columns ask for rows.
  std::uint32_t (*select_columns)(const TileEntry* tile, std::int64_t stride, int rows,
                                  const ColumnTerms* terms, const PanelRun* panels, bool biased,
                                  std::uint64_t* masks);

  // most[r * kMaxTilePanels + p] = the largest left side of select's first test in panel p: no row
  // of it scores what a term's `lower` above that asks for.
  void (*reach)(const TileEntry* tile, std::int64_t stride, int rows, const RowTerms* terms,
                const PanelRun* panels, bool biased, float* most);

  // As reach, of every entry: entries[r * stride + 16 * p + c].
  void (*reach_entries)(const TileEntry* tile, std::int64_t stride, int rows, const RowTerms* terms,
                        const PanelRun* panels, bool biased, float* entries);

  // scores[r * scores_stride + 16 * p + c] = scales[r] * scale of row c of panel p * that entry.
  void (*read_tile)(const TileEntry* tile, std::int64_t stride, int rows, const float* scales,
                    const PanelRun* panels, float* scores, std::int64_t scores_stride);

  // A loop of multiply-adds on registers alone; returns the number of operations done.
  std::int64_t (*peak)(std::int64_t rounds);
};

// infonce, the loss, multiplies matrices three ways: scores = X . Y', and in the backward pass W .
// Y and W' . X with a tile of weights W. Operands are packed in groups of 16 rows, in a layout of
// the table's own: `left` and `right` for the scores, `inner` for what weights multiply. Rows are
// padded with zeros to kInfoncePadding, depths likewise; a packed operand takes
//   rows_padded * depth_padded * element_bytes of the precision.
// An inner operand is made of whole chunks of kInfonceChunk rows, and a product reads some chunks,
// of the last one perhaps only the first rows.
inline constexpr int kInfoncePadding = 32;
inline constexpr int kInfonceChunk = 256;
inline constexpr int kInfonceWeightRows =
    2 * kInfonceChunk;                    // of a tile of weights, and its columns
inline constexpr int kInfonceStrip = 32;  // rows of weights packed at once

// How one row's raw similarities become logits and weights (docs/methods.md, H1, H9, E3, E5):
//   logit = multiplier * S + log_weight          (focal: multiplier * S * (S + focal_margin))
//   softmax:  e^(logit - reference)
//   hardness: e^((1 + beta)(logit - reference)) and e^(beta (logit - reference))
//   sigmoid:  softplus(logit + shift), its derivative in the backward pass
// An entry of -infinity is masked: it adds nothing and gets no weight.
enum InfonceKind { kInfonceSoftmax, kInfonceHardness, kInfonceSigmoid };

struct InfonceTerms {
  InfonceKind kind;
  bool focal;
  bool rough;  // exponentials within 3e-6 will do: what follows is rounded to bfloat16
  float multiplier;
  float focal_margin;
  float beta;
  float shift;
  const float* log_weights;  // of the tile's columns, or nullptr
};

// What a row has summed so far: softmax: sum of exponentials; hardness: of both; sigmoid: of
// softplus and of its derivative. `reference` is the largest logit.
struct InfonceSums {
  float reference;
  double first;
  double second;
};

// Weight = first * (first exponential) + second * (second exponential), or first * derivative.
struct InfonceCoefficients {
  float reference;
  float first;
  float second;
};

struct InfonceMask {
  const float* values;             // what the limits are for: the scores themselves or the guide's
  float upper;                     // dropped when above
  float lower;                     // dropped when below
  const std::int32_t* groups;      // of the columns, or nullptr
  const std::int32_t* row_groups;  // dropped when a column's group is one of these
  int row_group_count;
};

// What a row lets pass of a tile: entries whose logit, multiplier * S + log_weight, reaches
// `least`, which is finite.
struct InfonceSieveTerms {
  float multiplier;
  const float* log_weights;  // of the tile's columns, or nullptr
  float least;
  float reference;
};

struct InfonceSurvey {
  float largest;  // kept score of this call
  std::int64_t kept;
  std::int64_t above;       // kept scores above `positive`
  float best;               // largest kept score
  std::int64_t best_index;  // its first index, counted from `first_index` of the call
};

// Operands of one score of at most kInfonceStrip rows.
struct InfonceStrip {
  const void* left;
  const void* right;
  int rows, columns;
  std::int64_t depth;
  float* tile;
  std::int64_t stride;
};

// out[r] = sum over c of weights[r][c] * inner row c, or with `transposed`
// out[c] = sum over r of weights[r][c] * inner row r, or with `add` out += these sums; for the
// first rows and columns of a tile of packed weights, all that were packed.
struct InfonceProduct {
  const void* weights;
  int rows, columns;
  bool transposed;
  const void* inner;
  std::int64_t depth;
  float* out;
  bool add;
};

struct BytesByPrecision {
  int float32, bfloat16;
};

struct InfonceKernels {
  BytesByPrecision element_bytes;  // of a packed element
  BytesByPrecision weight_bytes;   // of a packed weight

  // Pack up to 16 rows, each times its factor, as group number `group` of the operand at `base`;
  // missing rows are zeros.
  void (*pack_left)(Precision precision, const float* const* rows, const float* factors, int count,
                    std::int64_t depth, std::int64_t group, void* base);
  void (*pack_right)(Precision precision, const float* const* rows, const float* factors, int count,
                     std::int64_t depth, std::int64_t group, void* base);
  void (*pack_inner)(Precision precision, const float* const* rows, const float* factors, int count,
                     std::int64_t depth, std::int64_t group, void* base);

  // tile[r * stride + c] = left row r . right row c. Rows and columns are padded: the tile has
  // room for multiples of kInfoncePadding. An entry's bits do not depend on its place in the tile.
  void (*score)(Precision precision, const void* left, const void* right, int rows, int columns,
                std::int64_t depth, float* tile, std::int64_t stride);

  // A score, and in the same go what survey and fold, or weigh and pack_weights, make of it: while
  // one block is multiplied, the one before is worked on. For plain terms, which say the same of
  // every entry: softmax, not focal, no log weights; nothing is masked, and no coefficient is 0.
  // What is left in the tile of scores is unspecified.
  void (*score_fold)(Precision precision, const InfonceStrip* strip, const InfonceTerms* terms,
                     const float* positives, std::int64_t first_index, InfonceSurvey* surveys,
                     InfonceSums* sums);
  void (*score_weigh)(Precision precision, const InfonceStrip* strip, const InfonceTerms* terms,
                      const InfonceCoefficients* coefficients, int first_row, void* weights);

  // Packs a strip of weights, up to kInfonceStrip rows from `first_row` on of a tile of at most
  // kInfonceWeightRows rows and columns; weights are zero in the padding of columns. `tile` holds
  // so many weights of weight_bytes, 64-byte aligned.
  void (*pack_weights)(Precision precision, const float* weights, std::int64_t stride,
                       int first_row, int rows, int columns, std::int64_t depth, void* tile);

  // The sums of kInfonceStrip rows, or of the matrix's last ones, lie where these rows do, in an
  // order of the table's own.
  void (*accumulate)(Precision precision, const InfonceProduct* product);
  // To that order, or with `back` from it, for the sums of up to kInfonceStrip rows; `scratch`
  // holds as many.
  void (*order_sums)(Precision precision, int rows, std::int64_t depth, bool back, float* sums,
                     float* scratch);

  // One row of a tile, `count` entries of it.
  void (*mask)(float* scores, int count, const InfonceMask* mask);
  void (*survey)(const float* scores, int count, float positive, std::int64_t first_index,
                 InfonceSurvey* survey);
  // `largest` is the largest score of the row, or NaN where it is not known.
  void (*fold)(const float* scores, int count, float largest, const InfonceTerms* terms,
               InfonceSums* sums);
  // Bit c of passed[c / 64]: entry c passes. Returns the sum of e^(logit - reference) of those that
  // do not, within 3e-6 and what float32 loses.
  float (*sift)(const float* scores, int count, const InfonceSieveTerms* sieve,
                std::uint64_t* passed);
  // Replaces scores by the weights dL/dS / multiplier, zeros up to `padded`; adds the row's sum of
  // dL/dlogit to *total for sigmoid, and of dL/dlogit * dlogit/dmultiplier to *moment if focal.
  void (*weigh)(float* scores, int count, int padded, const InfonceTerms* terms,
                const InfonceCoefficients* coefficients, double* total, double* moment);
};

struct KernelTable {
  const char* name;
  ScanKernels int8;
  ScanKernels int8_exact;  // for a scan whose answer is rescored: queries may have fewer bits
  ScanKernels int4;        // half the bytes of a panel; its queries are a table's own int8 ones
  ScanKernels bfloat16;
  InfonceKernels infonce;

  // What a row is, before anything is done with it.
  void (*measure)(const float* row, std::int64_t depth, RowMeasure* out);

  // out = keep * out + factor * row.
  void (*combine)(const float* row, float factor, float keep, std::int64_t depth, float* out);

  // sums[0..depth) += row, in float64.
  void (*add_wide)(const float* row, std::int64_t depth, double* sums);

  // Moves the bounds; returns, as bits, those that are not below the limit afterwards, NaN
  // included.
  std::uint64_t (*move_bounds)(float* bounds, const BoundMove* move);
  // bounds[i] = at least base + slope * bounds[i], and at least -1e38, for each bit i of `which`,
  // at most 64; bounds are readable and writable to the next multiple of 16, or to `count`.
  void (*scale_bounds)(float* bounds, std::int64_t count, std::uint64_t which, float base,
                       float slope);

  // out += weights[0] * row 0, then += weights[1] * row 1, and so on.
  void (*add_rows)(const float* const* rows, const float* weights, std::int64_t count,
                   std::int64_t depth, float* out);

  // dst[0..depth) = float32 of src; exact for every DType.
  void (*widen)(DType dtype, const void* src, std::int64_t depth, float* dst);

  // out = row / ||row|| by the canonical recipe; a zero row stays zero. May work in place.
  void (*normalise)(const float* row, std::int64_t depth, float* out);

  // A value that at least k of the `count` values reach, close to the k-th largest; -infinity when
  // fewer than k are finite. The values are padded with -infinity to a multiple of 16.
  float (*reached_by)(const float* values, std::int64_t count, std::int64_t k);

  // scores[r * stride + c] = canonical dot (or -distance) of rows of float32.
  void (*exact_dot)(const float* const* queries, int rows, const float* const* corpus, int columns,
                    std::int64_t depth, float* scores, std::int64_t stride);
  void (*exact_distance)(const float* const* queries, int rows, const float* const* corpus,
                         int columns, std::int64_t depth, float* scores, std::int64_t stride);

  // Exact int32 dot product of two int8 rows.
  std::int32_t (*exact_dot_int8)(const std::int8_t* a, const std::int8_t* b, std::int64_t depth);

  // As ScanKernels::peak, for float32 fused multiply-adds.
  std::int64_t (*peak_float32)(std::int64_t rounds);
};

void fill_generic(KernelTable* table);
void fill_avx2(KernelTable* table);
void fill_avx2_vnni(KernelTable* table);
void fill_avx512(KernelTable* table);
void fill_avx512_bf16(KernelTable* table);
void fill_amx(KernelTable* table);

}  // namespace stope
