#include "columns.hpp"

#include <fcntl.h>
#include <pwd.h>
#include <strings.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>

#include "text.hpp"

namespace fdspan::cli {
namespace {

using Row = const RowContext&;
using Number = std::optional<std::uint64_t>;

constexpr std::int64_t ns_per_s = 1'000'000'000;
constexpr std::uint32_t map_shared = 1U << 31U;

// "000102…99"
constexpr auto digit_pairs = [] {
    std::array<char, 200> pairs{};
    for (std::size_t i = 0; i < pairs.size(); ++i) pairs[i] = static_cast<char>('0' + (i % 2 == 0 ? i / 20 : i / 2 % 10));
    return pairs;
}();

bool has(Row row, Field field) { return (row.reference->valid & field) != 0; }
bool is_fd(Row row) { return row.reference->ref == RefKind::fd; }
bool is_mem(Row row) { return row.reference->ref == RefKind::mem; }
// Bytes and blocks mean something for these only.
bool has_size(Row row) { return has(row, field_size); }

std::string_view text(Row row, StringId id) { return row.strings->get(id); }

void key(std::string& out, std::string_view name) {
    out += '"';
    out += name;
    out += "\":";
}
void json_number(std::string& out, std::string_view name, Number value) {
    Piece<64> piece;
    piece.add("\"").add(name).add("\":");
    if (value) piece.add(static_cast<unsigned long long>(*value)).add(",");
    else piece.add("null,");
    out += piece.text();
}
void json_text_or_null(std::string& out, std::string_view name, std::string_view bytes) {
    if (!bytes.empty()) {
        append_json_text(out, name, bytes);
        return;
    }
    key(out, name);
    out += "null,";
}
void text_number(std::string& out, Number value) {
    if (value) append_number(out, static_cast<unsigned long long>(*value));
}

void text_bytes(std::string& out, Row row, Number bytes) {
    if (!bytes) return;
    if (row.human_sizes) {
        append_human(out, *bytes);
    } else {
        append_number(out, static_cast<unsigned long long>(*bytes));
    }
}

void append_device(std::string& out, DeviceNumber device) {
    append_number(out, static_cast<unsigned long long>(device.major));
    out += ':';
    append_number(out, static_cast<unsigned long long>(device.minor));
}
std::uint64_t device_key(DeviceNumber device) { return (std::uint64_t{device.major} << 32U) | device.minor; }

// Whether a file is deleted is not always decidable without risking to block.
std::optional<bool> is_deleted(Row row) {
    if (!has(row, field_stat) || row.reference->name == NameState::unknown) return std::nullopt;
    return row.reference->name == NameState::deleted;
}

// -- numbers: the same for the cell, the JSON value and the sort key --
Number pid(Row row) { return static_cast<std::uint64_t>(row.process->pid); }
Number ppid(Row row) { return static_cast<std::uint64_t>(row.process->ppid); }
Number tid(Row row) {
    return static_cast<std::uint64_t>(row.reference->tid == 0 ? row.process->pid : row.reference->tid);
}
Number uid(Row row) { return row.process->uid; }
// A description may end without the descriptor's number being known.
Number fd(Row row) { return is_fd(row) && row.reference->fd >= 0 ? Number(static_cast<std::uint64_t>(row.reference->fd)) : Number(); }
Number ino(Row row) { return has(row, field_stat) ? Number(row.reference->ino) : Number(); }
Number nlink(Row row) { return has(row, field_stat) ? Number(row.reference->nlink) : Number(); }
Number size(Row row) { return has_size(row) ? Number(row.reference->size) : Number(); }
Number allocated(Row row) { return has_size(row) ? Number(row.reference->allocated) : Number(); }
Number plain_size(Row row) { return row.human_sizes ? Number() : size(row); }
Number plain_allocated(Row row) { return row.human_sizes ? Number() : allocated(row); }
Number position(Row row) { return is_fd(row) && has(row, field_position) ? Number(row.reference->pos) : Number(); }
Number mount(Row row) {
    return row.reference->mnt_id >= 0 ? Number(static_cast<std::uint64_t>(row.reference->mnt_id)) : Number();
}
Number device(Row row) { return has(row, field_stat) ? Number(device_key(row.reference->dev)) : Number(); }
bool is_device_file(Row row) {
    return has(row, field_stat) && (row.reference->type == FileType::chr || row.reference->type == FileType::blk);
}
Number special_device(Row row) { return is_device_file(row) ? Number(device_key(row.reference->rdev)) : Number(); }
Number fd_order(Row row) {
    // exe, cwd, root and mem stand before the descriptors, as in lsof.
    const auto kind = static_cast<std::uint64_t>(row.reference->ref);
    return is_fd(row) ? (std::uint64_t{1} << 32U) + static_cast<std::uint64_t>(row.reference->fd)
                      : std::uint64_t{10} - kind;
}
// Oldest first: what is certain counts before what is possible. A bound that is only "seen by this snapshot" says nothing
// about the age, so all of those are equal.
Number moment_key(Row row, const Interval& moment) {
    if (moment.latest_ns == std::numeric_limits<std::uint64_t>::max()) return std::nullopt;
    if (!moment.is_exact() && moment.latest_ns >= row.began_ns) return row.began_ns;
    return moment.latest_ns;
}
Number age_key(Row row) { return moment_key(row, age_moment(*row.reference)); }
Number opened_key(Row row) { return moment_key(row, row.reference->opened); }
Number description_key(Row row) { return row.reference->description_id; }
Number started_key(Row row) { return row.process->started.latest_ns; }

void append_age_text(std::string& out, const Interval& moment, Row row) {
    const std::optional<AgeRange> age = age_at(moment, row.now_ns);
    if (!age) return;
    if (row.ages != nullptr) row.ages->append(out, *age);
    else out += format_age(*age);
}

void append_map(std::string& out, const Reference& reference) {
    std::array<char, 64> range{};
    std::snprintf(range.data(), range.size(), "%llx-%llx", static_cast<unsigned long long>(reference.map_start),
                  static_cast<unsigned long long>(reference.map_end));
    out += range.data();
}
void append_protection(std::string& out, std::uint32_t flags) {
    out += (flags & PROT_READ) != 0 ? 'r' : '-';
    out += (flags & PROT_WRITE) != 0 ? 'w' : '-';
    out += (flags & PROT_EXEC) != 0 ? 'x' : '-';
    out += (flags & map_shared) != 0 ? 's' : 'p';
}

std::array<char, 16> id_text(std::uint64_t id) {
    std::array<char, 16> text;
    for (std::size_t at = text.size(); at > 0; id >>= 4U) text[--at] = "0123456789abcdef"[id & 15U];
    return text;
}
std::string_view view(const std::array<char, 16>& text) { return {text.data(), text.size()}; }

std::string outside(Row row) {
    const bool named = row.reference->name != NameState::memfd && row.reference->name != NameState::shm;
    const PathId path = row.reference->path;
    if (!named || row.mounts == nullptr || !text(row, path.dir != 0 ? path.dir : path.name).starts_with('/')) return {};
    if (!row.mounts->is_elsewhere(row.process->pid)) return {};
    std::string joined;
    return row.mounts->outside(row.process->pid, row.strings->path(path, joined));
}

struct FlagName {
    std::uint32_t bits;
    std::string_view name;
};
// The kernel's own O_LARGEFILE; glibc defines it as 0 on 64-bit machines (asm-generic/fcntl.h, arch/arm64/.../fcntl.h).
#if defined(__aarch64__)
constexpr std::uint32_t kernel_o_largefile = 0400000;
#else
constexpr std::uint32_t kernel_o_largefile = 0100000;
#endif
// Composite flags before the parts they contain.
constexpr FlagName flag_names[] = {
    {O_APPEND, "O_APPEND"},       {O_NONBLOCK, "O_NONBLOCK"},   {O_SYNC, "O_SYNC"},         {O_DSYNC, "O_DSYNC"},
    {O_TMPFILE, "O_TMPFILE"},     {O_DIRECTORY, "O_DIRECTORY"}, {O_DIRECT, "O_DIRECT"},     {kernel_o_largefile, "O_LARGEFILE"},
    {O_NOFOLLOW, "O_NOFOLLOW"},   {O_NOATIME, "O_NOATIME"},     {O_ASYNC, "O_ASYNC"},       {O_CREAT, "O_CREAT"},
    {O_EXCL, "O_EXCL"},           {O_NOCTTY, "O_NOCTTY"},       {O_TRUNC, "O_TRUNC"},       {O_PATH, "O_PATH"},
    {O_CLOEXEC, "O_CLOEXEC"},
};

const Column table[] = {
    {"PID", "process id", "pid", "number", Align::right, Shrink::never, 0,
     [](std::string& out, Row row) { text_number(out, pid(row)); },
     [](std::string& out, Row row) { json_number(out, "pid", pid(row)); }, pid, true},
    {"TID", "thread id; other than PID for a thread with a descriptor table of its own", "tid", "number", Align::right, Shrink::never, 0,
     [](std::string& out, Row row) { text_number(out, tid(row)); },
     [](std::string& out, Row row) { json_number(out, "tid", tid(row)); }, tid},
    {"PPID", "parent process id", "ppid", "number", Align::right, Shrink::never, 0,
     [](std::string& out, Row row) { text_number(out, ppid(row)); },
     [](std::string& out, Row row) { json_number(out, "ppid", ppid(row)); }, ppid, true},
    {"COMM", "name of the command", "comm, comm_bytes", "string", Align::left, Shrink::end, 0,
     [](std::string& out, Row row) { append_escaped(out, text(row, row.process->comm)); },
     [](std::string& out, Row row) { append_json_text(out, "comm", text(row, row.process->comm)); }, nullptr, true},
    {"USER", "user name of the process", "user", "string", Align::left, Shrink::end, 0,
     [](std::string& out, Row row) { append_escaped(out, row.users->name(row.process->uid)); },
     [](std::string& out, Row row) { append_json_text(out, "user", row.users->name(row.process->uid)); }, nullptr, true},
    {"UID", "real user id of the process", "uid", "number", Align::right, Shrink::never, 0,
     [](std::string& out, Row row) { text_number(out, uid(row)); },
     [](std::string& out, Row row) { json_number(out, "uid", uid(row)); }, uid, true},
    {"STARTED", "when the process started", "process_started", "time", Align::left, Shrink::never, 0,
     [](std::string& out, Row row) { row.clock->append_text(out, row.process->started); },
     [](std::string& out, Row row) {
         key(out, "process_started");
         row.clock->append_json(out, row.process->started);
         out += ',';
     },
     started_key, true},
    {"REF", "what keeps the file in use: fd, mem, exe, cwd, root", "ref", "string", Align::left, Shrink::never, 0,
     [](std::string& out, Row row) { out += to_string(row.reference->ref); },
     [](std::string& out, Row row) { append_json_text(out, "ref", to_string(row.reference->ref)); }, nullptr},
    {"FD", "descriptor number, or mem, exe, cwd, root", "fd", "number or null", Align::right, Shrink::never, 0,
     [](std::string& out, Row row) {
         if (is_fd(row)) {
             text_number(out, fd(row));
         } else {
             out += to_string(row.reference->ref);
         }
     },
     [](std::string& out, Row row) { json_number(out, "fd", fd(row)); }, fd_order, false, fd},
    {"TYPE", "REG, DIR, CHR, BLK, FIFO, SOCK, LNK, or the class of an anonymous inode", "type", "string", Align::left, Shrink::end,
     field_stat | field_path,
     [](std::string& out, Row row) { append_escaped(out, type_text(*row.strings, *row.reference)); },
     [](std::string& out, Row row) { append_json_text(out, "type", type_text(*row.strings, *row.reference)); }, nullptr},
    {"DELETED", "whether the file's last link is gone", "deleted", "boolean or null", Align::left, Shrink::never, field_stat | field_path,
     [](std::string& out, Row row) {
         if (const auto deleted = is_deleted(row)) out += *deleted ? "yes" : "no";
     },
     [](std::string& out, Row row) {
         key(out, "deleted");
         const auto deleted = is_deleted(row);
         out += !deleted ? "null," : *deleted ? "true," : "false,";
     },
     nullptr},
    {"STATE", "of the name: named, gone, deleted, memfd, tmpfile, shm, nameless, unknown", "name_state", "string", Align::left,
     Shrink::never, field_stat | field_path,
     [](std::string& out, Row row) {
         if (has(row, field_stat)) out += to_string(row.reference->name);
     },
     [](std::string& out, Row row) {
         json_text_or_null(out, "name_state", has(row, field_stat) ? to_string(row.reference->name) : std::string_view());
     },
     nullptr},
    {"DEV", "device of the file system, major:minor", "dev", "string", Align::right, Shrink::never, field_stat,
     [](std::string& out, Row row) {
         if (device(row)) append_device(out, row.reference->dev);
     },
     [](std::string& out, Row row) {
         key(out, "dev");
         if (device(row)) {
             out += '"';
             append_device(out, row.reference->dev);
             out += "\",";
         } else {
             out += "null,";
         }
     },
     device},
    {"RDEV", "device that a CHR or BLK file stands for", "rdev", "string", Align::right, Shrink::never, field_stat,
     [](std::string& out, Row row) {
         if (special_device(row)) append_device(out, row.reference->rdev);
     },
     [](std::string& out, Row row) {
         key(out, "rdev");
         if (special_device(row)) {
             out += '"';
             append_device(out, row.reference->rdev);
             out += "\",";
         } else {
             out += "null,";
         }
     },
     special_device},
    {"INO", "inode number", "ino", "number", Align::right, Shrink::never, field_stat,
     [](std::string& out, Row row) { text_number(out, ino(row)); },
     [](std::string& out, Row row) { json_number(out, "ino", ino(row)); }, ino, false, ino},
    {"NLINK", "number of hard links", "nlink", "number", Align::right, Shrink::never, field_stat,
     [](std::string& out, Row row) { text_number(out, nlink(row)); },
     [](std::string& out, Row row) { json_number(out, "nlink", nlink(row)); }, nlink},
    {"SIZE", "bytes", "size", "number", Align::right, Shrink::never, field_stat,
     [](std::string& out, Row row) { text_bytes(out, row, size(row)); },
     [](std::string& out, Row row) { json_number(out, "size", size(row)); }, size, false, plain_size},
    {"ALLOCATED", "bytes on disk", "allocated", "number", Align::right, Shrink::never, field_stat,
     [](std::string& out, Row row) { text_bytes(out, row, allocated(row)); },
     [](std::string& out, Row row) { json_number(out, "allocated", allocated(row)); }, allocated, false, plain_allocated},
    {"FLAGS", "open(2) flags of the descriptor", "flags", "array of strings", Align::left, Shrink::end, field_fdinfo,
     [](std::string& out, Row row) {
         if (!is_fd(row) || !has(row, field_fdinfo)) return;
         bool first = true;
         for_each_flag(row.reference->flags, [&](std::string_view name) {
             if (!first) out += ',';
             first = false;
             out += name.starts_with("O_") ? name.substr(2) : name;
         });
     },
     [](std::string& out, Row row) {
         key(out, "flags");
         if (!is_fd(row) || !has(row, field_fdinfo)) {
             out += "null,";
             return;
         }
         out += '[';
         bool first = true;
         for_each_flag(row.reference->flags, [&](std::string_view name) {
             out += first ? "\"" : ",\"";
             first = false;
             out += name;
             out += '"';
         });
         out += "],";
     },
     nullptr},
    {"POS", "position in the file", "pos", "number or null", Align::right, Shrink::never, field_fdinfo,
     [](std::string& out, Row row) { text_number(out, position(row)); },
     [](std::string& out, Row row) { json_number(out, "pos", position(row)); }, position},
    {"MNT", "mount id", "mnt_id", "number or null", Align::right, Shrink::never, field_fdinfo,
     [](std::string& out, Row row) { text_number(out, mount(row)); },
     [](std::string& out, Row row) { json_number(out, "mnt_id", mount(row)); }, mount},
    {"MAP", "address range and protection of a mapping", "map", "object or null", Align::left, Shrink::never, 0,
     [](std::string& out, Row row) {
         if (!is_mem(row)) return;
         append_map(out, *row.reference);
         out += ' ';
         append_protection(out, row.reference->map_flags);
     },
     [](std::string& out, Row row) {
         key(out, "map");
         if (!is_mem(row)) {
             out += "null,";
             return;
         }
         out += "{\"range\":\"";
         append_map(out, *row.reference);
         out += "\",\"protection\":\"";
         append_protection(out, row.reference->map_flags);
         out += "\"},";
     },
     [](Row row) { return is_mem(row) ? Number(row.reference->map_start) : Number(); }},
    {"CGROUP", "control group of the process", "cgroup, cgroup_bytes", "string or null", Align::left, Shrink::middle, field_cgroup,
     [](std::string& out, Row row) { append_escaped(out, text(row, row.process->cgroup)); },
     [](std::string& out, Row row) { json_text_or_null(out, "cgroup", text(row, row.process->cgroup)); }, nullptr, true},
    {"CONTAINER", "container, as far as the control group's name tells", "container, container_bytes", "string or null", Align::left,
     Shrink::end, field_cgroup,
     [](std::string& out, Row row) { append_escaped(out, text(row, row.process->container)); },
     [](std::string& out, Row row) { json_text_or_null(out, "container", text(row, row.process->container)); }, nullptr, true},
    {"AGE", "how long the open file description has been open: \"3h\" exact, \">= 3h\" or \"3h..5h\" bounds", "age_ns, age_max_ns",
     "number or null", Align::right, Shrink::never, field_times,
     [](std::string& out, Row row) { append_age_text(out, age_moment(*row.reference), row); },
     [](std::string& out, Row row) {
         const std::optional<AgeRange> age = age_at(age_moment(*row.reference), row.now_ns);
         json_number(out, "age_ns", age ? Number(age->min_ns) : Number());
         json_number(out, "age_max_ns", age ? age->max_ns : Number());
     },
     age_key},
    {"FD_AGE", "how long the descriptor has been open", "", "", Align::right, Shrink::never, field_times,
     [](std::string& out, Row row) { append_age_text(out, row.reference->opened, row); }, nullptr, opened_key},
    {"OPENED", "when the descriptor was opened", "opened", "time or null", Align::left, Shrink::never, field_times,
     [](std::string& out, Row row) { row.clock->append_text(out, row.reference->opened); },
     [](std::string& out, Row row) {
         Piece<320> piece;
         out += piece.add("\"opened\":").add(row.clock->json(row.reference->opened)).add(",").text();
     },
     opened_key},
    {"DESCRIPTION", "id of the open file description; shared by dup, fork and SCM_RIGHTS", "description", "object", Align::left,
     Shrink::never, field_times | field_ids,
     [](std::string& out, Row row) {
         if (row.reference->description_id != 0) out += view(id_text(row.reference->description_id));
     },
     [](std::string& out, Row row) {
         Piece<320> piece;
         piece.add("\"description\":{\"id\":");
         if (const std::uint64_t id = row.reference->description_id; id != 0) piece.add("\"").add(view(id_text(id))).add("\"");
         else piece.add("null");
         out += piece.add(",\"opened\":").add(row.clock->json(row.reference->description_opened)).add("},").text();
     },
     description_key},
    {"NAME", "path as last known; a deleted file's ends in \" (deleted)\"", "path, path_bytes", "string", Align::left, Shrink::middle,
     field_path | field_stat,
     [](std::string& out, Row row) {
         // A character does not reach over a slash.
         append_escaped(out, text(row, row.reference->path.dir));
         append_escaped_path(out, text(row, row.reference->path.name));
         if (is_deleted(row).value_or(false)) out += " (deleted)";
     },
     [](std::string& out, Row row) {
         append_json_text(out, "path", text(row, row.reference->path.dir), text(row, row.reference->path.name));
     },
     nullptr},
    {"OUTSIDE", "/proc/PID/root/...: how the name is reached from here, where it is one of another mount namespace", "outside_path, outside_path_bytes",
     "string or null", Align::left, Shrink::middle, field_path,
     [](std::string& out, Row row) { out += escape(outside(row)); },
     [](std::string& out, Row row) { json_text_or_null(out, "outside_path", outside(row)); }, nullptr},
};

}  // namespace

void append_human(std::string& out, std::uint64_t bytes) {
    constexpr std::string_view suffixes = "KMGTPE";
    if (bytes < 1024) {
        append_number(out, static_cast<unsigned long long>(bytes));
        return;
    }
    double value = static_cast<double>(bytes);
    std::size_t suffix = 0;
    for (value /= 1024; value >= 999.5 && suffix + 1 < suffixes.size(); value /= 1024) ++suffix;
    std::array<char, 32> shown{};
    std::snprintf(shown.data(), shown.size(), value < 9.95 ? "%.1f%c" : "%.0f%c", value, suffixes[suffix]);
    out += shown.data();
}

WallClockText::Digits WallClockText::digits(std::uint64_t boottime_ns) {
    const std::int64_t realtime = clock_.to_realtime_ns(boottime_ns);
    Digits out;
    if (realtime < 0) {
        const std::string whole = rfc3339(realtime);
        std::memcpy(out.data(), whole.data(), std::min(whole.size(), out.size()));
        return out;
    }
    const std::int64_t second = realtime / ns_per_s;
    Second& entry = seen_[static_cast<std::size_t>(second) % seen_.size()];
    if (entry.second != second) {
        const std::string whole = rfc3339(second * ns_per_s);
        entry.second = second;
        std::memcpy(entry.text.data(), whole.data(), 19);
    }
    std::memcpy(out.data(), entry.text.data(), 19);
    out[19] = '.';
    const auto rest = static_cast<std::uint32_t>(realtime % ns_per_s);
    out[20] = static_cast<char>('0' + rest / 100'000'000);
    const auto pair = [&out](std::size_t at, std::uint32_t two_digits) { std::memcpy(&out[at], &digit_pairs[2 * std::size_t{two_digits}], 2); };
    pair(21, rest / 1'000'000 % 100);
    pair(23, rest / 10'000 % 100);
    pair(25, rest / 100 % 100);
    pair(27, rest % 100);
    out[29] = 'Z';
    return out;
}

void WallClockText::append(std::string& out, std::uint64_t boottime_ns) {
    const Digits text = digits(boottime_ns);
    out.append(text.data(), text.size());
}

void WallClockText::append_json(std::string& out, const Interval& moment) { out += json(moment); }

std::string_view WallClockText::json(const Interval& moment) {
    if (moment.latest_ns == std::numeric_limits<std::uint64_t>::max()) return "null";
    const Shown& shown = show(moment);
    return {shown.text.data(), shown.bytes};
}

std::string_view WallClockText::latest(const Interval& moment) {
    const Shown& shown = show(moment);
    return {shown.latest.data(), shown.latest.size()};
}

const WallClockText::Shown& WallClockText::show(const Interval& moment) {
    Shown& shown = shown_[(moment.latest_ns ^ moment.earliest_ns >> 7U) % shown_.size()];
    if (shown.bytes == 0 || shown.moment != moment) {
        shown.moment = moment;
        make_json(shown);
    }
    return shown;
}

void WallClockText::make_json(Shown& shown) {
    const Interval& moment = shown.moment;
    shown.latest = digits(moment.latest_ns);
    const Piece<24> latest = Piece<24>().add(static_cast<unsigned long long>(moment.latest_ns));
    Piece<json_bytes> piece;
    if (moment.is_exact()) {
        piece.add("{\"source\":\"kernel\",\"earliest\":\"").add(shown.latest).add("\",\"latest\":\"").add(shown.latest);
        piece.add("\",\"earliest_boottime_ns\":").add(latest.text());
    } else if (moment.has_earliest()) {
        piece.add("{\"source\":\"bounded\",\"earliest\":\"").add(digits(moment.earliest_ns)).add("\",\"latest\":\"").add(shown.latest);
        piece.add("\",\"earliest_boottime_ns\":").add(static_cast<unsigned long long>(moment.earliest_ns));
    } else {
        piece.add("{\"source\":\"bounded\",\"earliest\":null,\"latest\":\"").add(shown.latest).add("\",\"earliest_boottime_ns\":null");
    }
    piece.add(",\"latest_boottime_ns\":").add(latest.text()).add("}");
    const std::string_view text = piece.text();
    std::memcpy(shown.text.data(), text.data(), text.size());
    shown.bytes = text.size();
}

void WallClockText::append_text(std::string& out, const Interval& moment) {
    if (moment.latest_ns == std::numeric_limits<std::uint64_t>::max()) return;
    if (!moment.is_exact()) {
        if (moment.has_earliest()) append(out, moment.earliest_ns);
        out += "..";
    }
    append(out, moment.latest_ns);
}

std::string_view UserNames::name(uid_t uid) {
    const auto [entry, is_new] = names_.try_emplace(uid);
    if (is_new) {
        const passwd* const known = ::getpwuid(uid);
        entry->second = known != nullptr ? known->pw_name : std::to_string(uid);
    }
    return entry->second;
}

std::span<const Column> all_columns() { return table; }

const Column* find_column(std::string_view name) {
    for (const Column& column : table) {
        if (column.name.size() == name.size() && ::strncasecmp(column.name.data(), name.data(), name.size()) == 0) return &column;
    }
    return nullptr;
}

Result<std::vector<const Column*>> select_columns(std::string_view list, std::span<const std::string_view> defaults) {
    std::vector<const Column*> chosen;
    const auto add = [&chosen](const Column* column) {
        for (const Column* have : chosen) {
            if (have == column) return;
        }
        chosen.push_back(column);
    };
    if (list.starts_with('+')) {
        list.remove_prefix(1);
        for (const std::string_view name : defaults) add(find_column(name));
    }
    while (true) {
        const std::size_t comma = list.find(',');
        const std::string_view name = list.substr(0, comma);
        const Column* const column = find_column(name);
        if (column == nullptr) {
            return fail(EINVAL, name.empty() ? std::string("an empty column name")
                                             : "there is no column \"" + escape(name) + "\"; see fdspan ls --list-columns");
        }
        add(column);
        if (comma == std::string_view::npos) return chosen;
        list.remove_prefix(comma + 1);
    }
}

const Interval& age_moment(const Reference& reference) {
    if (reference.ref == RefKind::cwd || reference.ref == RefKind::root) return reference.opened;
    const bool known = reference.description_opened.latest_ns != std::numeric_limits<std::uint64_t>::max();
    return known ? reference.description_opened : reference.opened;
}

std::string_view type_text(const StringTable& strings, const Reference& reference) {
    if (reference.type == FileType::anon && reference.type_name != 0) return strings.get(reference.type_name);
    return to_string(reference.type);
}

void for_each_flag(std::uint32_t flags, const std::function<void(std::string_view)>& visit) {
    switch (flags & O_ACCMODE) {
        case O_RDONLY: visit("O_RDONLY"); break;
        case O_WRONLY: visit("O_WRONLY"); break;
        case O_RDWR: visit("O_RDWR"); break;
        default: visit("O_ACCMODE"); break;  // 3: ioctl only, see open(2)
    }
    std::uint32_t rest = flags & ~static_cast<std::uint32_t>(O_ACCMODE);
    for (const FlagName& flag : flag_names) {
        if ((rest & flag.bits) != flag.bits) continue;
        visit(flag.name);
        rest &= ~flag.bits;
    }
    if (rest == 0) return;
    std::array<char, 16> unknown{};
    std::snprintf(unknown.data(), unknown.size(), "0x%x", rest);
    visit(unknown.data());
}

void append_reference_json(std::string& out, const RowContext& row, std::span<const Column* const> columns) {
    out += '{';
    const std::size_t begin = out.size();
    for (const Column* column : columns) {
        if (column->json != nullptr) column->json(out, row);
    }
    if (out.size() > begin) out.pop_back();
    out += '}';
}

}  // namespace fdspan::cli
