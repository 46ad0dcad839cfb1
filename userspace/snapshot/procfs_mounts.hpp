// Mounts: which file system a mount id belongs to, and whether looking a path up may wait for somebody.
// Owned by one snapshot read; not thread-safe. Reads each mount table (mount namespace and root directory) once, on demand.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/reference.hpp"

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
    // Every file system that a walk from the root to `path` may touch is local.
    [[nodiscard]] bool walk_is_local(std::string_view path) const;
    // An overlayfs whose layers are local is that itself. A container's own table does not show where its layers are, the table of who
    // mounted it does: `known` takes and gives what was found out.
    void trust_overlays(std::set<DeviceNumber>& known);

private:
    // All that is mounted in one place, one over the other.
    struct Point {
        std::uint32_t mount;   // one of them
        std::uint32_t remote;  // how many are not local
    };
    [[nodiscard]] const std::string& text(const Point& point) const { return mounts_[point.mount].point; }
    [[nodiscard]] std::vector<Point>::const_iterator find_point(std::string_view path) const;
    void sort_points();

    std::vector<Mount> mounts_;
    std::vector<Point> points_;  // by their text
};

// The reader's own; empty when /proc can't be read.
[[nodiscard]] MountTable read_own_mounts();

// What processes hold files on, in whatever mount namespace. Not thread-safe. Reads the reader's own mounts, and those of a holder whose file
// is on none of them, once.
class HolderMounts {
public:
    // Null: neither sees it mounted (any more).
    [[nodiscard]] const Mount* find(pid_t holder, std::int32_t mnt_id);

private:
    std::unordered_map<std::int32_t, Mount> by_id_;
    std::set<std::string> read_;
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
    const MountTable& add(const Key& key, MountTable table);
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
