// What `deleted` and `deleted --libraries` share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "filter.hpp"
#include "options.hpp"
#include "service/control/protocol.hpp"

namespace fdspan::cli {

struct DeletedOptions {
    enum class By : std::uint8_t { file, process, container, filesystem };
    std::vector<PathFilter> paths;
    ProcessFilter processes;
    std::optional<std::uint64_t> older_than_ns;
    std::optional<std::uint64_t> min_bytes;
    std::optional<std::uint64_t> limit;
    By by = By::file;
    bool nameless = false;
    bool gone = false;
    bool libraries = false;
    bool explain = false;
    bool json = false;
    bool no_headings = false;
    bool human_sizes = false;
    Backend backend = Backend::automatic;
    ColorMode color = ColorMode::automatic;
    std::string socket = service::default_socket;
    bool ask_daemon = true;
};

int list_libraries(const DeletedOptions& options, Output& output);

// Whether what could not be read may be what was asked for: then "nothing" is no answer.
[[nodiscard]] bool may_match(const DeletedOptions& options, const SnapshotGaps& gaps, std::uint64_t unreadable);
// Says what is missing, and which exit code that makes.
[[nodiscard]] int finish_answer(Output& output, const std::vector<std::string>& gaps, bool empty, bool complete, bool may_match);

}  // namespace fdspan::cli
