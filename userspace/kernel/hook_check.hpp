// Makes the event of a hook happen once, harmlessly.
#pragma once

#include <initializer_list>
#include <span>
#include <string_view>

namespace fdspan {

// Calls the syscall with arguments that it refuses (or makes a descriptor and closes it again).
// False: there is no harmless way for this one (execve, clone …).
[[nodiscard]] bool make_syscall_happen(std::string_view name);

// Something that the kernel does on one of its paths, and the programs that have to see it. The compiler may inline a hooked
// function into one of its callers and not into another, so that each path is tried.
struct FunctionEvent {
    const char* name;
    bool (*make_happen)();  // false: not possible here
    std::initializer_list<const char*> programs;
};
[[nodiscard]] std::span<const FunctionEvent> function_events();

}  // namespace fdspan
