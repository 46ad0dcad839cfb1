#include "service/log/schema.hpp"

#include <iterator>

namespace fdspan::service {
namespace {

// An interval is two columns: X_ns, its latest end, and X_width, latest - earliest: 0 when it is exact, NULL when nothing is
// known about the earliest. A length is X_ns, what is certain, and X_width, how much longer it may have been. Numbers that stand for
// words are those of kind_number() and the enumerators of RefKind, FileType, NameState and Removal.
constexpr const char* steps[] = {
    // 1
    R"sql(
CREATE TABLE segments(       -- between two of them the clocks ran evenly: realtime - boottime is one number
    id INTEGER PRIMARY KEY,
    boot_id TEXT NOT NULL,
    first_event INTEGER NOT NULL,
    boottime_ns INTEGER NOT NULL,
    realtime_ns INTEGER NOT NULL);
CREATE TABLE dirs(id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE);   -- with the "/" at the end
CREATE TABLE paths(id INTEGER PRIMARY KEY, dir INTEGER NOT NULL REFERENCES dirs(id), name TEXT NOT NULL, UNIQUE(dir, name));
CREATE TABLE events(
    id INTEGER PRIMARY KEY,
    segment INTEGER NOT NULL REFERENCES segments(id),
    kind INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    when_ns INTEGER NOT NULL, when_width INTEGER,
    pid INTEGER, started_ns INTEGER, started_width INTEGER, uid INTEGER, comm TEXT, container TEXT,
    ref INTEGER, fd INTEGER, type INTEGER, type_name TEXT, name INTEGER, deleted INTEGER,
    dev_major INTEGER, dev_minor INTEGER, ino INTEGER,
    dir INTEGER REFERENCES dirs(id), path INTEGER REFERENCES paths(id),
    opened_ns INTEGER, opened_width INTEGER,
    description INTEGER, description_ns INTEGER, description_width INTEGER,
    duration_class INTEGER, duration_ns INTEGER, duration_width INTEGER,
    held_ns INTEGER, held_width INTEGER,
    bytes_class INTEGER, bytes INTEGER,
    lost INTEGER, added INTEGER, ended INTEGER);
CREATE TABLE deletions(
    event INTEGER PRIMARY KEY REFERENCES events(id),
    how INTEGER NOT NULL, holders INTEGER NOT NULL,
    by_pid INTEGER, by_uid INTEGER, by_comm TEXT, by_exe TEXT, by_cgroup TEXT);
CREATE TABLE holders(
    event INTEGER NOT NULL REFERENCES events(id), place INTEGER NOT NULL,
    pid INTEGER NOT NULL, ref INTEGER NOT NULL, fd INTEGER NOT NULL, comm TEXT NOT NULL,
    PRIMARY KEY(event, place)) WITHOUT ROWID;
CREATE INDEX events_time ON events(time_ns);
CREATE INDEX events_pid ON events(pid, time_ns) WHERE pid IS NOT NULL;
CREATE INDEX events_dir ON events(dir, time_ns) WHERE dir IS NOT NULL;
CREATE INDEX events_path ON events(path, time_ns) WHERE path IS NOT NULL;
CREATE INDEX events_deleted ON events(time_ns) WHERE deleted = 1;
CREATE INDEX events_duration ON events(duration_class, time_ns) WHERE duration_class IS NOT NULL;
CREATE INDEX events_bytes ON events(bytes_class, time_ns) WHERE bytes_class IS NOT NULL;
)sql",
    // 2: did anything get lost in this stretch of time?
    "CREATE INDEX events_lost ON events(time_ns) WHERE lost IS NOT NULL;",
};
static_assert(std::size(steps) == schema_version);

}  // namespace

Result<void> migrate(const Connection& connection, std::int64_t to) {
    auto version = connection.integer("PRAGMA user_version");
    if (!version) return tl::unexpected(version.error());
    if (*version > schema_version) {
        return fail(SQLITE_MISMATCH, "the event log was made by a newer fdspan (version " + std::to_string(*version) + ", this one knows " +
                                         std::to_string(schema_version) + ")");
    }
    for (std::int64_t step = *version; step < to; ++step) {
        const std::string sql = std::string("BEGIN IMMEDIATE;") + steps[step] + "PRAGMA application_id = " + std::to_string(application_id) +
                                ";PRAGMA user_version = " + std::to_string(step + 1) + ";COMMIT;";
        if (auto done = connection.execute(sql); !done) {
            if (::sqlite3_get_autocommit(connection.get()) == 0) (void)connection.execute("ROLLBACK");
            return done;
        }
    }
    return {};
}

}  // namespace fdspan::service
