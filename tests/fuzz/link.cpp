#include "check.hpp"
#include "snapshot/procfs_parse.hpp"

using namespace fdspan;
using namespace fdspan::procfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = input(data, size);
    const LinkText link = parse_link(text);
    require_inside(link.class_name, text);
    require(!link.ends_in_mark || without_mark(text).size() + deleted_mark.size() == text.size());
    static_cast<void>(is_tmpfile_name(text, link.ino.value_or(1)));
    static_cast<void>(parse_number(text, 16));
    return 0;
}
