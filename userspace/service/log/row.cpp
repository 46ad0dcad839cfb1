#include "service/log/row.hpp"

#include <algorithm>
#include <array>

namespace fdspan::service {
namespace {

// What stands in databases does not change when an enumerator is added before another.
constexpr std::array kind_numbers{
    std::pair{EventKind::closed, 1}, std::pair{EventKind::released, 2}, std::pair{EventKind::deleted, 3},  std::pair{EventKind::lost, 4},
    std::pair{EventKind::resynced, 5}, std::pair{EventKind::opened, 6}, std::pair{EventKind::unlinked, 7}, std::pair{EventKind::exec, 8},
    std::pair{EventKind::exit, 9},
};
static_assert(static_cast<int>(RefKind::fd) == 0 && static_cast<int>(RefKind::root) == 4);
static_assert(static_cast<int>(FileType::unknown) == 0 && static_cast<int>(FileType::anon) == 8);
static_assert(static_cast<int>(NameState::named) == 0 && static_cast<int>(NameState::unknown) == 7);
static_assert(static_cast<int>(Removal::unknown) == 0 && static_cast<int>(Removal::rename) == 3);

}  // namespace

std::int64_t kind_number(EventKind kind) {
    for (const auto& [known, number] : kind_numbers) {
        if (known == kind) return number;
    }
    return 0;
}

EventKind kind_of_number(std::int64_t number) {
    for (const auto& [kind, known] : kind_numbers) {
        if (known == number) return kind;
    }
    return EventKind::lost;
}

std::size_t LogRow::bytes_held() const {
    std::size_t bytes = sizeof(LogRow) + comm.size() + container.size() + type_name.size() + path.size();
    if (by) bytes += by->comm.size() + by->exe.size() + by->cgroup.size();
    return bytes + holders.size() * (sizeof(LogHolder) + 16);
}

bool LogPolicy::keeps(const Event& event) const {
    switch (event.kind) {
        case EventKind::deleted:
        case EventKind::lost: return true;
        case EventKind::resynced: return event.added + event.ended != 0;  // one comes every half minute
        case EventKind::closed:
        case EventKind::released: break;
        case EventKind::opened:
        case EventKind::unlinked:
        case EventKind::exec:
        case EventKind::exit: return false;
    }
    if (event.reference != nullptr && event.reference->name == NameState::deleted) return true;
    if (event.kind == EventKind::released && !released) return false;
    // What may have lived so long is kept, too.
    return event.duration && event.duration->latest_ns >= min_duration_ns;
}

LogRow row_of(const Event& event) {
    LogRow row;
    row.kind = event.kind;
    row.when = event.when;
    const auto text = [&event](StringId id) { return std::string(event.strings->get(id)); };
    if (event.process != nullptr) {
        row.pid = event.process->pid;
        row.uid = event.process->uid;
        row.process_started = event.process->started;
        row.comm = text(event.process->comm);
        row.container = text(event.process->container);
    }
    if (event.reference != nullptr) {
        const Reference& reference = *event.reference;
        row.ref = reference.ref;
        row.fd = reference.fd;
        row.type = reference.type;
        row.type_name = text(reference.type_name);
        row.name = reference.name;
        row.deleted = reference.name == NameState::deleted || event.kind == EventKind::deleted;
        row.dev = reference.dev;
        row.ino = reference.ino;
        row.path = text(reference.path.name);
        row.opened = reference.opened;
        row.description_opened = reference.description_opened;
        row.description_id = reference.description_id;
    }
    row.duration = event.duration;
    row.held_deleted = event.held_deleted;
    row.bytes = event.allocated;
    row.how = event.how;
    if (event.by != nullptr) {
        row.by = LogCulprit{event.by->pid, event.by->uid, text(event.by->comm), text(event.by->exe), text(event.by->cgroup)};
    }
    row.holder_count = static_cast<std::uint32_t>(std::max<std::size_t>(event.holder_count, event.holders.size()));
    for (const Holder& holder : event.holders.first(std::min(event.holders.size(), LogRow::max_holders))) {
        row.holders.push_back({holder.process->pid, holder.reference->fd, holder.reference->ref, text(holder.process->comm)});
    }
    row.lost_records = event.lost_records;
    row.added = event.added;
    row.ended = event.ended;
    return row;
}

}  // namespace fdspan::service
