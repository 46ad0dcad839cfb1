// Recover: what a process holds, copied out through its magic link, whatever became of its name. Reads only.
// Nothing here has shared state; a HeldFile belongs to one thread at a time.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "api/snapshot.hpp"
#include "base/reference.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace fdspan {

struct FileId {
    DeviceNumber dev;
    std::uint64_t ino = 0;
    friend bool operator==(const FileId&, const FileId&) = default;
};

// One reference of one process: what `ls` shows as a row.
struct HeldAddress {
    pid_t pid = 0;
    pid_t tid = 0;                     // a thread with a descriptor table of its own; 0: the process
    RefKind ref = RefKind::fd;         // fd, exe or mem: cwd and root are directories
    std::int32_t fd = -1;
    std::uint64_t map_start = 0;       // mem: exactly as in /proc/PID/maps
    std::uint64_t map_end = 0;
    std::optional<Interval> started;   // the process that is meant; another one under the same pid is refused (ESRCH)
    std::optional<FileId> file;        // the file that is meant; another one in its place is refused (ESTALE)
};

// "/proc/PID/fd/7", "/proc/PID/task/TID/fd/7", "/proc/PID/exe", "/proc/PID/map_files/START-END".
[[nodiscard]] std::string magic_link(const HeldAddress& address);

// A regular file that was held when it was opened. Owns a descriptor of its own on it, so that the holder may end meanwhile.
class HeldFile {
public:
    // ESRCH: no such process; ENOENT: it has no such reference; ESTALE: the reference holds another file by now; EINVAL: not a regular
    // file (nothing is opened then but with O_PATH: a FIFO, a socket or a device is never touched); EPERM, EACCES: with what it takes.
    static Result<HeldFile> open(const HeldAddress& address);
    // What only a loop device holds, through a file handle; ext4 alone gives that (other file systems: EOPNOTSUPP).
    static Result<HeldFile> open_of_loop(const FileId& file);

    [[nodiscard]] int fd() const { return file_.get(); }
    [[nodiscard]] const struct stat& status() const { return stat_; }  // as it was when it was opened
    [[nodiscard]] const std::string& path() const { return path_; }    // as last known, without the kernel's mark
    [[nodiscard]] const std::string& link() const { return link_; }    // the magic link; empty for open_of_loop()
    // Whether the process that held it is still the same one (by pidfd and start time), and still there.
    [[nodiscard]] bool holder_is_there() const;

private:
    HeldFile() = default;
    UniqueFd file_;
    UniqueFd process_;  // directory of /proc: names one process for good
    UniqueFd pidfd_;    // -1 where there is none
    std::uint64_t start_ticks_ = 0;
    struct stat stat_{};
    std::string path_;
    std::string link_;
};

struct CopyReport {
    std::uint64_t size = 0;             // of the copy
    std::uint64_t data_bytes = 0;       // copied: what is no hole
    std::uint64_t grown_bytes = 0;      // that the source grew by meanwhile; they are in the copy as far as `still_growing` is false
    bool still_growing = false;
    bool changed = false;               // written to meanwhile: the copy may be of no one moment
    bool cloned = false;                // shares its blocks with the source (FICLONE)
    std::vector<std::string> not_kept;  // "owner: Operation not permitted": what the target could not be given
};

// Called about every 8 MiB and at least once; false ends the copy with ECANCELED. done and total count bytes of the file, holes included.
using CopyProgress = std::function<bool(std::uint64_t done_bytes, std::uint64_t total_bytes)>;

// Copies into `target`, an empty regular file open for writing, from its beginning: holes stay holes; then owner, extended attributes,
// mode and times. What is written to the source meanwhile is copied until its end is met (at most a few times over). ENODATA: the source
// was cut shorter meanwhile. After an error the target holds a part: throw it away. Does not fsync.
[[nodiscard]] Result<CopyReport> copy_held(const HeldFile& source, int target, const CopyProgress& progress);

// The bytes alone, holes as zeros, into anything that can be written to (a pipe).
[[nodiscard]] Result<CopyReport> stream_held(const HeldFile& source, int target, const CopyProgress& progress);

// Gives the file a name again: `name` in the directory `dir`, on the same mount, where nothing is called so. ENOENT: its last link is
// gone, which no kernel takes back (only what O_TMPFILE made can be linked); EXDEV: another file system or mount.
[[nodiscard]] Result<void> link_held(const HeldFile& source, int dir, const std::string& name);

// Every reference through which this file can be opened, descriptors first, best first.
[[nodiscard]] Result<std::vector<HeldAddress>> find_held(const FileId& file, Backend backend);

}  // namespace fdspan
