#include "config.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <set>

#include <fcntl.h>
#include <sys/un.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/unique_fd.hpp"

#include "duration.hpp"
#include "options.hpp"
#include "text.hpp"
#include "wall_time.hpp"

namespace fdspan::daemon {
namespace {

using nlohmann::json;

Result<void> set_duration(std::uint64_t& target, const std::string& text, std::uint64_t least_ns, std::uint64_t most_ns) {
    const Result<std::uint64_t> parsed = cli::parse_duration_ns(text);
    if (!parsed) return tl::unexpected(parsed.error());
    if (*parsed < least_ns || *parsed > most_ns) {
        return fail(EINVAL, "\"" + text + "\" is not from " + cli::format_duration(least_ns) + " to " + cli::format_duration(most_ns));
    }
    target = *parsed;
    return {};
}

Result<void> set_bytes(std::uint64_t& target, const std::string& text, std::uint64_t least) {
    const Result<std::uint64_t> parsed = cli::parse_bytes(text);
    if (!parsed) return tl::unexpected(parsed.error());
    if (*parsed < least) return fail(EINVAL, "\"" + text + "\" is less than " + std::to_string(least) + " bytes");
    target = *parsed;
    return {};
}

Result<void> set_flag(bool& target, const std::string& text) {
    if (text != "true" && text != "false") return fail(EINVAL, "\"" + text + "\" is neither true nor false");
    target = text == "true";
    return {};
}

// "" switches the thing off.
Result<void> set_path(std::string& target, const std::string& text) {
    if (!text.empty() && text.front() != '/') return fail(EINVAL, "\"" + text + "\" is not an absolute path");
    if (text.find('\0') != std::string::npos) return fail(EINVAL, "no path has a NUL character in it");
    target = text;
    return {};
}

template <class Number>
Result<void> set_count(Number& target, const std::string& text, std::uint64_t least, std::uint64_t most) {
    const Result<std::uint64_t> parsed = cli::parse_count(text, least, most);
    if (!parsed) return tl::unexpected(parsed.error());
    target = static_cast<Number>(*parsed);
    return {};
}

constexpr std::uint64_t second = 1'000'000'000;
constexpr std::size_t max_config_bytes = 1U << 20;
constexpr std::uint64_t year = 365ULL * 24 * 3600 * second;

// The text that a value of the file stands for: "1s" and 5 and true alike.
std::optional<std::string> text_of(const json& value) {
    if (value.is_string()) return value.get<std::string>();
    if (value.is_boolean()) return value.get<bool>() ? "true" : "false";
    if (value.is_number_integer()) return value.dump();
    return std::nullopt;
}

Result<void> apply(const json& object, const std::string& prefix, Config& config) {
    for (const auto& [name, value] : object.items()) {
        // "log.max_age" beside "log": {"max_age": …} would be one setting twice.
        if (name.find('.') != std::string::npos) return fail(EINVAL, "unknown key \"" + cli::escape(name) + "\"; groups are objects of their own");
        const std::string key = prefix.empty() ? name : prefix + "." + name;
        const auto& settings = all_settings();
        const auto setting = std::find_if(settings.begin(), settings.end(), [&key](const Setting& known) { return known.key == key; });
        if (setting != settings.end()) {
            const std::optional<std::string> text = text_of(value);
            if (!text) return fail(EINVAL, key + ": expected a text, a whole number, true or false");
            if (auto done = setting->set(config, *text); !done) return fail(EINVAL, key + ": " + done.error().message);
            continue;
        }
        const bool is_group = std::any_of(settings.begin(), settings.end(), [&key](const Setting& known) { return known.key.starts_with(key + "."); });
        if (!is_group) return fail(EINVAL, "unknown key \"" + cli::escape(key) + "\"");
        if (!value.is_object()) return fail(EINVAL, key + ": expected an object, { … }");
        if (auto done = apply(value, key, config); !done) return done;
    }
    return {};
}

}  // namespace

const std::vector<Setting>& all_settings() {
    static const std::vector<Setting> settings{
        {"backend", "--backend", "NAME", "Where events come from: auto, trampoline, kprobe, syscall, procfs [auto]",
         [](Config& config, const std::string& text) -> Result<void> {
             for (const Backend known : {Backend::automatic, Backend::trampoline, Backend::kprobe, Backend::syscall, Backend::procfs}) {
                 if (text != to_string(known)) continue;
                 config.backend = known;
                 return {};
             }
             return fail(EINVAL, "there is no backend \"" + cli::escape(text) + "\"; expected auto, trampoline, kprobe, syscall or procfs");
         }},
        {"pinned", "--pinned", "BOOL", "Arm tracking that outlives the daemon, so that a restart loses no exact age [true]",
         [](Config& config, const std::string& text) { return set_flag(config.pinned, text); }},
        {"ring_size", "", "BYTES", "Room for news from the kernel, a power of two [16M]",
         [](Config& config, const std::string& text) -> Result<void> {
             const Result<std::uint64_t> parsed = cli::parse_bytes(text);
             if (!parsed) return tl::unexpected(parsed.error());
             if (!std::has_single_bit(*parsed) || *parsed < 4096 || *parsed > (1U << 30)) {
                 return fail(EINVAL, "\"" + text + "\" is not a power of two from 4096 to 1G");
             }
             config.ring_bytes = static_cast<std::uint32_t>(*parsed);
             return {};
         }},
        {"log.database", "--database", "FILE", "The event log; empty: none [/var/lib/fdspan/events.db]",
         [](Config& config, const std::string& text) { return set_path(config.database, text); }},
        {"log.min_duration", "--min-duration", "DUR", "Spans shorter than this are not kept, unless their file was deleted [1s]",
         [](Config& config, const std::string& text) { return set_duration(config.policy.min_duration_ns, text, 0, year); }},
        {"log.released", "", "BOOL", "Keep ends of open file descriptions, too [false]",
         [](Config& config, const std::string& text) { return set_flag(config.policy.released, text); }},
        {"log.max_age", "--max-age", "DUR", "Rows older than this are removed [30d]",
         [](Config& config, const std::string& text) { return set_duration(config.max_age_ns, text, second, 200 * year); }},
        {"log.max_size", "--max-size", "BYTES", "The oldest rows go when the database is larger than this [1G]",
         [](Config& config, const std::string& text) { return set_bytes(config.max_bytes, text, 1U << 20); }},
        {"log.commit_interval", "", "DUR", "The longest that a row waits before it is on disk, at most 1s [500ms]",
         [](Config& config, const std::string& text) { return set_duration(config.commit_interval_ns, text, 10'000'000, second); }},
        {"log.jsonl.file", "--jsonl", "FILE", "Also append rows to this file, as JSON Lines",
         [](Config& config, const std::string& text) { return set_path(config.jsonl.path, text); }},
        {"log.jsonl.max_size", "", "BYTES", "Size at which the JSON file is rotated [100M]",
         [](Config& config, const std::string& text) { return set_bytes(config.jsonl.max_bytes, text, 4096); }},
        {"log.jsonl.keep", "", "N", "Rotated JSON files that are kept [5]",
         [](Config& config, const std::string& text) { return set_count(config.jsonl.keep, text, 0, 1000); }},
        {"log.journal", "--journal", "BOOL", "Also send rows to the journal [false]",
         [](Config& config, const std::string& text) { return set_flag(config.journal, text); }},
        {"socket.path", "--socket", "PATH", "Where fdspan asks; empty: nowhere [/run/fdspan/fdspan.sock]",
         [](Config& config, const std::string& text) -> Result<void> {
             if (text.size() >= sizeof(sockaddr_un::sun_path)) {
                 return fail(EINVAL, "a socket's path has at most " + std::to_string(sizeof(sockaddr_un::sun_path) - 1) + " bytes, this one " + std::to_string(text.size()));
             }
             return set_path(config.control.path, text);
         }},
        {"socket.group", "", "NAME", "The group that may ask [fdspan]",
         [](Config& config, const std::string& text) -> Result<void> {
             config.control.group = text;
             return {};
         }},
        {"socket.max_clients", "", "N", "Clients at a time; a quarter of them of one user [1024]",
         [](Config& config, const std::string& text) {
             auto done = set_count(config.control.max_clients, text, 4, 65536);
             config.control.max_clients_of_user = config.control.max_clients / 4;
             return done;
         }},
        {"metrics.listen", "--metrics", "ADDRESS", "Where Prometheus scrapes; empty: nowhere [127.0.0.1:9731]",
         [](Config& config, const std::string& text) -> Result<void> {
             const std::size_t colon = text.rfind(':');
             const bool whole = colon != std::string::npos && colon != 0 && cli::parse_count(text.substr(colon + 1), 1, 65535);
             if (!text.empty() && !whole) return fail(EINVAL, "\"" + cli::escape(text) + "\" is no address with a port from 1 to 65535, as 127.0.0.1:9731 is");
             config.metrics_address = text;
             return {};
         }},
        {"metrics.textfile", "--textfile", "FILE", "Also write metrics to this file, for node_exporter's textfile collector",
         [](Config& config, const std::string& text) { return set_path(config.textfile, text); }},
        {"monitor.interval", "--interval", "DUR", "How often metrics are made and processes are looked at for leaks [10s]",
         [](Config& config, const std::string& text) { return set_duration(config.monitor.interval_ns, text, second / 10, 3600 * second); }},
        {"monitor.leak_samples", "", "N", "Looks in a row that have to show ever more descriptors before a leak is suspected [12]",
         [](Config& config, const std::string& text) { return set_count(config.monitor.leak_samples, text, 3, 1000); }},
        {"monitor.leak_growth", "", "N", "Descriptors that have to be added meanwhile [100]",
         [](Config& config, const std::string& text) { return set_count(config.monitor.leak_growth, text, 1, 1U << 30); }},
    };
    return settings;
}

Result<void> parse_config(std::string_view text, Config& config) {
    // A key that stands twice would silently count once.
    std::vector<std::set<std::string>> seen;
    std::string twice;
    const auto watch = [&](int, json::parse_event_t event, json& value) {
        if (event == json::parse_event_t::object_start) seen.emplace_back();
        if (event == json::parse_event_t::object_end) seen.pop_back();
        if (event == json::parse_event_t::key && !seen.back().insert(value.get<std::string>()).second) twice = value.get<std::string>();
        return true;
    };
    json document;
    try {
        document = json::parse(text, watch, true, true);
    } catch (const json::exception& error) {  // a number that is too large is not one of parsing
        return fail(EINVAL, "not JSON, or not to be read as such: " + cli::escape(std::string_view(error.what())));
    }
    if (!twice.empty()) return fail(EINVAL, "the key \"" + cli::escape(twice) + "\" stands twice");
    if (!document.is_object()) return fail(EINVAL, "expected an object, { … }");
    return apply(document, {}, config);
}

Result<void> read_config(const std::string& path, Config& config) {
    // A reload must not wait for whoever would write to a pipe.
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!file.valid()) return fail_errno(errno, "open " + path);
    std::string text;
    char bytes[65536];
    while (true) {
        const ssize_t count = ::read(file.get(), bytes, sizeof bytes);
        if (count == 0) break;
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return fail_errno(errno, "read " + path);
        text.append(bytes, static_cast<std::size_t>(count));
        if (text.size() > max_config_bytes) return fail(EFBIG, path + ": larger than " + std::to_string(max_config_bytes) + " bytes");
    }
    if (auto done = parse_config(text, config); !done) return fail(done.error().code, path + ": " + done.error().message);
    return {};
}

}  // namespace fdspan::daemon
