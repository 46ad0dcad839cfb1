// check_deletions: takes names away from files that are held, in every combination of a way of removing, a way of holding and a file
// system, and wants each told once by `fdspan watch --json`: when, how, by whom, held by whom, how many bytes; then their release.
//
//   check_deletions [--fdspan PATH] [--backend NAME] [--older] [--sample] [--only TEXT] [--verbose] [DIRECTORY]...
//
// Each DIRECTORY is on a file system to try; besides these it tries a tmpfs and, on it, an overlay, which it mounts for itself in a
// mount namespace of its own; an unprivileged caller has only what is given. --older: the files are held before the watching begins.
// --sample: each way of removing with one way of holding, and each way of holding with two of removing. --only: those whose names
// contain TEXT ("tmpfs unlink fd"). All files have one name, each in a directory of its own, so that a name alone never tells which
// one is meant.
#include <ftw.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <thread>

#include <nlohmann/json.hpp>

#include "programs.hpp"

namespace truth {
namespace {

using Json = nlohmann::json;

struct Settings {
    std::string fdspan = "fdspan";
    std::string backend = "syscall";
    std::vector<std::string> directories;
    bool older = false;
    bool sample = false;
    bool verbose = false;
    std::string only;
};

[[noreturn]] void die(const char* what) {
    std::fprintf(stderr, "check_deletions: %s: %s\n", what, std::strerror(errno));
    ::_exit(99);
}
void must(bool good, const char* what) {
    if (!good) die(what);
}

// ---- ways of holding: run in a process of its own, which waits then ----

enum class Hold { fd, fork, mem, exe, thread, mount_namespace, flight, cwd, dir_fd, root };
struct HoldWay {
    Hold hold;
    const char* name;
    bool of_directory;
    const char* ref;  // how a holder shows; null: it does not
};
constexpr int patience_s = 60;  // for news that must come

constexpr HoldWay hold_ways[] = {
    {Hold::fd, "fd", false, "fd"},         {Hold::fork, "fork", false, "fd"},
    {Hold::mem, "mem", false, "mem"},      {Hold::exe, "exe", false, "exe"},
    {Hold::thread, "thread", false, "fd"}, {Hold::mount_namespace, "mount-namespace", false, "fd"},
    {Hold::flight, "flight", false, nullptr}, {Hold::cwd, "cwd", true, "cwd"},
    {Hold::dir_fd, "dir-fd", true, "fd"},  {Hold::root, "root", true, "root"},
};

void wait_for_end(int in) {
    char byte;
    while (::read(in, &byte, 1) < 0 && errno == EINTR) {}
    ::_exit(0);
}

[[noreturn]] void hold_it(Hold hold, const std::string& path, int in, int ready) {
    const auto tell = [ready] { must(::write(ready, "r", 1) == 1, "tell"); };
    switch (hold) {
        case Hold::fd: must(::open(path.c_str(), O_RDWR) >= 0, "open"); break;
        case Hold::fork: {
            must(::open(path.c_str(), O_RDWR) >= 0, "open");
            const pid_t child = ::fork();
            must(child >= 0, "fork");
            if (child == 0) wait_for_end(in);
            break;
        }
        case Hold::mem: {
            const int fd = ::open(path.c_str(), O_RDONLY);
            must(fd >= 0 && ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED, "mmap");
            ::close(fd);
            break;
        }
        case Hold::exe: {
            ::dup2(in, 0);
            ::dup2(ready, 1);
            ::execl(path.c_str(), "held", "--wait", nullptr);
            die("exec");
        }
        case Hold::thread:
            std::thread([&] {
                must(::unshare(CLONE_FILES) == 0, "unshare");
                must(::open(path.c_str(), O_RDONLY) >= 0, "open");
                tell();
                wait_for_end(in);
            }).join();
            break;
        case Hold::mount_namespace:
            must(::unshare(CLONE_NEWNS) == 0, "unshare");
            must(::open(path.c_str(), O_RDONLY) >= 0, "open");
            break;
        case Hold::flight: {
            int pair[2];
            const int fd = ::open(path.c_str(), O_RDONLY);
            must(fd >= 0 && ::socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0, "socketpair");
            char byte = 'x';
            iovec io{&byte, 1};
            alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
            msghdr message{};
            message.msg_iov = &io;
            message.msg_iovlen = 1;
            message.msg_control = control;
            message.msg_controllen = sizeof control;
            cmsghdr* const header = CMSG_FIRSTHDR(&message);
            *header = {CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
            std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
            must(::sendmsg(pair[0], &message, 0) == 1, "sendmsg");
            ::close(fd);
            break;
        }
        case Hold::cwd: must(::chdir(path.c_str()) == 0, "chdir"); break;
        case Hold::dir_fd: must(::open(path.c_str(), O_RDONLY | O_DIRECTORY) >= 0, "open"); break;
        case Hold::root: must(::chroot(path.c_str()) == 0, "chroot"); break;
    }
    tell();
    wait_for_end(in);
    ::_exit(0);
}

// ---- ways of removing: run in a process of its own, which ends at once ----

enum class Remove { unlink, unlinkat, relative, by_symlink, dots, rename, renameat, last_link, after_move, moved_directory, marked, exchange, ring_unlink, ring_rename, rmdir, remove_dir, rename_dir };
struct RemoveWay {
    Remove remove;
    const char* name;
    bool of_directory;
    const char* how;             // of the deleted event; null: there is none
    const char* unlinked_first;  // how the unlinked event before says it was done
};
constexpr RemoveWay remove_ways[] = {
    {Remove::unlink, "unlink", false, "unlink", nullptr},
    {Remove::unlinkat, "unlinkat", false, "unlink", nullptr},
    {Remove::relative, "relative", false, "unlink", nullptr},
    {Remove::by_symlink, "by-symlink", false, "unlink", nullptr},
    {Remove::dots, "dots", false, "unlink", nullptr},
    {Remove::rename, "rename", false, "rename", nullptr},
    {Remove::renameat, "renameat", false, "rename", nullptr},
    {Remove::last_link, "last-link", false, "unlink", "unlink"},
    {Remove::after_move, "after-move", false, "unlink", nullptr},
    {Remove::moved_directory, "moved-directory", false, "unlink", nullptr},
    {Remove::marked, "marked", false, nullptr, nullptr},
    {Remove::exchange, "exchange", false, nullptr, nullptr},
    {Remove::ring_unlink, "ring-unlink", false, "unlink", nullptr},
    {Remove::ring_rename, "ring-rename", false, "rename", nullptr},
    {Remove::rmdir, "rmdir", true, "rmdir", nullptr},
    {Remove::remove_dir, "remove-dir", true, "rmdir", nullptr},
    {Remove::rename_dir, "rename-dir", true, "rename", nullptr},
};

struct Cell {
    const RemoveWay* remove = nullptr;
    const HoldWay* hold = nullptr;
    std::string file_system;
    bool on_overlay = false;
    std::string home;         // its directory
    std::string path;         // of the file when its last name goes
    std::uint64_t allocated = 0;
    std::uint64_t ino = 0;
    pid_t holder = -1;
    int release = -1;         // closing it lets the holder go
    pid_t first_culprit = -1, culprit = -1;
    std::uint64_t first_from_ns = 0, first_to_ns = 0;
    std::uint64_t from_ns = 0, to_ns = 0, released_from_ns = 0, released_to_ns = 0;
    [[nodiscard]] std::string name() const { return file_system + " " + remove->name + " " + hold->name; }
};

bool by_ring(const RemoveWay& way) { return way.remove == Remove::ring_unlink || way.remove == Remove::ring_rename; }

// One request to an io_uring of its own. False with errno: it failed.
bool ring_do(const io_uring_sqe& request) {
    io_uring_params p{};
    const int fd = static_cast<int>(::syscall(SYS_io_uring_setup, 1, &p));
    if (fd < 0) return false;
    const auto map = [fd](std::size_t bytes, off_t what) {
        void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, what);
        must(at != MAP_FAILED, "map an io_uring");
        return static_cast<char*>(at);
    };
    char* const submissions = map(p.sq_off.array + p.sq_entries * sizeof(std::uint32_t), IORING_OFF_SQ_RING);
    char* const completions = map(p.cq_off.cqes + p.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING);
    *reinterpret_cast<io_uring_sqe*>(map(p.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES)) = request;
    *reinterpret_cast<std::uint32_t*>(submissions + p.sq_off.array) = 0;
    std::atomic_ref(*reinterpret_cast<std::uint32_t*>(submissions + p.sq_off.tail)) = 1;
    const bool entered = ::syscall(SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) == 1;
    const int result = entered ? reinterpret_cast<io_uring_cqe*>(completions + p.cq_off.cqes)->res : -errno;
    ::close(fd);
    errno = result < 0 ? -result : 0;
    return result >= 0;
}

bool has_rings() {
    io_uring_sqe request{};
    request.opcode = IORING_OP_UNLINKAT;
    request.fd = AT_FDCWD;
    request.addr = reinterpret_cast<std::uintptr_t>("");
    return !ring_do(request) && errno == ENOENT;
}

void write_file(const std::string& path, std::size_t bytes) {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    must(fd >= 0, path.c_str());
    const std::string text(bytes, 'x');
    must(::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && ::fsync(fd) == 0, "write");
    ::close(fd);
}

void copy_program(const std::string& path) {
    const int from = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const int to = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    must(from >= 0 && to >= 0, "copy");
    std::vector<char> bytes(1U << 20);
    for (ssize_t got = 0; (got = ::read(from, bytes.data(), bytes.size())) > 0;) must(::write(to, bytes.data(), static_cast<std::size_t>(got)) == got, "copy");
    must(::fsync(to) == 0, "fsync");
    ::close(from);
    ::close(to);
}

void prepare(Cell& cell, std::vector<int>& releases) {
    must(::mkdir(cell.home.c_str(), 0755) == 0, "mkdir");
    const std::string victim = cell.home + "/victim";
    if (cell.remove->of_directory) must(::mkdir(victim.c_str(), 0755) == 0, "mkdir");
    else if (cell.hold->hold == Hold::exe) copy_program(victim);
    else write_file(victim, 5000);
    switch (cell.remove->remove) {
        case Remove::by_symlink: must(::symlink(cell.home.c_str(), (cell.home + "-link").c_str()) == 0, "symlink"); break;
        case Remove::rename:
        case Remove::renameat:
        case Remove::ring_rename:
        case Remove::exchange: write_file(cell.home + "/other", 10); break;
        case Remove::last_link: must(::link(victim.c_str(), (cell.home + "/second").c_str()) == 0, "link"); break;
        case Remove::rename_dir: must(::mkdir((cell.home + "/other").c_str(), 0755) == 0, "mkdir"); break;
        default: break;
    }
    cell.path = victim;
    if (cell.remove->remove == Remove::after_move) cell.path = cell.home + "/moved";
    if (cell.remove->remove == Remove::moved_directory) cell.path = cell.home + "-moved/victim";
    int release[2], ready[2];
    must(::pipe2(release, O_CLOEXEC) == 0 && ::pipe2(ready, O_CLOEXEC) == 0, "pipe");
    cell.holder = ::fork();
    must(cell.holder >= 0, "fork");
    if (cell.holder == 0) {
        // Every copy of a pipe's end would keep the holder of it waiting.
        ::close(release[1]);
        for (const int other : releases) ::close(other);
        hold_it(cell.hold->hold, victim, release[0], ready[1]);
    }
    ::close(release[0]);
    ::close(ready[1]);
    char byte;
    must(::read(ready[0], &byte, 1) == 1, cell.name().c_str());
    ::close(ready[0]);
    cell.release = release[1];
    releases.push_back(release[1]);
    struct stat st {};
    must(::stat(victim.c_str(), &st) == 0, "stat");
    cell.allocated = static_cast<std::uint64_t>(st.st_blocks) * 512;
    cell.ino = st.st_ino;
}

// In a child, which is gone at once.
pid_t culprit(const std::function<bool()>& work, std::uint64_t& from_ns, std::uint64_t& to_ns) {
    int began[2];
    must(::pipe2(began, O_CLOEXEC) == 0, "pipe");
    const pid_t child = ::fork();
    must(child >= 0, "fork");
    if (child == 0) {
        std::uint64_t times[2];
        times[0] = boottime_ns();
        const bool done = work();
        times[1] = boottime_ns();
        if (!done) die("remove");
        ::_exit(::write(began[1], times, sizeof times) == sizeof times ? 0 : 1);
    }
    ::close(began[1]);
    std::uint64_t times[2] = {0, 0};
    const bool told = ::read(began[0], times, sizeof times) == sizeof times;
    ::close(began[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    must(told && status == 0, "a removal failed");
    from_ns = times[0];
    to_ns = times[1];
    return child;
}

// What comes before the last name goes, for those that have two steps.
void remove_first(Cell& cell) {
    const std::string victim = cell.home + "/victim";
    const auto step = [&](const std::function<bool()>& work) { cell.first_culprit = culprit(work, cell.first_from_ns, cell.first_to_ns); };
    switch (cell.remove->remove) {
        case Remove::last_link: step([&] { return ::unlink(victim.c_str()) == 0; }); break;
        case Remove::after_move: step([&] { return ::rename(victim.c_str(), cell.path.c_str()) == 0; }); break;
        case Remove::moved_directory: step([&] { return ::rename(cell.home.c_str(), (cell.home + "-moved").c_str()) == 0; }); break;
        default: break;
    }
}

void remove_last(Cell& cell) {
    const std::string victim = cell.home + "/victim";
    const std::string other = cell.home + "/other";
    const int home = ::open(cell.home.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    io_uring_sqe request{};
    request.opcode = cell.remove->remove == Remove::ring_unlink ? IORING_OP_UNLINKAT : IORING_OP_RENAMEAT;
    request.fd = AT_FDCWD;
    request.addr = reinterpret_cast<std::uintptr_t>(cell.remove->remove == Remove::ring_unlink ? victim.c_str() : other.c_str());
    if (cell.remove->remove == Remove::ring_rename) {
        request.addr2 = reinterpret_cast<std::uintptr_t>(victim.c_str());
        request.len = static_cast<std::uint32_t>(AT_FDCWD);
    }
    // Nobody can tell two of them apart that go within one tick of the clock that stamps inodes.
    constexpr useconds_t apart_us = 60'000;
    if (by_ring(*cell.remove)) ::usleep(apart_us);
    cell.culprit = culprit(
        [&] {
            switch (cell.remove->remove) {
                case Remove::unlink: return ::unlink(victim.c_str()) == 0;
                case Remove::unlinkat: return ::unlinkat(home, "victim", 0) == 0;
                case Remove::relative: return ::chdir(cell.home.c_str()) == 0 && ::unlink("victim") == 0;
                case Remove::by_symlink: return ::unlink((cell.home + "-link/victim").c_str()) == 0;
                case Remove::dots:
                    return ::chdir(cell.home.c_str()) == 0 &&
                           ::unlink((".././" + cell.home.substr(cell.home.rfind('/') + 1) + "//victim").c_str()) == 0;
                case Remove::rename: return ::rename(other.c_str(), victim.c_str()) == 0;
                case Remove::renameat: return ::renameat(home, "other", home, "victim") == 0;
                case Remove::last_link: return ::unlink((cell.home + "/second").c_str()) == 0;
                case Remove::after_move:
                case Remove::moved_directory: return ::unlink(cell.path.c_str()) == 0;
                case Remove::marked: return ::rename(victim.c_str(), (victim + " (deleted)").c_str()) == 0;
                case Remove::exchange: return ::syscall(SYS_renameat2, AT_FDCWD, victim.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == 0;
                case Remove::ring_unlink:
                case Remove::ring_rename: return ring_do(request);
                case Remove::rmdir: return ::rmdir(victim.c_str()) == 0;
                case Remove::remove_dir: return ::unlinkat(home, "victim", AT_REMOVEDIR) == 0;
                case Remove::rename_dir: return ::rename(other.c_str(), victim.c_str()) == 0;
            }
            return false;
        },
        cell.from_ns, cell.to_ns);
    if (by_ring(*cell.remove)) ::usleep(apart_us);
    ::close(home);
}

void let_go(Cell& cell) {
    cell.released_from_ns = boottime_ns();
    ::close(cell.release);
    // A child of the holder may outlive it by a moment; all have gone when the last copy of the pipe's other end has.
    ::waitpid(cell.holder, nullptr, 0);
}

// ---- what was told ----

// Of the cell that a path is of; the directory may have been moved.
std::string home_of(const std::string& path) {
    constexpr std::string_view moved = "-moved";
    std::string home = path.substr(0, path.rfind('/'));
    if (home.ends_with(moved)) home.resize(home.size() - moved.size());
    return home;
}

// With another link left nothing but a snapshot shows the syscall backend a holder that has no descriptor; and through /proc nobody
// can tell on overlayfs whether the name a file is shown by is still there.
bool is_doubtful(const Settings& settings, const Cell& cell) {
    const bool late = settings.backend == "syscall" && (cell.hold->hold == Hold::mem || cell.hold->hold == Hold::exe);
    return late || (settings.backend == "procfs" && cell.on_overlay);
}

class Check {
public:
    Check(const Settings& settings, std::vector<Json> events) : settings_(settings), events_(std::move(events)) {
        for (const Json& event : events_) {
            if (event.contains("path")) by_home_[home_of(event.at("path").get_ref<const std::string&>())].push_back(&event);
        }
    }

    void one(const Cell& cell);
    [[nodiscard]] int failures() const { return failures_; }

private:
    void fail(const Cell& cell, const std::string& what) {
        ++failures_;
        std::printf("FAILED: %s: %s\n", cell.name().c_str(), what.c_str());
    }
    [[nodiscard]] bool polls() const { return settings_.backend == "procfs"; }
    [[nodiscard]] std::vector<const Json*> about(const char* kind, const Cell& cell) const;
    // Its record may be among those that the kernel had no room for: then it is told without a culprit, in an interval.
    [[nodiscard]] bool lost_then(std::uint64_t from_ns, std::uint64_t to_ns) const {
        return std::any_of(events_.begin(), events_.end(), [&](const Json& event) {
            if (event.at("event") != "lost") return false;
            const Json& when = event.at("when");
            const std::uint64_t earliest = when.at("earliest_boottime_ns").is_null() ? 0 : when.at("earliest_boottime_ns").get<std::uint64_t>();
            return earliest <= to_ns && when.at("latest_boottime_ns").get<std::uint64_t>() >= from_ns;
        });
    }
    void removal(const Cell& cell, const char* kind, const char* how, pid_t culprit, std::uint64_t from_ns, std::uint64_t to_ns);
    void release(const Cell& cell);

    const Settings& settings_;
    std::vector<Json> events_;
    std::map<std::string, std::vector<const Json*>> by_home_;
    int failures_ = 0;
};

std::vector<const Json*> Check::about(const char* kind, const Cell& cell) const {
    std::vector<const Json*> found;
    const auto events = by_home_.find(cell.home);
    if (events == by_home_.end()) return found;
    for (const Json* const event : events->second) {
        // What takes a victim's place is not the victim.
        if (event->at("event") == kind && event->at("path") != cell.home + "/other") found.push_back(event);
    }
    return found;
}

void Check::removal(const Cell& cell, const char* kind, const char* how, pid_t culprit, std::uint64_t from_ns, std::uint64_t to_ns) {
    const auto told = about(kind, cell);
    if (told.size() != 1) {
        fail(cell, std::to_string(told.size()) + " events " + kind + " instead of one");
        return;
    }
    const Json& event = *told.front();
    const auto say = [&](const std::string& what) { fail(cell, std::string(kind) + ": " + what + ": " + event.dump().substr(0, 1500)); };
    // The hooks at a syscall's exit stamp a little later than the caller reads the clock in them.
    constexpr std::uint64_t slack_ns = 50'000'000;
    const std::uint64_t latest = event.at("when").at("latest_boottime_ns");
    const Json& earliest = event.at("when").at("earliest_boottime_ns");
    const std::uint64_t first = earliest.is_null() ? 0 : earliest.get<std::uint64_t>();
    // A ring's removal comes without a path, and in overlayfs no path is looked up without blocking: when somebody else removed something in
    // the same moment, nobody is blamed.
    const bool alike = cell.remove->remove == Remove::by_symlink || cell.remove->remove == Remove::last_link;
    const bool pathless = by_ring(*cell.remove) || (alike && cell.on_overlay);
    const bool nobody = ((settings_.backend == "syscall" && pathless) || lost_then(from_ns, to_ns)) && event.at("by").is_null();
    if (polls() || nobody) {
        if (first > to_ns || latest < from_ns) say("the interval does not contain the moment");
        if (!event.at("by").is_null() || event.at("how") != "unknown") say("nobody can have seen it");
    } else {
        if (event.at("when").at("source") != "kernel") say("not exact");
        if (first < from_ns || latest > to_ns + slack_ns) say("another moment than " + std::to_string(from_ns) + ".." + std::to_string(to_ns));
        if (event.at("how") != how) say("another way");
        if (event.at("by").is_null() || event.at("by").at("pid") != culprit) say("another culprit than " + std::to_string(culprit));
        else if (event.at("by").at("comm") != "check_deletions" || event.at("by").at("uid") != ::geteuid() ||
                 !event.at("by").at("exe").get<std::string>().ends_with("/check_deletions")) say("the culprit's names");
    }
    bool held = false;
    for (const Json& holder : event.at("holders")) {
        held |= holder.at("pid") == cell.holder && cell.hold->ref != nullptr && holder.at("ref") == cell.hold->ref && holder.contains("age_ns");
    }
    if (cell.hold->ref != nullptr && !held) say("without its holder " + std::to_string(cell.holder));
    if (std::strcmp(kind, "deleted") != 0) return;
    if (event.at("path") != (cell.remove->remove == Remove::last_link ? cell.home + "/victim" : cell.path)) say("another path");
    if (!event.contains("allocated") || event.at("allocated") != cell.allocated) say("other bytes than " + std::to_string(cell.allocated));
}

void Check::release(const Cell& cell) {
    std::vector<const Json*> last;
    for (const Json* const event : about("released", cell)) {
        if (event->contains("held_deleted_ns")) last.push_back(event);
    }
    if (last.size() != 1) {
        fail(cell, std::to_string(last.size()) + " last releases instead of one");
        return;
    }
    const Json& event = *last.front();
    const auto say = [&](const std::string& what) { fail(cell, "released: " + what + ": " + event.dump().substr(0, 1500)); };
    const std::uint64_t shortest = event.at("held_deleted_ns");
    const Json& longest = event.at("held_deleted_max_ns");
    constexpr std::uint64_t slack_ns = 50'000'000;
    if (shortest > cell.released_to_ns + slack_ns - cell.from_ns) say("held for less");
    if (!longest.is_null() && longest.get<std::uint64_t>() + slack_ns < cell.released_from_ns - cell.to_ns) say("held for longer");
    if (!event.contains("allocated") || event.at("allocated") != cell.allocated) say("other bytes than " + std::to_string(cell.allocated));
}

void Check::one(const Cell& cell) {
    if (cell.remove->unlinked_first != nullptr && (!is_doubtful(settings_, cell) || !about("unlinked", cell).empty())) {
        removal(cell, "unlinked", cell.remove->unlinked_first, cell.first_culprit, cell.first_from_ns, cell.first_to_ns);
    } else if (cell.remove->unlinked_first == nullptr && !about("unlinked", cell).empty()) {
        fail(cell, "unlinked, but the name moved or was the last");
    }
    if (cell.remove->how != nullptr) {
        removal(cell, "deleted", cell.remove->how, cell.culprit, cell.from_ns, cell.to_ns);
        release(cell);
    } else if (!about("deleted", cell).empty()) {
        fail(cell, "deleted, but it has a name: " + about("deleted", cell).front()->dump().substr(0, 800));
    }
}

// ---- all together ----

// Where the files are, by the name of the file system; what was made for that goes with it.
struct Places : std::vector<std::pair<std::string, std::string>> {
    std::vector<std::string> mounts, directories;
    Places() = default;
    Places(const Places&) = delete;
    Places& operator=(const Places&) = delete;
    ~Places() {
        for (const std::string& mount : mounts) ::umount2(mount.c_str(), MNT_DETACH);
        const auto remove = [](const char* path, const struct stat*, int, FTW*) { return ::remove(path); };
        for (const std::string& directory : directories) {
            // FTW_MOUNT: nothing of another file system goes, whatever is mounted there.
            if (::nftw(directory.c_str(), remove, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0) std::printf("%s is left: %s\n", directory.c_str(), std::strerror(errno));
        }
    }
};

std::vector<Cell> make_cells(const Settings& settings, const Places& places) {
    // What has no descriptor and no mapping is only known to hooks on the last put.
    const bool sees_flight = settings.backend == "trampoline" || settings.backend == "kprobe";
    const bool privileged = ::geteuid() == 0;
    const bool rings = has_rings();
    if (!rings) std::printf("without io_uring: %s\n", std::strerror(errno));
    std::vector<Cell> cells;
    for (const auto& [file_system, directory] : places) {
        struct statfs fs {};
        must(::statfs(directory.c_str(), &fs) == 0, directory.c_str());
        for (const RemoveWay& remove : remove_ways) {
            for (const HoldWay& hold : hold_ways) {
                if (remove.of_directory != hold.of_directory || (by_ring(remove) && !rings)) continue;
                const bool common = remove.remove == Remove::unlink || remove.remove == Remove::last_link || remove.remove == Remove::rmdir;
                if (settings.sample && !common && hold.hold != Hold::fd && hold.hold != Hold::cwd) continue;
                // What is only mapped shows its links to those who may follow map_files.
                if (!privileged && (hold.hold == Hold::root || hold.hold == Hold::mount_namespace || hold.hold == Hold::mem)) continue;
                if (hold.hold == Hold::flight && (!sees_flight || settings.older)) continue;
                Cell cell;
                cell.remove = &remove;
                cell.hold = &hold;
                cell.file_system = file_system;
                cell.on_overlay = fs.f_type == OVERLAYFS_SUPER_MAGIC;
                cell.home = directory + "/" + std::to_string(cells.size());
                if (cell.name().find(settings.only) != std::string::npos) cells.push_back(std::move(cell));
            }
        }
    }
    return cells;
}

void mount_places(Places& places) {
    must(::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "a mount namespace");
    char base[] = "/tmp/fdspan-deletions.XXXXXX";
    must(::mkdtemp(base) != nullptr, base);
    const std::string top = base;
    places.directories.push_back(top);
    must(::mount("fdspan", base, "tmpfs", 0, nullptr) == 0, "mount a tmpfs");
    places.mounts = {top + "/overlay", top};
    for (const char* const name : {"tmpfs", "lower", "upper", "work", "overlay"}) must(::mkdir((top + "/" + name).c_str(), 0755) == 0, "mkdir");
    places.emplace_back("tmpfs", top + "/tmpfs");
    if (::mount("fdspan", (top + "/overlay").c_str(), "overlay", 0,
                ("lowerdir=" + top + "/lower,upperdir=" + top + "/upper,workdir=" + top + "/work").c_str()) == 0) {
        places.emplace_back("overlay", top + "/overlay");
    } else {
        std::printf("without overlayfs: %s\n", std::strerror(errno));
    }
}

void make_places(const Settings& settings, Places& places) {
    if (::geteuid() == 0) mount_places(places);
    for (const std::string& directory : settings.directories) {
        std::string inner = directory + "/fdspan-deletions.XXXXXX";
        must(::mkdtemp(inner.data()) != nullptr, inner.c_str());
        places.directories.push_back(inner);
        places.emplace_back(directory, inner);
    }
    if (places.empty()) throw std::runtime_error("without privileges it needs a directory");
}

int check(const Settings& settings) {
    Places places;
    make_places(settings, places);
    std::vector<Cell> cells = make_cells(settings, places);
    const bool polls = settings.backend == "procfs";
    std::vector<int> releases;
    if (settings.older) for (Cell& cell : cells) prepare(cell, releases);

    std::vector<std::string> command{settings.fdspan, "watch", "--json", "--backend", settings.backend, "--event", "deleted,unlinked,released,lost"};
    if (polls) command.insert(command.end(), {"--interval", "300ms"});
    Program watch(command);
    std::string line;
    if (!watch.line(line)) throw std::runtime_error("watch did not start");
    std::vector<Json> events;
    std::atomic<std::size_t> last_releases = 0, deletions = 0, unlinkings = 0, canaries = 0;
    const std::string canary_path = places.front().second + "/canary";
    std::thread reader([&] {
        try {
            while (watch.line(line)) {
                const auto says = [&line](std::string_view what) { return line.find(what) != std::string::npos; };
                if (says(canary_path)) {
                    canaries += says("\"event\":\"deleted\"");
                    continue;
                }
                const bool ours = std::any_of(places.directories.begin(), places.directories.end(), says);
                if (ours && says("held_deleted_ns")) ++last_releases;
                if (ours && says("\"event\":\"deleted\"")) ++deletions;
                if (ours && says("\"event\":\"unlinked\"")) ++unlinkings;
                if (ours || says("\"lost\"")) events.push_back(Json::parse(line));
            }
        } catch (const std::exception& error) {
            std::printf("FAILED: %s\n", error.what());
        }
    });

    const auto wait_for = [](const std::atomic<std::size_t>& count, std::size_t wanted) {
        for (int tenths = 0; tenths < 10 * patience_s && count < wanted; ++tenths) ::usleep(100'000);
    };
    // What was deleted after everything else is told after it: nothing more of that is under way then.
    std::size_t canary = 0;
    const auto catch_up = [&] {
        const char* const path = canary_path.c_str();
        const int fd = ::open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        must(fd >= 0, path);
        if (polls) ::usleep(1'000'000);  // a poll has to see it first
        must(::unlink(path) == 0, path);
        wait_for(canaries, ++canary);
        ::close(fd);
        ::usleep(1'500'000);  // what is told once is not told again; and for what need not be told, though it mostly is
    };
    const auto count = [&cells](const auto& which) { return static_cast<std::size_t>(std::count_if(cells.begin(), cells.end(), which)); };
    const std::size_t to_delete = count([](const Cell& cell) { return cell.remove->how != nullptr; });

    if (!settings.older) for (Cell& cell : cells) prepare(cell, releases);
    catch_up();
    for (Cell& cell : cells) remove_first(cell);
    wait_for(unlinkings, count([&](const Cell& cell) { return cell.remove->unlinked_first != nullptr && !is_doubtful(settings, cell); }));
    catch_up();
    for (Cell& cell : cells) remove_last(cell);
    wait_for(deletions, to_delete);
    catch_up();
    for (Cell& cell : cells) let_go(cell);
    const std::uint64_t gone_ns = boottime_ns();
    for (Cell& cell : cells) cell.released_to_ns = gone_ns;
    // What has neither descriptor nor hook ends with a snapshot, at a share of the processor's time that a busy machine stretches.
    wait_for(last_releases, to_delete);
    catch_up();
    watch.send_signal(SIGTERM);
    reader.join();
    const int code = watch.wait();
    if (settings.verbose) for (const Json& event : events) std::printf("%s\n", event.dump().c_str());
    Check checked(settings, std::move(events));
    for (const Cell& cell : cells) checked.one(cell);
    std::printf("%s: %zu cells, %d failures\n", settings.backend.c_str(), cells.size(), checked.failures());
    if (code != 0 && code != 3) {
        std::printf("FAILED: watch ended with %d\n", code);
        return 1;
    }
    return checked.failures() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace truth

int main(int count, char** values) {
    truth::Settings settings;
    for (int i = 1; i < count; ++i) {
        const std::string argument = values[i];
        const auto value = [&] { return i + 1 < count ? values[++i] : throw std::runtime_error(argument + " needs a value"); };
        if (argument == "--wait") {  // as the executable that is held
            char byte;
            if (::write(1, "r", 1) != 1) return 1;
            return ::read(0, &byte, 1) == 0 ? 0 : 1;
        }
        if (argument == "--fdspan") settings.fdspan = value();
        else if (argument == "--backend") settings.backend = value();
        else if (argument == "--older") settings.older = true;
        else if (argument == "--sample") settings.sample = true;
        else if (argument == "--only") settings.only = value();
        else if (argument == "--verbose") settings.verbose = true;
        else settings.directories.push_back(argument);
    }
    try {
        truth::ignore_broken_pipes();
        return truth::check(settings);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "check_deletions: %s\n", error.what());
        return 1;
    }
}
