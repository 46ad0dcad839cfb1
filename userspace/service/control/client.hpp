// The other end of the daemon's socket: one question, one answer, in bounded time. Thread-safe (no shared state).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "api/snapshot.hpp"
#include "base/result.hpp"
#include "service/control/protocol.hpp"

namespace fdspan::service {

struct ProcessTimes {
    TimesProcess process;
    std::vector<TimesRow> rows;
};

struct TimesAnswer {
    Backend backend = Backend::procfs;
    bool certain = false;
    std::vector<ProcessTimes> processes;  // those that the daemon lets the caller see
};

// ENOENT, ECONNREFUSED: no daemon. EACCES: the caller is not in the socket's group. ETIMEDOUT: it does not answer.
[[nodiscard]] Result<TimesAnswer> ask_times(const std::string& socket, const std::vector<pid_t>& pids);
// JSON of what fdspan check judges.
[[nodiscard]] Result<std::string> ask_check(const std::string& socket);

// What the daemon knows of the rows of a snapshot that was complete before it was asked: exact times, and ids of descriptions. Returns how
// many rows gained by it.
std::size_t join_times(Snapshot& snapshot, const TimesAnswer& answer);

}  // namespace fdspan::service
