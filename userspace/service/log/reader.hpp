// LogReader: answers questions from the event log's database, which another process may be writing. One thread.
#pragma once

#include <sys/types.h>

#include <compare>
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
    std::optional<std::uint64_t> ino;                  // the number of what has a label for a name: "pipe:" is the path of all pipes
    std::vector<pid_t> pids;                           // empty: any
    bool deleted = false;
    std::optional<std::uint64_t> min_duration_ns;      // certainly at least
    std::optional<std::uint64_t> min_bytes;
    std::optional<std::uint64_t> limit;                // empty: all
};

// How far each way to the rows of a pattern is gone before another is tried. What is answered does not depend on it.
struct LogEffort {
    struct Bounds {
        std::size_t names, looked_at;  // that match, and to find those
    };
    Bounds at_first{5000, 20000};
    // Then so many of the newest rows: where very many names match, it is likely that enough of them do.
    std::size_t probed_rows = 30000;
    Bounds at_last{100000, 20000000};
    std::size_t dirs = 20000;  // looked up one by one
    // Found, and of these read, before they are shown: no state of the database is held while somebody looks at them.
    std::size_t found_at_once = 65536;
    std::size_t read_at_once = 100;
};

class LogReader {
public:
    static Result<LogReader> open(const std::string& path, const LogEffort& effort = {});

    // Newest first. False from `visit` ends it; it may take its time.
    using Visit = std::function<bool(const LogRow&)>;
    Result<void> query(const LogQuery& query, const Visit& visit);
    // What was written after the row `id`, oldest first, as far as `query` asks for it (its limit is not looked at). Returns the last id there is.
    Result<std::int64_t> query_after(const LogQuery& query, std::int64_t id, const Visit& visit);

    // Events that the kernel or the log lost in this time, or may have: all of a loss that lies in it with any part of its own.
    Result<std::uint64_t> lost(std::optional<std::int64_t> since_ns, std::optional<std::int64_t> until_ns);
    Result<std::int64_t> last_id();
    // Whether the path still leads to the file that is open here.
    [[nodiscard]] bool is_current() const;

    // EXPLAIN QUERY PLAN of every statement that the last query ran on events.
    Result<std::vector<std::string>> explain() const;

private:
    // One way to find the rows: through indexes, for each of a few keys. No row is found by two of them.
    struct Part {
        std::string condition;             // with ?1 for the key; "": none
        std::vector<std::int64_t> keys;
        std::string index;
        bool path_decided = false;         // all that it finds is of a path that was asked for
    };
    using Way = std::vector<Part>;
    static Way by_time();
    struct Found {
        std::int64_t time_ns, id;
        auto operator<=>(const Found&) const = default;
    };
    // How far an answer is.
    struct Search {
        std::vector<Found> found;      // newest first
        std::size_t next = 0;          // of `found`, to be read
        std::optional<Part> in_order;  // finds more of them, which are older than the last; without it that is all
    };
    Result<void> in_one_state(const std::function<Result<void>()>& read);
    Result<void> begin_search(const LogQuery& query, Search& search);
    Result<void> find(const Way& way, const LogQuery& query, std::vector<Found>& found);
    Result<void> find_more(const LogQuery& query, Search& search);
    Result<void> read_found(Search& search, std::vector<LogRow>& piece);
    // Among the newest rows there are enough that match: they are in `found`, newest first.
    Result<bool> probe(const LogQuery& query, std::vector<Found>& found);
    Result<void> leave_rarest(std::vector<std::string>& terms);
    Result<std::optional<Way>> way_by_path(const LogQuery& query, const LogEffort::Bounds& bounds);
    Result<std::optional<std::vector<std::int64_t>>> names_by_text(const LogQuery& query, const std::vector<std::int64_t>& whole_dirs, std::size_t most);
    Result<std::uint64_t> estimate(const Way& way, const LogQuery& query);
    Result<Way> choose(const LogQuery& query, const LogEffort::Bounds& bounds);
    Result<Statement> candidates(const Part& part, const LogQuery& query, bool newest_first);
    Result<bool> matches(Statement& row, const LogQuery& query, bool path_decided);
    struct KnownPath {
        std::int64_t dir;
        bool matched;
    };
    Result<KnownPath> look_at_path(std::int64_t path, const LogQuery& query);
    Result<std::optional<LogRow>> read(std::int64_t id);

    Connection connection_;
    LogEffort effort_;
    std::string path_;
    dev_t device_ = 0;
    ino_t inode_ = 0;
    std::optional<Statement> read_row_, read_holders_, read_path_;
    std::unordered_map<std::int64_t, KnownPath> path_memo_;  // of memo_glob_
    std::string memo_glob_;
    std::unordered_map<std::int64_t, std::string> boots_;
    std::vector<std::string> statements_;
};

}  // namespace fdspan::service
