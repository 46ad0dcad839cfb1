#include "daemon.hpp"

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <spdlog/spdlog.h>

#include "api/tracker.hpp"
#include "base/clock.hpp"
#include "base/unique_fd.hpp"
#include "index/index.hpp"
#include "log_format.hpp"
#include "privileges.hpp"
#include "service/monitor/metrics.hpp"
#include "text.hpp"

namespace fdspan::daemon {
namespace {

constexpr std::size_t events_per_batch = 4096;
// Before a client is answered, the ring is emptied; under steady fire not for ever.
constexpr int max_catch_up_rounds = 8;
// Losses come in swarms: one line a second tells of them.
constexpr std::uint64_t loss_line_interval_ns = 1'000'000'000;
// What a storm took of the heap goes back to the system once so much of it is free.
constexpr std::size_t free_heap_bytes = 16U << 20;
// A large log that is checked for damage is no reason to be late.
constexpr std::uint64_t log_patience_ns = 300'000'000;

service::EventLogSettings log_settings(const Config& config) {
    service::EventLogSettings settings;
    settings.store.path = config.database;
    settings.store.max_age_ns = config.max_age_ns;
    settings.store.max_bytes = config.max_bytes;
    settings.commit_interval_ns = config.commit_interval_ns;
    if (!config.jsonl.path.empty()) settings.jsonl = config.jsonl;
    settings.journal = config.journal;
    settings.format = cli::append_log_json;
    return settings;
}

void say(service::EventLog::Severity severity, const std::string& text) {
    switch (severity) {
        case service::EventLog::Severity::info: spdlog::info("{}", cli::escape(text)); break;
        case service::EventLog::Severity::warning: spdlog::warn("{}", cli::escape(text)); break;
        case service::EventLog::Severity::error: spdlog::error("{}", cli::escape(text)); break;
    }
}

class Daemon {
public:
    Daemon(Config config, const LoadConfig& reload) : config_(std::move(config)), reload_(reload) {}
    Result<void> open();
    Result<void> loop();

private:
    Result<void> add_to_poll(int fd);
    Result<void> open_control();
    void open_metrics();
    Result<void> process();
    Result<void> answer_clients();
    void sample();
    void remove_textfile();
    void take(const Event& event);
    void reload();

    Config config_;
    LoadConfig reload_;
    UniqueFd poll_, signals_;
    std::unique_ptr<service::EventLog> log_;
    std::unique_ptr<Tracker> tracker_;
    std::unique_ptr<service::ControlServer> control_;
    service::Monitor monitor_{{}};
    std::shared_ptr<service::Metrics> metrics_ = std::make_shared<service::Metrics>(cli::escape);
    std::unique_ptr<prometheus::Exposer> exposer_;
    std::string textfile_problem_;
    std::string textfile_written_;  // which of them is there
    service::EventCounts events_;
    std::uint64_t started_ns_ = boottime_now_ns();
    std::size_t warnings_said_ = 0;
    std::uint64_t losses_said_ = 0;
    std::uint64_t next_loss_line_ns_ = 0;
    std::uint64_t watchdog_interval_ns_ = 0;  // 0: nobody watches
    std::uint64_t next_watchdog_ns_ = 0;
    bool stopping_ = false;
};

Result<void> Daemon::add_to_poll(int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(poll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return fail_errno(errno, "epoll_ctl");
    return {};
}

Result<void> Daemon::open() {
    poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!poll_.valid()) return fail_errno(errno, "epoll_create1");
    sigset_t handled;
    ::sigemptyset(&handled);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&handled, number);
    signals_.reset(::signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals_.valid()) return fail_errno(errno, "signalfd");
    if (auto done = add_to_poll(signals_.get()); !done) return done;

    // A database takes its time to open, and the programs take theirs to load.
    service::EventLogSettings log = log_settings(config_);
    log.begin_thread = drop_privileges;
    log_ = std::make_unique<service::EventLog>(std::move(log), say);
    TrackerOptions options;
    options.backend = config_.backend;
    options.ring_bytes = config_.ring_bytes;
    options.pinned = config_.pinned;
    auto opened = Tracker::open(options);
    if (!opened) return tl::unexpected(opened.error());
    tracker_ = std::move(*opened);
    if (auto done = add_to_poll(tracker_->fd()); !done) return done;
    if (auto done = open_control(); !done) return done;
    // Threads that are made from here on have no more of them.
    drop_privileges();
    monitor_.set(config_.monitor);
    sample();
    open_metrics();
    // Whoever waited for the daemon finds a log that can be read.
    log_->wait_opened(log_patience_ns);
    spdlog::info("tracing with the backend {}; {} descriptors are open", to_string(tracker_->backend()), tracker_->index().counts().descriptors);

    std::uint64_t watchdog_us = 0;
    if (::sd_watchdog_enabled(0, &watchdog_us) > 0) watchdog_interval_ns_ = watchdog_us * 1000 / 3;
    ::sd_notify(0, "READY=1");
    spdlog::info("ready");
    return {};
}

Result<void> Daemon::open_control() {
    // systemd has made the socket already, with what its unit says about group and mode.
    const int handed_over = ::sd_listen_fds(1);
    if (handed_over < 0) return fail_errno(-handed_over, "sockets from systemd");
    if (handed_over > 1) return fail(EINVAL, "systemd handed over " + std::to_string(handed_over) + " sockets instead of one");
    if (handed_over == 0 && config_.control.path.empty()) return {};
    auto opened = service::ControlServer::open(config_.control, handed_over == 1 ? SD_LISTEN_FDS_START : -1,
                                               [](const std::string& text) { spdlog::warn("{}", cli::escape(text)); });
    if (!opened) return tl::unexpected(opened.error());
    control_ = std::move(*opened);
    return add_to_poll(control_->fd());
}

// Tracing does not depend on somebody else's port.
void Daemon::open_metrics() {
    exposer_.reset();
    if (config_.metrics_address.empty()) return;
    auto exposer = service::serve_metrics(config_.metrics_address, metrics_);
    if (!exposer) {
        spdlog::error("{}", cli::escape(exposer.error().message));
        return;
    }
    exposer_ = std::move(*exposer);
}

void Daemon::sample() {
    if (::mallinfo2().fordblks > free_heap_bytes) ::malloc_trim(0);
    monitor_.sample(tracker_->index(), boottime_now_ns());
    metrics_->update({monitor_.figures(), tracker_->index().counts(), tracker_->statistics(), events_, log_->status(),
                      control_ ? control_->counts() : service::ControlCounts{}, to_string(tracker_->backend()), started_ns_});
    if (textfile_written_ != config_.textfile) remove_textfile();
    if (config_.textfile.empty()) return;
    const auto written = metrics_->write_textfile(config_.textfile);
    if (written) textfile_written_ = config_.textfile;
    const std::string problem = written ? std::string() : written.error().message;
    if (!problem.empty() && problem != textfile_problem_) spdlog::error("{}", cli::escape(problem));
    textfile_problem_ = problem;
}

void Daemon::remove_textfile() {
    if (!textfile_written_.empty()) service::remove_textfile(textfile_written_);
    textfile_written_.clear();
}

void Daemon::take(const Event& event) {
    ++events_.by_kind[static_cast<std::size_t>(event.kind)];
    events_.lost_records += event.lost_records;
    if (config_.policy.keeps(event)) log_->push(service::row_of(event));
}

void Daemon::reload() {
    ::sd_notify(0, "RELOADING=1");
    auto loaded = reload_();
    if (!loaded) {
        spdlog::error("not reloaded, the settings stay as they are: {}", loaded.error().message);
    } else {
        if (loaded->backend != config_.backend || loaded->pinned != config_.pinned || loaded->ring_bytes != config_.ring_bytes || loaded->database != config_.database ||
            loaded->control.path != config_.control.path || loaded->control.group != config_.control.group ||
            loaded->control.max_clients != config_.control.max_clients) {
            spdlog::warn("backend, pinned, ring_size, log.database and socket change with the next start only");
        }
        // The port that was somebody else's may be free by now.
        const bool serve_anew = loaded->metrics_address != config_.metrics_address || (!exposer_ && !loaded->metrics_address.empty());
        config_ = std::move(*loaded);
        monitor_.set(config_.monitor);
        if (serve_anew) open_metrics();
        spdlog::info("reloaded");
    }
    // A renamed JSON file is opened anew either way.
    log_->reconfigure(log_settings(config_));
    ::sd_notify(0, "READY=1");
}

Result<void> Daemon::process() {
    auto processed = tracker_->process([this](const Event& event) { take(event); }, events_per_batch);
    if (!processed) return tl::unexpected(processed.error());
    if (events_.lost_records != losses_said_ && boottime_now_ns() >= next_loss_line_ns_) {
        spdlog::warn("{} events were lost, because the kernel had no room for them", events_.lost_records - losses_said_);
        losses_said_ = events_.lost_records;
        next_loss_line_ns_ = boottime_now_ns() + loss_line_interval_ns;
    }
    for (; warnings_said_ < tracker_->warnings().size(); ++warnings_said_) spdlog::warn("{}", tracker_->warnings()[warnings_said_]);
    return {};
}

Result<void> Daemon::answer_clients() {
    if (!control_ || !control_->receive()) return {};
    // What happened before the question belongs into the answer.
    for (int round = 0; round < max_catch_up_rounds; ++round) {
        if (auto done = process(); !done) return done;
        if (tracker_->statistics().certain) break;
    }
    const TrackerStatistics statistics = tracker_->statistics();
    const bool certain = statistics.certain;
    control_->answer({tracker_->index(), tracker_->backend(), certain, statistics.polled_ns != 0 ? statistics.polled_ns : boottime_now_ns(),
                      [&](service::Sight& sight) { return monitor_.check_json(tracker_->index(), sight, certain); }});
    return {};
}

Result<void> Daemon::loop() {
    while (!stopping_) {
        std::int64_t wait_ms = tracker_->timeout_ms();
        const auto no_later_than = [&wait_ms](std::int64_t ms) { wait_ms = wait_ms < 0 ? ms : std::min(wait_ms, ms); };
        const std::uint64_t now = boottime_now_ns();
        const auto until_ms = [now](std::uint64_t at_ns) { return at_ns <= now ? 0 : static_cast<std::int64_t>((at_ns - now) / 1'000'000 + 1); };
        if (watchdog_interval_ns_ != 0) {
            if (now >= next_watchdog_ns_) {
                ::sd_notify(0, "WATCHDOG=1");
                next_watchdog_ns_ = now + watchdog_interval_ns_;
            }
            no_later_than(until_ms(next_watchdog_ns_));
        }
        no_later_than(until_ms(monitor_.next_ns()));
        if (control_ && control_->timeout_ms() >= 0) no_later_than(control_->timeout_ms());
        epoll_event ready[8];
        const int count = ::epoll_wait(poll_.get(), ready, 8, static_cast<int>(wait_ms));
        if (count < 0 && errno != EINTR) return fail_errno(errno, "epoll_wait");
        for (int at = 0; at < count; ++at) {
            if (ready[at].data.fd != signals_.get()) continue;
            signalfd_siginfo info{};
            while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
                if (info.ssi_signo == SIGHUP) {
                    reload();
                } else {
                    stopping_ = true;
                }
            }
        }
        if (auto done = process(); !done) return done;
        if (auto done = answer_clients(); !done) return done;
        if (boottime_now_ns() >= monitor_.next_ns()) sample();
    }
    ::sd_notify(0, "STOPPING=1");
    remove_textfile();
    spdlog::info("stopping");
    return {};
}

}  // namespace

Result<void> run(Config config, const LoadConfig& reload) {
    Daemon daemon(std::move(config), reload);
    if (auto done = daemon.open(); !done) return done;
    return daemon.loop();
}

}  // namespace fdspan::daemon
