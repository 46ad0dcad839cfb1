// The columns of `ls`: one table, whose rows drive headings, help, JSON keys, alignment, sorting, what has to be read, and completion.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "duration.hpp"
#include "mount_view.hpp"
#include "snapshot/snapshot.hpp"

namespace fdspan::cli {

// Wall-clock text with a memory of the seconds it has seen; a document of a million rows repeats them.
class WallClockText {
public:
    explicit WallClockText(WallClock clock) : clock_(clock) {}
    void append(std::string& out, std::uint64_t boottime_ns);
    // The JSON object T of a moment, or null; valid until the next call.
    [[nodiscard]] std::string_view json(const Interval& moment);
    void append_json(std::string& out, const Interval& moment);
    // Of a moment that is known: its latest time, as append() has it; valid until the next call.
    [[nodiscard]] std::string_view latest(const Interval& moment);
    // For tables: the time when exact, "EARLIEST..LATEST" when bounded.
    void append_text(std::string& out, const Interval& moment);

private:
    static constexpr std::size_t json_bytes = 256;
    using Digits = std::array<char, 30>;  // "2026-11-21T23:35:08.000000001Z"
    struct Second {
        std::int64_t second = -1;
        std::array<char, 20> text{};  // "2026-11-21T23:35:08"
    };
    // An event says the same moment several times, and a process the same beginning in every row.
    struct Shown {
        Interval moment;
        std::size_t bytes = 0;
        std::array<char, json_bytes> text;
        Digits latest;
    };
    [[nodiscard]] const Shown& show(const Interval& moment);
    [[nodiscard]] Digits digits(std::uint64_t boottime_ns);
    void make_json(Shown& shown);
    WallClock clock_;
    std::array<Second, 64> seen_;
    std::array<Shown, 64> shown_;
};

// "1.5K", "20M"; below 1024 the number itself.
void append_human(std::string& out, std::uint64_t bytes);

// User names, looked up once each.
class UserNames {
public:
    std::string_view name(uid_t uid);

private:
    std::map<uid_t, std::string> names_;
};

// What a cell is made from: a row of a snapshot, or an event of `watch`.
struct RowContext {
    const StringTable* strings = nullptr;
    const Process* process = nullptr;
    const Reference* reference = nullptr;  // null only for columns that are of_process
    std::uint64_t began_ns = 0;            // of the snapshot
    std::uint64_t now_ns = 0;              // its end: ages count to there
    WallClockText* clock = nullptr;
    UserNames* users = nullptr;
    bool human_sizes = false;
    MountView* mounts = nullptr;           // null: nothing is known of the way from outside
    AgeTexts* ages = nullptr;              // null: made anew each
};

enum class Align : std::uint8_t { left, right };
// How a column gives way when the terminal is too narrow.
enum class Shrink : std::uint8_t { never, end, middle };

struct Column {
    std::string_view name;
    std::string_view help;
    std::string_view json_keys;   // what it adds to the JSON of a reference
    std::string_view json_type;
    Align align = Align::left;
    Shrink shrink = Shrink::never;
    std::uint32_t fields = 0;     // Field bits it is made from
    void (*text)(std::string& out, const RowContext& row) = nullptr;   // escaped; empty cells are shown as "-"
    void (*json)(std::string& out, const RowContext& row) = nullptr;   // "key":value, with the comma behind
    std::optional<std::uint64_t> (*number)(const RowContext& row) = nullptr;  // sort key; without one the text is
    bool of_process = false;      // needs no reference
    // Where text makes nothing but the digits of a number: that number. Empty: text has to be asked.
    std::optional<std::uint64_t> (*digits)(const RowContext& row) = nullptr;
};

[[nodiscard]] std::span<const Column> all_columns();
[[nodiscard]] const Column* find_column(std::string_view name);  // any case

// "PID,FD" alone, "+CGROUP,INO" after `defaults`. The error is a sentence.
[[nodiscard]] Result<std::vector<const Column*>> select_columns(std::string_view list, std::span<const std::string_view> defaults);

// The moment that the age of a reference counts from: its description's, or its own where it has none (cwd, root).
[[nodiscard]] const Interval& age_moment(const Reference& reference);

// "REG", … or the class of an anonymous inode ("eventpoll").
[[nodiscard]] std::string_view type_text(const StringTable& strings, const Reference& reference);

// "O_RDWR", "O_APPEND", … of open(2) flags; unknown bits as one hexadecimal number.
void for_each_flag(std::uint32_t flags, const std::function<void(std::string_view)>& visit);

// All JSON keys of a reference that `columns` name, as one object.
void append_reference_json(std::string& out, const RowContext& row, std::span<const Column* const> columns);

}  // namespace fdspan::cli
