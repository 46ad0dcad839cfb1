#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <fcntl.h>

#include <nlohmann/json.hpp>
#include <random>

#include "event_json.hpp"

using namespace fdspan;
using namespace fdspan::cli;

namespace {

constexpr WallClock clock_of_tests{1'700'000'000'000'000'000, 1};

// An event of one of a few files and processes, which resemble each other as closely as what may be kept of their lines allows.
struct Happening {
    StringTable strings;
    Process process;
    Reference reference;
    Event event;

    explicit Happening(std::mt19937& random) {
        const auto one_of = [&random](auto... values) {
            const std::common_type_t<decltype(values)...> list[] = {values...};
            return list[random() % sizeof...(values)];
        };
        for (unsigned i = random() % 3; i > 0; --i) strings.append("so that ids mean something else each time");
        process.pid = one_of(100, 164);
        process.ppid = one_of(1, 2);
        process.uid = one_of(0U, 54321U);
        process.comm = strings.append(one_of("a", "b", "\xff\n"));
        process.cgroup = strings.append(one_of("", "/system.slice/a.service"));
        process.started = one_of(Interval::exact(7), Interval::bounded(7, 8));
        reference.fd = one_of(3, 4);
        reference.type = one_of(FileType::reg, FileType::anon);
        reference.name = one_of(NameState::named, NameState::deleted, NameState::unknown);
        reference.valid = one_of(field_times, field_times | field_stat | field_fdinfo | field_path);
        reference.path = PathId::whole(strings.append(one_of("/tmp/x", "/tmp/y", "anon_inode:[eventpoll]")));
        reference.type_name = reference.type == FileType::anon ? strings.append(one_of("eventpoll", "eventfd")) : 0;
        reference.ino = one_of(1U, 257U);
        reference.nlink = one_of(0U, 1U);
        reference.flags = one_of(O_RDONLY, O_RDWR | O_CLOEXEC);
        reference.description_id = one_of(0U, 0xabcU);
        reference.opened = one_of(Interval::exact(1'000), Interval::bounded(0, 1'000), Interval::exact(1'064));
        reference.description_opened = one_of(Interval::exact(1'000), Interval{});
        event.kind = one_of(EventKind::opened, EventKind::closed, EventKind::released, EventKind::exec);
        event.when = Interval::exact(one_of(2'000U, 3'000'000'000U));
        event.strings = &strings;
        event.process = &process;
        event.reference = event.kind == EventKind::exec ? nullptr : &reference;
    }
};

}  // namespace

TEST_CASE("what is kept of an event's line never shows in another's") {
    std::mt19937 random(20261122);
    EventJson keeping(clock_of_tests);
    for (int i = 0; i < 5000; ++i) {
        const Happening happening(random);
        std::string kept, fresh;
        keeping.append(kept, happening.event);
        EventJson(clock_of_tests).append(fresh, happening.event);
        REQUIRE(kept == fresh);
        REQUIRE(nlohmann::json::accept(kept));
    }
}

TEST_CASE("an event says nothing of what only a snapshot reads") {
    std::mt19937 random(1);
    Happening happening(random);
    happening.event.kind = EventKind::closed;
    happening.event.reference = &happening.reference;
    happening.reference.valid = field_stat | field_path | field_fdinfo | field_times;
    std::string line;
    EventJson(clock_of_tests).append(line, happening.event);
    const nlohmann::json json = nlohmann::json::parse(line);
    for (const char* key : {"size", "allocated", "pos"}) CHECK(json[key].is_null());
    CHECK(json["ino"] == happening.reference.ino);
    CHECK(json["flags"].is_array());
}

TEST_CASE("a clock that was set shows in the next line") {
    std::mt19937 random(2);
    const Happening happening(random);
    EventJson json(clock_of_tests);
    std::string before, after, expected;
    json.append(before, happening.event);
    const WallClock later{clock_of_tests.offset_ns + 3'600'000'000'000, 1};
    json.set_clock(later);
    json.append(after, happening.event);
    EventJson(later).append(expected, happening.event);
    CHECK(after == expected);
    CHECK(after != before);
}
