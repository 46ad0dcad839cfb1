#include "snapshot/procfs_mounts.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

#include "base/unique_fd.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan::procfs {
namespace {

// overlayfs is in neither list: a lower layer may be remote, and after a copy-up it shows the birth of the copy, which is younger
// than descriptors that were opened before. Network, 9p and FUSE births come from somebody else's clock; vfat's are local time.
constexpr std::array birth_types{"ext4", "xfs", "btrfs", "f2fs", "bcachefs", "tmpfs", "devtmpfs"};
constexpr std::array local_types{
    "ext2",    "ext3",       "vfat",       "msdos",   "exfat",   "ntfs3",     "iso9660",  "udf",     "squashfs", "erofs",       "cramfs",
    "romfs",   "minix",      "jfs",        "reiserfs", "nilfs2", "zfs",       "hfs",      "hfsplus", "ufs",      "ramfs",       "rootfs",
    "proc",    "sysfs",      "cgroup",     "cgroup2", "devpts",  "hugetlbfs", "mqueue",   "debugfs", "tracefs",  "securityfs",  "configfs",
    "pstore",  "bpf",        "efivarfs",   "binfmt_misc", "fusectl", "nsfs",  "selinuxfs", "smackfs", "cpuset",   "resctrl"};

// Takes a list's first part and the separator after it.
std::string_view take_part(std::string_view& list, char separator) {
    const std::size_t end = std::min(list.find(separator), list.size());
    const std::string_view part = list.substr(0, end);
    list.remove_prefix(std::min(end + 1, list.size()));
    return part;
}

// "lowerdir=/a:/b,upperdir=/c,…"; since 6.8 also "lowerdir+=/a" once each, for which no backslash and no ':' means anything. ',' in a
// name is always octal (include/linux/seq_file.h, seq_show_option), ':' and '\\' in the other two have the mounter's backslash, itself octal.
std::vector<std::string> overlay_layers(std::string_view options) {
    std::vector<std::string> layers;
    while (!options.empty()) {
        std::string_view shown = take_part(options, ',');
        const std::string_view key = take_part(shown, '=');
        std::string value;
        decode_octal(shown, value);
        if (key == "lowerdir+" || key == "datadir+") {
            layers.push_back(std::move(value));
        } else if (key == "lowerdir" || key == "upperdir") {
            layers.emplace_back();
            for (std::size_t at = 0; at < value.size(); ++at) {
                if (value[at] == '\\' && at + 1 < value.size()) layers.back() += value[++at];
                else if (value[at] == ':' && key == "lowerdir") layers.emplace_back();
                else layers.back() += value[at];
            }
        }
    }
    std::erase(layers, "");  // "::" goes before the layers that only have data
    const bool absolute = std::all_of(layers.begin(), layers.end(), [](const std::string& layer) { return layer.front() == '/'; });
    return absolute ? layers : std::vector<std::string>();
}

// No more than `bytes_left`, of which it takes what it reads.
MountTable read_mounts(const std::string& process, std::size_t& bytes_left) {
    MountTable table;
    const UniqueFd file(::open(("/proc/" + process + "/mountinfo").c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return table;
    std::string text;
    std::array<char, 16 * 1024> piece{};
    while (bytes_left != 0) {
        const ssize_t got = ::read(file.get(), piece.data(), std::min(piece.size(), bytes_left));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        text.append(piece.data(), static_cast<std::size_t>(got));
        bytes_left -= static_cast<std::size_t>(got);
    }
    if (bytes_left == 0) text.resize(text.rfind('\n') + 1);
    table.parse(text);
    return table;
}

}  // namespace

MountTable read_own_mounts() {
    std::size_t all = std::numeric_limits<std::size_t>::max();
    MountTable own = read_mounts("self", all);
    own.trust_layers();
    return own;
}

HolderMounts::HolderMounts(std::size_t max_bytes) : own_(read_own_mounts()), bytes_left_(max_bytes) {
    for (const Mount& mount : own_.mounts()) {
        by_id_.try_emplace(mount.id, mount);
        own_by_dev_.try_emplace(mount.dev, &mount);
    }
}

const Mount* HolderMounts::find(pid_t holder, const struct statx& held) {
    const auto id = static_cast<std::int32_t>(held.stx_mnt_id);
    if (const auto known = by_id_.find(id); known != by_id_.end()) return &known->second;
    // Of a file system that is mounted here as well.
    if (const auto known = own_by_dev_.find({held.stx_dev_major, held.stx_dev_minor}); known != own_by_dev_.end()) return known->second;
    if (bytes_left_ == 0 || !read_.insert(holder).second) return nullptr;
    const MountTable theirs = read_mounts(std::to_string(holder), bytes_left_);
    for (const Mount& mount : theirs.mounts()) by_id_.try_emplace(mount.id, mount);
    const auto known = by_id_.find(id);
    return known != by_id_.end() ? &known->second : nullptr;
}

FsTraits fs_traits(std::string_view type) {
    const auto same = [&](const char* known) { return type == known; };
    FsTraits traits;
    traits.birth = std::any_of(birth_types.begin(), birth_types.end(), same);
    traits.nfs = type == "nfs" || type == "nfs4";
    traits.local = traits.birth || std::any_of(local_types.begin(), local_types.end(), same);
    // A FUSE server answers as it likes, and the clock of another machine goes as it likes. overlayfs shows its upper layer's stamps.
    traits.stamps = traits.local || type == "overlay";
    return traits;
}

std::uint64_t MountTable::parse(std::string_view mountinfo) {
    std::uint64_t unparsed = 0;
    while (!mountinfo.empty()) {
        const auto parsed = parse_mountinfo_line(take_part(mountinfo, '\n'));
        if (!parsed) {
            ++unparsed;
            continue;
        }
        Mount& mount = mounts_.emplace_back();
        mount.id = parsed->id;
        mount.dev = parsed->dev;
        mount.traits = fs_traits(parsed->type);
        mount.type = parsed->type;
        decode_octal(parsed->mount_point, mount.point);
        decode_octal(parsed->root, mount.root);
        if (mount.type == "overlay") mount.layers = overlay_layers(parsed->super_options);
    }
    // What is mounted over another comes later.
    points_.resize(mounts_.size());
    for (std::uint32_t at = 0; at < points_.size(); ++at) points_[at] = at;
    std::sort(points_.begin(), points_.end(), [this](std::uint32_t a, std::uint32_t b) { return std::tie(point(a), b) < std::tie(point(b), a); });
    points_.erase(std::unique(points_.begin(), points_.end(), [this](std::uint32_t a, std::uint32_t b) { return point(a) == point(b); }), points_.end());
    return unparsed;
}

const Mount* MountTable::mount_of(std::string_view path) const {
    if (points_.empty() || point(points_.front()) != "/") return nullptr;
    const Mount* found = &mounts_[points_.front()];
    // Name by name, among the points that begin with what was walked so far: of these the shortest is the first.
    auto first = points_.begin(), last = points_.end();
    for (std::size_t walked = 0, end = 0; walked < path.size() && first != last; walked = end) {
        end = std::min(path.find('/', walked + 1), path.size());
        const std::string_view name = path.substr(walked, end - walked);
        const auto next = [&](std::uint32_t mount) { return std::string_view(point(mount)).substr(walked, name.size()); };
        first = std::partition_point(first, last, [&](std::uint32_t mount) { return next(mount) < name; });
        last = std::partition_point(first, last, [&](std::uint32_t mount) { return next(mount) == name; });
        if (first != last && point(*first).size() == end) found = &mounts_[*first];
    }
    return found;
}

void MountTable::trust_layers() {
    const auto is_local = [this](const std::string& layer) {
        const Mount* const mount = mount_of(layer);
        return mount != nullptr && mount->traits.local;
    };
    // One overlayfs may be a layer of another, which comes later in the table.
    for (Mount& mount : mounts_) {
        if (!mount.layers.empty()) mount.traits.local = std::all_of(mount.layers.begin(), mount.layers.end(), is_local);
    }
}

void MountTable::tell_overlays(std::set<DeviceNumber>& local) const {
    for (const Mount& mount : mounts_) {
        if (!mount.layers.empty() && mount.traits.local) local.insert(mount.dev);
    }
}

void MountTable::trust_overlays(const std::set<DeviceNumber>& local) {
    for (Mount& mount : mounts_) {
        if (mount.type == "overlay") mount.traits.local = local.contains(mount.dev);
    }
}

Walk open_name(int root, const MountTable* mounts, const std::string& path, UniqueFd& found) {
    open_how how{};
    how.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC;
    const auto open = [&](int from, const char* name, std::uint64_t resolve) {
        how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | resolve;
        return UniqueFd(static_cast<int>(::syscall(SYS_openat2, from, name, &how, sizeof how)));
    };
    const auto failed = [] {
        const bool absent = errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENAMETOOLONG;
        return absent ? Walk::absent : Walk::unknown;
    };
    found = open(root, path.c_str(), RESOLVE_CACHED);
    if (found.valid()) return Walk::arrived;
    if (errno != EAGAIN) return failed();
    const Mount* const mount = mounts != nullptr ? mounts->mount_of(path) : nullptr;
    if (mount == nullptr || !mount->traits.local) return Walk::unknown;
    // The kernel has a mount point's name in memory. Whatever is there now must be what the table said, and from there on is no other.
    UniqueFd start = open(root, mount->point.c_str(), RESOLVE_CACHED);
    struct statx at{};
    if (!start.valid() || ::statx(start.get(), "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_MNT_ID, &at) != 0) return Walk::unknown;
    if ((at.stx_mask & STATX_MNT_ID) == 0 || static_cast<std::int32_t>(at.stx_mnt_id) != mount->id) return Walk::unknown;
    const std::size_t below = path.find_first_not_of('/', mount->point.size());
    if (below == std::string::npos) {
        found = std::move(start);
        return Walk::arrived;
    }
    found = open(start.get(), path.c_str() + below, RESOLVE_NO_XDEV);
    return found.valid() ? Walk::arrived : failed();
}

const MountTable* Mounts::find(const Key& key) const {
    const auto known = tables_.find(key);
    return known == tables_.end() ? nullptr : &known->second;
}

const MountTable& Mounts::add(const Key& key, MountTable table, Whose whose) {
    if (whose == Whose::own) {
        table.trust_layers();
        table.tell_overlays(local_overlays_);
    } else {
        table.trust_overlays(local_overlays_);
    }
    for (const Mount& mount : table.mounts()) by_id_.try_emplace(mount.id, mount);
    return tables_.insert_or_assign(key, std::move(table)).first->second;
}

const Mount* Mounts::find_mount(std::int32_t mnt_id) const {
    const auto known = by_id_.find(mnt_id);
    return known == by_id_.end() ? nullptr : &known->second;
}

}  // namespace fdspan::procfs
