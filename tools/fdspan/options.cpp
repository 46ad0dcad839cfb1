#include "options.hpp"

#include <sched.h>

#include <charconv>
#include <limits>

#include <spdlog/spdlog.h>

#include "service/control/protocol.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

CLI::Option* add_option(CLI::App& app, const std::string& names, const std::string& metavar, const std::string& help,
                        ParseText parse) {
    const std::string longest = names.substr(names.rfind(',') + 1);
    auto* const option = app.add_option_function<std::vector<std::string>>(
        names,
        [parse = std::move(parse), longest](const std::vector<std::string>& texts) {
            for (const std::string& text : texts) {
                if (const Result<void> parsed = parse(text); !parsed) throw CLI::ValidationError(longest, parsed.error().message);
            }
        },
        help);
    option->type_name(metavar)->expected(1)->type_size(1)->allow_extra_args(false);
    return option;
}

// CLI11's own complaints may have several lines.
std::string one_line(std::string_view message) {
    std::string line;
    for (const char c : message) {
        if (c == '\n') {
            line += "; ";
        } else {
            line += c;
        }
    }
    while (line.ends_with(' ') || line.ends_with(';')) line.pop_back();
    return escape(line);
}

}  // namespace

CLI::Option* add_value(CLI::App& app, const std::string& names, const std::string& metavar, const std::string& help, ParseText parse) {
    return add_option(app, names, metavar, help, std::move(parse))->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

CLI::Option* add_repeated(CLI::App& app, const std::string& names, const std::string& metavar, const std::string& help, ParseText parse) {
    return add_option(app, names, metavar, help, std::move(parse))->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

void add_flag(CLI::App& app, const std::string& names, bool& flag, const std::string& help) {
    app.add_flag_function(names, [&flag](std::int64_t) { flag = true; }, help)->disable_flag_override();
}

std::optional<int> parse_arguments(CLI::App& app, std::vector<std::string> arguments, Output& output) {
    app.get_formatter()->column_width(28);
    // CLI11 takes them from the back.
    std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
    try {
        app.parse(reversed);
        return std::nullopt;
    } catch (const CLI::CallForHelp&) {
        output.write(app.help());
        return output.finish(exit_done);
    } catch (const CLI::ParseError& error) {
        return usage_error(one_line(error.what()));
    }
}

int usage_error(std::string_view message) {
    spdlog::error("{}", message);
    return exit_error;
}

void add_backend(CLI::App& app, Backend& backend, bool with_procfs) {
    add_value(app, "--backend", "NAME",
              with_procfs ? "Where times come from: auto, trampoline, kprobe, syscall, procfs [auto]"
                          : "Which programs to attach: auto, trampoline, kprobe, syscall [auto]",
              [&backend, with_procfs](const std::string& text) -> Result<void> {
                  for (const Backend known : {Backend::automatic, Backend::trampoline, Backend::kprobe, Backend::syscall, Backend::procfs}) {
                      if (text != to_string(known) || (known == Backend::procfs && !with_procfs)) continue;
                      backend = known;
                      return {};
                  }
                  return fail(EINVAL, "there is no backend \"" + escape(text) + "\" here; expected auto, trampoline, kprobe" +
                                          (with_procfs ? ", syscall or procfs" : " or syscall"));
              });
}

void add_socket(CLI::App& app, const std::string& help, std::string& socket) {
    add_value(app, "--socket", "PATH", help + " [" + service::default_socket + "]", [&socket](const std::string& text) -> Result<void> {
        if (text.empty()) return fail(EINVAL, "the path is empty");
        socket = text;
        return {};
    });
}

void add_no_daemon(CLI::App& app, bool& ask_daemon) {
    app.add_flag_function("--no-daemon", [&ask_daemon](std::int64_t) { ask_daemon = false; }, "Do not ask fdspand")->disable_flag_override();
}

void add_color(CLI::App& app, ColorMode& color) {
    add_value(app, "--color", "WHEN", "Colours: auto, always, never; auto also honours NO_COLOR [auto]",
              [&color](const std::string& text) -> Result<void> {
                  if (text == "auto") {
                      color = ColorMode::automatic;
                  } else if (text == "always") {
                      color = ColorMode::always;
                  } else if (text == "never") {
                      color = ColorMode::never;
                  } else {
                      return fail(EINVAL, "\"" + escape(text) + "\" is none of auto, always, never");
                  }
                  return {};
              });
}

unsigned reading_threads() {
    cpu_set_t cpus;
    if (::sched_getaffinity(0, sizeof cpus, &cpus) != 0) return 1;  // EINVAL: more CPUs than the set has room for
    return static_cast<unsigned>(CPU_COUNT(&cpus));
}

Result<std::uint64_t> parse_count(std::string_view text, std::uint64_t least, std::uint64_t most) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
        return fail(EINVAL, "\"" + escape(text) + "\" is not a number from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return value;
}

Result<std::uint32_t> parse_max_entries(std::string_view text) {
    const Result<std::uint64_t> parsed = parse_count(text, 1, 1U << 27);
    if (!parsed) return tl::unexpected(parsed.error());
    return static_cast<std::uint32_t>(*parsed);
}

Result<void> for_each_part(std::string_view text, const std::function<Result<void>(std::string_view)>& each) {
    while (true) {
        const std::size_t comma = text.find(',');
        if (Result<void> done = each(text.substr(0, comma)); !done) return done;
        if (comma == std::string_view::npos) return {};
        text.remove_prefix(comma + 1);
    }
}

Result<void> parse_pids(std::string_view text, std::vector<pid_t>& pids) {
    return for_each_part(text, [&pids](std::string_view part) -> Result<void> {
        const Result<std::uint64_t> pid = parse_count(part, 1, std::numeric_limits<pid_t>::max());
        if (!pid) return fail(EINVAL, "\"" + escape(part) + "\" is not a process id");
        pids.push_back(static_cast<pid_t>(*pid));
        return {};
    });
}

}  // namespace fdspan::cli
