// check_truth: holds fdspan's answers against programs that know when each of their descriptors began.
//
//   check_truth [--mode armed|older|live|polled] [--fdspan PATH] [--program PATH] [--backend NAME] [--max-entries N] [ARGUMENT of the program]...
//
// armed   fdspan arm, then the program, then `fdspan ls -p ...`: what a backend sees is exact, the rest bounded.
// older   the program first, then arm: everything is bounded. Then copies of it: their descriptors are exact.
// live    `fdspan watch` attached while the program opens and closes: every event's time lies in its bracket.
// polled  no BPF at all: every interval contains the truth.
//
// --max-entries: arm with kernel maps so small that they are full; nothing is owed then, and nothing may be wrong.
//
// The program (make_spans, storm) prints a JSON line for each descriptor; see make_spans.c. Whatever the mode: no interval may
// miss the truth, no row may stand for a descriptor that is not there, none may lack.
#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include <nlohmann/json.hpp>

#include "programs.hpp"

namespace truth {
namespace {

using Json = nlohmann::json;

struct Bracket {
    std::uint64_t before_ns = 0;
    std::uint64_t after_ns = 0;
};

struct Record {
    std::string way;
    std::string path;  // mem
    Bracket opened;
    Bracket description;
    std::uint64_t joined_ns = 0;
    pid_t pid = 0;
    pid_t tid = 0;
    int fd = -1;
    bool mem = false;
    bool exact = false;
    bool description_exact = false;
};

struct Closed {
    Record record;
    Bracket closed;
};

struct Answer {
    bool exact = false;
    std::uint64_t earliest_ns = 0;
    std::uint64_t latest_ns = 0;
    std::string text;
};

// How one answer stands to the truth.
enum class Verdict { exact, bounded, wrong };

struct Tally {
    std::uint64_t exact = 0;
    std::uint64_t bounded = 0;
    std::uint64_t wrong = 0;
    void add(Verdict verdict) {
        (verdict == Verdict::exact ? exact : verdict == Verdict::bounded ? bounded : wrong)++;
    }
    [[nodiscard]] std::string text() const {
        std::string text;
        const auto part = [&text](std::uint64_t count, const char* what) {
            if (count > 0) text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + what;
        };
        part(exact, "exact");
        part(bounded, "bounded");
        part(wrong, "WRONG");
        return text.empty() ? "-" : text;
    }
};

struct WayTally {
    Tally descriptor;
    Tally description;
    std::string unsupported;
};

struct Settings {
    std::string mode = "armed";
    std::string fdspan = "fdspan";
    std::string program = "make_spans";
    std::string backend = "auto";
    std::string max_entries;
    std::vector<std::string> arguments;
};

class Checker {
public:
    explicit Checker(Settings settings) : settings_(std::move(settings)) {}

    int check();

private:
    void check_armed();
    void check_older();
    void check_live();
    void check_polled();

    [[nodiscard]] std::vector<std::string> program_arguments(std::initializer_list<const char*> more = {}) const;
    void take_line(const std::string& line);
    void read_until(Program& program, const std::vector<std::string>& events);
    void finish(Program& program);
    void arm();
    [[nodiscard]] std::uint64_t armed_since() const;
    void disarm();
    void hold_against_ls();
    void compare_slots(const Json& references, const std::set<pid_t>& leaderless);
    void expect_all_ways();
    [[nodiscard]] bool is_alike(const Record& record) const;
    Verdict judge(const Record& record, const char* what, const Bracket& bracket, const Answer& answer, bool owes_exact);
    void judge_age(const Record& record, const Json& row, std::uint64_t before_ns, std::uint64_t after_ns);
    void pass() { passed_++; }
    void fail(const std::string& what);
    void print_table() const;

    [[nodiscard]] bool full() const { return !settings_.max_entries.empty(); }
    [[nodiscard]] bool sees_all() const { return answering_ == "trampoline" || answering_ == "kprobe"; }

    Settings settings_;
    std::vector<Record> records_;
    std::vector<Closed> closed_;
    std::vector<pid_t> pids_;
    std::map<std::string, WayTally> tallies_;
    std::string answering_;           // the backend that fdspan says it used
    std::uint64_t armed_since_ns_ = 0;
    std::uint64_t armed_before_ns_ = 0;  // no arming is older
    std::uint64_t armed_after_ns_ = UINT64_MAX;  // from then on everything is seen
    bool armed_ = false;
    std::uint64_t passed_ = 0;
    std::uint64_t failed_ = 0;
};

std::string describe(const Record& record) {
    std::string text = record.way + " pid " + std::to_string(record.pid);
    if (record.tid != record.pid) text += " tid " + std::to_string(record.tid);
    return text + (record.mem ? " " + record.path : " fd " + std::to_string(record.fd));
}

Answer read_answer(const Json& time) {
    Answer answer;
    const std::string source = time.at("source").get<std::string>();
    if (source != "kernel" && source != "bounded") throw std::runtime_error("unknown source of a time: " + source);
    answer.exact = source == "kernel";
    answer.earliest_ns = time.at("earliest_boottime_ns").is_null() ? 0 : time.at("earliest_boottime_ns").get<std::uint64_t>();
    answer.latest_ns = time.at("latest_boottime_ns").get<std::uint64_t>();
    if (time.at("earliest").is_null() != time.at("earliest_boottime_ns").is_null()) {
        throw std::runtime_error("earliest and earliest_boottime_ns disagree: " + time.dump());
    }
    answer.text = source + " [" + (answer.earliest_ns == 0 ? "null" : std::to_string(answer.earliest_ns)) + ", " +
                  std::to_string(answer.latest_ns) + "]";
    return answer;
}

std::set<int> slots_of(pid_t pid, pid_t tid) {
    std::set<int> slots;
    const std::string path = "/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) + "/fd";
    DIR* const dir = ::opendir(path.c_str());
    if (dir == nullptr) return slots;
    while (const dirent* const entry = ::readdir(dir)) {
        if (entry->d_name[0] != '.') slots.insert(std::atoi(entry->d_name));
    }
    ::closedir(dir);
    return slots;
}

// A process whose main thread has ended shows its table through its other threads only.
bool leader_is_gone(pid_t pid) { return slots_of(pid, pid).empty(); }

std::set<pid_t> tasks_of(pid_t pid) {
    std::set<pid_t> tasks;
    DIR* const dir = ::opendir(("/proc/" + std::to_string(pid) + "/task").c_str());
    if (dir == nullptr) return tasks;
    while (const dirent* const entry = ::readdir(dir)) {
        if (entry->d_name[0] != '.') tasks.insert(std::atoi(entry->d_name));
    }
    ::closedir(dir);
    return tasks;
}

// Without kcmp(2), /proc shows a thread's own table only by other numbers in it.
bool tables_can_be_compared() { return ::syscall(SYS_kcmp, ::getpid(), ::getpid(), KCMP_FILES, 0, 0) == 0; }

// The task that a table is named after: the thread for one of its own, the process for all else. A row may name the table of a
// process without a main thread by either.
pid_t table_owner(const std::set<pid_t>& leaderless, pid_t pid, pid_t tid) { return leaderless.contains(pid) ? pid : tid; }

void Checker::fail(const std::string& what) {
    failed_++;
    constexpr std::uint64_t most_lines = 60;
    if (failed_ <= most_lines) std::printf("FAILED %s\n", what.c_str());
    if (failed_ == most_lines) std::printf("… and more, which only the figures show\n");
}

std::vector<std::string> Checker::program_arguments(std::initializer_list<const char*> more) const {
    std::vector<std::string> arguments = {settings_.program};
    arguments.insert(arguments.end(), settings_.arguments.begin(), settings_.arguments.end());
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
}

Record read_record(const Json& line) {
    Record record;
    record.way = line.at("way").get<std::string>();
    record.mem = line.value("ref", "fd") == "mem";
    record.path = line.value("path", "");
    record.fd = line.value("fd", -1);
    record.pid = line.at("pid").get<pid_t>();
    record.tid = line.at("tid").get<pid_t>();
    record.opened = {line.at("before_ns").get<std::uint64_t>(), line.at("after_ns").get<std::uint64_t>()};
    record.description = {line.value("description_before_ns", std::uint64_t{0}), line.value("description_after_ns", std::uint64_t{0})};
    record.joined_ns = line.value("joined_ns", std::uint64_t{0});
    record.exact = line.value("exact", false);
    record.description_exact = line.value("description_exact", false);
    return record;
}

void Checker::take_line(const std::string& text) {
    const Json line = Json::parse(text);
    if (line.contains("event")) {
        if (line["event"] == "closed") {
            closed_.push_back({read_record(line), {line.at("close_before_ns").get<std::uint64_t>(),
                                                   line.at("close_after_ns").get<std::uint64_t>()}});
        } else {
            pids_ = line.at("pids").get<std::vector<pid_t>>();
        }
        return;
    }
    const std::string way = line.at("way").get<std::string>();
    if (line.contains("unsupported")) {
        tallies_[way].unsupported = line["unsupported"].get<std::string>();
    } else if (line.contains("failed")) {
        fail(way + ": the program itself failed: " + line["failed"].get<std::string>());
    } else {
        records_.push_back(read_record(line));
        tallies_[way];
    }
}

void Checker::read_until(Program& program, const std::vector<std::string>& events) {
    std::string line;
    while (program.line(line)) {
        take_line(line);
        for (const std::string& event : events) {
            if (line.starts_with("{\"event\":\"" + event + "\"")) return;
        }
    }
    throw std::runtime_error(program.name() + " ended before \"" + events.front() + "\"");
}

// Ends the program; its last lines may say what it closed.
void Checker::finish(Program& program) {
    program.close_stdin();
    std::string line;
    while (program.line(line)) take_line(line);
    if (const int code = program.wait(); code != 0) fail(program.name() + " exits " + std::to_string(code));
}

// Since when fdspan says that it is armed; arms it where it is not.
std::uint64_t Checker::armed_since() const {
    std::vector<std::string> command = {settings_.fdspan, "arm", "--json", "--backend", settings_.backend};
    if (!settings_.max_entries.empty()) command.insert(command.end(), {"--max-entries", settings_.max_entries});
    const Outcome outcome = run(command);
    if (outcome.code != 0) throw std::runtime_error("fdspan arm exits " + std::to_string(outcome.code));
    return read_answer(Json::parse(outcome.text).at("since")).earliest_ns;
}

void Checker::arm() {
    armed_before_ns_ = boottime_ns();
    armed_since_ns_ = armed_since();
    armed_after_ns_ = boottime_ns();
    if (armed_since_ns_ < armed_before_ns_) throw std::runtime_error("fdspan was armed before; disarm it first");
    armed_ = true;
}

void Checker::disarm() {
    if (!armed_) return;
    armed_ = false;
    // The machine has one arming, whoever did it: another user of it makes all figures void.
    if (armed_since() != armed_since_ns_) fail("somebody else armed or disarmed meanwhile");
    if (const Outcome outcome = run({settings_.fdspan, "disarm"}); outcome.code != 0) {
        fail("fdspan disarm exits " + std::to_string(outcome.code));
    }
}

// The truth lies somewhere inside `bracket`; the answer has to be able to be the truth.
Verdict Checker::judge(const Record& record, const char* what, const Bracket& bracket, const Answer& answer, bool owes_exact) {
    const std::string against = std::string(" of the ") + what + " against [" + std::to_string(bracket.before_ns) + ", " +
                                std::to_string(bracket.after_ns) + "]";
    if (answer.exact) {
        if (answer.earliest_ns != answer.latest_ns) {
            fail(describe(record) + ": exact, but two times: " + answer.text);
            return Verdict::wrong;
        }
        if (answer.earliest_ns < bracket.before_ns || answer.latest_ns > bracket.after_ns) {
            fail(describe(record) + ": " + answer.text + against);
            return Verdict::wrong;
        }
        pass();
        return Verdict::exact;
    }
    if (owes_exact) {
        fail(describe(record) + ": bounded where exact is owed: " + answer.text + against);
        return Verdict::wrong;
    }
    if (answer.earliest_ns > bracket.after_ns || answer.latest_ns < bracket.before_ns || answer.earliest_ns > answer.latest_ns) {
        fail(describe(record) + ": " + answer.text + against);
        return Verdict::wrong;
    }
    // What was there when tracking was armed is known to have been there.
    if (armed_ && !full() && !record.mem && bracket.after_ns < armed_before_ns_ && answer.latest_ns > armed_after_ns_) {
        fail(describe(record) + ": older than the arming, which the answer does not know: " + answer.text + against);
        return Verdict::wrong;
    }
    pass();
    return Verdict::bounded;
}

// The age that people see is that of the description, at some moment of the ls.
void Checker::judge_age(const Record& record, const Json& row, std::uint64_t before_ns, std::uint64_t after_ns) {
    const std::uint64_t least = row.at("age_ns").get<std::uint64_t>();
    const std::uint64_t most = row.at("age_max_ns").is_null() ? UINT64_MAX : row.at("age_max_ns").get<std::uint64_t>();
    const std::uint64_t youngest = before_ns > record.description.after_ns ? before_ns - record.description.after_ns : 0;
    const std::uint64_t oldest = after_ns - record.description.before_ns;
    if (least > oldest || most < youngest || least > most) {
        fail(describe(record) + ": age " + std::to_string(least) + ".." + (most == UINT64_MAX ? "null" : std::to_string(most)) +
             " against " + std::to_string(youngest) + ".." + std::to_string(oldest));
    } else {
        pass();
    }
}

using Slot = std::tuple<pid_t, pid_t, int>;

// A thread's own table that nothing tells from its process's.
bool Checker::is_alike(const Record& record) const {
    return answering_ == "procfs" && record.tid != record.pid && !tables_can_be_compared() &&
           slots_of(record.pid, record.tid) == slots_of(record.pid, record.pid);
}

void Checker::hold_against_ls() {
    std::string pids;
    for (const pid_t pid : pids_) pids += (pids.empty() ? "" : ",") + std::to_string(pid);
    std::vector<std::string> command = {settings_.fdspan, "ls", "--json", "-p", pids};
    if (settings_.mode == "polled") command.insert(command.end(), {"--backend", "procfs"});
    const std::uint64_t before_ns = boottime_ns();
    const Outcome outcome = run(command);
    const std::uint64_t after_ns = boottime_ns();
    if (outcome.code != (full() ? 3 : 0)) fail("fdspan ls exits " + std::to_string(outcome.code));
    const Json answer = Json::parse(outcome.text);
    answering_ = answer.at("backend").get<std::string>();
    if (answer.at("complete").get<bool>() == full()) fail("ls says that it is " + std::string(full() ? "complete" : "not complete"));
    if (settings_.mode == "polled" && answering_ != "procfs") fail("the answer comes from " + answering_ + ", not procfs");
    if (settings_.mode != "polled" && settings_.backend != "auto" && answering_ != settings_.backend) {
        fail("the answer comes from " + answering_ + ", not " + settings_.backend);
    }

    const Json& references = answer.at("references");
    std::set<pid_t> leaderless;
    for (const pid_t pid : pids_) {
        if (leader_is_gone(pid)) leaderless.insert(pid);
    }
    std::map<Slot, const Json*> descriptors;
    std::map<std::pair<pid_t, std::string>, const Json*> mappings;
    for (const Json& row : references) {
        const pid_t pid = row.at("pid").get<pid_t>();
        const std::string ref = row.at("ref").get<std::string>();
        if (ref == "fd") {
            const Slot slot(pid, table_owner(leaderless, pid, row.value("tid", pid)), row.at("fd").get<int>());
            if (!descriptors.emplace(slot, &row).second) fail("two rows for pid " + std::to_string(pid) + " fd " + row.at("fd").dump());
        } else if (ref == "mem") {
            mappings.emplace(std::pair(pid, row.at("path").get<std::string>()), &row);
        }
    }
    for (const Record& record : records_) {
        const Json* row = nullptr;
        if (record.mem) {
            const auto found = mappings.find({record.pid, record.path});
            row = found == mappings.end() ? nullptr : found->second;
        } else {
            const auto found = descriptors.find({record.pid, table_owner(leaderless, record.pid, record.tid), record.fd});
            row = found == descriptors.end() ? nullptr : found->second;
        }
        WayTally& tally = tallies_[record.way];
        if (row == nullptr && is_alike(record)) continue;
        if (row == nullptr) {
            const bool ended = !record.mem && slots_of(record.pid, record.tid).empty();
            fail(describe(record) + ": no row" + (ended ? "; it has ended" : ""));
            tally.descriptor.add(Verdict::wrong);
            continue;
        }
        // Who joins a table that is shared already may count from then, where the table itself can't be seen.
        Bracket opened = record.opened;
        const Answer opened_answer = read_answer(row->at("opened"));
        if (record.joined_ns != 0 && !opened_answer.exact) opened.after_ns = std::max(opened.after_ns, record.joined_ns);
        const bool bpf = answering_ != "procfs";
        const auto owed = [&](const Bracket& bracket, bool visible) {
            return bpf && !full() && (sees_all() || visible) && bracket.before_ns >= armed_after_ns_;
        };
        tally.descriptor.add(judge(record, "descriptor", opened, opened_answer, !record.mem && owed(record.opened, record.exact)));
        tally.description.add(judge(record, "description", record.description, read_answer(row->at("description").at("opened")),
                                    owed(record.description, record.description_exact)));
        judge_age(record, *row, before_ns, after_ns);
    }
    compare_slots(references, leaderless);
}

// Rows against /proc: the programs rest, so both have to be the same set.
void Checker::compare_slots(const Json& references, const std::set<pid_t>& leaderless) {
    std::map<std::pair<pid_t, pid_t>, std::set<int>> rows;
    std::map<std::pair<pid_t, pid_t>, std::set<int>> there;
    for (const Json& row : references) {
        if (row.at("ref") != "fd") continue;
        const pid_t pid = row.at("pid").get<pid_t>();
        rows[{pid, table_owner(leaderless, pid, row.value("tid", pid))}].insert(row.at("fd").get<int>());
    }
    for (const pid_t pid : pids_) {
        there[{pid, pid}] = slots_of(pid, pid);
        if (!leaderless.contains(pid)) continue;
        for (const pid_t tid : tasks_of(pid)) there[{pid, pid}].merge(slots_of(pid, tid));
    }
    for (const Record& record : records_) {
        if (record.tid != record.pid && !leaderless.contains(record.pid) && !is_alike(record)) {
            there[{record.pid, record.tid}] = slots_of(record.pid, record.tid);
        }
    }
    for (const auto& [task, slots] : there) {
        for (const int fd : slots) {
            if (rows[task].contains(fd)) {
                pass();
            } else {
                fail("gap: pid " + std::to_string(task.first) + " tid " + std::to_string(task.second) + " has fd " + std::to_string(fd));
            }
        }
    }
    for (const auto& [task, slots] : rows) {
        for (const int fd : slots) {
            if (!there[task].contains(fd)) {
                fail("phantom: pid " + std::to_string(task.first) + " tid " + std::to_string(task.second) + " fd " + std::to_string(fd));
            }
        }
    }
}

// No way may be missing without a word.
void Checker::expect_all_ways() {
    if (!settings_.program.ends_with("make_spans")) return;
    if (std::any_of(settings_.arguments.begin(), settings_.arguments.end(),
                    [](const std::string& argument) { return argument == "--way" || argument == "--count"; })) {
        return;
    }
    const Outcome list = run({settings_.program, "--list"});
    std::size_t at = 0;
    while (at < list.text.size()) {
        const std::size_t end = list.text.find('\n', at);
        const std::string way = list.text.substr(at, list.text.find('\t', at) - at);
        if (!tallies_.contains(way)) fail(way + ": neither made nor refused");
        at = end == std::string::npos ? list.text.size() : end + 1;
    }
}

void Checker::check_armed() {
    arm();
    Program program(program_arguments());
    read_until(program, {"ready", "rest"});
    hold_against_ls();
    finish(program);
    expect_all_ways();
}

void Checker::check_older() {
    Program program(program_arguments({"--copy"}));
    read_until(program, {"ready", "rest"});
    arm();
    hold_against_ls();
    program.say("copy");
    read_until(program, {"copied"});
    hold_against_ls();
    finish(program);
    expect_all_ways();
}

void Checker::check_polled() {
    Program program(program_arguments());
    read_until(program, {"ready", "rest"});
    hold_against_ls();
    finish(program);
    expect_all_ways();
}

void Checker::check_live() {
    Program watch({settings_.fdspan, "watch", "--json", "--backend", settings_.backend});
    std::string line;
    if (!watch.line(line)) throw std::runtime_error("fdspan watch ended before it started");
    answering_ = Json::parse(line).at("backend").get<std::string>();
    armed_after_ns_ = boottime_ns();

    Program program(program_arguments({"--close"}));
    constexpr const char* kinds[] = {"{\"event\":\"opened\"", "{\"event\":\"closed\"", "{\"event\":\"lost\"",
                                     "{\"event\":\"exit\""};
    std::set<pid_t> ours;
    std::map<std::pair<pid_t, int>, std::vector<Json>> opened, closed;
    std::uint64_t lost = 0;
    int skipped = 0;
    const pid_t program_pid = program.pid();
    bool program_exited = false;
    const auto take_event = [&](const std::string& text) {
        // Most lines are about something else; to parse them all takes minutes on an emulated machine.
        if (std::none_of(std::begin(kinds), std::end(kinds), [&](const char* kind) { return text.starts_with(kind); })) return;
        if (const std::size_t at = text.find("\"pid\":"); at != std::string::npos &&
            !ours.contains(static_cast<pid_t>(std::strtol(text.c_str() + at + 6, nullptr, 10)))) {
            return;
        }
        Json event = Json::parse(text);
        const std::string kind = event.at("event").get<std::string>();
        if (kind == "lost" && event.at("reason") == "hook-skipped") {
            skipped++;
        } else if (kind == "lost") {
            lost++;
        }
        if (kind == "exit" && event.at("pid").get<pid_t>() == program_pid) program_exited = true;
        if ((kind != "opened" && kind != "closed") || !event.contains("fd")) return;
        auto& events = kind == "opened" ? opened : closed;
        const std::pair slot(event.at("pid").get<pid_t>(), event.at("fd").get<int>());
        events[slot].push_back(std::move(event));
    };
    read_until(program, {"ready", "rest"});
    ::usleep(200'000);
    finish(program);
    ours.insert(program_pid);
    for (const Record& record : records_) ours.insert(record.pid);
    for (const Closed& record : closed_) ours.insert(record.record.pid);
    // A watch that is ended early says nothing of what still waits in the ring, nor of what found no room in a full pipe.
    while (!program_exited && watch.line(line)) take_event(line);
    ::usleep(200'000);
    watch.send_signal(SIGINT);
    while (watch.line(line)) take_event(line);
    // A hook that the kernel skips is nobody's fault here: it has to be told, and every span below be right all the same.
    const int code = watch.wait();
    if (code != (skipped > 0 ? 3 : 0)) fail("fdspan watch exits " + std::to_string(code));
    if (skipped > 0) std::printf("the kernel skipped hooks, told %d times\n", skipped);
    if (lost > 0) fail("watch lost events, " + std::to_string(lost) + " times");

    const auto owes = [this](const Record& record) {
        // A copy of a whole table (fork, unshare) is one event, not one for each of its descriptors.
        static const std::set<std::string> whole_tables = {
            "fork",           "fork_syscall",        "fork_dup3_refused",  "fork_of_fork",    "vfork_exec",     "posix_spawn",
            "exec_survivors", "clone_files",         "clone_files_exec", "clone_files_orphan",
            "unshare_thread", "clone_files_unshare", "close_range_unshare"};
        return (sees_all() || record.exact) && !whole_tables.contains(record.way) && record.tid == record.pid && !record.mem;
    };
    for (const Record& record : records_) {
        bool found = false;
        for (const Json& event : opened[{record.pid, record.fd}]) {
            const Answer answer = read_answer(event.at("opened"));
            if (!answer.exact || answer.earliest_ns < record.opened.before_ns || answer.latest_ns > record.opened.after_ns) continue;
            found = true;
            tallies_[record.way].descriptor.add(judge(record, "descriptor", record.opened, answer, true));
            tallies_[record.way].description.add(judge(record, "description", record.description,
                                                       read_answer(event.at("description").at("opened")),
                                                       sees_all() || record.description_exact));
            break;
        }
        if (!found && owes(record)) {
            tallies_[record.way].descriptor.add(Verdict::wrong);
            fail(describe(record) + ": no opened event in its bracket");
        }
    }
    for (const Closed& expected : closed_) {
        bool found = false;
        for (const Json& event : closed[{expected.record.pid, expected.record.fd}]) {
            const std::uint64_t at_ns = event.at("boottime_ns").get<std::uint64_t>();
            if (at_ns < expected.closed.before_ns || at_ns > expected.closed.after_ns) continue;
            found = true;
            pass();
            if (!event.contains("duration_ns") || event["duration_ns"].is_null()) break;
            const std::uint64_t duration = event["duration_ns"].get<std::uint64_t>();
            if (read_answer(event.at("opened")).exact &&
                (duration < expected.closed.before_ns - expected.record.opened.after_ns ||
                 duration > expected.closed.after_ns - expected.record.opened.before_ns)) {
                fail(describe(expected.record) + ": a duration of " + std::to_string(duration));
            }
            break;
        }
        // An end is owed to every beginning that was seen.
        if (!found && (sees_all() || expected.record.exact) && expected.record.tid == expected.record.pid) {
            fail(describe(expected.record) + ": no closed event in its bracket");
        }
    }
}

void Checker::print_table() const {
    std::size_t width = 3;
    for (const auto& [way, tally] : tallies_) width = std::max(width, way.size());
    std::printf("%-*s  %-28s  %s\n", static_cast<int>(width), "way", "descriptor", "description");
    Tally descriptors, descriptions;
    std::uint64_t unsupported = 0;
    for (const auto& [way, tally] : tallies_) {
        if (!tally.unsupported.empty()) {
            std::printf("%-*s  not here: %s\n", static_cast<int>(width), way.c_str(), tally.unsupported.c_str());
            unsupported++;
            continue;
        }
        std::printf("%-*s  %-28s  %s\n", static_cast<int>(width), way.c_str(), tally.descriptor.text().c_str(),
                    tally.description.text().c_str());
        const auto sum = [](Tally& total, const Tally& part) {
            total.exact += part.exact;
            total.bounded += part.bounded;
            total.wrong += part.wrong;
        };
        sum(descriptors, tally.descriptor);
        sum(descriptions, tally.description);
    }
    std::printf("%s, backend %s: descriptors %s; descriptions %s; %llu ways not here\n", settings_.mode.c_str(),
                answering_.c_str(), descriptors.text().c_str(), descriptions.text().c_str(),
                static_cast<unsigned long long>(unsupported));
}

int Checker::check() {
    try {
        if (settings_.mode == "armed") {
            check_armed();
        } else if (settings_.mode == "older") {
            check_older();
        } else if (settings_.mode == "live") {
            check_live();
        } else {
            check_polled();
        }
    } catch (const std::exception& error) {
        fail(error.what());
    }
    try {
        disarm();
    } catch (const std::exception& error) {
        fail(error.what());
    }
    print_table();
    std::printf("%llu passed, %llu failed\n", static_cast<unsigned long long>(passed_), static_cast<unsigned long long>(failed_));
    return failed_ == 0 && passed_ > 0 ? 0 : 1;
}

}  // namespace
}  // namespace truth

int main(int count, char** values) {
    truth::ignore_broken_pipes();
    ::setvbuf(stdout, nullptr, _IOLBF, 0);
    truth::Settings settings;
    const std::vector<std::string> arguments(values + 1, values + count);
    for (std::size_t i = 0; i < arguments.size(); i++) {
        const std::string& argument = arguments[i];
        const auto is = [&](const char* name) { return argument == name && i + 1 < arguments.size(); };
        if (is("--mode")) {
            settings.mode = arguments[++i];
        } else if (is("--fdspan")) {
            settings.fdspan = arguments[++i];
        } else if (is("--program")) {
            settings.program = arguments[++i];
        } else if (is("--max-entries")) {
            settings.max_entries = arguments[++i];
        } else if (is("--backend")) {
            settings.backend = arguments[++i];
        } else {
            settings.arguments.push_back(argument);
        }
    }
    const std::set<std::string> modes = {"armed", "older", "live", "polled"};
    if (!modes.contains(settings.mode)) {
        std::fprintf(stderr, "check_truth: --mode is one of armed, older, live, polled\n");
        return 2;
    }
    return truth::Checker(std::move(settings)).check();
}
