#include "snapshot/procfs_mounts.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>

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

MountTable read_mounts(const std::string& process) {
    MountTable table;
    const UniqueFd file(::open(("/proc/" + process + "/mountinfo").c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return table;
    std::string text;
    std::array<char, 16 * 1024> piece{};
    for (;;) {
        const ssize_t got = ::read(file.get(), piece.data(), piece.size());
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        text.append(piece.data(), static_cast<std::size_t>(got));
    }
    table.parse(text);
    return table;
}

}  // namespace

MountTable read_own_mounts() { return read_mounts("self"); }

const Mount* HolderMounts::find(pid_t holder, std::int32_t mnt_id) {
    for (const std::string& process : {std::string("self"), std::to_string(holder)}) {
        if (const auto known = by_id_.find(mnt_id); known != by_id_.end()) return &known->second;
        if (!read_.insert(process).second) continue;
        const MountTable table = read_mounts(process);
        for (const Mount& mount : table.mounts()) by_id_.try_emplace(mount.id, mount);
    }
    const auto known = by_id_.find(mnt_id);
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
    sort_points();
    std::set<DeviceNumber> none;
    trust_overlays(none);
    return unparsed;
}

void MountTable::sort_points() {
    points_.clear();
    for (std::uint32_t i = 0; i < mounts_.size(); ++i) points_.push_back({i, mounts_[i].traits.local ? 0U : 1U});
    std::sort(points_.begin(), points_.end(), [this](const Point& a, const Point& b) { return text(a) < text(b); });
    std::size_t kept = 0;
    for (const Point& point : points_) {
        if (kept > 0 && text(points_[kept - 1]) == text(point)) points_[kept - 1].remote += point.remote;
        else points_[kept++] = point;
    }
    points_.resize(kept);
}

std::vector<MountTable::Point>::const_iterator MountTable::find_point(std::string_view path) const {
    const auto found = std::lower_bound(points_.begin(), points_.end(), path, [this](const Point& point, std::string_view wanted) { return text(point) < wanted; });
    return found != points_.end() && text(*found) == path ? found : points_.end();
}

bool MountTable::walk_is_local(std::string_view path) const {
    const auto root = find_point("/");
    if (root == points_.end() || root->remote != 0) return false;
    // Name by name, among the points that begin with what was walked so far: of these the shortest is the first.
    auto first = points_.begin(), last = points_.end();
    for (std::size_t walked = 0, end = 0; walked < path.size() && first != last; walked = end) {
        end = std::min(path.find('/', walked + 1), path.size());
        const std::string_view name = path.substr(walked, end - walked);
        const auto next = [&](const Point& point) { return std::string_view(text(point)).substr(walked, name.size()); };
        first = std::partition_point(first, last, [&](const Point& point) { return next(point) < name; });
        last = std::partition_point(first, last, [&](const Point& point) { return next(point) == name; });
        if (first != last && text(*first).size() == end && first->remote != 0) return false;
    }
    return true;
}

void MountTable::trust_overlays(std::set<DeviceNumber>& known) {
    // One overlayfs may be a layer of another, which comes later in the table.
    for (Mount& mount : mounts_) {
        if (mount.type != "overlay" || mount.traits.local) continue;
        const bool layers_local = !mount.layers.empty() &&
                                  std::all_of(mount.layers.begin(), mount.layers.end(), [this](const std::string& layer) { return walk_is_local(layer); });
        mount.traits.local = layers_local || known.contains(mount.dev);
        if (mount.traits.local) --points_[static_cast<std::size_t>(find_point(mount.point) - points_.begin())].remote;
    }
    for (const Mount& mount : mounts_) {
        if (mount.type == "overlay" && mount.traits.local) known.insert(mount.dev);
    }
}

const MountTable* Mounts::find(const Key& key) const {
    const auto known = tables_.find(key);
    return known == tables_.end() ? nullptr : &known->second;
}

const MountTable& Mounts::add(const Key& key, MountTable table) {
    table.trust_overlays(local_overlays_);
    for (const Mount& mount : table.mounts()) by_id_.try_emplace(mount.id, mount);
    return tables_.insert_or_assign(key, std::move(table)).first->second;
}

const Mount* Mounts::find_mount(std::int32_t mnt_id) const {
    const auto known = by_id_.find(mnt_id);
    return known == by_id_.end() ? nullptr : &known->second;
}

}  // namespace fdspan::procfs
