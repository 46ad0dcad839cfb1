#include "kernel/syscalls.hpp"

#include <sys/syscall.h>

namespace fdspan {
namespace {

using Arguments = std::array<long, 6>;

// What refuses a call: a descriptor of -1, a null pointer, a flag nobody knows.
constexpr long bad = -1;

// Numbers that the headers of Debian 12 lack are the same on every architecture (asm-generic/unistd.h).
constexpr TracedSyscall syscalls[] = {
#ifdef SYS_open
    {"open", SYS_open, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{0, 0}},
    {"creat", SYS_creat, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{0, 0}},
    {"epoll_create", SYS_epoll_create, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad}},
    {"eventfd", SYS_eventfd, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, std::nullopt},
    {"inotify_init", SYS_inotify_init, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, std::nullopt},
    {"dup2", SYS_dup2, FDSPAN_CALL_DUP2, FDSPAN_CALL_DUP2, Arguments{bad, bad}},
    {"signalfd", SYS_signalfd, FDSPAN_CALL_NONE, FDSPAN_CALL_SIGNALFD, Arguments{bad, 0, 0}},
    {"pipe", SYS_pipe, FDSPAN_CALL_NONE, FDSPAN_CALL_PIPE, Arguments{0}},
    {"unlink", SYS_unlink, FDSPAN_CALL_UNLINK, FDSPAN_CALL_UNLINK, Arguments{0}},
    {"rmdir", SYS_rmdir, FDSPAN_CALL_UNLINK, FDSPAN_CALL_RMDIR, Arguments{0}},
    {"rename", SYS_rename, FDSPAN_CALL_UNLINK, FDSPAN_CALL_RENAME, Arguments{0, 0}},
#endif
#ifdef SYS_renameat
    {"renameat", SYS_renameat, FDSPAN_CALL_UNLINK, FDSPAN_CALL_RENAMEAT, Arguments{bad, 0, bad, 0}},
#endif
    {"openat", SYS_openat, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, 0, 0}},
    {"openat2", SYS_openat2, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, 0, 0, 0}},
    {"open_by_handle_at", SYS_open_by_handle_at, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, 0, 0}},
    {"socket", SYS_socket, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, bad, bad}},
    {"accept", SYS_accept, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, 0, 0}},
    {"accept4", SYS_accept4, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, 0, 0, 0}},
    {"epoll_create1", SYS_epoll_create1, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad}},
    {"eventfd2", SYS_eventfd2, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{0, bad}},
    {"timerfd_create", SYS_timerfd_create, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, bad}},
    {"inotify_init1", SYS_inotify_init1, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad}},
    {"fanotify_init", SYS_fanotify_init, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, bad}},
    {"memfd_create", SYS_memfd_create, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{0, bad}},
    {"memfd_secret", 447, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad}},
    {"pidfd_open", SYS_pidfd_open, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, bad}},
    {"perf_event_open", SYS_perf_event_open, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{0, 0, 0, bad, bad}},
    {"userfaultfd", SYS_userfaultfd, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad}},
    {"io_uring_setup", SYS_io_uring_setup, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{0, 0}},
    {"mq_open", SYS_mq_open, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{0, 0, 0, 0}},
    {"open_tree", SYS_open_tree, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, 0, bad}},
    {"open_tree_attr", 467, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, 0, bad, 0, 0}},
    {"fsopen", SYS_fsopen, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{0, bad}},
    {"fsmount", SYS_fsmount, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, bad, bad}},
    {"fspick", SYS_fspick, FDSPAN_CALL_NONE, FDSPAN_CALL_OPEN, Arguments{bad, 0, bad}},
    {"dup3", SYS_dup3, FDSPAN_CALL_DUP2, FDSPAN_CALL_DUP2, Arguments{bad, bad, 0}},
    {"dup", SYS_dup, FDSPAN_CALL_NONE, FDSPAN_CALL_DUP, Arguments{bad}},
    {"pidfd_getfd", SYS_pidfd_getfd, FDSPAN_CALL_NONE, FDSPAN_CALL_PIDFD_GETFD, Arguments{bad, bad, bad}},
    {"fcntl", SYS_fcntl, FDSPAN_CALL_NONE, FDSPAN_CALL_FCNTL, Arguments{bad, 0, 0}},
    {"signalfd4", SYS_signalfd4, FDSPAN_CALL_NONE, FDSPAN_CALL_SIGNALFD, Arguments{bad, 0, 0, 0}},
    {"landlock_create_ruleset", 444, FDSPAN_CALL_NONE, FDSPAN_CALL_LANDLOCK, Arguments{0, 0, bad}},
    {"seccomp", SYS_seccomp, FDSPAN_CALL_NONE, FDSPAN_CALL_SECCOMP, Arguments{bad, bad, 0}},
    {"bpf", SYS_bpf, FDSPAN_CALL_NONE, FDSPAN_CALL_BPF, Arguments{bad, 0, 0}},
    {"pipe2", SYS_pipe2, FDSPAN_CALL_NONE, FDSPAN_CALL_PIPE, Arguments{0, bad}},
    {"socketpair", SYS_socketpair, FDSPAN_CALL_NONE, FDSPAN_CALL_SOCKETPAIR, Arguments{bad, bad, bad, 0}},
    {"clone", SYS_clone, FDSPAN_CALL_NONE, FDSPAN_CALL_CLONE, std::nullopt},
    {"clone3", SYS_clone3, FDSPAN_CALL_NONE, FDSPAN_CALL_CLONE3, Arguments{0, 0}},
    {"recvmsg", SYS_recvmsg, FDSPAN_CALL_NONE, FDSPAN_CALL_RECVMSG, Arguments{bad, 0, 0}},
    {"recvmmsg", SYS_recvmmsg, FDSPAN_CALL_NONE, FDSPAN_CALL_RECVMMSG, Arguments{bad, 0, 0, 0, 0}},
    {"close", SYS_close, FDSPAN_CALL_CLOSE, FDSPAN_CALL_NONE, Arguments{bad}},
    {"close_range", 436, FDSPAN_CALL_CLOSE_RANGE, FDSPAN_CALL_UNSHARE, Arguments{1, 0, 0}},
    {"unshare", SYS_unshare, FDSPAN_CALL_UNSHARE, FDSPAN_CALL_UNSHARE, Arguments{bad}},
    {"execve", SYS_execve, FDSPAN_CALL_EXEC, FDSPAN_CALL_NONE, Arguments{0, 0, 0}},
    {"execveat", SYS_execveat, FDSPAN_CALL_EXEC, FDSPAN_CALL_NONE, Arguments{bad, 0, 0, 0, bad}},
    {"mq_unlink", SYS_mq_unlink, FDSPAN_CALL_UNLINK, FDSPAN_CALL_UNLINK, Arguments{0}},
    {"unlinkat", SYS_unlinkat, FDSPAN_CALL_UNLINK, FDSPAN_CALL_UNLINKAT, Arguments{bad, 0, bad}},
    {"renameat2", SYS_renameat2, FDSPAN_CALL_UNLINK, FDSPAN_CALL_RENAMEAT2, Arguments{bad, 0, bad, 0, bad}},
};

}  // namespace

std::span<const TracedSyscall> traced_syscalls() { return syscalls; }

}  // namespace fdspan
