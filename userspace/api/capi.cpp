// The C interface (fdspan/fdspan.h): checks what it is given, calls the C++ below, lets no exception out.
#include "fdspan/fdspan.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <deque>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "api/capi_values.hpp"
#include "api/doctor.hpp"
#include "api/recover.hpp"
#include "api/snapshot.hpp"
#include "api/tracker.hpp"
#include "base/clock.hpp"
#include "index/cursor.hpp"
#include "index/index.hpp"

using fdspan::Backend;
using fdspan::Error;
using fdspan::Event;
using fdspan::Result;

namespace {

// The numbers 0 to 2 are the host's standard streams, even while it has them closed: what prints there, or puts /dev/null there later, must
// not meet a descriptor of ours. Meanwhile something stands there that can neither be read nor written, like a closed one.
class StandardStreams {
public:
    StandardStreams() {
        while (count_ <= STDERR_FILENO) {
            const int fd = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
            if (fd > STDERR_FILENO) ::close(fd);
            if (fd < 0 || fd > STDERR_FILENO) return;
            held_[count_++] = fd;
        }
    }
    StandardStreams(const StandardStreams&) = delete;
    StandardStreams& operator=(const StandardStreams&) = delete;
    ~StandardStreams() {
        const int error = errno;
        // Another thread may have put its own there.
        for (int i = 0; i < count_; ++i) {
            if ((::fcntl(held_[i], F_GETFL) & (O_PATH | O_DIRECTORY)) == (O_PATH | O_DIRECTORY)) ::close(held_[i]);
        }
        errno = error;
    }

private:
    int held_[STDERR_FILENO + 1] = {};
    int count_ = 0;
};

constexpr std::size_t max_buffer_events = 65536;
constexpr std::uint64_t least_memory_bytes = 4U << 20;
constexpr std::uint64_t least_poll_interval_ns = 10'000'000;
constexpr std::uint64_t most_interval_ns = 1ULL << 62;  // 146 years: a time from now stays a time
constexpr std::size_t max_struct_bytes = 4096;          // what claims to be larger is no struct of any version
constexpr std::size_t max_list = 65536;

// Runs what may throw; nothing but errnos leaves the library.
template <class Body>
int guarded(Body&& body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return -ENOMEM;
    } catch (const std::length_error&) {
        return -ENOMEM;
    } catch (...) {
        return -ENOTRECOVERABLE;
    }
}

// A caller's struct of another version: a shorter one is filled up with zeroes, a longer one must have them. `least` is the size
// of the struct's first version.
template <class Struct>
int take_struct(const Struct* from, std::size_t least, Struct& to) {
    if (from == nullptr || from->size < least) return -EINVAL;
    if (from->size > max_struct_bytes) return -E2BIG;
    const auto* const bytes = reinterpret_cast<const unsigned char*>(from);
    for (std::size_t i = sizeof(Struct); i < from->size; ++i) {
        if (bytes[i] != 0) return -E2BIG;
    }
    to = {};
    std::memcpy(&to, from, std::min(from->size, sizeof(Struct)));
    return 0;
}

template <class Struct>
void give_struct(const Struct& from, Struct& to) {
    const std::size_t size = to.size;
    std::memcpy(&to, &from, std::min(size, sizeof(Struct)));
    to.size = size;
}

// The sizes of version 0.1.
constexpr std::size_t options_0_1 = sizeof(fdspan_options);
constexpr std::size_t query_0_1 = sizeof(fdspan_query);
constexpr std::size_t snapshot_options_0_1 = sizeof(fdspan_snapshot_options);
constexpr std::size_t snapshot_info_0_1 = sizeof(fdspan_snapshot_info);
constexpr std::size_t recover_options_0_1 = sizeof(fdspan_recover_options);
constexpr std::size_t recovered_0_1 = sizeof(fdspan_recovered);
constexpr std::size_t statistics_0_1 = sizeof(fdspan_statistics);
constexpr std::size_t capabilities_0_1 = sizeof(fdspan_capabilities);

struct Log {
    fdspan_log_fn write = nullptr;
    void* context = nullptr;
    void operator()(std::uint32_t level, const std::string& message) const {
        if (write != nullptr) write(context, level, message.c_str());
    }
    int fail(const Error& error) const {
        (*this)(FDSPAN_LOG_ERROR, error.message);
        return error.code > 0 ? -error.code : -EIO;
    }
};

bool is_absolute(const char* path) { return path != nullptr && path[0] == '/'; }

// "/a//b/./c/" as the index has it: "/a/b/c". "..": the kernel's business, not text's.
std::string clean_path(const char* path) {
    std::string clean;
    for (std::string_view rest(path); !rest.empty();) {
        const std::size_t slash = std::min(rest.find('/'), rest.size());
        const std::string_view part = rest.substr(0, slash);
        rest.remove_prefix(std::min(slash + 1, rest.size()));
        if (part.empty() || part == ".") continue;
        clean += '/';
        clean += part;
    }
    return clean.empty() ? "/" : clean;
}

bool is_at_or_below(std::string_view path, std::string_view top) {
    if (top == "/") return path.starts_with('/');
    return path.starts_with(top) && (path.size() == top.size() || path[top.size()] == '/');
}

int take_list(const int32_t* from, std::size_t count, std::vector<pid_t>& to) {
    if (count != 0 && from == nullptr) return -EINVAL;
    if (count > max_list) return -E2BIG;
    for (std::size_t i = 0; i < count; ++i) {
        if (from[i] < 1) return -EINVAL;
        to.push_back(from[i]);
    }
    return 0;
}

int take_list(const char* const* from, std::size_t count, std::vector<std::string>& to) {
    if (count != 0 && from == nullptr) return -EINVAL;
    if (count > max_list) return -E2BIG;
    for (std::size_t i = 0; i < count; ++i) {
        if (!is_absolute(from[i])) return -EINVAL;
        to.push_back(clean_path(from[i]));
    }
    return 0;
}

// What a query, or the filters of a tracker, say of one row.
struct RowFilter {
    std::uint32_t kinds = FDSPAN_REF_ALL;
    std::uint32_t types = FDSPAN_TYPE_ALL;
    pid_t pid = 0;
    std::vector<std::string> paths;
    std::optional<std::pair<fdspan::DeviceNumber, std::uint64_t>> file;
    bool deleted = false;
    std::uint64_t opened_latest_ns = std::numeric_limits<std::uint64_t>::max();

    [[nodiscard]] bool matches(const fdspan::Reference& reference, std::string_view path) const {
        if ((types & fdspan::capi::type_bit(reference.type)) == 0) return false;
        return paths.empty() || std::any_of(paths.begin(), paths.end(), [&](const std::string& top) { return is_at_or_below(path, top); });
    }
    [[nodiscard]] bool matches(const fdspan::Process& process, const fdspan::Reference& reference, std::string_view path) const {
        return matches(reference, path) && (kinds & fdspan::capi::kind_bit(reference.ref)) != 0 && (pid == 0 || process.pid == pid) &&
               (!file || (reference.dev == file->first && reference.ino == file->second)) &&
               (!deleted || reference.name == fdspan::NameState::deleted) &&
               reference.description_opened.latest_ns <= opened_latest_ns;
    }
};

int take_query(const fdspan_query* from, RowFilter& filter) {
    fdspan_query query{};
    if (const int code = take_struct(from, query_0_1, query); code != 0) return code;
    if ((query.flags & ~FDSPAN_QUERY_DELETED) != 0 || (query.kinds & ~FDSPAN_REF_ALL) != 0 || (query.types & ~FDSPAN_TYPE_ALL) != 0 ||
        query.pid < 0 || (query.path != nullptr && !is_absolute(query.path))) {
        return -EINVAL;
    }
    if (query.kinds != 0) filter.kinds = query.kinds;
    if (query.types != 0) filter.types = query.types;
    filter.pid = query.pid;
    if (query.path != nullptr) filter.paths.push_back(clean_path(query.path));
    if (query.ino != 0) filter.file.emplace(fdspan::DeviceNumber{query.dev_major, query.dev_minor}, query.ino);
    filter.deleted = (query.flags & FDSPAN_QUERY_DELETED) != 0;
    if (query.minimum_age_ns != 0) {
        const std::uint64_t now = fdspan::boottime_now_ns();
        filter.opened_latest_ns = now > query.minimum_age_ns ? now - query.minimum_age_ns : 0;
    }
    return 0;
}

}  // namespace

// What a cursor keeps of its tracker: it may outlive it.
struct TrackerLife {
    bool open = true;
    bool busy = false;             // inside a callback
    std::uint64_t generation = 0;  // moves when the index may have changed
    pid_t owner = 0;
};

struct fdspan_event_buffer {
    explicit fdspan_event_buffer(std::size_t capacity) : events(capacity) {}
    std::vector<fdspan::capi::StoredEvent> events;
    std::size_t count = 0;
};

struct fdspan_snapshot {
    fdspan::SnapshotAnswer answer;
    // Freed with cursors still on it.
    std::shared_ptr<TrackerLife> life = std::make_shared<TrackerLife>();
};

struct fdspan_tracker {
    std::shared_ptr<TrackerLife> life = std::make_shared<TrackerLife>();
    std::unique_ptr<fdspan::Tracker> tracker;
    Log log;
    fdspan_event_fn on_event = nullptr;
    void* event_context = nullptr;
    std::uint32_t events = FDSPAN_EVENT_ALL;
    std::uint64_t minimum_age_ns = 0;
    RowFilter filter;
    std::uint64_t delivered = 0;
    std::size_t warnings_said = 0;
    bool close_wanted = false;

    // What one record gave beyond what the caller asked for. fd() stays readable meanwhile.
    std::deque<std::unique_ptr<fdspan::capi::StoredEvent>> pending;
    fdspan::capi::EventView view;
    int owed_error = 0;  // of the last call, which gave events; fd() stays readable for it, too

    [[nodiscard]] int usable() const {
        if (life->owner != ::getpid()) return -ECHILD;
        return life->busy ? -EBUSY : 0;
    }
    [[nodiscard]] bool wanted(const Event& event) const;
    void say_warnings();
    [[nodiscard]] int fail(const Error& error) const;
    template <class Deliver>
    int take(std::size_t max_events, Deliver&& deliver);
    template <class Deliver>
    int take_into(std::size_t& count, std::size_t max_events, Deliver&& deliver);
    [[nodiscard]] Result<void> show_ready() { return tracker->set_ready(!pending.empty() || owed_error != 0); }
    template <class Body>
    int calling_back(Body&& body);
};

struct fdspan_cursor {
    std::shared_ptr<TrackerLife> life;
    std::uint64_t generation = 0;
    bool of_tracker = false;
    RowFilter filter;
    RowFilter tracker_filter;
    std::optional<fdspan::IndexCursor> rows;          // of a tracker
    const fdspan::Snapshot* snapshot = nullptr;       // of a snapshot
    std::size_t next = 0;
    std::string path;  // of the row at hand, where it is in two pieces
    fdspan::capi::StoredRow row;
};

bool fdspan_tracker::wanted(const Event& event) const {
    if (event.kind == fdspan::EventKind::lost || event.kind == fdspan::EventKind::resynced) return true;
    if ((events & fdspan::capi::event_bit(event.kind)) == 0) return false;
    if (event.reference == nullptr) return true;
    if (!filter.matches(*event.reference, event.strings->get(event.reference->path.name))) return false;
    const bool ends = event.kind == fdspan::EventKind::closed || event.kind == fdspan::EventKind::released;
    return minimum_age_ns == 0 || !ends || (event.duration && event.duration->earliest_ns >= minimum_age_ns);
}

void fdspan_tracker::say_warnings() {
    const std::vector<std::string>& warnings = tracker->warnings();
    // Who closed the tracker from a callback may have freed what the others use.
    for (; warnings_said < warnings.size() && !close_wanted; ++warnings_said) log(FDSPAN_LOG_WARNING, warnings[warnings_said]);
}

int fdspan_tracker::fail(const Error& error) const { return close_wanted ? -ECANCELED : log.fail(error); }

// Callbacks of the host run in `body`: what they may not call says so.
template <class Body>
int fdspan_tracker::calling_back(Body&& body) {
    life->busy = true;
    const int code = guarded(body);
    life->busy = false;
    if (!close_wanted) return code;
    fdspan_close(this);
    return -ECANCELED;
}

// Events that were given count even if an error follows: it is told by the next call.
template <class Deliver>
int fdspan_tracker::take(std::size_t max_events, Deliver&& deliver) {
    if (!tracker->has_its_fd()) return -EBADF;
    if (owed_error != 0) {
        const int code = std::exchange(owed_error, 0);
        if (const auto done = show_ready(); !done) return fail(done.error());
        return code;
    }
    std::size_t count = 0;
    const int code = guarded([&] { return take_into(count, max_events, deliver); });
    if (code >= 0 || count == 0 || close_wanted) return code;
    owed_error = code;
    (void)show_ready();  // who calls again learns of it anyway
    return static_cast<int>(count);
}

template <class Deliver>
int fdspan_tracker::take_into(std::size_t& count, std::size_t max_events, Deliver&& deliver) {
    // A number is used when its event was given.
    for (; count < max_events && !pending.empty() && !close_wanted; ++count) {
        pending.front()->set_sequence(delivered + 1);
        deliver(pending.front()->event());
        ++delivered;
        pending.pop_front();
    }
    if (count == max_events || close_wanted) return static_cast<int>(count);

    ++life->generation;
    const auto sink = [&](const Event& event) {
        if (!wanted(event)) return;
        if (count < max_events && pending.empty()) {
            deliver(view.show(event, delivered + 1));
            ++delivered;
            ++count;
            return;
        }
        auto stored = std::make_unique<fdspan::capi::StoredEvent>();
        stored->assign(view.show(event, 0));
        pending.push_back(std::move(stored));
    };
    const Result<std::size_t> processed = tracker->process(sink, max_events - count);
    say_warnings();
    if (const auto done = show_ready(); !done) return fail(done.error());
    if (!processed) return fail(processed.error());
    return static_cast<int>(count);
}

// ---- trackers ---------------------------------------------------------------------------------------------------------

namespace {

int take_options(const fdspan_options* given, fdspan_options& options, fdspan_tracker& made, fdspan::TrackerOptions& with) {
    if (const int code = take_struct(given, options_0_1, options); code != 0) return code;
    const std::optional<Backend> backend = fdspan::capi::backend_from_c(options.backend);
    if (!backend || options.flags != 0 || (options.events & ~FDSPAN_EVENT_ALL) != 0 || (options.types & ~FDSPAN_TYPE_ALL) != 0 ||
        (options.memory_bytes != 0 && options.memory_bytes < least_memory_bytes) ||
        (options.poll_interval_ns != 0 && options.poll_interval_ns < least_poll_interval_ns)) {
        return -EINVAL;
    }
    made.log = {options.on_log, options.log_context};
    made.on_event = options.on_event;
    made.event_context = options.event_context;
    if (options.events != 0) made.events = options.events;
    if (options.types != 0) made.filter.types = options.types;
    made.minimum_age_ns = options.minimum_age_ns;

    with.backend = *backend;
    for (const int code : {take_list(options.pids, options.pid_count, with.scope.pids), take_list(options.trees, options.tree_count, with.scope.trees),
                           take_list(options.cgroups, options.cgroup_count, with.scope.cgroups),
                           take_list(options.paths, options.path_count, made.filter.paths)}) {
        if (code != 0) return code;
    }
    with.paths = made.filter.paths;
    with.types = options.types;
    if (options.poll_interval_ns != 0) with.poll_interval_ns = std::min(options.poll_interval_ns, most_interval_ns);
    if (options.resync_interval_ns != 0) {
        with.reconcile_interval_ns =
            options.resync_interval_ns == std::numeric_limits<std::uint64_t>::max() ? 0 : std::min(options.resync_interval_ns, most_interval_ns);
    }
    if (options.memory_bytes != 0) with.bound_memory(options.memory_bytes);
    return 0;
}

int give_tracker(std::unique_ptr<fdspan_tracker> made, Result<std::unique_ptr<fdspan::Tracker>> opened, fdspan_tracker** tracker) {
    if (!opened) return made->log.fail(opened.error());
    made->tracker = std::move(*opened);
    made->life->owner = ::getpid();
    made->say_warnings();
    for (const std::string& refused : made->tracker->refused()) made->log(FDSPAN_LOG_INFO, refused);
    *tracker = made.release();
    return 0;
}

}  // namespace

int fdspan_open(const fdspan_options* given, fdspan_tracker** tracker) {
    return guarded([&]() -> int {
        if (tracker == nullptr) return -EINVAL;
        *tracker = nullptr;
        fdspan_options options{};
        auto made = std::make_unique<fdspan_tracker>();
        fdspan::TrackerOptions with;
        if (const int code = take_options(given, options, *made, with); code != 0) return code;
        const StandardStreams streams;
        return give_tracker(std::move(made), fdspan::Tracker::open(with), tracker);
    });
}

int fdspan_hand_over(const fdspan_options* given, int socket) {
    return guarded([&]() -> int {
        fdspan_options options{};
        fdspan_tracker made;
        fdspan::TrackerOptions with;
        if (const int code = take_options(given, options, made, with); code != 0) return code;
        // Things of the receiver.
        if (with.backend == Backend::procfs || options.events != 0 || options.minimum_age_ns != 0 || options.poll_interval_ns != 0 ||
            options.resync_interval_ns != 0 || options.on_event != nullptr) {
            return -EINVAL;
        }
        const Result<void> done = fdspan::Tracker::hand_over(with, fdspan_version(), socket);
        return done ? 0 : made.log.fail(done.error());
    });
}

int fdspan_adopt(const fdspan_options* given, int socket, fdspan_tracker** tracker) {
    return guarded([&]() -> int {
        if (tracker == nullptr) return -EINVAL;
        *tracker = nullptr;
        fdspan_options options{};
        auto made = std::make_unique<fdspan_tracker>();
        fdspan::TrackerOptions with;
        if (const int code = take_options(given, options, *made, with); code != 0) return code;
        // Things of the helper.
        if (options.backend != FDSPAN_BACKEND_AUTO || options.types != 0 || !with.scope.empty() || !with.paths.empty() ||
            options.memory_bytes != 0 || options.poll_interval_ns != 0) {
            return -EINVAL;
        }
        const StandardStreams streams;
        auto adopted = fdspan::Tracker::adopt(with, fdspan_version(), socket);
        if (adopted) {
            made->filter.paths = (*adopted)->options().paths;
            if ((*adopted)->options().types != 0) made->filter.types = (*adopted)->options().types;
        }
        return give_tracker(std::move(made), std::move(adopted), tracker);
    });
}

fdspan_tracker* fdspan_close(fdspan_tracker* tracker) {
    if (tracker == nullptr) return nullptr;
    if (tracker->life->busy && tracker->life->owner == ::getpid()) {
        tracker->close_wanted = true;
        return nullptr;
    }
    tracker->life->open = false;
    delete tracker;
    return nullptr;
}

int fdspan_get_fd(fdspan_tracker* tracker) {
    if (tracker == nullptr) return -EINVAL;
    if (const int code = tracker->usable(); code != 0) return code;
    return tracker->tracker->fd();
}

int fdspan_get_timeout_ns(fdspan_tracker* tracker, uint64_t* monotonic_ns) {
    if (tracker == nullptr || monotonic_ns == nullptr) return -EINVAL;
    if (const int code = tracker->usable(); code != 0) return code;
    const std::optional<std::uint64_t> at_ns = tracker->tracker->deadline_boottime_ns();
    *monotonic_ns = std::numeric_limits<std::uint64_t>::max();
    if (!at_ns) return 0;
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const std::uint64_t now_ns = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
    const std::uint64_t boottime_ns = fdspan::boottime_now_ns();
    *monotonic_ns = *at_ns > boottime_ns ? now_ns + (*at_ns - boottime_ns) : now_ns;
    return 0;
}

int fdspan_process(fdspan_tracker* tracker, uint32_t max_events) {
    if (tracker == nullptr || max_events == 0) return -EINVAL;
    if (const int code = tracker->usable(); code != 0) return code;
    return tracker->calling_back([&] {
        const std::size_t bound = std::min<std::size_t>(max_events, std::numeric_limits<int>::max());
        return tracker->take(bound, [&](const fdspan_event& event) {
            if (tracker->on_event != nullptr && !tracker->close_wanted) tracker->on_event(tracker->event_context, &event);
        });
    });
}

int fdspan_read_events(fdspan_tracker* tracker, fdspan_event_buffer* buffer) {
    if (tracker == nullptr || buffer == nullptr) return -EINVAL;
    if (const int code = tracker->usable(); code != 0) return code;
    buffer->count = 0;
    return tracker->calling_back([&] {
        return tracker->take(buffer->events.size(), [&](const fdspan_event& event) {
            buffer->events[buffer->count].assign(event);
            ++buffer->count;
        });
    });
}

int fdspan_resync(fdspan_tracker* tracker) {
    if (tracker == nullptr) return -EINVAL;
    if (const int code = tracker->usable(); code != 0) return code;
    return tracker->calling_back([&]() -> int {
        if (!tracker->tracker->has_its_fd()) return -EBADF;
        ++tracker->life->generation;
        const auto sink = [&](const Event& event) {
            if (!tracker->wanted(event)) return;
            auto stored = std::make_unique<fdspan::capi::StoredEvent>();
            stored->assign(tracker->view.show(event, 0));
            tracker->pending.push_back(std::move(stored));
        };
        const Result<void> done = tracker->tracker->resync(sink);
        tracker->say_warnings();
        if (const auto ready = tracker->show_ready(); !ready) return tracker->fail(ready.error());
        return done ? 0 : tracker->fail(done.error());
    });
}

int fdspan_get_backend(fdspan_tracker* tracker) {
    if (tracker == nullptr) return -EINVAL;
    if (const int code = tracker->usable(); code != 0) return code;
    return static_cast<int>(fdspan::capi::to_c(tracker->tracker->backend()));
}

int fdspan_get_statistics(fdspan_tracker* tracker, fdspan_statistics* statistics) {
    if (tracker == nullptr || statistics == nullptr || statistics->size < statistics_0_1) return -EINVAL;
    if (const int code = tracker->usable(); code != 0) return code;
    return guarded([&]() -> int {
        const fdspan::TrackerStatistics figures = tracker->tracker->statistics();
        const auto fill = tracker->tracker->map_fill();
        if (!fill) return tracker->log.fail(fill.error());
        const fdspan::Index& index = tracker->tracker->index();
        const fdspan::IndexCounts counts = index.counts();
        fdspan_statistics out{};
        out.events = tracker->delivered;
        out.pending_events = tracker->pending.size();
        out.records = figures.kernel.records;
        out.lost_records = figures.kernel.ring_lost;
        out.missed_calls = figures.kernel.missed;
        out.refused_spans = figures.refused;
        out.resyncs = figures.resyncs;
        out.processes = counts.processes;
        out.descriptors = counts.descriptors;
        out.descriptions = counts.descriptions;
        out.index_bytes = index.index_bytes();
        out.kernel_bytes = fill->kernel_bytes;
        out.description_entries = fill->descriptions;
        out.description_capacity = fill->max_descriptions;
        out.full_map_spans = figures.kernel.description_full + figures.kernel.descriptor_full + figures.kernel.table_full;
        out.unreadable_processes = figures.unreadable_processes;
        give_struct(out, *statistics);
        return 0;
    });
}

// ---- events, pulled ---------------------------------------------------------------------------------------------------

int fdspan_event_buffer_new(size_t capacity, fdspan_event_buffer** buffer) {
    if (buffer == nullptr) return -EINVAL;
    *buffer = nullptr;
    if (capacity == 0 || capacity > max_buffer_events) return -EINVAL;
    return guarded([&] {
        *buffer = new fdspan_event_buffer(capacity);
        return 0;
    });
}

fdspan_event_buffer* fdspan_event_buffer_free(fdspan_event_buffer* buffer) {
    delete buffer;
    return nullptr;
}

size_t fdspan_event_buffer_count(const fdspan_event_buffer* buffer) { return buffer != nullptr ? buffer->count : 0; }

const fdspan_event* fdspan_event_buffer_get(const fdspan_event_buffer* buffer, size_t index) {
    return buffer != nullptr && index < buffer->count ? &buffer->events[index].event() : nullptr;
}

namespace {
// The caller has the base: fdspan_event_free() finds the whole by it.
struct CopiedEvent : fdspan_event {
    fdspan::capi::StoredEvent stored;
};
}  // namespace

int fdspan_event_copy(const fdspan_event* event, const fdspan_event** copy) {
    if (event == nullptr || copy == nullptr) return -EINVAL;
    *copy = nullptr;
    return guarded([&] {
        auto made = std::make_unique<CopiedEvent>();
        made->stored.assign(*event);
        static_cast<fdspan_event&>(*made) = made->stored.event();
        *copy = made.release();
        return 0;
    });
}

const fdspan_event* fdspan_event_free(const fdspan_event* copy) {
    delete static_cast<const CopiedEvent*>(copy);
    return nullptr;
}

// ---- queries ----------------------------------------------------------------------------------------------------------

int fdspan_cursor_open(fdspan_tracker* tracker, const fdspan_query* query, fdspan_cursor** cursor) {
    if (tracker == nullptr || cursor == nullptr) return -EINVAL;
    *cursor = nullptr;
    if (const int code = tracker->usable(); code != 0) return code;
    return guarded([&]() -> int {
        auto made = std::make_unique<fdspan_cursor>();
        if (const int code = take_query(query, made->filter); code != 0) return code;
        made->life = tracker->life;
        made->generation = tracker->life->generation;
        made->of_tracker = true;
        made->tracker_filter = tracker->filter;
        const fdspan::Index& index = tracker->tracker->index();
        // By what narrows most; the filter does the rest.
        const RowFilter& by = made->filter;
        if (by.file) {
            made->rows = fdspan::IndexCursor::of_file(index, by.file->first, by.file->second);
        } else if (by.pid != 0) {
            made->rows = fdspan::IndexCursor::of_process(index, by.pid);
        } else if (!by.paths.empty()) {
            made->rows = fdspan::IndexCursor::under(index, by.paths.front());
        } else if (by.deleted) {
            made->rows = fdspan::IndexCursor::deleted(index);
        } else if (by.opened_latest_ns != std::numeric_limits<std::uint64_t>::max()) {
            made->rows = fdspan::IndexCursor::older_than(index, by.opened_latest_ns);
        } else {
            made->rows = fdspan::IndexCursor::all(index);
        }
        *cursor = made.release();
        return 0;
    });
}

int fdspan_cursor_next(fdspan_cursor* cursor, const fdspan_row** row) {
    if (cursor == nullptr || row == nullptr) return -EINVAL;
    *row = nullptr;
    if (cursor->of_tracker && cursor->life->owner != ::getpid()) return -ECHILD;
    if (!cursor->life->open || cursor->life->generation != cursor->generation) return -ESTALE;
    if (cursor->life->busy) return -EBUSY;
    return guarded([&]() -> int {
        if (cursor->of_tracker) {
            while (const std::optional<fdspan::IndexRow> found = cursor->rows->next()) {
                const std::string_view path = found->strings.get(found->reference.path.name);
                if (!cursor->filter.matches(found->process, found->reference, path) || !cursor->tracker_filter.matches(found->reference, path)) continue;
                *row = &cursor->row.assign(fdspan::capi::to_c(found->process, found->strings),
                                           fdspan::capi::to_c(found->reference, found->strings, path.data()));
                return 1;
            }
            return 0;
        }
        const fdspan::Snapshot& snapshot = *cursor->snapshot;
        while (cursor->next < snapshot.references.size()) {
            const fdspan::Reference reference = snapshot.references[cursor->next++];
            const fdspan::Process& process = snapshot.processes[reference.process];
            const std::string_view path = snapshot.strings.path(reference.path, cursor->path);
            if (!cursor->filter.matches(process, reference, path)) continue;
            *row = &cursor->row.assign(fdspan::capi::to_c(process, snapshot.strings), fdspan::capi::to_c(reference, snapshot.strings, path.data()));
            return 1;
        }
        return 0;
    });
}

fdspan_cursor* fdspan_cursor_close(fdspan_cursor* cursor) {
    delete cursor;
    return nullptr;
}

// ---- snapshots --------------------------------------------------------------------------------------------------------

int fdspan_snapshot_take(const fdspan_snapshot_options* given, fdspan_snapshot** snapshot) {
    return guarded([&]() -> int {
        if (snapshot == nullptr) return -EINVAL;
        *snapshot = nullptr;
        fdspan_snapshot_options options{};
        if (const int code = take_struct(given, snapshot_options_0_1, options); code != 0) return code;
        const std::optional<Backend> backend = fdspan::capi::backend_from_c(options.backend);
        constexpr std::uint32_t all_fields = FDSPAN_FIELD_PATH | FDSPAN_FIELD_STAT | FDSPAN_FIELD_FLAGS | FDSPAN_FIELD_TIMES |
                                             FDSPAN_FIELD_SIZE | FDSPAN_FIELD_POSITION;
        if (!backend || (options.flags & ~(FDSPAN_SNAPSHOT_DELETED | FDSPAN_SNAPSHOT_CGROUPS)) != 0 || (options.fields & ~all_fields) != 0 ||
            (options.kinds & ~FDSPAN_REF_ALL) != 0) {
            return -EINVAL;
        }
        fdspan::SnapshotRequest request;
        if (const int code = take_list(options.pids, options.pid_count, request.pids); code != 0) return code;
        const std::uint32_t fields = options.fields != 0 ? options.fields : all_fields;
        request.fields = 0;
        for (const auto& [asked, field] : {std::pair<std::uint32_t, std::uint32_t>{FDSPAN_FIELD_PATH, fdspan::field_path},
                                           {FDSPAN_FIELD_STAT | FDSPAN_FIELD_SIZE, fdspan::field_stat},
                                           {FDSPAN_FIELD_FLAGS | FDSPAN_FIELD_POSITION, fdspan::field_fdinfo},
                                           {FDSPAN_FIELD_TIMES, fdspan::field_times | fdspan::field_ids}}) {
            if ((fields & asked) != 0) request.fields |= field;
        }
        if ((options.flags & FDSPAN_SNAPSHOT_CGROUPS) != 0) request.fields |= fdspan::field_cgroup;
        if (options.kinds != 0) request.kinds = static_cast<std::uint8_t>(options.kinds);
        request.deleted_only = (options.flags & FDSPAN_SNAPSHOT_DELETED) != 0;

        const Log log{options.on_log, options.log_context};
        auto answer = fdspan::take_snapshot(request, *backend);
        if (!answer) return log.fail(answer.error());
        for (const std::string& warning : answer->warnings) log(FDSPAN_LOG_WARNING, warning);
        auto made = std::make_unique<fdspan_snapshot>();
        made->answer = std::move(*answer);
        *snapshot = made.release();
        return 0;
    });
}

fdspan_snapshot* fdspan_snapshot_free(fdspan_snapshot* snapshot) {
    if (snapshot != nullptr) snapshot->life->open = false;
    delete snapshot;
    return nullptr;
}

int fdspan_snapshot_get_info(const fdspan_snapshot* snapshot, fdspan_snapshot_info* info) {
    if (snapshot == nullptr || info == nullptr || info->size < snapshot_info_0_1) return -EINVAL;
    const fdspan::Snapshot& read = snapshot->answer.snapshot;
    fdspan_snapshot_info out{};
    out.backend = fdspan::capi::to_c(snapshot->answer.backend);
    out.complete = read.gaps.complete() ? 1 : 0;
    out.began_ns = read.began_ns;
    out.ended_ns = read.ended_ns;
    out.realtime_offset_ns = read.clock.offset_ns;
    out.processes = read.processes.size();
    out.references = read.references.size();
    out.unreadable_processes = read.gaps.unreadable_processes;
    out.truncated_paths = read.gaps.truncated_paths;
    give_struct(out, *info);
    return 0;
}

int fdspan_cursor_open_snapshot(fdspan_snapshot* snapshot, const fdspan_query* query, fdspan_cursor** cursor) {
    if (snapshot == nullptr || cursor == nullptr) return -EINVAL;
    *cursor = nullptr;
    return guarded([&]() -> int {
        auto made = std::make_unique<fdspan_cursor>();
        if (const int code = take_query(query, made->filter); code != 0) return code;
        made->life = snapshot->life;
        made->snapshot = &snapshot->answer.snapshot;
        *cursor = made.release();
        return 0;
    });
}

// ---- recovery ---------------------------------------------------------------------------------------------------------

int fdspan_recover(const fdspan_recover_options* given, int target, fdspan_recovered* recovered) {
    if (recovered != nullptr && recovered->size < recovered_0_1) return -EINVAL;
    return guarded([&]() -> int {
        fdspan_recover_options options{};
        if (const int code = take_struct(given, recover_options_0_1, options); code != 0) return code;
        fdspan::HeldAddress address;
        switch (options.kind) {
            case FDSPAN_REF_FD: address.ref = fdspan::RefKind::fd; break;
            case FDSPAN_REF_EXE: address.ref = fdspan::RefKind::exe; break;
            case FDSPAN_REF_MAPPING: address.ref = fdspan::RefKind::mem; break;
            default: return -EINVAL;
        }
        if ((options.flags & ~FDSPAN_RECOVER_STREAM) != 0 || options.pid < 1 || options.tid < 0 || target < 0) return -EINVAL;
        address.pid = options.pid;
        address.tid = options.tid;
        address.fd = options.fd;
        address.map_start = options.map_start;
        address.map_end = options.map_end;
        if (options.started.source != FDSPAN_TIME_UNKNOWN) {
            address.started = fdspan::Interval::bounded(options.started.earliest_ns, options.started.latest_ns);
        }
        if (options.ino != 0) address.file = fdspan::FileId{{options.dev_major, options.dev_minor}, options.ino};
        const Log log{options.on_log, options.log_context};
        auto held = fdspan::HeldFile::open(address);
        if (!held) return log.fail(held.error());
        const bool stream = (options.flags & FDSPAN_RECOVER_STREAM) != 0;
        auto report = stream ? fdspan::stream_held(*held, target, {}) : fdspan::copy_held(*held, target, {});
        if (!report) return log.fail(report.error());
        for (const std::string& lost : report->not_kept) log(FDSPAN_LOG_WARNING, lost);
        if (recovered == nullptr) return 0;
        fdspan_recovered out{};
        out.file_bytes = report->size;
        out.data_bytes = report->data_bytes;
        out.changed = report->changed ? 1 : 0;
        out.cloned = report->cloned ? 1 : 0;
        give_struct(out, *recovered);
        return 0;
    });
}

// ---- what this machine allows -----------------------------------------------------------------------------------------

int fdspan_probe(fdspan_capabilities* capabilities, fdspan_check_fn on_check, void* context) {
    if (capabilities == nullptr || capabilities->size < capabilities_0_1) return -EINVAL;
    return guarded([&]() -> int {
        const Result<fdspan::DoctorReport> report = fdspan::examine_system();
        if (!report) return -report.error().code;
        fdspan_capabilities out{};
        for (const fdspan::BackendVerdict& verdict : report->backends) {
            if (verdict.works) out.backends |= 1U << fdspan::capi::to_c(verdict.backend);
        }
        out.chosen = fdspan::capi::to_c(report->chosen);
        out.bpf_snapshots = report->iterators ? 1 : 0;
        out.processes = report->processes;
        out.unreadable_processes = report->unreadable_processes;
        __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
        __user_cap_data_struct held[2]{};
        if (::syscall(SYS_capget, &header, held) != 0) return -errno;
        constexpr unsigned cap_perfmon = 38, cap_bpf = 39;  // newer than some libcs' headers
        for (const auto& [number, bit] : {std::pair<unsigned, std::uint32_t>{cap_bpf, FDSPAN_LACKS_BPF},
                                          {cap_perfmon, FDSPAN_LACKS_PERFMON},
                                          {CAP_SYS_PTRACE, FDSPAN_LACKS_SYS_PTRACE},
                                          {CAP_DAC_READ_SEARCH, FDSPAN_LACKS_DAC_READ_SEARCH}}) {
            if ((held[number / 32].effective >> (number % 32) & 1) == 0) out.lacks |= bit;
        }
        give_struct(out, *capabilities);
        if (on_check != nullptr) {
            for (const fdspan::Check& check : report->checks) {
                on_check(context, check.name.c_str(), std::string(to_string(check.state)).c_str(), check.detail.c_str(), check.advice.c_str());
            }
        }
        return 0;
    });
}

// ---- names ------------------------------------------------------------------------------------------------------------

namespace {
// The names of one bit each; to_string's texts are literals, so they end in NUL.
template <class Enum>
const char* name_of_bit(std::uint32_t bits, std::uint32_t all) {
    if (bits == 0 || (bits & (bits - 1)) != 0 || (bits & all) == 0) return "?";
    unsigned number = 0;
    while (bits >> number != 1) ++number;
    return to_string(static_cast<Enum>(number)).data();
}
}  // namespace

const char* fdspan_version(void) { return FDSPAN_VERSION; }
const char* fdspan_event_name(uint32_t kind) { return name_of_bit<fdspan::EventKind>(kind, FDSPAN_EVENT_ALL); }
const char* fdspan_backend_name(uint32_t backend) {
    const std::optional<Backend> known = fdspan::capi::backend_from_c(backend);
    return known ? to_string(*known).data() : "?";
}
const char* fdspan_type_name(uint32_t type) { return name_of_bit<fdspan::FileType>(type, FDSPAN_TYPE_ALL); }
const char* fdspan_ref_name(uint32_t kind) { return name_of_bit<fdspan::RefKind>(kind, FDSPAN_REF_ALL); }
