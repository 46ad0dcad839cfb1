// fdspan watch: events as they happen, until a signal, --count or --timeout.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <limits>

#include <spdlog/spdlog.h>

#include "api/tracker.hpp"
#include "base/clock.hpp"
#include "base/unique_fd.hpp"
#include "columns.hpp"
#include "duration.hpp"
#include "event_json.hpp"
#include "filter.hpp"
#include "options.hpp"
#include "text.hpp"

namespace fdspan::cli {
namespace {

constexpr std::size_t events_per_batch = 4096;
constexpr EventKind all_kinds[] = {EventKind::opened, EventKind::closed, EventKind::released, EventKind::deleted,
                                   EventKind::unlinked, EventKind::exec, EventKind::exit,     EventKind::lost,
                                   EventKind::resynced};
constexpr std::string_view kind_names = "opened, closed, released, deleted, unlinked, exec, exit, lost, resynced";

// How a process ended.
void append_end(std::string& out, const std::optional<std::int32_t>& status) {
    if (!status) {
        out += " nobody saw how";
    } else if (WIFEXITED(*status)) {
        out += " with exit code " + std::to_string(WEXITSTATUS(*status));
    } else {
        out += " killed by " + signal_name(WTERMSIG(*status));
        if (WCOREDUMP(*status)) out += ", core dumped";
    }
}

volatile sig_atomic_t stop_requested = 0;
volatile sig_atomic_t wake_fd = -1;
void request_stop(int) {
    const int saved = errno;
    stop_requested = 1;
    const ssize_t woken = ::write(wake_fd, "", 1);
    static_cast<void>(woken);  // full: woken already
    errno = saved;
}

constexpr std::uint32_t bit(EventKind kind) { return 1U << static_cast<unsigned>(kind); }

struct WatchOptions {
    TrackerOptions tracker;
    std::vector<PathFilter> paths;
    std::uint32_t kinds = 0;  // 0: all
    std::optional<std::uint64_t> older_than_ns;
    std::optional<std::uint64_t> count;
    std::optional<std::uint64_t> timeout_ns;
    bool verify = false;
    bool json = false;
    ColorMode color = ColorMode::automatic;
};

class EventPrinter {
public:
    EventPrinter(const WatchOptions& options, Output& output)
        : options_(options), output_(output), color_(make_palette(options.color)), wall_(WallClock::now()), clock_(wall_), json_(wall_) {}

    void print_started(Backend backend);
    void operator()(const Event& event);
    // The two clocks drift apart, and the wall clock may be set.
    void refresh_clock();

    [[nodiscard]] bool done() const { return options_.count && printed_ >= *options_.count; }
    [[nodiscard]] std::uint64_t printed() const { return printed_; }
    [[nodiscard]] std::uint64_t lost() const { return lost_; }

private:
    [[nodiscard]] bool wanted(const Event& event) const;
    void append_removal(std::string& out, const Event& event);
    void print_text(const Event& event);
    [[nodiscard]] RowContext context(const Event& event);

    const WatchOptions& options_;
    Output& output_;
    Palette color_;
    WallClock wall_;
    WallClockText clock_;
    EventJson json_;
    UserNames users_;
    bool stdout_is_terminal_ = stdout_is_terminal();
    std::uint64_t printed_ = 0;
    std::uint64_t lost_ = 0;
};

void EventPrinter::refresh_clock() {
    // Less is within what reading two clocks one after the other is uncertain by; one moment has one text.
    constexpr std::int64_t jitter_ns = 10'000;
    const WallClock now = WallClock::now();
    if (std::abs(now.offset_ns - wall_.offset_ns) <= jitter_ns) return;
    wall_ = now;
    clock_ = WallClockText(now);
    json_.set_clock(now);
}

void EventPrinter::print_started(Backend backend) {
    if (options_.json) {
        std::string& out = output_.buffer();
        out += "{\"event\":\"started\",\"schema\":1,";
        append_json_text(out, "backend", to_string(backend));
        const std::uint64_t now = boottime_now_ns();
        out += "\"boottime_ns\":";
        append_number(out, static_cast<unsigned long long>(now));
        out += ",\"time\":\"";
        clock_.append(out, now);
        out += "\"}\n";
    }
    output_.flush();
}

bool EventPrinter::wanted(const Event& event) const {
    if (options_.kinds != 0 && (options_.kinds & bit(event.kind)) == 0) return false;
    // Losses concern every filter: what was lost may have matched.
    if (event.kind == EventKind::lost || event.kind == EventKind::resynced) return true;
    if (options_.older_than_ns) {
        if (event.kind != EventKind::closed && event.kind != EventKind::released) return false;
        if (!event.duration || event.duration->earliest_ns < *options_.older_than_ns) return false;
    }
    if (options_.paths.empty()) return true;
    if (event.reference == nullptr) return false;
    const std::string_view path = event.strings->get(event.reference->path.name);
    return std::any_of(options_.paths.begin(), options_.paths.end(),
                       [&](const PathFilter& filter) { return filter.matches(*event.reference, path); });
}

void EventPrinter::operator()(const Event& event) {
    if (event.kind == EventKind::lost) lost_ += event.lost_records;
    if (done() || !wanted(event)) return;
    ++printed_;
    if (options_.json) {
        json_.append(output_.buffer(), event);
    } else {
        print_text(event);
    }
    output_.written();
}

std::string length_text(const Interval& length) {
    AgeRange range{length.earliest_ns, length.latest_ns, length.is_exact()};
    if (length.latest_ns == std::numeric_limits<std::uint64_t>::max()) range.max_ns.reset();
    return format_age(range);
}

RowContext EventPrinter::context(const Event& event) {
    return {event.strings, event.process, event.reference, 0, event.when.latest_ns, &clock_, &users_, false};
}

// "by rm (pid 12, user root, /usr/bin/rm) with unlink, 4096 bytes, held by: sleep 812 fd 3 (5s)"
void EventPrinter::append_removal(std::string& out, const Event& event) {
    constexpr std::size_t shown_holders = 8;
    const auto text = [&](StringId id) { return escape(event.strings->get(id)); };
    if (event.by != nullptr) {
        out += " by " + text(event.by->comm) + " (pid " + std::to_string(event.by->pid) + ", user " +
               escape(users_.name(event.by->uid));
        if (event.by->exe != 0) out += ", " + text(event.by->exe);
        out += ")";
    } else {
        out += " by somebody unseen";
    }
    if (event.how != Removal::unknown) out += " with " + std::string(to_string(event.how));
    if (event.kind == EventKind::unlinked) {
        out += ", links left: " + std::to_string(event.reference->nlink);
    } else if (event.allocated) {
        out += ", " + std::to_string(*event.allocated) + " bytes";
    }
    if (event.holders.empty()) {
        out += ", held by no process: in flight";
        return;
    }
    out += ", held by:";
    for (std::size_t i = 0; i < std::min(event.holders.size(), shown_holders); ++i) {
        const Holder& holder = event.holders[i];
        const RowContext row{event.strings, holder.process, holder.reference, 0, event.when.latest_ns, &clock_, &users_, false};
        out += (i == 0 ? " " : "; ") + text(holder.process->comm) + " " + std::to_string(holder.process->pid) + " ";
        if (holder.reference->ref == RefKind::fd) out += "fd ";
        find_column("FD")->text(out, row);
        std::string age;
        find_column("AGE")->text(age, row);
        if (!age.empty()) out += " (" + age + ")";
    }
    if (event.holder_count > shown_holders) out += "; and " + std::to_string(event.holder_count - shown_holders) + " more";
}

// TIME EVENT PID COMM FD TYPE NAME, and what is particular to the event.
void EventPrinter::print_text(const Event& event) {
    std::string& out = output_.buffer();
    const auto padded = [&out](std::string_view text, std::size_t width) {
        out += ' ';
        out += text;
        const std::size_t used = display_width(text);
        if (used < width) out.append(width - used, ' ');
    };
    const auto right = [&out](std::string_view text, std::size_t width) {
        out += ' ';
        if (text.size() < width) out.append(width - text.size(), ' ');
        out += text;
    };
    clock_.append_text(out, event.when);
    std::string_view style;
    if (event.kind == EventKind::lost) style = color_.red;
    if (event.kind == EventKind::opened) style = color_.green;
    if (event.kind == EventKind::deleted) style = color_.yellow;
    out += style;
    padded(to_string(event.kind), 8);
    if (!style.empty()) out += color_.reset;
    if (event.process != nullptr) {
        right(std::to_string(event.process->pid), 7);
        padded(escape(event.strings->get(event.process->comm)), 15);
    }
    if (event.reference != nullptr) {
        const RowContext row = context(event);
        for (const std::string_view name : {"FD", "TYPE", "NAME"}) {
            std::string cell;
            if (name != "FD" || event.process != nullptr) find_column(name)->text(cell, row);
            if (cell.empty()) cell = "-";
            if (name == "FD") {
                right(cell, 4);
            } else {
                padded(cell, name == "TYPE" ? 5 : 0);
            }
        }
    }
    switch (event.kind) {
        case EventKind::lost:
            out += " " + std::to_string(event.lost_records) + " events";
            if (event.cpu) out += " of CPU " + std::to_string(*event.cpu);
            switch (event.loss_reason) {
                case LossReason::ring_full: out += ", the ring had no room for them"; break;
                case LossReason::hook_skipped: out += ", the kernel skipped their hooks"; break;
                case LossReason::index_full: out += ", the index had no room for them"; break;
            }
            break;
        case EventKind::exit: append_end(out, event.exit_status); break;
        case EventKind::resynced:
            out += " a snapshot added " + std::to_string(event.added) + " spans and ended " + std::to_string(event.ended);
            break;
        case EventKind::deleted:
        case EventKind::unlinked: append_removal(out, event); break;
        default: break;
    }
    if (event.duration) out += " after " + length_text(*event.duration);
    if (event.held_deleted) {
        out += ", deleted for " + length_text(*event.held_deleted);
        if (event.allocated) out += ", gives back " + std::to_string(*event.allocated) + " bytes";
    }
    out += '\n';
    if (stdout_is_terminal_) output_.flush();
}

Result<void> parse_kinds(std::string_view text, std::uint32_t& kinds) {
    return for_each_part(text, [&kinds](std::string_view part) -> Result<void> {
        for (const EventKind kind : all_kinds) {
            if (part != to_string(kind)) continue;
            kinds |= bit(kind);
            return {};
        }
        return fail(EINVAL, "there is no event \"" + escape(part) +
                                "\"; expected one of " + std::string(kind_names));
    });
}

ParseText into_duration(std::optional<std::uint64_t>& target, std::uint64_t least_ns) {
    return [&target, least_ns](const std::string& text) -> Result<void> {
        const Result<std::uint64_t> parsed = parse_duration_ns(text);
        if (!parsed) return tl::unexpected(parsed.error());
        if (*parsed < least_ns) return fail(EINVAL, "\"" + escape(text) + "\" is less than " + format_duration(least_ns));
        target = *parsed;
        return {};
    };
}

Result<void> parse_ring_bytes(std::string_view text, std::uint32_t& bytes) {
    constexpr std::uint64_t most = 1U << 30;
    std::string_view digits = text;
    std::uint64_t unit = 1;
    for (const auto& [suffix, factor] : {std::pair{'K', 1U << 10}, {'M', 1U << 20}, {'G', 1U << 30}}) {
        if (!digits.ends_with(suffix)) continue;
        digits.remove_suffix(1);
        unit = factor;
        break;
    }
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const Result<std::uint64_t> parsed = parse_count(digits, 1, most);
    const std::uint64_t size = parsed && *parsed <= most / unit ? *parsed * unit : 0;
    if (!std::has_single_bit(size) || size < page) {
        return fail(EINVAL, "\"" + escape(text) + "\" is not a power of two from " + std::to_string(page >> 10) + "K to 1G");
    }
    bytes = static_cast<std::uint32_t>(size);
    return {};
}

// SIGINT and SIGTERM ask for an end: through a flag, which also cuts a write short, and through a descriptor to wait on. (Blocking
// them outside ppoll(2) would not do: it does not deliver a signal while its descriptors are ready, so that constant events starve it.)
// The second signal kills, as it would without us.
class StopSignals {
public:
    static Result<StopSignals> create() {
        StopSignals signals;
        int ends[2] = {-1, -1};
        if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return fail_errno(errno, "make a pipe");
        signals.read_.reset(ends[0]);
        signals.write_.reset(ends[1]);
        wake_fd = ends[1];
        struct sigaction action {};
        action.sa_handler = request_stop;
        action.sa_flags = SA_RESETHAND;
        for (const int number : {SIGINT, SIGTERM}) ::sigaction(number, &action, nullptr);
        return signals;
    }
    [[nodiscard]] int fd() const { return read_.get(); }

private:
    UniqueFd read_, write_;
};

std::string summarise_loss(std::uint64_t lost) {
    return std::to_string(lost) + (lost == 1 ? " event was" : " events were") + " lost; what is open is correct again";
}

// One line that says whether the index equals a fresh snapshot; exit code 2 when it does not.
Result<bool> print_verification(Tracker& tracker, const Tracker::Sink& sink, bool json, Output& output) {
    const Result<VerifyReport> report = tracker.verify(sink);
    if (!report) return tl::unexpected(report.error());
    const std::pair<const char*, std::uint64_t> figures[] = {
        {"references", report->references}, {"corrected", report->corrected}, {"phantoms", report->phantoms},
        {"gaps", report->gaps},             {"differing", report->differing},
        {"map_entries", report->map_entries}, {"stale_map_entries", report->stale_map_entries}};
    std::string& out = output.buffer();
    out += json ? "{\"event\":\"verified\"" : "verified:";
    for (const auto& [name, value] : figures) {
        out += json ? ",\"" : " ";
        out += name;
        out += json ? "\":" : "=";
        append_number(out, static_cast<unsigned long long>(value));
    }
    out += json ? "}\n" : "\n";
    for (const std::string& example : report->examples) spdlog::error("{}", escape(example));
    return report->equal();
}

int watch(const WatchOptions& options, Output& output) {
    const Result<StopSignals> signals = StopSignals::create();
    if (!signals) return usage_error(signals.error().message);
    output.give_up_when(&stop_requested);
    const std::uint64_t started_ns = boottime_now_ns();
    Result<std::unique_ptr<Tracker>> opened = Tracker::open(options.tracker);
    if (!opened) return usage_error(opened.error().message);
    Tracker& tracker = **opened;
    for (const std::string& why : tracker.refused()) spdlog::debug("not taken, though better: {}", escape(why));
    for (const std::string& warning : tracker.warnings()) spdlog::warn("{}", warning);
    std::size_t warnings_said = tracker.warnings().size();

    EventPrinter printer(options, output);
    printer.print_started(tracker.backend());
    const Tracker::Sink sink = [&printer](const Event& event) { printer(event); };
    bool timed_out = false;
    while (stop_requested == 0 && !output.broken() && !printer.done()) {
        std::int64_t wait_ms = tracker.timeout_ms();
        if (options.timeout_ns) {
            const std::uint64_t passed = boottime_now_ns() - started_ns;
            if (passed >= *options.timeout_ns) {
                timed_out = true;
                break;
            }
            // Rounded up, so as not to spin through the last millisecond.
            const auto left_ms = static_cast<std::int64_t>(std::min<std::uint64_t>((*options.timeout_ns - passed + 999'999) / 1'000'000, 3'600'000));
            wait_ms = wait_ms < 0 ? left_ms : std::min(wait_ms, left_ms);
        }
        // Standard output is watched for its reader going away while nothing happens; poll(2) reports that unasked.
        pollfd waits[] = {{tracker.fd(), POLLIN, 0}, {STDOUT_FILENO, 0, 0}, {signals->fd(), POLLIN, 0}};
        const int ready = ::poll(waits, 3, wait_ms < 0 ? -1 : static_cast<int>(std::min<std::int64_t>(wait_ms, 3'600'000)));
        if (ready < 0 && errno != EINTR) return usage_error("poll: " + std::generic_category().message(errno));
        if (ready < 0) continue;
        if ((waits[1].revents & POLLERR) != 0) return output.finish(exit_done);
        printer.refresh_clock();
        const Result<std::size_t> processed = tracker.process(sink, events_per_batch);
        output.flush();
        if (!processed) return usage_error(processed.error().message);
        for (; warnings_said < tracker.warnings().size(); ++warnings_said) spdlog::warn("{}", tracker.warnings()[warnings_said]);
    }
    if (options.verify && !output.broken()) {
        const Result<bool> equal = print_verification(tracker, sink, options.json, output);
        if (!equal) return usage_error(equal.error().message);
        if (!*equal) return output.finish(exit_error);
    }
    output.flush();
    if (printer.lost() > 0 && !output.broken()) spdlog::warn("{}", summarise_loss(printer.lost()));
    if (printer.lost() > 0) return output.finish(exit_incomplete);
    const bool missing = timed_out && (printer.printed() == 0 || (options.count && !printer.done()));
    return output.finish(missing ? exit_nothing_matched : exit_done);
}

}  // namespace

int run_watch(std::vector<std::string> arguments, Output& output) {
    WatchOptions options;
    std::vector<std::string> paths;
    std::optional<std::uint64_t> interval_ns;
    CLI::App app("Print descriptors, descriptions and deletions as they happen.", "fdspan watch");
    app.footer(
        "Ends on SIGINT or SIGTERM, after --count events, after --timeout, or when nobody reads its output any more.\n"
        "Exit codes: 0 done, 1 --timeout came before any event or before --count of them, 2 usage or runtime error, 3 events were lost.");
    app.add_option("PATH", paths, "Only files at or below these paths")->type_name("");
    add_repeated(app, "-p,--pid", "PID", "Only these processes (repeatable, comma lists)",
                 [&](const std::string& text) { return parse_pids(text, options.tracker.scope.pids); });
    add_repeated(app, "--event", "KIND", std::string(kind_names) + " (repeatable, comma lists)",
                 [&](const std::string& text) { return parse_kinds(text, options.kinds); });
    add_value(app, "--older-than", "DUR", "Only spans that end (closed, released) after certainly having been open this long",
              into_duration(options.older_than_ns, 0));
    add_value(app, "--interval", "DUR", "How often a snapshot is read [1s with procfs, which sees no more than that; else 30s]",
              into_duration(interval_ns, 10'000'000));
    add_value(app, "--count", "N", "End after N events", [&](const std::string& text) -> Result<void> {
        const Result<std::uint64_t> parsed = parse_count(text, 1, std::numeric_limits<std::int64_t>::max());
        if (!parsed) return tl::unexpected(parsed.error());
        options.count = *parsed;
        return {};
    });
    add_value(app, "--timeout", "DUR", "End after this time", into_duration(options.timeout_ns, 1));
    add_value(app, "--ring-bytes", "SIZE", "Room for events that wait to be read: a power of two from 4K to 1G [16M]",
              [&](const std::string& text) -> Result<void> { return parse_ring_bytes(text, options.tracker.ring_bytes); });
    add_value(app, "--max-entries", "N", "Bound of each kernel map: so many descriptions, descriptors and tables have times [1048576]",
              [&](const std::string& text) -> Result<void> {
                  const Result<std::uint32_t> parsed = parse_max_entries(text);
                  if (!parsed) return tl::unexpected(parsed.error());
                  options.tracker.max_descriptions = options.tracker.max_descriptors = options.tracker.max_tables = *parsed;
                  return {};
              });
    add_flag(app, "--verify", options.verify,
             "At the end, hold the index against a fresh snapshot and the kernel maps against what is alive; exit 2 if they differ");
    add_flag(app, "-J,--json", options.json, "JSON Lines; the first is {\"event\":\"started\",…}");
    add_backend(app, options.tracker.backend);
    add_color(app, options.color);
    if (const std::optional<int> done = parse_arguments(app, std::move(arguments), output)) return *done;
    if (options.json && options.color == ColorMode::always) return usage_error("--color=always has no meaning with --json");
    if (interval_ns) {
        options.tracker.poll_interval_ns = *interval_ns;
        options.tracker.reconcile_interval_ns = *interval_ns;
    }
    for (const std::string& path : paths) {
        Result<PathFilter> filter = PathFilter::create(path);
        if (!filter) return usage_error(filter.error().message);
        options.paths.push_back(std::move(*filter));
    }
    // --verify holds the index against the whole machine.
    std::vector<std::string>& hints = options.tracker.paths;
    for (const PathFilter& filter : options.paths) {
        const std::vector<std::string> tops = filter.tops();
        if (tops.empty() || options.verify) {
            hints.clear();
            break;
        }
        hints.insert(hints.end(), tops.begin(), tops.end());
    }
    return watch(options, output);
}

}  // namespace fdspan::cli
