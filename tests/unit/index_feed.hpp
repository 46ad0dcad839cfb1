// Feed: builds records as the kernel side would, hands them through decode to an index, and keeps the events as text.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <sys/stat.h>

#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "decode/decode.hpp"
#include "index/index.hpp"
#include "reconcile/reconcile.hpp"

namespace fdspan::test {

constexpr std::uint32_t ext4_magic = 0xef53;

struct Opened {
    std::uint64_t id = 0;
    std::uint64_t description_ns = 0;  // 0: now, when `how` is OPEN
    std::uint64_t description_latest_ns = 0;  // 0: exact
    std::uint16_t how = FDSPAN_HOW_OPEN;
    std::string names = std::string("f\0tmp\0", 6);
    std::uint64_t ino = 0;  // 0: the id
    std::uint32_t dev = 8U << 20 | 1;
    std::uint32_t mode = S_IFREG | 0644;
    std::uint32_t nlink = 1;
    std::uint32_t magic = ext4_magic;
    std::uint32_t flags = 0;
    std::uint8_t path_flags = 0;
    bool cloexec = false;
};

// Storage with the alignment of the ring.
class Bytes {
public:
    explicit Bytes(std::size_t bytes) : words_((bytes + 7) / 8, 0), bytes_(bytes) {}
    template <class T>
    T& as() { return *reinterpret_cast<T*>(words_.data()); }
    char* data() { return reinterpret_cast<char*>(words_.data()); }
    [[nodiscard]] std::size_t size() const { return bytes_; }

private:
    std::vector<std::uint64_t> words_;
    std::size_t bytes_;
};

template <class T>
Bytes make_record(std::uint16_t type, std::uint64_t at_ns, std::uint32_t pid, std::uint32_t tid, std::size_t extra = 0) {
    Bytes bytes(sizeof(T) + extra);
    auto& header = bytes.as<fdspan_record>();
    header.type = type;
    header.size = static_cast<std::uint32_t>(sizeof(T) + extra);
    header.boottime_ns = at_ns;
    header.pid = pid;
    header.tid = tid;
    return bytes;
}

inline Bytes opened_record(std::uint64_t at_ns, std::uint32_t pid, std::uint32_t tid, std::int32_t fd, const Opened& what) {
    Bytes bytes = make_record<fdspan_opened>(FDSPAN_RECORD_OPENED, at_ns, pid, tid, what.names.size());
    auto& raw = bytes.as<fdspan_opened>();
    raw.description_id = what.id;
    raw.description_earliest_ns = what.description_ns;
    if (raw.description_earliest_ns == 0 && what.how == FDSPAN_HOW_OPEN) raw.description_earliest_ns = at_ns;
    raw.description_latest_ns = what.description_latest_ns != 0 ? what.description_latest_ns : raw.description_earliest_ns;
    raw.ino = what.ino != 0 ? what.ino : what.id;
    raw.fd = fd;
    raw.open_flags = what.flags;
    raw.dev = what.dev;
    raw.mode = what.mode;
    raw.nlink = what.nlink;
    raw.fs_magic = what.magic;
    raw.how = what.how;
    raw.cloexec = what.cloexec ? 1 : 0;
    raw.path_flags = what.path_flags;
    raw.path_bytes = static_cast<std::uint16_t>(what.names.size());
    std::memcpy(&raw + 1, what.names.data(), what.names.size());
    return bytes;
}

class Feed {
public:
    Index index;
    std::vector<std::string> events;
    std::uint64_t now_ns = 1000;
    bool quiet = false;

    void give(Bytes bytes) {
        Record record;
        if (decode(bytes.data(), bytes.size(), record) != Malformed::none) FAIL("a malformed record");
        index.apply(record, quiet ? EventSink{} : sink());
    }
    EventSink sink() {
        return [this](const Event& event) { events.push_back(text(event)); };
    }

    void open(std::uint32_t pid, std::int32_t fd, const Opened& what, std::uint32_t tid = 0) {
        give(opened_record(++now_ns, pid, tid != 0 ? tid : pid, fd, what));
    }
    void dup(std::uint32_t pid, std::int32_t fd, std::uint64_t id, std::uint64_t description_ns, std::uint16_t how = FDSPAN_HOW_DUP,
             std::uint32_t tid = 0) {
        Opened what;
        what.id = id;
        what.description_ns = description_ns;
        what.how = how;
        open(pid, fd, what, tid);
    }
    void close(std::uint32_t pid, std::int32_t fd, std::uint64_t id, bool last, std::uint64_t description_ns = 0,
               std::uint32_t tid = 0) {
        give(closed_record(FDSPAN_RECORD_CLOSED, ++now_ns, pid, tid != 0 ? tid : pid, fd, id, last, description_ns));
    }
    void release(std::uint32_t pid, std::uint64_t id, std::uint64_t description_ns = 0) {
        give(closed_record(FDSPAN_RECORD_RELEASED, ++now_ns, pid, pid, -1, id, true, description_ns));
    }
    static Bytes closed_record(std::uint16_t type, std::uint64_t at_ns, std::uint32_t pid, std::uint32_t tid, std::int32_t fd,
                               std::uint64_t id, bool last, std::uint64_t description_ns) {
        Bytes bytes = make_record<fdspan_closed>(type, at_ns, pid, tid);
        auto& raw = bytes.as<fdspan_closed>();
        raw.description_id = id;
        raw.description_earliest_ns = raw.description_latest_ns = description_ns;
        raw.fd = fd;
        raw.last = last ? 1 : 0;
        return bytes;
    }
    // A process when child_pid == child_tid, else a thread of `pid`.
    void fork(std::uint32_t pid, std::uint32_t child_pid, bool shares_table = false, std::uint32_t child_tid = 0,
              std::uint32_t tid = 0) {
        Bytes bytes = make_record<fdspan_fork>(FDSPAN_RECORD_FORK, ++now_ns, pid, tid != 0 ? tid : pid);
        auto& raw = bytes.as<fdspan_fork>();
        raw.child_started_ns = now_ns;
        raw.child_pid = child_pid;
        raw.child_tid = child_tid != 0 ? child_tid : child_pid;
        raw.shares_table = shares_table ? 1 : 0;
        std::strcpy(raw.comm, "child");
        give(std::move(bytes));
    }
    void table_record(std::uint16_t type, std::uint32_t pid, std::uint32_t tid, const std::vector<std::int32_t>& open_fds,
                      bool new_table, std::uint32_t old_tid, std::uint32_t words = 32) {
        Bytes bytes = make_record<fdspan_table_record>(type, ++now_ns, pid, tid);
        auto& raw = bytes.as<fdspan_table_record>();
        raw.old_tid = old_tid;
        raw.new_table = new_table ? 1 : 0;
        raw.words = words;
        std::strcpy(raw.comm, "image");
        for (const std::int32_t fd : open_fds) raw.open_fds[fd / 64] |= std::uint64_t{1} << (fd % 64);
        give(std::move(bytes));
    }
    void exec(std::uint32_t pid, const std::vector<std::int32_t>& open_fds, bool new_table = false, std::uint32_t old_tid = 0,
              std::uint32_t words = 32) {
        table_record(FDSPAN_RECORD_EXEC, pid, pid, open_fds, new_table, old_tid != 0 ? old_tid : pid, words);
    }
    void unshare(std::uint32_t pid, std::uint32_t tid, const std::vector<std::int32_t>& open_fds) {
        table_record(FDSPAN_RECORD_UNSHARED, pid, tid, open_fds, true, tid);
    }
    void exit(std::uint32_t pid, std::uint32_t tid, bool group_dead, bool table_dead) {
        Bytes bytes = make_record<fdspan_exit>(FDSPAN_RECORD_EXIT, ++now_ns, pid, tid);
        auto& raw = bytes.as<fdspan_exit>();
        raw.group_dead = group_dead ? 1 : 0;
        raw.table_dead = table_dead ? 1 : 0;
        raw.exit_code = 256;
        give(std::move(bytes));
    }

    // An empty snapshot of these processes, read now: from here on the index knows them completely.
    void settle(const std::vector<pid_t>& pids) {
        Snapshot snapshot;
        snapshot.began_ns = ++now_ns;
        snapshot.ended_ns = now_ns;
        for (const pid_t pid : pids) {
            Process process;
            process.pid = pid;
            process.started = Interval::bounded(0, now_ns);
            process.ppid = 1;
            process.comm = snapshot.strings.intern("child");
            snapshot.processes.push_back(process);
        }
        ReconcileOptions how;
        how.announce = how.report = false;
        reconcile(index, snapshot, how, {});
    }

    // "opened 1/3 /tmp/f @1001", "closed 1/3 /tmp/f @1002 +1", "released /tmp/f @5..9 +0..4"
    static std::string text(const Event& event) {
        std::string out(to_string(event.kind));
        if (event.process != nullptr) out += " " + std::to_string(event.process->pid);
        if (event.reference != nullptr) {
            if (event.reference->fd >= 0 && event.kind != EventKind::released) {
                if (event.reference->tid != 0) out += ":" + std::to_string(event.reference->tid);
                out += "/" + std::to_string(event.reference->fd);
            }
            out += " " + std::string(event.strings->get(event.reference->path.name));
        }
        out += " @" + text(event.when);
        if (event.duration) out += " +" + text(*event.duration);
        if (event.kind == EventKind::exit) out += " status " + (event.exit_status ? std::to_string(*event.exit_status) : "unknown");
        if (event.kind == EventKind::resynced) out += " " + std::to_string(event.added) + " " + std::to_string(event.ended);
        return out;
    }
    static std::string text(const Interval& interval) {
        if (interval.is_exact()) return std::to_string(interval.latest_ns);
        return std::to_string(interval.earliest_ns) + ".." + std::to_string(interval.latest_ns);
    }

    std::vector<std::string> take() {
        std::vector<std::string> out;
        out.swap(events);
        return out;
    }

    // "1/3 /tmp/f @1001", in the order of the index.
    static RowVisitor into(std::vector<std::string>& out) {
        return [&out](const IndexRow& row) {
            std::string line = std::to_string(row.process.pid);
            if (row.reference.tid != 0) line += ":" + std::to_string(row.reference.tid);
            line += row.reference.ref == RefKind::fd ? "/" + std::to_string(row.reference.fd)
                                                     : " " + std::string(to_string(row.reference.ref));
            line += " " + std::string(row.strings.get(row.reference.path.name)) + " @" + text(row.reference.opened);
            out.push_back(line);
        };
    }
    std::vector<std::string> rows() {
        std::vector<std::string> out;
        index.for_each(into(out));
        const std::string broken = index.check();
        CHECK(broken == "");
        return out;
    }
    std::vector<std::string> rows(pid_t pid) {
        std::vector<std::string> out;
        index.for_each_of_process(pid, into(out));
        return out;
    }
};

using Lines = std::vector<std::string>;

}  // namespace fdspan::test
