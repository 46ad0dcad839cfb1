// SPDX-License-Identifier: BSD-2-Clause
//
// fdspan.hpp: C++20 over fdspan.h, header-only, so that no type of the standard library crosses the library's boundary.
//
// Every class owns one handle, can be moved and not copied, and is used by one thread at a time. What fdspan.h says of a function holds for the member of
// that name; a negative errno becomes std::system_error. A callback may throw: the exception comes out of the call that called back; and it may destroy
// its tracker, which the call then ends with ECANCELED. What was moved from can be destroyed and assigned to; all else throws EINVAL.
// fdspan(7) explains the words and the model of time.
#ifndef FDSPAN_FDSPAN_HPP
#define FDSPAN_FDSPAN_HPP

#include <fdspan/fdspan.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace fdspan {
// The version is part of every name: a static library's own insides, or another version's header, never meet these.
inline namespace v0 {

using Time = ::fdspan_time;
using ProcessInfo = ::fdspan_process_info;
using Reference = ::fdspan_reference;
using Row = ::fdspan_row;
using Event = ::fdspan_event;

namespace detail {

// Turns a negative errno into an exception and passes the rest on.
inline int check(int code, const char* what) {
    if (code < 0) throw std::system_error(-code, std::generic_category(), what);
    return code;
}

template <auto Free>
struct Deleter {
    template <class Handle>
    void operator()(Handle* handle) const noexcept {
        Free(handle);
    }
};

inline std::vector<const char*> pointers(const std::vector<std::string>& texts) {
    std::vector<const char*> out;
    out.reserve(texts.size());
    for (const std::string& text : texts) out.push_back(text.c_str());
    return out;
}

}  // namespace detail

// Which references to show; conditions restrict each other, and without any it means all.
struct Query {
    bool deleted = false;                     // only files without a link left
    std::uint32_t kinds = 0;                  // FDSPAN_REF_* bits; 0: all
    std::uint32_t types = 0;                  // FDSPAN_TYPE_* bits; 0: all
    std::int32_t pid = 0;                     // 0: of any process
    std::string path;                         // at or below it; "": anywhere
    std::uint32_t dev_major = 0, dev_minor = 0;
    std::uint64_t ino = 0;                    // 0: any file
    std::chrono::nanoseconds minimum_age{0};  // of the open file description, certainly

    // As fdspan.h has it; valid as long as this and unchanged.
    [[nodiscard]] ::fdspan_query native() const {
        ::fdspan_query out{};
        out.size = sizeof(out);
        out.flags = deleted ? FDSPAN_QUERY_DELETED : 0;
        out.kinds = kinds;
        out.types = types;
        out.pid = pid;
        out.path = path.empty() ? nullptr : path.c_str();
        out.ino = ino;
        out.dev_major = dev_major;
        out.dev_minor = dev_minor;
        out.minimum_age_ns = static_cast<std::uint64_t>(minimum_age.count());
        return out;
    }
};

// The rows of one query, as a range to be walked once. A row lives until the next step; a tracker's cursor throws ESTALE after the tracker was processed.
class Cursor {
public:
    explicit Cursor(::fdspan_cursor* handle) : handle_(handle) {}

    // The next row, or nullptr at the end.
    [[nodiscard]] const Row* next() {
        const Row* row = nullptr;
        detail::check(::fdspan_cursor_next(handle_.get(), &row), "fdspan_cursor_next");
        return row;
    }

    class Iterator {
    public:
        using difference_type = std::ptrdiff_t;
        using value_type = Row;
        Iterator() = default;
        explicit Iterator(Cursor& cursor) : cursor_(&cursor), row_(cursor.next()) {}
        [[nodiscard]] const Row& operator*() const { return *row_; }
        Iterator& operator++() {
            row_ = cursor_->next();
            return *this;
        }
        void operator++(int) { ++*this; }
        [[nodiscard]] bool operator==(std::default_sentinel_t) const { return row_ == nullptr; }

    private:
        Cursor* cursor_ = nullptr;
        const Row* row_ = nullptr;
    };
    [[nodiscard]] Iterator begin() { return Iterator(*this); }
    [[nodiscard]] std::default_sentinel_t end() const { return {}; }

private:
    std::unique_ptr<::fdspan_cursor, detail::Deleter<::fdspan_cursor_close>> handle_;
};

// Room for events that are pulled, used again and again. The events in it live until it is filled again.
class EventBuffer {
public:
    explicit EventBuffer(std::size_t capacity) {
        ::fdspan_event_buffer* handle = nullptr;
        detail::check(::fdspan_event_buffer_new(capacity, &handle), "fdspan_event_buffer_new");
        handle_.reset(handle);
    }
    [[nodiscard]] std::size_t size() const { return ::fdspan_event_buffer_count(handle_.get()); }
    [[nodiscard]] const Event& operator[](std::size_t index) const { return *::fdspan_event_buffer_get(handle_.get(), index); }
    [[nodiscard]] ::fdspan_event_buffer* native() const { return handle_.get(); }

private:
    std::unique_ptr<::fdspan_event_buffer, detail::Deleter<::fdspan_event_buffer_free>> handle_;
};

// A copy of an event with all that it points to.
class StoredEvent {
public:
    explicit StoredEvent(const Event& event) {
        const Event* copy = nullptr;
        detail::check(::fdspan_event_copy(&event, &copy), "fdspan_event_copy");
        copy_.reset(copy);
    }
    [[nodiscard]] const Event& operator*() const { return *copy_; }
    [[nodiscard]] const Event* operator->() const { return copy_.get(); }

private:
    std::unique_ptr<const Event, detail::Deleter<::fdspan_event_free>> copy_;
};

// What to track; by default everything, with the best backend.
struct Options {
    std::uint32_t backend = FDSPAN_BACKEND_AUTO;
    std::uint32_t events = 0;              // FDSPAN_EVENT_* bits; 0: all
    std::uint32_t types = 0;               // FDSPAN_TYPE_* bits; 0: all
    std::vector<std::int32_t> pids;        // only these processes,
    std::vector<std::int32_t> trees;       // or these with their descendants,
    std::vector<std::string> cgroups;      // or those in or below these
    std::vector<std::string> paths;        // only files at or below these
    std::chrono::nanoseconds minimum_age{0};
    std::uint64_t memory_bytes = 0;        // 0: no bound
    std::chrono::nanoseconds poll_interval{0};            // 0: the default
    std::optional<std::chrono::nanoseconds> resync_interval;  // nullopt: the default; 0: only after a loss
    std::function<void(std::uint32_t level, std::string_view message)> log;
};

namespace detail {

// Options as fdspan.h has them, without callbacks; valid as long as these and unchanged.
struct NativeOptions {
    std::vector<const char*> cgroups, paths;
    ::fdspan_options with{};

    explicit NativeOptions(const Options& options) : cgroups(pointers(options.cgroups)), paths(pointers(options.paths)) {
        with.size = sizeof(with);
        with.backend = options.backend;
        with.events = options.events;
        with.types = options.types;
        with.pids = options.pids.data();
        with.pid_count = options.pids.size();
        with.trees = options.trees.data();
        with.tree_count = options.trees.size();
        with.cgroups = cgroups.data();
        with.cgroup_count = cgroups.size();
        with.paths = paths.data();
        with.path_count = paths.size();
        with.minimum_age_ns = static_cast<std::uint64_t>(options.minimum_age.count());
        with.memory_bytes = options.memory_bytes;
        with.poll_interval_ns = static_cast<std::uint64_t>(options.poll_interval.count());
        if (options.resync_interval) {
            with.resync_interval_ns = options.resync_interval->count() == 0 ? UINT64_MAX : static_cast<std::uint64_t>(options.resync_interval->count());
        }
    }
    NativeOptions(const NativeOptions&) = delete;
    NativeOptions& operator=(const NativeOptions&) = delete;
};

}  // namespace detail

// For a privileged helper: loads and attaches what Tracker::adopt() at the other end of the socket takes. Options::log is not called.
inline void hand_over(const Options& options, int socket) {
    const detail::NativeOptions native(options);
    detail::check(::fdspan_hand_over(&native.with, socket), "fdspan_hand_over");
}

// A tracker: owns what runs in the kernel for it, and the index.
class Tracker {
public:
    using EventCallback = std::function<void(const Event&)>;

    explicit Tracker(Options options)
        : Tracker(std::move(options), "fdspan_open", [](const ::fdspan_options& with, ::fdspan_tracker** handle) { return ::fdspan_open(&with, handle); }) {}

    // From what hand_over() sent; without any capability.
    [[nodiscard]] static Tracker adopt(Options options, int socket) {
        return Tracker(std::move(options), "fdspan_adopt",
                       [socket](const ::fdspan_options& with, ::fdspan_tracker** handle) { return ::fdspan_adopt(&with, socket, handle); });
    }

    // Readable when there is something to process; level-triggered; the tracker's.
    [[nodiscard]] int fd() const { return detail::check(::fdspan_get_fd(handle_.get()), "fdspan_get_fd"); }

    // When to process although fd() is quiet; nullopt: never. steady_clock is CLOCK_MONOTONIC.
    [[nodiscard]] std::optional<std::chrono::steady_clock::time_point> timeout() const {
        std::uint64_t at_ns = 0;
        detail::check(::fdspan_get_timeout_ns(handle_.get(), &at_ns), "fdspan_get_timeout_ns");
        if (at_ns == UINT64_MAX) return std::nullopt;
        return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(at_ns));
    }

    // Gives at most `max_events` events to `callback`; returns how many. An error that comes after some is thrown by the next call.
    int process(const EventCallback& callback, std::uint32_t max_events = 1000) {
        // A callback may destroy this tracker.
        const std::shared_ptr<Shared> shared = shared_;
        const bool outermost = shared && shared->event == nullptr;
        if (outermost) shared->event = &callback;
        const int code = ::fdspan_process(handle_.get(), max_events);
        if (outermost) shared->event = nullptr;
        return finish(shared, code, "fdspan_process");
    }

    // Fills the buffer in place of what was in it; returns how many events are in it now. An error that comes after some is thrown by the
    // next call.
    int read_events(EventBuffer& buffer) {
        const std::shared_ptr<Shared> shared = shared_;
        return finish(shared, ::fdspan_read_events(handle_.get(), buffer.native()), "fdspan_read_events");
    }

    // Makes the index equal to a snapshot now.
    void resync() {
        const std::shared_ptr<Shared> shared = shared_;
        finish(shared, ::fdspan_resync(handle_.get()), "fdspan_resync");
    }

    // Rows of the index.
    [[nodiscard]] Cursor query(const Query& query) const {
        const ::fdspan_query native = query.native();
        ::fdspan_cursor* cursor = nullptr;
        detail::check(::fdspan_cursor_open(handle_.get(), &native, &cursor), "fdspan_cursor_open");
        return Cursor(cursor);
    }

    [[nodiscard]] std::uint32_t backend() const {
        return static_cast<std::uint32_t>(detail::check(::fdspan_get_backend(handle_.get()), "fdspan_get_backend"));
    }

    [[nodiscard]] ::fdspan_statistics statistics() const {
        ::fdspan_statistics out{};
        out.size = sizeof(out);
        detail::check(::fdspan_get_statistics(handle_.get(), &out), "fdspan_get_statistics");
        return out;
    }

    [[nodiscard]] ::fdspan_tracker* native() const { return handle_.get(); }

private:
    template <class Open>
    Tracker(Options options, const char* what, Open&& open) : shared_(std::make_shared<Shared>()) {
        shared_->log = std::move(options.log);
        detail::NativeOptions native(options);
        ::fdspan_options& with = native.with;
        with.on_event = &Shared::on_event;
        with.event_context = shared_.get();
        with.on_log = shared_->log ? &Shared::on_log : nullptr;
        with.log_context = shared_.get();
        ::fdspan_tracker* handle = nullptr;
        const int code = open(with, &handle);
        handle_.reset(handle);
        finish(shared_, code, what);
    }

    // What the callbacks need; does not move when the tracker does. An exception waits here until the C library is left.
    struct Shared {
        std::function<void(std::uint32_t, std::string_view)> log;
        const EventCallback* event = nullptr;
        std::exception_ptr thrown;

        static void on_event(void* context, const ::fdspan_event* event) noexcept {
            auto* const self = static_cast<Shared*>(context);
            if (self->event == nullptr || !*self->event || self->thrown) return;
            try {
                (*self->event)(*event);
            } catch (...) {
                self->thrown = std::current_exception();
            }
        }
        static void on_log(void* context, std::uint32_t level, const char* message) noexcept {
            auto* const self = static_cast<Shared*>(context);
            try {
                self->log(level, message);
            } catch (...) {
                if (!self->thrown) self->thrown = std::current_exception();
            }
        }
    };
    static int finish(const std::shared_ptr<Shared>& shared, int code, const char* what) {
        if (shared && shared->thrown) std::rethrow_exception(std::exchange(shared->thrown, nullptr));
        return detail::check(code, what);
    }
    std::shared_ptr<Shared> shared_;
    std::unique_ptr<::fdspan_tracker, detail::Deleter<::fdspan_close>> handle_;
};

// What to read of what is open now.
struct SnapshotOptions {
    std::uint32_t backend = FDSPAN_BACKEND_AUTO;
    bool deleted = false;            // only files without a link left
    bool cgroups = false;            // with each process's cgroup and container
    std::uint32_t fields = 0;        // FDSPAN_FIELD_* bits; 0: all
    std::uint32_t kinds = 0;         // FDSPAN_REF_* bits; 0: all
    std::vector<std::int32_t> pids;  // only these processes
};

// What was open at one moment. Works without tracing.
class Snapshot {
public:
    explicit Snapshot(const SnapshotOptions& options = {}) {
        ::fdspan_snapshot_options with{};
        with.size = sizeof(with);
        with.backend = options.backend;
        with.flags = (options.deleted ? FDSPAN_SNAPSHOT_DELETED : 0) | (options.cgroups ? FDSPAN_SNAPSHOT_CGROUPS : 0);
        with.fields = options.fields;
        with.kinds = options.kinds;
        with.pids = options.pids.data();
        with.pid_count = options.pids.size();
        ::fdspan_snapshot* handle = nullptr;
        detail::check(::fdspan_snapshot_take(&with, &handle), "fdspan_snapshot_take");
        handle_.reset(handle);
    }

    [[nodiscard]] ::fdspan_snapshot_info info() const {
        ::fdspan_snapshot_info out{};
        out.size = sizeof(out);
        detail::check(::fdspan_snapshot_get_info(handle_.get(), &out), "fdspan_snapshot_get_info");
        return out;
    }

    [[nodiscard]] Cursor query(const Query& query = {}) const {
        const ::fdspan_query native = query.native();
        ::fdspan_cursor* cursor = nullptr;
        detail::check(::fdspan_cursor_open_snapshot(handle_.get(), &native, &cursor), "fdspan_cursor_open_snapshot");
        return Cursor(cursor);
    }

private:
    std::unique_ptr<::fdspan_snapshot, detail::Deleter<::fdspan_snapshot_free>> handle_;
};

// Copies what `held` names, the fields of a row, into the descriptor `target`; fdspan_recover() says which.
inline ::fdspan_recovered recover(::fdspan_recover_options held, int target) {
    held.size = sizeof(held);
    ::fdspan_recovered out{};
    out.size = sizeof(out);
    detail::check(::fdspan_recover(&held, target, &out), "fdspan_recover");
    return out;
}

// What this kernel and these privileges allow.
[[nodiscard]] inline ::fdspan_capabilities probe() {
    ::fdspan_capabilities out{};
    out.size = sizeof(out);
    detail::check(::fdspan_probe(&out, nullptr, nullptr), "fdspan_probe");
    return out;
}

}  // namespace v0
}  // namespace fdspan

#endif  // FDSPAN_FDSPAN_HPP
