#include "index_feed.hpp"

#include <fcntl.h>

using namespace fdspan;
using namespace fdspan::test;
using namespace std::string_literals;

namespace {

// A process that nobody has to guess about: forked from one that is made up.
struct Started : Feed {
    Started() {
        now_ns = 100;
        fork(1, 10);
        settle({1, 10});
        events.clear();
        now_ns = 1001;
    }
};

Opened file(std::uint64_t id, std::string names = "f\0tmp\0"s) {
    Opened what;
    what.id = id;
    what.names = std::move(names);
    return what;
}

}  // namespace

TEST_CASE("open and close are a span with its exact length") {
    Started feed;
    feed.open(10, 3, file(77));
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002"});
    feed.now_ns = 5000;
    feed.close(10, 3, 77, true, 1002);
    CHECK(feed.take() == Lines{"opened 10/3 /tmp/f @1002", "closed 10/3 /tmp/f @5001 +3999", "released 10 /tmp/f @5001 +3999"});
    CHECK(feed.rows() == Lines{});
    CHECK(feed.index.counts().descriptions == 0);
}

TEST_CASE("a duplicate has its own span, the description keeps its own") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.dup(10, 4, 77, 1002);
    feed.close(10, 3, 77, false, 1002);
    CHECK(feed.rows() == Lines{"10/4 /tmp/f @1003"});
    feed.index.lookup(10, 0, 4, [](const IndexRow& row) {
        CHECK(row.reference.description_opened == Interval::exact(1002));
        CHECK(row.reference.description_id == 77);
    });
    feed.close(10, 4, 77, true, 1002);
    CHECK(feed.take() == Lines{"opened 10/3 /tmp/f @1002", "opened 10/4 /tmp/f @1003", "closed 10/3 /tmp/f @1004 +2",
                               "closed 10/4 /tmp/f @1005 +2", "released 10 /tmp/f @1005 +3"});
}

TEST_CASE("a description is not released while the index knows another descriptor of it") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.dup(10, 4, 77, 1002);
    feed.take();
    feed.close(10, 3, 77, true, 1002);  // "last", although descriptor 4 is known
    CHECK(feed.take() == Lines{"closed 10/3 /tmp/f @1004 +2"});
    CHECK(feed.rows() == Lines{"10/4 /tmp/f @1003"});
}

TEST_CASE("what an open finds in its slot was closed unseen, before") {
    Started feed;
    feed.open(10, 3, file(77, "a\0"s));
    feed.open(10, 3, file(78, "b\0"s));
    CHECK(feed.take() == Lines{"opened 10/3 /a @1002", "closed 10/3 /a @1002..1003 +0..1", "opened 10/3 /b @1003"});
    CHECK(feed.rows() == Lines{"10/3 /b @1003"});
}

TEST_CASE("dup2 onto a descriptor of the same description begins a new span") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.dup(10, 4, 77, 1002);
    feed.take();
    SECTION("with the close seen") {
        feed.close(10, 4, 77, false, 1002);
        feed.dup(10, 4, 77, 1002);
        CHECK(feed.take() == Lines{"closed 10/4 /tmp/f @1004 +1", "opened 10/4 /tmp/f @1005"});
    }
    SECTION("with the close lost") {
        feed.dup(10, 4, 77, 1002);
        CHECK(feed.take() == Lines{"closed 10/4 /tmp/f @1003..1004 +0..1", "opened 10/4 /tmp/f @1004"});
    }
    CHECK(feed.rows().size() == 2);
}

TEST_CASE("an id that is opened again is a new description, the old one ended unseen") {
    Started feed;
    feed.open(10, 3, file(77, "old\0"s));
    feed.open(10, 4, file(77, "new\0"s));  // the struct file was freed and used again
    CHECK(feed.take() == Lines{"opened 10/3 /old @1002", "closed 10/3 /old @1002..1003 +0..1",
                               "released /old @1002..1003 +0..1", "opened 10/4 /new @1003"});
    CHECK(feed.rows() == Lines{"10/4 /new @1003"});
}

TEST_CASE("a close of what the index does not have makes no event and no phantom") {
    Started feed;
    feed.close(10, 9, 99, true, 500);
    CHECK(feed.take() == Lines{});
    CHECK(feed.index.counts().unknown_closes == 1);
    CHECK(feed.rows() == Lines{});
    feed.close(4711, 9, 98, true, 500);  // and none of a process that it does not have
    CHECK(feed.take() == Lines{});
    CHECK(feed.index.incomplete() == std::vector<pid_t>{4711});
}

TEST_CASE("a close that overtakes the news of its open leaves nothing behind") {
    Started feed;
    feed.give(Feed::closed_record(FDSPAN_RECORD_CLOSED, 2000, 10, 11, 3, 77, true, 1500));
    feed.give(opened_record(1500, 10, 10, 3, file(77)));
    CHECK(feed.take() == Lines{"opened 10/3 /tmp/f @1500", "closed 10/3 /tmp/f @2000 +500", "released 10 /tmp/f @2000 +500"});
    CHECK(feed.rows() == Lines{});
}

TEST_CASE("a close of another description than the slot's ends what was there before") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.take();
    feed.close(10, 3, 78, true, 1900);
    CHECK(feed.take() == Lines{"closed 10/3 /tmp/f @1002..1003 +0..1"});
    CHECK(feed.rows() == Lines{});
}

TEST_CASE("a record older than what its slot holds is stale") {
    Started feed;
    feed.now_ns = 5000;
    feed.open(10, 3, file(77));
    feed.take();
    feed.give(Feed::closed_record(FDSPAN_RECORD_CLOSED, 4000, 10, 10, 3, 66, true, 100));
    feed.give(opened_record(4000, 10, 10, 3, file(66)));
    CHECK(feed.take() == Lines{});
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @5001"});
    CHECK(feed.index.counts().stale_records == 2);
}

TEST_CASE("a child's descriptors were opened at the fork, their descriptions were not") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.now_ns = 2000;
    feed.fork(10, 20);
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002", "20/3 /tmp/f @2001"});
    feed.now_ns = 3000;
    feed.fork(20, 30);
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002", "20/3 /tmp/f @2001", "30/3 /tmp/f @3001"});
    CHECK(feed.index.counts().pages == 1);  // all of it is one copy
    feed.index.lookup(30, 0, 3, [](const IndexRow& row) { CHECK(row.reference.description_opened == Interval::exact(1002)); });
}

TEST_CASE("a fork's copy changes alone, whoever writes first") {
    Started feed;
    feed.open(10, 3, file(77, "a\0"s));
    feed.open(10, 4, file(78, "b\0"s));
    feed.fork(10, 20);
    feed.fork(20, 30);
    feed.take();
    SECTION("the parent") {
        feed.close(10, 3, 77, false);
        CHECK(feed.rows() == Lines{"10/4 /b @1003", "20/3 /a @1004", "20/4 /b @1004", "30/3 /a @1005", "30/4 /b @1005"});
    }
    SECTION("the child") {
        feed.close(20, 3, 77, false);
        CHECK(feed.rows() == Lines{"10/3 /a @1002", "10/4 /b @1003", "20/4 /b @1004", "30/3 /a @1005", "30/4 /b @1005"});
        feed.open(20, 3, file(79, "c\0"s));
        CHECK(feed.rows(20) == Lines{"20/3 /c @1007", "20/4 /b @1004"});
    }
    SECTION("the grandchild, after both others ended") {
        feed.exit(10, 10, true, true);
        feed.exit(20, 20, true, true);
        CHECK(feed.take() == Lines{"closed 10/3 /a @1006 +4", "closed 10/4 /b @1006 +3", "exit 10 @1006 status 256",
                                   "closed 20/3 /a @1007 +3", "closed 20/4 /b @1007 +3", "exit 20 @1007 status 256"});
        CHECK(feed.rows() == Lines{"30/3 /a @1005", "30/4 /b @1005"});
        feed.open(30, 5, file(80, "d\0"s));
        CHECK(feed.rows() == Lines{"30/3 /a @1005", "30/4 /b @1005", "30/5 /d @1008"});
        feed.close(30, 3, 77, true);
        CHECK(feed.take() == Lines{"opened 30/5 /d @1008", "closed 30/3 /a @1009 +4", "released 30 /a @1009 +7"});
    }
}

TEST_CASE("threads and CLONE_FILES tasks share one table") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.fork(10, 10, true, 11);   // a thread
    feed.fork(10, 20, true);       // a process with the same table
    feed.open(10, 4, file(78, "g\0"s), 11);
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002", "10/4 /g @1005", "20/3 /tmp/f @1002", "20/4 /g @1005"});
    CHECK(feed.index.counts().tables == 2);  // the other is that of process 1
    feed.close(20, 3, 77, true);
    CHECK(feed.rows() == Lines{"10/4 /g @1005", "20/4 /g @1005"});
    feed.take();
    feed.exit(10, 10, true, false);
    CHECK(feed.take() == Lines{"exit 10 @1007 status 256"});  // its table lives on
    CHECK(feed.rows() == Lines{"20/4 /g @1005"});
}

TEST_CASE("a thread may have a table of its own") {
    Started feed;
    feed.open(10, 3, file(77));
    SECTION("from its birth") { feed.fork(10, 10, false, 11); }
    SECTION("by unshare") {
        feed.fork(10, 10, true, 11);
        --feed.now_ns;
        feed.unshare(10, 11, {3});
    }
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002", "10:11/3 /tmp/f @1003"});
    feed.open(10, 4, file(78, "t\0"s), 11);
    feed.fork(10, 10, true, 12, 11);  // shares its maker's table
    feed.open(10, 5, file(79, "u\0"s), 12);
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002", "10:11/3 /tmp/f @1003", "10:11/4 /t @1004", "10:11/5 /u @1006",
                               "10:12/3 /tmp/f @1003", "10:12/4 /t @1004", "10:12/5 /u @1006"});
    feed.take();
    feed.exit(10, 11, false, false);
    CHECK(feed.take() == Lines{});
    feed.exit(10, 12, false, true);
    CHECK(feed.take() == Lines{"closed 10:12/3 /tmp/f @1008 +5", "closed 10:12/4 /t @1008 +4", "closed 10:12/5 /u @1008 +2"});
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002"});
}

TEST_CASE("a leader that unshares leaves the old table to its threads") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.open(10, 4, file(78, "g\0"s));
    feed.fork(10, 10, true, 11);
    feed.take();
    feed.unshare(10, 10, {3});
    CHECK(feed.take() == Lines{"closed 10/4 /g @1005 +2"});
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1005", "10:11/3 /tmp/f @1002", "10:11/4 /g @1003"});
    feed.close(10, 3, 77, false, 0, 11);
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1005", "10:11/4 /g @1003"});
}

TEST_CASE("exec ends what was not to survive, at the moment of the exec") {
    Started feed;
    feed.open(10, 3, file(77, "a\0"s));
    feed.open(10, 200, file(78, "b\0"s));
    feed.open(10, 5000, file(79, "c\0"s));
    feed.take();
    feed.exec(10, {3});
    CHECK(feed.take() == Lines{"closed 10/200 /b @1005 +2", "closed 10/5000 /c @1005 +1", "exec 10 @1005"});
    CHECK(feed.rows() == Lines{"10/3 /a @1002"});
    feed.index.lookup(10, 0, 3, [](const IndexRow& row) { CHECK(row.strings.get(row.process.comm) == "image"); });
    CHECK(feed.index.incomplete() == std::vector<pid_t>{});
    feed.exec(10, {3, 9});  // 9 came unseen
    CHECK(feed.index.incomplete() == std::vector<pid_t>{10});
}

TEST_CASE("a table too large for the exec record is left to a snapshot") {
    Started feed;
    feed.open(10, 3, file(77, "a\0"s));
    feed.take();
    feed.exec(10, {}, false, 0, 0);
    CHECK(feed.take() == Lines{"exec 10 @1003"});
    CHECK(feed.rows() == Lines{"10/3 /a @1002"});
    CHECK(feed.index.incomplete() == std::vector<pid_t>{10});
}

TEST_CASE("exec out of a shared table gets its own copy") {
    Started feed;
    feed.open(10, 3, file(77, "a\0"s));
    feed.open(10, 4, file(78, "b\0"s));
    feed.fork(10, 20, true);
    feed.take();
    feed.exec(20, {3}, true);
    CHECK(feed.take() == Lines{"closed 20/4 /b @1005 +2", "exec 20 @1005"});
    CHECK(feed.rows() == Lines{"10/3 /a @1002", "10/4 /b @1003", "20/3 /a @1005"});
    feed.close(10, 4, 78, true);
    CHECK(feed.take() == Lines{"closed 10/4 /b @1006 +3", "released 10 /b @1006 +3"});
}

TEST_CASE("a thread that execs becomes the leader and keeps its own table") {
    Started feed;
    feed.open(10, 3, file(77, "a\0"s));
    feed.fork(10, 10, false, 11);
    feed.fork(10, 10, true, 12);
    feed.open(10, 4, file(78, "b\0"s), 11);
    feed.take();
    feed.exec(10, {3, 4}, false, 11);
    CHECK(feed.take() == Lines{"closed 10/3 /a @1006 +4", "exec 10 @1006"});
    CHECK(feed.rows() == Lines{"10/3 /a @1003", "10/4 /b @1005"});
    feed.exit(10, 10, true, true);
    CHECK(feed.take() == Lines{"closed 10/3 /a @1007 +4", "closed 10/4 /b @1007 +2", "exit 10 @1007 status 256"});
}

TEST_CASE("exit ends every descriptor once, however the exits are told") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.fork(10, 10, true, 11);
    feed.take();
    SECTION("leader first") {
        feed.exit(10, 10, false, false);
        CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002"});
        feed.open(10, 4, file(78, "g\0"s), 11);
        feed.take();
        feed.exit(10, 11, true, true);
        CHECK(feed.take() == Lines{"closed 10/3 /tmp/f @1006 +4", "closed 10/4 /g @1006 +1", "exit 10 @1006 status 256"});
    }
    SECTION("group end told before the last thread's") {
        feed.exit(10, 10, true, true);
        feed.exit(10, 11, false, false);
        feed.exit(10, 11, true, true);
        CHECK(feed.take() == Lines{"closed 10/3 /tmp/f @1004 +2", "exit 10 @1004 status 256"});
    }
    CHECK_FALSE(feed.index.has_process(10));
    CHECK(feed.rows() == Lines{});
}

TEST_CASE("records of before a process's exit do not bring it back") {
    Started feed;
    feed.now_ns = 5000;
    feed.exit(10, 10, true, true);
    feed.give(opened_record(4000, 10, 11, 3, file(77)));
    CHECK_FALSE(feed.index.has_process(10));
    feed.give(opened_record(6000, 10, 10, 3, file(77)));  // that must be another one, whose fork was lost
    CHECK(feed.index.has_process(10));
    CHECK(feed.index.incomplete() == std::vector<pid_t>{10});
}

TEST_CASE("a fork with the pid of a process that ended unseen ends it") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.take();
    feed.now_ns = 50'000;
    feed.fork(1, 10);
    CHECK(feed.take() == Lines{"closed 10/3 /tmp/f @1002..50001 +0..48999", "exit 10 @1002..50001 status unknown"});
    CHECK(feed.rows() == Lines{});
    feed.fork(1, 20);
    --feed.now_ns;
    feed.fork(1, 20);  // told twice
    CHECK(feed.index.counts().processes == 3);
}

TEST_CASE("children of a process known in part are known in part") {
    Feed feed;
    feed.open(10, 3, file(77));
    feed.fork(10, 20);
    CHECK(feed.index.incomplete() == std::vector<pid_t>{10, 20});
    CHECK(feed.rows() == Lines{"10/3 /tmp/f @1001", "20/3 /tmp/f @1002"});
}

TEST_CASE("a release ends the description, and the descriptors that seem left") {
    Started feed;
    feed.open(10, 3, file(77));
    SECTION("a mapping outlived the descriptor") {
        feed.close(10, 3, 77, false, 1002);
        feed.take();
        CHECK(feed.index.counts().unheld == 1);
        feed.release(10, 77, 1002);
        CHECK(feed.take() == Lines{"released 10 /tmp/f @1004 +2"});
    }
    SECTION("by the process that holds it: the descriptor ended with it") {
        feed.take();
        feed.release(10, 77, 1002);
        CHECK(feed.take() == Lines{"closed 10/3 /tmp/f @1003 +1", "released 10 /tmp/f @1003 +1"});
    }
    SECTION("by somebody else: it ended before") {
        feed.take();
        feed.now_ns = 2000;
        feed.release(999, 77, 1002);
        CHECK(feed.take() == Lines{"closed 10/3 /tmp/f @1002..2001 +0..999", "released /tmp/f @2001 +999"});
    }
    SECTION("of another description with that id: nothing to do with it") {
        feed.take();
        feed.release(10, 77, 500);
        CHECK(feed.take() == Lines{});
        CHECK(feed.rows() == Lines{"10/3 /tmp/f @1002"});
        return;
    }
    CHECK(feed.rows() == Lines{});
    CHECK(feed.index.counts().descriptions == 0);
}

TEST_CASE("a description received from nowhere has the times the kernel knows") {
    Started feed;
    Opened what = file(77);
    what.how = FDSPAN_HOW_RECEIVED;
    what.description_ns = 400;
    what.description_latest_ns = 600;
    feed.open(10, 3, what);
    what.id = 78;
    what.description_ns = what.description_latest_ns = 0;
    feed.open(10, 4, what);
    feed.index.lookup(10, 0, 3, [](const IndexRow& row) {
        CHECK(row.reference.description_opened == Interval::bounded(400, 600));
        CHECK(row.reference.opened == Interval::exact(1002));
    });
    feed.index.lookup(10, 0, 4, [](const IndexRow& row) { CHECK(row.reference.description_opened == Interval::bounded(0, 1003)); });
    feed.take();
    feed.close(10, 4, 78, true);
    CHECK(feed.take().back() == "released 10 /tmp/f @1004 +1.." + std::to_string(~std::uint64_t{0}));
}

TEST_CASE("descriptions without an id are never mixed up") {
    Started feed;
    feed.open(10, 3, file(0, "a\0"s));
    feed.open(10, 4, file(0, "b\0"s));
    CHECK(feed.rows() == Lines{"10/3 /a @1002", "10/4 /b @1003"});
    feed.close(10, 3, 0, false);
    CHECK(feed.rows() == Lines{"10/4 /b @1003"});
    CHECK(feed.index.counts().descriptions == 1);
}

TEST_CASE("a row carries what the record said") {
    Started feed;
    Opened what = file(77, "log\0var\0"s);
    what.flags = O_WRONLY | O_APPEND;
    what.cloexec = true;
    what.nlink = 70'000;
    what.ino = 123;
    feed.open(10, 3, what);
    int seen = 0;
    feed.index.for_each_of_file({8, 1}, 123, [&](const IndexRow& row) {
        ++seen;
        CHECK(row.process.ppid == 1);
        CHECK(row.strings.get(row.process.comm) == "child");
        CHECK(row.reference.type == FileType::reg);
        CHECK(row.reference.flags == (O_WRONLY | O_APPEND | O_CLOEXEC));
        CHECK(row.reference.nlink == 70'000);
        CHECK(row.reference.dev == DeviceNumber{8, 1});
        CHECK(row.reference.name == NameState::named);
        CHECK(row.strings.get(row.reference.path.name) == "/var/log");
    });
    CHECK(seen == 1);
    Opened epoll = file(78, "[eventpoll]\0"s);
    epoll.magic = 0x09041934;
    epoll.path_flags = FDSPAN_PATH_LABEL;
    feed.open(10, 4, epoll);
    Opened pipe = file(79, "");
    pipe.mode = S_IFIFO;
    pipe.path_flags = FDSPAN_PATH_NONE;
    feed.open(10, 5, pipe);
    feed.index.lookup(10, 0, 4, [](const IndexRow& row) { CHECK(row.strings.get(row.reference.type_name) == "eventpoll"); });
    CHECK(feed.rows(10) == Lines{"10/3 /var/log @1002", "10/4 anon_inode:[eventpoll] @1003", "10/5 pipe:[79] @1004"});
}

TEST_CASE("queries by path find the thing itself and what lies below") {
    Started feed;
    feed.open(10, 3, file(71, "a\0log\0var\0"s));
    feed.open(10, 4, file(72, "b\0deep\0log\0var\0"s));
    Opened dir = file(73, "log\0var\0"s);
    dir.mode = S_IFDIR;
    feed.open(10, 5, dir);
    feed.open(10, 6, file(74, "logs\0var\0"s));
    feed.open(10, 7, file(75, "/\0"s));
    Opened cut = file(76, "x\0log\0"s);
    cut.path_flags = FDSPAN_PATH_CUT;
    feed.open(10, 8, cut);
    const auto under = [&](std::string_view path) {
        Lines out;
        feed.index.for_each_under(path, Feed::into(out));
        std::sort(out.begin(), out.end());
        return out;
    };
    CHECK(under("/var/log") == Lines{"10/3 /var/log/a @1002", "10/4 /var/log/deep/b @1003", "10/5 /var/log @1004"});
    CHECK(under("/var/log/") == under("/var/log"));
    CHECK(under("/var/log/deep/b") == Lines{"10/4 /var/log/deep/b @1003"});
    CHECK(under("/var/lo") == Lines{});
    CHECK(under("relative") == Lines{});
    CHECK(under("/").size() == 5);
    CHECK(under("…/log") == Lines{"10/8 …/log/x @1007"});
    for (int fd = 3; fd <= 8; ++fd) feed.close(10, fd, static_cast<std::uint64_t>(68 + fd), true);
    CHECK(under("/") == Lines{});
    // What the cache of directories keeps is bounded; here at most "/", "/var", "/var/log", …
    CHECK(feed.index.counts().directories <= 8);
}

TEST_CASE("queries by age and by deletion follow the changes") {
    Started feed;
    for (int i = 0; i < 10'000; ++i) feed.open(10, i, file(static_cast<std::uint64_t>(1000 + i)));
    const auto older = [&](std::uint64_t at_ns) {
        std::size_t count = 0;
        feed.index.for_each_older_than(at_ns, [&](const IndexRow&) { ++count; });
        return count;
    };
    CHECK(older(1001) == 0);
    CHECK(older(1002) == 1);
    CHECK(older(1011) == 10);
    for (int i = 0; i < 5; ++i) feed.close(10, i, static_cast<std::uint64_t>(1000 + i), true);
    CHECK(older(1011) == 5);
    CHECK(older(1011) == 5);
    CHECK(older(~std::uint64_t{0} >> 1) == 9'995);

    Lines deleted;
    feed.index.for_each_deleted(Feed::into(deleted));
    CHECK(deleted == Lines{});
    CHECK(feed.index.set_links({8, 1}, 9000, 0, feed.now_ns) == 1);
    CHECK(feed.index.set_links({8, 1}, 9001, 1, feed.now_ns) == 1);
    CHECK(feed.index.set_links({8, 2}, 9002, 0, feed.now_ns) == 0);
    feed.index.for_each_deleted(Feed::into(deleted));
    CHECK(deleted == Lines{"10/8000 /tmp/f @9002"});
    feed.close(10, 8000, 9000, true);
    deleted.clear();
    feed.index.for_each_deleted(Feed::into(deleted));
    CHECK(deleted == Lines{});
    CHECK(feed.index.check() == "");
}

TEST_CASE("a descriptor shared by fork is one description with several references") {
    Started feed;
    feed.open(10, 3, file(77));
    feed.fork(10, 20);
    feed.fork(10, 30);
    feed.dup(30, 9, 77, 1002);
    Lines holders;
    feed.index.for_each_of_description(77, Feed::into(holders));
    std::sort(holders.begin(), holders.end());
    CHECK(holders == Lines{"10/3 /tmp/f @1002", "20/3 /tmp/f @1003", "30/3 /tmp/f @1004", "30/9 /tmp/f @1005"});
}

TEST_CASE("an absurd descriptor number costs no memory") {
    Started feed;
    const std::size_t before = feed.index.index_bytes();
    feed.open(10, std::numeric_limits<std::int32_t>::max(), file(77));
    CHECK(feed.index.index_bytes() < before + 100'000);
    CHECK(feed.index.incomplete() == std::vector<pid_t>{10});
}

TEST_CASE("memory follows what is open, not what was") {
    Feed feed;
    feed.quiet = true;
    feed.fork(1, 10);
    std::size_t after_first = 0;
    for (int round = 0; round < 6; ++round) {
        // Other paths, other processes, other descriptions every time.
        for (int i = 0; i < 20'000; ++i) {
            const auto n = static_cast<std::uint64_t>(round * 20'000 + i + 1);
            const std::string names = "file" + std::to_string(n) + '\0' + "dir" + std::to_string(n % 500 + n / 20'000 * 1000) + '\0';
            const auto child = static_cast<std::uint32_t>(100 + n % 1000);
            if (i % 50 == 0) feed.fork(10, child);
            feed.open(10, static_cast<std::int32_t>(i % 1000), file(n, names));
            if (i % 50 == 25) feed.exit(static_cast<std::uint32_t>(100 + (n - 25) % 1000), 0, true, true);
            if (i % 2 == 0) feed.close(10, static_cast<std::int32_t>(i % 1000), n, true);
        }
        feed.now_ns += 200'000'000'000;  // histories are bounded in time
        for (int fd = 0; fd < 1000; ++fd) {
            feed.open(10, fd, file(1'000'000'000 + static_cast<std::uint64_t>(fd)));
            feed.close(10, fd, 1'000'000'000 + static_cast<std::uint64_t>(fd), true);
        }
        for (std::uint32_t pid = 100; pid < 1100; ++pid) feed.exit(pid, pid, true, true);
        feed.settle({1, 10});
        if (round == 1) after_first = feed.index.index_bytes();
    }
    CHECK(feed.index.check() == "");
    CHECK(feed.index.counts().processes == 2);
    CHECK(feed.index.counts().descriptors == 0);
    CHECK(feed.index.index_bytes() <= after_first + after_first / 8);
    CHECK(feed.index.counts().directories < 200);
}

TEST_CASE("the room of names that went serves names of other lengths once they are packed") {
    Feed feed;
    feed.quiet = true;
    const auto used = [&] { return feed.index.index_bytes() - feed.index.reusable_bytes(); };
    std::uint64_t id = 0;
    const auto next = [&](std::size_t length) {
        ++id;
        return file(id, std::to_string(100'000 + id) + std::string(length, 'n') + "\0tmp\0srv\0"s);
    };
    feed.open(10, 3, next(7));
    const std::size_t before = used();
    for (std::size_t length = 10; length < 250; length += 4) {
        const std::uint64_t first = id;
        for (std::int32_t fd = 4; fd < 1004; ++fd) feed.open(10, fd, next(length));
        for (std::int32_t fd = 4; fd < 1004; ++fd) feed.close(10, fd, first + static_cast<std::uint64_t>(fd) - 3, true);
    }
    feed.index.bound_history(0);
    feed.open(10, 4, next(9));
    feed.close(10, 4, id, true);
    CHECK(used() > before + 4'000'000);
    CHECK(feed.index.pack_names());
    CHECK(used() < before + (256 << 10));
    CHECK_FALSE(feed.index.pack_names());
    CHECK(feed.index.check() == "");
    CHECK(feed.rows() == Lines{"10/3 /srv/tmp/100001nnnnnnn @1001"});
    feed.open(10, 5, next(20));
    CHECK(feed.rows().size() == 2);
}

TEST_CASE("a million descriptors take at most 128 bytes each, paths included") {
    // Unshared, all of different files, spread over processes as RLIMIT_NOFILE would have it.
    constexpr std::uint32_t processes = 100;
    constexpr std::int32_t each = 10'000;
    Feed feed;
    feed.quiet = true;
    std::uint64_t id = 0;
    for (std::uint32_t p = 0; p < processes; ++p) {
        feed.fork(1, 100 + p);
        for (std::int32_t fd = 0; fd < each; ++fd) {
            ++id;
            const std::string names = "some-file-" + std::to_string(id) + ".log\0"s + std::to_string(id % 64) + "\0data\0srv\0"s;
            feed.open(100 + p, fd, file(id, names));
        }
    }
    CHECK(feed.index.counts().descriptors == std::uint64_t{processes} * each);
    const double bytes = static_cast<double>(feed.index.index_bytes()) / (processes * each);
    WARN("index bytes per descriptor: " << bytes);
    CHECK(bytes <= 128.0);
    // A fork of all of it costs next to nothing.
    const std::size_t before = feed.index.index_bytes();
    for (std::uint32_t p = 0; p < processes; ++p) feed.fork(100 + p, 1000 + p);
    CHECK(feed.index.counts().descriptors == std::uint64_t{processes} * each * 2);
    CHECK(static_cast<double>(feed.index.index_bytes() - before) / (processes * each) < 3.0);
}
