// The backends as users name them, and as the kernel side does.
#pragma once

#include "api/snapshot.hpp"
#include "kernel/tracking.hpp"

namespace fdspan {

[[nodiscard]] constexpr Backend backend_of(TrackingBackend backend) {
    switch (backend) {
        case TrackingBackend::syscall: return Backend::syscall;
        case TrackingBackend::trampoline: return Backend::trampoline;
        case TrackingBackend::kprobe: return Backend::kprobe;
    }
    return Backend::procfs;
}

// Of a backend that traces; automatic and procfs have no one kernel side.
[[nodiscard]] constexpr TrackingBackend tracking_backend_of(Backend backend) {
    switch (backend) {
        case Backend::trampoline: return TrackingBackend::trampoline;
        case Backend::kprobe: return TrackingBackend::kprobe;
        case Backend::automatic:
        case Backend::procfs:
        case Backend::syscall: break;
    }
    return TrackingBackend::syscall;
}

}  // namespace fdspan
