// The other end of the daemon's socket: one question, one answer, in bounded time. Thread-safe (no shared state).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/deleted.hpp"
#include "api/snapshot.hpp"
#include "base/event.hpp"
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

struct DeletionsAnswer {
    struct File {
        FileId id;
        Interval when;
        Removal how = Removal::unknown;
        std::optional<RemovedBy> by;
    };
    bool certain = false;
    std::vector<File> files;  // without a name, that somebody holds whom the daemon lets the caller see
};

// ENOENT, ECONNREFUSED: no daemon. EACCES: the caller is not in the socket's group. ETIMEDOUT: it does not answer.
// Whether there is none for this caller, which is nothing to complain of.
[[nodiscard]] bool is_no_daemon(const Error& error);
[[nodiscard]] Result<TimesAnswer> ask_times(const std::string& socket, const std::vector<pid_t>& pids);
[[nodiscard]] Result<DeletionsAnswer> ask_deletions(const std::string& socket, const std::vector<pid_t>& pids);
// JSON of what fdspan check judges.
[[nodiscard]] Result<std::string> ask_check(const std::string& socket);

// What the daemon knows of the rows of a snapshot that was complete before it was asked: exact times, and ids of descriptions. Returns how
// many rows gained by it.
std::size_t join_times(Snapshot& snapshot, const TimesAnswer& answer);
// Likewise when its files were deleted, and by whom.
std::size_t join_deletions(std::vector<DeletedFile>& files, const DeletionsAnswer& answer);

}  // namespace fdspan::service
