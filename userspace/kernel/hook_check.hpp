// Makes the event of a syscall hook happen once, harmlessly.
#pragma once

#include <string_view>

namespace fdspan {

// Calls the syscall with arguments that it refuses (or makes a descriptor and closes it again).
// False: there is no harmless way for this one (execve, clone …).
[[nodiscard]] bool make_syscall_happen(std::string_view name);

}  // namespace fdspan
