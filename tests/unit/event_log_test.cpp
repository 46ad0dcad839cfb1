// The event log: what is written is there, whatever happens to the file; and every question is answered through an index.
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <set>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include "base/clock.hpp"
#include "base/unique_fd.hpp"
#include "service/log/event_log.hpp"
#include "service/log/reader.hpp"
#include "service/log/schema.hpp"
#include "service/log/store.hpp"

using namespace fdspan;
using namespace fdspan::service;

namespace {

constexpr std::uint64_t second = 1'000'000'000;

struct Folder {
    std::string path;
    Folder() {
        char name[] = "/tmp/fdspan-log-XXXXXX";
        path = ::mkdtemp(name);
    }
    ~Folder() { std::filesystem::remove_all(path); }
    [[nodiscard]] std::string file(const std::string& name) const { return path + "/" + name; }
};

LogRow closed_row(const std::string& path, pid_t pid, std::uint64_t when_ns, std::uint64_t duration_ns) {
    LogRow row;
    row.kind = EventKind::closed;
    row.when = Interval::exact(when_ns);
    row.pid = pid;
    row.comm = "worker";
    row.ref = RefKind::fd;
    row.fd = 3;
    row.type = FileType::reg;
    row.name = NameState::named;
    row.path = path;
    row.opened = Interval::exact(when_ns - duration_ns);
    row.description_opened = row.opened;
    row.duration = Interval::exact(duration_ns);
    return row;
}

std::vector<LogRow> ask(const std::string& path, LogQuery query = {}) {
    auto reader = LogReader::open(path);
    REQUIRE(reader);
    std::vector<LogRow> rows;
    REQUIRE(reader->query(query, [&](const LogRow& row) {
        rows.push_back(row);
        return true;
    }));
    return rows;
}

std::unique_ptr<LogStore> open_store(const StoreSettings& settings) {
    auto store = LogStore::open(settings);
    REQUIRE(store);
    return std::move(*store);
}

template <class Condition>
bool eventually(Condition&& holds) {
    for (int attempt = 0; attempt < 3000; ++attempt) {
        if (holds()) return true;
        ::usleep(20'000);
    }
    return false;
}

// An EventLog with what it said.
struct Running {
    std::mutex mutex;
    std::string said;
    std::unique_ptr<EventLog> log;
    explicit Running(const std::string& path, std::size_t max_rows = 65536) : Running(settings_for(path, max_rows)) {}
    static EventLogSettings settings_for(const std::string& path, std::size_t max_rows) {
        EventLogSettings settings;
        settings.store.path = path;
        settings.commit_interval_ns = 20'000'000;
        settings.max_rows = max_rows;
        settings.format = [](std::string& out, const LogRow& row) { out += row.path; };
        return settings;
    }
    explicit Running(const EventLogSettings& settings) {
        log = std::make_unique<EventLog>(settings, [this](EventLog::Severity, const std::string& text) {
            const std::lock_guard lock(mutex);
            said += text + "\n";
        });
    }
    bool has_said(const std::string& text) {
        const std::lock_guard lock(mutex);
        return said.find(text) != std::string::npos;
    }
};

// A socket like the journal's, which is read when the test says so.
struct FakeJournal {
    UniqueFd socket{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    std::string path, last;
    explicit FakeJournal(const std::string& at) : path(at) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        path.copy(address.sun_path, sizeof address.sun_path - 1);
        REQUIRE(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    }
    ~FakeJournal() { ::unlink(path.c_str()); }
    std::size_t read_all() {
        std::size_t count = 0;
        char entry[65536];
        for (ssize_t bytes = 0; (bytes = ::recv(socket.get(), entry, sizeof entry, 0)) >= 0; ++count) last.assign(entry, static_cast<std::size_t>(bytes));
        return count;
    }
};

}  // namespace

TEST_CASE("every field of a row comes back as it was written", "[log]") {
    const Folder folder;
    LogRow row;
    row.kind = EventKind::deleted;
    row.when = Interval::bounded(5 * second, 7 * second);
    row.pid = 12;
    row.uid = 4000000000U;
    row.process_started = Interval::exact(4 * second);
    row.comm = "a\xff z";
    row.container = "docker:12";
    row.ref = RefKind::mem;
    row.type = FileType::anon;
    row.type_name = "eventpoll";
    row.name = NameState::deleted;
    row.deleted = true;
    row.dev = {254, 3};
    row.ino = 0xfedcba9876543210U;
    row.path = "/srv/data/na\nme \xfe";
    row.opened = Interval::bounded(Interval::unknown_earliest, 6 * second);
    row.description_opened = Interval::exact(6 * second);
    row.description_id = 0xffffffffffffff01U;
    row.held_deleted = Interval::bounded(1, 2);
    row.duration = Interval::bounded(second, std::numeric_limits<std::uint64_t>::max());
    row.bytes = 1U << 20;
    row.how = Removal::rename;
    row.by = LogCulprit{99, 1000, "mv", "/usr/bin/mv", "/system.slice"};
    row.holders = {{12, -1, RefKind::mem, "a"}, {13, 7, RefKind::fd, "b"}};
    row.holder_count = 5;
    auto store = open_store({folder.file("e.db")});
    REQUIRE(store->write(std::vector{row}));

    const auto rows = ask(folder.file("e.db"));
    REQUIRE(rows.size() == 1);
    const LogRow& back = rows.front();
    CHECK(back.id == 1);
    CHECK(back.kind == row.kind);
    CHECK(back.when == row.when);
    CHECK(back.pid == row.pid);
    CHECK(back.uid == row.uid);
    CHECK(back.process_started == row.process_started);
    CHECK(back.comm == row.comm);
    CHECK(back.container == row.container);
    CHECK(back.ref == row.ref);
    CHECK(back.fd == row.fd);
    CHECK(back.type == row.type);
    CHECK(back.type_name == row.type_name);
    CHECK(back.name == row.name);
    CHECK(back.deleted);
    CHECK(back.dev == row.dev);
    CHECK(back.ino == row.ino);
    CHECK(back.path == row.path);
    CHECK(back.opened == row.opened);
    CHECK(back.description_opened == row.description_opened);
    CHECK(back.description_id == row.description_id);
    CHECK(back.held_deleted == row.held_deleted);
    CHECK(back.duration == row.duration);
    CHECK(back.bytes == row.bytes);
    CHECK(back.how == row.how);
    REQUIRE(back.by);
    CHECK(back.by->comm == "mv");
    CHECK(back.by->exe == "/usr/bin/mv");
    CHECK(back.by->cgroup == "/system.slice");
    CHECK(back.by->uid == 1000);
    REQUIRE(back.holders.size() == 2);
    CHECK(back.holders[1].fd == 7);
    CHECK(back.holders[0].ref == RefKind::mem);
    CHECK(back.holder_count == 5);
    CHECK(back.boot_id.size() == 36);
    CHECK(std::abs(back.time_ns - WallClock::now().to_realtime_ns(7 * second)) < 1'000'000'000);
}

TEST_CASE("a pipe's number is no name of its own", "[log]") {
    const Folder folder;
    auto store = open_store({folder.file("e.db")});
    std::vector<LogRow> rows;
    for (std::uint64_t ino = 1; ino <= 100; ++ino) {
        LogRow row = closed_row("pipe:[" + std::to_string(ino) + "]", 1, second * ino, 1);
        row.name = NameState::nameless;
        row.ino = ino;
        rows.push_back(row);
    }
    REQUIRE(store->write(rows));
    auto connection = Connection::open(folder.file("e.db"), SQLITE_OPEN_READONLY);
    REQUIRE(connection);
    CHECK(connection->integer("SELECT count(*) FROM paths").value() == 1);
    CHECK(ask(folder.file("e.db")).front().path == "pipe:[100]");
    LogQuery query;
    query.path_glob = "pipe:";
    CHECK(ask(folder.file("e.db"), query).size() == 100);
    query.ino = 50;
    REQUIRE(ask(folder.file("e.db"), query).size() == 1);
    CHECK(ask(folder.file("e.db"), query).front().path == "pipe:[50]");
    query.ino = 101;
    CHECK(ask(folder.file("e.db"), query).empty());
}

TEST_CASE("ids go on where they ended when the log is opened again", "[log]") {
    const Folder folder;
    for (int round = 0; round < 3; ++round) {
        auto store = open_store({folder.file("e.db")});
        REQUIRE(store->write(std::vector{closed_row("/a", 1, second * 5, second)}));
        CHECK(store->last_id() == round + 1);
    }
}

TEST_CASE("a database of an older version is migrated with its rows", "[log]") {
    const Folder folder;
    for (std::int64_t version = 1; version < schema_version; ++version) {
        const std::string path = folder.file("v" + std::to_string(version) + ".db");
        {
            auto connection = Connection::open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
            REQUIRE(connection);
            REQUIRE(migrate(*connection, version));
            REQUIRE(connection->execute("INSERT INTO segments VALUES(1, 'boot', 1, 0, 0);"
                                        "INSERT INTO dirs VALUES(3, '/srv/'); INSERT INTO paths VALUES(8, 3, 'from long ago.db');"
                                        "INSERT INTO events(id, segment, kind, time_ns, when_ns, when_width, pid, comm, dir, path) VALUES(1, 1, 5, 7, 7, 0, 42, 'old', 3, 8)"));
            CHECK(connection->integer("PRAGMA user_version").value() == version);
        }
        // Reading it needs the daemon first.
        CHECK_FALSE(LogReader::open(path));
        auto store = open_store({path});
        REQUIRE(store->write(std::vector{closed_row("/a", 1, second * 5, second)}));
        const auto rows = ask(path);
        REQUIRE(rows.size() == 2);
        CHECK(rows.back().comm == "old");
        LogQuery query;
        query.path_glob = "*long*.db";
        REQUIRE(ask(path, query).size() == 1);
        CHECK(ask(path, query).front().path == "/srv/from long ago.db");
    }
}

TEST_CASE("a database of a newer version is left alone", "[log]") {
    const Folder folder;
    {
        auto store = open_store({folder.file("e.db")});
        auto connection = Connection::open(folder.file("e.db"), SQLITE_OPEN_READWRITE);
        REQUIRE(connection->execute("PRAGMA user_version = 99"));
    }
    auto store = LogStore::open({folder.file("e.db")});
    REQUIRE_FALSE(store);
    CHECK(store.error().message.find("newer") != std::string::npos);
    Running running(folder.file("e.db"));
    running.log->push(closed_row("/a", 1, second, 1));
    CHECK(eventually([&] { return running.has_said("newer"); }));
    CHECK(running.log->status().state == LogState::unusable);
}

TEST_CASE("a corrupt database is set aside, and what came meanwhile stands in a new one", "[log]") {
    const Folder folder;
    const std::string path = folder.file("e.db");
    SECTION("from the beginning") { std::ofstream(path) << std::string(100000, 'x'); }
    SECTION("in its middle") {
        auto store = open_store({path});
        std::vector<LogRow> rows;
        for (int number = 0; number < 5000; ++number) rows.push_back(closed_row("/f" + std::to_string(number), 1, second * 5, second));
        REQUIRE(store->write(rows));
        store.reset();
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        for (int page = 2; page < 100; page += 3) {
            file.seekp(page * 4096);
            file << std::string(4096, '\x5a');
        }
    }
    Running running(path);
    running.log->push(closed_row("/new", 7, second * 9, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1; }));
    CHECK(running.has_said("set aside as " + path + ".corrupt-"));
    CHECK(running.log->status().set_aside == 1);
    const auto rows = ask(path);
    REQUIRE(rows.size() == 1);
    CHECK(rows.front().path == "/new");
    int kept = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path)) kept += entry.path().string().find(".corrupt-") != std::string::npos;
    CHECK(kept >= 1);
}

TEST_CASE("a database that is deleted under the log is put back with every row", "[log]") {
    const Folder folder;
    std::filesystem::create_directory(folder.file("d"));
    const std::string path = folder.file("d/e.db");
    Running running(path);
    for (int number = 0; number < 1000; ++number) running.log->push(closed_row("/f" + std::to_string(number), 1, second * 5, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1000; }));
    SECTION("the file") { std::filesystem::remove(path); }
    SECTION("its companions, too") {
        for (const char* const companion : {"", "-wal", "-shm"}) std::filesystem::remove(path + companion);
    }
    SECTION("the whole directory") { std::filesystem::remove_all(folder.file("d")); }
    SECTION("its write-ahead log alone") { std::filesystem::remove(path + "-wal"); }
    SECTION("the index of that alone") { std::filesystem::remove(path + "-shm"); }
    SECTION("what it contains") { std::filesystem::resize_file(path, 0); }
    running.log->push(closed_row("/after", 1, second * 6, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1001 && running.log->status().restored == 1; }));
    REQUIRE(eventually([&] { return running.log->status().state == LogState::ok && std::filesystem::exists(path); }));
    const auto rows = ask(path);
    CHECK(rows.size() == 1001);
    CHECK(rows.front().path == "/after");
    auto connection = Connection::open(path, SQLITE_OPEN_READONLY);
    CHECK(connection->text("PRAGMA integrity_check").value() == "ok");
}

TEST_CASE("a database that a link leads to is put back where it was", "[log]") {
    const Folder folder;
    std::filesystem::create_directory(folder.file("d"));
    std::filesystem::create_symlink(folder.file("d/e.db"), folder.file("e.db"));
    const std::string path = folder.file("e.db");
    Running running(path);
    running.log->push(closed_row("/before", 1, second * 5, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1; }));
    SECTION("when its write-ahead log was deleted") { std::filesystem::remove(folder.file("d/e.db-wal")); }
    SECTION("when it was deleted") { std::filesystem::remove(folder.file("d/e.db")); }
    REQUIRE(eventually([&] { return running.log->status().restored == 1 && running.log->status().state == LogState::ok; }));
    running.log.reset();
    CHECK(ask(path).size() == 1);
    CHECK(std::filesystem::is_symlink(path));
}

TEST_CASE("a link to the database that is deleted is put back, and one that leads elsewhere is followed", "[log]") {
    const Folder folder;
    std::filesystem::create_directory(folder.file("d"));
    const std::string path = folder.file("e.db"), target = folder.file("d/e.db");
    std::filesystem::create_symlink(target, path);
    Running running(path);
    running.log->push(closed_row("/before", 1, second * 5, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1; }));
    std::size_t expected = 2;
    bool moved = false;
    SECTION("the link alone") { std::filesystem::remove(path); }
    SECTION("and the write-ahead log") {
        std::filesystem::remove(path);
        std::filesystem::remove(target + "-wal");
    }
    SECTION("another link") {
        std::filesystem::create_symlink(folder.file("d/other.db"), folder.file("link"));
        std::filesystem::rename(folder.file("link"), path);
        moved = true;
        expected = 1;
    }
    REQUIRE(eventually([&] { return std::filesystem::exists(path); }));
    running.log->push(closed_row("/after", 1, second * 6, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 2; }));
    CHECK(running.log->status().restored == (moved ? 0 : 1));
    running.log.reset();
    CHECK(std::filesystem::is_symlink(path));
    const auto rows = ask(path);
    REQUIRE(rows.size() == expected);
    CHECK(rows.front().path == "/after");
    CHECK(ask(target).size() == (moved ? 1 : 2));
}

TEST_CASE("a database that is emptied when only it had the rows is set aside and begun anew", "[log]") {
    const Folder folder;
    const std::string path = folder.file("e.db");
    Running running(path);
    for (int number = 0; number < 1000; ++number) running.log->push(closed_row("/f" + std::to_string(number), 1, second * 5, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1000; }));
    {
        auto connection = Connection::open(path, SQLITE_OPEN_READWRITE);
        REQUIRE(connection->execute("PRAGMA wal_checkpoint(TRUNCATE)"));
    }
    std::filesystem::resize_file(path, 0);
    REQUIRE(eventually([&] { return running.log->status().set_aside == 1; }));
    running.log->push(closed_row("/after", 1, second * 6, second));
    running.log.reset();
    const auto rows = ask(path);
    REQUIRE(rows.size() == 1);
    CHECK(rows.front().path == "/after");
}

TEST_CASE("a corrupt database that a link leads to is set aside where it is", "[log]") {
    const Folder folder;
    std::filesystem::create_directory(folder.file("d"));
    std::ofstream(folder.file("d/e.db")) << std::string(100000, 'x');
    std::filesystem::create_symlink(folder.file("d/e.db"), folder.file("e.db"));
    Running running(folder.file("e.db"));
    running.log->push(closed_row("/new", 7, second * 9, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1; }));
    CHECK(running.has_said("set aside as " + folder.file("d/e.db") + ".corrupt-"));
    CHECK(ask(folder.file("d/e.db")).size() == 1);
}

TEST_CASE("what is no regular file is neither used as a database nor moved", "[log]") {
    const Folder folder;
    const std::string path = folder.file("e.db");
    SECTION("a folder") { std::filesystem::create_directory(path); }
    SECTION("a FIFO") { REQUIRE(::mkfifo(path.c_str(), 0600) == 0); }
    SECTION("a link to a device") { std::filesystem::create_symlink("/dev/null", path); }
    Running running(path);
    running.log->push(closed_row("/x", 7, second * 9, second));
    REQUIRE(eventually([&] { return running.has_said(path + " is not a regular file, and left alone"); }));
    CHECK(running.log->status().state == LogState::unusable);
    running.log.reset();
    CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
}

TEST_CASE("another file in the database's place is used from then on", "[log]") {
    const Folder folder;
    Running running(folder.file("e.db"));
    running.log->push(closed_row("/before", 1, second * 5, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1; }));
    (void)open_store({folder.file("other.db")});
    std::filesystem::rename(folder.file("other.db"), folder.file("e.db"));
    for (const char* const companion : {"-wal", "-shm"}) std::filesystem::remove(folder.file(std::string("e.db") + companion));
    running.log->push(closed_row("/after", 1, second * 6, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 2; }));
    CHECK(running.has_said("replaced"));
    const auto rows = ask(folder.file("e.db"));
    REQUIRE(rows.size() == 1);
    CHECK(rows.front().path == "/after");
}

TEST_CASE("a locked database is written when the lock goes; what memory can't hold is counted in the log itself", "[log]") {
    const Folder folder;
    const std::string path = folder.file("e.db");
    Running running(path, 100);
    running.log->push(closed_row("/first", 1, second * 5, second));
    REQUIRE(eventually([&] { return running.log->status().committed == 1; }));
    {
        auto locker = Connection::open(path, SQLITE_OPEN_READWRITE);
        REQUIRE(locker->execute("BEGIN IMMEDIATE"));
        running.log->push(closed_row("/second", 1, second * 6, second));
        REQUIRE(eventually([&] { return running.log->status().state == LogState::locked; }));
        // More than memory may hold, on both sides of the writer.
        for (int number = 0; number < 500; ++number) {
            running.log->push(closed_row("/f" + std::to_string(number), 1, second * 7, second));
            if (number % 50 == 0) ::usleep(30'000);
        }
        REQUIRE(eventually([&] { return running.log->status().dropped > 0; }));
        REQUIRE(locker->execute("ROLLBACK"));
    }
    REQUIRE(eventually([&] { return running.log->status().state == LogState::ok && running.log->status().queued == 0; }));
    LogStatus status = running.log->status();
    REQUIRE(eventually([&] {
        status = running.log->status();
        return status.committed + status.dropped >= 502;
    }));
    running.log.reset();
    const auto rows = ask(path);
    std::uint64_t kept = 0, lost = 0;
    for (const LogRow& row : rows) {
        if (row.kind == EventKind::lost) lost += row.lost_records;
        else ++kept;
    }
    CHECK(kept + lost == 502);
    CHECK(lost == status.dropped);
    CHECK(lost >= 300);
}

TEST_CASE("a wall clock that jumps neither hides nor removes a row", "[log]") {
    const Folder folder;
    std::int64_t jump_ns = 0;
    StoreSettings settings{folder.file("e.db")};
    settings.max_age_ns = 3600 * second;
    settings.clock = [&] {
        WallClock clock = WallClock::now();
        clock.offset_ns += jump_ns;
        return clock;
    };
    auto store = open_store(settings);
    const std::uint64_t now = boottime_now_ns();
    REQUIRE(store->write(std::vector{closed_row("/before", 1, now - 2 * second, second)}));
    CHECK(store->last_clock_step_ns() == 0);
    for (const std::int64_t years : {10, -20}) {
        jump_ns = years * 365 * 86400 * static_cast<std::int64_t>(second);
        REQUIRE(store->write(std::vector{closed_row("/at" + std::to_string(years), 1, now, second)}));
        CHECK(std::abs(store->last_clock_step_ns()) > static_cast<std::int64_t>(second));
        REQUIRE(store->retain());
        REQUIRE(store->retain());
    }
    store.reset();
    // The same after a restart in the same boot.
    store = open_store(settings);
    REQUIRE(store->retain());
    jump_ns = 0;
    REQUIRE(store->write(std::vector{closed_row("/after", 1, now, second)}));
    REQUIRE(store->retain());
    CHECK(ask(settings.path).size() == 4);
    LogQuery recent;
    recent.since_ns = WallClock::now().to_realtime_ns(now) - 60 * static_cast<std::int64_t>(second);
    recent.until_ns = *recent.since_ns + 120 * static_cast<std::int64_t>(second);
    CHECK(ask(settings.path, recent).size() == 2);
}

TEST_CASE("rows go when they are too old, those of earlier boots by the time that surely passed", "[log]") {
    const Folder folder;
    StoreSettings settings{folder.file("e.db")};
    const std::uint64_t now = boottime_now_ns();
    settings.max_age_ns = 100 * second;
    {
        auto store = open_store(settings);
        REQUIRE(store->write(std::vector{closed_row("/old", 1, now - 200 * second, second), closed_row("/young", 2, now - 10 * second, second)}));
        REQUIRE(store->retain());
        REQUIRE(store->retain());
        REQUIRE(ask(settings.path).size() == 1);
        auto connection = Connection::open(settings.path, SQLITE_OPEN_READONLY);
        CHECK(connection->integer("SELECT count(*) FROM paths").value() == 1);
    }
    // The next boot: the clock says a century passed; a week of it counts.
    settings.boot_id = "the next boot";
    settings.max_age_ns = LogStore::max_downtime_ns + 2 * now;
    settings.clock = [] {
        WallClock clock = WallClock::now();
        clock.offset_ns += 100LL * 365 * 86400 * 1'000'000'000;
        return clock;
    };
    {
        auto store = open_store(settings);
        REQUIRE(store->write(std::vector{closed_row("/next", 1, now, second)}));
        REQUIRE(store->retain());
        CHECK(ask(settings.path).size() == 2);
        store->set_retention(LogStore::max_downtime_ns, settings.max_bytes);
        REQUIRE(store->retain());
        const auto rows = ask(settings.path);
        REQUIRE(rows.size() == 1);
        CHECK(rows.front().path == "/next");
    }
}

TEST_CASE("a log that is too large gives the oldest rows and their space back", "[log]") {
    const Folder folder;
    StoreSettings settings{folder.file("e.db")};
    settings.max_bytes = 4U << 20;
    auto store = open_store(settings);
    const std::uint64_t now = boottime_now_ns();
    for (int batch = 0; batch < 10; ++batch) {
        std::vector<LogRow> rows;
        for (int number = 0; number < 4000; ++number) {
            rows.push_back(closed_row("/some/directory/file-" + std::to_string(batch * 4000 + number), 1,
                                      now + static_cast<std::uint64_t>(batch) * second, second));
        }
        REQUIRE(store->write(rows));
        for (int round = 0; round < 20; ++round) {
            auto more = store->retain();
            REQUIRE(more);
            if (!*more) break;
        }
    }
    auto connection = Connection::open(settings.path, SQLITE_OPEN_READWRITE);
    REQUIRE(connection->execute("PRAGMA wal_checkpoint(TRUNCATE)"));
    CHECK(std::filesystem::file_size(settings.path) <= settings.max_bytes + (1U << 20));
    CHECK(connection->text("PRAGMA integrity_check").value() == "ok");
    LogQuery query;
    const auto rows = ask(settings.path, query);
    CHECK(rows.size() > 2000);
    CHECK(rows.front().id == 40000);
    CHECK(connection->integer("SELECT count(*) FROM paths").value() == static_cast<std::int64_t>(rows.size()));
}

TEST_CASE("every question has the answer that looking at each row gives, and is answered through an index", "[log]") {
    const Folder folder;
    const std::string path = folder.file("e.db");
    auto store = open_store({path});
    std::mt19937_64 random(7);
    const auto pick = [&](std::uint64_t bound) { return random() % bound; };
    const char* const dirs[] = {"/var/log/", "/var/log/nginx/", "/srv/", "/tmp/", "/var/logs/", ""};
    const char* const endings[] = {".log", ".log", ".log", "", "", "\"'.c", "\xff.log", " (deleted)", "-long-name", "-\u00fc", "\u6587\u4ef6\u540d", "-\xc3\xbc\xbc", "-\xe6\x96", "-\ufffe"};
    const std::uint64_t now = boottime_now_ns();
    std::vector<LogRow> rows;
    for (int number = 0; number < 4000; ++number) {
        const std::string name = dirs[pick(6)] + std::string(pick(2) != 0 ? "f" : "g") + std::to_string(pick(300)) + endings[pick(std::size(endings))];
        LogRow row = closed_row(name, static_cast<pid_t>(1 + pick(20)), now - pick(3600) * second, std::uint64_t{1} << pick(45));
        if (pick(10) == 0) row.deleted = true;
        if (pick(5) == 0) row.bytes = std::uint64_t{1} << pick(40);
        if (pick(50) == 0) {
            row = LogRow{};
            row.kind = EventKind::lost;
            row.when = Interval::exact(now - pick(3600) * second);
            row.lost_records = 3;
        }
        rows.push_back(row);
    }
    REQUIRE(store->write(rows));
    auto reader = LogReader::open(path);
    REQUIRE(reader);
    std::vector<LogRow> all;
    REQUIRE(reader->query({}, [&](const LogRow& row) {
        all.push_back(row);
        return true;
    }));
    REQUIRE(all.size() == rows.size());
    CHECK(std::is_sorted(all.begin(), all.end(), [](const LogRow& a, const LogRow& b) {
        return std::pair(a.time_ns, a.id) > std::pair(b.time_ns, b.id);
    }));
    CHECK(reader->lost(std::nullopt, std::nullopt).value() ==
          3U * static_cast<std::uint64_t>(std::count_if(all.begin(), all.end(), [](const LogRow& row) { return row.kind == EventKind::lost; })));

    const char* const globs[] = {"/var/log/*", "/var/log/f*", "/var/*/f1?.log", "/var/lo?/f?2.log", "/var/log?f1?", "/*/f?f?.log", "/*/g12?log", "*.log", "/srv/f7.log", "/srv/f7", "/nowhere/*", "f*", "*", "/tmp/[fg]1*", "/var/log\\*",
                                 "*.c", "*\"'.c", "*g7*", "*/log*", "*/log/*", "*ng*x*1?", "*f12.log", "*/f12.log", "*[gf]12.log", "*-long*", "*-long-name", "*\xff.log", "?srv?f?", "/\?\?\?/f?", "*deleted)", "/tmp/*1?(*",
                                 "/srv/f7\"'.c", "*o*/*", "**", "*/*/*/f?.log", "/v*log/f*.log", "*lo?/g1*", "\?\?", "*?", "*[!x]",
                                 "*g*", "*~", "*.o", "*d)", "*7", "*9.*", "*z*", "*\"*", "*\xff*", "*/g[12]*", "/tmp/f[13]\?.log", "*g[79]?[0-9]*", "*[g]29[!7]*", "*[]x]g1*", "*/[fg][19]", "*[",
                                 "*\\g1*", "*[[:digit:]].log", "*g1[", "/srv[/x]g1*", "/srv[!x]g2?*", "?[s]rv?*7*", "*\\",
                                 "*\u00fc*", "*-\u00fc", "*\u4ef6*", "*\u6587\u4ef6\u540d", "*\u4ef6\u540d*", "/tmp/f*\u6587*\u540d", "*\xbc*", "*\xe6*", "*\ufffe", "*\u00e9*", "/srv/*[\u00fc]*"};
    std::size_t nonempty = 0;
    // Every way there is, however few rows there are to go it for.
    std::vector<LogReader> readers;
    for (const LogEffort& effort : {LogEffort{}, LogEffort{{2, 10}, 50, {100000, 1000000}, 20000, 100, 7}, LogEffort{{2, 10}, 20, {3, 12}, 3, 1, 10}, LogEffort{{0, 0}, 4000, {0, 0}, 0, 30, 1}}) {
        auto opened = LogReader::open(path, effort);
        REQUIRE(opened);
        readers.push_back(std::move(*opened));
    }
    for (int round = 0; round < 400; ++round) {
        LogQuery query;
        if (pick(3) == 0) query.since_ns = all[pick(all.size())].time_ns;
        if (pick(4) == 0) query.until_ns = all[pick(all.size())].time_ns;
        if (pick(4) != 0) query.path_glob = globs[pick(std::size(globs))];
        if (pick(4) == 0) query.pids = {static_cast<pid_t>(1 + pick(22)), static_cast<pid_t>(1 + pick(22))};
        if (pick(4) == 0) query.deleted = true;
        if (pick(5) == 0) query.min_duration_ns = (std::uint64_t{1} << pick(45)) + pick(2);
        if (pick(4) == 0) query.min_bytes = (std::uint64_t{1} << pick(40)) - pick(2);
        if (pick(2) == 0) query.limit = 1 + pick(30);
        std::vector<std::int64_t> expected;
        for (const LogRow& row : all) {
            if (query.limit && expected.size() == *query.limit) break;
            if (query.since_ns && row.time_ns < *query.since_ns) continue;
            if (query.until_ns && row.time_ns > *query.until_ns) continue;
            if (!query.path_glob.empty() && (row.path.empty() || ::fnmatch(query.path_glob.c_str(), row.path.c_str(), 0) != 0)) continue;
            if (!query.pids.empty() && std::find(query.pids.begin(), query.pids.end(), row.pid) == query.pids.end()) continue;
            if (query.deleted && !row.deleted) continue;
            if (query.min_duration_ns && (!row.duration || row.duration->earliest_ns < *query.min_duration_ns)) continue;
            if (query.min_bytes && (!row.bytes || *row.bytes < *query.min_bytes)) continue;
            expected.push_back(row.id);
        }
        nonempty += expected.empty() ? 0 : 1;
        for (std::size_t at = 0; at < readers.size(); ++at) {
            std::vector<std::int64_t> found;
            REQUIRE(readers[at].query(query, [&](const LogRow& row) {
                found.push_back(row.id);
                return true;
            }));
            INFO("round " << round << " reader " << at << " glob " << query.path_glob);
            REQUIRE(found == expected);
            const auto plan = readers[at].explain();
            REQUIRE(plan);
            for (const std::string& step : *plan) CHECK(step.starts_with("SEARCH events USING"));
        }
    }
    CHECK(nonempty > 60);
}

TEST_CASE("whoever reads slowly keeps neither the write-ahead log growing nor rows from going", "[log]") {
    const Folder folder;
    StoreSettings settings{folder.file("e.db")};
    auto store = open_store(settings);
    const std::uint64_t now = boottime_now_ns();
    std::vector<LogRow> rows;
    // Many of one time, as polling finds them.
    for (std::uint64_t number = 0; number < 200; ++number) rows.push_back(closed_row("/d/f" + std::to_string(number % 5), 1, now - number / 50 * second, second));
    REQUIRE(store->write(rows));
    auto reader = LogReader::open(settings.path, LogEffort{{5000, 20000}, 30000, {100000, 20000000}, 20000, 20, 10});
    auto other = Connection::open(settings.path, SQLITE_OPEN_READWRITE);
    REQUIRE((reader && other));
    LogQuery query;
    bool after = false;
    SECTION("by time") {}
    SECTION("by several names") { query.path_glob = "/d/f[0-4]"; }
    SECTION("what was written since") { after = true; }
    std::vector<std::int64_t> seen;
    const auto visit = [&](const LogRow& row) {
        seen.push_back(row.id);
        // 0: nobody reads in it.
        CHECK(other->integer("PRAGMA wal_checkpoint(TRUNCATE)").value() == 0);
        if (seen.size() == 25) {
            REQUIRE(other->execute("DELETE FROM events WHERE id > 150"));
            REQUIRE(store->write(std::vector{closed_row("/d/f0", 1, now + second, second)}));
        }
        return true;
    };
    if (after) {
        REQUIRE(reader->query_after(query, 0, visit).value() == 201);
        CHECK(seen.size() == 151);
    } else {
        REQUIRE(reader->query(query, visit));
        CHECK(seen.size() == 150);
    }
    CHECK(std::set(seen.begin(), seen.end()).size() == seen.size());
}

TEST_CASE("a loss is told to whoever asks for any part of its time", "[log]") {
    const Folder folder;
    StoreSettings settings{folder.file("e.db")};
    constexpr std::int64_t minute = 60LL * 1'000'000'000;
    const std::int64_t offset = 1000 * minute;
    settings.clock = [&] { return WallClock{offset, 0}; };
    auto store = open_store(settings);
    const auto lose = [&](const Interval& when, std::uint64_t records) {
        LogRow row;
        row.kind = EventKind::lost;
        row.when = when;
        row.lost_records = records;
        REQUIRE(store->write(std::vector{row}));
    };
    lose(Interval::bounded(100 * minute, 160 * minute), 7);
    lose(Interval::exact(300 * minute), 20);
    auto reader = LogReader::open(settings.path);
    REQUIRE(reader);
    const auto lost = [&](std::int64_t since, std::int64_t until) { return reader->lost(offset + since * minute, offset + until * minute).value(); };
    CHECK(lost(110, 130) == 7);  // inside of it
    CHECK(lost(90, 100) == 7);
    CHECK(lost(160, 170) == 7);
    CHECK(lost(90, 170) == 7);
    CHECK(lost(90, 99) == 0);
    CHECK(lost(161, 299) == 0);
    CHECK(lost(161, 300) == 20);
    CHECK(lost(301, 400) == 0);
    CHECK(lost(0, 400) == 27);
    lose(Interval::bounded(Interval::unknown_earliest, 200 * minute), 100);
    CHECK(lost(1, 2) == 100);
    CHECK(lost(201, 202) == 0);
}

TEST_CASE("the JSON file is rotated by size", "[log]") {
    const Folder folder;
    JsonlFile file({folder.file("log"), 1000, 2}, [](std::string& out, const LogRow& row) { out += row.path; });
    for (int number = 0; number < 100; ++number) {
        file.add(closed_row("/" + std::string(98, static_cast<char>('a' + number % 26)), 1, 1, 1));
        REQUIRE(file.flush().empty());
    }
    CHECK(std::filesystem::file_size(folder.file("log")) <= 1000);
    CHECK(std::filesystem::file_size(folder.file("log.1")) == 1000);
    CHECK(std::filesystem::file_size(folder.file("log.2")) == 1000);
    CHECK_FALSE(std::filesystem::exists(folder.file("log.3")));
    CHECK(file.dropped() == 0);
}

TEST_CASE("lines that a JSON file does not take are counted, and leave no half line behind", "[log]") {
    const Folder folder;
    JsonlFile file({folder.file("log"), 1000, 2}, [](std::string& out, const LogRow& row) { out += row.path; });
    file.add(closed_row("/whole", 1, 1, 1));
    REQUIRE(file.flush().empty());
    struct sigaction ignored {}, before {};
    ignored.sa_handler = SIG_IGN;
    ::sigaction(SIGXFSZ, &ignored, &before);
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    const rlimit small{10, limit.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &small);
    for (int number = 0; number < 3; ++number) file.add(closed_row("/x", 1, 1, 1));
    const std::string problem = file.flush();
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::sigaction(SIGXFSZ, &before, nullptr);
    CHECK_FALSE(problem.empty());
    CHECK(file.dropped() == 3);
    CHECK(std::filesystem::file_size(folder.file("log")) == 7);
}

TEST_CASE("a JSON file that is no regular file is neither written to nor waited for nor renamed", "[log]") {
    const Folder folder;
    const std::string path = folder.file("log");
    const auto format = [](std::string& out, const LogRow& row) { out += row.path; };
    SECTION("a FIFO that nobody reads") { REQUIRE(::mkfifo(path.c_str(), 0600) == 0); }
    SECTION("a device") { std::filesystem::create_symlink("/dev/full", path); }
    SECTION("a folder") { std::filesystem::create_directory(path); }
    JsonlFile file({path, 1, 2}, format);
    for (int round = 0; round < 2; ++round) {
        file.add(closed_row("/x", 1, 1, 1));
        CHECK(file.flush() == path + " is not a regular file, and left alone");
    }
    CHECK(file.dropped() == 2);
    CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
}

TEST_CASE("a JSON file that is deleted or emptied under the log is gone on with from there", "[log]") {
    const Folder folder;
    const std::string path = folder.file("log");
    JsonlFile file({path, GENERATE(10U, 100U), 2}, [](std::string& out, const LogRow& row) { out += row.path; });
    file.add(closed_row("/before", 1, 1, 1));
    REQUIRE(file.flush().empty());
    SECTION("deleted") { std::filesystem::remove(path); }
    SECTION("emptied, as logrotate's copytruncate does it") { std::filesystem::resize_file(path, 0); }
    file.add(closed_row("/after", 1, 1, 1));
    REQUIRE(file.flush().empty());
    REQUIRE(std::filesystem::exists(path));
    CHECK(std::filesystem::file_size(path) == 7);
    CHECK(std::distance(std::filesystem::directory_iterator(folder.path), {}) == 1);
}

TEST_CASE("a rotation puts nothing in the place of what is no regular file", "[log]") {
    const Folder folder;
    REQUIRE(::mkfifo(folder.file("log.2").c_str(), 0600) == 0);
    JsonlFile file({folder.file("log"), 1, 2}, [](std::string& out, const LogRow& row) { out += row.path; });
    file.add(closed_row("/x", 1, 1, 1));
    REQUIRE(file.flush().empty());
    file.add(closed_row("/x", 1, 1, 1));
    CHECK(file.flush() == folder.file("log.2") + " is not a regular file, and left alone");
    CHECK(std::filesystem::is_fifo(folder.file("log.2")));
    CHECK(std::filesystem::file_size(folder.file("log")) == 3);
}

TEST_CASE("a journal that takes nothing keeps neither the database nor the end waiting", "[log]") {
    const Folder folder;
    FakeJournal journal(folder.file("socket"));
    EventLogSettings settings;
    settings.store.path = folder.file("e.db");
    settings.commit_interval_ns = 10'000'000;
    settings.journal = true;
    settings.journal_socket = folder.file("socket");
    settings.format = [](std::string& out, const LogRow& row) { out += row.path; };
    Running running(settings);
    constexpr int rows = 5000;  // more than any socket's queue
    for (int number = 0; number < rows; ++number) running.log->push(closed_row("/f" + std::to_string(number), 1, second * 5, second));
    REQUIRE(eventually([&] { return running.log->status().committed == rows; }));
    REQUIRE(eventually([&] { return running.has_said("the journal does not take events"); }));
    SECTION("which is told") { REQUIRE(eventually([&] { return running.log->status().sinks_dropped > 0; })); }
    SECTION("and is over when it takes them again") {
        REQUIRE(eventually([&] { return running.log->status().sinks_dropped > 0; }));
        std::size_t taken = 0;
        REQUIRE(eventually([&] {
            taken += journal.read_all();
            return taken + running.log->status().sinks_dropped == rows;
        }));
        CHECK(journal.last.find("\nFDSPAN_PATH=/f") != std::string::npos);
        CHECK(journal.last.find("\nPRIORITY=6\n") != std::string::npos);
        running.log->push(closed_row("/with\nnewline", 1, second * 6, second));
        REQUIRE(eventually([&] { return journal.read_all() == 1; }));
        CHECK(journal.last.find(std::string("\nFDSPAN_PATH\n\x0d\0\0\0\0\0\0\0/with\nnewline\n", 35)) != std::string::npos);
        CHECK(eventually([&] { return running.has_said("the journal takes rows again"); }));
    }
    const std::uint64_t ends_ns = boottime_now_ns();
    running.log.reset();
    CHECK(boottime_now_ns() - ends_ns < 8 * second);
}

TEST_CASE("new settings alone do not make the journal take rows again", "[log]") {
    const Folder folder;
    EventLogSettings settings = Running::settings_for("", 100);
    settings.journal = true;
    settings.journal_socket = folder.file("socket");
    Running running(settings);
    running.log->push(closed_row("/x", 1, second * 5, second));
    REQUIRE(eventually([&] { return running.has_said("the journal does not take events"); }));
    settings.jsonl = JsonlSettings{folder.file("log")};
    running.log->reconfigure(settings);
    REQUIRE(eventually([&] { return std::filesystem::exists(folder.file("log")); }));
    running.log->push(closed_row("/y", 1, second * 6, second));
    REQUIRE(eventually([&] { return running.log->status().sinks_dropped == 2; }));
    CHECK_FALSE(running.has_said("takes rows again"));
}

TEST_CASE("a restarted journal is found again", "[log]") {
    const Folder folder;
    Journal journal(folder.file("socket"));
    const LogRow row = closed_row("/x", 1, 1, 1);
    CHECK(journal.send(row, "{}", 0) == ENOENT);
    for (int round = 0; round < 2; ++round) {
        FakeJournal fake(folder.file("socket"));
        CHECK(journal.send(row, "{}", 0) == 0);
        CHECK(fake.read_all() == 1);
    }
}

TEST_CASE("the policy keeps deletions, losses and what may have lived long", "[log]") {
    StringTable strings;
    Process process;
    Reference reference;
    reference.name = NameState::named;
    Event event;
    event.strings = &strings;
    event.process = &process;
    event.reference = &reference;
    event.kind = EventKind::closed;
    const LogPolicy policy;
    event.duration = Interval::exact(second - 1);
    CHECK_FALSE(policy.keeps(event));
    event.duration = Interval::exact(second);
    CHECK(policy.keeps(event));
    event.duration = Interval::bounded(0, 2 * second);
    CHECK(policy.keeps(event));
    event.kind = EventKind::released;
    CHECK_FALSE(policy.keeps(event));
    event.duration = Interval::exact(1);
    reference.name = NameState::deleted;
    CHECK(policy.keeps(event));
    event.kind = EventKind::opened;
    CHECK_FALSE(policy.keeps(event));
    event.kind = EventKind::deleted;
    CHECK(policy.keeps(event));
    event.kind = EventKind::lost;
    CHECK(policy.keeps(event));
}
