// The procfs reader. What it may call on a reference is short, because the file behind it may be on a file system that does not answer:
// readlinkat, statx with AT_STATX_DONT_SYNC, and fdinfo. Everything hangs on directory descriptors: /proc/PID kept open names one
// process for good, a reused pid can't be mistaken for it.
#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstring>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "base/file_mode.hpp"
#include "base/unique_fd.hpp"
#include "snapshot/procfs_mounts.hpp"
#include "snapshot/procfs_parse.hpp"
#include "snapshot/snapshot.hpp"

namespace fdspan {
namespace {

using namespace procfs;

constexpr std::size_t link_bytes = 2 * PATH_MAX;
constexpr std::size_t dirent_bytes = 32 * 1024;
constexpr std::size_t file_bytes_initial = 64 * 1024;
constexpr std::size_t file_bytes_max = 4 * 1024 * 1024;  // one mountinfo; one line of maps
// A birth time is wall clock; a leap second sets that back by one second. Larger steps back can't be seen afterwards.
constexpr std::uint64_t birth_margin_ns = 1'000'000'000;
constexpr unsigned statx_mask = STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID;
constexpr int statx_flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;

bool is_denied(int error) { return error == EACCES || error == EPERM; }
bool is_gone(int error) { return error == ENOENT || error == ESRCH; }

// Names of entries without allocation.
class Name {
public:
    explicit Name(std::uint64_t number) { *std::to_chars(text_.data(), text_.data() + text_.size() - 1, number).ptr = '\0'; }
    static Name range(std::uint64_t start, std::uint64_t end) {
        Name name;
        char* at = std::to_chars(name.text_.data(), name.text_.data() + 20, start, 16).ptr;
        *at++ = '-';
        *std::to_chars(at, at + 20, end, 16).ptr = '\0';
        return name;
    }
    [[nodiscard]] const char* c_str() const { return text_.data(); }

private:
    Name() = default;
    std::array<char, 48> text_{};
};

// struct linux_dirent64: u64 ino, s64 offset, u16 length of the record, u8 type, name. See getdents(2).
constexpr std::size_t dirent_length_at = 16;
constexpr std::size_t dirent_name_at = 19;

// Calls `entry(number)` for each entry whose name is a number. `entry` returns false to stop. Returns 0 or an errno.
template <class Entry>
int for_each_number(int dir, std::vector<char>& buffer, Entry&& entry) {
    for (;;) {
        const long got = ::syscall(SYS_getdents64, dir, buffer.data(), buffer.size());
        if (got < 0) return errno;
        if (got == 0) return 0;
        for (long at = 0; at < got;) {
            const char* const record = buffer.data() + at;
            std::uint16_t length = 0;
            std::memcpy(&length, record + dirent_length_at, sizeof length);
            const std::string_view name = record + dirent_name_at;
            at += length;
            const auto number = parse_number(name);
            if (number && *number <= INT_MAX && !entry(static_cast<int>(*number))) return 0;
        }
    }
}

DeviceNumber device_of(dev_t dev) { return {gnu_dev_major(dev), gnu_dev_minor(dev)}; }

// The kernel's own file systems that no mount table shows, found by making one file on each.
struct KernelDevices {
    std::optional<DeviceNumber> sockets, pipes, shm;

    static KernelDevices probe() {
        KernelDevices devices;
        struct stat st{};
        const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (socket.valid() && ::fstat(socket.get(), &st) == 0) devices.sockets = device_of(st.st_dev);
        std::array<int, 2> ends{-1, -1};
        if (::pipe2(ends.data(), O_CLOEXEC) == 0) {
            const UniqueFd in(ends[0]);
            const UniqueFd out(ends[1]);
            if (::fstat(in.get(), &st) == 0) devices.pipes = device_of(st.st_dev);
        }
        const UniqueFd memory(::memfd_create("fdspan", MFD_CLOEXEC));
        if (memory.valid() && ::fstat(memory.get(), &st) == 0) devices.shm = device_of(st.st_dev);
        return devices;
    }
};

FileType type_of(std::uint16_t mode) {
    // Only anon_inodes and their like have no type.
    return file_type_of_mode(mode, FileType::anon);
}

class Reader {
public:
    Reader(const SnapshotRequest& request, int proc, Snapshot& out)
        : request_(request), out_(out), proc_(proc), devices_(KernelDevices::probe()), dirents_(dirent_bytes),
          inner_dirents_(dirent_bytes), file_(file_bytes_initial) {
        const long hz = ::sysconf(_SC_CLK_TCK);
        tick_ns_ = 1'000'000'000ULL / static_cast<std::uint64_t>(hz > 0 ? hz : 100);
        want_path_ = request.wants(field_path);
        want_times_ = request.wants(field_times);
        want_stat_ = request.wants(field_stat) || want_times_ || request.deleted_only;
        want_fdinfo_ = request.wants(field_fdinfo);
        want_cgroup_ = request.wants(field_cgroup);
    }

    // Which processes there are to read, ascending.
    Result<std::vector<pid_t>> list() {
        std::vector<pid_t> pids = request_.pids;
        if (pids.empty()) {
            const int error = for_each_number(proc_, dirents_, [&](int pid) {
                pids.push_back(pid);
                return true;
            });
            if (error != 0) return fail_errno(error, "list the processes in /proc");
        }
        std::sort(pids.begin(), pids.end());
        pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
        return pids;
    }

    // Reads what other readers have not taken yet. order: which one each process of the snapshot is in `pids`.
    Result<void> read(const std::vector<pid_t>& pids, std::atomic<std::size_t>& next, std::vector<std::size_t>& order) {
        const bool asked = !request_.pids.empty();
        for (std::size_t at = next++; at < pids.size(); at = next++) {
            const int error = pids[at] > 0 ? read_process(pids[at], asked) : ENOENT;
            order.resize(out_.processes.size(), at);
            if (error == 0) continue;
            if (!is_gone(error)) return fail_errno(error, "open /proc/" + std::to_string(pids[at]));
            if (asked) ++out_.gaps.missing_pids;
        }
        return {};
    }

private:
    enum class Presence : std::uint8_t { there, gone, denied };

    // What one look at a magic link brought. Texts are valid until the next look.
    struct Look {
        std::optional<struct statx> stx;
        std::string_view text;   // empty: not read
        std::optional<FdInfo> fdinfo;
        bool text_cut = false;   // longer than the kernel shows
        bool stat_failed = false;
        std::uint64_t at_ns = 0; // after the last of it
    };

    // The process that is being read. A dead leader's process is read through one of its live threads.
    struct Current {
        pid_t pid = 0;
        std::uint32_t index = 0;
        std::uint64_t started_earliest_ns = 0;
        std::uint64_t start_ticks = 0;
        bool kernel_thread = false;
        bool denied = false;
        UniqueFd dir;
        UniqueFd live_thread;
        pid_t live_tid = 0;
        std::optional<Mounts::Key> mounts_key;
        bool mounts_tried = false;
        [[nodiscard]] int base() const { return live_thread.valid() ? live_thread.get() : dir.get(); }
    };

    // ---- files --------------------------------------------------------------------------------------------------------

    // Reads a whole file into file_, at most `limit` bytes. Returns 0 or an errno.
    int read_file(int dir, const char* name, std::string_view& text, std::size_t limit = file_bytes_max) {
        const UniqueFd file(::openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOCTTY));
        if (!file.valid()) return errno;
        std::size_t filled = 0;
        for (;;) {
            if (filled == file_.size()) {
                if (file_.size() >= limit) break;
                file_.resize(std::min(limit, file_.size() * 2));
            }
            const std::size_t room = std::min(file_.size(), limit) - filled;
            const ssize_t got = room == 0 ? 0 : ::read(file.get(), file_.data() + filled, room);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return errno;
            if (got == 0) break;
            filled += static_cast<std::size_t>(got);
        }
        text = {file_.data(), filled};
        return 0;
    }

    std::optional<StatLine> read_stat(int dir, int& error) {
        std::string_view text;
        error = read_file(dir, "stat", text, file_bytes_initial);
        if (error != 0) return std::nullopt;
        return parse_stat(text);
    }

    // ---- one process --------------------------------------------------------------------------------------------------

    // Returns ENOENT when there is no such process, an errno when this process has run out of something; 0 otherwise.
    int read_process(pid_t pid, bool asked) {
        Current current;
        current.pid = pid;
        current.dir.reset(::openat(proc_, Name(static_cast<std::uint64_t>(pid)).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!current.dir.valid()) return errno == ENOTDIR ? ENOENT : errno;
        int error = 0;
        const auto stat = read_stat(current.dir.get(), error);
        if (error == EMFILE || error == ENFILE || error == ENOMEM) return error;
        if (is_gone(error)) return ENOENT;

        Process process;
        process.pid = pid;
        if (stat) process.comm = out_.strings.intern(stat->comm);  // a view that the next file overwrites
        std::string_view text;
        const int status_error = read_file(current.dir.get(), "status", text, file_bytes_initial);
        if (is_gone(status_error)) return ENOENT;
        if (const auto ids = status_error == 0 ? parse_status(text) : std::nullopt) {
            // /proc/TID answers for any thread, although it is not listed.
            if (asked && ids->tgid != pid) return ENOENT;
            process.uid = ids->uid;
        } else if (status_error == 0) {
            ++out_.gaps.unparsed_lines;
        }
        if (!stat) {
            if (error == 0) ++out_.gaps.unparsed_lines;
            process.unreadable = true;
            process.started = Interval::bounded(Interval::unknown_earliest, boottime_now_ns());
            ++out_.gaps.unreadable_processes;
            out_.processes.push_back(process);
            return 0;
        }
        process.ppid = stat->ppid;
        current.start_ticks = stat->start_ticks;
        current.started_earliest_ns = std::min(stat->start_ticks, static_cast<std::uint64_t>(INT64_MAX) / tick_ns_) * tick_ns_;
        current.kernel_thread = (stat->task_flags & task_flag_kthread) != 0;
        const std::uint64_t threads = stat->threads;
        const bool leader_dead = is_dead(*stat);
        process.started = Interval::bounded(
            current.started_earliest_ns,
            std::max(current.started_earliest_ns, std::min(current.started_earliest_ns + tick_ns_, boottime_now_ns())));

        if (want_cgroup_ && read_file(current.dir.get(), "cgroup", text) == 0) {
            const CgroupChoice choice = choose_cgroup(text);
            out_.gaps.unparsed_lines += choice.unparsed_lines;
            process.cgroup = out_.strings.intern(choice.path);
            process.container = out_.strings.intern(container_hint(choice.path));
        }

        current.index = static_cast<std::uint32_t>(out_.processes.size());
        const std::size_t first_reference = out_.references.size();
        out_.processes.push_back(process);
        if (leader_dead && threads > 1) find_live_thread(current);
        if (!leader_dead || current.live_thread.valid()) {
            if (request_.wants(RefKind::fd)) {
                read_table(current, current.base(), current.pid);
                if (threads > 1) read_own_tables(current);
            }
            if (request_.wants(RefKind::mem)) read_maps(current);
            if (request_.wants(RefKind::exe)) read_single(current, RefKind::exe, "exe");
            if (request_.wants(RefKind::cwd)) read_single(current, RefKind::cwd, "cwd");
            if (request_.wants(RefKind::root)) read_single(current, RefKind::root, "root");
            if (threads > 1 && (request_.wants(RefKind::cwd) || request_.wants(RefKind::root))) read_own_places(current);
        }

        // A process that ended meanwhile has shown an empty table, or half of one.
        const auto after = read_stat(current.dir.get(), error);
        const bool ended = !after || after->start_ticks != current.start_ticks ||
                           (is_dead(*after) && (!leader_dead || (threads > 1 && after->threads <= 1)));
        if (ended) {
            out_.references.pop_back(out_.references.size() - first_reference);
            out_.processes.pop_back();
            ++out_.gaps.vanished_processes;
            return 0;
        }
        if (current.denied && !current.kernel_thread) {
            out_.processes.back().unreadable = true;
            ++out_.gaps.unreadable_processes;
        }
        return 0;
    }

    static bool is_dead(const StatLine& stat) { return stat.state == 'Z' || stat.state == 'X' || stat.state == 'x'; }

    UniqueFd open_thread(const Current& current, int tid) const {
        std::array<char, 48> path{};
        std::memcpy(path.data(), "task/", 5);
        *std::to_chars(path.data() + 5, path.data() + path.size() - 1, tid).ptr = '\0';
        return UniqueFd(::openat(current.dir.get(), path.data(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    }

    template <class Entry>
    void for_each_thread(const Current& current, Entry&& entry) {
        const UniqueFd tasks(::openat(current.dir.get(), "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (tasks.valid()) for_each_number(tasks.get(), dirents_, entry);
    }

    void find_live_thread(Current& current) {
        for_each_thread(current, [&](int tid) {
            if (tid == current.pid) return true;
            UniqueFd thread = open_thread(current, tid);
            int error = 0;
            const auto stat = thread.valid() ? read_stat(thread.get(), error) : std::nullopt;
            if (!stat || is_dead(*stat)) return true;
            current.live_thread = std::move(thread);
            current.live_tid = tid;
            return false;
        });
    }

    // ---- descriptors --------------------------------------------------------------------------------------------------

    bool note(Current& current, int error) {
        if (error == 0 || is_gone(error)) return error == 0;
        current.denied = true;
        return false;
    }

    void read_table(Current& current, int task_dir, pid_t tid) {
        const UniqueFd fds(::openat(task_dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!note(current, fds.valid() ? 0 : errno)) return;
        UniqueFd infos;
        if (want_fdinfo_) infos.reset(::openat(task_dir, "fdinfo", O_PATH | O_DIRECTORY | O_CLOEXEC));
        const int error = for_each_number(fds.get(), inner_dirents_, [&](int fd) {
            Reference reference = make_reference(current, RefKind::fd, tid);
            reference.fd = fd;
            const Name name(static_cast<std::uint64_t>(fd));
            return add_reference(current, fds.get(), name.c_str(), infos.get(), reference) != Presence::denied;
        });
        note(current, error);
    }

    // Threads share their process's table unless they called unshare(CLONE_FILES) or were cloned without it.
    void read_own_tables(Current& current) {
        // A table with other numbers in it is surely another table.
        const auto differs = [&](int thread) { return !same_numbers(current.base(), thread); };
        for_each_own(current, KCMP_FILES, differs, [&](int thread, pid_t tid) { read_table(current, thread, tid); });
    }

    // The same with CLONE_FS for cwd and root.
    void read_own_places(Current& current) {
        const auto differs = [&](int thread) { return !same_link(current.base(), thread, "cwd") || !same_link(current.base(), thread, "root"); };
        for_each_own(current, KCMP_FS, differs, [&](int thread, pid_t tid) {
            for (const RefKind kind : {RefKind::cwd, RefKind::root}) {
                if (!request_.wants(kind)) continue;
                Reference reference = make_reference(current, kind, tid);
                add_reference(current, thread, kind == RefKind::cwd ? "cwd" : "root", -1, reference);
            }
        });
    }

    bool same_link(int one_dir, int other_dir, const char* name) {
        struct statx one{};
        struct statx other{};
        if (::statx(one_dir, name, statx_flags, STATX_INO | STATX_MNT_ID, &one) != 0 ||
            ::statx(other_dir, name, statx_flags, STATX_INO | STATX_MNT_ID, &other) != 0) {
            return true;
        }
        return identity(one) == identity(other) && one.stx_dev_major == other.stx_dev_major && one.stx_dev_minor == other.stx_dev_minor;
    }

    // Calls own(directory, tid) for one thread of each object of this kind (KCMP_*) that is not the process's. kcmp(2) orders them
    // by a secret permutation of their addresses, so they are found by binary search. Where it can't tell (not built in, or refused),
    // differs(directory) does.
    template <class Differs, class Own>
    void for_each_own(Current& current, int kind, Differs&& differs, Own&& own) {
        const pid_t first = current.live_tid != 0 ? current.live_tid : current.pid;
        std::vector<pid_t> tables{first};
        std::vector<pid_t> tids;
        for_each_thread(current, [&](int tid) {
            if (tid != current.pid && tid != first) tids.push_back(tid);
            return true;
        });
        for (const pid_t tid : tids) {
            std::size_t low = 0;
            std::size_t high = tables.size();
            bool known = false;
            bool comparable = true;  // also lost when one of the two has just ended
            while (low < high && !known && comparable) {
                const std::size_t middle = (low + high) / 2;
                const long order = ::syscall(SYS_kcmp, tid, tables[middle], kind, 0, 0);
                if (order == 0) known = true;
                else if (order == 1) high = middle;
                else if (order == 2) low = middle + 1;
                else comparable = false;
            }
            if (known) continue;
            if (comparable) tables.insert(tables.begin() + static_cast<std::ptrdiff_t>(low), tid);
            const UniqueFd thread = open_thread(current, tid);
            if (!thread.valid()) continue;
            if (!comparable && !differs(thread.get())) continue;
            own(thread.get(), tid);
        }
    }

    // A shared table may change between the two readings; one equal pair is enough.
    bool same_numbers(int one_dir, int other_dir) {
        for (int attempt = 0; attempt < 4; ++attempt) {
            if (descriptor_numbers(one_dir) == descriptor_numbers(other_dir)) return true;
        }
        return false;
    }

    std::vector<int> descriptor_numbers(int task_dir) {
        std::vector<int> numbers;
        const UniqueFd fds(::openat(task_dir, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (fds.valid()) {
            for_each_number(fds.get(), inner_dirents_, [&](int fd) {
                numbers.push_back(fd);
                return true;
            });
        }
        return numbers;
    }

    // ---- exe, cwd, root -----------------------------------------------------------------------------------------------

    void read_single(Current& current, RefKind kind, const char* name) {
        Reference reference = make_reference(current, kind, current.pid);
        add_reference(current, current.base(), name, -1, reference);
    }

    static Reference make_reference(const Current& current, RefKind kind, pid_t tid) {
        Reference reference;
        reference.process = current.index;
        reference.tid = tid;
        reference.ref = kind;
        return reference;
    }

    Presence add_reference(Current& current, int dir, const char* name, int fdinfo_dir, Reference& reference) {
        Look look;
        switch (look_at(dir, name, fdinfo_dir, look)) {
            case Presence::gone: return Presence::gone;
            case Presence::denied: current.denied = true; return Presence::denied;
            case Presence::there: break;
        }
        finish(current, look, look.text, reference);
        return Presence::there;
    }

    // ---- one magic link -----------------------------------------------------------------------------------------------

    // Which file a slot held, as far as one part of a look can tell.
    struct Identity {
        std::uint64_t ino = 0;
        std::int64_t mnt_id = -1;
        friend bool operator==(const Identity&, const Identity&) = default;
    };

    // The parts are read one after the other, so the slot may be closed and reused in between: the identity that the first part shows
    // (statx) is held against that of the last (fdinfo, or statx again), and the look is taken again when they differ.
    Presence look_at(int dir, const char* name, int fdinfo_dir, Look& look) {
        constexpr int attempts = 8;
        std::optional<std::pair<Identity, Identity>> disagreed;
        for (int attempt = 0; attempt < attempts; ++attempt) {
            look = Look{};
            bool text_read = false;
            Presence presence = want_stat_ ? stat_link(dir, name, look) : Presence::there;
            if (presence == Presence::there && needs_text(look)) {
                text_read = true;
                presence = read_text(dir, name, look);
                if (presence == Presence::there && !want_stat_ && look.text.ends_with(deleted_mark)) presence = stat_link(dir, name, look);
            }
            if (presence == Presence::there && fdinfo_dir >= 0) presence = read_fdinfo(dir, fdinfo_dir, name, look);
            if (presence != Presence::there) return presence;
            std::optional<Identity> last;
            if (look.stx && look.fdinfo && look.fdinfo->ino) {
                last = Identity{*look.fdinfo->ino, look.fdinfo->mnt_id};
            } else if (look.stx && text_read) {
                struct statx again{};
                if (::statx(dir, name, statx_flags, STATX_INO | STATX_MNT_ID, &again) == 0) last = identity(again);
                else if (is_gone(errno)) return Presence::gone;
            }
            look.at_ns = boottime_now_ns();
            if (!last) return Presence::there;
            const std::pair<Identity, Identity> pair{identity(*look.stx), *last};
            if (pair.first.mnt_id < 0) last->mnt_id = -1;  // statx before 5.8
            // Where stat shows other inode numbers than the kernel's own (overlayfs), the same two disagree each time.
            if (pair.first == *last || disagreed == pair) return Presence::there;
            disagreed = pair;
        }
        // Reused faster than it can be looked at: only that it is taken is certain.
        const std::uint64_t at_ns = look.at_ns;
        look = Look{};
        look.at_ns = at_ns;
        look.stat_failed = true;
        return Presence::there;
    }

    static Identity identity(const struct statx& stx) {
        return {stx.stx_ino, (stx.stx_mask & STATX_MNT_ID) != 0 ? static_cast<std::int64_t>(stx.stx_mnt_id) : -1};
    }

    static bool link_is_gone(int dir, const char* name) {
        std::array<char, 1> byte{};
        return ::readlinkat(dir, name, byte.data(), byte.size()) < 0 && is_gone(errno);
    }

    Presence stat_link(int dir, const char* name, Look& look) {
        struct statx stx{};
        if (::statx(dir, name, statx_flags, statx_mask, &stx) == 0) {
            look.stx = stx;
            return Presence::there;
        }
        if (is_denied(errno)) return Presence::denied;
        // The link itself may still stand: then only the look behind it failed.
        if (is_gone(errno) && link_is_gone(dir, name)) return Presence::gone;
        look.stat_failed = true;
        return Presence::there;
    }

    bool needs_text(Look& look) {
        if (!look.stx) return true;
        // For these the text says nothing that stat does not.
        const DeviceNumber dev{look.stx->stx_dev_major, look.stx->stx_dev_minor};
        if (S_ISSOCK(look.stx->stx_mode) && dev == devices_.sockets) return synthesize("socket:[", look);
        if (S_ISFIFO(look.stx->stx_mode) && dev == devices_.pipes) return synthesize("pipe:[", look);
        return look.stx->stx_nlink == 0 || request_.wants_linked();
    }

    bool synthesize(std::string_view prefix, Look& look) {
        char* at = std::copy(prefix.begin(), prefix.end(), link_.data());
        at = std::to_chars(at, at + 24, look.stx->stx_ino).ptr;
        *at++ = ']';
        look.text = {link_.data(), static_cast<std::size_t>(at - link_.data())};
        return false;
    }

    Presence read_text(int dir, const char* name, Look& look) {
        const ssize_t length = ::readlinkat(dir, name, link_.data(), link_.size() - 1);
        if (length >= 0) {
            look.text = {link_.data(), static_cast<std::size_t>(length)};
            return Presence::there;
        }
        if (is_denied(errno)) return Presence::denied;
        if (is_gone(errno)) return Presence::gone;
        look.text_cut = true;  // ENAMETOOLONG: the kernel formats links into one page
        return Presence::there;
    }

    Presence read_fdinfo(int dir, int fdinfo_dir, const char* name, Look& look) {
        const UniqueFd file(::openat(fdinfo_dir, name, O_RDONLY | O_CLOEXEC));
        if (!file.valid()) return is_gone(errno) && link_is_gone(dir, name) ? Presence::gone : Presence::there;
        std::array<char, 512> text{};  // the common lines; an epoll's list behind them may be long
        const ssize_t length = ::read(file.get(), text.data(), text.size());
        if (length <= 0) return Presence::there;
        look.fdinfo = parse_fdinfo({text.data(), static_cast<std::size_t>(length)});
        if (!look.fdinfo) ++out_.gaps.unparsed_lines;
        return Presence::there;
    }

    // ---- from a look to a row -----------------------------------------------------------------------------------------

    void finish(Current& current, const Look& look, std::string_view text, Reference& reference) {
        const LinkText link = parse_link(text);
        if (look.fdinfo) {
            reference.pos = look.fdinfo->pos;
            reference.flags = look.fdinfo->flags;
            reference.mnt_id = look.fdinfo->mnt_id;
            reference.valid |= field_fdinfo | field_position;
        }
        if (look.stx && want_stat_) fill_stat(*look.stx, reference);
        if (look.stat_failed) ++out_.gaps.unstatable_references;
        if (look.text_cut) ++out_.gaps.truncated_paths;

        std::string_view path = text;
        if (look.stx && look.text_cut) {
            reference.name = look.stx->stx_nlink == 0 ? NameState::deleted : NameState::unknown;
        } else if (look.stx && (look.stx->stx_nlink == 0 || request_.wants_linked())) {
            reference.name = name_state(current, *look.stx, link, text, reference);
            if (link.ends_in_mark && loses_mark(reference.name)) path = without_mark(text);
        } else if (!look.stx && !text.empty() && link.form != LinkForm::path) {
            reference.name = NameState::nameless;
        } else if (look.stat_failed && link.ends_in_mark && reference.dev != devices_.shm) {
            ++out_.gaps.undecided_names;
        }
        if (request_.deleted_only && !request_.wants(reference.name)) return;
        if (want_stat_ || want_path_) set_class(link, reference);
        if (want_path_ && !look.text_cut) {
            reference.path = out_.strings.intern_path(path);
            reference.valid |= field_path;
        }
        if (!want_stat_) reference.name = NameState::unknown;
        set_times(current, look, reference);
        out_.references.push_back(reference);
    }

    static bool loses_mark(NameState name) { return name != NameState::named && name != NameState::unknown && name != NameState::nameless; }

    static void fill_stat(const struct statx& stx, Reference& reference) {
        reference.type = type_of(stx.stx_mode);
        reference.dev = {stx.stx_dev_major, stx.stx_dev_minor};
        if (reference.type == FileType::chr || reference.type == FileType::blk) reference.rdev = {stx.stx_rdev_major, stx.stx_rdev_minor};
        reference.ino = stx.stx_ino;
        reference.nlink = stx.stx_nlink;
        reference.size = stx.stx_size;
        reference.allocated = stx.stx_blocks * 512;
        if ((stx.stx_mask & STATX_MNT_ID) != 0 && reference.mnt_id < 0) reference.mnt_id = static_cast<std::int32_t>(stx.stx_mnt_id);
        reference.valid |= field_stat | field_size;
    }

    void set_class(const LinkText& link, Reference& reference) {
        if (reference.type == FileType::unknown && link.form == LinkForm::anon) reference.type = FileType::anon;
        if (reference.type != FileType::anon) return;
        std::string_view name = link.class_name;
        if (link.form == LinkForm::path) name = {};
        reference.type_name = out_.strings.intern(name);
    }

    static std::int32_t mount_of(const struct statx& stx, const Reference& reference) {
        return (stx.stx_mask & STATX_MNT_ID) != 0 ? static_cast<std::int32_t>(stx.stx_mnt_id) : reference.mnt_id;
    }

    NameState name_state(Current& current, const struct statx& stx, const LinkText& link, std::string_view text, const Reference& reference) {
        if (link.form != LinkForm::path) return NameState::nameless;
        const std::string_view bare = link.ends_in_mark ? without_mark(text) : text;
        const bool memfd = bare.starts_with("/memfd:") || bare == "/secretmem";
        const bool shm = bare == "/dev/zero" || bare.starts_with("/SYSV") || bare == "/anon_hugepage";
        // Real files may be called so too; the kernel's own are on file systems that nobody has mounted.
        if ((memfd || shm) && link.ends_in_mark && is_unmounted(current, stx, reference)) return memfd ? NameState::memfd : NameState::shm;
        // Memory that drivers keep in files of their own, under any name ("drm mm object", …); nobody can mount that file system.
        const bool own_memory = DeviceNumber{stx.stx_dev_major, stx.stx_dev_minor} == devices_.shm;
        if (own_memory && link.ends_in_mark && stx.stx_nlink == 0 && S_ISREG(stx.stx_mode)) return NameState::shm;
        if (stx.stx_nlink == 0) {
            const bool flagged = look_flags(reference) && (reference.flags & O_TMPFILE) == O_TMPFILE;
            return flagged || is_tmpfile_name(bare, stx.stx_ino) ? NameState::tmpfile : NameState::deleted;
        }
        if (procfs::is_silly_name(text)) {
            const Mount* const mount = find_mount(current, mount_of(stx, reference));
            if (mount != nullptr && mount->traits.nfs) return NameState::silly;
        }
        if (!link.ends_in_mark) return NameState::named;
        return find_by_name(current, stx, text);
    }

    static bool look_flags(const Reference& reference) { return (reference.valid & field_fdinfo) != 0; }

    bool is_unmounted(Current& current, const struct statx& stx, const Reference& reference) {
        if (DeviceNumber{stx.stx_dev_major, stx.stx_dev_minor} == devices_.shm) return true;
        const std::int32_t mnt_id = mount_of(stx, reference);
        return mnt_id < 0 || find_mount(current, mnt_id) == nullptr;
    }

    // ---- times --------------------------------------------------------------------------------------------------------

    void set_times(Current& current, const Look& look, Reference& reference) {
        if (!want_times_) return;
        reference.opened = Interval::bounded(std::min(current.started_earliest_ns, look.at_ns), look.at_ns);
        const std::uint64_t birth = look.stx ? birth_ns(current, *look.stx, reference, look.at_ns) : Interval::unknown_earliest;
        if (reference.ref == RefKind::fd) reference.opened.earliest_ns = std::max(reference.opened.earliest_ns, birth);
        // A directory held as cwd or root has no description: its reference is all there is.
        const bool has_description = reference.ref != RefKind::cwd && reference.ref != RefKind::root;
        reference.description_opened = has_description ? Interval::bounded(birth, look.at_ns) : reference.opened;
        reference.valid |= field_times;
    }

    // When the inode was made, as a lower bound; unknown_earliest when that says nothing.
    std::uint64_t birth_ns(Current& current, const struct statx& stx, const Reference& reference, std::uint64_t latest_ns) {
        if ((stx.stx_mask & STATX_BTIME) == 0 || stx.stx_btime.tv_sec <= 0) return Interval::unknown_earliest;
        if (DeviceNumber{stx.stx_dev_major, stx.stx_dev_minor} != devices_.shm) {
            const Mount* const mount = find_mount(current, mount_of(stx, reference));
            if (mount == nullptr || !mount->traits.birth) return Interval::unknown_earliest;
        }
        const auto realtime_ns = [](const struct statx_timestamp& at) {
            return std::clamp<std::int64_t>(at.tv_sec, 0, 4'000'000'000) * 1'000'000'000 + at.tv_nsec;
        };
        const std::uint64_t birth = out_.clock.to_boottime_ns(realtime_ns(stx.stx_btime));
        const std::uint64_t changed = out_.clock.to_boottime_ns(realtime_ns(stx.stx_ctime));
        // Stamps in the future: the wall clock was set back since, and nothing is known of by how much.
        if (birth > latest_ns || changed > latest_ns + birth_margin_ns) return Interval::unknown_earliest;
        const std::uint64_t margin = birth_margin_ns + out_.clock.uncertainty_ns;
        return birth > margin ? birth - margin : Interval::unknown_earliest;
    }

    // ---- mounts and names ---------------------------------------------------------------------------------------------

    // The mount table as the process sees it; null when it can't be read.
    const MountTable* mount_table(Current& current) {
        if (!current.mounts_tried) {
            current.mounts_tried = true;
            current.mounts_key = load_mounts(current.base(), Mounts::Whose::others);
        }
        return current.mounts_key ? mounts_.find(*current.mounts_key) : nullptr;
    }

    void load_own_mounts() {
        if (own_mounts_tried_) return;
        own_mounts_tried_ = true;
        const UniqueFd self(::openat(proc_, "self", O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (self.valid()) own_mounts_ = load_mounts(self.get(), Mounts::Whose::own);
    }

    std::optional<Mounts::Key> load_mounts(int task_dir, Mounts::Whose whose) {
        struct statx ns{};
        struct statx root{};
        if (::statx(task_dir, "ns/mnt", statx_flags, STATX_INO, &ns) != 0) ns.stx_ino = 0;
        if (::statx(task_dir, "root", statx_flags, STATX_INO | STATX_MNT_ID, &root) != 0) return std::nullopt;
        const Mounts::Key key{ns.stx_ino, root.stx_ino, root.stx_mnt_id};
        if (mounts_.find(key) != nullptr) return key;
        load_own_mounts();  // first: it knows more of the layers of others' overlays
        if (mounts_.find(key) != nullptr) return key;
        std::string_view text;
        const std::size_t keep = file_.size();
        std::vector<char> held;
        held.swap(file_);  // a maps line may be in there
        file_.resize(keep);
        const int error = read_file(task_dir, "mountinfo", text);
        MountTable table;
        if (error == 0) out_.gaps.unparsed_lines += table.parse(text);
        file_.swap(held);
        if (error != 0) return std::nullopt;
        mounts_.add(key, std::move(table), whose);
        return key;
    }

    const Mount* find_mount(Current& current, std::int32_t mnt_id) {
        if (mnt_id < 0) return nullptr;
        if (const Mount* const known = mounts_.find_mount(mnt_id)) return known;
        mount_table(current);
        return mounts_.find_mount(mnt_id);
    }

    enum class Lookup : std::uint8_t { same, other, unknown };

    // Whether the text, mark included, is a path that leads to the very file. The kernel wrote the text as seen from our root; the
    // process's own root is the better guess where it lives in a mount namespace of its own.
    NameState find_by_name(Current& current, const struct statx& stx, std::string_view text) {
        const std::string path(text);
        const UniqueFd theirs(::openat(current.base(), "root", O_PATH | O_DIRECTORY | O_CLOEXEC));
        const Lookup in_theirs = theirs.valid() ? look_up(theirs.get(), mount_table(current), path, stx) : Lookup::unknown;
        if (in_theirs == Lookup::same) return NameState::named;
        const UniqueFd ours(::openat(proc_, "self/root", O_PATH | O_DIRECTORY | O_CLOEXEC));
        Lookup in_ours = Lookup::unknown;
        if (ours.valid()) {
            load_own_mounts();
            in_ours = look_up(ours.get(), own_mounts_ ? mounts_.find(*own_mounts_) : nullptr, path, stx);
        }
        if (in_ours == Lookup::same) return NameState::named;
        const bool same_namespace = own_mounts_ && current.mounts_key && own_mounts_->ns_ino == current.mounts_key->ns_ino;
        if (same_namespace) return in_ours == Lookup::other ? NameState::gone : NameState::unknown;
        // Elsewhere the text counts from the namespace's root, which is the process's unless it was chrooted in there.
        std::array<char, 2> root{};
        const bool at_its_root = ::readlinkat(current.base(), "root", root.data(), root.size()) == 1 && root[0] == '/';
        return at_its_root && in_theirs == Lookup::other ? NameState::gone : NameState::unknown;
    }

    Lookup look_up(int root, const MountTable* table, const std::string& path, const struct statx& wanted) const {
        UniqueFd found;
        const Walk walk = open_name(root, table, path, found);
        if (walk != Walk::arrived) return walk == Walk::absent ? Lookup::other : Lookup::unknown;
        struct statx stx{};
        if (::statx(found.get(), "", statx_flags | AT_EMPTY_PATH, STATX_INO | STATX_TYPE, &stx) != 0) return Lookup::unknown;
        const bool same = stx.stx_ino == wanted.stx_ino && stx.stx_dev_major == wanted.stx_dev_major &&
                          stx.stx_dev_minor == wanted.stx_dev_minor;
        return same ? Lookup::same : Lookup::other;
    }

    // ---- mappings -----------------------------------------------------------------------------------------------------

    struct MapsState {
        UniqueFd map_files;
        DeviceNumber last_dev;
        std::uint64_t last_ino = 0;
        std::string last_text;
        Look last_look;
        bool last_valid = false;
        bool map_files_tried = false;
        std::string decoded;
    };

    void read_maps(Current& current) {
        const UniqueFd file(::openat(current.base(), "maps", O_RDONLY | O_CLOEXEC));
        if (!note(current, file.valid() ? 0 : errno)) return;
        MapsState state;
        std::vector<char> buffer(file_bytes_initial);
        std::size_t filled = 0;
        bool skipping = false;  // inside a line longer than file_bytes_max
        for (;;) {
            const ssize_t got = ::read(file.get(), buffer.data() + filled, buffer.size() - filled);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) note(current, errno);
            if (got <= 0) break;
            filled += static_cast<std::size_t>(got);
            std::string_view text(buffer.data(), filled);
            for (std::size_t end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
                if (skipping) skipping = false;
                else add_map(current, state, text.substr(0, end));
                text.remove_prefix(end + 1);
            }
            std::memmove(buffer.data(), text.data(), text.size());
            filled = text.size();
            if (filled < buffer.size()) continue;
            if (buffer.size() < file_bytes_max) {
                buffer.resize(buffer.size() * 2);
            } else {
                if (!skipping) ++out_.gaps.unparsed_lines;
                skipping = true;
                filled = 0;
            }
        }
        if (filled > 0 && !skipping) ++out_.gaps.unparsed_lines;
    }

    // Threads have no map_files of their own under task/, but /proc/TID, which is not listed, has.
    UniqueFd open_map_files(const Current& current) const {
        if (current.live_tid == 0) return UniqueFd(::openat(current.dir.get(), "map_files", O_PATH | O_DIRECTORY | O_CLOEXEC));
        const UniqueFd thread(
            ::openat(proc_, Name(static_cast<std::uint64_t>(current.live_tid)).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!thread.valid()) return UniqueFd();
        struct statx by_tid{};
        struct statx by_task{};
        // The same memory answers on both ways, unless the thread ended and its number went to somebody else.
        if (::statx(thread.get(), "exe", statx_flags, STATX_INO, &by_tid) != 0 ||
            ::statx(current.base(), "exe", statx_flags, STATX_INO, &by_task) != 0 || by_tid.stx_ino != by_task.stx_ino) {
            return UniqueFd();
        }
        return UniqueFd(::openat(thread.get(), "map_files", O_PATH | O_DIRECTORY | O_CLOEXEC));
    }

    void add_map(Current& current, MapsState& state, std::string_view line) {
        const auto map = parse_maps_line(line);
        if (!map) {
            ++out_.gaps.unparsed_lines;
            return;
        }
        if (!map->has_file()) return;
        Reference reference = make_reference(current, RefKind::mem, current.pid);
        reference.map_start = map->start;
        reference.map_end = map->end;
        reference.map_flags = map->protection | (map->shared ? 1U << 31 : 0U);

        const bool same = state.last_valid && state.last_dev == map->dev && state.last_ino == map->ino && state.last_text == map->path;
        if (!same) {
            state.last_valid = true;
            state.last_dev = map->dev;
            state.last_ino = map->ino;
            state.last_text.assign(map->path);
            look_at_map(current, state, *map);
        }
        Look look = state.last_look;
        look.at_ns = boottime_now_ns();
        // What maps itself knows; st_dev may be another number than this on btrfs.
        if (!look.stx && want_stat_) {
            reference.dev = map->dev;
            reference.ino = map->ino;
        }
        finish(current, look, state.decoded, reference);
    }

    // Following map_files needs CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN) in the first user namespace.
    void look_at_map(Current& current, MapsState& state, const MapsLine& map) {
        const Name name = Name::range(map.start, map.end);
        Look look;
        decode_newlines(map.path, state.decoded);
        // Where the text alone does not do: \012 may be a newline or itself, and what has no path may be named differently there.
        const bool ambiguous = map.path.find("\\012") != std::string_view::npos || map.path.empty() || map.path.front() != '/';
        const bool needs_stat = want_stat_ || map.path.ends_with(deleted_mark);
        if ((ambiguous || needs_stat) && !state.map_files_tried) {
            state.map_files_tried = true;
            state.map_files = open_map_files(current);
        }
        if (state.map_files.valid() && needs_stat) {
            struct statx stx{};
            if (::statx(state.map_files.get(), name.c_str(), statx_flags, statx_mask, &stx) == 0) look.stx = stx;
        }
        if (state.map_files.valid() && ambiguous) {
            const ssize_t length = ::readlinkat(state.map_files.get(), name.c_str(), link_.data(), link_.size() - 1);
            if (length > 0) state.decoded.assign(link_.data(), static_cast<std::size_t>(length));
        }
        if (!look.stx && needs_stat) stat_by_name(current, map, state.decoded, look);
        look.stat_failed = want_stat_ && !look.stx;
        state.last_look = look;
    }

    // Without that capability: the file that the name leads to, when it is provably the mapped one.
    void stat_by_name(Current& current, const MapsLine& map, const std::string& text, Look& look) {
        if (text.empty() || text.front() != '/') return;
        const MountTable* const table = mount_table(current);
        const UniqueFd root(::openat(current.base(), "root", O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!root.valid()) return;
        UniqueFd found;
        struct statx stx{};
        if (open_name(root.get(), table, text, found) != Walk::arrived) return;
        if (::statx(found.get(), "", statx_flags | AT_EMPTY_PATH, statx_mask, &stx) != 0) return;
        const Mount* const mount =
            (stx.stx_mask & STATX_MNT_ID) != 0 ? find_mount(current, static_cast<std::int32_t>(stx.stx_mnt_id)) : nullptr;
        if (mount != nullptr && mount->dev == map.dev && stx.stx_ino == map.ino) look.stx = stx;
    }

    const SnapshotRequest& request_;
    Snapshot& out_;
    int proc_;  // the caller's
    KernelDevices devices_;
    std::vector<char> dirents_;        // of /proc and task/
    std::vector<char> inner_dirents_;  // of fd/
    std::vector<char> file_;
    std::array<char, link_bytes> link_{};
    Mounts mounts_;
    std::optional<Mounts::Key> own_mounts_;
    bool own_mounts_tried_ = false;
    std::uint64_t tick_ns_ = 0;
    bool want_path_ = false;
    bool want_stat_ = false;
    bool want_times_ = false;
    bool want_fdinfo_ = false;
    bool want_cgroup_ = false;
};

// What one of several threads reads.
struct Part {
    Snapshot out;
    std::vector<std::size_t> order;
    Result<void> done;
    std::thread thread;
    StringId shift = 0;  // while the parts are put together
    std::size_t next_process = 0, next_reference = 0;
};

// By process, in the order of the list that the threads took them from.
void put_together(std::vector<Part>& parts, Snapshot& out) {
    std::size_t processes = 0;
    std::size_t references = 0;
    for (Part& part : parts) {
        part.shift = out.strings.adopt(std::move(part.out.strings));
        const auto move = [&](StringId& id) { id = StringTable::moved(id, part.shift); };
        for (Process& process : part.out.processes) {
            move(process.comm);
            move(process.cgroup);
            move(process.container);
        }
        out.gaps += part.out.gaps;
        processes += part.out.processes.size();
        references += part.out.references.size();
    }
    out.processes.reserve(processes);
    out.references.expect(references);
    while (out.processes.size() < processes) {
        const auto left = [](const Part& part) { return part.next_process < part.order.size() ? part.order[part.next_process] : SIZE_MAX; };
        Part& first = *std::min_element(parts.begin(), parts.end(), [&](const Part& a, const Part& b) { return left(a) < left(b); });
        const auto index = static_cast<std::uint32_t>(out.processes.size());
        out.processes.push_back(first.out.processes[first.next_process]);
        for (; first.next_reference < first.out.references.size(); ++first.next_reference) {
            Reference reference = first.out.references[first.next_reference];
            if (reference.process != first.next_process) break;
            reference.process = index;
            reference.path = StringTable::moved(reference.path, first.shift);
            reference.type_name = StringTable::moved(reference.type_name, first.shift);
            out.references.push_back(reference);
        }
        ++first.next_process;
    }
}

Result<void> read_apart(const SnapshotRequest& request, int proc, const std::vector<pid_t>& pids, std::atomic<std::size_t>& next, Snapshot& out) {
    std::vector<Part> parts(std::min<std::size_t>(request.threads, pids.size()));
    std::atomic<bool> exhausted = false;  // no error of its own: that would take memory again
    const auto read_part = [&](Part& part) {
        try {
            part.out.clock = out.clock;
            part.done = Reader(request, proc, part.out).read(pids, next, part.order);
        } catch (const std::bad_alloc&) {
            exhausted = true;
        }
    };
    try {
        for (std::size_t at = 1; at < parts.size(); ++at) parts[at].thread = std::thread(read_part, std::ref(parts[at]));
    } catch (const std::exception&) {
        // No more threads for this process: the ones it has read everything.
    }
    read_part(parts[0]);
    for (Part& part : parts) {
        if (part.thread.joinable()) part.thread.join();
    }
    if (exhausted) throw std::bad_alloc();
    for (Part& part : parts) {
        if (!part.done) return part.done;
    }
    put_together(parts, out);
    return {};
}

}  // namespace

Result<Snapshot> read_procfs_snapshot(const SnapshotRequest& request) { return read_procfs_snapshot(request, "/proc"); }

Result<Snapshot> read_procfs_snapshot(const SnapshotRequest& request, const std::string& proc_root) {
    try {
        const UniqueFd proc(::open(proc_root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!proc.valid()) return fail_errno(errno, "open " + proc_root);
        Snapshot snapshot;
        snapshot.source = "procfs";
        snapshot.began_ns = boottime_now_ns();
        snapshot.clock = WallClock::now();
        Reader reader(request, proc.get(), snapshot);
        const auto pids = reader.list();
        if (!pids) return tl::unexpected<Error>(pids.error());
        std::atomic<std::size_t> next = 0;
        if (std::min<std::size_t>(request.threads, pids->size()) < 2) {
            std::vector<std::size_t> order;
            if (auto done = reader.read(*pids, next, order); !done) return tl::unexpected<Error>(done.error());
        } else if (auto done = read_apart(request, proc.get(), *pids, next, snapshot); !done) {
            return tl::unexpected<Error>(done.error());
        }
        snapshot.ended_ns = boottime_now_ns();
        return snapshot;
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "not enough memory for a snapshot of " + proc_root);
    }
}

}  // namespace fdspan
