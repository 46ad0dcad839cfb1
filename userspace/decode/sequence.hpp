// SequenceTracker: finds losses. Every record carries a number per CPU; a gap means records the kernel could not hand over.
// A program may be preempted by another of ours between taking its number and its place in the ring, so that two records
// of one CPU come in the wrong order: a gap is given up only when it is `reorder_window` records old, or settled. Even then it
// may be on its way: a CPU that a hypervisor took away between the number and the record. So the kernel's count of losses decides.
// Not thread-safe. Bounded by the number of CPUs (16 bits).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "base/interval.hpp"

namespace fdspan {

struct Loss {
    std::uint32_t cpu = 0;
    std::uint64_t records = 0;
    Interval when;  // bounded: from the last record before the gap (or the start) to the first behind it
};

class SequenceTracker {
public:
    static constexpr std::uint64_t reorder_window = 64;
    static constexpr std::uint64_t restart_distance = 1U << 20;  // farther back than that is a restart, not a late record

    // What the programs on a CPU have counted as lost so far (fdspan_counters.ring_lost).
    using CountLost = std::function<std::uint64_t(std::uint32_t cpu)>;

    // `from_zero`: the session's programs were loaded for it, so every CPU counts from 0. Otherwise (pinned programs
    // that ran before this reader) the first record of each CPU is the baseline. Without `count_lost` every gap is a loss.
    explicit SequenceTracker(bool from_zero = true, std::uint64_t started_ns = 0, CountLost count_lost = {});

    [[nodiscard]] std::optional<Loss> observe(std::uint32_t cpu, std::uint64_t seq, std::uint64_t boottime_ns);
    // `next_seq` is the CPU's own counter (fdspan_counters.seq), read before the ring was drained: a loss that no later
    // record would show.
    [[nodiscard]] std::optional<Loss> settle(std::uint32_t cpu, std::uint64_t next_seq, std::uint64_t boottime_ns);

    [[nodiscard]] std::uint64_t lost_records() const { return lost_; }
    // Is there a gap that neither a late record nor the kernel's count has explained yet?
    [[nodiscard]] bool has_open_gap() const;

private:
    struct Cpu {
        std::uint64_t next = 0;   // the lowest number not seen
        std::uint64_t seen = 0;   // bit i: number next + i was seen
        std::uint64_t last_ns = 0;
        bool known = false;
        std::uint64_t told = 0;     // of what the kernel counted as lost
        std::uint64_t counted = 0;  // what it had counted when last asked
        Loss open;                  // given up, and not yet counted by the kernel
    };
    Cpu& cpu(std::uint32_t number);
    static void advance(Cpu& cpu);
    void begin_anew(std::uint32_t number, std::uint64_t next, std::uint64_t boottime_ns);
    void give_up(std::uint32_t number, std::uint64_t until, std::uint64_t boottime_ns);
    std::optional<Loss> confirmed(std::uint32_t number);

    std::vector<Cpu> cpus_;
    bool from_zero_;
    std::uint64_t started_ns_;
    CountLost count_lost_;
    std::uint64_t lost_ = 0;
};

}  // namespace fdspan
