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

#include "base/clock.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan {
namespace {

constexpr std::string_view deleted_mark = " (deleted)";
constexpr std::uint64_t record_delay_ns = 10'000'000;  // a removal is stamped a little after it was done
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

std::optional<RemovalNote> Removals::find(DeviceNumber dev, std::uint64_t ino, std::string_view path, std::uint64_t from_ns,
                                          std::uint64_t to_ns) const {
    const std::string_view name = last_name(path);
    const std::uint64_t hash = PathStore::hash_of(name);
    const Seen* likely = nullptr;  // of that name: whose path is most alike, and of these the latest
    std::size_t likeness = 0;
    const Seen* nameless = nullptr;
    bool several = false;
    for (auto seen = recent_.rbegin(); seen != recent_.rend() && seen->at_ns >= from_ns; ++seen) {
        if (seen->at_ns > to_ns + record_delay_ns) continue;
        if (seen->ino != 0) {
            if (seen->ino == ino && seen->dev == kernel_device(dev)) return note_of(*seen);
        } else if (seen->name == 0) {
            several |= nameless != nullptr;
            nameless = &*seen;
        } else if (seen->name == hash && last_name(seen->path) == name) {
            if (seen->whole && seen->path == path) return note_of(*seen);
            const std::size_t alike = likeness_of(seen->path, path);
            if (alike > likeness) likely = &*seen;
            likeness = std::max(likeness, alike);
        }
    }
    if (likely == nullptr && !several) likely = nameless;
    if (likely == nullptr) return std::nullopt;
    return note_of(*likely);
}

bool Removals::find_exactly(std::string_view path, std::uint64_t from_ns) const {
    return std::any_of(recent_.rbegin(), recent_.rend(),
                       [&](const Seen& seen) { return seen.at_ns >= from_ns && seen.whole && seen.path == path; });
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

std::vector<std::uint32_t> Removals::named(std::string_view path, Where where) const {
    std::vector<std::uint32_t> those, others;
    std::string_view dir_text, name;
    if (!PathStore::split(path, dir_text, name) || name.empty()) return those;
    const PathStore::Dir dir = where == Where::at_path ? index_.paths_.find(dir_text.empty() ? "/" : dir_text) : PathStore::none;
    if (where == Where::at_path && dir == PathStore::none) return those;
    for (std::uint32_t number = index_.by_name_.head(PathStore::hash_of(name)); number != Index::none;
         number = index_.descriptions_[number].next_by_name) {
        const Index::Description& description = index_.descriptions_[number];
        if (index_.paths_.name(description.path.name) != name || (description.bits & Index::stat_known) == 0) continue;
        if (!Index::had_name(index_.name_of(description))) continue;
        if (where == Where::anywhere ? others.size() < max_named : description.path.dir == dir) {
            (where == Where::anywhere ? others : those).push_back(number);
        }
    }
    if (others.size() > 1) {
        std::vector<std::pair<std::size_t, std::uint32_t>> order;
        std::string text;
        for (const std::uint32_t number : others) {
            text.clear();
            index_.paths_.append_text(index_.descriptions_[number].path, text);
            order.emplace_back(likeness_of(text, path), number);
        }
        std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
        for (std::size_t i = 0; i < others.size(); ++i) others[i] = order[i].second;
    }
    return where == Where::anywhere ? others : those;
}

// ---- removals -------------------------------------------------------------------------------------------------------

void Removals::apply(const UnlinkedRecord& record, const EventSink& sink) {
    const fdspan_unlinked& raw = *record.raw;
    Seen seen;
    seen.at_ns = raw.header.boottime_ns;
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
    if (raw.how == FDSPAN_UNLINK_MOVED) {
        moved_known(raw);
        return;
    }
    while (!recent_.empty() && (recent_.size() >= max_recent || recent_.front().at_ns + recent_ns < seen.at_ns)) recent_.pop_front();
    recent_.push_back(seen);

    if (raw.ino != 0) {
        apply_known(record, seen, sink);
        return;
    }
    if (raw.how != FDSPAN_UNLINK_EXCHANGE && !find_at_path(seen, sink) && !find_resolved(seen, sink)) {
        if (deferred_.size() == max_deferred) deferred_.pop_front();
        deferred_.push_back(seen);
    }
    if (record.places < 2) return;
    moved(resolve(record.place[0]), !record.place[0].base_cut && !record.place[0].given_cut);
    if (raw.how == FDSPAN_UNLINK_EXCHANGE) moved(seen.path, seen.whole);
}

bool Removals::find_at_path(const Seen& seen, const EventSink& sink) {
    if (seen.name == 0 || !seen.whole) return false;
    std::size_t looks = 0;
    for (const std::uint32_t number : named(seen.path, Where::at_path)) {
        if (++looks > max_looks) return false;
        if (judge(number, seen, true, sink) == Verdict::found) return true;
    }
    return false;
}

// The same, once symbolic links in the path are followed. Only what the caller's own look-up left in the kernel's cache is used, so that
// no file system is asked and none can block (openat2(2), RESOLVE_CACHED, since 5.12).
bool Removals::find_resolved(Seen& seen, const EventSink& sink) {
    if (!seen.whole || named(seen.path, Where::anywhere).empty()) return false;
    open_how how{};
    how.flags = O_PATH | O_DIRECTORY | O_CLOEXEC;
    how.resolve = RESOLVE_CACHED;
    const std::string dir(seen.path, 0, std::max<std::size_t>(seen.path.rfind('/'), 1));
    const UniqueFd fd(static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, dir.c_str(), &how, sizeof how)));
    if (!fd.valid()) return false;
    std::array<char, PATH_MAX> text{};
    const ssize_t length = ::readlink(("/proc/self/fd/" + std::to_string(fd.get())).c_str(), text.data(), text.size());
    if (length <= 0) return false;
    std::string real(text.data(), static_cast<std::size_t>(length));
    if (real == dir) return false;
    if (real == "/") real.clear();
    seen.path = real.append("/").append(last_name(seen.path));
    recent_.back().path = seen.path;
    return find_at_path(seen, sink);
}

void Removals::settle(const EventSink& sink) {
    std::deque<Seen> deferred;
    deferred.swap(deferred_);
    // A file that lost the name it was opened by may lose its last one under any: most likely in the same directory.
    std::erase_if(deferred, [&](const Seen& seen) {
        const std::string_view dir = dir_of(seen.path);
        return !index_.gone_.empty() && claim_best(gone_in(dir), seen, sink) == Verdict::found;
    });
    for (const Seen& seen : deferred) {
        Verdict verdict = claim_best(named(seen.path, Where::anywhere), seen, sink);
        if (verdict != Verdict::found && !index_.gone_.empty()) verdict = std::max(verdict, claim_best(gone_in({}), seen, sink));
        if (verdict == Verdict::found) continue;
        if (verdict == Verdict::unknown || seen.name == 0) wish_ = Wish::soon;
        else if (wish_ == Wish::none) wish_ = Wish::whenever;
        // Mapped, say: whether another link is left to it only a snapshot of everything shows.
        paths_are_stale_ |= verdict == Verdict::unknown;
    }
}

std::vector<std::uint32_t> Removals::gone_in(std::string_view dir) const {
    std::vector<std::uint32_t> found;
    std::string path;
    for (const std::uint32_t number : index_.gone_) {
        path.clear();
        index_.paths_.append_text(index_.descriptions_[number].path, path);
        if (dir.empty() || dir_of(path) == dir) found.push_back(number);
    }
    return found;
}

// Of these, the one that this removal took a name of: the latest that was changed before it was stamped.
Removals::Verdict Removals::claim_best(const std::vector<std::uint32_t>& candidates, const Seen& seen, const EventSink& sink) {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> order;
    Verdict verdict = Verdict::other;
    std::size_t looks = 0;
    for (const std::uint32_t number : candidates) {
        if (++looks > max_looks) {
            verdict = Verdict::unknown;
            break;
        }
        const auto look = look_at_file(number, false);
        if (!look) verdict = Verdict::unknown;
        // What was changed later was changed by another removal, whose news has not come yet.
        const std::uint64_t at_ns = look ? changed_ns(look->stx) : 0;
        if (look && at_ns <= seen.at_ns + clock_tolerance_ns) order.emplace_back(at_ns, number);
    }
    std::sort(order.rbegin(), order.rend());
    for (const auto& [at_ns, number] : order) {
        if (judge(number, seen, false, sink) == Verdict::found) return Verdict::found;
    }
    return verdict;
}

// Did this removal take a name of that file? `at_path`: it is of the very path that was removed.
Removals::Verdict Removals::judge(std::uint32_t number, const Seen& seen, bool at_path, const EventSink& sink) {
    const Index::Description& description = index_.descriptions_[number];
    const bool directory = index_.type_of(description) == FileType::dir;
    if (seen.how != Removal::rename && directory != (seen.how == Removal::rmdir)) return Verdict::other;
    const std::uint32_t known_nlink = index_.extra_of(number).nlink;
    const auto look = look_at_file(number, at_path || directory);
    if (!look) return Verdict::unknown;
    const Index::FileKey file = index_.file_of(number);
    std::string unlinked;
    index_.paths_.append_text(description.path, unlinked);
    unlinked += deleted_mark;
    // A directory has one name, though a file system may show it with a link for ever (overlayfs: fs/overlayfs/inode.c, ovl_getattr).
    const bool deleted = look->stx.stx_nlink == 0 || (directory && look->text == unlinked);
    RemovalNote note = note_of(seen);
    // It had another link then: changed since, that went later, by a removal whose news is still to come.
    const bool later = !directory && known_nlink > 1 && changed_ns(look->stx) > seen.at_ns + clock_tolerance_ns;
    if (deleted && at_path && later) {
        if (index_.name_of(description) != NameState::named) return Verdict::other;
        index_.note_unlinked(number, known_nlink - 1, note, sink);
        return Verdict::found;
    }
    if (deleted) {
        note.allocated = look->stx.stx_blocks * 512;
        return index_.note_deleted(device_number(file.dev), file.ino, note, sink) ? Verdict::found : Verdict::other;
    }
    if (directory || index_.name_of(description) != NameState::named) return Verdict::other;
    if (!at_path && look->stx.stx_nlink >= known_nlink) return Verdict::other;
    const auto labelled = at_path ? look : look_at(number, true);
    if (!labelled || labelled->text != unlinked) return Verdict::other;
    index_.note_unlinked(number, look->stx.stx_nlink, note, sink);
    return Verdict::found;
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
        const Unheld unheld{device_number(raw.dev), raw.ino, raw.nlink, raw.allocated, seen};
        if (!apply_unlinked(unheld, unheld_.size() == max_unheld, sink)) {
            unheld_.push_back(unheld);
            paths_are_stale_ = true;
        }
        return;
    }
    if (held == Index::none) {
        // The kernel counts more references than the removal needs: somebody has it.
        wish_ = Wish::soon;
        if (known && unheld_.size() < max_unheld) unheld_.push_back({device_number(raw.dev), raw.ino, 0, raw.allocated, seen});
        return;
    }
    RemovalNote note = note_of(seen);
    const auto labelled = look_at(held, true);
    const auto look = labelled ? labelled : look_at_file(held, false);
    note.allocated = look ? look->stx.stx_blocks * 512 : raw.allocated;
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
        switch (judge(number, unheld.seen, true, sink)) {
            case Verdict::found: return true;
            case Verdict::other: continue;
            case Verdict::unknown: break;
        }
        // The kernel has said already which file and which name.
        if (all_seen) index_.note_unlinked(number, unheld.nlink, note_of(unheld.seen), sink);
        return all_seen;
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
        note.allocated = one.allocated;
        index_.note_deleted(one.dev, one.ino, note, sink);
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
    std::string path;
    index_.paths_.append_text(description.path, path);
    RemovalNote note;
    const std::uint64_t closed_ns = raw->closed.header.boottime_ns;
    note.when = Interval::bounded(std::min(opened.earliest_ns, closed_ns), closed_ns);
    const Index::FileKey file = index_.file_of(number);
    if (const auto seen = find(device_number(file.dev), file.ino, path, opened.earliest_ns, closed_ns)) note = *seen;
    note.allocated = raw->allocated;
    index_.note_deleted(device_number(file.dev), file.ino, note, sink);
}

// ---- names that change ----------------------------------------------------------------------------------------------

void Removals::relabel(std::uint32_t number) {
    const auto look = look_at(number, true);
    if (!look) return;
    std::string_view text = look->text;
    if (look->stx.stx_nlink == 0 && text.ends_with(deleted_mark)) text.remove_suffix(deleted_mark.size());
    if (index_.paths_.equals(index_.descriptions_[number].path, text)) return;
    index_.set_description_path(number, index_.paths_.intern(text), false);
}

void Removals::moved_known(const fdspan_unlinked& raw) {
    const Index::FileKey file{raw.dev, raw.ino};
    std::vector<std::uint32_t> affected;
    for (std::uint32_t number = index_.by_inode_.head(Index::file_hash(file.dev, file.ino));
         number != Index::none && affected.size() < max_relabelled; number = index_.descriptions_[number].next_by_inode) {
        if (index_.file_of(number) == file) affected.push_back(number);
    }
    for (const std::uint32_t number : affected) relabel(number);
    // What is below it is not known by its inode.
    if (S_ISDIR(raw.mode)) paths_are_stale_ = true;
}

void Removals::moved(const std::string& from, bool whole) {
    std::vector<std::uint32_t> affected = named(from, whole ? Where::at_path : Where::anywhere);
    if (affected.size() > max_looks) affected.resize(max_looks);
    const PathStore::Dir dir = whole ? index_.paths_.find(from) : PathStore::none;
    if (dir > PathStore::cut) {
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
    }
    for (const std::uint32_t number : affected) relabel(number);
}

}  // namespace fdspan
