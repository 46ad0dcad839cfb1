// Interval: when something happened, as far as it is known (the model of time in README, "Times").
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace fdspan {

enum class TimeSource : std::uint8_t {
    bounded,  // nobody saw it happen: proved from evidence, the truth lies inside
    kernel,   // stamped in the kernel as it happened
};

// Closed interval on CLOCK_BOOTTIME, nanoseconds. earliest_ns == unknown_earliest means "no lower bound is known";
// there is always an upper bound, because nothing is reported before it happened.
struct Interval {
    static constexpr std::uint64_t unknown_earliest = 0;

    std::uint64_t earliest_ns = unknown_earliest;
    std::uint64_t latest_ns = std::numeric_limits<std::uint64_t>::max();
    TimeSource source = TimeSource::bounded;

    static constexpr Interval exact(std::uint64_t at_ns) { return {at_ns, at_ns, TimeSource::kernel}; }
    static constexpr Interval bounded(std::uint64_t earliest, std::uint64_t latest) {
        return {earliest, latest, TimeSource::bounded};
    }

    [[nodiscard]] constexpr bool is_exact() const { return source == TimeSource::kernel; }
    [[nodiscard]] constexpr bool has_earliest() const { return earliest_ns != unknown_earliest; }
    [[nodiscard]] constexpr bool contains(std::uint64_t at_ns) const {
        return earliest_ns <= at_ns && at_ns <= latest_ns;
    }

    // Adds evidence about the same moment. An exact time is never moved; evidence that contradicts
    // (an empty intersection) is ignored, because it must have been about something else.
    constexpr void narrow(const Interval& evidence) {
        if (is_exact()) return;
        if (evidence.is_exact()) {
            *this = evidence;
            return;
        }
        const std::uint64_t earliest = std::max(earliest_ns, evidence.earliest_ns);
        const std::uint64_t latest = std::min(latest_ns, evidence.latest_ns);
        if (earliest > latest) return;
        earliest_ns = earliest;
        latest_ns = latest;
    }

    friend constexpr bool operator==(const Interval&, const Interval&) = default;
};

}  // namespace fdspan
