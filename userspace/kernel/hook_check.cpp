#include "kernel/hook_check.hpp"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <string>
#include <system_error>
#include <thread>

#include "base/unique_fd.hpp"

namespace fdspan {
namespace {

struct HarmlessCall {
    std::string_view name;
    long number;
    std::array<long, 6> arguments;
};

// Each is refused before it does anything: a descriptor of -1, a null pointer, a flag nobody knows.
// Numbers that the headers of Debian 12 lack are the same on every architecture (asm-generic/unistd.h).
constexpr long bad = -1;
constexpr HarmlessCall harmless_calls[] = {
#ifdef SYS_open
    {"open", SYS_open, {0, 0}},
    {"creat", SYS_creat, {0, 0}},
    {"dup2", SYS_dup2, {bad, bad}},
    {"pipe", SYS_pipe, {0}},
    {"epoll_create", SYS_epoll_create, {bad}},
    {"signalfd", SYS_signalfd, {bad, 0, 0}},
    {"unlink", SYS_unlink, {0}},
    {"rmdir", SYS_rmdir, {0}},
    {"rename", SYS_rename, {0, 0}},
#endif
    {"unlinkat", SYS_unlinkat, {bad, 0, bad}},
    {"mq_unlink", SYS_mq_unlink, {0}},
#ifdef SYS_renameat
    {"renameat", SYS_renameat, {bad, 0, bad, 0}},
#endif
    {"renameat2", SYS_renameat2, {bad, 0, bad, 0, bad}},
    {"openat", SYS_openat, {bad, 0, 0}},
    {"openat2", SYS_openat2, {bad, 0, 0, 0}},
    {"open_by_handle_at", SYS_open_by_handle_at, {bad, 0, 0}},
    {"dup", SYS_dup, {bad}},
    {"dup3", SYS_dup3, {bad, bad, 0}},
    {"fcntl", SYS_fcntl, {bad, 0, 0}},
    {"pipe2", SYS_pipe2, {0, bad}},
    {"socket", SYS_socket, {bad, bad, bad}},
    {"socketpair", SYS_socketpair, {bad, bad, bad, 0}},
    {"accept", SYS_accept, {bad, 0, 0}},
    {"accept4", SYS_accept4, {bad, 0, 0, 0}},
    {"epoll_create1", SYS_epoll_create1, {bad}},
    {"eventfd2", SYS_eventfd2, {0, bad}},
    {"signalfd4", SYS_signalfd4, {bad, 0, 0, 0}},
    {"timerfd_create", SYS_timerfd_create, {bad, bad}},
    {"inotify_init1", SYS_inotify_init1, {bad}},
    {"fanotify_init", SYS_fanotify_init, {bad, bad}},
    {"memfd_create", SYS_memfd_create, {0, bad}},
    {"memfd_secret", 447, {bad}},
    {"pidfd_open", SYS_pidfd_open, {bad, bad}},
    {"pidfd_getfd", SYS_pidfd_getfd, {bad, bad, bad}},
    {"perf_event_open", SYS_perf_event_open, {0, 0, 0, bad, bad}},
    {"bpf", SYS_bpf, {bad, 0, 0}},
    {"userfaultfd", SYS_userfaultfd, {bad}},
    {"io_uring_setup", SYS_io_uring_setup, {0, 0}},
    {"mq_open", SYS_mq_open, {0, 0, 0, 0}},
    {"open_tree", SYS_open_tree, {bad, 0, bad}},
    {"fsopen", SYS_fsopen, {0, bad}},
    {"fsmount", SYS_fsmount, {bad, bad, bad}},
    {"fspick", SYS_fspick, {bad, 0, bad}},
    {"landlock_create_ruleset", 444, {0, 0, bad}},
    {"seccomp", SYS_seccomp, {bad, bad, 0}},
    {"recvmsg", SYS_recvmsg, {bad, 0, 0}},
    {"recvmmsg", SYS_recvmmsg, {bad, 0, 0, 0, 0}},
    {"close", SYS_close, {bad}},
    {"close_range", 436, {1, 0, 0}},
    {"unshare", SYS_unshare, {bad}},
    {"clone3", SYS_clone3, {0, 0}},
    {"execve", SYS_execve, {0, 0, 0}},
    {"execveat", SYS_execveat, {bad, 0, 0, 0, bad}},
    {"open_tree_attr", 467, {bad, 0, bad, 0, 0}},
};

UniqueFd open_root() { return UniqueFd(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }

bool make_install() { return open_root().valid(); }

bool make_dup() {
    const UniqueFd first = open_root();
    return first.valid() && UniqueFd(::fcntl(first.get(), F_DUPFD_CLOEXEC, 0)).valid();
}

bool make_dup3() {
    const UniqueFd first = open_root();
    const UniqueFd second = open_root();
    return first.valid() && second.valid() && ::dup3(first.get(), second.get(), O_CLOEXEC) >= 0;
}

bool make_close() {
    UniqueFd file = open_root();
    return file.valid() && ::close(file.release()) == 0;
}

bool make_close_range() {
    UniqueFd file = open_root();
    if (!file.valid()) return false;
    const int fd = file.release();
    constexpr long close_range_number = 436;
    if (::syscall(close_range_number, fd, fd, 0) == 0) return true;
    ::close(fd);
    return false;
}

// In a thread, which gets a table of its own and takes it along as it ends.
bool make_unshare() {
    bool done = false;
    // No signal of the host's may be handled in it.
    sigset_t all, before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        std::thread([&done] { done = ::unshare(CLONE_FILES) == 0; }).join();
    } catch (const std::system_error&) {
        done = false;  // no thread to be had
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return done;
}

// A message queue: a name that lives in kernel memory only.
bool make_unlink() {
    const std::string name = "fdspan-" + std::to_string(::getpid());
    const UniqueFd queue(static_cast<int>(::syscall(SYS_mq_open, name.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600, 0)));
    return queue.valid() && ::syscall(SYS_mq_unlink, name.c_str()) == 0;
}

const FunctionEvent events[] = {
    {"open(2)", make_install, {"fdspan_at_fd_install"}},
    {"fcntl(F_DUPFD)", make_dup, {"fdspan_at_fd_install"}},
    {"dup3(2)", make_dup3, {"fdspan_at_do_dup2"}},
    {"close(2)", make_close, {"fdspan_at_closing", "fdspan_at_last_put"}},
    {"close_range(2)", make_close_range, {"fdspan_at_closing", "fdspan_at_last_put"}},
    {"unshare(CLONE_FILES)", make_unshare, {"fdspan_at_table_copied", "fdspan_at_table_left"}},
    {"mq_unlink(3)", make_unlink, {"fdspan_at_deleted"}},
};

}  // namespace

std::span<const FunctionEvent> function_events() { return events; }

bool make_syscall_happen(std::string_view name) {
    for (const HarmlessCall& call : harmless_calls) {
        if (call.name != name) continue;
        const auto& a = call.arguments;
        ::syscall(call.number, a[0], a[1], a[2], a[3], a[4], a[5]);
        return true;
    }
    return false;
}

}  // namespace fdspan
