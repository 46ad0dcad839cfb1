// Tracking: the kernel side of a tracing session. Owns the programs, their links, the kernel maps and the ring.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "base/reference.hpp"
#include "kernel/iterators.hpp"
#include "kernel/parcel.hpp"

namespace fdspan {

enum class TrackingBackend : std::uint8_t { syscall, trampoline, kprobe };
[[nodiscard]] constexpr std::string_view to_string(TrackingBackend backend) {
    switch (backend) {
        case TrackingBackend::syscall: return "syscall";
        case TrackingBackend::trampoline: return "trampoline";
        case TrackingBackend::kprobe: return "kprobe";
    }
    return "?";
}

// So that what is in flight, in an io_uring or only mapped ends when it does.
[[nodiscard]] constexpr bool sees_last_put(TrackingBackend backend) { return backend != TrackingBackend::syscall; }

// Best first. What the kprobe backend sees is all, and exact, where the syscall backend has to leave some descriptors to
// snapshots; its hooks cost more than tracepoints, which is the lesser harm. Who prefers the other can force it.
inline constexpr TrackingBackend tracking_backends[] = {TrackingBackend::trampoline, TrackingBackend::kprobe,
                                                        TrackingBackend::syscall};

struct TrackingOptions {
    TrackingBackend backend = TrackingBackend::syscall;
    std::uint32_t ring_bytes = 16U << 20;       // power of two, multiple of the page size
    std::uint32_t max_descriptions = 1U << 20;  // entries; memory is taken as they are used
    std::uint32_t max_descriptors = 1U << 20;
    std::uint32_t max_tables = 1U << 17;
    std::uint32_t max_table_chunks = 1U << 17;  // 4096 descriptors each, of tables with more than 256
    bool emit = true;                           // hand news to the ring
    bool paths = true;                          // with the path of each opened file
    // Key under which kernel pointers leave the kernel; empty: a new random one. Two trackings with one key give the same ids.
    std::vector<std::uint32_t> pointer_key;
    // Who is tracked; all three empty: everybody.
    std::vector<pid_t> pids;
    std::vector<pid_t> trees;                // and what they fork
    std::vector<std::uint64_t> cgroup_ids;   // and what is below
    // Which files are worth news: a sieve, that lets through more than is asked for.
    std::vector<std::string> tops;           // at or below one of these ("/a/b", as an opening's record has it); empty: anywhere
    std::uint32_t types = 0;                 // bits: 1 << FileType; 0: all
};

// How full the kernel side is.
struct TrackingFill {
    std::uint64_t descriptions = 0;
    std::uint64_t max_descriptions = 0;
    std::uint64_t kernel_bytes = 0;  // of ring and maps, from what one entry takes
};

// One hook and how it fared. A hook that this kernel does not have (an unknown syscall) is not missing.
struct HookStatus {
    std::string name;       // "sys_exit_openat", "fd_install"
    bool exists = false;    // this kernel has the event
    bool attached = false;
    bool checked = false;   // its event was made to happen
    bool seen = false;      // … and it fired
    int error = 0;          // errno of a failed attach
    [[nodiscard]] bool broken() const { return exists && (!attached || (checked && !seen)); }
};

// Sums over the CPUs.
struct TrackingCounters {
    std::uint64_t records = 0;           // attempted
    std::uint64_t ring_lost = 0;         // of these, without room
    std::uint64_t ring_lost_first_ns = 0;  // window of the losses so far (CLOCK_BOOTTIME)
    std::uint64_t ring_lost_last_ns = 0;
    std::uint64_t description_full = 0;  // spans without an entry: bounded instead of exact
    std::uint64_t descriptor_full = 0;
    std::uint64_t table_full = 0;
    std::uint64_t truncated = 0;
    std::uint64_t missed = 0;            // events whose hook the kernel skipped; an upper bound
    [[nodiscard]] bool maps_overflowed() const { return description_full + descriptor_full + table_full + truncated > 0; }
};

// Whether this kernel attaches a fentry program, tried with the smallest one; the message begins with "load" or "attach".
[[nodiscard]] Result<void> try_trampoline();
// Whether it has kprobes.
[[nodiscard]] Result<void> try_kprobe();

// Not thread-safe. Closing it detaches the hooks, unless they were pinned.
class Tracking {
public:
    // Loads, attaches, checks the hooks, then starts stamping. Fails when the programs can't be loaded, or when a hook that
    // this kernel has does not attach or does not fire (the message names it).
    static Result<std::unique_ptr<Tracking>> open(const TrackingOptions& options);
    // The best backend that works; options.backend is not looked at. `refused` says why each better one did not.
    static Result<std::unique_ptr<Tracking>> open_best(TrackingOptions options, std::vector<std::string>& refused);
    // The kernel side as descriptors, and made of such by somebody who need not have any capability. One at a time may drain the ring.
    void give(Parcel& parcel) const;
    static Result<std::unique_ptr<Tracking>> adopt(Parcel& parcel);
    ~Tracking();
    Tracking(const Tracking&) = delete;
    Tracking& operator=(const Tracking&) = delete;

    [[nodiscard]] TrackingBackend backend() const;
    [[nodiscard]] const TrackingOptions& options() const;  // of an adopted one: backend and bounds only
    [[nodiscard]] TimeMaps maps() const;  // borrowed
    [[nodiscard]] const std::vector<HookStatus>& hooks() const;
    [[nodiscard]] std::uint64_t tracking_since_ns() const;
    [[nodiscard]] TrackingCounters counters() const;
    // Walks the maps: for reports only.
    [[nodiscard]] Result<TrackingFill> fill() const;
    // Openings of some files are left out.
    [[nodiscard]] bool sieves_files() const;
    // Tracked by number: TrackingOptions::pids and trees as far as they live, and what the trees forked.
    [[nodiscard]] Result<std::vector<pid_t>> scope_processes() const;
    // Adds what descended from a tree before the hooks could see it. False: it was there already.
    Result<bool> add_to_trees(pid_t pid);
    // By CPU: the number that its next record will carry.
    [[nodiscard]] std::vector<std::uint64_t> next_sequence_numbers() const;
    // What this CPU's programs found no room for so far.
    [[nodiscard]] std::uint64_t lost_records(std::uint32_t cpu) const;

    // The ring: readable when the kernel side woke it. Owned by the tracking.
    [[nodiscard]] int ring_fd() const;
    // Takes records in order until `take` returns false or none is left. Returns how many were taken.
    using TakeRecord = std::function<bool(const void* record, std::size_t bytes)>;
    Result<std::size_t> drain(const TakeRecord& take);
    // Announces that the reader goes to wait: the next record wakes ring_fd(). Drain once more after it, for what came between.
    void announce_waiting();

    // Around each snapshot: what it may find, the kernel must not have left out for good.
    void snapshot_begins();
    void snapshot_ended();

    // Notes that a census of all references was entered into the maps by then (CLOCK_BOOTTIME).
    void set_census(std::uint64_t at_ns);

    // Pins maps and links into `directory` (made by this call), so that the kernel goes on stamping without this process. One that
    // emits can be taken over from there when this one has gone.
    Result<void> pin(const std::string& directory);
    // Goes on with what pin() left, its ring included, from now on. ENOENT: nothing is pinned there, or nothing that emits. EBUSY: another
    // process reads it. EPROTO: another build of this library pinned it.
    static Result<std::unique_ptr<Tracking>> take_over(const std::string& directory);
    [[nodiscard]] bool is_taken_over() const;

private:
    struct State;
    explicit Tracking(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

// The kernel maps of a pinned tracking, opened for reading times.
class PinnedTracking {
public:
    // nullopt: nothing is pinned there. EPROTO: pinned by a version with other maps.
    static Result<std::optional<PinnedTracking>> open(const std::string& directory);

    [[nodiscard]] TimeMaps maps() const;
    [[nodiscard]] TrackingBackend backend() const { return backend_; }
    [[nodiscard]] std::uint64_t tracking_since_ns() const { return tracking_since_ns_; }
    [[nodiscard]] std::uint64_t census_ns() const { return census_ns_; }
    [[nodiscard]] Result<TrackingCounters> counters() const;
    [[nodiscard]] Result<std::vector<std::uint32_t>> pointer_key() const;
    // Entries in use and the bound, of the descriptions map. Walks the map: for reports only.
    [[nodiscard]] Result<std::pair<std::uint64_t, std::uint64_t>> description_fill() const;

private:
    std::string directory_;
    UniqueFd descriptions_, descriptors_, tables_, table_chunks_, settings_, counters_;
    TrackingBackend backend_ = TrackingBackend::syscall;
    std::uint64_t tracking_since_ns_ = 0;
    std::uint64_t census_ns_ = 0;
};

}  // namespace fdspan
