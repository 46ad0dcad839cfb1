// The C interface's structs, filled from the library's own values, and copies of them that stand on their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "api/snapshot.hpp"
#include "base/event.hpp"
#include "base/reference.hpp"
#include "fdspan/fdspan.h"

namespace fdspan::capi {

[[nodiscard]] fdspan_time to_c(const Interval& interval);
// Strings point into `strings`.
[[nodiscard]] fdspan_process_info to_c(const Process& process, const StringTable& strings);
[[nodiscard]] fdspan_reference to_c(const Reference& reference, const StringTable& strings, const char* path);

[[nodiscard]] constexpr std::uint32_t event_bit(EventKind kind) { return 1U << static_cast<unsigned>(kind); }
[[nodiscard]] constexpr std::uint32_t type_bit(FileType type) { return 1U << static_cast<unsigned>(type); }
[[nodiscard]] constexpr std::uint32_t kind_bit(RefKind kind) { return 1U << static_cast<unsigned>(kind); }
[[nodiscard]] std::uint32_t to_c(Backend backend);
[[nodiscard]] std::optional<Backend> backend_from_c(std::uint32_t backend);

// An event in C's form, borrowing from the Event it was made of. Used again for each.
class EventView {
public:
    [[nodiscard]] const fdspan_event& show(const Event& event, std::uint64_t sequence);

private:
    fdspan_event event_{};
    fdspan_process_info process_{};
    fdspan_process_info by_{};
    fdspan_reference reference_{};
    std::vector<fdspan_process_info> holder_processes_;
    std::vector<fdspan_reference> holder_references_;
    std::vector<fdspan_row> holders_;
};

// Grows to the longest text and the largest event it held, and keeps that.
class StoredEvent {
public:
    StoredEvent() = default;
    StoredEvent(const StoredEvent&) = delete;
    StoredEvent& operator=(const StoredEvent&) = delete;
    void assign(const fdspan_event& event);
    void set_sequence(std::uint64_t sequence) { event_.sequence = sequence; }
    [[nodiscard]] const fdspan_event& event() const { return event_; }

private:
    fdspan_event event_{};
    std::vector<fdspan_process_info> processes_;
    std::vector<fdspan_reference> references_;
    std::vector<fdspan_row> holders_;
    std::vector<char> text_;
};

class StoredRow {
public:
    StoredRow() = default;
    StoredRow(const StoredRow&) = delete;
    StoredRow& operator=(const StoredRow&) = delete;
    [[nodiscard]] const fdspan_row& assign(const fdspan_process_info& process, const fdspan_reference& reference);

private:
    fdspan_process_info process_{};
    fdspan_reference reference_{};
    fdspan_row row_{};
    std::vector<char> text_;
};

}  // namespace fdspan::capi
