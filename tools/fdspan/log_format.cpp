#include "log_format.hpp"

#include <limits>

#include "base/clock.hpp"
#include "duration.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

using service::LogRow;

constexpr std::uint64_t unbounded = std::numeric_limits<std::uint64_t>::max();

void key(std::string& out, std::string_view name) {
    out += '"';
    out += name;
    out += "\":";
}
void number(std::string& out, std::string_view name, std::uint64_t value) {
    key(out, name);
    append_number(out, static_cast<unsigned long long>(value));
    out += ',';
}
void signed_number(std::string& out, std::string_view name, std::int64_t value) {
    key(out, name);
    append_number(out, static_cast<long long>(value));
    out += ',';
}

// The clocks as they were when the row was written.
WallClock clock_of(const LogRow& row) { return {row.time_ns - static_cast<std::int64_t>(row.when.latest_ns), 0}; }

void moment(std::string& out, std::string_view name, WallClockText& clock, const Interval& at) {
    key(out, name);
    clock.append_json(out, at);
    out += ',';
}

// Both ends of a length: what is certain, and the most it can have been.
void length(std::string& out, std::string_view least_name, std::string_view most_name, const Interval& value) {
    number(out, least_name, value.earliest_ns);
    if (value.latest_ns == unbounded) {
        key(out, most_name);
        out += "null,";
    } else {
        number(out, most_name, value.latest_ns);
    }
}

std::string type_name_of(const LogRow& row) {
    return row.type == FileType::anon && !row.type_name.empty() ? row.type_name : std::string(to_string(row.type));
}

std::string device(const LogRow& row) { return std::to_string(row.dev.major) + ":" + std::to_string(row.dev.minor); }

std::string age_text(const Interval& value) {
    AgeRange range{value.earliest_ns, value.latest_ns, value.is_exact()};
    if (value.latest_ns == unbounded) range.max_ns.reset();
    return format_age(range);
}

void csv_text(std::string& out, std::string_view text) {
    if (text.find_first_of(",\"\r\n") == std::string_view::npos) {
        out += text;
    } else {
        out += '"';
        for (const char c : text) {
            if (c == '"') out += '"';
            out += c;
        }
        out += '"';
    }
    out += ',';
}

}  // namespace

void append_log_json(std::string& out, const LogRow& row) {
    WallClockText clock(clock_of(row));
    out += '{';
    append_json_text(out, "event", to_string(row.kind));
    if (row.id != 0) signed_number(out, "id", row.id);
    if (!row.boot_id.empty()) append_json_text(out, "boot", row.boot_id);
    number(out, "boottime_ns", row.when.latest_ns);
    out += "\"time\":\"" + rfc3339(row.time_ns) + "\",";
    moment(out, "when", clock, row.when);
    if (row.pid != 0) {
        signed_number(out, "pid", row.pid);
        append_json_text(out, "comm", row.comm);
        number(out, "uid", row.uid);
        if (row.process_started) moment(out, "process_started", clock, *row.process_started);
        if (!row.container.empty()) append_json_text(out, "container", row.container);
    }
    if (row.ref) {
        append_json_text(out, "ref", to_string(*row.ref));
        if (row.fd >= 0) signed_number(out, "fd", row.fd);
        append_json_text(out, "type", type_name_of(row));
        append_json_text(out, "path", row.path);
        out += row.deleted ? "\"deleted\":true," : "\"deleted\":false,";
        append_json_text(out, "name_state", to_string(row.name));
        append_json_text(out, "dev", device(row));
        number(out, "ino", row.ino);
        if (row.opened) moment(out, "opened", clock, *row.opened);
        if (row.description_opened) {
            out += "\"description\":{";
            append_json_text(out, "id", std::to_string(row.description_id));
            moment(out, "opened", clock, *row.description_opened);
            out.back() = '}';
            out += ',';
        }
    }
    if (row.duration) length(out, "duration_ns", "duration_max_ns", *row.duration);
    if (row.held_deleted) length(out, "held_deleted_ns", "held_deleted_max_ns", *row.held_deleted);
    if (row.bytes) number(out, "allocated", *row.bytes);
    if (row.kind == EventKind::deleted) {
        append_json_text(out, "how", to_string(row.how));
        if (row.by) {
            out += "\"by\":{";
            signed_number(out, "pid", row.by->pid);
            append_json_text(out, "comm", row.by->comm);
            number(out, "uid", row.by->uid);
            append_json_text(out, "exe", row.by->exe);
            append_json_text(out, "cgroup", row.by->cgroup);
            out.back() = '}';
            out += ',';
        } else {
            out += "\"by\":null,";
        }
        out += "\"holders\":[";
        for (const service::LogHolder& holder : row.holders) {
            out += '{';
            signed_number(out, "pid", holder.pid);
            append_json_text(out, "comm", holder.comm);
            append_json_text(out, "ref", to_string(holder.ref));
            signed_number(out, "fd", holder.fd);
            out.back() = '}';
            out += ',';
        }
        if (out.back() == ',') out.pop_back();
        out += "],";
        number(out, "holder_count", row.holder_count);
    }
    if (row.kind == EventKind::lost) number(out, "lost", row.lost_records);
    if (row.kind == EventKind::resynced) {
        number(out, "added", row.added);
        number(out, "ended", row.ended);
    }
    out.back() = '}';
}

std::string log_csv_heading() {
    return "id,time,event,pid,comm,uid,ref,fd,type,path,deleted,dev,ino,opened_earliest,opened_latest,duration_ns,duration_max_ns,held_deleted_ns,"
           "allocated,how,by_pid,by_comm,lost\n";
}

void append_log_csv(std::string& out, const LogRow& row) {
    const WallClock clock = clock_of(row);
    const auto value = [&out](bool there, const auto& text) {
        if (there) out += text;
        out += ',';
    };
    const bool bounded_length = row.duration && row.duration->latest_ns != unbounded;
    value(true, std::to_string(row.id));
    value(true, rfc3339(row.time_ns));
    value(true, to_string(row.kind));
    value(row.pid != 0, std::to_string(row.pid));
    csv_text(out, escape(row.comm));
    value(row.pid != 0, std::to_string(row.uid));
    value(row.ref.has_value(), to_string(row.ref.value_or(RefKind::fd)));
    value(row.fd >= 0, std::to_string(row.fd));
    value(row.ref.has_value(), type_name_of(row));
    csv_text(out, escape(row.path));
    value(row.ref.has_value(), row.deleted ? "true" : "false");
    value(row.ref.has_value(), device(row));
    value(row.ref.has_value(), std::to_string(row.ino));
    value(row.opened && row.opened->has_earliest(), rfc3339(clock.to_realtime_ns(row.opened.value_or(Interval{}).earliest_ns)));
    value(row.opened.has_value(), rfc3339(clock.to_realtime_ns(row.opened ? row.opened->latest_ns : 0)));
    value(row.duration.has_value(), std::to_string(row.duration ? row.duration->earliest_ns : 0));
    value(bounded_length, std::to_string(row.duration ? row.duration->latest_ns : 0));
    value(row.held_deleted.has_value(), std::to_string(row.held_deleted ? row.held_deleted->earliest_ns : 0));
    value(row.bytes.has_value(), std::to_string(row.bytes.value_or(0)));
    value(row.kind == EventKind::deleted, to_string(row.how));
    value(row.by.has_value(), std::to_string(row.by ? row.by->pid : 0));
    csv_text(out, row.by ? escape(row.by->comm) : std::string());
    value(row.kind == EventKind::lost, std::to_string(row.lost_records));
    out.back() = '\n';
}

void append_log_text(std::string& out, const LogRow& row, const Palette& color, UserNames& users) {
    const auto padded = [&out](std::string_view text, std::size_t width) {
        out += ' ';
        out += text;
        const std::size_t used = display_width(text);
        if (used < width) out.append(width - used, ' ');
    };
    const auto right = [&out](std::string_view text, std::size_t width) {
        out += ' ';
        if (text.size() < width) out.append(width - text.size(), ' ');
        out += text;
    };
    WallClockText(clock_of(row)).append_text(out, row.when);
    const std::string_view style = row.kind == EventKind::lost ? color.red : row.kind == EventKind::deleted ? color.yellow : std::string_view();
    out += style;
    padded(to_string(row.kind), 8);
    if (!style.empty()) out += color.reset;
    if (row.pid != 0) {
        right(std::to_string(row.pid), 7);
        padded(escape(row.comm), 15);
    }
    if (row.ref) {
        right(row.fd >= 0 ? std::to_string(row.fd) : std::string(to_string(*row.ref)), 4);
        padded(type_name_of(row), 5);
        out += ' ' + (row.path.empty() ? std::string("-") : row.deleted ? escape_path(row.path) + " (deleted)" : escape_path(row.path));
    }
    if (row.duration) out += " after " + age_text(*row.duration);
    if (row.held_deleted) out += ", deleted for " + age_text(*row.held_deleted);
    if (row.bytes) out += " (" + std::to_string(*row.bytes) + " bytes)";
    if (row.kind == EventKind::deleted) {
        if (row.by) {
            out += " by " + escape(row.by->comm) + "[" + std::to_string(row.by->pid) + "] of " + escape(users.name(row.by->uid)) + ", " +
                   std::string(to_string(row.how));
        }
        if (row.holder_count > 1) out += "; " + std::to_string(row.holder_count) + " references hold it";
    }
    if (row.kind == EventKind::lost) out += " " + std::to_string(row.lost_records) + " events, there was no room for them";
    if (row.kind == EventKind::resynced) {
        out += " a snapshot added " + std::to_string(row.added) + " spans and ended " + std::to_string(row.ended);
    }
    out += '\n';
}

}  // namespace fdspan::cli
