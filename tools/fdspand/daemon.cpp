#include "daemon.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <spdlog/spdlog.h>

#include "api/arm.hpp"
#include "api/tracker.hpp"
#include "base/clock.hpp"
#include "base/unique_fd.hpp"
#include "index/index.hpp"
#include "log_format.hpp"
#include "text.hpp"

namespace fdspan::daemon {
namespace {

constexpr std::size_t events_per_batch = 4096;

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
    Result<void> arm_pinned();
    void take(const Event& event);
    void reload();

    Config config_;
    LoadConfig reload_;
    UniqueFd poll_, signals_;
    std::unique_ptr<service::EventLog> log_;
    std::unique_ptr<Tracker> tracker_;
    std::size_t warnings_said_ = 0;
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

Result<void> Daemon::arm_pinned() {
    ArmOptions options;
    options.backend = config_.backend;
    auto armed = arm(options);
    if (!armed) {
        // Tracing goes on without: only a restart loses exact times then.
        spdlog::warn("tracking is not pinned, so that a restart will lose exact ages: {}", armed.error().message);
        return {};
    }
    spdlog::info("{} with the backend {}", armed->already_armed ? "tracking was armed already" : "armed tracking", to_string(armed->backend));
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

    log_ = std::make_unique<service::EventLog>(log_settings(config_), say);
    if (config_.pinned && config_.backend != Backend::procfs) {
        if (auto done = arm_pinned(); !done) return done;
    }
    TrackerOptions options;
    options.backend = config_.backend;
    auto opened = Tracker::open(options);
    if (!opened) return tl::unexpected(opened.error());
    tracker_ = std::move(*opened);
    if (auto done = add_to_poll(tracker_->fd()); !done) return done;
    spdlog::info("tracing with the backend {}; {} descriptors are open", to_string(tracker_->backend()), tracker_->index().counts().descriptors);

    std::uint64_t watchdog_us = 0;
    if (::sd_watchdog_enabled(0, &watchdog_us) > 0) watchdog_interval_ns_ = watchdog_us * 1000 / 3;
    ::sd_notify(0, "READY=1");
    spdlog::info("ready");
    return {};
}

void Daemon::take(const Event& event) {
    if (event.kind == EventKind::lost) spdlog::warn("{} events were lost, because the kernel had no room for them", event.lost_records);
    if (config_.policy.keeps(event)) log_->push(service::row_of(event));
}

void Daemon::reload() {
    ::sd_notify(0, "RELOADING=1");
    auto loaded = reload_();
    if (!loaded) {
        spdlog::error("not reloaded, the settings stay as they are: {}", loaded.error().message);
    } else {
        if (loaded->backend != config_.backend || loaded->pinned != config_.pinned || loaded->database != config_.database) {
            spdlog::warn("backend, pinned and log.database change with the next start only");
        }
        config_ = std::move(*loaded);
        spdlog::info("reloaded");
    }
    // A renamed JSON file is opened anew either way.
    log_->reconfigure(log_settings(config_));
    ::sd_notify(0, "READY=1");
}

Result<void> Daemon::loop() {
    const Tracker::Sink sink = [this](const Event& event) { take(event); };
    while (!stopping_) {
        int wait_ms = tracker_->timeout_ms();
        const std::uint64_t now = boottime_now_ns();
        if (watchdog_interval_ns_ != 0) {
            if (now >= next_watchdog_ns_) {
                ::sd_notify(0, "WATCHDOG=1");
                next_watchdog_ns_ = now + watchdog_interval_ns_;
            }
            const int left_ms = static_cast<int>((next_watchdog_ns_ - now) / 1'000'000 + 1);
            wait_ms = wait_ms < 0 ? left_ms : std::min(wait_ms, left_ms);
        }
        epoll_event ready[64];
        const int count = ::epoll_wait(poll_.get(), ready, 64, wait_ms);
        if (count < 0 && errno != EINTR) return fail_errno(errno, "epoll_wait");
        for (int at = 0; at < count; ++at) {
            if (ready[at].data.fd != signals_.get()) continue;
            signalfd_siginfo info{};
            while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
                if (info.ssi_signo == SIGHUP) reload();
                else stopping_ = true;
            }
        }
        auto processed = tracker_->process(sink, events_per_batch);
        if (!processed) return tl::unexpected(processed.error());
        for (; warnings_said_ < tracker_->warnings().size(); ++warnings_said_) spdlog::warn("{}", tracker_->warnings()[warnings_said_]);
    }
    ::sd_notify(0, "STOPPING=1");
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
