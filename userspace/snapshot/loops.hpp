// Loop devices: files that the kernel itself holds, which no process shows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/reference.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace fdspan {

struct LoopDevice {
    std::string name;         // "loop0"
    std::string path;         // of the backing file as last known, the kernel's " (deleted)" mark taken off
    NameState state = NameState::unknown;  // named, gone, deleted, or unknown where the evidence does not do
    DeviceNumber dev;         // of the file system the backing file is on
    std::uint64_t ino = 0;
    // Known only where the file could be looked at: by its name, or on ext4 by a file handle.
    std::optional<std::uint32_t> nlink;
    std::optional<std::uint64_t> size;
    std::optional<std::uint64_t> allocated;
    std::optional<std::int64_t> changed_realtime_ns;  // ctime
    std::optional<std::int64_t> born_realtime_ns;
};

struct LoopList {
    std::vector<LoopDevice> devices;   // ascending by number
    std::uint64_t unreadable = 0;      // in use, but the device could not be asked (permission, no node in /dev)
};

// Every loop device that has a backing file. Which file it is says the device itself (LOOP_GET_STATUS64), whether it is deleted its inode;
// the text in sysfs only says under which name. Thread-safe.
[[nodiscard]] LoopList read_loop_devices();

// Opens, for reading, the file that only a loop device holds. ENOENT: no loop device holds it. EOPNOTSUPP: not on ext4.
[[nodiscard]] Result<UniqueFd> open_loop_backing(DeviceNumber dev, std::uint64_t ino);

}  // namespace fdspan
