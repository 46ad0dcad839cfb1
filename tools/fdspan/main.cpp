// fdspan: how long has this file been open, by whom, and was it deleted meanwhile?
#include <clocale>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <bpf/libbpf.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "options.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

constexpr Command commands[] = {
    {"ls", "list open references with their ages, oldest first", run_ls},
    {"watch", "print events as they happen", run_watch},
    {"deleted", "list deleted files that are still held, and the space they take", run_deleted},
    {"recover", "copy a held file out, deleted or not", run_recover},
    {"log", "show what the daemon wrote down", run_log},
    {"check", "judge what the daemon sees, as a monitoring plugin", run_check},
    {"arm", "let the kernel record exact times from now on, without a process", run_arm},
    {"disarm", "end what arm began", run_disarm},
    {"doctor", "say what this kernel and these privileges allow", run_doctor},
};

std::string help() {
    std::string text =
        "How long has this file been open, by whom, and was it deleted meanwhile?\n\n"
        "Usage: fdspan COMMAND [OPTIONS] [PATH...]\n\nCommands:\n";
    for (const Command& command : commands) {
        text += "  " + std::string(command.name) + std::string(10 - command.name.size(), ' ') + std::string(command.summary) + "\n";
    }
    text +=
        "\nfdspan COMMAND --help explains one of them; man fdspan explains them all.\n"
        "Exit codes: 0 done, 1 nothing matched, 2 usage or runtime error, 3 done but incomplete.\n";
    return text;
}

int dispatch(std::vector<std::string> arguments, Output& output) {
    std::string names;
    for (const Command& command : commands) names += (names.empty() ? "" : ", ") + std::string(command.name);
    if (arguments.empty()) return usage_error("which command? One of " + names + "; see fdspan --help");
    const std::string first = arguments.front();
    if (first == "-h" || first == "--help" || first == "help") {
        output.write(help());
        return output.finish(exit_done);
    }
    if (first == "--version" || first == "-V") {
        output.write("fdspan " FDSPAN_VERSION "\n");
        return output.finish(exit_done);
    }
    for (const Command& command : commands) {
        if (command.name != first) continue;
        arguments.erase(arguments.begin());
        return command.run(std::move(arguments), output);
    }
    return usage_error("there is no command \"" + escape(first) + "\"; expected one of " + names);
}

// What libbpf has to say about a failed load is for those who debug it: FDSPAN_LOG=debug.
int log_libbpf(libbpf_print_level, const char* format, va_list arguments) {
    if (!spdlog::should_log(spdlog::level::debug)) return 0;
    char line[4096];
    const int length = std::vsnprintf(line, sizeof line, format, arguments);
    std::string_view text(line, length < 0 ? 0 : std::min<std::size_t>(static_cast<std::size_t>(length), sizeof line - 1));
    while (text.ends_with('\n')) text.remove_suffix(1);
    spdlog::debug("{}", text);
    return length;
}

void set_up_log() {
    auto logger = std::make_shared<spdlog::logger>("fdspan", std::make_shared<spdlog::sinks::stderr_sink_st>());
    logger->set_pattern("%n: %v");
    const char* const level = std::getenv("FDSPAN_LOG");
    logger->set_level(level != nullptr && std::string_view(level) == "debug" ? spdlog::level::debug : spdlog::level::info);
    spdlog::set_default_logger(std::move(logger));
    ::libbpf_set_print(log_libbpf);
}

}  // namespace
}  // namespace fdspan::cli

int main(int count, char** values) {
    using namespace fdspan::cli;
    secure_standard_descriptors();
    // A reader that goes away shows as EPIPE.
    std::signal(SIGPIPE, SIG_IGN);
    // wcwidth() needs a UTF-8 locale; nothing else of the locale is wanted.
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    try {
        set_up_log();
        Output output;
        return dispatch(std::vector<std::string>(values + 1, values + count), output);
    } catch (const std::exception& error) {  // out of memory, or a defect
        std::fprintf(stderr, "fdspan: %s\n", error.what());
        return exit_error;
    }
}
