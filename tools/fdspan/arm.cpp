// fdspan arm and fdspan disarm.
#include "arm.hpp"

#include "base/clock.hpp"
#include "columns.hpp"
#include "duration.hpp"
#include "options.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

void append_count(std::string& out, std::string_view key, std::uint64_t count) {
    out += '"';
    out += key;
    out += "\":";
    append_number(out, static_cast<unsigned long long>(count));
    out += ',';
}

std::string since_text(std::uint64_t since_ns) {
    WallClockText clock(WallClock::now());
    std::string text = "since ";
    clock.append(text, since_ns);
    const std::uint64_t now = boottime_now_ns();
    return text + " (" + format_duration(now > since_ns ? now - since_ns : 0) + " ago)";
}

void append_since_json(std::string& out, std::uint64_t since_ns) {
    WallClockText clock(WallClock::now());
    out += "\"since\":";
    clock.append_json(out, Interval::exact(since_ns));
    out += ',';
}

}  // namespace

bool has_lost(const ArmedState& state) { return state.counters.maps_overflowed() || state.counters.missed > 0; }

std::string describe_armed(const ArmedState& state) {
    std::string text = "Armed with the backend " + std::string(to_string(state.backend)) + " " + since_text(state.tracking_since_ns) + "; " +
                       std::to_string(state.descriptions) + " of " + std::to_string(state.max_descriptions) + " places for descriptions are in use";
    if (!has_lost(state)) {
        text += ", nothing was lost.";
    } else {
        const TrackingCounters& counters = state.counters;
        text += ".";
        if (counters.maps_overflowed()) {
            text += " Bounded instead of exact, because a map was full: " + std::to_string(counters.description_full) + " descriptions, " +
                    std::to_string(counters.descriptor_full) + " descriptors, " + std::to_string(counters.table_full) +
                    " tables; loops cut at their bound: " + std::to_string(counters.truncated) + ". Disarm, then arm with a larger --max-entries.";
        }
        if (counters.missed > 0) text += " The kernel skipped the hooks of " + std::to_string(counters.missed) + " events.";
    }
    if (state.census_ns == 0) {
        text += " What was open when it was armed was not counted, because arm was interrupted: disarm and arm again.";
    }
    return text;
}

void append_armed_json(std::string& out, const ArmedState& state) {
    out += '{';
    append_json_text(out, "backend", to_string(state.backend));
    append_since_json(out, state.tracking_since_ns);
    out += state.census_ns != 0 ? "\"census\":true," : "\"census\":false,";
    append_count(out, "descriptions", state.descriptions);
    append_count(out, "max_descriptions", state.max_descriptions);
    append_count(out, "descriptions_lost", state.counters.description_full);
    append_count(out, "descriptors_lost", state.counters.descriptor_full);
    append_count(out, "tables_lost", state.counters.table_full);
    append_count(out, "truncated", state.counters.truncated);
    append_count(out, "missed", state.counters.missed);
    out.back() = '}';
}

int run_arm(std::vector<std::string> arguments, Output& output) {
    ArmOptions options;
    bool json = false;
    CLI::App app("Pin tracking in bpffs: the kernel records exact times from now on, and no process is left behind.", "fdspan arm");
    app.footer("fdspan ls then shows exact ages for what is opened from now on, and bounds for the rest; fdspan disarm ends it.\n"
               "Needs root (or CAP_BPF, CAP_PERFMON and access to /sys/fs/bpf). Exit codes: 0 armed, now or before; 2 usage or runtime error.");
    add_flag(app, "-J,--json", json, "One JSON document");
    add_backend(app, options.backend, false);
    add_value(app, "--max-entries", "N", "Bound of each kernel map: so many descriptions, descriptors and tables have times [1048576]",
              [&options](const std::string& text) -> Result<void> {
                  const Result<std::uint32_t> parsed = parse_max_entries(text);
                  if (!parsed) return tl::unexpected(parsed.error());
                  options.max_descriptions = options.max_descriptors = options.max_tables = *parsed;
                  return {};
              });
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) return *done;
    const Result<ArmReport> report = arm(options);
    if (!report) return usage_error(report.error().message);
    std::string& out = output.buffer();
    if (json) {
        out += "{\"schema\":1,\"armed\":true,";
        out += report->already_armed ? "\"already_armed\":true," : "\"already_armed\":false,";
        append_json_text(out, "backend", to_string(report->backend));
        append_since_json(out, report->tracking_since_ns);
        append_count(out, "references", report->references);
        out += "\"hooks\":[";
        for (const HookStatus& hook : report->hooks) {
            out += "\n{";
            append_json_text(out, "name", hook.name);
            const auto flag = [&out](std::string_view key, bool value) {
                out += '"';
                out += key;
                out += value ? "\":true," : "\":false,";
            };
            flag("exists", hook.exists);
            flag("attached", hook.attached);
            flag("checked", hook.checked);
            flag("seen", hook.seen);
            out.back() = '}';
            out += ',';
        }
        if (!report->hooks.empty()) out.pop_back();
        out += "],\"refused\":[";
        for (const std::string& why : report->refused) {
            append_json_string(out, why);
            out += ',';
        }
        if (!report->refused.empty()) out.pop_back();
        out += "]}\n";
    } else if (report->already_armed) {
        out += "Already armed with the backend " + std::string(to_string(report->backend)) + " " + since_text(report->tracking_since_ns) + ".\n";
    } else {
        out += "Armed with the backend " + std::string(to_string(report->backend)) + ": what is opened from now on has exact times, " +
               std::to_string(report->references) + " references that were open already have bounds.\n";
        for (const std::string& why : report->refused) out += "Not taken, though better: " + escape(why) + "\n";
    }
    return output.finish(exit_done);
}

int run_disarm(std::vector<std::string> arguments, Output& output) {
    bool json = false;
    CLI::App app("End what fdspan arm began, and forget the times it recorded.", "fdspan disarm");
    app.footer("Exit codes: 0 not armed any more, or never was; 2 usage or runtime error.");
    add_flag(app, "-J,--json", json, "One JSON document");
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) return *done;
    const Result<bool> was_armed = disarm();
    if (!was_armed) return usage_error(was_armed.error().message);
    if (json) {
        output.write(*was_armed ? "{\"schema\":1,\"armed\":false,\"was_armed\":true}\n" : "{\"schema\":1,\"armed\":false,\"was_armed\":false}\n");
    } else {
        output.write(*was_armed ? "Disarmed: the times recorded so far are forgotten.\n" : "Not armed: there was nothing to end.\n");
    }
    return output.finish(exit_done);
}

}  // namespace fdspan::cli
