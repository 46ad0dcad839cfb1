#include "check.hpp"
#include "snapshot/procfs_mounts.hpp"

using namespace fdspan;
using namespace fdspan::procfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = input(data, size);
    MountTable table;
    const std::uint64_t unparsed = table.parse(text);
    require(unparsed + table.mounts().size() <= text.size());
    for (const Mount& mount : table.mounts()) {
        require(mount.point.size() <= text.size());
        static_cast<void>(table.walk_is_local(mount.point));
    }
    return 0;
}
