// A file that appears under its name only when it is complete: whatever goes wrong before, nothing is left.
#pragma once

#include <sys/stat.h>

#include <string>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace fdspan::cli {

// Where a new file is to be: a name in an open directory.
struct Place {
    UniqueFd dir;
    std::string name;
    std::string path;  // for people
    bool replace = false;

    // `path` may be a directory, where the file is then called `default_name`. Without `force` nothing may exist under the name, not even
    // a dangling symbolic link. With it a regular file is replaced, and a symbolic link leads to what is replaced; anything else is refused.
    static Result<Place> find(const std::string& path, const std::string& default_name, bool force);
    // Whether what is to be replaced is this very file.
    [[nodiscard]] bool is_file(const struct stat& file) const;
};

// Owns a file without a name, or with a temporary one where the file system has no O_TMPFILE; one thread.
class NewFile {
public:
    // Mode 0600 until somebody changes it: a copy in the making is for nobody else to read.
    static Result<NewFile> create(const Place& place);
    ~NewFile();
    NewFile(NewFile&& other) noexcept;
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;

    [[nodiscard]] int fd() const { return file_.get(); }
    // To the disk; takes its time. EIO, ENOSPC, EDQUOT may come as late as this.
    [[nodiscard]] Result<void> sync() const;
    // Gives it its name, at once and whole. EEXIST: somebody was faster.
    [[nodiscard]] Result<void> commit();

private:
    explicit NewFile(const Place& place) : place_(&place) {}
    const Place* place_;
    UniqueFd file_;
    std::string temporary_;  // name in place_->dir; empty: none
};

// Renames `from` in the place's directory to the place's name.
[[nodiscard]] Result<void> rename_into(const Place& place, const std::string& from);
// A name that nobody uses yet, most probably: try again when it exists.
[[nodiscard]] std::string temporary_name();

}  // namespace fdspan::cli
