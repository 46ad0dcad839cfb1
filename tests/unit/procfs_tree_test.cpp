// The reader against a made-up /proc: what the real one shows only for a moment, or never.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include "base/unique_fd.hpp"
#include "snapshot/procfs_mounts.hpp"
#include "snapshot/snapshot.hpp"

using namespace fdspan;

namespace {

class FakeProc {
public:
    FakeProc() {
        std::string pattern = "/tmp/fdspan-proc-XXXXXX";
        REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        root_ = pattern;
    }
    FakeProc(const FakeProc&) = delete;
    FakeProc& operator=(const FakeProc&) = delete;
    ~FakeProc() { REQUIRE(std::system(("rm -rf " + root_).c_str()) == 0); }

    [[nodiscard]] const std::string& root() const { return root_; }
    [[nodiscard]] std::string path(const std::string& below) const { return root_ + "/" + below; }
    void dir(const std::string& below) const { REQUIRE(::mkdir(path(below).c_str(), 0755) == 0); }
    void file(const std::string& below, const std::string& text) const {
        FILE* const out = std::fopen(path(below).c_str(), "w");
        REQUIRE(out != nullptr);
        std::fwrite(text.data(), 1, text.size(), out);
        std::fclose(out);
    }
    void link(const std::string& below, const std::string& text) const { REQUIRE(::symlink(text.c_str(), path(below).c_str()) == 0); }
    void fifo(const std::string& below) const {
        ::unlink(path(below).c_str());
        REQUIRE(::mkfifo(path(below).c_str(), 0600) == 0);
    }

    static std::string stat(int pid, const std::string& comm, unsigned long start, char state = 'S', int threads = 1) {
        return std::to_string(pid) + " (" + comm + ") " + state + " 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 " + std::to_string(threads) +
               " 0 " + std::to_string(start) + " 0 0 0\n";
    }
    static std::string status(int pid, int uid) {
        return "Name:\tx\nTgid:\t" + std::to_string(pid) + "\nUid:\t" + std::to_string(uid) + "\t0\t0\t0\n";
    }
    // A process with one open descriptor on this program's own file.
    void process(int pid, unsigned long start = 100) const {
        const std::string base = std::to_string(pid);
        dir(base);
        file(base + "/stat", stat(pid, "fake", start));
        file(base + "/status", status(pid, 7));
        file(base + "/cgroup", "0::/system.slice/x.service\n");
        file(base + "/maps", "");
        dir(base + "/fd");
        dir(base + "/fdinfo");
        link(base + "/fd/3", "/proc/self/exe");
        file(base + "/fdinfo/3", "pos:\t5\nflags:\t02100002\nmnt_id:\t1\n");
    }

private:
    std::string root_;
};

Snapshot read(const FakeProc& proc, const SnapshotRequest& request = {}) {
    auto snapshot = read_procfs_snapshot(request, proc.root());
    REQUIRE(snapshot);
    return std::move(*snapshot);
}

void serve(const std::string& fifo, const std::string& text) {
    const int fd = ::open(fifo.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    [[maybe_unused]] const ssize_t written = ::write(fd, text.data(), text.size());
    ::close(fd);
}

}  // namespace

TEST_CASE("a proc root that does not exist is an error, not an empty snapshot") {
    const auto snapshot = read_procfs_snapshot({}, "/nonexistent/proc");
    REQUIRE_FALSE(snapshot);
    CHECK(snapshot.error().code == ENOENT);
}

TEST_CASE("processes are listed ascending by pid with what stat, status and cgroup say") {
    const FakeProc proc;
    for (const int pid : {30, 4, 200}) proc.process(pid, 100U + static_cast<unsigned>(pid));
    proc.dir("self0");
    proc.file("77", "not a directory");
    const Snapshot snapshot = read(proc);
    REQUIRE(snapshot.processes.size() == 3);
    CHECK(snapshot.processes[0].pid == 4);
    CHECK(snapshot.processes[1].pid == 30);
    CHECK(snapshot.processes[2].pid == 200);
    CHECK(snapshot.processes[0].uid == 7);
    CHECK(snapshot.text(snapshot.processes[0].comm) == "fake");
    CHECK(snapshot.text(snapshot.processes[0].cgroup) == "/system.slice/x.service");
    const std::uint64_t tick_ns = 1'000'000'000ULL / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
    CHECK(snapshot.processes[0].started == Interval::bounded(104 * tick_ns, 105 * tick_ns));
    REQUIRE(snapshot.references.size() == 3);
    CHECK(snapshot.references[0].fd == 3);
    CHECK(snapshot.references[0].pos == 5);
    CHECK(snapshot.references[0].flags == 02100002);
    CHECK(snapshot.gaps.complete());
}

TEST_CASE("several threads read what one reads, in the same order") {
    const FakeProc proc;
    for (int pid = 1; pid <= 40; ++pid) {
        proc.process(pid);
        const std::string base = std::to_string(pid);
        for (int fd = 4; fd < 4 + pid; ++fd) proc.link(base + "/fd/" + std::to_string(fd), "/proc/self/status");
        if (pid % 10 == 0) proc.file(base + "/cgroup", "no such line\n");
    }
    SnapshotRequest request;
    const Snapshot one = read(proc, request);
    request.threads = 4;
    const Snapshot several = read(proc, request);
    REQUIRE(several.processes.size() == 40);
    REQUIRE(several.references.size() == one.references.size());
    CHECK(several.gaps.unparsed_lines == one.gaps.unparsed_lines);
    CHECK(one.gaps.unparsed_lines == 4);
    for (std::size_t at = 0; at < one.processes.size(); ++at) {
        CHECK(several.processes[at].pid == one.processes[at].pid);
        CHECK(several.text(several.processes[at].comm) == "fake");
        CHECK(several.text(several.processes[at].cgroup) == one.text(one.processes[at].cgroup));
    }
    for (std::size_t at = 0; at < one.references.size(); ++at) {
        CHECK(several.references[at].process == one.references[at].process);
        CHECK(several.references[at].fd == one.references[at].fd);
        CHECK(several.path(several.references[at]) == one.path(one.references[at]));
    }
}

TEST_CASE("several threads read the processes that were asked for and count those that are not there") {
    const FakeProc proc;
    for (int pid = 1; pid <= 8; ++pid) proc.process(pid);
    SnapshotRequest request;
    request.threads = 3;
    request.pids = {8, 3, 99, 5, 98, 1};
    const Snapshot snapshot = read(proc, request);
    REQUIRE(snapshot.processes.size() == 4);
    CHECK(snapshot.processes[0].pid == 1);
    CHECK(snapshot.processes[3].pid == 8);
    CHECK(snapshot.references[3].process == 3);
    CHECK(snapshot.gaps.missing_pids == 2);
}

TEST_CASE("a pid that is reused while being read leaves no row, and is counted") {
    const FakeProc proc;
    proc.process(5);
    proc.fifo("5/stat");
    proc.fifo("5/status");
    std::thread kernel([&] {
        serve(proc.path("5/stat"), FakeProc::stat(5, "old", 100));
        serve(proc.path("5/status"), FakeProc::status(5, 0));
        serve(proc.path("5/stat"), FakeProc::stat(5, "new", 200));
    });
    const Snapshot snapshot = read(proc);
    kernel.join();
    CHECK(snapshot.processes.empty());
    CHECK(snapshot.references.empty());
    CHECK(snapshot.gaps.vanished_processes == 1);
}

TEST_CASE("a process that becomes a zombie while being read leaves no row, and is counted") {
    const FakeProc proc;
    proc.process(5);
    proc.fifo("5/stat");
    proc.fifo("5/status");
    std::thread kernel([&] {
        serve(proc.path("5/stat"), FakeProc::stat(5, "x", 100));
        serve(proc.path("5/status"), FakeProc::status(5, 0));
        serve(proc.path("5/stat"), FakeProc::stat(5, "x", 100, 'Z'));
    });
    const Snapshot snapshot = read(proc);
    kernel.join();
    CHECK(snapshot.references.empty());
    CHECK(snapshot.gaps.vanished_processes == 1);
}

TEST_CASE("a process that ends while being read does not disturb its neighbours") {
    const FakeProc proc;
    for (const int pid : {4, 5, 6}) proc.process(pid);
    proc.fifo("5/status");
    std::thread kernel([&] {
        const int fd = ::open(proc.path("5/status").c_str(), O_WRONLY | O_CLOEXEC);
        ::unlink(proc.path("5/stat").c_str());
        const std::string text = FakeProc::status(5, 0);
        [[maybe_unused]] const ssize_t written = ::write(fd, text.data(), text.size());
        ::close(fd);
    });
    const Snapshot snapshot = read(proc);
    kernel.join();
    REQUIRE(snapshot.processes.size() == 2);
    CHECK(snapshot.processes[1].pid == 6);
    REQUIRE(snapshot.references.size() == 2);
    CHECK(snapshot.references[1].process == 1);
    CHECK(snapshot.gaps.vanished_processes == 1);
    CHECK(snapshot.gaps.complete());
}

TEST_CASE("lines that no parser understands are counted and the rest is kept") {
    const FakeProc proc;
    proc.process(5);
    proc.file("5/maps", "1000-2000 r-xp 00000000 fe:00 1 /a\ngarbage\n3000-4000 r--p 00000000 fe:00 2 /b\\012c\\101\n5000-6000 rw-p 0 00:00 0 [heap]\ncut");
    proc.file("5/fdinfo/3", "nonsense");
    const Snapshot snapshot = read(proc);
    CHECK(snapshot.gaps.unparsed_lines == 3);
    CHECK_FALSE(snapshot.gaps.complete());
    REQUIRE(snapshot.references.size() == 3);
    CHECK((snapshot.references[0].valid & field_fdinfo) == 0);
    CHECK(snapshot.path(snapshot.references[1]) == "/a");
    CHECK(snapshot.references[1].map_start == 0x1000);
    CHECK(snapshot.references[1].ino == 1);
    CHECK(snapshot.path(snapshot.references[2]) == "/b\nc\\101");
    CHECK(snapshot.gaps.unstatable_references == 2);
}

TEST_CASE("a stat that can't be parsed makes an unreadable process, not a wrong one") {
    const FakeProc proc;
    proc.process(5);
    proc.file("5/stat", "5 (x");
    const Snapshot snapshot = read(proc);
    REQUIRE(snapshot.processes.size() == 1);
    CHECK(snapshot.processes[0].unreadable);
    CHECK(snapshot.processes[0].uid == 7);
    CHECK(snapshot.references.empty());
    CHECK(snapshot.gaps.unreadable_processes == 1);
    CHECK(snapshot.gaps.unparsed_lines == 1);
}

TEST_CASE("maps lines longer than a read, and longer than any buffer, do not disturb their neighbours") {
    const FakeProc proc;
    proc.process(5);
    const std::string prefix = "1000-2000 r-xp 00000000 fe:00 1 /";
    const std::string long_name(200'000, 'x');
    proc.file("5/maps", prefix + "a\n" + prefix + long_name + "\n" + prefix + std::string(5 << 20, 'y') + "\n" + prefix + "b\n");
    SnapshotRequest request;
    request.kinds = 1U << static_cast<unsigned>(RefKind::mem);
    const Snapshot snapshot = read(proc, request);
    REQUIRE(snapshot.references.size() == 3);
    CHECK(snapshot.path(snapshot.references[0]) == "/a");
    CHECK(snapshot.path(snapshot.references[1]) == "/" + long_name);
    CHECK(snapshot.path(snapshot.references[2]) == "/b");
    CHECK(snapshot.gaps.unparsed_lines == 1);
}

TEST_CASE("start times beyond any clock do not wrap round") {
    const FakeProc proc;
    proc.process(5);
    proc.file("5/stat", FakeProc::stat(5, "x", 18446744073709551615UL));
    const Snapshot snapshot = read(proc);
    REQUIRE(snapshot.processes.size() == 1);
    CHECK(snapshot.processes[0].started.earliest_ns <= snapshot.processes[0].started.latest_ns);
    REQUIRE(snapshot.references.size() == 1);
    CHECK(snapshot.references[0].opened.earliest_ns <= snapshot.references[0].opened.latest_ns);
}

TEST_CASE("only the files of what was asked for are opened") {
    const FakeProc proc;
    proc.process(5);
    proc.process(6);
    // A FIFO without a writer would block whoever opens it.
    proc.fifo("5/cgroup");
    proc.fifo("5/maps");
    proc.fifo("5/fdinfo/3");
    proc.fifo("6/stat");
    SnapshotRequest request;
    request.fields = field_path;
    request.kinds = 1U << static_cast<unsigned>(RefKind::fd);
    request.pids = {5};
    const Snapshot snapshot = read(proc, request);
    REQUIRE(snapshot.references.size() == 1);
    CHECK(snapshot.references[0].valid == field_path);
    CHECK(snapshot.path(snapshot.references[0]) == "/proc/self/exe");
    CHECK(snapshot.references[0].ino == 0);
    CHECK(snapshot.references[0].opened == Interval{});
}

TEST_CASE("what NFS keeps under a name of its own is told from a live file and from a deleted one") {
    for (const bool on_nfs : {true, false}) {
        INFO("on nfs: " << on_nfs);
        const FakeProc proc;
        proc.process(5);
        proc.file(".nfs0000000000c0ffee00000001", "still read by somebody");
        const std::string path = proc.path(".nfs0000000000c0ffee00000001");
        struct statx stx{};
        REQUIRE(::statx(AT_FDCWD, path.c_str(), 0, STATX_INO | STATX_MNT_ID, &stx) == 0);
        const std::string mount = std::to_string(stx.stx_mnt_id);
        proc.link("5/fd/4", path);
        proc.file("5/fdinfo/4", "pos:\t0\nflags:\t0100000\nmnt_id:\t" + mount + "\nino:\t" + std::to_string(stx.stx_ino) + "\n");
        proc.link("5/root", "/");
        proc.file("5/mountinfo", mount + " 1 0:50 / / rw - " + (on_nfs ? "nfs4" : "ext4") + " source rw\n");
        SnapshotRequest request;
        request.kinds = 1U << static_cast<unsigned>(RefKind::fd);
        const Snapshot all = read(proc, request);
        REQUIRE(all.references.size() == 2);
        CHECK(to_string(all.references[1].name) == to_string(on_nfs ? NameState::silly : NameState::named));
        // It is one of the deleted files where somebody asks for that.
        request.deleted_only = true;
        CHECK(read(proc, request).references.empty());
        request.also_states = 1U << static_cast<unsigned>(NameState::silly);
        CHECK(read(proc, request).references.size() == (on_nfs ? 1U : 0U));
    }
}

// tmpfs keeps no name in memory that is not there: only the second way, which may wait, tells.
TEST_CASE("a name is looked up without waiting, or on the very mount that the table has for it") {
    FakeProc files;
    files.file("here", "x");
    files.link("link", "here");
    const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(root.valid());
    const procfs::MountTable own = procfs::read_own_mounts();
    const procfs::Mount* const mount = own.mount_of(files.path("here"));
    REQUIRE(mount != nullptr);
    const auto walk = [&](const procfs::MountTable* table, const std::string& path) {
        UniqueFd found;
        const procfs::Walk walked = procfs::open_name(root.get(), table, path, found);
        CHECK(found.valid() == (walked == procfs::Walk::arrived));
        return walked;
    };
    CHECK(walk(&own, files.path("here")) == procfs::Walk::arrived);
    CHECK(walk(nullptr, files.path("here")) == procfs::Walk::arrived);
    CHECK(walk(&own, files.path("link")) == procfs::Walk::arrived);  // at the link
    CHECK(walk(&own, files.path("link/x")) == procfs::Walk::absent);
    CHECK(walk(&own, files.path("here/x")) == procfs::Walk::absent);
    CHECK(walk(nullptr, files.path("never seen 1")) == procfs::Walk::unknown);
    if (mount->traits.local) CHECK(walk(&own, files.path("never seen 2")) == procfs::Walk::absent);
    const auto table_with = [](const std::string& id, const std::string& type) {
        procfs::MountTable table;
        REQUIRE(table.parse(id + " 0 0:1 / / rw - " + type + " x rw\n") == 0);
        return table;
    };
    // Something else is mounted there, or what is there is not of this machine.
    const procfs::MountTable other = table_with("2147483647", "ext4");
    CHECK(walk(&other, files.path("never seen 3")) == procfs::Walk::unknown);
    const procfs::MountTable remote = table_with(std::to_string(own.mount_of("/")->id), "fuse.sshfs");
    CHECK(walk(&remote, files.path("never seen 4")) == procfs::Walk::unknown);
    // Over a mount that the table does not show nothing is looked up.
    const procfs::MountTable before = table_with(std::to_string(own.mount_of("/")->id), "ext4");
    CHECK(walk(&before, "/proc/never seen") == procfs::Walk::unknown);
}

TEST_CASE("what a file of another namespace is on is read from its holder's mounts, within a bound") {
    if (::geteuid() != 0) {
        WARN("needs root: not tested");
        return;
    }
    FakeProc files;
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const UniqueFd in(ends[0]);
    UniqueFd out(ends[1]);
    const pid_t holder = ::fork();
    REQUIRE(holder >= 0);
    struct statx held {};
    if (holder == 0) {
        const bool mounted = ::unshare(CLONE_NEWNS) == 0 && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                             ::mount("none", files.root().c_str(), "tmpfs", 0, nullptr) == 0;
        if (!mounted || ::statx(AT_FDCWD, files.root().c_str(), 0, STATX_BASIC_STATS | STATX_MNT_ID, &held) != 0) ::_exit(1);
        if (::write(ends[1], &held, sizeof held) != sizeof held) ::_exit(1);
        for (;;) ::pause();
    }
    out.reset();
    const bool ready = ::read(in.get(), &held, sizeof held) == sizeof held;
    procfs::HolderMounts all, few(16), none(0);
    const procfs::Mount* const found = all.find(holder, held);
    const std::string type = found != nullptr ? found->type : "";
    const bool again = all.find(holder, held) == found;
    const bool by_few = few.find(holder, held) != nullptr;
    struct statx ours {};
    const bool asked = ::statx(AT_FDCWD, "/", 0, STATX_BASIC_STATS | STATX_MNT_ID, &ours) == 0;
    const bool by_none = none.find(holder, ours) != nullptr;
    ours.stx_mnt_id = 2147483647;  // the same file system, mounted elsewhere, too
    const bool by_device = none.find(holder, ours) != nullptr;
    ::kill(holder, SIGKILL);
    ::waitpid(holder, nullptr, 0);
    CHECK(ready);
    CHECK(type == "tmpfs");
    CHECK(again);
    CHECK_FALSE(by_few);
    CHECK(asked);
    CHECK(by_none);
    CHECK(by_device);
}
