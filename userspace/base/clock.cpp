#include "base/clock.hpp"

#include <array>
#include <cstdio>
#include <ctime>

namespace fdspan {
namespace {

constexpr std::int64_t ns_per_s = 1'000'000'000;

std::int64_t read_ns(clockid_t clock) {
    timespec ts{};
    ::clock_gettime(clock, &ts);
    return static_cast<std::int64_t>(ts.tv_sec) * ns_per_s + ts.tv_nsec;
}

}  // namespace

std::uint64_t boottime_now_ns() { return static_cast<std::uint64_t>(read_ns(CLOCK_BOOTTIME)); }

WallClock WallClock::now() {
    // A preemption between the readings widens them; the narrowest of a few attempts is kept.
    WallClock best;
    std::int64_t best_width = 0;
    for (int attempt = 0; attempt < 5; ++attempt) {
        const std::int64_t before = read_ns(CLOCK_BOOTTIME);
        const std::int64_t real = read_ns(CLOCK_REALTIME);
        const std::int64_t after = read_ns(CLOCK_BOOTTIME);
        const std::int64_t width = after - before;
        if (attempt == 0 || width < best_width) {
            best_width = width;
            best.offset_ns = real - (before + width / 2);
            best.uncertainty_ns = static_cast<std::uint64_t>(width / 2 + 1);
        }
    }
    return best;
}

std::int64_t WallClock::to_realtime_ns(std::uint64_t boottime_ns) const {
    return static_cast<std::int64_t>(boottime_ns) + offset_ns;
}

std::uint64_t WallClock::to_boottime_ns(std::int64_t realtime_ns) const {
    const std::int64_t boottime = realtime_ns - offset_ns;
    return boottime < 0 ? 0 : static_cast<std::uint64_t>(boottime);
}

std::string rfc3339(std::int64_t realtime_ns) {
    std::int64_t seconds = realtime_ns / ns_per_s;
    std::int64_t nanos = realtime_ns % ns_per_s;
    if (nanos < 0) {
        nanos += ns_per_s;
        --seconds;
    }
    const std::time_t time = static_cast<std::time_t>(seconds);
    std::tm utc{};
    ::gmtime_r(&time, &utc);
    std::array<char, 64> text{};
    const std::size_t length = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &utc);
    std::array<char, 16> fraction{};
    std::snprintf(fraction.data(), fraction.size(), ".%09lldZ", static_cast<long long>(nanos));
    return std::string(text.data(), length) + fraction.data();
}

}  // namespace fdspan
