// The procfs reader against the real kernel: make it so, read it, hold each row against what the kernel says of the object itself.
#include <fcntl.h>
#include <linux/memfd.h>
#include <sched.h>
#include <signal.h>
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
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include "base/unique_fd.hpp"
#include "snapshot/snapshot.hpp"

using namespace fdspan;

namespace {

class Folder {
public:
    Folder() {
        std::string pattern = "/tmp/fdspan-live-XXXXXX";
        REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() {
        if (std::system(("rm -rf " + path_).c_str()) != 0) std::fprintf(stderr, "%s stays\n", path_.c_str());
    }
    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    std::string path_;
};

UniqueFd create(const std::string& path, int flags = O_RDWR | O_CREAT | O_CLOEXEC) {
    UniqueFd fd(::open(path.c_str(), flags, 0600));
    REQUIRE(fd.valid());
    return fd;
}

Snapshot read(const SnapshotRequest& request) {
    auto snapshot = read_procfs_snapshot(request);
    REQUIRE(snapshot);
    return std::move(*snapshot);
}

Snapshot read_pid(pid_t pid, std::uint32_t fields = field_all, std::uint8_t kinds = 0xff) {
    SnapshotRequest request;
    request.pids = {pid};
    request.fields = fields;
    request.kinds = kinds;
    return read(request);
}

constexpr std::uint8_t only(RefKind kind) { return static_cast<std::uint8_t>(1U << static_cast<unsigned>(kind)); }

std::optional<Reference> find_fd(const Snapshot& snapshot, int fd, pid_t tid = 0) {
    for (const Reference& reference : snapshot.references) {
        if (reference.ref == RefKind::fd && reference.fd == fd && (tid == 0 || reference.tid == tid)) return reference;
    }
    return std::nullopt;
}

std::optional<Reference> find_map(const Snapshot& snapshot, const void* address) {
    for (const Reference& reference : snapshot.references) {
        const auto at = reinterpret_cast<std::uint64_t>(address);
        if (reference.ref == RefKind::mem && reference.map_start <= at && at < reference.map_end) return reference;
    }
    return std::nullopt;
}

std::optional<Reference> find_kind(const Snapshot& snapshot, RefKind kind) {
    for (const Reference& reference : snapshot.references) {
        if (reference.ref == kind) return reference;
    }
    return std::nullopt;
}

// A child that runs `body` and then waits. Killed at the end of its scope. `ready` holds what body returned.
class Child {
public:
    template <class Body>
    explicit Child(Body&& body) {
        std::array<int, 2> ends{};
        REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
        pid_ = ::fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            ready = body();
            [[maybe_unused]] const ssize_t written = ::write(ends[1], &ready, sizeof ready);
            for (;;) ::pause();
        }
        ::close(ends[1]);
        REQUIRE(::read(ends[0], &ready, sizeof ready) == sizeof ready);
        ::close(ends[0]);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    [[nodiscard]] pid_t pid() const { return pid_; }
    long ready = 0;

private:
    pid_t pid_ = -1;
};

}  // namespace

TEST_CASE("procfs: each kind of descriptor has the type, numbers, flags and position that fstat and fcntl give") {
    const Folder folder;
    struct Made {
        std::string what;
        UniqueFd fd;
        FileType type;
        std::string type_name;
        NameState name;
        std::string path;
    };
    std::vector<Made> made;
    const auto add = [&](std::string what, int fd, FileType type, NameState name, std::string path = "", std::string type_name = "") {
        INFO(what);
        REQUIRE(fd >= 0);
        made.push_back({std::move(what), UniqueFd(fd), type, std::move(type_name), name, std::move(path)});
    };
    const auto at = [](int fd) { return fd; };
    add("file", create(folder / "file").release(), FileType::reg, NameState::named, folder / "file");
    add("append", create(folder / "append", O_WRONLY | O_APPEND | O_CREAT).release(), FileType::reg, NameState::named, folder / "append");
    add("directory", at(::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY)), FileType::dir, NameState::named, folder.path());
    add("null", at(::open("/dev/null", O_RDWR)), FileType::chr, NameState::named, "/dev/null");
    REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
    add("fifo", at(::open((folder / "fifo").c_str(), O_RDWR)), FileType::fifo, NameState::named, folder / "fifo");
    REQUIRE(::symlink("/nonexistent", (folder / "link").c_str()) == 0);
    add("symlink", at(::open((folder / "link").c_str(), O_PATH | O_NOFOLLOW)), FileType::lnk, NameState::named, folder / "link");
    add("socket", at(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)), FileType::sock, NameState::nameless);
    std::array<int, 2> pipe{};
    REQUIRE(::pipe(pipe.data()) == 0);
    add("pipe in", pipe[0], FileType::fifo, NameState::nameless);
    add("pipe out", pipe[1], FileType::fifo, NameState::nameless);
    add("eventfd", at(::eventfd(0, EFD_CLOEXEC)), FileType::anon, NameState::nameless, "anon_inode:[eventfd]", "eventfd");
    add("epoll", at(::epoll_create1(0)), FileType::anon, NameState::nameless, "anon_inode:[eventpoll]", "eventpoll");
    add("inotify", at(::inotify_init1(0)), FileType::anon, NameState::nameless, "anon_inode:inotify", "inotify");
    add("timerfd", at(::timerfd_create(CLOCK_MONOTONIC, 0)), FileType::anon, NameState::nameless, "anon_inode:[timerfd]", "timerfd");
    sigset_t none;
    ::sigemptyset(&none);
    add("signalfd", at(::signalfd(-1, &none, 0)), FileType::anon, NameState::nameless, "anon_inode:[signalfd]", "signalfd");
    add("pidfd", at(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0))), FileType::anon, NameState::nameless, "", "pidfd");
    add("memfd", at(::memfd_create("m (deleted)", 0)), FileType::reg, NameState::memfd, "/memfd:m (deleted)");
    add("tmpfile", at(::open(folder.path().c_str(), O_TMPFILE | O_RDWR, 0600)), FileType::reg, NameState::tmpfile);
    add("namespace", at(::open("/proc/self/ns/net", O_RDONLY)), FileType::reg, NameState::nameless);
    for (const Made& one : made) {
        if (one.what == "file" || one.what == "append" || one.what == "memfd") {
            REQUIRE(::ftruncate(one.fd.get(), 100'000) == 0);
            REQUIRE(::write(one.fd.get(), "abc", 3) == 3);
        }
    }

    const Snapshot snapshot = read_pid(::getpid());
    CHECK(snapshot.gaps.complete());
    CHECK(snapshot.gaps.unstatable_references == 0);
    for (const Made& one : made) {
        INFO(one.what);
        const std::optional<Reference> row = find_fd(snapshot, one.fd.get());
        REQUIRE(row);
        struct stat st{};
        REQUIRE(::fstat(one.fd.get(), &st) == 0);
        CHECK(row->type == one.type);
        CHECK(snapshot.text(row->type_name) == one.type_name);
        CHECK(row->name == one.name);
        CHECK(row->dev == DeviceNumber{::gnu_dev_major(st.st_dev), ::gnu_dev_minor(st.st_dev)});
        CHECK(row->rdev == DeviceNumber{::gnu_dev_major(st.st_rdev), ::gnu_dev_minor(st.st_rdev)});
        CHECK(row->ino == st.st_ino);
        CHECK(row->nlink == st.st_nlink);
        CHECK(row->size == static_cast<std::uint64_t>(st.st_size));
        CHECK(row->allocated == static_cast<std::uint64_t>(st.st_blocks) * 512);
        CHECK(row->tid == ::getpid());
        CHECK(row->valid == (field_all | field_size | field_position) - field_cgroup - field_ids);
        const int status = ::fcntl(one.fd.get(), F_GETFL);
        const int cloexec = ::fcntl(one.fd.get(), F_GETFD) == FD_CLOEXEC ? O_CLOEXEC : 0;
        CHECK((row->flags & ~static_cast<std::uint32_t>(O_CLOEXEC)) == (static_cast<std::uint32_t>(status) & ~static_cast<std::uint32_t>(O_CLOEXEC)));
        CHECK((row->flags & O_CLOEXEC) == static_cast<std::uint32_t>(cloexec));
        if (const off_t pos = ::lseek(one.fd.get(), 0, SEEK_CUR); pos >= 0) CHECK(row->pos == static_cast<std::uint64_t>(pos));
        std::array<char, PATH_MAX> text{};
        REQUIRE(::readlink(("/proc/self/fd/" + std::to_string(one.fd.get())).c_str(), text.data(), text.size() - 1) > 0);
        if (one.name == NameState::nameless) CHECK(snapshot.path(*row) == text.data());
        if (!one.path.empty() && one.what != "pidfd") CHECK(snapshot.path(*row) == one.path);
        CHECK(snapshot.path(*row).find(one.what == "memfd" ? "(deleted) (deleted)" : " (deleted)") == std::string_view::npos);
    }
}

TEST_CASE("procfs: a name that really ends in the deleted mark is kept, the kernel's mark is taken off") {
    const Folder folder;
    const std::string real = folder / "real (deleted)";
    const UniqueFd real_fd = create(real);
    const UniqueFd dead_fd = create(folder / "dead");
    ::unlink((folder / "dead").c_str());
    const UniqueFd dead_real_fd = create(folder / "both (deleted)");
    ::unlink((folder / "both (deleted)").c_str());
    const UniqueFd gone_fd = create(folder / "gone");
    REQUIRE(::link((folder / "gone").c_str(), (folder / "other").c_str()) == 0);
    ::unlink((folder / "gone").c_str());
    // Another file now has the very text that the kernel shows for a gone one.
    const UniqueFd taken_fd = create(folder / "taken");
    REQUIRE(::link((folder / "taken").c_str(), (folder / "other2").c_str()) == 0);
    ::unlink((folder / "taken").c_str());
    const UniqueFd impostor = create(folder / "taken (deleted)");
    // … or a symlink that leads to it.
    const UniqueFd led_fd = create(folder / "led");
    REQUIRE(::link((folder / "led").c_str(), (folder / "other3").c_str()) == 0);
    ::unlink((folder / "led").c_str());
    REQUIRE(::symlink("other3", (folder / "led (deleted)").c_str()) == 0);
    ::mkdir((folder / "dir").c_str(), 0700);
    const UniqueFd dir_fd(::open((folder / "dir").c_str(), O_RDONLY | O_DIRECTORY));
    ::rmdir((folder / "dir").c_str());
    const UniqueFd odd_fd = create(folder / "new\nline \\012 \xff\x1b[31m");

    const auto check = [&](const Snapshot& snapshot, const UniqueFd& fd, const std::string& path, NameState name) {
        INFO(path);
        const std::optional<Reference> row = find_fd(snapshot, fd.get());
        REQUIRE(row);
        CHECK(snapshot.path(*row) == path);
        CHECK(row->name == name);
    };
    const Snapshot snapshot = read_pid(::getpid());
    check(snapshot, real_fd, real, NameState::named);
    check(snapshot, dead_fd, folder / "dead", NameState::deleted);
    check(snapshot, dead_real_fd, folder / "both (deleted)", NameState::deleted);
    check(snapshot, gone_fd, folder / "gone", NameState::gone);
    check(snapshot, taken_fd, folder / "taken", NameState::gone);
    check(snapshot, impostor, folder / "taken (deleted)", NameState::named);
    check(snapshot, led_fd, folder / "led", NameState::gone);
    check(snapshot, dir_fd, folder / "dir", NameState::deleted);
    check(snapshot, odd_fd, folder / "new\nline \\012 \xff\x1b[31m", NameState::named);

    SECTION("also when only paths are asked for") {
        const Snapshot paths = read_pid(::getpid(), field_path);
        CHECK(paths.path(*find_fd(paths, real_fd.get())) == real);
        CHECK(paths.path(*find_fd(paths, dead_fd.get())) == folder / "dead");
        CHECK(paths.path(*find_fd(paths, gone_fd.get())) == folder / "gone");
        CHECK(find_fd(paths, real_fd.get())->valid == field_path);
    }
    SECTION("deleted_only gives the deleted and nothing else") {
        SnapshotRequest request;
        request.pids = {::getpid()};
        request.kinds = only(RefKind::fd);
        request.deleted_only = true;
        const UniqueFd memory(::memfd_create("x", 0));
        const Snapshot deleted = read(request);
        CHECK(deleted.references.size() == 3);
        check(deleted, dead_fd, folder / "dead", NameState::deleted);
        check(deleted, dir_fd, folder / "dir", NameState::deleted);
    }
}

TEST_CASE("procfs: a real file in the root directory that is called like a memfd is not one") {
    const UniqueFd fd(::open("/memfd:fdspan-test", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    REQUIRE(fd.valid());  // needs root
    ::unlink("/memfd:fdspan-test");
    const Snapshot snapshot = read_pid(::getpid());
    CHECK(find_fd(snapshot, fd.get())->name == NameState::deleted);
}

TEST_CASE("procfs: a path longer than a page is counted and its row kept") {
    const Folder folder;
    const UniqueFd home(::open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(::chdir(folder.path().c_str()) == 0);
    const std::string name(250, 'n');
    for (int depth = 0; depth < 20; ++depth) {
        REQUIRE(::mkdir(name.c_str(), 0700) == 0);
        REQUIRE(::chdir(name.c_str()) == 0);
    }
    const UniqueFd fd(::open("deep", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    REQUIRE(::fchdir(home.get()) == 0);
    const Snapshot snapshot = read_pid(::getpid(), field_all, only(RefKind::fd));
    const std::optional<Reference> row = find_fd(snapshot, fd.get());
    REQUIRE(row);
    CHECK((row->valid & field_path) == 0);
    CHECK((row->valid & field_stat) != 0);
    CHECK(row->type == FileType::reg);
    CHECK(snapshot.gaps.truncated_paths == 1);
    CHECK_FALSE(snapshot.gaps.complete());
}

TEST_CASE("procfs: mappings have the file's numbers, their range and protection, and shared memory is no deleted file") {
    const Folder folder;
    const std::string path = folder / "map\nped \\012 x";
    const UniqueFd fd = create(path);
    REQUIRE(::ftruncate(fd.get(), 8192) == 0);
    void* const file = ::mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd.get(), 0);
    const UniqueFd dead_fd = create(folder / "dead");
    REQUIRE(::ftruncate(dead_fd.get(), 4096) == 0);
    void* const dead = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, dead_fd.get(), 0);
    ::unlink((folder / "dead").c_str());
    void* const shared = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const int id = ::shmget(IPC_PRIVATE, 4096, 0600);
    void* const sysv = ::shmat(id, nullptr, 0);
    ::shmctl(id, IPC_RMID, nullptr);
    const Snapshot snapshot = read_pid(::getpid(), field_all, only(RefKind::mem));
    struct stat st{};
    ::fstat(fd.get(), &st);
    const std::optional<Reference> row = find_map(snapshot, file);
    REQUIRE(row);
    CHECK(snapshot.path(*row) == path);
    CHECK(row->ino == st.st_ino);
    CHECK(row->type == FileType::reg);
    CHECK(row->size == 8192);
    CHECK(row->name == NameState::named);
    CHECK(row->map_end - row->map_start == 8192);
    CHECK(row->map_flags == (PROT_READ | 1U << 31));
    CHECK(row->flags == 0);
    REQUIRE(find_map(snapshot, dead));
    CHECK(find_map(snapshot, dead)->name == NameState::deleted);
    CHECK(snapshot.path(*find_map(snapshot, dead)) == folder / "dead");
    CHECK(find_map(snapshot, dead)->map_flags == (PROT_READ | PROT_WRITE));
    REQUIRE(find_map(snapshot, shared));
    CHECK(find_map(snapshot, shared)->name == NameState::shm);
    REQUIRE(find_map(snapshot, sysv));
    CHECK(find_map(snapshot, sysv)->name == NameState::shm);
    ::munmap(file, 8192);
    ::munmap(dead, 4096);
    ::munmap(shared, 4096);
    ::shmdt(sysv);
}

TEST_CASE("procfs: of the path of a mapping only a newline is escaped, as the kernel does it") {
    const Folder folder;
    for (const std::string name : {"m\\101b", "\\134", "tab\t \\040", "line\n\\011"}) {
        const std::string path = folder / name;
        const UniqueFd fd = create(path);
        REQUIRE(::ftruncate(fd.get(), 4096) == 0);
        void* const file = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd.get(), 0);
        const Snapshot snapshot = read_pid(::getpid(), field_path, only(RefKind::mem));
        REQUIRE(find_map(snapshot, file));
        CHECK(snapshot.path(*find_map(snapshot, file)) == path);
        ::munmap(file, 4096);
    }
}

TEST_CASE("procfs: exe, cwd and root are references too") {
    const Folder folder;
    const Child child([&] { return ::chdir(folder.path().c_str()); });
    const Snapshot snapshot = read_pid(child.pid());
    REQUIRE(find_kind(snapshot, RefKind::cwd));
    CHECK(snapshot.path(*find_kind(snapshot, RefKind::cwd)) == folder.path());
    CHECK(find_kind(snapshot, RefKind::cwd)->type == FileType::dir);
    REQUIRE(find_kind(snapshot, RefKind::root));
    CHECK(snapshot.path(*find_kind(snapshot, RefKind::root)) == "/");
    struct stat st{};
    REQUIRE(::stat("/proc/self/exe", &st) == 0);
    REQUIRE(find_kind(snapshot, RefKind::exe));
    CHECK(find_kind(snapshot, RefKind::exe)->ino == st.st_ino);
    REQUIRE(snapshot.processes.size() == 1);
    CHECK(snapshot.processes[0].ppid == ::getpid());
    CHECK(snapshot.processes[0].uid == ::getuid());
}

TEST_CASE("procfs: a name ending in the deleted mark is found in a mount namespace that is not ours") {
    const Folder folder;
    const std::string name = "real (deleted)";
    const Child child([&] {
        if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return -1;
        if (::mount("tmpfs", folder.path().c_str(), "tmpfs", 0, nullptr) != 0) return -2;
        const int real = ::open((folder / name).c_str(), O_RDWR | O_CREAT, 0600);
        const int gone = ::open((folder / "gone").c_str(), O_RDWR | O_CREAT, 0600);
        if (::link((folder / "gone").c_str(), (folder / "other").c_str()) != 0 || ::unlink((folder / "gone").c_str()) != 0) return -3;
        return real >= 0 && gone == real + 1 ? real : -4;
    });
    REQUIRE(child.ready >= 0);  // needs CAP_SYS_ADMIN
    const Snapshot snapshot = read_pid(child.pid());
    CHECK(find_fd(snapshot, static_cast<int>(child.ready))->name == NameState::named);
    CHECK(snapshot.path(*find_fd(snapshot, static_cast<int>(child.ready))) == folder / name);
    CHECK(find_fd(snapshot, static_cast<int>(child.ready) + 1)->name == NameState::gone);
}

TEST_CASE("procfs: a thread that unshared its descriptor table is listed with its own tid, one that shares is not") {
    std::atomic<pid_t> own_tid{0};
    std::atomic<pid_t> sharing_tid{0};
    std::atomic<int> own_fd{-1};
    std::atomic<bool> done{false};
    std::thread sharing([&] {
        sharing_tid = ::gettid();
        while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    });
    std::thread own([&] {
        if (::unshare(CLONE_FILES) == 0) own_fd = ::memfd_create("only mine", 0);
        own_tid = ::gettid();
        while (!done) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    });
    while (own_tid == 0 || sharing_tid == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const Snapshot snapshot = read_pid(::getpid(), field_all, only(RefKind::fd));
    SnapshotRequest request;
    request.pids = {own_tid};
    const Snapshot of_thread = read(request);
    done = true;
    own.join();
    sharing.join();
    CHECK(of_thread.gaps.missing_pids == 1);  // a thread's id is no pid
    const std::optional<Reference> row = find_fd(snapshot, own_fd, own_tid);
    REQUIRE(row);
    CHECK(snapshot.path(*row) == "/memfd:only mine");
    std::size_t zeros = 0;
    for (const Reference& reference : snapshot.references) {
        CHECK(reference.tid != sharing_tid);
        zeros += reference.fd == 0 ? 1 : 0;
    }
    CHECK(zeros == 2);
}

TEST_CASE("procfs: a process whose leader has ended is read through a live thread") {
    const Folder folder;
    const std::string path = folder / "held";
    const Child child([&] {
        const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (::ftruncate(fd, 4096) != 0) return -1L;
        if (::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED) return -1L;
        // The raw exit ends only the leader, after it reported; these threads live on.
        std::thread([] {
            for (;;) ::pause();
        }).detach();
        std::thread([] {
            for (;;) ::pause();
        }).detach();
        struct sigaction action{};
        action.sa_handler = [](int) { ::syscall(SYS_exit, 0); };
        ::sigaction(SIGUSR1, &action, nullptr);
        return static_cast<long>(fd);
    });
    REQUIRE(child.ready >= 0);
    REQUIRE(::syscall(SYS_tgkill, child.pid(), child.pid(), SIGUSR1) == 0);
    Snapshot snapshot;
    for (int attempt = 0; attempt < 200; ++attempt) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        const std::string stat_path = "/proc/" + std::to_string(child.pid()) + "/stat";
        std::FILE* const stat = std::fopen(stat_path.c_str(), "r");
        REQUIRE(stat != nullptr);
        std::array<char, 512> text{};
        const std::size_t length = std::fread(text.data(), 1, text.size() - 1, stat);
        std::fclose(stat);
        if (std::string(text.data(), length).find(") Z ") != std::string::npos) break;
    }
    snapshot = read_pid(child.pid());
    const std::optional<Reference> row = find_fd(snapshot, static_cast<int>(child.ready));
    REQUIRE(row);
    CHECK(snapshot.path(*row) == path);
    CHECK(row->tid == child.pid());
    bool mapped = false;
    for (const Reference& reference : snapshot.references) {
        CHECK(reference.tid == child.pid());
        mapped |= reference.ref == RefKind::mem && snapshot.path(reference) == path && (reference.valid & field_stat) != 0;
    }
    CHECK(mapped);
    CHECK(find_kind(snapshot, RefKind::exe));
    CHECK(find_kind(snapshot, RefKind::cwd));
    CHECK(snapshot.gaps.complete());
}

TEST_CASE("procfs: a zombie has no references and is neither unreadable nor vanished") {
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(0);
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
    const Snapshot snapshot = read_pid(pid);
    ::waitpid(pid, nullptr, 0);
    REQUIRE(snapshot.processes.size() == 1);
    CHECK_FALSE(snapshot.processes[0].unreadable);
    CHECK(snapshot.references.empty());
    CHECK(snapshot.gaps.vanished_processes == 0);
}

TEST_CASE("procfs: kernel threads are processes without an exe, and not unreadable") {
    const Snapshot snapshot = read_pid(2);
    REQUIRE(snapshot.processes.size() == 1);
    CHECK(snapshot.text(snapshot.processes[0].comm) == "kthreadd");
    CHECK_FALSE(snapshot.processes[0].unreadable);
    CHECK_FALSE(find_kind(snapshot, RefKind::exe));
    CHECK(snapshot.gaps.complete());
}

TEST_CASE("procfs: a pid that is not there is counted, and the others are read") {
    SnapshotRequest request;
    request.pids = {::getpid(), 4194304, -1, 0, ::getpid()};
    const Snapshot snapshot = read(request);
    CHECK(snapshot.gaps.missing_pids == 3);
    CHECK(snapshot.processes.size() == 1);
}

TEST_CASE("procfs: without privileges foreign processes are kept as unreadable, with comm and user, and own mappings are still read") {
    const Folder folder;
    const Child foreign([] { return 0; });
    const Child reader([&] {
        if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0) return 1;  // needs root
        ::prctl(PR_SET_DUMPABLE, 1);
        SnapshotRequest request;
        request.pids = {2, foreign.pid(), ::getpid()};
        std::sort(request.pids.begin(), request.pids.end());
        const auto snapshot = read_procfs_snapshot(request);
        if (!snapshot) return 2;
        if (snapshot->processes.size() != 3) return 3;
        if (snapshot->gaps.unreadable_processes != 1) return 4;
        for (const Process& process : snapshot->processes) {
            if (process.unreadable != (process.pid == foreign.pid())) return 5;
            if (process.pid == foreign.pid() && (process.uid != 0 || snapshot->text(process.comm).empty())) return 6;
        }
        bool fd_seen = false;
        bool library_seen = false;
        for (const Reference& reference : snapshot->references) {
            if (snapshot->processes[reference.process].pid == foreign.pid()) return 7;
            if (snapshot->processes[reference.process].pid != ::getpid()) continue;
            fd_seen |= reference.ref == RefKind::fd;
            const bool libc = snapshot->path(reference).find("libc.so") != std::string_view::npos;
            library_seen |= libc && reference.name == NameState::named && reference.size > 0 && (reference.valid & field_stat) != 0;
        }
        return !fd_seen ? 8 : !library_seen ? 9 : 0;
    });
    CHECK(reader.ready == 0);
}

TEST_CASE("procfs: intervals contain the moment of the open, and of the fork for what was inherited") {
    const Folder folder;
    const std::uint64_t before_open = boottime_now_ns();
    const UniqueFd fd = create(folder / "file");
    const std::uint64_t after_open = boottime_now_ns();
    const std::uint64_t before_fork = boottime_now_ns();
    const Child child([] { return 0; });
    const std::uint64_t after_fork = boottime_now_ns();
    SnapshotRequest request;
    request.pids = {::getpid(), child.pid()};
    const Snapshot snapshot = read(request);
    REQUIRE(snapshot.processes.size() == 2);
    int seen = 0;
    for (const Reference& row : snapshot.references) {
        CHECK(row.opened.earliest_ns <= row.opened.latest_ns);
        CHECK(row.description_opened.earliest_ns <= row.description_opened.latest_ns);
        CHECK(row.opened.latest_ns <= snapshot.ended_ns);
        CHECK(row.opened.latest_ns >= snapshot.began_ns);
        CHECK_FALSE(row.opened.is_exact());
        if (row.ref != RefKind::fd || row.fd != fd.get()) continue;
        ++seen;
        CHECK(row.description_opened.contains(before_open));
        CHECK(row.description_opened.contains(after_open));
        const bool own = snapshot.processes[row.process].pid == ::getpid();
        CHECK(row.opened.contains(own ? before_open : after_fork));
        CHECK(row.opened.contains(own ? after_open : after_fork));
        // The birth of the file is known to about a second; the process may be far older.
        struct statx stx{};
        REQUIRE(::statx(fd.get(), "", AT_EMPTY_PATH, STATX_BTIME, &stx) == 0);
        if ((stx.stx_mask & STATX_BTIME) != 0) CHECK(row.description_opened.earliest_ns + 2'000'000'000 > before_open);
        if (!own) CHECK(row.opened.earliest_ns + 20'000'000 >= before_fork);
    }
    CHECK(seen == 2);
    const Process& forked = snapshot.processes[snapshot.processes[0].pid == child.pid() ? 0 : 1];
    CHECK(forked.started.latest_ns - forked.started.earliest_ns <= 10'000'000);
    CHECK(forked.started.earliest_ns <= after_fork);
    CHECK(forked.started.latest_ns >= before_fork);
}

TEST_CASE("procfs: a whole snapshot agrees with lsof on every descriptor of a process with one of each") {
    const Folder folder;
    const Child child([&] {
        const std::array<int, 9> fds{
            ::open((folder / "a file").c_str(), O_RDWR | O_CREAT, 0600), ::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY),
            ::open("/dev/null", O_RDONLY), ::socket(AF_UNIX, SOCK_STREAM, 0), ::eventfd(0, 0), ::epoll_create1(0),
            ::memfd_create("m", 0), ::timerfd_create(CLOCK_BOOTTIME, 0), ::open("/tmp", O_TMPFILE | O_RDWR, 0600)};
        return fds.back() >= 0 && ::ftruncate(fds[0], 12345) == 0 ? 0 : -1;
    });
    REQUIRE(child.ready == 0);
    const Snapshot all = read({});
    std::map<std::string, Reference> ours;  // "7" or "cwd"
    for (const Reference& row : all.references) {
        if (all.processes[row.process].pid != child.pid()) continue;
        if (row.ref == RefKind::fd) ours[std::to_string(row.fd)] = row;
        else if (row.ref == RefKind::cwd) ours["cwd"] = row;
        else if (row.ref == RefKind::root) ours["rtd"] = row;
        else if (row.ref == RefKind::exe) ours["txt"] = row;
    }
    std::FILE* const lsof = ::popen(("lsof -n -P -F pfntDis -p " + std::to_string(child.pid()) + " 2>/dev/null").c_str(), "r");
    REQUIRE(lsof != nullptr);
    std::map<char, std::string> fields;
    std::size_t compared = 0;
    const auto compare = [&] {
        const std::string name = fields.empty() ? "" : fields['f'];
        if (name.empty() || name == "mem" || name == "DEL") return;
        INFO(name << " " << fields['n']);
        REQUIRE(ours.count(name) == 1);
        const Reference& row = ours[name];
        if (!fields['i'].empty()) CHECK(std::to_string(row.ino) == fields['i']);
        if (!fields['D'].empty()) CHECK(::gnu_dev_makedev(row.dev.major, row.dev.minor) == std::strtoull(fields['D'].c_str(), nullptr, 16));
        if (!fields['s'].empty() && row.type != FileType::chr) CHECK(std::to_string(row.size) == fields['s']);
        if (fields['t'] == "REG" || fields['t'] == "DIR" || fields['t'] == "CHR" || fields['t'] == "FIFO") CHECK(to_string(row.type) == fields['t']);
        if (fields['t'] == "unix") CHECK(row.type == FileType::sock);
        if (fields['t'] == "a_inode") CHECK(row.type == FileType::anon);
        if (row.name == NameState::named) CHECK(all.path(row) == fields['n']);
        ++compared;
    };
    std::array<char, 4096> line{};
    while (std::fgets(line.data(), line.size(), lsof) != nullptr) {
        std::string text(line.data());
        if (!text.empty() && text.back() == '\n') text.pop_back();
        if (text.empty() || text.front() == 'p') continue;
        if (text.front() == 'f') {
            compare();
            fields.clear();
        }
        fields[text.front()] = text.substr(1);
    }
    compare();
    ::pclose(lsof);
    CHECK(compared == ours.size());
    CHECK(compared >= 12);
}

TEST_CASE("procfs: a file system whose server has stopped does not hold the snapshot up") {
    REQUIRE(::access("/dev/fuse", R_OK | W_OK) == 0);
    const Folder folder;
    std::array<char, PATH_MAX> self{};
    REQUIRE(::readlink("/proc/self/exe", self.data(), self.size() - 1) > 0);
    const std::string program = std::string(self.data()).substr(0, std::string(self.data()).rfind('/')) + "/hung_fuse";
    const auto start = [](const std::string& path, const std::string& argument, const char* says) {
        std::array<int, 2> out{};
        REQUIRE(::pipe2(out.data(), O_CLOEXEC) == 0);
        const pid_t pid = ::fork();
        if (pid == 0) {
            ::dup2(out[1], 1);
            ::execl(path.c_str(), path.c_str(), argument.c_str(), static_cast<char*>(nullptr));
            ::_exit(127);
        }
        ::close(out[1]);
        std::array<char, 64> line{};
        REQUIRE(::read(out[0], line.data(), line.size() - 1) > 0);
        ::close(out[0]);
        CHECK(std::string(line.data()).find(says) == 0);
        return pid;
    };
    const pid_t server = start(program, folder.path(), "ready");
    const std::string held = folder / "held";
    const pid_t runner = start(held, "--wait", "waiting");  // exe and mappings on it
    long fd_number = -1;
    {
        Child holder([&] {
            const int fd = ::open(held.c_str(), O_RDONLY);
            void* const mapped = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 4096);
            // A thread that waits for a page of it, and one that wants the address space for itself.
            static volatile char* byte = static_cast<volatile char*>(::mmap(nullptr, 1 << 16, PROT_READ, MAP_SHARED, fd, 0));
            std::thread([] {
                std::this_thread::sleep_for(std::chrono::milliseconds(300));
                static_cast<void>(byte[5]);
            }).detach();
            std::thread([] {
                for (;;) {
                    void* const area = ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                    std::this_thread::sleep_for(std::chrono::milliseconds(10));
                    ::munmap(area, 4096);
                }
            }).detach();
            return mapped != MAP_FAILED && ::chdir(folder.path().c_str()) == 0 ? fd : -1;
        });
        fd_number = holder.ready;
        REQUIRE(fd_number >= 0);
        REQUIRE(::kill(server, SIGSTOP) == 0);
        // A reader that hangs does so until this wakes the server, and is found out by that.
        const pid_t watchdog = ::fork();
        if (watchdog == 0) {
            ::sleep(60);
            ::kill(server, SIGCONT);
            ::_exit(0);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(500));

        // The claim is worth nothing unless a plain stat does hang.
        const pid_t statting = ::fork();
        if (statting == 0) {
            struct stat st{};
            ::_exit(::stat(held.c_str(), &st) == 0 ? 0 : 1);
        }
        SnapshotRequest request;
        request.pids = {holder.pid(), runner};
        const Snapshot some = read(request);
        const Snapshot all = read({});
        CHECK(::waitpid(watchdog, nullptr, WNOHANG) == 0);
        CHECK(::waitpid(statting, nullptr, WNOHANG) == 0);
        CHECK(some.gaps.unstatable_references == 0);
        std::map<std::string, int> rows;
        for (const Reference& row : some.references) {
            if (some.path(row).substr(0, folder.path().size()) != folder.path()) continue;
            CHECK((row.valid & field_stat) != 0);
            CHECK(row.name == NameState::named);
            ++rows[std::string(to_string(row.ref)) + (some.processes[row.process].pid == runner ? " of runner" : "")];
        }
        CHECK(rows["fd"] >= 1);
        CHECK(rows["mem"] == 2);
        CHECK(rows["cwd"] == 1);
        CHECK(rows["exe of runner"] == 1);
        CHECK(rows["mem of runner"] >= 1);
        CHECK(all.processes.size() > some.processes.size());
        ::kill(watchdog, SIGKILL);
        ::waitpid(watchdog, nullptr, 0);
        REQUIRE(::kill(server, SIGCONT) == 0);
        ::waitpid(statting, nullptr, 0);
    }
    ::kill(runner, SIGKILL);
    ::waitpid(runner, nullptr, 0);
    CHECK(::umount2(folder.path().c_str(), MNT_DETACH) == 0);
    ::kill(server, SIGTERM);
    ::waitpid(server, nullptr, 0);
}
