#include "duration.hpp"

#include <array>
#include <limits>

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

void append_duration(std::string& out, std::uint64_t duration_ns, Rounding rounding) {
    const auto divide = [rounding](std::uint64_t value, std::uint64_t by) {
        return rounding == Rounding::up ? value / by + (value % by != 0 ? 1 : 0) : value / by;
    };
    const auto append = [&out](std::uint64_t count, std::string_view unit) {
        append_number(out, static_cast<unsigned long long>(count));
        out += unit;
    };
    if (duration_ns == 0) return append(0, "s");
    if (duration_ns < ms) {
        const std::uint64_t count = divide(duration_ns, us);
        if (count < 1'000) return append(count, "us");
    }
    if (duration_ns < second) {
        const std::uint64_t count = divide(duration_ns, ms);
        if (count < 1'000) return append(count, "ms");
    }
    // The smaller unit shown is rounded first, so that a carry ("59m60s") lands in the larger. Constants, because dividing by one is cheap.
    const auto appended = [&]<std::uint64_t large, std::uint64_t small>(std::string_view large_name, std::string_view small_name) {
        const std::uint64_t count = divide(duration_ns, small);
        constexpr std::uint64_t ratio = large / small;
        if (count < ratio) return false;
        append(count / ratio, large_name);
        if (count % ratio != 0) append(count % ratio, small_name);
        return true;
    };
    if (appended.template operator()<day, hour>("d", "h") || appended.template operator()<hour, minute>("h", "m") ||
        appended.template operator()<minute, second>("m", "s")) {
        return;
    }
    append(divide(duration_ns, second), "s");
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

void append_age(std::string& out, const AgeRange& age) {
    if (!age.exact && !age.max_ns) out += ">= ";
    append_duration(out, age.min_ns, Rounding::down);
    if (age.exact || !age.max_ns) return;
    out += "..";
    append_duration(out, *age.max_ns, Rounding::up);
}

std::string format_age(const AgeRange& age) {
    std::string text;
    append_age(text, age);
    return text;
}

}  // namespace fdspan::cli
