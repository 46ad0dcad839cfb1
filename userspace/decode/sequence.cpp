#include "decode/sequence.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace fdspan {

SequenceTracker::SequenceTracker(bool from_zero, std::uint64_t started_ns, CountLost count_lost)
    : from_zero_(from_zero), started_ns_(started_ns), count_lost_(std::move(count_lost)) {}

SequenceTracker::Cpu& SequenceTracker::cpu(std::uint32_t number) {
    if (number >= cpus_.size()) {
        Cpu fresh;
        fresh.last_ns = started_ns_;
        fresh.known = from_zero_;
        cpus_.resize(number + 1, fresh);
    }
    return cpus_[number];
}

void SequenceTracker::begin_anew(std::uint32_t number, std::uint64_t next, std::uint64_t boottime_ns) {
    Cpu& cpu = cpus_[number];
    cpu = {};
    cpu.next = next;
    cpu.last_ns = boottime_ns;
    cpu.known = true;
    if (count_lost_) cpu.told = cpu.counted = count_lost_(number);
}

// Bit 0 of a Cpu's window is the number `next` itself; this drops the numbers that came, from the front.
void SequenceTracker::advance(Cpu& cpu) {
    const int came = std::countr_one(cpu.seen);
    cpu.next += static_cast<std::uint64_t>(came);
    cpu.seen = came == 64 ? 0 : cpu.seen >> came;
}

// Nothing below `until` that was not seen is waited for any longer.
void SequenceTracker::give_up(std::uint32_t number, std::uint64_t until, std::uint64_t boottime_ns) {
    Cpu& cpu = cpus_[number];
    if (until <= cpu.next) return;
    const std::uint64_t span = until - cpu.next;
    const bool beyond = span >= reorder_window;
    const std::uint64_t below = beyond ? cpu.seen : cpu.seen & ((std::uint64_t{1} << span) - 1);
    const std::uint64_t missing = span - static_cast<std::uint64_t>(std::popcount(below));
    const Interval when = Interval::bounded(std::min(cpu.last_ns, boottime_ns), boottime_ns);
    cpu.next = until;
    cpu.seen = beyond ? 0 : cpu.seen >> span;
    advance(cpu);
    if (missing == 0) return;
    cpu.open.when = cpu.open.records == 0 ? when : Interval::bounded(std::min(cpu.open.when.earliest_ns, when.earliest_ns), when.latest_ns);
    cpu.open.records += missing;
}

// As much of the open gap as the kernel counted; the rest is on its way.
std::optional<Loss> SequenceTracker::confirmed(std::uint32_t number) {
    Cpu& cpu = cpus_[number];
    if (cpu.open.records == 0) return std::nullopt;
    Loss loss = cpu.open;
    loss.cpu = number;
    if (count_lost_) {
        if (cpu.counted < cpu.told + loss.records) cpu.counted = count_lost_(number);
        loss.records = std::min(loss.records, cpu.counted - std::min(cpu.counted, cpu.told));
    }
    if (loss.records == 0) return std::nullopt;
    cpu.told += loss.records;
    cpu.open.records -= loss.records;
    lost_ += loss.records;
    return loss;
}

std::optional<Loss> SequenceTracker::observe(std::uint32_t number, std::uint64_t seq, std::uint64_t boottime_ns) {
    number &= 0xffffU;
    Cpu& state = cpu(number);
    // The first record, or counters that began anew: a baseline, nothing that could be counted.
    if (!state.known || seq + restart_distance < state.next) begin_anew(number, seq, boottime_ns);
    if (seq < state.next) {  // came after it was given up
        if (state.open.records != 0) --state.open.records;
        return std::nullopt;
    }
    if (seq - state.next >= reorder_window) give_up(number, seq - reorder_window + 1, boottime_ns);
    state.seen |= std::uint64_t{1} << (seq - state.next);
    advance(state);
    if (state.seen == 0) state.last_ns = boottime_ns;
    return confirmed(number);
}

std::optional<Loss> SequenceTracker::settle(std::uint32_t number, std::uint64_t next_seq, std::uint64_t boottime_ns) {
    number &= 0xffffU;
    Cpu& state = cpu(number);
    if (!state.known) {
        begin_anew(number, next_seq, boottime_ns);
        return std::nullopt;
    }
    give_up(number, next_seq, boottime_ns);
    if (state.seen == 0) state.last_ns = std::max(state.last_ns, boottime_ns);
    return confirmed(number);
}

bool SequenceTracker::has_open_gap() const {
    return std::any_of(cpus_.begin(), cpus_.end(), [](const Cpu& cpu) { return cpu.open.records != 0; });
}

}  // namespace fdspan
