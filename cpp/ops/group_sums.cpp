// group_sums: rows added up by group, in float64.
//
// Rows are read front to back in blocks. A block is sorted by group, stably, and cut into pieces of
// whole groups; where groups are few, pieces are cut by columns as well. So each sum is made by one
// thread at a time, in the order of the rows: its bits depend on no block, thread or instruction
// set. Extra memory: 24 bytes a row of the block and 16 a group, and the block's rows where they
// cannot be read in place.
#include "stope/group_sums.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "dispatch.h"
#include "packing.h"
#include "rows.h"
#include "stope/workspace.h"
#include "tasks.h"

namespace stope {
namespace {

constexpr std::int64_t kBlock = 4096;       // rows
constexpr std::int64_t kPiece = 64;         // rows of a piece, at least
constexpr std::int64_t kSlice = 64;         // columns of a slice
constexpr std::int64_t kPiecesAThread = 4;  // fewer are cut by columns
constexpr std::int64_t kRowsPerTask = 64;
constexpr std::int64_t kAhead = 3;  // rows under way from memory: a block lies in no near cache

class GroupSums {
 public:
  explicit GroupSums(const GroupSumsCall& call, Workspace workspace = {})
      : call_(call), kernels_(stope::kernels()), workspace_(workspace) {
    in_place_ = read_in_place(call.rows, call.metric);
    order_ = workspace_.take<std::int64_t>(kBlock);
    cuts_ = workspace_.take<std::int64_t>(kBlock + 1);
    starts_ = workspace_.take<std::int64_t>(call.num_groups + 1);
    values_ = workspace_.take<float>(in_place_ ? 0 : kBlock * call.rows.columns);
  }

  std::size_t bytes() const { return workspace_.bytes(); }

  void run() {
    for (done_ = 0; done_ < call_.rows.rows; done_ += kBlock) {
      count_ = std::min(kBlock, call_.rows.rows - done_);
      sort_block();
      if (!in_place_) read_block();
      add_block();
    }
    done_ = call_.rows.rows;
    report();
    refuse_rows();
  }

 private:
  template <typename Body>
  void parallel(std::int64_t tasks, Body&& body) {
    run_tasks(call_.execution, tasks, [this] { return report(); }, body);
  }
  bool report() const { return tell(call_.execution, done_, call_.rows.rows); }

  // order_: the block's rows by group; cuts_: where pieces begin, each with whole groups.
  void sort_block() {
    const std::int64_t* groups = call_.groups + done_;
    std::fill_n(starts_, call_.num_groups + 1, 0);
    for (std::int64_t i = 0; i < count_; ++i) {
      if (groups[i] < 0 || groups[i] >= call_.num_groups)
        throw std::invalid_argument("groups has " + std::to_string(groups[i]) + " for row " +
                                    std::to_string(done_ + i) + "; groups are from 0 to " +
                                    std::to_string(call_.num_groups - 1));
      ++starts_[groups[i] + 1];
    }
    for (std::int64_t g = 0; g < call_.num_groups; ++g) starts_[g + 1] += starts_[g];
    for (std::int64_t i = 0; i < count_; ++i) order_[starts_[groups[i]]++] = i;
    pieces_ = 0;
    cuts_[0] = 0;
    for (std::int64_t i = 1; i < count_; ++i)
      if (i - cuts_[pieces_] >= kPiece && groups[order_[i]] != groups[order_[i - 1]])
        cuts_[++pieces_] = i;
    cuts_[++pieces_] = count_;
  }

  void read_block() {
    parallel(divide_up(count_, kRowsPerTask), [&](std::int64_t task, int) {
      const std::int64_t end = std::min((task + 1) * kRowsPerTask, count_);
      for (std::int64_t i = task * kRowsPerTask; i < end; ++i)
        float_row(kernels_, call_.rows, call_.metric, done_ + i, values_ + i * call_.rows.columns);
    });
  }

  void add_block() {
    const std::int64_t columns = call_.rows.columns;
    const bool many = pieces_ >= kPiecesAThread * call_.execution.threads;
    const std::int64_t width = many ? columns : std::min(kSlice, columns);
    const std::int64_t slices = divide_up(columns, width);
    parallel(pieces_ * slices, [&](std::int64_t task, int) {
      const std::int64_t piece = task / slices, first = task % slices * width;
      const std::int64_t end = std::min(first + width, columns);
      for (std::int64_t at = cuts_[piece]; at < cuts_[piece + 1]; ++at) {
        const std::int64_t row = order_[at], ahead = std::min(at + kAhead, count_ - 1);
        const float* values = values_of(row);
        prefetch_row(values_of(order_[ahead]) + first, (end - first) * std::int64_t{sizeof(float)});
        double* sums = call_.sums + call_.groups[done_ + row] * columns;
        kernels_.add_wide(values + first, end - first, sums + first);
      }
    });
  }

  // Of a row of the block.
  const float* values_of(std::int64_t row) const {
    return in_place_ ? static_cast<const float*>(row_data(call_.rows, done_ + row))
                     : values_ + row * call_.rows.columns;
  }

  // A row that is not finite leaves a sum that is not: float64 holds any sum of float32 numbers.
  void refuse_rows() {
    const std::int64_t size = call_.num_groups * call_.rows.columns;
    if (std::all_of(call_.sums, call_.sums + size, [](double x) { return std::isfinite(x); }))
      return;
    RowFault fault;
    for (std::int64_t row = 0; row < call_.rows.rows && !fault.noted(); ++row) {
      const float* values = float_row(kernels_, call_.rows, call_.metric, row, values_);
      if (!std::all_of(values, values + call_.rows.columns,
                       [](float x) { return std::isfinite(x); }))
        fault.note_not_finite(row);
    }
    fault.raise("x");
  }

  const GroupSumsCall& call_;
  const KernelTable& kernels_;
  Workspace workspace_;
  bool in_place_ = false;
  std::int64_t done_ = 0, count_ = 0, pieces_ = 0;
  std::int64_t* order_ = nullptr;
  std::int64_t* cuts_ = nullptr;
  std::int64_t* starts_ = nullptr;
  float* values_ = nullptr;
};

}  // namespace

std::size_t group_sums_workspace_bytes(const GroupSumsCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return group_sums_cuda_workspace_bytes(call);
  return GroupSums(call).bytes();
}

void group_sums(const GroupSumsCall& call) {
  if (call.execution.device.kind == DeviceKind::kCuda) return group_sums_cuda(call);
  GroupSums(call, Workspace(call.execution)).run();
}

}  // namespace stope
