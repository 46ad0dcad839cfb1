// Snapshot: all references of all (or some) processes at one moment. Two readers make the same rows.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.hpp"
#include "base/reference.hpp"
#include "base/result.hpp"
#include "snapshot/references.hpp"

namespace fdspan {

struct SnapshotRequest {
    std::uint32_t fields = field_all;        // Field bits
    std::uint8_t kinds = 0xff;               // bit 1 << RefKind
    std::vector<pid_t> pids;                 // empty: all processes
    bool deleted_only = false;               // only NameState::deleted and those in also_states; the iterators filter in the kernel
    std::uint16_t also_states = 0;           // with deleted_only: bit 1 << NameState, of gone, memfd, tmpfile, shm and silly
    unsigned threads = 1;                    // that may read at once, the caller's included; they are gone when the read returns
    bool hidden = false;                     // Snapshot::hidden, where tracking is armed

    [[nodiscard]] bool wants(RefKind kind) const { return (kinds & (1U << static_cast<unsigned>(kind))) != 0; }
    [[nodiscard]] bool wants(Field field) const { return (fields & field) != 0; }
    // With deleted_only.
    [[nodiscard]] bool wants(NameState state) const {
        return state == NameState::deleted || (also_states & (1U << static_cast<unsigned>(state))) != 0;
    }
    // Whether a file that has links left may be among what is wanted.
    [[nodiscard]] bool wants_linked() const { return !deleted_only || wants(NameState::gone) || wants(NameState::silly); }
};

// What stands between this snapshot and completeness. Counted, and said by the CLI.
struct SnapshotGaps {
    std::uint64_t unreadable_processes = 0;  // permission denied
    std::uint64_t vanished_processes = 0;    // ended, or the pid was reused, while being read: their rows are dropped
    std::uint64_t missing_pids = 0;          // asked for by SnapshotRequest::pids, not there
    std::uint64_t truncated_paths = 0;       // longer than PATH_MAX, or cut by the reader
    std::uint64_t unparsed_lines = 0;        // procfs lines that no parser understood
    std::uint64_t unstatable_references = 0; // stat refused or would have blocked; the row stands without those fields
    std::uint64_t undecided_names = 0;       // of those: whose name is gone, as the text has it, and whose links nobody may ask for

    SnapshotGaps& operator+=(const SnapshotGaps& more) {
        unreadable_processes += more.unreadable_processes;
        vanished_processes += more.vanished_processes;
        missing_pids += more.missing_pids;
        truncated_paths += more.truncated_paths;
        unparsed_lines += more.unparsed_lines;
        unstatable_references += more.unstatable_references;
        undecided_names += more.undecided_names;
        return *this;
    }

    [[nodiscard]] bool complete() const {
        return unreadable_processes == 0 && truncated_paths == 0 && unparsed_lines == 0;
    }
};

struct Snapshot {
    std::string source;                 // "bpf" or "procfs"
    std::uint64_t began_ns = 0;         // CLOCK_BOOTTIME; no row is older
    std::uint64_t ended_ns = 0;
    WallClock clock;                    // as measured at began_ns
    StringTable strings;
    std::vector<Process> processes;     // ascending by pid
    References references;              // grouped by process, in no other order
    // Descriptions of deleted files that none of the processes read shows, known from the maps of tracking only: in flight over a socket, fixed in an
    // io_uring, held by the kernel itself. Of no process.
    std::vector<Reference> hidden;
    SnapshotGaps gaps;

    [[nodiscard]] std::string_view text(StringId id) const { return strings.get(id); }
    [[nodiscard]] std::string path(const Reference& row) const {
        std::string joined;
        return std::string(strings.path(row.path, joined));
    }
};

// Reads through /proc. Never blocks on a hung file system. Thread-safe (no shared state).
// Fails only when /proc itself can't be read; everything less is counted in Snapshot::gaps.
[[nodiscard]] Result<Snapshot> read_procfs_snapshot(const SnapshotRequest& request);

// The same against another root than "/proc", for tests.
[[nodiscard]] Result<Snapshot> read_procfs_snapshot(const SnapshotRequest& request, const std::string& proc_root);

}  // namespace fdspan
