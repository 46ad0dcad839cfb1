#include "check.hpp"
#include "snapshot/procfs_parse.hpp"

using namespace fdspan;
using namespace fdspan::procfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = input(data, size);
    if (const auto line = parse_stat(text)) {
        require_inside(line->comm, text);
        // What stands behind the comm holds no parenthesis, so nothing in it can pass for a comm.
        require(text.substr(static_cast<std::size_t>(line->comm.data() - text.data()) + line->comm.size() + 1).find(')') == std::string_view::npos);
    }
    return 0;
}
