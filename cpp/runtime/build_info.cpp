#include "stope/runtime.h"

// STOPE_VERSION and its siblings are defined for this file alone by CMakeLists.txt.
namespace stope {

BuildInfo build_info() {
  return {STOPE_VERSION,    STOPE_COMPILER,     STOPE_FLAGS,
          STOPE_BUILD_TYPE, STOPE_BUILD_FOLDER, cuda_built()};
}

}  // namespace stope
