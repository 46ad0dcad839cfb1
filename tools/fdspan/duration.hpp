// Durations as people write and read them: "1h30m" in, "3h12m", ">= 3h" and "3h..5h" out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/interval.hpp"
#include "base/result.hpp"

namespace fdspan::cli {

// "90s", "1h30m", "250ms"; units w d h m s ms us ns, largest first, each at most once. A bare number is refused
// (seconds or minutes?), except 0.
[[nodiscard]] Result<std::uint64_t> parse_duration_ns(std::string_view text);

enum class Rounding : std::uint8_t { down, up };

// At most two units: "3h12m", "45s", "350ms". Rounding::up never shows less than the duration, down never more.
[[nodiscard]] std::string format_duration(std::uint64_t duration_ns, Rounding rounding = Rounding::down);
void append_duration(std::string& out, std::uint64_t duration_ns, Rounding rounding = Rounding::down);

// How long ago: from min_ns to max_ns, max_ns empty when nothing is known about the beginning.
struct AgeRange {
    std::uint64_t min_ns = 0;
    std::optional<std::uint64_t> max_ns;
    bool exact = false;
};

// Empty when the moment is not known at all.
[[nodiscard]] std::optional<AgeRange> age_at(const Interval& moment, std::uint64_t now_ns);

// "3h12m" when exact; otherwise ">= 3h" or "3h..5h", rounded outwards, so that the truth stays inside.
[[nodiscard]] std::string format_age(const AgeRange& age);

// The same, with a memory of the last one: of neighbours in a list that is sorted by age, most are shown alike. One thread.
class AgeTexts {
public:
    void append(std::string& out, const AgeRange& age);

private:
    // Durations from least to most look the same.
    struct Alike {
        std::uint64_t least = 1;
        std::uint64_t most = 0;
        [[nodiscard]] bool holds(std::uint64_t duration_ns) const { return least <= duration_ns && duration_ns <= most; }
    };
    Alike least_, most_;
    bool exact_ = false;
    bool has_most_ = false;
    std::string text_;
};

}  // namespace fdspan::cli
