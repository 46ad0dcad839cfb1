// What stands between an answer and completeness, in words: `ls` and `deleted` say the same.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "api/snapshot.hpp"
#include "filter.hpp"

namespace fdspan::cli {

[[nodiscard]] std::string plural(std::uint64_t count, std::string_view one, std::string_view many);

// Processes of `asked` that could not be read.
[[nodiscard]] std::uint64_t count_unreadable(const Snapshot& snapshot, const ProcessFilter& asked);

// Each a part of one sentence; empty when nothing is missing.
[[nodiscard]] std::vector<std::string> describe_gaps(const SnapshotAnswer& answer, const ProcessFilter& asked, std::uint64_t unreadable);

// "gaps":{...} and a comma.
void append_gaps_json(std::string& out, const SnapshotGaps& gaps, std::uint64_t unreadable);

}  // namespace fdspan::cli
