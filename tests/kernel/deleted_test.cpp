// (way of deletion) x (way of holding) x (file system) x (reader): who holds which deleted file, and since when.
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "api/deleted.hpp"
#include "base/clock.hpp"
#include "iterator_fixture.hpp"

using namespace iterator_test;

namespace {

enum class Holding { fd, dup, o_path, mapping, executable, thread_table, namespace_of_its_own, cwd, root, directory_fd, thread_cwd };
enum class Removal { unlink, rename, last_of_two, one_of_two, rmdir, rename_directory };

constexpr Holding file_holdings[] = {Holding::fd, Holding::dup, Holding::o_path, Holding::mapping, Holding::executable, Holding::thread_table, Holding::namespace_of_its_own};
constexpr Holding directory_holdings[] = {Holding::cwd, Holding::root, Holding::directory_fd, Holding::thread_cwd};
constexpr Removal file_removals[] = {Removal::unlink, Removal::rename, Removal::last_of_two, Removal::one_of_two};
constexpr Removal directory_removals[] = {Removal::rmdir, Removal::rename_directory};

const char* name_of(Holding holding) {
    switch (holding) {
        case Holding::fd: return "fd";
        case Holding::dup: return "dup";
        case Holding::o_path: return "O_PATH";
        case Holding::mapping: return "mapping";
        case Holding::executable: return "executable";
        case Holding::thread_table: return "thread's table";
        case Holding::namespace_of_its_own: return "mount namespace";
        case Holding::cwd: return "cwd";
        case Holding::root: return "root";
        case Holding::directory_fd: return "directory";
        case Holding::thread_cwd: return "thread's cwd";
    }
    return "?";
}

const char* name_of(Removal removal) {
    switch (removal) {
        case Removal::unlink: return "unlink";
        case Removal::rename: return "rename";
        case Removal::last_of_two: return "last of two";
        case Removal::one_of_two: return "one of two";
        case Removal::rmdir: return "rmdir";
        case Removal::rename_directory: return "rename onto directory";
    }
    return "?";
}

// What the rows of a cell have to be: kinds, each with whether it is a thread's own.
std::multiset<std::pair<RefKind, bool>> expected_rows(Holding holding) {
    switch (holding) {
        case Holding::fd:
        case Holding::o_path:
        case Holding::namespace_of_its_own:
        case Holding::directory_fd: return {{RefKind::fd, false}};
        case Holding::dup: return {{RefKind::fd, false}, {RefKind::fd, false}};
        case Holding::mapping: return {{RefKind::mem, false}};
        case Holding::executable: return {{RefKind::exe, false}};  // and its mappings
        case Holding::thread_table: return {{RefKind::fd, true}};
        case Holding::cwd: return {{RefKind::cwd, false}};
        case Holding::root: return {{RefKind::root, false}};
        case Holding::thread_cwd: return {{RefKind::cwd, true}};
    }
    return {};
}

constexpr off_t file_bytes = 1 << 30;  // with one page of data

bool make_file(const std::string& path) {
    const UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0700));
    return file.valid() && ::ftruncate(file.get(), file_bytes) == 0 && ::pwrite(file.get(), "x", 1, file_bytes / 2) == 1 && ::fsync(file.get()) == 0;
}

std::string helper_path() {
    std::array<char, PATH_MAX> self{};
    const ssize_t length = ::readlink("/proc/self/exe", self.data(), self.size());
    const std::string_view path(self.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
    return std::string(path.substr(0, path.rfind('/') + 1)) + "hold_still";
}

bool copy_file(const std::string& from, const std::string& to) {
    return std::system(("cp '" + from + "' '" + to + "'").c_str()) == 0;
}

// In a thread that stays: what it holds is its own.
template <class Hold>
bool in_thread(int unshared, Hold&& hold) {
    std::atomic<int> done{0};
    std::thread([&done, unshared, hold] {
        done = ::unshare(unshared) == 0 && hold() ? 1 : 2;
        for (;;) ::pause();
    }).detach();
    while (done == 0) std::this_thread::yield();
    return done == 1;
}

bool hold(Holding holding, const std::string& path) {
    switch (holding) {
        case Holding::fd: return ::open(path.c_str(), O_RDWR) >= 0;
        case Holding::dup: return ::dup(::open(path.c_str(), O_WRONLY)) >= 0;
        case Holding::o_path: return ::open(path.c_str(), O_PATH) >= 0;
        case Holding::mapping: {
            const int fd = ::open(path.c_str(), O_RDONLY);
            return fd >= 0 && ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED && ::close(fd) == 0;
        }
        case Holding::executable: return true;  // by its own exec
        case Holding::thread_table: return in_thread(CLONE_FILES, [path] { return ::open(path.c_str(), O_RDONLY) >= 0; });
        case Holding::namespace_of_its_own:
            return ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 && ::open(path.c_str(), O_RDONLY) >= 0;
        case Holding::cwd: return ::chdir(path.c_str()) == 0;
        case Holding::root: return ::chroot(path.c_str()) == 0;
        case Holding::directory_fd: return ::open(path.c_str(), O_RDONLY | O_DIRECTORY) >= 0;
        case Holding::thread_cwd: return in_thread(CLONE_FS, [path] { return ::chdir(path.c_str()) == 0; });
    }
    return false;
}

bool remove(Removal removal, const std::string& path) {
    switch (removal) {
        case Removal::unlink: return ::unlink(path.c_str()) == 0;
        case Removal::rename: return make_file(path + ".new") && ::rename((path + ".new").c_str(), path.c_str()) == 0;
        case Removal::last_of_two: return ::unlink(path.c_str()) == 0 && ::unlink((path + ".link").c_str()) == 0;
        case Removal::one_of_two: return ::unlink(path.c_str()) == 0;
        case Removal::rmdir: return ::rmdir(path.c_str()) == 0;
        case Removal::rename_directory: return ::mkdir((path + ".new").c_str(), 0700) == 0 && ::rename((path + ".new").c_str(), path.c_str()) == 0;
    }
    return false;
}

struct Cell {
    Holding holding;
    Removal removal;
    std::string path;
    std::unique_ptr<Child> child;
    FileId id;
    std::uint64_t allocated = 0;
    std::uint64_t before_ns = 0, after_ns = 0;
};

std::vector<Cell> make_cells(const std::string& folder) {
    std::vector<Cell> cells;
    const auto add = [&](Holding holding, Removal removal) {
        Cell cell{holding, removal, folder + '/' + name_of(removal) + ", " + name_of(holding), nullptr, {}, 0, 0, 0};
        INFO(cell.path);
        const bool directory = removal == Removal::rmdir || removal == Removal::rename_directory;
        if (directory) REQUIRE(::mkdir(cell.path.c_str(), 0700) == 0);
        else if (holding == Holding::executable) REQUIRE(copy_file(helper_path(), cell.path));
        else REQUIRE(make_file(cell.path));
        if (removal == Removal::last_of_two || removal == Removal::one_of_two) REQUIRE(::link(cell.path.c_str(), (cell.path + ".link").c_str()) == 0);
        struct stat stat{};
        REQUIRE(::stat(cell.path.c_str(), &stat) == 0);
        cell.id = {{gnu_dev_major(stat.st_dev), gnu_dev_minor(stat.st_dev)}, stat.st_ino};
        cell.allocated = static_cast<std::uint64_t>(stat.st_blocks) * 512;
        cell.child = std::make_unique<Child>([&]() -> long {
            // The runner's own descriptors are none of a cell's business.
            ::syscall(SYS_close_range, 3U, ~0U, 0U);
            if (holding == Holding::executable) {
                Child::tell(1);
                ::execl(cell.path.c_str(), "hold_still", nullptr);
                return 0;
            }
            return hold(holding, cell.path) ? 1 : 0;
        });
        REQUIRE(cell.child->ready == 1);
        if (holding == Holding::executable) {
            const std::string exe = "/proc/" + std::to_string(cell.child->pid()) + "/exe";
            struct stat running{};
            // The device, too: the runner's own file, which the child is until its exec, may have the same number elsewhere.
            const auto is_the_copy = [&] { return ::stat(exe.c_str(), &running) == 0 && running.st_ino == stat.st_ino && running.st_dev == stat.st_dev; };
            for (int i = 0; i < 60000 && !is_the_copy(); ++i) ::usleep(1000);
            REQUIRE(is_the_copy());
        }
        cell.before_ns = boottime_now_ns();
        REQUIRE(remove(removal, cell.path));
        cell.after_ns = boottime_now_ns();
        cells.push_back(std::move(cell));
    };
    for (const Removal removal : file_removals) {
        for (const Holding holding : file_holdings) add(holding, removal);
    }
    for (const Removal removal : directory_removals) {
        for (const Holding holding : directory_holdings) add(holding, removal);
    }
    return cells;
}

// A sanitizer's runtime has deleted files of its own.
std::size_t count_below(const std::string& folder, const DeletedAnswer& deleted) {
    return static_cast<std::size_t>(std::count_if(deleted.files.begin(), deleted.files.end(), [&](const DeletedFile& file) { return file.path.starts_with(folder); }));
}

void check_cells(const std::string& folder, const std::vector<Cell>& cells, const DeletedAnswer& deleted) {
    const Snapshot& snapshot = deleted.answer.snapshot;
    CHECK(count_below(folder, deleted) == cells.size());
    for (const Cell& cell : cells) {
        INFO(cell.path);
        const auto file = std::find_if(deleted.files.begin(), deleted.files.end(), [&](const DeletedFile& known) { return known.path == cell.path; });
        const bool found = file != deleted.files.end();
        CHECK(found);
        if (!found) continue;
        CHECK(file->id == cell.id);
        CHECK(file->allocated == cell.allocated);
        const bool left = cell.removal == Removal::one_of_two;
        CHECK(to_string(file->state) == to_string(left ? NameState::gone : NameState::deleted));
        CHECK(file->nlink == (left ? 1U : 0U));
        CHECK(file->deleted.has_value() != left);
        if (file->deleted) {
            CHECK(file->deleted->earliest_ns <= cell.after_ns);
            CHECK(file->deleted->latest_ns >= cell.before_ns);
        }
        std::multiset<std::pair<RefKind, bool>> rows;
        for (const std::uint32_t index : file->references) {
            const Reference& reference = snapshot.references[index];
            const pid_t pid = snapshot.processes[reference.process].pid;
            CHECK(pid == cell.child->pid());
            if (cell.holding == Holding::executable && reference.ref == RefKind::mem) continue;
            rows.emplace(reference.ref, reference.tid != 0 && reference.tid != pid);
        }
        CHECK((rows == expected_rows(cell.holding)));
    }
}

void check_file_system(const std::string& folder) {
    const std::vector<Cell> cells = make_cells(folder);
    DeletedRequest request;
    request.gone = true;
    for (const Cell& cell : cells) request.pids.push_back(cell.child->pid());
    for (const Backend backend : {Backend::automatic, Backend::procfs}) {
        request.backend = backend;
        auto deleted = find_deleted(request);
        REQUIRE(deleted);
        INFO("through " << deleted->answer.snapshot.source);
        CHECK(deleted->answer.snapshot.source == (backend == Backend::procfs ? "procfs" : "bpf"));
        check_cells(folder, cells, *deleted);
    }
    // Without asking for them, files that have a link left are no deleted files.
    request.gone = false;
    auto deleted = find_deleted(request);
    REQUIRE(deleted);
    CHECK(count_below(folder, *deleted) == cells.size() - std::size(file_holdings));
}

// Unmounts at the end of its scope.
class Mounted {
public:
    Mounted(std::string where, const char* type, const std::string& options) : where_(std::move(where)) {
        REQUIRE(::mount(type, where_.c_str(), type, 0, options.c_str()) == 0);
    }
    ~Mounted() { ::umount2(where_.c_str(), MNT_DETACH); }
    Mounted(const Mounted&) = delete;
    Mounted& operator=(const Mounted&) = delete;

private:
    std::string where_;
};

}  // namespace

TEST_CASE("Whatever is deleted in whichever way is found by whatever holds it: on the disk's file system") {
    const char* const scratch = std::getenv("SCRATCH");
    const Folder folder(std::string(scratch != nullptr ? scratch : "/tmp") + "/fdspan-deleted-XXXXXX");
    check_file_system(folder.path());
}

TEST_CASE("Whatever is deleted in whichever way is found by whatever holds it: on tmpfs") {
    const Folder folder;
    const Mounted memory(folder.path(), "tmpfs", "");
    check_file_system(folder.path());
}

TEST_CASE("Whatever is deleted in whichever way is found by whatever holds it: on overlayfs") {
    const Folder folder;
    const Mounted memory(folder.path(), "tmpfs", "");
    for (const char* const name : {"lower", "upper", "work", "merged"}) REQUIRE(::mkdir((folder / name).c_str(), 0700) == 0);
    REQUIRE(make_file(folder / "lower/low"));
    REQUIRE(make_file(folder / "lower/copied"));
    const Mounted overlay(folder / "merged", "overlay", "lowerdir=" + (folder / "lower") + ",upperdir=" + (folder / "upper") + ",workdir=" + (folder / "work"));
    check_file_system(folder / "merged");

    // A file of the lower layer is not deleted by what happens above, unless it was copied up before.
    const Child child([&]() -> long {
        ::syscall(SYS_close_range, 3U, ~0U, 0U);
        if (!hold(Holding::fd, folder / "merged/copied")) return 0;
        const int low = ::open((folder / "merged/low").c_str(), O_RDONLY);
        return low >= 0 && ::mmap(nullptr, 4096, PROT_READ, MAP_PRIVATE, low, 0) != MAP_FAILED ? 1 : 0;
    });
    REQUIRE(child.ready == 1);
    REQUIRE(::unlink((folder / "merged/low").c_str()) == 0);
    REQUIRE(::unlink((folder / "merged/copied").c_str()) == 0);
    DeletedRequest request;
    request.pids = {child.pid()};
    request.gone = true;
    for (const Backend backend : {Backend::automatic, Backend::procfs}) {
        request.backend = backend;
        auto deleted = find_deleted(request);
        REQUIRE(deleted);
        INFO("through " << deleted->answer.snapshot.source);
        std::map<std::string, NameState> states;
        for (const DeletedFile& file : deleted->files) {
            if (file.path.starts_with(folder / "merged")) states[file.path] = file.state;
        }
        const std::map<std::string, NameState> expected{{folder / "merged/low", NameState::gone}, {folder / "merged/copied", NameState::deleted}};
        CHECK((states == expected));
    }
}
