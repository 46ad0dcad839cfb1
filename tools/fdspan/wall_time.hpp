// Points in time and amounts of bytes as people write them.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.hpp"

namespace fdspan::cli {

// "2026-11-22T10:00:00Z", "2026-11-22T10:00:00.5+01:00" (RFC 3339; a space may stand for the T), or a duration: so long before `now_ns`.
// Wall-clock nanoseconds.
[[nodiscard]] Result<std::int64_t> parse_wall_time_ns(std::string_view text, std::int64_t now_ns);

// "4096", "10K", "1G": powers of 1024.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text);

}  // namespace fdspan::cli
