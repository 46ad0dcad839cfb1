// LogStore: the event log's database, opened for writing. Knows nothing of threads, queues or patience: a call does its work or
// returns SQLite's code. One thread.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.hpp"
#include "service/log/row.hpp"
#include "service/log/sqlite.hpp"

namespace fdspan::service {

struct StoreSettings {
    std::string path = {};
    std::uint64_t max_age_ns = 30ULL * 24 * 3600 * 1'000'000'000;
    std::uint64_t max_bytes = 1ULL << 30;      // of the database file; the write-ahead log comes on top
    std::function<WallClock()> clock = WallClock::now;  // tests jump it
    std::string boot_id = {};                  // empty: this boot's
};

// The files that the connection writes to, compared with those that are there by their names now. damaged: the database was emptied, or
// its write-ahead log or the index of that is another one or none; only this connection still knows all rows.
enum class FileIdentity : std::uint8_t { same, gone, replaced, damaged };

class LogStore {
public:
    static constexpr std::size_t max_path_cache = 65536;
    // A wall clock that is off by more than this against the segment's was set, not slewed.
    static constexpr std::int64_t clock_step_ns = 2'000'000'000;
    // Between two boots the wall clock is all there is, and it may be wrong: no more than this of it counts as age.
    static constexpr std::uint64_t max_downtime_ns = 7ULL * 24 * 3600 * 1'000'000'000;

    // Opens or makes it, checks it for as long as `check_ns` allows, and migrates it.
    static Result<std::unique_ptr<LogStore>> open(const StoreSettings& settings, std::uint64_t check_ns = 2'000'000'000);
    LogStore(const LogStore&) = delete;
    LogStore& operator=(const LogStore&) = delete;

    // All of them, or none. What is written when this returns survives a power loss.
    Result<void> write(std::span<const LogRow> rows);
    // Takes away what is too old or too much, a piece at a time. True: there is more to take away.
    Result<bool> retain();
    void set_retention(std::uint64_t max_age_ns, std::uint64_t max_bytes);

    [[nodiscard]] FileIdentity identity() const;
    // Copies everything into a new database at the path, for when it is gone or damaged: in its place, but not onto another's file.
    Result<void> restore_file() const;

    [[nodiscard]] Result<std::uint64_t> file_bytes() const;
    // How far the wall clock was set at the last write, + forward; 0: it was not.
    [[nodiscard]] std::int64_t last_clock_step_ns() const { return last_clock_step_ns_; }
    [[nodiscard]] std::int64_t last_id() const { return next_id_ - 1; }

private:
    struct Place {
        std::int64_t dir, path;
    };
    explicit LogStore(StoreSettings settings) : settings_(std::move(settings)) {}
    Result<void> prepare();
    struct FileId {
        dev_t device = 0;
        ino_t inode = 0;
        bool operator==(const FileId&) const = default;
    };
    static std::optional<FileId> id_of_file(const std::string& path);
    Result<void> begin_segment(const WallClock& clock);
    Result<void> insert(const LogRow& row, const WallClock& clock);
    Result<Place> place_of(const std::string& path);
    struct TextId {
        std::int64_t id;
        bool is_new;
    };
    Result<TextId> id_of_text(Statement& find, Statement& add, std::optional<std::int64_t> dir, std::string_view text);
    Result<bool> delete_oldest(std::int64_t first_id, std::int64_t last_id);
    // Of a row: how long ago, in time that surely passed.
    Result<std::uint64_t> age_ns(std::int64_t segment, std::int64_t when_ns);
    Result<void> learn_boots();

    struct Boot {
        std::int64_t first_segment, last_segment;
        std::uint64_t start_age_ns;  // how long ago it began, at ages_at_ns_
    };

    StoreSettings settings_;
    Connection connection_;
    Statement insert_, insert_deletion_, insert_holder_, find_dir_, add_dir_, find_path_, add_path_, add_name_;
    std::unordered_map<std::string, Place> places_;
    std::int64_t next_id_ = 1;
    std::int64_t segment_ = 0;          // 0: none of this run yet
    std::int64_t segment_offset_ns_ = 0;
    std::int64_t last_clock_step_ns_ = 0;
    std::vector<Boot> boots_;           // of earlier boots
    std::int64_t first_segment_of_this_boot_ = 0;
    std::string file_;                  // what the path leads to, links followed: its companions lie beside that
    FileId id_;
    std::array<std::optional<FileId>, 2> companion_ids_;  // of -wal and -shm; a file system that can't share memory has none
};

}  // namespace fdspan::service
