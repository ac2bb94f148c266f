// All kernels for one instruction set: the build compiles this file once for each.
#include "act.h"
#include "simd.h"
#include "engine/code.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

namespace sl::SL_ISA {
#include "all.inc"
}  // namespace sl::SL_ISA
