// EventLog: takes rows from the tracing loop and sees to it that they are kept, whatever becomes of the disk. Owns a writer thread with the
// database, and the other sinks. push() never waits for a disk; everything else may be called by any thread as well.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "service/log/sinks.hpp"
#include "service/log/store.hpp"

namespace fdspan::service {

struct EventLogSettings {
    StoreSettings store;                            // empty path: no database
    std::optional<JsonlSettings> jsonl;
    bool journal = false;
    FormatRow format;                               // for jsonl and journal
    std::uint64_t commit_interval_ns = 500'000'000; // at most so long a row waits before it is committed
    std::size_t max_rows = 65536;                   // in memory: on their way to the writer, and as many waiting for the database
    std::size_t max_bytes = 32U << 20;
    std::string journal_socket = SinkSettings{}.journal_socket;
    std::function<void()> begin_thread;             // what a writing thread does first; may be empty

    [[nodiscard]] SinkSettings sinks() const;
};

enum class LogState : std::uint8_t { off, opening, ok, full, failing, locked, unusable };
[[nodiscard]] constexpr std::string_view to_string(LogState state) {
    switch (state) {
        case LogState::off: return "off";
        case LogState::opening: return "opening";
        case LogState::ok: return "ok";
        case LogState::full: return "full";
        case LogState::failing: return "failing";
        case LogState::locked: return "locked";
        case LogState::unusable: return "unusable";
    }
    return "?";
}

struct LogStatus {
    LogState state = LogState::off;
    std::string problem;             // "" while all is well
    std::uint64_t committed = 0;     // rows
    std::uint64_t dropped = 0;       // rows for which there was no room in memory while the database could not be written
    std::uint64_t sinks_dropped = 0; // rows that a JSON file or the journal did not take
    std::uint64_t queued = 0;
    std::uint64_t errors = 0;        // failed attempts
    std::uint64_t set_aside = 0;     // databases that were corrupt
    std::uint64_t restored = 0;      // databases that were deleted and put back
    std::uint64_t clock_steps = 0;
    std::uint64_t file_bytes = 0;
};

class EventLog {
public:
    static constexpr unsigned max_set_aside = 3;  // corrupt files kept; the oldest goes

    using Severity = service::Severity;

    EventLog(EventLogSettings settings, Say say);
    // Writes what is queued, for as long as a few seconds; each of the sinks, too.
    ~EventLog();
    EventLog(const EventLog&) = delete;
    EventLog& operator=(const EventLog&) = delete;

    void push(LogRow row);
    [[nodiscard]] LogStatus status() const;
    // Until the database was opened, or could not be, but no longer than that.
    void wait_opened(std::uint64_t patience_ns);
    // After SIGHUP: other files may be wanted, other bounds, and a renamed JSON file is opened anew. The database's path stays.
    void reconfigure(EventLogSettings settings);

private:
    void run();
    void push_to_sinks(std::vector<LogRow>& rows);
    bool try_write();
    void try_retain();
    void keep(std::vector<LogRow> rows);
    void note_drop(const LogRow& row);  // with the lock held
    Result<void> make_directory();
    bool open_store();
    void fail_with(const Error& error);
    void recovered();
    void set_aside(const std::string& why);
    bool put_back();

    mutable std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable opened_;
    EventLogSettings settings_;
    std::optional<EventLogSettings> new_settings_;
    std::deque<LogRow> queue_;
    std::size_t queued_bytes_ = 0;
    std::uint64_t first_queued_ns_ = 0;
    bool stopping_ = false;
    LogStatus status_;
    std::optional<Interval> dropped_window_;  // of what was dropped since the log last said so itself
    std::uint64_t dropped_rows_ = 0;
    std::unique_ptr<Sinks> sinks_;

    // Of the writer thread alone.
    Say say_;
    std::unique_ptr<LogStore> store_;
    std::vector<LogRow> pending_;        // taken from the queue, not committed yet
    std::size_t pending_bytes_ = 0;
    std::uint64_t retry_at_ns_ = 0;
    std::uint64_t retry_delay_ns_ = 0;
    std::uint64_t next_retain_ns_ = 0;
    std::thread thread_;
};

}  // namespace fdspan::service
