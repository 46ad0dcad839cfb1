// Monitor: looks at the index now and then, and keeps what the monitoring asks about: ages, deleted space, processes near their limit, and
// processes whose descriptors only ever become more. Not thread-safe: it belongs to the tracing loop. Everything it keeps is bounded.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/reference.hpp"
#include "index/index.hpp"
#include "service/control/viewer.hpp"

namespace fdspan::service {

struct MonitorSettings {
    std::uint64_t interval_ns = 10'000'000'000;
    unsigned leak_samples = 12;       // so many in a row that never fall …
    std::uint64_t leak_growth = 100;  // … and grow by so much together are a suspicion
};

struct DeletedFile {
    DeviceNumber dev;
    std::uint64_t ino = 0;
    std::uint64_t bytes = 0;
    Interval told;               // its deletion, as the index has it; tells it from another file of that number
    Interval since;              // … and as its ctime had it when it was first seen
    struct Holder {
        pid_t pid = 0, tid = 0;
        std::int32_t fd = -1;
        uid_t uid = 0;
        Interval started;        // its pid may be another's by now
    };
    static constexpr std::size_t max_holders = 16, max_holders_of_user = 4;
    std::vector<Holder> holders; // some of its processes, of as many users as possible
};

struct DeletedSum {
    std::uint64_t bytes = 0, files = 0;
};

struct ProcessLoad {
    pid_t pid = 0;
    Interval started;
    std::string comm;
    std::uint64_t open = 0;
    std::uint64_t limit = 0;     // soft RLIMIT_NOFILE
};

struct LeakSuspicion {
    pid_t pid = 0;
    Interval started;
    std::string comm;
    std::uint64_t from = 0, to = 0;   // descriptors, at the two ends of the window
    std::uint64_t window_ns = 0;
    std::string files;                // what most of the new ones are: "REG /var/spool/app/#"
    std::uint64_t files_open = 0;     // so many of these are open
    std::uint64_t files_new = 0;      // … of them opened within the window
    std::uint64_t oldest_age_ns = 0;  // of these, certain
};

class Monitor {
public:
    static constexpr std::array<std::uint64_t, 9> age_bounds_s{1, 10, 60, 600, 3600, 21600, 86400, 604800, 2592000};
    static constexpr std::size_t max_deleted_files = 10000;   // that are kept one by one; all count
    static constexpr std::size_t max_mount_bytes = 4U << 20;  // of other namespaces' mount tables, read in one sample
    static constexpr std::size_t max_looked_at = 1U << 18;    // deleted files whose size is asked for in one sample
    static constexpr std::size_t max_loads = 64;
    static constexpr std::size_t max_leaks = 16;
    static constexpr std::size_t max_processes = 16384;   // with a history
    static constexpr std::uint64_t least_load = 32;       // descriptors: below, a process is neither near a limit nor leaking

    struct Figures {
        std::uint64_t at_ns = 0;
        std::uint64_t processes = 0;
        std::array<std::uint64_t, 9> open_by_type{};                    // FileType
        std::array<std::uint64_t, age_bounds_s.size() + 1> ages{};      // descriptors by the age that is certain of their description
        double age_sum_s = 0;
        std::uint64_t exact_ages = 0, bounded_ages = 0;
        std::vector<DeletedFile> deleted;                               // the largest of them, the largest first
        std::map<DeviceNumber, DeletedSum> deleted_by_device;           // all of them
        DeletedSum deleted_sum;
        std::uint64_t deleted_oldest_ns = 0;                            // its age
        bool sizes_lack = false;                                        // there were more than max_looked_at
        std::vector<ProcessLoad> loads;                                 // nearest to their limit first
        std::vector<LeakSuspicion> leaks;                               // most growth first
    };

    explicit Monitor(MonitorSettings settings) : settings_(settings) {}
    // A shorter interval counts from the last sample.
    void set(const MonitorSettings& settings);

    [[nodiscard]] std::uint64_t next_ns() const { return next_ns_; }
    void sample(const Index& index, std::uint64_t now_ns);
    [[nodiscard]] const Figures& figures() const { return figures_; }

    // What fdspan check judges, as far as the viewer may see the processes it is about.
    [[nodiscard]] std::string check_json(const Index& index, Sight& sight, bool certain) const;

private:
    // Samples of three paces, each the least of six of the pace before: a saw that falls back is no leak.
    struct History {
        static constexpr unsigned paces = 3;
        static constexpr unsigned samples_per_pace = 6;
        std::array<std::deque<std::pair<std::uint64_t, std::uint64_t>>, paces> samples;  // time, descriptors
        std::array<unsigned, paces> pending{};
        std::array<std::uint64_t, paces> least{};
    };
    using ProcessKey = std::pair<pid_t, std::uint64_t>;  // and its start
    struct OpenCount {
        Interval started;
        std::string comm;
        std::uint64_t descriptors = 0;  // of its largest table: the limit is one for each
        pid_t tid = 0;                  // … which is this thread's; 0: the process's own
    };
    using OpenCounts = std::map<ProcessKey, OpenCount>;

    using FileKey = std::pair<DeviceNumber, std::uint64_t>;

    void sample_deleted(const Index& index, Figures& figures);
    void sample_leaks(const Index& index, const OpenCounts& open, std::uint64_t now_ns);
    void add_sample(History& history, std::uint64_t now_ns, std::uint64_t open) const;
    [[nodiscard]] std::optional<LeakSuspicion> judge(const Index& index, pid_t pid, const OpenCount& process, const History& history, std::uint64_t now_ns) const;

    MonitorSettings settings_;
    std::uint64_t next_ns_ = 0;
    Figures figures_;
    std::map<ProcessKey, History> histories_;
    std::map<FileKey, std::pair<Interval, Interval>> deleted_since_;  // DeletedFile::told and since of those that are kept
};

}  // namespace fdspan::service
