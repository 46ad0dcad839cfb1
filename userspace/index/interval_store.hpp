// IntervalStore: an Interval in 8 bytes. An exact time is its own value, and so is a bounded one without a lower end; other
// bounded intervals are a shared, counted cell and a distance, because the rows of one process in one snapshot have the same
// lower end and upper ends close together. Not thread-safe.
#pragma once

#include <array>
#include <cstdint>

#include "base/interval.hpp"
#include "index/pool.hpp"

namespace fdspan {

using StoredTime = std::uint64_t;

class IntervalStore {
public:
    [[nodiscard]] StoredTime store(const Interval& interval) {
        if (interval.is_exact()) return interval.latest_ns & value_mask;
        if (!interval.has_earliest() && interval.latest_ns <= value_mask) return open_bit | interval.latest_ns;
        std::uint32_t& recent = recent_[mix(interval.earliest_ns) % recent_.size()];
        if (recent != 0 && cells_[recent].refs != 0) {
            const Interval shared = cells_[recent].get();
            const std::uint64_t distance = interval.latest_ns - shared.latest_ns;
            if (shared.earliest_ns == interval.earliest_ns && interval.latest_ns >= shared.latest_ns && distance <= distance_mask) {
                ++cells_[recent].refs;
                return cell_bit | distance << cell_bits | recent;
            }
        }
        const std::uint32_t cell = cells_.take();
        cells_[cell].set(interval);
        cells_[cell].refs = 1;
        recent = cell;
        return cell_bit | cell;
    }
    [[nodiscard]] Interval get(StoredTime time) const {
        if ((time & cell_bit) == 0) {
            return (time & open_bit) == 0 ? Interval::exact(time) : Interval::bounded(Interval::unknown_earliest, time & value_mask);
        }
        Interval out = cells_[cell_of(time)].get();
        out.latest_ns += time >> cell_bits & distance_mask;
        return out;
    }
    StoredTime share(StoredTime time) {
        if ((time & cell_bit) != 0) ++cells_[cell_of(time)].refs;
        return time;
    }
    void release(StoredTime time) {
        if ((time & cell_bit) == 0) return;
        if (--cells_[cell_of(time)].refs == 0) cells_.give(cell_of(time));
    }
    void replace(StoredTime& time, const Interval& interval) {
        const StoredTime fresh = store(interval);
        release(time);
        time = fresh;
    }
    [[nodiscard]] std::size_t bytes() const { return cells_.bytes(); }
    [[nodiscard]] std::size_t reusable_bytes() const { return cells_.reusable_bytes(); }
    [[nodiscard]] std::uint32_t cells() const { return cells_.used(); }

private:
    static constexpr std::uint64_t cell_bit = std::uint64_t{1} << 63;
    static constexpr std::uint64_t open_bit = std::uint64_t{1} << 62;  // no lower end
    static constexpr std::uint64_t value_mask = open_bit - 1;          // 146 years
    static constexpr unsigned cell_bits = 31;
    static constexpr std::uint64_t distance_mask = (std::uint64_t{1} << 32) - 1;  // 4 s
    [[nodiscard]] static std::uint32_t cell_of(StoredTime time) {
        return static_cast<std::uint32_t>(time & ((std::uint64_t{1} << cell_bits) - 1));
    }
    struct Cell {  // halves, because 8-byte members would pad it to 24 bytes
        std::uint32_t earliest[2];
        std::uint32_t latest[2];
        std::uint32_t refs;

        void set(const Interval& interval) {
            earliest[0] = static_cast<std::uint32_t>(interval.earliest_ns);
            earliest[1] = static_cast<std::uint32_t>(interval.earliest_ns >> 32);
            latest[0] = static_cast<std::uint32_t>(interval.latest_ns);
            latest[1] = static_cast<std::uint32_t>(interval.latest_ns >> 32);
        }
        [[nodiscard]] Interval get() const {
            return Interval::bounded(std::uint64_t{earliest[1]} << 32 | earliest[0], std::uint64_t{latest[1]} << 32 | latest[0]);
        }
    };
    static_assert(sizeof(Cell) == 20);

    Pool<Cell> cells_;
    std::array<std::uint32_t, 64> recent_{};
};

}  // namespace fdspan
