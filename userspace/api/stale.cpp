#include "api/stale.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "api/recover.hpp"

namespace fdspan {
namespace {

constexpr std::uint32_t map_shared = 1U << 31U;

bool is_stale(const Reference& row) { return row.type == FileType::reg && (row.name == NameState::deleted || row.name == NameState::gone); }

// Whether what is mapped begins as a program does; true where nobody lets us look.
bool may_be_program(const Process& process, const Reference& row) {
    const HeldAddress address{process.pid, 0, RefKind::mem, -1, row.map_start, row.map_end, process.started, FileId{row.dev, row.ino}};
    const auto file = HeldFile::open(address);
    if (!file) return true;
    std::array<char, 4> magic{};
    return ::pread(file->fd(), magic.data(), magic.size(), 0) == 4 && std::memcmp(magic.data(), "\x7f" "ELF", 4) == 0;
}

}  // namespace

ServiceName service_of(std::string_view cgroup, std::string_view container) {
    if (!container.empty()) return {ServiceKind::container, std::string(container), {}};
    ServiceName found;
    std::string_view user;  // of the innermost user manager on the way
    while (!cgroup.empty()) {
        const std::size_t slash = std::min(cgroup.find('/'), cgroup.size());
        const std::string_view part = cgroup.substr(0, slash);
        cgroup.remove_prefix(std::min(slash + 1, cgroup.size()));
        const bool service = part.ends_with(".service");
        if (part == "init.scope") {
            found = {user.empty() ? ServiceKind::manager : ServiceKind::user, user.empty() ? "init.scope" : "user@" + std::string(user) + ".service", std::string(user)};
        } else if (service && part.starts_with("user@")) {
            user = part.substr(5, part.size() - 5 - std::strlen(".service"));
            found = {ServiceKind::session, std::string(part), std::string(user)};
        } else if (service) {
            found = {user.empty() ? ServiceKind::system : ServiceKind::user, std::string(part), std::string(user)};
        } else if (part.ends_with(".scope")) {
            found = {ServiceKind::session, std::string(part), std::string(user)};
        }
    }
    if (found.kind == ServiceKind::user && found.name.starts_with("user@")) found.kind = ServiceKind::session;
    return found;
}

std::string restart_command(const ServiceName& service) {
    switch (service.kind) {
        case ServiceKind::system: return "systemctl restart " + service.name;
        case ServiceKind::user: return "systemctl --user -M " + service.user + "@ restart " + service.name;
        case ServiceKind::manager: return "systemctl daemon-reexec";
        case ServiceKind::session:
        case ServiceKind::container:
        case ServiceKind::none: break;
    }
    return {};
}

Result<StaleAnswer> find_stale(const std::vector<pid_t>& pids, Backend backend) {
    SnapshotRequest request;
    request.fields = field_path | field_stat | field_cgroup;
    request.kinds = 1U << static_cast<unsigned>(RefKind::exe) | 1U << static_cast<unsigned>(RefKind::mem);
    request.pids = pids;
    request.deleted_only = true;
    request.also_states = 1U << static_cast<unsigned>(NameState::gone);
    auto answer = take_snapshot(request, backend);
    if (!answer) return tl::unexpected<Error>(answer.error());
    StaleAnswer result;
    result.answer = std::move(*answer);
    const Snapshot& snapshot = result.answer.snapshot;

    // Per process and file: run, or mapped as code is.
    struct Use {
        std::optional<Reference> row;
        bool counts = false;
    };
    std::map<std::tuple<std::uint32_t, DeviceNumber, std::uint64_t>, Use> uses;
    for (const Reference& row : snapshot.references) {
        if (!is_stale(row)) continue;
        Use& use = uses[{row.process, row.dev, row.ino}];
        const bool exe = row.ref == RefKind::exe;
        const bool code = (row.map_flags & PROT_EXEC) != 0 && (row.map_flags & map_shared) == 0 && !snapshot.path(row).starts_with("/dev/shm/");
        if (!use.row || exe) use.row = row;
        use.counts |= exe || code;
    }
    std::map<std::pair<ServiceName, std::uint32_t>, StaleService> services;
    // One file is looked at once, however many map it.
    std::map<std::pair<DeviceNumber, std::uint64_t>, bool> programs;
    for (const auto& [key, use] : uses) {
        if (!use.counts) continue;
        const Reference& row = *use.row;
        const Process& process = snapshot.processes[row.process];
        if (row.ref == RefKind::mem) {
            const auto [known, fresh] = programs.try_emplace({row.dev, row.ino}, true);
            if (fresh) known->second = may_be_program(process, row);
            if (!known->second) continue;
        }
        const ServiceName name = service_of(snapshot.text(process.cgroup), snapshot.text(process.container));
        const bool shared = name.kind != ServiceKind::none;
        StaleService& service = services[{name, shared ? 0 : row.process}];
        service.service = name;
        if (service.processes.empty() || service.processes.back() != row.process) service.processes.push_back(row.process);
        const std::string path = snapshot.path(row);
        auto file = std::find_if(service.files.begin(), service.files.end(), [&](const StaleFile& known) { return known.path == path && known.state == row.name; });
        if (file == service.files.end()) file = service.files.insert(service.files.end(), {path, row.name, row.ref, {}});
        if (row.ref == RefKind::exe) file->ref = RefKind::exe;
        if (file->processes.empty() || file->processes.back() != row.process) file->processes.push_back(row.process);
    }
    for (auto& [key, service] : services) {
        std::sort(service.files.begin(), service.files.end(), [](const StaleFile& a, const StaleFile& b) { return a.path < b.path; });
        result.services.push_back(std::move(service));
    }
    return result;
}

}  // namespace fdspan
