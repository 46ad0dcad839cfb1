#include "gaps.hpp"

#include <algorithm>

#include "text.hpp"

namespace fdspan::cli {

std::string plural(std::uint64_t count, std::string_view one, std::string_view many) {
    return std::to_string(count) + " " + std::string(count == 1 ? one : many);
}

std::vector<std::string> describe_gaps(const SnapshotAnswer& answer, const ProcessFilter& asked, std::uint64_t unreadable) {
    const SnapshotGaps& gaps = answer.snapshot.gaps;
    std::vector<std::string> parts;
    if (unreadable > 0) {
        parts.push_back(plural(unreadable, "process", "processes") +
                        " could not be read (permission denied); root or CAP_SYS_PTRACE may help");
    }
    if (gaps.missing_pids > 0) {
        std::string missing;
        for (const pid_t pid : asked.pids) {
            const auto& processes = answer.snapshot.processes;
            const bool there = std::any_of(processes.begin(), processes.end(), [pid](const Process& process) { return process.pid == pid; });
            if (!there) missing += (missing.empty() ? "" : ", ") + std::to_string(pid);
        }
        parts.push_back("no process has pid " + (missing.empty() ? std::to_string(gaps.missing_pids) : missing));
    }
    if (gaps.undecided_names > 0) {
        parts.push_back(plural(gaps.undecided_names, "mapping looks", "mappings look") +
                        " deleted, but the links of the file could not be asked for; root or CAP_CHECKPOINT_RESTORE may help");
    }
    if (gaps.truncated_paths > 0) parts.push_back(plural(gaps.truncated_paths, "path was", "paths were") + " too long and cut");
    if (gaps.unparsed_lines > 0) parts.push_back(plural(gaps.unparsed_lines, "line", "lines") + " of /proc could not be understood");
    return parts;
}

std::uint64_t count_unreadable(const Snapshot& snapshot, const ProcessFilter& asked) {
    return static_cast<std::uint64_t>(std::count_if(snapshot.processes.begin(), snapshot.processes.end(), [&](const Process& process) {
        return process.unreadable && asked.matches(process, snapshot.text(process.comm));
    }));
}

void append_gaps_json(std::string& out, const SnapshotGaps& gaps, std::uint64_t unreadable) {
    out += "\"gaps\":{";
    const auto gap = [&out](std::string_view name, std::uint64_t count) {
        out += '"';
        out += name;
        out += "\":";
        append_number(out, static_cast<unsigned long long>(count));
        out += ',';
    };
    gap("unreadable_processes", unreadable);
    gap("vanished_processes", gaps.vanished_processes);
    gap("missing_pids", gaps.missing_pids);
    gap("truncated_paths", gaps.truncated_paths);
    gap("unparsed_lines", gaps.unparsed_lines);
    gap("unstatable_references", gaps.unstatable_references);
    gap("undecided_names", gaps.undecided_names);
    out.back() = '}';
    out += ',';
}

}  // namespace fdspan::cli
