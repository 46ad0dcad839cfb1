#include "check.hpp"
#include "snapshot/procfs_parse.hpp"

using namespace fdspan;
using namespace fdspan::procfs;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text = input(data, size);
    const std::string_view line = text.substr(0, text.find('\n'));
    if (const auto map = parse_maps_line(line)) {
        require_inside(map->path, line);
        require(map->start < map->end);
        require(map->path.empty() || map->path.front() != ' ');
        std::string decoded;
        decode_newlines(map->path, decoded);
        require(decoded.size() <= map->path.size());
        require(decoded.find("\\012") == std::string::npos);
    }
    return 0;
}
