#include "check.hpp"
#include "snapshot/procfs_parse.hpp"

using namespace fdspan;
using namespace fdspan::procfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = input(data, size);
    const CgroupChoice choice = choose_cgroup(text);
    require_inside(choice.path, text);
    require(choice.path.empty() || choice.path.front() == '/');
    require(container_hint(choice.path).size() <= choice.path.size() + 16);
    static_cast<void>(container_hint(text));
    return 0;
}
