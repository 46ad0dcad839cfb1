#include "kernel/hooks.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "syscall.skel.h"
#include "trampoline.skel.h"

namespace fdspan {
namespace {

const SyscallHooks syscall_hooks[] = {
    {"fdspan_exit_open", false,
     {"open", "openat", "openat2", "creat", "open_by_handle_at", "socket", "accept", "accept4", "epoll_create",
      "epoll_create1", "eventfd", "eventfd2", "timerfd_create", "inotify_init", "inotify_init1", "fanotify_init",
      "memfd_create", "memfd_secret", "pidfd_open", "perf_event_open", "userfaultfd", "io_uring_setup", "mq_open",
      "open_tree", "open_tree_attr", "fsopen", "fsmount", "fspick"}},
    {"fdspan_exit_dup2", false, {"dup2", "dup3"}},
    {"fdspan_exit_other", false, {"dup"}, FDSPAN_CALL_DUP},
    {"fdspan_exit_other", false, {"pidfd_getfd"}, FDSPAN_CALL_PIDFD_GETFD},
    {"fdspan_exit_other", false, {"fcntl"}, FDSPAN_CALL_FCNTL},
    {"fdspan_exit_other", false, {"signalfd", "signalfd4"}, FDSPAN_CALL_SIGNALFD},
    {"fdspan_exit_other", false, {"landlock_create_ruleset"}, FDSPAN_CALL_LANDLOCK},
    {"fdspan_exit_other", false, {"seccomp"}, FDSPAN_CALL_SECCOMP},
    {"fdspan_exit_other", false, {"bpf"}, FDSPAN_CALL_BPF},
    {"fdspan_exit_other", false, {"pipe", "pipe2"}, FDSPAN_CALL_PIPE},
    {"fdspan_exit_other", false, {"socketpair"}, FDSPAN_CALL_SOCKETPAIR},
    {"fdspan_exit_other", false, {"clone"}, FDSPAN_CALL_CLONE},
    {"fdspan_exit_other", false, {"clone3"}, FDSPAN_CALL_CLONE3},
    {"fdspan_exit_other", false, {"recvmsg"}, FDSPAN_CALL_RECVMSG},
    {"fdspan_exit_other", false, {"recvmmsg"}, FDSPAN_CALL_RECVMMSG},
    {"fdspan_enter_close", true, {"close"}},
    {"fdspan_enter_dup2", true, {"dup2", "dup3"}},
    {"fdspan_enter_close_range", true, {"close_range"}},
    {"fdspan_enter_unshare", true, {"unshare"}},
    {"fdspan_exit_unshare", false, {"unshare", "close_range"}},
    {"fdspan_enter_exec", true, {"execve", "execveat"}},
    {"fdspan_exit_unlink", false, {"unlink", "mq_unlink"}},
    {"fdspan_exit_rmdir", false, {"rmdir"}},
    {"fdspan_exit_unlinkat", false, {"unlinkat"}},
    {"fdspan_exit_rename", false, {"rename"}},
    {"fdspan_exit_renameat", false, {"renameat"}},
    {"fdspan_exit_renameat2", false, {"renameat2"}},
};

constexpr TracepointHook syscall_tracepoints[] = {
    {"fdspan_fork", "sched_process_fork", -1, true},
    {"fdspan_exec", "sched_process_exec", -1, true},
    {"fdspan_exit", "sched_process_exit", -1, true},
    {"fdspan_uring_submit", "io_uring_submit_req", -1, false},
    {"fdspan_uring_submit_sqe", "io_uring_submit_sqe", -1, false},
    {"fdspan_uring_complete", "io_uring_complete", 3, false},
    {"fdspan_uring_complete_res", "io_uring_complete", 7, false},
};

// bpf/trampoline.bpf.c says what each of these sees.
const FunctionHook function_hooks[] = {
    {"fdspan_at_fd_install", {"fd_install"}, true, false},
    {"fdspan_at_do_dup2", {"do_dup2"}, true, true},
    {"fdspan_at_closing", {"file_close_fd_locked", "pick_file"}, true, true},
    {"fdspan_at_last_put", {"__fput"}, true, false},
    {"fdspan_at_table_copied", {"dup_fd"}, true, false},
    {"fdspan_at_table_left", {"put_files_struct"}, true, false},
    {"fdspan_at_exec_begin", {"alloc_bprm"}, false, false},
    {"fdspan_at_exec_commit", {"begin_new_exec"}, true, false},
    {"fdspan_at_uring_direct", {"io_fixed_fd_install"}, false, false},
    {"fdspan_at_deleted", {"d_delete"}, true, false},
    {"fdspan_at_moved", {"d_move"}, true, false},
    {"fdspan_at_exchanged", {"d_exchange"}, false, false},
};

const auto function_tracepoints = std::span(syscall_tracepoints).first<3>();

const BackendHooks syscall_backend = {fdspan_syscall_bpf::elf_bytes, "fdspan_syscall", FDSPAN_HOOKS_SYSCALL, false,
                                      syscall_hooks, syscall_tracepoints, {}};
const BackendHooks trampoline_backend = {fdspan_trampoline_bpf::elf_bytes, "fdspan_trampoline", FDSPAN_HOOKS_TRAMPOLINE,
                                         false, {}, function_tracepoints, function_hooks};
const BackendHooks kprobe_backend = {fdspan_trampoline_bpf::elf_bytes, "fdspan_kprobe", FDSPAN_HOOKS_KPROBE, true,
                                     {}, function_tracepoints, function_hooks};

}  // namespace

const BackendHooks& hooks_of(TrackingBackend backend) {
    switch (backend) {
        case TrackingBackend::syscall: return syscall_backend;
        case TrackingBackend::trampoline: return trampoline_backend;
        case TrackingBackend::kprobe: return kprobe_backend;
    }
    return syscall_backend;
}

}  // namespace fdspan
