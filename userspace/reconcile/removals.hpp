// Removals: finds out which files lost a name, and tells the index who took it. Not thread-safe: the index belongs to one thread.
//
// Where the kernel side names the file, that is a look-up. Where it only gives the path as the caller wrote it, the index is
// asked who might be meant, and the kernel for the link count of each, through the magic link of a holder: a text never
// decides. A removal that nobody known to the index is concerned by may still concern a holder it does not know yet (a new
// cwd, an executable, a mapping): for these a snapshot of what has no links is wanted, at a bounded cost.
#pragma once

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/unique_fd.hpp"
#include "index/index.hpp"
#include "snapshot/snapshot.hpp"

namespace fdspan {

class Removals {
public:
    static constexpr std::size_t max_recent = 4096;
    static constexpr std::uint64_t recent_ns = 60'000'000'000;
    static constexpr std::size_t max_looks = 64;       // at files that may be meant by one removal
    static constexpr std::size_t max_lost = 4096;
    static constexpr std::size_t max_unheld = 1024;
    static constexpr std::size_t max_relabelled = 1024; // descriptions below a directory that was moved

    explicit Removals(Index& index) : index_(index) {}

    void apply(const UnlinkedRecord& record, const EventSink& sink);
    // A removal is stamped a little after it was done, and an inode by a clock that goes in ticks, of 10 ms at most: what was removed so long
    // before the last record that was applied is told apart from all others.
    static constexpr std::uint64_t settling_ns = 25'000'000;
    // So long a call may take, on a machine that is busy, from stamping the inode to its end.
    static constexpr std::uint64_t call_ns = 200'000'000;
    // Who removed something may be held up in between; whom nothing points to yet is waited for so long.
    static constexpr std::uint64_t patience_ns = 500'000'000;
    // When all records so far were applied: looks further for what was removed until then by a path that the index does not have (through
    // a symbolic link, in another mount namespace, by another link), and decides what waited for that.
    void settle(std::uint64_t up_to_ns, const EventSink& sink);
    // Records of before may be missing: what is left of them is no proof that it was none of the others.
    void note_loss(std::uint64_t until_ns) { lossy_until_ns_ = std::max(lossy_until_ns_, until_ns); }
    [[nodiscard]] bool has_to_settle() const { return !deferred_.empty() || !lost_.empty(); }

    // A snapshot shows that a description's file lost a name, or its last one.
    struct Lost {
        std::uint32_t description = 0;
        std::uint64_t id = 0;
        std::uint64_t named_ns = 0;  // it still had it then
        std::uint64_t seen_ns = 0;
        std::uint32_t nlink = 0;
        std::uint64_t allocated = 0;
        bool linked = false;         // it may have had several names
    };
    // Tells it with who did it, now or once everybody's records of that time are here.
    void lost(const Lost& lost, const EventSink& sink);
    // Before a record is applied that says that a description's file had no links when it was closed: if that is news, tells it.
    void before_close(const Record& record, const EventSink& sink);

    // A snapshot of what has no links should be taken, at `now` at the earliest unless it is urgent.
    enum class Wish : std::uint8_t { none, whenever, soon };
    [[nodiscard]] Wish wish() const { return wish_; }
    [[nodiscard]] Wish take_wish() { return std::exchange(wish_, Wish::none); }
    void ask(Wish wish) { wish_ = std::max(wish_, wish); }
    // What is in flight has no magic link to ask; the snapshot's hidden rows tell where its name was when it went.
    [[nodiscard]] bool has_unheld() const { return std::any_of(unheld_.begin(), unheld_.end(), [](const Unheld& one) { return one.nlink == 0; }); }
    void relabel_hidden(const Snapshot& snapshot);
    // Every holder that a look through all processes, begun at that moment, shows is in the index now: what it could not show is in flight.
    enum class Looked : std::uint8_t { at_deleted, at_everything };
    void after_look(Looked looked, std::uint64_t began_ns, const EventSink& sink);
    // A file was moved that has more descriptions than were looked at, or a directory with more below it, or a name was taken from a file
    // that nobody could be asked about.
    [[nodiscard]] bool paths_are_stale() const { return paths_are_stale_; }
    void paths_are_mended() { paths_are_stale_ = false; }

    // Who took a name from this file, where the kernel side tells files. The views in the note live until the next call.
    [[nodiscard]] std::optional<RemovalNote> find(DeviceNumber dev, std::uint64_t ino, std::uint64_t from_ns, std::uint64_t to_ns) const;
    // Whether something known was given another path since then, so that a snapshot begun before may show the old one; and what the path is now.
    [[nodiscard]] bool moved_since(std::uint64_t at_ns) const { return moved_ns_ >= at_ns; }
    bool relabel(std::uint32_t description);  // false: nobody can be asked
    // Whether a removal of that very path, or of this file by that name, was seen since then.
    [[nodiscard]] bool find_exactly(DeviceNumber dev, std::uint64_t ino, std::string_view path, std::uint64_t from_ns) const;

private:
    struct Seen {
        std::uint64_t at_ns = 0;
        std::uint64_t stamp_ns = 0;  // no inode was stamped by it with an earlier change
        Removal how = Removal::unknown;
        pid_t pid = 0;
        uid_t uid = 0;
        std::uint64_t cgroup = 0;
        std::uint32_t dev = 0;
        std::uint64_t ino = 0;   // 0: the kernel side does not say
        std::optional<std::uint64_t> allocated;
        std::string comm, exe;
        std::string path;        // what was removed, as well as it is known: dots resolved, symbolic links not
        std::uint64_t name = 0;  // hash of its last component; 0: any
        bool whole = false;      // the path is whole
        bool real = false;       // … and has no symbolic link in it, as seen from here
        std::optional<Index::FileKey> took;  // the file that it is known to have taken a name of: of no other one then
        std::optional<Index::FileKey> brought;  // the file that it is known to have moved to this path
        mutable std::string cgroup_path;
        mutable RemovalNote::By by;
    };
    // What the kernel says of a file, asked through one of its holders.
    struct Look {
        struct statx stx {};
        std::string text;  // of the magic link
    };
    enum class Verdict : std::uint8_t { other, unknown, found };

    // Removals of which one must have done it; all of one process and kind, or nobody can tell.
    struct Suspects {
        std::vector<Seen*> seen;
        bool of_path = false;  // of the very path
        [[nodiscard]] bool agree() const;
    };

    [[nodiscard]] RemovalNote note_of(const Seen& seen) const;
    [[nodiscard]] std::optional<std::uint64_t> allocated_below(const Seen& seen) const;
    [[nodiscard]] RemovalNote note_of(const Suspects& suspects, const Index::FileKey& file, const Interval& otherwise);
    [[nodiscard]] std::string cgroup_path(std::uint64_t id) const;
    void apply_known(const UnlinkedRecord& record, const Seen& seen, const EventSink& sink);
    // `final`: every removal of that time is known.
    [[nodiscard]] bool find_at_path(Seen& seen, bool final, const EventSink& sink);
    [[nodiscard]] bool find_resolved(Seen& seen, const EventSink& sink);
    [[nodiscard]] Verdict judge(std::uint32_t description, Seen& seen, bool final, const EventSink& sink);
    [[nodiscard]] Verdict examine(std::uint32_t description, std::uint64_t known_until_ns, const EventSink& sink);
    [[nodiscard]] std::vector<Seen*> seen_between(std::uint64_t earliest_ns, std::uint64_t latest_ns, const Index::FileKey& file);
    [[nodiscard]] Suspects suspects(const Lost& lost, std::string_view path, const std::optional<Look>& look, bool anywhere);
    // Of what is told: only what is beyond doubt; what removals of that very path show, all of that time being known; what others show, when
    // no call of that time can be under way any more; or whatever is known now.
    enum class Stage : std::uint8_t { sure, settled, doubtful, last };
    [[nodiscard]] bool tell(const Lost& seen, Stage stage, const EventSink& sink);
    [[nodiscard]] std::optional<Look> look_at(std::uint32_t description, bool text) const;
    [[nodiscard]] std::optional<Look> look_at_file(std::uint32_t description, bool text) const;
    void rename(std::uint32_t description, std::string_view path);
    void moved(const GivenPath& from, Seen& to, bool exchange);
    void moved_below(const std::string& from, const std::string* to);
    void relabel_moved(std::uint32_t description, const std::string& to);
    void moved_known(const fdspan_unlinked& raw, Seen& seen, const EventSink& sink);
    void relabel_deleted(const std::vector<std::uint32_t>& descriptions, std::uint32_t held, std::string_view text);
    [[nodiscard]] static std::string resolve(const GivenPath& place);
    [[nodiscard]] static std::optional<std::string> without_links(std::string_view path);
    // Descriptions that may still have a name: of that very path, or all with its last name, those first whose paths are most alike. One more
    // than max_looks are enough to know that they are too many.
    enum class Where : std::uint8_t { at_path, anywhere };
    [[nodiscard]] std::vector<std::uint32_t> named(std::string_view path, Where where) const;
    [[nodiscard]] std::vector<std::uint32_t> named_in(PathStore::Dir dir, std::string_view name) const;
    [[nodiscard]] bool is_named(std::uint32_t description, std::string_view name) const;
    [[nodiscard]] std::uint32_t first_named(std::string_view name) const;

    // Lost a name, as the kernel says, and has a description that nobody known holds.
    struct Unheld {
        DeviceNumber dev;
        std::uint64_t ino;
        std::uint32_t nlink;
        Seen seen;
    };
    [[nodiscard]] bool apply_unlinked(const Unheld& unheld, bool all_seen, const EventSink& sink);

    Index& index_;
    std::deque<Seen> recent_;
    std::uint64_t forgotten_ = 0;         // so many were in front of these
    std::deque<std::uint64_t> deferred_;  // of the recent ones, by their number
    std::deque<Lost> lost_;
    std::uint64_t lossy_until_ns_ = 0;
    std::uint64_t moved_ns_ = 0;          // when a description was given another path
    std::vector<Unheld> unheld_;
    Wish wish_ = Wish::none;
    bool paths_are_stale_ = false;
    mutable UniqueFd cgroups_;
    mutable bool cgroups_tried_ = false;
    mutable std::string cgroup_mount_;
};

}  // namespace fdspan
