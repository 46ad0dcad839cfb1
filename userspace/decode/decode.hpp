// decode: from one raw ring record to a typed view. Nothing in the record is believed before it was checked: sizes, counts,
// and that every name ends. Views point into the record and live as long as it does. Stateless, hence thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "base/reference.hpp"
#include "wire.h"

namespace fdspan {

struct OpenedRecord {
    const fdspan_opened* raw;
    std::string_view names;  // from the file up to the root, each ending in NUL
};
struct ClosedRecord {
    const fdspan_closed* raw;
    const fdspan_closed_unlinked* unlinked;  // the file had no links; else null
};
struct ReleasedRecord {
    const fdspan_closed* raw;
    const fdspan_closed_unlinked* unlinked;
};
struct ForkRecord {
    const fdspan_fork* raw;
};
struct ExecRecord {
    const fdspan_table_record* raw;
};
struct ExitRecord {
    const fdspan_exit* raw;
};
struct UnsharedRecord {
    const fdspan_table_record* raw;
};
// A path as a caller gave it to the kernel.
struct GivenPath {
    std::string_view base;   // names as in OpenedRecord: the directory it starts from
    std::string_view given;  // the text, or its end
    bool base_cut = false;
    bool given_cut = false;
};
struct UnlinkedRecord {
    const fdspan_unlinked* raw;
    std::string_view exe;    // names
    unsigned places = 0;
    GivenPath place[2];
};
using Record = std::variant<OpenedRecord, ClosedRecord, ReleasedRecord, ForkRecord, ExecRecord, ExitRecord, UnsharedRecord,
                            UnlinkedRecord>;

enum class Malformed : std::uint8_t { none, misaligned, short_header, size, type, path, number, text };
[[nodiscard]] std::string_view to_string(Malformed why);

// Puts the view into `out` and returns Malformed::none, or says what is wrong and leaves `out` alone.
[[nodiscard]] Malformed decode(const void* data, std::size_t bytes, Record& out);
[[nodiscard]] const fdspan_record& header_of(const Record& record);

// The kernel's dev_t (major << 20 | minor) as user space prints it.
[[nodiscard]] constexpr DeviceNumber device_number(std::uint32_t kernel_dev) {
    return {kernel_dev >> 20, kernel_dev & 0xfffffU};
}
[[nodiscard]] constexpr std::uint32_t kernel_device(DeviceNumber dev) { return dev.major << 20 | (dev.minor & 0xfffffU); }

[[nodiscard]] FileType file_type(std::uint32_t mode, std::uint32_t fs_magic);

// The text that readlink(2) on the magic link would show, without the kernel's " (deleted)" mark:
// "/a/b", "…/b" when the walk was cut, "anon_inode:[eventpoll]", "pipe:[12]", "" when nothing is known.
void assemble_path(const OpenedRecord& record, std::string& out);

// "/a/b" of the names "b", "a", as OPENED and UNLINKED carry them; "…/b" of what was cut; "/" of none.
void append_names(std::string_view names, bool is_cut, std::string& out);

// "eventpoll" of "anon_inode:[eventpoll]" and of "[eventpoll]"; "" for anything else.
[[nodiscard]] std::string_view anon_class(std::string_view label);

[[nodiscard]] NameState name_state(const OpenedRecord& record);

// A comm as the kernel keeps it: at most 16 bytes, NUL-terminated unless full.
[[nodiscard]] std::string_view comm_text(const char (&comm)[16]);

}  // namespace fdspan
