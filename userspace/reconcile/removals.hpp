// Removals: finds out which files lost a name, and tells the index who took it. Not thread-safe: the index belongs to one thread.
//
// Where the kernel side names the file, that is a look-up. Where it only gives the path as the caller wrote it, the index is
// asked who might be meant, and the kernel for the link count of each, through the magic link of a holder: a text never
// decides. A removal that nobody known to the index is concerned by may still concern a holder it does not know yet (a new
// cwd, an executable, a mapping): for these a snapshot of what has no links is wanted, at a bounded cost.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/unique_fd.hpp"
#include "index/index.hpp"

namespace fdspan {

class Removals {
public:
    static constexpr std::size_t max_recent = 4096;
    static constexpr std::uint64_t recent_ns = 60'000'000'000;
    static constexpr std::size_t max_looks = 64;       // at files that may be meant by one removal
    static constexpr std::size_t max_deferred = 4096;
    static constexpr std::size_t max_unheld = 1024;
    static constexpr std::size_t max_relabelled = 1024; // descriptions below a directory that was moved

    explicit Removals(Index& index) : index_(index) {}

    void apply(const UnlinkedRecord& record, const EventSink& sink);
    // When all records so far were applied: looks further for what was removed by a path that the index does not have (through a symbolic
    // link, or in another mount namespace). What a later record claims by its path is out of the question then.
    void settle(const EventSink& sink);
    // Before a record is applied that says that a description's file had no links when it was closed: if that is news, tells it.
    void before_close(const Record& record, const EventSink& sink);

    // A snapshot of what has no links should be taken, at `now` at the earliest unless it is urgent.
    enum class Wish : std::uint8_t { none, whenever, soon };
    [[nodiscard]] Wish wish() const { return wish_; }
    void wish_is_met() { wish_ = Wish::none; }
    // Every holder that a look through all processes, begun at that moment, shows is in the index now: what it could not show is in flight.
    enum class Looked : std::uint8_t { at_deleted, at_everything };
    void after_look(Looked looked, std::uint64_t began_ns, const EventSink& sink);
    // A directory was moved with more below it than was looked at, or a name was taken from a file that nobody could be asked about.
    [[nodiscard]] bool paths_are_stale() const { return paths_are_stale_; }
    void paths_are_mended() { paths_are_stale_ = false; }

    // Who took a name from this file, or where the kernel side tells paths only, from this path, between the two moments. The views in the note live until the next call.
    [[nodiscard]] std::optional<RemovalNote> find(DeviceNumber dev, std::uint64_t ino, std::string_view path, std::uint64_t from_ns,
                                                  std::uint64_t to_ns) const;

    // Whether a removal of that very path was seen since then.
    [[nodiscard]] bool find_exactly(std::string_view path, std::uint64_t from_ns) const;

private:
    struct Seen {
        std::uint64_t at_ns = 0;
        Removal how = Removal::unknown;
        pid_t pid = 0;
        uid_t uid = 0;
        std::uint64_t cgroup = 0;
        std::uint32_t dev = 0;
        std::uint64_t ino = 0;   // 0: the kernel side does not say
        std::string comm, exe;
        std::string path;        // what was removed, as well as it is known: dots resolved, symbolic links not
        std::uint64_t name = 0;  // hash of its last component; 0: any
        bool whole = false;      // the path is whole
        mutable std::string cgroup_path;
        mutable RemovalNote::By by;
    };
    // What the kernel says of a file, asked through one of its holders.
    struct Look {
        struct statx stx {};
        std::string text;  // of the magic link
    };
    enum class Verdict : std::uint8_t { other, unknown, found };

    [[nodiscard]] RemovalNote note_of(const Seen& seen) const;
    [[nodiscard]] std::string cgroup_path(std::uint64_t id) const;
    void apply_known(const UnlinkedRecord& record, const Seen& seen, const EventSink& sink);
    [[nodiscard]] bool find_at_path(const Seen& seen, const EventSink& sink);
    [[nodiscard]] bool find_resolved(Seen& seen, const EventSink& sink);
    [[nodiscard]] Verdict claim_best(const std::vector<std::uint32_t>& candidates, const Seen& seen, const EventSink& sink);
    [[nodiscard]] std::vector<std::uint32_t> gone_in(std::string_view dir) const;  // "": anywhere
    [[nodiscard]] Verdict judge(std::uint32_t description, const Seen& seen, bool at_path, const EventSink& sink);
    [[nodiscard]] std::optional<Look> look_at(std::uint32_t description, bool text) const;
    [[nodiscard]] std::optional<Look> look_at_file(std::uint32_t description, bool text) const;
    void moved(const std::string& from, bool whole);
    void moved_known(const fdspan_unlinked& raw);
    void relabel(std::uint32_t description);
    void relabel_deleted(const std::vector<std::uint32_t>& descriptions, std::uint32_t held, std::string_view text);
    [[nodiscard]] static std::string resolve(const GivenPath& place);
    // Descriptions of that very path, or all with its last name: those first whose paths are most alike.
    enum class Where : std::uint8_t { at_path, anywhere };
    [[nodiscard]] std::vector<std::uint32_t> named(std::string_view path, Where where) const;

    // Lost a name, as the kernel says, and has a description that nobody known holds.
    struct Unheld {
        DeviceNumber dev;
        std::uint64_t ino;
        std::uint32_t nlink;
        std::uint64_t allocated;
        Seen seen;
    };
    [[nodiscard]] bool apply_unlinked(const Unheld& unheld, bool all_seen, const EventSink& sink);

    Index& index_;
    std::deque<Seen> recent_;
    std::deque<Seen> deferred_;
    std::vector<Unheld> unheld_;
    Wish wish_ = Wish::none;
    bool paths_are_stale_ = false;
    mutable UniqueFd cgroups_;
    mutable bool cgroups_tried_ = false;
    mutable std::string cgroup_mount_;
};

}  // namespace fdspan
