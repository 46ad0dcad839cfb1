#include "api/scope.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <set>

#include "base/unique_fd.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan {
namespace {

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

Result<std::string> read_small(const std::string& path) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return fail_errno(errno, "open " + path);
    std::string text;
    std::array<char, 4096> part{};
    while (true) {
        const ssize_t bytes = ::read(file.get(), part.data(), part.size());
        if (bytes < 0) return fail_errno(errno, "read " + path);
        if (bytes == 0) return text;
        text.append(part.data(), static_cast<std::size_t>(bytes));
    }
}

bool is_gone(const Error& error) { return error.code == ENOENT || error.code == ESRCH || error.code == ENODEV; }

template <class Number>
bool parse(std::string_view text, Number& number) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

Result<std::vector<ProcessLink>> read_process_links() {
    const Directory proc(::opendir("/proc"), ::closedir);
    if (!proc) return fail_errno(errno, "open /proc");
    std::vector<ProcessLink> links;
    while (const dirent* const entry = ::readdir(proc.get())) {
        ProcessLink link;
        if (!parse(std::string_view(entry->d_name), link.pid)) continue;
        auto text = read_small("/proc/" + std::to_string(link.pid) + "/stat");
        if (!text && is_gone(text.error())) continue;
        if (!text) return tl::unexpected(text.error());
        const auto stat = procfs::parse_stat(*text);
        if (!stat) continue;  // it ended while it was read
        link.parent = stat->ppid;
        link.started_ticks = stat->start_ticks;
        links.push_back(link);
    }
    return links;
}

std::vector<pid_t> descendants(const std::vector<ProcessLink>& links, const std::vector<pid_t>& roots) {
    std::multimap<pid_t, pid_t> children;
    for (const ProcessLink& link : links) children.emplace(link.parent, link.pid);
    std::set<pid_t> known(roots.begin(), roots.end());
    std::vector<pid_t> found, left = roots;
    while (!left.empty()) {
        const pid_t parent = left.back();
        left.pop_back();
        const auto [begin, end] = children.equal_range(parent);
        for (auto child = begin; child != end; ++child) {
            if (!known.insert(child->second).second) continue;
            found.push_back(child->second);
            left.push_back(child->second);
        }
    }
    return found;
}

Result<std::uint64_t> cgroup_id(const std::string& directory) {
    struct statfs system {};
    struct stat file {};
    if (::statfs(directory.c_str(), &system) != 0 || ::stat(directory.c_str(), &file) != 0) {
        return fail_errno(errno, "look at the cgroup " + directory);
    }
    if (static_cast<std::uint64_t>(system.f_type) != CGROUP2_SUPER_MAGIC || !S_ISDIR(file.st_mode)) {
        return fail(EINVAL, directory + " is not a cgroup of the v2 hierarchy");
    }
    // kernfs numbers its inodes by the id that bpf_get_current_cgroup_id(7) gives (fs/kernfs/dir.c, kernfs_id on 64-bit).
    return static_cast<std::uint64_t>(file.st_ino);
}

Result<void> append_cgroup_processes(const std::string& directory, std::vector<pid_t>& pids) {
    auto text = read_small(directory + "/cgroup.procs");
    if (!text) {
        // EOPNOTSUPP: a threaded cgroup lists its processes at its root only.
        if (is_gone(text.error()) || text.error().code == EOPNOTSUPP) return {};
        return tl::unexpected(text.error());
    }
    for (std::string_view rest(*text); !rest.empty();) {
        const std::size_t end = std::min(rest.find('\n'), rest.size());
        pid_t pid = 0;
        // 0: a process of another pid namespace.
        if (parse(rest.substr(0, end), pid) && pid > 0) pids.push_back(pid);
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    const Directory listing(::opendir(directory.c_str()), ::closedir);
    if (!listing) return errno == ENOENT ? Result<void>{} : fail_errno(errno, "list " + directory);
    while (const dirent* const entry = ::readdir(listing.get())) {
        if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
        if (auto done = append_cgroup_processes(directory + "/" + entry->d_name, pids); !done) return done;
    }
    return {};
}

Result<std::vector<pid_t>> PolledScope::members(const TrackerScope& scope) {
    std::set<pid_t> out;
    if (!scope.pids.empty() || !scope.trees.empty()) {
        auto links = read_process_links();
        if (!links) return tl::unexpected(links.error());
        std::map<pid_t, std::uint64_t> alive;
        for (const ProcessLink& link : *links) alive.emplace(link.pid, link.started_ticks);
        if (!begun_) {
            for (const auto& [list, followed] : {std::pair{&scope.pids, &followed_}, {&scope.trees, &in_trees_}}) {
                for (const pid_t pid : *list) {
                    if (const auto found = alive.find(pid); found != alive.end()) followed->insert(*found);
                }
            }
            begun_ = true;
        }
        for (auto* const followed : {&followed_, &in_trees_}) {
            std::erase_if(*followed, [&](const auto& process) {
                const auto found = alive.find(process.first);
                return found == alive.end() || found->second != process.second;
            });
        }
        std::vector<pid_t> roots;
        for (const auto& [pid, started] : in_trees_) roots.push_back(pid);
        for (const pid_t pid : descendants(*links, roots)) in_trees_.emplace(pid, alive[pid]);
        for (const auto* const followed : {&followed_, &in_trees_}) {
            for (const auto& [pid, started] : *followed) out.insert(pid);
        }
    }
    std::vector<pid_t> in_cgroups;
    for (const std::string& directory : scope.cgroups) {
        if (auto done = append_cgroup_processes(directory, in_cgroups); !done) return tl::unexpected(done.error());
    }
    out.insert(in_cgroups.begin(), in_cgroups.end());
    return std::vector<pid_t>(out.begin(), out.end());
}

}  // namespace fdspan
