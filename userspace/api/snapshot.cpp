#include "api/snapshot.hpp"

#include <optional>

#include "api/arm.hpp"
#include "api/backends.hpp"
#include "kernel/iterators.hpp"
#include "kernel/tracking.hpp"

namespace fdspan {
namespace {

Result<SnapshotAnswer> procfs_answer(const SnapshotRequest& request) {
    auto snapshot = read_procfs_snapshot(request);
    if (!snapshot) return tl::unexpected(snapshot.error());
    SnapshotAnswer answer;
    answer.snapshot = std::move(*snapshot);
    answer.backend = Backend::procfs;
    return answer;
}

std::string overflow_warning(const TrackingCounters& counters) {
    return "the armed tracking's maps were full: " + std::to_string(counters.description_full) + " descriptions, " +
           std::to_string(counters.descriptor_full) + " descriptors and " + std::to_string(counters.table_full) +
           " tables have bounded instead of exact times";
}

}  // namespace

Result<SnapshotAnswer> take_snapshot(const SnapshotRequest& request, Backend backend) {
    if (backend == Backend::procfs) return procfs_answer(request);

    const bool forced = backend != Backend::automatic;
    std::vector<std::string> warnings;
    // An unprivileged caller can't see whether anything is pinned; that is not worth a word, the missing BPF is.
    auto pinned = PinnedTracking::open(pinned_directory());
    if (!pinned && (forced || (pinned.error().code != EACCES && pinned.error().code != EPERM))) {
        if (forced) return tl::unexpected(pinned.error());
        warnings.push_back(pinned.error().message);
    }
    const bool armed = pinned && *pinned;
    if (forced) {
        if (!armed) {
            return fail(ENOENT, "the backend " + std::string(to_string(backend)) +
                                    " has no times to show: no tracking is armed (run `fdspan arm`)");
        }
        if ((*pinned)->backend() != tracking_backend_of(backend)) {
            return fail(EBUSY, "tracking is armed with another backend than " + std::string(to_string(backend)));
        }
    }

    auto reader = IteratorReader::open(armed ? (*pinned)->maps() : TimeMaps{}, request.kinds, armed && request.hidden);
    auto snapshot = reader ? (*reader)->read(request) : Result<Snapshot>(tl::unexpected(reader.error()));
    if (!snapshot) {
        if (forced) return tl::unexpected(snapshot.error());
        auto answer = procfs_answer(request);
        if (!answer) return answer;
        answer->warnings = std::move(warnings);
        answer->warnings.push_back("read through /proc, because BPF is not available: " + snapshot.error().message);
        return answer;
    }
    SnapshotAnswer answer;
    answer.snapshot = std::move(*snapshot);
    answer.armed = armed;
    answer.backend = armed ? backend_of((*pinned)->backend()) : Backend::procfs;
    answer.warnings = std::move(warnings);
    if (armed && request.wants(field_times)) {
        if (auto counters = (*pinned)->counters(); counters && counters->maps_overflowed()) {
            answer.lossy = true;
            answer.warnings.push_back(overflow_warning(*counters));
        } else if (counters && counters->missed > 0) {
            answer.lossy = true;
            answer.warnings.push_back("the armed tracking missed " + std::to_string(counters->missed) +
                                      " events, because its programs were preempted: some times may lack, few may be those of "
                                      "what was open there before");
        }
    }
    return answer;
}

}  // namespace fdspan
