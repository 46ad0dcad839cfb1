// Other places where logged rows go. They are called by the log's writer thread only, and never fail for good: what could not be
// written is counted.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>

#include "base/unique_fd.hpp"
#include "service/log/row.hpp"

namespace fdspan::service {

// Appends the JSON of a row, without a newline. The caller of the library knows how its rows look.
using FormatRow = std::function<void(std::string& out, const LogRow& row)>;

// FILE, FILE.1 (newer) … FILE.n (older).
struct JsonlSettings {
    std::string path;
    std::uint64_t max_bytes = 100ULL << 20;  // of one file
    unsigned keep = 5;                       // rotated files
};

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
    // The next flush opens the path again: somebody has renamed the file.
    void reopen() { file_.reset(); }

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

// One journal entry a row, with fields to search by. Returns 0 or an errno.
int send_to_journal(const LogRow& row, const std::string& json);

}  // namespace fdspan::service
