#include "service/monitor/monitor.hpp"

#include <sys/sysmacros.h>

#include <nlohmann/json.hpp>

#include "base/clock.hpp"
#include "index_feed.hpp"
#include "peer.hpp"
#include "service/control/viewer.hpp"

using namespace fdspan;
using namespace fdspan::service;
using namespace fdspan::test;
using nlohmann::json;

namespace {

// A deleted file that this process holds, as large as this.
struct HeldFile {
    UniqueFd fd;
    struct stat status {};
    explicit HeldFile(std::size_t bytes) {
        char name[] = "/tmp/fdspan-unit-XXXXXX";
        fd.reset(::mkstemp(name));
        REQUIRE(fd.valid());
        REQUIRE(::write(fd.get(), std::string(bytes, 'x').data(), bytes) == static_cast<ssize_t>(bytes));
        REQUIRE(::fsync(fd.get()) == 0);
        REQUIRE(::unlink(name) == 0);
        REQUIRE(::fstat(fd.get(), &status) == 0);
    }
    [[nodiscard]] DeviceNumber dev() const { return {major(status.st_dev), minor(status.st_dev)}; }
};

constexpr std::uint64_t second = 1'000'000'000;
constexpr DeviceNumber disk{8, 1};

// Somebody who asks, and an index that is told of processes.
struct Asked : Feed {
    Listening listening;
    Peer peer{listening, 1};
    UniqueFd accepted{::accept(listening.fd.get(), nullptr, nullptr)};
    Viewer viewer = Viewer::of_peer(accepted.get());

    Asked() {
        now_ns = 100;
        fork(1, 2);
        settle({1, 2});
    }
    void start(pid_t pid, std::uint64_t at_ns) {
        now_ns = at_ns;
        fork(1, static_cast<std::uint32_t>(pid));
        started.push_back(pid);
        settle(started);
    }
    void open_files(pid_t pid, std::int32_t from, std::int32_t to, std::uint32_t tid = 0) {
        for (std::int32_t fd = from; fd < to; ++fd) {
            Opened what;
            what.id = ++last_id;
            open(static_cast<std::uint32_t>(pid), fd, what, tid);
        }
    }
    // The file of what was opened last.
    void remove_last(const Interval& when) {
        RemovalNote note;
        note.when = when;
        REQUIRE(index.note_deleted(disk, last_id, note, {}));
    }
    void open_deleted(pid_t pid, const HeldFile& file, const Interval& when) {
        Opened what;
        what.id = ++last_id;
        what.dev = kernel_device(file.dev());
        what.ino = file.status.st_ino;
        open(static_cast<std::uint32_t>(pid), file.fd.get(), what);
        RemovalNote note;
        note.when = when;
        REQUIRE(index.note_deleted(file.dev(), file.status.st_ino, note, {}));
    }
    [[nodiscard]] json check(const Monitor& monitor) const {
        Sight sight(viewer);
        return json::parse(monitor.check_json(index, sight, true));
    }
    std::uint64_t last_id = 100;
    std::vector<pid_t> started;
};

MonitorSettings quick() {
    MonitorSettings settings;
    settings.leak_samples = 3;
    settings.leak_growth = 2;
    return settings;
}

}  // namespace

TEST_CASE("a check tells nothing of a process whose pid is another's by now") {
    Asked world;
    const bool reused = GENERATE(true, false);
    world.start(world.peer.pid, reused ? world.peer.started_ns - second : world.peer.started_ns);
    world.open_files(world.peer.pid, 3, 50);
    world.remove_last(Interval::exact(world.now_ns));
    Monitor monitor(quick());
    for (std::int32_t fd = 50; fd < 56; ++fd) {
        world.open_files(world.peer.pid, fd, fd + 1);
        monitor.sample(world.index, world.now_ns);
    }
    REQUIRE(monitor.figures().deleted.size() == 1);
    REQUIRE(monitor.figures().loads.size() == 1);
    REQUIRE(monitor.figures().leaks.size() == 1);
    const json answer = world.check(monitor);
    const std::size_t told = reused ? 0 : 1;
    CHECK(answer["deleted_files"] == told);
    CHECK(answer["deleted"].size() == told);
    CHECK(answer["loads"].size() == told);
    CHECK(answer["leaks"].size() == told);
}

TEST_CASE("a check looks at each process once, however many deleted files it holds") {
    Asked world;
    world.start(world.peer.pid, world.peer.started_ns);
    for (std::int32_t fd = 3; fd < 203; ++fd) {
        world.open_files(world.peer.pid, fd, fd + 1);
        world.remove_last(Interval::exact(world.now_ns));
    }
    Monitor monitor(quick());
    monitor.sample(world.index, world.now_ns);
    Sight sight(world.viewer);
    CHECK(json::parse(monitor.check_json(world.index, sight, true))["deleted_files"] == 200);
    CHECK(sight.looks() == 1);
}

TEST_CASE("however many deleted files are held, all count and the largest is kept") {
    Asked world;
    world.quiet = true;
    world.start(::getpid(), 1000);
    const std::int32_t first = 1 << 21;  // beyond what this process can have
    const auto others = static_cast<std::int32_t>(Monitor::max_deleted_files) + 10;
    for (std::int32_t fd = first; fd < first + others; ++fd) {
        world.open_files(::getpid(), fd, fd + 1);
        world.remove_last(Interval::exact(world.now_ns));
    }
    const HeldFile large(100'000);
    world.open_deleted(::getpid(), large, Interval::exact(world.now_ns));
    Monitor monitor(quick());
    monitor.sample(world.index, world.now_ns);
    const Monitor::Figures& figures = monitor.figures();
    CHECK(figures.deleted.size() == Monitor::max_deleted_files);
    CHECK(figures.deleted.front().ino == large.status.st_ino);
    CHECK(figures.deleted.front().bytes >= 100'000);
    CHECK(figures.deleted_sum.files == static_cast<std::uint64_t>(others) + 1);
    CHECK(figures.deleted_sum.bytes == figures.deleted.front().bytes);
    CHECK(figures.deleted_by_device.at(disk).files == static_cast<std::uint64_t>(others));
}

TEST_CASE("what was deleted before anybody watched has the age that its ctime proves, however it changes later") {
    Asked world;
    const std::uint64_t before_ns = boottime_now_ns();
    const HeldFile file(1);
    const std::uint64_t removed_ns = boottime_now_ns();
    world.start(::getpid(), 1000);
    // Found by a snapshot that began an hour later.
    const std::uint64_t hour = 3600 * second;
    world.now_ns = removed_ns + hour;
    world.open_deleted(::getpid(), file, Interval::bounded(Interval::unknown_earliest, removed_ns + hour));
    Monitor monitor(quick());
    monitor.sample(world.index, removed_ns + hour);
    const std::uint64_t age_ns = monitor.figures().deleted_oldest_ns;
    CHECK(age_ns <= removed_ns + hour - before_ns);
    CHECK(age_ns >= hour - 2 * second);
    // Nobody waits until that shows: a change moves the ctime, never what was known before.
    REQUIRE(::futimens(file.fd.get(), nullptr) == 0);
    monitor.sample(world.index, removed_ns + 2 * hour);
    CHECK(monitor.figures().deleted_oldest_ns == age_ns + hour);
    // Another file of that number is another one.
    RemovalNote note;
    note.when = Interval::exact(removed_ns + hour + second);
    world.index.set_links(file.dev(), file.status.st_ino, 1, removed_ns + hour);
    REQUIRE(world.index.note_deleted(file.dev(), file.status.st_ino, note, {}));
    monitor.sample(world.index, removed_ns + 2 * hour);
    CHECK(monitor.figures().deleted_oldest_ns == hour - second);
}

TEST_CASE("threads with descriptor tables of their own are each held against the limit") {
    Asked world;
    const pid_t pid = ::getpid();
    world.start(pid, 1000);
    world.open_files(pid, 0, 40);
    for (std::uint32_t thread = 1; thread <= 3; ++thread) world.fork(static_cast<std::uint32_t>(pid), static_cast<std::uint32_t>(pid), false, pid + thread);
    Monitor monitor(quick());
    for (std::int32_t fd = 40; fd < 50; ++fd) {
        world.open_files(pid, fd, fd + 1, static_cast<std::uint32_t>(pid) + 2);
        monitor.sample(world.index, world.now_ns);
    }
    const Monitor::Figures& figures = monitor.figures();
    CHECK(figures.open_by_type[static_cast<std::size_t>(FileType::reg)] == 170);
    REQUIRE(figures.loads.size() == 1);
    CHECK(figures.loads.front().open == 50);
    REQUIRE(figures.leaks.size() == 1);
    CHECK(figures.leaks.front().to == 50);
    CHECK(figures.leaks.front().files_open == 50);
}

TEST_CASE("a check tells users of a file that they hold, whoever else held it before, and of no other") {
    Asked world;
    const pid_t other = ::getppid();
    world.start(other, 1000);
    world.start(world.peer.pid, world.peer.started_ns);
    world.open_files(other, 3, 8);
    Opened same;
    same.id = ++world.last_id;
    same.names = std::string("mine\0tmp\0", 9);
    same.ino = world.last_id - 1;
    world.open(static_cast<std::uint32_t>(world.peer.pid), 7, same);
    Opened after = same;
    after.id = ++world.last_id;
    after.names = std::string("theirs\0tmp\0", 11);
    world.open(static_cast<std::uint32_t>(other), 20, after);
    RemovalNote note;
    note.when = Interval::exact(world.now_ns);
    REQUIRE(world.index.note_deleted(disk, same.ino, note, {}));
    REQUIRE(world.index.note_deleted(disk, same.ino - 1, note, {}));
    Monitor monitor(quick());
    monitor.sample(world.index, world.now_ns);
    REQUIRE(monitor.figures().deleted_sum.files == 2);
    json answer = world.check(monitor);
    CHECK(answer["deleted_files"] == 1);
    REQUIRE(answer["deleted"].size() == 1);
    CHECK(answer["deleted"][0]["pid"] == world.peer.pid);
    CHECK(answer["deleted"][0]["path"] == "/tmp/mine");
    SECTION("as long as they hold it") {
        world.close(static_cast<std::uint32_t>(world.peer.pid), 7, same.id, true);
        CHECK(world.check(monitor)["deleted_files"] == 0);
    }
    SECTION("and of none that took over its number") {
        world.index.set_links(disk, same.ino, 1, world.now_ns);
        note.when = Interval::exact(world.now_ns + second);
        REQUIRE(world.index.note_deleted(disk, same.ino, note, {}));
        CHECK(world.check(monitor)["deleted_files"] == 0);
    }
}

TEST_CASE("a shorter interval and a smaller window hold from the next look on") {
    Asked world;
    world.start(::getpid(), 1000);
    world.open_files(::getpid(), 0, 40);
    MonitorSettings settings = quick();
    settings.interval_ns = 60 * second;
    settings.leak_samples = 12;
    Monitor monitor(settings);
    // As many, look after look; then two more.
    std::uint64_t at_ns = 100 * second;
    for (int look = 0; look < 12; ++look) monitor.sample(world.index, at_ns += second);
    CHECK(monitor.next_ns() == at_ns + 60 * second);
    settings.interval_ns = second;
    settings.leak_samples = 3;
    monitor.set(settings);
    CHECK(monitor.next_ns() == at_ns + second);
    for (std::int32_t fd = 40; fd < 42; ++fd) {
        world.open_files(::getpid(), fd, fd + 1);
        monitor.sample(world.index, at_ns += second);
    }
    REQUIRE(monitor.figures().leaks.size() == 1);
    CHECK(monitor.figures().leaks.front().window_ns == 2 * second);
    // A longer one is waited for.
    settings.interval_ns = 10 * second;
    monitor.set(settings);
    CHECK(monitor.next_ns() == at_ns + second);
    monitor.sample(world.index, at_ns += second);
    CHECK(monitor.next_ns() == at_ns + 10 * second);
}
