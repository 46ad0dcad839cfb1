#include "new_file.hpp"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>

#include "text.hpp"

namespace fdspan::cli {
namespace {

constexpr int links_max = 40;  // path_resolution(7)
constexpr int attempts = 16;

std::string_view kind_of(mode_t mode) {
    switch (mode & S_IFMT) {
        case S_IFDIR: return "a directory";
        case S_IFCHR: return "a character device";
        case S_IFBLK: return "a block device";
        case S_IFIFO: return "a FIFO";
        case S_IFSOCK: return "a socket";
        default: return "no regular file";
    }
}

// A name that came from somewhere else and is to be one here.
bool is_plain_name(const std::string& name) {
    return !name.empty() && name != "." && name != ".." && name.size() <= NAME_MAX && name.find('/') == std::string::npos && escape(name) == name &&
           name.front() != '-';
}

std::string read_link(int dir, const std::string& name) {
    std::string target(PATH_MAX, '\0');
    const ssize_t length = ::readlinkat(dir, name.c_str(), target.data(), target.size());
    target.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
    return target;
}

}  // namespace

Result<Place> Place::find(const std::string& path, const std::string& default_name, bool force) {
    if (path.empty()) return fail(EINVAL, "the destination is empty");
    Place place;
    place.path = path;
    struct stat stat{};
    const bool is_dir = ::stat(path.c_str(), &stat) == 0 && S_ISDIR(stat.st_mode);
    if (is_dir || path.ends_with('/')) {
        if (!is_dir) return fail(ENOENT, escape(path) + ": there is no such directory");
        if (!is_plain_name(default_name)) {
            return fail(EISDIR, escape(path) + " is a directory, and \"" + escape(default_name) + "\" is no name to be used without a look: say how the copy is to be called");
        }
        place.path = path + (path.ends_with('/') ? "" : "/") + default_name;
    }
    for (int links = 0;; ++links) {
        const std::size_t slash = place.path.rfind('/');
        const std::string dir = slash == std::string::npos ? "." : slash == 0 ? "/" : place.path.substr(0, slash);
        place.name = slash == std::string::npos ? place.path : place.path.substr(slash + 1);
        place.dir.reset(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!place.dir.valid() && errno == EACCES) place.dir.reset(::open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (!place.dir.valid()) return fail_errno(errno, "open the directory " + escape(dir));
        if (::fstatat(place.dir.get(), place.name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) != 0) {
            if (errno != ENOENT) return fail_errno(errno, "look at " + escape(place.path));
            return place;
        }
        const bool link = S_ISLNK(stat.st_mode);
        if (!force) {
            return fail(EEXIST, escape(place.path) + (link ? " is a symbolic link, which is not followed; --force replaces what it leads to"
                                                           : " exists; --force replaces it"));
        }
        if (S_ISREG(stat.st_mode)) {
            place.replace = true;
            return place;
        }
        if (!link) return fail(EEXIST, escape(place.path) + " is " + std::string(kind_of(stat.st_mode)) + ", which is not replaced");
        if (links == links_max) return fail(ELOOP, escape(path) + ": too many symbolic links");
        const std::string target = read_link(place.dir.get(), place.name);
        if (target.empty() || target.ends_with('/')) return fail(EISDIR, escape(place.path) + " leads to no file");
        place.path = target.front() == '/' ? target : dir + '/' + target;
    }
}

bool Place::is_file(const struct stat& file) const {
    struct stat there{};
    return ::fstatat(dir.get(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 && there.st_ino == file.st_ino && there.st_dev == file.st_dev;
}

std::string temporary_name() {
    std::uint64_t number = 0;
    // Never short for so few bytes, once the kernel's pool is ready (getrandom(2)).
    if (::getrandom(&number, sizeof number, 0) != sizeof number) number = static_cast<std::uint64_t>(::getpid());
    std::array<char, 48> name{};
    std::snprintf(name.data(), name.size(), ".fdspan-%016llx", static_cast<unsigned long long>(number));
    return name.data();
}

Result<void> rename_into(const Place& place, const std::string& from) {
    const int dir = place.dir.get();
    if (place.replace) {
        if (::renameat(dir, from.c_str(), dir, place.name.c_str()) != 0) return fail_errno(errno, "rename the copy to " + escape(place.path));
        return {};
    }
    if (::renameat2(dir, from.c_str(), dir, place.name.c_str(), RENAME_NOREPLACE) == 0) return {};
    if (errno == EINVAL || errno == ENOSYS) {  // not every file system knows how not to replace
        if (::linkat(dir, from.c_str(), dir, place.name.c_str(), 0) == 0) {
            ::unlinkat(dir, from.c_str(), 0);
            return {};
        }
    }
    if (errno == EEXIST) return fail(EEXIST, escape(place.path) + " exists by now; --force replaces it");
    return fail_errno(errno, "rename the copy to " + escape(place.path));
}

Result<NewFile> NewFile::create(const Place& place) {
    NewFile file(place);
    file.file_.reset(::openat(place.dir.get(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (file.file_.valid()) return file;
    // EOPNOTSUPP; EISDIR where the kernel does not know it, ENOENT and EINVAL from some file systems.
    for (int attempt = 0; attempt < attempts && !file.file_.valid() && errno != ENOSPC && errno != EACCES && errno != EROFS; ++attempt) {
        const std::string name = temporary_name();
        file.file_.reset(::openat(place.dir.get(), name.c_str(), O_CREAT | O_EXCL | O_NOFOLLOW | O_RDWR | O_CLOEXEC, 0600));
        if (file.file_.valid()) file.temporary_ = name;
        else if (errno != EEXIST) break;
    }
    if (!file.file_.valid()) return fail_errno(errno, "make a file in the directory of " + escape(place.path));
    return file;
}

NewFile::NewFile(NewFile&& other) noexcept
    : place_(other.place_), file_(std::move(other.file_)), temporary_(std::exchange(other.temporary_, {})) {}

NewFile::~NewFile() {
    if (!temporary_.empty()) ::unlinkat(place_->dir.get(), temporary_.c_str(), 0);
}

Result<void> NewFile::sync() const {
    if (::fsync(file_.get()) != 0) return fail_errno(errno, "write the copy to the disk");
    return {};
}

Result<void> NewFile::commit() {
    const int dir = place_->dir.get();
    if (temporary_.empty()) {
        const std::string own = "/proc/self/fd/" + std::to_string(file_.get());
        const auto link_as = [&](const std::string& name) { return ::linkat(AT_FDCWD, own.c_str(), dir, name.c_str(), AT_SYMLINK_FOLLOW) == 0; };
        if (!place_->replace) {
            if (!link_as(place_->name)) {
                if (errno == EEXIST) return fail(EEXIST, escape(place_->path) + " exists by now; --force replaces it");
                return fail_errno(errno, "name the copy " + escape(place_->path));
            }
        } else {
            for (int attempt = 0; temporary_.empty(); ++attempt) {
                const std::string name = temporary_name();
                if (link_as(name)) temporary_ = name;
                else if (errno != EEXIST || attempt == attempts) return fail_errno(errno, "name the copy");
            }
        }
    }
    if (!temporary_.empty()) {
        if (auto renamed = rename_into(*place_, temporary_); !renamed) return renamed;
        temporary_.clear();
    }
    // The name to the disk as well. A directory that may not be read can't be synced: the name is there all the same.
    if (::fsync(dir) != 0 && errno != EBADF && errno != EINVAL) return fail_errno(errno, "write the directory of " + escape(place_->path) + " to the disk");
    return {};
}

}  // namespace fdspan::cli
