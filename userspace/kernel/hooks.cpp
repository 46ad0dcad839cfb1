#include "kernel/hooks.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "kernel/syscalls.hpp"
#include "syscall.skel.h"
#include "trampoline.skel.h"

namespace fdspan {
namespace {

constexpr TracepointHook syscall_tracepoints[] = {
    {"fdspan_sys_enter", "sys_enter", -1, true},
    {"fdspan_sys_exit", "sys_exit", -1, true},
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

const auto function_tracepoints = std::span(syscall_tracepoints).subspan<2, 3>();

const BackendHooks syscall_backend = {fdspan_syscall_bpf::elf_bytes, "fdspan_syscall", FDSPAN_HOOKS_SYSCALL, false,
                                      traced_syscalls(), syscall_tracepoints, {}};
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
