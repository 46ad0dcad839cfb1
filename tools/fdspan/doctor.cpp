// fdspan doctor: what the library found out by trying, in plain words.
#include "api/doctor.hpp"

#include <spdlog/spdlog.h>

#include "api/arm.hpp"
#include "arm.hpp"
#include "columns.hpp"
#include "options.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

void append_list(std::string& out, std::string_view key, const std::vector<std::string>& items) {
    out += '"';
    out += key;
    out += "\":[";
    for (const std::string& item : items) {
        append_json_string(out, item);
        out += ',';
    }
    if (!items.empty()) out.pop_back();
    out += "],";
}

void append_count(std::string& out, std::string_view key, std::uint64_t count) {
    out += '"';
    out += key;
    out += "\":";
    append_number(out, static_cast<unsigned long long>(count));
    out += ',';
}

void append_flag(std::string& out, std::string_view key, bool value) {
    out += '"';
    out += key;
    out += value ? "\":true," : "\":false,";
}

void print_json(std::string& out, const DoctorReport& report, const std::optional<ArmedState>& armed) {
    out += "{\"schema\":1,";
    append_json_text(out, "kernel", report.kernel_release);
    append_json_text(out, "machine", report.machine);
    append_count(out, "euid", report.effective_uid);
    append_json_text(out, "backend", to_string(report.chosen));
    append_flag(out, "iterators", report.iterators);
    out += "\"backends\":[";
    for (const BackendVerdict& verdict : report.backends) {
        out += '{';
        append_json_text(out, "name", to_string(verdict.backend));
        append_flag(out, "works", verdict.works);
        append_list(out, "lacks", verdict.lacks);
        append_list(out, "advice", verdict.advice);
        out.back() = '}';
        out += ',';
    }
    out.back() = ']';
    out += ",\n\"checks\":[";
    for (const Check& check : report.checks) {
        out += "\n{";
        append_json_text(out, "name", check.name);
        append_json_text(out, "title", check.title);
        append_json_text(out, "state", to_string(check.state));
        append_json_text(out, "detail", check.detail);
        append_json_text(out, "advice", check.advice);
        out.back() = '}';
        out += ',';
    }
    out.back() = ']';
    out += ",\n\"processes\":{";
    append_count(out, "total", report.processes);
    append_count(out, "unreadable", report.unreadable_processes);
    append_flag(out, "hidden", report.processes_hidden);
    out += "\"unreadable_list\":[";
    for (const UnreadableProcess& process : report.unreadable) {
        out += "{\"pid\":";
        append_number(out, static_cast<long long>(process.pid));
        out += ',';
        append_json_text(out, "comm", process.comm);
        out.back() = '}';
        out += ',';
    }
    if (!report.unreadable.empty()) out.pop_back();
    out += "]},\n\"armed\":";
    if (armed) {
        append_armed_json(out, *armed);
    } else {
        out += "null";
    }
    out += "}\n";
}

void print_text(std::string& out, const DoctorReport& report, const std::optional<ArmedState>& armed, const Palette& color) {
    const auto painted = [&color](std::string_view style, std::string_view text) {
        return std::string(style) + std::string(text) + std::string(style.empty() ? std::string_view() : color.reset);
    };
    out += "Kernel " + escape(report.kernel_release) + " on " + escape(report.machine) + ", as uid " + std::to_string(report.effective_uid) + "\n\n";
    out += painted(color.bold, "Backends") + " (where exact times come from)\n";
    for (const BackendVerdict& verdict : report.backends) {
        out += "  " + painted(verdict.works ? color.green : color.red, verdict.works ? "works " : "lacks ") + " " + std::string(to_string(verdict.backend));
        if (verdict.works && verdict.backend == report.chosen) out += ", the one that \"auto\" takes";
        if (verdict.works && verdict.backend == Backend::procfs) out += " (bounds only)";
        out += '\n';
        for (const std::string& lack : verdict.lacks) out += "           " + lack + '\n';
        for (const std::string& advice : verdict.advice) out += "         > " + advice + '\n';
    }
    out += "  Snapshots are read " + std::string(report.iterators ? "through BPF iterators" : "from /proc") + ".\n\n";

    out += painted(color.bold, "Findings") + "\n";
    for (const Check& check : report.checks) {
        const bool yes = check.state == CheckState::yes;
        const std::string_view word = yes ? "yes" : check.state == CheckState::no ? "no" : "?";
        out += "  " + painted(yes ? color.green : color.yellow, word) + std::string(5 - word.size(), ' ') + check.title + ": " + escape(check.detail) + '\n';
        if (!yes && !check.advice.empty()) out += "       > " + check.advice + '\n';
    }
    if (!report.unreadable.empty()) {
        out += "       unreadable:";
        for (const UnreadableProcess& process : report.unreadable) out += " " + std::to_string(process.pid) + " (" + escape(process.comm) + ")";
        if (report.unreadable_processes > report.unreadable.size()) out += " …";
        out += '\n';
    }
    out += '\n' + painted(color.bold, "Tracking") + "\n  ";
    out += armed ? describe_armed(*armed) : std::string("Not armed: ages of what is already open are bounds. fdspan arm makes them exact from then on.");
    out += '\n';
}

}  // namespace

int run_doctor(std::vector<std::string> arguments, Output& output) {
    bool json = false;
    ColorMode color = ColorMode::automatic;
    CLI::App app("Say what this kernel and these privileges allow, which backend that leaves, and what to do about the others.", "fdspan doctor");
    app.footer("Everything is found out by trying it for a moment.\n"
               "Exit codes: 0 it could look, whatever it found; 2 usage or runtime error; 3 armed tracking has lost something.");
    add_flag(app, "-J,--json", json, "One JSON document");
    add_color(app, color);
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) return *done;
    if (json && color == ColorMode::always) return usage_error("--color=always has no meaning with --json");

    const Result<DoctorReport> report = examine_system();
    if (!report) return usage_error(report.error().message);
    // Without privileges the pins can't be looked at; that is no failure of the examination.
    const Result<std::optional<ArmedState>> state = armed_state();
    const std::optional<ArmedState> armed = state ? *state : std::nullopt;
    if (json) {
        print_json(output.buffer(), *report, armed);
    } else {
        print_text(output.buffer(), *report, armed, make_palette(color));
    }
    output.flush();
    if (!state && !output.broken()) spdlog::warn("whether tracking is armed can't be told: {}", state.error().message);
    return output.finish(armed && has_lost(*armed) ? exit_incomplete : exit_done);
}

}  // namespace fdspan::cli
