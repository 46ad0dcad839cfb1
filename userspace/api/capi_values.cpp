#include "api/capi_values.hpp"

#include <cstring>
#include <limits>
#include <utility>

namespace fdspan::capi {
namespace {

static_assert(event_bit(EventKind::opened) == FDSPAN_EVENT_OPENED && event_bit(EventKind::closed) == FDSPAN_EVENT_CLOSED &&
              event_bit(EventKind::released) == FDSPAN_EVENT_RELEASED && event_bit(EventKind::deleted) == FDSPAN_EVENT_DELETED &&
              event_bit(EventKind::exec) == FDSPAN_EVENT_EXEC && event_bit(EventKind::exit) == FDSPAN_EVENT_EXIT &&
              event_bit(EventKind::lost) == FDSPAN_EVENT_LOST && event_bit(EventKind::resynced) == FDSPAN_EVENT_RESYNCED);
static_assert(type_bit(FileType::unknown) == FDSPAN_TYPE_UNKNOWN && type_bit(FileType::reg) == FDSPAN_TYPE_REGULAR &&
              type_bit(FileType::dir) == FDSPAN_TYPE_DIRECTORY && type_bit(FileType::chr) == FDSPAN_TYPE_CHARACTER &&
              type_bit(FileType::blk) == FDSPAN_TYPE_BLOCK && type_bit(FileType::fifo) == FDSPAN_TYPE_FIFO &&
              type_bit(FileType::sock) == FDSPAN_TYPE_SOCKET && type_bit(FileType::lnk) == FDSPAN_TYPE_LINK &&
              type_bit(FileType::anon) == FDSPAN_TYPE_ANON);
static_assert(kind_bit(RefKind::fd) == FDSPAN_REF_FD && kind_bit(RefKind::mem) == FDSPAN_REF_MAPPING && kind_bit(RefKind::exe) == FDSPAN_REF_EXE &&
              kind_bit(RefKind::cwd) == FDSPAN_REF_CWD && kind_bit(RefKind::root) == FDSPAN_REF_ROOT);
static_assert(static_cast<unsigned>(NameState::named) == FDSPAN_NAME_NAMED && static_cast<unsigned>(NameState::gone) == FDSPAN_NAME_GONE &&
              static_cast<unsigned>(NameState::deleted) == FDSPAN_NAME_DELETED && static_cast<unsigned>(NameState::memfd) == FDSPAN_NAME_MEMFD &&
              static_cast<unsigned>(NameState::tmpfile) == FDSPAN_NAME_TMPFILE && static_cast<unsigned>(NameState::shm) == FDSPAN_NAME_SHM &&
              static_cast<unsigned>(NameState::nameless) == FDSPAN_NAME_NAMELESS && static_cast<unsigned>(NameState::unknown) == FDSPAN_NAME_UNKNOWN &&
              static_cast<unsigned>(NameState::silly) == FDSPAN_NAME_SILLY);
static_assert(static_cast<unsigned>(Removal::unknown) == FDSPAN_REMOVAL_UNKNOWN && static_cast<unsigned>(Removal::unlink) == FDSPAN_REMOVAL_UNLINK &&
              static_cast<unsigned>(Removal::rmdir) == FDSPAN_REMOVAL_RMDIR && static_cast<unsigned>(Removal::rename) == FDSPAN_REMOVAL_RENAME);

constexpr Backend backends[] = {Backend::automatic, Backend::trampoline, Backend::kprobe, Backend::syscall, Backend::procfs};

const char* text(const StringTable& strings, StringId id) { return strings.get(id).data(); }

// Copies strings to one place and points at the copies: measured first, so that nothing moves any more.
class TextCopier {
public:
    explicit TextCopier(std::vector<char>& text) : text_(text) {}
    void measure(const char* from) { bytes_ += std::strlen(from) + 1; }
    void measure(const fdspan_process_info& process) {
        for (const char* const from : {process.comm, process.cgroup, process.container}) measure(from);
    }
    void measure(const fdspan_reference& reference) {
        for (const char* const from : {reference.path, reference.type_name}) measure(from);
    }
    void allocate() {
        if (text_.size() < bytes_) text_.resize(bytes_);
    }
    void copy(const char*& at) {
        const std::size_t bytes = std::strlen(at) + 1;
        std::memcpy(text_.data() + used_, at, bytes);
        at = text_.data() + used_;
        used_ += bytes;
    }
    void copy(fdspan_process_info& process) {
        for (const char** const at : {&process.comm, &process.cgroup, &process.container}) copy(*at);
    }
    void copy(fdspan_reference& reference) {
        for (const char** const at : {&reference.path, &reference.type_name}) copy(*at);
    }

private:
    std::vector<char>& text_;
    std::size_t bytes_ = 0;
    std::size_t used_ = 0;
};

}  // namespace

fdspan_time to_c(const Interval& interval) {
    const bool known = interval.latest_ns != std::numeric_limits<std::uint64_t>::max() || interval.has_earliest();
    return {interval.earliest_ns, interval.latest_ns,
            interval.is_exact() ? FDSPAN_TIME_KERNEL : known ? FDSPAN_TIME_BOUNDED : FDSPAN_TIME_UNKNOWN, 0};
}

fdspan_process_info to_c(const Process& process, const StringTable& strings) {
    fdspan_process_info out{};
    out.pid = process.pid;
    out.ppid = process.ppid;
    out.uid = process.uid;
    out.flags = process.unreadable ? FDSPAN_PROCESS_UNREADABLE : 0;
    out.comm = text(strings, process.comm);
    out.cgroup = text(strings, process.cgroup);
    out.container = text(strings, process.container);
    out.started = to_c(process.started);
    return out;
}

fdspan_reference to_c(const Reference& reference, const StringTable& strings, const char* path) {
    fdspan_reference out{};
    out.kind = kind_bit(reference.ref);
    out.type = type_bit(reference.type);
    out.name = static_cast<std::uint32_t>(reference.name);
    constexpr std::pair<std::uint32_t, std::uint32_t> fields[] = {
        {field_path, FDSPAN_FIELD_PATH},   {field_stat, FDSPAN_FIELD_STAT}, {field_fdinfo, FDSPAN_FIELD_FLAGS},
        {field_times, FDSPAN_FIELD_TIMES}, {field_size, FDSPAN_FIELD_SIZE}, {field_position, FDSPAN_FIELD_POSITION}};
    for (const auto& [ours, theirs] : fields) out.valid |= (reference.valid & ours) != 0 ? theirs : 0;
    out.fd = reference.fd;
    out.tid = reference.tid;
    out.path = path;
    out.type_name = text(strings, reference.type_name);
    out.dev_major = reference.dev.major;
    out.dev_minor = reference.dev.minor;
    out.rdev_major = reference.rdev.major;
    out.rdev_minor = reference.rdev.minor;
    out.ino = reference.ino;
    out.nlink = reference.nlink;
    out.open_flags = reference.flags;
    out.size_bytes = reference.size;
    out.allocated_bytes = reference.allocated;
    if (reference.ref == RefKind::mem) {
        out.map_start = reference.map_start;
        out.map_end = reference.map_end;
        out.map_flags = reference.map_flags;
    } else {
        out.position_bytes = reference.pos;
    }
    out.mount_id = reference.mnt_id;
    out.description_id = reference.description_id;
    out.opened = to_c(reference.opened);
    out.description_opened = to_c(reference.description_opened);
    return out;
}

std::uint32_t to_c(Backend backend) {
    for (std::uint32_t i = 0; i < std::size(backends); ++i) {
        if (backends[i] == backend) return i;
    }
    return FDSPAN_BACKEND_PROCFS;
}

std::optional<Backend> backend_from_c(std::uint32_t backend) {
    if (backend >= std::size(backends)) return std::nullopt;
    return backends[backend];
}

const fdspan_event& EventView::show(const Event& event, std::uint64_t sequence) {
    event_ = {};
    event_.kind = event_bit(event.kind);
    event_.sequence = sequence;
    event_.when = to_c(event.when);
    event_.by_executable = "";
    if (event.process != nullptr) {
        process_ = to_c(*event.process, *event.strings);
        event_.process = &process_;
    }
    if (event.reference != nullptr) {
        reference_ = to_c(*event.reference, *event.strings, text(*event.strings, event.reference->path.name));
        event_.reference = &reference_;
    }
    if (event.duration) {
        event_.valid |= FDSPAN_EVENT_HAS_DURATION;
        event_.duration_ns = event.duration->earliest_ns;
        event_.duration_max_ns = event.duration->latest_ns;
    }
    event_.lost = event.lost_records;
    event_.added = event.added;
    event_.ended = event.ended;
    if (event.kind == EventKind::exit && event.exit_status) {
        event_.valid |= FDSPAN_EVENT_HAS_EXIT_STATUS;
        event_.exit_status = *event.exit_status;
    }
    event_.removal = static_cast<std::uint32_t>(event.how);
    if (event.by != nullptr) {
        by_ = {};
        by_.pid = event.by->pid;
        by_.uid = event.by->uid;
        by_.comm = text(*event.strings, event.by->comm);
        by_.cgroup = text(*event.strings, event.by->cgroup);
        by_.container = "";
        by_.started = to_c(Interval{});
        event_.by = &by_;
        event_.by_executable = text(*event.strings, event.by->exe);
    }
    if (!event.holders.empty()) {
        holder_processes_.resize(event.holders.size());
        holder_references_.resize(event.holders.size());
        holders_.resize(event.holders.size());
        for (std::size_t i = 0; i < event.holders.size(); ++i) {
            holder_processes_[i] = to_c(*event.holders[i].process, *event.strings);
            holder_references_[i] = to_c(*event.holders[i].reference, *event.strings, text(*event.strings, event.holders[i].reference->path.name));
            holders_[i] = {&holder_processes_[i], &holder_references_[i]};
        }
        event_.holders = holders_.data();
        event_.holder_count = holders_.size();
    }
    if (event.allocated) {
        event_.valid |= FDSPAN_EVENT_HAS_ALLOCATED;
        event_.allocated_bytes = *event.allocated;
    }
    if (event.held_deleted) {
        event_.valid |= FDSPAN_EVENT_HAS_HELD_DELETED;
        event_.held_deleted_ns = event.held_deleted->earliest_ns;
        event_.held_deleted_max_ns = event.held_deleted->latest_ns;
    }
    return event_;
}

void StoredEvent::assign(const fdspan_event& event) {
    const std::size_t own = (event.process != nullptr ? 1U : 0U) + (event.by != nullptr ? 1U : 0U);
    processes_.resize(own + event.holder_count);
    references_.resize((event.reference != nullptr ? 1U : 0U) + event.holder_count);
    holders_.resize(event.holder_count);

    TextCopier copier(text_);
    event_ = event;
    copier.measure(event.by_executable);
    auto process = processes_.begin();
    auto reference = references_.begin();
    const auto take_process = [&](const fdspan_process_info* from) -> const fdspan_process_info* {
        if (from == nullptr) return nullptr;
        copier.measure(*from);
        *process = *from;
        return &*process++;
    };
    const auto take_reference = [&](const fdspan_reference* from) -> const fdspan_reference* {
        if (from == nullptr) return nullptr;
        copier.measure(*from);
        *reference = *from;
        return &*reference++;
    };
    event_.process = take_process(event.process);
    event_.by = take_process(event.by);
    event_.reference = take_reference(event.reference);
    for (std::size_t i = 0; i < event.holder_count; ++i) {
        holders_[i] = {take_process(event.holders[i].process), take_reference(event.holders[i].reference)};
    }
    event_.holders = event.holder_count != 0 ? holders_.data() : nullptr;
    copier.allocate();
    copier.copy(event_.by_executable);
    for (fdspan_process_info& each : processes_) copier.copy(each);
    for (fdspan_reference& each : references_) copier.copy(each);
}

const fdspan_row& StoredRow::assign(const fdspan_process_info& process, const fdspan_reference& reference) {
    TextCopier copier(text_);
    copier.measure(process);
    copier.measure(reference);
    copier.allocate();
    process_ = process;
    reference_ = reference;
    copier.copy(process_);
    copier.copy(reference_);
    row_ = {&process_, &reference_};
    return row_;
}

}  // namespace fdspan::capi
