// What is told of names that the kernel side saw going: of processes that do not exist, so that no holder can be asked, where the kernel
// side names files; of files that this process holds, where it tells paths.
#include "index_feed.hpp"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <utility>

#include "base/clock.hpp"
#include "cpu_time.hpp"
#include "reconcile/reconcile.hpp"
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
            line += " " + std::string(event.strings->get(event.reference->path.name)) + " " + std::string(to_string(event.how)) + " @" + Feed::text(event.when);
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
    CHECK_FALSE(feed.removals.find({8, 1}, 50, 0, 2000).has_value());
    REQUIRE(feed.removals.find({8, 1}, 51, 0, 2000).has_value());
    CHECK(feed.removals.find({8, 1}, 51, 0, 2000)->by->pid == culprit);
}

TEST_CASE("a deletion that somebody unknown holds asks for a look at once, and is told when nobody is found") {
    Removing feed;
    feed.open_file(3, 1, 50);
    feed.close(nobody, 3, 1, false);
    feed.remove({50});
    CHECK(feed.removals.wish() == Removals::Wish::soon);
    CHECK(feed.take_told().empty());

    SECTION("a look that began before it proves nothing") {
        (void)feed.removals.take_wish();
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
    const auto remembers = [&](std::uint64_t ino) { return feed.removals.find({8, 1}, ino, 0, ~std::uint64_t{0} / 2).has_value(); };
    CHECK_FALSE(remembers(1009));
    CHECK(remembers(1010));
    CHECK(remembers(1000 + Removals::max_recent + 9));
}

namespace {

// Files that are really held and removed; the records say by whom, when and in which order.
struct RemovingForReal : Removing {
    std::string top;
    std::multimap<std::string, int> held;

    RemovingForReal() {
        std::string name = std::filesystem::temp_directory_path() / "fdspan-removals.XXXXXX";
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        top = name;
        now_ns = boottime_now_ns();
    }
    ~RemovingForReal() {
        for (const auto& [name, fd] : held) ::close(fd);
        std::filesystem::remove_all(top);
    }
    [[nodiscard]] std::string at(const std::string& name) const { return top + "/" + name; }
    void make(const std::string& name) {
        std::filesystem::create_directories(std::filesystem::path(at(name)).parent_path());
        const int fd = ::open(at(name).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        REQUIRE(fd >= 0);
        ::close(fd);
    }
    void hold(const std::string& name) {
        const int fd = ::open(at(name).c_str(), O_RDONLY | O_CLOEXEC);
        REQUIRE(fd >= 0);
        struct stat st {};
        REQUIRE(::fstat(fd, &st) == 0);
        Opened what;
        what.id = held.size() + 1;
        what.ino = st.st_ino;
        what.dev = static_cast<std::uint32_t>(major(st.st_dev) << 20 | minor(st.st_dev));
        what.nlink = static_cast<std::uint32_t>(st.st_nlink);
        what.names.clear();
        for (std::filesystem::path path = at(name); path.has_relative_path(); path = path.parent_path()) what.names += path.filename().string() + "\0"s;
        now_ns = boottime_now_ns();
        open(static_cast<std::uint32_t>(::getpid()), fd, what);
        held.emplace(name, fd);
    }
    // A record of the syscall backend.
    void say(std::uint32_t pid, std::uint64_t at_ns, std::uint16_t how, const std::vector<std::string>& paths, std::uint64_t began_ns = 0) {
        Bytes bytes(FDSPAN_UNLINKED_BYTES(paths.size()));
        auto& raw = bytes.as<fdspan_unlinked>();
        raw.header.type = FDSPAN_RECORD_UNLINKED;
        raw.header.size = static_cast<std::uint32_t>(bytes.size());
        raw.header.boottime_ns = at_ns;
        raw.header.pid = raw.header.tid = pid;
        raw.began_ns = began_ns;
        raw.how = how;
        raw.places = static_cast<fdspan_u16>(paths.size());
        std::strcpy(raw.comm, "rm");
        for (std::size_t i = 0; i < paths.size(); ++i) {
            raw.place[i].given_bytes = static_cast<fdspan_u16>(paths[i].size() + 1);
            std::memcpy(raw.place[i].given, paths[i].c_str(), paths[i].size() + 1);
        }
        Record record;
        REQUIRE(decode(bytes.data(), bytes.size(), record) == Malformed::none);
        removals.apply(std::get<UnlinkedRecord>(record), shorter());
    }
    // "deleted a/victim unlink by 5", without times; "between": not exact.
    EventSink shorter() {
        return [this](const Event& event) {
            std::string line(to_string(event.kind));
            line += " " + std::string(event.strings->get(event.reference->path.name)).substr(top.size() + 1) + " " + std::string(to_string(event.how));
            line += event.by != nullptr ? " by " + std::to_string(event.by->pid) : " by nobody";
            if (!event.when.is_exact()) line += " between";
            told.push_back(line);
        };
    }
    std::uint64_t unlink(const std::string& name) {
        REQUIRE(::unlink(at(name).c_str()) == 0);
        return boottime_now_ns();
    }
    std::uint64_t rename(const std::string& from, const std::string& to) {
        REQUIRE(::rename(at(from).c_str(), at(to).c_str()) == 0);
        return boottime_now_ns();
    }
    void link(const std::string& from, const std::string& to) {
        std::filesystem::create_directories(std::filesystem::path(at(to)).parent_path());
        REQUIRE(::link(at(from).c_str(), at(to).c_str()) == 0);
    }
    void unlinked(std::uint32_t pid, std::uint64_t at_ns, const std::string& name) { say(pid, at_ns, FDSPAN_UNLINK_UNLINK, {at(name)}); }
    void renamed(std::uint32_t pid, std::uint64_t at_ns, const std::string& from, const std::string& to) {
        say(pid, at_ns, FDSPAN_UNLINK_RENAME, {at(from), at(to)});
    }
    void settle_all() {
        removals.settle(boottime_now_ns() + 2 * Removals::settling_ns, shorter());
        removals.settle(boottime_now_ns() + 2 * Removals::patience_ns, shorter());
    }
};

constexpr useconds_t another_tick_us = 40'000;

}  // namespace

TEST_CASE("a removal of an unheld file is not blamed for another file of its name that went within the same tick") {
    RemovingForReal feed;
    feed.make("a/victim");
    feed.make("b/victim");
    feed.link("b/victim", "b/second");
    feed.hold("b/victim");
    const std::uint64_t first_ns = feed.unlink("a/victim");
    const std::uint64_t second_ns = feed.unlink("b/victim");
    feed.unlinked(101, first_ns, "a/victim");
    // The news of the second has not come yet, though its file shows it.
    feed.removals.settle(first_ns - 1, feed.shorter());
    CHECK(feed.take_told().empty());
    CHECK(feed.removals.has_to_settle());
    feed.unlinked(102, second_ns, "b/victim");
    CHECK(feed.take_told() == Lines{"unlinked b/victim unlink by 102"});
    feed.settle_all();
    CHECK(feed.take_told().empty());
    CHECK_FALSE(feed.removals.has_to_settle());
}

TEST_CASE("the last link of several is ascribed to who removed that, not to who removed the name it was opened by") {
    RemovingForReal feed;
    feed.make("a/victim");
    feed.link("a/victim", "a/second");
    feed.hold("a/victim");
    const std::uint64_t first_ns = feed.unlink("a/victim");
    ::usleep(another_tick_us);
    const std::uint64_t last_ns = feed.unlink("a/second");
    feed.unlinked(101, first_ns, "a/victim");
    feed.unlinked(102, last_ns, "a/second");
    feed.settle_all();
    CHECK(feed.take_told() == Lines{"unlinked a/victim unlink by 101", "deleted a/victim unlink by 102"});
}

TEST_CASE("of removals that nobody can tell apart none is blamed") {
    RemovingForReal feed;
    feed.make("a/victim");
    feed.link("a/victim", "b/second");
    feed.make("c/unheld");
    feed.hold("a/victim");
    feed.unlinked(101, feed.unlink("a/victim"), "a/victim");
    CHECK(feed.take_told() == Lines{"unlinked a/victim unlink by 101"});
    ::usleep(another_tick_us);
    const std::uint64_t last_ns = feed.unlink("b/second");
    const std::uint64_t other_ns = feed.unlink("c/unheld");
    const bool same_process = GENERATE(false, true);
    feed.unlinked(102, last_ns, "b/second");
    feed.unlinked(same_process ? 102 : 103, other_ns, "c/unheld");
    feed.settle_all();
    CHECK(feed.take_told() == (same_process ? Lines{"deleted a/victim unlink by 102 between"} : Lines{"deleted a/victim unknown by nobody between"}));
}

TEST_CASE("a removal whose end is told late is found by its begin, and one that began too late is not blamed") {
    constexpr std::uint64_t long_ns = 150'000'000;
    RemovingForReal feed;
    feed.make("a/victim");
    feed.link("a/victim", "b/second");
    feed.hold("a/victim");
    feed.unlinked(101, feed.unlink("a/victim"), "a/victim");
    ::usleep(another_tick_us);
    const std::uint64_t before_ns = boottime_now_ns();
    const std::uint64_t after_ns = feed.unlink("b/second");
    feed.take_told();
    feed.say(103, after_ns + 3 * Removals::settling_ns, FDSPAN_UNLINK_UNLINK, {feed.at("c/unheld")}, after_ns + 2 * Removals::settling_ns);
    feed.removals.settle(after_ns + 4 * Removals::settling_ns, feed.shorter());
    CHECK(feed.take_told().empty());
    feed.say(102, after_ns + long_ns, FDSPAN_UNLINK_UNLINK, {feed.at("b/second")}, before_ns);
    feed.settle_all();
    CHECK(feed.take_told() == Lines{"deleted a/victim unlink by 102"});
}

TEST_CASE("a last link that goes after a snapshot showed that the opened name had gone is a removal of its own") {
    RemovingForReal feed;
    feed.make("a/victim");
    feed.link("a/victim", "a/second");
    const int fd = ::open(feed.at("a/victim").c_str(), O_RDONLY | O_CLOEXEC);
    struct stat st {};
    REQUIRE(::fstat(fd, &st) == 0);
    feed.unlinked(101, feed.unlink("a/victim"), "a/victim");
    ::usleep(another_tick_us);
    Snapshot snapshot;
    snapshot.began_ns = boottime_now_ns();
    Process self;
    self.pid = ::getpid();
    self.started = Interval::bounded(0, snapshot.began_ns);
    snapshot.processes.push_back(self);
    Reference row;
    row.fd = fd;
    row.ref = RefKind::fd;
    row.type = FileType::reg;
    row.name = NameState::gone;
    row.valid = field_path | field_stat | field_fdinfo | field_times;
    row.path = PathId::whole(snapshot.strings.intern(feed.at("a/victim")));
    row.dev = {major(st.st_dev), minor(st.st_dev)};
    row.ino = st.st_ino;
    row.nlink = 1;
    row.opened = row.description_opened = Interval::bounded(0, snapshot.began_ns);
    snapshot.references.push_back(row);
    snapshot.ended_ns = boottime_now_ns();
    ReconcileOptions how;
    how.pids = {self.pid};
    how.report = false;
    how.removals = &feed.removals;
    reconcile(feed.index, snapshot, how, feed.shorter());
    feed.take_told();
    ::usleep(another_tick_us);
    feed.unlinked(102, feed.unlink("a/second"), "a/second");
    feed.settle_all();
    CHECK(feed.take_told() == Lines{"unlinked a/victim unlink by 101", "deleted a/victim unlink by 102"});
    ::close(fd);
}

TEST_CASE("the last link in another directory is ascribed to the only removal of that moment") {
    RemovingForReal feed;
    feed.make("a/victim");
    feed.link("a/victim", "b/second");
    feed.hold("a/victim");
    feed.unlinked(101, feed.unlink("a/victim"), "a/victim");
    ::usleep(another_tick_us);
    feed.unlinked(102, feed.unlink("b/second"), "b/second");
    feed.settle_all();
    CHECK(feed.take_told() == Lines{"unlinked a/victim unlink by 101", "deleted a/victim unlink by 102"});
}

TEST_CASE("of a chain of renames each takes the file that stood there then, although the news comes late") {
    RemovingForReal feed;
    for (const char* const name : {"a", "b", "c"}) {
        feed.make(name);
        feed.hold(name);
    }
    const std::uint64_t first_ns = feed.rename("a", "b");
    const std::uint64_t second_ns = feed.rename("b", "c");
    const std::uint64_t last_ns = feed.unlink("c");
    feed.renamed(101, first_ns, "a", "b");
    feed.renamed(102, second_ns, "b", "c");
    feed.unlinked(103, last_ns, "c");
    feed.settle_all();
    CHECK(feed.take_told() == Lines{"deleted b rename by 101", "deleted c rename by 102", "deleted c unlink by 103"});
}

TEST_CASE("when a moved file has more descriptions than are looked at, a snapshot is wanted that has the new path of all") {
    for (const std::size_t more : {std::size_t{0}, std::size_t{1}}) {
        RemovingForReal feed;
        feed.make("a");
        for (std::size_t i = 0; i < Removals::max_looks + more; ++i) feed.hold("a");
        feed.renamed(101, feed.rename("a", "b"), "a", "b");
        CHECK(feed.removals.paths_are_stale() == (more != 0));

        Removing named;
        for (std::size_t i = 0; i < Removals::max_relabelled + more; ++i) named.open_file(static_cast<std::int32_t>(i), i + 1, 50);
        named.remove({50, "f", 1, FDSPAN_UNLINK_MOVED});
        CHECK(named.removals.paths_are_stale() == (more != 0));
    }
}

TEST_CASE("a file in use that a client of NFS renames instead of unlinking it has lost its name") {
    RemovingForReal feed;
    feed.make("a/victim");
    feed.hold("a/victim");
    feed.unlinked(101, feed.rename("a/victim", "a/.nfs0000000000c0ffee00000001"), "a/victim");
    CHECK(feed.take_told() == Lines{"unlinked a/victim unlink by 101"});
    feed.unlinked(102, feed.unlink("a/.nfs0000000000c0ffee00000001"), "a/.nfs0000000000c0ffee00000001");
    feed.settle_all();
    CHECK(feed.take_told() == Lines{"deleted a/.nfs0000000000c0ffee00000001 unlink by 102"});
}

TEST_CASE("files that changed places are known by their new names") {
    RemovingForReal feed;
    for (const char* const name : {"a", "b"}) {
        feed.make(name);
        feed.hold(name);
    }
    feed.rename("a", "other");
    feed.rename("b", "a");
    const std::uint64_t exchanged_ns = feed.rename("other", "b");
    const std::uint64_t last_ns = feed.unlink("a");
    feed.say(101, exchanged_ns, FDSPAN_UNLINK_EXCHANGE, {feed.at("a"), feed.at("b")});
    CHECK(feed.take_told().empty());
    feed.unlinked(102, last_ns, "a");
    CHECK(feed.take_told() == Lines{"deleted a unlink by 102"});
    struct stat st {};
    REQUIRE(::fstat(feed.held.find("b")->second, &st) == 0);
    CHECK(st.st_nlink == 0);
}

TEST_CASE("who deleted a file is waited for, however many descriptors share what a snapshot shows without a name") {
    Removing feed;
    Snapshot snapshot;
    Process process;
    process.pid = static_cast<pid_t>(nobody);
    process.started = Interval::bounded(0, feed.now_ns);
    process.comm = snapshot.strings.intern("child");
    snapshot.processes.push_back(process);
    Opened what;
    what.id = 1;
    what.ino = 50;
    for (std::int32_t fd = 0; fd < static_cast<std::int32_t>(Removals::max_lost) + 10; ++fd) {
        feed.open(nobody, fd, what);
        what.description_ns = 1001;
        what.how = FDSPAN_HOW_DUP;
        Reference row;
        row.fd = fd;
        row.type = FileType::reg;
        row.name = NameState::deleted;
        row.valid = field_stat;
        row.dev = {8, 1};
        row.ino = 50;
        row.description_id = 1;
        row.opened = row.description_opened = Interval::bounded(0, feed.now_ns);
        snapshot.references.push_back(row);
    }
    snapshot.began_ns = snapshot.ended_ns = feed.now_ns + 1000;
    ReconcileOptions how;
    how.removals = &feed.removals;
    how.report = false;
    reconcile(feed.index, snapshot, how, feed.teller());
    CHECK(feed.take_told() == Lines{});
    CHECK(feed.removals.has_to_settle());
    feed.remove({50});
    CHECK(feed.take_told().size() == 1);
}

TEST_CASE("what a removal costs does not grow with the open files of its name, elsewhere or deleted in its own directory") {
    const bool deleted = GENERATE(false, true);
    const auto removals_s = [deleted](std::uint64_t files) {
        RemovingForReal feed;
        feed.make("b/keep");
        feed.hold("b/keep");
        feed.quiet = true;
        for (std::uint64_t i = 0; i < files; ++i) {
            Opened what;
            what.id = 1000 + i;
            what.names = "x\0elsewhere\0"s;
            if (deleted) {
                what.names.clear();
                for (std::filesystem::path path = feed.at("b/x"); path.has_relative_path(); path = path.parent_path()) what.names += path.filename().string() + "\0"s;
            }
            feed.open(nobody, static_cast<std::int32_t>(i), what);
            if (deleted) feed.index.note_deleted({8, 1}, what.id, {}, {});
        }
        CHECK(feed.index.check() == "");
        return least_cpu_s([&] {
            for (int i = 0; i < 100; ++i) feed.unlinked(101, ++feed.now_ns, "b/x");
        });
    };
    CHECK(removals_s(10'000) < 4 * removals_s(10));
}

TEST_CASE("what deciding about removals costs does not grow with the open files that lost the name they were opened by") {
    const auto settle_s = [](std::uint64_t files) {
        RemovingForReal feed;
        feed.quiet = true;
        for (std::uint64_t i = 0; i < files; ++i) feed.open_file(static_cast<std::int32_t>(i), 1000 + i, 1000 + i);
        // Nobody can be asked about them: when so many wait for a look already, each is told at once.
        feed.open_file(100'000, 999, 999);
        for (std::size_t i = 0; i < Removals::max_unheld; ++i) feed.remove({999, "f", 1});
        for (std::uint64_t i = 0; i < files; ++i) feed.remove({1000 + i, "f", 1});
        REQUIRE(feed.take_told().size() == files);
        return least_cpu_s([&] {
            for (int i = 0; i < 100; ++i) feed.unlinked(101, ++feed.now_ns, "y");
            feed.removals.settle(feed.now_ns, feed.shorter());
        });
    };
    CHECK(settle_s(20'000) < 4 * settle_s(100));
}
