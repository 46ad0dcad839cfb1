// Index: what every process holds open, kept current by records and corrected by snapshots (reconcile/).
//
// Owns processes, descriptor tables, descriptions and paths. Not thread-safe: one thread at a time. Times are
// CLOCK_BOOTTIME nanoseconds. Deterministic: the same records give the same index and the same events.
// Fork shares the pages of a table until one side writes (a table is mostly a copy of its parent's).
// A loss shows as processes that `incomplete()` names, as slots that the next reconcile corrects, and never as a moved
// exact time. Memory follows what is open: nothing is kept of what ended, except short histories with a stated bound.
#pragma once

#include <sys/types.h>

#include <array>
#include <bit>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/event.hpp"
#include "base/reference.hpp"
#include "decode/decode.hpp"
#include "index/interval_store.hpp"
#include "index/path_store.hpp"
#include "index/pool.hpp"

namespace fdspan {

using EventSink = std::function<void(const Event&)>;

// What is known of the removal of a file's name when the index is told.
struct RemovalNote {
    struct By {
        pid_t pid = 0;
        uid_t uid = 0;
        std::string_view comm, exe, cgroup;
    };
    Interval when;
    Removal how = Removal::unknown;
    const By* by = nullptr;  // null: nobody saw it
    std::optional<std::uint64_t> allocated;
};

// A file without links as a query shows it; valid until the index is changed.
struct DeletedView {
    Interval when;
    Removal how = Removal::unknown;
    std::optional<RemovalNote::By> by;  // nothing: nobody saw it
};

// One reference as a query shows it; valid during the call, in which the index must not be asked or changed.
// An index does not follow size, allocated, pos and mnt_id: Reference::valid is without field_size and field_position.
struct IndexRow {
    const Process& process;
    const Reference& reference;
    const StringTable& strings;
};
using RowVisitor = std::function<void(const IndexRow&)>;

struct IndexCounts {
    std::uint32_t processes = 0;
    std::uint32_t tables = 0;
    std::uint32_t pages = 0;          // of tables; shared ones count once
    std::uint64_t descriptors = 0;    // slots of tables: what processes share counts once per table
    std::uint32_t descriptions = 0;
    std::uint32_t directories = 0;
    std::uint32_t unheld = 0;         // descriptions that nothing known holds: mapped, in flight, or gone unseen
    std::uint64_t unheld_dropped = 0; // of those, forgotten because there were more than Index::max_unheld
    std::uint64_t unknown_closes = 0; // CLOSED records about descriptors the index did not have
    std::uint64_t stale_records = 0;  // records older than what is known by now
};

class Index {
public:
    static constexpr std::uint32_t max_unheld = 65536;
    static constexpr std::size_t max_history = 1U << 18;  // ended descriptors and processes remembered for the next reconcile
    static constexpr std::size_t max_holders = 1024;      // that an event lists; it counts all

    Index();
    ~Index();
    Index(const Index&) = delete;
    Index& operator=(const Index&) = delete;

    // Takes one record. `sink` may be empty.
    void apply(const Record& record, const EventSink& sink);

    // Tells that records of this window were lost. Until a snapshot of all processes began behind it, ends that are only
    // implied (by an exit, an exec) are bounded: the descriptor's own end may have been lost.
    void note_loss(const Interval& window);

    // Tells that a file has `nlink` links (0: deleted), as asked for at `at_ns`. Returns how many descriptions of it the
    // index has; emits nothing.
    std::size_t set_links(DeviceNumber dev, std::uint64_t ino, std::uint32_t nlink, std::uint64_t at_ns);

    // The file has no name left: its descriptions become deleted, and one event tells it with all that hold it, once. Returns
    // whether this was news.
    bool note_deleted(DeviceNumber dev, std::uint64_t ino, const RemovalNote& note, const EventSink& sink);
    // This description's file lost the name it was opened by, and has `nlink` left.
    void note_unlinked(std::uint32_t description, std::uint32_t nlink, const RemovalNote& note, const EventSink& sink);

    // Nothing known holds some deleted file any more, and only a snapshot can tell whether that is the end of it. Asking forgets it.
    [[nodiscard]] bool take_release_in_doubt() { return std::exchange(release_in_doubt_, false); }

    // ---- queries; each costs about what it returns ----
    [[nodiscard]] bool has_process(pid_t pid) const { return by_pid_.contains(pid); }
    [[nodiscard]] std::vector<pid_t> processes() const;  // ascending
    [[nodiscard]] std::vector<pid_t> processes_of(uid_t real_uid) const;  // in no order
    void for_each(const RowVisitor& visit) const;  // ascending by pid
    void for_each_of_process(pid_t pid, const RowVisitor& visit) const;
    void for_each_of_file(DeviceNumber dev, std::uint64_t ino, const RowVisitor& visit) const;
    void for_each_of_description(std::uint64_t id, const RowVisitor& visit) const;
    // The file or directory of this path, as last known, and everything below it. The entries of the directory that
    // holds it are looked through.
    void for_each_under(std::string_view path, const RowVisitor& visit) const;
    void for_each_deleted(const RowVisitor& visit) const;
    // The files themselves, in no order; and when one of them lost its last name, how and by whom.
    [[nodiscard]] std::vector<std::pair<DeviceNumber, std::uint64_t>> deleted_files() const;
    [[nodiscard]] std::optional<DeletedView> deleted_file(DeviceNumber dev, std::uint64_t ino) const;
    // References whose description was certainly open at `boottime_ns` or before.
    void for_each_older_than(std::uint64_t boottime_ns, const RowVisitor& visit) const;
    // False when the slot is empty or unknown. tid 0: the process's own table.
    bool lookup(pid_t pid, pid_t tid, std::int32_t fd, const RowVisitor& visit) const;

    // Processes whose descriptors are not known completely (seen first in the middle of their life, or a table too large for
    // a record), ascending. A reconcile that read them clears them.
    [[nodiscard]] std::vector<pid_t> incomplete() const;
    // Openings of some files give no records: a slot of which nothing is known is no reason to read its process.
    void expect_gaps(bool expected) { gaps_expected_ = expected; }
    [[nodiscard]] std::size_t incomplete_count() const { return incomplete_count_; }
    // What ended is remembered in no more than so many bytes, beside what max_history says.
    void bound_history(std::size_t bytes) { max_history_bytes_ = bytes; }

    [[nodiscard]] IndexCounts counts() const;
    [[nodiscard]] std::size_t index_bytes() const;
    // Of these, what ended spans have left for those that come: memory is used again, and not given back.
    [[nodiscard]] std::size_t reusable_bytes() const;
    // Gives back what names of other lengths left, where that is much; costs O(everything). Returns whether it did.
    bool pack_names();

    // Throws away nothing; checks every invariant between the structures and returns the first one that is broken ("" if none).
    // For tests: costs O(everything).
    [[nodiscard]] std::string check() const;

private:
    friend class Reconciler;
    friend class Removals;
    friend class IndexCursor;

    static constexpr unsigned page_slots = 16;
    static constexpr std::uint32_t none = 0;
    static constexpr std::int32_t max_fd = (1 << 26) - 1;  // bounds a table's page list; fs.nr_open's default is 1 << 20
    static constexpr std::uint64_t history_ns = 120'000'000'000;  // no snapshot takes longer to read and reconcile
    // Of an unordered_map's node, beside its pair: the link, the allocator's header; and a bucket.
    static constexpr std::size_t node_overhead = 3 * sizeof(void*);

    // A reference to a description, in its list: a slot (page << 4 | slot) or a held one.
    using RefId = std::uint32_t;
    static constexpr RefId held_bit = 1U << 31;
    static constexpr std::uint32_t cloexec_bit = 1U << 31;
    static constexpr std::uint32_t inherited_bit = 1U << 31;

    struct Page {
        std::uint32_t description[page_slots];  // 0: empty; cloexec_bit
        RefId next[page_slots];
        RefId previous[page_slots];
        StoredTime opened[page_slots];
        std::uint32_t first_fd;
        std::uint32_t users;                // tables
        std::uint32_t sole_user;            // the table, while users == 1
        std::uint16_t mask;                 // filled slots
        std::vector<std::uint32_t> tables;  // all users, while users > 1
    };
    struct TableUser {
        std::uint32_t process;
        pid_t tid;  // 0: the process as a whole
    };
    struct Table {
        std::uint32_t serial = 0;          // never used twice
        std::vector<std::uint32_t> pages;  // inherited_bit: shared since birth, so its slots were opened at born_ns
        std::uint64_t born_ns = 0;
        std::vector<TableUser> users;
    };
    struct Description {
        std::uint64_t id;  // 0: none, two such are never the same
        StoredTime opened;
        std::uint64_t ino;
        PathStore::Path path;
        std::uint32_t next_in_dir, previous_in_dir;
        std::uint32_t next_by_name, previous_by_name;  // of those in a directory that may still have their name
        RefId first_ref;
        std::uint32_t next_by_id;
        std::uint32_t next_by_inode, previous_by_inode;
        std::uint16_t dev, flags;  // numbers in small tables
        std::uint16_t nlink;
        std::uint8_t type_and_name;  // FileType | NameState << 4
        std::uint8_t bits;
    };
    static_assert(sizeof(Description) == 72);
    enum DescriptionBits : std::uint8_t {
        in_use = 1,
        has_extra = 2,
        file_only = 4,    // not an open file description: what a cwd, a root or an unidentified mapping points at
        is_unheld = 8,
        kept = 16,        // the kernel said that somebody still holds it
        label_by_ino = 32, // "pipe:[ino]", "socket:[ino]": text made when asked for
        flags_known = 64,
        stat_known = 128,  // dev, ino, type, nlink
    };
    // The rare values that do not fit.
    struct Extra {
        std::uint32_t dev = 0, flags = 0, rdev = 0, nlink = 0;
    };
    struct FileKey {
        std::uint32_t dev;
        std::uint64_t ino;
        friend bool operator==(const FileKey&, const FileKey&) = default;
    };
    struct FileKeyHash {
        std::size_t operator()(const FileKey& key) const { return file_hash(key.dev, key.ino); }
    };
    // A file without links that some description is of.
    struct DeletedFile {
        Interval when;
        std::uint64_t allocated = 0;
        bool told = false;  // by an event, or known from before the watching began
        Removal how = Removal::unknown;
        std::shared_ptr<const RemovedBy> by;  // shared by what one process removed one after the other
    };
    // What a description is made from.
    struct FileFacts {
        std::uint64_t id = 0;
        Interval opened;
        std::uint64_t ino = 0;
        std::uint32_t dev = 0, rdev = 0, nlink = 0, flags = 0;
        FileType type = FileType::unknown;
        NameState name = NameState::unknown;
        bool file_only = false, label_by_ino = false, stat_known = false, flags_known = false;
        PathStore::Path path;
        std::uint64_t seen_ns = 0;  // the name was so then
    };
    // 64 descriptions together: what lets the age and deleted queries pass over the rest.
    struct Summary {
        std::uint64_t opened_latest_ns = ~std::uint64_t{0};  // a lower bound of the block's
        std::uint64_t deleted = 0;                           // one bit each
    };
    struct Held {  // mem, exe, cwd, root
        StoredTime opened;
        std::uint64_t map_start, map_end;
        std::uint32_t map_flags;
        std::uint32_t description;
        std::uint32_t process, next_of_process;
        RefId next, previous;
        RefKind kind;
    };
    struct Thread {
        pid_t tid;
        std::uint32_t table;  // 0: the process's
    };
    struct ProcessEntry {
        pid_t pid = 0, ppid = 0;
        uid_t uid = 0;
        std::string comm;
        std::string cgroup, container;
        Interval started;
        std::uint64_t synced_ns = 0;      // began_ns of the last snapshot that could read it; 0: none
        std::uint64_t last_event_ns = 0;
        std::uint64_t exec_ns = 0;        // last exec that a record told of
        std::uint64_t incomplete_ns = 0;  // since; 0: complete
        std::uint64_t silent_ns = 0;      // began_ns of the last snapshot, if what it added was not announced
        std::uint32_t table = 0;
        std::uint32_t first_held = 0;
        std::uint32_t own_tables = 0;     // threads with a table of their own
        std::vector<Thread> threads;      // without the leader; those that a fork record or a snapshot showed
        bool born_seen = false;           // its fork was seen: `threads` is complete
        bool born_sharing = false;        // CLONE_FILES: its descriptors may be older than it is
        bool unreadable = false;
        bool alive = false;
    };
    // Ended since a short while ago, for snapshots that were read before and reconciled after.
    struct EndedSlot {
        std::uint64_t at_ns;
        std::uint64_t print;        // of the description and its file
        std::uint32_t serial;       // of the table
        std::uint32_t fd : 31;
        std::uint32_t has_file : 1; // the file is in the print
    };
    struct EndedTask {
        std::uint64_t at_ns;
        Interval started;
        pid_t pid;
        pid_t tid;  // 0: the whole process
    };
    // A close that came before the news of its open (two threads): kept until that comes.
    struct EarlyClose {
        std::uint64_t at_ns;
        std::uint64_t description_id;
        std::uint32_t serial;
        std::int32_t fd;
        bool last;
    };
    struct Unheld {
        std::uint64_t earliest_ns;  // it was held then
        std::uint64_t since_ns;     // a snapshot that began later tells whether it is
        std::uint32_t description;
        std::uint64_t id;
    };
    struct SlotView {
        std::uint32_t description = 0;
        bool cloexec = false;
        Interval opened;
    };

    // records
    void apply_opened(const OpenedRecord& record, const EventSink& sink);
    void apply_closed(const ClosedRecord& record, const EventSink& sink);
    void apply_released(const ReleasedRecord& record, const EventSink& sink);
    void apply_fork(const ForkRecord& record, const EventSink& sink);
    void apply_exec(const ExecRecord& record, const EventSink& sink);
    void apply_exit(const ExitRecord& record, const EventSink& sink);
    void apply_unshared(const UnsharedRecord& record, const EventSink& sink);

    // processes and tables
    [[nodiscard]] std::uint32_t find_process(pid_t pid) const;
    std::uint32_t process_of(const fdspan_record& header);  // made when unknown; 0: it is known to be over
    std::uint32_t add_process(pid_t pid);
    void remove_process(std::uint32_t process);  // its tables must be gone
    void set_incomplete(ProcessEntry& process, std::uint64_t now_ns);
    void clear_incomplete(ProcessEntry& process);
    [[nodiscard]] std::uint32_t table_of(const ProcessEntry& process, pid_t tid) const;
    std::uint32_t make_table();
    void use_table(std::uint32_t table, std::uint32_t process, pid_t tid);
    // Returns whether nobody uses it any more: then the caller closes or drops it.
    [[nodiscard]] bool leave_table(std::uint32_t table, std::uint32_t process, pid_t tid);
    void drop_pages(std::uint32_t table, const Interval& when);
    void drop_table(std::uint32_t table, const Interval& when);
    std::uint32_t copy_table(std::uint32_t table, std::uint64_t born_ns);  // 0 keeps the times of the original
    // Takes the use of (process, tid) away from its table and gives it a copy.
    std::uint32_t unshare_table(std::uint32_t process, pid_t tid, std::uint64_t born_ns);
    Thread* find_thread(ProcessEntry& process, pid_t tid);
    void set_thread_table(ProcessEntry& process, pid_t tid, std::uint32_t table);
    void end_thread(std::uint32_t process, pid_t tid, const Interval& when, bool table_dead, const EventSink& sink);
    void apply_open_set(const fdspan_table_record& raw, std::uint32_t process, pid_t tid, const EventSink& sink);

    // slots
    [[nodiscard]] bool slot(std::uint32_t table, std::int32_t fd, SlotView& out) const;
    [[nodiscard]] std::uint32_t writable_page(std::uint32_t table, std::int32_t fd);
    void fill_slot(std::uint32_t table, std::int32_t fd, std::uint32_t description, bool cloexec, const Interval& opened);
    void set_slot_opened(std::uint32_t table, std::int32_t fd, const Interval& opened);
    void set_slot_cloexec(std::uint32_t table, std::int32_t fd, bool cloexec);
    // Returns the description; it keeps existing, maybe without any reference.
    std::uint32_t empty_slot(std::uint32_t table, std::int32_t fd);
    void drop_page(std::uint32_t page, std::uint32_t table, const Interval& when);
    std::uint32_t take_page(std::uint32_t table, std::int32_t first_fd);
    void add_page_user(std::uint32_t page, std::uint32_t table);
    void remove_page_user(std::uint32_t page, std::uint32_t table);
    std::uint32_t own_page(std::uint32_t table, std::uint32_t place);
    template <class Visit>
    void for_each_slot(std::uint32_t table, Visit&& visit) const;

    // descriptions
    [[nodiscard]] std::uint32_t find_description(std::uint64_t id) const;
    std::uint32_t add_description(const FileFacts& facts);
    void remove_description(std::uint32_t description);
    void link_ref(std::uint32_t description, RefId ref);
    void unlink_ref(std::uint32_t description, RefId ref);
    [[nodiscard]] RefId& next_of(RefId ref);
    [[nodiscard]] RefId next_of(RefId ref) const;
    [[nodiscard]] RefId& previous_of(RefId ref);
    void set_description_opened(std::uint32_t description, const Interval& opened);
    void set_description_id(std::uint32_t description, std::uint64_t id);
    void set_description_path(std::uint32_t description, const PathStore::Path& path, bool label_by_ino);
    void set_file(std::uint32_t description, std::uint32_t dev, std::uint64_t ino, FileType type);
    void set_small(std::uint32_t description, std::uint32_t dev, std::uint32_t flags, std::uint32_t rdev, std::uint32_t nlink);
    // A struct file that is used again for another file keeps its id.
    [[nodiscard]] bool may_be_file(std::uint32_t description, std::uint32_t dev, std::uint64_t ino) const;
    void set_name_state(std::uint32_t description, NameState name);
    [[nodiscard]] FileType type_of(const Description& d) const { return static_cast<FileType>(d.type_and_name & 0xf); }
    [[nodiscard]] NameState name_of(const Description& d) const { return static_cast<NameState>(d.type_and_name >> 4); }
    [[nodiscard]] Extra extra_of(std::uint32_t description) const;
    [[nodiscard]] static std::uint64_t file_hash(std::uint32_t dev, std::uint64_t ino);
    // Is it the text that readlink shows for a pipe or socket of this number?
    [[nodiscard]] static bool is_label_of(std::string_view text, FileType type, std::uint64_t ino);
    void link_dir(std::uint32_t description);
    void unlink_dir(std::uint32_t description);
    [[nodiscard]] bool in_names(const Description& d) const { return d.path.dir != PathStore::none && had_name(name_of(d)); }
    void link_name(std::uint32_t description);
    void unlink_name(std::uint32_t description);
    void link_inode(std::uint32_t description);
    void unlink_inode(std::uint32_t description);
    void link_id(std::uint32_t description);
    void unlink_id(std::uint32_t description);
    void summarize(std::uint32_t description);
    // Nothing known holds it: forget it if it cannot be recognized again, else wait for the kernel or a snapshot.
    void lost_last_ref(std::uint32_t description, bool kept_by_kernel, std::uint64_t earliest_ns, std::uint64_t since_ns);
    // What a cwd, a root or an unidentified mapping pointed at ends with the last of these, which is news if its file was deleted:
    // then returns true.
    bool end_held(std::uint32_t description, const Interval& when, std::uint32_t process, const EventSink& sink);
    // Emits `released` and forgets it; nothing known may hold it. `inode`: what the kernel saw of its file then.
    void end_description(std::uint32_t description, const Interval& when, std::uint32_t process, pid_t tid, std::int32_t fd,
                         const EventSink& sink, const fdspan_closed_unlinked* inode = nullptr);
    [[nodiscard]] static bool had_name(NameState name) {
        return name == NameState::named || name == NameState::gone || name == NameState::unknown;
    }
    [[nodiscard]] FileKey file_of(std::uint32_t description) const;
    [[nodiscard]] bool is_last_of_file(std::uint32_t description) const;
    // That it lost its name, with so many links left.
    [[nodiscard]] bool removal_is_told(std::uint32_t description, std::uint32_t nlink) const;
    void emit_removal(EventKind kind, const std::vector<std::uint32_t>& descriptions, const RemovalNote& note,
                      std::optional<std::uint64_t> allocated, const EventSink& sink);
    // The id means another description now, so whatever seems to hold this one let it go, unseen, until then.
    void end_replaced_description(std::uint32_t description, std::uint64_t until_ns, const EventSink& sink);
    // Takes every reference away: slots of `exact_process` ended at until_ns, all others somewhere before.
    void detach_description(std::uint32_t description, std::uint64_t until_ns, std::uint32_t exact_process,
                            const EventSink& sink);
    std::uint32_t add_held(std::uint32_t process, const Reference& row, std::uint32_t description);
    std::uint32_t remove_held(std::uint32_t held, std::uint32_t& link);  // returns the description

    [[nodiscard]] std::shared_ptr<const RemovedBy> removed_by(const RemovalNote::By& by);

    // ends of spans
    // Emits `closed`, empties the slot, returns the description: what becomes of that is the caller's to say.
    std::uint32_t close_slot(std::uint32_t table, std::int32_t fd, const SlotView& slot, const Interval& when,
                             std::uint32_t process, pid_t tid, const EventSink& sink);
    [[nodiscard]] std::uint64_t alive_since(const ProcessEntry& process, const SlotView& slot) const;
    [[nodiscard]] Interval implied_end(const ProcessEntry& process, const SlotView& slot, const Interval& when) const;
    void drop_held(std::uint32_t process, bool image_only, const Interval& when, const EventSink& sink);
    void end_process(std::uint32_t process, const Interval& when, std::optional<std::int32_t> exit_status, const EventSink& sink);
    void close_table(std::uint32_t table, const Interval& when, std::uint32_t process, pid_t tid, const EventSink& sink);
    void remember_slot(std::uint32_t table, std::int32_t fd, std::uint64_t at_ns, std::uint64_t print, bool has_file);
    // Recognizes a description together with its file (0 where that is not known); 0 without an id.
    [[nodiscard]] static std::uint64_t print_of(std::uint64_t id, std::uint64_t ino);
    [[nodiscard]] std::uint64_t print_of(std::uint32_t description) const;
    void remember_task(const ProcessEntry& process, pid_t tid, std::uint64_t at_ns);
    void trim_history(std::uint64_t now_ns);
    void forget_ended_slot();
    void forget_ended_task();
    // Snapshots that began earlier are all reconciled: nobody asks for what ended that long before.
    void forget_ended(std::uint64_t before_ns);
    [[nodiscard]] std::size_t history_bytes() const;

    // views
    void fill_process(const ProcessEntry& entry, Process& out) const;
    void fill_description(std::uint32_t description, Reference& out) const;
    void fill_slot_row(pid_t tid, std::int32_t fd, const SlotView& slot, Reference& out) const;
    void fill_held_row(const Held& held, Reference& out) const;
    void visit_slot(std::uint32_t process, pid_t tid, std::int32_t fd, const SlotView& slot, const RowVisitor& visit) const;
    template <class VisitSlot, class VisitHeld>
    void for_each_ref(std::uint32_t description, VisitSlot&& visit_slot, VisitHeld&& visit_held) const;
    void visit_description(std::uint32_t description, const RowVisitor& visit) const;
    void visit_process(std::uint32_t process, const RowVisitor& visit) const;
    void visit_dir(PathStore::Dir dir, const RowVisitor& visit) const;
    // Of the last description of a deleted file.
    struct GivenBack {
        std::optional<Interval> held_deleted;
        std::optional<std::uint64_t> allocated;
    };
    [[nodiscard]] GivenBack given_back(std::uint32_t description, const Interval& when, const fdspan_closed_unlinked* inode) const;
    void emit_slot(EventKind kind, const Interval& when, std::uint32_t process, pid_t tid, std::int32_t fd, const SlotView& slot,
                   const EventSink& sink, const GivenBack& given_back = {});
    void emit_process(EventKind kind, const Interval& when, std::uint32_t process, std::optional<std::int32_t> exit_status,
                      const EventSink& sink);

    Pool<ProcessEntry, 6> processes_;
    Pool<Table, 8> tables_;
    Pool<Page, 8> pages_;
    Pool<Description> descriptions_;
    Pool<Held, 8> held_;
    IntervalStore times_;
    PathStore paths_;
    mutable std::vector<Summary> summaries_;       // by description / 64
    mutable std::vector<Summary> coarse_;          // by description / 4096; deleted: one bit a block of 64
    std::unordered_map<pid_t, std::uint32_t> by_pid_;
    Buckets by_id_, by_inode_, by_name_;
    std::unordered_map<FileKey, DeletedFile, FileKeyHash> deleted_;
    std::shared_ptr<const RemovedBy> last_by_;     // of the last deletion
    std::unordered_set<std::uint32_t> gone_;       // descriptions with NameState::gone
    std::unordered_map<std::uint32_t, Extra> extras_;
    std::vector<std::uint32_t> dev_values_{0}, flag_values_{0};  // what the 16-bit numbers stand for
    std::unordered_map<std::uint32_t, std::uint16_t> dev_numbers_{{0, 0}}, flag_numbers_{{0, 0}};

    std::deque<EndedSlot> ended_slots_;
    std::deque<EndedTask> ended_tasks_;
    std::size_t max_history_bytes_ = std::numeric_limits<std::size_t>::max();
    std::uint64_t history_cut_ns_ = 0;     // everything forgotten of the two ended at or before
    std::array<EarlyClose, 256> early_closes_{};
    std::unordered_map<pid_t, std::uint64_t> exited_;  // of ended_tasks_: the last end of each pid
    std::deque<Unheld> unheld_;
    std::uint32_t unheld_count_ = 0;
    std::uint64_t unheld_dropped_ = 0;
    std::uint64_t descriptor_count_ = 0;
    std::uint32_t table_serial_ = 0;
    std::uint64_t unknown_closes_ = 0;
    std::uint64_t stale_records_ = 0;
    std::size_t incomplete_count_ = 0;
    bool gaps_expected_ = false;
    std::uint64_t loss_first_ns_ = 0;      // losses since the last snapshot of everybody
    std::uint64_t loss_last_ns_ = 0;       // 0: none
    std::uint64_t doubtful_ns_ = 0;        // what was told until then may be about another table: who unshared one was lost
    std::uint64_t links_ns_ = 0;           // last set_links
    bool release_in_doubt_ = false;
    mutable StringTable scratch_;          // strings of the row or event being shown
    mutable std::string text_;
    mutable pid_t last_pid_ = 0;           // the last look-up
    mutable std::uint32_t last_process_ = 0;
};

template <class Visit>
void Index::for_each_slot(std::uint32_t table, Visit&& visit) const {
    const Table& entry = tables_[table];
    for (const std::uint32_t place : entry.pages) {
        if (place == none) continue;
        const Page& page = pages_[place & ~inherited_bit];
        for (unsigned mask = page.mask; mask != 0; mask &= mask - 1) {
            const auto i = static_cast<unsigned>(std::countr_zero(mask));
            SlotView view;
            view.description = page.description[i] & ~cloexec_bit;
            view.cloexec = (page.description[i] & cloexec_bit) != 0;
            view.opened = (place & inherited_bit) != 0 ? Interval::exact(entry.born_ns) : times_.get(page.opened[i]);
            visit(static_cast<std::int32_t>(page.first_fd + i), view);
        }
    }
}

// visit_slot(user, fd, SlotView), visit_held(Held)
template <class VisitSlot, class VisitHeld>
void Index::for_each_ref(std::uint32_t description, VisitSlot&& visit_slot, VisitHeld&& visit_held) const {
    for (RefId ref = descriptions_[description].first_ref; ref != none; ref = next_of(ref)) {
        if ((ref & held_bit) != 0) {
            visit_held(held_[ref & ~held_bit]);
            continue;
        }
        const Page& page = pages_[ref / page_slots];
        const auto fd = static_cast<std::int32_t>(page.first_fd + ref % page_slots);
        const auto visit_table = [&](std::uint32_t table) {
            SlotView view;
            if (!slot(table, fd, view)) return;
            for (const TableUser& user : tables_[table].users) visit_slot(user, fd, view);
        };
        if (page.users == 1) visit_table(page.sole_user);
        for (const std::uint32_t table : page.tables) visit_table(table);
    }
}

}  // namespace fdspan
