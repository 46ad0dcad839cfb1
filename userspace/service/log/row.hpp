// LogRow: one entry of the event log, with strings of its own: it outlives the event that it tells of.
#pragma once

#include <sys/types.h>

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/event.hpp"

namespace fdspan::service {

struct LogHolder {
    pid_t pid = 0;
    std::int32_t fd = -1;  // -1: not a descriptor
    RefKind ref = RefKind::fd;
    std::string comm;
};

struct LogCulprit {
    pid_t pid = 0;
    uid_t uid = 0;
    std::string comm, exe, cgroup;
};

struct LogRow {
    static constexpr std::size_t max_holders = 32;

    std::int64_t id = 0;            // given by the log, ascending as rows are written
    std::int64_t time_ns = 0;       // wall clock of when.latest_ns, by the clock as it was when the row was written
    std::string boot_id;            // what the boottimes below count from; set by the reader
    EventKind kind = EventKind::closed;
    Interval when;

    pid_t pid = 0;                  // 0: not about a process
    uid_t uid = 0;
    std::optional<Interval> process_started;
    std::string comm, container;

    std::optional<RefKind> ref;     // empty: not about a reference
    std::int32_t fd = -1;
    FileType type = FileType::unknown;
    std::string type_name;
    NameState name = NameState::unknown;
    bool deleted = false;           // the file had lost its last name, then or before
    DeviceNumber dev;
    std::uint64_t ino = 0;
    std::string path;
    std::optional<Interval> opened, description_opened;
    std::uint64_t description_id = 0;

    std::optional<Interval> duration;      // lengths, ns
    std::optional<Interval> held_deleted;
    std::optional<std::uint64_t> bytes;    // on disk
    Removal how = Removal::unknown;
    std::optional<LogCulprit> by;
    std::vector<LogHolder> holders;        // the first max_holders
    std::uint32_t holder_count = 0;

    std::uint64_t lost_records = 0;
    std::uint32_t added = 0, ended = 0;

    // Of memory, roughly: what a queue of them counts.
    [[nodiscard]] std::size_t bytes_held() const;
};

// Numbers that stand for kinds in the database, for ever.
[[nodiscard]] std::int64_t kind_number(EventKind kind);
[[nodiscard]] EventKind kind_of_number(std::int64_t number);

[[nodiscard]] LogRow row_of(const Event& event);

// Which of them are kept.
struct LogPolicy {
    std::uint64_t min_duration_ns = 1'000'000'000;  // of spans; deletions, what was deleted, and losses are always kept
    bool released = false;                          // ends of descriptions, too, not of deleted files only

    [[nodiscard]] bool keeps(const Event& event) const;
};

// Four classes to each power of two: rows that are at least so long or so large are found by equality in an index whose
// second column is the time.
[[nodiscard]] constexpr std::int64_t log_class(std::uint64_t value) {
    if (value < 4) return static_cast<std::int64_t>(value);
    const int top = std::bit_width(value) - 1;
    return static_cast<std::int64_t>(top) * 4 + static_cast<std::int64_t>((value >> (top - 2)) & 3U);
}
inline constexpr std::int64_t max_log_class = 63 * 4 + 3;
static_assert(log_class(3) < log_class(4) && log_class(7) < log_class(8) && log_class(~std::uint64_t{0}) == max_log_class);

}  // namespace fdspan::service
