// examine_system: what this kernel and these privileges allow, found out by trying.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "api/snapshot.hpp"
#include "base/result.hpp"

namespace fdspan {

enum class CheckState : std::uint8_t { yes, no, unknown };
[[nodiscard]] constexpr std::string_view to_string(CheckState state) {
    switch (state) {
        case CheckState::yes: return "yes";
        case CheckState::no: return "no";
        case CheckState::unknown: return "unknown";
    }
    return "?";
}

// One fact. `name` is stable (scripts may rely on it), `detail` says what was seen, `advice` what to do where it is missing.
struct Check {
    std::string name;
    std::string title;
    CheckState state = CheckState::unknown;
    std::string detail;
    std::string advice;
};

struct BackendVerdict {
    Backend backend = Backend::procfs;
    bool works = false;
    std::vector<std::string> lacks;   // empty when it works
    std::vector<std::string> advice;
};

struct UnreadableProcess {
    pid_t pid = 0;
    std::string comm;
};

struct DoctorReport {
    std::string kernel_release;
    std::string machine;
    uid_t effective_uid = 0;
    std::vector<Check> checks;
    std::vector<BackendVerdict> backends;   // best first
    Backend chosen = Backend::procfs;       // what `auto` takes for tracking
    bool iterators = false;                 // snapshots come from BPF iterators rather than procfs
    std::uint64_t processes = 0;
    std::uint64_t unreadable_processes = 0;
    std::vector<UnreadableProcess> unreadable;  // the first few of them
    bool processes_hidden = false;          // /proc is mounted with hidepid: there may be more than are counted
};

// Loads and attaches one tiny program of each kind for a moment, alone, and makes each run. Needs no privileges: what is
// refused is the answer. Thread-safe.
[[nodiscard]] Result<DoctorReport> examine_system();

}  // namespace fdspan
