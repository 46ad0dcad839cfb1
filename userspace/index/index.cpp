#include "index/index.hpp"

#include <fcntl.h>

#include <algorithm>
#include <bit>

namespace fdspan {
namespace {

// Length of a span that began in `from` and ended in `to`.
Interval length(const Interval& from, const Interval& to) {
    const std::uint64_t shortest = to.earliest_ns > from.latest_ns ? to.earliest_ns - from.latest_ns : 0;
    std::uint64_t longest = std::numeric_limits<std::uint64_t>::max();
    if (from.has_earliest()) longest = to.latest_ns > from.earliest_ns ? to.latest_ns - from.earliest_ns : 0;
    Interval out = Interval::bounded(shortest, std::max(shortest, longest));
    if (from.is_exact() && to.is_exact()) out.source = TimeSource::kernel;
    return out;
}

// A record's description interval; both 0 means that the kernel did not know.
template <class Raw>
Interval description_time(const Raw& raw) {
    const std::uint64_t earliest = raw.description_earliest_ns;
    const std::uint64_t latest = raw.description_latest_ns;
    if (latest == 0) return Interval::bounded(Interval::unknown_earliest, raw.header.boottime_ns);
    return earliest == latest ? Interval::exact(latest) : Interval::bounded(earliest, latest);
}

// Can both be about the same moment?
bool compatible(const Interval& a, const Interval& b) { return a.earliest_ns <= b.latest_ns && b.earliest_ns <= a.latest_ns; }

Interval between(std::uint64_t earliest, std::uint64_t latest) { return Interval::bounded(std::min(earliest, latest), latest); }

}  // namespace

Index::Index() : text_() {}
Index::~Index() = default;

void Index::apply(const Record& record, const EventSink& sink) {
    std::visit(
        [&](const auto& view) {
            using View = std::decay_t<decltype(view)>;
            if constexpr (std::is_same_v<View, OpenedRecord>) apply_opened(view, sink);
            else if constexpr (std::is_same_v<View, ClosedRecord>) apply_closed(view, sink);
            else if constexpr (std::is_same_v<View, ReleasedRecord>) apply_released(view, sink);
            else if constexpr (std::is_same_v<View, ForkRecord>) apply_fork(view, sink);
            else if constexpr (std::is_same_v<View, ExecRecord>) apply_exec(view, sink);
            else if constexpr (std::is_same_v<View, ExitRecord>) apply_exit(view, sink);
            else if constexpr (std::is_same_v<View, UnsharedRecord>) apply_unshared(view, sink);
            // UNLINKED: Removals (reconcile/) finds out which file that was.
        },
        record);
}

// ---- records ------------------------------------------------------------------------------------------------------

void Index::apply_opened(const OpenedRecord& record, const EventSink& sink) {
    const fdspan_opened& raw = *record.raw;
    const std::uint64_t now_ns = raw.header.boottime_ns;
    const std::uint32_t process = process_of(raw.header);
    if (process == none) return;
    ProcessEntry& entry = processes_[process];
    if (raw.fd > max_fd) {
        set_incomplete(entry, now_ns);
        return;
    }
    const auto tid = static_cast<pid_t>(raw.header.tid);
    const std::uint32_t table = table_of(entry, tid);
    const pid_t shown_tid = table == entry.table ? 0 : tid;
    const Interval description_opened = description_time(raw);
    // A description's first descriptor begins with it.
    const bool first = raw.how == FDSPAN_HOW_OPEN && description_opened.is_exact();
    const Interval opened = first ? description_opened : Interval::exact(now_ns);

    SlotView known;
    if (slot(table, raw.fd, known)) {
        Description& description = descriptions_[known.description];
        const Interval known_span = times_.get(description.opened);
        if (raw.description_id != 0 && description.id == raw.description_id && compatible(known_span, description_opened) &&
            may_be_file(known.description, raw.dev, raw.ino)) {
            const bool same = raw.how == FDSPAN_HOW_OPEN || known.opened.contains(opened.latest_ns);
            if (same) {
                // A snapshot was faster than this record.
                Interval narrowed = known_span;
                narrowed.narrow(description_opened);
                set_description_opened(known.description, narrowed);
                narrowed = known.opened;
                narrowed.narrow(opened);
                set_slot_opened(table, raw.fd, narrowed);
                if (entry.silent_ns != 0 && now_ns >= entry.silent_ns && slot(table, raw.fd, known)) {
                    emit_slot(EventKind::opened, known.opened, process, shown_tid, raw.fd, known, sink);
                }
                return;
            }
        }
        if (known.opened.earliest_ns > now_ns) {
            ++stale_records_;
            return;
        }
        const Interval when = between(alive_since(entry, known), opened.latest_ns);
        lost_last_ref(close_slot(table, raw.fd, known, when, process, shown_tid, sink), false, when.earliest_ns, when.earliest_ns);
    }

    std::uint32_t description = find_description(raw.description_id);
    if (description != none && (!compatible(times_.get(descriptions_[description].opened), description_opened) ||
                                !may_be_file(description, raw.dev, raw.ino))) {
        end_replaced_description(description, description_opened.latest_ns, sink);
        description = none;
    }
    const FileType type = file_type(raw.mode, raw.fs_magic);
    if (description == none) {
        FileFacts facts;
        facts.id = raw.description_id;
        facts.opened = description_opened;
        facts.ino = raw.ino;
        facts.dev = raw.dev;
        facts.nlink = raw.nlink;
        facts.flags = raw.open_flags & ~static_cast<std::uint32_t>(O_CLOEXEC);
        facts.type = type;
        facts.name = name_state(record);
        facts.stat_known = true;
        facts.flags_known = true;
        facts.seen_ns = raw.header.boottime_ns;
        if (type == FileType::anon || (raw.path_flags & FDSPAN_PATH_LABEL) != 0) {
            assemble_path(record, text_);
            facts.path = paths_.intern(text_);
        } else if ((raw.path_flags & FDSPAN_PATH_NONE) != 0) {
            facts.label_by_ino = type == FileType::fifo || type == FileType::sock;
        } else {
            facts.path = paths_.intern_names(record.names, (raw.path_flags & FDSPAN_PATH_CUT) != 0);
        }
        description = add_description(facts);
    } else {
        Interval narrowed = times_.get(descriptions_[description].opened);
        narrowed.narrow(description_opened);
        set_description_opened(description, narrowed);
    }
    fill_slot(table, raw.fd, description, raw.cloexec != 0, opened);
    SlotView filled{description, raw.cloexec != 0, opened};
    emit_slot(EventKind::opened, opened, process, shown_tid, raw.fd, filled, sink);

    EarlyClose& early = early_closes_[mix(std::uint64_t{tables_[table].serial} << 32 | static_cast<std::uint32_t>(raw.fd)) %
                                      early_closes_.size()];
    if (first && early.description_id == raw.description_id && early.description_id != 0 &&
        early.serial == tables_[table].serial && early.fd == raw.fd && early.at_ns >= opened.latest_ns) {
        const Interval when = Interval::exact(early.at_ns);
        close_slot(table, raw.fd, filled, when, process, shown_tid, sink);
        if (early.last && descriptions_[description].first_ref == none) {
            end_description(description, when, process, shown_tid, raw.fd, sink);
        } else {
            lost_last_ref(description, true, early.at_ns, early.at_ns);
        }
        early = EarlyClose{};
    }
}

void Index::apply_closed(const ClosedRecord& record, const EventSink& sink) {
    const fdspan_closed& raw = *record.raw;
    const std::uint64_t now_ns = raw.header.boottime_ns;
    const std::uint32_t process = process_of(raw.header);
    if (process == none) return;
    ProcessEntry& entry = processes_[process];
    const auto tid = static_cast<pid_t>(raw.header.tid);
    const std::uint32_t table = table_of(entry, tid);
    const pid_t shown_tid = table == entry.table ? 0 : tid;
    const Interval when = Interval::exact(now_ns);
    const Interval description_opened = description_time(raw);

    SlotView known;
    bool filled = slot(table, raw.fd, known);
    if (filled && known.opened.earliest_ns > now_ns) {
        ++stale_records_;
        return;
    }
    if (filled) {
        const Description& description = descriptions_[known.description];
        const bool other = raw.description_id != 0 && description.id != 0 &&
                           (description.id != raw.description_id ||
                            !compatible(times_.get(description.opened), description_opened));
        if (other) {
            // What the index has in this slot went unseen before what is closed now came.
            const Interval before = between(alive_since(entry, known), now_ns);
            lost_last_ref(close_slot(table, raw.fd, known, before, process, shown_tid, sink), false, before.earliest_ns, before.earliest_ns);
            filled = false;
        }
    }
    std::uint32_t description = none;
    if (filled) {
        description = known.description;
        if (descriptions_[description].id == 0 && raw.description_id != 0 && find_description(raw.description_id) == none) {
            set_description_id(description, raw.description_id);
        }
        Interval narrowed = times_.get(descriptions_[description].opened);
        narrowed.narrow(description_opened);
        set_description_opened(description, narrowed);
        close_slot(table, raw.fd, known, when, process, shown_tid, sink);
    } else {
        ++unknown_closes_;
        EarlyClose& early = early_closes_[mix(std::uint64_t{tables_[table].serial} << 32 | static_cast<std::uint32_t>(raw.fd)) %
                                          early_closes_.size()];
        early = {now_ns, raw.description_id, tables_[table].serial, raw.fd, raw.last != 0};
        remember_slot(table, raw.fd, now_ns, print_of(raw.description_id, 0), false);
        description = find_description(raw.description_id);
        if (description == none || !compatible(times_.get(descriptions_[description].opened), description_opened)) return;
    }
    if (descriptions_[description].first_ref != none) return;
    if (raw.last != 0) end_description(description, when, process, shown_tid, raw.fd, sink, record.unlinked);
    else lost_last_ref(description, true, now_ns, now_ns);
}

void Index::apply_released(const ReleasedRecord& record, const EventSink& sink) {
    const fdspan_closed& raw = *record.raw;
    const std::uint64_t now_ns = raw.header.boottime_ns;
    const std::uint32_t description = find_description(raw.description_id);
    if (description == none) return;
    Interval narrowed = times_.get(descriptions_[description].opened);
    if (narrowed.earliest_ns > now_ns || !compatible(narrowed, description_time(raw))) {
        ++stale_records_;
        return;
    }
    narrowed.narrow(description_time(raw));
    set_description_opened(description, narrowed);
    // Whoever runs the last put may be anybody (a kernel thread): no process is made for it.
    const std::uint32_t process = find_process(static_cast<pid_t>(raw.header.pid));
    detach_description(description, now_ns, process, sink);
    end_description(description, Interval::exact(now_ns), process, 0, raw.fd, sink, record.unlinked);
}

void Index::apply_fork(const ForkRecord& record, const EventSink& sink) {
    const fdspan_fork& raw = *record.raw;
    const std::uint64_t now_ns = raw.header.boottime_ns;
    const std::uint32_t parent = process_of(raw.header);
    if (parent == none) return;
    ProcessEntry& from = processes_[parent];
    const auto tid = static_cast<pid_t>(raw.header.tid);
    const auto child_pid = static_cast<pid_t>(raw.child_pid);
    const auto child_tid = static_cast<pid_t>(raw.child_tid);
    const std::uint32_t table = table_of(from, tid);

    if (child_pid == from.pid) {
        if (find_thread(from, child_tid) != nullptr) return;
        from.threads.push_back({child_tid, none});
        if (raw.shares_table == 0) set_thread_table(from, child_tid, copy_table(table, now_ns));
        else if (table != from.table) set_thread_table(from, child_tid, table);
        return;
    }
    const Interval started = Interval::exact(raw.child_started_ns);
    if (const std::uint32_t known = find_process(child_pid); known != none) {
        ProcessEntry& child = processes_[known];
        if (compatible(child.started, started)) {
            // A snapshot or the child's own records were faster.
            child.started.narrow(started);
            return;
        }
        end_process(known, between(std::max(child.last_event_ns, child.synced_ns), now_ns), std::nullopt, sink);
    }
    const std::uint32_t child = add_process(child_pid);
    ProcessEntry& entry = processes_[child];
    entry.ppid = from.pid;
    entry.uid = raw.uid;
    entry.comm = comm_text(raw.comm);
    entry.cgroup = from.cgroup;
    entry.container = from.container;
    entry.started = started;
    entry.born_seen = true;
    entry.born_sharing = raw.shares_table != 0;
    entry.last_event_ns = now_ns;
    entry.table = raw.shares_table != 0 ? table : copy_table(table, now_ns);
    use_table(entry.table, child, 0);
    if (from.incomplete_ns != 0) set_incomplete(entry, now_ns);
}

// EXEC and UNSHARED: only the slots of the set are left.
void Index::apply_open_set(const fdspan_table_record& raw, std::uint32_t process, pid_t tid, const EventSink& sink) {
    const std::uint64_t now_ns = raw.header.boottime_ns;
    ProcessEntry& entry = processes_[process];
    const std::uint32_t before = table_of(entry, tid);
    std::vector<std::pair<std::int32_t, SlotView>> gone;
    if (raw.words == 0) {
        set_incomplete(entry, now_ns);
    } else {
        std::array<std::uint64_t, sizeof raw.open_fds / sizeof raw.open_fds[0]> missing{};
        std::copy_n(raw.open_fds, raw.words, missing.begin());
        for_each_slot(before, [&](std::int32_t fd, const SlotView& view) {
            const auto word = static_cast<std::uint32_t>(fd) / 64;
            const std::uint64_t bit = std::uint64_t{1} << (fd % 64);
            if (word < missing.size() && (missing[word] & bit) != 0) missing[word] &= ~bit;
            else if (view.opened.earliest_ns <= now_ns) gone.emplace_back(fd, view);
        });
        // Something was put there that no record told of.
        if (!gaps_expected_ && std::any_of(missing.begin(), missing.end(), [](std::uint64_t word) { return word != 0; })) {
            set_incomplete(entry, now_ns);
        }
    }
    std::uint32_t table = before;
    if (raw.new_table != 0) table = unshare_table(process, tid, now_ns);
    const pid_t shown_tid = table == entry.table ? 0 : tid;
    const Interval when = Interval::exact(now_ns);
    for (const auto& [fd, view] : gone) {
        // The span that ended is that of the descriptor before the copy.
        emit_slot(EventKind::closed, implied_end(entry, view, when), process, shown_tid, fd, view, sink);
        const std::uint32_t description = empty_slot(table, fd);
        remember_slot(table, fd, now_ns, print_of(description), true);
        lost_last_ref(description, false, now_ns, now_ns);
    }
}

void Index::apply_exec(const ExecRecord& record, const EventSink& sink) {
    const fdspan_table_record& raw = *record.raw;
    const std::uint64_t now_ns = raw.header.boottime_ns;
    const std::uint32_t process = process_of(raw.header);
    if (process == none) return;
    ProcessEntry& entry = processes_[process];
    const auto old_tid = static_cast<pid_t>(raw.old_tid);
    const Interval when = Interval::exact(now_ns);

    // The thread that execs becomes the leader and takes its table along; all others end.
    if (Thread* const caller = find_thread(entry, old_tid); caller != nullptr && caller->table != none) {
        const std::uint32_t table = caller->table;
        use_table(table, process, 0);
        if (leave_table(entry.table, process, 0)) {
            close_table(entry.table, when, process, 0, sink);
            drop_table(entry.table, when);
        }
        if (leave_table(table, process, old_tid)) drop_table(table, when);
        caller->table = none;
        --entry.own_tables;
        entry.table = table;
    }
    while (!entry.threads.empty()) end_thread(process, entry.threads.back().tid, when, false, sink);
    entry.born_seen = true;  // from here on it has one thread, and every other is announced

    if (raw.started_ns != 0) entry.started.narrow(Interval::exact(raw.started_ns));
    entry.uid = raw.uid;
    entry.comm = comm_text(raw.comm);
    entry.exec_ns = now_ns;
    apply_open_set(raw, process, entry.pid, sink);
    drop_held(process, true, when, sink);
    emit_process(EventKind::exec, when, process, std::nullopt, sink);
}

void Index::apply_unshared(const UnsharedRecord& record, const EventSink& sink) {
    const fdspan_table_record& raw = *record.raw;
    const std::uint32_t process = process_of(raw.header);
    if (process == none) return;
    apply_open_set(raw, process, static_cast<pid_t>(raw.header.tid), sink);
}

void Index::apply_exit(const ExitRecord& record, const EventSink& sink) {
    const fdspan_exit& raw = *record.raw;
    const std::uint32_t process = find_process(static_cast<pid_t>(raw.header.pid));
    if (process == none) return;
    ProcessEntry& entry = processes_[process];
    const std::uint64_t now_ns = raw.header.boottime_ns;
    if (entry.started.earliest_ns > now_ns) {  // of an earlier process with this pid
        ++stale_records_;
        return;
    }
    entry.last_event_ns = std::max(entry.last_event_ns, now_ns);
    const Interval when = Interval::exact(now_ns);
    if (raw.group_dead != 0) {
        end_process(process, when, raw.exit_code, sink);
        return;
    }
    end_thread(process, static_cast<pid_t>(raw.header.tid), when, raw.table_dead != 0, sink);
}

// ---- processes and tables -----------------------------------------------------------------------------------------

std::uint32_t Index::find_process(pid_t pid) const {
    if (pid == last_pid_ && last_process_ != none) return last_process_;
    const auto known = by_pid_.find(pid);
    if (known == by_pid_.end()) return none;
    last_pid_ = pid;
    last_process_ = known->second;
    return known->second;
}

std::uint32_t Index::process_of(const fdspan_record& header) {
    const auto pid = static_cast<pid_t>(header.pid);
    std::uint32_t process = find_process(pid);
    if (process == none) {
        if (const auto exited = exited_.find(pid); exited != exited_.end() && header.boottime_ns <= exited->second) {
            ++stale_records_;
            return none;
        }
        process = add_process(pid);
        ProcessEntry& entry = processes_[process];
        entry.started = Interval::bounded(Interval::unknown_earliest, header.boottime_ns);
        entry.table = make_table();
        use_table(entry.table, process, 0);
        set_incomplete(entry, header.boottime_ns);
    }
    ProcessEntry& entry = processes_[process];
    entry.last_event_ns = std::max(entry.last_event_ns, header.boottime_ns);
    return process;
}

std::uint32_t Index::add_process(pid_t pid) {
    const std::uint32_t process = processes_.take();
    processes_[process] = ProcessEntry{};
    processes_[process].pid = pid;
    processes_[process].alive = true;
    by_pid_[pid] = process;
    last_process_ = none;
    return process;
}

void Index::remove_process(std::uint32_t process) {
    ProcessEntry& entry = processes_[process];
    clear_incomplete(entry);
    by_pid_.erase(entry.pid);
    last_process_ = none;
    entry = ProcessEntry{};
    processes_.give(process);
}

void Index::set_incomplete(ProcessEntry& process, std::uint64_t now_ns) {
    if (process.unreadable) return;  // no snapshot would help
    if (process.incomplete_ns == 0) ++incomplete_count_;
    process.incomplete_ns = std::max<std::uint64_t>({process.incomplete_ns, now_ns, 1});
}

void Index::clear_incomplete(ProcessEntry& process) {
    if (process.incomplete_ns != 0) --incomplete_count_;
    process.incomplete_ns = 0;
}

Index::Thread* Index::find_thread(ProcessEntry& process, pid_t tid) {
    const auto found = std::find_if(process.threads.begin(), process.threads.end(),
                                    [tid](const Thread& thread) { return thread.tid == tid; });
    return found == process.threads.end() ? nullptr : &*found;
}

std::uint32_t Index::table_of(const ProcessEntry& process, pid_t tid) const {
    if (process.own_tables == 0 || tid == process.pid || tid == 0) return process.table;
    for (const Thread& thread : process.threads) {
        if (thread.tid == tid) return thread.table != none ? thread.table : process.table;
    }
    return process.table;
}

std::uint32_t Index::make_table() {
    const std::uint32_t table = tables_.take();
    tables_[table] = Table{};
    tables_[table].serial = ++table_serial_;
    return table;
}

void Index::use_table(std::uint32_t table, std::uint32_t process, pid_t tid) { tables_[table].users.push_back({process, tid}); }

bool Index::leave_table(std::uint32_t table, std::uint32_t process, pid_t tid) {
    std::vector<TableUser>& users = tables_[table].users;
    const auto found = std::find_if(users.begin(), users.end(), [&](const TableUser& user) {
        return user.process == process && user.tid == tid;
    });
    if (found != users.end()) users.erase(found);
    return users.empty();
}

void Index::drop_pages(std::uint32_t table, const Interval& when) {
    Table& entry = tables_[table];
    for (const std::uint32_t place : entry.pages) {
        if (place != none) drop_page(place & ~inherited_bit, table, when);
    }
    entry.pages.clear();
    entry.pages.shrink_to_fit();
}

void Index::drop_table(std::uint32_t table, const Interval& when) {
    drop_pages(table, when);
    tables_[table] = Table{};
    tables_.give(table);
}

std::uint32_t Index::copy_table(std::uint32_t table, std::uint64_t born_ns) {
    const std::uint32_t copy = make_table();
    const Table& from = tables_[table];
    Table& to = tables_[copy];
    to.pages = from.pages;
    to.born_ns = born_ns != 0 ? born_ns : from.born_ns;
    for (std::uint32_t& place : to.pages) {
        if (place == none) continue;
        const std::uint32_t page = place & ~inherited_bit;
        add_page_user(page, copy);
        descriptor_count_ += static_cast<unsigned>(std::popcount(pages_[page].mask));
        if (born_ns != 0) place |= inherited_bit;
    }
    return copy;
}

void Index::set_thread_table(ProcessEntry& process, pid_t tid, std::uint32_t table) {
    const std::uint32_t number = by_pid_.at(process.pid);
    Thread* thread = find_thread(process, tid);
    if (thread == nullptr) {
        process.threads.push_back({tid, none});
        thread = &process.threads.back();
    }
    use_table(table, number, tid);
    if (thread->table == none) ++process.own_tables;
    else if (leave_table(thread->table, number, tid)) drop_table(thread->table, Interval::exact(process.last_event_ns));
    thread->table = table;
}

std::uint32_t Index::unshare_table(std::uint32_t process, pid_t tid, std::uint64_t born_ns) {
    ProcessEntry& entry = processes_[process];
    const std::uint32_t before = table_of(entry, tid);
    const std::uint32_t copy = copy_table(before, born_ns);
    if (tid != entry.pid && tid != 0) {
        set_thread_table(entry, tid, copy);
        return copy;
    }
    // The leader goes its own way: its threads stay with the old table.
    for (Thread& thread : entry.threads) {
        if (thread.table != none) continue;
        thread.table = before;
        ++entry.own_tables;
        use_table(before, process, thread.tid);
    }
    if (!entry.born_seen) set_incomplete(entry, entry.last_event_ns);  // there may be threads that nobody told of
    use_table(copy, process, 0);
    entry.table = copy;
    if (leave_table(before, process, 0)) drop_table(before, Interval::exact(entry.last_event_ns));
    return copy;
}

void Index::end_thread(std::uint32_t process, pid_t tid, const Interval& when, bool table_dead, const EventSink& sink) {
    ProcessEntry& entry = processes_[process];
    Thread* const thread = find_thread(entry, tid);
    const std::uint32_t own = thread != nullptr ? thread->table : none;
    if (thread != nullptr) {
        *thread = entry.threads.back();
        entry.threads.pop_back();
    }
    if (own != none) {
        --entry.own_tables;
        if (leave_table(own, process, tid)) {
            close_table(own, when, process, tid, sink);
            drop_table(own, when);
        }
        remember_task(entry, tid, when.latest_ns);
    } else if (table_dead) {
        // Threads that are left have tables of their own.
        close_table(entry.table, when, process, 0, sink);
        drop_pages(entry.table, when);
    }
}

void Index::end_process(std::uint32_t process, const Interval& when, std::optional<std::int32_t> exit_status, const EventSink& sink) {
    ProcessEntry& entry = processes_[process];
    while (!entry.threads.empty()) end_thread(process, entry.threads.back().tid, when, false, sink);
    if (leave_table(entry.table, process, 0)) {
        close_table(entry.table, when, process, 0, sink);
        drop_table(entry.table, when);
    }
    drop_held(process, false, when, sink);
    emit_process(EventKind::exit, when, process, exit_status, sink);
    remember_task(entry, 0, when.latest_ns);
    remove_process(process);
}

// Tells of every descriptor's end; the caller drops the pages.
void Index::close_table(std::uint32_t table, const Interval& when, std::uint32_t process, pid_t tid, const EventSink& sink) {
    if (!sink) return;
    for_each_slot(table, [&](std::int32_t fd, const SlotView& view) {
        const Interval end = implied_end(processes_[process], view, when);
        emit_slot(EventKind::closed, end, process, tid, fd, view, sink);
        // Without an id nothing else tells that this was the last of a deleted file.
        const Description& description = descriptions_[view.description];
        const bool only = description.first_ref != none && next_of(description.first_ref) == none;
        if (only && description.id == 0 && name_of(description) == NameState::deleted) {
            emit_slot(EventKind::released, end, process, tid, fd, view, sink, given_back(view.description, end, nullptr));
        }
    });
}

// ---- slots --------------------------------------------------------------------------------------------------------

bool Index::slot(std::uint32_t table, std::int32_t fd, SlotView& out) const {
    const Table& entry = tables_[table];
    const auto place_number = static_cast<std::uint32_t>(fd) / page_slots;
    if (fd < 0 || place_number >= entry.pages.size() || entry.pages[place_number] == none) return false;
    const std::uint32_t place = entry.pages[place_number];
    const Page& page = pages_[place & ~inherited_bit];
    const auto i = static_cast<std::uint32_t>(fd) % page_slots;
    if ((page.mask >> i & 1U) == 0) return false;
    out.description = page.description[i] & ~cloexec_bit;
    out.cloexec = (page.description[i] & cloexec_bit) != 0;
    out.opened = (place & inherited_bit) != 0 ? Interval::exact(entry.born_ns) : times_.get(page.opened[i]);
    return true;
}

std::uint32_t Index::take_page(std::uint32_t table, std::int32_t first_fd) {
    const std::uint32_t number = pages_.take();
    Page& page = pages_[number];
    page.mask = 0;
    page.first_fd = static_cast<std::uint32_t>(first_fd);
    page.users = 1;
    page.sole_user = table;
    page.tables = {};
    return number;
}

void Index::add_page_user(std::uint32_t number, std::uint32_t table) {
    Page& page = pages_[number];
    if (page.users == 1) page.tables.push_back(page.sole_user);
    page.tables.push_back(table);
    ++page.users;
}

void Index::remove_page_user(std::uint32_t number, std::uint32_t table) {
    Page& page = pages_[number];
    // The latest child mostly ends first.
    const auto found = std::find(page.tables.rbegin(), page.tables.rend(), table);
    page.tables.erase(std::next(found).base());
    if (--page.users == 1) {
        page.sole_user = page.tables.front();
        page.tables = {};
    }
}

std::uint32_t Index::own_page(std::uint32_t table, std::uint32_t place_number) {
    Table& entry = tables_[table];
    std::uint32_t& place = entry.pages[place_number];
    const std::uint32_t number = place & ~inherited_bit;
    const bool inherited = (place & inherited_bit) != 0;
    Page& page = pages_[number];
    if (page.users > 1) {
        const std::uint32_t copy = take_page(table, static_cast<std::int32_t>(page.first_fd));
        Page& to = pages_[copy];
        to.mask = page.mask;
        for (unsigned mask = page.mask; mask != 0; mask &= mask - 1) {
            const auto i = static_cast<unsigned>(std::countr_zero(mask));
            to.description[i] = page.description[i];
            to.opened[i] = inherited ? times_.store(Interval::exact(entry.born_ns)) : times_.share(page.opened[i]);
            link_ref(to.description[i] & ~cloexec_bit, copy * page_slots + i);
        }
        remove_page_user(number, table);
        place = copy;
    } else if (inherited) {
        for (unsigned mask = page.mask; mask != 0; mask &= mask - 1) {
            times_.replace(page.opened[std::countr_zero(mask)], Interval::exact(entry.born_ns));
        }
        place = number;
    }
    return place;
}

std::uint32_t Index::writable_page(std::uint32_t table, std::int32_t fd) {
    Table& entry = tables_[table];
    const auto place_number = static_cast<std::uint32_t>(fd) / page_slots;
    if (place_number >= entry.pages.size()) entry.pages.resize(place_number + 1, none);
    if (entry.pages[place_number] == none) {
        entry.pages[place_number] = take_page(table, fd - fd % static_cast<std::int32_t>(page_slots));
        return entry.pages[place_number];
    }
    return own_page(table, place_number);
}

void Index::fill_slot(std::uint32_t table, std::int32_t fd, std::uint32_t description, bool cloexec, const Interval& opened) {
    const std::uint32_t number = writable_page(table, fd);
    Page& page = pages_[number];
    const auto i = static_cast<std::uint32_t>(fd) % page_slots;
    page.mask = static_cast<std::uint16_t>(page.mask | 1U << i);
    page.description[i] = description | (cloexec ? cloexec_bit : 0);
    page.opened[i] = times_.store(opened);
    link_ref(description, number * page_slots + i);
    ++descriptor_count_;
}

void Index::set_slot_opened(std::uint32_t table, std::int32_t fd, const Interval& opened) {
    SlotView view;
    if (!slot(table, fd, view) || view.opened == opened) return;
    Page& page = pages_[writable_page(table, fd)];
    times_.replace(page.opened[static_cast<std::uint32_t>(fd) % page_slots], opened);
}

void Index::set_slot_cloexec(std::uint32_t table, std::int32_t fd, bool cloexec) {
    SlotView view;
    if (!slot(table, fd, view) || view.cloexec == cloexec) return;
    Page& page = pages_[writable_page(table, fd)];
    page.description[static_cast<std::uint32_t>(fd) % page_slots] ^= cloexec_bit;
}

std::uint32_t Index::empty_slot(std::uint32_t table, std::int32_t fd) {
    const std::uint32_t number = writable_page(table, fd);
    Page& page = pages_[number];
    const auto i = static_cast<std::uint32_t>(fd) % page_slots;
    const std::uint32_t description = page.description[i] & ~cloexec_bit;
    unlink_ref(description, number * page_slots + i);
    times_.release(page.opened[i]);
    page.description[i] = none;
    page.mask = static_cast<std::uint16_t>(page.mask & ~(1U << i));
    --descriptor_count_;
    if (page.mask == 0) {
        std::vector<std::uint32_t>& places = tables_[table].pages;
        places[static_cast<std::uint32_t>(fd) / page_slots] = none;
        pages_.give(number);
        while (!places.empty() && places.back() == none) places.pop_back();
        if (places.capacity() > 64 && places.size() < places.capacity() / 4) places.shrink_to_fit();
    }
    return description;
}

void Index::drop_page(std::uint32_t number, std::uint32_t table, const Interval& when) {
    Page& page = pages_[number];
    descriptor_count_ -= static_cast<unsigned>(std::popcount(page.mask));
    if (page.users > 1) {
        remove_page_user(number, table);
        return;
    }
    for (unsigned mask = page.mask; mask != 0; mask &= mask - 1) {
        const auto i = static_cast<unsigned>(std::countr_zero(mask));
        const std::uint32_t description = page.description[i] & ~cloexec_bit;
        unlink_ref(description, number * page_slots + i);
        times_.release(page.opened[i]);
        lost_last_ref(description, false, when.earliest_ns, when.latest_ns);
    }
    page.mask = 0;
    pages_.give(number);
}

// ---- descriptions -------------------------------------------------------------------------------------------------

Index::RefId& Index::next_of(RefId ref) {
    return (ref & held_bit) != 0 ? held_[ref & ~held_bit].next : pages_[ref / page_slots].next[ref % page_slots];
}
Index::RefId Index::next_of(RefId ref) const {
    return (ref & held_bit) != 0 ? held_[ref & ~held_bit].next : pages_[ref / page_slots].next[ref % page_slots];
}
Index::RefId& Index::previous_of(RefId ref) {
    return (ref & held_bit) != 0 ? held_[ref & ~held_bit].previous : pages_[ref / page_slots].previous[ref % page_slots];
}

void Index::link_ref(std::uint32_t number, RefId ref) {
    Description& description = descriptions_[number];
    next_of(ref) = description.first_ref;
    previous_of(ref) = none;
    if (description.first_ref != none) previous_of(description.first_ref) = ref;
    description.first_ref = ref;
    if ((description.bits & is_unheld) != 0) {
        description.bits = static_cast<std::uint8_t>(description.bits & ~(is_unheld | kept));
        --unheld_count_;
    }
}

void Index::unlink_ref(std::uint32_t number, RefId ref) {
    Description& description = descriptions_[number];
    const RefId next = next_of(ref);
    const RefId previous = previous_of(ref);
    if (previous != none) next_of(previous) = next;
    else description.first_ref = next;
    if (next != none) previous_of(next) = previous;
}

std::uint32_t Index::find_description(std::uint64_t id) const {
    if (id == 0) return none;
    std::uint32_t number = by_id_.head(mix(id));
    while (number != none && descriptions_[number].id != id) number = descriptions_[number].next_by_id;
    return number;
}

void Index::link_id(std::uint32_t number) {
    Description& description = descriptions_[number];
    description.next_by_id = none;
    if (description.id == 0) return;
    if (by_id_.full(descriptions_.used() / 4 * 3)) {
        for (std::uint32_t moved = by_id_.split(), next = none; moved != none; moved = next) {
            next = descriptions_[moved].next_by_id;
            std::uint32_t& head = by_id_.head(mix(descriptions_[moved].id));
            descriptions_[moved].next_by_id = head;
            head = moved;
        }
    }
    std::uint32_t& head = by_id_.head(mix(description.id));
    description.next_by_id = head;
    head = number;
}

void Index::unlink_id(std::uint32_t number) {
    if (descriptions_[number].id == 0) return;
    std::uint32_t* link = &by_id_.head(mix(descriptions_[number].id));
    while (*link != number) link = &descriptions_[*link].next_by_id;
    *link = descriptions_[number].next_by_id;
}

std::uint64_t Index::file_hash(std::uint32_t dev, std::uint64_t ino) { return mix(ino ^ std::uint64_t{dev} << 40); }

bool Index::is_label_of(std::string_view text, FileType type, std::uint64_t ino) {
    if (type != FileType::sock && type != FileType::fifo) return false;
    const std::string_view kind = type == FileType::sock ? "socket:[" : "pipe:[";
    return text.starts_with(kind) && text.ends_with(']') &&
           text.substr(kind.size(), text.size() - kind.size() - 1) == std::to_string(ino);
}

// Chained both ways: a bucket may hold a hundred thousand descriptions of one file.
void Index::link_inode(std::uint32_t number) {
    Description& description = descriptions_[number];
    description.next_by_inode = description.previous_by_inode = none;
    if ((description.bits & stat_known) == 0) return;
    if (by_inode_.full(descriptions_.used() / 2)) {
        for (std::uint32_t moved = by_inode_.split(), next = none; moved != none; moved = next) {
            Description& other = descriptions_[moved];
            next = other.next_by_inode;
            std::uint32_t& head = by_inode_.head(file_hash(extra_of(moved).dev, other.ino));
            other.next_by_inode = head;
            other.previous_by_inode = none;
            if (head != none) descriptions_[head].previous_by_inode = moved;
            head = moved;
        }
    }
    std::uint32_t& head = by_inode_.head(file_hash(extra_of(number).dev, description.ino));
    description.next_by_inode = head;
    if (head != none) descriptions_[head].previous_by_inode = number;
    head = number;
}

void Index::unlink_inode(std::uint32_t number) {
    Description& description = descriptions_[number];
    if ((description.bits & stat_known) == 0) return;
    if (description.previous_by_inode != none) {
        descriptions_[description.previous_by_inode].next_by_inode = description.next_by_inode;
    } else {
        by_inode_.head(file_hash(extra_of(number).dev, description.ino)) = description.next_by_inode;
    }
    if (description.next_by_inode != none) {
        descriptions_[description.next_by_inode].previous_by_inode = description.previous_by_inode;
    }
}

void Index::link_dir(std::uint32_t number) {
    Description& description = descriptions_[number];
    description.next_in_dir = description.previous_in_dir = none;
    if (description.path.dir == PathStore::none) return;
    std::uint32_t& first = paths_.node(description.path.dir).first_description;
    description.next_in_dir = first;
    if (first != none) descriptions_[first].previous_in_dir = number;
    first = number;
    if (in_names(description)) link_name(number);
}

void Index::unlink_dir(std::uint32_t number) {
    const Description& description = descriptions_[number];
    if (description.path.dir == PathStore::none) return;
    if (description.previous_in_dir != none) descriptions_[description.previous_in_dir].next_in_dir = description.next_in_dir;
    else paths_.node(description.path.dir).first_description = description.next_in_dir;
    if (description.next_in_dir != none) descriptions_[description.next_in_dir].previous_in_dir = description.previous_in_dir;
    if (in_names(description)) unlink_name(number);
}

// Chained both ways, as equal names may be many; four a bucket, for the sake of memory: only removals of names look here.
void Index::link_name(std::uint32_t number) {
    const auto put = [this](std::uint32_t placed) {
        Description& description = descriptions_[placed];
        std::uint32_t& head = by_name_.head(PathStore::hash_of(paths_.name(description.path.name)));
        description.next_by_name = head;
        description.previous_by_name = none;
        if (head != none) descriptions_[head].previous_by_name = placed;
        head = placed;
    };
    if (by_name_.full(descriptions_.used() / 4)) {
        for (std::uint32_t moved = by_name_.split(), next = none; moved != none; moved = next) {
            next = descriptions_[moved].next_by_name;
            put(moved);
        }
    }
    put(number);
}

void Index::unlink_name(std::uint32_t number) {
    const Description& description = descriptions_[number];
    if (description.previous_by_name != none) {
        descriptions_[description.previous_by_name].next_by_name = description.next_by_name;
    } else {
        by_name_.head(PathStore::hash_of(paths_.name(description.path.name))) = description.next_by_name;
    }
    if (description.next_by_name != none) descriptions_[description.next_by_name].previous_by_name = description.previous_by_name;
}

Index::Extra Index::extra_of(std::uint32_t number) const {
    const Description& description = descriptions_[number];
    if ((description.bits & has_extra) != 0) return extras_.at(number);
    return {dev_values_[description.dev], flag_values_[description.flags], 0, description.nlink};
}

namespace {
// The number of a value in a small table; 0 (the value 0) and false when the table is full.
bool small_number(std::vector<std::uint32_t>& values, std::unordered_map<std::uint32_t, std::uint16_t>& numbers,
                  std::uint32_t value, std::uint16_t& out) {
    if (const auto known = numbers.find(value); known != numbers.end()) {
        out = known->second;
        return true;
    }
    out = 0;
    if (values.size() > 0xffff) return false;
    out = static_cast<std::uint16_t>(values.size());
    values.push_back(value);
    numbers.emplace(value, out);
    return true;
}
}  // namespace

void Index::set_small(std::uint32_t number, std::uint32_t dev, std::uint32_t flags, std::uint32_t rdev, std::uint32_t nlink) {
    Description& description = descriptions_[number];
    const bool dev_fits = small_number(dev_values_, dev_numbers_, dev, description.dev);
    const bool flags_fit = small_number(flag_values_, flag_numbers_, flags, description.flags);
    description.nlink = static_cast<std::uint16_t>(std::min<std::uint32_t>(nlink, 0xffff));
    if (dev_fits && flags_fit && rdev == 0 && nlink <= 0xffff) {
        if ((description.bits & has_extra) != 0) extras_.erase(number);
        description.bits = static_cast<std::uint8_t>(description.bits & ~has_extra);
    } else {
        description.bits |= has_extra;
        extras_[number] = {dev, flags, rdev, nlink};
    }
}

void Index::summarize(std::uint32_t number) {
    const Description& description = descriptions_[number];
    const std::size_t block = number / 64;
    const std::size_t coarse = number / 4096;
    if (block >= summaries_.size()) summaries_.resize(block + 1);
    if (coarse >= coarse_.size()) coarse_.resize(coarse + 1);
    const bool used = (description.bits & in_use) != 0;
    if (used) {
        const std::uint64_t latest_ns = times_.get(description.opened).latest_ns;
        summaries_[block].opened_latest_ns = std::min(summaries_[block].opened_latest_ns, latest_ns);
        coarse_[coarse].opened_latest_ns = std::min(coarse_[coarse].opened_latest_ns, latest_ns);
    }
    const std::uint64_t bit = std::uint64_t{1} << (number % 64);
    const std::uint64_t block_bit = std::uint64_t{1} << (block % 64);
    if (used && name_of(description) == NameState::deleted) summaries_[block].deleted |= bit;
    else summaries_[block].deleted &= ~bit;
    if (summaries_[block].deleted != 0) coarse_[coarse].deleted |= block_bit;
    else coarse_[coarse].deleted &= ~block_bit;
}

std::uint32_t Index::add_description(const FileFacts& facts) {
    const std::uint32_t number = descriptions_.take();
    Description& description = descriptions_[number];
    description = Description{};
    description.id = facts.id;
    description.opened = times_.store(facts.opened);
    description.ino = facts.ino;
    description.path = facts.path;
    description.type_and_name = static_cast<std::uint8_t>(static_cast<unsigned>(facts.type) | static_cast<unsigned>(facts.name) << 4);
    description.bits = static_cast<std::uint8_t>(in_use | (facts.file_only ? file_only : 0) | (facts.label_by_ino ? label_by_ino : 0) |
                                                 (facts.stat_known ? stat_known : 0) | (facts.flags_known ? flags_known : 0));
    set_small(number, facts.dev, facts.flags, facts.rdev, facts.nlink);
    link_id(number);
    link_inode(number);
    link_dir(number);
    if (facts.name == NameState::gone) gone_.insert(number);
    // Whoever found it deleted at first sight says when, if it is news at all.
    if (facts.name == NameState::deleted && facts.stat_known) {
        deleted_.try_emplace(file_of(number), DeletedFile{Interval::bounded(Interval::unknown_earliest, facts.seen_ns), 0, true, Removal::unknown, nullptr});
    }
    summarize(number);
    return number;
}

void Index::remove_description(std::uint32_t number) {
    Description& description = descriptions_[number];
    if (name_of(description) == NameState::gone) gone_.erase(number);
    if (name_of(description) == NameState::deleted && is_last_of_file(number)) deleted_.erase(file_of(number));
    unlink_id(number);
    unlink_inode(number);
    unlink_dir(number);
    paths_.release(description.path);
    times_.release(description.opened);
    if ((description.bits & has_extra) != 0) extras_.erase(number);
    if ((description.bits & is_unheld) != 0) --unheld_count_;
    description.bits = 0;
    description.id = 0;
    summarize(number);
    descriptions_.give(number);
}

void Index::set_description_opened(std::uint32_t number, const Interval& opened) {
    if (times_.get(descriptions_[number].opened) == opened) return;
    times_.replace(descriptions_[number].opened, opened);
    summarize(number);
}

void Index::set_description_id(std::uint32_t number, std::uint64_t id) {
    unlink_id(number);
    descriptions_[number].id = id;
    link_id(number);
}

void Index::set_description_path(std::uint32_t number, const PathStore::Path& path, bool by_ino) {
    Description& description = descriptions_[number];
    unlink_dir(number);
    paths_.release(description.path);
    description.path = path;
    description.bits = static_cast<std::uint8_t>((description.bits & ~label_by_ino) | (by_ino ? label_by_ino : 0));
    link_dir(number);
}

void Index::set_file(std::uint32_t number, std::uint32_t dev, std::uint64_t ino, FileType type) {
    const Extra extra = extra_of(number);
    unlink_inode(number);
    Description& description = descriptions_[number];
    description.ino = ino;
    description.bits |= stat_known;
    description.type_and_name = static_cast<std::uint8_t>((description.type_and_name & 0xf0) | static_cast<unsigned>(type));
    set_small(number, dev, extra.flags, extra.rdev, extra.nlink);
    link_inode(number);
}

bool Index::may_be_file(std::uint32_t number, std::uint32_t dev, std::uint64_t ino) const {
    const Description& description = descriptions_[number];
    return (description.bits & stat_known) == 0 || (description.ino == ino && extra_of(number).dev == dev);
}

void Index::set_name_state(std::uint32_t number, NameState name) {
    Description& description = descriptions_[number];
    if (name == NameState::gone) gone_.insert(number);
    else if (name_of(description) == NameState::gone) gone_.erase(number);
    if (name == NameState::deleted && (description.bits & stat_known) != 0) deleted_.try_emplace(file_of(number));
    else if (name_of(description) == NameState::deleted) deleted_.erase(file_of(number));
    const bool was_in_names = in_names(description);
    if (was_in_names && !had_name(name)) unlink_name(number);
    description.type_and_name = static_cast<std::uint8_t>((description.type_and_name & 0xf) | static_cast<unsigned>(name) << 4);
    if (!was_in_names && in_names(description)) link_name(number);
    summarize(number);
}

std::size_t Index::set_links(DeviceNumber dev, std::uint64_t ino, std::uint32_t nlink, std::uint64_t at_ns) {
    links_ns_ = std::max(links_ns_, at_ns);
    const std::uint32_t kernel_dev = kernel_device(dev);
    std::size_t found = 0;
    for (std::uint32_t number = by_inode_.head(file_hash(kernel_dev, ino)); number != none;
         number = descriptions_[number].next_by_inode) {
        const Extra extra = extra_of(number);
        if (descriptions_[number].ino != ino || extra.dev != kernel_dev) continue;
        ++found;
        set_small(number, extra.dev, extra.flags, extra.rdev, nlink);
        const NameState name = name_of(descriptions_[number]);
        if (nlink == 0 && had_name(name)) set_name_state(number, NameState::deleted);
        // linkat(2) gave it a name again.
        if (nlink != 0 && name == NameState::deleted) set_name_state(number, NameState::gone);
    }
    if (nlink != 0) deleted_.erase(FileKey{kernel_dev, ino});
    return found;
}

Index::FileKey Index::file_of(std::uint32_t number) const { return {extra_of(number).dev, descriptions_[number].ino}; }

bool Index::is_last_of_file(std::uint32_t number) const {
    if ((descriptions_[number].bits & stat_known) == 0) return true;
    const FileKey file = file_of(number);
    for (std::uint32_t other = by_inode_.head(file_hash(file.dev, file.ino)); other != none; other = descriptions_[other].next_by_inode) {
        if (other != number && file_of(other) == file) return false;
    }
    return true;
}

bool Index::note_deleted(DeviceNumber dev, std::uint64_t ino, const RemovalNote& note, const EventSink& sink) {
    const FileKey file{kernel_device(dev), ino};
    std::vector<std::uint32_t> descriptions;
    bool news = false;
    for (std::uint32_t number = by_inode_.head(file_hash(file.dev, ino)); number != none; number = descriptions_[number].next_by_inode) {
        if (file_of(number) != file) continue;
        const NameState name = name_of(descriptions_[number]);
        news |= had_name(name);
        if (had_name(name) || name == NameState::deleted) descriptions.push_back(number);
    }
    if (descriptions.empty()) return false;
    const auto [known, added] = deleted_.try_emplace(file);
    news = added ? news : !known->second.told;
    set_links(dev, ino, 0, note.when.latest_ns);
    if (!news) return false;
    known->second = {note.when, note.allocated.value_or(0), true, note.how, note.by != nullptr ? removed_by(*note.by) : nullptr};
    emit_removal(EventKind::deleted, descriptions, note, note.allocated, sink);
    return true;
}

std::shared_ptr<const RemovedBy> Index::removed_by(const RemovalNote::By& by) {
    const RemovedBy* const last = last_by_.get();
    if (last == nullptr || last->pid != by.pid || last->uid != by.uid || last->comm != by.comm || last->exe != by.exe || last->cgroup != by.cgroup) {
        last_by_ = std::make_shared<const RemovedBy>(RemovedBy{by.pid, by.uid, std::string(by.comm), std::string(by.exe), std::string(by.cgroup)});
    }
    return last_by_;
}

bool Index::removal_is_told(std::uint32_t number, std::uint32_t nlink) const {
    const NameState name = name_of(descriptions_[number]);
    if (nlink != 0) return name != NameState::named;
    const auto known = name == NameState::deleted ? deleted_.find(file_of(number)) : deleted_.end();
    return known != deleted_.end() && known->second.told;
}

void Index::note_unlinked(std::uint32_t description, std::uint32_t nlink, const RemovalNote& note, const EventSink& sink) {
    const FileKey file = file_of(description);
    const PathStore::Path path = descriptions_[description].path;
    std::vector<std::uint32_t> descriptions;
    for (std::uint32_t number = by_inode_.head(file_hash(file.dev, file.ino)); number != none;
         number = descriptions_[number].next_by_inode) {
        if (file_of(number) != file) continue;
        const Extra extra = extra_of(number);
        set_small(number, extra.dev, extra.flags, extra.rdev, nlink);
        const Description& other = descriptions_[number];
        if (name_of(other) != NameState::named || other.path.dir != path.dir || paths_.name(other.path.name) != paths_.name(path.name)) {
            continue;
        }
        set_name_state(number, NameState::gone);
        descriptions.push_back(number);
    }
    links_ns_ = std::max(links_ns_, note.when.latest_ns);
    if (!descriptions.empty()) emit_removal(EventKind::unlinked, descriptions, note, {}, sink);
}

// One event about one file, with whoever holds these descriptions of it.
void Index::emit_removal(EventKind kind, const std::vector<std::uint32_t>& descriptions, const RemovalNote& note,
                         std::optional<std::uint64_t> allocated, const EventSink& sink) {
    if (!sink) return;
    scratch_.clear();
    std::vector<Process> processes;
    std::vector<Reference> references;
    std::size_t count = 0;
    const auto add = [&](std::uint32_t process, auto&& fill) {
        if (++count > max_holders) return;
        fill_process(processes_[process], processes.emplace_back());
        fill(references.emplace_back());
    };
    for (const std::uint32_t number : descriptions) {
        for_each_ref(
            number,
            [&](const TableUser& user, std::int32_t fd, const SlotView& view) {
                add(user.process, [&](Reference& row) { fill_slot_row(user.tid, fd, view, row); });
            },
            [&](const Held& held) { add(held.process, [&](Reference& row) { fill_held_row(held, row); }); });
    }
    // In flight, or mapped by somebody whom no snapshot has shown yet.
    if (references.empty()) fill_description(descriptions.front(), references.emplace_back());
    std::vector<Holder> holders;
    for (std::size_t i = 0; i < processes.size(); ++i) holders.push_back({&processes[i], &references[i]});
    std::stable_sort(holders.begin(), holders.end(), [](const Holder& a, const Holder& b) {
        return a.process->pid != b.process->pid ? a.process->pid < b.process->pid : a.reference->fd < b.reference->fd;
    });
    Culprit culprit;
    if (note.by != nullptr) {
        culprit = {note.by->pid, note.by->uid, scratch_.append(note.by->comm), scratch_.append(note.by->exe),
                   scratch_.append(note.by->cgroup)};
    }
    Event event;
    event.kind = kind;
    event.when = note.when;
    event.strings = &scratch_;
    event.process = holders.empty() ? nullptr : holders.front().process;
    event.reference = holders.empty() ? references.data() : holders.front().reference;
    event.how = note.how;
    event.by = note.by != nullptr ? &culprit : nullptr;
    event.holders = holders;
    event.holder_count = count;
    event.allocated = allocated;
    sink(event);
}

void Index::lost_last_ref(std::uint32_t number, bool kept_by_kernel, std::uint64_t earliest_ns, std::uint64_t since_ns) {
    Description& description = descriptions_[number];
    if (description.first_ref != none || (description.bits & is_unheld) != 0) return;
    if (description.id == 0) {
        remove_description(number);
        return;
    }
    description.bits = static_cast<std::uint8_t>(description.bits | is_unheld | (kept_by_kernel ? kept : 0));
    ++unheld_count_;
    release_in_doubt_ |= name_of(description) == NameState::deleted && !kept_by_kernel;
    unheld_.push_back({earliest_ns, since_ns, number, description.id});
    const auto waiting = [this](const Unheld& unheld) {
        const Description& candidate = descriptions_[unheld.description];
        return (candidate.bits & is_unheld) != 0 && candidate.id == unheld.id;
    };
    while (!unheld_.empty() && (unheld_.size() > max_unheld || !waiting(unheld_.front()))) {
        if (waiting(unheld_.front())) {
            remove_description(unheld_.front().description);
            ++unheld_dropped_;
        }
        unheld_.pop_front();
    }
}

bool Index::end_held(std::uint32_t number, const Interval& when, std::uint32_t process, const EventSink& sink) {
    const Description& description = descriptions_[number];
    if (description.first_ref != none || description.id != 0 || name_of(description) != NameState::deleted) return false;
    end_description(number, when, process, 0, -1, sink);
    return true;
}

Index::GivenBack Index::given_back(std::uint32_t number, const Interval& when, const fdspan_closed_unlinked* inode) const {
    if (name_of(descriptions_[number]) != NameState::deleted || !is_last_of_file(number)) return {};
    const auto deleted = deleted_.find(file_of(number));
    if (deleted == deleted_.end()) return {};
    std::uint64_t allocated = deleted->second.allocated;
    // The inode does not count what its file system has promised and not placed yet: no more than its size, in pages.
    constexpr std::uint64_t page_bytes = 4096;
    if (inode != nullptr) {
        const std::uint64_t pages_bytes = (inode->size + page_bytes - 1) / page_bytes * page_bytes;
        allocated = std::max(inode->allocated, std::min(allocated, pages_bytes));
    }
    return {length(deleted->second.when, when), allocated};
}

void Index::end_description(std::uint32_t number, const Interval& when, std::uint32_t process, pid_t tid, std::int32_t fd,
                            const EventSink& sink, const fdspan_closed_unlinked* inode) {
    if (sink) {
        SlotView view;
        view.description = number;
        view.opened = times_.get(descriptions_[number].opened);
        emit_slot(EventKind::released, when, process, tid, fd, view, sink, given_back(number, when, inode));
    }
    remove_description(number);
}

void Index::detach_description(std::uint32_t number, std::uint64_t until_ns, std::uint32_t exact_process, const EventSink& sink) {
    struct Place {
        std::uint32_t table;
        std::int32_t fd;
    };
    std::vector<Place> places;
    std::vector<std::uint32_t> held;
    for (RefId ref = descriptions_[number].first_ref; ref != none; ref = next_of(ref)) {
        if ((ref & held_bit) != 0) {
            held.push_back(ref & ~held_bit);
            continue;
        }
        const Page& page = pages_[ref / page_slots];
        const auto fd = static_cast<std::int32_t>(page.first_fd + ref % page_slots);
        if (page.users == 1) places.push_back({page.sole_user, fd});
        for (const std::uint32_t table : page.tables) places.push_back({table, fd});
    }
    for (const Place& place : places) {
        SlotView view;
        if (!slot(place.table, place.fd, view)) continue;
        TableUser user = tables_[place.table].users.front();
        bool exact = false;
        for (const TableUser& candidate : tables_[place.table].users) {
            if (exact_process == none || candidate.process != exact_process) continue;
            user = candidate;
            exact = true;
            break;
        }
        const Interval when = exact ? Interval::exact(until_ns) : between(alive_since(processes_[user.process], view), until_ns);
        close_slot(place.table, place.fd, view, when, user.process, user.tid, sink);
    }
    for (const std::uint32_t number_held : held) {
        std::uint32_t* link = &processes_[held_[number_held].process].first_held;
        while (*link != number_held) link = &held_[*link].next_of_process;
        remove_held(number_held, *link);
    }
}

void Index::end_replaced_description(std::uint32_t number, std::uint64_t until_ns, const EventSink& sink) {
    detach_description(number, until_ns, none, sink);
    const std::uint64_t since_ns = times_.get(descriptions_[number].opened).latest_ns;
    end_description(number, between(since_ns, until_ns), none, 0, -1, sink);
}

std::uint32_t Index::remove_held(std::uint32_t number, std::uint32_t& link) {
    Held& held = held_[number];
    const std::uint32_t description = held.description;
    link = held.next_of_process;
    unlink_ref(description, number | held_bit);
    times_.release(held.opened);
    held_.give(number);
    return description;
}

// image_only: what an exec replaces; else everything.
void Index::drop_held(std::uint32_t process, bool image_only, const Interval& when, const EventSink& sink) {
    std::uint32_t* link = &processes_[process].first_held;
    while (*link != none) {
        const Held& held = held_[*link];
        if (image_only && held.kind != RefKind::mem && held.kind != RefKind::exe) {
            link = &held_[*link].next_of_process;
            continue;
        }
        const std::uint32_t description = remove_held(*link, *link);
        if (!end_held(description, when, process, sink)) lost_last_ref(description, false, when.earliest_ns, when.latest_ns);
    }
}

std::uint32_t Index::add_held(std::uint32_t process, const Reference& row, std::uint32_t description) {
    const std::uint32_t number = held_.take();
    Held& held = held_[number];
    held.opened = times_.store(row.opened);
    held.map_start = row.ref == RefKind::mem ? row.map_start : 0;
    held.map_end = row.map_end;
    held.map_flags = row.map_flags;
    held.description = description;
    held.process = process;
    held.kind = row.ref;
    held.next_of_process = processes_[process].first_held;
    processes_[process].first_held = number;
    link_ref(description, number | held_bit);
    return number;
}

// ---- ends of spans ------------------------------------------------------------------------------------------------

// The latest moment at which this descriptor was certainly there: when it was opened, or when the last snapshot of its process
// began, which had it. (The upper end of a bounded time is no proof: it was seen somewhere before.)
std::uint64_t Index::alive_since(const ProcessEntry& process, const SlotView& slot) const {
    return std::max(slot.opened.earliest_ns, process.synced_ns);
}

// When a descriptor ended that was found missing at `when`. Exact unless its own end may be among lost records.
Interval Index::implied_end(const ProcessEntry& process, const SlotView& slot, const Interval& when) const {
    const std::uint64_t alive_ns = alive_since(process, slot);
    if (!when.is_exact()) return between(alive_ns, when.latest_ns);
    if (loss_last_ns_ == 0 || alive_ns > loss_last_ns_) return when;
    return between(std::max(alive_ns, loss_first_ns_), when.latest_ns);
}

void Index::note_loss(const Interval& window) {
    loss_first_ns_ = loss_last_ns_ == 0 ? window.earliest_ns : std::min(loss_first_ns_, window.earliest_ns);
    loss_last_ns_ = std::max(loss_last_ns_, window.latest_ns);
}

std::uint32_t Index::close_slot(std::uint32_t table, std::int32_t fd, const SlotView& view, const Interval& when,
                                std::uint32_t process, pid_t tid, const EventSink& sink) {
    emit_slot(EventKind::closed, when, process, tid, fd, view, sink);
    const std::uint32_t description = empty_slot(table, fd);
    remember_slot(table, fd, when.latest_ns, print_of(description), true);
    return description;
}

std::uint64_t Index::print_of(std::uint64_t id, std::uint64_t ino) { return id == 0 ? 0 : mix(id) ^ ino; }

std::uint64_t Index::print_of(std::uint32_t number) const {
    const Description& description = descriptions_[number];
    return print_of(description.id, (description.bits & stat_known) != 0 ? description.ino : 0);
}

void Index::remember_slot(std::uint32_t table, std::int32_t fd, std::uint64_t at_ns, std::uint64_t print, bool has_file) {
    ended_slots_.push_back({at_ns, print, tables_[table].serial, static_cast<std::uint32_t>(fd) & 0x7fffffffU, has_file ? 1U : 0U});
    trim_history(at_ns);
}

void Index::remember_task(const ProcessEntry& process, pid_t tid, std::uint64_t at_ns) {
    ended_tasks_.push_back({at_ns, process.started, process.pid, tid});
    if (tid == 0) exited_[process.pid] = at_ns;
    trim_history(at_ns);
}

void Index::trim_history(std::uint64_t now_ns) {
    const auto over = [&](const auto& history) {
        return !history.empty() && (history.size() > max_history || history.front().at_ns + history_ns < now_ns);
    };
    while (over(ended_slots_)) forget_ended_slot();
    while (over(ended_tasks_)) forget_ended_task();
    while (history_bytes() > max_history_bytes_) {
        const bool slot_first = ended_tasks_.empty() || (!ended_slots_.empty() && ended_slots_.front().at_ns <= ended_tasks_.front().at_ns);
        if (slot_first) forget_ended_slot();
        else forget_ended_task();
    }
}

void Index::forget_ended(std::uint64_t before_ns) {
    while (!ended_slots_.empty() && ended_slots_.front().at_ns < before_ns) forget_ended_slot();
    while (!ended_tasks_.empty() && ended_tasks_.front().at_ns < before_ns) forget_ended_task();
}

void Index::forget_ended_slot() {
    history_cut_ns_ = std::max(history_cut_ns_, ended_slots_.front().at_ns);
    ended_slots_.pop_front();
}

void Index::forget_ended_task() {
    const EndedTask& oldest = ended_tasks_.front();
    history_cut_ns_ = std::max(history_cut_ns_, oldest.at_ns);
    if (const auto last = exited_.find(oldest.pid); last != exited_.end() && last->second == oldest.at_ns) exited_.erase(last);
    ended_tasks_.pop_front();
}

std::size_t Index::history_bytes() const {
    return ended_slots_.size() * sizeof(EndedSlot) + ended_tasks_.size() * sizeof(EndedTask) +
           exited_.size() * (sizeof(std::pair<pid_t, std::uint64_t>) + node_overhead);
}

// ---- views --------------------------------------------------------------------------------------------------------

void Index::fill_process(const ProcessEntry& entry, Process& out) const {
    out.pid = entry.pid;
    out.ppid = entry.ppid;
    out.uid = entry.uid;
    out.comm = scratch_.append(entry.comm);
    out.cgroup = scratch_.append(entry.cgroup);
    out.container = scratch_.append(entry.container);
    out.started = entry.started;
    out.unreadable = entry.unreadable;
}

void Index::fill_description(std::uint32_t number, Reference& out) const {
    const Description& description = descriptions_[number];
    const Extra extra = extra_of(number);
    out.type = type_of(description);
    out.name = name_of(description);
    text_.clear();
    if ((description.bits & label_by_ino) != 0) {
        text_ = (out.type == FileType::sock ? "socket:[" : "pipe:[") + std::to_string(description.ino) + "]";
    } else {
        paths_.append_text(description.path, text_);
    }
    out.path = PathId::whole(scratch_.append(text_));
    if (out.type == FileType::anon) out.type_name = scratch_.append(anon_class(text_));
    out.dev = device_number(extra.dev);
    out.rdev = device_number(extra.rdev);
    out.nlink = extra.nlink;
    out.flags = extra.flags;
    out.ino = description.ino;
    out.description_id = description.id;
    out.description_opened = times_.get(description.opened);
    out.valid = static_cast<std::uint8_t>(field_times | (text_.empty() ? 0U : field_path) |
                                          ((description.bits & stat_known) != 0 ? field_stat : 0U) |
                                          ((description.bits & flags_known) != 0 ? field_fdinfo : 0U));
}

void Index::fill_slot_row(pid_t tid, std::int32_t fd, const SlotView& view, Reference& out) const {
    fill_description(view.description, out);
    out.tid = tid;
    out.fd = fd;
    out.ref = RefKind::fd;
    if (view.cloexec) out.flags |= O_CLOEXEC;
    out.opened = view.opened;
}

void Index::fill_held_row(const Held& held, Reference& out) const {
    fill_description(held.description, out);
    if ((descriptions_[held.description].bits & file_only) != 0) out.description_opened = times_.get(held.opened);
    out.ref = held.kind;
    out.opened = times_.get(held.opened);
    if (held.kind == RefKind::mem) out.map_start = held.map_start;
    out.map_end = held.map_end;
    out.map_flags = held.map_flags;
    out.flags = 0;
}

void Index::visit_slot(std::uint32_t process, pid_t tid, std::int32_t fd, const SlotView& view, const RowVisitor& visit) const {
    scratch_.clear();
    Process shown;
    fill_process(processes_[process], shown);
    Reference row;
    fill_slot_row(tid, fd, view, row);
    visit({shown, row, scratch_});
}

void Index::visit_description(std::uint32_t number, const RowVisitor& visit) const {
    for_each_ref(
        number,
        [&](const TableUser& user, std::int32_t fd, const SlotView& view) { visit_slot(user.process, user.tid, fd, view, visit); },
        [&](const Held& held) {
            scratch_.clear();
            Process shown;
            fill_process(processes_[held.process], shown);
            Reference row;
            fill_held_row(held, row);
            visit({shown, row, scratch_});
        });
}

void Index::visit_process(std::uint32_t process, const RowVisitor& visit) const {
    const ProcessEntry& entry = processes_[process];
    const auto visit_table = [&](std::uint32_t table, pid_t tid) {
        for_each_slot(table, [&](std::int32_t fd, const SlotView& view) { visit_slot(process, tid, fd, view, visit); });
    };
    visit_table(entry.table, 0);
    for (const Thread& thread : entry.threads) {
        if (thread.table != none) visit_table(thread.table, thread.tid);
    }
    for (std::uint32_t number = entry.first_held; number != none; number = held_[number].next_of_process) {
        scratch_.clear();
        Process shown;
        fill_process(entry, shown);
        Reference row;
        fill_held_row(held_[number], row);
        visit({shown, row, scratch_});
    }
}

std::vector<pid_t> Index::processes() const {
    std::vector<pid_t> pids;
    pids.reserve(by_pid_.size());
    for (const auto& [pid, process] : by_pid_) pids.push_back(pid);
    std::sort(pids.begin(), pids.end());
    return pids;
}

void Index::for_each(const RowVisitor& visit) const {
    std::vector<std::pair<pid_t, std::uint32_t>> order(by_pid_.begin(), by_pid_.end());
    std::sort(order.begin(), order.end());
    for (const auto& [pid, process] : order) visit_process(process, visit);
}

void Index::for_each_of_process(pid_t pid, const RowVisitor& visit) const {
    if (const std::uint32_t process = find_process(pid); process != none) visit_process(process, visit);
}

void Index::for_each_of_file(DeviceNumber dev, std::uint64_t ino, const RowVisitor& visit) const {
    const std::uint32_t kernel_dev = kernel_device(dev);
    for (std::uint32_t number = by_inode_.head(file_hash(kernel_dev, ino)); number != none;
         number = descriptions_[number].next_by_inode) {
        if (descriptions_[number].ino == ino && extra_of(number).dev == kernel_dev) visit_description(number, visit);
    }
}

void Index::for_each_of_description(std::uint64_t id, const RowVisitor& visit) const {
    if (const std::uint32_t number = find_description(id); number != none) visit_description(number, visit);
}

void Index::visit_dir(PathStore::Dir dir, const RowVisitor& visit) const {
    // Depth first without recursion: paths may be deep.
    PathStore::Dir at = dir;
    while (true) {
        for (std::uint32_t number = paths_.node(at).first_description; number != none;
             number = descriptions_[number].next_in_dir) {
            visit_description(number, visit);
        }
        if (paths_.node(at).first_child != PathStore::none) {
            at = paths_.node(at).first_child;
            continue;
        }
        while (at != dir && paths_.node(at).next_sibling == PathStore::none) at = paths_.node(at).parent;
        if (at == dir) return;
        at = paths_.node(at).next_sibling;
    }
}

void Index::for_each_under(std::string_view path, const RowVisitor& visit) const {
    while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
    std::string_view dir_text, name;
    if (!PathStore::split(path, dir_text, name)) return;
    const PathStore::Dir dir = paths_.find(path);
    // The thing itself stands in its directory's list; "/" stands in its own.
    if (path != "/") {
        if (const PathStore::Dir above = paths_.find(dir_text); above != PathStore::none) {
            for (std::uint32_t number = paths_.node(above).first_description; number != none;
                 number = descriptions_[number].next_in_dir) {
                if (paths_.name(descriptions_[number].path.name) == name) visit_description(number, visit);
            }
        }
    }
    if (dir != PathStore::none) visit_dir(dir, visit);
}

void Index::for_each_deleted(const RowVisitor& visit) const {
    for (std::size_t coarse = 0; coarse < coarse_.size(); ++coarse) {
        for (std::uint64_t blocks = coarse_[coarse].deleted; blocks != 0; blocks &= blocks - 1) {
            const std::size_t block = coarse * 64 + static_cast<unsigned>(std::countr_zero(blocks));
            for (std::uint64_t bits = summaries_[block].deleted; bits != 0; bits &= bits - 1) {
                visit_description(static_cast<std::uint32_t>(block * 64 + static_cast<unsigned>(std::countr_zero(bits))), visit);
            }
        }
    }
}

std::vector<std::pair<DeviceNumber, std::uint64_t>> Index::deleted_files() const {
    std::vector<std::pair<DeviceNumber, std::uint64_t>> files;
    files.reserve(deleted_.size());
    for (const auto& [file, known] : deleted_) files.emplace_back(device_number(file.dev), file.ino);
    return files;
}

std::optional<DeletedView> Index::deleted_file(DeviceNumber dev, std::uint64_t ino) const {
    const auto found = deleted_.find(FileKey{kernel_device(dev), ino});
    if (found == deleted_.end()) return std::nullopt;
    DeletedView view{found->second.when, found->second.how, std::nullopt};
    if (const RemovedBy* const by = found->second.by.get()) view.by = {by->pid, by->uid, by->comm, by->exe, by->cgroup};
    return view;
}

void Index::for_each_older_than(std::uint64_t boottime_ns, const RowVisitor& visit) const {
    for (std::size_t coarse = 0; coarse < coarse_.size(); ++coarse) {
        if (coarse_[coarse].opened_latest_ns > boottime_ns) continue;
        std::uint64_t coarse_ns = ~std::uint64_t{0};
        for (std::size_t block = coarse * 64; block < std::min((coarse + 1) * 64, summaries_.size()); ++block) {
            if (summaries_[block].opened_latest_ns <= boottime_ns) {
                // What went since made the summary too low: correct it on the way.
                std::uint64_t block_ns = ~std::uint64_t{0};
                for (auto number = static_cast<std::uint32_t>(block * 64);
                     number < std::min<std::size_t>((block + 1) * 64, descriptions_.end()); ++number) {
                    if (number == 0 || (descriptions_[number].bits & in_use) == 0) continue;
                    const std::uint64_t latest_ns = times_.get(descriptions_[number].opened).latest_ns;
                    block_ns = std::min(block_ns, latest_ns);
                    if (latest_ns <= boottime_ns) visit_description(number, visit);
                }
                summaries_[block].opened_latest_ns = block_ns;
            }
            coarse_ns = std::min(coarse_ns, summaries_[block].opened_latest_ns);
        }
        coarse_[coarse].opened_latest_ns = coarse_ns;
    }
}

bool Index::lookup(pid_t pid, pid_t tid, std::int32_t fd, const RowVisitor& visit) const {
    const std::uint32_t process = find_process(pid);
    if (process == none) return false;
    const std::uint32_t table = table_of(processes_[process], tid);
    SlotView view;
    if (!slot(table, fd, view)) return false;
    visit_slot(process, table == processes_[process].table ? 0 : tid, fd, view, visit);
    return true;
}

std::vector<pid_t> Index::processes_of(uid_t real_uid) const {
    std::vector<pid_t> found;
    for (const auto& [pid, process] : by_pid_) {
        if (processes_[process].uid == real_uid) found.push_back(pid);
    }
    return found;
}

std::vector<pid_t> Index::incomplete() const {
    std::vector<pid_t> pids;
    if (incomplete_count_ == 0) return pids;
    for (const auto& [pid, process] : by_pid_) {
        if (processes_[process].incomplete_ns != 0) pids.push_back(pid);
    }
    std::sort(pids.begin(), pids.end());
    return pids;
}

void Index::emit_slot(EventKind kind, const Interval& when, std::uint32_t process, pid_t tid, std::int32_t fd, const SlotView& view,
                      const EventSink& sink, const GivenBack& given_back) {
    if (!sink) return;
    scratch_.clear();
    Process shown;
    if (process != none) fill_process(processes_[process], shown);
    Reference row;
    fill_slot_row(tid, fd, view, row);
    Event event;
    event.kind = kind;
    event.when = when;
    event.strings = &scratch_;
    event.process = process != none ? &shown : nullptr;
    event.reference = &row;
    if (kind == EventKind::closed) event.duration = length(view.opened, when);
    if (kind == EventKind::released) event.duration = length(row.description_opened, when);
    event.held_deleted = given_back.held_deleted;
    event.allocated = given_back.allocated;
    sink(event);
}

void Index::emit_process(EventKind kind, const Interval& when, std::uint32_t process, std::optional<std::int32_t> exit_status, const EventSink& sink) {
    if (!sink) return;
    scratch_.clear();
    Process shown;
    fill_process(processes_[process], shown);
    Event event;
    event.kind = kind;
    event.when = when;
    event.strings = &scratch_;
    event.process = &shown;
    event.exit_status = exit_status;
    sink(event);
}

// ---- accounts -----------------------------------------------------------------------------------------------------

IndexCounts Index::counts() const {
    IndexCounts out;
    out.processes = processes_.used();
    out.tables = tables_.used();
    out.pages = pages_.used();
    out.descriptors = descriptor_count_;
    out.descriptions = descriptions_.used();
    out.directories = paths_.directories();
    out.unheld = unheld_count_;
    out.unheld_dropped = unheld_dropped_;
    out.unknown_closes = unknown_closes_;
    out.stale_records = stale_records_;
    return out;
}

std::size_t Index::index_bytes() const {
    std::size_t bytes = sizeof *this + processes_.bytes() + tables_.bytes() + pages_.bytes() + descriptions_.bytes() + held_.bytes() +
                        times_.bytes() + paths_.bytes() + by_id_.bytes() + by_inode_.bytes() + by_name_.bytes();
    bytes += deleted_.size() * (sizeof(std::pair<FileKey, DeletedFile>) + node_overhead + sizeof(RemovedBy)) + gone_.size() * (sizeof(std::uint32_t) + node_overhead);
    bytes += (summaries_.capacity() + coarse_.capacity()) * sizeof(Summary);
    bytes += by_pid_.size() * (sizeof(std::pair<pid_t, std::uint32_t>) + node_overhead);
    bytes += extras_.size() * (sizeof(std::pair<std::uint32_t, Extra>) + node_overhead);
    bytes += (dev_values_.size() + flag_values_.size()) * (2 * sizeof(std::uint64_t) + node_overhead);
    bytes += history_bytes() + unheld_.size() * sizeof(Unheld);
    for (std::uint32_t table = 1; table < tables_.end(); ++table) {
        bytes += tables_[table].pages.capacity() * sizeof(std::uint32_t) + tables_[table].users.capacity() * sizeof(TableUser);
    }
    for (std::uint32_t page = 1; page < pages_.end(); ++page) bytes += pages_[page].tables.capacity() * sizeof(std::uint32_t);
    for (std::uint32_t process = 1; process < processes_.end(); ++process) {
        const ProcessEntry& entry = processes_[process];
        bytes += entry.threads.capacity() * sizeof(Thread) + entry.cgroup.capacity() + entry.container.capacity();
    }
    return bytes;
}

std::size_t Index::reusable_bytes() const {
    return processes_.reusable_bytes() + tables_.reusable_bytes() + pages_.reusable_bytes() + descriptions_.reusable_bytes() +
           held_.reusable_bytes() + times_.reusable_bytes() + paths_.reusable_bytes();
}

bool Index::pack_names() {
    if (!paths_.names_are_loose()) return false;
    std::vector<std::uint32_t*> held;
    for (std::uint32_t number = 1; number < descriptions_.end(); ++number) {
        Description& description = descriptions_[number];
        if ((description.bits & in_use) != 0 && description.path.name != 0) held.push_back(&description.path.name);
    }
    paths_.pack_names(std::move(held));
    return true;
}

std::string Index::check() const {
    // Every filled slot stands in its description's list, once; every page knows its tables.
    std::unordered_map<std::uint64_t, unsigned> refs;  // description << 32 | ref
    std::unordered_map<std::uint32_t, std::vector<std::uint32_t>> page_users;
    std::uint64_t slots = 0;
    for (std::uint32_t table = 1; table < tables_.end(); ++table) {
        const Table& entry = tables_[table];
        if (entry.serial != 0 && entry.users.empty()) return "table without user";
        for (std::size_t place = 0; place < entry.pages.size(); ++place) {
            if (entry.pages[place] == none) continue;
            const std::uint32_t number = entry.pages[place] & ~inherited_bit;
            const Page& page = pages_[number];
            if (page.first_fd != place * page_slots) return "page at another place";
            if (page.mask == 0) return "empty page";
            page_users[number].push_back(table);
            slots += static_cast<unsigned>(std::popcount(page.mask));
        }
    }
    if (slots != descriptor_count_) return "descriptor count";
    if (page_users.size() != pages_.used()) return "page count";
    for (auto& [number, users] : page_users) {
        const Page& page = pages_[number];
        if (page.users != users.size()) return "page users";
        if (page.users == 1 && page.sole_user != users.front()) return "sole user of a page";
        if (page.users > 1) {
            std::vector<std::uint32_t> listed = page.tables;
            std::sort(listed.begin(), listed.end());
            std::sort(users.begin(), users.end());
            if (listed != users) return "list of a page's users";
        }
        for (unsigned mask = page.mask; mask != 0; mask &= mask - 1) {
            const auto i = static_cast<unsigned>(std::countr_zero(mask));
            ++refs[std::uint64_t{page.description[i] & ~cloexec_bit} << 32 | (number * page_slots + i)];
        }
    }
    for (const auto& [pid, process] : by_pid_) {
        const ProcessEntry& entry = processes_[process];
        if (entry.pid != pid || !entry.alive) return "process by pid";
        const auto uses = [&](std::uint32_t table, pid_t tid) {
            const std::vector<TableUser>& users = tables_[table].users;
            return std::count_if(users.begin(), users.end(), [&](const TableUser& user) {
                       return user.process == process && user.tid == tid;
                   }) == 1;
        };
        if (!uses(entry.table, 0)) return "process does not use its table";
        std::uint32_t own = 0;
        for (const Thread& thread : entry.threads) {
            if (thread.table == none) continue;
            ++own;
            if (!uses(thread.table, thread.tid)) return "thread does not use its table";
        }
        if (own != entry.own_tables) return "count of threads' tables";
        for (std::uint32_t number = entry.first_held; number != none; number = held_[number].next_of_process) {
            if (held_[number].process != process) return "held by another process";
            ++refs[std::uint64_t{held_[number].description} << 32 | number | held_bit];
        }
    }
    std::uint32_t used = 0;
    std::uint32_t unheld = 0;
    std::size_t listed = 0;
    for (std::uint32_t number = 1; number < descriptions_.end(); ++number) {
        const Description& description = descriptions_[number];
        const bool deleted_bit = number / 64 < summaries_.size() && (summaries_[number / 64].deleted >> (number % 64) & 1) != 0;
        if ((description.bits & in_use) == 0) {
            if (deleted_bit) return "deleted mark of nothing";
            continue;
        }
        ++used;
        if (deleted_bit != (name_of(description) == NameState::deleted)) return "deleted mark";
        if (gone_.contains(number) != (name_of(description) == NameState::gone)) return "gone mark";
        if (in_names(description)) {
            const std::uint32_t before = description.previous_by_name;
            const std::uint32_t after_it = before != none ? descriptions_[before].next_by_name : by_name_.head(PathStore::hash_of(paths_.name(description.path.name)));
            if (after_it != number || (before != none && !in_names(descriptions_[before]))) return "chain of a name";
        }
        if (summaries_[number / 64].opened_latest_ns > times_.get(description.opened).latest_ns) return "summary of ages";
        if (coarse_[number / 4096].opened_latest_ns > times_.get(description.opened).latest_ns) return "coarse summary of ages";
        if (description.id != 0 && find_description(description.id) != number) return "description by id";
        RefId previous = none;
        for (RefId ref = description.first_ref; ref != none; previous = ref, ref = next_of(ref)) {
            if (const_cast<Index*>(this)->previous_of(ref) != previous) return "reference list backwards";
            if (refs[std::uint64_t{number} << 32 | ref] != 1) return "reference list holds a stranger";
            ++listed;
        }
        if ((description.first_ref == none) != ((description.bits & is_unheld) != 0)) return "unheld mark";
        unheld += (description.bits & is_unheld) != 0 ? 1 : 0;
    }
    if (listed != refs.size()) return "reference in no list";
    if (used != descriptions_.used()) return "description count";
    if (unheld != unheld_count_) return "unheld count";
    return {};
}

}  // namespace fdspan
