// Viewer: which processes' descriptors somebody may see. The rule is the kernel's for /proc/PID/fd (ptrace_may_access with
// PTRACE_MODE_READ_FSCREDS in kernel/ptrace.c), and wherever it can't be told from outside, the answer is no.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include "base/interval.hpp"

namespace fdspan::service {

class Viewer {
public:
    // The process at the other end of a connected unix socket, with the credentials it connected with.
    static Viewer of_peer(int socket);

    // Everybody's: root with CAP_SYS_PTRACE in the daemon's own namespaces.
    [[nodiscard]] bool sees_all() const { return sees_all_; }
    // The process that began then, as long as it is there: not another one that got its pid.
    [[nodiscard]] bool sees(pid_t pid, const Interval& started) const;
    // Whoever has that pid now: spares the work for those who would not be told of it anyway.
    [[nodiscard]] bool sees_present(pid_t pid) const;
    [[nodiscard]] uid_t uid() const { return uid_; }

private:
    bool sees_all_ = false;
    bool sees_none_ = true;
    uid_t uid_ = static_cast<uid_t>(-1);
    gid_t gid_ = static_cast<gid_t>(-1);
    std::string user_namespace_;
};

// What a viewer sees, asked once of each process. Of one moment: who is seen now may not be in the next.
class Sight {
public:
    explicit Sight(const Viewer& viewer) : viewer_(viewer) {}
    [[nodiscard]] const Viewer& viewer() const { return viewer_; }
    [[nodiscard]] bool sees(pid_t pid, const Interval& started) {
        const auto [known, added] = known_.try_emplace({pid, started.latest_ns}, false);
        if (added) known->second = viewer_.sees(pid, started);
        return known->second;
    }
    // Processes that had to be looked at.
    [[nodiscard]] std::size_t looks() const { return known_.size(); }

private:
    const Viewer& viewer_;
    std::map<std::pair<pid_t, std::uint64_t>, bool> known_;
};

}  // namespace fdspan::service
