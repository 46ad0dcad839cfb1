// Filters that `ls` and `watch` share: which references and processes somebody asked for.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/reference.hpp"
#include "base/result.hpp"

namespace fdspan::cli {

// One PATH argument: a file by identity and by name, a directory with everything below it, or the former name of a deleted file.
class PathFilter {
public:
    // Never opens the file and never asks a file system that may be hung for anything it has not cached.
    static Result<PathFilter> create(const std::string& argument);

    // `path` is without the kernel's " (deleted)" mark.
    [[nodiscard]] bool matches(const Reference& reference, std::string_view path) const;
    [[nodiscard]] bool exists() const { return exists_; }
    // What matches is at or below one of these; none for a file, which is found by its identity under any name.
    [[nodiscard]] std::vector<std::string> tops() const;
    [[nodiscard]] const std::string& argument() const { return argument_; }

private:
    std::string argument_;
    std::string resolved_;   // symbolic links resolved as far as the path exists
    std::string literal_;    // absolute, but links kept: a name that led elsewhere when it was opened
    bool exists_ = false;
    bool directory_ = false;
    DeviceNumber device_;
    std::uint64_t inode_ = 0;
};

// --type: REG, DIR, …, a class of anonymous inodes ("eventpoll"), or "anon:CLASS" for one this program has not heard of.
class TypeFilter {
public:
    [[nodiscard]] Result<void> add(std::string_view text);
    [[nodiscard]] bool empty() const { return types_.empty() && classes_.empty(); }
    [[nodiscard]] bool matches(FileType type, std::string_view type_name) const;

private:
    std::vector<FileType> types_;
    std::vector<std::string> classes_;
};

// -p, -c, -u: decided by the process alone.
struct ProcessFilter {
    std::vector<pid_t> pids;
    std::vector<std::string> comms;  // shell patterns
    std::vector<uid_t> uids;

    [[nodiscard]] Result<void> add_user(const std::string& text);
    [[nodiscard]] bool matches(const Process& process, std::string_view comm) const;
    [[nodiscard]] bool empty() const { return pids.empty() && comms.empty() && uids.empty(); }
};

[[nodiscard]] std::optional<RefKind> parse_ref_kind(std::string_view text);

}  // namespace fdspan::cli
