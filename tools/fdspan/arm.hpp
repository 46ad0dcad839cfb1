// How armed tracking is described: `arm` and `doctor` say the same.
#pragma once

#include <string>

#include "api/arm.hpp"

namespace fdspan::cli {

// One sentence or two, without a newline.
[[nodiscard]] std::string describe_armed(const ArmedState& state);
void append_armed_json(std::string& out, const ArmedState& state);
// Spans that are bounded although they began while tracking was armed.
[[nodiscard]] bool has_lost(const ArmedState& state);

}  // namespace fdspan::cli
