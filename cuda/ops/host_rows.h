// Rows of a matrix in host memory, chunk by chunk on the device, while the chunk before is worked
// on.
//
//   host:     gather n + 1 into pinned memory | gather n + 2 | ...
//   copies:   copy n + 1                      | copy n + 2   | ...       a stream of their own
//   caller's: work on n                       | work on n + 1 | ...
//
// There are two buffers of either kind. A gather waits for the copy before last, which read its
// buffer; a copy waits for the work on the chunk before last, and the work for its copy. Memory
// that is pinned already is copied from where it is.
#pragma once

#include <cstring>

#include "plan.h"
#include "stream.h"

namespace stope::cuda {

class HostRows {
 public:
  // `blocks` has room for kBlocks x most_rows rows on the device; so has `pinned`, nullptr where
  // the matrix itself is pinned.
  HostRows(const Matrix& matrix, std::int64_t most_rows, std::byte* blocks, void* pinned,
           const Execution& execution)
      : matrix_(matrix),
        row_bytes_(row_bytes(matrix)),
        block_bytes_(most_rows * row_bytes_),
        blocks_(blocks),
        pinned_(static_cast<std::byte*>(pinned)),
        device_(execution.device),
        stream_(execution.stream) {
    order_after(copies_.get(), stream_);  // whoever had the workspace before is done with it
  }

  // Sends rows on their way; the host waits until a buffer is free. At most one chunk is on its way
  // while another one is worked on.
  void send(std::int64_t first, std::int64_t rows) {
    const int b = sent_++ % kBlocks;
    arrived_[b].wait();
    left_[b].hold_back(copies_.get());
    const std::byte* from =
        static_cast<const std::byte*>(matrix_.data) + first * matrix_.row_stride_bytes;
    std::int64_t stride = matrix_.row_stride_bytes;
    if (pinned_ != nullptr) {
      from = gather(from, rows, pinned_ + b * block_bytes_);
      stride = row_bytes_;
    }
    copy_rows_to_device(blocks_ + b * block_bytes_, from, stride, row_bytes_, rows, copies_.get());
    arrived_[b].record(copies_.get());
  }

  // The chunk sent longest ago: what is queued from now on finds it on the device, until done().
  Matrix receive(std::int64_t rows) {
    const int b = received_ % kBlocks;
    arrived_[b].hold_back(stream_);
    return {blocks_ + b * block_bytes_, rows, matrix_.columns, row_bytes_, matrix_.dtype, device_};
  }
  void done() { left_[received_++ % kBlocks].record(stream_); }

 private:
  const std::byte* gather(const std::byte* from, std::int64_t rows, std::byte* to) const {
    const auto bytes = static_cast<std::size_t>(row_bytes_);
    if (matrix_.row_stride_bytes == row_bytes_) {
      std::memcpy(to, from, static_cast<std::size_t>(rows) * bytes);
      return to;
    }
    for (std::int64_t row = 0; row < rows; ++row)
      std::memcpy(to + row * row_bytes_, from + row * matrix_.row_stride_bytes, bytes);
    return to;
  }

  const Matrix matrix_;
  const std::int64_t row_bytes_, block_bytes_;
  std::byte* const blocks_;
  std::byte* const pinned_;
  const Device device_;
  void* const stream_;
  Event arrived_[kBlocks], left_[kBlocks];
  int sent_ = 0, received_ = 0;
  const OwnStream copies_;  // ends first, and waits for its copies
};

}  // namespace stope::cuda
