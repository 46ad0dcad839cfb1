#include "duration.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "text.hpp"

namespace fdspan::cli {
namespace {

struct Unit {
    std::string_view name;
    std::uint64_t ns;
};

constexpr std::uint64_t us = 1'000;
constexpr std::uint64_t ms = 1'000 * us;
constexpr std::uint64_t second = 1'000 * ms;
constexpr std::uint64_t minute = 60 * second;
constexpr std::uint64_t hour = 60 * minute;
constexpr std::uint64_t day = 24 * hour;
constexpr std::uint64_t week = 7 * day;

constexpr std::array<Unit, 8> parsed_units{
    {{"w", week}, {"d", day}, {"h", hour}, {"m", minute}, {"s", second}, {"ms", ms}, {"us", us}, {"ns", 1}}};
tl::unexpected<Error> bad_duration(std::string_view text, std::string_view why) {
    return fail(EINVAL, "\"" + std::string(text) + "\" is not a duration: " + std::string(why));
}

}  // namespace

Result<std::uint64_t> parse_duration_ns(std::string_view text) {
    constexpr std::string_view expected = "expected a number and a unit, such as 90s, 5m, 1h30m or 2d";
    constexpr std::uint64_t limit = std::numeric_limits<std::int64_t>::max();
    if (text == "0") return 0;
    if (text.empty()) return bad_duration(text, expected);
    std::uint64_t total = 0;
    std::uint64_t previous_unit = std::numeric_limits<std::uint64_t>::max();
    std::size_t at = 0;
    while (at < text.size()) {
        const std::size_t digits_at = at;
        std::uint64_t number = 0;
        for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
            const auto digit = static_cast<std::uint64_t>(text[at] - '0');
            if (number > (limit - digit) / 10) return bad_duration(text, "it is longer than 292 years");
            number = number * 10 + digit;
        }
        if (at == digits_at) return bad_duration(text, expected);
        const std::size_t unit_at = at;
        while (at < text.size() && (text[at] < '0' || text[at] > '9')) ++at;
        const std::string_view name = text.substr(unit_at, at - unit_at);
        const Unit* unit = nullptr;
        for (const Unit& candidate : parsed_units) {
            if (candidate.name == name) unit = &candidate;
        }
        if (unit == nullptr) return bad_duration(text, expected);
        if (unit->ns >= previous_unit) return bad_duration(text, "units go from large to small, each once");
        previous_unit = unit->ns;
        if (number > (limit - total) / unit->ns) return bad_duration(text, "it is longer than 292 years");
        total += number * unit->ns;
    }
    return total;
}

namespace {

// The longest is ">= " or "..", and twice what a number of 64 bits can count.
using AgeText = Piece<64>;

// Returns the smaller unit shown.
std::uint64_t add_duration(AgeText& out, std::uint64_t duration_ns, Rounding rounding) {
    const auto divide = [rounding](std::uint64_t value, std::uint64_t by) {
        return rounding == Rounding::up ? value / by + (value % by != 0 ? 1 : 0) : value / by;
    };
    const auto add = [&out](std::uint64_t count, std::string_view unit) { out.add(static_cast<unsigned long long>(count)).add(unit); };
    if (duration_ns == 0) {
        add(0, "s");
        return 1;
    }
    if (duration_ns < ms) {
        const std::uint64_t count = divide(duration_ns, us);
        if (count < 1'000) {
            add(count, "us");
            return us;
        }
    }
    if (duration_ns < second) {
        const std::uint64_t count = divide(duration_ns, ms);
        if (count < 1'000) {
            add(count, "ms");
            return ms;
        }
    }
    // The smaller unit shown is rounded first, so that a carry ("59m60s") lands in the larger. Constants, because dividing by one is cheap.
    const auto added = [&]<std::uint64_t large, std::uint64_t small>(std::string_view large_name, std::string_view small_name) {
        const std::uint64_t count = divide(duration_ns, small);
        constexpr std::uint64_t ratio = large / small;
        if (count < ratio) return false;
        add(count / ratio, large_name);
        if (count % ratio != 0) add(count % ratio, small_name);
        return true;
    };
    if (added.template operator()<day, hour>("d", "h")) return hour;
    if (added.template operator()<hour, minute>("h", "m")) return minute;
    if (!added.template operator()<minute, second>("m", "s")) add(divide(duration_ns, second), "s");
    return second;
}

// Returns the smaller units shown of min_ns and, where it is shown, of max_ns.
std::pair<std::uint64_t, std::uint64_t> add_age(AgeText& out, const AgeRange& age) {
    if (!age.exact && !age.max_ns) out.add(">= ");
    const std::uint64_t least_unit = add_duration(out, age.min_ns, Rounding::down);
    if (age.exact || !age.max_ns) return {least_unit, 0};
    out.add("..");
    return {least_unit, add_duration(out, *age.max_ns, Rounding::up)};
}

}  // namespace

void append_duration(std::string& out, std::uint64_t duration_ns, Rounding rounding) {
    AgeText text;
    add_duration(text, duration_ns, rounding);
    out += text.text();
}

std::string format_duration(std::uint64_t duration_ns, Rounding rounding) {
    std::string text;
    append_duration(text, duration_ns, rounding);
    return text;
}

std::optional<AgeRange> age_at(const Interval& moment, std::uint64_t now_ns) {
    if (moment.latest_ns == std::numeric_limits<std::uint64_t>::max()) return std::nullopt;
    const auto since = [now_ns](std::uint64_t at_ns) { return now_ns > at_ns ? now_ns - at_ns : 0; };
    AgeRange age;
    age.min_ns = since(moment.latest_ns);
    if (moment.is_exact() || moment.has_earliest()) age.max_ns = since(moment.earliest_ns);
    age.exact = moment.is_exact();
    return age;
}

std::string format_age(const AgeRange& age) {
    AgeText text;
    add_age(text, age);
    return std::string(text.text());
}

void AgeTexts::append(std::string& out, const AgeRange& age) {
    const bool has_most = !age.exact && age.max_ns;
    if (exact_ != age.exact || has_most_ != has_most || !least_.holds(age.min_ns) || (has_most && !most_.holds(*age.max_ns))) {
        AgeText text;
        const auto [least_unit, most_unit] = add_age(text, age);
        text_ = text.text();
        exact_ = age.exact;
        has_most_ = has_most;
        // A duration that is rounded down stands for all up to the next, one that is rounded up for all down to the last; 0 for itself.
        least_.least = age.min_ns / least_unit * least_unit;
        least_.most = least_.least + least_unit - 1;
        if (age.min_ns != 0) least_.least = std::max<std::uint64_t>(least_.least, 1);
        if (has_most) {
            most_.least = *age.max_ns == 0 ? 0 : (*age.max_ns - 1) / most_unit * most_unit + 1;
            most_.most = *age.max_ns == 0 ? 0 : most_.least + most_unit - 1;
            // "1ms" and "1s" begin where 999 of the smaller unit end.
            if (most_.least == 1 && most_unit >= ms) most_.least = most_unit - most_unit / 1'000 + 1;
        }
    }
    out += text_;
}

}  // namespace fdspan::cli
