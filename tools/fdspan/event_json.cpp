#include "event_json.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <utility>

#include "mount_view.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

bool is_one_of(const Column& column, std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), column.name) != names.end();
}
// What is true of a file, whoever holds it.
bool is_of_file(const Column& column) {
    return is_one_of(column, {"TYPE", "DELETED", "STATE", "DEV", "RDEV", "INO", "NLINK", "DESCRIPTION", "NAME"});
}
// What is particular to one holder of a file.
bool is_of_holding(const Column& column) {
    return is_one_of(column, {"TID", "REF", "FD", "FLAGS", "MAP", "AGE", "OPENED", "DESCRIPTION"});
}

// How a process ended: one of both is null, or both where nobody saw it.
void append_end(std::string& out, const std::optional<std::int32_t>& status) {
    out += "\"exit_code\":";
    if (status && WIFEXITED(*status)) {
        append_number(out, static_cast<long long>(WEXITSTATUS(*status)));
    } else {
        out += "null";
    }
    out += ",\"signal\":";
    out += status && WIFSIGNALED(*status) ? '"' + signal_name(WTERMSIG(*status)) + '"' : "null";
    out += ',';
}

bool is_of_span(const Column& column) { return is_one_of(column, {"OPENED", "DESCRIPTION"}); }
// What an event's line says of its reference: all but the age, for which a span that ended has its duration.
bool is_of_event(const Column& column) { return column.name != "AGE"; }

}  // namespace

void append_by_json(std::string& out, pid_t pid, uid_t uid, std::string_view comm, std::string_view exe, std::string_view cgroup) {
    out += "\"by\":{\"pid\":";
    append_number(out, static_cast<long long>(pid));
    out += ",\"uid\":";
    append_number(out, static_cast<unsigned long long>(uid));
    out += ',';
    for (const auto& [key, text] : {std::pair{"comm", comm}, {"exe", exe}, {"cgroup", cgroup}}) append_json_text(out, key, text);
    out.back() = '}';
    out += ',';
}

RowContext EventJson::context(const Event& event) {
    return {event.strings, event.process, event.reference, 0, event.when.latest_ns, &clock_, &users_, false};
}

const std::string& EventJson::process_text(const RowContext& row) {
    const auto text = [&row](StringId id) { return row.strings->get(id); };
    Process shown = *row.process;
    shown.comm = shown.cgroup = shown.container = 0;  // numbers that mean something in their own event only
    KeptProcess& kept = processes_[static_cast<std::size_t>(shown.pid) % processes_.size()];
    if (!kept.text.empty() && kept.process == shown && kept.comm == text(row.process->comm) && kept.cgroup == text(row.process->cgroup) &&
        kept.container == text(row.process->container)) {
        return kept.text;
    }
    kept.process = shown;
    kept.comm = text(row.process->comm);
    kept.cgroup = text(row.process->cgroup);
    kept.container = text(row.process->container);
    kept.text.clear();
    for (const Column& column : all_columns()) {
        if (column.json != nullptr && column.of_process) column.json(kept.text, row);
    }
    return kept.text;
}

EventJson::KeptFile& EventJson::file_text(const RowContext& row) {
    const std::string_view path = row.strings->get(row.reference->path.name);
    const std::string_view type_name = row.strings->get(row.reference->type_name);
    Reference shown = *row.reference;
    shown.path = {};
    shown.type_name = 0;
    if (shown.tid == 0) shown.tid = row.process->pid;  // as it is shown
    shown.description_id = 0;
    shown.opened = shown.description_opened = {};
    KeptFile& kept = files_[(shown.ino ^ static_cast<std::uint32_t>(shown.fd)) % files_.size()];
    if (!kept.text.empty() && kept.reference == shown && kept.path == path && kept.type_name == type_name) return kept;
    kept.reference = shown;
    kept.path = path;
    kept.type_name = type_name;
    kept.text.clear();
    for (const Column& column : all_columns()) {
        if (column.json != nullptr && !column.of_process && is_of_event(column) && !is_of_span(column)) column.json(kept.text, row);
    }
    kept.span_text.clear();
    return kept;
}

const std::string& EventJson::span_text(KeptFile& kept, const RowContext& row) {
    const Reference& reference = *row.reference;
    const bool same = kept.opened == reference.opened && kept.description_opened == reference.description_opened && kept.description_id == reference.description_id;
    if (same && !kept.span_text.empty()) return kept.span_text;
    kept.opened = reference.opened;
    kept.description_opened = reference.description_opened;
    kept.description_id = reference.description_id;
    kept.span_text.clear();
    static const std::array<const Column*, 2> of_span{find_column("OPENED"), find_column("DESCRIPTION")};
    for (const Column* const column : of_span) column->json(kept.span_text, row);
    return kept.span_text;
}

void EventJson::append_columns(std::string& out, const RowContext& row) {
    out += process_text(row);
    if (row.reference == nullptr) return;
    KeptFile& kept = file_text(row);
    out += kept.text;
    out += span_text(kept, row);
}

void EventJson::append(std::string& out, const Event& event) {
    const auto number = [&out](std::string_view key, unsigned long long value) {
        Piece<64> piece;
        out += piece.add("\"").add(key).add("\":").add(value).add(",").text();
    };
    Piece<512> head;
    out += head.add("{\"event\":\"").add(to_string(event.kind)).add("\",\"boottime_ns\":").add(static_cast<unsigned long long>(event.when.latest_ns))
               .add(",\"time\":\"").add(clock_.latest(event.when)).add("\",\"when\":").add(clock_.json(event.when)).add(",").text();
    const bool of_removal = event.kind == EventKind::deleted || event.kind == EventKind::unlinked;
    if (event.process != nullptr && !of_removal && !event.allocated) {
        append_columns(out, context(event));
    } else if (event.process != nullptr || event.reference != nullptr) {
        RowContext row = context(event);
        // It costs a look at /proc: not for events that come by the thousand.
        MountView mounts;
        if (event.process != nullptr && of_removal) row.mounts = &mounts;
        for (const bool of_process : {true, false}) {
            for (const Column& column : all_columns()) {
                if (column.json == nullptr || column.of_process != of_process || !is_of_event(column)) continue;
                if (column.name == "ALLOCATED" && event.allocated) continue;  // the event knows better
                const bool known = event.process == nullptr ? is_of_file(column) : column.of_process || event.reference != nullptr;
                if (known) column.json(out, row);
            }
        }
    }
    const auto span = [&](std::string_view key, std::string_view key_max, const Interval& length) {
        number(key, length.earliest_ns);
        if (length.latest_ns == std::numeric_limits<std::uint64_t>::max()) {
            out += '"';
            out += key_max;
            out += "\":null,";
        } else {
            number(key_max, length.latest_ns);
        }
    };
    if (event.duration) span("duration_ns", "duration_max_ns", *event.duration);
    if (event.held_deleted) span("held_deleted_ns", "held_deleted_max_ns", *event.held_deleted);
    if (event.allocated) number("allocated", *event.allocated);
    if (of_removal) append_removal(out, event);
    switch (event.kind) {
        case EventKind::lost:
            number("lost", event.lost_records);
            append_json_text(out, "reason", to_string(event.loss_reason));
            if (event.cpu) number("cpu", *event.cpu);
            break;
        case EventKind::exit:
            append_end(out, event.exit_status);
            break;
        case EventKind::resynced:
            number("added", event.added);
            number("ended", event.ended);
            break;
        default: break;
    }
    out.back() = '}';
    out += '\n';
}

// Who took the name and how, what it was worth, and who has the file now.
void EventJson::append_removal(std::string& out, const Event& event) {
    append_json_text(out, "how", to_string(event.how));
    const auto text = [&event](StringId id) { return event.strings->get(id); };
    if (event.by != nullptr) append_by_json(out, event.by->pid, event.by->uid, text(event.by->comm), text(event.by->exe), text(event.by->cgroup));
    else out += "\"by\":null,";
    out += "\"holder_count\":";
    append_number(out, static_cast<unsigned long long>(event.holder_count));
    out += ",\"holders\":[";
    for (const Holder& holder : event.holders) {
        const RowContext row{event.strings, holder.process, holder.reference, 0, event.when.latest_ns, &clock_, &users_, false};
        out += '{';
        for (const Column& column : all_columns()) {
            if (column.json != nullptr && (column.of_process || is_of_holding(column))) column.json(out, row);
        }
        out.back() = '}';
        out += ',';
    }
    if (out.back() == ',') out.pop_back();
    out += "],";
}

}  // namespace fdspan::cli
