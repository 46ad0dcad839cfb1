// The syscalls that the `syscall` backend looks at: data for the loader and for its check.
#pragma once

#include <array>
#include <optional>
#include <span>

#include "wire.h"

namespace fdspan {

struct TracedSyscall {
    const char* name;
    long number;
    fdspan_call at_entry;
    fdspan_call at_exit;
    // With these it is refused before it does anything; nullopt: there is no harmless way to call it.
    std::optional<std::array<long, 6>> harmless;
};

// Of this architecture. A number that the running kernel does not know does no harm.
[[nodiscard]] std::span<const TracedSyscall> traced_syscalls();

}  // namespace fdspan
