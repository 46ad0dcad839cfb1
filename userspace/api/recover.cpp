#include "api/recover.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <new>

#include "snapshot/loops.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan {
namespace {

constexpr std::uint64_t piece_bytes = 8 * 1024 * 1024;   // between two calls of the progress callback
constexpr std::size_t buffer_bytes = 1024 * 1024;
constexpr int rounds_max = 8;                            // passes to the end of a source that grows
constexpr std::size_t xattr_bytes_max = 64 * 1024;       // XATTR_LIST_MAX, XATTR_SIZE_MAX

std::string error_text(int code) { return std::generic_category().message(code); }

// The file /proc/PID/stat below an open directory of /proc; nothing when the process is gone.
std::optional<std::uint64_t> read_start_ticks(int process) {
    const UniqueFd file(::openat(process, "stat", O_RDONLY | O_CLOEXEC));
    std::array<char, 4096> text{};
    const ssize_t length = file.valid() ? ::read(file.get(), text.data(), text.size()) : -1;
    if (length <= 0) return std::nullopt;
    const auto line = procfs::parse_stat({text.data(), static_cast<std::size_t>(length)});
    if (!line) return std::nullopt;
    return line->start_ticks;
}

std::string range_text(std::uint64_t start, std::uint64_t end) {
    std::array<char, 48> text{};
    std::snprintf(text.data(), text.size(), "%llx-%llx", static_cast<unsigned long long>(start), static_cast<unsigned long long>(end));
    return text.data();
}

// Below /proc/PID.
std::string link_name(const HeldAddress& address) {
    if (address.ref == RefKind::mem) return "map_files/" + range_text(address.map_start, address.map_end);
    const std::string thread = address.tid != 0 && address.tid != address.pid ? "task/" + std::to_string(address.tid) + '/' : "";
    return thread + (address.ref == RefKind::fd ? "fd/" + std::to_string(address.fd) : std::string(to_string(address.ref)));
}

std::string_view type_name(mode_t mode) {
    switch (mode & S_IFMT) {
        case S_IFREG: return "regular file";
        case S_IFDIR: return "directory";
        case S_IFCHR: return "character device";
        case S_IFBLK: return "block device";
        case S_IFIFO: return "FIFO";
        case S_IFSOCK: return "socket";
        case S_IFLNK: return "symbolic link";
        default: return "kernel object without content";
    }
}

tl::unexpected<Error> link_error(int code, const HeldAddress& address, const std::string& link) {
    switch (code) {
        case ENOENT:
        case ESRCH:
            if (address.ref == RefKind::mem) {
                return fail(ENOENT, link + ": the process has no mapping of a file at exactly this range; see fdspan ls -p " +
                                        std::to_string(address.pid) + " --ref mem -o MAP,NAME");
            }
            return fail(ENOENT, link + ": the process has no such reference (any more); see fdspan ls -a -p " + std::to_string(address.pid));
        case EPERM:
        case EACCES:
            if (address.ref == RefKind::mem) {
                return fail(code, link + ": not permitted; opening what is mapped takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE (or root)");
            }
            return fail(code, link + ": not permitted; that takes the process's own user, or CAP_SYS_PTRACE (or root)");
        default: return fail_errno(code, "open " + link);
    }
}

// The text of a descriptor's own link; what the kernel appended comes off, by evidence: the name leads elsewhere, or no link is left.
std::string path_of(int fd, const struct stat& stat) {
    std::string text(PATH_MAX, '\0');
    const ssize_t length = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), text.data(), text.size());
    if (length <= 0) return {};
    text.resize(static_cast<std::size_t>(length));
    if (!text.ends_with(procfs::deleted_mark)) return text;
    struct statx named{};
    const bool leads_here = stat.st_nlink > 0 &&
                            ::statx(AT_FDCWD, text.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW, STATX_INO, &named) == 0 &&
                            named.stx_ino == stat.st_ino && gnu_dev_makedev(named.stx_dev_major, named.stx_dev_minor) == stat.st_dev;
    return leads_here ? text : std::string(procfs::without_mark(text));
}

FileId file_id(const struct stat& stat) { return {{gnu_dev_major(stat.st_dev), gnu_dev_minor(stat.st_dev)}, stat.st_ino}; }

// ---- copying ------------------------------------------------------------------------------------------------------------

bool same_time(const timespec& one, const timespec& other) { return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec; }

class Copier {
public:
    Copier(int source, int target, bool seekable, const CopyProgress& progress)
        : source_(source), target_(target), seekable_(seekable), in_kernel_(seekable), progress_(progress) {}

    Result<CopyReport> run() {
        struct stat before{};
        if (::fstat(source_, &before) != 0) return fail_errno(errno, "look at the source");
        std::uint64_t end = static_cast<std::uint64_t>(before.st_size);
        CopyReport report;
        if (seekable_ && end > 0 && ::ioctl(target_, FICLONE, source_) == 0) {
            report.cloned = true;
            at_ = end;
            struct stat cloned{};
            if (::fstat(target_, &cloned) != 0) return fail_errno(errno, "look at the copy");
            at_ = static_cast<std::uint64_t>(cloned.st_size);
        }
        struct stat now = before;
        for (int round = 0;; ++round) {
            while (at_ < end) {
                if (auto done = copy_extent(end); !done) return tl::unexpected<Error>(done.error());
            }
            if (::fstat(source_, &now) != 0) return fail_errno(errno, "look at the source");
            const auto size = static_cast<std::uint64_t>(now.st_size);
            if (size < at_) return cut_short();
            report.still_growing = size > at_;
            if (!report.still_growing || report.cloned || round == rounds_max) break;
            end = size;
        }
        // Sets the length where the end is a hole, and takes back what a cut before growing may have left.
        if (seekable_ && ::ftruncate(target_, static_cast<off_t>(at_)) != 0) return fail_errno(errno, "set the length of the copy");
        if (!report_progress(at_, at_)) return cancelled();
        report.size = at_;
        report.data_bytes = data_bytes_;
        report.grown_bytes = static_cast<std::uint64_t>(std::max<off_t>(0, now.st_size - before.st_size));
        // A write in the clock tick of the first look leaves the same mtime: file systems stamp with the tick's time.
        report.changed = now.st_size != before.st_size || !same_time(now.st_mtim, before.st_mtim);
        return report;
    }

private:
    static tl::unexpected<Error> cancelled() { return fail(ECANCELED, "the copy was given up"); }
    static tl::unexpected<Error> cut_short() {
        return fail(ENODATA, "the source was cut shorter while it was being copied");
    }
    bool report_progress(std::uint64_t done, std::uint64_t total) { return !progress_ || progress_(done, total); }

    // From at_ over a hole and the data behind it, not beyond `end`. A FUSE server answers a seek as it likes: one that leads back, or to a hole
    // where data was to begin, would be followed for ever.
    Result<void> copy_extent(std::uint64_t end) {
        std::uint64_t data = at_;
        std::uint64_t hole = end;
        const off_t found = ::lseek(source_, static_cast<off_t>(at_), SEEK_DATA);
        if (found >= 0) {
            data = std::min(end, std::max(at_, static_cast<std::uint64_t>(found)));
            const off_t behind = ::lseek(source_, static_cast<off_t>(data), SEEK_HOLE);
            if (behind > static_cast<off_t>(data)) hole = std::min(end, static_cast<std::uint64_t>(behind));
        } else if (errno == ENXIO) {
            data = end;  // a hole up to the end, unless the source was cut: the caller looks
        }
        if (data > at_ && !seekable_) {
            if (auto done = write_zeros(data); !done) return done;
        }
        at_ = data;
        while (at_ < hole) {
            if (!report_progress(at_, end)) return cancelled();
            if (auto done = copy_piece(std::min<std::uint64_t>(hole - at_, piece_bytes)); !done) return done;
        }
        if (!report_progress(at_, end)) return cancelled();
        return {};
    }

    Result<void> copy_piece(std::uint64_t bytes) {
        if (in_kernel_) {
            auto from = static_cast<off_t>(at_);
            auto to = static_cast<off_t>(at_);
            const ssize_t copied = ::copy_file_range(source_, &from, target_, &to, bytes, 0);
            if (copied > 0) {
                advance(static_cast<std::uint64_t>(copied));
                return {};
            }
            if (copied < 0 && errno == EINTR) return {};
            if (copied < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO || errno == EFBIG)) return fail_errno(errno, "write the copy");
            // Whatever else it says, and 0 where it can't read this file (copy_file_range(2), BUGS): read(2) knows.
            in_kernel_ = false;
        }
        buffer_.resize(buffer_bytes);
        const std::size_t wanted = std::min<std::uint64_t>(bytes, buffer_.size());
        const ssize_t got = ::pread(source_, buffer_.data(), wanted, static_cast<off_t>(at_));
        if (got < 0 && errno == EINTR) return {};
        if (got < 0) return fail_errno(errno, "read the source");
        if (got == 0) return cut_short();
        const std::uint64_t from = at_;
        if (auto done = write_all(buffer_.data(), static_cast<std::size_t>(got), from); !done) return done;
        advance(static_cast<std::uint64_t>(got));
        return {};
    }

    void advance(std::uint64_t bytes) {
        at_ += bytes;
        data_bytes_ += bytes;
    }

    Result<void> write_all(const char* data, std::size_t bytes, std::uint64_t where) {
        while (bytes > 0) {
            const ssize_t put = seekable_ ? ::pwrite(target_, data, bytes, static_cast<off_t>(where)) : ::write(target_, data, bytes);
            if (put < 0 && errno == EINTR) {
                if (!report_progress(at_, at_)) return cancelled();
                continue;
            }
            if (put < 0) return fail_errno(errno, "write the copy");
            data += put;
            bytes -= static_cast<std::size_t>(put);
            where += static_cast<std::uint64_t>(put);
        }
        return {};
    }

    Result<void> write_zeros(std::uint64_t until) {
        buffer_.assign(buffer_bytes, '\0');
        while (at_ < until) {
            if (!report_progress(at_, until)) return cancelled();
            const std::size_t bytes = std::min<std::uint64_t>(until - at_, buffer_.size());
            if (auto done = write_all(buffer_.data(), bytes, at_); !done) return done;
            at_ += bytes;
        }
        return {};
    }

    int source_;
    int target_;
    bool seekable_;
    bool in_kernel_;
    const CopyProgress& progress_;
    std::uint64_t at_ = 0;
    std::uint64_t data_bytes_ = 0;
    std::vector<char> buffer_;
};

// ---- owner, attributes, mode, times ---------------------------------------------------------------------------------------

void keep_attributes(int source, int target, std::vector<std::string>& not_kept) {
    std::vector<char> names(xattr_bytes_max);
    const ssize_t length = ::flistxattr(source, names.data(), names.size());
    if (length < 0) {
        if (errno != EOPNOTSUPP) not_kept.push_back("extended attributes: " + error_text(errno));
        return;
    }
    std::vector<char> value(xattr_bytes_max);
    for (const char* name = names.data(); name < names.data() + length; name += std::strlen(name) + 1) {
        const ssize_t bytes = ::fgetxattr(source, name, value.data(), value.size());
        if (bytes < 0 && errno == ENODATA) continue;  // taken away meanwhile
        // A security label that the target's file system gave it by itself may be the same already.
        if (bytes >= 0 && ::fsetxattr(target, name, value.data(), static_cast<std::size_t>(bytes), 0) == 0) continue;
        not_kept.push_back("extended attribute " + std::string(name) + ": " + error_text(errno));
    }
}

void keep_metadata(int source, int target, std::vector<std::string>& not_kept) {
    struct stat from{};
    if (::fstat(source, &from) != 0) {
        not_kept.push_back("owner, mode and times: " + error_text(errno));
        return;
    }
    // The owner first: changing it takes set-user-id bits and capabilities away.
    mode_t mode = from.st_mode & 07777;
    if (::fchown(target, from.st_uid, from.st_gid) != 0) {
        not_kept.push_back("owner: " + error_text(errno));
        // What would have run as the former owner must not run as this one.
        if ((mode & (S_ISUID | S_ISGID)) != 0) not_kept.push_back("set-user-id and set-group-id bits: the owner is another");
        mode &= ~static_cast<mode_t>(S_ISUID | S_ISGID);
    }
    keep_attributes(source, target, not_kept);
    if (::fchmod(target, mode) != 0) not_kept.push_back("mode: " + error_text(errno));
    const std::array<timespec, 2> times{from.st_atim, from.st_mtim};
    if (::futimens(target, times.data()) != 0) not_kept.push_back("times: " + error_text(errno));
}

}  // namespace

std::string magic_link(const HeldAddress& address) { return "/proc/" + std::to_string(address.pid) + '/' + link_name(address); }

Result<HeldFile> HeldFile::open(const HeldAddress& address) {
    HeldFile held;
    held.link_ = magic_link(address);
    const std::string process = "/proc/" + std::to_string(address.pid);
    const auto no_process = [&] { return fail(ESRCH, "there is no process " + std::to_string(address.pid) + " (any more)"); };
    // Open directories of /proc stay with the process they were opened for: a reused pid gives ESRCH.
    held.process_.reset(::open(process.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!held.process_.valid()) return errno == ENOENT ? no_process() : fail_errno(errno, "open " + process);
    held.pidfd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, address.pid, 0)));
    const auto ticks = read_start_ticks(held.process_.get());
    if (!ticks) return no_process();
    held.start_ticks_ = *ticks;
    if (address.started) {
        const auto hz = static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_CLK_TCK)));
        const std::uint64_t tick_ns = 1'000'000'000 / hz;
        if (*ticks * tick_ns > address.started->latest_ns || (*ticks + 1) * tick_ns < address.started->earliest_ns) {
            return fail(ESRCH, "process " + std::to_string(address.pid) + " is another one by now: its number was reused");
        }
    }
    const UniqueFd place(::openat(held.process_.get(), link_name(address).c_str(), O_PATH | O_CLOEXEC));
    if (!place.valid()) return link_error(errno, address, held.link_);
    if (::fstat(place.get(), &held.stat_) != 0) return fail_errno(errno, "look at " + held.link_);
    if (address.file && !(file_id(held.stat_) == *address.file)) {
        return fail(ESTALE, held.link_ + " leads to another file than the one asked for: it was closed and reused");
    }
    if (!S_ISREG(held.stat_.st_mode)) {
        return fail(EINVAL, held.link_ + " is a " + std::string(type_name(held.stat_.st_mode)) + ": only regular files can be recovered");
    }
    // Through our own link, so that it is the very file that was looked at. No atime is left behind where that may be avoided.
    const std::string own = "/proc/self/fd/" + std::to_string(place.get());
    constexpr int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    held.file_.reset(::open(own.c_str(), flags | O_NOATIME));
    if (!held.file_.valid() && errno == EPERM) held.file_.reset(::open(own.c_str(), flags));
    if (!held.file_.valid()) {
        const int code = errno;
        if (code == EACCES || code == EPERM) return fail(code, held.link_ + ": not permitted; the file's own mode forbids reading it");
        return fail_errno(code, "open " + held.link_);
    }
    if (!held.holder_is_there()) return no_process();
    held.path_ = path_of(held.file_.get(), held.stat_);
    return held;
}

Result<HeldFile> HeldFile::open_of_loop(const FileId& file) {
    auto opened = open_loop_backing(file.dev, file.ino);
    if (!opened) return tl::unexpected<Error>(opened.error());
    HeldFile held;
    held.file_ = std::move(*opened);
    if (::fstat(held.file_.get(), &held.stat_) != 0) return fail_errno(errno, "look at the file of a loop device");
    if (!S_ISREG(held.stat_.st_mode)) return fail(EINVAL, "the loop device stands for a " + std::string(type_name(held.stat_.st_mode)));
    held.path_ = path_of(held.file_.get(), held.stat_);
    return held;
}

bool HeldFile::holder_is_there() const {
    if (!process_.valid()) return true;
    if (pidfd_.valid()) {
        pollfd ended{pidfd_.get(), POLLIN, 0};
        if (::poll(&ended, 1, 0) > 0) return false;
    }
    const auto ticks = read_start_ticks(process_.get());
    return ticks && *ticks == start_ticks_;
}

Result<CopyReport> copy_held(const HeldFile& source, int target, const CopyProgress& progress) {
    try {
        auto report = Copier(source.fd(), target, true, progress).run();
        if (report) keep_metadata(source.fd(), target, report->not_kept);
        return report;
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "not enough memory to copy");
    }
}

Result<CopyReport> stream_held(const HeldFile& source, int target, const CopyProgress& progress) {
    try {
        return Copier(source.fd(), target, false, progress).run();
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "not enough memory to copy");
    }
}

Result<void> link_held(const HeldFile& source, int dir, const std::string& name) {
    if (::linkat(source.fd(), "", dir, name.c_str(), AT_EMPTY_PATH) == 0) return {};
    int code = errno;
    if (code == ENOENT || code == EPERM) {
        // Without CAP_DAC_READ_SEARCH the descriptor's own link leads there too.
        if (::linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(source.fd())).c_str(), dir, name.c_str(), AT_SYMLINK_FOLLOW) == 0) return {};
        code = errno;
    }
    struct stat now{};
    if (code == ENOENT && ::fstat(source.fd(), &now) == 0 && now.st_nlink == 0) {
        return fail(ENOENT, "the file's last link is gone, and the kernel gives no new one to such a file (only to what O_TMPFILE made); copy it instead");
    }
    if (code == EXDEV) return fail(EXDEV, "a link has to be on the file's own file system and mount; copy it instead");
    if (code == EPERM) {
        return fail(EPERM, "not permitted: the file belongs to somebody else (sysctl fs.protected_hardlinks), or its file system has no hard links; copy it instead");
    }
    return fail_errno(code, "link");
}

Result<std::vector<HeldAddress>> find_held(const FileId& file, Backend backend) {
    SnapshotRequest request;
    request.fields = field_stat;
    auto answer = take_snapshot(request, backend);
    if (!answer) return tl::unexpected<Error>(answer.error());
    const Snapshot& snapshot = answer->snapshot;
    std::vector<HeldAddress> found;
    for (const Reference& row : snapshot.references) {
        if ((row.valid & field_stat) == 0 || !(FileId{row.dev, row.ino} == file)) continue;
        const Process& process = snapshot.processes[row.process];
        HeldAddress address{process.pid, row.tid, row.ref, row.fd, 0, 0, process.started, file};
        if (row.ref == RefKind::mem) {
            address.map_start = row.map_start;
            address.map_end = row.map_end;
        }
        found.push_back(address);
    }
    // Descriptors need the least privilege, mappings the most.
    const auto rank = [](const HeldAddress& address) { return address.ref == RefKind::fd ? 0 : address.ref == RefKind::exe ? 1 : address.ref == RefKind::mem ? 2 : 3; };
    std::stable_sort(found.begin(), found.end(), [&](const HeldAddress& a, const HeldAddress& b) { return rank(a) < rank(b); });
    return found;
}

}  // namespace fdspan
