// Clocks. All times inside fdspan are CLOCK_BOOTTIME nanoseconds (suspend included); wall-clock time exists only at the edges.
#pragma once

#include <cstdint>
#include <string>

namespace fdspan {

[[nodiscard]] std::uint64_t boottime_now_ns();

// The offset between the two clocks, measured around the moment of the call: real = boottime + offset.
// uncertainty_ns is the width of the measurement (how far a conversion may be off because of it).
struct WallClock {
    std::int64_t offset_ns = 0;
    std::uint64_t uncertainty_ns = 0;

    static WallClock now();
    [[nodiscard]] std::int64_t to_realtime_ns(std::uint64_t boottime_ns) const;
    // 0 when the wall-clock time lies before boot.
    [[nodiscard]] std::uint64_t to_boottime_ns(std::int64_t realtime_ns) const;
};

// RFC 3339 in UTC with nanoseconds, "2026-11-21T23:35:08.000000001Z".
[[nodiscard]] std::string rfc3339(std::int64_t realtime_ns);

}  // namespace fdspan
