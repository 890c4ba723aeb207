// Where a packed row lies.
#pragma once

#include "thread.cuh"
#include "types.h"

namespace stope::cuda {

// Codes of the rows that follow in the same panel follow these.
STOPE_DEVICE std::uint16_t* codes_of(const Panels& panels, std::int64_t row) {
  char* panel = static_cast<char*>(panels.data) + row / panels.panel_rows * panels.panel_bytes;
  return reinterpret_cast<std::uint16_t*>(panel) + row % panels.panel_rows * panels.depth_padded;
}
STOPE_DEVICE ScanRow* scan_row_of(const Panels& panels, std::int64_t row) {
  std::uint16_t* first = codes_of(panels, row / panels.panel_rows * panels.panel_rows);
  return reinterpret_cast<ScanRow*>(first + panels.panel_rows * panels.depth_padded) +
         row % panels.panel_rows;
}

}  // namespace stope::cuda
