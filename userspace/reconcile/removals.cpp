#include "reconcile/removals.hpp"

#include <fcntl.h>
#include <linux/limits.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <sstream>
#include <unordered_map>

#include "base/clock.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan {
namespace {

constexpr std::string_view deleted_mark = " (deleted)";
constexpr std::uint64_t clock_tolerance_ns = 1'000'000;
constexpr std::size_t max_named = 4096;                // descriptions of one name that are told apart

std::string_view dir_of(std::string_view path) { return path.substr(0, std::min(path.rfind('/'), path.size())); }
std::string_view last_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

Removal removal_of(std::uint16_t how) {
    switch (how) {
        case FDSPAN_UNLINK_UNLINK: return Removal::unlink;
        case FDSPAN_UNLINK_RMDIR: return Removal::rmdir;
        default: return Removal::rename;
    }
}

// When the inode was changed last, on the clock of the records.
std::uint64_t changed_ns(const struct statx& stx) {
    const std::int64_t realtime_ns = std::clamp<std::int64_t>(stx.stx_ctime.tv_sec, 0, 4'000'000'000) * 1'000'000'000 + stx.stx_ctime.tv_nsec;
    return WallClock::now().to_boottime_ns(realtime_ns);
}

// The number that the inode itself has, of the descriptor that a magic link is of (fs/proc/fd.c, seq_show); 0: it is of none.
std::uint64_t inode_shown_by_fdinfo(std::string link) {
    const std::size_t at = link.rfind("/fd/");
    if (at == std::string::npos) return 0;
    const UniqueFd fd(::open(link.insert(at + 3, "info").c_str(), O_RDONLY | O_CLOEXEC));
    std::array<char, 4096> text;
    const ssize_t length = fd.valid() ? ::read(fd.get(), text.data(), text.size()) : -1;
    if (length <= 0) return 0;
    const auto info = procfs::parse_fdinfo({text.data(), static_cast<std::size_t>(length)});
    return info ? info->ino.value_or(0) : 0;
}

// How much of two paths is the same at their ends.
std::size_t likeness_of(std::string_view a, std::string_view b) {
    const auto tail = std::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend()).first - a.rbegin();
    const auto head = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
    return static_cast<std::size_t>(tail + head);
}

}  // namespace

// ---- who did it -----------------------------------------------------------------------------------------------------

// The id is the inode number of the group's directory, which also is its file handle there (fs/kernfs/mount.c, FILEID_KERNFS).
std::string Removals::cgroup_path(std::uint64_t id) const {
    constexpr int kernfs_handle = 0xfe;
    if (!cgroups_tried_) {
        cgroups_tried_ = true;
        std::ifstream mounts("/proc/self/mountinfo");
        for (std::string line; std::getline(mounts, line);) {
            if (line.find(" - cgroup2 ") == std::string::npos) continue;
            std::istringstream fields(line);
            std::string skipped;
            fields >> skipped >> skipped >> skipped >> skipped >> cgroup_mount_;
            cgroups_.reset(::open(cgroup_mount_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
            break;
        }
    }
    if (!cgroups_.valid() || id == 0) return {};
    alignas(file_handle) std::array<char, sizeof(file_handle) + sizeof id> bytes{};
    auto* const handle = reinterpret_cast<file_handle*>(bytes.data());
    handle->handle_bytes = sizeof id;
    handle->handle_type = kernfs_handle;
    std::memcpy(handle->f_handle, &id, sizeof id);
    const UniqueFd group(::open_by_handle_at(cgroups_.get(), handle, O_PATH | O_CLOEXEC));
    if (!group.valid()) return {};
    std::array<char, PATH_MAX> text{};
    const ssize_t length = ::readlink(("/proc/self/fd/" + std::to_string(group.get())).c_str(), text.data(), text.size());
    const std::string_view path(text.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
    if (!path.starts_with(cgroup_mount_)) return {};
    return path.size() == cgroup_mount_.size() ? "/" : std::string(path.substr(cgroup_mount_.size()));
}

RemovalNote Removals::note_of(const Seen& seen) const {
    if (seen.cgroup_path.empty()) seen.cgroup_path = cgroup_path(seen.cgroup);
    seen.by = {seen.pid, seen.uid, seen.comm, seen.exe, seen.cgroup_path};
    RemovalNote note;
    note.when = Interval::exact(seen.at_ns);
    note.how = seen.how;
    note.by = &seen.by;
    return note;
}

std::optional<RemovalNote> Removals::find(DeviceNumber dev, std::uint64_t ino, std::uint64_t from_ns, std::uint64_t to_ns) const {
    for (auto seen = recent_.rbegin(); seen != recent_.rend() && seen->at_ns >= from_ns; ++seen) {
        if (seen->ino != 0 && seen->ino == ino && seen->dev == kernel_device(dev) && seen->at_ns <= to_ns + settling_ns) return note_of(*seen);
    }
    return std::nullopt;
}

bool Removals::Suspects::agree() const {
    return !seen.empty() && std::all_of(seen.begin(), seen.end(), [this](const Seen* one) {
        return one->pid == seen.front()->pid && one->how == seen.front()->how && one->exe == seen.front()->exe;
    });
}

// What they agree on; with no one, or several that differ, nobody is blamed.
RemovalNote Removals::note_of(const Suspects& suspects, const Index::FileKey& file, const Interval& otherwise) {
    if (!suspects.agree()) {
        RemovalNote note;
        note.when = otherwise;
        return note;
    }
    RemovalNote note = note_of(*suspects.seen.front());
    if (suspects.seen.size() == 1) {
        suspects.seen.front()->took = file;
        return note;
    }
    const auto [first, last] =
        std::minmax_element(suspects.seen.begin(), suspects.seen.end(), [](const Seen* a, const Seen* b) { return a->at_ns < b->at_ns; });
    note.when = Interval::bounded((*first)->at_ns, (*last)->at_ns);
    return note;
}

// Those that the kernel side gave no file of, that may be about this one, and that may have stamped it in that window.
std::vector<Removals::Seen*> Removals::seen_between(std::uint64_t earliest_ns, std::uint64_t latest_ns, const Index::FileKey& file) {
    std::vector<Seen*> found;
    for (auto seen = recent_.rbegin(); seen != recent_.rend() && seen->at_ns + settling_ns >= earliest_ns; ++seen) {
        const bool then = seen->at_ns >= earliest_ns && seen->stamp_ns <= latest_ns;
        if (seen->ino == 0 && then && (!seen->took || *seen->took == file)) found.push_back(&*seen);
    }
    return found;
}

bool Removals::find_exactly(DeviceNumber dev, std::uint64_t ino, std::string_view path, std::uint64_t from_ns) const {
    return std::any_of(recent_.rbegin(), recent_.rend(), [&](const Seen& seen) {
        if (seen.at_ns < from_ns) return false;
        if (seen.ino == 0) return seen.whole && seen.path == path;
        return seen.ino == ino && seen.dev == kernel_device(dev) && last_name(seen.path) == last_name(path);
    });
}

// What overlayfs removes in its layer it removes itself afterwards (fs/overlayfs/dir.c, ovl_do_remove).
std::optional<std::uint64_t> Removals::allocated_below(const Seen& seen) const {
    constexpr std::uint64_t layers_ns = 100'000'000;
    for (auto below = recent_.rbegin(); below != recent_.rend() && below->at_ns + layers_ns >= seen.at_ns; ++below) {
        if (below->pid == seen.pid && below->how == seen.how && below->ino != 0 && below->dev != seen.dev && below->name == seen.name) {
            return below->allocated;
        }
    }
    return std::nullopt;
}

// ---- looking --------------------------------------------------------------------------------------------------------

std::optional<Removals::Look> Removals::look_at(std::uint32_t number, bool text) const {
    std::optional<Look> found;
    const Index::FileKey file = index_.file_of(number);
    std::size_t looks = 0;
    const auto look = [&](const std::string& link) {
        constexpr std::size_t max_holders_asked = 8;
        if (found || ++looks > max_holders_asked) return;
        Look look;
        // The holder may have let go meanwhile, and its number may mean another file.
        if (::statx(AT_FDCWD, link.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &look.stx) != 0) return;
        const bool same_dev = kernel_device({look.stx.stx_dev_major, look.stx.stx_dev_minor}) == file.dev;
        const bool same_numbers = same_dev && look.stx.stx_ino == file.ino;
        if (text || !same_numbers) {
            std::array<char, 2 * PATH_MAX> bytes;
            const ssize_t length = ::readlink(link.c_str(), bytes.data(), bytes.size());
            if (length < 0) return;
            look.text.assign(bytes.data(), static_cast<std::size_t>(length));
        }
        if (!same_numbers && inode_shown_by_fdinfo(link) != file.ino) {
            // overlayfs and btrfs show other numbers than their inodes have, and fdinfo is of descriptors only: the path has to do, once
            // the kernel says it is no more.
            std::string path;
            index_.paths_.append_text(index_.descriptions_[number].path, path);
            if (look.stx.stx_nlink != 0 ? look.text != path : look.text != path.append(deleted_mark)) return;
        }
        found = std::move(look);
    };
    index_.for_each_ref(
        number,
        [&](const Index::TableUser& user, std::int32_t fd, const Index::SlotView&) {
            const std::string pid = std::to_string(index_.processes_[user.process].pid);
            look("/proc/" + pid + (user.tid != 0 ? "/task/" + std::to_string(user.tid) : "") + "/fd/" + std::to_string(fd));
        },
        [&](const Index::Held& held) {
            const std::string base = "/proc/" + std::to_string(index_.processes_[held.process].pid) + "/";
            if (held.kind != RefKind::mem) {
                look(base + std::string(to_string(held.kind)));
                return;
            }
            std::array<char, 64> range{};
            std::snprintf(range.data(), range.size(), "map_files/%llx-%llx", static_cast<unsigned long long>(held.map_start),
                          static_cast<unsigned long long>(held.map_end));
            look(base + range.data());
        });
    return found;
}

std::optional<Removals::Look> Removals::look_at_file(std::uint32_t number, bool text) const {
    if (auto look = look_at(number, text)) return look;
    const Index::FileKey file = index_.file_of(number);
    std::size_t tried = 0;
    for (std::uint32_t other = index_.by_inode_.head(Index::file_hash(file.dev, file.ino)); other != Index::none && tried < max_looks;
         other = index_.descriptions_[other].next_by_inode) {
        if (other == number || index_.file_of(other) != file) continue;
        ++tried;
        if (auto look = look_at(other, false)) return look;
    }
    return std::nullopt;
}

std::string Removals::resolve(const GivenPath& place) {
    std::string path;
    if (!place.given_cut) {
        append_names(place.base, place.base_cut, path);
        if (path == "/") path.clear();
    }
    std::string_view rest = place.given;
    if (place.given_cut) rest.remove_prefix(std::min(rest.size(), rest.find('/')));
    while (!rest.empty()) {
        const std::string_view name = rest.substr(0, rest.find('/'));
        rest.remove_prefix(std::min(rest.size(), name.size() + 1));
        if (name.empty() || name == ".") continue;
        if (name == "..") path.erase(std::min(path.size(), path.rfind('/')));
        else path.append("/").append(name);
    }
    return path;
}

bool Removals::is_named(std::uint32_t number, std::string_view name) const {
    const Index::Description& description = index_.descriptions_[number];
    return index_.paths_.name(description.path.name) == name && (description.bits & Index::stat_known) != 0 && Index::had_name(index_.name_of(description));
}

// Index::none: there is none, in whatever directory.
std::uint32_t Removals::first_named(std::string_view name) const {
    std::uint32_t number = index_.by_name_.head(PathStore::hash_of(name));
    while (number != Index::none && !is_named(number, name)) number = index_.descriptions_[number].next_by_name;
    return number;
}

// They are in two lists, of the name and of the directory, and either may be long: both are walked until the shorter one ends.
std::vector<std::uint32_t> Removals::named_in(PathStore::Dir dir, std::string_view name) const {
    std::vector<std::uint32_t> by_name, in_dir;
    std::uint32_t of_name = index_.by_name_.head(PathStore::hash_of(name));
    std::uint32_t of_dir = index_.paths_.node(dir).first_description;
    for (;;) {
        if (of_name == Index::none || by_name.size() > max_looks) return by_name;
        if (of_dir == Index::none || in_dir.size() > max_looks) return in_dir;
        if (index_.descriptions_[of_name].path.dir == dir && is_named(of_name, name)) by_name.push_back(of_name);
        if (is_named(of_dir, name)) in_dir.push_back(of_dir);
        of_name = index_.descriptions_[of_name].next_by_name;
        of_dir = index_.descriptions_[of_dir].next_in_dir;
    }
}

std::vector<std::uint32_t> Removals::named(std::string_view path, Where where) const {
    std::string_view dir_text, name;
    if (!PathStore::split(path, dir_text, name) || name.empty()) return {};
    if (where == Where::at_path) {
        const PathStore::Dir dir = index_.paths_.find(dir_text.empty() ? "/" : dir_text);
        return dir != PathStore::none ? named_in(dir, name) : std::vector<std::uint32_t>{};
    }
    std::vector<std::pair<std::size_t, std::uint32_t>> order;
    std::unordered_map<PathStore::Dir, std::size_t> likeness;  // by directory: the name is the same
    std::string text;
    for (std::uint32_t number = first_named(name); number != Index::none && order.size() < max_named; number = index_.descriptions_[number].next_by_name) {
        if (!is_named(number, name)) continue;
        const PathStore::Path& other = index_.descriptions_[number].path;
        const auto [known, added] = likeness.try_emplace(other.dir, 0);
        if (added) {
            text.clear();
            index_.paths_.append_text(other, text);
            known->second = likeness_of(text, path);
        }
        order.emplace_back(known->second, number);
    }
    const std::size_t kept = std::min(order.size(), max_looks + 1);
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<std::uint32_t> found;
    for (std::size_t i = 0; i < kept; ++i) found.push_back(order[i].second);
    return found;
}

// ---- removals -------------------------------------------------------------------------------------------------------

void Removals::apply(const UnlinkedRecord& record, const EventSink& sink) {
    const fdspan_unlinked& raw = *record.raw;
    Seen seen;
    seen.at_ns = raw.header.boottime_ns;
    // The clock that stamps inodes goes in ticks, of 10 ms at most (kernel/time/timekeeping.c, ktime_get_coarse_real_ts64).
    const std::uint64_t began_ns = raw.began_ns != 0 ? raw.began_ns : seen.at_ns;
    seen.stamp_ns = began_ns - std::min(began_ns, settling_ns);
    seen.how = removal_of(raw.how);
    seen.pid = static_cast<pid_t>(raw.header.pid);
    seen.uid = raw.uid;
    seen.cgroup = raw.cgroup;
    seen.dev = raw.dev;
    seen.ino = raw.ino;
    seen.comm = comm_text(raw.comm);
    if (!record.exe.empty()) append_names(record.exe, (raw.exe_flags & FDSPAN_PLACE_BASE_CUT) != 0, seen.exe);
    if (record.places != 0) {
        const GivenPath& victim = record.place[record.places - 1];
        seen.path = resolve(victim);
        seen.whole = !victim.base_cut && !victim.given_cut;
        seen.name = PathStore::hash_of(last_name(seen.path));
    }
    if (raw.ino != 0) seen.allocated = raw.allocated != FDSPAN_ALLOCATED_BELOW ? std::optional<std::uint64_t>(raw.allocated) : allocated_below(seen);
    if (raw.how == FDSPAN_UNLINK_MOVED) {
        moved_known(raw, seen, sink);
        moved_ns_ = std::max(moved_ns_, seen.at_ns);
        return;
    }
    while (!recent_.empty() && (recent_.size() >= max_recent || recent_.front().at_ns + recent_ns < seen.at_ns)) {
        if (!deferred_.empty() && deferred_.front() == forgotten_) deferred_.pop_front();
        recent_.pop_front();
        ++forgotten_;
    }
    recent_.push_back(seen);

    if (raw.ino != 0) {
        apply_known(record, seen, sink);
        return;
    }
    Seen& kept = recent_.back();
    if (raw.how != FDSPAN_UNLINK_EXCHANGE && !find_at_path(kept, false, sink) && !find_resolved(kept, sink)) {
        deferred_.push_back(forgotten_ + recent_.size() - 1);
    }
    if (record.places < 2) return;
    moved(record.place[0], kept, raw.how == FDSPAN_UNLINK_EXCHANGE);
    moved_ns_ = std::max(moved_ns_, kept.at_ns);
}

bool Removals::find_at_path(Seen& seen, bool final, const EventSink& sink) {
    if (seen.name == 0 || !seen.whole || seen.took) return seen.took.has_value();
    std::size_t looks = 0;
    for (const std::uint32_t number : named(seen.path, Where::at_path)) {
        if (++looks > max_looks) return false;
        if (judge(number, seen, final, sink) == Verdict::found) return true;
    }
    return false;
}

// The path once symbolic links in it are followed. Only what the caller's own look-up left in the kernel's cache is used, so that no file
// system is asked and none can block (openat2(2), RESOLVE_CACHED, since 5.12).
std::optional<std::string> Removals::without_links(std::string_view path) {
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_CACHED;
    const std::string dir(path, 0, std::max<std::size_t>(path.rfind('/'), 1));
    const UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, dir.c_str(), &how, sizeof how)));
    if (!fd.valid()) return std::nullopt;
    std::array<char, PATH_MAX> text{};
    const ssize_t length = ::readlink(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), text.data(), text.size());
    if (length <= 0) return std::nullopt;
    std::string real(text.data(), static_cast<std::size_t>(length));
    if (real == "/") real.clear();
    return real.append("/").append(last_name(path));
}

bool Removals::find_resolved(Seen& seen, const EventSink& sink) {
    if (!seen.whole || seen.name == 0 || first_named(last_name(seen.path)) == Index::none) return false;
    auto real = without_links(seen.path);
    seen.real = real.has_value();
    if (!real || *real == seen.path) return false;
    seen.path = std::move(*real);
    return find_at_path(seen, false, sink);
}

void Removals::settle(std::uint64_t up_to_ns, const EventSink& sink) {
    std::deque<std::uint64_t> waiting, due;
    for (const std::uint64_t number : deferred_) (recent_[number - forgotten_].at_ns > up_to_ns ? waiting : due).push_back(number);
    deferred_ = std::move(waiting);
    const auto seen_of = [this](std::uint64_t number) -> Seen& { return recent_[number - forgotten_]; };
    // A holder of that very path may have become known since.
    std::erase_if(due, [&](std::uint64_t number) { return find_at_path(seen_of(number), true, sink); });
    std::erase_if(lost_, [&](const Lost& lost) {
        if (lost.seen_ns > up_to_ns) return false;
        const std::uint64_t since_ns = up_to_ns - lost.seen_ns;
        return tell(lost, since_ns >= patience_ns ? Stage::last : since_ns >= call_ns ? Stage::doubtful : Stage::settled, sink);
    });
    std::unordered_map<std::uint32_t, Verdict> examined;
    for (const std::uint64_t number : due) {
        Seen& seen = seen_of(number);
        if (seen.took) continue;
        Verdict verdict = Verdict::other;
        std::size_t looks = 0;
        std::vector<std::uint32_t> candidates = seen.name != 0 ? named(seen.path, Where::anywhere) : std::vector<std::uint32_t>{};
        // A file that lost the name it was opened by may lose its last one under any.
        for (auto gone = index_.gone_.begin(); gone != index_.gone_.end() && candidates.size() <= max_looks; ++gone) candidates.push_back(*gone);
        for (const std::uint32_t candidate : candidates) {
            if (seen.took) break;
            if (++looks > max_looks) {
                verdict = Verdict::unknown;
                break;
            }
            const auto [place, added] = examined.try_emplace(candidate, Verdict::other);
            if (added) place->second = examine(candidate, up_to_ns, sink);
            if (place->second == Verdict::unknown) verdict = Verdict::unknown;
        }
        if (seen.took) continue;
        if (verdict == Verdict::unknown || seen.name == 0) wish_ = Wish::soon;
        else if (wish_ == Wish::none) wish_ = Wish::whenever;
        // Mapped, say: whether another link is left to it only a snapshot of everything shows.
        paths_are_stale_ |= verdict == Verdict::unknown;
    }
}

void Removals::lost(const Lost& lost, const EventSink& sink) {
    if (tell(lost, lost_.size() == max_lost ? Stage::last : Stage::sure, sink)) return;
    lost_.push_back(lost);
}

// Who may have taken its name, or its last one. `anywhere`: also by a link in another directory.
Removals::Suspects Removals::suspects(const Lost& lost, std::string_view path, const std::optional<Look>& look, bool anywhere) {
    Suspects all;
    const Index::FileKey file = index_.file_of(lost.description);
    const bool directory = index_.type_of(index_.descriptions_[lost.description]) == FileType::dir;
    const bool gone_before = lost.nlink == 0 && index_.name_of(index_.descriptions_[lost.description]) == NameState::gone;
    // Of the very path; by a path that may lead there, or by another link, which most likely was in the same directory; by any link.
    enum Nearness : int { same_path, may_lead_there, linked_anywhere, none };
    const auto nearness_of = [&](const Seen* seen) {
        if (seen->how == Removal::unknown || (seen->how != Removal::rename && directory != (seen->how == Removal::rmdir))) return none;
        if (seen->brought == file) return none;
        if (seen->name == 0) return may_lead_there;
        if (gone_before && (seen->took || (seen->whole && index_.paths_.equals(index_.descriptions_[lost.description].path, seen->path)))) return none;
        if (!gone_before && seen->whole && seen->path == path) return same_path;
        if (!gone_before && !seen->real && last_name(seen->path) == last_name(path)) return may_lead_there;
        if (!lost.linked || lost.nlink != 0) return none;
        return dir_of(seen->path) == dir_of(path) ? may_lead_there : linked_anywhere;
    };
    const auto nearest = [&](std::uint64_t earliest_ns, std::uint64_t latest_ns, Nearness farthest, bool of_moment) {
        Nearness best = none;
        for (Seen* const seen : seen_between(std::max(earliest_ns, lost.named_ns), latest_ns, file)) {
            // Without a path only the moment speaks against it.
            if (seen->name == 0 && !of_moment) continue;
            const Nearness nearness = nearness_of(seen);
            if (nearness > farthest || nearness > best) continue;
            if (nearness < best) all.seen.clear();
            best = nearness;
            all.seen.push_back(seen);
        }
        // The last of those that took this very name: what it was of before was another file.
        if (best == same_path) all.seen.assign(1, *std::max_element(all.seen.begin(), all.seen.end(), [](auto* a, auto* b) { return a->at_ns < b->at_ns; }));
        all.of_path = best == same_path;
        return !all.seen.empty();
    };
    // A look at another moment than the snapshot's, or none: the inode's stamp says nothing.
    const bool looked = look && (look->stx.stx_nlink == lost.nlink || directory);
    const std::uint64_t changed = looked ? changed_ns(look->stx) : 0;
    const bool stamped = changed >= lost.named_ns && changed <= lost.seen_ns;
    if (stamped && nearest(changed - clock_tolerance_ns, changed + clock_tolerance_ns, anywhere ? linked_anywhere : may_lead_there, true)) return all;
    // The stamp of a file that may have had another name may be of its removal. Else it was changed since, by who holds it.
    const std::uint64_t latest = looked ? std::min(lost.seen_ns, changed) : lost.seen_ns;
    if (!stamped || !lost.linked) nearest(std::max(lost.named_ns, lossy_until_ns_), latest + clock_tolerance_ns, may_lead_there, false);
    return all;
}

// False: who did it may show yet.
bool Removals::tell(const Lost& seen, Stage stage, const EventSink& sink) {
    const Index::Description& description = index_.descriptions_[seen.description];
    if ((description.bits & Index::in_use) == 0 || description.id != seen.id) return true;
    if (seen.nlink == 0 && index_.removal_is_told(seen.description, 0)) return true;
    const Index::FileKey file = index_.file_of(seen.description);
    const auto look = look_at_file(seen.description, true);
    Lost lost = seen;
    // A snapshot reads the name and the links of a file one after the other: it may have lost the last one in between. If it did since,
    // that is another removal, to be told after this one.
    if (look && look->stx.stx_nlink == 0 && lost.nlink != 0) {
        if (changed_ns(look->stx) <= lost.seen_ns + clock_tolerance_ns) lost.nlink = 0;
        else wish_ = Wish::soon;
    }
    if (index_.removal_is_told(lost.description, lost.nlink)) return true;
    // Where the name was when it went.
    std::string path;
    if (look && look->text.ends_with(deleted_mark)) path.assign(look->text, 0, look->text.size() - deleted_mark.size());
    else index_.paths_.append_text(description.path, path);
    RemovalNote note;
    if (const auto known = find(device_number(file.dev), file.ino, lost.named_ns, lost.seen_ns)) {
        note = *known;
    } else {
        const Suspects by = suspects(lost, path, look, stage == Stage::last);
        const bool sure = by.seen.size() == 1 && by.seen.front()->whole && by.seen.front()->path == path && !lost.linked;
        switch (stage) {
            case Stage::sure: if (!sure) return false; break;
            case Stage::settled: if (!by.of_path) return false; break;
            case Stage::doubtful: if (by.seen.empty()) return false; break;
            case Stage::last: break;
        }
        note = note_of(by, file, Interval::bounded(std::min(lost.named_ns, lost.seen_ns), lost.seen_ns));
    }
    rename(lost.description, path);
    if (lost.nlink != 0) {
        index_.note_unlinked(lost.description, lost.nlink, note, sink);
        return true;
    }
    // The iterators tell what the inode counts, and one of overlayfs counts nothing.
    note.allocated = look ? std::uint64_t{look->stx.stx_blocks} * 512 : lost.allocated;
    index_.note_deleted(device_number(file.dev), file.ino, note, sink);
    return true;
}

// Did this removal take a name of that file, which is of the very path that was removed?
Removals::Verdict Removals::judge(std::uint32_t number, Seen& seen, bool final, const EventSink& sink) {
    const Index::Description& description = index_.descriptions_[number];
    const bool directory = index_.type_of(description) == FileType::dir;
    if (seen.how != Removal::rename && directory != (seen.how == Removal::rmdir)) return Verdict::other;
    // A snapshot may have shown it without this name and with a link, which is waiting to be told.
    const bool known_gone = std::any_of(lost_.begin(), lost_.end(), [number](const Lost& lost) { return lost.description == number && lost.nlink != 0; });
    const std::uint32_t known_nlink = std::max(index_.extra_of(number).nlink, known_gone ? 2U : 0U);
    const auto look = look_at_file(number, true);
    if (!look) return Verdict::unknown;
    const Index::FileKey file = index_.file_of(number);
    std::string unlinked;
    index_.paths_.append_text(description.path, unlinked);
    unlinked += deleted_mark;
    const bool named = index_.name_of(description) == NameState::named;
    const RemovalNote note = note_of(seen);
    // A directory has one name, though a file system may show it with a link for ever (overlayfs: fs/overlayfs/inode.c, ovl_getattr).
    if (look->stx.stx_nlink == 0 || (directory && look->text == unlinked)) {
        Lost last{number, description.id, seen.at_ns, seen.at_ns, 0, std::uint64_t{look->stx.stx_blocks} * 512, !directory && known_nlink > 1};
        if (!last.linked) {
            RemovalNote deleted = note;
            deleted.allocated = last.allocated;
            if (!index_.note_deleted(device_number(file.dev), file.ino, deleted, sink)) return Verdict::other;
            seen.took = file;
            return Verdict::found;
        }
        // It had another link: that went before, or later, by a removal whose news may be to come.
        if (!final || !named) return Verdict::other;
        seen.took = file;
        const std::uint64_t changed = changed_ns(look->stx);
        std::vector<Seen*> others = seen_between(seen.at_ns + 1, changed + clock_tolerance_ns, file);
        std::erase_if(others, [&](const Seen* other) { return other->took || other->how == Removal::rmdir || dir_of(other->path) != dir_of(seen.path); });
        if (others.empty() && changed <= seen.at_ns) {
            RemovalNote deleted = note;
            deleted.allocated = last.allocated;
            (void)index_.note_deleted(device_number(file.dev), file.ino, deleted, sink);
            return Verdict::found;
        }
        index_.note_unlinked(number, known_nlink - 1, note, sink);
        last.seen_ns = std::max(changed, seen.at_ns) + settling_ns;
        if (!tell(last, Stage::settled, sink)) lost_.push_back(last);
        return Verdict::found;
    }
    if (directory || !named || (look->text != unlinked && !procfs::is_silly_name(look->text))) return Verdict::other;
    seen.took = file;
    index_.note_unlinked(number, look->stx.stx_nlink, note, sink);
    return Verdict::found;
}

// Has this file lost a name, so long ago that every removal of that time is known?
Removals::Verdict Removals::examine(std::uint32_t number, std::uint64_t known_until_ns, const EventSink& sink) {
    const Index::Description& description = index_.descriptions_[number];
    if ((description.bits & Index::in_use) == 0 || !Index::had_name(index_.name_of(description))) return Verdict::other;
    const bool directory = index_.type_of(description) == FileType::dir;
    const std::uint32_t known_nlink = index_.extra_of(number).nlink;
    auto look = look_at_file(number, directory);
    if (!look) return Verdict::unknown;
    std::string unlinked;
    index_.paths_.append_text(description.path, unlinked);
    unlinked += deleted_mark;
    const bool was_gone = index_.name_of(description) == NameState::gone;
    Lost lost{number, description.id, 0, known_until_ns + settling_ns, look->stx.stx_nlink, std::uint64_t{look->stx.stx_blocks} * 512, !directory && (was_gone || known_nlink > 1)};
    if (directory) {
        if (look->stx.stx_nlink != 0 && look->text != unlinked) return Verdict::other;
        lost.nlink = 0;
    } else if (lost.nlink != 0) {
        if (was_gone || lost.nlink >= known_nlink) return Verdict::other;
        look = look_at(number, true);
        if (!look || look->text != unlinked) return Verdict::other;
    }
    if (changed_ns(look->stx) > known_until_ns) return Verdict::other;
    lost.named_ns = index_.times_.get(description.opened).earliest_ns;
    // It had that many links still when a snapshot last read one of its holders.
    const auto seen_then = [&](std::uint32_t process) { lost.named_ns = std::max(lost.named_ns, index_.processes_[process].synced_ns); };
    index_.for_each_ref(
        number, [&](const Index::TableUser& user, std::int32_t, const Index::SlotView&) { seen_then(user.process); },
        [&](const Index::Held& held) { seen_then(held.process); });
    if (tell(lost, Stage::settled, sink)) return Verdict::found;
    const bool waits = std::any_of(lost_.begin(), lost_.end(), [number](const Lost& other) { return other.description == number; });
    if (!waits && lost_.size() < max_lost) lost_.push_back(lost);
    return Verdict::unknown;
}

// The kernel side says which file it was, and that somebody may hold it.
void Removals::apply_known(const UnlinkedRecord& record, const Seen& seen, const EventSink& sink) {
    const fdspan_unlinked& raw = *record.raw;
    const Index::FileKey file{raw.dev, raw.ino};
    std::uint32_t held = Index::none;
    bool known = false;
    std::vector<std::uint32_t> descriptions;
    for (std::uint32_t number = index_.by_inode_.head(Index::file_hash(file.dev, file.ino)); number != Index::none;
         number = index_.descriptions_[number].next_by_inode) {
        if (index_.file_of(number) != file || !Index::had_name(index_.name_of(index_.descriptions_[number]))) continue;
        known = true;
        descriptions.push_back(number);
        if (index_.descriptions_[number].first_ref != Index::none) held = number;
    }
    if (raw.nlink != 0 && !S_ISDIR(raw.mode)) {
        // Run or mapped by somebody new, say.
        paths_are_stale_ |= !known;
        const Unheld unheld{device_number(raw.dev), raw.ino, raw.nlink, seen};
        if (!apply_unlinked(unheld, unheld_.size() == max_unheld, sink)) {
            unheld_.push_back(unheld);
            paths_are_stale_ = true;
        }
        return;
    }
    if (held == Index::none) {
        // The kernel counts more references than the removal needs: somebody has it.
        wish_ = Wish::soon;
        if (known && unheld_.size() < max_unheld) unheld_.push_back({device_number(raw.dev), raw.ino, 0, seen});
        return;
    }
    RemovalNote note = note_of(seen);
    const auto labelled = look_at(held, true);
    const auto look = labelled ? labelled : look_at_file(held, false);
    note.allocated = look ? std::optional<std::uint64_t>(look->stx.stx_blocks * 512) : seen.allocated;
    if (labelled) relabel_deleted(descriptions, held, labelled->text);
    index_.note_deleted(device_number(raw.dev), raw.ino, note, sink);
}

// A directory above it may have been moved meanwhile: the magic link has the path as it was when it was deleted.
void Removals::relabel_deleted(const std::vector<std::uint32_t>& descriptions, std::uint32_t held, std::string_view text) {
    const PathStore::Path before = index_.descriptions_[held].path;
    // The hook comes a little before the kernel takes the name out.
    if (index_.paths_.equals(before, text)) return;
    if (text.ends_with(deleted_mark)) text.remove_suffix(deleted_mark.size());
    if (index_.paths_.equals(before, text)) return;
    std::string old;
    index_.paths_.append_text(before, old);
    for (const std::uint32_t number : descriptions) {
        if (index_.paths_.equals(index_.descriptions_[number].path, old)) index_.set_description_path(number, index_.paths_.intern(text), false);
    }
}

// A name is gone and a link is left. False: nobody known can be asked, which a snapshot of everything may change.
bool Removals::apply_unlinked(const Unheld& unheld, bool all_seen, const EventSink& sink) {
    const Index::FileKey file{kernel_device(unheld.dev), unheld.ino};
    for (std::uint32_t number = index_.by_inode_.head(Index::file_hash(file.dev, file.ino)); number != Index::none;
         number = index_.descriptions_[number].next_by_inode) {
        const Index::Description& description = index_.descriptions_[number];
        if (index_.file_of(number) != file || index_.name_of(description) != NameState::named) continue;
        if (index_.paths_.name(description.path.name) != last_name(unheld.seen.path)) continue;
        // Which file and which name the kernel has said already; only a link of that name in another directory may be meant instead.
        const auto look = look_at(number, true);
        std::string unlinked;
        index_.paths_.append_text(description.path, unlinked);
        if (!look || look->text != unlinked.append(deleted_mark)) {
            if (!all_seen) return false;
            if (look) continue;
        }
        index_.note_unlinked(number, unheld.nlink, note_of(unheld.seen), sink);
        return true;
    }
    return true;
}

void Removals::after_look(Looked looked, std::uint64_t began_ns, const EventSink& sink) {
    std::vector<Unheld> unheld;
    unheld.swap(unheld_);
    for (Unheld& one : unheld) {
        // Removed while the look was under way: its holder may have been passed by already.
        const bool too_late = one.seen.at_ns >= began_ns;
        if (too_late || (one.nlink != 0 && looked == Looked::at_deleted)) {
            if (one.nlink == 0) wish_ = Wish::soon;
            else paths_are_stale_ = true;
            unheld_.push_back(std::move(one));
            continue;
        }
        if (one.nlink != 0) {
            (void)apply_unlinked(one, true, sink);
            continue;
        }
        RemovalNote note = note_of(one.seen);
        note.allocated = one.seen.allocated;
        index_.note_deleted(one.dev, one.ino, note, sink);
    }
}

void Removals::relabel_hidden(const Snapshot& snapshot) {
    for (const Reference& row : snapshot.hidden) {
        const std::uint32_t number = index_.find_description(row.description_id);
        if (number == Index::none || index_.descriptions_[number].first_ref != Index::none) continue;
        rename(number, snapshot.path(row));
    }
}

void Removals::before_close(const Record& record, const EventSink& sink) {
    const auto* const closed = std::get_if<ClosedRecord>(&record);
    const auto* const released = std::get_if<ReleasedRecord>(&record);
    const fdspan_closed_unlinked* const raw = closed != nullptr ? closed->unlinked : released != nullptr ? released->unlinked : nullptr;
    if (raw == nullptr) return;
    const std::uint32_t number = index_.find_description(raw->closed.description_id);
    if (number == Index::none) return;
    const Index::Description& description = index_.descriptions_[number];
    const Interval opened = index_.times_.get(description.opened);
    const bool same = raw->closed.description_latest_ns == 0 || (opened.earliest_ns <= raw->closed.description_latest_ns &&
                                                                 raw->closed.description_earliest_ns <= opened.latest_ns);
    if (!same || (description.bits & Index::stat_known) == 0 || !Index::had_name(index_.name_of(description))) return;
    const bool linked = index_.name_of(description) == NameState::gone || index_.extra_of(number).nlink > 1;
    (void)tell({number, description.id, opened.earliest_ns, raw->closed.header.boottime_ns, 0, raw->allocated, linked}, Stage::last, sink);
}

// ---- names that change ----------------------------------------------------------------------------------------------

void Removals::rename(std::uint32_t number, std::string_view path) {
    if (!index_.paths_.equals(index_.descriptions_[number].path, path)) index_.set_description_path(number, index_.paths_.intern(path), false);
}

bool Removals::relabel(std::uint32_t number) {
    const auto look = look_at(number, true);
    if (!look) return false;
    std::string_view text = look->text;
    if (look->stx.stx_nlink == 0 && text.ends_with(deleted_mark)) text.remove_suffix(deleted_mark.size());
    rename(number, text);
    return true;
}

// What was at a path is at another one. Its magic link is a step ahead if it was moved or removed again meanwhile, and the record of that
// speaks of the path in between.
void Removals::relabel_moved(std::uint32_t number, const std::string& to) {
    const auto look = look_at(number, true);
    if (look && look->text == to) {
        index_.set_description_path(number, index_.paths_.intern(to), false);
        return;
    }
    const auto real = without_links(to);
    if (real) index_.set_description_path(number, index_.paths_.intern(*real), false);
    else (void)relabel(number);
}

void Removals::moved_known(const fdspan_unlinked& raw, Seen& seen, const EventSink& sink) {
    const Index::FileKey file{raw.dev, raw.ino};
    std::vector<std::uint32_t> affected;
    for (std::uint32_t number = index_.by_inode_.head(Index::file_hash(file.dev, file.ino)); number != Index::none;
         number = index_.descriptions_[number].next_by_inode) {
        if (index_.file_of(number) != file) continue;
        if (affected.size() == max_relabelled) {
            paths_are_stale_ = true;
            break;
        }
        affected.push_back(number);
    }
    for (const std::uint32_t number : affected) {
        const auto look = look_at(number, true);
        const Index::Description& description = index_.descriptions_[number];
        if (look && procfs::is_silly_name(look->text) && !procfs::is_silly_name(index_.paths_.name(description.path.name))) {
            // An unlink, really, that a client of NFS makes of a file in use.
            seen.how = Removal::unlink;
            index_.note_unlinked(number, look->stx.stx_nlink, note_of(seen), sink);
        }
        (void)relabel(number);
    }
    // What is below it is not known by its inode.
    if (S_ISDIR(raw.mode)) paths_are_stale_ = true;
}

// From there to where `seen` says; with an exchange also back.
void Removals::moved(const GivenPath& place, Seen& seen, bool exchange) {
    const std::string from = resolve(place), &to = seen.path;
    const bool whole = !place.base_cut && !place.given_cut;
    const auto at = [this](const std::string& path, bool exactly) {
        auto found = named(path, exactly ? Where::at_path : Where::anywhere);
        if (found.size() > max_looks) {
            found.resize(max_looks);
            paths_are_stale_ = true;
        }
        return found;
    };
    const std::vector<std::uint32_t> there = at(from, whole);
    const std::vector<std::uint32_t> back = exchange ? at(to, seen.whole) : std::vector<std::uint32_t>{};
    const bool exact = whole && seen.whole;
    if (exact && !there.empty()) seen.brought = index_.file_of(there.front());
    for (const std::uint32_t number : there) exact ? relabel_moved(number, to) : (void)relabel(number);
    for (const std::uint32_t number : back) exact ? relabel_moved(number, from) : (void)relabel(number);
    if (whole) moved_below(from, exact ? &to : nullptr);
    if (exchange && seen.whole) moved_below(to, exact ? &from : nullptr);
}

void Removals::moved_below(const std::string& from, const std::string* to) {
    std::vector<std::uint32_t> affected;
    const PathStore::Dir dir = index_.paths_.find(from);
    if (dir <= PathStore::cut) return;
    for (PathStore::Dir at = dir;;) {
        for (std::uint32_t number = index_.paths_.node(at).first_description; number != Index::none;
             number = index_.descriptions_[number].next_in_dir) {
            affected.push_back(number);
        }
        if (affected.size() > max_relabelled) {
            paths_are_stale_ = true;
            affected.resize(max_relabelled);
            break;
        }
        if (index_.paths_.node(at).first_child != PathStore::none) {
            at = index_.paths_.node(at).first_child;
            continue;
        }
        while (at != dir && index_.paths_.node(at).next_sibling == PathStore::none) at = index_.paths_.node(at).parent;
        if (at == dir) break;
        at = index_.paths_.node(at).next_sibling;
    }
    for (const std::uint32_t number : affected) {
        if (relabel(number)) continue;
        if (to == nullptr) {
            paths_are_stale_ = true;
            continue;
        }
        std::string path;
        index_.paths_.append_text(index_.descriptions_[number].path, path);
        if (path.starts_with(from + "/")) index_.set_description_path(number, index_.paths_.intern(path.replace(0, from.size(), *to)), false);
    }
}

}  // namespace fdspan
