// Other places where logged rows go: a JSON file and the journal. What they do not take is counted, and said when it begins and ends.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "base/unique_fd.hpp"
#include "service/log/row.hpp"

namespace fdspan::service {

// Appends the JSON of a row, without a newline. The caller of the library knows how its rows look.
using FormatRow = std::function<void(std::string& out, const LogRow& row)>;

enum class Severity : std::uint8_t { info, warning, error };
// Called by any of the log's threads.
using Say = std::function<void(Severity, const std::string&)>;

// FILE, FILE.1 (newer) … FILE.n (older).
struct JsonlSettings {
    std::string path;
    std::uint64_t max_bytes = 100ULL << 20;  // of one file
    unsigned keep = 5;                       // rotated files
};

// Regular files only: a FIFO's reader may stop, and a device is nobody's to rename. One thread.
class JsonlFile {
public:
    JsonlFile(JsonlSettings settings, FormatRow format) : settings_(std::move(settings)), format_(std::move(format)) {}

    void add(const LogRow& row) {
        format_(buffer_, row);
        buffer_ += '\n';
        ++buffered_;
    }
    // Writes what was added, whole lines or nothing. Returns "" or what went wrong.
    std::string flush();

    [[nodiscard]] std::uint64_t dropped() const { return dropped_; }

private:
    std::string open();
    std::string rotate();

    JsonlSettings settings_;
    FormatRow format_;
    UniqueFd file_;
    std::uint64_t size_ = 0;
    std::string buffer_;
    std::uint64_t buffered_ = 0;
    std::uint64_t dropped_ = 0;
};

// systemd's journal, by its socket: sd_journal_sendv() would wait for it without end. One thread.
class Journal {
public:
    explicit Journal(std::string socket_path) : path_(std::move(socket_path)) {}

    // One entry, with fields to search by; waits until that time at most. Returns 0 or an errno, EAGAIN when the time is over.
    int send(const LogRow& row, const std::string& json, std::uint64_t wait_until_ns);

private:
    int connect();

    std::string path_;
    UniqueFd socket_;
    std::string entry_;
};

struct SinkSettings {
    std::optional<JsonlSettings> jsonl;
    bool journal = false;
    std::string journal_socket = "/run/systemd/journal/socket";
    FormatRow format;
    std::size_t max_rows = 65536;        // on their way
    std::size_t max_bytes = 32U << 20;
    std::function<void()> begin_thread;  // what the thread does first; may be empty
};

// Owns the sinks and a thread, so that none of them keeps the database waiting. Everything may be called by any thread.
class Sinks {
public:
    Sinks(SinkSettings settings, Say say);
    // Gives what is queued a few seconds. A thread that hangs with a disk is left behind.
    ~Sinks();
    Sinks(const Sinks&) = delete;
    Sinks& operator=(const Sinks&) = delete;

    // Copies the rows, or counts them where nobody takes those before them. Their time_ns has to be set.
    void push(std::span<const LogRow> rows);
    // Files are opened anew.
    void reconfigure(SinkSettings settings);
    [[nodiscard]] std::uint64_t dropped() const;

private:
    class Worker;
    std::shared_ptr<Worker> worker_;
    std::thread thread_;
};

}  // namespace fdspan::service
