#include "service/monitor/metrics.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <exception>
#include <fstream>
#include <map>

#include <prometheus/text_serializer.h>

#include "base/clock.hpp"
#include "base/unique_fd.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan::service {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

ClientMetric metric(std::vector<ClientMetric::Label> labels, MetricType type, double value) {
    ClientMetric made;
    made.label = std::move(labels);
    if (type == MetricType::Counter) {
        made.counter.value = value;
    } else {
        made.gauge.value = value;
    }
    return made;
}

class Families {
public:
    MetricFamily& add(const char* name, const char* help, MetricType type) {
        families_.push_back({name, help, type, {}});
        return families_.back();
    }
    void one(const char* name, const char* help, MetricType type, double value) { add(name, help, type).metric.push_back(metric({}, type, value)); }
    void gauge(const char* name, const char* help, double value) { one(name, help, MetricType::Gauge, value); }
    void counter(const char* name, const char* help, std::uint64_t value) { one(name, help, MetricType::Counter, static_cast<double>(value)); }
    std::vector<MetricFamily> take() { return std::move(families_); }

private:
    std::vector<MetricFamily> families_;
};

// Where a device is mounted; the first place of several.
std::map<DeviceNumber, std::string> mount_points() {
    std::map<DeviceNumber, std::string> places;
    std::ifstream file("/proc/self/mountinfo");
    std::string place;
    for (std::string line; std::getline(file, line);) {
        const auto mount = procfs::parse_mountinfo_line(line);
        // The whole of a file system before a piece of it that is mounted elsewhere.
        if (!mount || mount->root != "/") continue;
        procfs::decode_octal(mount->mount_point, place);
        places.emplace(mount->dev, place);
    }
    return places;
}

double seconds(const timeval& time) { return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6; }

void add_deleted(Families& families, const Monitor::Figures& figures, const EscapeName& escape) {
    const auto places = mount_points();
    std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> by_filesystem;  // bytes, files
    // A series that comes and goes looks like a daemon that does.
    by_filesystem["/"] = {0, 0};
    for (const auto& [dev, deleted] : figures.deleted_by_device) {
        const auto place = places.find(dev);
        auto& sum = by_filesystem[place != places.end() ? escape(place->second) : std::to_string(dev.major) + ":" + std::to_string(dev.minor)];
        sum.first += deleted.bytes;
        sum.second += deleted.files;
    }
    std::vector<std::pair<std::string, std::pair<std::uint64_t, std::uint64_t>>> largest(by_filesystem.begin(), by_filesystem.end());
    std::stable_sort(largest.begin(), largest.end(), [](const auto& a, const auto& b) { return a.second.first > b.second.first; });
    if (largest.size() > Metrics::max_filesystems) {
        std::pair<std::uint64_t, std::uint64_t> rest{};
        for (std::size_t at = Metrics::max_filesystems; at < largest.size(); ++at) {
            rest.first += largest[at].second.first;
            rest.second += largest[at].second.second;
        }
        largest.resize(Metrics::max_filesystems);
        largest.emplace_back("other", rest);
    }
    auto& bytes = families.add("fdspan_deleted_bytes", "Bytes on disk of files that are deleted and still held open, by file system.", MetricType::Gauge);
    for (const auto& [name, sum] : largest) bytes.metric.push_back(metric({{"filesystem", name}}, MetricType::Gauge, static_cast<double>(sum.first)));
    auto& files = families.add("fdspan_deleted_files", "Files that are deleted and still held open, by file system.", MetricType::Gauge);
    for (const auto& [name, sum] : largest) files.metric.push_back(metric({{"filesystem", name}}, MetricType::Gauge, static_cast<double>(sum.second)));
    families.gauge("fdspan_deleted_oldest_seconds", "How long the longest held deleted file has certainly been deleted; 0: there is none.",
                   static_cast<double>(figures.deleted_oldest_ns) / 1e9);
}

}  // namespace

void Metrics::update(const Inputs& in) {
    Families families;
    families.add("fdspan_info", "The backend that events come from.", MetricType::Gauge)
        .metric.push_back(metric({{"backend", std::string(in.backend)}}, MetricType::Gauge, 1));
    auto& open = families.add("fdspan_open_descriptors", "Open descriptors, by file type.", MetricType::Gauge);
    for (std::size_t type = 0; type < in.figures.open_by_type.size(); ++type) {
        open.metric.push_back(metric({{"type", std::string(to_string(static_cast<FileType>(type)))}}, MetricType::Gauge,
                                     static_cast<double>(in.figures.open_by_type[type])));
    }
    families.gauge("fdspan_processes", "Processes with open descriptors.", static_cast<double>(in.figures.processes));
    families.gauge("fdspan_open_descriptions", "Open file descriptions.", static_cast<double>(in.index.descriptions));
    auto& ages = families.add("fdspan_open_age_seconds", "Ages of what is open now: of the descriptor's open file description, as far as it is certain.",
                              MetricType::Histogram);
    ClientMetric histogram;
    std::uint64_t below = 0;
    for (std::size_t at = 0; at < in.figures.ages.size(); ++at) {
        below += in.figures.ages[at];
        const double bound = at < Monitor::age_bounds_s.size() ? static_cast<double>(Monitor::age_bounds_s[at]) : std::numeric_limits<double>::infinity();
        histogram.histogram.bucket.push_back({below, bound});
    }
    histogram.histogram.sample_count = below;
    histogram.histogram.sample_sum = in.figures.age_sum_s;
    ages.metric.push_back(histogram);
    auto& known = families.add("fdspan_open_ages", "How well the ages of what is open are known.", MetricType::Gauge);
    known.metric.push_back(metric({{"source", "kernel"}}, MetricType::Gauge, static_cast<double>(in.figures.exact_ages)));
    known.metric.push_back(metric({{"source", "bounded"}}, MetricType::Gauge, static_cast<double>(in.figures.bounded_ages)));
    add_deleted(families, in.figures, escape_);
    double nearest = 0;
    for (const ProcessLoad& load : in.figures.loads) nearest = std::max(nearest, static_cast<double>(load.open) / static_cast<double>(load.limit));
    families.gauge("fdspan_nofile_ratio_max", "The greatest part of its RLIMIT_NOFILE that a process has in use.", nearest);
    families.gauge("fdspan_leak_suspicions", "Processes whose descriptors only became more for a while.", static_cast<double>(in.figures.leaks.size()));

    auto& events = families.add("fdspan_events_total", "Events that were seen, by kind.", MetricType::Counter);
    for (const EventKind kind : {EventKind::opened, EventKind::closed, EventKind::released, EventKind::deleted, EventKind::unlinked, EventKind::exec, EventKind::exit,
                                 EventKind::resynced}) {
        events.metric.push_back(metric({{"event", std::string(to_string(kind))}}, MetricType::Counter,
                                       static_cast<double>(in.events.by_kind[static_cast<std::size_t>(kind)])));
    }
    families.counter("fdspan_lost_events_total", "Events that the kernel had no room for.", in.events.lost_records);
    families.counter("fdspan_losses_total", "Times that events were lost.", in.events.by_kind[static_cast<std::size_t>(EventKind::lost)]);
    families.counter("fdspan_malformed_records_total", "Records from the kernel that were not understood.", in.tracker.malformed);
    families.counter("fdspan_map_full_total", "Spans without an entry in the kernel's maps, because those were full.",
                     in.tracker.kernel.description_full + in.tracker.kernel.descriptor_full + in.tracker.kernel.table_full);
    families.gauge("fdspan_map_entries", "Entries in the kernel's maps, at the last correcting snapshot.", static_cast<double>(in.tracker.map_entries));
    families.gauge("fdspan_map_entries_max", "Entries that fit into the kernel's maps.", static_cast<double>(in.tracker.max_map_entries));
    families.gauge("fdspan_certain", "1 while nothing that was lost waits to be mended.", in.tracker.certain ? 1 : 0);

    auto& state = families.add("fdspan_log_state", "The state of the event log: 1 for the one that it is in.", MetricType::Gauge);
    for (const LogState each : {LogState::off, LogState::opening, LogState::ok, LogState::full, LogState::failing, LogState::locked, LogState::unusable}) {
        state.metric.push_back(metric({{"state", std::string(to_string(each))}}, MetricType::Gauge, in.log.state == each ? 1 : 0));
    }
    families.counter("fdspan_log_rows_total", "Rows committed to the event log.", in.log.committed);
    families.counter("fdspan_log_dropped_rows_total", "Rows for which there was no room while the event log could not be written.", in.log.dropped);
    families.counter("fdspan_log_sink_dropped_rows_total", "Rows that the JSON file or the journal did not take.", in.log.sinks_dropped);
    families.counter("fdspan_log_errors_total", "Failed attempts to write the event log.", in.log.errors);
    families.counter("fdspan_log_set_aside_total", "Corrupt databases that were set aside.", in.log.set_aside);
    families.counter("fdspan_log_restored_total", "Deleted databases that were put back.", in.log.restored);
    families.counter("fdspan_clock_steps_total", "Times that the wall clock was set.", in.log.clock_steps);
    families.gauge("fdspan_log_bytes", "Size of the event log's files.", static_cast<double>(in.log.file_bytes));
    families.gauge("fdspan_log_queued_rows", "Rows on their way to the event log.", static_cast<double>(in.log.queued));

    families.gauge("fdspan_clients", "Clients of the control socket.", static_cast<double>(in.control.clients));
    families.counter("fdspan_client_answers_total", "Requests that were answered.", in.control.answered);
    families.counter("fdspan_client_refused_total", "Clients that were refused: too many, or not of our protocol.", in.control.refused);
    families.counter("fdspan_client_timeouts_total", "Clients that took too long.", in.control.timed_out);

    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    families.one("process_cpu_seconds_total", "CPU time of the daemon.", MetricType::Counter, seconds(usage.ru_utime) + seconds(usage.ru_stime));
    std::uint64_t pages = 0, resident_pages = 0;
    std::ifstream("/proc/self/statm") >> pages >> resident_pages;
    const auto page_bytes = static_cast<double>(::sysconf(_SC_PAGESIZE));
    families.gauge("process_resident_memory_bytes", "Memory of the daemon.", static_cast<double>(resident_pages) * page_bytes);
    families.gauge("process_virtual_memory_bytes", "Address space of the daemon.", static_cast<double>(pages) * page_bytes);
    families.gauge("process_start_time_seconds", "When the daemon started, in seconds since 1970.",
                   static_cast<double>(WallClock::now().to_realtime_ns(in.started_ns)) / 1e9);
    const std::lock_guard lock(mutex_);
    families_ = families.take();
}

std::vector<MetricFamily> Metrics::Collect() const {
    const std::lock_guard lock(mutex_);
    return families_;
}

Result<void> Metrics::write_textfile(const std::string& path) const {
    std::vector<MetricFamily> families = Collect();
    // node_exporter shows its own by these names, and drops a file's.
    std::erase_if(families, [](const MetricFamily& family) { return family.name.starts_with("process_"); });
    const std::string text = prometheus::TextSerializer().Serialize(families);
    const std::string staged = path + ".tmp";  // node_exporter reads *.prom only
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) return fail(EINVAL, path + " is not a regular file, and left alone");
    // A FIFO would keep the daemon waiting for its reader.
    const UniqueFd file(::open(staged.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0644));
    if (!file.valid()) return fail_errno(errno, "open " + staged);
    if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return fail(EINVAL, staged + " is not a regular file, and left alone");
    if (::ftruncate(file.get(), 0) != 0) return fail_errno(errno, "truncate " + staged);
    std::size_t written = 0;
    while (written < text.size()) {
        const ssize_t count = ::write(file.get(), text.data() + written, text.size() - written);
        if (count >= 0) {
            written += static_cast<std::size_t>(count);
        } else if (errno != EINTR) {
            const int error = errno;
            ::unlink(staged.c_str());
            return fail_errno(error, "write " + staged);
        }
    }
    if (::fchmod(file.get(), 0644) != 0 || ::rename(staged.c_str(), path.c_str()) != 0) return fail_errno(errno, "put " + path + " in place");
    return {};
}

void remove_textfile(const std::string& path) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode)) ::unlink(path.c_str());
}

Result<std::unique_ptr<prometheus::Exposer>> serve_metrics(const std::string& address, const std::shared_ptr<Metrics>& metrics) {
    try {
        // Who connects and says nothing has a thread until its time is over: short, and some threads are left for the others.
        auto exposer = std::make_unique<prometheus::Exposer>(
            std::vector<std::string>{"listening_ports", address, "num_threads", "8", "request_timeout_ms", "2000", "linger_timeout_ms", "1000"});
        exposer->RegisterCollectable(metrics);
        return exposer;
    } catch (const std::exception& error) {
        return fail(EADDRINUSE, "serve metrics on " + address + ": " + error.what());
    }
}

}  // namespace fdspan::service
