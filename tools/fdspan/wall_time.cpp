#include "wall_time.hpp"

#include <charconv>
#include <ctime>
#include <limits>
#include <string>

#include "duration.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

constexpr std::int64_t ns_per_s = 1'000'000'000;

// Takes `digits` digits off the front. -1: there are none.
int take_number(std::string_view& text, std::size_t digits) {
    int value = 0;
    if (text.size() < digits) return -1;
    for (std::size_t at = 0; at < digits; ++at) {
        if (text[at] < '0' || text[at] > '9') return -1;
        value = value * 10 + (text[at] - '0');
    }
    text.remove_prefix(digits);
    return value;
}

bool take(std::string_view& text, std::string_view any_of) {
    if (text.empty() || any_of.find(text.front()) == std::string_view::npos) return false;
    text.remove_prefix(1);
    return true;
}

bool parse_rfc3339(std::string_view text, std::int64_t& ns) {
    std::tm utc{};
    const int year = take_number(text, 4);
    if (year < 1970 || year > 2200 || !take(text, "-")) return false;
    const int month = take_number(text, 2);
    if (month < 1 || month > 12 || !take(text, "-")) return false;
    const int day = take_number(text, 2);
    if (day < 1 || day > 31 || !take(text, "Tt ")) return false;
    const int hour = take_number(text, 2);
    if (hour < 0 || hour > 23 || !take(text, ":")) return false;
    const int minute = take_number(text, 2);
    if (minute < 0 || minute > 59 || !take(text, ":")) return false;
    const int second = take_number(text, 2);
    if (second < 0 || second > 60) return false;
    utc.tm_year = year - 1900;
    utc.tm_mon = month - 1;
    utc.tm_mday = day;
    utc.tm_hour = hour;
    utc.tm_min = minute;
    utc.tm_sec = second;
    std::int64_t fraction = 0;
    if (take(text, ".")) {
        std::int64_t unit = ns_per_s / 10;
        std::size_t digits = 0;
        for (; !text.empty() && text.front() >= '0' && text.front() <= '9'; text.remove_prefix(1), ++digits, unit /= 10) {
            fraction += (text.front() - '0') * unit;
        }
        if (digits == 0) return false;
    }
    std::int64_t offset_s = 0;
    if (!take(text, "Zz")) {
        const bool east = text.starts_with('+');
        if (!take(text, "+-")) return false;
        const int offset_hour = take_number(text, 2);
        if (offset_hour < 0 || offset_hour > 23 || !take(text, ":")) return false;
        const int offset_minute = take_number(text, 2);
        if (offset_minute < 0 || offset_minute > 59) return false;
        offset_s = (offset_hour * 3600 + offset_minute * 60) * (east ? 1 : -1);
    }
    if (!text.empty()) return false;
    const std::time_t seconds = ::timegm(&utc);
    if (utc.tm_mday != day) return false;  // there is no 31st of June
    ns = (static_cast<std::int64_t>(seconds) - offset_s) * ns_per_s + fraction;
    return true;
}

}  // namespace

Result<std::int64_t> parse_wall_time_ns(std::string_view text, std::int64_t now_ns) {
    std::int64_t ns = 0;
    if (parse_rfc3339(text, ns)) return ns;
    const Result<std::uint64_t> ago = parse_duration_ns(text);
    if (!ago) {
        return fail(EINVAL, "\"" + escape(text) + "\" is no time; expected one such as 2026-11-22T10:00:00Z, or how long ago, such as 2h");
    }
    return now_ns - static_cast<std::int64_t>(*ago);
}

Result<std::uint64_t> parse_bytes(std::string_view text) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    std::string_view unit = text.substr(static_cast<std::size_t>(end - text.data()));
    constexpr std::string_view units = "KMGT";
    std::uint64_t factor = 1;
    if (unit.size() == 1 && units.find(unit) != std::string_view::npos) {
        factor = std::uint64_t{1} << (10 * (units.find(unit) + 1));
        unit = {};
    }
    if (error != std::errc() || !unit.empty() || value > std::numeric_limits<std::int64_t>::max() / factor) {
        return fail(EINVAL, "\"" + escape(text) + "\" is no number of bytes; expected one such as 4096, 10M or 1G");
    }
    return value * factor;
}

}  // namespace fdspan::cli
