// take_snapshot: the one-shot question. Chooses the reader, joins the exact times of armed tracking where there are any.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "snapshot/snapshot.hpp"

namespace fdspan {

enum class Backend : std::uint8_t { automatic, trampoline, syscall, procfs, kprobe };
[[nodiscard]] constexpr std::string_view to_string(Backend backend) {
    switch (backend) {
        case Backend::automatic: return "auto";
        case Backend::trampoline: return "trampoline";
        case Backend::syscall: return "syscall";
        case Backend::procfs: return "procfs";
        case Backend::kprobe: return "kprobe";
    }
    return "?";
}

struct SnapshotAnswer {
    Snapshot snapshot;
    Backend backend = Backend::procfs;   // whose times these are: of the armed tracking, else procfs (bounds only)
    bool armed = false;                  // exact times were joined from pinned maps
    std::vector<std::string> warnings;   // sentences for stderr: why BPF was not used, losses and full maps of the tracking
    bool lossy = false;                  // armed maps were full at some time: exit code 3
};

// Backend::procfs reads /proc only. automatic: BPF iterators when they load (with armed times when armed), else procfs with
// a warning. trampoline/syscall: fails unless tracking of that backend is armed. Thread-safe.
[[nodiscard]] Result<SnapshotAnswer> take_snapshot(const SnapshotRequest& request, Backend backend);

}  // namespace fdspan
