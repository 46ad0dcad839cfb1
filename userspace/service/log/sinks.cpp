#include "service/log/sinks.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "base/clock.hpp"

namespace fdspan::service {
namespace {

// A row waits no longer for the journal, and those of its batch behind it not at all.
constexpr std::uint64_t journal_patience_ns = 1'000'000'000;
constexpr std::uint64_t stop_patience_ns = 3'000'000'000;

// "" or why it may not be written to, renamed or replaced.
std::string refusal(const std::string& path) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0) return errno == ENOENT ? std::string() : "stat " + path + ": " + std::generic_category().message(errno);
    return S_ISREG(status.st_mode) ? std::string() : path + " is not a regular file, and left alone";
}

// The journal's protocol: what has a newline in it stands behind its length.
void append_field(std::string& out, std::string_view name, std::string_view value) {
    out += name;
    if (value.find('\n') == std::string_view::npos) {
        out += '=';
    } else {
        out += '\n';
        for (unsigned shift = 0; shift < 64; shift += 8) out += static_cast<char>(static_cast<std::uint64_t>(value.size()) >> shift);
    }
    out += value;
    out += '\n';
}

}  // namespace

std::string JsonlFile::open() {
    if (std::string refused = refusal(settings_.path); !refused.empty()) return refused;
    file_.reset(::open(settings_.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK, 0600));
    struct stat status {};
    if (!file_.valid() || ::fstat(file_.get(), &status) != 0) return "open " + settings_.path + ": " + std::generic_category().message(errno);
    if (!S_ISREG(status.st_mode)) {
        file_.reset();
        return settings_.path + " is not a regular file, and left alone";
    }
    size_ = static_cast<std::uint64_t>(status.st_size);
    return {};
}

std::string JsonlFile::rotate() {
    const auto name = [this](unsigned number) { return number == 0 ? settings_.path : settings_.path + "." + std::to_string(number); };
    if (settings_.keep == 0) {
        if (::ftruncate(file_.get(), 0) != 0) return "truncate " + settings_.path + ": " + std::generic_category().message(errno);
        size_ = 0;
        return {};
    }
    for (unsigned number = 0; number <= settings_.keep; ++number) {
        if (std::string refused = refusal(name(number)); !refused.empty()) return refused;
    }
    for (unsigned number = settings_.keep; number > 0; --number) {
        if (::rename(name(number - 1).c_str(), name(number).c_str()) != 0 && errno != ENOENT) {
            return "rename " + name(number - 1) + ": " + std::generic_category().message(errno);
        }
    }
    file_.reset();
    return open();
}

std::string JsonlFile::flush() {
    std::string problem;
    // Others may have emptied it meanwhile; what goes into one that they deleted nobody reads.
    if (struct stat status {}; file_.valid() && ::fstat(file_.get(), &status) == 0 && status.st_nlink != 0) {
        size_ = static_cast<std::uint64_t>(status.st_size);
    } else {
        problem = open();
    }
    if (problem.empty() && size_ != 0 && size_ + buffer_.size() > settings_.max_bytes) problem = rotate();
    std::size_t written = 0;
    while (problem.empty() && written < buffer_.size()) {
        const ssize_t count = ::write(file_.get(), buffer_.data() + written, buffer_.size() - written);
        if (count >= 0) {
            written += static_cast<std::size_t>(count);
        } else if (errno != EINTR) {
            problem = "write " + settings_.path + ": " + std::generic_category().message(errno);
        }
    }
    if (problem.empty()) {
        size_ += written;
    } else {
        // A line cut short would spoil the next one.
        if (written != 0 && ::ftruncate(file_.get(), static_cast<off_t>(size_)) != 0) problem += " (and a line was left cut short)";
        dropped_ += buffered_;
    }
    buffer_.clear();
    buffered_ = 0;
    return problem;
}

int Journal::connect() {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path_.size() >= sizeof address.sun_path) return ENAMETOOLONG;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    socket_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket_.valid() && ::connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return 0;
    const int error = errno;
    socket_.reset();
    return error;
}

int Journal::send(const LogRow& row, const std::string& json, std::uint64_t wait_until_ns) {
    std::string message = std::string(to_string(row.kind));
    if (!row.path.empty()) message += " " + row.path;
    if (row.pid != 0) message += " by " + row.comm + "[" + std::to_string(row.pid) + "]";
    if (row.kind == EventKind::lost) message += ": " + std::to_string(row.lost_records) + " events were lost";
    entry_.clear();
    append_field(entry_, "MESSAGE", message);
    append_field(entry_, "PRIORITY", std::to_string(row.kind == EventKind::lost ? LOG_WARNING : LOG_INFO));
    append_field(entry_, "SYSLOG_IDENTIFIER", "fdspand");
    append_field(entry_, "FDSPAN_EVENT", to_string(row.kind));
    append_field(entry_, "FDSPAN_PATH", row.path);
    append_field(entry_, "FDSPAN_JSON", json);
    bool connected_anew = false;
    while (true) {
        if (!socket_.valid()) {
            connected_anew = true;
            if (const int error = connect(); error != 0) return error;
        }
        if (::send(socket_.get(), entry_.data(), entry_.size(), MSG_NOSIGNAL) >= 0) return 0;
        if (errno == EINTR) continue;
        if (errno != EAGAIN) {
            const int error = errno;
            // The one before it was restarted.
            if (connected_anew || (error != ECONNREFUSED && error != ENOTCONN && error != EPIPE)) return error;
            socket_.reset();
            continue;
        }
        const std::uint64_t now = boottime_now_ns();
        if (now >= wait_until_ns) return EAGAIN;
        pollfd wait{socket_.get(), POLLOUT, 0};
        (void)::poll(&wait, 1, static_cast<int>((wait_until_ns - now) / 1'000'000 + 1));
    }
}

// What the thread works on; it holds this, too, because it may outlive the Sinks.
class Sinks::Worker {
public:
    Worker(SinkSettings settings, Say say) : settings_(std::move(settings)), say_(std::move(say)) { open(); }
    void run();
    void push(std::span<const LogRow> rows);
    void reconfigure(SinkSettings settings);
    std::uint64_t dropped() const;
    // True: all is done, and the thread ends.
    bool stop();

private:
    void open();
    void write(const std::vector<LogRow>& rows);
    std::uint64_t write_jsonl(const std::vector<LogRow>& rows);
    std::uint64_t write_journal(const std::vector<LogRow>& rows);
    void say(Severity severity, const std::string& text);
    void note_problem(std::string& known, const std::string& problem, std::uint64_t& left_out, std::uint64_t not_taken, const char* what);

    mutable std::mutex mutex_;
    std::condition_variable wake_, ended_;
    bool has_sinks_ = false;
    bool stopping_ = false;
    bool has_ended_ = false;
    bool abandoned_ = false;
    std::optional<SinkSettings> new_settings_;
    std::vector<LogRow> queue_;
    std::size_t queued_bytes_ = 0;
    std::uint64_t dropped_ = 0;
    bool overflowing_ = false;

    // Of the thread alone.
    SinkSettings settings_;
    Say say_;
    std::unique_ptr<JsonlFile> jsonl_;
    std::unique_ptr<Journal> journal_;
    std::string jsonl_problem_, journal_problem_;
    std::uint64_t jsonl_left_out_ = 0, journal_left_out_ = 0;
};

void Sinks::Worker::open() {
    jsonl_ = settings_.jsonl ? std::make_unique<JsonlFile>(*settings_.jsonl, settings_.format) : nullptr;
    journal_ = settings_.journal ? std::make_unique<Journal>(settings_.journal_socket) : nullptr;
    has_sinks_ = jsonl_ || journal_;
}

void Sinks::Worker::run() {
    if (settings_.begin_thread) settings_.begin_thread();
    // A file that can't be written is told of now, not with the first row.
    (void)write_jsonl({});
    while (true) {
        std::vector<LogRow> rows;
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [this] { return stopping_ || new_settings_ || !queue_.empty(); });
            if (new_settings_) {
                settings_ = std::move(*new_settings_);
                new_settings_.reset();
                open();
            }
            rows.swap(queue_);
            queued_bytes_ = 0;
            overflowing_ = false;
            if (stopping_ && rows.empty()) {
                has_ended_ = true;
                ended_.notify_all();
                return;
            }
        }
        write(rows);
    }
}

void Sinks::Worker::push(std::span<const LogRow> rows) {
    bool overflows = false;
    {
        const std::lock_guard lock(mutex_);
        if (!has_sinks_ && !new_settings_) return;
        for (const LogRow& row : rows) {
            const std::size_t bytes = row.bytes_held();
            if (queue_.size() >= settings_.max_rows || queued_bytes_ + bytes > settings_.max_bytes) {
                ++dropped_;
                overflows = !overflowing_;
                overflowing_ = true;
                continue;
            }
            queued_bytes_ += bytes;
            queue_.push_back(row);
        }
    }
    wake_.notify_one();
    if (overflows) say(Severity::error, "the JSON file or the journal does not keep up; rows that it has no room for are counted and left out");
}

void Sinks::Worker::reconfigure(SinkSettings settings) {
    {
        const std::lock_guard lock(mutex_);
        new_settings_ = std::move(settings);
    }
    wake_.notify_one();
}

std::uint64_t Sinks::Worker::dropped() const {
    const std::lock_guard lock(mutex_);
    return dropped_;
}

bool Sinks::Worker::stop() {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    wake_.notify_one();
    if (ended_.wait_for(lock, std::chrono::nanoseconds(stop_patience_ns), [this] { return has_ended_; })) return true;
    abandoned_ = true;
    say_(Severity::error, "the JSON file or the journal does not take its last rows before the end");
    return false;
}

void Sinks::Worker::say(Severity severity, const std::string& text) {
    const std::lock_guard lock(mutex_);
    if (!abandoned_) say_(severity, text);
}

void Sinks::Worker::write(const std::vector<LogRow>& rows) {
    const std::uint64_t not_taken = write_jsonl(rows) + write_journal(rows);
    const std::lock_guard lock(mutex_);
    dropped_ += not_taken;
}

void Sinks::Worker::note_problem(std::string& known, const std::string& problem, std::uint64_t& left_out, std::uint64_t not_taken, const char* what) {
    left_out += not_taken;
    if (problem == known) return;
    known = problem;
    if (!problem.empty()) return say(Severity::error, problem + "; what " + what + " does not take is counted and left out");
    say(Severity::info, std::string(what) + " takes rows again; " + std::to_string(left_out) + " were left out");
    left_out = 0;
}

std::uint64_t Sinks::Worker::write_jsonl(const std::vector<LogRow>& rows) {
    if (!jsonl_) return 0;
    const std::uint64_t before = jsonl_->dropped();
    for (const LogRow& row : rows) jsonl_->add(row);
    const std::string problem = jsonl_->flush();
    const std::uint64_t not_taken = jsonl_->dropped() - before;
    // A file that could be opened has not taken a row yet.
    if (!rows.empty() || !problem.empty()) note_problem(jsonl_problem_, problem, jsonl_left_out_, not_taken, "the JSON file");
    return not_taken;
}

std::uint64_t Sinks::Worker::write_journal(const std::vector<LogRow>& rows) {
    if (!journal_ || rows.empty()) return 0;
    std::uint64_t not_taken = 0;
    int problem = 0;
    std::string json;
    std::uint64_t wait_until_ns = boottime_now_ns() + journal_patience_ns;
    for (const LogRow& row : rows) {
        json.clear();
        settings_.format(json, row);
        const int error = journal_->send(row, json, wait_until_ns);
        if (error == 0) {
            wait_until_ns = boottime_now_ns() + journal_patience_ns;
        } else {
            problem = error;
            ++not_taken;
        }
    }
    note_problem(journal_problem_, problem == 0 ? std::string() : "the journal does not take events: " + std::generic_category().message(problem),
                 journal_left_out_, not_taken, "the journal");
    return not_taken;
}

Sinks::Sinks(SinkSettings settings, Say say) : worker_(std::make_shared<Worker>(std::move(settings), std::move(say))) {
    thread_ = std::thread([worker = worker_] { worker->run(); });
}

Sinks::~Sinks() {
    if (worker_->stop()) {
        thread_.join();
    } else {
        thread_.detach();
    }
}

void Sinks::push(std::span<const LogRow> rows) { worker_->push(rows); }
void Sinks::reconfigure(SinkSettings settings) { worker_->reconfigure(std::move(settings)); }
std::uint64_t Sinks::dropped() const { return worker_->dropped(); }

}  // namespace fdspan::service
