// Packing the corpus: sixteen rows to a panel, refused when a row is not finite or too long.
#pragma once

#include <atomic>

#include "kernel_table.h"
#include "stope/matrix.h"
#include "stope/workspace.h"

namespace stope {

// Products of norms below this limit cannot overflow float32, in any order of summation.
inline constexpr float kLargestNorm = 0x1p63f;

struct PanelShape {
  std::int64_t depth;
  std::int64_t depth_padded;
  std::int64_t query_bytes;    // of one quantised query
  std::int64_t footer_offset;  // of a panel's footer
  std::int64_t bytes;          // of a panel

  PanelShape(std::int64_t columns, int element_bytes)
      : PanelShape(columns, element_bytes, 8 * element_bytes) {}
  PanelShape(std::int64_t columns, int element_bytes, int panel_bits)
      : depth(columns),
        depth_padded(round_up(columns, kDepthMultiple)),
        query_bytes(depth_padded * element_bytes),
        footer_offset(depth_padded * panel_bits / 8 * kLanes),
        bytes(footer_offset + static_cast<std::int64_t>(sizeof(PanelFooter))) {}

  const PanelFooter& footer(const std::int8_t* panel) const {
    return *reinterpret_cast<const PanelFooter*>(panel + footer_offset);
  }
};

// The scan of an answer that is rescored: int8, the fastest, or bfloat16 where int8 would lose so
// much of the rows that rescoring the doubtful would cost more than it saves (measured on AVX-512
// and AVX2).
const ScanKernels& exact_scan(const KernelTable& kernels, const Matrix& queries,
                              const Matrix& corpus, Metric metric);
// The same for a corpus that is packed already, which is int8.
const ScanKernels& packed_scan(const KernelTable& kernels, const Matrix& queries, Metric metric);

// The first of the rows that threads note.
class FirstRow {
 public:
  void note(std::int64_t row) {
    std::int64_t seen = row_.load(std::memory_order_relaxed);
    while (row < seen && !row_.compare_exchange_weak(seen, row)) {
    }
  }
  bool noted() const { return row_ != INT64_MAX; }
  std::int64_t row() const { return row_; }
  void clear() { row_ = INT64_MAX; }

 private:
  std::atomic<std::int64_t> row_{INT64_MAX};
};

// The first row that may not be searched, shared by the threads that look for it.
class RowFault {
 public:
  void note_not_finite(std::int64_t row) { not_finite_.note(row); }
  void note_too_long(std::int64_t row) { too_long_.note(row); }
  void note(const RowStats& stats, std::int64_t row) {
    if (!stats.finite)
      note_not_finite(row);
    else if (!(stats.norm * stats.scale < kLargestNorm))
      note_too_long(row);
  }
  bool noted() const { return not_finite_.noted() || too_long_.noted(); }
  void clear() {
    not_finite_.clear();
    too_long_.clear();
  }
  // Throws std::invalid_argument naming the argument and the row, counted from first_row.
  void raise(const char* argument, std::int64_t first_row = 0) const;

 private:
  FirstRow not_finite_, too_long_;
};

// The scale that stands for "as it is": int8 rows under the dot product.
float fixed_scale(const Matrix& matrix, Metric metric);

// Packs `count` rows, at most 16, that `rows` points to; `ids` are their numbers.
void pack_floats(const ScanKernels& scan, const float* const* rows, const std::int64_t* ids,
                 int count, float fixed, const PanelShape& shape, std::int8_t* out,
                 RowFault* fault);

// Packs `count` rows, at most 16; `scratch` holds 16 rows of floats.
void pack_rows(const KernelTable& kernels, const ScanKernels& scan, const Matrix& corpus,
               Metric metric, const std::int64_t* ids, int count, const PanelShape& shape,
               float* scratch, std::int8_t* out, RowFault* fault);

// Packs panel `panel` (rows 16 * panel ..) to `out`; `scratch` holds 16 rows of floats.
void pack_one_panel(const KernelTable& kernels, const ScanKernels& scan, const Matrix& corpus,
                    Metric metric, std::int64_t panel, const PanelShape& shape, float* scratch,
                    std::int8_t* out, RowFault* fault);

}  // namespace stope
