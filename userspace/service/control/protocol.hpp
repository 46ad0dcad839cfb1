// What the daemon and its clients say to each other over the unix socket. One request a connection; the answer is a sequence of
// messages. Both ends are on one machine: numbers are in its byte order. Sizes are bounded on both sides.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace fdspan::service {

inline constexpr const char* default_socket = "/run/fdspan/fdspan.sock";

inline constexpr std::uint32_t protocol_magic = 0x70736466;  // "fdsp"
inline constexpr std::uint16_t protocol_version = 1;
inline constexpr std::uint32_t max_request_bytes = 16384;    // behind the header
inline constexpr std::uint32_t max_answer_bytes = 16U << 20; // of one message
inline constexpr std::uint32_t max_rows_of_process = 65536;  // a process with more is answered for in part

enum class MessageType : std::uint16_t {
    ask_times = 1,  // pids, 32 bits each; none: all
    ask_check = 2,
    ask_deletions = 3,  // pids as with ask_times: files without a name that these hold
    begin = 101,    // TimesBegin
    process = 102,  // TimesProcess, then its TimesRows
    end = 103,
    check = 104,    // JSON text
    deletion = 105,  // DeletionRow, then the three texts
    error = 199,    // a sentence
};

struct MessageHeader {
    std::uint32_t magic = protocol_magic;
    std::uint16_t version = protocol_version;
    std::uint16_t type = 0;
    std::uint32_t bytes = 0;  // behind the header
};
static_assert(sizeof(MessageHeader) == 12);

struct TimesBegin {
    std::uint32_t backend = 0;  // Backend
    std::uint32_t certain = 0;  // 0: events were lost or wait to be read, and times may be of what was open there before
};

struct TimesProcess {
    std::int32_t pid = 0;
    std::uint32_t rows = 0;
    std::uint64_t started_earliest_ns = 0, started_latest_ns = 0;
};
static_assert(sizeof(TimesProcess) == 24);

// A descriptor or a mapping. An interval is exact where its bit says so.
struct TimesRow {
    std::int32_t tid = 0;
    std::int32_t fd = -1;        // -1: a mapping
    std::uint32_t dev_major = 0, dev_minor = 0;
    std::uint64_t ino = 0;
    std::uint64_t map_start = 0;
    std::uint64_t description_id = 0;
    std::uint64_t opened_earliest_ns = 0, opened_latest_ns = 0;
    std::uint64_t description_earliest_ns = 0, description_latest_ns = 0;
    std::uint32_t exact = 0;     // bit 0: opened, bit 1: description
    std::uint32_t reserved = 0;
};
static_assert(sizeof(TimesRow) == 80);

// A file without a name: when the last one went, how, and who took it.
struct DeletionRow {
    std::uint32_t dev_major = 0, dev_minor = 0;
    std::uint64_t ino = 0;
    std::uint64_t earliest_ns = 0, latest_ns = 0;
    std::uint32_t exact = 0;
    std::uint32_t how = 0;       // Removal
    std::int32_t pid = 0;        // 0: nobody saw who did it, or it is not for the caller to know
    std::uint32_t uid = 0;
    std::uint16_t comm_bytes = 0, exe_bytes = 0, cgroup_bytes = 0, reserved = 0;
};
static_assert(sizeof(DeletionRow) == 56);

inline void append_bytes(std::string& out, const void* data, std::size_t bytes) { out.append(static_cast<const char*>(data), bytes); }

// The payload may come in two pieces.
inline void append_message(std::string& out, MessageType type, std::string_view payload, std::string_view rest = {}) {
    MessageHeader header;
    header.type = static_cast<std::uint16_t>(type);
    header.bytes = static_cast<std::uint32_t>(payload.size() + rest.size());
    out.reserve(out.size() + sizeof header + header.bytes);
    append_bytes(out, &header, sizeof header);
    out += payload;
    out += rest;
}

// The struct at the front of `bytes`, which has to be long enough.
template <class T>
T take_struct(std::string_view& bytes) {
    T value;
    std::memcpy(&value, bytes.data(), sizeof value);
    bytes.remove_prefix(sizeof value);
    return value;
}

}  // namespace fdspan::service
