// What is told of names that the kernel side saw going, when no holder can be asked: the processes here do not exist.
#include "index_feed.hpp"

#include <utility>

#include "reconcile/removals.hpp"

using namespace fdspan;
using namespace fdspan::test;
using namespace std::string_literals;

namespace {

constexpr std::uint32_t nobody = 999'999'999;  // above any pid_max
constexpr pid_t culprit = 77;

struct Removed {
    std::uint64_t ino = 0;
    std::string name = "f";
    std::uint32_t nlink = 0;
    std::uint16_t how = FDSPAN_UNLINK_UNLINK;
    std::uint32_t mode = S_IFREG | 0644;
};

struct Removing : Feed {
    Removals removals{index};
    std::vector<std::string> told;

    EventSink teller() {
        return [this](const Event& event) {
            std::string line(to_string(event.kind));
            line += " " + std::string(event.strings->get(event.reference->path)) + " " + std::string(to_string(event.how)) + " @" + Feed::text(event.when);
            line += event.by != nullptr ? " by " + std::to_string(event.by->pid) + " " + std::string(event.strings->get(event.by->comm)) : " by nobody";
            line += " held by " + std::to_string(event.holder_count);
            if (event.allocated) line += " bytes " + std::to_string(*event.allocated);
            told.push_back(line);
        };
    }
    void remove(const Removed& what) {
        Bytes bytes(FDSPAN_UNLINKED_BYTES(1));
        auto& raw = bytes.as<fdspan_unlinked>();
        raw.header.type = FDSPAN_RECORD_UNLINKED;
        raw.header.size = static_cast<std::uint32_t>(bytes.size());
        raw.header.boottime_ns = ++now_ns;
        raw.header.pid = raw.header.tid = culprit;
        raw.ino = what.ino;
        raw.dev = 8U << 20 | 1;
        raw.nlink = what.nlink;
        raw.mode = what.mode;
        raw.how = what.how;
        raw.allocated = 4096;
        raw.places = 1;
        std::strcpy(raw.comm, "rm");
        raw.place[0].flags = FDSPAN_PLACE_BASE_CUT;
        raw.place[0].given_bytes = static_cast<fdspan_u16>(what.name.size() + 1);
        std::memcpy(raw.place[0].given, what.name.c_str(), what.name.size() + 1);
        Record record;
        REQUIRE(decode(bytes.data(), bytes.size(), record) == Malformed::none);
        removals.apply(std::get<UnlinkedRecord>(record), teller());
    }
    void open_file(std::int32_t fd, std::uint64_t id, std::uint64_t ino, const std::string& name = "f") {
        Opened what;
        what.id = id;
        what.ino = ino;
        what.names = name + "\0tmp\0"s;
        open(nobody, fd, what);
    }
    std::vector<std::string> take_told() { return std::exchange(told, {}); }
};

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("a held file that the kernel names is told once, with its culprit and its holders") {
    Removing feed;
    feed.open_file(3, 1, 50);
    feed.open_file(4, 2, 50);
    feed.remove({50});
    CHECK(feed.take_told() == Lines{"deleted /tmp/f unlink @1003 by 77 rm held by 2 bytes 4096"});
    CHECK(feed.removals.wish() == Removals::Wish::none);
    feed.remove({50});
    CHECK(feed.take_told().empty());
}

TEST_CASE("a removal that the kernel names by its inode is never taken for another file's of the same name") {
    Removing feed;
    feed.open_file(3, 1, 50);
    feed.remove({51});
    CHECK(feed.take_told().empty());
    CHECK_FALSE(feed.removals.find({8, 1}, 50, "/tmp/f", 0, 2000).has_value());
    REQUIRE(feed.removals.find({8, 1}, 51, "/tmp/f", 0, 2000).has_value());
    CHECK(feed.removals.find({8, 1}, 51, "/tmp/f", 0, 2000)->by->pid == culprit);
}

TEST_CASE("a deletion that somebody unknown holds asks for a look at once, and is told when nobody is found") {
    Removing feed;
    feed.open_file(3, 1, 50);
    feed.close(nobody, 3, 1, false);
    feed.remove({50});
    CHECK(feed.removals.wish() == Removals::Wish::soon);
    CHECK(feed.take_told().empty());

    SECTION("a look that began before it proves nothing") {
        feed.removals.wish_is_met();
        feed.removals.after_look(Removals::Looked::at_deleted, feed.now_ns, feed.teller());
        CHECK(feed.take_told().empty());
        CHECK(feed.removals.wish() == Removals::Wish::soon);
    }
    feed.removals.after_look(Removals::Looked::at_deleted, feed.now_ns + 1, feed.teller());
    CHECK(feed.take_told() == Lines{"deleted /tmp/f unlink @1003 by 77 rm held by 0 bytes 4096"});
    feed.removals.after_look(Removals::Looked::at_deleted, feed.now_ns + 2, feed.teller());
    CHECK(feed.take_told().empty());
}

TEST_CASE("a name that goes while a link is left is no deletion") {
    Removing feed;
    feed.open_file(3, 1, 50);
    feed.remove({50, "f", 1});
    CHECK(feed.take_told().empty());
    CHECK(feed.removals.paths_are_stale());

    SECTION("what looks only at the deleted does not show its holder") {
        feed.removals.paths_are_mended();
        feed.removals.after_look(Removals::Looked::at_deleted, feed.now_ns + 1, feed.teller());
        CHECK(feed.take_told().empty());
        CHECK(feed.removals.paths_are_stale());
    }
    feed.removals.after_look(Removals::Looked::at_everything, feed.now_ns + 1, feed.teller());
    CHECK(feed.take_told() == Lines{"unlinked /tmp/f unlink @1002 by 77 rm held by 1"});
    feed.remove({50, "g", 0});
    CHECK(feed.take_told() == Lines{"deleted /tmp/f unlink @1003 by 77 rm held by 1 bytes 4096"});
}

TEST_CASE("another name of a file that is held by one that stays is nobody's news") {
    Removing feed;
    feed.open_file(3, 1, 50);
    feed.remove({50, "g", 1});
    feed.removals.after_look(Removals::Looked::at_everything, feed.now_ns + 1, feed.teller());
    CHECK(feed.take_told().empty());
}

TEST_CASE("a directory is deleted whatever link count its file system shows") {
    Removing feed;
    Opened what;
    what.id = 1;
    what.ino = 60;
    what.mode = S_IFDIR | 0755;
    what.nlink = 2;
    feed.open(nobody, 3, what);
    feed.remove({60, "f", 1, FDSPAN_UNLINK_RMDIR, S_IFDIR | 0755});
    CHECK(feed.take_told() == Lines{"deleted /tmp/f rmdir @1002 by 77 rm held by 1 bytes 4096"});
}

TEST_CASE("removals are remembered up to a bound, the latest of them") {
    Removing feed;
    for (std::uint64_t i = 0; i < Removals::max_recent + 10; ++i) feed.remove({1000 + i, "f"});
    const auto remembers = [&](std::uint64_t ino) { return feed.removals.find({8, 1}, ino, "/tmp/f", 0, ~std::uint64_t{0} / 2).has_value(); };
    CHECK_FALSE(remembers(1009));
    CHECK(remembers(1010));
    CHECK(remembers(1000 + Removals::max_recent + 9));
}
