// The rows that every snapshot is made of, whoever read it: processes and the references they hold.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <tuple>

#include "base/interval.hpp"
#include "base/string_table.hpp"

namespace fdspan {

// What keeps a file in use. The names are those of `ls --json`.
enum class RefKind : std::uint8_t { fd, mem, exe, cwd, root };
[[nodiscard]] constexpr std::string_view to_string(RefKind kind) {
    switch (kind) {
        case RefKind::fd: return "fd";
        case RefKind::mem: return "mem";
        case RefKind::exe: return "exe";
        case RefKind::cwd: return "cwd";
        case RefKind::root: return "root";
    }
    return "?";
}

enum class FileType : std::uint8_t {
    unknown,
    reg,
    dir,
    chr,
    blk,
    fifo,
    sock,
    lnk,
    anon,  // an anon_inode class; Reference::type_name says which ("eventpoll", "eventfd", "pidfd", …)
};
[[nodiscard]] constexpr std::string_view to_string(FileType type) {
    switch (type) {
        case FileType::unknown: return "UNKNOWN";
        case FileType::reg: return "REG";
        case FileType::dir: return "DIR";
        case FileType::chr: return "CHR";
        case FileType::blk: return "BLK";
        case FileType::fifo: return "FIFO";
        case FileType::sock: return "SOCK";
        case FileType::lnk: return "LNK";
        case FileType::anon: return "ANON";
    }
    return "?";
}

// Files that never had a name are not "deleted", although their link count is 0.
enum class NameState : std::uint8_t {
    named,       // path leads to this file
    gone,        // the name it was opened by is gone, another hard link is left: not deleted
    deleted,     // no link is left
    memfd,       // memfd_create(2)
    tmpfile,     // O_TMPFILE
    shm,         // SysV shared memory or a shared anonymous mapping ("/SYSV…", "/dev/zero")
    nameless,    // pipes, sockets, anon_inodes: have no name and need none
    unknown,     // could not be decided without risking to block (a network or FUSE file system)
    silly,       // deleted here, but NFS keeps it as .nfsXXXX on the server until it is closed: its link count is 1
};
[[nodiscard]] constexpr std::string_view to_string(NameState state) {
    switch (state) {
        case NameState::named: return "named";
        case NameState::gone: return "gone";
        case NameState::deleted: return "deleted";
        case NameState::memfd: return "memfd";
        case NameState::tmpfile: return "tmpfile";
        case NameState::shm: return "shm";
        case NameState::nameless: return "nameless";
        case NameState::unknown: return "unknown";
        case NameState::silly: return "silly";
    }
    return "?";
}

// Device numbers as user space prints them (major:minor), packed.
struct DeviceNumber {
    std::uint32_t major = 0;
    std::uint32_t minor = 0;
    friend constexpr bool operator==(DeviceNumber, DeviceNumber) = default;
    friend constexpr auto operator<=>(DeviceNumber, DeviceNumber) = default;
};

// What a snapshot is asked to read: nothing that is not asked for is read, because procfs pays for each (bit set).
enum Field : std::uint32_t {
    field_path = 1U << 0,         // readlink
    field_stat = 1U << 1,         // type, dev, ino, nlink, size, allocated (and NameState)
    field_fdinfo = 1U << 2,       // flags, pos, mnt_id
    field_cgroup = 1U << 3,       // Process::cgroup
    field_times = 1U << 4,        // opened, description_opened (implies field_stat)
    field_ids = 1U << 7,          // description_id; with field_times
    field_all = ((1U << 5) - 1) | field_ids,
    // In Reference::valid only: what changes without a record, so that a snapshot knows it and an event does not.
    field_size = 1U << 5,         // with field_stat: size, allocated
    field_position = 1U << 6,     // with field_fdinfo: pos, mnt_id
};

// One process at the time of the snapshot; identity is (pid, started).
struct Process {
    pid_t pid = 0;  // thread group id
    pid_t ppid = 0;
    uid_t uid = 0;  // real user id
    StringId comm = 0;
    StringId cgroup = 0;       // path in the cgroup hierarchy; "" when not read or not known
    StringId container = 0;    // hint derived from the cgroup path ("docker:3f2a…"); "" when none
    Interval started;          // kernel (BPF) or the clock tick of /proc/PID/stat field 22
    bool unreadable = false;   // the process exists, its references could not be read
    friend constexpr bool operator==(const Process&, const Process&) = default;
};

// One reference. Numeric fields are meaningful as far as `valid` says (Field bits).
struct Reference {
    std::uint32_t process = 0;   // index into Snapshot::processes
    pid_t tid = 0;               // != pid only for a thread with a descriptor table of its own
    std::int32_t fd = -1;        // RefKind::fd only
    RefKind ref = RefKind::fd;
    FileType type = FileType::unknown;
    NameState name = NameState::unknown;
    std::uint8_t valid = 0;      // Field bits that were really read
    PathId path;                 // as readlink shows it, the kernel's " (deleted)" mark taken off; in one piece but for a snapshot's rows
    StringId type_name = 0;      // FileType::anon only: the class
    DeviceNumber dev;            // of the file system the file is on
    DeviceNumber rdev;           // CHR and BLK only
    std::uint32_t nlink = 0;
    std::uint32_t flags = 0;     // open(2) flags as fdinfo shows them, O_CLOEXEC included (descriptors); 0 for others
    std::uint64_t ino = 0;
    std::uint64_t size = 0;      // bytes
    std::uint64_t allocated = 0; // bytes on disk
    union {
        std::uint64_t pos = 0;   // RefKind::fd: file position
        std::uint64_t map_start; // RefKind::mem
    };
    std::uint64_t map_end = 0;   // RefKind::mem
    std::int32_t mnt_id = -1;    // mount id, -1 not known
    std::uint32_t map_flags = 0; // RefKind::mem: PROT_* bits, and bit 31 for MAP_SHARED
    std::uint64_t description_id = 0;  // equal for references that share one open file description; 0 not known, or not asked for
    Interval opened;                   // RefKind::fd: the descriptor's span; others: the reference's
    Interval description_opened;       // the description's span

    friend bool operator==(const Reference& a, const Reference& b) {
        const auto all = [](const Reference& r) {
            return std::tie(r.process, r.tid, r.fd, r.ref, r.type, r.name, r.valid, r.path, r.type_name, r.dev, r.rdev, r.nlink, r.flags, r.ino,
                            r.size, r.allocated, r.pos, r.map_end, r.mnt_id, r.map_flags, r.description_id, r.opened, r.description_opened);
        };
        return all(a) == all(b);
    }
};

}  // namespace fdspan
