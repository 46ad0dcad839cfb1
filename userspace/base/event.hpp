// Event: what `watch` prints and library callers receive.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/reference.hpp"

namespace fdspan {

enum class EventKind : std::uint8_t { opened, closed, released, deleted, exec, exit, lost, resynced };
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
    }
    return "?";
}

// One event. Strings are ids of `Event::strings`' table. Valid only during the callback that delivers it.
struct Event {
    EventKind kind = EventKind::opened;
    Interval when;                       // exact for what the kernel stamped, bounded for what a snapshot found out
    const StringTable* strings = nullptr;
    const Process* process = nullptr;    // null for lost and resynced
    const Reference* reference = nullptr; // opened, closed, released, deleted
    std::optional<Interval> duration;    // closed, released: length of the span (ns), as an interval
    std::uint64_t lost_records = 0;      // lost: how many, within `when`
    std::int32_t exit_code = 0;          // exit: as in wait status
    std::uint32_t added = 0;             // resynced: spans the snapshot added
    std::uint32_t ended = 0;             // resynced: spans the snapshot ended
};

}  // namespace fdspan
