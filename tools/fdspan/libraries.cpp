// fdspan deleted --libraries: what has to be restarted.
#include <algorithm>

#include <spdlog/spdlog.h>

#include "api/stale.hpp"
#include "deleted.hpp"
#include "gaps.hpp"
#include "mount_view.hpp"
#include "table.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

// "nginx[812,813]; worker[900]"
std::string describe_processes(const Snapshot& snapshot, const std::vector<std::uint32_t>& processes) {
    std::vector<std::string> comms;
    for (const std::uint32_t index : processes) {
        const std::string comm = escape(snapshot.text(snapshot.processes[index].comm));
        if (std::find(comms.begin(), comms.end(), comm) == comms.end()) comms.push_back(comm);
    }
    std::string text;
    for (const std::string& comm : comms) {
        text += (text.empty() ? "" : "; ") + comm + '[';
        for (const std::uint32_t index : processes) {
            const Process& process = snapshot.processes[index];
            if (escape(snapshot.text(process.comm)) != comm) continue;
            if (text.back() != '[') text += ',';
            text += std::to_string(process.pid);
        }
        text += ']';
    }
    return text;
}

std::string advice(const ServiceName& service) {
    const std::string command = restart_command(service);
    if (!command.empty()) return command;
    switch (service.kind) {
        case ServiceKind::container: return "(the container)";
        case ServiceKind::session: return "(end the session)";
        default: return "(the program)";
    }
}

void filter(const DeletedOptions& options, const Snapshot& snapshot, std::vector<StaleService>& services) {
    const auto leaves = [&](std::uint32_t index) {
        const Process& process = snapshot.processes[index];
        return !options.processes.matches(process, snapshot.text(process.comm));
    };
    for (StaleService& service : services) {
        std::erase_if(service.files, [&](StaleFile& file) {
            std::erase_if(file.processes, leaves);
            Reference row;
            row.name = file.state;
            return file.processes.empty() ||
                   (!options.paths.empty() && std::none_of(options.paths.begin(), options.paths.end(), [&](const PathFilter& path) { return path.matches(row, file.path); }));
        });
        std::erase_if(service.processes, [&](std::uint32_t index) {
            return std::none_of(service.files.begin(), service.files.end(), [&](const StaleFile& file) {
                return std::find(file.processes.begin(), file.processes.end(), index) != file.processes.end();
            });
        });
    }
    std::erase_if(services, [](const StaleService& service) { return service.files.empty(); });
}

void print_json(Output& output, const StaleAnswer& stale, const std::vector<StaleService>& services, bool complete, std::uint64_t unreadable) {
    const Snapshot& snapshot = stale.answer.snapshot;
    std::string& out = output.buffer();
    MountView mounts;
    out += "{\"schema\":1,";
    append_json_text(out, "source", snapshot.source);
    out += complete ? "\"complete\":true," : "\"complete\":false,";
    append_gaps_json(out, snapshot.gaps, unreadable);
    out += "\"services\":[";
    for (const StaleService& service : services) {
        out += out.back() == '[' ? "\n{" : ",\n{";
        append_json_text(out, "service", service.service.name);
        append_json_text(out, "kind", to_string(service.service.kind));
        const std::string command = restart_command(service.service);
        if (command.empty()) out += "\"restart\":null,";
        else append_json_text(out, "restart", command);
        out += "\"processes\":[";
        for (const std::uint32_t index : service.processes) {
            const Process& process = snapshot.processes[index];
            out += out.back() == '[' ? "{\"pid\":" : ",{\"pid\":";
            append_number(out, static_cast<long long>(process.pid));
            out += ',';
            append_json_text(out, "comm", snapshot.text(process.comm));
            out += "\"uid\":";
            append_number(out, static_cast<unsigned long long>(process.uid));
            out += ',';
            append_json_text(out, "cgroup", snapshot.text(process.cgroup));
            out.back() = '}';
        }
        out += "],\"files\":[";
        for (const StaleFile& file : service.files) {
            out += out.back() == '[' ? "{" : ",{";
            append_json_text(out, "path", file.path);
            const std::string way = mounts.outside(snapshot.processes[file.processes.front()].pid, file.path);
            if (way.empty()) out += "\"outside_path\":null,";
            else append_json_text(out, "outside_path", way);
            append_json_text(out, "state", file.state == NameState::gone ? "replaced" : "deleted");
            append_json_text(out, "ref", to_string(file.ref));
            out += "\"pids\":[";
            for (const std::uint32_t index : file.processes) {
                if (out.back() != '[') out += ',';
                append_number(out, static_cast<long long>(snapshot.processes[index].pid));
            }
            out += "]}";
        }
        out += "]}";
    }
    out += services.empty() ? "]}\n" : "\n]}\n";
}

}  // namespace

int list_libraries(const DeletedOptions& options, Output& output) {
    Result<StaleAnswer> stale = find_stale(options.processes.pids, options.backend);
    if (!stale) return usage_error(stale.error().message);
    const Snapshot& snapshot = stale->answer.snapshot;
    filter(options, snapshot, stale->services);
    if (options.limit && stale->services.size() > *options.limit) stale->services.resize(*options.limit);
    const std::uint64_t unreadable = count_unreadable(snapshot, options.processes);
    const std::vector<std::string> gaps = describe_gaps(stale->answer, options.processes, unreadable);
    const bool complete = gaps.empty();
    if (options.json) {
        print_json(output, *stale, stale->services, complete, unreadable);
    } else if (!stale->services.empty()) {
        std::vector<std::vector<std::string>> rows;
        for (const StaleService& service : stale->services) {
            auto& row = rows.emplace_back();
            row.push_back(escape(service.service.name));
            row.push_back(escape(advice(service.service)));
            row.push_back(describe_processes(snapshot, service.processes));
            std::string files;
            for (const StaleFile& file : service.files) {
                files += (files.empty() ? "" : "; ") + escape_path(file.path) + (file.state == NameState::gone ? " (replaced)" : " (deleted)");
            }
            row.push_back(std::move(files));
        }
        print_cells(output, {{"SERVICE", Align::left, Shrink::end}, {"RESTART", Align::left}, {"PROCESSES", Align::left, Shrink::end}, {"FILES", Align::left, Shrink::end}}, rows,
                    !options.no_headings, make_palette(options.color));
    }
    output.flush();
    if (output.broken()) return output.finish(exit_done);
    for (const std::string& warning : stale->answer.warnings) spdlog::warn("{}", warning);
    return finish_answer(output, gaps, stale->services.empty(), complete, may_match(options, snapshot.gaps, unreadable));
}

}  // namespace fdspan::cli
