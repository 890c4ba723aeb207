// The loss's products on bfloat16 tiles; included by amx.cpp alone.
//
// One of two operands stays in the first-level cache while the other streams past it: of scores a
// strip of 32 rows, in pieces of their depth; of gradients a panel of 32 of the depth, which all
// the weights of a tile pass, so that rows are read once a tile and the second-level cache is left
// to the weights.
#pragma once

#include "bf16_pack.inl.h"

namespace {

// A block of sums: it lies in one piece, as neighbouring rows would share few sets of a cache.
struct SumBlock {
  float* data;
  int rows, columns;
  bool whole() const { return rows == kBlock && columns == kBlock; }
};
// The sums of 32 rows are blocks one after the other along the depth.
struct SumBlocks {
  float* out;
  int rows;
  std::int64_t depth;
  SumBlock at(int r, std::int64_t d) const {
    const int height = least(kBlock, rows - r);
    return {out + r * depth + d * height, height,
            static_cast<int>(least<std::int64_t>(kBlock, depth - d))};
  }
};

// Memory that is wanted next, brought near a few lines at every step.
struct NextLines {
  const char* data = nullptr;
  int lines = 0, per_step = 0;
  NextLines() = default;
  NextLines(const void* first, std::int64_t bytes, int steps)
      : data(static_cast<const char*>(first)),
        lines(static_cast<int>(bytes / 64)),
        per_step((lines + steps - 1) / steps) {}
  template <int kLocality>
  void step() {
    for (int i = 0; i < per_step && lines > 0; ++i, --lines, data += 64)
      __builtin_prefetch(data, 0, kLocality);
  }
};
// The left operand's next strip: a slab of them is larger than the second-level cache.
struct NextStrip {
  NextLines lines;
  NextStrip(const std::int8_t* strip, int parts, std::int64_t steps, int columns) {
    const std::int64_t bytes = kBlock / kLanes * parts * steps * kTileBytes;
    const int blocks = (columns + kBlock - 1) / kBlock;
    lines = NextLines(strip + bytes, bytes, blocks * static_cast<int>(steps));
  }
  void step(std::int64_t) { lines.step<2>(); }
};
// A block of sums, and a share of the operand's next panel.
struct NextBlock {
  NextLines sums, panel;
  void step(std::int64_t) {
    sums.step<3>();
    panel.step<2>();
  }
};

// The operand that the first-level cache keeps; the other one streams past it, and its loads say
// so.
enum class Kept { kLeft, kRight };
template <Kept kKept>
inline void load_upper(const std::int8_t* tile) {
  if constexpr (kKept == Kept::kLeft)
    _tile_loadd(4, tile, kAmxTileBytes);
  else
    _tile_stream_loadd(4, tile, kAmxTileBytes);
}
template <Kept kKept>
inline void load_lower(const std::int8_t* tile) {
  if constexpr (kKept == Kept::kLeft)
    _tile_loadd(5, tile, kAmxTileBytes);
  else
    _tile_stream_loadd(5, tile, kAmxTileBytes);
}
template <Kept kKept>
inline void load_first(const std::int8_t* tile) {
  if constexpr (kKept == Kept::kRight)
    _tile_loadd(6, tile, kAmxTileBytes);
  else
    _tile_stream_loadd(6, tile, kAmxTileBytes);
}
template <Kept kKept>
inline void load_second(const std::int8_t* tile) {
  if constexpr (kKept == Kept::kRight)
    _tile_loadd(7, tile, kAmxTileBytes);
  else
    _tile_stream_loadd(7, tile, kAmxTileBytes);
}

// Tiles 0 to 3 += the products of two strips by two, over all steps. Loads lie between products, as
// late as they can: the unit takes them while it multiplies. What is done beside the products, at
// every step, hardly costs anything: it is other units' work.
template <Kept kKept, typename Beside>
inline void multiply_strips(const TileStrips& a, const TileStrips& b, int parts, std::int64_t steps,
                            Beside& beside) {
  for (std::int64_t k = 0; k < steps; ++k) {
    const int last = parts - 1;  // of a: low, then high
    load_first<kKept>(b.at(0, 0, k));
    load_upper<kKept>(a.at(0, last, k));
    _tile_dpbf16ps(0, 4, 6);
    load_second<kKept>(b.at(1, 0, k));
    _tile_dpbf16ps(1, 4, 7);
    load_lower<kKept>(a.at(1, last, k));
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    beside.step(k);
    if (parts == 1) continue;
    load_upper<kKept>(a.at(0, 0, k));
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    load_lower<kKept>(a.at(1, 0, k));
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    load_first<kKept>(b.at(0, 1, k));
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    load_second<kKept>(b.at(1, 1, k));
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
}

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
inline void load_sums(const float* out, std::int64_t stride) {
  const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(float));
  _tile_stream_loadd(0, out, bytes);
  _tile_stream_loadd(1, out + kLanes, bytes);
  _tile_stream_loadd(2, out + kLanes * stride, bytes);
  _tile_stream_loadd(3, out + kLanes * stride + kLanes, bytes);
}
inline void store_sums(float* out, std::int64_t stride) {
  const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(float));
  _tile_stored(0, out, bytes);
  _tile_stored(1, out + kLanes, bytes);
  _tile_stored(2, out + kLanes * stride, bytes);
  _tile_stored(3, out + kLanes * stride + kLanes, bytes);
}
// Stores a block of sums and loads the next: a tile of one lies between those of the other.
inline void exchange_sums(float* out, const float* next) {
  constexpr std::int64_t kBytes = kBlock * sizeof(float), kBelow = kLanes * kBlock;
  _tile_stored(0, out, kBytes);
  _tile_stream_loadd(0, next, kBytes);
  _tile_stored(1, out + kLanes, kBytes);
  _tile_stream_loadd(1, next + kLanes, kBytes);
  _tile_stored(2, out + kBelow, kBytes);
  _tile_stream_loadd(2, next + kBelow, kBytes);
  _tile_stored(3, out + kBelow + kLanes, kBytes);
  _tile_stream_loadd(3, next + kBelow + kLanes, kBytes);
}

// Depth goes in pieces whose strips of 32 rows stay in the first-level cache while the columns
// stream past them; sums wait in the output between pieces. In steps, nearly equal ones:
inline std::int64_t depth_piece(std::int64_t steps, int parts) {
  constexpr std::int64_t kPieceBytes = 24 << 10;
  const std::int64_t most = kPieceBytes / (2 * parts * kTileBytes);
  const std::int64_t pieces = (steps + most - 1) / most;
  return (steps + pieces - 1) / pieces;
}

void score_tiles(Precision precision, const void* left, const void* right, int rows, int columns,
                 std::int64_t depth, float* tile, std::int64_t stride) {
  if (without_tiles(precision, depth))
    return score_tile(precision, left, right, rows, columns, depth, tile, stride);
  const int parts = parts_of(precision);
  const std::int64_t steps = padded_depth(depth) / kTileDepth, piece = depth_piece(steps, parts);
  const std::int64_t group = parts * steps * kTileBytes, part = steps * kTileBytes;
  NextStrip next(static_cast<const std::int8_t*>(left), parts, steps, columns);
  for (std::int64_t k = 0; k < steps; k += piece)
    for (int r = 0; r < rows; r += kBlock)
      for (int c = 0; c < columns; c += kBlock) {
        const std::int64_t skipped = k * kTileBytes;
        const TileStrips a = {static_cast<const std::int8_t*>(left) + r / kLanes * group + skipped,
                              group, part, kTileBytes};
        const TileStrips b = {static_cast<const std::int8_t*>(right) + c / kLanes * group + skipped,
                              group, part, kTileBytes};
        float* out = tile + r * stride + c;
        if (k > 0)
          load_sums(out, stride);
        else
          zero_sums();
        multiply_strips<Kept::kLeft>(a, b, parts, least(steps - k, piece), next);
        store_sums(out, stride);
      }
}

// A ragged block of sums, if there are any yet, among zeros: tiles may load and store all of it.
class RaggedBlock {
 public:
  RaggedBlock(const SumBlock& block, bool filled) : block_(block) {
    __builtin_memset(sums_, 0, sizeof(sums_));
    for (int r = 0; filled && r < block.rows; ++r)
      __builtin_memcpy(sums_[r], block.data + r * block.columns, bytes());
    asm volatile("" : : : "memory");  // gcc's tile loads do not say that they read memory
  }
  void write_back() {
    for (int r = 0; r < block_.rows; ++r)
      __builtin_memcpy(block_.data + r * block_.columns, sums_[r], bytes());
  }
  float* data() { return sums_[0]; }

 private:
  std::size_t bytes() const { return static_cast<std::size_t>(block_.columns) * sizeof(float); }
  SumBlock block_;
  alignas(64) float sums_[kBlock][kBlock];
};

// The operand of weights, in panels of 32 of its depth and so many rows that the first-level cache
// keeps a panel while all the rows of the sums pass it.
struct InnerPanels : InnerTiles {
  int rows;

  int panel_rows() const { return stope::kInfonceWeightRows / parts; }
  // A share of what follows a chunk: the next chunk below the panel, or the one at the next depth.
  NextLines share_of_next(std::int64_t d, int first, int last, int share, int shares) const {
    const bool along = last == rows;  // the depth
    if (along) d += kBlock;
    if (d >= depth) return {};
    const TileStrips next = at(d, along ? first % panel_rows() : first + panel_rows());
    const std::int64_t bytes = kBlock / kLanes * strip_bytes() / shares / 64 * 64;
    return {next.data + share * bytes, bytes, kInnerTiles};
  }
};

void accumulate_tiles(Precision precision, const stope::InfonceProduct* product) {
  const std::int64_t depth = product->depth;
  if (without_tiles(precision, depth)) return accumulate_tile(precision, product);
  const int parts = parts_of(precision), rows = product->rows, columns = product->columns;
  const bool transposed = product->transposed;
  const TileStrips weights = weight_tiles(*product, parts);
  const SumBlocks sums = {product->out, transposed ? columns : rows, depth};
  const InnerPanels panels = {{static_cast<const std::int8_t*>(product->inner), parts, depth},
                              transposed ? rows : columns};
  const int blocks = (sums.rows + kBlock - 1) / kBlock;
  // Tiles 0 to 3 += the products of a block with rows [from, to) of the operand.
  const auto multiply = [&](int r, std::int64_t d, int from, int to, const float* next_sums) {
    NextBlock next;
    if (next_sums != nullptr)
      next.sums = {next_sums, sizeof(float) * kBlock * kBlock,
                   (to - from + kTileDepth - 1) / kTileDepth};
    for (int first = from; first < to; first += stope::kInfonceChunk) {
      const int count = least(stope::kInfonceChunk, to - first);
      next.panel = panels.share_of_next(d, first, to, r / kBlock, blocks);
      const TileStrips a = {weights.at(r / kLanes, 0, first / kTileDepth), weights.strip_bytes,
                            weights.part_bytes, kTileBytes};
      multiply_strips<Kept::kRight>(a, panels.at(d, first), parts,
                                    (count + kTileDepth - 1) / kTileDepth, next);
    }
  };
  asm volatile("" : : : "memory");
  bool loaded = false;
  for (std::int64_t d = 0; d < depth; d += kBlock)
    for (int from = 0; from < panels.rows; from += panels.panel_rows()) {
      const int to = least(from + panels.panel_rows(), panels.rows);
      const bool add = product->add || from > 0;
      const std::int64_t next_d = to < panels.rows ? d : d + kBlock;
      for (int r = 0; r < sums.rows; r += kBlock) {
        const SumBlock block = sums.at(r, d);
        if (!block.whole()) {
          RaggedBlock ragged(block, add);
          load_sums(ragged.data(), kBlock);
          multiply(r, d, from, to, nullptr);
          store_sums(ragged.data(), kBlock);
          ragged.write_back();
          continue;
        }
        if (!add)
          zero_sums();
        else if (!loaded)
          load_sums(block.data, kBlock);
        const bool last = r + kBlock >= sums.rows;
        const SumBlock next = last ? sums.at(0, next_d) : sums.at(r + kBlock, d);
        loaded = next.whole() && (last ? product->add || to < panels.rows : add);
        multiply(r, d, from, to, loaded ? next.data : nullptr);
        if (loaded)
          exchange_sums(block.data, next.data);
        else
          store_sums(block.data, kBlock);
      }
    }
}

void order_blocks(Precision precision, int rows, std::int64_t depth, bool back, float* sums,
                  float* scratch) {
  if (without_tiles(precision, depth)) return;
  const auto bytes = static_cast<std::size_t>(rows * depth) * sizeof(float);
  const SumBlocks blocks = {back ? scratch : sums, rows, depth};
  float* const given = back ? sums : scratch;
  __builtin_memcpy(scratch, sums, bytes);
  for (std::int64_t d = 0; d < depth; d += kBlock) {
    const SumBlock block = blocks.at(0, d);
    const auto width = static_cast<std::size_t>(block.columns) * sizeof(float);
    for (int r = 0; r < rows; ++r) {
      float* row = given + r * depth + d;
      float* sum = block.data + r * block.columns;
      __builtin_memcpy(back ? row : sum, back ? sum : row, width);
    }
  }
}

}  // namespace
