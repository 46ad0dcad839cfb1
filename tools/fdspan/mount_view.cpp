#include "mount_view.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>

namespace fdspan::cli {
namespace {

std::string read_link(const std::string& path) {
    std::string text(PATH_MAX, '\0');
    const ssize_t length = ::readlink(path.c_str(), text.data(), text.size());
    text.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
    return text;
}

}  // namespace

const MountView::Known& MountView::look(pid_t pid) {
    const auto [place, fresh] = known_.try_emplace(pid);
    Known& known = place->second;
    if (!fresh) return known;
    const std::string process = "/proc/" + std::to_string(pid);
    // "mnt:[4026531841]": equal texts, equal namespaces (namespaces(7)).
    const std::string theirs = read_link(process + "/ns/mnt");
    if (ours_.empty()) ours_ = read_link("/proc/self/ns/mnt");
    known.elsewhere = !theirs.empty() && theirs != ours_;
    if (known.elsewhere) known.root = read_link(process + "/root");
    return known;
}

std::string MountView::outside(pid_t pid, std::string_view path) {
    if (path.empty() || path.front() != '/') return {};
    const Known& known = look(pid);
    if (!known.elsewhere) return {};
    // The path counts from the namespace's root; /proc/PID/root from the process's, which may be deeper.
    std::string_view inside = path;
    if (known.root != "/") {
        if (known.root.empty() || !path.starts_with(known.root) || (path.size() > known.root.size() && path[known.root.size()] != '/')) return {};
        inside.remove_prefix(known.root.size());
    }
    return "/proc/" + std::to_string(pid) + "/root" + std::string(inside);
}

}  // namespace fdspan::cli
