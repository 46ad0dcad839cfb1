#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <fcntl.h>

#include <nlohmann/json.hpp>
#include <set>

#include "columns.hpp"
#include "filter.hpp"

using namespace fdspan;
using namespace fdspan::cli;

namespace {

constexpr std::string_view defaults[] = {"AGE", "PID", "NAME"};

std::vector<std::string> names(std::string_view list) {
    const auto chosen = select_columns(list, defaults);
    REQUIRE(chosen.has_value());
    std::vector<std::string> out;
    for (const Column* column : *chosen) out.emplace_back(column->name);
    return out;
}

std::uint32_t fields(std::string_view list) {
    const auto chosen = select_columns(list, defaults);
    REQUIRE(chosen.has_value());
    std::uint32_t bits = 0;
    for (const Column* column : *chosen) bits |= column->fields;
    return bits;
}

struct Sample {
    StringTable strings;
    Process process;
    Reference reference;
    WallClockText clock{WallClock{1'700'000'000'000'000'000, 1}};
    UserNames users;

    Sample() {
        process.pid = 812;
        process.comm = strings.intern("nginx");
        process.started = Interval::bounded(1'000, 2'000);
        reference.tid = 812;
        reference.fd = 7;
        reference.type = FileType::reg;
        reference.name = NameState::named;
        reference.valid = field_all | field_size | field_position;
        reference.path = PathId::whole(strings.intern("/var/log/x"));
        reference.dev = {254, 0};
        reference.ino = 1234;
        reference.nlink = 1;
        reference.size = 10;
        reference.allocated = 4096;
        reference.flags = O_RDWR | O_APPEND | O_CLOEXEC;
        reference.pos = 10;
        reference.description_id = 0xab;
        reference.opened = Interval::exact(5'000'000'000);
        reference.description_opened = Interval::bounded(Interval::unknown_earliest, 4'000'000'000);
    }
    RowContext row() { return {&strings, &process, &reference, 9'000'000'000, 10'000'000'000, &clock, &users, false}; }
    nlohmann::json json() {
        std::vector<const Column*> columns;
        for (const Column& column : all_columns()) columns.push_back(&column);
        std::string out;
        append_reference_json(out, row(), columns);
        return nlohmann::json::parse(out);
    }
    std::string cell(std::string_view column) {
        std::string out;
        find_column(column)->text(out, row());
        return out;
    }
};

}  // namespace

TEST_CASE("columns are chosen by name, in any case, each once") {
    CHECK(names("PID,fd,Pid") == std::vector<std::string>{"PID", "FD"});
    CHECK(names("+INO,PID") == std::vector<std::string>{"AGE", "PID", "NAME", "INO"});
    for (const char* list : {"", ",", "PID,", "NOPE", "+", "PID,,FD", "PID FD"}) CHECK_FALSE(select_columns(list, defaults).has_value());
}

TEST_CASE("a column asks only for what it shows") {
    CHECK(fields("PID,FD,COMM,USER,REF") == 0);
    CHECK(fields("NAME") == (field_path | field_stat));  // the mark of a deleted file
    CHECK((fields("SIZE") & (field_path | field_fdinfo | field_times)) == 0);
    CHECK(fields("FLAGS") == field_fdinfo);
    CHECK(fields("AGE") == field_times);
}

TEST_CASE("every column has a name of its own, a help text and a cell") {
    Sample sample;
    std::set<std::string_view> seen;
    for (const Column& column : all_columns()) {
        INFO(column.name);
        CHECK(seen.insert(column.name).second);
        CHECK_FALSE(column.help.empty());
        CHECK(column.name.size() < 13);
        std::string out;
        column.text(out, sample.row());
        CHECK((column.json == nullptr) == column.json_keys.empty());
    }
}

TEST_CASE("the JSON of a reference has the keys of the contract") {
    Sample sample;
    const nlohmann::json json = sample.json();
    CHECK(json["pid"] == 812);
    CHECK(json["comm"] == "nginx");
    CHECK(json["ref"] == "fd");
    CHECK(json["fd"] == 7);
    CHECK(json["type"] == "REG");
    CHECK(json["path"] == "/var/log/x");
    CHECK(json["deleted"] == false);
    CHECK(json["dev"] == "254:0");
    CHECK(json["ino"] == 1234);
    CHECK(json["flags"] == nlohmann::json::array({"O_RDWR", "O_APPEND", "O_CLOEXEC"}));
    CHECK(json["pos"] == 10);
    CHECK(json["opened"]["source"] == "kernel");
    CHECK(json["opened"]["earliest_boottime_ns"] == 5'000'000'000);
    CHECK(json["opened"]["latest"] == "2023-11-14T22:13:25.000000000Z");
    CHECK(json["description"]["id"] == "00000000000000ab");
    CHECK(json["description"]["opened"]["earliest"].is_null());
    CHECK(json["age_ns"] == 6'000'000'000);
    CHECK(json["age_max_ns"].is_null());
    CHECK(json["process_started"]["source"] == "bounded");
}

TEST_CASE("what was not read is null, not zero") {
    Sample sample;
    sample.reference.valid = 0;
    const nlohmann::json json = sample.json();
    for (const char* key : {"size", "allocated", "ino", "nlink", "dev", "deleted", "flags", "pos"}) {
        INFO(key);
        CHECK(json[key].is_null());
    }
    CHECK(sample.cell("SIZE").empty());
}

TEST_CASE("a deleted file is marked, a living one with that ending is not") {
    Sample sample;
    sample.reference.name = NameState::deleted;
    CHECK(sample.cell("NAME") == "/var/log/x (deleted)");
    sample.reference.name = NameState::named;
    sample.reference.path = PathId::whole(sample.strings.intern("/var/log/x (deleted)"));
    CHECK(sample.cell("NAME") == "/var/log/x\\x20(deleted)");
}

TEST_CASE("wall-clock text agrees with rfc3339") {
    const WallClock wall{1'700'000'000'123'456'789, 1};
    WallClockText clock(wall);
    for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{999'999'999}, std::uint64_t{64'000'000'000}, std::uint64_t{0}}) {
        std::string out;
        clock.append(out, at);
        CHECK(out == rfc3339(wall.to_realtime_ns(at)));
    }
}

TEST_CASE("a directory matches what is below it, not what begins alike") {
    const auto filter = PathFilter::create("/nonexistent/../var/./log/");
    REQUIRE(filter.has_value());
    const Reference reference;
    CHECK(filter->matches(reference, "/var/log"));
    CHECK(filter->matches(reference, "/var/log/x"));
    CHECK_FALSE(filter->matches(reference, "/var/logs"));
    CHECK_FALSE(filter->matches(reference, "/var"));
    CHECK_FALSE(filter->matches(reference, "pipe:[1]"));
    CHECK(PathFilter::create("/")->matches(reference, "/anything"));
    CHECK_FALSE(PathFilter::create("/")->matches(reference, "socket:[1]"));
    CHECK_FALSE(PathFilter::create("").has_value());
}

TEST_CASE("a command is matched by pattern, and by a name longer than the kernel keeps") {
    ProcessFilter filter;
    filter.comms = {"ngin*", "a-very-long-command"};
    const Process process;
    CHECK(filter.matches(process, "nginx"));
    CHECK(filter.matches(process, "a-very-long-com"));
    CHECK_FALSE(filter.matches(process, "engine"));
}

TEST_CASE("types are known by name or refused") {
    TypeFilter filter;
    CHECK(filter.add("reg").has_value());
    CHECK(filter.add("eventpoll").has_value());
    CHECK(filter.add("anon:new-thing").has_value());
    for (const char* text : {"", "REGULAR", "anon:", "eventpol", "\xff"}) CHECK_FALSE(filter.add(text).has_value());
    CHECK(filter.matches(FileType::reg, ""));
    CHECK(filter.matches(FileType::anon, "eventpoll"));
    CHECK(filter.matches(FileType::anon, "[new-thing]"));
    CHECK_FALSE(filter.matches(FileType::dir, ""));
    CHECK_FALSE(filter.matches(FileType::anon, "eventfd"));
}
