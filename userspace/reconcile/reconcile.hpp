// reconcile: makes an index equal to a snapshot. Adds what it lacks, ends what is gone, narrows bounded times, and never moves
// an exact one: another exact time means another span. Not thread-safe: the index belongs to one thread.
//
// A snapshot is read while events go on: what records told of at or after Snapshot::began_ns is newer than any row and
// stays. Times of what nobody saw are intervals: opened after the last snapshot that could read the process and lacked it,
// closed after the last moment it was certainly there.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "index/index.hpp"
#include "snapshot/snapshot.hpp"

namespace fdspan {

class Removals;

struct ReconcileOptions {
    bool announce = true;        // differences are news: emit opened, closed, released, deleted, exit
    bool report = true;          // one `resynced` event at the end
    std::uint8_t kinds = 0xff;   // what the snapshot read: bit 1 << RefKind, as in SnapshotRequest
    std::vector<pid_t> pids;     // what the snapshot was asked for; empty: all processes
    bool whole_index = false;    // `pids` are all that the index is about
    bool releases_come = false;  // the backend reports every release: descriptions that nothing holds wait for theirs
    Removals* removals = nullptr;        // knows who removed names lately; null: nobody saw
};

struct ReconcileResult {
    std::uint32_t added = 0;     // descriptors' spans
    std::uint32_t ended = 0;
    std::uint32_t released = 0;
    std::uint32_t processes_added = 0;
    std::uint32_t processes_ended = 0;
    // So much ended while the snapshot was read that the index no longer knows all of it: nothing doubtful was added, and
    // another snapshot is wanted.
    bool uncertain = false;
};

// Snapshots come in the order in which they began: what ended before this one is remembered no longer.
ReconcileResult reconcile(Index& index, const Snapshot& snapshot, const ReconcileOptions& options, const EventSink& sink);

// What an index of this snapshot alone would take, and a little more.
[[nodiscard]] std::size_t index_bytes_for(const Snapshot& snapshot);

enum class DifferenceKind : std::uint8_t {
    phantom,     // in the index only
    gap,         // in the snapshot only
    other_file,  // the same slot, another file
    other_time,  // the same slot and file, two exact times that are not equal: two spans
};
[[nodiscard]] constexpr std::string_view to_string(DifferenceKind kind) {
    switch (kind) {
        case DifferenceKind::phantom: return "phantom";
        case DifferenceKind::gap: return "gap";
        case DifferenceKind::other_file: return "other file";
        case DifferenceKind::other_time: return "other time";
    }
    return "?";
}

struct Difference {
    DifferenceKind kind = DifferenceKind::phantom;
    pid_t pid = 0;
    pid_t tid = 0;              // as in Reference
    std::int32_t fd = -1;       // -1: the process as a whole
    std::string index_path;     // what the index has there
    std::string snapshot_path;  // what the snapshot has
    Interval index_opened, snapshot_opened;
};

struct Verification {
    static constexpr std::size_t max_differences = 1000;
    std::vector<Difference> differences;  // the first max_differences
    std::uint64_t phantoms = 0;
    std::uint64_t gaps = 0;
    std::uint64_t other_files = 0;
    std::uint64_t other_times = 0;
    std::uint64_t compared = 0;           // descriptors on both sides
    [[nodiscard]] bool equal() const { return phantoms + gaps + other_files + other_times == 0; }
};

// What reconcile() would change about descriptors; changes nothing. Rows that events made obsolete do not count.
[[nodiscard]] Verification verify(const Index& index, const Snapshot& snapshot, const ReconcileOptions& options);

}  // namespace fdspan
