// How a path that a process sees is reached from here.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <string_view>

namespace fdspan::cli {

// Remembers what it asked /proc about each process; one snapshot long.
class MountView {
public:
    // Of a path as a snapshot shows it: "/proc/PID/root/…" for a container's; "" in our own mount namespace, where the path is the way, and
    // where there is none (no path, a file outside of the process's root, a process that may not be read).
    [[nodiscard]] std::string outside(pid_t pid, std::string_view path);
    // Whether a path of this process may be one of another mount namespace.
    [[nodiscard]] bool is_elsewhere(pid_t pid) { return look(pid).elsewhere; }

private:
    struct Known {
        bool elsewhere = false;
        std::string root;  // as we see it
    };
    const Known& look(pid_t pid);
    std::string ours_;
    std::map<pid_t, Known> known_;
};

}  // namespace fdspan::cli
