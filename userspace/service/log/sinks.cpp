#include "service/log/sinks.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

// The journal would note this file as the code that spoke: of no use to whoever reads about files.
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

namespace fdspan::service {

std::string JsonlFile::open() {
    file_.reset(::open(settings_.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600));
    struct stat status {};
    if (!file_.valid() || ::fstat(file_.get(), &status) != 0) return "open " + settings_.path + ": " + std::generic_category().message(errno);
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
    for (unsigned number = settings_.keep; number > 0; --number) {
        if (::rename(name(number - 1).c_str(), name(number).c_str()) != 0 && errno != ENOENT) {
            return "rename " + name(number - 1) + ": " + std::generic_category().message(errno);
        }
    }
    file_.reset();
    return open();
}

std::string JsonlFile::flush() {
    if (buffer_.empty()) return {};
    std::string problem = file_.valid() ? std::string() : open();
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

int send_to_journal(const LogRow& row, const std::string& json) {
    std::string message = std::string(to_string(row.kind));
    if (!row.path.empty()) message += " " + row.path;
    if (row.pid != 0) message += " by " + row.comm + "[" + std::to_string(row.pid) + "]";
    if (row.kind == EventKind::lost) message += ": " + std::to_string(row.lost_records) + " events were lost";
    const std::array<std::string, 6> fields{
        "MESSAGE=" + message,
        "PRIORITY=" + std::to_string(row.kind == EventKind::lost ? LOG_WARNING : LOG_INFO),
        "SYSLOG_IDENTIFIER=fdspand",
        "FDSPAN_EVENT=" + std::string(to_string(row.kind)),
        "FDSPAN_PATH=" + row.path,
        "FDSPAN_JSON=" + json,
    };
    std::array<iovec, fields.size()> parts{};
    for (std::size_t at = 0; at < fields.size(); ++at) parts[at] = {const_cast<char*>(fields[at].data()), fields[at].size()};
    const int code = ::sd_journal_sendv(parts.data(), static_cast<int>(parts.size()));
    return code < 0 ? -code : 0;
}

}  // namespace fdspan::service
