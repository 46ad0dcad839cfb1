#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include "duration.hpp"

using namespace fdspan;
using namespace fdspan::cli;

namespace {
constexpr std::uint64_t s = 1'000'000'000;
}

TEST_CASE("a duration is numbers with units, large to small") {
    CHECK(parse_duration_ns("90s").value() == 90 * s);
    CHECK(parse_duration_ns("1h30m").value() == 5400 * s);
    CHECK(parse_duration_ns("2d").value() == 172800 * s);
    CHECK(parse_duration_ns("1w").value() == 604800 * s);
    CHECK(parse_duration_ns("1s250ms3us7ns").value() == s + 250'003'007);
    CHECK(parse_duration_ns("0").value() == 0);
    CHECK(parse_duration_ns("106751d").has_value());
}

TEST_CASE("what is not a duration is refused") {
    for (const char* text : {"", " ", "5", "s", "5x", "-5s", "+5s", "5 s", "5s ", "1.5h", "5m1h", "5m5m", "5sm", "1h 5m", "\xff", "106752d",
                             "99999999999999999999s", "18446744073709551616ns", "5S"}) {
        INFO(text);
        CHECK_FALSE(parse_duration_ns(text).has_value());
    }
}

TEST_CASE("a duration is shown in at most two units") {
    CHECK(format_duration(0) == "0s");
    CHECK(format_duration(999) == "0us");
    CHECK(format_duration(999, Rounding::up) == "1us");
    CHECK(format_duration(350'000'000) == "350ms");
    CHECK(format_duration(45 * s) == "45s");
    CHECK(format_duration(185 * s) == "3m5s");
    CHECK(format_duration((3 * 3600 + 12 * 60 + 59) * s) == "3h12m");
    CHECK(format_duration(2 * 86400 * s) == "2d");
    CHECK(format_duration((400 * 86400 + 7 * 3600) * s) == "400d7h");
}

TEST_CASE("rounding carries into the larger unit and never lies about a bound") {
    CHECK(format_duration(3600 * s - 1) == "59m59s");
    CHECK(format_duration(3600 * s - 1, Rounding::up) == "1h");
    CHECK(format_duration(s - 1, Rounding::up) == "1s");
    CHECK(format_duration(999'001, Rounding::up) == "1ms");
    CHECK(format_duration(999'999'999) == "999ms");
    for (std::uint64_t ns : {std::uint64_t{1}, 999 * s + 1, 3599 * s + 5, 86399 * s + 999'999'999, 86400 * 3 * s + 1}) {
        INFO(ns);
        CHECK(parse_duration_ns(format_duration(ns)).value() <= ns);
        CHECK(parse_duration_ns(format_duration(ns, Rounding::up)).value() >= ns);
    }
}

TEST_CASE("a bounded age is never shown as a bare number") {
    const std::uint64_t now = 10'000 * s;
    CHECK(format_age(*age_at(Interval::exact(now - 3600 * s), now)) == "1h");
    CHECK(format_age(*age_at(Interval::bounded(Interval::unknown_earliest, now - 3600 * s), now)) == ">= 1h");
    CHECK(format_age(*age_at(Interval::bounded(now - 7200 * s, now - 3600 * s), now)) == "1h..2h");
    CHECK(format_age(*age_at(Interval::bounded(now - 3600 * s, now - 3600 * s), now)) == "1h..1h");
}

TEST_CASE("a moment that is not known has no age") { CHECK_FALSE(age_at(Interval{}, 5).has_value()); }

TEST_CASE("a moment after now gives age zero, not a wrapped number") {
    const AgeRange age = *age_at(Interval::exact(10), 5);
    CHECK(age.min_ns == 0);
    CHECK(age.max_ns == 0);
}

TEST_CASE("an age that is remembered reads like one that is made anew") {
    std::vector<std::uint64_t> durations{0, 1, 2};
    for (const std::uint64_t edge : {std::uint64_t{1'000}, std::uint64_t{999'000}, std::uint64_t{1'000'000}, s - 1'000'000, s, 2 * s, 59 * s, 60 * s, 61 * s, 3540 * s,
                                     3600 * s, 3660 * s, 82800 * s, 86400 * s, 90000 * s}) {
        for (const std::uint64_t step : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{500}, std::uint64_t{400'000}, std::uint64_t{300'000'000}}) {
            durations.push_back(edge + step);
            if (step < edge) durations.push_back(edge - step);
        }
    }
    std::size_t different = 0;
    for (const std::uint64_t first : durations) {
        for (const std::uint64_t second : durations) {
            // What the first leaves behind must not be taken for the second.
            for (const AgeRange& age : {AgeRange{second, {}, true}, AgeRange{second, {}, false}, AgeRange{0, second, false}, AgeRange{second, second, false}}) {
                AgeTexts remembered;
                std::string text;
                remembered.append(text, {first, age.max_ns ? std::optional(first) : std::nullopt, age.exact});
                if (age.max_ns && age.min_ns == 0) remembered.append(text, {0, first, false});
                text.clear();
                remembered.append(text, age);
                different += text != format_age(age);
            }
        }
    }
    CHECK(different == 0);
}
