// IntervalStore: an Interval in 8 bytes. An exact time is its own value; a bounded interval is the number of a shared,
// counted cell. Not thread-safe.
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
        if (interval.is_exact()) return interval.latest_ns & ~bounded_bit;
        // Rows of one process in one snapshot mostly have the same bounds.
        std::uint32_t& recent = recent_[mix(interval.earliest_ns * 31 + interval.latest_ns) % recent_.size()];
        if (recent != 0 && cells_[recent].refs != 0 && cells_[recent].get() == interval) {
            ++cells_[recent].refs;
            return bounded_bit | recent;
        }
        const std::uint32_t cell = cells_.take();
        cells_[cell].set(interval);
        cells_[cell].refs = 1;
        recent = cell;
        return bounded_bit | cell;
    }
    [[nodiscard]] Interval get(StoredTime time) const {
        return (time & bounded_bit) == 0 ? Interval::exact(time) : cells_[static_cast<std::uint32_t>(time)].get();
    }
    StoredTime share(StoredTime time) {
        if ((time & bounded_bit) != 0) ++cells_[static_cast<std::uint32_t>(time)].refs;
        return time;
    }
    void release(StoredTime time) {
        if ((time & bounded_bit) == 0) return;
        const auto cell = static_cast<std::uint32_t>(time);
        if (--cells_[cell].refs == 0) cells_.give(cell);
    }
    void replace(StoredTime& time, const Interval& interval) {
        const StoredTime fresh = store(interval);
        release(time);
        time = fresh;
    }
    [[nodiscard]] std::size_t bytes() const { return cells_.bytes(); }
    [[nodiscard]] std::uint32_t cells() const { return cells_.used(); }

private:
    static constexpr std::uint64_t bounded_bit = std::uint64_t{1} << 63;
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
