// check_burst: holds many files, lets several processes take the names of some away at a steady rate, and wants each told by
// `fdspan watch --json` once and rightly: none missed, none twice, none of a file that stays; when, how, by whom, held by whom.
//
//   check_burst [--fdspan PATH] [--backend NAME] [--files N] [--deletions N] [--rate PER_SECOND] DIRECTORY
//
// Every holder has a directory of its own with the same names in it, so that a name alone never tells which file is meant.
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <numeric>
#include <random>
#include <thread>

#include <nlohmann/json.hpp>

#include "programs.hpp"

namespace truth {
namespace {

using Json = nlohmann::json;

constexpr std::size_t holders = 10;
constexpr std::size_t culprits = 4;
constexpr std::size_t rename_every = 5;             // so many deletions, one is a rename onto the name
constexpr std::uint64_t slack_ns = 50'000'000;      // hooks at a syscall's exit stamp after the caller has read the clock
constexpr int patience_s = 60;

struct Settings {
    std::string fdspan = "fdspan";
    std::string backend = "syscall";
    std::string directory;
    std::size_t files = 10'000;
    std::size_t deletions = 2'000;
    std::size_t rate = 1'000;
};

// What a culprit did, written by it into memory that is shared.
struct Deed {
    pid_t pid;
    bool renamed;
    std::uint64_t from_ns, to_ns;
};

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "check_burst: %s: %s\n", what.c_str(), std::strerror(errno));
    ::_exit(99);
}
void must(bool good, const std::string& what) {
    if (!good) die(what);
}

std::string path_of(const Settings& settings, std::size_t file) {
    return settings.directory + "/" + std::to_string(file % holders) + "/f" + std::to_string(file / holders);
}

// Opens its share, says so, and holds on until the pipe's other end goes.
pid_t start_holder(const Settings& settings, std::size_t number, int release_read, int release_write) {
    int ready[2];
    must(::pipe2(ready, O_CLOEXEC) == 0, "pipe");
    const pid_t child = ::fork();
    must(child >= 0, "fork");
    if (child == 0) {
        ::close(release_write);
        for (std::size_t file = number; file < settings.files; file += holders) {
            const std::string path = path_of(settings, file);
            must(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) >= 0, path);
        }
        char byte = 'r';
        must(::write(ready[1], &byte, 1) == 1, "tell");
        while (::read(release_read, &byte, 1) < 0 && errno == EINTR) {}
        ::_exit(0);
    }
    ::close(ready[1]);
    char byte;
    must(::read(ready[0], &byte, 1) == 1, "a holder did not get ready");
    ::close(ready[0]);
    return child;
}

pid_t start_culprit(const Settings& settings, std::size_t number, const std::vector<std::size_t>& order, Deed* deeds) {
    const std::uint64_t begin_ns = boottime_ns() + 50'000'000;
    const pid_t child = ::fork();
    must(child >= 0, "fork");
    if (child != 0) return child;
    for (std::size_t at = number; at < order.size(); at += culprits) {
        const std::uint64_t due_ns = begin_ns + at * 1'000'000'000 / settings.rate;
        const timespec due{static_cast<time_t>(due_ns / 1'000'000'000), static_cast<long>(due_ns % 1'000'000'000)};
        ::clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &due, nullptr);
        const std::string path = path_of(settings, order[at]);
        const std::string other = settings.directory + "/new" + std::to_string(at);
        Deed& deed = deeds[order[at]];
        deed.renamed = at % rename_every == 0;
        if (deed.renamed) must(::mknod(other.c_str(), S_IFREG | 0600, 0) == 0, other);
        deed.from_ns = boottime_ns();
        must((deed.renamed ? ::rename(other.c_str(), path.c_str()) : ::unlink(path.c_str())) == 0, path);
        deed.to_ns = boottime_ns();
        deed.pid = ::getpid();
    }
    ::_exit(0);
}

int check(Settings settings) {
    rlimit limit{};
    must(::getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
    limit.rlim_cur = limit.rlim_max;
    must(::setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
    settings.directory += "/fdspan-burst.XXXXXX";
    must(::mkdtemp(settings.directory.data()) != nullptr, settings.directory);
    for (std::size_t i = 0; i < holders; ++i) must(::mkdir((settings.directory + "/" + std::to_string(i)).c_str(), 0700) == 0, "mkdir");
    auto* const deeds = static_cast<Deed*>(::mmap(nullptr, settings.files * sizeof(Deed), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    must(deeds != MAP_FAILED, "mmap");

    int release[2];
    must(::pipe2(release, O_CLOEXEC) == 0, "pipe");
    std::vector<pid_t> holding;
    // Half of them are known from the first snapshot, half from their opening.
    const auto hold = [&](std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i) holding.push_back(start_holder(settings, i, release[0], release[1]));
    };
    hold(0, holders / 2);
    Program watch({settings.fdspan, "watch", "--json", "--backend", settings.backend, "--event", "deleted,unlinked,lost", settings.directory});
    std::string line;
    if (!watch.line(line)) throw std::runtime_error("watch did not start");
    std::vector<std::string> lines;
    std::atomic<bool> canary_told = false;
    std::thread reader([&] {
        try {
            while (watch.line(line)) {
                if (line.find("/canary\"") != std::string::npos) canary_told = true;
                else lines.push_back(line);
            }
        } catch (const std::exception& error) {
            std::printf("FAILED: %s\n", error.what());
        }
    });
    hold(holders / 2, holders);

    std::vector<std::size_t> order(settings.files);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937_64(settings.files));
    order.resize(std::min(settings.deletions, settings.files));
    std::vector<pid_t> working;
    for (std::size_t i = 0; i < culprits; ++i) working.push_back(start_culprit(settings, i, order, deeds));
    int failures = 0;
    for (const pid_t pid : working) {
        int status = 0;
        ::waitpid(pid, &status, 0);
        failures += status != 0;
    }
    // What was deleted after all others is told after them.
    const std::string canary = settings.directory + "/canary";
    const int fd = ::open(canary.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0 && ::unlink(canary.c_str()) == 0, canary);
    for (int tenths = 0; tenths < 10 * patience_s && !canary_told; ++tenths) ::usleep(100'000);
    watch.send_signal(SIGTERM);
    reader.join();
    const int code = watch.wait();
    ::close(fd);
    ::close(release[1]);
    for (const pid_t pid : holding) ::waitpid(pid, nullptr, 0);
    (void)!::system(("rm -rf '" + settings.directory + "'").c_str());

    // ---- what was told ----
    const auto fail = [&](const std::string& what) {
        if (++failures <= 20) std::printf("FAILED: %s\n", what.c_str());
    };
    if (!canary_told) fail("watch did not catch up");
    if (code != 0) fail("watch ended with " + std::to_string(code));
    std::map<std::string, std::vector<Json>> told;
    for (const std::string& text : lines) {
        Json event = Json::parse(text);
        if (event.at("event") == "deleted") told[event.at("path")].push_back(std::move(event));
        else fail(text);
    }
    std::uint64_t first_ns = ~std::uint64_t{0}, last_ns = 0;
    std::size_t missed = 0, twice = 0, wrong = 0;
    for (std::size_t file = 0; file < settings.files; ++file) {
        const Deed& deed = deeds[file];
        const std::string path = path_of(settings, file);
        const auto found = told.find(path);
        const std::size_t times = found == told.end() ? 0 : found->second.size();
        if (deed.pid == 0) {
            if (times != 0) ++wrong, fail(path + " was not deleted: " + found->second.front().dump());
            continue;
        }
        first_ns = std::min(first_ns, deed.from_ns);
        last_ns = std::max(last_ns, deed.to_ns);
        if (times == 0) ++missed, fail(path + " is missing");
        if (times > 1) ++twice, fail(path + " was told " + std::to_string(times) + " times");
        if (times != 1) continue;
        const Json& event = found->second.front();
        const std::uint64_t at_ns = event.at("boottime_ns");
        const bool right = !event.at("by").is_null() && event.at("by").at("pid") == deed.pid && event.at("how") == (deed.renamed ? "rename" : "unlink") &&
                           at_ns >= deed.from_ns && at_ns <= deed.to_ns + slack_ns && event.at("holder_count") == 1 &&
                           event.at("holders").at(0).at("pid") == holding[file % holders];
        if (!right) ++wrong, fail("by " + std::to_string(deed.pid) + " in " + std::to_string(deed.from_ns) + ".." + std::to_string(deed.to_ns) + ": " + event.dump());
    }
    std::printf("%s: %zu of %zu files that are held were deleted, %.0f a second: %zu missed, %zu told twice, %zu wrong\n", settings.backend.c_str(), order.size(),
                settings.files, static_cast<double>(order.size()) * 1e9 / static_cast<double>(last_ns - first_ns), missed, twice, wrong);
    return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace truth

int main(int count, char** values) {
    truth::Settings settings;
    try {
        for (int i = 1; i < count; ++i) {
            const std::string argument = values[i];
            const auto value = [&] { return i + 1 < count ? values[++i] : throw std::runtime_error(argument + " needs a value"); };
            if (argument == "--fdspan") settings.fdspan = value();
            else if (argument == "--backend") settings.backend = value();
            else if (argument == "--files") settings.files = std::stoul(value());
            else if (argument == "--deletions") settings.deletions = std::stoul(value());
            else if (argument == "--rate") settings.rate = std::stoul(value());
            else settings.directory = argument;
        }
        truth::ignore_broken_pipes();
        return truth::check(settings);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "check_burst: %s\n", error.what());
        return 1;
    }
}
