// What an operation may throw besides std::invalid_argument (a wrong value, told in a sentence).
#pragma once

#include <stdexcept>

namespace stope {

// The progress callback asked for a stop; the binding re-raises what Python has pending.
struct Interrupted : std::runtime_error {
  Interrupted() : std::runtime_error("the operation was interrupted") {}
};

// The device failed, or the library was built without it.
struct DeviceError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace stope
