#include "api/tracker.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <set>
#include <tuple>
#include <utility>

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
// A correcting snapshot comes so early when it is known to have something to tell.
constexpr std::uint64_t early_reconcile_ns = 200'000'000;
constexpr std::uint64_t early_reconcile_share = 10;
// The kernel's own counters, which take a syscall for each program.
constexpr std::uint64_t look_interval_ns = 500'000'000;

// Before verify() compares, it mends what a tracker would mend by itself; under steady fire not for ever.
constexpr std::size_t catch_up_records = 65536;
constexpr int max_catch_up_rounds = 64;
constexpr int max_spoilt_rounds = 20;
constexpr std::uint64_t late_record_ns = 20'000'000;  // a hook takes the time, and may be preempted before it has room in the ring
// With an index that is bounded, its size is asked for so often: records add about what they take themselves.
constexpr std::size_t record_bytes_between_measurements = 128 << 10;
// What ended may take one part in so many of the index.
constexpr std::size_t history_share = 8;
// After a snapshot that could not be read, the next one waits so long.
constexpr std::uint64_t retry_interval_ns = 100'000'000;
// When what is open does not fit, a snapshot that may fit is read so much later.
constexpr std::uint64_t refit_interval_ns = 1'000'000'000;
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

constexpr const char* not_pinned = "tracking is not pinned, so that a restart will lose exact ages: ";

SnapshotRequest index_request() {
    SnapshotRequest request;
    request.fields = field_path | field_stat | field_fdinfo | field_times | field_ids;
    return request;
}

}  // namespace

struct Tracker::State {
    TrackerOptions options;
    Backend backend = Backend::procfs;
    std::vector<std::string> warnings;
    std::vector<std::string> refused;         // why each better backend than this one was not taken
    PolledScope polled;                       // backend procfs
    Index index;
    Removals removals{index};
    std::set<std::tuple<pid_t, std::uint32_t, std::uint64_t>> swept;  // process, device, inode of the last look at what has no links
    std::unique_ptr<Tracking> tracking;       // BPF backends only
    std::unique_ptr<IteratorReader> reader;   // BPF backends only
    std::optional<PinnedTracking> armed;      // until the index has what it knows
    UniqueFd arming;                          // the lock, until `tracking` is pinned
    SequenceTracker sequence;
    UniqueFd poll;                            // epoll over the two below and the ring
    UniqueFd timer;
    UniqueFd ready;                           // an eventfd, for set_ready()
    bool behind = false;                      // the ring held more than the last call took: its losses are not known yet
    bool draining = false;                    // the timer drives, the ring only wakes for what is urgent
    std::uint64_t malformed = 0;
    std::uint64_t map_entries = 0;            // at the last sweep
    std::uint64_t lossy_since_ns = 0;         // 0: index and kernel agree
    std::uint64_t last_loss_ns = 0;
    std::uint64_t next_reconcile_ns = 0;      // CLOCK_BOOTTIME; 0: never
    std::uint64_t next_completion_ns = 0;
    std::uint64_t next_sweep_ns = 0;
    std::uint64_t next_urgent_sweep_ns = 0;
    std::uint64_t retry_ns = 0;               // no snapshot before, because the last one failed; 0: it did not
    bool full = false;                        // max_index_bytes is reached: what begins is refused
    std::uint64_t refit_ns = 0;               // … until a snapshot from then on fits
    std::size_t unmeasured_bytes = 0;         // of records
    Loss refused_records;                     // not reported yet
    TrackerStatistics figures;
    std::uint64_t resync_took_ns = 0;
    std::uint64_t missed = 0;                 // TrackingCounters::missed of the last look at it
    std::uint64_t last_look_ns = 0;
    std::uint64_t next_look_ns = 0;
    bool overflow_said = false;

    Result<void> load_bpf(Backend wanted);
    Result<void> follow_bpf();
    Result<void> adopt_bpf(Parcel& parcel);
    Result<void> open_procfs();
    Result<void> open_poll();
    Result<void> watch_ring(bool on);
    // Who the index is about, as far as is known now: {} for everybody, {0} for nobody.
    Result<std::vector<pid_t>> members();
    Result<void> find_trees();
    Result<Snapshot> read_snapshot(const std::vector<pid_t>& who, bool census);
    // For a snapshot of `who`, as members() gave them.
    [[nodiscard]] ReconcileOptions reconcile_options(std::vector<pid_t> who) const;
    void bound_index();
    // Of the whole scope; of some processes.
    [[nodiscard]] bool fits(const Snapshot& snapshot) const;
    [[nodiscard]] bool fits_beside(const Snapshot& snapshot);
    // May pack the index.
    [[nodiscard]] bool has_room_for(std::size_t bytes);
    void refuse_all();  // what begins, until a snapshot fits
    void refuse(const Snapshot& snapshot, const Sink& sink);  // polls look at each one anew
    void measure();
    Result<std::size_t> process_bpf(const Sink& sink, std::size_t max_events);
    Result<std::size_t> process_procfs(const Sink& sink);
    // No further than to the first record that is younger than `until_ns`.
    Result<std::size_t> drain(const Sink& sink, std::size_t max_records, std::uint64_t until_ns = std::numeric_limits<std::uint64_t>::max());
    class Mending;
    class Pause;
    Result<void> resync(const Sink& sink);
    // What is due of correcting snapshots, and of those that complete what is known in part.
    Result<void> correct(std::uint64_t now, const Sink& sink);
    Result<void> sweep_unlinked(const Sink& sink);
    [[nodiscard]] std::uint64_t sweep_due_ns() const;
    Result<void> resync_with(const Snapshot& snapshot, const ReconcileOptions& how, const Sink& sink);
    void note_loss(Event event, const Sink& sink);
    void note_record_loss(const Loss& loss, LossReason reason, const Sink& sink);
    void look_for_skipped(const Sink& sink);
    [[nodiscard]] bool refuses(const Record& record);
};

Result<void> Tracker::State::open_poll() {
    poll.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!poll.valid()) return fail_errno(errno, "epoll_create1");
    timer.reset(::timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!timer.valid()) return fail_errno(errno, "timerfd_create");
    ready.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!ready.valid()) return fail_errno(errno, "eventfd");
    epoll_event event{};
    event.events = EPOLLIN;
    for (const int fd : {timer.get(), ready.get()}) {
        event.data.fd = fd;
        if (::epoll_ctl(poll.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno(errno, "epoll_ctl");
    }
    if (!tracking) return {};
    event.data.fd = tracking->ring_fd();
    if (::epoll_ctl(poll.get(), EPOLL_CTL_ADD, tracking->ring_fd(), &event) != 0) return fail_errno(errno, "epoll_ctl");
    return {};
}

Result<void> Tracker::State::watch_ring(bool on) {
    if (draining != on) return {};
    epoll_event event{};
    // While the timer drives, what is in the ring does not wake by being there: only what the kernel side wakes for does, a removal or a
    // ring that fills.
    event.events = static_cast<std::uint32_t>(EPOLLIN) | (on ? 0U : static_cast<std::uint32_t>(EPOLLET));
    event.data.fd = tracking->ring_fd();
    if (::epoll_ctl(poll.get(), EPOLL_CTL_MOD, tracking->ring_fd(), &event) != 0) return fail_errno(errno, "epoll_ctl");
    draining = !on;
    return set_timer(timer.get(), on ? 0 : drain_interval_ns, on ? 0 : drain_interval_ns);
}

Result<std::vector<pid_t>> Tracker::State::members() {
    if (options.scope.empty()) return std::vector<pid_t>{};
    std::vector<pid_t> who;
    if (tracking) {
        auto in_kernel = tracking->scope_processes();
        if (!in_kernel) return in_kernel;
        who = std::move(*in_kernel);
        for (const std::string& cgroup : options.scope.cgroups) {
            if (auto done = append_cgroup_processes(cgroup, who); !done) return tl::unexpected(done.error());
        }
    } else {
        auto found = polled.members(options.scope);
        if (!found) return found;
        who = std::move(*found);
    }
    if (who.empty()) who.push_back(0);
    return who;
}

// What a tree's root had forked before the hooks could tell. Whom they know from here on, they follow by themselves.
Result<void> Tracker::State::find_trees() {
    if (options.scope.trees.empty()) return {};
    for (bool found = true; found;) {
        found = false;
        auto links = read_process_links();
        if (!links) return tl::unexpected(links.error());
        for (const pid_t pid : descendants(*links, options.scope.trees)) {
            auto added = tracking->add_to_trees(pid);
            if (!added) return tl::unexpected(added.error());
            found = found || *added;
        }
    }
    return {};
}

ReconcileOptions Tracker::State::reconcile_options(std::vector<pid_t> who) const {
    ReconcileOptions how;
    if (options.scope.empty()) return how;
    // Who is in the index and is no member any more has ended, or left a cgroup.
    const std::vector<pid_t> known = index.processes();
    how.pids = std::move(who);
    how.pids.insert(how.pids.end(), known.begin(), known.end());
    how.whole_index = true;
    return how;
}

Result<Snapshot> Tracker::State::read_snapshot(const std::vector<pid_t>& who, bool census) {
    SnapshotRequest request = index_request();
    request.pids = who;
    request.hidden = removals.has_unheld();
    if (tracking) tracking->snapshot_begins();
    auto snapshot = reader ? reader->read(request, census) : read_procfs_snapshot(request);
    if (tracking) tracking->snapshot_ended();
    return snapshot;
}

// Loads the kernel side.
Result<void> Tracker::State::load_bpf(Backend wanted) {
    TrackingOptions tracking_options;
    tracking_options.backend = tracking_backend_of(wanted);
    tracking_options.ring_bytes = options.ring_bytes;
    tracking_options.max_descriptions = options.max_descriptions;
    tracking_options.max_descriptors = options.max_descriptors;
    tracking_options.max_tables = options.max_tables;
    tracking_options.max_table_chunks = options.max_table_chunks;
    tracking_options.pids = options.scope.pids;
    tracking_options.trees = options.scope.trees;
    tracking_options.tops = options.paths;
    tracking_options.types = options.types;
    for (const std::string& cgroup : options.scope.cgroups) {
        auto id = cgroup_id(cgroup);
        if (!id) return tl::unexpected(id.error());
        tracking_options.cgroup_ids.push_back(*id);
    }

    if (options.pinned) {
        auto locked = lock_arming();
        if (locked) arming = std::move(*locked);
        else warnings.push_back(not_pinned + locked.error().message);
    }
    // What armed tracking knows exactly stays exact here: same ids, and its snapshot goes into the index first.
    const char* const directory = pinned_directory();
    auto found = PinnedTracking::open(directory);
    if (!found) warnings.push_back(found.error().message);
    else armed = std::move(*found);
    const bool may_share = armed && (wanted == Backend::automatic || tracking_backend_of(wanted) == armed->backend());
    if (may_share && arming.valid()) {
        auto taken = Tracking::take_over(directory);
        if (taken) {
            tracking = std::move(*taken);
            armed.reset();
        } else if (taken.error().code != ENOENT) {
            warnings.push_back("tracing goes on beside what is pinned: " + taken.error().message);
        }
    }
    if (armed || tracking) arming.reset();  // nothing is left to be pinned
    if (armed) {
        auto key = armed->pointer_key();
        if (!key) return tl::unexpected(key.error());
        tracking_options.pointer_key = std::move(*key);
    }
    if (!tracking) {
        auto opened = wanted == Backend::automatic ? Tracking::open_best(tracking_options, refused) : Tracking::open(tracking_options);
        if (!opened) return tl::unexpected(opened.error());
        tracking = std::move(*opened);
    }
    auto own_reader = IteratorReader::open(tracking->maps(), SnapshotRequest().kinds, sees_last_put(tracking->backend()));
    if (!own_reader) return tl::unexpected(own_reader.error());
    reader = std::move(*own_reader);
    // The host may drop its privileges as soon as it has its tracker.
    return reader->prepare_sweep();
}

Result<void> Tracker::State::adopt_bpf(Parcel& parcel) {
    auto adopted = Tracking::adopt(parcel);
    if (!adopted) return tl::unexpected(adopted.error());
    tracking = std::move(*adopted);
    options.max_descriptions = tracking->options().max_descriptions;
    options.max_descriptors = tracking->options().max_descriptors;
    options.max_tables = tracking->options().max_tables;
    auto adopted_reader = IteratorReader::adopt(parcel, tracking->maps());
    if (!adopted_reader) return tl::unexpected(adopted_reader.error());
    reader = std::move(*adopted_reader);
    return {};
}

// Makes the index follow a kernel side that is attached.
Result<void> Tracker::State::follow_bpf() {
    backend = backend_of(tracking->backend());
    index.expect_gaps(tracking->sieves_files());
    bound_index();
    sequence = SequenceTracker(!tracking->is_taken_over(), tracking->tracking_since_ns(), [this](std::uint32_t cpu) { return tracking->lost_records(cpu); });
    last_look_ns = boottime_now_ns();
    missed = tracking->counters().missed;
    if (auto done = open_poll(); !done) return done;
    if (auto done = find_trees(); !done) return done;
    auto who = members();
    if (!who) return tl::unexpected(who.error());
    ReconcileOptions silent = reconcile_options(*who);
    silent.announce = false;
    silent.report = false;

    if (armed) {
        auto armed_reader = IteratorReader::open(armed->maps());
        if (!armed_reader) return tl::unexpected(armed_reader.error());
        SnapshotRequest request = index_request();
        request.pids = *who;
        auto snapshot = (*armed_reader)->read(request);
        if (!snapshot) return tl::unexpected(snapshot.error());
        if (!fits(*snapshot)) return fail(ENOSPC, "what is open does not fit the bound of memory");
        reconcile(index, *snapshot, silent, {});
        armed.reset();
    }
    auto census = read_snapshot(*who, true);
    if (!census) return tl::unexpected(census.error());
    if (!fits(*census)) return fail(ENOSPC, "what is open does not fit the bound of memory");
    figures.unreadable_processes = census->gaps.unreadable_processes;
    reconcile(index, *census, silent, {});
    if (arming.valid()) {
        tracking->set_census(census->ended_ns);
        if (auto done = pin_armed(*tracking); !done) warnings.push_back(not_pinned + done.error().message);
        arming.reset();
    }
    if (options.reconcile_interval_ns != 0) next_reconcile_ns = boottime_now_ns() + options.reconcile_interval_ns;
    tracking->announce_waiting();
    return {};
}

Result<void> Tracker::State::open_procfs() {
    backend = Backend::procfs;
    bound_index();
    if (auto done = open_poll(); !done) return done;
    auto who = members();
    if (!who) return tl::unexpected(who.error());
    auto snapshot = read_snapshot(*who, false);
    if (!snapshot) return tl::unexpected(snapshot.error());
    if (!fits(*snapshot)) return fail(ENOSPC, "what is open does not fit the bound of memory");
    figures.unreadable_processes = snapshot->gaps.unreadable_processes;
    figures.polled_ns = snapshot->began_ns;
    ReconcileOptions silent = reconcile_options(*who);
    silent.announce = false;
    silent.report = false;
    reconcile(index, *snapshot, silent, {});
    return set_timer(timer.get(), options.poll_interval_ns, options.poll_interval_ns);
}

void Tracker::State::bound_index() {
    if (options.max_index_bytes != 0) index.bound_history(options.max_index_bytes / history_share);
}

bool Tracker::State::fits(const Snapshot& snapshot) const {
    return options.max_index_bytes == 0 || index_bytes_for(snapshot) <= options.max_index_bytes;
}

bool Tracker::State::fits_beside(const Snapshot& snapshot) { return options.max_index_bytes == 0 || has_room_for(index_bytes_for(snapshot)); }

bool Tracker::State::has_room_for(std::size_t bytes) {
    const auto has_room = [&] { return index.index_bytes() - index.reusable_bytes() + bytes <= options.max_index_bytes; };
    return has_room() || (index.pack_names() && has_room());
}

void Tracker::State::refuse_all() {
    full = true;
    refit_ns = boottime_now_ns() + refit_interval_ns;
}

void Tracker::State::refuse(const Snapshot& snapshot, const Sink& sink) {
    ++figures.refused;
    Loss loss;
    loss.records = 1;
    loss.when = Interval::bounded(snapshot.began_ns, snapshot.ended_ns);
    note_record_loss(loss, LossReason::index_full, sink);
}

void Tracker::State::measure() {
    unmeasured_bytes = 0;
    if (!has_room_for(1)) refuse_all();
}

// Only what makes the index larger; ends make it smaller.
bool Tracker::State::refuses(const Record& record) {
    if (!full || (!std::holds_alternative<OpenedRecord>(record) && !std::holds_alternative<ForkRecord>(record))) return false;
    const std::uint64_t at_ns = header_of(record).boottime_ns;
    if (refused_records.records == 0) refused_records.when = Interval::bounded(at_ns, at_ns);
    refused_records.when.latest_ns = std::max(refused_records.when.latest_ns, at_ns);
    ++refused_records.records;
    ++figures.refused;
    return true;
}

void Tracker::State::note_loss(Event event, const Sink& sink) {
    const std::uint64_t now = boottime_now_ns();
    if (lossy_since_ns == 0) lossy_since_ns = now;
    last_loss_ns = now;
    index.note_loss(event.when);
    removals.note_loss(event.when.latest_ns);
    event.kind = EventKind::lost;
    if (sink) sink(event);
}

void Tracker::State::note_record_loss(const Loss& loss, LossReason reason, const Sink& sink) {
    Event event;
    event.when = loss.when;
    event.lost_records = loss.records;
    event.loss_reason = reason;
    if (reason == LossReason::ring_full) event.cpu = loss.cpu;
    note_loss(event, sink);
}

// What leaves no gap in the numbers of the records: hooks that the kernel skipped, and times that found no room.
void Tracker::State::look_for_skipped(const Sink& sink) {
    const std::uint64_t now = boottime_now_ns();
    if (now < next_look_ns) return;
    const TrackingCounters counters = tracking->counters();
    if (counters.missed > missed) {
        Event event;
        event.when = Interval::bounded(last_look_ns, now);
        event.lost_records = counters.missed - missed;
        event.loss_reason = LossReason::hook_skipped;
        missed = counters.missed;
        note_loss(event, sink);
    }
    if (counters.maps_overflowed() && !overflow_said) {
        warnings.push_back("the kernel maps are full, so that some times will be bounded when they are asked for again");
        overflow_said = true;
    }
    last_look_ns = now;
    next_look_ns = now + look_interval_ns;
}

Result<std::size_t> Tracker::State::drain(const Sink& sink, std::size_t max_records, std::uint64_t until_ns) {
    std::size_t records = 0;
    return tracking->drain([&](const void* data, std::size_t bytes) {
        ++records;
        Record record;
        if (decode(data, bytes, record) != Malformed::none) {
            ++malformed;
            return records < max_records;
        }
        const fdspan_record& header = header_of(record);
        if (const auto loss = sequence.observe(header.cpu, header.seq, header.boottime_ns)) note_record_loss(*loss, LossReason::ring_full, sink);
        unmeasured_bytes += bytes;
        if (options.max_index_bytes != 0 && unmeasured_bytes > record_bytes_between_measurements) measure();
        if (const auto* const unlinked = std::get_if<UnlinkedRecord>(&record)) {
            removals.apply(*unlinked, sink);  // whoever did it
        } else if (!refuses(record)) {
            removals.before_close(record, sink);
            index.apply(record, sink);
        }
        return records < max_records && header.boottime_ns <= until_ns;
    });
}

Result<void> Tracker::State::resync_with(const Snapshot& snapshot, const ReconcileOptions& how, const Sink& sink) {
    // Records of what happened before a row was read go first; to wait for an empty ring could take for ever.
    if (tracking) {
        auto taken = drain(sink, std::numeric_limits<std::size_t>::max(), snapshot.ended_ns + late_record_ns);
        if (!taken) return tl::unexpected(taken.error());
    }
    ReconcileOptions with = how;
    with.removals = &removals;
    with.releases_come = tracking && sees_last_put(tracking->backend());
    if (reconcile(index, snapshot, with, sink).uncertain) {
        const std::uint64_t now = boottime_now_ns();
        lossy_since_ns = now;
        last_loss_ns = now;
    }
    return {};
}

// The losses that a correcting snapshot is read for: owed as before unless it mended them, however it ends. Those that come meanwhile are
// told apart.
class Tracker::State::Mending {
public:
    explicit Mending(State& state) : state_(state), since_ns_(std::exchange(state.lossy_since_ns, 0)) {
        if (since_ns_ == 0 && state.full) since_ns_ = boottime_now_ns();  // what was refused
    }
    Mending(const Mending&) = delete;
    Mending& operator=(const Mending&) = delete;
    ~Mending() {
        if (since_ns_ != 0) state_.lossy_since_ns = since_ns_;
    }
    void done() { since_ns_ = 0; }

private:
    State& state_;
    std::uint64_t since_ns_;
};

Result<void> Tracker::State::resync(const Sink& sink) {
    Mending mending(*this);
    const std::uint64_t began = boottime_now_ns();
    auto who = members();
    if (!who) return tl::unexpected(who.error());
    auto snapshot = read_snapshot(*who, reader != nullptr);
    if (!snapshot) return tl::unexpected(snapshot.error());
    figures.unreadable_processes = snapshot->gaps.unreadable_processes;
    ++figures.resyncs;
    // What is open does not fit: the index stays as it is, and says so through what it refuses.
    if (!fits(*snapshot)) {
        mending.done();
        if (tracking) refuse_all();
        else refuse(*snapshot, sink);
        return {};
    }
    full = false;
    if (auto done = resync_with(*snapshot, reconcile_options(*who), sink); !done) return done;
    mending.done();
    removals.relabel_hidden(*snapshot);
    removals.after_look(Removals::Looked::at_everything, began, sink);
    if (tracking && options.max_index_bytes != 0) measure();
    if (reader) {
        auto swept = reader->sweep();
        if (!swept) return tl::unexpected(swept.error());
        map_entries = swept->kept;
    }
    resync_took_ns = boottime_now_ns() - began;
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
    Removals::Wish wish = removals.take_wish();  // what comes meanwhile may ask for another look
    struct Again {
        Removals& removals;
        Removals::Wish& wish;
        ~Again() { removals.ask(wish); }
    } const unless_met{removals, wish};
    const std::uint64_t began = boottime_now_ns();
    SnapshotRequest request;
    request.deleted_only = true;
    request.hidden = removals.has_unheld();
    request.fields = request.hidden ? field_stat | field_path : field_stat;
    auto who = members();
    if (!who) return tl::unexpected(who.error());
    request.pids = std::move(*who);
    auto found = reader->read(request);
    if (!found) return tl::unexpected(found.error());
    removals.relabel_hidden(*found);
    std::set<pid_t> holders;
    decltype(swept) now_swept;
    for (const Reference& row : found->references) {
        const pid_t pid = found->processes[row.process].pid;
        const auto [place, added] = now_swept.emplace(pid, kernel_device(row.dev), row.ino);
        if (added && !swept.contains(*place)) holders.insert(pid);
    }
    if (!holders.empty()) {
        ReconcileOptions how;
        how.pids.assign(holders.begin(), holders.end());
        how.report = false;
        auto snapshot = read_snapshot(how.pids, false);
        if (!snapshot) return tl::unexpected(snapshot.error());
        if (!fits_beside(*snapshot)) refuse_all();
        else if (auto done = resync_with(*snapshot, how, sink); !done) return done;
    }
    swept = std::move(now_swept);
    wish = Removals::Wish::none;
    removals.after_look(Removals::Looked::at_deleted, began, sink);
    const std::uint64_t ended = boottime_now_ns();
    const std::uint64_t took = ended - began;
    next_sweep_ns = ended + std::max(sweep_interval_ns, sweep_share * took);
    next_urgent_sweep_ns = ended + std::max(sweep_soon_ns, sweep_soon_share * took);
    return {};
}

// A failure, in whatever form, has the next snapshot wait.
class Tracker::State::Pause {
public:
    explicit Pause(State& state) : state_(state) {}
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;
    ~Pause() { state_.retry_ns = wanted_ ? boottime_now_ns() + retry_interval_ns : 0; }
    void none() { wanted_ = false; }

private:
    State& state_;
    bool wanted_ = true;
};

Result<void> Tracker::State::correct(std::uint64_t now, const Sink& sink) {
    const bool room_again = full && now >= refit_ns;
    const bool loss_settled = lossy_since_ns != 0 && (now - last_loss_ns > resync_delay_ns || now - lossy_since_ns > resync_deadline_ns);
    const bool reconcile_due = next_reconcile_ns != 0 && now >= next_reconcile_ns;
    if (loss_settled || reconcile_due || room_again) {
        if (auto done = resync(sink); !done) return done;
        if (next_reconcile_ns != 0) next_reconcile_ns = boottime_now_ns() + options.reconcile_interval_ns;
    } else if (!full && index.incomplete_count() != 0 && now >= next_completion_ns) {
        std::vector<pid_t> incomplete = index.incomplete();
        auto snapshot = read_snapshot(incomplete, true);
        if (!snapshot) return tl::unexpected(snapshot.error());
        ReconcileOptions how;
        how.pids = std::move(incomplete);
        how.report = false;
        if (!fits_beside(*snapshot)) refuse_all();
        else if (auto done = resync_with(*snapshot, how, sink); !done) return done;
        next_completion_ns = now + completion_interval_ns;
    }
    return {};
}

Result<std::size_t> Tracker::State::process_bpf(const Sink& sink, std::size_t max_events) {
    std::uint64_t ticks = 0;
    (void)!::read(timer.get(), &ticks, sizeof(ticks));
    // An edge of the ring stays until it is taken notice of.
    std::array<epoll_event, 3> woken;
    if (::epoll_wait(poll.get(), woken.data(), woken.size(), 0) < 0 && errno != EINTR) return fail_errno(errno, "epoll_wait");

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
            if (const auto loss = sequence.settle(cpu, numbers[cpu], now)) note_record_loss(*loss, LossReason::ring_full, counting);
        }
    }
    if (refused_records.records != 0) note_record_loss(std::exchange(refused_records, {}), LossReason::index_full, counting);

    look_for_skipped(counting);
    if (full) lossy_since_ns = 0;
    Result<void> corrected;
    const bool may_read = now >= retry_ns;
    if (may_read) {
        Pause pause(*this);
        corrected = correct(now, counting);
        if (corrected) pause.none();
    }
    if (all) removals.settle(now - std::min(now, Removals::settling_ns), counting);
    // Where the hooks see the last put, releases come by themselves.
    const bool in_doubt = index.take_release_in_doubt() && !sees_last_put(tracking->backend());
    if ((in_doubt || removals.paths_are_stale()) && next_reconcile_ns != 0) {
        next_reconcile_ns = std::min(next_reconcile_ns, now + std::max(early_reconcile_ns, early_reconcile_share * resync_took_ns));
        removals.paths_are_mended();
    }
    if (const std::uint64_t due = sweep_due_ns(); all && due != 0 && now >= due && may_read && corrected) {
        Pause pause(*this);
        corrected = sweep_unlinked(counting);
        if (corrected) pause.none();
    }

    // The timer drives while records flow or something is to be mended; else the ring itself wakes.
    if (*taken != 0 || lossy_since_ns != 0 || index.incomplete_count() != 0 || removals.has_to_settle() || sequence.has_open_gap()) {
        if (auto done = watch_ring(false); !done) return tl::unexpected(done.error());
        if (!all) {
            if (auto done = set_timer(timer.get(), 1, drain_interval_ns); !done) return tl::unexpected(done.error());
        }
        if (!corrected) return tl::unexpected(corrected.error());
        return delivered;
    }
    tracking->announce_waiting();
    auto late = drain(counting, max_events);
    if (!late) return late;
    if (auto done = watch_ring(*late == 0); !done) return tl::unexpected(done.error());
    if (!corrected) return tl::unexpected(corrected.error());
    return delivered;
}

Result<std::size_t> Tracker::State::process_procfs(const Sink& sink) {
    std::uint64_t ticks = 0;
    if (::read(timer.get(), &ticks, sizeof(ticks)) < 0) {
        if (errno == EAGAIN) return std::size_t{0};
        return fail_errno(errno, "read the poll timer");
    }
    auto who = members();
    if (!who) return tl::unexpected(who.error());
    auto snapshot = read_snapshot(*who, false);
    if (!snapshot) return tl::unexpected(snapshot.error());
    figures.unreadable_processes = snapshot->gaps.unreadable_processes;
    figures.polled_ns = snapshot->began_ns;
    ++figures.resyncs;
    std::size_t delivered = 0;
    const Sink counting = [&](const Event& event) {
        ++delivered;
        if (sink) sink(event);
    };
    if (!fits(*snapshot)) {
        refuse(*snapshot, counting);
        return delivered;
    }
    ReconcileOptions how = reconcile_options(*who);
    how.report = false;  // every poll resyncs: no news
    reconcile(index, *snapshot, how, counting);
    lossy_since_ns = 0;
    return delivered;
}

Tracker::Tracker(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tracker::~Tracker() {
    // It is a host's hands that this descriptor goes through.
    if (!has_its_fd()) (void)state_->poll.release();
}

Result<std::unique_ptr<Tracker>> Tracker::open(const TrackerOptions& options) {
    // A mistake of the caller's is no reason to fall back to another backend.
    for (const std::string& cgroup : options.scope.cgroups) {
        if (auto id = cgroup_id(cgroup); !id) return tl::unexpected(id.error());
    }
    if (options.pinned && (!options.scope.empty() || !options.paths.empty() || options.types != 0)) {
        return fail(EINVAL, "a tracker that leaves something out can't be pinned");
    }
    auto state = std::make_unique<State>();
    state->options = options;

    if (options.backend != Backend::procfs) {
        auto opened = state->load_bpf(options.backend);
        if (opened) opened = state->follow_bpf();
        if (opened) return std::unique_ptr<Tracker>(new Tracker(std::move(state)));
        if (options.backend != Backend::automatic) return tl::unexpected(opened.error());
        auto fallback = std::make_unique<State>();
        fallback->options = options;
        fallback->refused = std::move(state->refused);
        fallback->warnings.push_back("polling /proc, because tracing is not available: " + opened.error().message);
        state = std::move(fallback);
    }
    if (auto done = state->open_procfs(); !done) return tl::unexpected(done.error());
    return std::unique_ptr<Tracker>(new Tracker(std::move(state)));
}

Result<void> Tracker::hand_over(const TrackerOptions& options, const std::string& version, int socket) {
    State state;
    state.options = options;
    if (auto done = state.load_bpf(options.backend); !done) return done;
    Parcel parcel;
    state.tracking->give(parcel);
    if (auto done = state.reader->give(parcel); !done) return done;
    parcel.tell("version", version);
    parcel.tell("types", std::to_string(options.types));
    parcel.tell("index bytes", std::to_string(options.max_index_bytes));
    for (const pid_t pid : options.scope.pids) parcel.tell("pid", std::to_string(pid));
    for (const pid_t pid : options.scope.trees) parcel.tell("tree", std::to_string(pid));
    for (const std::string& cgroup : options.scope.cgroups) parcel.tell("cgroup", cgroup);
    for (const std::string& path : options.paths) parcel.tell("path", path);
    return parcel.send(socket);
}

Result<std::unique_ptr<Tracker>> Tracker::adopt(const TrackerOptions& own, const std::string& version, int socket) {
    auto parcel = Parcel::receive(socket);
    if (!parcel) return tl::unexpected(parcel.error());
    auto state = std::make_unique<State>();
    TrackerOptions& options = state->options;
    options.reconcile_interval_ns = own.reconcile_interval_ns;
    bool same_version = false;
    for (const auto& [what, value] : parcel->facts()) {
        std::uint64_t number = 0;
        const bool is_number = std::from_chars(value.data(), value.data() + value.size(), number).ec == std::errc();
        if (what == "version") same_version = value == version;
        else if (what == "cgroup") options.scope.cgroups.push_back(value);
        else if (what == "path") options.paths.push_back(value);
        else if (!is_number) return fail(EPROTO, "what was handed over says of " + what + ": " + value);
        else if (what == "types") options.types = static_cast<std::uint32_t>(number);
        else if (what == "index bytes") options.max_index_bytes = number;
        else if (what == "pid") options.scope.pids.push_back(static_cast<pid_t>(number));
        else if (what == "tree") options.scope.trees.push_back(static_cast<pid_t>(number));
    }
    if (!same_version) return fail(EPROTO, "what was handed over is of another version of the library than " + version);
    if (auto done = state->adopt_bpf(*parcel); !done) return tl::unexpected(done.error());
    if (auto done = state->follow_bpf(); !done) return tl::unexpected(done.error());
    return std::unique_ptr<Tracker>(new Tracker(std::move(state)));
}

const TrackerOptions& Tracker::options() const { return state_->options; }
Backend Tracker::backend() const { return state_->backend; }
int Tracker::fd() const { return state_->poll.get(); }

bool Tracker::has_its_fd() const {
    const int poll = state_->poll.get(), member = state_->ready.get();
    epoll_event event{};
    // A member can't be added again; whatever else has the number by now says something else, or takes it.
    if (::epoll_ctl(poll, EPOLL_CTL_ADD, member, &event) == 0) (void)::epoll_ctl(poll, EPOLL_CTL_DEL, member, &event);
    else if (errno == EEXIST) return true;
    return false;
}

Result<void> Tracker::set_ready(bool on) {
    std::uint64_t value = 1;
    const int fd = state_->ready.get();
    const ssize_t moved = on ? ::write(fd, &value, sizeof(value)) : ::read(fd, &value, sizeof(value));
    if (moved < 0 && errno != EAGAIN) return fail_errno(errno, "use the tracker's eventfd");
    return {};
}

std::optional<std::uint64_t> Tracker::deadline_boottime_ns() const {
    if (state_->retry_ns != 0) return state_->retry_ns;  // what is due waits for it
    std::uint64_t next_ns = state_->next_reconcile_ns;
    if (const std::uint64_t due = state_->sweep_due_ns(); due != 0 && (next_ns == 0 || due < next_ns)) next_ns = due;
    if (state_->full && (next_ns == 0 || state_->refit_ns < next_ns)) next_ns = state_->refit_ns;
    if (next_ns == 0) return std::nullopt;
    return next_ns;
}

TrackerStatistics Tracker::statistics() const {
    TrackerStatistics out = state_->figures;
    out.certain = !state_->behind && state_->lossy_since_ns == 0 && !state_->full;
    out.malformed = state_->malformed;
    if (!state_->tracking) return out;
    out.kernel = state_->tracking->counters();
    out.map_entries = state_->map_entries;
    out.max_map_entries = std::uint64_t{state_->options.max_descriptions} + state_->options.max_descriptors + state_->options.max_tables;
    return out;
}

Result<TrackingFill> Tracker::map_fill() const { return state_->tracking ? state_->tracking->fill() : TrackingFill{}; }

void TrackerOptions::bound_memory(std::uint64_t bytes) {
    // What one entry takes: see Tracking::fill(); an allocation's size class and a bucket, which there are twice as many of at worst.
    constexpr std::uint64_t description_bytes = 128 + 32, descriptor_bytes = 96 + 32, table_bytes = 192 + 32, chunk_bytes = 1024 + 32;
    const auto entries = [](std::uint64_t share, std::uint64_t each, std::uint32_t most) {
        return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(share / each, 64, most));
    };
    const std::uint64_t maps = bytes / 8 * 3;
    ring_bytes = static_cast<std::uint32_t>(std::bit_floor(std::min<std::uint64_t>(bytes / 8, ring_bytes)));
    max_descriptions = entries(maps / 2, description_bytes, max_descriptions);
    max_descriptors = entries(maps / 5, descriptor_bytes, max_descriptors);
    max_tables = entries(maps / 20 * 3, table_bytes, max_tables);
    max_table_chunks = entries(maps / 20 * 3, chunk_bytes, max_table_chunks);
    max_index_bytes = bytes - maps - ring_bytes;
}

int Tracker::timeout_ms() const {
    const std::optional<std::uint64_t> next_ns = deadline_boottime_ns();
    if (!next_ns) return -1;
    const std::uint64_t now = boottime_now_ns();
    if (*next_ns <= now) return 0;
    return static_cast<int>(std::min<std::uint64_t>((*next_ns - now + 999'999) / 1'000'000, 1'000'000'000));
}

Result<std::size_t> Tracker::process(const Sink& sink, std::size_t max_events) {
    return state_->tracking ? state_->process_bpf(sink, max_events) : state_->process_procfs(sink);
}

Result<void> Tracker::resync(const Sink& sink) { return state_->resync(sink); }

Result<VerifyReport> Tracker::verify(const Sink& sink) {
    using Key = std::tuple<DifferenceKind, pid_t, pid_t, std::int32_t>;
    const auto key_of = [](const Difference& d) { return Key{d.kind, d.pid, d.tid, d.fd}; };

    // What the tracker would mend by itself in a moment.
    const auto settle = [&]() -> Result<void> {
        for (int round = 0; state_->tracking && round < max_catch_up_rounds; ++round) {
            if (auto done = state_->process_bpf(sink, catch_up_records); !done) return tl::unexpected(done.error());
            if (!state_->behind && state_->lossy_since_ns == 0 && state_->index.incomplete_count() == 0) break;
            ::usleep(verify_pause_us);
        }
        return {};
    };
    if (auto done = settle(); !done) return tl::unexpected(done.error());

    // The correcting snapshot that would come anyway, now: what it mends was wrong until here, and is counted.
    VerifyReport report;
    const auto corrected = state_->resync([&](const Event& event) {
        if (event.kind == EventKind::resynced) report.corrected = event.added + event.ended;
        if (sink) sink(event);
    });
    if (!corrected) return tl::unexpected(corrected.error());

    std::vector<Difference> lasting;
    std::set<Key> suspects;
    for (int round = 0, spoilt = 0; round < verify_rounds; ++round) {
        if (round != 0) ::usleep(verify_pause_us);
        if (auto done = settle(); !done) return tl::unexpected(done.error());
        auto who = state_->members();
        if (!who) return tl::unexpected(who.error());
        auto snapshot = state_->read_snapshot(*who, false);
        if (!snapshot) return tl::unexpected(snapshot.error());
        if (auto taken = state_->tracking ? state_->drain(sink, catch_up_records) : Result<std::size_t>(0); !taken) {
            return tl::unexpected(taken.error());
        }
        // Others have gone on: what was lost just now is mended before it is held against the index.
        if (state_->lossy_since_ns != 0 && spoilt < max_spoilt_rounds) {
            ++spoilt;
            --round;
            continue;
        }
        const ReconcileOptions how = state_->reconcile_options(*who);
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
