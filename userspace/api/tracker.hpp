// Tracker: live tracing. Owns the kernel programs of its session, the ring, and the index; has no thread of its own.
// Not thread-safe: one thread at a time. A loss shows as an EventKind::lost, followed by EventKind::resynced.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "api/scope.hpp"
#include "api/snapshot.hpp"
#include "base/event.hpp"
#include "base/result.hpp"
#include "kernel/tracking.hpp"

namespace fdspan {

class Index;

struct TrackerOptions {
    Backend backend = Backend::automatic;
    std::uint32_t ring_bytes = 16U << 20;           // power of two, multiple of the page size
    std::uint32_t max_descriptions = 1U << 20;      // bounds of the kernel maps
    std::uint32_t max_descriptors = 1U << 20;
    std::uint32_t max_tables = 1U << 16;
    std::uint32_t max_table_chunks = 1U << 16;
    std::uint64_t poll_interval_ns = 1'000'000'000; // procfs backend: one snapshot each
    std::uint64_t reconcile_interval_ns = 30'000'000'000;  // BPF backends: a correcting snapshot each; 0: only after loss
    std::uint64_t max_index_bytes = 0;              // 0: no bound
    // Tracking that outlives the process: pinned in bpffs, or what another left pinned there taken over, so that the next one goes on with
    // all exact times. Where that fails there is a warning, and tracking ends with the process.
    bool pinned = false;
    TrackerScope scope;
    // A hint: who looks only at files at or below these paths ("/a/b"; empty: all), and of these types (bits: 1 << FileType; 0: all),
    // is spared most of the others. The kernel leaves out what it is sure of; events and index have more than was asked for.
    std::vector<std::string> paths;
    std::uint32_t types = 0;

    // Divides a budget between ring, kernel maps and index.
    void bound_memory(std::uint64_t bytes);
};

struct TrackerStatistics {
    TrackingCounters kernel;               // of a BPF backend
    bool certain = true;                   // no loss waits to be mended, and the ring holds nothing that the last process() left in it
    std::uint64_t polled_ns = 0;           // when the last snapshot that procfs polls for began; 0: of a BPF backend
    std::uint64_t malformed = 0;           // records that nobody understood
    std::uint64_t refused = 0;             // records of beginnings that max_index_bytes had no room for
    std::uint64_t resyncs = 0;
    std::uint64_t unreadable_processes = 0;  // in the last snapshot of the whole scope
    std::uint64_t map_entries = 0;         // in the kernel's maps, as of the last correcting snapshot
    std::uint64_t max_map_entries = 0;     // 0: procfs has none
};

// The index held against a fresh snapshot, and the kernel maps against what is alive.
struct VerifyReport {
    std::uint64_t references = 0;
    std::uint64_t corrected = 0;          // spans that a correcting snapshot added or ended first; other work may be among them
    std::uint64_t phantoms = 0;           // in the index, not in the snapshot
    std::uint64_t gaps = 0;               // in the snapshot, not in the index
    std::uint64_t differing = 0;          // in both, but not the same file
    std::uint64_t map_entries = 0;
    std::uint64_t stale_map_entries = 0;  // entries of the kernel maps for something dead
    std::vector<std::string> examples;    // a few differences in words
    [[nodiscard]] bool equal() const { return phantoms + gaps + differing + stale_map_entries == 0; }
};

class Tracker {
public:
    using Sink = std::function<void(const Event&)>;

    // Attaches first, then reads the first snapshot. Existing references give no `opened` events.
    static Result<std::unique_ptr<Tracker>> open(const TrackerOptions& options);
    // Loads and attaches what `options` ask for, and gives it away over a unix socket. A BPF backend only. `version`: both ends have to
    // name the same one.
    static Result<void> hand_over(const TrackerOptions& options, const std::string& version, int socket);
    // A tracker of what comes by the socket, without any capability. Of `own` only reconcile_interval_ns counts, scope and bounds come along.
    static Result<std::unique_ptr<Tracker>> adopt(const TrackerOptions& own, const std::string& version, int socket);
    ~Tracker();
    Tracker(const Tracker&) = delete;
    Tracker& operator=(const Tracker&) = delete;

    [[nodiscard]] Backend backend() const;
    // With what comes by a handover.
    [[nodiscard]] const TrackerOptions& options() const;
    // Level-triggered: readable when process() has work. Owned by the tracker.
    [[nodiscard]] int fd() const;
    // No: somebody closed it, and the number may be another's by now.
    [[nodiscard]] bool has_its_fd() const;
    // Makes fd() readable although the kernel has no news: for callers that keep events back.
    Result<void> set_ready(bool on);
    // Milliseconds until process() wants to be called although fd() is quiet; -1: never.
    [[nodiscard]] int timeout_ms() const;
    // The same as a time on CLOCK_BOOTTIME; nullopt: never.
    [[nodiscard]] std::optional<std::uint64_t> deadline_boottime_ns() const;
    [[nodiscard]] TrackerStatistics statistics() const;
    // How full the kernel maps are now: walks them, for reports only. All 0 with procfs.
    [[nodiscard]] Result<TrackingFill> map_fill() const;
    // Takes what is there, at most max_events, delivers it in order. Returns the number of events delivered.
    Result<std::size_t> process(const Sink& sink, std::size_t max_events);
    // Reads a snapshot now and makes the index equal to it.
    Result<void> resync(const Sink& sink);

    // Takes what the ring holds, reads the correcting snapshot that was to come, then compares; a difference counts when several
    // rounds show it. Takes some 0.3 s.
    Result<VerifyReport> verify(const Sink& sink);

    [[nodiscard]] const Index& index() const;
    [[nodiscard]] const std::vector<std::string>& warnings() const;
    // automatic only: why each better backend than backend() was not taken. Not a fault; for those who ask.
    [[nodiscard]] const std::vector<std::string>& refused() const;

private:
    struct State;
    explicit Tracker(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

}  // namespace fdspan
