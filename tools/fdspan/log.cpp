// fdspan log: what the daemon wrote down.
#include <poll.h>
#include <signal.h>

#include <cerrno>
#include <charconv>
#include <ctime>
#include <limits>

#include <spdlog/spdlog.h>

#include "base/clock.hpp"
#include "duration.hpp"
#include "log_format.hpp"
#include "options.hpp"
#include "service/log/reader.hpp"
#include "text.hpp"
#include "wall_time.hpp"

namespace fdspan::cli {
namespace {

using service::LogQuery;
using service::LogReader;
using service::LogRow;

constexpr const char* default_database = "/var/lib/fdspan/events.db";
constexpr std::uint64_t default_limit = 1000;
// Before it follows: what led here.
constexpr std::uint64_t follow_limit = 10;
constexpr int follow_interval_ms = 200;

struct LogOptions {
    std::string database = default_database;
    LogQuery query;
    bool limit_said = false;
    bool json = false, csv = false, follow = false;
    ColorMode color = ColorMode::automatic;
};

class LogPrinter {
public:
    LogPrinter(const LogOptions& options, Output& output) : options_(options), output_(output), color_(make_palette(options.color)) {
        if (options.csv) output_.write(log_csv_heading());
    }
    void print(const LogRow& row) {
        ++printed_;
        if (options_.json) {
            append_log_json(output_.buffer(), row);
            output_.buffer() += '\n';
        } else if (options_.csv) {
            append_log_csv(output_.buffer(), row);
        } else {
            append_log_text(output_.buffer(), row, color_, users_);
        }
        output_.written();
    }
    [[nodiscard]] std::uint64_t printed() const { return printed_; }

private:
    const LogOptions& options_;
    Output& output_;
    Palette color_;
    UserNames users_;
    std::uint64_t printed_ = 0;
};

std::string explain_failure(const LogOptions& options, const Error& error) {
    std::string text = escape(error.message);
    if (error.code == SQLITE_CANTOPEN) text += "; is fdspand running, and may you read " + escape(options.database) + "?";
    return text;
}

volatile sig_atomic_t stop_requested = 0;
void request_stop(int) { stop_requested = 1; }

int follow(const LogOptions& options, LogReader reader, Output& output) {
    struct sigaction action {};
    action.sa_handler = request_stop;
    action.sa_flags = SA_RESETHAND;
    for (const int number : {SIGINT, SIGTERM}) ::sigaction(number, &action, nullptr);
    LogPrinter printer(options, output);
    const auto print = [&](const LogRow& row) {
        printer.print(row);
        return !output.broken();
    };
    auto last = reader.last_id();
    if (!last) return usage_error(explain_failure(options, last.error()));
    std::vector<LogRow> before;
    LogQuery first = options.query;
    if (!options.limit_said) first.limit = follow_limit;
    auto done = reader.query(first, [&](const LogRow& row) {
        // What was written since comes below.
        if (row.id <= *last) before.push_back(row);
        return true;
    });
    if (!done) return usage_error(explain_failure(options, done.error()));
    for (auto row = before.rbegin(); row != before.rend(); ++row) print(*row);
    while (stop_requested == 0) {
        output.flush();
        if (output.broken()) break;
        // A reader that goes away is noticed although nothing happens.
        pollfd wait{1, 0, 0};
        const int ready = ::poll(&wait, 1, follow_interval_ms);
        if (ready > 0 && (wait.revents & POLLERR) != 0) break;
        // Put back after it was deleted, or begun anew after it was found corrupt.
        if (!reader.is_current()) {
            auto reopened = LogReader::open(options.database);
            if (!reopened) continue;
            auto there = reopened->last_id();
            if (!there) continue;
            if (*there < *last) *last = 0;
            reader = std::move(*reopened);
        }
        last = reader.query_after(options.query, *last, print);
        if (!last) return usage_error(explain_failure(options, last.error()));
    }
    return output.finish(exit_done);
}

int show(const LogOptions& options, LogReader reader, Output& output) {
    LogPrinter printer(options, output);
    // One more than asked for tells whether there is more.
    LogQuery query = options.query;
    if (query.limit) ++*query.limit;
    bool more = false;
    auto done = reader.query(query, [&](const LogRow& row) {
        if (options.query.limit && printer.printed() == *options.query.limit) {
            more = true;
            return false;
        }
        printer.print(row);
        return !output.broken();
    });
    if (!done) return usage_error(explain_failure(options, done.error()));
    output.flush();
    if (output.broken()) return output.finish(exit_done);
    auto lost = reader.lost(query.since_ns, query.until_ns);
    if (!lost) return usage_error(explain_failure(options, lost.error()));
    if (more && !options.limit_said) spdlog::info("these are the newest {}; --limit N or --limit all shows more", *options.query.limit);
    if (*lost != 0) spdlog::warn("incomplete: {} event{} of this time could not be kept", *lost, *lost == 1 ? "" : "s");
    if (printer.printed() == 0) {
        spdlog::warn("nothing matched");
        if (*lost == 0) return output.finish(exit_nothing_matched);
    }
    return output.finish(*lost != 0 ? exit_incomplete : exit_done);
}

// "pipe:[12]" and "anon_inode:[eventfd]", as they are shown, are names, not sets of characters.
bool take_label(const std::string& text, LogQuery& query) {
    std::string plain;
    for (std::size_t at = 0; at < text.size(); ++at) {
        if (text[at] == '\\' && at + 1 < text.size() && (text[at + 1] == '[' || text[at + 1] == ']')) ++at;
        plain += text[at];
    }
    const std::size_t bracket = plain.find(":[");
    if (bracket == std::string::npos || plain.find('/') != std::string::npos || !plain.ends_with(']')) return false;
    const std::string_view inside = std::string_view(plain).substr(bracket + 2, plain.size() - bracket - 3);
    std::uint64_t ino = 0;
    const auto [end, error] = std::from_chars(inside.data(), inside.data() + inside.size(), ino);
    if (error == std::errc() && end == inside.data() + inside.size()) {
        query.path_glob = plain.substr(0, bracket + 1);
        query.ino = ino;
        return true;
    }
    if (plain != text || plain.find_first_of("*?\\") != std::string::npos) return false;
    query.path_glob = plain.insert(bracket + 1, "\\");
    return true;
}

ParseText into_time(std::optional<std::int64_t>& target) {
    return [&target](const std::string& text) -> Result<void> {
        const Result<std::int64_t> parsed = parse_wall_time_ns(text, WallClock::now().to_realtime_ns(boottime_now_ns()));
        if (!parsed) return tl::unexpected(parsed.error());
        target = *parsed;
        return {};
    };
}

}  // namespace

int run_log(std::vector<std::string> arguments, Output& output) {
    LogOptions options;
    options.query.limit = default_limit;
    CLI::App app("Show what fdspand wrote down: files deleted while open, spans that ended, losses; newest first.", "fdspan log");
    app.footer(
        "TIME is RFC 3339 (2026-11-22T10:00:00Z) or how long ago (2h, 1d).\n"
        "Exit codes: 0 done, 1 nothing matched, 2 usage or runtime error, 3 events of this time were lost, so that some may be missing.");
    add_value(app, "--since", "TIME", "Only what happened then or later", into_time(options.query.since_ns));
    add_value(app, "--until", "TIME", "Only what happened then or before", into_time(options.query.until_ns));
    add_value(app, "--path", "GLOB", "Only files of this name, a shell pattern whose * matches / too", [&](const std::string& text) -> Result<void> {
        if (text.empty()) return fail(EINVAL, "the pattern is empty");
        options.query.ino.reset();
        if (!take_label(text, options.query)) options.query.path_glob = text;
        return {};
    });
    add_repeated(app, "-p,--pid", "PID", "Only these processes (repeatable, comma lists)",
                 [&](const std::string& text) { return parse_pids(text, options.query.pids); });
    add_flag(app, "--deleted", options.query.deleted, "Only files that had lost their last name");
    add_value(app, "--min-duration", "DUR", "Only spans that certainly were at least so long", [&](const std::string& text) -> Result<void> {
        const Result<std::uint64_t> parsed = parse_duration_ns(text);
        if (!parsed) return tl::unexpected(parsed.error());
        options.query.min_duration_ns = *parsed;
        return {};
    });
    add_value(app, "--min-bytes", "N", "Only files of which so many bytes on disk are known; K, M, G, T are powers of 1024",
              [&](const std::string& text) -> Result<void> {
                  const Result<std::uint64_t> parsed = parse_bytes(text);
                  if (!parsed) return tl::unexpected(parsed.error());
                  options.query.min_bytes = *parsed;
                  return {};
              });
    add_value(app, "--limit", "N", "Show the newest N only, or all [1000; with --follow, 10 before it begins]", [&](const std::string& text) -> Result<void> {
        options.limit_said = true;
        options.query.limit.reset();
        if (text == "all") return {};
        const Result<std::uint64_t> parsed = parse_count(text, 1, std::numeric_limits<std::int64_t>::max());
        if (!parsed) return tl::unexpected(parsed.error());
        options.query.limit = *parsed;
        return {};
    });
    add_flag(app, "-f,--follow", options.follow, "Show what is written from now on, too, oldest first");
    add_flag(app, "-J,--json", options.json, "JSON Lines, with the keys of fdspan watch --json");
    add_flag(app, "--csv", options.csv, "Comma-separated values with a heading");
    add_value(app, "--database", "FILE", std::string("The event log [") + default_database + "]", [&](const std::string& text) -> Result<void> {
        if (text.empty()) return fail(EINVAL, "the name is empty");
        options.database = text;
        return {};
    });
    add_color(app, options.color);
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) return *done;
    if (options.json && options.csv) return usage_error("--json and --csv are two formats");
    if ((options.json || options.csv) && options.color == ColorMode::always) {
        return usage_error(std::string("--color=always has no meaning with ") + (options.json ? "--json" : "--csv"));
    }
    Result<LogReader> reader = LogReader::open(options.database);
    if (!reader) return usage_error(explain_failure(options, reader.error()));
    return options.follow ? follow(options, std::move(*reader), output) : show(options, std::move(*reader), output);
}

}  // namespace fdspan::cli
