// The instruction sets this library was built with and this CPU can run.
#pragma once
#include <string>
#include <vector>

#include "op.h"

namespace sl {

std::vector<const Isa*> isas();               // best first; never empty
const Isa& isa(const std::string& name = ""); // "" = best; Error names those there are

}  // namespace sl
