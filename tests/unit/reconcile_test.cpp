#include "index_feed.hpp"

#include <fcntl.h>

#include "cpu_time.hpp"

using namespace fdspan;
using namespace fdspan::test;
using namespace std::string_literals;

namespace {

struct Row {
    std::int32_t fd = 3;
    std::string path = "/tmp/f";
    std::uint64_t id = 0;
    Interval opened = Interval::bounded(0, ~std::uint64_t{0});
    Interval description = Interval::bounded(0, ~std::uint64_t{0});
    std::uint64_t ino = 0;  // 0: the id, or else a hash of the path
    RefKind ref = RefKind::fd;
    pid_t tid = 0;
    NameState name = NameState::named;
    std::uint64_t map_start = 0;
    FileType type = FileType::reg;
};

struct Rows {
    Snapshot snapshot;
    Rows(std::uint64_t began_ns, std::uint64_t ended_ns) {
        snapshot.began_ns = began_ns;
        snapshot.ended_ns = ended_ns;
    }
    Rows&& process(pid_t pid, const Interval& started, const std::vector<Row>& rows, bool unreadable = false) {
        Process process;
        process.pid = pid;
        process.started = started;
        process.unreadable = unreadable;
        if (unreadable) ++snapshot.gaps.unreadable_processes;
        process.comm = snapshot.strings.intern("comm");
        snapshot.processes.push_back(process);
        for (const Row& row : rows) {
            Reference out;
            out.process = static_cast<std::uint32_t>(snapshot.processes.size() - 1);
            out.fd = row.ref == RefKind::fd ? row.fd : -1;
            out.ref = row.ref;
            out.tid = row.tid;
            out.type = row.type;
            out.name = row.name;
            out.valid = field_path | field_stat | field_fdinfo | field_times;
            out.path = PathId::whole(snapshot.strings.intern(row.path));
            out.dev = {8, 1};
            out.ino = row.ino != 0 ? row.ino : row.id != 0 ? row.id : std::hash<std::string>{}(row.path);
            out.nlink = row.name == NameState::deleted ? 0 : 1;
            out.description_id = row.id;
            out.opened = row.opened;
            out.description_opened = row.description;
            if (row.ref == RefKind::mem) out.map_start = row.map_start;
            snapshot.references.push_back(out);
        }
        return std::move(*this);
    }
};

struct Pair : Feed {
    ReconcileOptions how;
    ReconcileResult last;
    void meet(const Rows& rows) { last = reconcile(index, rows.snapshot, how, sink()); }
    Verification look(const Rows& rows) { return verify(index, rows.snapshot, how); }
    void silently(const Rows& rows) {
        how.announce = how.report = false;
        meet(rows);
        how.announce = how.report = true;
    }
};

Opened file(std::uint64_t id, std::string names = "f\0tmp\0"s) {
    Opened what;
    what.id = id;
    what.names = std::move(names);
    return what;
}

const Interval early = Interval::exact(50);

}  // namespace

TEST_CASE("the first snapshot fills the index without news") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}, {4, "/b", 72, Interval::exact(600), Interval::exact(500)}}));
    CHECK(pair.take() == Lines{});
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100", "10/4 /b @600"});
    CHECK(pair.last.added == 2);
    CHECK(pair.last.processes_added == 1);
    CHECK(pair.index.incomplete().empty());
}

TEST_CASE("later snapshots tell what they add and end, within the bounds that are proved") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a"}, {4, "/b"}}));
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/a"}, {5, "/c"}}));
    CHECK(pair.take() == Lines{"closed 10/4 /b @1000..2100 +0..2050", "opened 10/5 /c @1000..2100", "resynced @2000..2100 1 1"});
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100", "10/5 /c @1000..2100"});
    pair.meet(Rows(3000, 3100).process(10, early, {{3, "/a"}}));
    CHECK(pair.take() == Lines{"closed 10/5 /c @2000..3100 +0..2100", "resynced @3000..3100 0 1"});
}

TEST_CASE("a slot with another file was closed and opened between two snapshots") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a"}}));
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/b"}}));
    CHECK(pair.take() == Lines{"closed 10/3 /a @1000..2100 +0..2050", "opened 10/3 /b @1000..2100", "resynced @2000..2100 1 1"});
    // The row's own bounds narrow both.
    pair.meet(Rows(3000, 3100).process(10, early, {{3, "/c", 0, Interval::bounded(2500, 2600)}}));
    CHECK(pair.take() == Lines{"closed 10/3 /b @2000..2600 +0..1600", "opened 10/3 /c @2500..2600", "resynced @3000..3100 1 1"});
}

TEST_CASE("an exact time is never moved, a bounded one is narrowed") {
    Pair pair;
    pair.fork(1, 10);
    pair.open(10, 3, file(77));
    pair.take();
    pair.meet(Rows(2000, 2100).process(10, Interval::exact(1001), {{3, "/tmp/f", 77, Interval::bounded(900, 2000)}}));
    CHECK(pair.rows(10) == Lines{"10/3 /tmp/f @1002"});
    pair.meet(Rows(3000, 3100).process(10, Interval::exact(1001), {{3, "/tmp/f", 77}, {4, "/b", 78}}));
    CHECK(pair.rows(10) == Lines{"10/3 /tmp/f @1002", "10/4 /b @2000..3100"});
    pair.meet(Rows(4000, 4100).process(10, Interval::exact(1001), {{3, "/tmp/f", 77}, {4, "/b", 78, Interval::bounded(2500, 4000)}}));
    CHECK(pair.rows(10) == Lines{"10/3 /tmp/f @1002", "10/4 /b @2500..3100"});
    pair.meet(Rows(5000, 5100).process(10, Interval::exact(1001), {{3, "/tmp/f", 77}, {4, "/b", 78, Interval::exact(2600)}}));
    CHECK(pair.rows(10) == Lines{"10/3 /tmp/f @1002", "10/4 /b @2600"});
}

TEST_CASE("what events told while a snapshot was read is newer than its rows") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}, {4, "/b", 72}}));
    pair.now_ns = 2050;  // while the second snapshot is read
    pair.open(10, 5, file(75, "new\0"s));
    pair.close(10, 3, 71, true);
    pair.close(10, 4, 72, true);
    pair.open(10, 4, file(76, "again\0"s));
    pair.fork(10, 20);
    pair.take();
    const Rows rows = Rows(2000, 2100).process(10, early, {{3, "/a", 71}, {4, "/b", 72}});
    CHECK(pair.look(rows).equal());
    pair.meet(rows);
    CHECK(pair.take() == Lines{"resynced @2000..2100 0 0"});
    CHECK(pair.rows() == Lines{"10/4 /again @2054", "10/5 /new @2051", "20/4 /again @2055", "20/5 /new @2055"});
}

TEST_CASE("a close stamped right before the snapshot began is believed") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71, Interval::exact(60), Interval::exact(60)}}));
    pair.now_ns = 1999;
    pair.close(10, 3, 71, true, 60);  // the kernel empties the slot after it sent this
    const Rows rows = Rows(2001, 2100).process(10, early, {{3, "/a", 71, Interval::exact(60), Interval::exact(60)}});
    CHECK(pair.look(rows).equal());
    pair.meet(rows);
    CHECK(pair.rows() == Lines{});
    // Long after, the same description in the same slot is one that was put there again.
    pair.meet(Rows(3'000'000'000, 3'000'000'100).process(10, early, {{3, "/a", 71, Interval::exact(2500), Interval::exact(60)}}));
    CHECK(pair.rows() == Lines{"10/3 /a @2500"});
}

TEST_CASE("a row without an id does not bring back what was closed since the snapshot began") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a"}}));
    pair.now_ns = 2050;
    pair.close(10, 3, 71, true);
    const Rows rows = Rows(2000, 2100).process(10, early, {{3, "/a"}});
    CHECK(pair.look(rows).equal());
    pair.meet(rows);
    CHECK(pair.rows() == Lines{});
    pair.meet(Rows(2060, 2100).process(10, early, {{3, "/a"}}));
    CHECK(pair.rows() == Lines{"10/3 /a @2000..2100"});
}

TEST_CASE("a process that ended while the snapshot was read does not come back") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}}).process(20, early, {{3, "/a", 71}}));
    pair.now_ns = 2050;
    pair.exit(10, 10, true, true);
    pair.fork(20, 30);
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/a", 71}}).process(20, early, {{3, "/a", 71}}));
    CHECK(pair.rows() == Lines{"20/3 /a @50..1100", "30/3 /a @2052"});
}

TEST_CASE("processes come and go with a snapshot") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a"}}).process(20, early, {{4, "/b"}}));
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/a"}}).process(30, Interval::bounded(1500, 1600), {{5, "/c"}}));
    CHECK(pair.take() == Lines{"opened 30/5 /c @1500..2100", "closed 20/4 /b @1000..2100 +0..2050", "exit 20 @1000..2100 status unknown",
                               "resynced @2000..2100 1 1"});
    CHECK(pair.last.processes_added == 1);
    CHECK(pair.last.processes_ended == 1);
}

TEST_CASE("a reused pid is another process") {
    Pair pair;
    pair.silently(Rows(1'000'000'000, 1'000'000'100).process(10, early, {{3, "/a"}}));
    pair.meet(Rows(2'000'000'000, 2'000'000'100).process(10, Interval::bounded(1'500'000'000, 1'510'000'000), {{3, "/a"}}));
    CHECK(pair.take() == Lines{"closed 10/3 /a @1000000000..1510000000 +0..1509999950", "exit 10 @1000000000..1510000000 status unknown",
                               "opened 10/3 /a @1500000000..2000000100", "resynced @2000000000..2000000100 1 1"});
    // Whole ticks against exact nanoseconds are the same start.
    pair.meet(Rows(3'000'000'000, 3'000'000'100).process(10, Interval::exact(1'515'000'000), {{3, "/a"}}));
    CHECK(pair.take() == Lines{"resynced @3000000000..3000000100 0 0"});
}

TEST_CASE("an unreadable process ends nothing, and asks for nothing") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a"}}));
    pair.meet(Rows(2000, 2100).process(10, early, {}, true).process(1, early, {}, true));
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100"});
    pair.open(1, 3, file(77));
    CHECK(pair.index.incomplete().empty());
    pair.take();
    pair.meet(Rows(3000, 3100).process(10, early, {{3, "/a"}, {4, "/b"}}).process(1, early, {}, true));
    // The snapshot in between did not look: the last one that did is from 1000.
    CHECK(pair.take() == Lines{"opened 10/4 /b @1000..3100", "resynced @3000..3100 1 0"});
}

TEST_CASE("a snapshot of some processes says nothing about the others") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a"}}).process(20, early, {{4, "/b"}}));
    pair.open(30, 3, file(77));  // seen first in the middle of its life
    pair.take();
    CHECK(pair.index.incomplete() == std::vector<pid_t>{30});
    pair.how.pids = {30};
    pair.how.report = false;
    pair.meet(Rows(2000, 2100).process(30, early, {{1, "/dev/null", 70, early, early}, {3, "/tmp/f", 77}}));
    CHECK(pair.take() == Lines{"opened 30/1 /dev/null @50"});
    CHECK(pair.index.incomplete().empty());
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100", "20/4 /b @50..1100", "30/1 /dev/null @50", "30/3 /tmp/f @1001"});
    pair.meet(Rows(3000, 3100));
    CHECK(pair.take() == Lines{"closed 30/1 /dev/null @2000..3100 +1950..3050", "closed 30/3 /tmp/f @2000..3100 +999..2099",
                               "exit 30 @2000..3100 status unknown"});
}

TEST_CASE("news of what a snapshot already showed is told once") {
    Pair pair;
    const Interval at = Interval::exact(1050);
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/tmp/f", 77, at, at}, {4, "/tmp/f", 78}}));
    SECTION("silently added and opened after the snapshot began: it is news") {
        pair.give(opened_record(1050, 10, 10, 3, file(77)));
        CHECK(pair.take() == Lines{"opened 10/3 /tmp/f @1050"});
        pair.give(opened_record(1060, 10, 10, 4, file(78)));
        CHECK(pair.rows() == Lines{"10/3 /tmp/f @1050", "10/4 /tmp/f @1060"});
    }
    SECTION("announced by the reconcile: it was told") {
        pair.meet(Rows(2000, 2100).process(10, early, {{3, "/tmp/f", 77, at, at}, {4, "/tmp/f", 78}, {5, "/x", 79}}));
        CHECK(pair.take() == Lines{"opened 10/5 /x @1000..2100", "resynced @2000..2100 1 0"});
        pair.give(opened_record(1999, 10, 10, 5, file(79)));
        CHECK(pair.take() == Lines{});
        CHECK(pair.rows().back() == "10/5 /x @1999");
    }
}

TEST_CASE("records that come late converge to the snapshot they follow") {
    Pair pair;
    const auto at = [](std::uint64_t ns) { return Interval::exact(ns); };
    // Slot 3: /a closed at 1010, /b opened at 1020; both records are still in the ring.
    pair.silently(Rows(900, 950).process(10, early, {{3, "/a", 71, at(60), at(60)}}));
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/b", 72, at(1020), at(1020)}}));
    CHECK(pair.take() == Lines{"closed 10/3 /a @900..1020 +840..960", "opened 10/3 /b @1020",
                               "released /a @900..2100 +840..2040", "resynced @2000..2100 1 1"});
    pair.give(Feed::closed_record(FDSPAN_RECORD_CLOSED, 1010, 10, 10, 3, 71, true, 60));
    pair.give(opened_record(1020, 10, 10, 3, file(72)));
    CHECK(pair.rows() == Lines{"10/3 /b @1020"});
    CHECK(pair.take() == Lines{});
}

TEST_CASE("a fork record after the snapshot that has the child changes nothing") {
    Pair pair;
    pair.silently(Rows(2000, 2100).process(10, early, {{3, "/a", 71}}).process(20, Interval::exact(1901), {{3, "/a", 71, Interval::exact(1901)}}));
    pair.now_ns = 1900;
    pair.fork(10, 20);
    CHECK(pair.rows() == Lines{"10/3 /a @50..2100", "20/3 /a @1901"});
}

TEST_CASE("mappings hold a description when its descriptors are gone") {
    Pair pair;
    const Interval at = Interval::exact(100);
    const Row mapped{-1, "/lib/x", 77, at, at, 0, RefKind::mem, 0, NameState::named, 0x1000};
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/lib/x", 77, at, at}, mapped}));
    CHECK(pair.rows() == Lines{"10/3 /lib/x @100", "10 mem /lib/x @100"});
    pair.now_ns = 1200;
    pair.close(10, 3, 77, false, 100);
    CHECK(pair.take() == Lines{"closed 10/3 /lib/x @1201 +1101"});
    pair.meet(Rows(2000, 2100).process(10, early, {mapped}));
    CHECK(pair.take() == Lines{"resynced @2000..2100 0 0"});
    CHECK(pair.rows() == Lines{"10 mem /lib/x @100"});
    pair.meet(Rows(3000, 3100).process(10, early, {}));
    CHECK(pair.take() == Lines{"released /lib/x @2000..3100 +1900..3000", "resynced @3000..3100 0 0"});
    CHECK(pair.index.counts().descriptions == 0);
}

TEST_CASE("cwd, root, exe and mappings without an id are replaced quietly") {
    Pair pair;
    const auto held = [](RefKind kind, std::string path, std::uint64_t start = 0) {
        return Row{-1, std::move(path), 0, Interval::bounded(0, 900), Interval::bounded(0, 900), 0, kind, 0, NameState::named, start};
    };
    const std::vector<Row> first{held(RefKind::cwd, "/home"), held(RefKind::root, "/"), held(RefKind::exe, "/bin/x"),
                                 held(RefKind::mem, "/bin/x", 0x1000), held(RefKind::mem, "/bin/x", 0x2000)};
    pair.silently(Rows(1000, 1100).process(10, early, first).process(20, early, first));
    CHECK(pair.rows(10).size() == 5);
    CHECK(pair.index.counts().descriptions == 3);  // one a file
    pair.meet(Rows(2000, 2100).process(10, early, {held(RefKind::cwd, "/tmp"), held(RefKind::root, "/")}).process(20, early, first));
    CHECK(pair.take() == Lines{"resynced @2000..2100 0 0"});
    CHECK(pair.rows(10) == Lines{"10 cwd /tmp @0..900", "10 root / @0..900"});
    pair.exec(20, {});
    CHECK(pair.rows(20).size() == 2);  // the old image is gone
    CHECK(pair.index.check() == "");
    pair.meet(Rows(3000, 3100));
    CHECK(pair.index.counts().descriptions == 0);
}

TEST_CASE("a description that nothing holds ends with the first snapshot that lacks it") {
    Pair pair;
    const Interval at = Interval::exact(100);
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 77, at, at}, {4, "/b", 78, at, at}}));
    pair.now_ns = 1200;
    pair.close(10, 3, 77, false, 100);  // somebody else holds it, the kernel says
    pair.exec(10, {});
    pair.take();
    CHECK(pair.index.counts().unheld == 2);
    SECTION("of the one the kernel called held, nobody knows") {
        pair.meet(Rows(2000, 2100).process(10, early, {}));
        CHECK(pair.take() == Lines{"released /b @1202..2100 +1102..2000", "resynced @2000..2100 0 0"});
        CHECK(pair.index.counts().descriptions == 0);
    }
    SECTION("not with one that could not read everybody") {
        pair.meet(Rows(2000, 2100).process(1, early, {}, true).process(10, early, {}));
        CHECK(pair.index.counts().unheld == 2);
    }
    SECTION("not where the backend reports every release") {
        pair.how.releases_come = true;
        pair.meet(Rows(2000, 2100).process(10, early, {}));
        pair.take();
        pair.now_ns = 2200;
        pair.release(999, 77, 100);
        CHECK(pair.take() == Lines{"released /a @2201 +2101"});
    }
}

TEST_CASE("what a process held whose end nobody saw may have ended with it") {
    Pair pair;
    const Interval at = Interval::exact(100);
    Row mapped{0, "/b", 78, at, at};
    mapped.ref = RefKind::mem;
    pair.silently(Rows(1000, 1100).process(1, early, {}).process(10, early, {{3, "/a", 77, at, at}, mapped}));
    pair.meet(Rows(2000, 2100).process(1, early, {}));
    pair.take();
    CHECK(pair.index.counts().unheld == 2);
    pair.meet(Rows(3000, 3100).process(1, early, {}));
    CHECK(pair.take() == Lines{"released /a @1000..3100 +900..3000", "released /b @1000..3100 +900..3000", "resynced @3000..3100 0 0"});
}

TEST_CASE("polling tells a deletion once a file, between the two snapshots") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a"}, {4, "/a"}}).process(20, early, {{3, "/a"}}));
    Row gone{3, "/a"};
    gone.name = NameState::deleted;
    Row gone4 = gone;
    gone4.fd = 4;
    const Rows rows = Rows(2000, 2100).process(10, early, {gone, gone4}).process(20, early, {gone});
    pair.meet(rows);
    CHECK(pair.take() == Lines{"deleted 10/3 /a @1000..2100", "resynced @2000..2100 0 0"});
    Lines deleted;
    pair.index.for_each_deleted(Feed::into(deleted));
    CHECK(deleted.size() == 3);
    pair.meet(Rows(3000, 3100).process(10, early, {gone, gone4}).process(20, early, {gone}));
    CHECK(pair.take() == Lines{"resynced @3000..3100 0 0"});
}

TEST_CASE("a name whose end was told while the snapshot was read is not told to end again by the next one") {
    Pair pair;
    Row row{3, "/a", 71};
    pair.silently(Rows(1000, 1100).process(10, early, {row}));
    row.name = NameState::gone;
    pair.meet(Rows(2000, 2100).process(10, early, {row}));
    CHECK(pair.take() == Lines{"unlinked 10/3 /a @1000..2100", "resynced @2000..2100 0 0"});
    // Read before the name went, used afterwards.
    row.name = NameState::named;
    pair.meet(Rows(1900, 2200).process(10, early, {row}));
    row.name = NameState::gone;
    pair.meet(Rows(3000, 3100).process(10, early, {row}));
    CHECK(pair.take() == Lines{"resynced @1900..2200 0 0", "resynced @3000..3100 0 0"});
}

TEST_CASE("when a deleted file that was found so lost its name lies before it was found, not before it was opened") {
    Pair pair;
    Row row{3, "/a", 71, Interval::exact(500), Interval::exact(500)};
    row.name = NameState::deleted;
    pair.silently(Rows(1000, 1100).process(10, early, {row}));
    CHECK(pair.index.deleted_file({8, 1}, 71)->when == Interval::bounded(0, 1100));
}

TEST_CASE("a deletion learned while the snapshot was read is not undone by it") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}}));
    pair.index.set_links({8, 1}, 71, 0, 2050);
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/a", 71}}));
    Lines deleted;
    pair.index.for_each_deleted(Feed::into(deleted));
    CHECK(deleted.size() == 1);
}

TEST_CASE("a renamed file takes its new path from the snapshot") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/old", 71}}));
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/dir/new", 71}}));
    CHECK(pair.rows() == Lines{"10/3 /dir/new @50..1100"});
    CHECK(pair.take() == Lines{"resynced @2000..2100 0 0"});
}

TEST_CASE("pipes and sockets keep no text of their own") {
    Pair pair;
    Row pipe{3, "pipe:[55]", 71};
    pipe.ino = 55;
    pipe.type = FileType::fifo;
    Row odd{4, "socket:[66] (odd)", 72};
    odd.ino = 66;
    odd.type = FileType::sock;
    pair.silently(Rows(1000, 1100).process(10, early, {pipe, odd}));
    CHECK(pair.rows() == Lines{"10/3 pipe:[55] @50..1100", "10/4 socket:[66] (odd) @50..1100"});
    pair.meet(Rows(2000, 2100).process(10, early, {pipe, odd}));
    CHECK(pair.rows() == Lines{"10/3 pipe:[55] @50..1100", "10/4 socket:[66] (odd) @50..1100"});
}

TEST_CASE("threads with tables of their own come and go with snapshots") {
    Pair pair;
    Row own{3, "/t", 72};
    own.tid = 11;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}, own}));
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100", "10:11/3 /t @50..1100"});
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/a", 71}}));
    CHECK(pair.take() == Lines{"closed 10:11/3 /t @1000..2100 +0..2050",
                               "released /t @1000..2100 +0.." + std::to_string(~std::uint64_t{0}), "resynced @2000..2100 0 1"});
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100"});
    CHECK(pair.index.counts().tables == 1);
}

TEST_CASE("the start of a process bounds no descriptor of a table that it was born sharing") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}}));
    pair.now_ns = 1500;
    pair.fork(10, 20, true);
    pair.fork(10, 30, false);
    const std::vector<Row> rows{{3, "/a", 71}, {4, "/b", 72}};  // 4 may have been there at the fork
    pair.meet(Rows(2000, 2100).process(20, Interval::exact(1501), rows).process(30, Interval::exact(1502), rows));
    CHECK(pair.rows(20) == Lines{"20/3 /a @50..1100", "20/4 /b @0..2100"});
    CHECK(pair.rows(30) == Lines{"30/3 /a @1502", "30/4 /b @1502..2100"});
}

TEST_CASE("a change that all sharers of a table show keeps it shared") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}}));
    pair.now_ns = 1200;
    pair.fork(10, 20, true);
    const Interval child = Interval::exact(1201);
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/a", 71}, {4, "/b", 72}}).process(20, child, {{3, "/a", 71}, {4, "/b", 72}}));
    CHECK(pair.index.counts().tables == 1);
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100", "10/4 /b @1000..2100", "20/3 /a @50..1100", "20/4 /b @1000..2100"});
    // One that only one of them shows means that they do not share any more.
    pair.meet(Rows(3000, 3100).process(10, early, {{3, "/a", 71}, {4, "/b", 72}}).process(20, child, {{3, "/a", 71}}));
    CHECK(pair.index.counts().tables == 2);
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100", "10/4 /b @1000..2100", "20/3 /a @50..1100"});
}

TEST_CASE("when more ended than is remembered, nothing doubtful is added") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}}));
    pair.quiet = true;
    pair.now_ns = 2010;
    pair.close(10, 3, 71, true);
    for (std::uint64_t i = 0; i < Index::max_history; ++i) {
        pair.open(10, 5, file(1000 + i));
        pair.close(10, 5, 1000 + i, true);
    }
    const Rows rows = Rows(2000, 2100).process(10, early, {{3, "/a", 71}});
    pair.meet(rows);
    CHECK(pair.last.uncertain);
    CHECK(pair.rows() == Lines{});
    pair.meet(Rows(pair.now_ns + 10, pair.now_ns + 20).process(10, early, {{3, "/b", 72}}));
    CHECK_FALSE(pair.last.uncertain);
    CHECK(pair.rows().size() == 1);
}

TEST_CASE("what ended takes no more than it may, however much ends") {
    Pair pair;
    pair.quiet = true;
    pair.open(10, 3, file(1));
    pair.index.bound_history(64 << 10);
    const std::size_t before = pair.index.index_bytes();
    for (std::uint32_t i = 0; i < 50000; ++i) {
        pair.open(10, 5, file(1000 + i));
        pair.close(10, 5, 1000 + i, true);
        if (i % 10 != 0) continue;
        pair.fork(10, 1000 + i);
        pair.exit(1000 + i, 1000 + i, true, true);
    }
    CHECK(pair.index.index_bytes() < before + (64 << 10) + (16 << 10));
}

TEST_CASE("a snapshot is the last to ask for what ended before it") {
    Pair pair;
    pair.quiet = true;
    pair.open(10, 3, file(1));
    const std::size_t before = pair.index.index_bytes();
    for (std::uint32_t i = 0; i < 50000; ++i) {
        pair.open(10, 5, file(1000 + i));
        pair.close(10, 5, 1000 + i, true);
    }
    const std::size_t churned = pair.index.index_bytes();
    pair.now_ns += 2'000'000'000;
    pair.meet(Rows(pair.now_ns, pair.now_ns + 10).process(10, early, {{3, "/tmp/f", 1}}));
    CHECK_FALSE(pair.last.uncertain);
    CHECK(pair.index.index_bytes() + 1'000'000 < churned);
    CHECK(pair.index.index_bytes() < before + (16 << 10));
}

TEST_CASE("an opening that was lost is not mistaken for the descriptor that ended in its place just before") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}, {4, "/b", 72}}));
    pair.now_ns = 1999;
    pair.close(10, 3, 71, true);
    pair.close(10, 4, 72, true);
    const auto opened = [](std::uint64_t at_ns) { return Interval::exact(at_ns); };
    // The same file in the same slot, with the same pointer; of 4 the snapshot still saw the old one.
    pair.meet(Rows(3000, 3100).process(10, early, {{3, "/a", 71, opened(2005), opened(2005)}, {4, "/b", 72, opened(1500), opened(1500)}}));
    CHECK(pair.rows() == Lines{"10/3 /a @2005"});
}

TEST_CASE("what the index was told since a loss is believed only when another snapshot agrees") {
    // A thread that unshared its table closed its copy of 3; that it had unshared was lost.
    Pair pair;
    const auto at = [](std::uint64_t ns) { return Interval::exact(ns); };
    const auto rows = [&](std::uint64_t began_ns) { return Rows(began_ns, began_ns + 100).process(10, early, {{3, "/a", 71, at(500), at(500)}}); };
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71, at(500), at(500)}}));
    pair.index.note_loss(Interval::bounded(1200, 1300));
    pair.now_ns = 1999;
    pair.close(10, 3, 71, false);
    pair.meet(rows(3000));
    CHECK(pair.last.uncertain);
    pair.meet(rows(500'000'000));
    CHECK(pair.last.uncertain);
    pair.meet(rows(1'500'000'000));
    CHECK_FALSE(pair.last.uncertain);
    CHECK(pair.rows() == Lines{"10/3 /a @500"});
    // What ends later is told of the right table.
    pair.now_ns = 1'600'000'000;
    pair.close(10, 3, 71, true);
    pair.meet(rows(1'600'000'010));
    CHECK_FALSE(pair.last.uncertain);
    CHECK(pair.rows() == Lines{});
}

TEST_CASE("the same file with another exact time is another descriptor in its place") {
    Pair pair;
    const auto at = [](std::uint64_t ns) { return Interval::exact(ns); };
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71, at(500), at(400)}}));
    pair.meet(Rows(2'000'000'000, 2'000'000'100).process(10, early, {{3, "/a", 71, at(1500), at(400)}}));
    CHECK(pair.take() == Lines{"closed 10/3 /a @1000..1500 +500..1000", "opened 10/3 /a @1500", "resynced @2000000000..2000000100 1 1"});
    CHECK(pair.rows() == Lines{"10/3 /a @1500"});
}

TEST_CASE("a description that took the place of another one ends that in its later slots, once") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71, Interval::exact(500), Interval::exact(500)},
                                                       {5, "/b", 72, Interval::exact(600), Interval::exact(600)},
                                                       {6, "/b", 72, Interval::exact(700), Interval::exact(600)}}));
    // The struct file of 5 and 6 is used again, in slot 3.
    pair.meet(Rows(2000, 2100).process(10, early, {{3, "/c", 72, Interval::exact(1500), Interval::exact(1500)}}));
    CHECK(pair.rows() == Lines{"10/3 /c @1500"});
    pair.meet(Rows(3000, 3100).process(10, early, {{3, "/c", 72, Interval::exact(1500), Interval::exact(1500)},
                                                   {4, "/d", 74, Interval::exact(2500), Interval::exact(2500)},
                                                   {5, "/e", 75, Interval::exact(2600), Interval::exact(2600)}}));
    CHECK(pair.rows() == Lines{"10/3 /c @1500", "10/4 /d @2500", "10/5 /e @2600"});
    pair.meet(Rows(4000, 4100).process(10, early, {}));
    CHECK(pair.rows() == Lines{});
}

TEST_CASE("after a loss, ends that are only implied are bounded until a snapshot follows") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71, early, early}}).process(20, early, {{3, "/a", 71, early, early}}));
    pair.index.note_loss(Interval::bounded(1200, 1300));
    pair.now_ns = 1400;
    pair.open(10, 4, file(72, "b\0"s));
    pair.take();
    SECTION("exit and exec") {
        pair.exit(10, 10, true, true);
        pair.exec(20, {});
        CHECK(pair.take() == Lines{"closed 10/3 /a @1200..1402 +1150..1352", "closed 10/4 /b @1402 +1", "exit 10 @1402 status 256",
                                   "closed 20/3 /a @1200..1403 +1150..1353", "exec 20 @1403"});
    }
    SECTION("with a snapshot in between") {
        pair.meet(Rows(2000, 2100).process(10, early, {{3, "/a", 71, early, early}, {4, "/b", 72}}));
        pair.take();
        pair.now_ns = 2200;
        pair.exit(10, 10, true, true);
        CHECK(pair.take() == Lines{"closed 10/3 /a @2201 +2151", "closed 10/4 /b @2201 +800", "exit 10 @2201 status 256"});
    }
}

TEST_CASE("what a snapshot will take in the index is told before, its directories included") {
    const auto used = [](const Index& index) { return index.index_bytes() - index.reusable_bytes(); };
    std::vector<Row> files;
    SECTION("deep directories of their own") {
        for (int fd = 0; fd < 2000; ++fd) {
            std::string path;
            for (int depth = 0; depth < 15; ++depth) path += "/" + std::to_string(10000 + fd) + std::string(245, 'd');
            files.push_back({fd, path + "/f", 1000 + static_cast<std::uint64_t>(fd)});
        }
    }
    SECTION("many short ones") {
        for (int fd = 0; fd < 2000; ++fd) {
            std::string path = "/" + std::to_string(fd);
            for (int depth = 0; depth < 100; ++depth) path += "/d";
            files.push_back({fd, path + "/f", 1000 + static_cast<std::uint64_t>(fd)});
        }
    }
    SECTION("long names") {
        for (int fd = 0; fd < 5000; ++fd) files.push_back({fd, "/tmp/" + std::to_string(10000 + fd) + std::string(245, 'n'), 1000 + static_cast<std::uint64_t>(fd)});
    }
    SECTION("what is usual") {
        for (int fd = 0; fd < 20000; ++fd) {
            files.push_back({fd, "/srv/data/" + std::to_string(fd % 64) + "/file-" + std::to_string(fd) + ".log", 1000 + static_cast<std::uint64_t>(fd)});
        }
    }
    Pair pair;
    const std::size_t before = used(pair.index);
    const Rows rows = Rows(1000, 1100).process(10, early, files);
    const std::size_t told = index_bytes_for(rows.snapshot);
    pair.silently(rows);
    const std::size_t taken = used(pair.index) - before;
    CHECK(taken <= told + told / 8 + (256 << 10));  // chunks of names, and texts kept for showing
    CHECK(told <= taken + taken / 2);
}

TEST_CASE("a descriptor that a snapshot found takes no more than one that was seen opening") {
    constexpr int processes = 20;
    constexpr int each = 10'000;
    Rows rows(2'000'000'000'000, 2'001'000'000'000);
    std::uint64_t id = 0;
    for (int p = 0; p < processes; ++p) {
        std::vector<Row> of_one;
        const Interval started = Interval::exact(1'000'000'000'000 + static_cast<std::uint64_t>(p));
        for (int fd = 0; fd < each; ++fd) {
            ++id;
            // Each row has its own time of reading.
            const std::uint64_t read_ns = 2'000'000'000'000 + id * 1000;
            of_one.push_back({fd, "/srv/data/" + std::to_string(id % 64) + "/some-file-" + std::to_string(1'000'000 + id) + ".log", id,
                              Interval::bounded(started.earliest_ns, read_ns), Interval::bounded(0, read_ns)});
        }
        rows.process(100 + p, started, of_one);
    }
    Pair pair;
    pair.silently(rows);
    const double bytes = static_cast<double>(pair.index.index_bytes()) / (processes * each);
    WARN("index bytes per descriptor from a snapshot: " << bytes);
    CHECK(bytes <= 128.0);
    pair.index.lookup(105, 0, 77, [](const IndexRow& row) {
        CHECK(row.reference.opened == Interval::bounded(1'000'000'000'005, 2'000'050'078'000));
        CHECK(row.reference.description_opened == Interval::bounded(0, 2'000'050'078'000));
    });
}

TEST_CASE("what a snapshot of threads with tables of their own costs does not grow with the processes that ended before") {
    const auto meet_s = [](std::uint32_t ended) {
        Pair pair;
        pair.quiet = true;
        for (std::uint32_t pid = 1000; pid < 1000 + ended; ++pid) {
            pair.fork(1, pid);
            pair.exit(pid, pid, true, true);
        }
        std::vector<Row> rows;
        for (pid_t tid = 11; tid < 211; ++tid) {
            for (std::int32_t fd = 0; fd < 10; ++fd) rows.push_back({.fd = fd, .path = "/a", .tid = tid});
        }
        const Rows snapshot = Rows(pair.now_ns + 1000, pair.now_ns + 1100).process(10, early, rows);
        pair.silently(snapshot);
        return least_cpu_s([&] {
            pair.silently(snapshot);
            CHECK(pair.look(snapshot).equal());
        });
    };
    CHECK(meet_s(4000) < 4 * meet_s(10));
}

TEST_CASE("what a snapshot of new deleted files costs grows with them, not with their square") {
    const auto meet_s = [](int files) {
        std::vector<Row> rows;
        for (std::int32_t fd = 0; fd < files; ++fd) {
            const auto id = static_cast<std::uint64_t>(fd + 100);
            rows.push_back({.fd = fd, .path = "/tmp/f" + std::to_string(fd), .id = id, .name = NameState::deleted});
        }
        double least = 1e9;
        for (int i = 0; i < 3; ++i) {
            Pair pair;
            pair.silently(Rows(1000, 1100).process(10, early, {}));
            const Rows snapshot = Rows(2000, 2100).process(10, early, rows);
            least = std::min(least, cpu_s([&] { pair.meet(snapshot); }));
            CHECK(pair.take().size() == 2 * static_cast<std::size_t>(files) + 1);
        }
        return least;
    };
    CHECK(meet_s(18'000) < 24 * meet_s(1500));
}

TEST_CASE("what a snapshot of a deleted file costs grows with those that opened it, not with their square") {
    const auto meet_s = [](int holders) {
        std::vector<Row> named, deleted;
        for (std::int32_t fd = 0; fd < holders; ++fd) {
            named.push_back({.fd = fd, .path = "/tmp/f"});
            deleted.push_back({.fd = fd, .path = "/tmp/f", .name = NameState::deleted});
        }
        double least = 1e9;
        for (int i = 0; i < 3; ++i) {
            Pair pair;
            pair.silently(Rows(1000, 1100).process(10, early, named));
            const Rows snapshot = Rows(2000, 2100).process(10, early, deleted);
            least = std::min(least, cpu_s([&] { pair.meet(snapshot); }));
            CHECK(pair.take().size() == 2);
        }
        return least;
    };
    CHECK(meet_s(6000) < 24 * meet_s(500));
}

TEST_CASE("what a snapshot of many processes that were asked for costs grows with them, not with their square") {
    const auto meet_s = [](pid_t processes) {
        Pair pair;
        Rows rows(1000, 1100);
        for (pid_t pid = 1; pid <= processes; ++pid) {
            (void)std::move(rows).process(pid, early, {});
            pair.how.pids.push_back(pid);
        }
        pair.how.whole_index = true;
        pair.silently(rows);
        return least_cpu_s([&] { pair.silently(rows); });
    };
    CHECK(meet_s(24'000) < 24 * meet_s(2000));
}

TEST_CASE("a thread that ended while the snapshot was read gets no table back") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}}));
    pair.now_ns = 2050;
    pair.fork(10, 10, true, 11);
    pair.unshare(10, 11, {3});
    pair.exit(10, 11, false, true);
    pair.take();
    const Rows rows = Rows(2000, 2100).process(10, early, {{.fd = 3, .path = "/a", .id = 71}, {.fd = 4, .path = "/b", .id = 72, .tid = 11}});
    CHECK(pair.look(rows).equal());
    pair.meet(rows);
    CHECK(pair.take() == Lines{"resynced @2000..2100 0 0"});
    CHECK(pair.rows() == Lines{"10/3 /a @50..1100"});
}

TEST_CASE("verify tells what differs and changes nothing") {
    Pair pair;
    pair.silently(Rows(1000, 1100).process(10, early, {{3, "/a", 71}, {4, "/b", 72}, {6, "/e", 76, early, early}}).process(20, early, {{3, "/x", 73}}));
    const Lines before = pair.rows();
    const Rows rows = Rows(2000, 2100).process(10, early, {{3, "/c", 74}, {5, "/d", 75}, {6, "/e", 76, Interval::exact(51), early}})
                          .process(30, early, {{3, "/y", 77}});
    const Verification found = pair.look(rows);
    CHECK_FALSE(found.equal());
    CHECK(found.phantoms == 2);     // 10/4, 20/3
    CHECK(found.gaps == 2);         // 10/5, 30/3
    CHECK(found.other_files == 1);  // 10/3
    CHECK(found.other_times == 1);  // 10/6
    CHECK(found.compared == 2);
    CHECK(found.differences.size() == 6);
    CHECK(pair.rows() == before);
    pair.meet(rows);
    CHECK(pair.look(rows).equal());
}
