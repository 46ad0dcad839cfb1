// The JSON line of an event, as `watch --json` prints it.
#pragma once

#include <sys/types.h>

#include <array>
#include <string>
#include <string_view>

#include "base/clock.hpp"
#include "base/event.hpp"
#include "columns.hpp"

namespace fdspan::cli {

// "by":{…}, who took a name away; `watch` and `deleted` say it alike.
void append_by_json(std::string& out, pid_t pid, uid_t uid, std::string_view comm, std::string_view exe, std::string_view cgroup);

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
        Interval opened, description_opened;
        std::uint64_t description_id = 0;
        std::string span_text;
    };
    [[nodiscard]] RowContext context(const Event& event);
    const std::string& process_text(const RowContext& row);
    KeptFile& file_text(const RowContext& row);
    const std::string& span_text(KeptFile& kept, const RowContext& row);
    void append_columns(std::string& out, const RowContext& row);
    void append_removal(std::string& out, const Event& event);

    WallClockText clock_;
    UserNames users_;
    std::array<KeptProcess, 64> processes_;
    std::array<KeptFile, 256> files_;
};

}  // namespace fdspan::cli
