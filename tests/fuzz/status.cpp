#include "check.hpp"
#include "snapshot/procfs_parse.hpp"

using namespace fdspan;
using namespace fdspan::procfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = input(data, size);
    static_cast<void>(parse_status(text));
    return 0;
}
