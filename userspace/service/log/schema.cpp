#include "service/log/schema.hpp"

#include <algorithm>
#include <iterator>
#include <optional>

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
    // 3: names by any three characters in a row; and indexes that answer what is often asked together without a look at the row.
    // The id is in them because rows of one moment are ordered by it.
    R"sql(
CREATE VIRTUAL TABLE name_grams USING fts5(name, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1');
INSERT INTO name_grams(rowid, name) SELECT id, name_text(name) FROM paths ORDER BY id;
DROP INDEX events_dir;
CREATE INDEX events_dir ON events(dir, time_ns, id, deleted) WHERE dir IS NOT NULL;
DROP INDEX events_deleted;
CREATE INDEX events_deleted ON events(time_ns, id, deleted, path, pid) WHERE deleted = 1;
)sql",
};
static_assert(std::size(steps) == schema_version);

constexpr std::size_t longest_marked = 0xfe;
constexpr std::size_t unknown_mark = 0xff;

// U+E000 and up: a private use area, which three bytes reach.
std::string private_character(std::size_t number) {
    return {'\xee', static_cast<char>(0x80 | (number >> 6)), static_cast<char>(0x80 | (number & 0x3f))};
}

// Bytes that begin a character; nothing when the text is not UTF-8.
std::optional<std::size_t> characters(std::string_view text) {
    std::size_t count = 0;
    for (std::size_t at = 0; at < text.size(); ++count) {
        const auto first = static_cast<unsigned char>(text[at++]);
        if (first < 0x80) continue;
        if (first < 0xc2 || first > 0xf4) return std::nullopt;
        for (int more = first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3; more > 0; --more, ++at) {
            if (at >= text.size() || (static_cast<unsigned char>(text[at]) & 0xc0) != 0x80) return std::nullopt;
        }
    }
    return count;
}

void name_text_function(sqlite3_context* context, int, sqlite3_value** values) {
    const auto* const bytes = static_cast<const char*>(::sqlite3_value_blob(values[0]));
    const std::string text = name_text({bytes == nullptr ? "" : bytes, static_cast<std::size_t>(::sqlite3_value_bytes(values[0]))});
    ::sqlite3_result_text64(context, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
}

}  // namespace

std::string name_length_mark(std::size_t count) { return private_character(std::min(count, longest_marked)); }
std::string name_length_unknown() { return private_character(unknown_mark); }

std::string name_text(std::string_view name) {
    const std::optional<std::size_t> count = characters(name);
    const std::string mark = count ? name_length_mark(*count) : name_length_unknown();
    std::string text;
    text.append("/").append(name).append("/").append(mark).append(mark);
    return text;
}

Result<void> migrate(const Connection& connection, std::int64_t to) {
    constexpr int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
    if (::sqlite3_create_function(connection.get(), "name_text", 1, flags, nullptr, name_text_function, nullptr, nullptr) != SQLITE_OK) {
        return connection.failure("prepare the event log's database");
    }
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
