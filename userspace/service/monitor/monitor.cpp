#include "service/monitor/monitor.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include <nlohmann/json.hpp>

#include "api/deleted.hpp"
#include "base/clock.hpp"
#include "base/unique_fd.hpp"

namespace fdspan::service {
namespace {

// The soft limit of "Max open files"; 0: it can't be read.
std::uint64_t descriptor_limit(pid_t pid) {
    const UniqueFd file(::open(("/proc/" + std::to_string(pid) + "/limits").c_str(), O_RDONLY | O_CLOEXEC));
    char text[4096];
    const ssize_t length = file.valid() ? ::read(file.get(), text, sizeof text) : 0;
    if (length <= 0) return 0;
    std::string_view rest(text, static_cast<std::size_t>(length));
    constexpr std::string_view name = "Max open files";
    const std::size_t at = rest.find(name);
    if (at == std::string_view::npos) return 0;
    rest.remove_prefix(at + name.size());
    rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
    std::uint64_t limit = 0;
    std::from_chars(rest.data(), rest.data() + rest.size(), limit);
    return limit;
}

struct Look {
    struct statx status {};
    pid_t pid = 0;
};

// Never waits for a file system that hangs.
std::optional<Look> look_at(const DeletedFile::Holder& holder) {
    Look look{{}, holder.pid};
    const std::string link = magic_link({holder.pid, holder.tid, RefKind::fd, holder.fd, 0, 0, std::nullopt, std::nullopt});
    constexpr int flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
    constexpr unsigned fields = STATX_BLOCKS | STATX_INO | STATX_NLINK | STATX_CTIME | STATX_MNT_ID;
    // The descriptor may have been closed and used again since.
    if (::statx(AT_FDCWD, link.c_str(), flags, fields, &look.status) != 0 || look.status.stx_nlink != 0) return std::nullopt;
    return look;
}

std::optional<Look> look_at(const DeletedFile& file) {
    for (const DeletedFile::Holder& holder : file.holders) {
        if (auto look = look_at(holder)) return look;
    }
    return std::nullopt;
}

void add_holder(std::vector<DeletedFile::Holder>& holders, const IndexRow& row) {
    const Process& process = row.process;
    if (row.reference.ref != RefKind::fd || process.pid == 0 || holders.size() >= DeletedFile::max_holders) return;
    std::size_t of_user = 0;
    for (const DeletedFile::Holder& holder : holders) {
        if (holder.pid == process.pid) return;
        of_user += holder.uid == process.uid ? 1U : 0U;
    }
    if (of_user >= DeletedFile::max_holders_of_user) return;
    holders.push_back({process.pid, row.reference.tid, row.reference.fd, process.uid, process.started});
}

// One whom the viewer sees, as long as it holds this very file.
const DeletedFile::Holder* holder_seen(const DeletedFile& file, const Index& index, Sight& sight) {
    const auto known = index.deleted_file(file.dev, file.ino);
    if (!known || !(known->when == file.told)) return nullptr;
    for (const DeletedFile::Holder& holder : file.holders) {
        if (!sight.sees(holder.pid, holder.started)) continue;
        bool holds = false;
        index.lookup(holder.pid, holder.tid, holder.fd, [&](const IndexRow& row) {
            holds = row.reference.dev == file.dev && row.reference.ino == file.ino && sight.sees(holder.pid, row.process.started);
        });
        if (holds) return &holder;
    }
    return nullptr;
}

// overlayfs and btrfs show other numbers than their inodes have.
bool is_file(const struct statx& status, DeviceNumber dev, std::uint64_t ino) {
    return status.stx_ino == ino && DeviceNumber{status.stx_dev_major, status.stx_dev_minor} == dev;
}

// Files of one call site differ in their numbers.
std::string pattern_of(const IndexRow& row) {
    const Reference& reference = row.reference;
    std::string text(reference.type == FileType::anon ? row.strings.get(reference.type_name) : to_string(reference.type));
    if (reference.name == NameState::nameless) return text;
    text += ' ';
    bool in_number = false;
    for (const char c : row.strings.get(reference.path.name)) {
        const bool digit = c >= '0' && c <= '9';
        if (!digit) text += c;
        if (digit && !in_number) text += '#';
        in_number = digit;
    }
    return text;
}

std::uint64_t since(std::uint64_t now_ns, std::uint64_t at_ns) { return now_ns > at_ns ? now_ns - at_ns : 0; }

}  // namespace

void Monitor::set(const MonitorSettings& settings) {
    settings_ = settings;
    next_ns_ = std::min(next_ns_, figures_.at_ns + settings.interval_ns);
}

void Monitor::sample_deleted(const Index& index, Figures& figures) {
    const WallClock clock = WallClock::now();
    procfs::HolderMounts mounts(max_mount_bytes);
    std::size_t looks = 0;
    const auto keep_largest = [&figures](std::size_t from) {
        if (figures.deleted.size() < from) return;
        const auto larger = [](const DeletedFile& a, const DeletedFile& b) { return a.bytes > b.bytes; };
        std::sort(figures.deleted.begin(), figures.deleted.end(), larger);
        figures.deleted.resize(std::min(figures.deleted.size(), max_deleted_files));
    };
    for (const auto& [dev, ino] : index.deleted_files()) {
        DeletedFile file;
        file.dev = dev;
        file.ino = ino;
        file.told = file.since = index.deleted_file(dev, ino)->when;
        index.for_each_of_file(dev, ino, [&file](const IndexRow& row) { add_holder(file.holders, row); });
        if (file.holders.empty()) continue;
        const auto known = deleted_since_.find({dev, ino});
        if (known != deleted_since_.end() && known->second.first == file.told) file.since = known->second.second;
        if (const auto look = ++looks <= max_looked_at ? look_at(file) : std::nullopt) {
            file.bytes = look->status.stx_blocks * 512;
            // Whoever writes to it moves its ctime, and whoever sets the clock moves what that means: the first look is the best.
            if (file.since == file.told && !file.told.is_exact() && is_file(look->status, dev, ino)) {
                const procfs::Mount* const mount = mounts.find(look->pid, look->status);
                file.since.narrow(deletion_by_ctime(look->status, mount, clock, figures.at_ns));
            }
        }
        for (DeletedSum* const sum : {&figures.deleted_sum, &figures.deleted_by_device[dev]}) {
            sum->bytes += file.bytes;
            ++sum->files;
        }
        figures.deleted_oldest_ns = std::max(figures.deleted_oldest_ns, since(figures.at_ns, file.since.latest_ns));
        figures.deleted.push_back(std::move(file));
        keep_largest(2 * max_deleted_files);
    }
    keep_largest(0);
    deleted_since_.clear();
    for (const DeletedFile& file : figures.deleted) deleted_since_.emplace(FileKey{file.dev, file.ino}, std::pair{file.told, file.since});
    figures.sizes_lack = looks > max_looked_at;
}

void Monitor::sample(const Index& index, std::uint64_t now_ns) {
    next_ns_ = now_ns + settings_.interval_ns;
    Figures figures;
    figures.at_ns = now_ns;
    OpenCounts open;
    pid_t last_pid = 0, last_tid = 0;
    std::uint64_t of_table = 0;
    OpenCount* last = nullptr;
    index.for_each([&](const IndexRow& row) {
        const Reference& reference = row.reference;
        if (reference.ref != RefKind::fd) return;
        if (last == nullptr || row.process.pid != last_pid) {
            last_pid = row.process.pid;
            last_tid = reference.tid;
            of_table = 0;
            last = &open[{last_pid, row.process.started.latest_ns}];
            last->started = row.process.started;
            last->comm = row.strings.get(row.process.comm);
        }
        if (reference.tid != last_tid) {
            last_tid = reference.tid;
            of_table = 0;
        }
        if (++of_table > last->descriptors) {
            last->descriptors = of_table;
            last->tid = last_tid;
        }
        ++figures.open_by_type[static_cast<std::size_t>(reference.type)];
        const double age_s = static_cast<double>(since(now_ns, reference.description_opened.latest_ns)) / 1e9;
        const auto bucket = std::lower_bound(age_bounds_s.begin(), age_bounds_s.end(), age_s) - age_bounds_s.begin();
        ++figures.ages[static_cast<std::size_t>(bucket)];
        figures.age_sum_s += age_s;
        ++(reference.description_opened.is_exact() ? figures.exact_ages : figures.bounded_ages);
    });
    figures.processes = open.size();

    sample_deleted(index, figures);

    for (const auto& [key, process] : open) {
        if (process.descriptors < least_load) continue;
        figures.loads.push_back({key.first, process.started, process.comm, process.descriptors, descriptor_limit(key.first)});
    }
    std::sort(figures.loads.begin(), figures.loads.end(), [](const ProcessLoad& a, const ProcessLoad& b) {
        // a.open / a.limit > b.open / b.limit; no limit is the farthest.
        return static_cast<double>(a.open) * static_cast<double>(b.limit) > static_cast<double>(b.open) * static_cast<double>(a.limit);
    });
    std::erase_if(figures.loads, [](const ProcessLoad& load) { return load.limit == 0; });
    if (figures.loads.size() > max_loads) figures.loads.resize(max_loads);

    figures_ = std::move(figures);
    sample_leaks(index, open, now_ns);
}

void Monitor::add_sample(History& history, std::uint64_t now_ns, std::uint64_t open) const {
    std::uint64_t value = open;
    for (unsigned pace = 0; pace < History::paces; ++pace) {
        auto& samples = history.samples[pace];
        samples.emplace_back(now_ns, value);
        while (samples.size() > settings_.leak_samples) samples.pop_front();
        history.least[pace] = history.pending[pace] == 0 ? value : std::min(history.least[pace], value);
        if (++history.pending[pace] < History::samples_per_pace) return;
        history.pending[pace] = 0;
        value = history.least[pace];
    }
}

void Monitor::sample_leaks(const Index& index, const OpenCounts& open, std::uint64_t now_ns) {
    std::erase_if(histories_, [&open](const auto& entry) {
        const auto process = open.find(entry.first);
        return process == open.end() || process->second.descriptors < least_load;
    });
    for (const auto& [key, process] : open) {
        if (process.descriptors < least_load) continue;
        auto history = histories_.find(key);
        if (history == histories_.end()) {
            if (histories_.size() >= max_processes) continue;
            history = histories_.emplace(key, History{}).first;
        }
        add_sample(history->second, now_ns, process.descriptors);
        if (auto suspicion = judge(index, key.first, process, history->second, now_ns)) figures_.leaks.push_back(std::move(*suspicion));
    }
    std::sort(figures_.leaks.begin(), figures_.leaks.end(), [](const LeakSuspicion& a, const LeakSuspicion& b) { return a.to - a.from > b.to - b.from; });
    if (figures_.leaks.size() > max_leaks) figures_.leaks.resize(max_leaks);
}

std::optional<LeakSuspicion> Monitor::judge(const Index& index, pid_t pid, const OpenCount& process, const History& history, std::uint64_t now_ns) const {
    for (const auto& samples : history.samples) {
        if (samples.size() < settings_.leak_samples || samples.size() < 3) continue;
        std::size_t rises = 0;
        bool falls = false;
        for (std::size_t at = 1; at < samples.size(); ++at) {
            rises += samples[at].second > samples[at - 1].second ? 1U : 0U;
            falls = falls || samples[at].second < samples[at - 1].second;
        }
        const std::uint64_t from = samples.front().second, to = samples.back().second;
        // One burst is no leak: it has to go on.
        if (falls || to < from + settings_.leak_growth || rises * 2 < samples.size() - 1) continue;

        LeakSuspicion suspicion{pid, process.started, process.comm, from, to, samples.back().first - samples.front().first, {}, 0, 0, 0};
        struct Group {
            std::uint64_t open = 0, fresh = 0, oldest_ns = ~std::uint64_t{0};
        };
        constexpr std::size_t max_groups = 4096;
        std::map<std::string, Group> groups;
        index.for_each_of_process(pid, [&](const IndexRow& row) {
            if (row.reference.ref != RefKind::fd || row.reference.tid != process.tid) return;
            const std::string pattern = pattern_of(row);
            if (groups.size() >= max_groups && !groups.contains(pattern)) return;
            Group& group = groups[pattern];
            ++group.open;
            group.oldest_ns = std::min(group.oldest_ns, row.reference.opened.latest_ns);
            group.fresh += row.reference.opened.latest_ns >= samples.front().first ? 1U : 0U;
        });
        const auto most = std::max_element(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.second.fresh < b.second.fresh; });
        if (most != groups.end()) {
            suspicion.files = most->first;
            suspicion.files_open = most->second.open;
            suspicion.files_new = most->second.fresh;
            suspicion.oldest_age_ns = since(now_ns, most->second.oldest_ns);
        }
        return suspicion;
    }
    return std::nullopt;
}

std::string Monitor::check_json(const Index& index, Sight& sight, bool certain) const {
    using nlohmann::json;
    json deleted = json::array(), loads = json::array(), leaks = json::array();
    const bool sees_all = sight.viewer().sees_all();
    DeletedSum sum = sees_all ? figures_.deleted_sum : DeletedSum{};
    std::uint64_t oldest_ns = sees_all ? figures_.deleted_oldest_ns : 0;
    constexpr std::size_t shown = 10;
    for (const DeletedFile& file : figures_.deleted) {
        if (sees_all && deleted.size() >= shown) break;
        const DeletedFile::Holder* const holder = holder_seen(file, index, sight);
        if (holder == nullptr) continue;
        const std::uint64_t age = since(figures_.at_ns, file.since.latest_ns);
        if (!sees_all) {
            sum.bytes += file.bytes;
            ++sum.files;
            oldest_ns = std::max(oldest_ns, age);
        }
        if (deleted.size() >= shown) continue;
        // Others may have opened it by another name.
        index.lookup(holder->pid, holder->tid, holder->fd, [&](const IndexRow& row) {
            deleted.push_back({{"bytes", file.bytes}, {"age_ns", age}, {"pid", holder->pid}, {"comm", row.strings.get(row.process.comm)},
                               {"path", row.strings.get(row.reference.path.name)}});
        });
    }
    // Of whose files some are not among those that are kept.
    const bool more = figures_.sizes_lack || (!sees_all && figures_.deleted.size() < figures_.deleted_sum.files);
    for (const ProcessLoad& load : figures_.loads) {
        if (loads.size() >= shown || !sight.sees(load.pid, load.started)) continue;
        loads.push_back({{"pid", load.pid}, {"comm", load.comm}, {"open", load.open}, {"limit", load.limit}});
    }
    for (const LeakSuspicion& leak : figures_.leaks) {
        if (!sight.sees(leak.pid, leak.started)) continue;
        leaks.push_back({{"pid", leak.pid}, {"comm", leak.comm}, {"from", leak.from}, {"to", leak.to}, {"window_ns", leak.window_ns},
                         {"files", leak.files}, {"files_open", leak.files_open}, {"files_new", leak.files_new}, {"oldest_age_ns", leak.oldest_age_ns}});
    }
    const json answer{{"schema", 1}, {"certain", certain}, {"at_boottime_ns", figures_.at_ns}, {"deleted_bytes", sum.bytes}, {"deleted_files", sum.files},
                      {"deleted_oldest_ns", oldest_ns}, {"deleted_more", more}, {"deleted", deleted}, {"loads", loads}, {"leaks", leaks}};
    // What is not UTF-8 becomes U+FFFD: this is for a line that people read.
    return answer.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace fdspan::service
