#include "service/log/store.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <limits>

#include "base/unique_fd.hpp"
#include "service/log/schema.hpp"

namespace fdspan::service {
namespace {

constexpr std::uint64_t unbounded = std::numeric_limits<std::uint64_t>::max();
constexpr int delete_batch = 5000;
constexpr int vacuum_pages = 2000;
constexpr std::array<const char*, 2> companions{"-wal", "-shm"};

std::optional<std::int64_t> number(std::uint64_t value) { return static_cast<std::int64_t>(value); }

// The two columns of an interval.
void bind_moment(Statement& statement, int place, const std::optional<Interval>& moment) {
    std::optional<std::int64_t> latest, width;
    if (moment && moment->latest_ns != unbounded) {
        latest = number(moment->latest_ns);
        if (moment->is_exact() || moment->has_earliest()) width = number(moment->latest_ns - moment->earliest_ns);
    }
    statement.bind(place, latest);
    statement.bind(place + 1, width);
}

// The two columns of a length.
void bind_length(Statement& statement, int place, const std::optional<Interval>& length) {
    std::optional<std::int64_t> least, width;
    if (length) {
        least = number(length->earliest_ns);
        if (length->latest_ns != unbounded) width = number(length->latest_ns - length->earliest_ns);
    }
    statement.bind(place, least);
    statement.bind(place + 1, width);
}

std::string read_boot_id() {
    const UniqueFd file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
    char text[64];
    const ssize_t length = file.valid() ? ::read(file.get(), text, sizeof text) : 0;
    std::string id(text, length > 0 ? static_cast<std::size_t>(length) : 0);
    while (id.ends_with('\n')) id.pop_back();
    return id;
}

}  // namespace

Result<std::unique_ptr<LogStore>> LogStore::open(const StoreSettings& settings, std::uint64_t check_ns) {
    std::unique_ptr<LogStore> store(new LogStore(settings));
    if (store->settings_.boot_id.empty()) store->settings_.boot_id = read_boot_id();
    struct stat status {};
    if (::stat(settings.path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
        return fail(SQLITE_CANTOPEN, settings.path + " is not a regular file, and left alone");
    }
    auto connection = Connection::open(settings.path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    if (!connection) return tl::unexpected(connection.error());
    store->connection_ = std::move(*connection);
    ::sqlite3_busy_timeout(store->connection_.get(), 200);
    // auto_vacuum has to come before the first table. FULL: a commit survives a power loss. The log stays beside the database when
    // it is closed, so that whoever may only read can open it.
    if (auto done = store->connection_.execute("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
                                               "PRAGMA cache_size = -4096; PRAGMA journal_size_limit = 16777216; PRAGMA temp_store = MEMORY");
        !done) {
        return tl::unexpected(done.error());
    }
    int persist = 1;
    ::sqlite3_file_control(store->connection_.get(), "main", SQLITE_FCNTL_PERSIST_WAL, &persist);

    // A check of everything takes as long as it takes to read it; it is given up after a while.
    const std::uint64_t deadline = boottime_now_ns() + check_ns;
    struct Patience {
        std::uint64_t deadline;
        static int over(void* self) { return boottime_now_ns() > static_cast<Patience*>(self)->deadline ? 1 : 0; }
    } patience{deadline};
    ::sqlite3_progress_handler(store->connection_.get(), 10000, Patience::over, &patience);
    auto check = store->connection_.text("PRAGMA quick_check(1)");
    ::sqlite3_progress_handler(store->connection_.get(), 0, nullptr, nullptr);
    if (!check && check.error().code != SQLITE_INTERRUPT) return tl::unexpected(check.error());
    if (check && *check != "ok") return fail(SQLITE_CORRUPT, "the event log's database: " + *check);

    if (auto done = migrate(store->connection_); !done) return tl::unexpected(done.error());
    if (auto done = store->prepare(); !done) return tl::unexpected(done.error());
    return store;
}

Result<void> LogStore::prepare() {
    const std::pair<Statement*, const char*> statements[] = {
        {&insert_,
         "INSERT INTO events VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21,?22,?23,?24,?25,?26,?27,?28,"
         "?29,?30,?31,?32,?33,?34,?35,?36,?37,?38)"},
        {&insert_deletion_, "INSERT INTO deletions VALUES(?1,?2,?3,?4,?5,?6,?7,?8)"},
        {&insert_holder_, "INSERT INTO holders VALUES(?1,?2,?3,?4,?5,?6)"},
        {&find_dir_, "SELECT id FROM dirs WHERE path = ?1"},
        {&add_dir_, "INSERT INTO dirs(path) VALUES(?1)"},
        {&find_path_, "SELECT id FROM paths WHERE dir = ?2 AND name = ?1"},
        {&add_path_, "INSERT INTO paths(dir, name) VALUES(?2, ?1)"},
        {&add_name_, "INSERT INTO name_grams(rowid, name) VALUES(?1, name_text(?2))"},
    };
    for (const auto& [statement, sql] : statements) {
        auto prepared = connection_.prepare(sql);
        if (!prepared) return tl::unexpected(prepared.error());
        *statement = std::move(*prepared);
    }
    auto last = connection_.integer("SELECT max(id) FROM events");
    if (!last) return tl::unexpected(last.error());
    next_id_ = *last + 1;
    file_ = ::sqlite3_db_filename(connection_.get(), "main");
    const auto id = id_of_file(file_);
    if (!id) return fail(SQLITE_CANTOPEN, "stat " + settings_.path + ": it is gone already");
    id_ = *id;
    // Nobody makes them anew or deletes them while a connection is open; a checkpoint cuts them in place.
    for (std::size_t at = 0; at < companions.size(); ++at) companion_ids_[at] = id_of_file(file_ + companions[at]);
    return learn_boots();
}

// How long ago each earlier boot began, as far as that can be known: the time it was seen running, and the wall clock's word for the
// time the machine was off.
Result<void> LogStore::learn_boots() {
    struct Segment {
        std::int64_t id, first_event, boottime_ns, realtime_ns;
        std::string boot;
    };
    std::vector<Segment> segments;
    auto list = connection_.prepare("SELECT id, first_event, boottime_ns, realtime_ns, boot_id FROM segments ORDER BY id");
    if (!list) return tl::unexpected(list.error());
    while (true) {
        auto row = list->step();
        if (!row) return tl::unexpected(row.error());
        if (!*row) break;
        segments.push_back({list->integer(0), list->integer(1), list->integer(2), list->integer(3), std::string(list->text(4))});
    }
    boots_.clear();
    first_segment_of_this_boot_ = segments.empty() ? 1 : segments.back().id + 1;
    std::size_t end = segments.size();
    while (end > 0 && segments[end - 1].boot == settings_.boot_id) first_segment_of_this_boot_ = segments[--end].id;

    std::int64_t next_realtime = settings_.clock().to_realtime_ns(0);  // when the following boot began, by its first clock
    std::int64_t next_first_event = next_id_;
    if (end < segments.size()) {
        next_realtime = segments[end].realtime_ns - segments[end].boottime_ns;
        next_first_event = segments[end].first_event;
    }
    std::uint64_t start_age_ns = 0;  // this boot's is its uptime: added where ages are asked for
    while (end > 0) {
        std::size_t begin = end - 1;
        while (begin > 0 && segments[begin - 1].boot == segments[end - 1].boot) --begin;
        auto last = connection_.prepare("SELECT when_ns, time_ns FROM events WHERE id < ?1 AND id >= ?2 ORDER BY id DESC LIMIT 1");
        if (!last) return tl::unexpected(last.error());
        last->bind(1, next_first_event);
        last->bind(2, segments[begin].first_event);
        auto row = last->step();
        if (!row) return tl::unexpected(row.error());
        const std::int64_t up_ns = *row ? last->integer(0) : segments[end - 1].boottime_ns;
        const std::int64_t stopped = *row ? last->integer(1) : segments[end - 1].realtime_ns;
        const std::int64_t down_ns = std::clamp<std::int64_t>(next_realtime - stopped, 0, static_cast<std::int64_t>(max_downtime_ns));
        start_age_ns += static_cast<std::uint64_t>(down_ns + up_ns);
        boots_.push_back({segments[begin].id, segments[end - 1].id, start_age_ns});
        next_realtime = segments[begin].realtime_ns - segments[begin].boottime_ns;
        next_first_event = segments[begin].first_event;
        end = begin;
    }
    return {};
}

Result<std::uint64_t> LogStore::age_ns(std::int64_t segment, std::int64_t when_ns) {
    const std::uint64_t now = boottime_now_ns();
    const auto when = static_cast<std::uint64_t>(std::max<std::int64_t>(when_ns, 0));
    if (segment >= first_segment_of_this_boot_) return now > when ? now - when : 0;
    for (const Boot& boot : boots_) {
        if (segment < boot.first_segment || segment > boot.last_segment) continue;
        const std::uint64_t start = boot.start_age_ns + now;
        return start > when ? start - when : 0;
    }
    return fail(SQLITE_CORRUPT, "the event log's database: a row is of no known segment");
}

Result<void> LogStore::begin_segment(const WallClock& clock) {
    auto statement = connection_.prepare("INSERT INTO segments(boot_id, first_event, boottime_ns, realtime_ns) VALUES(?1, ?2, ?3, ?4)");
    if (!statement) return tl::unexpected(statement.error());
    const std::uint64_t now = boottime_now_ns();
    statement->bind(1, settings_.boot_id);
    statement->bind(2, next_id_);
    statement->bind(3, number(now));
    statement->bind(4, clock.to_realtime_ns(now));
    if (auto done = statement->run(); !done) return done;
    segment_ = ::sqlite3_last_insert_rowid(connection_.get());
    segment_offset_ns_ = clock.offset_ns;
    return {};
}

Result<LogStore::TextId> LogStore::id_of_text(Statement& find, Statement& add, std::optional<std::int64_t> dir, std::string_view text) {
    for (Statement* const statement : {&find, &add}) {
        statement->bind(1, text);
        if (dir) statement->bind(2, *dir);
        auto row = statement->step();
        if (!row) return tl::unexpected(row.error());
        if (statement == &add) return TextId{::sqlite3_last_insert_rowid(connection_.get()), true};
        if (*row) {
            const std::int64_t id = statement->integer(0);
            statement->reset();
            return TextId{id, false};
        }
    }
    return fail(SQLITE_ERROR, "unreachable");
}

Result<LogStore::Place> LogStore::place_of(const std::string& path) {
    if (const auto known = places_.find(path); known != places_.end()) return known->second;
    const std::size_t slash = path.rfind('/');
    const std::size_t split = slash == std::string::npos ? 0 : slash + 1;
    auto dir = id_of_text(find_dir_, add_dir_, std::nullopt, std::string_view(path).substr(0, split));
    if (!dir) return tl::unexpected(dir.error());
    const std::string_view name = std::string_view(path).substr(split);
    auto id = id_of_text(find_path_, add_path_, dir->id, name);
    if (!id) return tl::unexpected(id.error());
    if (id->is_new) {
        add_name_.bind(1, id->id);
        add_name_.bind(2, name);
        if (auto added = add_name_.run(); !added) return tl::unexpected(added.error());
    }
    if (places_.size() >= max_path_cache) places_.clear();
    return places_.emplace(path, Place{dir->id, id->id}).first->second;
}

Result<void> LogStore::insert(const LogRow& row, const WallClock& clock) {
    Statement& to = insert_;
    const auto text = [&to](int place, const std::string& value) {
        if (value.empty()) {
            to.bind(place, std::optional<std::int64_t>());
        } else {
            to.bind(place, std::string_view(value));
        }
    };
    const auto when_if = [&to](int place, bool there, std::int64_t value) {
        to.bind(place, there ? std::optional<std::int64_t>(value) : std::nullopt);
    };
    Place place{0, 0};
    if (!row.path.empty()) {
        // "pipe:[12]": the number stands in the row; a name each would fill the table of names.
        const bool label = row.name == NameState::nameless && row.path.ends_with(":[" + std::to_string(row.ino) + "]");
        auto found = place_of(label ? row.path.substr(0, row.path.find('[')) : row.path);
        if (!found) return tl::unexpected(found.error());
        place = *found;
    }
    const std::int64_t id = next_id_;
    const bool of_process = row.pid != 0;
    const bool of_reference = row.ref.has_value();
    to.bind(1, id);
    to.bind(2, segment_);
    to.bind(3, kind_number(row.kind));
    to.bind(4, clock.to_realtime_ns(row.when.latest_ns));
    bind_moment(to, 5, row.when);
    when_if(7, of_process, row.pid);
    bind_moment(to, 8, row.process_started);
    when_if(10, of_process, row.uid);
    text(11, row.comm);
    text(12, row.container);
    when_if(13, of_reference, static_cast<std::int64_t>(row.ref.value_or(RefKind::fd)));
    when_if(14, row.fd >= 0, row.fd);
    when_if(15, of_reference, static_cast<std::int64_t>(row.type));
    text(16, row.type_name);
    when_if(17, of_reference, static_cast<std::int64_t>(row.name));
    when_if(18, row.deleted, 1);
    when_if(19, of_reference, row.dev.major);
    when_if(20, of_reference, row.dev.minor);
    when_if(21, of_reference, static_cast<std::int64_t>(row.ino));
    when_if(22, place.dir != 0, place.dir);
    when_if(23, place.path != 0, place.path);
    bind_moment(to, 24, row.opened);
    when_if(26, row.description_id != 0, static_cast<std::int64_t>(row.description_id));
    bind_moment(to, 27, row.description_opened);
    when_if(29, row.duration.has_value(), row.duration ? log_class(row.duration->earliest_ns) : 0);
    bind_length(to, 30, row.duration);
    bind_length(to, 32, row.held_deleted);
    when_if(34, row.bytes.has_value(), log_class(row.bytes.value_or(0)));
    when_if(35, row.bytes.has_value(), static_cast<std::int64_t>(row.bytes.value_or(0)));
    when_if(36, row.kind == EventKind::lost, static_cast<std::int64_t>(row.lost_records));
    when_if(37, row.kind == EventKind::resynced, row.added);
    when_if(38, row.kind == EventKind::resynced, row.ended);
    if (auto done = to.run(); !done) return done;

    if (row.kind == EventKind::deleted) {
        Statement& deletion = insert_deletion_;
        deletion.bind(1, id);
        deletion.bind(2, static_cast<std::int64_t>(row.how));
        deletion.bind(3, static_cast<std::int64_t>(row.holder_count));
        deletion.bind(4, row.by ? std::optional<std::int64_t>(row.by->pid) : std::nullopt);
        deletion.bind(5, row.by ? std::optional<std::int64_t>(row.by->uid) : std::nullopt);
        deletion.bind(6, row.by ? row.by->comm : std::string());
        deletion.bind(7, row.by ? row.by->exe : std::string());
        deletion.bind(8, row.by ? row.by->cgroup : std::string());
        if (auto done = deletion.run(); !done) return done;
        for (std::size_t at = 0; at < row.holders.size(); ++at) {
            const LogHolder& holder = row.holders[at];
            insert_holder_.bind(1, id);
            insert_holder_.bind(2, static_cast<std::int64_t>(at));
            insert_holder_.bind(3, static_cast<std::int64_t>(holder.pid));
            insert_holder_.bind(4, static_cast<std::int64_t>(holder.ref));
            insert_holder_.bind(5, static_cast<std::int64_t>(holder.fd));
            insert_holder_.bind(6, std::string_view(holder.comm));
            if (auto done = insert_holder_.run(); !done) return done;
        }
    }
    ++next_id_;
    return {};
}

Result<void> LogStore::write(std::span<const LogRow> rows) {
    const WallClock clock = settings_.clock();
    last_clock_step_ns_ = 0;
    const std::int64_t first_id = next_id_;
    const std::int64_t segment = segment_;
    const std::int64_t segment_offset = segment_offset_ns_;
    const auto all = [&]() -> Result<void> {
        if (auto done = connection_.execute("BEGIN IMMEDIATE"); !done) return done;
        const std::int64_t step = clock.offset_ns - segment_offset_ns_;
        const bool stepped = segment_ != 0 && (step > clock_step_ns || step < -clock_step_ns);
        if (segment_ == 0 || stepped) {
            if (auto done = begin_segment(clock); !done) return done;
            if (stepped) last_clock_step_ns_ = step;
        }
        for (const LogRow& row : rows) {
            if (auto done = insert(row, clock); !done) return done;
        }
        return connection_.execute("COMMIT");
    };
    auto done = all();
    if (!done) {
        // SQLite may have rolled back already.
        if (::sqlite3_get_autocommit(connection_.get()) == 0) (void)connection_.execute("ROLLBACK");
        places_.clear();
        next_id_ = first_id;
        segment_ = segment;
        segment_offset_ns_ = segment_offset;
    }
    return done;
}

void LogStore::set_retention(std::uint64_t max_age_ns, std::uint64_t max_bytes) {
    settings_.max_age_ns = max_age_ns;
    settings_.max_bytes = max_bytes;
}

Result<bool> LogStore::retain() {
    auto list = connection_.prepare("SELECT id, segment, when_ns FROM events ORDER BY id LIMIT " + std::to_string(delete_batch));
    if (!list) return tl::unexpected(list.error());
    auto pages = connection_.integer("PRAGMA page_count");
    auto free_pages = connection_.integer("PRAGMA freelist_count");
    auto page_bytes = connection_.integer("PRAGMA page_size");
    for (const auto* const figure : {&pages, &free_pages, &page_bytes}) {
        if (!*figure) return tl::unexpected(figure->error());
    }
    const auto used = static_cast<std::uint64_t>((*pages - *free_pages) * *page_bytes);
    const bool too_large = used > settings_.max_bytes;
    std::int64_t first = 0, last = 0;
    while (true) {
        auto row = list->step();
        if (!row) return tl::unexpected(row.error());
        if (!*row) break;
        if (list->integer(0) == last_id()) break;  // stays, so that no id is given twice
        auto age = age_ns(list->integer(1), list->integer(2));
        if (!age) return tl::unexpected(age.error());
        if (!too_large && *age <= settings_.max_age_ns) break;
        if (first == 0) first = list->integer(0);
        last = list->integer(0);
    }
    list->reset();
    bool more = false;
    if (last != 0) {
        auto deleted = delete_oldest(first, last);
        if (!deleted) return deleted;
        more = *deleted;
    }
    free_pages = connection_.integer("PRAGMA freelist_count");
    if (!free_pages) return tl::unexpected(free_pages.error());
    // What is free is used again first; only a file that is too large has to give it back.
    if (*free_pages > 0 && static_cast<std::uint64_t>(*pages * *page_bytes) > settings_.max_bytes) {
        if (auto done = connection_.execute("PRAGMA incremental_vacuum(" + std::to_string(vacuum_pages) + ")"); !done) {
            return tl::unexpected(done.error());
        }
        more = more || *free_pages > vacuum_pages;
    }
    return more;
}

Result<bool> LogStore::delete_oldest(std::int64_t first_id, std::int64_t last_id) {
    const std::string range = " BETWEEN " + std::to_string(first_id) + " AND " + std::to_string(last_id);
    const std::string sql =
        "BEGIN IMMEDIATE;"
        "CREATE TEMP TABLE unused AS SELECT DISTINCT dir, path FROM events WHERE id" + range + " AND path IS NOT NULL;"
        "DELETE FROM holders WHERE event" + range + ";DELETE FROM deletions WHERE event" + range + ";DELETE FROM events WHERE id" + range + ";"
        "DELETE FROM unused WHERE EXISTS (SELECT 1 FROM events WHERE path = unused.path);"
        "INSERT INTO name_grams(name_grams, rowid, name) SELECT 'delete', id, name_text(name) FROM paths WHERE id IN (SELECT path FROM unused);"
        "DELETE FROM paths WHERE id IN (SELECT path FROM unused);"
        "DELETE FROM dirs WHERE id IN (SELECT dir FROM unused) AND NOT EXISTS (SELECT 1 FROM paths WHERE dir = dirs.id);"
        "DELETE FROM segments WHERE id < (SELECT coalesce(min(segment), 0) FROM events WHERE id = (SELECT min(id) FROM events));"
        "DROP TABLE unused;COMMIT";
    auto done = connection_.execute(sql);
    places_.clear();
    if (!done) {
        if (::sqlite3_get_autocommit(connection_.get()) == 0) (void)connection_.execute("ROLLBACK");
        return tl::unexpected(done.error());
    }
    if (auto learned = learn_boots(); !learned) return tl::unexpected(learned.error());
    return true;
}

std::optional<LogStore::FileId> LogStore::id_of_file(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return std::nullopt;
    return FileId{status.st_dev, status.st_ino};
}

FileIdentity LogStore::identity() const {
    struct stat status {};
    if (::stat(settings_.path.c_str(), &status) != 0) {
        if (errno != ENOENT && errno != ENOTDIR) return FileIdentity::same;
        // A link to where nothing is yet, while ours is where it was.
        return ::lstat(settings_.path.c_str(), &status) == 0 && id_of_file(file_) == id_ ? FileIdentity::replaced : FileIdentity::gone;
    }
    if (FileId{status.st_dev, status.st_ino} != id_) return FileIdentity::replaced;
    // Whoever opens an emptied database makes SQLite delete its write-ahead log.
    if (status.st_size == 0) return FileIdentity::damaged;
    for (std::size_t at = 0; at < companions.size(); ++at) {
        if (!companion_ids_[at]) continue;
        const auto id = id_of_file(file_ + companions[at]);
        if (id ? id != companion_ids_[at] : errno == ENOENT) return FileIdentity::damaged;
    }
    return FileIdentity::same;
}

Result<void> LogStore::restore_file() const {
    // Only a link that led to it went.
    if (identity() == FileIdentity::gone && id_of_file(file_) == id_) {
        if (::symlink(file_.c_str(), settings_.path.c_str()) != 0) {
            return fail(SQLITE_IOERR, "put the link to the event log back: " + std::generic_category().message(errno));
        }
        if (identity() == FileIdentity::same) return {};
    }
    const std::string staged = file_ + ".restoring";
    ::unlink(staged.c_str());
    const auto copy = [&]() -> Result<void> {
        auto target = Connection::open(staged, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
        if (!target) return tl::unexpected(target.error());
        sqlite3_backup* const backup = ::sqlite3_backup_init(target->get(), "main", connection_.get(), "main");
        if (backup == nullptr) return target->failure("copy the event log");
        const int code = ::sqlite3_backup_step(backup, -1);
        ::sqlite3_backup_finish(backup);
        if (code != SQLITE_DONE) return fail(code & 0xff, std::string("copy the event log: ") + ::sqlite3_errstr(code));
        return {};
    };
    auto done = copy();
    for (const char* const companion : companions) ::unlink((staged + companion).c_str());
    // Leftovers of the old write-ahead log would be taken for the new database's.
    const auto remove_companions = [this] {
        for (const char* const companion : companions) ::unlink((file_ + companion).c_str());
    };
    if (done && id_of_file(file_) == id_) {
        // The old log beside the copy says what the copy says: killed in between, nothing is lost.
        if (::rename(staged.c_str(), file_.c_str()) == 0) {
            remove_companions();
            return {};
        }
        done = fail(SQLITE_IOERR, "put the event log back: " + std::generic_category().message(errno));
    } else if (done) {
        remove_companions();
        // Not onto a file that somebody has put there meanwhile.
        if (::link(staged.c_str(), file_.c_str()) != 0) done = fail(SQLITE_IOERR, "put the event log back: " + std::generic_category().message(errno));
    }
    ::unlink(staged.c_str());
    return done;
}

Result<std::uint64_t> LogStore::file_bytes() const {
    std::uint64_t bytes = 0;
    for (const char* const companion : {"", "-wal"}) {
        struct stat status {};
        if (::stat((file_ + companion).c_str(), &status) == 0) bytes += static_cast<std::uint64_t>(status.st_size);
    }
    return bytes;
}

}  // namespace fdspan::service
