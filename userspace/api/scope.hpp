// Scope: which processes a tracker is about, as seen from user space (the hooks' own view: bpf/track.bpf.h).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace fdspan {

// All empty: every process. Else each list adds to the others.
struct TrackerScope {
    std::vector<pid_t> pids;           // until each ends
    std::vector<pid_t> trees;          // with all that descends from them
    std::vector<std::string> cgroups;  // directories in the v2 hierarchy, with what is below
    [[nodiscard]] bool empty() const { return pids.empty() && trees.empty() && cgroups.empty(); }
};

// A process and its parent, as /proc has them now.
struct ProcessLink {
    pid_t pid = 0;
    pid_t parent = 0;
    std::uint64_t started_ticks = 0;
};
[[nodiscard]] Result<std::vector<ProcessLink>> read_process_links();

// Descendants of `roots` that are not roots themselves. What was left by its parent (reparented) is not found.
[[nodiscard]] std::vector<pid_t> descendants(const std::vector<ProcessLink>& links, const std::vector<pid_t>& roots);

// The id by which BPF programs know a cgroup. ENOENT: there is none; EINVAL: not in a v2 hierarchy.
[[nodiscard]] Result<std::uint64_t> cgroup_id(const std::string& directory);
// Processes in and below it. A cgroup that went meanwhile has none.
[[nodiscard]] Result<void> append_cgroup_processes(const std::string& directory, std::vector<pid_t>& pids);

// The members of a scope, followed by polling: for the backend that has no hooks.
class PolledScope {
public:
    // Ascending. A process that left its parent between two polls is lost to its tree.
    [[nodiscard]] Result<std::vector<pid_t>> members(const TrackerScope& scope);

private:
    std::map<pid_t, std::uint64_t> followed_;  // pid -> start: of pids and trees, so that a reused number is nobody we know
    std::map<pid_t, std::uint64_t> in_trees_;
    bool begun_ = false;
};

}  // namespace fdspan
