// Parsers for the texts of procfs. Pure: bytes in, views into the same bytes out. No allocation (except where the
// caller gives a string for the answer), no state, no crash for any input. Every function may be called from any thread.
// procfs is written by the kernel, but comms, paths and cgroup names inside it are chosen by anybody on the machine.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/reference.hpp"

namespace fdspan::procfs {

// What d_path() appends to the name of an unhashed dentry. A file may really be called so.
inline constexpr std::string_view deleted_mark = " (deleted)";

// A whole number without sign or spaces; nothing else may stand around it.
[[nodiscard]] std::optional<std::uint64_t> parse_number(std::string_view text, int base = 10);

// /proc/PID/stat. comm may hold anything, ')' and newlines included: it ends at the last ')'.
struct StatLine {
    pid_t pid = 0;
    std::string_view comm;
    char state = '?';
    pid_t ppid = 0;
    std::uint32_t task_flags = 0;  // PF_*
    std::uint64_t threads = 0;
    std::uint64_t start_ticks = 0;  // CLOCK_BOOTTIME in USER_HZ, cut
};
[[nodiscard]] std::optional<StatLine> parse_stat(std::string_view text);
inline constexpr std::uint32_t task_flag_kthread = 0x00200000;  // PF_KTHREAD, include/linux/sched.h

// /proc/PID/status: only the ids.
struct StatusIds {
    pid_t tgid = 0;
    uid_t uid = 0;  // real
};
[[nodiscard]] std::optional<StatusIds> parse_status(std::string_view text);

// /proc/PID/fdinfo/N: the lines that every file has; those of its type are ignored.
struct FdInfo {
    std::uint64_t pos = 0;  // of files that allow negative offsets: two's complement
    std::uint32_t flags = 0;
    std::int32_t mnt_id = -1;
    std::optional<std::uint64_t> ino;  // since 5.14
};
[[nodiscard]] std::optional<FdInfo> parse_fdinfo(std::string_view text);

// One line of /proc/PID/maps, without its newline. `path` is as the kernel wrote it: a newline in it is \012, and nothing else is escaped,
// so a name that really holds the four characters \012 looks the same (fs/proc/task_mmu.c, show_map_vma).
struct MapsLine {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    std::uint32_t protection = 0;  // PROT_*
    bool shared = false;
    std::uint64_t offset = 0;
    DeviceNumber dev;  // s_dev of the file system: not always the st_dev of stat (btrfs, overlayfs)
    std::uint64_t ino = 0;
    std::string_view path;

    // SysV shared memory with id 0 has inode number 0, so the number alone can't tell.
    [[nodiscard]] bool has_file() const { return ino != 0 || (!path.empty() && path.front() == '/'); }
};
[[nodiscard]] std::optional<MapsLine> parse_maps_line(std::string_view line);

// Undoes the kernel's mangle_path(): a backslash and three octal digits stand for one byte. Anything else stays.
void decode_octal(std::string_view text, std::string& decoded);

// Undoes what stands for a newline in a path of maps, \012. No other backslash means anything there.
void decode_newlines(std::string_view text, std::string& decoded);

// One line of /proc/PID/mountinfo, without its newline. Paths are still escaped (space, tab, newline, backslash, '#').
struct MountLine {
    std::int32_t id = -1;
    std::int32_t parent = -1;
    DeviceNumber dev;
    std::string_view root;
    std::string_view mount_point;
    std::string_view type;
    std::string_view super_options;  // of the file system, separated by commas
};
[[nodiscard]] std::optional<MountLine> parse_mountinfo_line(std::string_view line);

// One line of /proc/PID/cgroup, without its newline. Version 2 is hierarchy 0 with no controllers.
struct CgroupLine {
    std::uint32_t hierarchy = 0;
    std::string_view controllers;
    std::string_view path;
};
[[nodiscard]] std::optional<CgroupLine> parse_cgroup_line(std::string_view line);

// The path of /proc/PID/cgroup that says most about the process: version 2 unless it is the root, then systemd's own hierarchy,
// then the longest. Counts lines that are not understood.
struct CgroupChoice {
    std::string_view path;
    std::uint64_t unparsed_lines = 0;
};
[[nodiscard]] CgroupChoice choose_cgroup(std::string_view text);

// "docker:3f2a…" and the like, from the innermost part of a cgroup path that looks like one; empty when none does.
// Ids are cut to 12 digits as the container tools show them.
[[nodiscard]] std::string container_hint(std::string_view cgroup_path);

// The text of a magic link.
enum class LinkForm : std::uint8_t {
    path,    // "/…"
    socket,  // "socket:[INO]"
    pipe,    // "pipe:[INO]"
    anon,    // "anon_inode:[CLASS]", "anon_inode:CLASS", "pidfd:[INO]"
    other,   // a name that is no path: "net:[INO]", …
};
struct LinkText {
    LinkForm form = LinkForm::other;
    std::string_view class_name;       // anon, other
    std::optional<std::uint64_t> ino;  // socket, pipe, other
    bool ends_in_mark = false;         // ends in " (deleted)", whoever wrote that
};
[[nodiscard]] LinkText parse_link(std::string_view text);
[[nodiscard]] std::string_view without_mark(std::string_view text);

// Whether the last name of `path` is one that the NFS client gives to a file that is deleted while open (fs/nfs/unlink.c,
// nfs_sillyrename): ".nfs", 16 hexadecimal digits of the file's number, 8 of a counter.
[[nodiscard]] bool is_silly_name(std::string_view path);

// Whether the last name of `path` (mark taken off) is what O_TMPFILE makes: "#INO".
[[nodiscard]] bool is_tmpfile_name(std::string_view path, std::uint64_t ino);

}  // namespace fdspan::procfs
