// Deleted files that are still held: one entry per file, with the space it takes and since when at the latest it has been deleted.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/recover.hpp"
#include "api/snapshot.hpp"
#include "base/clock.hpp"
#include "base/event.hpp"
#include "base/result.hpp"
#include "snapshot/loops.hpp"
#include "snapshot/procfs_mounts.hpp"

namespace fdspan {

struct DeletedRequest {
    std::vector<pid_t> pids;   // empty: all processes, and loop devices
    bool nameless = false;     // what never had a name too: memfd, O_TMPFILE, shared memory
    bool gone = false;         // files whose opened name is gone although a link is left; overlayfs: although the lower layer has it
    Backend backend = Backend::automatic;
    unsigned threads = 1;      // as in SnapshotRequest
};

struct DeletedFile {
    FileId id;
    NameState state = NameState::deleted;  // deleted, silly; memfd, tmpfile, shm; gone; unknown: of a loop device, whose name is gone
    FileType type = FileType::unknown;
    std::string path;                      // as last known
    std::optional<std::uint32_t> nlink;
    std::optional<std::uint64_t> size;
    std::optional<std::uint64_t> allocated;  // bytes that come back when the last holder goes
    // When its last link went (deleted and silly only). ctime is never before that, the birth never after it.
    std::optional<Interval> deleted;
    Removal how = Removal::unknown;
    std::optional<RemovedBy> by;             // nothing: nobody who could be asked saw it
    std::vector<std::uint32_t> references;   // indexes into the snapshot's, pieces of one mapping all there; in order of pid
    std::vector<std::string> loops;          // "loop0": held by the kernel for that device
    std::vector<std::uint32_t> hidden;       // indexes into Snapshot::hidden: in flight over a socket, in an io_uring, held by the kernel
};

// When a file without links lost the last one, by its ctime where its file system (null: not known which) leaves that to the kernel: it is
// never before that. `now_ns` is when it was asked for.
[[nodiscard]] Interval deletion_by_ctime(const struct statx& held, const procfs::Mount* mount, const WallClock& clock, std::uint64_t now_ns);

struct DeletedAnswer {
    SnapshotAnswer answer;             // only the references of `files`
    std::vector<DeletedFile> files;    // in no order
    std::uint64_t unreadable_loops = 0;
};

// Thread-safe. The iterators pass over everything else inside the kernel.
[[nodiscard]] Result<DeletedAnswer> find_deleted(const DeletedRequest& request);

}  // namespace fdspan
