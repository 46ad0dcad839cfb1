// fdspan ls: decide what to print, read no more than that needs, filter, sort, print.
#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <set>
#include <tuple>

#include <spdlog/spdlog.h>

#include "api/snapshot.hpp"
#include "columns.hpp"
#include "duration.hpp"
#include "filter.hpp"
#include "gaps.hpp"
#include "in_order.hpp"
#include "kernel/iterator_sections.hpp"
#include "options.hpp"
#include "service/control/client.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

constexpr std::string_view default_columns[] = {"AGE", "PID", "COMM", "USER", "FD", "TYPE", "SIZE", "NAME"};
constexpr std::uint8_t every_kind = 0x1f;

constexpr std::uint8_t bit(RefKind kind) { return static_cast<std::uint8_t>(1U << static_cast<unsigned>(kind)); }

struct LsOptions {
    std::vector<PathFilter> paths;
    ProcessFilter processes;
    TypeFilter types;
    std::uint8_t kinds = 0;  // 0: not said
    std::vector<std::int32_t> fds;
    std::optional<std::uint64_t> older_than_ns;
    std::optional<std::uint64_t> newer_than_ns;
    std::optional<std::uint64_t> limit;
    bool deleted = false;
    bool all = false;
    bool reverse = false;
    bool json = false;
    bool no_headings = false;
    bool human_sizes = false;
    bool list_columns = false;
    bool ask_daemon = true;
    std::string socket = service::default_socket;
    std::string column_list;  // empty: the default
    const Column* sort = nullptr;
    Backend backend = Backend::automatic;
    ColorMode color = ColorMode::automatic;
};

void define_options(CLI::App& app, LsOptions& options, std::vector<std::string>& paths) {
    app.add_option("PATH", paths, "Files by identity and name, directories with all below them, or a deleted file's former name")
        ->type_name("");
    add_repeated(app, "-p,--pid", "PID", "Only these processes (repeatable, comma lists)",
                 [&](const std::string& text) { return parse_pids(text, options.processes.pids); });
    add_repeated(app, "-c,--comm", "NAME", "Only commands of this name (shell pattern)", [&](const std::string& text) -> Result<void> {
        if (text.empty()) return fail(EINVAL, "the name is empty");
        options.processes.comms.push_back(text);
        return {};
    });
    add_repeated(app, "-u,--user", "USER", "Only processes of this user, by name or uid",
                 [&](const std::string& text) { return options.processes.add_user(text); });
    add_repeated(app, "-d,--fd", "FD", "Only these descriptor numbers", [&](const std::string& text) {
        return for_each_part(text, [&](std::string_view part) -> Result<void> {
            const Result<std::uint64_t> fd = parse_count(part, 0, std::numeric_limits<std::int32_t>::max());
            if (!fd) return fail(EINVAL, "\"" + escape(part) + "\" is not a descriptor number");
            options.fds.push_back(static_cast<std::int32_t>(*fd));
            return {};
        });
    });
    add_value(app, "--older-than", "DUR", "Only what has certainly been open longer, as 90s, 5m, 3h, 1h30m, 2d",
              [&](const std::string& text) -> Result<void> {
                  const Result<std::uint64_t> parsed = parse_duration_ns(text);
                  if (!parsed) return tl::unexpected(parsed.error());
                  options.older_than_ns = *parsed;
                  return {};
              });
    add_value(app, "--newer-than", "DUR", "Only what has certainly been open for less", [&](const std::string& text) -> Result<void> {
        const Result<std::uint64_t> parsed = parse_duration_ns(text);
        if (!parsed) return tl::unexpected(parsed.error());
        options.newer_than_ns = *parsed;
        return {};
    });
    add_flag(app, "--deleted", options.deleted, "Only files whose last link is gone");
    add_repeated(app, "--type", "TYPE", "REG, DIR, CHR, BLK, FIFO, SOCK, LNK, ANON, or a class such as eventpoll",
                 [&](const std::string& text) {
                     return for_each_part(text, [&](std::string_view part) { return options.types.add(part); });
                 });
    add_repeated(app, "--ref", "KIND", "fd, mem, exe, cwd, root", [&](const std::string& text) {
        return for_each_part(text, [&](std::string_view part) -> Result<void> {
            const std::optional<RefKind> kind = parse_ref_kind(part);
            if (!kind) return fail(EINVAL, "\"" + escape(part) + "\" is none of fd, mem, exe, cwd, root");
            options.kinds |= bit(*kind);
            return {};
        });
    });
    add_flag(app, "-a,--all", options.all, "Every kind of reference; without it tables show descriptors only, unless PATH, --deleted or --ref asks");
    add_value(app, "-o,--output", "LIST", "Columns to show; +LIST adds to the default", [&](const std::string& text) -> Result<void> {
        const Result<std::vector<const Column*>> chosen = select_columns(text, default_columns);
        if (!chosen) return tl::unexpected(chosen.error());
        options.column_list = text;
        return {};
    });
    add_flag(app, "--list-columns", options.list_columns, "List the columns that -o and --sort know");
    add_value(app, "--sort", "COLUMN", "Sort by this column [AGE, oldest first; PID where no times are read]",
              [&](const std::string& text) -> Result<void> {
                  options.sort = find_column(text);
                  if (options.sort == nullptr) {
                      return fail(EINVAL, "there is no column \"" + escape(text) + "\"; see fdspan ls --list-columns");
                  }
                  return {};
              });
    add_flag(app, "-r,--reverse", options.reverse, "Turn the order around");
    add_value(app, "--limit", "N", "Show the first N only", [&](const std::string& text) -> Result<void> {
        const Result<std::uint64_t> parsed = parse_count(text, 1, std::numeric_limits<std::int64_t>::max());
        if (!parsed) return tl::unexpected(parsed.error());
        options.limit = *parsed;
        return {};
    });
    add_flag(app, "-J,--json", options.json, "One JSON document; every kind of reference, every key unless -o selects");
    add_flag(app, "-n,--noheadings,--no-headings", options.no_headings, "No heading line");
    add_flag(app, "--human", options.human_sizes, "Sizes as 1.5K, 20M");
    add_socket(app, "Where fdspand listens, which is asked for times", options.socket);
    add_no_daemon(app, options.ask_daemon);
    add_backend(app, options.backend);
    add_color(app, options.color);
}

int list_columns(bool json, Output& output) {
    std::string& out = output.buffer();
    if (json) out += "[\n";
    bool first = true;
    for (const Column& column : all_columns()) {
        if (json) {
            out += first ? "{" : ",\n{";
            append_json_text(out, "name", column.name);
            append_json_text(out, "help", column.help);
            append_json_text(out, "json_keys", column.json_keys);
            append_json_text(out, "json_type", column.json_type);
            out.back() = '}';
        } else {
            out += std::string(column.name) + std::string(13 - column.name.size(), ' ') + std::string(column.help) + '\n';
        }
        first = false;
    }
    if (json) out += "\n]\n";
    return output.finish(exit_done);
}

// Puts `order` into ascending order. `less` is a strict total order. Descriptors mostly come in the order they were opened in, process by
// process: such runs are merged.
template <class Less>
void sort_by_runs(std::vector<std::uint32_t>& order, Less&& less) {
    constexpr std::size_t worth_merging = 32;  // a run's least length, on average
    const auto count = static_cast<std::ptrdiff_t>(order.size());
    std::vector<std::ptrdiff_t> ends;  // of the runs
    for (std::ptrdiff_t at = 1; at < count; ++at) {
        if (less(order[at], order[at - 1])) ends.push_back(at);
    }
    if (ends.size() > order.size() / worth_merging) {
        std::sort(order.begin(), order.end(), less);
        return;
    }
    ends.push_back(count);
    std::vector<std::uint32_t> merged(order.size());
    while (ends.size() > 1) {
        std::vector<std::ptrdiff_t> longer;
        std::ptrdiff_t begin = 0;
        for (std::size_t run = 0; run < ends.size(); run += 2) {
            const std::ptrdiff_t middle = ends[run];
            const std::ptrdiff_t end = run + 1 < ends.size() ? ends[run + 1] : middle;
            const auto from = order.begin();
            std::merge(from + begin, from + middle, from + middle, from + end, merged.begin() + begin, less);
            longer.push_back(end);
            begin = end;
        }
        order.swap(merged);
        ends.swap(longer);
    }
}

// What one thread makes cells with: all of it remembers what it has seen.
struct CellMaker {
    WallClockText clock;
    UserNames users;
    MountView mounts;
    AgeTexts ages;
    std::string text;
    std::array<char, 24> digits{};
};

// A line, put together beside the text it goes to: a short cell is copied, and the text grows once.
class Line {
public:
    explicit Line(std::string& out) : out_(out) {}
    void add(std::string_view text) {
        if (text.size() > bytes_.size() - used_) {
            spill();
            if (text.size() > bytes_.size()) {
                out_ += text;
                return;
            }
        }
        std::memcpy(bytes_.data() + used_, text.data(), text.size());
        used_ += text.size();
    }
    void pad(std::size_t count) {
        if (count == 1 && used_ < bytes_.size()) {
            bytes_[used_++] = ' ';
            return;
        }
        if (count > bytes_.size() - used_) {
            spill();
            if (count > bytes_.size()) {
                out_.append(count, ' ');
                return;
            }
        }
        std::memset(bytes_.data() + used_, ' ', count);
        used_ += count;
    }
    void end() {
        add("\n");
        spill();
    }

private:
    void spill() {
        out_.append(bytes_.data(), used_);
        used_ = 0;
    }
    std::string& out_;
    std::array<char, 512> bytes_;
    std::size_t used_ = 0;
};

// The chosen rows of one snapshot, in order, with what the cells need.
class Listing {
public:
    Listing(const LsOptions& options, const SnapshotAnswer& answer, std::vector<const Column*> columns)
        : options_(options), answer_(answer), columns_(std::move(columns)), own_{WallClockText(WallClock::now()), {}, {}, {}, {}} {}

    // Returns which PATH arguments matched.
    std::vector<bool> choose();
    void collapse_mappings();
    void sort(const Column* by);
    void limit() {
        if (options_.limit && rows_.size() > *options_.limit) rows_.resize(*options_.limit);
    }

    [[nodiscard]] bool empty() const { return rows_.empty(); }
    // Left out by --older-than or --newer-than only because nobody saw them being opened.
    [[nodiscard]] std::uint64_t undecided() const { return undecided_; }

    void print_json(Output& output, bool complete, std::uint64_t unreadable);
    void print_table(Output& output);

private:
    [[nodiscard]] RowContext context(CellMaker& maker, const Reference& reference) const {
        const Snapshot& snapshot = answer_.snapshot;
        return {&snapshot.strings, &snapshot.processes[reference.process], &reference, snapshot.began_ns, snapshot.ended_ns, &maker.clock, &maker.users,
                options_.human_sizes, &maker.mounts, &maker.ages};
    }
    [[nodiscard]] bool has_right_age(const Reference& reference);
    // The text of a cell, valid until the next one is made. What is the same in all rows of a process is made once, what is a number is
    // no text before it is printed.
    [[nodiscard]] std::string_view cell(CellMaker& maker, std::size_t at, const RowContext& row) const;
    void make_process_cells();
    // That a listing of this length is worth.
    [[nodiscard]] unsigned threads() const;
    // Calls work(thread, begin, end) in each of them, for the rows in [begin, end).
    template <class Work>
    void in_parts(Work&& work) const;
    // One for each of the threads. They know all users: getpwuid(3) is for one thread.
    [[nodiscard]] std::vector<CellMaker> makers() const;
    [[nodiscard]] std::vector<std::size_t> measure(std::vector<CellMaker>& makers, bool terminal) const;
    [[nodiscard]] std::vector<std::size_t> fit_widths(const std::vector<std::size_t>& wanted, std::size_t available) const;

    const LsOptions& options_;
    const SnapshotAnswer& answer_;
    std::vector<const Column*> columns_;
    CellMaker own_;
    std::vector<std::uint32_t> rows_;  // indexes into Snapshot::references
    std::vector<std::string> process_cells_;  // by process and column, while a table is printed
    std::uint64_t undecided_ = 0;
};

bool Listing::has_right_age(const Reference& reference) {
    if (!options_.older_than_ns && !options_.newer_than_ns) return true;
    const std::optional<AgeRange> age = age_at(age_moment(reference), answer_.snapshot.ended_ns);
    constexpr std::uint64_t unlimited = std::numeric_limits<std::uint64_t>::max();
    const std::uint64_t least = age ? age->min_ns : 0;
    const std::uint64_t most = age ? age->max_ns.value_or(unlimited) : unlimited;
    const bool certain = (!options_.older_than_ns || least >= *options_.older_than_ns) &&
                         (!options_.newer_than_ns || most < *options_.newer_than_ns);
    const bool possible = (!options_.older_than_ns || most >= *options_.older_than_ns) &&
                          (!options_.newer_than_ns || least < *options_.newer_than_ns);
    if (!certain && possible) ++undecided_;
    return certain;
}

std::vector<bool> Listing::choose() {
    const Snapshot& snapshot = answer_.snapshot;
    std::vector<bool> path_matched(options_.paths.size(), false);
    if (options_.processes.empty() && options_.fds.empty() && options_.types.empty() && !options_.deleted && options_.paths.empty() &&
        !options_.older_than_ns && !options_.newer_than_ns) {
        rows_.resize(snapshot.references.size());
        std::iota(rows_.begin(), rows_.end(), 0U);
        return path_matched;
    }
    std::vector<bool> process_matches(snapshot.processes.size());
    for (std::size_t index = 0; index < snapshot.processes.size(); ++index) {
        const Process& process = snapshot.processes[index];
        process_matches[index] = options_.processes.matches(process, snapshot.text(process.comm));
    }
    std::string joined;
    for (std::uint32_t index = 0; index < snapshot.references.size(); ++index) {
        if (!process_matches[snapshot.references.process_of(index)]) continue;
        const Reference reference = snapshot.references[index];
        if (!options_.fds.empty() && std::find(options_.fds.begin(), options_.fds.end(), reference.fd) == options_.fds.end()) continue;
        if (!options_.types.matches(reference.type, snapshot.text(reference.type_name))) continue;
        if (options_.deleted && reference.name != NameState::deleted) continue;
        if (!options_.paths.empty()) {
            const std::string_view text = snapshot.strings.path(reference.path, joined);
            bool matched = false;
            for (std::size_t path = 0; path < options_.paths.size(); ++path) {
                if (!options_.paths[path].matches(reference, text)) continue;
                path_matched[path] = true;
                matched = true;
            }
            if (!matched) continue;
        }
        if (!has_right_age(reference)) continue;
        rows_.push_back(index);
    }
    return path_matched;
}

// A library is mapped in four or five pieces; for people that is one use of one file.
void Listing::collapse_mappings() {
    const Snapshot& snapshot = answer_.snapshot;
    using Use = std::tuple<std::uint32_t, std::uint64_t, DeviceNumber, std::string>;
    std::set<Use> seen;
    std::erase_if(rows_, [&](std::uint32_t index) {
        const Reference reference = snapshot.references[index];
        return reference.ref == RefKind::mem && !seen.insert({reference.process, reference.ino, reference.dev, snapshot.path(reference)}).second;
    });
}

void Listing::sort(const Column* by) {
    const Snapshot& snapshot = answer_.snapshot;
    // Processes are in the order of their pids. So the rows come, where descriptors alone are read.
    // Before its descriptors a process has what else it holds, as in lsof.
    const auto place = [](const Reference& reference) {
        constexpr std::uint32_t kinds = 16;
        const std::uint32_t within = reference.ref == RefKind::fd ? kinds + static_cast<std::uint32_t>(reference.fd) : kinds - 1 - static_cast<std::uint32_t>(reference.ref);
        return std::uint64_t{reference.process} << 32 | within;
    };
    const bool by_opened = by->name == "FD_AGE" || by->name == "OPENED";
    const bool by_moment = by_opened || by->name == "AGE";
    std::vector<std::uint64_t> keys(by->number == nullptr ? 0 : rows_.size());
    std::vector<std::uint64_t> seconds(by_moment ? rows_.size() : 0);
    // False: the rows are not in their places. One look at each row: they are in no cache.
    const auto make_keys = [&] {
        std::atomic<bool> in_place = true;
        in_parts([&](unsigned, std::size_t begin, std::size_t end) {
            std::uint64_t last = begin == 0 ? 0 : place(snapshot.references[rows_[begin - 1]]);
            for (std::size_t at = begin; at < end; ++at) {
                const Reference reference = snapshot.references[rows_[at]];
                const std::uint64_t here = place(reference);
                if (here < last) in_place = false;
                last = here;
                if (by->number == nullptr) continue;
                const RowContext row = context(own_, reference);
                keys[at] = by->number(row).value_or(std::numeric_limits<std::uint64_t>::max());
                if (!by_moment) continue;
                // What is only known to have been open when it was read is equally old, however late it was read; the
                // descriptor that may be the oldest comes first then.
                const Interval& moment = by_opened ? reference.opened : age_moment(reference);
                if (!moment.is_exact() && moment.latest_ns >= snapshot.began_ns) keys[at] = snapshot.ended_ns;
                seconds[at] = reference.opened.earliest_ns;
            }
        });
        return in_place.load();
    };
    if (!make_keys()) {
        std::vector<std::uint64_t> places(rows_.size());
        in_parts([&](unsigned, std::size_t begin, std::size_t end) {
            for (std::size_t at = begin; at < end; ++at) places[at] = place(snapshot.references[rows_[at]]);
        });
        std::vector<std::uint32_t> order(rows_.size());
        std::iota(order.begin(), order.end(), 0U);
        sort_by_runs(order, [&](std::uint32_t a, std::uint32_t b) { return places[a] != places[b] ? places[a] < places[b] : a < b; });
        for (std::uint32_t& at : order) at = rows_[at];
        rows_.swap(order);
        static_cast<void>(make_keys());
    }

    std::vector<std::string> texts(by->number == nullptr ? rows_.size() : 0);
    for (std::size_t at = 0; at < texts.size(); ++at) {
        const Reference reference = snapshot.references[rows_[at]];
        by->text(texts[at], context(own_, reference));
    }
    std::vector<std::uint32_t> order(rows_.size());
    std::iota(order.begin(), order.end(), 0U);
    if (by->number == nullptr) {
        sort_by_runs(order, [&](std::uint32_t a, std::uint32_t b) {
            const int compared = texts[a].compare(texts[b]);
            return compared != 0 ? compared < 0 : a < b;
        });
    } else if (by_moment) {
        sort_by_runs(order, [&](std::uint32_t a, std::uint32_t b) {
            if (keys[a] != keys[b]) return keys[a] < keys[b];
            return seconds[a] != seconds[b] ? seconds[a] < seconds[b] : a < b;
        });
    } else {
        sort_by_runs(order, [&](std::uint32_t a, std::uint32_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
    }
    if (options_.reverse) std::reverse(order.begin(), order.end());
    for (std::uint32_t& at : order) at = rows_[at];
    rows_.swap(order);
}

unsigned Listing::threads() const {
    constexpr std::size_t rows_worth_a_thread = 4096;
    return static_cast<unsigned>(std::clamp<std::size_t>(rows_.size() / rows_worth_a_thread, 1, reading_threads()));
}

template <class Work>
void Listing::in_parts(Work&& work) const {
    const unsigned parts = threads();
    run_in_threads(parts, [&](unsigned part) { work(part, rows_.size() * part / parts, rows_.size() * (part + 1) / parts); });
}

std::vector<CellMaker> Listing::makers() const {
    CellMaker first = own_;
    for (const Process& process : answer_.snapshot.processes) static_cast<void>(first.users.name(process.uid));
    return std::vector<CellMaker>(threads(), first);
}

void Listing::print_json(Output& output, bool complete, std::uint64_t unreadable) {
    const Snapshot& snapshot = answer_.snapshot;
    std::string& out = output.buffer();
    out += "{\"schema\":1,";
    append_json_text(out, "backend", to_string(answer_.backend));
    out += answer_.armed ? "\"armed\":true," : "\"armed\":false,";
    append_json_text(out, "source", snapshot.source);
    out += complete ? "\"complete\":true," : "\"complete\":false,";
    append_gaps_json(out, snapshot.gaps, unreadable);
    out += "\"began\":";
    own_.clock.append_json(out, Interval::exact(snapshot.began_ns));
    out += ",\"ended\":";
    own_.clock.append_json(out, Interval::exact(snapshot.ended_ns));
    out += ",\"references\":[";
    std::vector<CellMaker> each = makers();
    write_in_order(static_cast<unsigned>(each.size()), rows_.size(), output, [&](unsigned thread, std::size_t begin, std::size_t end, std::string& text) {
        for (std::size_t at = begin; at < end; ++at) {
            text += at == 0 ? "\n" : ",\n";
            const Reference reference = snapshot.references[rows_[at]];
            append_reference_json(text, context(each[thread], reference), columns_);
        }
    });
    output.write(rows_.empty() ? "]}\n" : "\n]}\n");
}

// Takes from the widest column that may shrink, until all fit; none becomes narrower than its least.
std::vector<std::size_t> Listing::fit_widths(const std::vector<std::size_t>& wanted, std::size_t available) const {
    constexpr std::size_t least_width = 8;
    std::vector<std::size_t> widths = wanted;
    std::size_t total = std::accumulate(widths.begin(), widths.end(), widths.size() - 1);
    while (total > available) {
        std::size_t widest = widths.size();
        for (std::size_t at = 0; at < widths.size(); ++at) {
            if (columns_[at]->shrink == Shrink::never || widths[at] <= least_width) continue;
            if (widest == widths.size() || widths[at] > widths[widest]) widest = at;
        }
        if (widest == widths.size()) break;
        --widths[widest];
        --total;
    }
    return widths;
}

std::string_view Listing::cell(CellMaker& maker, std::size_t at, const RowContext& row) const {
    const Column& column = *columns_[at];
    if (column.of_process) return process_cells_[row.reference->process * columns_.size() + at];
    if (column.digits != nullptr) {
        if (const auto number = column.digits(row)) {
            const char* const end = std::to_chars(maker.digits.begin(), maker.digits.end(), *number).ptr;
            return {maker.digits.data(), static_cast<std::size_t>(end - maker.digits.data())};
        }
    }
    maker.text.clear();
    column.text(maker.text, row);
    if (maker.text.empty()) maker.text = "-";
    return maker.text;
}

void Listing::make_process_cells() {
    constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
    const std::size_t processes = answer_.snapshot.processes.size();
    std::vector<std::vector<std::uint32_t>> shown(threads(), std::vector<std::uint32_t>(processes, none));  // a row of each process
    in_parts([&](unsigned part, std::size_t begin, std::size_t end) {
        for (std::size_t at = begin; at < end; ++at) shown[part][answer_.snapshot.references.process_of(rows_[at])] = rows_[at];
    });
    process_cells_.resize(processes * columns_.size());
    for (std::size_t cell = 0; cell < process_cells_.size(); ++cell) {
        const Column& column = *columns_[cell % columns_.size()];
        if (!column.of_process) continue;
        std::uint32_t index = none;
        for (const auto& part : shown) index = std::min(index, part[cell / columns_.size()]);
        if (index == none) continue;
        std::string& text = process_cells_[cell];
        const Reference reference = answer_.snapshot.references[index];
        column.text(text, context(own_, reference));
        if (text.empty()) text = "-";
    }
}

// Cells are made twice rather than kept: a table of a million rows has to fit in memory.
std::vector<std::size_t> Listing::measure(std::vector<CellMaker>& makers, bool terminal) const {
    std::vector<std::size_t> widths;
    for (const Column* column : columns_) widths.push_back(options_.no_headings ? 1 : column->name.size());
    for (std::size_t cell = 0; cell < process_cells_.size(); ++cell) {
        std::size_t& width = widths[cell % columns_.size()];
        width = std::max(width, display_width(process_cells_[cell]));
    }
    std::vector<std::vector<std::size_t>> found(makers.size(), widths);
    in_parts([&](unsigned thread, std::size_t begin, std::size_t end) {
        // Nothing stands behind the last one.
        std::vector<std::size_t> measured;
        for (std::size_t at = 0; at < columns_.size(); ++at) {
            if (!columns_[at]->of_process && (terminal || at + 1 < columns_.size() || columns_[at]->align != Align::left)) measured.push_back(at);
        }
        std::vector<std::uint64_t> fits(columns_.size());  // the largest number that is no wider
        for (std::size_t place = begin; place < end; ++place) {
            const Reference reference = answer_.snapshot.references[rows_[place]];
            const RowContext row = context(makers[thread], reference);
            for (const std::size_t at : measured) {
                if (columns_[at]->digits != nullptr) {
                    const auto number = columns_[at]->digits(row);
                    if (number && *number <= fits[at]) continue;
                    if (number) fits[at] = *number;
                }
                found[thread][at] = std::max(found[thread][at], display_width(cell(makers[thread], at, row)));
            }
        }
    });
    for (const auto& part : found) {
        for (std::size_t at = 0; at < columns_.size(); ++at) widths[at] = std::max(widths[at], part[at]);
    }
    return widths;
}

void Listing::print_table(Output& output) {
    const bool terminal = stdout_is_terminal();
    const Palette color = make_palette(options_.color);
    make_process_cells();
    std::vector<CellMaker> each = makers();
    std::vector<std::size_t> widths = measure(each, terminal);
    const std::size_t line_width = terminal ? terminal_width() : std::numeric_limits<std::size_t>::max();
    if (terminal) widths = fit_widths(widths, line_width);

    const auto last_on_the_left = [&](std::size_t at) { return columns_[at]->align == Align::left && at + 1 == columns_.size(); };
    // False: narrower than the columns that can't shrink.
    const auto print_cell = [&](Line& line, std::size_t& used, std::size_t at, std::string_view shown, std::string_view style) {
        const Column& column = *columns_[at];
        if (at > 0) {
            if (used + 1 >= line_width) return false;
            line.pad(1);
            ++used;
        }
        const std::size_t room = line_width - used;
        // Nobody asks how wide it is.
        std::size_t width = !terminal && last_on_the_left(at) ? 0 : display_width(shown);
        std::string shortened;
        if (terminal) {
            if (column.shrink != Shrink::never && width > widths[at]) {
                shortened = column.shrink == Shrink::middle ? shorten_middle(shown, widths[at]) : shorten_end(shown, widths[at]);
                shown = shortened;
                width = display_width(shown);
            }
            if (width > room) {
                shortened = shorten_end(std::string(shown), room);
                shown = shortened;
                width = display_width(shown);
            }
        }
        const std::size_t padding = std::min(widths[at] - std::min(widths[at], width), room - width);
        if (column.align == Align::right) line.pad(padding);
        line.add(style);
        line.add(shown);
        if (!style.empty()) line.add(color.reset);
        if (column.align == Align::left && !last_on_the_left(at)) line.pad(padding);
        used += width + padding;
        return true;
    };
    if (!options_.no_headings) {
        Line line(output.buffer());
        std::size_t used = 0;
        for (std::size_t at = 0; at < columns_.size(); ++at) {
            if (!print_cell(line, used, at, columns_[at]->name, color.bold)) break;
        }
        line.end();
    }
    // Where no line has to be cut, the cells of a process are as wide as their columns from here on.
    if (!terminal) {
        for (std::size_t cell = 0; cell < process_cells_.size(); ++cell) {
            const std::size_t at = cell % columns_.size();
            std::string& text = process_cells_[cell];
            if (text.empty() || last_on_the_left(at)) continue;
            const std::size_t padding = widths[at] - display_width(text);
            text.insert(columns_[at]->align == Align::right ? 0 : text.size(), padding, ' ');
        }
    }
    const Column* const name_column = find_column("NAME");
    const Column* const age_column = find_column("AGE");
    write_in_order(static_cast<unsigned>(each.size()), rows_.size(), output, [&](unsigned thread, std::size_t begin, std::size_t end, std::string& text) {
        Line line(text);
        for (std::size_t place = begin; place < end; ++place) {
            const Reference reference = answer_.snapshot.references[rows_[place]];
            const RowContext row = context(each[thread], reference);
            std::size_t used = 0;
            for (std::size_t at = 0; at < columns_.size(); ++at) {
                if (columns_[at]->of_process && !terminal) {
                    if (at > 0) line.pad(1);
                    line.add(cell(each[thread], at, row));
                    continue;
                }
                std::string_view style;
                if (columns_[at] == name_column && row.reference->name == NameState::deleted) style = color.red;
                if (columns_[at] == age_column && !age_moment(*row.reference).is_exact()) style = color.dim;
                if (!print_cell(line, used, at, cell(each[thread], at, row), style)) break;
            }
            line.end();
        }
    });
}

// What the daemon saw being opened has its exact time, for callers that may not trace themselves. Armed tracking has been read already.
void add_daemon_times(SnapshotAnswer& answer, const SnapshotRequest& request, const std::string& socket) {
    if (answer.armed || !request.wants(field_times)) return;
    const Result<service::TimesAnswer> times = service::ask_times(socket, request.pids);
    if (!times) {
        if (!service::is_no_daemon(times.error())) answer.warnings.push_back(times.error().message);
        return;
    }
    if (!times->certain) {
        answer.warnings.emplace_back("the daemon is mending a loss; its times are left out");
        return;
    }
    service::join_times(answer.snapshot, *times);
    answer.backend = times->backend;
    // With the daemon's times it does not matter that they could not be read through BPF.
    answer.warnings.clear();
}

int list(const LsOptions& options, Output& output) {
    // What to print decides what to read.
    std::vector<const Column*> columns;
    if (!options.column_list.empty()) {
        columns = *select_columns(options.column_list, default_columns);
        if (options.json) std::erase_if(columns, [](const Column* column) { return column->json == nullptr; });
    } else if (options.json) {
        for (const Column& column : all_columns()) {
            if (column.json != nullptr) columns.push_back(&column);
        }
    } else {
        for (const std::string_view name : default_columns) columns.push_back(find_column(name));
    }
    if (columns.empty()) return usage_error("none of these columns has a JSON key; see fdspan ls --list-columns --json");

    SnapshotRequest request;
    request.fields = 0;
    for (const Column* column : columns) request.fields |= column->fields;
    const Column* const sort = options.sort != nullptr ? options.sort : find_column((request.fields & field_times) != 0 ? "AGE" : "PID");
    request.fields |= sort->fields;
    if (!options.paths.empty()) request.fields |= field_path | field_stat;
    if (options.deleted || !options.types.empty()) request.fields |= field_stat | field_path;
    if (options.older_than_ns || options.newer_than_ns) request.fields |= field_times;
    request.pids = options.processes.pids;
    request.deleted_only = options.deleted;
    request.threads = reading_threads();
    const bool wide = options.json || options.all || options.deleted || !options.paths.empty();
    request.kinds = options.kinds != 0 ? options.kinds : wide ? every_kind : bit(RefKind::fd);
    if (!options.fds.empty()) request.kinds &= bit(RefKind::fd);
    if (request.kinds == 0) return usage_error("--fd asks for descriptors, --ref for none of them");
    // Mappings are told apart by file to be shown once each.
    const bool collapse = !options.json && std::find(columns.begin(), columns.end(), find_column("MAP")) == columns.end();
    if (collapse && request.wants(RefKind::mem)) request.fields |= field_path | field_stat;

    take_over_iterator_sections();
    Result<SnapshotAnswer> answer = take_snapshot(request, options.backend);
    if (!answer) return usage_error(answer.error().message);
    if (options.ask_daemon && options.backend == Backend::automatic) add_daemon_times(*answer, request, options.socket);
    const Snapshot& snapshot = answer->snapshot;

    const std::uint64_t unreadable = count_unreadable(snapshot, options.processes);

    Listing listing(options, *answer, std::move(columns));
    const std::vector<bool> path_matched = listing.choose();
    if (collapse && request.wants(RefKind::mem)) listing.collapse_mappings();
    listing.sort(sort);
    listing.limit();

    std::vector<std::string> gaps = describe_gaps(*answer, options.processes, unreadable);
    const bool complete = gaps.empty() && !answer->lossy;
    if (options.json) {
        listing.print_json(output, complete, unreadable);
    } else if (!listing.empty()) {
        listing.print_table(output);
    }
    output.flush();
    if (output.broken()) return output.finish(exit_done);

    for (const std::string& warning : answer->warnings) spdlog::warn("{}", warning);
    if (listing.undecided() > 0) {
        spdlog::info("{} may match too, but nobody saw when they were opened; fdspan arm makes it exact for what is opened from then on",
                     plural(listing.undecided(), "reference", "references"));
    }
    std::string gap_text;
    for (const std::string& gap : gaps) gap_text += (gap_text.empty() ? "" : "; ") + gap;
    if (!listing.empty()) {
        for (std::size_t index = 0; index < options.paths.size(); ++index) {
            if (path_matched[index] || options.paths[index].exists()) continue;
            spdlog::warn("{}: does not exist, and no deleted file of that name is held", escape(options.paths[index].argument()));
        }
        if (!gap_text.empty()) spdlog::warn("incomplete: {}", gap_text);
        return output.finish(complete ? exit_done : exit_incomplete);
    }
    // One line: what was looked for, and whether the answer "nothing" can be trusted.
    std::string nothing = "nothing matched";
    if (options.paths.size() == 1 && !options.paths.front().exists()) {
        nothing = escape(options.paths.front().argument()) + ": does not exist, and no deleted file of that name is held";
    }
    if (!gap_text.empty()) nothing += "; " + gap_text;
    spdlog::warn("{}", nothing);
    // A process that was asked for and can't be read is not "nothing".
    const bool asked_unreadable = unreadable > 0 && !options.processes.empty();
    return output.finish(asked_unreadable ? exit_incomplete : exit_nothing_matched);
}

}  // namespace

int run_ls(std::vector<std::string> arguments, Output& output) {
    LsOptions options;
    std::vector<std::string> paths;
    CLI::App app("List the open references of this machine with their ages, oldest first.", "fdspan ls");
    app.footer(
        "Ages are of the open file description, counted to the end of the snapshot: \"3h\" is exact, \">= 3h\" and \"3h..5h\" are\n"
        "bounds that contain the truth. Sorting and --older-than go by what is certain.\n"
        "Exit codes: 0 done, 1 nothing matched, 2 usage or runtime error, 3 done but incomplete (stderr says what is missing).");
    define_options(app, options, paths);
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) return *done;
    if (options.list_columns) return list_columns(options.json, output);
    if (options.json && options.human_sizes) return usage_error("--human has no meaning with --json, whose numbers are bytes");
    if (options.json && options.no_headings) return usage_error("--noheadings has no meaning with --json");
    if (options.json && options.color == ColorMode::always) return usage_error("--color=always has no meaning with --json");
    for (const std::string& path : paths) {
        Result<PathFilter> filter = PathFilter::create(path);
        if (!filter) return usage_error(filter.error().message);
        options.paths.push_back(std::move(*filter));
    }
    return list(options, output);
}

}  // namespace fdspan::cli
