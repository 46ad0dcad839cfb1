#include "snapshot/loops.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "snapshot/procfs_mounts.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan {
namespace {

constexpr int statx_flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
constexpr unsigned statx_mask = STATX_BASIC_STATS | STATX_BTIME;

std::optional<std::string> read_text(const std::string& path) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return std::nullopt;
    std::string text;
    std::array<char, 16 * 1024> piece{};
    for (;;) {
        const ssize_t got = ::read(file.get(), piece.data(), piece.size());
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return std::nullopt;
        if (got == 0) return text;
        text.append(piece.data(), static_cast<std::size_t>(got));
    }
}

// The reader's own mounts, read once.
class OwnMounts {
public:
    [[nodiscard]] const procfs::MountTable& table() const { return table_; }

    // A directory on the file system `dev`, to hand file handles to.
    [[nodiscard]] UniqueFd open_on(DeviceNumber dev) const {
        for (const procfs::Mount& mount : table_.mounts()) {
            if (!(mount.dev == dev)) continue;
            UniqueFd dir(::open(mount.point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
            struct stat stat{};
            // Something else may be mounted on top.
            if (dir.valid() && ::fstat(dir.get(), &stat) == 0 && DeviceNumber{gnu_dev_major(stat.st_dev), gnu_dev_minor(stat.st_dev)} == dev) return dir;
        }
        return UniqueFd();
    }

private:
    procfs::MountTable table_ = procfs::read_own_mounts();
};

enum class Lookup : std::uint8_t { same, other, unknown };

bool is_file(const struct statx& stx, DeviceNumber dev, std::uint64_t ino) {
    return stx.stx_ino == ino && DeviceNumber{stx.stx_dev_major, stx.stx_dev_minor} == dev;
}

// Whether `path` leads to that very file. Waits for nobody: cached names first, others only on file systems of this machine.
Lookup look_up(const OwnMounts& mounts, const std::string& path, DeviceNumber dev, std::uint64_t ino, struct statx& stx) {
    const UniqueFd root(::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
    UniqueFd found;
    const procfs::Walk walk = root.valid() ? procfs::open_name(root.get(), &mounts.table(), path, found) : procfs::Walk::unknown;
    if (walk != procfs::Walk::arrived) return walk == procfs::Walk::absent ? Lookup::other : Lookup::unknown;
    if (::statx(found.get(), "", statx_flags | AT_EMPTY_PATH, statx_mask, &stx) != 0) return Lookup::unknown;
    return is_file(stx, dev, ino) ? Lookup::same : Lookup::other;
}

// ext4 takes generation 0 in a handle for any (fs/ext4/super.c, ext4_nfs_get_inode), so the inode number is enough, and gives the inode of a
// deleted file too while somebody holds it.
Result<UniqueFd> open_by_number(const OwnMounts& mounts, DeviceNumber dev, std::uint64_t ino, int flags) {
    const UniqueFd dir = mounts.open_on(dev);
    struct statfs fs{};
    if (!dir.valid() || ::fstatfs(dir.get(), &fs) != 0 || fs.f_type != EXT4_SUPER_MAGIC || ino > UINT32_MAX) {
        return fail(EOPNOTSUPP, "open a file that only the kernel holds: only ext4 that is mounted here gives that");
    }
    constexpr int fileid_ino32_gen = 1;  // include/linux/exportfs.h
    const std::array<std::uint32_t, 2> id{static_cast<std::uint32_t>(ino), 0};
    alignas(file_handle) std::array<char, sizeof(file_handle) + sizeof id> bytes{};
    auto* const handle = reinterpret_cast<file_handle*>(bytes.data());
    handle->handle_bytes = sizeof id;
    handle->handle_type = fileid_ino32_gen;
    std::memcpy(handle->f_handle, id.data(), sizeof id);
    UniqueFd file(::open_by_handle_at(dir.get(), handle, flags | O_CLOEXEC));
    if (!file.valid()) {
        if (errno == EPERM) return fail(EPERM, "open a file that only the kernel holds: not permitted; that takes CAP_DAC_READ_SEARCH (or root)");
        return fail_errno(errno, "open a file by its inode number");
    }
    struct stat stat{};
    if (::fstat(file.get(), &stat) != 0) return fail_errno(errno, "look at a file that was opened by its inode number");
    if (stat.st_ino != ino || !(DeviceNumber{gnu_dev_major(stat.st_dev), gnu_dev_minor(stat.st_dev)} == dev)) {
        return fail(ESTALE, "the inode number leads to another file by now");
    }
    return file;
}

void fill(LoopDevice& device, const struct statx& stx) {
    device.nlink = stx.stx_nlink;
    device.size = stx.stx_size;
    device.allocated = stx.stx_blocks * 512;
    const auto ns = [](const struct statx_timestamp& at) { return std::clamp<std::int64_t>(at.tv_sec, 0, 4'000'000'000) * 1'000'000'000 + at.tv_nsec; };
    device.changed_realtime_ns = ns(stx.stx_ctime);
    if ((stx.stx_mask & STATX_BTIME) != 0) device.born_realtime_ns = ns(stx.stx_btime);
}

void decide(const OwnMounts& mounts, std::string text, LoopDevice& device) {
    struct statx stx{};
    const Lookup found = look_up(mounts, text, device.dev, device.ino, stx);
    const bool marked = text.ends_with(procfs::deleted_mark);
    if (found == Lookup::same) {
        device.state = NameState::named;
        device.path = std::move(text);
        fill(device, stx);
        return;
    }
    const auto file = open_by_number(mounts, device.dev, device.ino, O_PATH);
    if (file && ::statx(file->get(), "", statx_flags | AT_EMPTY_PATH, statx_mask, &stx) == 0) {
        fill(device, stx);
        device.state = stx.stx_nlink == 0 ? NameState::deleted : marked ? NameState::gone : NameState::named;
    } else if (!marked) {
        device.state = NameState::named;  // of another mount namespace, or not to be looked up here
    }
    const bool takes_mark_off = device.state == NameState::deleted || device.state == NameState::gone || found == Lookup::other;
    device.path = marked && takes_mark_off ? std::string(procfs::without_mark(text)) : std::move(text);
}

}  // namespace

LoopList read_loop_devices() {
    LoopList list;
    struct CloseDir {
        void operator()(DIR* dir) const { ::closedir(dir); }
    };
    const std::unique_ptr<DIR, CloseDir> blocks(::opendir("/sys/block"));
    if (!blocks) return list;  // no sysfs, or no block layer: no loop devices to be seen
    std::optional<OwnMounts> mounts;
    while (const dirent* const entry = ::readdir(blocks.get())) {
        const std::string name = entry->d_name;
        if (!name.starts_with("loop") || !procfs::parse_number(std::string_view(name).substr(4))) continue;
        auto text = read_text("/sys/block/" + name + "/loop/backing_file");
        if (!text) continue;  // not in use
        if (text->ends_with('\n')) text->pop_back();
        LoopDevice device;
        device.name = name;
        const UniqueFd node(::open(("/dev/" + name).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
        loop_info64 info{};
        if (!node.valid() || ::ioctl(node.get(), LOOP_GET_STATUS64, &info) != 0) {
            if (node.valid() && errno == ENXIO) continue;  // given back meanwhile
            ++list.unreadable;
            continue;
        }
        device.dev = {gnu_dev_major(info.lo_device), gnu_dev_minor(info.lo_device)};
        device.ino = info.lo_inode;
        if (!mounts) mounts.emplace();
        decide(*mounts, std::move(*text), device);
        list.devices.push_back(std::move(device));
    }
    const auto number = [](const LoopDevice& device) { return procfs::parse_number(std::string_view(device.name).substr(4)).value_or(0); };
    std::sort(list.devices.begin(), list.devices.end(), [&](const LoopDevice& a, const LoopDevice& b) { return number(a) < number(b); });
    return list;
}

Result<UniqueFd> open_loop_backing(DeviceNumber dev, std::uint64_t ino) {
    const LoopList list = read_loop_devices();
    const bool held = std::any_of(list.devices.begin(), list.devices.end(), [&](const LoopDevice& device) { return device.dev == dev && device.ino == ino; });
    if (!held) return fail(ENOENT, "nobody holds this file: no process that could be read, and no loop device");
    return open_by_number(OwnMounts(), dev, ino, O_RDONLY | O_NONBLOCK | O_NOCTTY);
}

}  // namespace fdspan
