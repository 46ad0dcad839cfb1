// Makes the event of a hook happen once, harmlessly.
#pragma once

#include <initializer_list>
#include <span>

namespace fdspan {

// Something that the kernel does on one of its paths, and the programs that have to see it. The compiler may inline a hooked
// function into one of its callers and not into another, so that each path is tried.
struct FunctionEvent {
    const char* name;
    bool (*make_happen)();  // false: not possible here
    std::initializer_list<const char*> programs;
};
[[nodiscard]] std::span<const FunctionEvent> function_events();

}  // namespace fdspan
