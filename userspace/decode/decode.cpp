#include "decode/decode.hpp"
#include "base/file_mode.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstring>

namespace fdspan {
namespace {

// include/uapi/linux/magic.h
constexpr std::uint32_t anon_inode_magic = 0x09041934;
constexpr std::uint32_t pidfs_magic = 0x50494446;  // pidfds have a file system of their own since 6.9
constexpr std::uint32_t tmpfs_magic = 0x01021994;

constexpr std::size_t max_table_words = sizeof(fdspan_table_record::open_fds) / sizeof(fdspan_u64);

template <class T>
const T* as(const void* data, std::uint32_t size) {
    return size >= sizeof(T) ? static_cast<const T*>(data) : nullptr;
}

template <class View, class Raw>
Malformed fixed(const void* data, std::uint32_t size, Record& out) {
    const Raw* const raw = as<Raw>(data, size);
    if (raw == nullptr) return Malformed::size;
    out = View{raw};
    return Malformed::none;
}

Malformed decode_opened(const void* data, std::uint32_t size, Record& out) {
    const auto* const raw = as<fdspan_opened>(data, size);
    if (raw == nullptr) return Malformed::size;
    if (raw->fd < 0 || raw->how > FDSPAN_HOW_RECEIVED) return Malformed::number;
    if (raw->description_earliest_ns > raw->description_latest_ns) return Malformed::number;
    if (raw->path_bytes > size - sizeof(fdspan_opened)) return Malformed::path;
    const std::string_view names(reinterpret_cast<const char*>(raw + 1), raw->path_bytes);
    if (!names.empty() && names.back() != '\0') return Malformed::path;
    out = OpenedRecord{raw, names};
    return Malformed::none;
}

template <class View>
Malformed decode_closed(const void* data, std::uint32_t size, bool has_fd, Record& out) {
    const auto* const raw = as<fdspan_closed>(data, size);
    if (raw == nullptr) return Malformed::size;
    if (has_fd && raw->fd < 0) return Malformed::number;
    if (raw->description_earliest_ns > raw->description_latest_ns) return Malformed::number;
    const auto* const unlinked = as<fdspan_closed_unlinked>(data, size);
    if (raw->unlinked != 0 && unlinked == nullptr) return Malformed::size;
    out = View{raw, raw->unlinked != 0 ? unlinked : nullptr};
    return Malformed::none;
}

template <class View>
Malformed decode_table(const void* data, std::uint32_t size, Record& out) {
    const auto* const raw = as<fdspan_table_record>(data, size);
    if (raw == nullptr) return Malformed::size;
    if (raw->words > max_table_words) return Malformed::number;
    out = View{raw};
    return Malformed::none;
}

// Names that lie in a field of FDSPAN_NAMES_BYTES.
bool is_names(std::size_t bytes, const char* names) {
    return bytes <= FDSPAN_NAMES_BYTES && (bytes == 0 || names[bytes - 1] == '\0');
}

Malformed decode_unlinked(const void* data, std::uint32_t size, Record& out) {
    constexpr unsigned max_places = 2;
    const auto* const raw = static_cast<const fdspan_unlinked*>(data);
    if (size < FDSPAN_UNLINKED_BYTES(0)) return Malformed::size;
    if (raw->how > FDSPAN_UNLINK_MOVED || raw->places > max_places) return Malformed::number;
    if (size < FDSPAN_UNLINKED_BYTES(raw->places)) return Malformed::size;
    if (!is_names(raw->exe_bytes, raw->exe)) return Malformed::path;
    UnlinkedRecord view{raw, {raw->exe, raw->exe_bytes}, raw->places, {}};
    for (unsigned i = 0; i < raw->places; ++i) {
        const fdspan_place& place = raw->place[i];
        if (!is_names(place.base_bytes, place.base)) return Malformed::path;
        if (place.given_bytes > sizeof place.given) return Malformed::text;
        if (place.given_bytes != 0 && place.given[place.given_bytes - 1] != '\0') return Malformed::text;
        view.place[i] = {{place.base, place.base_bytes},
                         {place.given, place.given_bytes == 0 ? 0U : place.given_bytes - 1U},
                         (place.flags & FDSPAN_PLACE_BASE_CUT) != 0,
                         (place.flags & FDSPAN_PLACE_GIVEN_CUT) != 0};
    }
    out = view;
    return Malformed::none;
}

// The root's own name is "/", an unnamed dentry's is "": neither is a component.
bool is_component(std::string_view name) { return !name.empty() && name != "/"; }

std::string_view first_name(std::string_view names) { return names.substr(0, names.find('\0')); }

}  // namespace

std::string_view to_string(Malformed why) {
    switch (why) {
        case Malformed::none: return "none";
        case Malformed::misaligned: return "misaligned";
        case Malformed::short_header: return "shorter than a header";
        case Malformed::size: return "size";
        case Malformed::type: return "unknown type";
        case Malformed::path: return "path";
        case Malformed::number: return "number out of range";
        case Malformed::text: return "text without end";
    }
    return "?";
}

Malformed decode(const void* data, std::size_t bytes, Record& out) {
    if (reinterpret_cast<std::uintptr_t>(data) % alignof(fdspan_record) != 0) return Malformed::misaligned;
    if (bytes < sizeof(fdspan_record)) return Malformed::short_header;
    const auto* const header = static_cast<const fdspan_record*>(data);
    if (header->size > bytes) return Malformed::size;
    const std::uint32_t size = header->size;
    switch (header->type) {
        case FDSPAN_RECORD_OPENED: return decode_opened(data, size, out);
        case FDSPAN_RECORD_CLOSED: return decode_closed<ClosedRecord>(data, size, true, out);
        case FDSPAN_RECORD_RELEASED: return decode_closed<ReleasedRecord>(data, size, false, out);
        case FDSPAN_RECORD_FORK: return fixed<ForkRecord, fdspan_fork>(data, size, out);
        case FDSPAN_RECORD_EXEC: return decode_table<ExecRecord>(data, size, out);
        case FDSPAN_RECORD_EXIT: return fixed<ExitRecord, fdspan_exit>(data, size, out);
        case FDSPAN_RECORD_UNSHARED: return decode_table<UnsharedRecord>(data, size, out);
        case FDSPAN_RECORD_UNLINKED: return decode_unlinked(data, size, out);
        default: return Malformed::type;
    }
}

const fdspan_record& header_of(const Record& record) {
    return std::visit([](const auto& view) -> const fdspan_record& { return view.raw->header; }, record);
}

FileType file_type(std::uint32_t mode, std::uint32_t fs_magic) {
    if (fs_magic == anon_inode_magic || fs_magic == pidfs_magic) return FileType::anon;
    return file_type_of_mode(mode, FileType::unknown);
}

void assemble_path(const OpenedRecord& record, std::string& out) {
    out.clear();
    const fdspan_opened& raw = *record.raw;
    const FileType type = file_type(raw.mode, raw.fs_magic);
    if (type == FileType::anon) {
        const std::string_view label = first_name(record.names);
        if (raw.fs_magic == pidfs_magic) {
            out = "anon_inode:[pidfd]";  // what readlink shows, whatever file system they live on
        } else if (!label.empty()) {
            out.append("anon_inode:").append(label);
        }
        return;
    }
    if ((raw.path_flags & FDSPAN_PATH_LABEL) != 0) {
        out = first_name(record.names);
        return;
    }
    if ((raw.path_flags & FDSPAN_PATH_NONE) != 0) {
        if (type == FileType::sock) out = "socket:[" + std::to_string(raw.ino) + "]";
        if (type == FileType::fifo) out = "pipe:[" + std::to_string(raw.ino) + "]";
        return;
    }
    append_names(record.names, (raw.path_flags & FDSPAN_PATH_CUT) != 0, out);
}

void append_names(std::string_view names, bool is_cut, std::string& out) {
    const std::size_t start = out.size();
    if (is_cut) out += "…";
    // The names stand file first: walk them from the back.
    std::string_view rest = names;
    while (!rest.empty()) {
        rest.remove_suffix(1);
        const std::size_t before = rest.rfind('\0');
        const std::size_t begin = before == std::string_view::npos ? 0 : before + 1;
        const std::string_view name = rest.substr(begin);
        if (is_component(name)) out.append("/").append(name);
        rest = rest.substr(0, begin);
    }
    if (out.size() == start) out += '/';
}

std::string_view anon_class(std::string_view label) {
    constexpr std::string_view prefix = "anon_inode:";
    if (label.starts_with(prefix)) label.remove_prefix(prefix.size());
    else if (!label.starts_with('[')) return {};
    if (label.size() >= 2 && label.front() == '[' && label.back() == ']') return label.substr(1, label.size() - 2);
    return label;
}

NameState name_state(const OpenedRecord& record) {
    const fdspan_opened& raw = *record.raw;
    const FileType type = file_type(raw.mode, raw.fs_magic);
    if (type == FileType::anon || (raw.path_flags & FDSPAN_PATH_LABEL) != 0) return NameState::nameless;
    const bool no_path = (raw.path_flags & FDSPAN_PATH_NONE) != 0;
    if (no_path && (type == FileType::fifo || type == FileType::sock)) return NameState::nameless;
    if (raw.nlink == 0) {
        // The flag survives in f_flags (seen in fdinfo on 6.18).
        if ((raw.open_flags & O_TMPFILE) == O_TMPFILE) return NameState::tmpfile;
        // A memfd lives alone in the root of the kernel's internal tmpfs.
        if (raw.fs_magic == tmpfs_magic && first_name(record.names).starts_with("memfd:") &&
            record.names.find('\0') + 1 == record.names.size()) {
            return NameState::memfd;
        }
        return NameState::deleted;
    }
    if (no_path) return NameState::unknown;
    return (raw.path_flags & FDSPAN_PATH_UNLINKED) != 0 ? NameState::gone : NameState::named;
}

std::string_view comm_text(const char (&comm)[16]) { return {comm, ::strnlen(comm, sizeof comm)}; }

}  // namespace fdspan
