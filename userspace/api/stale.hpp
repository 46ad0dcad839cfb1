// Stale programs: processes that run or map an executable or library that is deleted or was replaced, by what has to be restarted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "api/snapshot.hpp"
#include "base/result.hpp"

namespace fdspan {

enum class ServiceKind : std::uint8_t {
    system,     // a unit of the system's systemd
    user,       // a unit of a user's
    session,    // a login session or another scope: no command restarts it
    container,
    manager,    // systemd itself
    none,       // no unit is known
};
[[nodiscard]] constexpr std::string_view to_string(ServiceKind kind) {
    switch (kind) {
        case ServiceKind::system: return "system";
        case ServiceKind::user: return "user";
        case ServiceKind::session: return "session";
        case ServiceKind::container: return "container";
        case ServiceKind::manager: return "manager";
        case ServiceKind::none: return "none";
    }
    return "?";
}

// What a control group belongs to, by the names that systemd gives (systemd.unit(5)): "/system.slice/nginx.service".
struct ServiceName {
    ServiceKind kind = ServiceKind::none;
    std::string name;   // "nginx.service", "docker:3f2a1b4c5d6e"; "" for none
    std::string user;   // of a user's unit: the uid in "user@1000.service"
    friend bool operator==(const ServiceName&, const ServiceName&) = default;
    friend auto operator<=>(const ServiceName&, const ServiceName&) = default;
};
[[nodiscard]] ServiceName service_of(std::string_view cgroup, std::string_view container);
// The command that restarts it; "" where there is none.
[[nodiscard]] std::string restart_command(const ServiceName& service);

struct StaleFile {
    std::string path;
    NameState state = NameState::deleted;   // deleted; gone: replaced, while another link is left (a package manager's backup, a lower layer)
    RefKind ref = RefKind::mem;             // exe where a process runs it
    std::vector<std::uint32_t> processes;   // indexes into the snapshot's, ascending
};
struct StaleService {
    ServiceName service;
    std::vector<std::uint32_t> processes;   // ascending
    std::vector<StaleFile> files;           // by path
};
struct StaleAnswer {
    SnapshotAnswer answer;
    std::vector<StaleService> services;     // by name; processes without a unit are one each
};

// A mapping counts when a part of it is private and executable and the file is an ELF: memory (memfd, SysV, /dev/zero, drivers), what
// lies in /dev/shm, devices and what just-in-time compilers map is none of that. Thread-safe.
[[nodiscard]] Result<StaleAnswer> find_stale(const std::vector<pid_t>& pids, Backend backend);

}  // namespace fdspan
