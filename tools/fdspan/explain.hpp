// Commands that a person may run instead of, or after, fdspan: printed, never run.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fdspan::cli {

// One word of a shell, on one line and harmless on a terminal: as it is, in single quotes, or, where it has control characters or
// invalid UTF-8, as $'…' (bash, zsh, ksh).
[[nodiscard]] std::string shell_quote(std::string_view word);

// Through what a file is held, for explain_held().
struct ExplainedHolder {
    std::string link;         // "/proc/812/fd/7", "/dev/loop0"
    std::string what;         // "process 812 (nginx), descriptor 7"
    int pid = 0;              // 0: a loop device
    bool descriptor = false;  // a file can be cut through it; what is mapped or run must not be
};

// Lines of shell: how to copy the file to `dest`, how to get its space back.
void explain_held(std::string& out, std::string_view path, bool deleted, std::uint64_t allocated, const ExplainedHolder& holder, std::string_view dest);

}  // namespace fdspan::cli
