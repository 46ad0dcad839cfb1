// fdspan-replay: how fast records go through decode and index on one core, and how many bytes the index takes.
//   fdspan-replay [DESCRIPTORS] [EVENTS]
// Opens DESCRIPTORS (1,000,000) in processes of 10,000 each, then replays EVENTS (4,000,000) of churn, once without a consumer
// of events and once with one that only counts them. Records are made beforehand; only the CPU time of decode and index counts.
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "decode/decode.hpp"
#include "index/index.hpp"

namespace {

using namespace fdspan;

constexpr std::uint32_t per_process = 10'000;

// CPU time: on a machine that others use as well, wall-clock time measures them.
double cpu_seconds() {
    timespec at{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return static_cast<double>(at.tv_sec) + static_cast<double>(at.tv_nsec) / 1e9;
}

class Tape {
public:
    template <class T>
    T& add(std::uint16_t type, std::uint32_t pid, std::string_view tail = {}) {
        const std::size_t bytes = (sizeof(T) + tail.size() + 7) / 8 * 8;
        starts_.push_back(words_.size());
        words_.resize(words_.size() + bytes / 8, 0);
        auto* const raw = reinterpret_cast<T*>(words_.data() + starts_.back());
        raw->header.type = type;
        raw->header.size = static_cast<std::uint32_t>(sizeof(T) + tail.size());
        raw->header.boottime_ns = now_ns_ += 1000;
        raw->header.pid = raw->header.tid = pid;
        std::memcpy(raw + 1, tail.data(), tail.size());
        return *raw;
    }
    void open(std::uint32_t pid, std::int32_t fd, std::uint64_t id) {
        const std::string names = "some-file-" + std::to_string(id) + ".log" + '\0' + std::to_string(id % 64) + '\0' + "data" + '\0' +
                                  "srv" + '\0';
        auto& raw = add<fdspan_opened>(FDSPAN_RECORD_OPENED, pid, names);
        raw.description_id = id;
        raw.description_earliest_ns = raw.description_latest_ns = raw.header.boottime_ns;
        raw.ino = id;
        raw.fd = fd;
        raw.dev = 8U << 20 | 1;
        raw.mode = S_IFREG | 0644;
        raw.nlink = 1;
        raw.fs_magic = 0xef53;
        raw.path_bytes = static_cast<std::uint16_t>(names.size());
    }
    void close(std::uint32_t pid, std::int32_t fd, std::uint64_t id) {
        auto& raw = add<fdspan_closed>(FDSPAN_RECORD_CLOSED, pid);
        raw.description_id = id;
        raw.fd = fd;
        raw.last = 1;
    }
    void fork(std::uint32_t pid, std::uint32_t child) {
        auto& raw = add<fdspan_fork>(FDSPAN_RECORD_FORK, pid);
        raw.child_pid = raw.child_tid = child;
        raw.child_started_ns = raw.header.boottime_ns;
    }
    void exit(std::uint32_t pid) {
        auto& raw = add<fdspan_exit>(FDSPAN_RECORD_EXIT, pid);
        raw.group_dead = raw.table_dead = 1;
    }

    [[nodiscard]] std::size_t size() const { return starts_.size(); }
    void clear() {
        words_.clear();
        starts_.clear();
    }
    double play(Index& index, const EventSink& sink) const {
        const double begin = cpu_seconds();
        for (std::size_t i = 0; i < starts_.size(); ++i) {
            const std::size_t end = i + 1 < starts_.size() ? starts_[i + 1] : words_.size();
            Record record;
            if (decode(words_.data() + starts_[i], (end - starts_[i]) * 8, record) != Malformed::none) std::abort();
            index.apply(record, sink);
        }
        return cpu_seconds() - begin;
    }

private:
    std::vector<std::uint64_t> words_;
    std::vector<std::size_t> starts_;
    std::uint64_t now_ns_ = 1'000'000;
};

void report(const char* what, std::size_t records, double seconds) {
    std::printf("%-44s %9zu records  %6.0f ns each  %10.0f /s\n", what, records, seconds * 1e9 / static_cast<double>(records),
                static_cast<double>(records) / seconds);
}

}  // namespace

int main(int argc, char** argv) {
    const auto descriptors = static_cast<std::uint32_t>(argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1'000'000);
    const auto events = static_cast<std::uint32_t>(argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 4'000'000);
    Index index;
    Tape tape;
    std::uint64_t id = 0;
    double seconds = 0;
    std::size_t records = 0;
    for (std::uint32_t done = 0; done < descriptors; done += per_process) {
        const std::uint32_t pid = 1000 + done / per_process;
        tape.clear();
        tape.fork(1, pid);
        for (std::uint32_t fd = 0; fd < std::min(per_process, descriptors - done); ++fd) tape.open(pid, static_cast<std::int32_t>(fd), ++id);
        seconds += tape.play(index, {});
        records += tape.size();
    }
    report("open, none closed", records, seconds);
    std::printf("%-44s %9llu descriptors  %.1f bytes each\n", "index", static_cast<unsigned long long>(index.counts().descriptors),
                static_cast<double>(index.index_bytes()) / static_cast<double>(std::max<std::uint64_t>(1, index.counts().descriptors)));

    constexpr std::uint32_t small = 899'999;  // with a few descriptors to hand on
    tape.clear();
    tape.fork(1, small);
    for (std::int32_t fd = 0; fd < 4; ++fd) tape.open(small, fd, ++id);
    (void)tape.play(index, {});
    std::uint64_t told = 0;
    for (const bool consumer : {false, true}) {
        const EventSink sink = consumer ? EventSink([&told](const Event&) { ++told; }) : EventSink{};
        seconds = 0;
        records = 0;
        // Pairs of open and close from many processes, with a fork and an exit among every 200.
        std::uint32_t turn = 0;
        while (records < events / 2) {
            tape.clear();
            for (int i = 0; i < 20'000; ++i, ++turn) {
                const std::uint32_t pid = 1000 + turn % std::max(1U, descriptors / per_process);
                const auto fd = static_cast<std::int32_t>(per_process + turn % 100);
                tape.open(pid, fd, ++id);
                if (i % 100 == 0) tape.fork(small, 900'000);
                if (i % 100 == 50) tape.exit(900'000);
                tape.close(pid, fd, id);
            }
            seconds += tape.play(index, sink);
            records += tape.size();
        }
        report(consumer ? "open and close, events built and delivered" : "open and close, nobody listening", records, seconds);
    }
    return told == 0 ? 1 : 0;
}
