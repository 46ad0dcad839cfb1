// The JSON line of an event, as `watch --json` prints it.
#pragma once

#include <array>
#include <string>

#include "base/clock.hpp"
#include "base/event.hpp"
#include "columns.hpp"

namespace fdspan::cli {

// Remembers what it wrote lately: opened, closed and released say the same of a span's file and process, and both come again.
class EventJson {
public:
    explicit EventJson(WallClock clock) : clock_(clock) {}
    void set_clock(WallClock clock) { *this = EventJson(clock); }
    // One line, with its newline.
    void append(std::string& out, const Event& event);

private:
    struct KeptProcess {
        Process process;
        std::string comm, cgroup, container;
        std::string text;
    };
    struct KeptFile {
        Reference reference;  // without what is of its span
        std::string path, type_name;
        std::string text;
    };
    [[nodiscard]] RowContext context(const Event& event);
    const std::string& process_text(const RowContext& row);
    const std::string& file_text(const RowContext& row);
    void append_columns(std::string& out, const RowContext& row);
    void append_removal(std::string& out, const Event& event);

    WallClockText clock_;
    UserNames users_;
    std::array<KeptProcess, 64> processes_;
    std::array<KeptFile, 256> files_;
};

}  // namespace fdspan::cli
