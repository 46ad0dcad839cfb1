// What the subcommands share: parsing a command line into one clear answer or one clear complaint.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "api/snapshot.hpp"
#include "base/result.hpp"
#include "output.hpp"

namespace fdspan::cli {

// One subcommand: what main() and the help list.
struct Command {
    std::string_view name;
    std::string_view summary;
    int (*run)(std::vector<std::string> arguments, Output& output);
};

int run_ls(std::vector<std::string> arguments, Output& output);
int run_watch(std::vector<std::string> arguments, Output& output);
int run_deleted(std::vector<std::string> arguments, Output& output);
int run_recover(std::vector<std::string> arguments, Output& output);
int run_arm(std::vector<std::string> arguments, Output& output);
int run_disarm(std::vector<std::string> arguments, Output& output);
int run_check(std::vector<std::string> arguments, Output& output);
int run_log(std::vector<std::string> arguments, Output& output);
int run_doctor(std::vector<std::string> arguments, Output& output);

// Every value option goes through here: its text is handed to `parse`, whose complaint becomes the one line on stderr.
using ParseText = std::function<Result<void>(const std::string& text)>;
CLI::Option* add_value(CLI::App& app, const std::string& names, const std::string& metavar, const std::string& help, ParseText parse);
// The same for options that may be given more than once.
CLI::Option* add_repeated(CLI::App& app, const std::string& names, const std::string& metavar, const std::string& help, ParseText parse);

// An option without a value; "--json=3" is refused.
void add_flag(CLI::App& app, const std::string& names, bool& flag, const std::string& help);

// Runs the parser. Empty: go on. Otherwise the exit code: 0 after --help, 2 after one line on stderr.
[[nodiscard]] std::optional<int> parse_arguments(CLI::App& app, std::vector<std::string> arguments, Output& output);

// One line on stderr, exit code 2.
[[nodiscard]] int usage_error(std::string_view message);

void add_backend(CLI::App& app, Backend& backend, bool with_procfs = true);
void add_color(CLI::App& app, ColorMode& color);
// --socket, and --no-daemon for commands that can do without.
void add_socket(CLI::App& app, const std::string& help, std::string& socket);
void add_no_daemon(CLI::App& app, bool& ask_daemon);

// For SnapshotRequest::threads: the CPUs that this program may use.
[[nodiscard]] unsigned reading_threads();

[[nodiscard]] Result<std::uint64_t> parse_count(std::string_view text, std::uint64_t least, std::uint64_t most);
// --max-entries: the bound of a kernel map.
[[nodiscard]] Result<std::uint32_t> parse_max_entries(std::string_view text);
// "12" or "12,13"; appended to `pids`.
[[nodiscard]] Result<void> parse_pids(std::string_view text, std::vector<pid_t>& pids);
// Calls `each` with every part between commas.
[[nodiscard]] Result<void> for_each_part(std::string_view text, const std::function<Result<void>(std::string_view)>& each);

}  // namespace fdspan::cli
