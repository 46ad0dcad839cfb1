// arm/disarm: tracking that runs in the kernel without a process, pinned in bpffs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "api/snapshot.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "kernel/tracking.hpp"

namespace fdspan {

inline constexpr const char* bpffs_directory = "/sys/fs/bpf";
// Its parent is a directory of its own, so that a service can be given that and nothing else of bpffs.
inline constexpr const char* pin_parent_directory = "/sys/fs/bpf/fdspan";
inline constexpr const char* pin_directory = "/sys/fs/bpf/fdspan/armed";

struct ArmOptions {
    Backend backend = Backend::automatic;
    std::uint32_t max_descriptions = 1U << 20;
    std::uint32_t max_descriptors = 1U << 20;
    std::uint32_t max_tables = 1U << 17;
};

struct ArmReport {
    bool already_armed = false;      // nothing was done: armed before
    Backend backend = Backend::syscall;
    std::uint64_t tracking_since_ns = 0;  // CLOCK_BOOTTIME
    std::uint64_t references = 0;    // open references that the census bounded
    std::vector<HookStatus> hooks;   // empty when already armed
    std::vector<std::string> refused;  // why each better backend was not taken
};

struct ArmedState {
    Backend backend = Backend::syscall;
    std::uint64_t tracking_since_ns = 0;
    std::uint64_t census_ns = 0;     // 0: the process that armed was ended before it had counted what was open
    std::uint64_t descriptions = 0;  // entries in use
    std::uint64_t max_descriptions = 0;
    TrackingCounters counters;
};

// Needs root or CAP_BPF+CAP_PERFMON+CAP_SYS_RESOURCE…, and a mounted bpffs. Leaves no process behind. All or nothing: on
// failure no pin is left.
[[nodiscard]] Result<ArmReport> arm(const ArmOptions& options);

// Where something is pinned: pin_directory, or its parent, where an older fdspan pinned.
[[nodiscard]] const char* pinned_directory();

// One at a time arms, disarms, or opens a tracker that is pinned: whoever holds this. Needs a mounted bpffs.
[[nodiscard]] Result<UniqueFd> lock_arming();
// Makes of a tracking that runs an armed one, under that lock. All or nothing.
[[nodiscard]] Result<void> pin_armed(Tracking& tracking);

// True: tracking was armed and is gone now; false: there was none.
[[nodiscard]] Result<bool> disarm();

[[nodiscard]] Result<std::optional<ArmedState>> armed_state();

}  // namespace fdspan
