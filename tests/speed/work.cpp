// speed_work PART: does one thing a fixed number of times inside measured(), for callgrind to count (instructions.sh), and
// prints how often. No clock and no kernel: the same compiler makes the same count.
#include <sys/stat.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "decode/decode.hpp"
#include "event_json.hpp"
#include "index/index.hpp"
#include "snapshot/procfs_mounts.hpp"
#include "snapshot/procfs_parse.hpp"

using namespace fdspan;

namespace {

#if defined(__clang__)
constexpr const char* compiler_name = "clang";
#else
constexpr const char* compiler_name = "g++";
#endif
#if defined(__x86_64__)
constexpr const char* machine_name = "x86_64";
#elif defined(__aarch64__)
constexpr const char* machine_name = "aarch64";
#else
constexpr const char* machine_name = "other";
#endif
constexpr std::uint32_t processes = 10;
constexpr std::uint32_t per_process = 1000;

class Tape {
public:
    template <class T>
    T& add(std::uint16_t type, std::uint32_t pid, std::string_view tail = {}) {
        const std::size_t words = (sizeof(T) + tail.size() + 7) / 8;
        records_.emplace_back(words);
        auto* const raw = reinterpret_cast<T*>(records_.back().data());
        raw->header.type = type;
        raw->header.size = static_cast<std::uint32_t>(sizeof(T) + tail.size());
        raw->header.boottime_ns = now_ns_ += 1000;
        raw->header.pid = raw->header.tid = pid;
        std::memcpy(raw + 1, tail.data(), tail.size());
        return *raw;
    }
    void open(std::uint32_t pid, std::int32_t fd, std::uint64_t id) {
        const std::string names =
            "some-file-" + std::to_string(id) + ".log" + '\0' + std::to_string(id % 64) + '\0' + "data" + '\0' + "srv" + '\0';
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
    void open_all() {
        for (std::uint32_t process = 0; process < processes; ++process) {
            fork(1, 1000 + process);
            for (std::uint32_t i = 0; i < per_process; ++i) open(1000 + process, static_cast<std::int32_t>(i), ++id_);
        }
    }
    // Pairs of an open and its close.
    void churn() {
        for (std::uint32_t i = 0; i < per_process; ++i) {
            open(1000 + i % processes, static_cast<std::int32_t>(per_process), ++id_);
            close(1000 + i % processes, static_cast<std::int32_t>(per_process), id_);
        }
    }
    void clear() { records_.clear(); }
    [[nodiscard]] std::size_t size() const { return records_.size(); }
    template <class Take>
    void each(Take&& take) const {
        for (const auto& record : records_) {
            Record decoded;
            if (decode(record.data(), record.size() * sizeof record[0], decoded) != Malformed::none) std::abort();
            take(decoded);
        }
    }

private:
    std::vector<std::vector<std::uint64_t>> records_;
    std::uint64_t now_ns_ = 1'000'000;
    std::uint64_t id_ = 0;
};

template <class Parse>
std::function<std::size_t()> parser(Parse parse, std::string text) {
    return [parse, text = std::move(text)] {
        constexpr std::size_t times = 2000;
        for (std::size_t i = 0; i < times; ++i) {
            if (!parse(std::string_view(text))) std::abort();
        }
        return times;
    };
}

}  // namespace

// What callgrind counts; keeps its name so that --toggle-collect finds it.
extern "C" [[gnu::noinline]] std::size_t measured(const std::function<std::size_t()>& work) { return work(); }

int main(int argc, char** argv) {
    Index index;
    Tape tape;
    std::uint64_t told = 0;
    std::string line;
    cli::EventJson json{WallClock{}};
    const auto play = [&](const EventSink& sink) {
        tape.each([&](const Record& record) { index.apply(record, sink); });
        return tape.size();
    };
    const auto churning = [&](const EventSink& sink) {
        tape.open_all();
        play({});
        tape.clear();
        tape.churn();
        return [&play, sink] { return play(sink); };
    };
    const std::map<std::string_view, std::function<std::function<std::size_t()>()>> parts{
        {"decode", [&] {
             tape.churn();
             return [&] {
                 tape.each([](const Record&) {});
                 return tape.size();
             };
         }},
        {"index-open", [&] {
             tape.open_all();
             return [&] { return play({}); };
         }},
        {"index-churn", [&] { return churning({}); }},
        {"index-churn-delivered", [&] { return churning([&told](const Event& event) { told += event.process != nullptr; }); }},
        {"watch-churn", [&] { return churning([&](const Event& event) { line.clear(), json.append(line, event); }); }},
        {"index-file-query", [&]() -> std::function<std::size_t()> {
             tape.open_all();
             play({});
             return [&] {
                 for (std::uint64_t ino = 1; ino <= per_process; ++ino) index.for_each_of_file({8, 1}, ino, [&told](const IndexRow&) { ++told; });
                 return std::size_t{per_process};
             };
         }},
        {"procfs-stat", [] {
             return parser([](std::string_view text) { return procfs::parse_stat(text).has_value(); },
                           "4242 (nginx: worker) S 17 4242 4242 0 -1 4194304 158 0 0 0 3 1 0 0 20 0 5 0 123456 2568192 312 18446744073709551615\n");
         }},
        {"procfs-status", [] {
             return parser([](std::string_view text) { return procfs::parse_status(text).has_value(); },
                           "Name:\tnginx\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t812\nNgid:\t0\nPid:\t812\nPPid:\t1\nTracerPid:\t0\nUid:\t33\t33\t33\t33\n");
         }},
        {"procfs-fdinfo", [] {
             return parser([](std::string_view text) { return procfs::parse_fdinfo(text).has_value(); },
                           "pos:\t4096\nflags:\t02100002\nmnt_id:\t27\nino:\t1038\n");
         }},
        {"procfs-maps", [] {
             return parser([](std::string_view text) { return procfs::parse_maps_line(text).has_value(); },
                           "7f5c8a200000-7f5c8a228000 r--p 00000000 fe:00 1835461                    /usr/lib/x86_64-linux-gnu/libc.so.6");
         }},
        {"procfs-mountinfo", [] {
             return parser([](std::string_view text) { return procfs::parse_mountinfo_line(text).has_value(); },
                           "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue");
         }},
        {"procfs-cgroup", [] {
             return parser([](std::string_view text) { return !procfs::choose_cgroup(text).path.empty(); }, "0::/system.slice/nginx.service\n");
         }},
    };
    if (argc == 2 && std::string_view(argv[1]) == "--compiler") {
        std::printf("%s-%d %s\n", compiler_name, __GNUC__, machine_name);
        return 0;
    }
    if (argc != 2 || !parts.contains(argv[1])) {
        for (const auto& [name, part] : parts) std::printf("%.*s\n", static_cast<int>(name.size()), name.data());
        return argc == 1 ? 0 : 2;
    }
    const auto work = parts.at(argv[1])();
    std::printf("%zu\n", measured(work));
    return 0;
}
