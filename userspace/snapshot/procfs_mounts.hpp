// Mounts: which file system a mount id belongs to, and whether looking a path up may wait for somebody.
// Owned by one snapshot read; not thread-safe. Reads each mount table (mount namespace and root directory) once, on demand.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/reference.hpp"
#include "base/unique_fd.hpp"

namespace fdspan::procfs {

// What is known of a file system by its type.
struct FsTraits {
    bool local = false;  // a lookup in it waits for nobody but this kernel and its disks
    bool nfs = false;
    bool birth = false;  // stx_btime is when the file was made, by this kernel's clock, on every file of it
    bool stamps = false; // this kernel sets the ctime of what it changes
};
[[nodiscard]] FsTraits fs_traits(std::string_view type);

struct Mount {
    std::int32_t id = -1;
    DeviceNumber dev;
    FsTraits traits;
    std::string point;
    std::string root;  // of the file system, what is mounted here
    std::string type;
    std::vector<std::string> layers;  // of overlayfs, as the mounter saw them; empty where one is not an absolute path
};

class MountTable {
public:
    // Takes the text of a mountinfo; returns the number of lines that were not understood.
    std::uint64_t parse(std::string_view mountinfo);
    [[nodiscard]] const std::vector<Mount>& mounts() const { return mounts_; }
    // What `path` is on, the last mounted of those in one place. Null: none is at the root.
    [[nodiscard]] const Mount* mount_of(std::string_view path) const;
    // An overlayfs whose layers are local is that itself. Only for the reader's own mounts: others may have mounted where a layer was, or taken
    // away what it is on.
    void trust_layers();
    // The overlayfs that are local, from one table to another that shows the same ones.
    void tell_overlays(std::set<DeviceNumber>& local) const;
    void trust_overlays(const std::set<DeviceNumber>& local);

private:
    [[nodiscard]] const std::string& point(std::uint32_t mount) const { return mounts_[mount].point; }

    std::vector<Mount> mounts_;
    std::vector<std::uint32_t> points_;  // into mounts_, one for each place, by its text
};

enum class Walk : std::uint8_t { arrived, absent, unknown };
// Opens (O_PATH) what `path` is as seen from the directory `root`, whose mounts these are (null: not known). Follows no link and waits for
// nobody: for names that the kernel has in memory, and for others on a local file system, where nothing that is mounted meanwhile is entered.
[[nodiscard]] Walk open_name(int root, const MountTable* mounts, const std::string& path, UniqueFd& found);

// The reader's own; empty when /proc can't be read.
[[nodiscard]] MountTable read_own_mounts();

// What processes hold files on, in whatever mount namespace. Not thread-safe. Reads the reader's own mounts, and those of a holder whose file
// is on none of them, once.
class HolderMounts {
public:
    // Of all holders' tables together no more than `max_bytes` are read: anybody may have a namespace with many mounts, or many such.
    explicit HolderMounts(std::size_t max_bytes = std::numeric_limits<std::size_t>::max());
    // What `held`, a file of that process, is on. Null: neither sees it mounted (any more), or the bound is reached.
    [[nodiscard]] const Mount* find(pid_t holder, const struct statx& held);

private:
    MountTable own_;
    std::map<DeviceNumber, const Mount*> own_by_dev_;
    std::unordered_map<std::int32_t, Mount> by_id_;
    std::set<pid_t> read_;
    std::size_t bytes_left_;
};

class Mounts {
public:
    struct Key {
        std::uint64_t ns_ino = 0;
        std::uint64_t root_ino = 0;
        std::uint64_t root_mnt = 0;
        friend bool operator==(const Key&, const Key&) = default;
    };
    [[nodiscard]] const MountTable* find(const Key& key) const;
    // The reader's own come first: of others' overlays only those are trusted that it shows.
    enum class Whose : std::uint8_t { own, others };
    const MountTable& add(const Key& key, MountTable table, Whose whose);
    // Mount ids are unique on the whole machine, whatever the namespace. Null: in none of the tables added.
    [[nodiscard]] const Mount* find_mount(std::int32_t mnt_id) const;

private:
    struct KeyHash {
        std::size_t operator()(const Key& key) const {
            return std::hash<std::uint64_t>{}(key.ns_ino * 31 + key.root_ino * 17 + key.root_mnt);
        }
    };
    std::unordered_map<Key, MountTable, KeyHash> tables_;
    std::set<DeviceNumber> local_overlays_;
    std::unordered_map<std::int32_t, Mount> by_id_;
};

}  // namespace fdspan::procfs
