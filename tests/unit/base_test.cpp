#include <fcntl.h>

#include <ctime>
#include <string>
#include <vector>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include "base/clock.hpp"
#include "base/interval.hpp"
#include "base/string_table.hpp"
#include "base/unique_fd.hpp"

using namespace fdspan;

TEST_CASE("interning the same bytes twice gives the same id") {
    StringTable table;
    const StringId a = table.intern("/var/log/x");
    const StringId b = table.intern("/var/log/y");
    CHECK(a != b);
    CHECK(table.intern(std::string("/var/log/") + "x") == a);
    CHECK(table.get(a) == "/var/log/x");
}

TEST_CASE("id 0 is the empty string") {
    StringTable table;
    CHECK(table.get(0).empty());
    CHECK(table.intern("") == 0);
}

TEST_CASE("of strings that mostly differ, those that came last are stored once") {
    StringTable table;
    const StringId a = table.intern_recent("/var/log/x");
    CHECK(table.intern_recent("/var/log/x") == a);
    CHECK(table.intern_recent("") == 0);
    std::vector<StringId> ids;
    for (int i = 0; i < 100'000; ++i) ids.push_back(table.intern_recent("/srv/" + std::to_string(i)));
    // Forgotten since, or not: the text is the same.
    CHECK(table.get(table.intern_recent("/srv/0")) == "/srv/0");
    CHECK(table.get(a) == "/var/log/x");
    for (int i = 0; i < 100'000; ++i) REQUIRE(table.get(ids[static_cast<std::size_t>(i)]) == "/srv/" + std::to_string(i));
    table.clear();
    CHECK(table.get(table.intern_recent("/srv/99999")) == "/srv/99999");
}

TEST_CASE("paths share their directory, and are the same text in one piece") {
    StringTable table;
    std::string joined;
    const PathId a = table.intern_path("/var/log/x");
    const PathId b = table.intern_path("/var/log/y");
    CHECK(a.dir == b.dir);
    CHECK(a.dir != 0);
    CHECK(table.intern_path("/var/log/x") == a);
    for (const std::string text : {"/var/log/x", "/x", "/", "", "x", "x/", "//", "/var/log/", "socket:[1]", "anon_inode:[a/b]"}) {
        const PathId id = table.intern_path(text);
        CHECK(table.path(id, joined) == text);
        CHECK(table.path(id, joined).data()[text.size()] == '\0');
    }
    StringTable all;
    all.append("own");
    const StringId shift = all.adopt(std::move(table));
    CHECK(all.path(StringTable::moved(a, shift), joined) == "/var/log/x");
    CHECK(all.path(StringTable::moved(PathId{}, shift), joined).empty());
}

TEST_CASE("interned bytes may be anything, NUL included") {
    using namespace std::string_view_literals;
    StringTable table;
    const StringId a = table.intern("a\0b"sv);
    const StringId b = table.intern("a"sv);
    CHECK(a != b);
    CHECK(table.get(a) == "a\0b"sv);
}

TEST_CASE("views of interned strings stay valid while the table grows and moves") {
    StringTable table;
    const StringId first = table.intern("first");
    const std::string_view view = table.get(first);
    std::vector<StringId> ids;
    for (int i = 0; i < 20000; ++i) ids.push_back(table.intern("/some/long/enough/path/" + std::to_string(i)));
    const StringId huge = table.intern(std::string(1 << 20, 'x'));
    CHECK(view == "first");
    CHECK(table.get(first).data() == view.data());
    CHECK(table.get(huge).size() == 1 << 20);
    const StringTable moved = std::move(table);
    for (int i = 0; i < 20000; i += 777) CHECK(moved.get(ids[i]) == "/some/long/enough/path/" + std::to_string(i));
    CHECK(view == "first");
}

TEST_CASE("a string table takes over another's strings, whose ids move by what it says") {
    StringTable table;
    const StringId own = table.intern("own");
    StringTable other;
    std::vector<StringId> ids;
    for (int i = 0; i < 5000; ++i) ids.push_back(other.intern("/a/path/of/some/length/" + std::to_string(i)));
    const std::string_view view = other.get(ids[4999]);
    const StringId shift = table.adopt(std::move(other));
    CHECK(table.get(own) == "own");
    for (int i = 0; i < 5000; i += 499) CHECK(table.get(ids[i] + shift) == "/a/path/of/some/length/" + std::to_string(i));
    CHECK(view == "/a/path/of/some/length/4999");
    CHECK(table.intern("own") == own);
    const StringId later = table.intern("later");
    CHECK(table.get(later) == "later");
    CHECK(table.get(ids[0] + shift) == "/a/path/of/some/length/0");
}

TEST_CASE("an empty string table takes over another's strings, and goes on with its own") {
    StringTable table;
    StringTable other;
    const StringId a = other.append("a");
    const StringId shift = table.adopt(std::move(other));
    const StringId b = table.append("b");
    CHECK(table.get(StringTable::moved(a, shift)) == "a");
    CHECK(table.get(b) == "b");
    CHECK(b != 0);
    table.clear();
    const StringId c = table.append("c");
    CHECK(c != 0);
    CHECK(table.get(c) == "c");
}

TEST_CASE("an interval contains its two ends") {
    const Interval interval = Interval::bounded(10, 20);
    CHECK(interval.contains(10));
    CHECK(interval.contains(20));
    CHECK_FALSE(interval.contains(9));
    CHECK_FALSE(interval.contains(21));
    CHECK_FALSE(interval.is_exact());
    CHECK(Interval::exact(5).contains(5));
    CHECK_FALSE(Interval::exact(5).contains(6));
    CHECK_FALSE(Interval::bounded(Interval::unknown_earliest, 9).has_earliest());
}

TEST_CASE("evidence narrows a bounded interval from both sides") {
    Interval interval = Interval::bounded(10, 100);
    interval.narrow(Interval::bounded(50, 200));
    CHECK(interval == Interval::bounded(50, 100));
    interval.narrow(Interval::bounded(Interval::unknown_earliest, 60));
    CHECK(interval == Interval::bounded(50, 60));
}

TEST_CASE("evidence that contradicts is ignored") {
    Interval interval = Interval::bounded(10, 20);
    interval.narrow(Interval::bounded(30, 40));
    CHECK(interval == Interval::bounded(10, 20));
}

TEST_CASE("an exact time replaces a bounded one and is never moved again") {
    Interval interval = Interval::bounded(10, 20);
    interval.narrow(Interval::exact(15));
    CHECK(interval == Interval::exact(15));
    interval.narrow(Interval::bounded(1, 2));
    interval.narrow(Interval::exact(16));
    CHECK(interval == Interval::exact(15));
}

TEST_CASE("times are written as RFC 3339 in UTC with nanoseconds") {
    CHECK(rfc3339(0) == "1970-01-01T00:00:00.000000000Z");
    CHECK(rfc3339(1'795'304'108'000'000'001) == "2026-11-21T23:35:08.000000001Z");
    CHECK(rfc3339(951'782'400'999'999'999) == "2000-02-29T00:00:00.999999999Z");
    CHECK(rfc3339(-1) == "1969-12-31T23:59:59.999999999Z");
}

TEST_CASE("a boot time converted to wall clock and back is the same") {
    const WallClock clock = WallClock::now();
    const std::uint64_t now = boottime_now_ns();
    CHECK(clock.to_boottime_ns(clock.to_realtime_ns(now)) == now);
    CHECK(clock.to_boottime_ns(clock.offset_ns - 1) == 0);
}

TEST_CASE("the measured offset is right within its uncertainty") {
    const WallClock clock = WallClock::now();
    timespec before{};
    timespec after{};
    ::clock_gettime(CLOCK_REALTIME, &before);
    const std::uint64_t now = boottime_now_ns();
    ::clock_gettime(CLOCK_REALTIME, &after);
    const auto ns = [](const timespec& at) { return at.tv_sec * 1'000'000'000LL + at.tv_nsec; };
    const auto slack = static_cast<std::int64_t>(clock.uncertainty_ns);
    CHECK(clock.to_realtime_ns(now) >= ns(before) - slack);
    CHECK(clock.to_realtime_ns(now) <= ns(after) + slack);
}

TEST_CASE("boot time never runs backwards") {
    std::uint64_t last = boottime_now_ns();
    for (int i = 0; i < 1000; ++i) {
        const std::uint64_t now = boottime_now_ns();
        CHECK(now >= last);
        last = now;
    }
}

TEST_CASE("a UniqueFd closes its descriptor once, and a moved-from one closes nothing") {
    int number = -1;
    {
        UniqueFd one(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        number = one.get();
        UniqueFd two(std::move(one));
        CHECK_FALSE(one.valid());  // NOLINT: what is left behind is part of the contract
        CHECK(two.get() == number);
        CHECK(::fcntl(number, F_GETFD) >= 0);
    }
    CHECK(::fcntl(number, F_GETFD) == -1);
}
