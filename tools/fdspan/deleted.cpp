// fdspan deleted: which deleted files are still held, by whom, and how much space they take.
#include "api/deleted.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include <spdlog/spdlog.h>

#include "columns.hpp"
#include "deleted.hpp"
#include "duration.hpp"
#include "event_json.hpp"
#include "explain.hpp"
#include "filter.hpp"
#include "gaps.hpp"
#include "kernel/iterator_sections.hpp"
#include "mount_view.hpp"
#include "options.hpp"
#include "service/control/client.hpp"
#include "snapshot/procfs_mounts.hpp"
#include "table.hpp"
#include "text.hpp"
#include "wall_time.hpp"

namespace fdspan::cli {
namespace {

std::string human(std::uint64_t bytes, bool wanted) {
    std::string text;
    if (wanted) append_human(text, bytes);
    else append_number(text, static_cast<unsigned long long>(bytes));
    return text;
}

std::string_view mark_of(NameState state) {
    switch (state) {
        case NameState::deleted: return " (deleted)";
        case NameState::silly: return " (deleted, kept by NFS)";
        case NameState::gone: return " (name gone)";
        case NameState::unknown: return " (name gone, links not known)";
        default: return "";
    }
}

class Listing {
public:
    Listing(const DeletedOptions& options, DeletedAnswer answer)
        : options_(options), answer_(std::move(answer)), snapshot_(answer_.answer.snapshot), clock_(WallClock::now()) {}

    void choose();
    [[nodiscard]] bool empty() const { return files_.empty(); }
    [[nodiscard]] std::uint64_t undecided() const { return undecided_; }
    [[nodiscard]] std::uint64_t without_size() const;
    void print_files(Output& output);
    void print_groups(Output& output);
    void print_json(Output& output, bool complete, std::uint64_t unreadable);
    void explain(Output& output);

private:
    struct Group {
        std::string name;      // of a container, a mount point; a process has none
        std::string type;      // of the file system
        const Process* process = nullptr;
        DeviceNumber dev;
        std::uint64_t files = 0;
        std::uint64_t bytes = 0;
    };

    [[nodiscard]] const Process& process_of(std::uint32_t reference) const { return snapshot_.processes[snapshot_.references[reference].process]; }
    [[nodiscard]] bool matches(DeletedFile& file);
    [[nodiscard]] std::string holders(const DeletedFile& file) const;
    [[nodiscard]] std::string outside(const DeletedFile& file);
    [[nodiscard]] std::string age(const DeletedFile& file) const;
    [[nodiscard]] std::vector<Group> groups();
    [[nodiscard]] std::string total() const;
    void append_holders_json(std::string& out, const DeletedFile& file);
    void load_mounts();

    const DeletedOptions& options_;
    DeletedAnswer answer_;
    const Snapshot& snapshot_;
    WallClockText clock_;
    UserNames users_;
    MountView mounts_;
    std::vector<DeletedFile> files_;
    std::uint64_t undecided_ = 0;
    std::map<DeviceNumber, std::pair<std::string, std::string>> file_systems_;  // mount point, type
};

bool Listing::matches(DeletedFile& file) {
    if (!options_.processes.empty()) {
        std::erase_if(file.references, [&](std::uint32_t index) {
            const Process& process = process_of(index);
            return !options_.processes.matches(process, snapshot_.text(process.comm));
        });
        file.loops.clear();
        file.hidden.clear();
        if (file.references.empty()) return false;
    }
    if (options_.min_bytes && file.allocated.value_or(0) < *options_.min_bytes) return false;
    if (!options_.paths.empty()) {
        const auto by_path = [&](const PathFilter& path) {
            if (std::any_of(file.references.begin(), file.references.end(), [&](std::uint32_t index) {
                    const Reference& reference = snapshot_.references[index];
                    return path.matches(reference, snapshot_.path(reference));
                })) {
                return true;
            }
            Reference of_loop;
            of_loop.valid = field_stat;
            of_loop.dev = file.id.dev;
            of_loop.ino = file.id.ino;
            of_loop.name = file.state;
            return file.references.empty() && path.matches(of_loop, file.path);
        };
        if (std::none_of(options_.paths.begin(), options_.paths.end(), by_path)) return false;
    }
    if (options_.older_than_ns) {
        const std::optional<AgeRange> deleted = file.deleted ? age_at(*file.deleted, snapshot_.ended_ns) : std::nullopt;
        if (!deleted || deleted->min_ns < *options_.older_than_ns) {
            if (!deleted || deleted->max_ns.value_or(std::numeric_limits<std::uint64_t>::max()) >= *options_.older_than_ns) ++undecided_;
            return false;
        }
    }
    return true;
}

void Listing::choose() {
    for (DeletedFile& file : answer_.files) {
        if (matches(file)) files_.push_back(std::move(file));
    }
    std::sort(files_.begin(), files_.end(), [](const DeletedFile& a, const DeletedFile& b) {
        const std::uint64_t one = a.allocated.value_or(0);
        const std::uint64_t other = b.allocated.value_or(0);
        if (one != other) return one > other;
        return std::tie(a.path, a.id.dev, a.id.ino) < std::tie(b.path, b.id.dev, b.id.ino);
    });
    if (options_.limit && files_.size() > *options_.limit) files_.resize(*options_.limit);
}

std::uint64_t Listing::without_size() const {
    return static_cast<std::uint64_t>(std::count_if(files_.begin(), files_.end(), [](const DeletedFile& file) { return !file.allocated; }));
}

// "nginx[812] fd 3,7 mem; sh[90] cwd; /dev/loop0"
std::string Listing::holders(const DeletedFile& file) const {
    std::string text;
    std::uint32_t process = std::numeric_limits<std::uint32_t>::max();
    std::string last;
    for (const std::uint32_t index : file.references) {
        const Reference& reference = snapshot_.references[index];
        if (reference.process != process) {
            process = reference.process;
            const Process& holder = snapshot_.processes[process];
            text += (text.empty() ? "" : "; ") + escape(snapshot_.text(holder.comm)) + '[' + std::to_string(holder.pid) + ']';
            last.clear();
        }
        std::string what(to_string(reference.ref));
        const pid_t pid = snapshot_.processes[process].pid;
        if (reference.tid != 0 && reference.tid != pid) what += "@" + std::to_string(reference.tid);
        if (reference.ref == RefKind::fd) {
            text += what == last ? "," : " " + what + " ";
            text += std::to_string(reference.fd);
        } else if (what != last) {  // the pieces of one mapping are one
            text += " " + what;
        }
        last = what;
    }
    for (const std::string& loop : file.loops) text += (text.empty() ? "/dev/" : "; /dev/") + loop;
    if (!file.hidden.empty()) text += std::string(text.empty() ? "" : "; ") + "(in flight, io_uring or kernel)";
    return text;
}

std::string Listing::outside(const DeletedFile& file) {
    const bool named = file.state != NameState::memfd && file.state != NameState::shm;
    if (!named || file.references.empty()) return {};
    return mounts_.outside(process_of(file.references.front()).pid, file.path);
}

std::string Listing::age(const DeletedFile& file) const {
    const std::optional<AgeRange> range = file.deleted ? age_at(*file.deleted, snapshot_.ended_ns) : std::nullopt;
    return range ? format_age(*range) : std::string();
}

std::string Listing::total() const {
    std::uint64_t bytes = 0;
    std::set<std::uint32_t> processes;
    std::set<std::string> loops;
    for (const DeletedFile& file : files_) {
        bytes += file.allocated.value_or(0);
        for (const std::uint32_t index : file.references) processes.insert(snapshot_.references[index].process);
        loops.insert(file.loops.begin(), file.loops.end());
    }
    std::string text = human(bytes, options_.human_sizes) + (options_.human_sizes ? " in " : " bytes in ") + plural(files_.size(), "file", "files") +
                       " held by " + plural(processes.size(), "process", "processes");
    if (!loops.empty()) text += " and " + plural(loops.size(), "loop device", "loop devices");
    return text;
}

void Listing::print_files(Output& output) {
    std::vector<TableColumn> columns{{"BYTES", Align::right}, {"DELETED", Align::right}, {"HOLDERS", Align::left, Shrink::end}, {"NAME", Align::left, Shrink::middle}};
    const bool any_outside = std::any_of(files_.begin(), files_.end(), [&](const DeletedFile& file) { return !outside(file).empty(); });
    if (any_outside) columns.push_back({"OUTSIDE", Align::left, Shrink::middle});
    const bool any_culprit = std::any_of(files_.begin(), files_.end(), [](const DeletedFile& file) { return file.by.has_value(); });
    if (any_culprit) columns.insert(columns.begin() + 2, {"BY", Align::left, Shrink::end});
    const bool other_state = options_.nameless;
    if (other_state) columns.insert(columns.begin() + 1, {"STATE"});
    std::vector<std::vector<std::string>> rows;
    for (const DeletedFile& file : files_) {
        auto& row = rows.emplace_back();
        row.push_back(file.allocated ? human(*file.allocated, options_.human_sizes) : std::string());
        if (other_state) row.emplace_back(to_string(file.state));
        row.push_back(age(file));
        if (any_culprit) row.push_back(file.by ? escape(file.by->comm) + '[' + std::to_string(file.by->pid) + ']' : std::string());
        row.push_back(holders(file));
        row.push_back(escape_path(file.path) + std::string(mark_of(file.state)));
        if (any_outside) row.push_back(escape(outside(file)));
    }
    print_cells(output, columns, rows, !options_.no_headings, make_palette(options_.color));
    if (!options_.no_headings) output.write(total() + '\n');
}

void Listing::load_mounts() {
    const procfs::MountTable table = procfs::read_own_mounts();
    for (const procfs::Mount& mount : table.mounts()) {
        // The one that shows all of it, where there is one.
        auto [known, fresh] = file_systems_.try_emplace(mount.dev, mount.point, mount.type);
        if (!fresh && mount.root == "/" && mount.point.size() < known->second.first.size()) known->second.first = mount.point;
    }
}

std::vector<Listing::Group> Listing::groups() {
    if (options_.by == DeletedOptions::By::filesystem) load_mounts();
    std::map<std::string, Group> groups;
    for (const DeletedFile& file : files_) {
        std::set<std::string> seen;
        const auto add = [&](const std::string& key, auto&& describe) {
            const auto [place, fresh] = groups.try_emplace(key);
            if (fresh) describe(place->second);
            if (!seen.insert(key).second) return;
            ++place->second.files;
            place->second.bytes += file.allocated.value_or(0);
        };
        if (options_.by == DeletedOptions::By::filesystem) {
            add(std::to_string(file.id.dev.major) + ':' + std::to_string(file.id.dev.minor), [&](Group& group) {
                group.dev = file.id.dev;
                if (const auto known = file_systems_.find(file.id.dev); known != file_systems_.end()) std::tie(group.name, group.type) = known->second;
            });
            continue;
        }
        for (const std::uint32_t index : file.references) {
            const Process& process = process_of(index);
            if (options_.by == DeletedOptions::By::process) add(std::to_string(process.pid), [&](Group& group) { group.process = &process; });
            else add(std::string(snapshot_.text(process.container)), [&](Group& group) { group.name = snapshot_.text(process.container); });
        }
        if (!file.hidden.empty()) {
            const bool of_process = options_.by == DeletedOptions::By::process;
            add(of_process ? "hidden" : "", [&](Group& group) { group.name = of_process ? "(in flight, io_uring or kernel)" : ""; });
        }
        for (const std::string& loop : file.loops) {
            if (options_.by == DeletedOptions::By::process) add("/dev/" + loop, [&](Group& group) { group.name = "/dev/" + loop; });
            else add("", [](Group&) {});
        }
    }
    std::vector<Group> sorted;
    for (auto& [key, group] : groups) sorted.push_back(std::move(group));
    std::stable_sort(sorted.begin(), sorted.end(), [](const Group& a, const Group& b) { return a.bytes > b.bytes; });
    return sorted;
}

void Listing::print_groups(Output& output) {
    std::vector<TableColumn> columns{{"BYTES", Align::right}, {"FILES", Align::right}};
    switch (options_.by) {
        case DeletedOptions::By::process:
            columns.insert(columns.end(), {{"PID", Align::right}, {"USER", Align::left}, {"COMM", Align::left, Shrink::end}});
            break;
        case DeletedOptions::By::container: columns.push_back({"CONTAINER", Align::left, Shrink::end}); break;
        default: columns.insert(columns.end(), {{"DEV", Align::right}, {"TYPE", Align::left}, {"MOUNTED", Align::left, Shrink::middle}}); break;
    }
    std::vector<std::vector<std::string>> rows;
    for (const Group& group : groups()) {
        auto& row = rows.emplace_back();
        row.push_back(human(group.bytes, options_.human_sizes));
        row.push_back(std::to_string(group.files));
        if (options_.by == DeletedOptions::By::process) {
            row.push_back(group.process != nullptr ? std::to_string(group.process->pid) : std::string());
            row.push_back(group.process != nullptr ? escape(users_.name(group.process->uid)) : std::string());
            row.push_back(escape(group.process != nullptr ? snapshot_.text(group.process->comm) : std::string_view(group.name)));
        } else if (options_.by == DeletedOptions::By::container) {
            row.push_back(escape(group.name));
        } else {
            row.push_back(std::to_string(group.dev.major) + ':' + std::to_string(group.dev.minor));
            row.push_back(escape(group.type));
            row.push_back(escape(group.name));
        }
    }
    print_cells(output, columns, rows, !options_.no_headings, make_palette(options_.color));
    if (!options_.no_headings) output.write(total() + '\n');
}

void append_count(std::string& out, std::string_view key, std::optional<std::uint64_t> value) {
    out += '"';
    out += key;
    out += "\":";
    if (value) append_number(out, static_cast<unsigned long long>(*value));
    else out += "null";
    out += ',';
}

void Listing::append_holders_json(std::string& out, const DeletedFile& file) {
    static constexpr std::string_view names[] = {"PID", "TID", "PPID", "COMM", "USER", "UID", "STARTED", "REF", "FD", "FLAGS", "POS", "MNT", "MAP", "CGROUP", "CONTAINER", "AGE", "OPENED", "DESCRIPTION", "NAME", "OUTSIDE"};
    std::vector<const Column*> columns;
    for (const std::string_view name : names) columns.push_back(find_column(name));
    out += "\"holders\":[";
    for (const std::uint32_t index : file.references) {
        const Reference reference = snapshot_.references[index];
        const RowContext row{&snapshot_.strings, &process_of(index), &reference, snapshot_.began_ns, snapshot_.ended_ns, &clock_, &users_, false, &mounts_};
        if (out.back() != '[') out += ",\n  ";
        append_reference_json(out, row, columns);
    }
    for (const std::string& loop : file.loops) {
        if (out.back() != '[') out += ",\n  ";
        out += "{\"ref\":\"loop\",\"device\":\"/dev/" + loop + "\"}";
    }
    for (const std::uint32_t index : file.hidden) {
        const RowContext row{&snapshot_.strings, nullptr, &snapshot_.hidden[index], snapshot_.began_ns, snapshot_.ended_ns, &clock_, &users_, false, nullptr};
        static const Column* const described[] = {find_column("AGE"), find_column("DESCRIPTION")};
        if (out.back() != '[') out += ",\n  ";
        std::string keys;
        append_reference_json(keys, row, described);
        out += "{\"ref\":\"hidden\"," + keys.substr(1);
    }
    out += ']';
}

void Listing::print_json(Output& output, bool complete, std::uint64_t unreadable) {
    std::string& out = output.buffer();
    out += "{\"schema\":1,";
    append_json_text(out, "backend", to_string(answer_.answer.backend));
    append_json_text(out, "source", snapshot_.source);
    out += complete ? "\"complete\":true," : "\"complete\":false,";
    append_gaps_json(out, snapshot_.gaps, unreadable);
    out += "\"began\":";
    clock_.append_json(out, Interval::exact(snapshot_.began_ns));
    out += ",\"ended\":";
    clock_.append_json(out, Interval::exact(snapshot_.ended_ns));
    std::uint64_t bytes = 0;
    for (const DeletedFile& file : files_) bytes += file.allocated.value_or(0);
    out += ",\"total\":{";
    append_count(out, "files", files_.size());
    append_count(out, "allocated", bytes);
    out.back() = '}';
    if (options_.by != DeletedOptions::By::file) {
        out += ",\"groups\":[";
        for (const Group& group : groups()) {
            out += out.back() == '[' ? "\n{" : ",\n{";
            append_count(out, "allocated", group.bytes);
            append_count(out, "files", group.files);
            if (options_.by == DeletedOptions::By::process) {
                append_count(out, "pid", group.process != nullptr ? std::optional<std::uint64_t>(group.process->pid) : std::nullopt);
                append_json_text(out, "comm", group.process != nullptr ? snapshot_.text(group.process->comm) : std::string_view(group.name));
            } else if (options_.by == DeletedOptions::By::container) {
                append_json_text(out, "container", group.name);
            } else {
                append_json_text(out, "dev", std::to_string(group.dev.major) + ':' + std::to_string(group.dev.minor));
                append_json_text(out, "type", group.type);
                append_json_text(out, "mount_point", group.name);
            }
            out.back() = '}';
        }
        out += "\n]}\n";
        return;
    }
    out += ",\"files\":[";
    bool first = true;
    for (const DeletedFile& file : files_) {
        out += first ? "\n{" : ",\n{";
        first = false;
        append_json_text(out, "path", file.path);
        const std::string way = outside(file);
        if (way.empty()) out += "\"outside_path\":null,";
        else append_json_text(out, "outside_path", way);
        append_json_text(out, "state", to_string(file.state));
        append_json_text(out, "type", to_string(file.type));
        append_json_text(out, "dev", std::to_string(file.id.dev.major) + ':' + std::to_string(file.id.dev.minor));
        append_count(out, "ino", file.id.ino);
        append_count(out, "nlink", file.nlink);
        append_count(out, "size", file.size);
        append_count(out, "allocated", file.allocated);
        out += "\"deleted\":";
        if (file.deleted) clock_.append_json(out, *file.deleted);
        else out += "null";
        out += ',';
        const std::optional<AgeRange> range = file.deleted ? age_at(*file.deleted, snapshot_.ended_ns) : std::nullopt;
        append_count(out, "age_ns", range ? std::optional(range->min_ns) : std::nullopt);
        append_count(out, "age_max_ns", range ? range->max_ns : std::nullopt);
        append_json_text(out, "how", to_string(file.how));
        if (file.by) append_by_json(out, file.by->pid, file.by->uid, file.by->comm, file.by->exe, file.by->cgroup);
        else out += "\"by\":null,";
        append_holders_json(out, file);
        out += '}';
        output.written();
        if (output.broken()) return;
    }
    out += first ? "]}\n" : "\n]}\n";
}

void Listing::explain(Output& output) {
    for (const DeletedFile& file : files_) {
        const bool deleted = file.state == NameState::deleted || file.state == NameState::silly;
        const std::size_t slash = file.path.rfind('/');
        const std::string dest = "./" + file.path.substr(slash == std::string::npos ? 0 : slash + 1);
        ExplainedHolder holder;
        // A descriptor can do most.
        const auto rank = [&](std::uint32_t index) { return snapshot_.references[index].ref == RefKind::fd ? 0 : 1; };
        const auto best = std::min_element(file.references.begin(), file.references.end(), [&](std::uint32_t a, std::uint32_t b) { return rank(a) < rank(b); });
        if (best != file.references.end()) {
            const Reference& reference = snapshot_.references[*best];
            const Process& process = process_of(*best);
            HeldAddress address{process.pid, reference.tid, reference.ref, reference.fd, 0, 0, std::nullopt, std::nullopt};
            if (reference.ref == RefKind::mem) {
                address.map_start = reference.map_start;
                address.map_end = reference.map_end;
            }
            if (file.type != FileType::reg) {
                output.write("# " + escape_path(file.path) + std::string(mark_of(file.state)) + ": no regular file, nothing to copy; held by " + holders(file) + '\n');
                continue;
            }
            holder.link = magic_link(address);
            holder.pid = process.pid;
            holder.descriptor = reference.ref == RefKind::fd;
            holder.what = holders(file);
        } else if (file.loops.empty()) {
            output.write("# " + escape_path(file.path) + std::string(mark_of(file.state)) + ": no process shows it, nothing leads to it; held by " + holders(file) + '\n');
            continue;
        } else {
            holder.link = "/dev/" + file.loops.front();
            holder.what = holder.link;
        }
        explain_held(output.buffer(), file.path, deleted, file.allocated.value_or(0), holder, dest);
        output.written();
    }
}

void define_options(CLI::App& app, DeletedOptions& options, std::vector<std::string>& paths) {
    app.add_option("PATH", paths, "Files by their former name, directories with all that was below them")->type_name("");
    add_repeated(app, "-p,--pid", "PID", "Only what these processes hold (repeatable, comma lists)",
                 [&](const std::string& text) { return parse_pids(text, options.processes.pids); });
    add_repeated(app, "-c,--comm", "NAME", "Only what commands of this name hold (shell pattern)", [&](const std::string& text) -> Result<void> {
        if (text.empty()) return fail(EINVAL, "the name is empty");
        options.processes.comms.push_back(text);
        return {};
    });
    add_repeated(app, "-u,--user", "USER", "Only what processes of this user hold, by name or uid",
                 [&](const std::string& text) { return options.processes.add_user(text); });
    add_value(app, "--older-than", "DUR", "Only what has certainly been deleted for longer, as 90s, 5m, 3h, 1h30m, 2d",
              [&](const std::string& text) -> Result<void> {
                  const Result<std::uint64_t> parsed = parse_duration_ns(text);
                  if (!parsed) return tl::unexpected(parsed.error());
                  options.older_than_ns = *parsed;
                  return {};
              });
    add_value(app, "--min-bytes", "SIZE", "Only files with at least so much on disk, as 4096, 10M, 2G", [&](const std::string& text) -> Result<void> {
        const Result<std::uint64_t> parsed = parse_bytes(text);
        if (!parsed) return tl::unexpected(parsed.error());
        options.min_bytes = *parsed;
        return {};
    });
    add_value(app, "--limit", "N", "Show the first N only", [&](const std::string& text) -> Result<void> {
        const Result<std::uint64_t> parsed = parse_count(text, 1, std::numeric_limits<std::int64_t>::max());
        if (!parsed) return tl::unexpected(parsed.error());
        options.limit = *parsed;
        return {};
    });
    add_value(app, "--by", "WHAT", "Sums instead of files: by process, container or filesystem", [&](const std::string& text) -> Result<void> {
        if (text == "process") options.by = DeletedOptions::By::process;
        else if (text == "container") options.by = DeletedOptions::By::container;
        else if (text == "filesystem") options.by = DeletedOptions::By::filesystem;
        else return fail(EINVAL, "\"" + escape(text) + "\" is none of process, container, filesystem");
        return {};
    });
    add_flag(app, "--nameless", options.nameless, "Also what never had a name: memfd, O_TMPFILE, shared memory");
    add_flag(app, "--gone", options.gone, "Also files whose opened name is gone while another link is left");
    add_flag(app, "--libraries", options.libraries, "Which services run or map a deleted or replaced program or library");
    add_flag(app, "--explain", options.explain, "Print the commands a person may run about each file");
    add_flag(app, "-J,--json", options.json, "One JSON document");
    add_flag(app, "-n,--noheadings,--no-headings", options.no_headings, "No heading line and no total");
    add_flag(app, "--human", options.human_sizes, "Sizes as 1.5K, 20M");
    add_socket(app, "Where fdspand listens, which is asked for deletions that it saw", options.socket);
    add_no_daemon(app, options.ask_daemon);
    add_backend(app, options.backend);
    add_color(app, options.color);
}

// What the daemon saw being deleted has its exact time and its culprit.
void add_daemon_deletions(DeletedAnswer& answer, const DeletedOptions& options) {
    if (!options.ask_daemon || options.backend != Backend::automatic || answer.files.empty()) return;
    const Result<service::DeletionsAnswer> deletions = service::ask_deletions(options.socket, options.processes.pids);
    if (!deletions) {
        if (!service::is_no_daemon(deletions.error())) answer.answer.warnings.push_back(deletions.error().message);
        return;
    }
    if (!deletions->certain) answer.answer.warnings.emplace_back("the daemon is mending a loss; what it saw is left out");
    service::join_deletions(answer.files, *deletions);
}

int list_deleted(const DeletedOptions& options, Output& output) {
    DeletedRequest request{options.processes.pids, options.nameless, options.gone, options.backend, reading_threads()};
    take_over_iterator_sections();
    Result<DeletedAnswer> answer = find_deleted(request);
    if (!answer) return usage_error(answer.error().message);
    add_daemon_deletions(*answer, options);
    const std::vector<std::string> warnings = answer->answer.warnings;
    const std::uint64_t unreadable = count_unreadable(answer->answer.snapshot, options.processes);
    std::vector<std::string> gaps = describe_gaps(answer->answer, options.processes, unreadable);
    if (answer->unreadable_loops > 0) {
        gaps.push_back(plural(answer->unreadable_loops, "loop device", "loop devices") + " could not be asked for the file behind");
    }
    const bool complete = gaps.empty() && !answer->answer.lossy;
    const SnapshotGaps answer_gaps = answer->answer.snapshot.gaps;
    Listing listing(options, std::move(*answer));
    listing.choose();
    if (options.json) listing.print_json(output, complete, unreadable);
    else if (listing.empty()) {}
    else if (options.explain) listing.explain(output);
    else if (options.by != DeletedOptions::By::file) listing.print_groups(output);
    else listing.print_files(output);
    output.flush();
    if (output.broken()) return output.finish(exit_done);

    for (const std::string& warning : warnings) spdlog::warn("{}", warning);
    if (listing.undecided() > 0) {
        spdlog::info("{} may match too, but nobody saw when they were deleted", plural(listing.undecided(), "file", "files"));
    }
    if (listing.without_size() > 0) {
        spdlog::warn("{} only by a loop device on a file system that can't tell the size: not in the total",
                     plural(listing.without_size(), "file is held", "files are held"));
    }
    return finish_answer(output, gaps, listing.empty(), complete, may_match(options, answer_gaps, unreadable));
}

}  // namespace

bool may_match(const DeletedOptions& options, const SnapshotGaps& gaps, std::uint64_t unreadable) {
    return gaps.undecided_names > 0 || (unreadable > 0 && !options.processes.empty());
}

int finish_answer(Output& output, const std::vector<std::string>& gaps, bool empty, bool complete, bool may_match) {
    std::string text;
    for (const std::string& gap : gaps) text += (text.empty() ? "" : "; ") + gap;
    if (!empty) {
        if (!text.empty()) spdlog::warn("incomplete: {}", text);
        return output.finish(complete ? exit_done : exit_incomplete);
    }
    spdlog::warn("nothing matched{}{}", text.empty() ? "" : "; ", text);
    return output.finish(may_match ? exit_incomplete : exit_nothing_matched);
}

int run_deleted(std::vector<std::string> arguments, Output& output) {
    DeletedOptions options;
    std::vector<std::string> paths;
    CLI::App app("List deleted files that are still held, largest first: the space they take, since when, and who holds them.", "fdspan deleted");
    app.footer(
        "BYTES are those on disk, which come back when the last holder lets go. DELETED is bounded by the file's ctime: \">= 3h\" is certain;\n"
        "what fdspand saw has the exact time, and BY: who did it.\n"
        "HOLDERS are COMMAND[PID] with descriptors, mem, exe, cwd or root, and loop devices; @TID marks a thread's own.\n"
        "Exit codes: 0 done, 1 nothing matched, 2 usage or runtime error, 3 done but incomplete (stderr says what is missing).");
    define_options(app, options, paths);
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) return *done;
    if (options.json && options.human_sizes) return usage_error("--human has no meaning with --json, whose numbers are bytes");
    if (options.json && options.no_headings) return usage_error("--noheadings has no meaning with --json");
    if (options.json && options.color == ColorMode::always) return usage_error("--color=always has no meaning with --json");
    if (options.explain && (options.json || options.by != DeletedOptions::By::file)) return usage_error("--explain is about files, in words: not with --json or --by");
    for (const std::string& path : paths) {
        Result<PathFilter> filter = PathFilter::create(path);
        if (!filter) return usage_error(filter.error().message);
        options.paths.push_back(std::move(*filter));
    }
    if (!options.libraries) return list_deleted(options, output);
    if (options.explain || options.nameless || options.gone || options.by != DeletedOptions::By::file || options.older_than_ns || options.min_bytes ||
        options.socket != service::default_socket || !options.ask_daemon) {
        return usage_error("--libraries goes with PATH, --pid, --comm, --user, --limit, --json and --backend only");
    }
    return list_libraries(options, output);
}

}  // namespace fdspan::cli
