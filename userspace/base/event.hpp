// Event: what `watch` prints and library callers receive.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/reference.hpp"

namespace fdspan {

// unlinked: a file lost the name it was opened by and has another one left.
enum class EventKind : std::uint8_t { opened, closed, released, deleted, exec, exit, lost, resynced, unlinked };
[[nodiscard]] constexpr std::string_view to_string(EventKind kind) {
    switch (kind) {
        case EventKind::opened: return "opened";
        case EventKind::closed: return "closed";
        case EventKind::released: return "released";
        case EventKind::deleted: return "deleted";
        case EventKind::exec: return "exec";
        case EventKind::exit: return "exit";
        case EventKind::lost: return "lost";
        case EventKind::resynced: return "resynced";
        case EventKind::unlinked: return "unlinked";
    }
    return "?";
}

// Why events did not arrive.
enum class LossReason : std::uint8_t { ring_full, hook_skipped, index_full };
[[nodiscard]] constexpr std::string_view to_string(LossReason reason) {
    switch (reason) {
        case LossReason::ring_full: return "ring-full";
        case LossReason::hook_skipped: return "hook-skipped";
        case LossReason::index_full: return "index-full";
    }
    return "?";
}

// What took a file's last name away.
enum class Removal : std::uint8_t { unknown, unlink, rmdir, rename };
[[nodiscard]] constexpr std::string_view to_string(Removal how) {
    switch (how) {
        case Removal::unknown: return "unknown";
        case Removal::unlink: return "unlink";
        case Removal::rmdir: return "rmdir";
        case Removal::rename: return "rename";
    }
    return "?";
}

// The process whose call removed a name.
struct Culprit {
    pid_t pid = 0;
    uid_t uid = 0;
    StringId comm = 0;
    StringId exe = 0;     // "" when it could not be read any more
    StringId cgroup = 0;
};

// The same, kept.
struct RemovedBy {
    pid_t pid = 0;
    uid_t uid = 0;
    std::string comm, exe, cgroup;
};

struct Holder {
    const Process* process;
    const Reference* reference;
};

// One event. Strings are ids of `Event::strings`' table. Valid only during the callback that delivers it.
struct Event {
    EventKind kind = EventKind::opened;
    Interval when;                       // exact for what the kernel stamped, bounded for what a snapshot found out
    const StringTable* strings = nullptr;
    const Process* process = nullptr;    // null for lost and resynced
    const Reference* reference = nullptr; // opened, closed, released, deleted, unlinked
    std::optional<Interval> duration;    // closed, released: length of the span (ns), as an interval
    std::uint64_t lost_records = 0;      // lost: how many, within `when`
    LossReason loss_reason = LossReason::ring_full;
    std::optional<std::uint32_t> cpu;    // lost: on which CPU, where that is known
    std::optional<std::int32_t> exit_status; // exit: as wait(2) has it; none where nobody saw the end
    std::uint32_t added = 0;             // resynced: spans the snapshot added
    std::uint32_t ended = 0;             // resynced: spans the snapshot ended
    Removal how = Removal::unknown;      // deleted, unlinked
    const Culprit* by = nullptr;         // deleted, unlinked: null when nobody saw it happen
    std::span<const Holder> holders;     // deleted, unlinked: who holds the file now; `reference` is one of theirs
    std::size_t holder_count = 0;        // … and how many there are: the list has a bound
    std::optional<std::uint64_t> allocated;  // deleted: bytes really on disk; released, of a deleted file: bytes given back
    std::optional<Interval> held_deleted;    // released, of a deleted file: how long it was held after its deletion (ns)
};

}  // namespace fdspan
