// What fdspand is told: by its configuration file, and over it by its command line.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/snapshot.hpp"
#include "base/result.hpp"
#include "service/control/protocol.hpp"
#include "service/control/server.hpp"
#include "service/log/event_log.hpp"
#include "service/monitor/monitor.hpp"

namespace fdspan::daemon {

inline constexpr const char* default_config_file = "/etc/fdspan/fdspand.json";

struct Config {
    Backend backend = Backend::automatic;
    bool pinned = true;
    std::uint32_t ring_bytes = 16U << 20;
    std::string database = "/var/lib/fdspan/events.db";  // "": none
    std::uint64_t max_age_ns = 30ULL * 24 * 3600 * 1'000'000'000;
    std::uint64_t max_bytes = 1ULL << 30;
    std::uint64_t commit_interval_ns = 500'000'000;
    service::LogPolicy policy;
    service::JsonlSettings jsonl;                        // path "": none
    bool journal = false;
    service::ControlSettings control{.path = service::default_socket};  // path "": none
    std::string metrics_address = "127.0.0.1:9731";     // "": none
    std::string textfile;                                // "": none
    service::MonitorSettings monitor;
};

// One setting: its place in the file, its option on the command line ("" where it has none), and what its text means.
struct Setting {
    std::string_view key;
    std::string_view option;
    std::string_view metavar;  // "": a switch; its text is "true" or "false"
    std::string_view help;
    Result<void> (*set)(Config& config, const std::string& text);
};
[[nodiscard]] const std::vector<Setting>& all_settings();

// The file's settings over those that are in `config`. Every key is known, or it is an error that names it.
Result<void> read_config(const std::string& path, Config& config);
Result<void> parse_config(std::string_view text, Config& config);

}  // namespace fdspan::daemon
