// check_storm: watches a storm of work on descriptor tables, and wants the watcher to be right about what is left of it.
//
//   check_storm [--fdspan PATH] [--program PATH] [--backend NAME] [--ring-bytes SIZE] [--stop-reader SECONDS] [ARGUMENT of storm]...
//
// Starts `fdspan watch --json --verify`, then storm. When the storm rests and watch has caught up:
// - the last news about each descriptor that storm still holds is its opening, at the time that storm knows, be it that the opening
//   itself was lost: the resync tells it then, from the kernel maps;
// - watch ends with a "verified" line: its index equals a snapshot, its kernel maps hold nothing dead.
// --stop-reader stops watch (SIGSTOP) for that long in the middle, so that news is lost for certain where the ring (--ring-bytes) is
// small; it has to say so, on which CPU and in which window of time.
#include <atomic>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>

#include <nlohmann/json.hpp>

#include "programs.hpp"

namespace truth {
namespace {

using Json = nlohmann::json;

struct Settings {
    std::string fdspan = "fdspan";
    std::string program = "storm";
    std::string backend = "auto";
    std::string ring_bytes;
    double stop_reader_seconds = 0;
    std::vector<std::string> arguments;
};

// The number behind "name": at the top level of a line that fdspan wrote; -1: none.
long number_in(std::string_view line, std::string_view name) {
    const std::string key = "\"" + std::string(name) + "\":";
    const std::size_t at = line.find(key);
    return at == std::string_view::npos ? -1 : std::strtol(line.data() + at + key.size(), nullptr, 10);
}

// Reads watch's lines in a thread of its own, so that its pipe never fills; keeps the last news about each descriptor.
class News {
public:
    explicit News(Program& watch) : watch_(watch), thread_([this] { read(); }) {}
    News(const News&) = delete;
    News& operator=(const News&) = delete;
    ~News() { join(); }

    void join() {
        if (thread_.joinable()) thread_.join();
    }
    // After join() only.
    [[nodiscard]] const std::string* last_about(long pid, long tid, long fd) const {
        const auto found = last_.find({pid, tid, fd});
        return found == last_.end() ? nullptr : &found->second;
    }
    [[nodiscard]] std::uint64_t events() const { return events_; }
    [[nodiscard]] std::uint64_t lost_lines() const { return lost_lines_; }
    [[nodiscard]] std::uint64_t lost_records() const { return lost_records_; }
    [[nodiscard]] std::uint64_t resynced() const { return resynced_; }
    [[nodiscard]] const std::string& verified() const { return verified_; }
    [[nodiscard]] const std::string& started() const { return started_; }
    [[nodiscard]] const std::string& error() const { return error_; }
    [[nodiscard]] const std::vector<std::string>& losses() const { return losses_; }
    [[nodiscard]] bool has_started() const { return has_started_; }
    // While it reads: whether this descriptor of this process was told of, and whether what was lost is mended.
    void look_for(long fd) {
        sentinel_seen_ = false;
        sentinel_ = fd;
    }
    [[nodiscard]] bool is_seen() const { return sentinel_seen_; }
    [[nodiscard]] bool is_mended() const { return mended_; }
    [[nodiscard]] bool has_ended() const { return has_ended_; }

private:
    void read() {
        try {
            std::string line;
            while (watch_.line(line, std::chrono::seconds(600))) take(line);
        } catch (const std::exception& error) {
            error_ = error.what();
        }
        has_ended_ = true;
    }

    void take(const std::string& line) {
        events_++;
        const bool opened = line.starts_with("{\"event\":\"opened\"");
        if (opened || line.starts_with("{\"event\":\"closed\"")) {
            const long pid = number_in(line, "pid");
            if (opened && pid == own_pid_ && number_in(line, "fd") == sentinel_) sentinel_seen_ = true;
            const long tid = number_in(line, "tid");
            last_[{pid, tid < 0 ? pid : tid, number_in(line, "fd")}] = opened ? line : std::string("closed");
        } else if (line.starts_with("{\"event\":\"lost\"")) {
            lost_lines_++;
            mended_ = false;
            if (losses_.size() < most_losses) losses_.push_back(line);
            lost_records_ += static_cast<std::uint64_t>(std::max(0L, number_in(line, "lost")));
        } else if (line.starts_with("{\"event\":\"resynced\"")) {
            resynced_++;
            mended_ = true;
        } else if (line.starts_with("{\"event\":\"verified\"")) {
            verified_ = line;
        } else if (line.starts_with("{\"event\":\"started\"")) {
            started_ = line;
            has_started_ = true;
        }
    }

    Program& watch_;
    std::map<std::tuple<long, long, long>, std::string> last_;
    std::uint64_t events_ = 0, lost_lines_ = 0, lost_records_ = 0;
    std::atomic<std::uint64_t> resynced_ = 0;
    std::string verified_, started_, error_;
    static constexpr std::size_t most_losses = 1U << 20;
    std::vector<std::string> losses_;
    const long own_pid_ = ::getpid();
    std::atomic<long> sentinel_ = -1;
    std::atomic<bool> sentinel_seen_ = false, mended_ = true;
    std::atomic<bool> has_started_ = false, has_ended_ = false;
    std::thread thread_;
};

class Check {
public:
    explicit Check(Settings settings) : settings_(std::move(settings)) {}
    int run();

private:
    void storm();
    void compare_news(const News& news, const std::vector<Json>& held);
    static void overflow_ring();
    void judge_losses(const News& news, std::uint64_t stopped_ns, std::uint64_t continued_ns);
    void judge_verified(const News& news);
    static void wait_for(News& news);
    void fail(const std::string& what) {
        failed_++;
        constexpr std::uint64_t most_lines = 40;
        if (failed_ <= most_lines) std::printf("FAILED %s\n", what.c_str());
    }

    Settings settings_;
    std::uint64_t passed_ = 0;
    std::uint64_t failed_ = 0;
};

void Check::compare_news(const News& news, const std::vector<Json>& held) {
    for (const Json& record : held) {
        // What was copied with a whole table is no single event.
        if (record.at("way") == "storm_fork" || !record.at("exact").get<bool>()) continue;
        const long pid = record.at("pid").get<long>(), tid = record.at("tid").get<long>(), fd = record.at("fd").get<long>();
        const std::string where = "pid " + std::to_string(pid) + " tid " + std::to_string(tid) + " fd " + std::to_string(fd);
        const std::string* const last = news.last_about(pid, tid, fd);
        if (last == nullptr || *last == "closed") {
            fail(where + ": held, but the last news about it is " + (last == nullptr ? "none" : "that it was closed"));
            continue;
        }
        const Json opened = Json::parse(*last).at("opened");
        const bool inside = opened.at("source") == "kernel" &&
                            opened.at("earliest_boottime_ns").get<std::uint64_t>() >= record.at("before_ns").get<std::uint64_t>() &&
                            opened.at("latest_boottime_ns").get<std::uint64_t>() <= record.at("after_ns").get<std::uint64_t>();
        // A correcting snapshot may find a descriptor before the call that makes it has ended, and tell of it; if the record is lost then, the
        // exact time comes into the index with the next snapshot, and is no news any more.
        const bool bounded_by_snapshot = !news.losses().empty() && opened.at("source") == "bounded" && opened.at("earliest_boottime_ns").is_number() &&
                                         opened.at("earliest_boottime_ns").get<std::uint64_t>() <= record.at("after_ns").get<std::uint64_t>() &&
                                         opened.at("latest_boottime_ns").get<std::uint64_t>() >= record.at("before_ns").get<std::uint64_t>();
        if (inside || bounded_by_snapshot) {
            passed_++;
        } else {
            fail(where + ": " + opened.dump() + " against " + record.dump());
        }
    }
}

void Check::judge_verified(const News& news) {
    if (news.verified().empty()) {
        fail("watch --verify ended without its verified line");
        return;
    }
    std::printf("%s\n", news.verified().c_str());
    const Json verified = Json::parse(news.verified());
    for (const char* const figure : {"phantoms", "gaps", "stale_map_entries"}) {
        if (verified.at(figure).get<std::uint64_t>() == 0) {
            passed_++;
        } else {
            fail(std::string(figure) + ": " + verified.at(figure).dump());
        }
    }
}

// The ring is in order: who has told of a descriptor made now has told of all before. An emulated machine takes long to.
void Check::wait_for(News& news) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(120);
    const auto late = [&] { return news.has_ended() || std::chrono::steady_clock::now() > deadline; };
    while (!news.is_seen()) {
        const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);  // again and again: it may be lost itself
        if (fd < 0) throw errno_error("open /dev/null");
        news.look_for(fd);
        for (int i = 0; i < 20 && !news.is_seen(); i++) ::usleep(50'000);
        ::close(fd);
        if (late()) throw std::runtime_error("fdspan watch does not catch up");
    }
    // Where others' work overflows the ring again and again: the first of two more began, perhaps, before the storm came to rest.
    const std::uint64_t resynced = news.resynced();
    while (!news.is_mended() && news.resynced() < resynced + 2) {
        ::usleep(50'000);
        if (late()) throw std::runtime_error("news was lost, and no resync followed");
    }
}

// The storm alone may be too slow for that, on an emulated machine: so many openings and closings as no ring of up to 1 MiB has room for.
void Check::overflow_ring() {
    constexpr int pairs = (1 << 20) / 128;
    for (int i = 0; i < pairs; i++) {
        const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd < 0) throw errno_error("open /dev/null");
        ::close(fd);
    }
}

// Each loss says how many, on which CPU, and when; that of a stopped reader lies in the time from its stop until it has caught up.
void Check::judge_losses(const News& news, std::uint64_t stopped_ns, std::uint64_t continued_ns) {
    bool in_stop = stopped_ns == 0;
    for (const std::string& line : news.losses()) {
        const Json loss = Json::parse(line);
        const auto earliest = loss.at("when").at("earliest_boottime_ns").get<std::uint64_t>();
        const auto latest = loss.at("when").at("latest_boottime_ns").get<std::uint64_t>();
        if (loss.at("lost").get<std::uint64_t>() == 0 || earliest > latest) fail("a loss of nothing, or at no time: " + line);
        if (loss.at("reason") == "ring-full" && !loss.contains("cpu")) fail("a loss without its CPU: " + line);
        if (earliest <= continued_ns && latest >= stopped_ns) in_stop = true;
    }
    if (in_stop) {
        passed_++;
    } else {
        fail("the reader was stopped, and no loss lies in that time");
    }
}

void Check::storm() {
    std::vector<std::string> watching = {settings_.fdspan, "watch", "--json", "--verify", "--backend", settings_.backend};
    if (!settings_.ring_bytes.empty()) watching.insert(watching.end(), {"--ring-bytes", settings_.ring_bytes});
    Program watch(watching);
    News news(watch);
    try {
        const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(100); // emulated, beside others
        while (!news.has_started()) {
            if (news.has_ended()) throw std::runtime_error("fdspan watch ended before it started");
            if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error("fdspan watch does not start");
            ::usleep(10'000);
        }
        std::printf("%s\n", news.started().c_str());

        std::vector<std::string> command = {settings_.program};
        command.insert(command.end(), settings_.arguments.begin(), settings_.arguments.end());
        Program program(command);
        std::uint64_t stopped_ns = 0, continued_ns = 0;
        if (settings_.stop_reader_seconds > 0) {
            ::usleep(1'000'000);
            watch.send_signal(SIGSTOP);
            stopped_ns = boottime_ns();
            ::usleep(static_cast<useconds_t>(settings_.stop_reader_seconds * 1e6));
            if (!settings_.ring_bytes.empty()) overflow_ring();
            watch.send_signal(SIGCONT);
            continued_ns = boottime_ns();
        }
        std::vector<Json> held;
        std::string line;
        while (true) {
            if (!program.line(line, std::chrono::seconds(600))) throw std::runtime_error("storm ended without resting");
            Json record = Json::parse(line);
            if (record.contains("event")) break;
            held.push_back(std::move(record));
        }
        wait_for(news);
        watch.send_signal(SIGINT);
        news.join();
        const int code = watch.wait();
        if (code != 0 && !(code == 3 && news.lost_lines() > 0)) fail("fdspan watch exits " + std::to_string(code));
        if (!news.error().empty()) fail(news.error());
        std::printf("%zu descriptors held at rest, %llu events, %llu records lost, %llu times resynced\n", held.size(),
                    static_cast<unsigned long long>(news.events()), static_cast<unsigned long long>(news.lost_records()),
                    static_cast<unsigned long long>(news.resynced()));
        compare_news(news, held);
        judge_losses(news, stopped_ns, continued_ns);
        judge_verified(news);
        program.close_stdin();
        program.rest();
        if (const int storm_code = program.wait(); storm_code != 0) fail("storm exits " + std::to_string(storm_code));
    } catch (...) {
        watch.send_signal(SIGKILL);  // ends the reading thread
        throw;
    }
}

int Check::run() {
    try {
        storm();
    } catch (const std::exception& error) {
        fail(error.what());
    }
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
        const auto is = [&](const char* name) { return arguments[i] == name && i + 1 < arguments.size(); };
        if (is("--fdspan")) {
            settings.fdspan = arguments[++i];
        } else if (is("--program")) {
            settings.program = arguments[++i];
        } else if (is("--backend")) {
            settings.backend = arguments[++i];
        } else if (is("--ring-bytes")) {
            settings.ring_bytes = arguments[++i];
        } else if (is("--stop-reader")) {
            settings.stop_reader_seconds = std::atof(arguments[++i].c_str());
        } else {
            settings.arguments.push_back(arguments[i]);
        }
    }
    return truth::Check(std::move(settings)).run();
}
