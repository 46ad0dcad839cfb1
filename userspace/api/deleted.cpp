#include "api/deleted.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>

#include "snapshot/procfs_mounts.hpp"

namespace fdspan {
namespace {

// ctime and the birth time are wall clock; a leap second sets that back by one second (as in the snapshot readers). The clock that
// stamps them is also late by up to a tick.
constexpr std::uint64_t clock_margin_ns = 1'000'000'000;
// Where stamps have no fraction, they may be of whole seconds, or of every other one as on FAT, of which the rest is cut off.
constexpr std::uint64_t coarse_stamp_ns = 2'000'000'000;
constexpr int statx_flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;

std::int64_t realtime_ns(const struct statx_timestamp& at) {
    return std::clamp<std::int64_t>(at.tv_sec, 0, 4'000'000'000) * 1'000'000'000 + at.tv_nsec;
}

std::uint64_t deletion_latest(std::int64_t changed_realtime_ns, const WallClock& clock, std::uint64_t now_ns) {
    const std::uint64_t changed = clock.to_boottime_ns(changed_realtime_ns);
    // A stamp from before this boot is of a clock that was set since: nobody holds a file for that long.
    if (changed == 0) return now_ns;
    const std::uint64_t coarse = changed_realtime_ns % 1'000'000'000 == 0 ? coarse_stamp_ns : 0;
    return std::min(now_ns, changed + coarse + clock_margin_ns + clock.uncertainty_ns);
}

bool has_deletion(NameState state) { return state == NameState::deleted || state == NameState::silly; }

// What was deleted had been made before, and nothing is later than its latest moment.
Interval deletion(std::uint64_t latest_ns, const WallClock& clock, std::optional<std::int64_t> born_realtime_ns) {
    const std::uint64_t birth = born_realtime_ns ? clock.to_boottime_ns(*born_realtime_ns) : 0;
    const std::uint64_t margin = clock_margin_ns + clock.uncertainty_ns;
    return Interval::bounded(std::min(birth > margin ? birth - margin : Interval::unknown_earliest, latest_ns), latest_ns);
}

void find_deletion(const Snapshot& snapshot, procfs::HolderMounts& mounts, DeletedFile& file) {
    for (const std::uint32_t index : file.references) {
        const Reference& reference = snapshot.references[index];
        const Process& process = snapshot.processes[reference.process];
        HeldAddress address{process.pid, reference.tid, reference.ref, reference.fd, 0, 0, std::nullopt, std::nullopt};
        if (reference.ref == RefKind::mem) {
            address.map_start = reference.map_start;
            address.map_end = reference.map_end;
        }
        struct statx stx{};
        if (::statx(AT_FDCWD, magic_link(address).c_str(), statx_flags, STATX_BASIC_STATS | STATX_BTIME | STATX_MNT_ID, &stx) != 0) continue;
        // A descriptor that was closed and reused since the snapshot leads elsewhere.
        if (stx.stx_ino != file.id.ino || !(DeviceNumber{stx.stx_dev_major, stx.stx_dev_minor} == file.id.dev)) continue;
        const procfs::Mount* const mount = mounts.find(process.pid, stx);
        const bool has_birth = (stx.stx_mask & STATX_BTIME) != 0 && mount != nullptr && mount->traits.birth;
        const std::uint64_t latest_ns = deletion_by_ctime(stx, mount, snapshot.clock, snapshot.ended_ns).latest_ns;
        file.deleted = deletion(latest_ns, snapshot.clock, has_birth ? std::optional(realtime_ns(stx.stx_btime)) : std::nullopt);
        return;
    }
    file.deleted = Interval::bounded(Interval::unknown_earliest, snapshot.ended_ns);
}

bool is_gone(const LoopDevice& device, bool with_gone) {
    switch (device.state) {
        case NameState::deleted:
        case NameState::unknown: return true;
        case NameState::gone: return with_gone;
        default: return false;
    }
}

}  // namespace

Interval deletion_by_ctime(const struct statx& held, const procfs::Mount* mount, const WallClock& clock, std::uint64_t now_ns) {
    const bool stamped = held.stx_nlink == 0 && mount != nullptr && mount->traits.stamps;
    return Interval::bounded(Interval::unknown_earliest, stamped ? deletion_latest(realtime_ns(held.stx_ctime), clock, now_ns) : now_ns);
}

Result<DeletedAnswer> find_deleted(const DeletedRequest& request) {
    SnapshotRequest asked;
    asked.fields = field_all;
    asked.pids = request.pids;
    asked.deleted_only = true;
    asked.threads = request.threads;
    asked.hidden = request.pids.empty();
    const auto also = [&](NameState state) { asked.also_states |= static_cast<std::uint16_t>(1U << static_cast<unsigned>(state)); };
    also(NameState::silly);
    if (request.gone) also(NameState::gone);
    if (request.nameless) {
        for (const NameState state : {NameState::memfd, NameState::tmpfile, NameState::shm}) also(state);
    }
    auto answer = take_snapshot(asked, request.backend);
    if (!answer) return tl::unexpected<Error>(answer.error());

    DeletedAnswer result;
    result.answer = std::move(*answer);
    const Snapshot& snapshot = result.answer.snapshot;
    std::map<std::pair<DeviceNumber, std::uint64_t>, std::size_t> places;
    const auto file_of = [&](DeviceNumber dev, std::uint64_t ino) -> DeletedFile& {
        const auto [place, fresh] = places.try_emplace({dev, ino}, result.files.size());
        if (fresh) result.files.emplace_back().id = {dev, ino};
        return result.files[place->second];
    };
    for (std::uint32_t index = 0; index < snapshot.references.size(); ++index) {
        const Reference& reference = snapshot.references[index];
        if ((reference.valid & field_stat) == 0) continue;
        DeletedFile& file = file_of(reference.dev, reference.ino);
        // A file that O_TMPFILE made may show so only in descriptors that were opened for it.
        if (file.references.empty() || reference.name == NameState::tmpfile) {
            file.state = reference.name;
            file.type = reference.type;
            file.path = snapshot.path(reference);
            file.nlink = reference.nlink;
            file.size = reference.size;
            file.allocated = reference.allocated;
        }
        file.references.push_back(index);
    }
    for (std::uint32_t index = 0; index < snapshot.hidden.size(); ++index) {
        const Reference& reference = snapshot.hidden[index];
        DeletedFile& file = file_of(reference.dev, reference.ino);
        if (file.references.empty() && file.hidden.empty()) {
            file.state = reference.name;
            file.type = reference.type;
            file.path = snapshot.path(reference);
            file.nlink = reference.nlink;
            file.size = reference.size;
            file.allocated = reference.allocated;
        }
        file.hidden.push_back(index);
    }
    procfs::HolderMounts mounts;
    for (DeletedFile& file : result.files) {
        if (has_deletion(file.state)) find_deletion(snapshot, mounts, file);
    }
    if (request.pids.empty()) {
        const LoopList loops = read_loop_devices();
        result.unreadable_loops = loops.unreadable;
        for (const LoopDevice& device : loops.devices) {
            const bool held_too = places.contains({device.dev, device.ino});
            if (!held_too && !is_gone(device, request.gone)) continue;
            DeletedFile& file = file_of(device.dev, device.ino);
            file.loops.push_back(device.name);
            file.hidden.clear();  // that is how the kernel holds it
            if (held_too || file.loops.size() > 1) continue;
            file.state = device.state;
            file.type = FileType::reg;
            file.path = device.path;
            file.nlink = device.nlink;
            file.size = device.size;
            file.allocated = device.allocated;
            // Only of ext4, which stamps both.
            if (has_deletion(file.state) && device.changed_realtime_ns) {
                file.deleted = deletion(deletion_latest(*device.changed_realtime_ns, snapshot.clock, snapshot.ended_ns), snapshot.clock, device.born_realtime_ns);
            }
        }
    }
    return result;
}

}  // namespace fdspan
