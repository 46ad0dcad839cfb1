#include "snapshot/procfs_parse.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>

namespace fdspan::procfs {
namespace {

template <class Number>
bool take(std::string_view& text, Number& number, int base = 10) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
    if (error != std::errc{}) return false;
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return true;
}

bool take(std::string_view& text, char expected) {
    if (text.empty() || text.front() != expected) return false;
    text.remove_prefix(1);
    return true;
}

std::string_view take_word(std::string_view& text, char separator = ' ') {
    const std::size_t end = text.find(separator);
    const std::string_view word = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    return word;
}

void skip_blanks(std::string_view& text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
}

bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

// The value of a "KEY:\tVALUE" line; `text` is moved behind the line.
std::optional<std::string_view> line_value(std::string_view line, std::string_view key) {
    if (!line.starts_with(key)) return std::nullopt;
    line.remove_prefix(key.size());
    skip_blanks(line);
    return line;
}

std::string_view remove_suffix(std::string_view text, std::string_view suffix) {
    if (text.ends_with(suffix)) text.remove_suffix(suffix.size());
    return text;
}

}  // namespace

std::optional<std::uint64_t> parse_number(std::string_view text, int base) {
    std::uint64_t number = 0;
    if (!take(text, number, base) || !text.empty()) return std::nullopt;
    return number;
}

std::optional<StatLine> parse_stat(std::string_view text) {
    StatLine line;
    if (!take(text, line.pid) || !take(text, ' ') || !take(text, '(')) return std::nullopt;
    // A name may hold anything, parentheses too, and has less than 64 bytes, those of 15 included that the kernel has to escape
    // (fs/proc/array.c, proc_task_name); the numbers that follow have none.
    constexpr std::size_t comm_bytes_max = 64;
    const std::size_t comm_end = text.rfind(')', comm_bytes_max);
    if (comm_end == std::string_view::npos) return std::nullopt;
    line.comm = text.substr(0, comm_end);
    text.remove_prefix(comm_end + 1);
    if (!take(text, ' ') || text.empty()) return std::nullopt;
    line.state = text.front();
    text.remove_prefix(1);
    // Numbers as proc(5) counts them: 4 ppid, 9 flags, 20 num_threads, 22 starttime.
    for (int field = 4; field <= 22; ++field) {
        if (!take(text, ' ')) return std::nullopt;
        bool understood = true;
        switch (field) {
            case 4: understood = take(text, line.ppid); break;
            case 9: understood = take(text, line.task_flags); break;
            case 20: understood = take(text, line.threads); break;
            case 22: understood = take(text, line.start_ticks); break;
            default: {
                std::size_t end = 0;
                while (end < text.size() && text[end] != ' ') ++end;
                text.remove_prefix(end);
                break;
            }
        }
        if (!understood) return std::nullopt;
    }
    if (!text.empty() && text.front() != ' ' && text.front() != '\n') return std::nullopt;
    return line;
}

std::optional<StatusIds> parse_status(std::string_view text) {
    StatusIds ids;
    bool tgid_seen = false;
    bool uid_seen = false;
    // The name's line is escaped by the kernel, so no name can forge another line.
    while (!text.empty() && !(tgid_seen && uid_seen)) {
        const std::string_view line = take_word(text, '\n');
        if (auto tgid = line_value(line, "Tgid:")) {
            if (!take(*tgid, ids.tgid)) return std::nullopt;
            tgid_seen = true;
        } else if (auto uid = line_value(line, "Uid:")) {
            if (!take(*uid, ids.uid)) return std::nullopt;
            uid_seen = true;
        }
    }
    if (!tgid_seen || !uid_seen) return std::nullopt;
    return ids;
}

std::optional<FdInfo> parse_fdinfo(std::string_view text) {
    FdInfo info;
    bool pos_seen = false;
    bool flags_seen = false;
    // The common lines come first, in this order (fs/proc/fd.c seq_show); what the file adds stands behind them.
    for (int lines = 0; lines < 4 && !text.empty(); ++lines) {
        const std::string_view line = take_word(text, '\n');
        if (auto pos = line_value(line, "pos:")) {
            std::int64_t number = 0;
            if (!take(*pos, number)) return std::nullopt;
            info.pos = static_cast<std::uint64_t>(number);
            pos_seen = true;
        } else if (auto flags = line_value(line, "flags:")) {
            if (!take(*flags, info.flags, 8)) return std::nullopt;
            flags_seen = true;
        } else if (auto mount = line_value(line, "mnt_id:")) {
            if (!take(*mount, info.mnt_id)) return std::nullopt;
        } else if (auto ino = line_value(line, "ino:")) {
            std::uint64_t number = 0;
            if (!take(*ino, number)) return std::nullopt;
            info.ino = number;
        } else {
            break;
        }
    }
    if (!pos_seen || !flags_seen) return std::nullopt;
    return info;
}

std::optional<MapsLine> parse_maps_line(std::string_view line) {
    MapsLine map;
    if (!take(line, map.start, 16) || !take(line, '-') || !take(line, map.end, 16) || !take(line, ' ')) return std::nullopt;
    if (map.start >= map.end || line.size() < 5 || line[4] != ' ') return std::nullopt;
    if (line[0] == 'r') map.protection |= PROT_READ;
    if (line[1] == 'w') map.protection |= PROT_WRITE;
    if (line[2] == 'x') map.protection |= PROT_EXEC;
    if (line[3] != 's' && line[3] != 'p') return std::nullopt;
    map.shared = line[3] == 's';
    line.remove_prefix(5);
    if (!take(line, map.offset, 16) || !take(line, ' ')) return std::nullopt;
    if (!take(line, map.dev.major, 16) || !take(line, ':') || !take(line, map.dev.minor, 16) || !take(line, ' ')) return std::nullopt;
    if (!take(line, map.ino)) return std::nullopt;
    // One space always follows; a name is padded to a column of its own, and no name begins with a space.
    if (!line.empty() && line.front() != ' ') return std::nullopt;
    while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
    map.path = line;
    return map;
}

void decode_octal(std::string_view text, std::string& decoded) {
    decoded.clear();
    while (!text.empty()) {
        const std::size_t plain = std::min(text.find('\\'), text.size());
        decoded.append(text.substr(0, plain));
        text.remove_prefix(plain);
        if (text.empty()) break;
        const auto digit = [&](std::size_t at, char highest) { return text[at] >= '0' && text[at] <= highest; };
        if (text.size() >= 4 && digit(1, '3') && digit(2, '7') && digit(3, '7')) {
            decoded.push_back(static_cast<char>((text[1] - '0') * 64 + (text[2] - '0') * 8 + (text[3] - '0')));
            text.remove_prefix(4);
        } else {
            decoded.push_back('\\');
            text.remove_prefix(1);
        }
    }
}

void decode_newlines(std::string_view text, std::string& decoded) {
    constexpr std::string_view newline = "\\012";
    decoded.clear();
    for (std::size_t at = text.find(newline); at != std::string_view::npos; at = text.find(newline)) {
        decoded.append(text.substr(0, at)).push_back('\n');
        text.remove_prefix(at + newline.size());
    }
    decoded.append(text);
}

std::optional<MountLine> parse_mountinfo_line(std::string_view line) {
    MountLine mount;
    if (!take(line, mount.id) || !take(line, ' ') || !take(line, mount.parent) || !take(line, ' ')) return std::nullopt;
    if (!take(line, mount.dev.major) || !take(line, ':') || !take(line, mount.dev.minor) || !take(line, ' ')) return std::nullopt;
    mount.root = take_word(line);
    mount.mount_point = take_word(line);
    if (mount.root.empty() || mount.mount_point.empty()) return std::nullopt;
    take_word(line);  // options
    // Any number of optional fields, ended by "-".
    while (!line.empty()) {
        if (take_word(line) != "-") continue;
        mount.type = take_word(line);
        if (mount.type.empty()) return std::nullopt;
        take_word(line);  // source; may be empty
        mount.super_options = line;
        return mount;
    }
    return std::nullopt;
}

std::optional<CgroupLine> parse_cgroup_line(std::string_view line) {
    CgroupLine cgroup;
    if (!take(line, cgroup.hierarchy) || !take(line, ':')) return std::nullopt;
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return std::nullopt;
    cgroup.controllers = line.substr(0, colon);
    cgroup.path = line.substr(colon + 1);
    if (cgroup.path.empty() || cgroup.path.front() != '/') return std::nullopt;
    return cgroup;
}

CgroupChoice choose_cgroup(std::string_view text) {
    CgroupChoice choice;
    int best_rank = -1;
    while (!text.empty()) {
        const auto line = parse_cgroup_line(take_word(text, '\n'));
        if (!line) {
            ++choice.unparsed_lines;
            continue;
        }
        int rank = 1;
        if (line->path == "/") rank = 0;
        else if (line->hierarchy == 0) rank = 3;
        else if (line->controllers == "name=systemd") rank = 2;
        if (rank > best_rank || (rank == best_rank && line->path.size() > choice.path.size())) {
            best_rank = rank;
            choice.path = line->path;
        }
    }
    return choice;
}

namespace {

// The id at the front of `text` when it is one: 64 hex digits (or any other even count from 32 on, as older tools made them).
std::string_view container_id(std::string_view text) {
    const auto end = std::find_if_not(text.begin(), text.end(), is_hex);
    if (end != text.end() || text.size() < 32 || text.size() > 64) return {};
    return text.substr(0, 12);
}

// systemd's unit name escaping: "\x2d" stands for one byte.
std::string unit_unescape(std::string_view text) {
    std::string name;
    while (!text.empty()) {
        unsigned byte = 0;
        std::string_view digits = text.starts_with("\\x") ? text.substr(2, 2) : std::string_view{};
        if (digits.size() == 2 && take(digits, byte, 16) && digits.empty()) {
            name.push_back(static_cast<char>(byte));
            text.remove_prefix(4);
        } else {
            name.push_back(text.front());
            text.remove_prefix(1);
        }
    }
    return name;
}

struct ScopeRule {
    std::string_view prefix;
    std::string_view runtime;
};
constexpr std::array<ScopeRule, 5> scope_rules{{
    {"docker-", "docker:"},
    {"cri-containerd-", "containerd:"},
    {"nerdctl-", "containerd:"},
    {"libpod-", "podman:"},
    {"crio-", "crio:"},
}};

}  // namespace

std::string container_hint(std::string_view cgroup_path) {
    std::string hint;
    std::string_view parent;
    bool below_kubepods = false;
    while (!cgroup_path.empty()) {
        const std::string_view part = take_word(cgroup_path, '/');
        const std::string_view bare = remove_suffix(part, ".scope");
        std::string found;
        for (const ScopeRule& rule : scope_rules) {
            if (!bare.starts_with(rule.prefix)) continue;
            if (const auto id = container_id(bare.substr(rule.prefix.size())); !id.empty()) found.append(rule.runtime).append(id);
        }
        if (found.empty()) {
            if (part.starts_with("lxc.payload.") && part.size() > 12) {
                found.append("lxc:").append(part.substr(12));
            } else if (parent == "lxc" && !part.empty()) {
                found.append("lxc:").append(part);
            } else if (parent == "machine.slice" && part.starts_with("machine-") && part.ends_with(".scope") && bare.size() > 8) {
                found.append("machine:").append(unit_unescape(bare.substr(8)));
            } else if (part.starts_with("systemd-nspawn@") && part.ends_with(".service") && part.size() > 23) {
                found.append("machine:").append(unit_unescape(part.substr(15, part.size() - 23)));
            } else if (const auto id = container_id(part); !id.empty()) {
                if (parent == "docker") found.append("docker:").append(id);
                else if (below_kubepods) found.append("kubernetes:").append(id);
            }
        }
        if (!found.empty()) hint = std::move(found);
        if (part.starts_with("kubepods")) below_kubepods = true;
        parent = part;
    }
    return hint;
}

std::string_view without_mark(std::string_view text) { return remove_suffix(text, deleted_mark); }

LinkText parse_link(std::string_view text) {
    LinkText link;
    link.ends_in_mark = text.size() > deleted_mark.size() && text.ends_with(deleted_mark);
    if (!text.empty() && text.front() == '/') {
        link.form = LinkForm::path;
        return link;
    }
    const std::size_t colon = std::min(text.find(':'), text.size());
    const std::string_view kind = text.substr(0, colon);
    std::string_view inside = text.substr(std::min(colon + 1, text.size()));
    if (inside.size() >= 2 && inside.front() == '[' && inside.back() == ']') inside = inside.substr(1, inside.size() - 2);
    if (kind == "anon_inode") {
        link.form = LinkForm::anon;
        link.class_name = inside;
        return link;
    }
    link.class_name = kind;
    link.ino = parse_number(inside);
    if (!link.ino) return link;
    if (kind == "socket") link.form = LinkForm::socket;
    else if (kind == "pipe") link.form = LinkForm::pipe;
    else if (kind == "pidfd") link.form = LinkForm::anon;
    return link;
}

bool is_silly_name(std::string_view path) {
    constexpr std::string_view prefix = ".nfs";
    constexpr std::size_t digits = 24;
    const std::string_view name = path.substr(path.rfind('/') + 1);
    return name.size() == prefix.size() + digits && name.starts_with(prefix) &&
           name.find_first_not_of("0123456789abcdef", prefix.size()) == std::string_view::npos;
}

bool is_tmpfile_name(std::string_view path, std::uint64_t ino) {
    const std::size_t slash = path.rfind('/');
    if (slash != std::string_view::npos) path.remove_prefix(slash + 1);
    if (path.size() < 2 || path.front() != '#') return false;
    return parse_number(path.substr(1)) == ino;
}

}  // namespace fdspan::procfs
