// fdspan check: a plugin for Nagios, Icinga and their like. Its exit codes are theirs, not those of the other commands.
#include <algorithm>
#include <cstdio>

#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "duration.hpp"
#include "options.hpp"
#include "service/control/client.hpp"
#include "text.hpp"
#include "wall_time.hpp"

namespace fdspan::cli {
namespace {

using nlohmann::json;

enum class Verdict : int { ok = 0, warning = 1, critical = 2, unknown = 3 };
constexpr std::string_view verdict_names[] = {"OK", "WARNING", "CRITICAL", "UNKNOWN"};

struct Threshold {
    std::optional<std::uint64_t> warning, critical;
    [[nodiscard]] Verdict judge(std::uint64_t value) const {
        if (critical && value >= *critical) return Verdict::critical;
        if (warning && value >= *warning) return Verdict::warning;
        return Verdict::ok;
    }
};

struct CheckOptions {
    std::string socket = service::default_socket;
    Threshold bytes{std::uint64_t{1} << 30, std::uint64_t{10} << 30};
    Threshold age_ns{86'400'000'000'000, std::nullopt};
    Threshold fds_percent{80, 95};
    Threshold leaks{1, std::nullopt};
};

// The line that a plugin has: what holds, then what can be drawn.
int finish(Verdict verdict, const std::string& text, const std::string& figures, Output& output) {
    output.write("FDSPAN " + std::string(verdict_names[static_cast<int>(verdict)]) + " - " + text + (figures.empty() ? "" : " | " + figures) + "\n");
    // What nobody could read is no verdict, least of all the one whose code is that of an error elsewhere.
    return static_cast<int>(output.finish(exit_done) == exit_error ? Verdict::unknown : verdict);
}

std::string human(std::uint64_t bytes) {
    constexpr std::string_view units = "KMGTP";
    if (bytes < 1024) return std::to_string(bytes) + "B";
    auto value = static_cast<double>(bytes) / 1024;
    std::size_t unit = 0;
    for (; value >= 1023.95 && unit + 1 < units.size(); value /= 1024) ++unit;
    char text[32];
    std::snprintf(text, sizeof text, "%.1f%c", value, units[unit]);
    return text;
}

std::string figure(std::string_view name, const std::string& value, std::string_view unit, const Threshold& threshold, std::uint64_t scale, std::string_view range) {
    const auto limit = [scale](const std::optional<std::uint64_t>& at) { return at ? std::to_string(*at / scale) : std::string(); };
    return std::string(name) + "=" + value + std::string(unit) + ";" + limit(threshold.warning) + ";" + limit(threshold.critical) + ";" + std::string(range);
}

// A "|" would begin the figures.
std::string words(const std::string& name) {
    std::string text = escape(name);
    std::replace(text.begin(), text.end(), '|', '!');
    return text;
}

int judge(const CheckOptions& options, const json& facts, Output& output) {
    Verdict verdict = Verdict::ok;
    std::vector<std::string> parts;
    const auto found = [&](Verdict how, const std::string& text) {
        if (how == Verdict::ok) return;
        verdict = std::max(verdict, how);
        parts.push_back(text);
    };
    const auto process_name = [](const json& of) { return words(of.at("comm").get<std::string>()) + "[" + std::to_string(of.at("pid").get<std::int64_t>()) + "]"; };

    const auto bytes = facts.at("deleted_bytes").get<std::uint64_t>();
    const auto files = facts.at("deleted_files").get<std::uint64_t>();
    const auto oldest_ns = facts.at("deleted_oldest_ns").get<std::uint64_t>();
    std::string held = (facts.value("deleted_more", false) ? "at least " : "") + human(bytes) + " in " + std::to_string(files) + (files == 1 ? " deleted file" : " deleted files") + " held";
    if (!facts.at("deleted").empty()) {
        const json& largest = facts.at("deleted").front();
        held += " (the largest: " + words(largest.at("path").get<std::string>()) + ", " + human(largest.at("bytes").get<std::uint64_t>()) + ", by " +
                process_name(largest) + ")";
    }
    found(options.bytes.judge(bytes), held);
    found(options.age_ns.judge(oldest_ns), "a deleted file is held since " + format_duration(oldest_ns));

    std::uint64_t nearest = 0;
    for (const json& load : facts.at("loads")) {
        const auto open = load.at("open").get<std::uint64_t>();
        const auto limit = load.at("limit").get<std::uint64_t>();
        const std::uint64_t percent = open * 100 / limit;
        nearest = std::max(nearest, percent);
        found(options.fds_percent.judge(percent), process_name(load) + " has " + std::to_string(open) + " of " + std::to_string(limit) + " descriptors open");
    }
    for (const json& leak : facts.at("leaks")) {
        const std::string rate = std::to_string(leak.at("from").get<std::uint64_t>()) + " to " + std::to_string(leak.at("to").get<std::uint64_t>()) +
                                 " descriptors in " + format_duration(leak.at("window_ns").get<std::uint64_t>());
        const auto oldest_age_ns = leak.at("oldest_age_ns").get<std::uint64_t>();
        found(options.leaks.judge(facts.at("leaks").size()),
              process_name(leak) + " may leak: from " + rate + " and never fewer; " + std::to_string(leak.at("files_new").get<std::uint64_t>()) + " of the new ones are " +
                  words(leak.at("files").get<std::string>()) + ", " + std::to_string(leak.at("files_open").get<std::uint64_t>()) + " of which are open, the oldest for " +
                  format_duration(oldest_age_ns));
    }
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : "; ") + part;
    if (text.empty()) text = held;
    // That is over in a moment, and no reason to wake anybody; fdspan_lost_events_total is there for losses that last.
    if (!facts.value("certain", true)) text += "; events were lost or wait to be read, so that figures may be out of date";
    const std::string figures = figure("deleted_bytes", std::to_string(bytes), "B", options.bytes, 1, "0") + " " +
                                figure("deleted_files", std::to_string(files), "", {}, 1, "0") + " " +
                                figure("deleted_oldest", std::to_string(oldest_ns / 1'000'000'000), "s", options.age_ns, 1'000'000'000, "0") + " " +
                                figure("fds", std::to_string(nearest), "%", options.fds_percent, 1, "0;100") + " " +
                                figure("leaks", std::to_string(facts.at("leaks").size()), "", options.leaks, 1, "0");
    return finish(verdict, text, figures, output);
}

ParseText into(std::optional<std::uint64_t>& target, Result<std::uint64_t> (*parse)(std::string_view)) {
    return [&target, parse](const std::string& text) -> Result<void> {
        if (text == "none") {
            target.reset();
            return {};
        }
        const Result<std::uint64_t> parsed = parse(text);
        if (!parsed) return tl::unexpected(parsed.error());
        target = *parsed;
        return {};
    };
}

Result<std::uint64_t> parse_percent(std::string_view text) { return parse_count(text, 1, 100); }
Result<std::uint64_t> parse_number(std::string_view text) { return parse_count(text, 1, 1U << 30); }

}  // namespace

int run_check(std::vector<std::string> arguments, Output& output) {
    CheckOptions options;
    CLI::App app("Judge deleted space, limits and leaks as fdspand sees them, in one line for Nagios, Icinga and their like.", "fdspan check");
    app.footer(
        "Without privileges it judges the caller's own processes only. A threshold may be \"none\".\n"
        "Exit codes, other than those of the other commands: 0 ok, 1 warning, 2 critical, 3 unknown (no daemon, a usage error, or no way to say it).");
    add_value(app, "--warn-bytes", "N", "Bytes that deleted files hold [1G]", into(options.bytes.warning, parse_bytes));
    add_value(app, "--crit-bytes", "N", "The same, critical [10G]", into(options.bytes.critical, parse_bytes));
    add_value(app, "--warn-age", "DUR", "How long a deleted file is held [1d]", into(options.age_ns.warning, parse_duration_ns));
    add_value(app, "--crit-age", "DUR", "The same, critical [none]", into(options.age_ns.critical, parse_duration_ns));
    add_value(app, "--warn-fds", "PERCENT", "Part of its RLIMIT_NOFILE that a process has in use [80]", into(options.fds_percent.warning, parse_percent));
    add_value(app, "--crit-fds", "PERCENT", "The same, critical [95]", into(options.fds_percent.critical, parse_percent));
    add_value(app, "--warn-leaks", "N", "Processes whose descriptors only become more [1]", into(options.leaks.warning, parse_number));
    add_value(app, "--crit-leaks", "N", "The same, critical [none]", into(options.leaks.critical, parse_number));
    add_socket(app, "Where the daemon listens", options.socket);
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) {
        return *done == exit_error ? static_cast<int>(Verdict::unknown) : *done;
    }
    const Result<std::string> answer = service::ask_check(options.socket);
    if (!answer) return finish(Verdict::unknown, "fdspand: " + words(answer.error().message), {}, output);
    try {
        return judge(options, json::parse(*answer), output);
    } catch (const json::exception& error) {
        return finish(Verdict::unknown, "fdspand's answer is not understood: " + words(error.what()), {}, output);
    }
}

}  // namespace fdspan::cli
