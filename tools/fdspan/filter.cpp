#include "filter.hpp"

#include <fcntl.h>
#include <fnmatch.h>
#include <pwd.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <memory>

#include "text.hpp"

namespace fdspan::cli {
namespace {

// Classes of anonymous inodes in kernels up to 6.18 (callers of anon_inode_getfile and its kin), brackets taken off.
constexpr std::string_view anon_classes[] = {
    "bpf-map", "bpf-prog", "bpf_iter", "bpf_link", "bpf-token", "btf", "cachefiles", "dma-buf", "dma_fence", "dmabuf",
    "eventfd", "eventpoll", "fanotify", "fscontext", "fsmount", "gpio-event", "gpio-line", "inotify", "io_uring", "iommufd",
    "kvm-vcpu", "kvm-vm", "landlock-ruleset", "mount", "opath", "perf_event", "pidfd", "rtc", "seccomp", "secretmem", "signalfd",
    "sync_file", "timerfd", "uffd", "userfaultfd", "vfio-device", "zonefs",
};

std::string strip_brackets(std::string_view name) {
    if (name.starts_with('[') && name.ends_with(']')) name = name.substr(1, name.size() - 2);
    return std::string(name);
}

bool same_text(std::string_view left, std::string_view right) {
    return left.size() == right.size() && ::strncasecmp(left.data(), right.data(), left.size()) == 0;
}

bool is_at_or_below(std::string_view path, std::string_view top) {
    if (!path.starts_with('/')) return false;  // pipe:[1], socket:[2]
    if (top == "/") return true;
    return path.starts_with(top) && (path.size() == top.size() || path[top.size()] == '/');
}

// Absolute, without "//", "." and "..", links untouched.
Result<std::string> make_absolute(const std::string& path) {
    std::string whole = path;
    if (!path.starts_with('/')) {
        std::unique_ptr<char, void (*)(void*)> cwd(::getcwd(nullptr, 0), ::free);
        if (!cwd) return fail_errno(errno, "find the working directory");
        whole = std::string(cwd.get()) + "/" + path;
    }
    std::string clean;
    for (std::size_t at = 0; at < whole.size();) {
        const std::size_t slash = std::min(whole.find('/', at), whole.size());
        const std::string_view part = std::string_view(whole).substr(at, slash - at);
        at = slash + 1;
        if (part.empty() || part == ".") continue;
        if (part == "..") {
            clean.erase(clean.empty() ? 0 : clean.rfind('/'));
            continue;
        }
        clean += '/';
        clean += part;
    }
    return clean.empty() ? std::string("/") : clean;
}

// Links resolved in the longest leading part that exists; the rest is appended as it stands.
std::string resolve(const std::string& absolute) {
    std::string head = absolute;
    std::string tail;
    while (true) {
        std::unique_ptr<char, void (*)(void*)> real(::realpath(head.c_str(), nullptr), ::free);
        if (real) {
            const std::string found(real.get());
            return found == "/" ? (tail.empty() ? found : tail) : found + tail;
        }
        const std::size_t slash = head.rfind('/');
        if (slash == 0 || slash == std::string::npos) return absolute;
        tail = head.substr(slash) + tail;
        head.erase(slash);
    }
}

}  // namespace

Result<PathFilter> PathFilter::create(const std::string& argument) {
    if (argument.empty()) return fail(EINVAL, "PATH is empty");
    PathFilter filter;
    filter.argument_ = argument;
    Result<std::string> absolute = make_absolute(argument);
    if (!absolute) return tl::unexpected(absolute.error());
    // ".." behind a link is resolved by the kernel, not by text.
    filter.literal_ = *absolute;
    filter.resolved_ = resolve(argument.starts_with('/') ? argument : *absolute);
    if (const Result<std::string> clean = make_absolute(filter.resolved_)) filter.resolved_ = *clean;
    struct statx found {};
    if (::statx(AT_FDCWD, argument.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_INO | STATX_TYPE, &found) == 0) {
        filter.exists_ = true;
        filter.directory_ = S_ISDIR(found.stx_mode);
        filter.device_ = {found.stx_dev_major, found.stx_dev_minor};
        filter.inode_ = found.stx_ino;
    }
    return filter;
}

std::vector<std::string> PathFilter::tops() const {
    if (exists_ && !directory_) return {};
    if (resolved_ == literal_) return {literal_};
    return {resolved_, literal_};
}

bool PathFilter::matches(const Reference& reference, std::string_view path) const {
    if (exists_ && (reference.valid & field_stat) != 0 && reference.ino == inode_ && reference.dev == device_) return true;
    return is_at_or_below(path, resolved_) || is_at_or_below(path, literal_);
}

Result<void> TypeFilter::add(std::string_view text) {
    for (const FileType type : {FileType::reg, FileType::dir, FileType::chr, FileType::blk, FileType::fifo, FileType::sock,
                                FileType::lnk, FileType::anon, FileType::unknown}) {
        if (same_text(text, to_string(type))) {
            types_.push_back(type);
            return {};
        }
    }
    if (text.starts_with("anon:") && text.size() > 5) {
        classes_.push_back(strip_brackets(text.substr(5)));
        return {};
    }
    const std::string name = strip_brackets(text);
    if (std::find(std::begin(anon_classes), std::end(anon_classes), name) != std::end(anon_classes)) {
        classes_.push_back(name);
        return {};
    }
    return fail(EINVAL, "there is no type \"" + escape(text) +
                            "\"; expected REG, DIR, CHR, BLK, FIFO, SOCK, LNK, ANON, a class such as eventpoll, or anon:CLASS");
}

bool TypeFilter::matches(FileType type, std::string_view type_name) const {
    if (empty()) return true;
    if (std::find(types_.begin(), types_.end(), type) != types_.end()) return true;
    if (type != FileType::anon) return false;
    return std::find(classes_.begin(), classes_.end(), strip_brackets(type_name)) != classes_.end();
}

Result<void> ProcessFilter::add_user(const std::string& text) {
    if (const passwd* const known = ::getpwnam(text.c_str()); known != nullptr && !text.empty()) {
        uids.push_back(known->pw_uid);
        return {};
    }
    uid_t uid = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), uid);
    // (uid_t)-1 is no user: setuid(2) and friends take it for "leave as it is".
    if (error != std::errc() || end != text.data() + text.size() || uid == static_cast<uid_t>(-1)) {
        return fail(EINVAL, "there is no user \"" + escape(text) + "\"");
    }
    uids.push_back(uid);
    return {};
}

bool ProcessFilter::matches(const Process& process, std::string_view comm) const {
    if (!pids.empty() && std::find(pids.begin(), pids.end(), process.pid) == pids.end()) return false;
    if (!uids.empty() && std::find(uids.begin(), uids.end(), process.uid) == uids.end()) return false;
    if (comms.empty()) return true;
    constexpr std::size_t comm_bytes = 15;  // TASK_COMM_LEN without its NUL: the kernel cuts longer names there
    const std::string name(comm);
    return std::any_of(comms.begin(), comms.end(), [&](const std::string& pattern) {
        return ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0 ||
               (pattern.size() > comm_bytes && name == std::string_view(pattern).substr(0, comm_bytes));
    });
}

std::optional<RefKind> parse_ref_kind(std::string_view text) {
    for (const RefKind kind : {RefKind::fd, RefKind::mem, RefKind::exe, RefKind::cwd, RefKind::root}) {
        if (text == to_string(kind)) return kind;
    }
    return std::nullopt;
}

}  // namespace fdspan::cli
