#include "snapshot/procfs_mounts.hpp"

#include <algorithm>
#include <array>

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

}  // namespace

FsTraits fs_traits(std::string_view type) {
    const auto same = [&](const char* known) { return type == known; };
    FsTraits traits;
    traits.birth = std::any_of(birth_types.begin(), birth_types.end(), same);
    traits.nfs = type == "nfs" || type == "nfs4";
    traits.local = traits.birth || std::any_of(local_types.begin(), local_types.end(), same);
    return traits;
}

std::uint64_t MountTable::parse(std::string_view mountinfo) {
    std::uint64_t unparsed = 0;
    while (!mountinfo.empty()) {
        const std::size_t end = std::min(mountinfo.find('\n'), mountinfo.size());
        const std::string_view line = mountinfo.substr(0, end);
        mountinfo.remove_prefix(std::min(end + 1, mountinfo.size()));
        const auto parsed = parse_mountinfo_line(line);
        if (!parsed) {
            ++unparsed;
            continue;
        }
        Mount& mount = mounts_.emplace_back();
        mount.id = parsed->id;
        mount.dev = parsed->dev;
        mount.traits = fs_traits(parsed->type);
        decode_octal(parsed->mount_point, mount.point);
    }
    return unparsed;
}

bool MountTable::walk_is_local(std::string_view path) const {
    bool root_seen = false;
    for (const Mount& mount : mounts_) {
        const bool is_root = mount.point == "/";
        const bool on_the_way =
            is_root || (path.starts_with(mount.point) && (path.size() == mount.point.size() || path[mount.point.size()] == '/'));
        if (!on_the_way) continue;
        if (!mount.traits.local) return false;
        root_seen |= is_root;
    }
    return root_seen;
}

const MountTable* Mounts::find(const Key& key) const {
    const auto known = tables_.find(key);
    return known == tables_.end() ? nullptr : &known->second;
}

const MountTable& Mounts::add(const Key& key, MountTable table) {
    for (const Mount& mount : table.mounts()) by_id_.try_emplace(mount.id, mount);
    return tables_.insert_or_assign(key, std::move(table)).first->second;
}

const Mount* Mounts::find_mount(std::int32_t mnt_id) const {
    const auto known = by_id_.find(mnt_id);
    return known == by_id_.end() ? nullptr : &known->second;
}

}  // namespace fdspan::procfs
