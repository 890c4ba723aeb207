// Rows that may not be scored, from the device to a sentence: the one place where an operation
// waits for its stream. While a graph is recorded nothing can be read, so nothing is checked.
#pragma once

#include <stdexcept>
#include <string>

#include "stream.h"
#include "types.h"

namespace stope::cuda {

inline void clear_faults(RowFaults* faults, std::int64_t count, void* stream) {
  fill_bytes(faults, kNoRowByte, static_cast<std::size_t>(count) * sizeof(RowFaults), stream);
}

// Throws if a row of the matrix of that name, whose rows count from `first_row`, was found faulty.
inline void refuse(const RowFaults& found, const std::string& name, std::int64_t first_row = 0) {
  if (found.not_finite != kNoRow)
    throw std::invalid_argument(name + " has a NaN or an infinity in row " +
                                std::to_string(found.not_finite - first_row) +
                                "; remove or repair that row");
  if (found.too_long != kNoRow)
    throw std::invalid_argument(
        name + " has a norm of 2^63 (9.2e18) or more in row " +
        std::to_string(found.too_long - first_row) +
        ", so float32 scores could overflow; scale it down or use metric='cosine'");
}

// faults[0] are those of the queries, faults[1] those of the corpus.
inline void raise_faults(const RowFaults* faults, void* stream, const char* queries = "queries",
                         const char* corpus = "corpus") {
  if (is_recording(stream)) return;
  RowFaults found[2];
  copy_to_host(found, faults, sizeof(found), stream);
  refuse(found[0], queries);
  refuse(found[1], corpus);
}

}  // namespace stope::cuda
