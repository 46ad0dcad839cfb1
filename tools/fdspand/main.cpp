// fdspand: fdspan as a service: an event log that survives, exact ages for everybody, figures for the monitoring.
#include <signal.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include <clocale>
#include <cstdarg>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>

#include <bpf/libbpf.h>
#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <systemd/sd-daemon.h>

#include "config.hpp"
#include "daemon.hpp"
#include "options.hpp"
#include "text.hpp"

namespace fdspan::daemon {
namespace {

using cli::exit_done;
using cli::exit_error;

// %N, the "<6>" that systemd takes for a line's priority.
class PriorityFlag : public spdlog::custom_flag_formatter {
public:
    void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& out) override {
        const int priority = message.level >= spdlog::level::err    ? LOG_ERR
                             : message.level == spdlog::level::warn ? LOG_WARNING
                             : message.level == spdlog::level::info ? LOG_INFO
                                                                    : LOG_DEBUG;
        out.push_back('<');
        out.push_back(static_cast<char>('0' + priority));
        out.push_back('>');
    }
    [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<PriorityFlag>(); }
};

// The variable may be inherited by who has another standard error.
bool stderr_is_journal() {
    const char* const stream = std::getenv("JOURNAL_STREAM");
    struct stat status {};
    return stream != nullptr && ::fstat(STDERR_FILENO, &status) == 0 && stream == std::to_string(status.st_dev) + ":" + std::to_string(status.st_ino);
}

// Formats a line for the journal when systemd reads it: with the priority in front instead of the time.
void set_up_log() {
    auto logger = std::make_shared<spdlog::logger>("fdspand", std::make_shared<spdlog::sinks::stderr_sink_mt>());
    auto formatter = std::make_unique<spdlog::pattern_formatter>();
    formatter->add_flag<PriorityFlag>('N').set_pattern(stderr_is_journal() ? "%N%v" : "%Y-%m-%dT%H:%M:%S.%e%z %n: %l: %v");
    logger->set_formatter(std::move(formatter));
    const char* const level = std::getenv("FDSPAN_LOG");
    logger->set_level(level != nullptr && std::string_view(level) == "debug" ? spdlog::level::debug : spdlog::level::info);
    logger->flush_on(spdlog::level::trace);
    spdlog::set_default_logger(std::move(logger));
    ::libbpf_set_print([](libbpf_print_level, const char* format, va_list arguments) {
        if (!spdlog::should_log(spdlog::level::debug)) return 0;
        char line[4096];
        const int length = std::vsnprintf(line, sizeof line, format, arguments);
        std::string_view text(line, length < 0 ? 0 : std::min<std::size_t>(static_cast<std::size_t>(length), sizeof line - 1));
        while (text.ends_with('\n')) text.remove_suffix(1);
        spdlog::debug("{}", text);
        return length;
    });
}

int start(std::vector<std::string> arguments, cli::Output& output) {
    std::string config_file;
    bool check_config = false, version = false;
    std::vector<std::pair<const Setting*, std::string>> said;
    CLI::App app("Follow every open file: keep an event log, answer fdspan ls with exact ages, show figures to the monitoring.", "fdspand");
    app.footer(std::string("Settings are read from ") + default_config_file +
               ", if it is there; the command line goes before it. SIGHUP reads them again.\n"
               "Exit codes: 0 ended by SIGTERM or SIGINT, or the configuration is good; 2 usage or runtime error.");
    cli::add_value(app, "--config", "FILE", std::string("Settings, as JSON; an error if it is not there [") + default_config_file + "]",
                   [&](const std::string& text) -> Result<void> {
                       if (text.empty()) return fail(EINVAL, "the name is empty");
                       config_file = text;
                       return {};
                   });
    cli::add_flag(app, "--check-config", check_config, "Read the settings, say whether they are good, and end");
    cli::add_flag(app, "-V,--version", version, "Show the version");
    for (const Setting& setting : all_settings()) {
        if (setting.option.empty()) continue;
        cli::add_value(app, std::string(setting.option), std::string(setting.metavar), std::string(setting.help),
                       [&said, &setting](const std::string& text) -> Result<void> {
                           Config scratch;
                           if (auto done = setting.set(scratch, text); !done) return done;
                           said.emplace_back(&setting, text);
                           return {};
                       });
    }
    if (const std::optional<int> done = cli::parse_arguments(app, std::move(arguments), output)) return *done;
    if (version) {
        output.write("fdspand " FDSPAN_VERSION "\n");
        return output.finish(exit_done);
    }
    const LoadConfig load = [&]() -> Result<Config> {
        Config config;
        if (!config_file.empty() || ::access(default_config_file, F_OK) == 0) {
            if (auto done = read_config(config_file.empty() ? default_config_file : config_file, config); !done) return tl::unexpected(done.error());
        }
        for (const auto& [setting, text] : said) {
            if (auto done = setting->set(config, text); !done) return tl::unexpected(done.error());
        }
        return config;
    };
    Result<Config> config = load();
    if (!config) return cli::usage_error(config.error().message);
    if (check_config) {
        output.write("the configuration is good\n");
        return output.finish(exit_done);
    }

    // What the daemon writes tells of everybody's files.
    ::umask(0077);
    // Threads inherit the mask: the signals arrive at the loop only.
    sigset_t handled;
    ::sigemptyset(&handled);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::sigaddset(&handled, number);
    ::sigprocmask(SIG_BLOCK, &handled, nullptr);
    if (auto done = run(std::move(*config), load); !done) return cli::usage_error(cli::escape(done.error().message));
    return exit_done;
}

}  // namespace
}  // namespace fdspan::daemon

int main(int count, char** values) {
    using namespace fdspan;
    cli::secure_standard_descriptors();
    std::signal(SIGPIPE, SIG_IGN);
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    try {
        daemon::set_up_log();
        cli::Output output;
        return daemon::start(std::vector<std::string>(values + 1, values + count), output);
    } catch (const std::exception& error) {  // out of memory, or a defect
        std::fprintf(stderr, "fdspand: %s\n", error.what());
        return cli::exit_error;
    }
}
