#include "check.hpp"
#include "snapshot/procfs_mounts.hpp"

using namespace fdspan;
using namespace fdspan::procfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = input(data, size);
    MountTable table;
    const std::uint64_t unparsed = table.parse(text);
    table.trust_layers();
    require(unparsed + table.mounts().size() <= text.size());
    for (const Mount& mount : table.mounts()) {
        require(mount.point.size() <= text.size());
        const Mount* const found = table.mount_of(mount.point);
        require(found == nullptr || mount.point.starts_with(found->point) || found->point == "/");
    }
    return 0;
}
