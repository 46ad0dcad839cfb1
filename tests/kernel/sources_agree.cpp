// Both readers of snapshots are held against each other: on a quiet process each row has to be the same.
#include <linux/openat2.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "iterator_fixture.hpp"

using namespace iterator_test;

namespace {

std::vector<std::string> sorted_lines(const Snapshot& snapshot) {
    std::vector<std::string> lines;
    for (const Reference& reference : snapshot.references) lines.push_back(line_of(snapshot, reference));
    std::sort(lines.begin(), lines.end());
    return lines;
}

// The first rows that one has and the other has not; empty when there are none.
std::string only_in(const std::vector<std::string>& one, const std::vector<std::string>& other) {
    std::vector<std::string> rest;
    std::set_difference(one.begin(), one.end(), other.begin(), other.end(), std::back_inserter(rest));
    std::string text;
    for (std::size_t i = 0; i < rest.size() && i < 5; ++i) text += rest[i] + '\n';
    return rest.size() > 5 ? text + "and " + std::to_string(rest.size() - 5) + " more\n" : text;
}

void check_agreement(const SnapshotRequest& request, std::size_t at_least) {
    const Snapshot bpf = read(shared_reader(), request);
    auto procfs = read_procfs_snapshot(request);
    REQUIRE(procfs);
    const auto bpf_lines = sorted_lines(bpf);
    const auto procfs_lines = sorted_lines(*procfs);
    CHECK(bpf_lines.size() >= at_least);
    CHECK(only_in(bpf_lines, procfs_lines) == "");
    CHECK(only_in(procfs_lines, bpf_lines) == "");
    CHECK(bpf.gaps.complete());
    CHECK(bpf.gaps.unstatable_references == procfs->gaps.unstatable_references);
    REQUIRE(bpf.processes.size() == procfs->processes.size());
    for (std::size_t i = 0; i < bpf.processes.size(); ++i) {
        const Process& one = bpf.processes[i];
        const Process& other = procfs->processes[i];
        CHECK(one.pid == other.pid);
        CHECK(one.ppid == other.ppid);
        CHECK(one.uid == other.uid);
        CHECK(bpf.text(one.comm) == procfs->text(other.comm));
        CHECK(bpf.text(one.cgroup) == procfs->text(other.cgroup));
        CHECK(bpf.text(one.container) == procfs->text(other.container));
        CHECK(one.started.is_exact());
        CHECK(other.started.contains(one.started.latest_ns));
    }
    if ((request.fields & field_times) == 0) return;
    // The same moments, seen by two: whatever both claim has to overlap.
    std::multimap<std::string, Reference> seen;
    for (const Reference& row : procfs->references) seen.emplace(line_of(*procfs, row), row);
    const auto overlap = [](const Interval& one, const Interval& other) {
        return one.earliest_ns <= other.latest_ns && other.earliest_ns <= one.latest_ns;
    };
    for (const Reference& row : bpf.references) {
        const std::string line = line_of(bpf, row);
        const auto other = seen.find(line);
        if (other == seen.end() || (overlap(row.opened, other->second.opened) && overlap(row.description_opened, other->second.description_opened))) {
            continue;
        }
        FAIL_CHECK("times of " << line);
    }
}

// Everything that has a name or should have had one, in `folder`.
void hold_names(const Folder& folder) {
    const auto open_new = [&](const std::string& name, int flags = O_RDWR | O_CREAT) { return ::open((folder / name).c_str(), flags, 0600); };
    const auto write_some = [](int fd, std::size_t bytes) {
        const std::vector<char> data(bytes, 'x');
        [[maybe_unused]] const ssize_t written = ::write(fd, data.data(), data.size());
    };
    write_some(open_new("plain"), 5000);
    write_some(open_new("synced", O_WRONLY | O_CREAT | O_APPEND | O_SYNC), 5000);
    const int sparse = open_new("sparse");
    [[maybe_unused]] int ignored = ::ftruncate(sparse, 1 << 30);
    ignored = static_cast<int>(::lseek(sparse, 1 << 29, SEEK_SET));
    write_some(sparse, 1);
    open_new("cloexec", O_RDONLY | O_CREAT | O_CLOEXEC);
    open_new("path", O_RDWR | O_CREAT);
    ::open((folder / "path").c_str(), O_PATH);
    open_new("real (deleted)");
    open_new("new\nline \\012 \x01 \xff");
    open_new(std::string(250, 'n'));
    write_some(open_new("removed"), 100);
    ::unlink((folder / "removed").c_str());
    open_new("removed (deleted)");
    ::unlink((folder / "removed (deleted)").c_str());
    open_new("one of two");
    ::link((folder / "one of two").c_str(), (folder / "other of two").c_str());
    ::unlink((folder / "one of two").c_str());
    open_new("replaced");
    ::close(open_new("replacing"));
    ::rename((folder / "replacing").c_str(), (folder / "replaced").c_str());
    ::mkdir((folder / "directory").c_str(), 0700);
    ::open((folder / "directory").c_str(), O_RDONLY | O_DIRECTORY);
    ::mkdir((folder / "no directory").c_str(), 0700);
    ::open((folder / "no directory").c_str(), O_RDONLY | O_DIRECTORY);
    ::rmdir((folder / "no directory").c_str());
    ignored = ::symlink("/nonexistent", (folder / "link").c_str());
    ::open((folder / "link").c_str(), O_PATH | O_NOFOLLOW);
    ::mkfifo((folder / "fifo").c_str(), 0600);
    ::open((folder / "fifo").c_str(), O_RDWR);
    ::open(folder.path().c_str(), O_TMPFILE | O_RDWR, 0600);
    // Mapped, closed, and one of them deleted.
    for (const char* const name : {"mapped", "mapped and removed"}) {
        const int fd = open_new(name);
        write_some(fd, 8192);
        ::mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd, 0);
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 4096);
        ::close(fd);
    }
    ::unlink((folder / "mapped and removed").c_str());
}

// Everything that never had a name.
void hold_nameless() {
    [[maybe_unused]] int ignored = 0;
    std::array<int, 2> ends{};
    ignored = ::pipe(ends.data());
    ignored = ::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC);
    ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data());
    ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ::socket(AF_NETLINK, SOCK_RAW, 0);
    ::eventfd(7, EFD_CLOEXEC);
    const int epoll = ::epoll_create1(0);
    epoll_event event{};
    ::epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event);
    ::inotify_init1(0);
    ::timerfd_create(CLOCK_MONOTONIC, 0);
    sigset_t none;
    ::sigemptyset(&none);
    ::signalfd(-1, &none, 0);
    ::syscall(SYS_pidfd_open, ::getpid(), 0);
    ::syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */);
    ::syscall(SYS_fanotify_init, 0, 0);
    std::array<char, 256> ring{};
    ::syscall(SYS_io_uring_setup, 4, ring.data());
    const int memory = ::memfd_create("memory (deleted)", 0);
    ignored = ::ftruncate(memory, 100'000);
    ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, memory, 0);
    ::memfd_create("huge", MFD_HUGETLB);
    ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const int shared = ::shmget(IPC_PRIVATE, 8192, 0600);
    ::shmat(shared, nullptr, 0);
    ::shmctl(shared, IPC_RMID, nullptr);
    ::open("/dev/null", O_RDWR);
    ::open("/dev/ptmx", O_RDWR | O_NOCTTY);
    ::open("/proc/self/ns/net", O_RDONLY);
    ::open("/proc/self/stat", O_RDONLY);
    ::open("/sys/kernel", O_RDONLY | O_DIRECTORY);
    ::open("/sys/kernel/notes", O_RDONLY);
    for (const char* const device : {"/dev/vda", "/dev/sda", "/dev/loop0"}) ::open(device, O_RDONLY | O_NONBLOCK);
}

}  // namespace

TEST_CASE("Both sources show the same rows of a process full of odd descriptors and mappings") {
    const Folder folder;
    const Folder in_memory("/dev/shm/fdspan-iter-XXXXXX");
    const Child child([&] {
        hold_names(folder);
        hold_names(in_memory);
        hold_nameless();
        // A program as its name: no newline or bracket may confuse anybody.
        ::prctl(PR_SET_NAME, "a) \n( b");
        ::sync();
        return 0L;
    });
    check_agreement(request_for(child.pid()), 90);

    SECTION("whatever is asked for") {
        for (const std::uint32_t fields : {0U, +field_path, +field_stat, +field_fdinfo, +field_cgroup, field_path | field_stat, field_stat | field_fdinfo}) {
            INFO("fields " << fields);
            check_agreement(request_for(child.pid(), fields), 90);
        }
        for (const RefKind kind : {RefKind::fd, RefKind::mem, RefKind::exe, RefKind::cwd, RefKind::root}) {
            INFO(to_string(kind));
            check_agreement(request_for(child.pid(), field_all, only(kind)), 1);
        }
        SnapshotRequest deleted = request_for(child.pid());
        deleted.deleted_only = true;
        check_agreement(deleted, 12);
        for (const NameState state : {NameState::gone, NameState::memfd, NameState::tmpfile, NameState::shm, NameState::silly}) {
            deleted.also_states |= static_cast<std::uint16_t>(1U << static_cast<unsigned>(state));
            INFO("also " << to_string(state));
            check_agreement(deleted, 12);
        }
        check_agreement(deleted, 18);
    }
}

TEST_CASE("Both sources show the same of a process in another root, another mount namespace and on overlayfs") {
    const Folder folder;
    for (const char* const name : {"lower", "upper", "work", "merged", "jail"}) REQUIRE(::mkdir((folder / name).c_str(), 0700) == 0);
    {
        const UniqueFd file(::open((folder / "lower/library").c_str(), O_WRONLY | O_CREAT, 0600));
        REQUIRE(file.valid());
        REQUIRE(::ftruncate(file.get(), 10'000) == 0);
    }
    const Child child([&]() -> long {
        if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return 1;
        // Upper layers may not lie on every file system; tmpfs always does.
        if (::mount("t", (folder / "jail").c_str(), "tmpfs", 0, nullptr) != 0) return 2;
        ::mkdir((folder / "jail/upper").c_str(), 0700);
        ::mkdir((folder / "jail/work").c_str(), 0700);
        const std::string options = "lowerdir=" + (folder / "lower") + ",upperdir=" + (folder / "jail/upper") + ",workdir=" + (folder / "jail/work");
        if (::mount("o", (folder / "merged").c_str(), "overlay", 0, options.c_str()) != 0) return 3;
        const int low = ::open((folder / "merged/library").c_str(), O_RDONLY);
        if (low < 0 || ::mmap(nullptr, 8192, PROT_READ | PROT_EXEC, MAP_PRIVATE, low, 0) == MAP_FAILED) return 4;
        const int high = ::open((folder / "merged/new").c_str(), O_RDWR | O_CREAT, 0600);
        if (high < 0 || ::ftruncate(high, 8192) != 0 || ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, high, 0) == MAP_FAILED) return 5;
        const int removed = ::open((folder / "merged/removed").c_str(), O_RDWR | O_CREAT, 0600);
        if (removed < 0 || ::ftruncate(removed, 4096) != 0 || ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, removed, 0) == MAP_FAILED) return 6;
        ::close(::open((folder / "merged/both").c_str(), O_RDWR | O_CREAT, 0600));
        ::open((folder / "merged/both").c_str(), O_RDONLY);
        ::open((folder / "merged").c_str(), O_RDONLY | O_DIRECTORY);
        if (::unlink((folder / "merged/removed").c_str()) != 0 || ::mkdir((folder / "merged/root").c_str(), 0700) != 0) return 7;
        if (::chroot((folder / "merged/root").c_str()) != 0 || ::mkdir("/here", 0700) != 0 || ::chdir("/here") != 0 || ::rmdir("/here") != 0) return 8;
        return 0;
    });
    REQUIRE(child.ready == 0);
    check_agreement(request_for(child.pid()), 12);
    SnapshotRequest deleted = request_for(child.pid());
    deleted.deleted_only = true;
    check_agreement(deleted, 3);
}

TEST_CASE("Both sources show threads with a working directory of their own, deleted too, and a process whose leader has ended") {
    const Folder folder;
    for (const char* const name : {"0", "1", "2"}) REQUIRE(::mkdir((folder / name).c_str(), 0700) == 0);
    for (const bool leader_ends : {false, true}) {
        INFO("the leader " << (leader_ends ? "ends" : "lives"));
        const Child child([&]() -> long {
            static std::atomic<int> ready{0};
            for (int i = 0; i < 4; ++i) {
                std::thread([&, i] {
                    if (i < 3 && ::unshare(CLONE_FS) == 0 && ::chdir((folder / std::to_string(i)).c_str()) == 0) ++ready;
                    if (i == 3) {
                        while (ready < 3) std::this_thread::yield();
                        ::rmdir((folder / "1").c_str());
                        if (leader_ends) {
                            const std::string path = "/proc/self/task/" + std::to_string(::getpid()) + "/stat";
                            for (char state = 'R'; state != 'Z';) {
                                const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
                                std::array<char, 512> text{};
                                if (::read(file.get(), text.data(), text.size() - 1) > 0) state = *(std::string_view(text.data()).rfind(')') + 2 + text.data());
                            }
                        }
                        Child::tell(0);
                    }
                    for (;;) ::pause();
                }).detach();
            }
            if (leader_ends) ::syscall(SYS_exit, 0);
            for (;;) ::pause();
        });
        REQUIRE(child.ready == 0);
        const auto places = static_cast<std::uint8_t>(only(RefKind::cwd) | only(RefKind::root));
        check_agreement(request_for(child.pid(), field_all, places), 8);
        SnapshotRequest deleted = request_for(child.pid(), field_all, places);
        deleted.deleted_only = true;
        check_agreement(deleted, 1);
        REQUIRE((leader_ends || ::mkdir((folder / "1").c_str(), 0700) == 0));
    }
}

TEST_CASE("Both sources show threads with a table of their own, and a process whose leader has ended") {
    const Child own([&]() -> long {
        static std::atomic<int> ready{0};
        for (int i = 0; i < 2; ++i) {
            std::thread([i] {
                if (i == 0 && ::unshare(CLONE_FILES) == 0) {
                    ::open("/dev/zero", O_RDONLY);
                    ::close(0);
                }
                ++ready;
                for (;;) ::pause();
            }).detach();
        }
        while (ready < 2) std::this_thread::yield();
        return 0;
    });
    check_agreement(request_for(own.pid()), 8);

    const Child leaderless([&]() -> long {
        static std::atomic<int> ready{0};
        for (int i = 0; i < 3; ++i) {
            std::thread([i] {
                if (i == 2 && ::unshare(CLONE_FILES) == 0) ::open("/dev/zero", O_RDONLY);
                if (++ready == 3) {
                    // The leader's end shows in its state; /proc is there to ask.
                    const std::string path = "/proc/" + std::to_string(::getpid()) + "/task/" + std::to_string(::getpid()) + "/stat";
                    for (char state = 'R'; state != 'Z';) {
                        const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
                        std::array<char, 512> text{};
                        if (::read(file.get(), text.data(), text.size() - 1) > 0) state = *(std::string_view(text.data()).rfind(')') + 2 + text.data());
                    }
                    Child::tell(0);
                }
                for (;;) ::pause();
            }).detach();
        }
        ::syscall(SYS_exit, 0);
        return 1;
    });
    REQUIRE(leaderless.ready == 0);
    check_agreement(request_for(leaderless.pid()), 8);
}

TEST_CASE("Both sources say the same of pids that are not there, of kernel threads, and of many pids") {
    const Child one([] { return 0L; });
    SnapshotRequest request = request_for(one.pid());
    request.pids.insert(request.pids.end(), {2, 3, 4'000'000, -5, 0, one.pid()});
    const Snapshot bpf = read(shared_reader(), request);
    const auto procfs = read_procfs_snapshot(request);
    REQUIRE(procfs);
    CHECK(bpf.gaps.missing_pids == procfs->gaps.missing_pids);
    const auto bpf_lines = sorted_lines(bpf);
    const auto procfs_lines = sorted_lines(*procfs);
    CHECK(only_in(bpf_lines, procfs_lines) == "");
    CHECK(only_in(procfs_lines, bpf_lines) == "");

    std::vector<std::unique_ptr<Child>> many;
    request = {};
    for (int i = 0; i < 40; ++i) {
        many.push_back(std::make_unique<Child>([] { return 0L; }));
        request.pids.push_back(many.back()->pid());
    }
    check_agreement(request, 40);
}
