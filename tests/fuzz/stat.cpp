#include "check.hpp"
#include "snapshot/procfs_parse.hpp"

using namespace fdspan;
using namespace fdspan::procfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = input(data, size);
    if (const auto line = parse_stat(text)) {
        require_inside(line->comm, text);
        // A comm may hold parentheses, so it ends at the last one that it can reach.
        const auto begin = static_cast<std::size_t>(line->comm.data() - text.data());
        require(text.rfind(')', begin + 64) == begin + line->comm.size());
    }
    return 0;
}
