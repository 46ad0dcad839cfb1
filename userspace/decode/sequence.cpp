#include "decode/sequence.hpp"

#include <algorithm>
#include <bit>

namespace fdspan {

SequenceTracker::SequenceTracker(bool from_zero, std::uint64_t started_ns) : from_zero_(from_zero), started_ns_(started_ns) {}

SequenceTracker::Cpu& SequenceTracker::cpu(std::uint32_t number) {
    if (number >= cpus_.size()) cpus_.resize(number + 1, Cpu{0, 0, started_ns_, from_zero_});
    return cpus_[number];
}

// Bit 0 of a Cpu's window is the number `next` itself; this drops the numbers that came, from the front.
void SequenceTracker::advance(Cpu& cpu) {
    const int came = std::countr_one(cpu.seen);
    cpu.next += static_cast<std::uint64_t>(came);
    cpu.seen = came == 64 ? 0 : cpu.seen >> came;
}

// Everything below `until` that was not seen is lost.
std::optional<Loss> SequenceTracker::give_up(std::uint32_t number, std::uint64_t until, std::uint64_t boottime_ns) {
    Cpu& cpu = cpus_[number];
    if (until <= cpu.next) return std::nullopt;
    const std::uint64_t span = until - cpu.next;
    const bool beyond = span >= reorder_window;
    const std::uint64_t below = beyond ? cpu.seen : cpu.seen & ((std::uint64_t{1} << span) - 1);
    Loss loss;
    loss.cpu = number;
    loss.records = span - static_cast<std::uint64_t>(std::popcount(below));
    loss.when = Interval::bounded(std::min(cpu.last_ns, boottime_ns), boottime_ns);
    cpu.next = until;
    cpu.seen = beyond ? 0 : cpu.seen >> span;
    advance(cpu);
    if (loss.records == 0) return std::nullopt;
    lost_ += loss.records;
    return loss;
}

std::optional<Loss> SequenceTracker::observe(std::uint32_t number, std::uint64_t seq, std::uint64_t boottime_ns) {
    Cpu& state = cpu(number & 0xffffU);
    std::optional<Loss> loss;
    if (!state.known || seq + restart_distance < state.next) {
        // The first record, or counters that began anew: a baseline, nothing that could be counted.
        state = Cpu{seq, 0, boottime_ns, true};
    }
    if (seq < state.next) return loss;  // came after it was given up
    if (seq - state.next >= reorder_window) loss = give_up(number & 0xffffU, seq - reorder_window + 1, boottime_ns);
    state.seen |= std::uint64_t{1} << (seq - state.next);
    advance(state);
    if (state.seen == 0) state.last_ns = boottime_ns;
    return loss;
}

std::optional<Loss> SequenceTracker::settle(std::uint32_t number, std::uint64_t next_seq, std::uint64_t boottime_ns) {
    Cpu& state = cpu(number & 0xffffU);
    if (!state.known) {
        state = Cpu{next_seq, 0, boottime_ns, true};
        return std::nullopt;
    }
    const std::optional<Loss> loss = give_up(number & 0xffffU, next_seq, boottime_ns);
    if (state.seen == 0) state.last_ns = std::max(state.last_ns, boottime_ns);
    return loss;
}

}  // namespace fdspan
