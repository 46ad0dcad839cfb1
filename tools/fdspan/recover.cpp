// fdspan recover: copy or link what a process holds, whatever became of its name.
#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>

#include <spdlog/spdlog.h>

#include "api/recover.hpp"
#include "explain.hpp"
#include "new_file.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "snapshot/loops.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

struct RecoverOptions {
    std::optional<HeldAddress> address;  // empty: whoever holds `file`
    std::optional<FileId> file;
    std::optional<pid_t> tid;
    std::string dest;                    // empty: only with `explain`
    bool force = false;
    bool link = false;
    bool explain = false;
    bool json = false;
    Backend backend = Backend::automatic;
};

volatile std::sig_atomic_t stop_signal = 0;
void note_signal(int number) { stop_signal = number; }

// The first signal ends the copy and leaves nothing; a second one ends the program at once.
void catch_signals() {
    struct sigaction action {};
    action.sa_handler = note_signal;
    action.sa_flags = SA_RESETHAND;
    for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
        struct sigaction before {};
        if (::sigaction(number, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) ::sigaction(number, &action, nullptr);
    }
}

std::string name_of(std::string_view path) {
    const std::size_t slash = path.rfind('/');
    return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

Result<FileId> parse_file_id(const std::string& text) {
    FileId file;
    const char* at = text.data();
    const char* const end = at + text.size();
    const auto number = [&](auto& value, char behind) {
        const auto [next, error] = std::from_chars(at, end, value);
        if (error != std::errc() || (behind != '\0' ? next == end || *next != behind : next != end)) return false;
        at = behind != '\0' ? next + 1 : next;
        return true;
    };
    if (number(file.dev.major, ':') && number(file.dev.minor, ':') && number(file.ino, '\0')) return file;
    return fail(EINVAL, "\"" + escape(text) + "\" is no file; expected MAJOR:MINOR:INO, the DEV and INO of fdspan deleted");
}

// "7", "exe", "7f00dead0000-7f00dead1000".
Result<void> parse_reference(const std::string& text, HeldAddress& address) {
    if (text == "exe") {
        address.ref = RefKind::exe;
        return {};
    }
    if (text == "cwd" || text == "root") return fail(EINVAL, text + " is a directory: only regular files can be recovered");
    if (const std::size_t dash = text.find('-'); dash != std::string::npos && dash > 0) {
        const auto hex = [](std::string_view part, std::uint64_t& value) {
            const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value, 16);
            return error == std::errc() && end == part.data() + part.size();
        };
        const std::string_view view = text;
        if (hex(view.substr(0, dash), address.map_start) && hex(view.substr(dash + 1), address.map_end)) {
            address.ref = RefKind::mem;
            return {};
        }
    }
    const Result<std::uint64_t> fd = parse_count(text, 0, INT32_MAX);
    if (!fd) return fail(EINVAL, "\"" + escape(text) + "\" is no reference; expected a descriptor number, exe, or an address range as fdspan ls -o MAP shows it");
    address.ref = RefKind::fd;
    address.fd = static_cast<std::int32_t>(*fd);
    return {};
}

std::string read_comm(pid_t pid) {
    std::string comm(64, '\0');
    const UniqueFd file(::open(("/proc/" + std::to_string(pid) + "/comm").c_str(), O_RDONLY | O_CLOEXEC));
    const ssize_t length = file.valid() ? ::read(file.get(), comm.data(), comm.size()) : 0;
    comm.resize(length > 0 ? static_cast<std::size_t>(length) : 0);
    if (comm.ends_with('\n')) comm.pop_back();
    return comm;
}

struct Opened {
    HeldFile file;
    std::optional<HeldAddress> address;  // empty: of a loop device
};

Result<Opened> open_held(const RecoverOptions& options) {
    if (options.address) {
        auto file = HeldFile::open(*options.address);
        if (!file) return tl::unexpected(file.error());
        return Opened{std::move(*file), options.address};
    }
    const Result<std::vector<HeldAddress>> held = find_held(*options.file, options.backend);
    if (!held) return tl::unexpected(held.error());
    std::optional<Error> first;
    for (const HeldAddress& address : *held) {
        auto file = HeldFile::open(address);
        if (file) return Opened{std::move(*file), address};
        if (!first) first = file.error();  // it may have ended in this moment; another may hold it too
    }
    auto of_loop = HeldFile::open_of_loop(*options.file);
    if (of_loop) return Opened{std::move(*of_loop), std::nullopt};
    return tl::unexpected(first.value_or(of_loop.error()));
}

std::string describe(const std::optional<HeldAddress>& address) {
    if (!address) return "a loop device";
    std::string text = "process " + std::to_string(address->pid) + " (" + escape(read_comm(address->pid)) + ")";
    switch (address->ref) {
        case RefKind::fd: return text + ", descriptor " + std::to_string(address->fd);
        case RefKind::mem: return text + ", which maps it";
        default: return text + ", which runs it";
    }
}

int explain(const RecoverOptions& options, const Opened& opened, Output& output) {
    ExplainedHolder holder;
    holder.what = describe(opened.address);
    if (opened.address) {
        holder.link = magic_link(*opened.address);
        holder.pid = opened.address->pid;
        holder.descriptor = opened.address->ref == RefKind::fd;
    } else {
        holder.link = "/dev/loopN";
        for (const LoopDevice& device : read_loop_devices().devices) {
            if (FileId{device.dev, device.ino} == *options.file) holder.link = "/dev/" + device.name;
        }
    }
    const struct stat& stat = opened.file.status();
    const std::string dest = !options.dest.empty() ? options.dest : "./" + name_of(opened.file.path());
    explain_held(output.buffer(), opened.file.path(), stat.st_nlink == 0, static_cast<std::uint64_t>(stat.st_blocks) * 512, holder, dest);
    return output.finish(exit_done);
}

// Nothing there to be recovered is "nothing matched", all else an error.
int give_up(const Error& error, std::string_view left = {}) {
    if (error.code == ECANCELED && stop_signal != 0) {
        spdlog::error("interrupted{}", left);
        return 128 + stop_signal;
    }
    spdlog::error("{}{}", error.message, left);
    return error.code == ESRCH || error.code == ENOENT || error.code == ESTALE ? exit_nothing_matched : exit_error;
}
int give_up_target(Error error, std::string_view left = {}) {
    if (error.code == ENOENT || error.code == ESTALE || error.code == ESRCH) error.code = EIO;
    return give_up(error, left);
}

Result<void> link_to(const HeldFile& source, const Place& place) {
    const int dir = place.dir.get();
    if (!place.replace) {
        auto linked = link_held(source, dir, place.name);
        if (!linked && linked.error().code == EEXIST) return fail(EEXIST, escape(place.path) + " exists by now; --force replaces it");
        return linked;
    }
    const std::string temporary = temporary_name();
    if (auto linked = link_held(source, dir, temporary); !linked) return linked;
    auto renamed = rename_into(place, temporary);
    if (!renamed) ::unlinkat(dir, temporary.c_str(), 0);
    return renamed;
}

struct Outcome {
    std::string how;  // "copy", "clone", "link"
    CopyReport report;
    std::string path;
    bool holder_ended = false;
};

// What a person has to know about the copy; true: it is not surely what the file was at one moment.
bool say_doubts(const Outcome& outcome) {
    const CopyReport& report = outcome.report;
    if (!report.not_kept.empty()) {
        std::string list;
        for (const std::string& what : report.not_kept) list += (list.empty() ? "" : "; ") + escape(what);
        spdlog::warn("not kept: {}", list);
    }
    if (outcome.holder_ended) spdlog::info("the process ended meanwhile; the copy is whole all the same");
    if (report.still_growing) {
        spdlog::warn("the file kept growing: the copy has its first {} bytes, what was written later is missing", report.size);
    } else if (report.grown_bytes > 0) {
        spdlog::warn("the file grew by {} bytes while it was being copied: the copy has them, but may be of no one moment", report.grown_bytes);
    } else if (report.changed) {
        spdlog::warn("the file was written to while it was being copied: the copy may be of no one moment");
    }
    return report.changed;
}

void append_json(std::string& out, const Opened& opened, const Outcome& outcome) {
    const struct stat& stat = opened.file.status();
    const auto flag = [&](std::string_view name, bool value) {
        out += '"';
        out += name;
        out += value ? "\":true," : "\":false,";
    };
    const auto number = [&](std::string_view name, std::uint64_t value) {
        out += '"';
        out += name;
        out += "\":";
        append_number(out, static_cast<unsigned long long>(value));
        out += ',';
    };
    out += "{\"schema\":1,\"source\":{";
    if (opened.address) {
        number("pid", static_cast<std::uint64_t>(opened.address->pid));
        append_json_text(out, "ref", to_string(opened.address->ref));
        if (opened.address->ref == RefKind::fd) number("fd", static_cast<std::uint64_t>(opened.address->fd));
        append_json_text(out, "link", magic_link(*opened.address));
    } else {
        append_json_text(out, "ref", "loop");
    }
    append_json_text(out, "path", opened.file.path());
    append_json_text(out, "dev", std::to_string(gnu_dev_major(stat.st_dev)) + ':' + std::to_string(gnu_dev_minor(stat.st_dev)));
    number("ino", stat.st_ino);
    flag("deleted", stat.st_nlink == 0);
    out.back() = '}';
    out += ',';
    append_json_text(out, "dest", outcome.path);
    append_json_text(out, "how", outcome.how);
    number("size", outcome.report.size);
    number("data_bytes", outcome.report.data_bytes);
    flag("changed", outcome.report.changed);
    flag("still_growing", outcome.report.still_growing);
    flag("holder_ended", outcome.holder_ended);
    out += "\"not_kept\":[";
    for (const std::string& what : outcome.report.not_kept) {
        if (out.back() != '[') out += ',';
        append_json_string(out, what);
    }
    out += "]}\n";
}

int recover(const RecoverOptions& options, Output& output) {
    const Result<Opened> opened = open_held(options);
    if (!opened) return give_up(opened.error());
    if (options.explain) return explain(options, *opened, output);
    const HeldFile& source = opened->file;

    catch_signals();
    Outcome outcome;
    if (options.dest == "-") {
        if (stdout_is_terminal()) return usage_error("the content is not written to a terminal: name a file, or redirect");
        ProgressBar bar;
        auto report = stream_held(source, STDOUT_FILENO, [&](std::uint64_t done, std::uint64_t total) {
            bar.show(done, total);
            return stop_signal == 0;
        });
        bar.clear();
        if (!report) return give_up_target(report.error(), "; what was written is not whole");
        outcome.report = std::move(*report);
        outcome.holder_ended = !source.holder_is_there();
        return say_doubts(outcome) ? exit_incomplete : exit_done;
    }

    const Result<Place> place = Place::find(options.dest, name_of(source.path()), options.force);
    if (!place) return give_up_target(place.error());
    if (place->is_file(source.status())) return usage_error(escape(place->path) + " is the file itself");
    outcome.path = place->path;
    if (options.link) {
        if (const Result<void> linked = link_to(source, *place); !linked) return give_up_target(linked.error());
        outcome.how = "link";
        outcome.report.size = static_cast<std::uint64_t>(source.status().st_size);
    } else {
        const std::string left = "; nothing was left at " + escape(place->path);
        Result<NewFile> target = NewFile::create(*place);
        if (!target) return give_up_target(target.error());
        ProgressBar bar;
        auto report = copy_held(source, target->fd(), [&](std::uint64_t done, std::uint64_t total) {
            bar.show(done, total);
            return stop_signal == 0;
        });
        bar.clear();
        if (!report) return give_up_target(report.error(), left);
        if (const Result<void> synced = target->sync(); !synced) return give_up_target(synced.error(), left);
        if (stop_signal != 0) return give_up_target(Error{ECANCELED, {}}, left);
        if (const Result<void> named = target->commit(); !named) return give_up_target(named.error());
        outcome.report = std::move(*report);
        outcome.how = outcome.report.cloned ? "clone" : "copy";
    }
    outcome.holder_ended = !source.holder_is_there();
    if (options.json) {
        append_json(output.buffer(), *opened, outcome);
    } else {
        std::string& out = output.buffer();
        out += escape_path(source.path()) + (source.status().st_nlink == 0 ? " (deleted)" : "") + ": ";
        if (options.link) {
            out += "linked";
        } else {
            append_number(out, static_cast<unsigned long long>(outcome.report.size));
            out += outcome.report.cloned ? " bytes cloned" : " bytes copied";
            if (!outcome.report.cloned && outcome.report.data_bytes != outcome.report.size) {
                out += ", " + std::to_string(outcome.report.data_bytes) + " of them data, the rest holes,";
            }
        }
        out += " to " + escape(outcome.path) + '\n';
    }
    output.flush();
    return output.finish(say_doubts(outcome) ? exit_incomplete : exit_done);
}

}  // namespace

int run_recover(std::vector<std::string> arguments, Output& output) {
    RecoverOptions options;
    std::vector<std::string> words;
    CLI::App app("Copy a held file out through the process that holds it, deleted or not.\n\n"
                 "fdspan recover PID FD|exe|START-END DEST\nfdspan recover --inode MAJOR:MINOR:INO DEST", "fdspan recover");
    app.footer(
        "DEST is a file to be made, a directory to make it in, or - for standard output. It appears under its name only when it is whole.\n"
        "Exit codes: 0 done, 1 there is no such process, reference or file, 2 error (and nothing was left), 3 done, but the file was\n"
        "written to meanwhile, 128 + N ended by signal N.");
    app.add_option("WORDS", words, "Process, reference and destination")->type_name("");
    add_value(app, "--inode", "FILE", "The file MAJOR:MINOR:INO, whoever holds it; with PID and FD: refuse any other file", [&](const std::string& text) -> Result<void> {
        const Result<FileId> file = parse_file_id(text);
        if (!file) return tl::unexpected(file.error());
        options.file = *file;
        return {};
    });
    add_value(app, "--tid", "TID", "A thread with a descriptor table of its own", [&](const std::string& text) -> Result<void> {
        const Result<std::uint64_t> tid = parse_count(text, 1, INT32_MAX);
        if (!tid) return fail(EINVAL, "\"" + escape(text) + "\" is not a thread id");
        options.tid = static_cast<pid_t>(*tid);
        return {};
    });
    add_flag(app, "-f,--force", options.force, "Replace DEST if it is a regular file or a symbolic link to one");
    add_flag(app, "--link", options.link, "Give the file a name again instead of copying it, where the kernel allows that");
    add_flag(app, "--explain", options.explain, "Do nothing; print the commands a person may run instead");
    add_flag(app, "-J,--json", options.json, "One JSON document about what was done");
    add_backend(app, options.backend);
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) return *done;

    const std::size_t most = options.file && words.size() < 2 ? 1 : 3;
    const std::size_t least = options.explain ? most - 1 : most;
    if (words.size() < least || words.size() > most || (!options.file && words.empty())) {
        return usage_error("expected PID, then a descriptor number, exe or an address range, then DEST; or --inode MAJOR:MINOR:INO and DEST");
    }
    if (most == 3) {
        HeldAddress address;
        std::vector<pid_t> pids;
        if (const Result<void> parsed = parse_pids(words[0], pids); !parsed) return usage_error(parsed.error().message);
        if (pids.size() != 1) return usage_error("one process at a time");
        address.pid = pids.front();
        if (const Result<void> parsed = parse_reference(words[1], address); !parsed) return usage_error(parsed.error().message);
        if (options.tid) {
            if (address.ref != RefKind::fd) return usage_error("--tid is about descriptors");
            address.tid = *options.tid;
        }
        address.file = options.file;
        options.address = address;
    } else if (options.tid) {
        return usage_error("--tid goes with PID and FD");
    }
    if (words.size() == most) {
        options.dest = words.back();
        if (options.dest.empty()) return usage_error("DEST is empty");
    }
    if (options.link && options.dest == "-") return usage_error("--link needs a name");
    if (options.json && (options.dest == "-" || options.explain)) return usage_error("--json says what was done to a file: not with - or --explain");
    if (options.force && options.dest == "-") return usage_error("--force needs a name");
    return recover(options, output);
}

}  // namespace fdspan::cli
