// References: the rows of a snapshot, packed. What no row has takes no memory in any of them.
// A row is put together when it is asked for, and is the asker's. Readable by several threads while nobody changes it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#include "base/reference.hpp"

namespace fdspan {

class References {
public:
    class Iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = Reference;
        using difference_type = std::ptrdiff_t;
        using pointer = const Reference*;
        using reference = Reference;
        Iterator(const References& rows, std::size_t at) : rows_(&rows), at_(at) {}
        Reference operator*() const { return (*rows_)[at_]; }
        Iterator& operator++() {
            ++at_;
            return *this;
        }
        friend bool operator==(const Iterator& a, const Iterator& b) { return a.at_ == b.at_; }

    private:
        const References* rows_;
        std::size_t at_;
    };

    [[nodiscard]] std::size_t size() const { return parts_.back().begin + parts_.back().cores.size(); }
    [[nodiscard]] bool empty() const { return size() == 0; }
    [[nodiscard]] Reference operator[](std::size_t at) const {
        const auto [part, place] = find(at);
        return parts_[part].get(place);
    }
    // Less than the whole row, for passes over all of them.
    [[nodiscard]] std::uint32_t process_of(std::size_t at) const {
        const auto [part, place] = find(at);
        return parts_[part].cores[place].process;
    }
    [[nodiscard]] Reference front() const { return (*this)[0]; }
    [[nodiscard]] Reference back() const { return (*this)[size() - 1]; }
    [[nodiscard]] Iterator begin() const { return {*this, 0}; }
    [[nodiscard]] Iterator end() const { return {*this, size()}; }

    // Room that stays empty costs no memory; where it can't be had, what comes takes some bit by bit.
    void expect(std::size_t rows) { make_room(parts_.back().cores, rows); }
    void push_back(const Reference& row) {
        if (parts_.back().shift != 0) {
            const std::size_t begin = size();
            parts_.emplace_back().begin = begin;
        }
        parts_.back().push_back(row);
    }
    // The last ones go.
    void pop_back(std::size_t count) { parts_.back().shrink(parts_.back().cores.size() - count); }
    void set_times(std::size_t at, const Interval& opened, const Interval& description, std::uint64_t description_id) {
        const auto [part, place] = find(at);
        parts_[part].set_times(place, opened, description, description_id);
    }
    void set_process(std::size_t at, std::uint32_t process) {
        const auto [part, place] = find(at);
        parts_[part].cores[place].process = process;
    }
    // Behind the own rows, none of which is copied; their strings were adopted with `shift`.
    void append(References&& more, StringId shift) {
        for (Part& part : more.parts_) {
            if (part.cores.empty()) continue;
            part.begin = size();
            part.shift += shift;
            parts_.push_back(std::move(part));
        }
        more = References();
    }
    // Those for which drop(row) is true go; the others keep their order.
    template <class Drop>
    void erase_if(Drop&& drop) {
        std::size_t begin = 0;
        for (Part& part : parts_) {
            std::size_t kept = 0;
            for (std::size_t at = 0; at < part.cores.size(); ++at) {
                if (drop(part.get(at))) continue;
                part.move(at, kept);
                ++kept;
            }
            part.shrink(kept);
            part.begin = begin;
            begin += kept;
        }
    }
    // The rows of a process behind one another, in the order they came in; by process. No row moves: the runs are put in order that they came in.
    // None can be added or erased from then on.
    void group_by_process() {
        for (std::size_t number = 0; number < parts_.size(); ++number) {
            const std::vector<Core>& cores = parts_[number].cores;
            for (std::size_t at = 0; at < cores.size(); ++at) {
                if (at == 0 || cores[at].process != cores[at - 1].process) runs_.push_back({0, number, at});
            }
        }
        const auto process_of_run = [&](const Run& run) { return parts_[run.part].cores[run.first].process; };
        // A run ends where the next one of its part begins.
        std::vector<std::pair<Run, std::size_t>> lengths;
        for (std::size_t i = 0; i < runs_.size(); ++i) {
            const bool last = i + 1 == runs_.size() || runs_[i + 1].part != runs_[i].part;
            lengths.emplace_back(runs_[i], (last ? parts_[runs_[i].part].cores.size() : runs_[i + 1].first) - runs_[i].first);
        }
        std::stable_sort(lengths.begin(), lengths.end(), [&](const auto& a, const auto& b) { return process_of_run(a.first) < process_of_run(b.first); });
        std::size_t begin = 0;
        for (std::size_t i = 0; i < lengths.size(); ++i) {
            runs_[i] = lengths[i].first;
            runs_[i].begin = begin;
            begin += lengths[i].second;
        }
    }

private:
    struct Core {
        std::uint32_t process;
        pid_t tid;
        std::int32_t fd;
        RefKind ref;
        FileType type;
        NameState name;
        std::uint8_t valid;
        std::int32_t mnt_id;
        StringId type_name;
        PathId path;
    };
    struct Stat {
        std::uint32_t dev;  // as the kernel packs them: 12 bits of major, 20 of minor
        std::uint32_t rdev;
        std::uint32_t nlink;
        std::uint32_t pad;
        std::uint64_t ino;
        std::uint64_t size;
        std::uint64_t allocated;
        friend bool operator==(const Stat&, const Stat&) = default;
    };
    struct Use {
        std::uint64_t pos;  // or map_start
        std::uint64_t map_end;
        std::uint32_t flags;
        std::uint32_t map_flags;
        friend bool operator==(const Use&, const Use&) = default;
    };
    struct Moment {
        std::uint64_t earliest_ns;
        std::uint64_t latest_ns;  // the highest bit: TimeSource::kernel; the others all set: no time
        friend bool operator==(const Moment&, const Moment&) = default;
    };
    struct Times {
        Moment opened;
        Moment description;
        friend bool operator==(const Times&, const Times&) = default;
    };
    static_assert(sizeof(Core) == 32 && sizeof(Stat) == 40 && sizeof(Use) == 24 && sizeof(Times) == 32, "a snapshot of a million rows has to fit");

    static constexpr std::uint64_t exact_bit = std::uint64_t{1} << 63;
    static constexpr std::uint64_t no_time = exact_bit - 1;

    static std::uint32_t pack(DeviceNumber device) { return device.major << 20 | (device.minor & 0xfffff); }
    static DeviceNumber unpack(std::uint32_t device) { return {device >> 20, device & 0xfffff}; }
    static Moment pack(const Interval& moment) {
        return {moment.earliest_ns, std::min(moment.latest_ns, no_time) | (moment.is_exact() ? exact_bit : 0)};
    }
    static Interval unpack(const Moment& moment) {
        const std::uint64_t latest = moment.latest_ns & no_time;
        return {moment.earliest_ns, latest == no_time ? std::numeric_limits<std::uint64_t>::max() : latest,
                (moment.latest_ns & exact_bit) != 0 ? TimeSource::kernel : TimeSource::bounded};
    }
    static Stat stat_of(const Reference& row) { return {pack(row.dev), pack(row.rdev), row.nlink, 0, row.ino, row.size, row.allocated}; }
    static Use use_of(const Reference& row) { return {row.pos, row.map_end, row.flags, row.map_flags}; }
    static Times times_of(const Reference& row) { return {pack(row.opened), pack(row.description_opened)}; }

    // Rows whose strings are `shift` from where the rows say. Each column is empty until a row has something in it, and then as long as `cores`.
    struct Part {
        std::size_t begin = 0;
        StringId shift = 0;
        std::vector<Core> cores;
        std::vector<Stat> stats;
        std::vector<Use> uses;
        std::vector<Times> times;
        std::vector<std::uint64_t> ids;

        [[nodiscard]] Reference get(std::size_t at) const {
            const Core& core = cores[at];
            Reference row;
            row.process = core.process;
            row.tid = core.tid;
            row.fd = core.fd;
            row.ref = core.ref;
            row.type = core.type;
            row.name = core.name;
            row.valid = core.valid;
            row.mnt_id = core.mnt_id;
            row.type_name = StringTable::moved(core.type_name, shift);
            row.path = StringTable::moved(core.path, shift);
            if (!stats.empty()) {
                const Stat& stat = stats[at];
                row.dev = unpack(stat.dev);
                row.rdev = unpack(stat.rdev);
                row.nlink = stat.nlink;
                row.ino = stat.ino;
                row.size = stat.size;
                row.allocated = stat.allocated;
            }
            if (!uses.empty()) {
                const Use& use = uses[at];
                row.pos = use.pos;
                row.map_end = use.map_end;
                row.flags = use.flags;
                row.map_flags = use.map_flags;
            }
            if (!times.empty()) {
                row.opened = unpack(times[at].opened);
                row.description_opened = unpack(times[at].description);
            }
            if (!ids.empty()) row.description_id = ids[at];
            return row;
        }

        void push_back(const Reference& row) {
            cores.push_back({row.process, row.tid, row.fd, row.ref, row.type, row.name, row.valid, row.mnt_id, row.type_name, row.path});
            add(stats, stat_of(row), stat_of({}));
            add(uses, use_of(row), use_of({}));
            add(times, times_of(row), times_of({}));
            add(ids, row.description_id, std::uint64_t{0});
        }
        void set_times(std::size_t at, const Interval& opened, const Interval& description, std::uint64_t id) {
            put(times, at, {pack(opened), pack(description)}, times_of({}));
            put(ids, at, id, std::uint64_t{0});
        }
        void move(std::size_t from, std::size_t to) {
            if (from != to) each_column([&](auto& column) { column[to] = column[from]; });
        }
        void shrink(std::size_t rows) {
            each_column([&](auto& column) { column.erase(column.begin() + static_cast<std::ptrdiff_t>(rows), column.end()); });
        }
    private:
        template <class Each>
        void each_column(Each&& each) {
            each(cores);
            if (!stats.empty()) each(stats);
            if (!uses.empty()) each(uses);
            if (!times.empty()) each(times);
            if (!ids.empty()) each(ids);
        }
        // The row was pushed to `cores` already.
        template <class Value>
        void add(std::vector<Value>& column, const Value& value, const Value& nothing) {
            if (column.empty()) {
                if (value == nothing) return;
                make_room(column, cores.capacity());
                column.resize(cores.size() - 1, nothing);
            }
            column.push_back(value);
        }
        template <class Value>
        void put(std::vector<Value>& column, std::size_t at, const Value& value, const Value& nothing) const {
            if (column.empty()) {
                if (value == nothing) return;
                column.resize(cores.size(), nothing);
            }
            column[at] = value;
        }
    };

    template <class Value>
    static void make_room(std::vector<Value>& column, std::size_t rows) {
        try {
            column.reserve(rows);
        } catch (const std::bad_alloc&) {
        }
    }

    struct Run {  // rows of one process behind one another in a part
        std::size_t begin;
        std::size_t part;
        std::size_t first;
    };

    // In which part a row is, and where there.
    [[nodiscard]] std::pair<std::size_t, std::size_t> find(std::size_t at) const {
        if (!runs_.empty()) {
            const auto after = std::upper_bound(runs_.begin(), runs_.end(), at, [](std::size_t wanted, const Run& run) { return wanted < run.begin; });
            const Run& run = *std::prev(after);
            return {run.part, run.first + (at - run.begin)};
        }
        std::size_t number = parts_.size() - 1;
        while (parts_[number].begin > at) --number;
        return {number, at - parts_[number].begin};
    }

    std::vector<Part> parts_ = std::vector<Part>(1);  // one for each thread that read
    std::vector<Run> runs_;                           // in order; empty: as the rows came in
};

}  // namespace fdspan
