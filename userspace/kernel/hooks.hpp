// Which programs of a backend hang on which events of the kernel: data for the loader.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <span>

#include "kernel/syscalls.hpp"
#include "kernel/tracking.hpp"
#include "wire.h"

namespace fdspan {

// tp_btf programs: the event, and the number of its arguments where a program fits only one form of it (-1: any).
struct TracepointHook {
    const char* program;
    const char* event;
    int arguments;
    bool required;
};

// Entry of a kernel function: the first of `functions` that this kernel has.
struct FunctionHook {
    const char* program;
    std::initializer_list<const char*> functions;
    bool required;
    bool locked;  // called with a spinlock held: a program there is never preempted
};

struct BackendHooks {
    const void* (*elf_bytes)(std::size_t* size);
    const char* object_name;
    std::uint32_t wire_backend;  // FDSPAN_HOOKS_*
    bool as_kprobes;             // the function hooks; otherwise as fentry
    std::span<const TracedSyscall> syscalls;  // that the tracepoints sys_enter and sys_exit are to look at
    std::span<const TracepointHook> tracepoints;
    std::span<const FunctionHook> functions;
};

[[nodiscard]] const BackendHooks& hooks_of(TrackingBackend backend);

}  // namespace fdspan
