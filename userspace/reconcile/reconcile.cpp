#include "reconcile/reconcile.hpp"

#include <fcntl.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "reconcile/removals.hpp"

namespace fdspan {
namespace {

// Start times from /proc are whole ticks of 10 ms, and both clocks are read apart.
constexpr std::uint64_t start_tolerance_ns = 20'000'000;
// CLOSED is stamped at the entry of close(2) and EXIT before the table goes: a snapshot that begins right behind may
// still see what they ended. Together with its file a description is recognized for longer than without.
constexpr std::uint64_t ending_ns = 1'000'000'000;
constexpr std::uint64_t ending_unknown_ns = 10'000'000;

bool compatible(const Interval& a, const Interval& b) { return a.earliest_ns <= b.latest_ns && b.earliest_ns <= a.latest_ns; }

bool same_start(const Interval& a, const Interval& b) {
    const auto widened = [](Interval interval) {
        interval.earliest_ns -= std::min(interval.earliest_ns, start_tolerance_ns);
        interval.latest_ns += std::min(std::numeric_limits<std::uint64_t>::max() - interval.latest_ns, start_tolerance_ns);
        return interval;
    };
    return compatible(widened(a), b);
}

Interval between(std::uint64_t earliest, std::uint64_t latest) { return Interval::bounded(std::min(earliest, latest), latest); }

std::uint64_t place_key(std::uint32_t serial, std::int32_t fd) {
    return std::uint64_t{serial} << 32 | static_cast<std::uint32_t>(fd);
}

}  // namespace

class Reconciler {
public:
    Reconciler(Index& index, const Snapshot& snapshot, const ReconcileOptions& options, const EventSink& sink)
        : index_(index), snapshot_(snapshot), options_(options), sink_(options.announce ? sink : silence_), report_sink_(sink) {
        sort_rows();
        for (const Index::EndedSlot& ended : index_.ended_slots_) {
            if (ended.at_ns + ending_ns < snapshot.began_ns) continue;
            const std::uint64_t key = place_key(ended.serial, static_cast<std::int32_t>(ended.fd));
            const auto note = [at_ns = ended.at_ns](std::uint64_t& last_ns) { last_ns = std::max(last_ns, at_ns); };
            if (ended.at_ns >= snapshot.began_ns) note(ended_slots_[key]);
            const std::uint64_t behind_ns = ended.has_file != 0 ? ending_ns : ending_unknown_ns;
            if (ended.print != 0 && ended.at_ns + behind_ns >= snapshot.began_ns) note(ended_descriptors_[mix(key) ^ ended.print]);
        }
        for (const Index::EndedTask& ended : index_.ended_tasks_) {
            if (ended.at_ns + ending_ns < snapshot_.began_ns || !snapshot_process_.contains(ended.pid)) continue;
            ended_tasks_.emplace(place_key(static_cast<std::uint32_t>(ended.pid), ended.tid), ended.started);
        }
        uncertain_ = index_.history_cut_ns_ != 0 && index_.history_cut_ns_ >= snapshot.began_ns;
    }

    ReconcileResult run();
    Verification check();

private:
    struct Row {  // a descriptor of the snapshot
        std::uint32_t process;
        pid_t tid;  // 0: the table is its process's own
        std::int32_t fd;
        std::uint32_t at;  // in Snapshot::references
        [[nodiscard]] auto slot() const { return std::tuple(process, tid, fd); }
    };
    struct Group {  // the descriptors of one table, by fd
        const Row* begin = nullptr;
        const Row* end = nullptr;
    };
    enum class Choice : std::uint8_t { same, index, snapshot };

    void sort_rows();
    [[nodiscard]] Reference read(const Row& row) const { return snapshot_.references[row.at]; }
    [[nodiscard]] Group group(std::uint32_t process, pid_t tid);
    [[nodiscard]] bool in_scope(pid_t pid) const {
        return options_.pids.empty() || pids_.contains(pid);
    }
    [[nodiscard]] bool reads(RefKind kind) const { return (options_.kinds & 1U << static_cast<unsigned>(kind)) != 0; }
    [[nodiscard]] bool task_ended(pid_t pid, pid_t tid, const Interval& started) const;

    // The three decisions, shared by run() and check().
    [[nodiscard]] Choice choose(std::uint32_t table, std::int32_t fd, const Index::SlotView& slot, const Reference& row) const;
    [[nodiscard]] bool is_gone(const Index::SlotView& slot) const { return slot.opened.earliest_ns < snapshot_.began_ns; }
    [[nodiscard]] std::uint64_t ended_at(std::uint32_t table, std::int32_t fd, const Reference& row) const;
    [[nodiscard]] bool is_new(std::uint32_t table, std::int32_t fd, const Reference& row) const { return ended_at(table, fd, row) == 0; }
    // The index is believed against a snapshot for what happened since that began; not where a loss may have told it of the wrong
    // table. Then another snapshot has to decide.
    void doubt(std::uint64_t at_ns) {
        if (had_loss_ || at_ns <= index_.doubtful_ns_) result_.uncertain = true;
    }
    [[nodiscard]] bool process_is_gone(const Index::ProcessEntry& entry) const {
        return in_scope(entry.pid) && entry.last_event_ns < snapshot_.began_ns && entry.started.earliest_ns < snapshot_.began_ns;
    }

    [[nodiscard]] bool same_file(std::uint32_t description, const Reference& row) const;
    [[nodiscard]] bool sharers_agree(std::uint32_t process, std::uint32_t table, std::int32_t fd, const Reference* row);
    [[nodiscard]] std::uint32_t writable_table(std::uint32_t process, std::uint32_t table, pid_t tid, std::int32_t fd, const Reference* row);

    void one_process(std::uint32_t number);
    void one_table(std::uint32_t process, pid_t tid, Group rows, const Interval& lacked);
    void held(std::uint32_t number, std::uint32_t process);
    void open(std::uint32_t process, std::uint32_t table, pid_t tid, const Reference& row, const Interval& evidence);
    void close(std::uint32_t process, std::uint32_t table, pid_t tid, std::int32_t fd, const Index::SlotView& slot,
               std::uint64_t latest_ns);
    [[nodiscard]] std::uint32_t description_of(const Reference& row, bool file_only);
    void update(std::uint32_t description, const Reference& row);
    void lost_name(const Removals::Lost& lost);
    void missing_processes();
    void unheld();
    void removal_events();

    void differ(DifferenceKind kind, pid_t pid, pid_t tid, std::int32_t fd, const Index::SlotView* slot, const Reference* row);

    Index& index_;
    const Snapshot& snapshot_;
    const ReconcileOptions& options_;
    const std::unordered_set<pid_t> pids_{options_.pids.begin(), options_.pids.end()};
    const EventSink silence_;
    const EventSink& sink_;
    const EventSink& report_sink_;
    ReconcileResult result_;
    Verification verification_;
    std::vector<Row> rows_;                        // by slot
    std::vector<std::pair<std::size_t, std::size_t>> process_rows_;  // into rows_, by snapshot process
    std::vector<std::vector<std::uint32_t>> held_rows_;  // what is no descriptor, by snapshot process
    std::unordered_map<pid_t, std::uint32_t> snapshot_process_;
    // When they last ended:
    std::unordered_map<std::uint64_t, std::uint64_t> ended_slots_;        // since the snapshot began
    std::unordered_map<std::uint64_t, std::uint64_t> ended_descriptors_;  // with their descriptions, and a little before
    // Of processes that the snapshot shows, by pid and tid: when they started.
    std::unordered_multimap<std::uint64_t, Interval> ended_tasks_;
    std::unordered_set<std::uint32_t> seen_;               // index processes that the snapshot has
    std::vector<Removals::Lost> lost_names_;
    std::unordered_set<std::uint64_t> lost_;  // their descriptions << 1 | whether links are left
    std::unordered_set<Index::FileKey, Index::FileKeyHash> unlinked_;  // the files of those with links left
    std::uint64_t previous_ns_ = 0;  // the snapshot that read the process at hand before this one
    bool uncertain_ = false;
    const bool had_loss_ = index_.loss_last_ns_ != 0;
    std::uint64_t latest_ns_ = snapshot_.ended_ns;  // of the snapshot and of all records that came before it is used
};

void Reconciler::sort_rows() {
    process_rows_.resize(snapshot_.processes.size());
    held_rows_.resize(snapshot_.processes.size());
    for (std::uint32_t i = 0; i < snapshot_.processes.size(); ++i) snapshot_process_[snapshot_.processes[i].pid] = i;
    for (std::uint32_t at = 0; at < snapshot_.references.size(); ++at) {
        const Reference row = snapshot_.references[at];
        if (row.process >= snapshot_.processes.size()) continue;
        if (row.ref != RefKind::fd) held_rows_[row.process].push_back(at);
        else if (row.fd >= 0 && row.fd <= Index::max_fd) rows_.push_back({row.process, row.tid == snapshot_.processes[row.process].pid ? 0 : row.tid, row.fd, at});
    }
    std::sort(rows_.begin(), rows_.end(), [](const Row& a, const Row& b) { return a.slot() < b.slot(); });
    // A slot that was read twice (the iterator restarts after a full buffer): one of them counts.
    rows_.erase(std::unique(rows_.begin(), rows_.end(), [](const Row& a, const Row& b) { return a.slot() == b.slot(); }), rows_.end());
    for (std::size_t at = 0; at < rows_.size();) {
        const std::size_t begin = at;
        while (at < rows_.size() && rows_[at].process == rows_[begin].process) ++at;
        process_rows_[rows_[begin].process] = {begin, at};
    }
}

Reconciler::Group Reconciler::group(std::uint32_t process, pid_t tid) {
    const auto [begin, end] = process_rows_[process];
    const Row* const first = std::lower_bound(rows_.data() + begin, rows_.data() + end, tid, [](const Row& row, pid_t wanted) { return row.tid < wanted; });
    const Row* const last = std::upper_bound(first, std::as_const(rows_).data() + end, tid, [](pid_t wanted, const Row& row) { return wanted < row.tid; });
    return {first, last};
}

bool Reconciler::task_ended(pid_t pid, pid_t tid, const Interval& started) const {
    const auto [first, last] = ended_tasks_.equal_range(place_key(static_cast<std::uint32_t>(pid), tid));
    return std::any_of(first, last, [&](const auto& ended) { return same_start(ended.second, started); });
}

bool Reconciler::same_file(std::uint32_t number, const Reference& row) const {
    const Index::Description& description = index_.descriptions_[number];
    if (description.id != 0 && row.description_id != 0) {
        return description.id == row.description_id &&
               compatible(index_.times_.get(description.opened), row.description_opened) &&
               ((row.valid & field_stat) == 0 || index_.may_be_file(number, kernel_device(row.dev), row.ino));
    }
    if ((description.bits & Index::stat_known) != 0 && (row.valid & field_stat) != 0) {
        return description.ino == row.ino && index_.extra_of(number).dev == kernel_device(row.dev) &&
               index_.type_of(description) == row.type;
    }
    if ((row.valid & field_path) != 0 && (description.path.dir != PathStore::none || description.path.name != 0)) {
        return index_.paths_.equals(description.path, snapshot_.path(row));
    }
    return true;
}

// When what the row shows ended, as far as the index knows; 0: it did not.
std::uint64_t Reconciler::ended_at(std::uint32_t table, std::int32_t fd, const Reference& row) const {
    const std::uint64_t key = place_key(index_.tables_[table].serial, fd);
    // What certainly began at or after that end is another one in its place, whose opening was lost.
    const auto ended = [&](const std::unordered_map<std::uint64_t, std::uint64_t>& ends, std::uint64_t place) -> std::uint64_t {
        const auto found = ends.find(place);
        if (found == ends.end() || (row.opened.is_exact() && row.opened.earliest_ns >= found->second)) return 0;
        return found->second;
    };
    std::uint64_t at_ns = ended(ended_slots_, key);
    if (row.description_id == 0) return at_ns;
    const std::uint64_t ino = (row.valid & field_stat) != 0 ? row.ino : 0;
    at_ns = std::max(at_ns, ended(ended_descriptors_, mix(key) ^ Index::print_of(row.description_id, ino)));
    return std::max(at_ns, ended(ended_descriptors_, mix(key) ^ Index::print_of(row.description_id, 0)));
}

Reconciler::Choice Reconciler::choose(std::uint32_t table, std::int32_t fd, const Index::SlotView& slot, const Reference& row) const {
    // The same file with another exact time is another descriptor in its place: that one's end was lost.
    const bool other_time = slot.opened.is_exact() && row.opened.is_exact() && slot.opened != row.opened;
    if (same_file(slot.description, row) && !other_time) return Choice::same;
    if (slot.opened.earliest_ns >= snapshot_.began_ns) return Choice::index;
    // A hook runs a little before the slot changes, so that a row may show what was there; after a loss the index may be wrong.
    const std::uint64_t ahead_ns = index_.loss_last_ns_ == 0 ? ending_ns : ending_unknown_ns;
    const bool older_row = row.opened.is_exact() && row.opened.latest_ns < slot.opened.earliest_ns;
    if (older_row && slot.opened.earliest_ns + ahead_ns >= snapshot_.began_ns) return Choice::index;
    return is_new(table, fd, row) ? Choice::snapshot : Choice::index;
}

// ---- changing -----------------------------------------------------------------------------------------------------

ReconcileResult Reconciler::run() {
    for (std::uint32_t i = 0; i < snapshot_.processes.size(); ++i) {
        if (in_scope(snapshot_.processes[i].pid)) one_process(i);
    }
    missing_processes();
    unheld();
    removal_events();
    index_.forget_ended(snapshot_.began_ns - std::min(snapshot_.began_ns, ending_ns));
    if (had_loss_) index_.doubtful_ns_ = std::max(index_.doubtful_ns_, latest_ns_);
    if ((options_.pids.empty() || options_.whole_index) && reads(RefKind::fd) && index_.loss_last_ns_ <= snapshot_.began_ns) {
        index_.loss_first_ns_ = index_.loss_last_ns_ = 0;
    }
    if (options_.report && report_sink_) {
        Event event;
        event.kind = EventKind::resynced;
        event.when = between(snapshot_.began_ns, snapshot_.ended_ns);
        index_.scratch_.clear();
        event.strings = &index_.scratch_;
        event.added = result_.added;
        event.ended = result_.ended;
        report_sink_(event);
    }
    return result_;
}

void Reconciler::one_process(std::uint32_t number) {
    const Process& from = snapshot_.processes[number];
    std::uint32_t process = index_.find_process(from.pid);
    if (process != Index::none && !same_start(index_.processes_[process].started, from.started)) {
        const Index::ProcessEntry& other = index_.processes_[process];
        if (other.started.earliest_ns >= snapshot_.began_ns) {  // the row is of the one before
            seen_.insert(process);
            return;
        }
        const Interval when = between(std::max(other.last_event_ns, other.synced_ns),
                                      std::min(from.started.latest_ns, snapshot_.ended_ns));
        const std::uint64_t before = index_.descriptor_count_;
        index_.end_process(process, when, std::nullopt, sink_);
        result_.ended += static_cast<std::uint32_t>(before - index_.descriptor_count_);
        ++result_.processes_ended;
        process = Index::none;
    }
    if (process == Index::none) {
        if (task_ended(from.pid, 0, from.started)) return;
        process = index_.add_process(from.pid);
        Index::ProcessEntry& entry = index_.processes_[process];
        entry.started = from.started;
        entry.table = index_.make_table();
        index_.use_table(entry.table, process, 0);
        ++result_.processes_added;
    }
    seen_.insert(process);
    Index::ProcessEntry& entry = index_.processes_[process];
    latest_ns_ = std::max(latest_ns_, entry.last_event_ns);
    previous_ns_ = entry.synced_ns;
    entry.silent_ns = options_.announce ? 0 : snapshot_.began_ns;
    entry.started.narrow(from.started);
    if (entry.last_event_ns < snapshot_.began_ns || entry.comm.empty()) {
        entry.comm = snapshot_.text(from.comm);
        entry.ppid = from.ppid;
        entry.uid = from.uid;
    }
    if (from.cgroup != 0) entry.cgroup = snapshot_.text(from.cgroup);
    if (from.container != 0) entry.container = snapshot_.text(from.container);
    entry.unreadable = from.unreadable;
    if (from.unreadable) {
        index_.clear_incomplete(entry);
        return;
    }

    if (reads(RefKind::fd)) {
        // A snapshot that read this process and lacked a descriptor, or the process's start: no descriptor is older.
        const std::uint64_t lacked_ns = std::max(entry.synced_ns, entry.born_sharing ? 0 : entry.started.earliest_ns);
        const Interval lacked = between(lacked_ns, snapshot_.ended_ns);
        one_table(process, 0, group(number, 0), lacked);
        std::set<pid_t> tids;
        for (const Index::Thread& thread : entry.threads) {
            if (thread.table != Index::none) tids.insert(thread.tid);
        }
        const auto [begin, end] = process_rows_[number];
        for (std::size_t i = begin; i < end; ++i) {
            const pid_t tid = rows_[i].tid;
            if (tid != 0 && !task_ended(from.pid, tid, from.started)) tids.insert(tid);
        }
        for (const pid_t tid : tids) one_table(process, tid, group(number, tid), lacked);
        entry.synced_ns = std::max(entry.synced_ns, snapshot_.began_ns);
        if (entry.incomplete_ns < snapshot_.began_ns && !result_.uncertain) index_.clear_incomplete(entry);
    }
    held(number, process);
}

// Do all that share the table see the same in this slot? Then the change is about the table, not about the sharing.
bool Reconciler::sharers_agree(std::uint32_t process, std::uint32_t table, std::int32_t fd, const Reference* row) {
    for (const Index::TableUser& user : index_.tables_[table].users) {
        if (user.process == process) continue;
        const auto other = snapshot_process_.find(index_.processes_[user.process].pid);
        if (other == snapshot_process_.end() || snapshot_.processes[other->second].unreadable) continue;
        const Group rows = group(other->second, user.tid);
        const Row* const at = std::lower_bound(rows.begin, rows.end, fd, [](const Row& a, std::int32_t wanted) { return a.fd < wanted; });
        const bool has = at != rows.end && at->fd == fd;
        if (has != (row != nullptr)) return false;
        if (row == nullptr) continue;
        const Reference theirs = read(*at);
        if (row->description_id != theirs.description_id || row->ino != theirs.ino || !(row->dev == theirs.dev)) return false;
    }
    return true;
}

std::uint32_t Reconciler::writable_table(std::uint32_t process, std::uint32_t table, pid_t tid, std::int32_t fd, const Reference* row) {
    if (index_.tables_[table].users.size() == 1 || sharers_agree(process, table, fd, row)) return table;
    return index_.unshare_table(process, tid, 0);
}

void Reconciler::one_table(std::uint32_t process, pid_t tid, Group rows, const Interval& lacked) {
    Index::ProcessEntry& entry = index_.processes_[process];
    std::uint32_t table = index_.table_of(entry, tid);
    if (tid != 0) {
        const Index::Thread* const thread = index_.find_thread(entry, tid);
        if (thread == nullptr || thread->table == Index::none) {
            table = index_.make_table();
            index_.set_thread_table(entry, tid, table);
        }
    }
    std::vector<std::pair<std::int32_t, Index::SlotView>> slots;
    index_.for_each_slot(table, [&](std::int32_t fd, const Index::SlotView& slot) { slots.emplace_back(fd, slot); });

    const Row* row = rows.begin;
    auto slot = slots.begin();
    while (true) {
        // A row whose description took the place of another one has ended that in all its slots.
        while (slot != slots.end() && !index_.slot(table, slot->first, slot->second)) ++slot;
        if (row == rows.end && slot == slots.end()) break;
        if (slot == slots.end() || (row != rows.end && row->fd < slot->first)) {
            const Reference added = read(*row++);
            if (const std::uint64_t ended_ns = ended_at(table, added.fd, added); ended_ns != 0) {
                doubt(ended_ns);
                continue;
            }
            if (uncertain_ && !(added.opened.is_exact() && added.opened.latest_ns > index_.history_cut_ns_)) {
                result_.uncertain = true;
                continue;
            }
            table = writable_table(process, table, tid, added.fd, &added);
            open(process, table, tid, added, lacked);
        } else if (row == rows.end || slot->first < row->fd) {
            const auto& [fd, view] = *slot++;
            if (!is_gone(view)) {
                doubt(view.opened.earliest_ns);
                continue;
            }
            table = writable_table(process, table, tid, fd, nullptr);
            close(process, table, tid, fd, view, snapshot_.ended_ns);
        } else {
            const Reference there = read(*row++);
            const auto& [fd, view] = *slot++;
            switch (choose(table, fd, view, there)) {
                case Choice::index: doubt(view.opened.earliest_ns); break;
                case Choice::same: {
                    update(view.description, there);
                    Interval opened = view.opened;
                    opened.narrow(there.opened);
                    if (opened != view.opened) index_.set_slot_opened(table, fd, opened);
                    if ((there.valid & field_fdinfo) != 0 && entry.last_event_ns < snapshot_.began_ns) {
                        const bool cloexec = (there.flags & O_CLOEXEC) != 0;
                        if (cloexec != view.cloexec) index_.set_slot_cloexec(table, fd, cloexec);
                    }
                    break;
                }
                case Choice::snapshot: {
                    const std::uint64_t alive_ns = index_.alive_since(entry, view);
                    table = writable_table(process, table, tid, fd, &there);
                    close(process, table, tid, fd, view, std::min(there.opened.latest_ns, snapshot_.ended_ns));
                    Interval evidence = lacked;
                    evidence.narrow(between(alive_ns, snapshot_.ended_ns));
                    open(process, table, tid, there, evidence);
                    break;
                }
            }
        }
    }
    // A thread without a row is gone, or holds nothing: either way it needs no table.
    if (tid != 0 && rows.begin == rows.end && entry.last_event_ns < snapshot_.began_ns) {
        if (index_.tables_[table].pages.empty()) index_.end_thread(process, tid, between(entry.synced_ns, snapshot_.ended_ns), false, {});
    }
}

void Reconciler::open(std::uint32_t process, std::uint32_t table, pid_t tid, const Reference& row, const Interval& evidence) {
    const std::uint32_t description = description_of(row, false);
    if (description == Index::none) return;
    Interval opened = row.opened;
    opened.narrow(evidence);
    if (opened.latest_ns > snapshot_.ended_ns) opened.latest_ns = snapshot_.ended_ns;
    const bool cloexec = (row.flags & O_CLOEXEC) != 0;
    index_.fill_slot(table, row.fd, description, cloexec, opened);
    ++result_.added;
    index_.emit_slot(EventKind::opened, opened, process, tid, row.fd, {description, cloexec, opened}, sink_);
}

void Reconciler::close(std::uint32_t process, std::uint32_t table, pid_t tid, std::int32_t fd, const Index::SlotView& slot,
                       std::uint64_t latest_ns) {
    const Interval when = between(index_.alive_since(index_.processes_[process], slot), latest_ns);
    const std::uint32_t description = index_.close_slot(table, fd, slot, when, process, tid, sink_);
    if (!index_.end_held(description, when, process, sink_)) index_.lost_last_ref(description, false, when.earliest_ns, when.earliest_ns);
    ++result_.ended;
}

// 0: the row is about something that ended since.
std::uint32_t Reconciler::description_of(const Reference& row, bool file_only) {
    std::uint32_t known = index_.find_description(row.description_id);
    if (known != Index::none) {
        const Interval span = index_.times_.get(index_.descriptions_[known].opened);
        const bool same = (row.valid & field_stat) == 0 || index_.may_be_file(known, kernel_device(row.dev), row.ino);
        if (same && compatible(span, row.description_opened)) {
            update(known, row);
            return known;
        }
        if (span.earliest_ns > row.description_opened.latest_ns || span.earliest_ns >= snapshot_.began_ns) return Index::none;
        const std::uint64_t before = index_.descriptor_count_;
        index_.end_replaced_description(known, std::min(row.description_opened.latest_ns, snapshot_.ended_ns), sink_);
        result_.ended += static_cast<std::uint32_t>(before - index_.descriptor_count_);
    }
    const std::uint32_t dev = kernel_device(row.dev);
    const std::string text = (row.valid & field_path) != 0 ? snapshot_.path(row) : std::string();
    if (file_only && row.description_id == 0 && (row.valid & field_stat) != 0) {
        // Without an id one entry stands for all mappings of a file.
        for (std::uint32_t number = index_.by_inode_.head(Index::file_hash(dev, row.ino)); number != Index::none;
             number = index_.descriptions_[number].next_by_inode) {
            const Index::Description& candidate = index_.descriptions_[number];
            if ((candidate.bits & Index::file_only) != 0 && candidate.ino == row.ino && index_.extra_of(number).dev == dev &&
                index_.paths_.equals(candidate.path, text)) {
                update(number, row);
                return number;
            }
        }
    }
    Index::FileFacts facts;
    facts.id = row.description_id;
    facts.opened = row.description_opened;
    if (facts.opened.latest_ns > snapshot_.ended_ns) facts.opened.latest_ns = snapshot_.ended_ns;
    facts.ino = row.ino;
    facts.dev = dev;
    facts.rdev = kernel_device(row.rdev);
    facts.nlink = row.nlink;
    facts.flags = row.flags & ~static_cast<std::uint32_t>(O_CLOEXEC);
    facts.type = row.type;
    facts.name = row.name;
    facts.seen_ns = snapshot_.ended_ns;
    facts.file_only = file_only && row.description_id == 0;
    facts.stat_known = (row.valid & field_stat) != 0;
    facts.flags_known = (row.valid & field_fdinfo) != 0;
    facts.label_by_ino = index_.is_label_of(text, row.type, row.ino);
    if (!facts.label_by_ino) facts.path = index_.paths_.intern(text);
    // overlayfs' files have two descriptions, one of what runs and one of what is mapped: both lose the name in one event.
    const bool pending = unlinked_.contains({dev, row.ino});
    // Held by somebody new to the index, who had it before somebody was seen taking its name.
    const bool unlinked = facts.name == NameState::gone && facts.stat_known && options_.announce && options_.removals != nullptr &&
                          options_.removals->find_exactly(row.dev, row.ino, text, std::max(previous_ns_, facts.opened.earliest_ns)) &&
                          (pending || index_.set_links(row.dev, row.ino, row.nlink, snapshot_.began_ns) == 0);
    if (unlinked) facts.name = NameState::named;
    const bool deleted = facts.name == NameState::deleted && facts.stat_known;
    const bool news = deleted && options_.announce && !index_.deleted_.contains({dev, row.ino});
    const std::uint32_t number = index_.add_description(facts);
    if (unlinked) {
        if (!pending) lost_name({number, facts.id, previous_ns_, snapshot_.ended_ns, row.nlink, row.allocated, true});
    } else if (news) {
        index_.deleted_[{dev, row.ino}].told = false;
        // How many links it had nobody knows.
        lost_name({number, facts.id, previous_ns_, snapshot_.ended_ns, 0, row.allocated, row.type != FileType::dir});
    } else if (deleted) {
        index_.deleted_[{dev, row.ino}].allocated = row.allocated;
    }
    return number;
}

void Reconciler::lost_name(const Removals::Lost& lost) {
    // Each descriptor of a description shows it.
    if (!lost_.insert(std::uint64_t{lost.description} << 1 | (lost.nlink != 0 ? 1 : 0)).second) return;
    lost_names_.push_back(lost);
    if (lost.nlink != 0) unlinked_.insert(index_.file_of(lost.description));
}

void Reconciler::update(std::uint32_t number, const Reference& row) {
    if (index_.descriptions_[number].id == 0 && row.description_id != 0 &&
        index_.find_description(row.description_id) == Index::none) {
        index_.set_description_id(number, row.description_id);
    }
    Interval opened = index_.times_.get(index_.descriptions_[number].opened);
    opened.narrow(row.description_opened);
    index_.set_description_opened(number, opened);
    if ((row.valid & field_stat) != 0) {
        const Index::Description& description = index_.descriptions_[number];
        if ((description.bits & Index::stat_known) == 0) index_.set_file(number, kernel_device(row.dev), row.ino, row.type);
        const bool held_ref = row.ref != RefKind::fd;
        const bool flags_known = !held_ref && (row.valid & field_fdinfo) != 0;
        const bool fd_known = (description.bits & Index::flags_known) != 0;
        const Index::Extra extra = index_.extra_of(number);
        const std::uint32_t flags = flags_known ? row.flags & ~static_cast<std::uint32_t>(O_CLOEXEC) : extra.flags;
        if (flags_known && !fd_known) index_.descriptions_[number].bits |= Index::flags_known;
        // A removal seen while the snapshot was read is newer than its rows. The hooks come a little before the name goes; and a name
        // that went does not come back to who has it open.
        const NameState known = index_.name_of(description);
        const bool old_news = (known == NameState::deleted && row.nlink != 0 && index_.links_ns_ >= snapshot_.began_ns) ||
                              (known == NameState::gone && row.name == NameState::named && index_.links_ns_ + ending_ns >= snapshot_.began_ns);
        if (!old_news) {
            if (extra.flags != flags || extra.rdev != kernel_device(row.rdev) || extra.nlink != row.nlink) {
                index_.set_small(number, extra.dev, flags, kernel_device(row.rdev), row.nlink);
            }
            const NameState before = index_.name_of(description);
            if (row.name != before && row.name != NameState::unknown) {
                const bool unlinked = row.name == NameState::gone && before == NameState::named;
                if (unlinked || (row.name == NameState::deleted && Index::had_name(before))) {
                    const bool linked = row.type != FileType::dir && (extra.nlink > 1 || before == NameState::gone);
                    lost_name({number, description.id, previous_ns_, snapshot_.ended_ns, row.nlink, row.allocated, linked});
                } else {
                    index_.set_name_state(number, row.name);
                }
            }
        }
    }
    if ((row.valid & field_path) != 0) {
        const Index::Description& description = index_.descriptions_[number];
        const std::string text = snapshot_.path(row);
        const bool by_ino = index_.is_label_of(text, index_.type_of(description), description.ino);
        const bool was_by_ino = (description.bits & Index::label_by_ino) != 0;
        if (by_ino != was_by_ino || (!by_ino && !index_.paths_.equals(description.path, text))) {
            const bool moved = !by_ino && options_.removals != nullptr && options_.removals->moved_since(snapshot_.began_ns);
            if (!moved || !options_.removals->relabel(number)) index_.set_description_path(number, by_ino ? PathStore::Path{} : index_.paths_.intern(text), by_ino);
        }
    }
}

// mem, exe, cwd, root: the rows replace what is there, except that what stays keeps its time.
void Reconciler::held(std::uint32_t number, std::uint32_t process) {
    const Index::ProcessEntry& entry = index_.processes_[process];
    const bool other_image = entry.exec_ns + ending_ns >= snapshot_.began_ns && entry.exec_ns != 0;
    const auto wanted = [&](RefKind kind) {
        if (kind == RefKind::fd || !reads(kind)) return false;
        return !other_image || (kind != RefKind::mem && kind != RefKind::exe);
    };
    using Key = std::pair<RefKind, std::uint64_t>;
    std::multimap<Key, Reference> rows;
    for (const std::uint32_t at : held_rows_[number]) {
        const Reference row = snapshot_.references[at];
        if (wanted(row.ref)) rows.emplace(Key{row.ref, row.ref == RefKind::mem ? row.map_start : 0}, row);
    }
    std::uint32_t* link = &index_.processes_[process].first_held;
    while (*link != Index::none) {
        Index::Held& held = index_.held_[*link];
        if (!wanted(held.kind)) {
            link = &held.next_of_process;
            continue;
        }
        // Several under one key: threads with a cwd and root of their own.
        const auto [first, last] = rows.equal_range(Key{held.kind, held.map_start});
        const auto row = std::find_if(first, last, [&](const auto& entry) { return same_file(held.description, entry.second); });
        if (row != last) {
            update(held.description, row->second);
            Interval opened = index_.times_.get(held.opened);
            opened.narrow(row->second.opened);
            index_.times_.replace(held.opened, opened);
            held.map_end = row->second.map_end;
            held.map_flags = row->second.map_flags;
            rows.erase(row);
            link = &held.next_of_process;
            continue;
        }
        const std::uint32_t description = index_.remove_held(*link, *link);
        const std::uint64_t since_ns = std::min(previous_ns_, snapshot_.began_ns - 1);
        if (!index_.end_held(description, between(since_ns, snapshot_.ended_ns), process, sink_)) {
            index_.lost_last_ref(description, false, since_ns, since_ns);
        }
    }
    for (const auto& [key, row] : rows) {
        const std::uint32_t description = description_of(row, true);
        if (description == Index::none) continue;
        const std::uint32_t added = index_.add_held(process, row, description);
        Interval opened = row.opened;
        if (opened.latest_ns > snapshot_.ended_ns) opened.latest_ns = snapshot_.ended_ns;
        index_.times_.replace(index_.held_[added].opened, opened);
    }
}

void Reconciler::missing_processes() {
    std::vector<std::pair<pid_t, std::uint32_t>> missing;
    for (const auto& [pid, process] : index_.by_pid_) {
        if (!seen_.contains(process) && process_is_gone(index_.processes_[process])) missing.emplace_back(pid, process);
    }
    std::sort(missing.begin(), missing.end());
    for (const auto& [pid, process] : missing) {
        const Index::ProcessEntry& entry = index_.processes_[process];
        const std::uint64_t alive_ns = std::max({entry.last_event_ns, entry.synced_ns, entry.started.earliest_ns});
        const std::uint64_t before = index_.descriptor_count_;
        index_.end_process(process, between(alive_ns, snapshot_.ended_ns), std::nullopt, sink_);
        result_.ended += static_cast<std::uint32_t>(before - index_.descriptor_count_);
        ++result_.processes_ended;
    }
}

// Descriptions that nothing known holds, and that this snapshot, which saw everything, did not show either.
void Reconciler::unheld() {
    if (options_.releases_come || !options_.pids.empty() || !reads(RefKind::fd) || !reads(RefKind::mem) ||
        !reads(RefKind::exe) || snapshot_.gaps.unreadable_processes != 0 || result_.uncertain) {
        return;
    }
    std::deque<Index::Unheld> waiting;
    waiting.swap(index_.unheld_);
    for (const Index::Unheld& unheld : waiting) {
        const Index::Description& description = index_.descriptions_[unheld.description];
        if ((description.bits & Index::is_unheld) == 0 || description.id != unheld.id) continue;
        if (unheld.since_ns >= snapshot_.began_ns) {
            index_.unheld_.push_back(unheld);
            continue;
        }
        // Where the kernel said that somebody still holds it (in flight over a socket, say), nothing tells that it ended.
        const bool silent = (description.bits & Index::kept) != 0;
        if (!silent) ++result_.released;
        index_.end_description(unheld.description, between(unheld.earliest_ns, snapshot_.ended_ns), Index::none, 0, -1,
                               silent ? silence_ : sink_);
    }
}

void Reconciler::removal_events() {
    for (Removals::Lost& lost : lost_names_) {
        const Index::Description& description = index_.descriptions_[lost.description];
        if ((description.bits & Index::in_use) == 0) continue;
        if (options_.removals != nullptr) {
            // One that removed this name before the file was there took another file.
            lost.named_ns = std::max(lost.named_ns, index_.times_.get(description.opened).earliest_ns);
            options_.removals->lost(lost, sink_);
            continue;
        }
        if (index_.removal_is_told(lost.description, lost.nlink)) continue;  // of another description of the file
        RemovalNote note;
        note.when = between(lost.named_ns, snapshot_.ended_ns);
        if (lost.nlink != 0) {
            index_.note_unlinked(lost.description, lost.nlink, note, sink_);
            continue;
        }
        note.allocated = lost.allocated;
        index_.note_deleted(device_number(index_.extra_of(lost.description).dev), description.ino, note, sink_);
    }
}

// ---- only looking -------------------------------------------------------------------------------------------------

void Reconciler::differ(DifferenceKind kind, pid_t pid, pid_t tid, std::int32_t fd, const Index::SlotView* slot, const Reference* row) {
    switch (kind) {
        case DifferenceKind::phantom: ++verification_.phantoms; break;
        case DifferenceKind::gap: ++verification_.gaps; break;
        case DifferenceKind::other_file: ++verification_.other_files; break;
        case DifferenceKind::other_time: ++verification_.other_times; break;
    }
    if (verification_.differences.size() >= Verification::max_differences) return;
    Difference difference;
    difference.kind = kind;
    difference.pid = pid;
    difference.tid = tid;
    difference.fd = fd;
    if (slot != nullptr) {
        Reference shown;
        index_.scratch_.clear();
        index_.fill_description(slot->description, shown);
        difference.index_path = index_.scratch_.get(shown.path.name);
        difference.index_opened = slot->opened;
    }
    if (row != nullptr) {
        difference.snapshot_path = snapshot_.path(*row);
        difference.snapshot_opened = row->opened;
    }
    verification_.differences.push_back(std::move(difference));
}

Verification Reconciler::check() {
    const auto compare = [&](pid_t pid, pid_t tid, std::uint32_t table, Group rows) {
        const Row* row = rows.begin;
        const auto gap = [&](const Reference& lacking) {
            if (table == Index::none || is_new(table, lacking.fd, lacking)) {
                differ(DifferenceKind::gap, pid, tid, lacking.fd, nullptr, &lacking);
            }
        };
        if (table != Index::none) {
            index_.for_each_slot(table, [&](std::int32_t fd, const Index::SlotView& slot) {
                while (row != rows.end && row->fd < fd) gap(read(*row++));
                if (row == rows.end || row->fd != fd) {
                    if (is_gone(slot)) differ(DifferenceKind::phantom, pid, tid, fd, &slot, nullptr);
                    return;
                }
                const Reference there = read(*row++);
                ++verification_.compared;
                if (choose(table, fd, slot, there) == Choice::snapshot) {
                    differ(same_file(slot.description, there) ? DifferenceKind::other_time : DifferenceKind::other_file, pid, tid, fd,
                           &slot, &there);
                }
            });
        }
        while (row != rows.end) gap(read(*row++));
    };

    for (std::uint32_t i = 0; i < snapshot_.processes.size(); ++i) {
        const Process& from = snapshot_.processes[i];
        if (!in_scope(from.pid)) continue;
        std::uint32_t process = index_.find_process(from.pid);
        if (process != Index::none && !same_start(index_.processes_[process].started, from.started)) {
            if (index_.processes_[process].started.earliest_ns >= snapshot_.began_ns) {
                seen_.insert(process);
                continue;
            }
            process = Index::none;
        }
        if (process != Index::none) seen_.insert(process);
        if (from.unreadable || (process == Index::none && task_ended(from.pid, 0, from.started))) continue;
        std::set<pid_t> tids{0};
        const auto [begin, end] = process_rows_[i];
        for (std::size_t at = begin; at < end; ++at) {
            const pid_t tid = rows_[at].tid;
            if (!(tid != 0 && task_ended(from.pid, tid, from.started))) tids.insert(tid);
        }
        if (process != Index::none) {
            for (const Index::Thread& thread : index_.processes_[process].threads) {
                if (thread.table != Index::none) tids.insert(thread.tid);
            }
        }
        for (const pid_t tid : tids) {
            std::uint32_t table = Index::none;
            if (process != Index::none) {
                Index::ProcessEntry& entry = index_.processes_[process];
                const Index::Thread* const thread = tid != 0 ? index_.find_thread(entry, tid) : nullptr;
                if (tid == 0) table = entry.table;
                else if (thread != nullptr) table = thread->table;
            }
            compare(from.pid, tid, table, group(i, tid));
        }
    }
    for (const auto& [pid, process] : index_.by_pid_) {
        const Index::ProcessEntry& entry = index_.processes_[process];
        if (seen_.contains(process) || !process_is_gone(entry)) continue;
        const auto phantoms = [&, pid = pid](std::uint32_t table, pid_t tid) {
            index_.for_each_slot(table, [&](std::int32_t fd, const Index::SlotView& slot) {
                differ(DifferenceKind::phantom, pid, tid, fd, &slot, nullptr);
            });
        };
        phantoms(entry.table, 0);
        for (const Index::Thread& thread : entry.threads) {
            if (thread.table != Index::none) phantoms(thread.table, thread.tid);
        }
    }
    return std::move(verification_);
}

std::size_t index_bytes_for(const Snapshot& snapshot) {
    // Of an open descriptor with a description and a name of its own, measured; what is longer than most names comes on top.
    constexpr std::size_t reference_bytes = 160, usual_name_bytes = 32;
    std::size_t bytes = snapshot.references.size() * reference_bytes;
    std::unordered_set<std::string_view> seen;
    for (const Reference& row : snapshot.references) {
        std::string_view dir = snapshot.text(row.path.dir), name = snapshot.text(row.path.name);
        if (row.path.dir == 0 && name.starts_with('/')) {
            dir = name.substr(0, name.rfind('/') + 1);
            name.remove_prefix(dir.size());
        }
        seen.insert(dir);
        bytes += std::max(name.size(), usual_name_bytes) - usual_name_bytes;
    }
    // In order, each directory adds to the tree what the one before it does not have.
    std::vector<std::string_view> dirs(seen.begin(), seen.end());
    std::sort(dirs.begin(), dirs.end());
    std::string_view before;
    for (const std::string_view dir : dirs) {
        const auto differ = std::mismatch(before.begin(), before.end(), dir.begin(), dir.end()).second;
        const std::size_t common = dir.substr(0, static_cast<std::size_t>(differ - dir.begin())).rfind('/') + 1;  // 0: none
        const std::string_view added = dir.substr(common);
        bytes += added.size() + static_cast<std::size_t>(std::count(added.begin(), added.end(), '/')) * PathStore::directory_bytes;
        before = dir;
    }
    return bytes;
}

ReconcileResult reconcile(Index& index, const Snapshot& snapshot, const ReconcileOptions& options, const EventSink& sink) {
    return Reconciler(index, snapshot, options, sink).run();
}

Verification verify(const Index& index, const Snapshot& snapshot, const ReconcileOptions& options) {
    // check() changes nothing but the index's scratch strings.
    return Reconciler(const_cast<Index&>(index), snapshot, options, {}).check();
}

}  // namespace fdspan
