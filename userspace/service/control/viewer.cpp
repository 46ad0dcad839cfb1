#include "service/control/viewer.hpp"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/unique_fd.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan::service {
namespace {

struct Credentials {
    std::array<std::uint64_t, 4> uids{}, gids{};  // real, effective, saved, file system
    std::uint64_t permitted = ~std::uint64_t{0}, effective = 0;
};

std::optional<std::uint64_t> number_at(std::string_view& text, int base) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc()) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

// Nothing when a line lacks or can't be read.
std::optional<Credentials> read_credentials(pid_t pid) {
    const UniqueFd file(::open(("/proc/" + std::to_string(pid) + "/status").c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return std::nullopt;
    std::array<char, 8192> text{};
    const ssize_t length = ::read(file.get(), text.data(), text.size());
    if (length <= 0) return std::nullopt;
    std::string_view rest(text.data(), static_cast<std::size_t>(length));
    Credentials found;
    unsigned seen = 0;
    while (!rest.empty()) {
        std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        const auto take = [&line, &seen](std::string_view name, unsigned bit, auto& numbers, int base) {
            if (!line.starts_with(name)) return true;
            line.remove_prefix(name.size());
            for (auto& number : numbers) {
                const auto value = number_at(line, base);
                if (!value) return false;
                number = *value;
            }
            seen |= bit;
            return true;
        };
        std::array<std::uint64_t, 1> permitted{found.permitted}, effective{found.effective};
        if (!take("Uid:", 1, found.uids, 10) || !take("Gid:", 2, found.gids, 10) || !take("CapPrm:", 4, permitted, 16) ||
            !take("CapEff:", 8, effective, 16)) {
            return std::nullopt;
        }
        found.permitted = permitted[0];
        found.effective = effective[0];
    }
    return seen == 15 ? std::optional(found) : std::nullopt;
}

std::string namespace_of(const std::string& process, const char* name) {
    std::array<char, 128> text{};
    const ssize_t length = ::readlink(("/proc/" + process + "/ns/" + name).c_str(), text.data(), text.size());
    return length > 0 ? std::string(text.data(), static_cast<std::size_t>(length)) : std::string();
}

// A pid that was given out again belongs to a process that began later.
bool is_process(pid_t pid, const Interval& started) {
    static const std::uint64_t tick_ns = 1'000'000'000 / static_cast<std::uint64_t>(std::max(1L, ::sysconf(_SC_CLK_TCK)));
    const UniqueFd file(::open(("/proc/" + std::to_string(pid) + "/stat").c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 4096> text{};
    const ssize_t length = file.valid() ? ::read(file.get(), text.data(), text.size()) : 0;
    if (length <= 0) return false;
    const auto stat = procfs::parse_stat({text.data(), static_cast<std::size_t>(length)});
    if (!stat) return false;
    const std::uint64_t earliest_ns = stat->start_ticks * tick_ns;
    return earliest_ns <= started.latest_ns && started.earliest_ns <= earliest_ns + tick_ns;
}

}  // namespace

Viewer Viewer::of_peer(int socket) {
    Viewer viewer;
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid <= 0) return viewer;
    viewer.uid_ = peer.uid;
    viewer.gid_ = peer.gid;
    // Pids mean something else in another pid namespace, uids and capabilities in another user namespace.
    const std::string pid = std::to_string(peer.pid);
    viewer.user_namespace_ = namespace_of("self", "user");
    for (const char* const name : {"pid", "user"}) {
        const std::string own = namespace_of("self", name);
        if (own.empty() || own != namespace_of(pid, name)) return viewer;
    }
    viewer.sees_none_ = false;
    // The credentials are of the moment of connect(2), so a process that took over the pid since gains nothing without them.
    const auto now = read_credentials(peer.pid);
    viewer.sees_all_ = peer.uid == 0 && now && (now->effective & (std::uint64_t{1} << CAP_SYS_PTRACE)) != 0;
    return viewer;
}

bool Viewer::sees(pid_t pid, const Interval& started) const {
    if (sees_all_) return true;
    // What it may see was asked by pid only: of this process if that had the pid before and after.
    return is_process(pid, started) && sees_present(pid) && is_process(pid, started);
}

bool Viewer::sees_present(pid_t pid) const {
    if (sees_all_) return true;
    if (sees_none_) return false;
    const auto target = read_credentials(pid);
    if (!target) return false;
    for (int which = 0; which < 3; ++which) {
        if (target->uids[which] != uid_ || target->gids[which] != gid_) return false;
    }
    // More capable than the caller can be known to be.
    if (target->permitted != 0) return false;
    // A process that is not dumpable (it ran a set-uid program, or asked for it) has its files in /proc owned by root.
    struct stat status {};
    if (::stat(("/proc/" + std::to_string(pid) + "/fd").c_str(), &status) != 0 || status.st_uid != uid_) return false;
    return namespace_of(std::to_string(pid), "user") == user_namespace_;
}

}  // namespace fdspan::service
