#include "service/log/event_log.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <filesystem>

#include "base/clock.hpp"

namespace fdspan::service {
namespace {

constexpr std::size_t max_batch_rows = 8192;
constexpr std::uint64_t first_retry_ns = 250'000'000;
constexpr std::uint64_t last_retry_ns = 5'000'000'000;
constexpr std::uint64_t retain_interval_ns = 10'000'000'000;
constexpr std::uint64_t identity_interval_ns = 1'000'000'000;
constexpr std::uint64_t stop_patience_ns = 5'000'000'000;

LogState state_of(int code) {
    switch (code) {
        case SQLITE_FULL: return LogState::full;
        case SQLITE_IOERR: return LogState::failing;
        case SQLITE_BUSY:
        case SQLITE_LOCKED: return LogState::locked;
        default: return LogState::unusable;
    }
}

bool is_corrupt(int code) { return code == SQLITE_CORRUPT || code == SQLITE_NOTADB; }

std::string signed_seconds(std::int64_t ns) {
    return std::to_string(ns / 1'000'000'000) + " s " + (ns > 0 ? "forward" : "back");
}

}  // namespace

SinkSettings EventLogSettings::sinks() const {
    SinkSettings settings;
    settings.jsonl = jsonl;
    settings.journal = journal;
    settings.journal_socket = journal_socket;
    settings.format = format;
    settings.max_rows = max_rows;
    settings.max_bytes = max_bytes;
    settings.begin_thread = begin_thread;
    return settings;
}

EventLog::EventLog(EventLogSettings settings, Say say) : settings_(std::move(settings)), say_(std::move(say)) {
    sinks_ = std::make_unique<Sinks>(settings_.sinks(), say_);
    status_.state = settings_.store.path.empty() ? LogState::off : LogState::opening;
    thread_ = std::thread([this, begin = settings_.begin_thread] {
        if (begin) begin();
        run();
    });
}

EventLog::~EventLog() {
    {
        const std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
}

void EventLog::push(LogRow row) {
    const std::size_t bytes = row.bytes_held();
    const std::lock_guard lock(mutex_);
    if (queue_.size() >= settings_.max_rows || queued_bytes_ + bytes > settings_.max_bytes) {
        note_drop(row);
        return;
    }
    if (queue_.empty()) {
        first_queued_ns_ = boottime_now_ns();
        wake_.notify_one();
    }
    queued_bytes_ += bytes;
    queue_.push_back(std::move(row));
    if (queue_.size() == max_batch_rows) wake_.notify_one();
}

LogStatus EventLog::status() const {
    const std::lock_guard lock(mutex_);
    LogStatus status = status_;
    status.queued = queue_.size();
    status.sinks_dropped = sinks_->dropped();
    return status;
}

void EventLog::wait_opened(std::uint64_t patience_ns) {
    std::unique_lock lock(mutex_);
    opened_.wait_for(lock, std::chrono::nanoseconds(patience_ns), [this] { return status_.state != LogState::opening; });
}

void EventLog::reconfigure(EventLogSettings settings) {
    {
        const std::lock_guard lock(mutex_);
        new_settings_ = std::move(settings);
    }
    wake_.notify_one();
}

void EventLog::run() {
    std::uint64_t stop_by_ns = 0;
    std::uint64_t next_identity_ns = 0;
    // Whoever waits for it does not wait for a row.
    if (!settings_.store.path.empty()) (void)open_store();
    while (true) {
        std::vector<LogRow> taken;
        bool stopping = false;
        {
            std::unique_lock lock(mutex_);
            const std::uint64_t now = boottime_now_ns();
            std::uint64_t wait_until_ns = now + identity_interval_ns;
            if (!queue_.empty()) wait_until_ns = std::min(wait_until_ns, first_queued_ns_ + settings_.commit_interval_ns);
            if (!pending_.empty()) wait_until_ns = std::min(wait_until_ns, retry_at_ns_);
            // Woken by the first row, and then again when a batch is full or its time has come.
            if (!stopping_ && !new_settings_ && wait_until_ns > now && queue_.size() < max_batch_rows) {
                wake_.wait_for(lock, std::chrono::nanoseconds(wait_until_ns - now));
            }
            stopping = stopping_;
            if (new_settings_) {
                new_settings_->store.path = settings_.store.path;
                settings_ = std::move(*new_settings_);
                new_settings_.reset();
                sinks_->reconfigure(settings_.sinks());
                if (store_) store_->set_retention(settings_.store.max_age_ns, settings_.store.max_bytes);
                next_retain_ns_ = 0;
            }
            if (stopping || queue_.size() >= max_batch_rows ||
                (!queue_.empty() && boottime_now_ns() >= first_queued_ns_ + settings_.commit_interval_ns)) {
                taken.assign(std::make_move_iterator(queue_.begin()), std::make_move_iterator(queue_.end()));
                queue_.clear();
                queued_bytes_ = 0;
            }
        }
        if (!taken.empty()) {
            push_to_sinks(taken);
            if (!settings_.store.path.empty()) keep(std::move(taken));
        }
        const std::uint64_t now = boottime_now_ns();
        if (!settings_.store.path.empty() && now >= retry_at_ns_) {
            if (store_ && (stopping || now >= next_identity_ns)) {
                next_identity_ns = now + identity_interval_ns;
                if (store_->identity() != FileIdentity::same) (void)put_back();
            }
            // An idle log opens its database, too: whoever asks it finds one.
            if (!store_ && pending_.empty()) (void)open_store();
            while (!pending_.empty() && try_write()) {
            }
            if (store_ && pending_.empty() && now >= next_retain_ns_) try_retain();
        }
        if (stopping) {
            if (stop_by_ns == 0) stop_by_ns = now + stop_patience_ns;
            const std::lock_guard lock(mutex_);
            if (queue_.empty() && pending_.empty()) return;
            if (now >= stop_by_ns || status_.state == LogState::unusable) {
                say_(Severity::error, std::to_string(queue_.size() + pending_.size()) + " rows could not be written before the end");
                return;
            }
            if (!pending_.empty()) ::usleep(20'000);
        }
    }
}

void EventLog::keep(std::vector<LogRow> rows) {
    for (LogRow& row : rows) {
        const std::size_t bytes = row.bytes_held();
        if (pending_.size() < settings_.max_rows && pending_bytes_ + bytes <= settings_.max_bytes) {
            pending_bytes_ += bytes;
            pending_.push_back(std::move(row));
            continue;
        }
        const std::lock_guard lock(mutex_);
        note_drop(row);
    }
}

void EventLog::note_drop(const LogRow& row) {
    if (!dropped_window_) dropped_window_ = row.when;
    dropped_window_->latest_ns = std::max(dropped_window_->latest_ns, row.when.latest_ns);
    dropped_window_->source = TimeSource::bounded;
    ++dropped_rows_;
    ++status_.dropped;
}

void EventLog::push_to_sinks(std::vector<LogRow>& rows) {
    const WallClock clock = settings_.store.clock();
    for (LogRow& row : rows) row.time_ns = clock.to_realtime_ns(row.when.latest_ns);
    sinks_->push(rows);
}

// Only the last part: a longer path that is not there is a mistake to be told of.
Result<void> EventLog::make_directory() {
    const std::filesystem::path directory = std::filesystem::path(settings_.store.path).parent_path();
    if (directory.empty() || ::mkdir(directory.c_str(), 0700) == 0 || errno == EEXIST) return {};
    return fail(SQLITE_CANTOPEN, "make " + directory.string() + ": " + std::generic_category().message(errno));
}

bool EventLog::open_store() {
    if (auto made = make_directory(); !made) {
        fail_with(made.error());
        return false;
    }
    auto opened = LogStore::open(settings_.store);
    if (!opened) {
        if (is_corrupt(opened.error().code)) {
            set_aside(opened.error().message);
        } else {
            fail_with(opened.error());
        }
        return false;
    }
    store_ = std::move(*opened);
    recovered();
    return true;
}

// True: something was got done, or there is nothing to wait for. False: wait for retry_at_ns_.
bool EventLog::try_write() {
    if (!store_) return open_store() || boottime_now_ns() >= retry_at_ns_;
    if (store_->identity() != FileIdentity::same) return put_back();
    const std::size_t count = std::min(pending_.size(), max_batch_rows);
    if (auto written = store_->write(std::span(pending_).first(count)); !written) {
        if (is_corrupt(written.error().code)) {
            store_.reset();
            set_aside(written.error().message);
            return boottime_now_ns() >= retry_at_ns_;
        }
        fail_with(written.error());
        // SQLite may hold on to a file that a full disk left in a strange state; a new connection starts from what is there.
        if (state_of(written.error().code) != LogState::locked) store_.reset();
        return false;
    }
    // What went into a file that another has taken the place of is written again, into that one.
    if (store_->identity() == FileIdentity::replaced) return put_back();
    const std::int64_t step = store_->last_clock_step_ns();
    if (step != 0) say_(Severity::warning, "the wall clock was set " + signed_seconds(step) + "; times in the log follow it from here on");
    for (std::size_t at = 0; at < count; ++at) pending_bytes_ -= pending_[at].bytes_held();
    pending_.erase(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(count));
    {
        const std::lock_guard lock(mutex_);
        status_.clock_steps += step != 0 ? 1 : 0;
        status_.committed += count;
    }
    recovered();
    return true;
}

void EventLog::try_retain() {
    auto more = store_->retain();
    const std::uint64_t now = boottime_now_ns();
    if (!more) {
        if (is_corrupt(more.error().code)) {
            store_.reset();
            set_aside(more.error().message);
            return;
        }
        fail_with(more.error());
        next_retain_ns_ = now + retain_interval_ns;
        return;
    }
    next_retain_ns_ = *more ? now + 100'000'000 : now + retain_interval_ns;
    auto bytes = store_->file_bytes();
    const std::lock_guard lock(mutex_);
    if (bytes) status_.file_bytes = *bytes;
}

// The name leads nowhere, to a file that is not whole, or to another. What the connection still holds is copied back unless it is another;
// until that works the connection is kept, and nothing is lost.
bool EventLog::put_back() {
    const FileIdentity identity = store_->identity();
    if (identity == FileIdentity::same) return true;
    if (identity == FileIdentity::replaced) {
        say_(Severity::warning, settings_.store.path + " was replaced by another file, which is used from here on");
    } else {
        const bool gone = identity == FileIdentity::gone;
        const std::string what = settings_.store.path + (gone ? " was deleted; " : " was emptied, or its -wal or -shm deleted; ");
        auto restored = make_directory();
        if (restored) restored = store_->restore_file();
        if (!restored && is_corrupt(restored.error().code)) {
            store_.reset();
            set_aside(what + restored.error().message);
            return boottime_now_ns() >= retry_at_ns_;
        }
        if (!restored) {
            fail_with({restored.error().code, what + restored.error().message});
            return false;
        }
        say_(Severity::warning, what + (gone ? "it was put back with everything in it" : "it was put back with what the daemon still had of it"));
        const std::lock_guard lock(mutex_);
        ++status_.restored;
    }
    store_.reset();
    return true;
}

void EventLog::set_aside(const std::string& why) {
    std::error_code error;
    // Of a link, what it leads to: its companions lie there.
    std::string path = std::filesystem::canonical(settings_.store.path, error).string();
    if (error) path = settings_.store.path;
    if (struct stat status {}; ::lstat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
        fail_with({SQLITE_CORRUPT, why + "; " + path + " is not a regular file, and left alone"});
        return;
    }
    const std::time_t now = std::time(nullptr);
    std::tm utc{};
    ::gmtime_r(&now, &utc);
    char stamp[32];
    std::strftime(stamp, sizeof stamp, "%Y%m%dT%H%M%SZ", &utc);
    std::string target = path + ".corrupt-" + stamp;
    for (int number = 2; ::access(target.c_str(), F_OK) == 0; ++number) target = path + ".corrupt-" + stamp + "-" + std::to_string(number);
    if (::rename(path.c_str(), target.c_str()) != 0 && errno != ENOENT) {
        fail_with({SQLITE_CORRUPT, why + "; and it could not be set aside: " + std::generic_category().message(errno)});
        return;
    }
    // The write-ahead log belongs to it: a new database must not find it, and who mends the old one needs it.
    ::rename((path + "-wal").c_str(), (target + "-wal").c_str());
    ::unlink((path + "-shm").c_str());
    say_(Severity::error, why + "; set aside as " + target + ", and a new one is begun");
    retry_at_ns_ = 0;
    {
        const std::lock_guard lock(mutex_);
        ++status_.set_aside;
        ++status_.errors;
    }
    std::vector<std::string> kept;
    const std::string prefix = std::filesystem::path(path).filename().string() + ".corrupt-";
    // With increment(): a range-for throws where the directory can't be read any further.
    for (std::filesystem::directory_iterator entry(std::filesystem::path(path).parent_path(), error), end; !error && entry != end; entry.increment(error)) {
        const std::string name = entry->path().filename().string();
        if (name.starts_with(prefix) && !name.ends_with("-wal")) kept.push_back(entry->path().string());
    }
    std::sort(kept.begin(), kept.end());
    for (std::size_t at = 0; at + max_set_aside < kept.size(); ++at) {
        say_(Severity::warning, "removing " + kept[at] + ": only " + std::to_string(max_set_aside) + " are kept");
        ::unlink(kept[at].c_str());
        ::unlink((kept[at] + "-wal").c_str());
    }
}

void EventLog::fail_with(const Error& error) {
    const LogState state = state_of(error.code);
    bool first = false;
    {
        const std::lock_guard lock(mutex_);
        first = status_.state != state || status_.problem.empty();
        status_.state = state;
        status_.problem = error.message;
        ++status_.errors;
    }
    opened_.notify_all();
    retry_delay_ns_ = std::clamp(retry_delay_ns_ * 2, first_retry_ns, last_retry_ns);
    retry_at_ns_ = boottime_now_ns() + retry_delay_ns_;
    if (first) say_(Severity::error, error.message + "; rows are kept in memory meanwhile, up to a bound");
}

void EventLog::recovered() {
    bool was_bad = false;
    {
        const std::lock_guard lock(mutex_);
        was_bad = !status_.problem.empty();
        status_.state = LogState::ok;
        status_.problem.clear();
    }
    opened_.notify_all();
    retry_delay_ns_ = 0;
    retry_at_ns_ = 0;
    if (was_bad) say_(Severity::info, "the event log is written again");
    LogRow row;
    {
        const std::lock_guard lock(mutex_);
        if (!dropped_window_) return;
        row.kind = EventKind::lost;
        row.when = *dropped_window_;
        row.lost_records = dropped_rows_;
        dropped_window_.reset();
        dropped_rows_ = 0;
    }
    // Whoever reads the log has to know that it has a hole.
    say_(Severity::warning, std::to_string(row.lost_records) + " rows did not fit into memory meanwhile and are lost");
    pending_bytes_ += row.bytes_held();
    pending_.push_back(std::move(row));
}

}  // namespace fdspan::service
