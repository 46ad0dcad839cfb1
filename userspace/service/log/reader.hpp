// LogReader: answers questions from the event log's database, which another process may be writing. One thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "service/log/row.hpp"
#include "service/log/sqlite.hpp"

namespace fdspan::service {

struct LogQuery {
    std::optional<std::int64_t> since_ns, until_ns;    // wall clock, inclusive
    std::string path_glob;                             // as fnmatch(3) without flags: * and ? match a slash, too; empty: any
    std::vector<pid_t> pids;                           // empty: any
    bool deleted = false;
    std::optional<std::uint64_t> min_duration_ns;      // certainly at least
    std::optional<std::uint64_t> min_bytes;
    std::optional<std::uint64_t> limit;                // empty: all
};

class LogReader {
public:
    static Result<LogReader> open(const std::string& path);

    // Newest first. False from `visit` ends it.
    using Visit = std::function<bool(const LogRow&)>;
    Result<void> query(const LogQuery& query, const Visit& visit);
    // What was written after the row `id`, oldest first, as far as `query` asks for it (its limit is not looked at). Returns the last id there is.
    Result<std::int64_t> query_after(const LogQuery& query, std::int64_t id, const Visit& visit);

    // Events that the kernel or the log lost in this time.
    Result<std::uint64_t> lost(std::optional<std::int64_t> since_ns, std::optional<std::int64_t> until_ns);
    Result<std::int64_t> last_id();
    // Whether the path still leads to the file that is open here.
    [[nodiscard]] bool is_current() const;

    // EXPLAIN QUERY PLAN of every statement that the last query ran on events.
    Result<std::vector<std::string>> explain() const;

private:
    // One way to find the rows: through an index, for each of a few keys.
    struct Way {
        std::string condition;             // with ?1 for the key; "": none
        std::vector<std::int64_t> keys;
        std::string index;
    };
    Result<void> answer(const LogQuery& query, const Visit& visit);
    Result<void> add_path_ways(const LogQuery& query, std::vector<Way>& ways);
    Result<std::uint64_t> estimate(const Way& way, const LogQuery& query);
    Result<Way> choose(const LogQuery& query);
    Result<Statement> candidates(const Way& way, const LogQuery& query, bool newest_first);
    Result<bool> matches(Statement& row, const LogQuery& query);
    Result<bool> path_matches(std::int64_t path, const LogQuery& query);
    Result<LogRow> read(std::int64_t id);

    Connection connection_;
    std::string path_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
    std::optional<Statement> read_row_, read_holders_, read_path_;
    std::unordered_map<std::int64_t, bool> path_memo_;  // of memo_glob_
    std::string memo_glob_;
    std::unordered_map<std::int64_t, std::string> boots_;
    std::vector<std::string> statements_;
};

}  // namespace fdspan::service
