#include "api/tracker.hpp"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <tuple>
#include <unordered_set>

#include "api/arm.hpp"
#include "api/backends.hpp"
#include "base/clock.hpp"
#include "base/unique_fd.hpp"
#include "decode/decode.hpp"
#include "decode/sequence.hpp"
#include "index/index.hpp"
#include "kernel/iterators.hpp"
#include "kernel/tracking.hpp"
#include "reconcile/reconcile.hpp"
#include "reconcile/removals.hpp"

namespace fdspan {
namespace {

// While records flow, the ring is looked at so often, instead of waking at every record.
constexpr std::uint64_t drain_interval_ns = 4'000'000;
// A correcting snapshot after a loss waits until the losses pause, but no longer than this.
constexpr std::uint64_t resync_delay_ns = 100'000'000;
constexpr std::uint64_t resync_deadline_ns = 2'000'000'000;
// Processes that the index knows in part are read again at most so often.
constexpr std::uint64_t completion_interval_ns = 50'000'000;

// A look at all that has no links any more, for removals that concern nobody known: at most so often, and never more than one
// part in so many of the time.
constexpr std::uint64_t sweep_soon_ns = 5'000'000;
constexpr std::uint64_t sweep_soon_share = 10;
constexpr std::uint64_t sweep_interval_ns = 100'000'000;
constexpr std::uint64_t sweep_share = 100;
// A directory with very much below it was moved: the paths are read again so soon.
constexpr std::uint64_t stale_paths_ns = 1'000'000'000;

// Before a snapshot is reconciled the ring is emptied; under steady fire not for ever.
constexpr std::size_t catch_up_records = 65536;
constexpr int max_catch_up_rounds = 64;
constexpr std::size_t max_examples = 20;
// A machine never rests as a whole: only a difference that every round shows counts.
constexpr int verify_rounds = 4;
constexpr useconds_t verify_pause_us = 50'000;

Result<void> set_timer(int timer, std::uint64_t after_ns, std::uint64_t every_ns) {
    const auto split = [](std::uint64_t ns) {
        return timespec{static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
    };
    const itimerspec setting{split(every_ns), split(after_ns)};
    if (::timerfd_settime(timer, 0, &setting, nullptr) != 0) return fail_errno(errno, "set the drain timer");
    return {};
}

SnapshotRequest index_request() {
    SnapshotRequest request;
    request.fields = field_path | field_stat | field_fdinfo | field_times;
    return request;
}

}  // namespace

struct Tracker::State {
    TrackerOptions options;
    Backend backend = Backend::procfs;
    std::vector<std::string> warnings;
    std::vector<std::string> refused;         // why each better backend than this one was not taken
    std::unordered_set<pid_t> pids;
    Index index;
    Removals removals{index};
    std::set<std::tuple<pid_t, std::uint32_t, std::uint64_t>> swept;  // process, device, inode of the last look at what has no links
    std::unique_ptr<Tracking> tracking;       // BPF backends only
    std::unique_ptr<IteratorReader> reader;   // BPF backends only
    SequenceTracker sequence;
    UniqueFd poll;                            // epoll over the ring and the timer
    UniqueFd timer;
    bool behind = false;                      // the ring held more than the last call took: its losses are not known yet
    bool draining = false;                    // the timer drives, the ring's own wakeups are off
    std::uint64_t malformed = 0;
    std::uint64_t lossy_since_ns = 0;         // 0: index and kernel agree
    std::uint64_t last_loss_ns = 0;
    std::uint64_t next_reconcile_ns = 0;      // CLOCK_BOOTTIME; 0: never
    std::uint64_t next_completion_ns = 0;
    std::uint64_t next_sweep_ns = 0;
    std::uint64_t next_urgent_sweep_ns = 0;

    Result<void> open_bpf(Backend wanted);
    Result<void> open_procfs();
    Result<void> open_poll();
    Result<void> watch_ring(bool on);
    Result<Snapshot> read_snapshot(const std::vector<pid_t>& only, bool census);
    Result<std::size_t> process_bpf(const Sink& sink, std::size_t max_events);
    Result<std::size_t> process_procfs(const Sink& sink);
    Result<std::size_t> drain(const Sink& sink, std::size_t max_records);
    Result<void> resync(const Sink& sink);
    Result<void> sweep_unlinked(const Sink& sink);
    [[nodiscard]] std::uint64_t sweep_due_ns() const;
    Result<void> resync_with(Snapshot snapshot, const ReconcileOptions& how, const Sink& sink);
    void note_loss(const Loss& loss, const Sink& sink);
    [[nodiscard]] ReconcileOptions silent() const;
    [[nodiscard]] bool wanted(const Record& record) const;
};

Result<void> Tracker::State::open_poll() {
    poll.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!poll.valid()) return fail_errno(errno, "epoll_create1");
    timer.reset(::timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer.valid()) return fail_errno(errno, "timerfd_create");
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = timer.get();
    if (::epoll_ctl(poll.get(), EPOLL_CTL_ADD, timer.get(), &event) != 0) return fail_errno(errno, "epoll_ctl");
    if (!tracking) return {};
    event.data.fd = tracking->ring_fd();
    if (::epoll_ctl(poll.get(), EPOLL_CTL_ADD, tracking->ring_fd(), &event) != 0) return fail_errno(errno, "epoll_ctl");
    return {};
}

Result<void> Tracker::State::watch_ring(bool on) {
    if (draining != on) return {};
    epoll_event event{};
    event.events = on ? static_cast<std::uint32_t>(EPOLLIN) : 0U;
    event.data.fd = tracking->ring_fd();
    if (::epoll_ctl(poll.get(), EPOLL_CTL_MOD, tracking->ring_fd(), &event) != 0) return fail_errno(errno, "epoll_ctl");
    draining = !on;
    return set_timer(timer.get(), on ? 0 : drain_interval_ns, on ? 0 : drain_interval_ns);
}

Result<Snapshot> Tracker::State::read_snapshot(const std::vector<pid_t>& only, bool census) {
    SnapshotRequest request = index_request();
    request.pids = only.empty() ? options.pids : only;
    return reader ? reader->read(request, census) : read_procfs_snapshot(request);
}

Result<void> Tracker::State::open_bpf(Backend wanted) {
    TrackingOptions tracking_options;
    tracking_options.backend = tracking_backend_of(wanted);
    tracking_options.ring_bytes = options.ring_bytes;
    tracking_options.max_descriptions = options.max_descriptions;
    tracking_options.max_descriptors = options.max_descriptors;
    tracking_options.max_tables = options.max_tables;

    // What armed tracking knows exactly stays exact here: same ids, and its snapshot goes into the index first.
    auto pinned = PinnedTracking::open(pin_directory);
    if (!pinned) warnings.push_back(pinned.error().message);
    const bool armed = pinned && *pinned;
    if (armed) {
        auto key = (*pinned)->pointer_key();
        if (!key) return tl::unexpected(key.error());
        tracking_options.pointer_key = std::move(*key);
    }
    auto opened = wanted == Backend::automatic ? Tracking::open_best(tracking_options, refused) : Tracking::open(tracking_options);
    if (!opened) return tl::unexpected(opened.error());
    tracking = std::move(*opened);
    backend = backend_of(tracking->backend());
    sequence = SequenceTracker(true, tracking->tracking_since_ns());

    auto own_reader = IteratorReader::open(tracking->maps());
    if (!own_reader) return tl::unexpected(own_reader.error());
    reader = std::move(*own_reader);
    if (auto done = open_poll(); !done) return done;

    if (armed) {
        auto armed_reader = IteratorReader::open((*pinned)->maps());
        if (!armed_reader) return tl::unexpected(armed_reader.error());
        SnapshotRequest request = index_request();
        request.pids = options.pids;
        auto snapshot = (*armed_reader)->read(request);
        if (!snapshot) return tl::unexpected(snapshot.error());
        reconcile(index, *snapshot, silent(), {});
    }
    auto census = read_snapshot({}, true);
    if (!census) return tl::unexpected(census.error());
    reconcile(index, *census, silent(), {});
    if (options.reconcile_interval_ns != 0) next_reconcile_ns = boottime_now_ns() + options.reconcile_interval_ns;
    tracking->announce_waiting();
    return {};
}

Result<void> Tracker::State::open_procfs() {
    backend = Backend::procfs;
    if (auto done = open_poll(); !done) return done;
    auto snapshot = read_snapshot({}, false);
    if (!snapshot) return tl::unexpected(snapshot.error());
    reconcile(index, *snapshot, silent(), {});
    return set_timer(timer.get(), options.poll_interval_ns, options.poll_interval_ns);
}

ReconcileOptions Tracker::State::silent() const {
    ReconcileOptions how;
    how.announce = false;
    how.report = false;
    how.pids = options.pids;
    return how;
}

bool Tracker::State::wanted(const Record& record) const {
    if (pids.empty()) return true;
    // A child's exit would be filtered out, so that its fork must not enter it.
    if (const auto* const fork = std::get_if<ForkRecord>(&record); fork != nullptr && !pids.contains(static_cast<pid_t>(fork->raw->child_pid))) {
        return false;
    }
    // A description may be released in the context of anybody.
    return std::holds_alternative<ReleasedRecord>(record) ||
           pids.contains(static_cast<pid_t>(header_of(record).pid));
}

void Tracker::State::note_loss(const Loss& loss, const Sink& sink) {
    const std::uint64_t now = boottime_now_ns();
    if (lossy_since_ns == 0) lossy_since_ns = now;
    last_loss_ns = now;
    index.note_loss(loss.when);
    Event event;
    event.kind = EventKind::lost;
    event.when = loss.when;
    event.lost_records = loss.records;
    if (sink) sink(event);
}

Result<std::size_t> Tracker::State::drain(const Sink& sink, std::size_t max_records) {
    std::size_t records = 0;
    return tracking->drain([&](const void* data, std::size_t bytes) {
        ++records;
        Record record;
        if (decode(data, bytes, record) != Malformed::none) {
            ++malformed;
            return records < max_records;
        }
        const fdspan_record& header = header_of(record);
        if (const auto loss = sequence.observe(header.cpu, header.seq, header.boottime_ns)) note_loss(*loss, sink);
        if (const auto* const unlinked = std::get_if<UnlinkedRecord>(&record)) {
            removals.apply(*unlinked, sink);  // whoever did it
        } else if (wanted(record)) {
            removals.before_close(record, sink);
            index.apply(record, sink);
        }
        return records < max_records;
    });
}

Result<void> Tracker::State::resync_with(Snapshot snapshot, const ReconcileOptions& how, const Sink& sink) {
    // Records of what happened before the snapshot began are older than its rows: they go first.
    if (tracking) {
        for (int round = 0; round < max_catch_up_rounds; ++round) {
            auto taken = drain(sink, catch_up_records);
            if (!taken) return tl::unexpected(taken.error());
            if (*taken < catch_up_records) break;
        }
    }
    ReconcileOptions with = how;
    with.removals = &removals;
    with.releases_come = backend == Backend::trampoline || backend == Backend::kprobe;
    if (reconcile(index, snapshot, with, sink).uncertain) {
        const std::uint64_t now = boottime_now_ns();
        lossy_since_ns = now;
        last_loss_ns = now;
    }
    return {};
}

Result<void> Tracker::State::resync(const Sink& sink) {
    lossy_since_ns = 0;
    auto snapshot = read_snapshot({}, reader != nullptr);
    if (!snapshot) return tl::unexpected(snapshot.error());
    ReconcileOptions how;
    how.pids = options.pids;
    if (auto done = resync_with(std::move(*snapshot), how, sink); !done) return done;
    if (reader) {
        auto swept = reader->sweep();
        if (!swept) return tl::unexpected(swept.error());
    }
    return {};
}

std::uint64_t Tracker::State::sweep_due_ns() const {
    switch (removals.wish()) {
        case Removals::Wish::none: return 0;
        case Removals::Wish::whenever: return std::max<std::uint64_t>(next_sweep_ns, 1);
        case Removals::Wish::soon: return std::max<std::uint64_t>(next_urgent_sweep_ns, 1);
    }
    return 0;
}

// Looks for files without links that the index does not know to be deleted, and reads whoever holds one.
Result<void> Tracker::State::sweep_unlinked(const Sink& sink) {
    removals.wish_is_met();
    const std::uint64_t began = boottime_now_ns();
    SnapshotRequest request;
    request.fields = field_stat;
    request.deleted_only = true;
    request.pids = options.pids;
    auto found = reader->read(request);
    if (!found) return tl::unexpected(found.error());
    std::set<pid_t> holders;
    decltype(swept) now_swept;
    for (const Reference& row : found->references) {
        const pid_t pid = found->processes[row.process].pid;
        const auto [place, added] = now_swept.emplace(pid, kernel_device(row.dev), row.ino);
        if (added && !swept.contains(*place)) holders.insert(pid);
    }
    swept = std::move(now_swept);
    if (!holders.empty()) {
        ReconcileOptions how;
        how.pids.assign(holders.begin(), holders.end());
        how.report = false;
        auto snapshot = read_snapshot(how.pids, false);
        if (!snapshot) return tl::unexpected(snapshot.error());
        if (auto done = resync_with(std::move(*snapshot), how, sink); !done) return done;
    }
    removals.after_sweep(sink);
    const std::uint64_t ended = boottime_now_ns();
    const std::uint64_t took = ended - began;
    next_sweep_ns = ended + std::max(sweep_interval_ns, sweep_share * took);
    next_urgent_sweep_ns = ended + std::max(sweep_soon_ns, sweep_soon_share * took);
    return {};
}

Result<std::size_t> Tracker::State::process_bpf(const Sink& sink, std::size_t max_events) {
    std::uint64_t ticks = 0;
    (void)!::read(timer.get(), &ticks, sizeof(ticks));

    std::size_t delivered = 0;
    const Sink counting = [&](const Event& event) {
        ++delivered;
        if (sink) sink(event);
    };
    const std::vector<std::uint64_t> numbers = tracking->next_sequence_numbers();
    auto taken = drain(counting, max_events);
    if (!taken) return taken;
    const bool all = *taken < max_events;
    behind = !all;
    const std::uint64_t now = boottime_now_ns();
    if (all) {
        for (std::uint32_t cpu = 0; cpu < numbers.size(); ++cpu) {
            if (const auto loss = sequence.settle(cpu, numbers[cpu], now)) note_loss(*loss, counting);
        }
    }

    const bool loss_settled = lossy_since_ns != 0 && (now - last_loss_ns > resync_delay_ns || now - lossy_since_ns > resync_deadline_ns);
    const bool reconcile_due = next_reconcile_ns != 0 && now >= next_reconcile_ns;
    if (loss_settled || reconcile_due) {
        if (auto done = resync(counting); !done) return tl::unexpected(done.error());
        if (next_reconcile_ns != 0) next_reconcile_ns = boottime_now_ns() + options.reconcile_interval_ns;
    } else if (index.incomplete_count() != 0 && now >= next_completion_ns) {
        std::vector<pid_t> incomplete = index.incomplete();
        std::erase_if(incomplete, [this](pid_t pid) { return !pids.empty() && !pids.contains(pid); });
        if (!incomplete.empty()) {
            auto snapshot = read_snapshot(incomplete, true);
            if (!snapshot) return tl::unexpected(snapshot.error());
            ReconcileOptions how;
            how.pids = std::move(incomplete);
            how.report = false;
            if (auto done = resync_with(std::move(*snapshot), how, counting); !done) return tl::unexpected(done.error());
        }
        next_completion_ns = now + completion_interval_ns;
    }
    if (all && removals.paths_are_stale() && next_reconcile_ns != 0) {
        next_reconcile_ns = std::min(next_reconcile_ns, now + stale_paths_ns);
        removals.paths_are_mended();
    }
    if (const std::uint64_t due = sweep_due_ns(); all && due != 0 && now >= due) {
        if (auto done = sweep_unlinked(counting); !done) return tl::unexpected(done.error());
    }

    // The timer drives while records flow or something is to be mended; else the ring itself wakes.
    if (*taken != 0 || lossy_since_ns != 0 || index.incomplete_count() != 0) {
        if (auto done = watch_ring(false); !done) return tl::unexpected(done.error());
        if (!all) {
            if (auto done = set_timer(timer.get(), 1, drain_interval_ns); !done) return tl::unexpected(done.error());
        }
        return delivered;
    }
    tracking->announce_waiting();
    auto late = drain(counting, max_events);
    if (!late) return late;
    if (auto done = watch_ring(*late == 0); !done) return tl::unexpected(done.error());
    return delivered;
}

Result<std::size_t> Tracker::State::process_procfs(const Sink& sink) {
    std::uint64_t ticks = 0;
    if (::read(timer.get(), &ticks, sizeof(ticks)) < 0) {
        if (errno == EAGAIN) return std::size_t{0};
        return fail_errno(errno, "read the poll timer");
    }
    auto snapshot = read_snapshot({}, false);
    if (!snapshot) return tl::unexpected(snapshot.error());
    std::size_t delivered = 0;
    ReconcileOptions how;
    how.pids = options.pids;
    how.report = false;  // every poll resyncs: no news
    reconcile(index, *snapshot, how, [&](const Event& event) {
        ++delivered;
        if (sink) sink(event);
    });
    return delivered;
}

Tracker::Tracker(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tracker::~Tracker() = default;

Result<std::unique_ptr<Tracker>> Tracker::open(const TrackerOptions& options) {
    auto state = std::make_unique<State>();
    state->options = options;
    state->pids.insert(options.pids.begin(), options.pids.end());

    if (options.backend != Backend::procfs) {
        auto opened = state->open_bpf(options.backend);
        if (opened) return std::unique_ptr<Tracker>(new Tracker(std::move(state)));
        if (options.backend != Backend::automatic) return tl::unexpected(opened.error());
        auto fallback = std::make_unique<State>();
        fallback->options = options;
        fallback->pids = std::move(state->pids);
        fallback->warnings.push_back("polling /proc, because tracing is not available: " + opened.error().message);
        state = std::move(fallback);
    }
    if (auto done = state->open_procfs(); !done) return tl::unexpected(done.error());
    return std::unique_ptr<Tracker>(new Tracker(std::move(state)));
}

Backend Tracker::backend() const { return state_->backend; }
int Tracker::fd() const { return state_->poll.get(); }

int Tracker::timeout_ms() const {
    std::uint64_t next_ns = state_->next_reconcile_ns;
    if (const std::uint64_t due = state_->sweep_due_ns(); due != 0 && (next_ns == 0 || due < next_ns)) next_ns = due;
    if (next_ns == 0) return -1;
    const std::uint64_t now = boottime_now_ns();
    if (next_ns <= now) return 0;
    return static_cast<int>(std::min<std::uint64_t>((next_ns - now + 999'999) / 1'000'000, 1'000'000'000));
}

Result<std::size_t> Tracker::process(const Sink& sink, std::size_t max_events) {
    return state_->tracking ? state_->process_bpf(sink, max_events) : state_->process_procfs(sink);
}

Result<void> Tracker::resync(const Sink& sink) { return state_->resync(sink); }

Result<VerifyReport> Tracker::verify(const Sink& sink) {
    using Key = std::tuple<DifferenceKind, pid_t, pid_t, std::int32_t>;
    const auto key_of = [](const Difference& d) { return Key{d.kind, d.pid, d.tid, d.fd}; };

    // What the tracker would mend by itself in a moment.
    for (int round = 0; state_->tracking && round < max_catch_up_rounds; ++round) {
        if (auto done = state_->process_bpf(sink, catch_up_records); !done) return tl::unexpected(done.error());
        if (!state_->behind && state_->lossy_since_ns == 0 && state_->index.incomplete_count() == 0) break;
        ::usleep(verify_pause_us);
    }

    // The correcting snapshot that would come anyway, now: what it mends was wrong until here, and is counted.
    VerifyReport report;
    const auto corrected = state_->resync([&](const Event& event) {
        if (event.kind == EventKind::resynced) report.corrected = event.added + event.ended;
        if (sink) sink(event);
    });
    if (!corrected) return tl::unexpected(corrected.error());

    std::vector<Difference> lasting;
    std::set<Key> suspects;
    for (int round = 0; round < verify_rounds; ++round) {
        if (round != 0) ::usleep(verify_pause_us);
        for (int batch = 0; state_->tracking && batch < max_catch_up_rounds; ++batch) {
            auto taken = state_->drain(sink, catch_up_records);
            if (!taken) return tl::unexpected(taken.error());
            if (*taken < catch_up_records) break;
        }
        auto snapshot = state_->read_snapshot({}, false);
        if (!snapshot) return tl::unexpected(snapshot.error());
        if (auto taken = state_->tracking ? state_->drain(sink, catch_up_records) : Result<std::size_t>(0); !taken) {
            return tl::unexpected(taken.error());
        }
        ReconcileOptions how;
        how.pids = state_->options.pids;
        const Verification found = fdspan::verify(state_->index, *snapshot, how);
        report.references = found.compared;
        std::set<Key> seen;
        lasting.clear();
        for (const Difference& difference : found.differences) {
            const Key key = key_of(difference);
            if (round != 0 && !suspects.contains(key)) continue;
            seen.insert(key);
            lasting.push_back(difference);
        }
        suspects = std::move(seen);
    }
    for (const Difference& difference : lasting) {
        switch (difference.kind) {
            case DifferenceKind::phantom: ++report.phantoms; break;
            case DifferenceKind::gap: ++report.gaps; break;
            case DifferenceKind::other_file:
            case DifferenceKind::other_time: ++report.differing; break;
        }
        if (report.examples.size() == max_examples) continue;
        report.examples.push_back(std::string(to_string(difference.kind)) + ": pid " + std::to_string(difference.pid) +
                                  " tid " + std::to_string(difference.tid) + " fd " + std::to_string(difference.fd) +
                                  " index '" + difference.index_path + "' snapshot '" + difference.snapshot_path + "'");
    }
    if (state_->reader) {
        auto swept = state_->reader->sweep();
        if (!swept) return tl::unexpected(swept.error());
        report.map_entries = swept->kept;
        report.stale_map_entries = swept->stale;
    }
    return report;
}

const Index& Tracker::index() const { return state_->index; }
const std::vector<std::string>& Tracker::warnings() const { return state_->warnings; }
const std::vector<std::string>& Tracker::refused() const { return state_->refused; }

}  // namespace fdspan
