#include "api/arm.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <memory>

#include "api/backends.hpp"
#include "base/clock.hpp"
#include "base/unique_fd.hpp"

namespace fdspan {
namespace {

// Beside pin_directory, because a service may see their parent as a mount of its own, and nothing is renamed from one mount into another.
constexpr const char* staging_directory = "/sys/fs/bpf/fdspan/staging";
// Where an older fdspan staged; what it armed lies in pin_parent_directory itself.
constexpr const char* older_staging_directory = "/sys/fs/bpf/fdspan_staging";

Result<void> require_bpffs() {
    struct statfs info {};
    if (::statfs(bpffs_directory, &info) != 0) return fail_errno(errno, std::string("look at ") + bpffs_directory);
    if (static_cast<std::uint64_t>(info.f_type) != BPF_FS_MAGIC) {
        return fail(ENODEV, std::string("bpffs is not mounted (mount -t bpf bpf ") + bpffs_directory + ")");
    }
    return {};
}

// Removes the pins in a directory; links first, so that nothing stamps into maps that are half gone. True: there were some.
Result<bool> remove_pins(const char* path) {
    const UniqueFd parent(::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!parent.valid()) {
        if (errno == ENOENT) return false;
        return fail_errno(errno, std::string("open ") + path);
    }
    bool removed = false;
    for (const char* const prefix : {"link_", "prog_", "map_"}) {
        const int listing = ::openat(parent.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (listing < 0) return fail_errno(errno, std::string("open ") + path);
        std::unique_ptr<DIR, int (*)(DIR*)> directory(::fdopendir(listing), ::closedir);
        if (!directory) return fail_errno(errno, std::string("list ") + path);
        std::vector<std::string> names;
        while (const dirent* const entry = ::readdir(directory.get())) {
            if (std::string_view(entry->d_name).starts_with(prefix)) names.emplace_back(entry->d_name);
        }
        for (const std::string& name : names) {
            if (::unlinkat(parent.get(), name.c_str(), 0) != 0) {
                return fail_errno(errno, std::string("remove ") + path + "/" + name);
            }
            removed = true;
        }
    }
    return removed;
}

Result<bool> remove_pin_directory(const char* path) {
    auto removed = remove_pins(path);
    if (removed && ::rmdir(path) != 0 && errno != ENOENT) return fail_errno(errno, std::string("remove ") + path);
    return removed;
}

// Whoever may write in the parent could put pins of their own in place of ours.
Result<void> make_parent() {
    if (::mkdir(pin_parent_directory, 0700) == 0) return {};
    if (errno != EEXIST) return fail_errno(errno, std::string("make ") + pin_parent_directory);
    const UniqueFd parent(::open(pin_parent_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    struct stat status {};
    if (!parent.valid() || ::fstat(parent.get(), &status) != 0) return fail_errno(errno, std::string("open ") + pin_parent_directory);
    const bool others_write = (status.st_mode & (S_IWGRP | S_IWOTH)) != 0;
    if (!others_write && (status.st_uid == 0 || status.st_uid == ::geteuid())) return {};
    // It may be the service's, which made it before root armed.
    if (::geteuid() == 0 && ::fchown(parent.get(), 0, 0) == 0 && ::fchmod(parent.get(), 0700) == 0) return {};
    return fail(EPERM, std::string(pin_parent_directory) + " is another user's or can be written by others: remove it (rmdir) as root");
}

// Not an error: it is a mount of its own, as the service sees it, or somebody's other things are in it.
void leave_parent() { (void)::rmdir(pin_parent_directory); }

}  // namespace

// bpffs has no files to lock, its root directory does.
Result<UniqueFd> lock_arming() {
    if (auto done = require_bpffs(); !done) return tl::unexpected(done.error());
    UniqueFd directory(::open(bpffs_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid()) return fail_errno(errno, std::string("open ") + bpffs_directory);
    if (::flock(directory.get(), LOCK_EX) != 0) return fail_errno(errno, std::string("lock ") + bpffs_directory);
    return directory;
}

const char* pinned_directory() {
    struct stat status {};
    const std::string older_pin = std::string(pin_parent_directory) + "/map_settings";
    return ::lstat(older_pin.c_str(), &status) == 0 ? pin_parent_directory : pin_directory;
}

Result<void> pin_armed(Tracking& tracking) {
    auto staged = make_parent();
    if (!staged) return staged;
    // What a killed predecessor left.
    for (const char* const leftover : {staging_directory, pin_directory}) {
        if (auto done = remove_pin_directory(leftover); !done) return tl::unexpected(done.error());
    }
    // Under its name last and at once: whoever is killed before leaves nothing armed.
    staged = tracking.pin(staging_directory);
    if (staged && ::rename(staging_directory, pin_directory) != 0) {
        staged = fail_errno(errno, std::string("rename ") + staging_directory);
    }
    if (!staged) {
        (void)remove_pin_directory(staging_directory);
        leave_parent();
    }
    return staged;
}

Result<ArmReport> arm(const ArmOptions& options) {
    if (options.backend == Backend::procfs) {
        return fail(EINVAL, "the backend procfs can't be armed: nothing of it runs in the kernel");
    }
    auto lock = lock_arming();
    if (!lock) return tl::unexpected(lock.error());

    ArmReport report;
    auto pinned = PinnedTracking::open(pinned_directory());
    if (!pinned) return tl::unexpected(pinned.error());
    if (*pinned) {
        report.already_armed = true;
        report.backend = backend_of((*pinned)->backend());
        report.tracking_since_ns = (*pinned)->tracking_since_ns();
        if (options.backend != Backend::automatic && options.backend != report.backend) {
            return fail(EBUSY, "armed already, with the backend " + std::string(to_string(report.backend)) +
                                   "; run `fdspan disarm` first");
        }
        return report;
    }

    TrackingOptions tracking_options;
    tracking_options.backend = tracking_backend_of(options.backend);
    tracking_options.max_descriptions = options.max_descriptions;
    tracking_options.max_descriptors = options.max_descriptors;
    tracking_options.max_tables = options.max_tables;
    tracking_options.max_table_chunks = options.max_tables;
    tracking_options.ring_bytes = static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE));
    tracking_options.emit = false;
    tracking_options.paths = false;
    auto tracking = options.backend == Backend::automatic ? Tracking::open_best(tracking_options, report.refused)
                                                          : Tracking::open(tracking_options);
    if (!tracking) return tl::unexpected(tracking.error());

    // Whatever is open now is entered as open now: a later `ls` bounds it by this moment.
    auto reader = IteratorReader::open((*tracking)->maps());
    if (!reader) return tl::unexpected(reader.error());
    SnapshotRequest request;
    request.fields = field_times | field_stat;
    auto census = (*reader)->read(request, true);
    if (!census) return tl::unexpected(census.error());
    report.references = census->references.size();
    (*tracking)->set_census(census->ended_ns);

    if (auto done = pin_armed(**tracking); !done) return tl::unexpected(done.error());

    report.backend = backend_of((*tracking)->backend());
    report.tracking_since_ns = (*tracking)->tracking_since_ns();
    report.hooks = (*tracking)->hooks();
    return report;
}

Result<bool> disarm() {
    auto lock = lock_arming();
    if (!lock) return tl::unexpected(lock.error());
    for (const char* const leftover : {staging_directory, older_staging_directory}) {
        if (auto done = remove_pin_directory(leftover); !done) return done;
    }
    auto armed = remove_pin_directory(pin_directory);
    if (!armed) return armed;
    auto older = remove_pins(pin_parent_directory);
    if (!older) return older;
    leave_parent();
    return *armed || *older;
}

Result<std::optional<ArmedState>> armed_state() {
    auto pinned = PinnedTracking::open(pinned_directory());
    if (!pinned) return tl::unexpected(pinned.error());
    if (!*pinned) return std::optional<ArmedState>{};
    ArmedState state;
    state.backend = backend_of((*pinned)->backend());
    state.tracking_since_ns = (*pinned)->tracking_since_ns();
    state.census_ns = (*pinned)->census_ns();
    auto fill = (*pinned)->description_fill();
    if (!fill) return tl::unexpected(fill.error());
    state.descriptions = fill->first;
    state.max_descriptions = fill->second;
    auto counters = (*pinned)->counters();
    if (!counters) return tl::unexpected(counters.error());
    state.counters = *counters;
    return std::optional<ArmedState>(state);
}

}  // namespace fdspan
