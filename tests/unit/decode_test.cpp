#include "decode/sequence.hpp"
#include "index_feed.hpp"

#include <fcntl.h>

using namespace fdspan;
using namespace fdspan::test;
using namespace std::string_literals;

namespace {

Malformed decoded(Bytes bytes) {
    Record record;
    return decode(bytes.data(), bytes.size(), record);
}

std::string path_of(const Opened& what) {
    Bytes bytes = opened_record(1, 1, 1, 3, what);
    Record record;
    REQUIRE(decode(bytes.data(), bytes.size(), record) == Malformed::none);
    std::string out = "old text";
    assemble_path(std::get<OpenedRecord>(record), out);
    return out;
}

NameState state_of(const Opened& what) {
    Bytes bytes = opened_record(1, 1, 1, 3, what);
    Record record;
    REQUIRE(decode(bytes.data(), bytes.size(), record) == Malformed::none);
    return name_state(std::get<OpenedRecord>(record));
}

Opened named(std::string names) {
    Opened what;
    what.names = std::move(names);
    return what;
}

}  // namespace

TEST_CASE("a record of each type decodes to its view") {
    Bytes bytes = make_record<fdspan_exit>(FDSPAN_RECORD_EXIT, 5, 7, 8);
    Record record;
    REQUIRE(decode(bytes.data(), bytes.size(), record) == Malformed::none);
    REQUIRE(std::holds_alternative<ExitRecord>(record));
    CHECK(header_of(record).pid == 7);
    CHECK(decoded(make_record<fdspan_closed>(FDSPAN_RECORD_CLOSED, 1, 1, 1)) == Malformed::none);
    CHECK(decoded(make_record<fdspan_closed>(FDSPAN_RECORD_RELEASED, 1, 1, 1)) == Malformed::none);
    CHECK(decoded(make_record<fdspan_fork>(FDSPAN_RECORD_FORK, 1, 1, 1)) == Malformed::none);
    CHECK(decoded(make_record<fdspan_table_record>(FDSPAN_RECORD_EXEC, 1, 1, 1)) == Malformed::none);
    CHECK(decoded(make_record<fdspan_table_record>(FDSPAN_RECORD_UNSHARED, 1, 1, 1)) == Malformed::none);
    CHECK(decoded(make_record<fdspan_unlinked>(FDSPAN_RECORD_UNLINKED, 1, 1, 1)) == Malformed::none);
}

TEST_CASE("a record is refused when a size, a number or a text can't be trusted") {
    const auto with = [](Bytes bytes, auto change) {
        change(bytes);
        return decoded(std::move(bytes));
    };
    const Bytes good = opened_record(1, 1, 1, 3, named("f\0"s));
    CHECK(decoded(good) == Malformed::none);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_record>().type = 0; }) == Malformed::type);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_record>().type = 999; }) == Malformed::type);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_record>().size += 1; }) == Malformed::size);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_record>().size = sizeof(fdspan_opened) - 1; }) == Malformed::size);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_record>().size = 0; }) == Malformed::size);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_opened>().path_bytes = 3; }) == Malformed::path);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_opened>().path_bytes = 1; }) == Malformed::path);  // "f" without its NUL
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_opened>().fd = -1; }) == Malformed::number);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_opened>().how = 3; }) == Malformed::number);
    CHECK(with(good, [](Bytes& b) { b.as<fdspan_opened>().description_earliest_ns = 2; }) == Malformed::number);
    CHECK(with(make_record<fdspan_closed>(FDSPAN_RECORD_CLOSED, 1, 1, 1), [](Bytes& b) { b.as<fdspan_closed>().fd = -1; }) ==
          Malformed::number);
    CHECK(with(make_record<fdspan_table_record>(FDSPAN_RECORD_EXEC, 1, 1, 1),
               [](Bytes& b) { b.as<fdspan_table_record>().words = 33; }) == Malformed::number);
    const Bytes removed = make_record<fdspan_unlinked>(FDSPAN_RECORD_UNLINKED, 1, 1, 1);
    CHECK(with(removed, [](Bytes& b) { b.as<fdspan_unlinked>().how = FDSPAN_UNLINK_MOVED + 1; }) == Malformed::number);
    CHECK(with(removed, [](Bytes& b) { b.as<fdspan_unlinked>().places = 3; }) == Malformed::number);
    CHECK(with(removed, [](Bytes& b) { b.as<fdspan_unlinked>().exe_bytes = 1; b.as<fdspan_unlinked>().exe[0] = 'x'; }) == Malformed::path);
    CHECK(with(removed, [](Bytes& b) { b.as<fdspan_unlinked>().exe_bytes = FDSPAN_NAMES_BYTES + 1; }) == Malformed::path);
    const auto given = [&](std::uint16_t places, std::uint32_t bytes, std::uint16_t given_bytes) {
        return with(removed, [&](Bytes& b) {
            auto& raw = b.as<fdspan_unlinked>();
            raw.header.size = bytes;
            raw.places = places;
            std::memset(raw.place[1].given, 'x', sizeof raw.place[1].given);
            raw.place[1].given_bytes = given_bytes;
        });
    };
    CHECK(given(2, FDSPAN_UNLINKED_BYTES(2), 0) == Malformed::none);
    CHECK(given(2, FDSPAN_UNLINKED_BYTES(2), 1) == Malformed::text);
    CHECK(given(2, FDSPAN_UNLINKED_BYTES(2), FDSPAN_GIVEN_BYTES + 1) == Malformed::text);
    CHECK(given(2, FDSPAN_UNLINKED_BYTES(2) - 1, 0) == Malformed::size);
    CHECK(given(1, FDSPAN_UNLINKED_BYTES(1), 1) == Malformed::none);
    CHECK(given(0, FDSPAN_UNLINKED_BYTES(0) - 1, 0) == Malformed::size);
    CHECK(with(make_record<fdspan_closed>(FDSPAN_RECORD_CLOSED, 1, 1, 1), [](Bytes& b) { b.as<fdspan_closed>().unlinked = 1; }) ==
          Malformed::size);
    Record record;
    Bytes shorter(sizeof(fdspan_record) - 1);
    CHECK(decode(shorter.data(), shorter.size(), record) == Malformed::short_header);
    Bytes shifted(256);
    CHECK(decode(shifted.data() + 1, 200, record) == Malformed::misaligned);
}

TEST_CASE("a ring record may be longer than its header says, never shorter") {
    Bytes bytes(4096);
    const Bytes good = opened_record(1, 1, 1, 3, named("f\0"s));
    std::memcpy(bytes.data(), const_cast<Bytes&>(good).data(), good.size());
    Record record;
    CHECK(decode(bytes.data(), bytes.size(), record) == Malformed::none);
    CHECK(std::get<OpenedRecord>(record).names == "f\0"s);
    CHECK(decode(bytes.data(), good.size() - 1, record) == Malformed::size);
}

TEST_CASE("names stand file first and become a path") {
    CHECK(path_of(named("c\0b\0a\0"s)) == "/a/b/c");
    CHECK(path_of(named("c\0b\0a\0/\0"s)) == "/a/b/c");  // the root's own name is "/"
    CHECK(path_of(named("/\0"s)) == "/");
    CHECK(path_of(named("")) == "/");
    CHECK(path_of(named("new\nline\0\xff\xfe\0"s)) == "/\xff\xfe/new\nline");
    CHECK(path_of(named("log (deleted)\0var\0"s)) == "/var/log (deleted)");
    Opened cut = named("c\0b\0"s);
    cut.path_flags = FDSPAN_PATH_CUT;
    CHECK(path_of(cut) == "…/b/c");
}

TEST_CASE("what has no path gets the text of its magic link") {
    Opened what = named("[eventpoll]\0"s);
    what.magic = 0x09041934;
    what.mode = 0600;
    what.path_flags = FDSPAN_PATH_LABEL;
    CHECK(path_of(what) == "anon_inode:[eventpoll]");
    CHECK(state_of(what) == NameState::nameless);
    CHECK(file_type(what.mode, what.magic) == FileType::anon);
    CHECK(anon_class("anon_inode:[eventpoll]") == "eventpoll");
    CHECK(anon_class("anon_inode:inotify") == "inotify");
    CHECK(anon_class("[eventfd]") == "eventfd");
    CHECK(anon_class("/a/b") == "");

    what.magic = 0x50494446;
    CHECK(path_of(what) == "anon_inode:[pidfd]");

    Opened pipe = named("");
    pipe.mode = S_IFIFO | 0600;
    pipe.ino = 12;
    pipe.path_flags = FDSPAN_PATH_NONE;
    CHECK(path_of(pipe) == "pipe:[12]");
    CHECK(state_of(pipe) == NameState::nameless);
    pipe.mode = S_IFSOCK | 0777;
    CHECK(path_of(pipe) == "socket:[12]");
    pipe.mode = S_IFREG;
    CHECK(path_of(pipe) == "");
    CHECK(state_of(pipe) == NameState::unknown);
}

TEST_CASE("a file without links is deleted unless it never had a name") {
    Opened what = named("f\0tmp\0"s);
    CHECK(state_of(what) == NameState::named);
    what.path_flags = FDSPAN_PATH_UNLINKED;
    CHECK(state_of(what) == NameState::gone);
    what.nlink = 0;
    CHECK(state_of(what) == NameState::deleted);
    what.flags = O_TMPFILE | O_RDWR;
    CHECK(state_of(what) == NameState::tmpfile);
    what.flags = 0;
    what.names = "memfd:x\0"s;
    CHECK(state_of(what) == NameState::deleted);  // on ext4 that is just a name
    what.magic = 0x01021994;
    CHECK(state_of(what) == NameState::memfd);
    what.names = "memfd:x\0shm\0"s;
    CHECK(state_of(what) == NameState::deleted);
}

TEST_CASE("types come from the mode, except where the file system says more") {
    CHECK(file_type(S_IFDIR | 0755, ext4_magic) == FileType::dir);
    CHECK(file_type(S_IFCHR, ext4_magic) == FileType::chr);
    CHECK(file_type(S_IFBLK, ext4_magic) == FileType::blk);
    CHECK(file_type(S_IFLNK, ext4_magic) == FileType::lnk);
    CHECK(file_type(S_IFSOCK, 0x534f434b) == FileType::sock);
    CHECK(file_type(0, ext4_magic) == FileType::unknown);
    CHECK(device_number(254U << 20 | 3) == DeviceNumber{254, 3});
    CHECK(kernel_device(DeviceNumber{254, 3}) == (254U << 20 | 3));
}

TEST_CASE("a gap in a CPU's numbers is a loss with its window") {
    SequenceTracker sequence(true, 100);
    CHECK_FALSE(sequence.observe(0, 0, 110));
    CHECK_FALSE(sequence.observe(1, 0, 111));
    CHECK_FALSE(sequence.observe(0, 1, 120));
    CHECK_FALSE(sequence.observe(0, 5, 150));  // 2, 3, 4 may still come
    const auto loss = sequence.settle(0, 6, 160);
    REQUIRE(loss);
    CHECK(loss->records == 3);
    CHECK(loss->when == Interval::bounded(120, 160));
    CHECK(sequence.lost_records() == 3);
    CHECK_FALSE(sequence.settle(0, 6, 170));
    CHECK_FALSE(sequence.settle(1, 1, 170));
}

TEST_CASE("records of one CPU in the wrong order are no loss") {
    SequenceTracker sequence;
    CHECK_FALSE(sequence.observe(0, 1, 10));
    CHECK_FALSE(sequence.observe(0, 0, 11));
    for (std::uint64_t seq = 2; seq < 1000; seq += 2) {
        CHECK_FALSE(sequence.observe(0, seq + 1, 12));
        CHECK_FALSE(sequence.observe(0, seq, 12));
    }
    CHECK_FALSE(sequence.settle(0, 1000, 20));
    CHECK(sequence.lost_records() == 0);
}

TEST_CASE("a loss is reported at the latest when the window has passed it") {
    SequenceTracker sequence;
    CHECK_FALSE(sequence.observe(0, 0, 10));
    std::uint64_t lost = 0;
    for (std::uint64_t seq = 2; seq < 2 + SequenceTracker::reorder_window; ++seq) {
        if (const auto loss = sequence.observe(0, seq, 20)) lost += loss->records;
    }
    CHECK(lost == 1);
    const auto jump = sequence.observe(0, 100'000, 30);
    REQUIRE(jump);
    CHECK_FALSE(sequence.settle(0, 100'000 - 63, 30));
    const auto rest = sequence.settle(0, 100'001, 31);
    REQUIRE(rest);
    CHECK(jump->records + rest->records == 100'000 - (2 + SequenceTracker::reorder_window));
}

TEST_CASE("a loss behind the last record shows when the counter is compared") {
    SequenceTracker sequence;
    CHECK_FALSE(sequence.observe(3, 0, 10));
    const auto loss = sequence.settle(3, 11, 50);
    REQUIRE(loss);
    CHECK(loss->records == 10);
    const auto all = sequence.settle(4, 7, 50);  // a CPU that only lost
    REQUIRE(all);
    CHECK(all->records == 7);
}

TEST_CASE("counters that ran before the reader came are a baseline") {
    SequenceTracker sequence(false);
    CHECK_FALSE(sequence.observe(0, 5'000'000, 10));
    CHECK_FALSE(sequence.observe(0, 5'000'001, 10));
    CHECK_FALSE(sequence.observe(0, 0, 20));  // began anew
    CHECK_FALSE(sequence.observe(0, 1, 20));
    CHECK_FALSE(sequence.settle(1, 77, 20));
    CHECK(sequence.lost_records() == 0);
}

TEST_CASE("a number whose record is on its way is no loss") {
    std::uint64_t counted = 0;
    SequenceTracker sequence(true, 0, [&counted](std::uint32_t) { return counted; });
    CHECK_FALSE(sequence.observe(0, 0, 10));
    CHECK_FALSE(sequence.settle(0, 3, 20));  // 1 and 2 have been taken
    CHECK(sequence.has_open_gap());
    CHECK_FALSE(sequence.observe(0, 2, 30));
    CHECK_FALSE(sequence.observe(0, 1, 30));
    CHECK_FALSE(sequence.has_open_gap());
    CHECK(sequence.lost_records() == 0);

    CHECK_FALSE(sequence.settle(0, 6, 40));  // 3, 4 and 5
    counted = 2;
    const auto loss = sequence.settle(0, 6, 50);
    REQUIRE(loss);
    CHECK(loss->records == 2);
    CHECK(loss->when == Interval::bounded(20, 40));
    CHECK(sequence.has_open_gap());
    CHECK_FALSE(sequence.observe(0, 5, 60));
    CHECK_FALSE(sequence.has_open_gap());
    CHECK_FALSE(sequence.settle(0, 6, 70));
    CHECK(sequence.lost_records() == 2);
}

TEST_CASE("what was lost before the reader came is not told again") {
    SequenceTracker sequence(false, 0, [](std::uint32_t) { return std::uint64_t{7}; });
    CHECK_FALSE(sequence.observe(0, 100, 10));
    CHECK_FALSE(sequence.settle(0, 102, 20));
    CHECK(sequence.lost_records() == 0);
}
