// StringTable: interns byte strings (paths, comms), so that a row holds 4 bytes instead of a copy.
// Owns the bytes; views stay valid as long as the table, and a NUL stands behind each. Not thread-safe. Id 0 is the empty string.
// Holds 16 GiB at the most: std::bad_alloc beyond.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fdspan {

// Where a text is: the number of its chunk, and its place there in units of 4 bytes.
using StringId = std::uint32_t;

// A path, of which neighbours share the directory: `dir` ends in its slash. A text that is in one piece is a name alone.
struct PathId {
    StringId dir = 0;
    StringId name = 0;
    [[nodiscard]] static constexpr PathId whole(StringId text) { return {0, text}; }
    friend constexpr bool operator==(PathId, PathId) = default;
};

class StringTable {
public:
    StringTable() = default;
    StringTable(StringTable&& other) noexcept { swap(other); }
    StringTable& operator=(StringTable&& other) noexcept {
        StringTable moved(std::move(other));
        swap(moved);
        return *this;
    }

    StringId intern(std::string_view text) {
        if (text.empty()) return 0;
        // A quarter stays free, so that a look-up that finds nothing ends soon.
        if ((used_ + 1) * 4 > slots_.size() * 3) grow();
        const std::uint64_t hash = hash_of(text);
        const auto tag = static_cast<std::uint32_t>(hash >> 32);
        std::size_t at = place(tag);
        for (; slots_[at].id != 0; at = (at + 1) & (slots_.size() - 1)) {
            if (slots_[at].tag == tag && get(slots_[at].id) == text) return slots_[at].id;
        }
        const StringId id = append(text);
        slots_[at] = {tag, id};
        ++used_;
        return id;
    }

    // Keeps a copy without looking for an equal one: for short-lived tables, where the look-up would cost more than it saves.
    StringId append(std::string_view text) { return text.empty() ? 0 : store(text); }

    // Finds an equal one only among those that came this way last: for many strings that mostly differ, of which all would take a table
    // as large as they are, and a miss of the cache each.
    StringId intern_recent(std::string_view text) {
        if (text.empty()) return 0;
        if (recent_.empty()) recent_.resize(recent_strings);
        const std::uint64_t hash = hash_of(text);
        const auto tag = static_cast<std::uint32_t>(hash >> 32);
        Slot& slot = recent_[tag & (recent_strings - 1)];
        if (slot.id != 0 && slot.tag == tag && get(slot.id) == text) return slot.id;
        slot = {tag, store(text)};
        return slot.id;
    }

    // A path, of whose directory one copy serves those that came this way last, and likewise of its name.
    PathId intern_path(std::string_view text) {
        const std::size_t slash = text.rfind('/');
        if (slash == std::string_view::npos) return PathId::whole(intern_recent(text));
        const std::string_view dir = text.substr(0, slash + 1);
        if (get(last_dir_) != dir) last_dir_ = intern_recent(dir);
        return {last_dir_, intern_recent(text.substr(slash + 1))};
    }

    // Takes over all strings of another table. An id of that one becomes moved(id, what is returned). They are not looked up: a
    // later intern() may store one of them again.
    StringId adopt(StringTable&& other) {
        if (chunks_.size() + other.chunks_.size() > chunks_max) throw std::bad_alloc();
        const auto shift = static_cast<StringId>(chunks_.size()) << place_bits;
        if (chunks_.empty()) chunk_used_ = chunk_bytes;  // none of them is for own texts
        chunks_.insert(chunks_.end(), std::make_move_iterator(other.chunks_.begin()), std::make_move_iterator(other.chunks_.end()));
        other = StringTable();
        return shift;
    }
    [[nodiscard]] static StringId moved(StringId id, StringId shift) { return id == 0 ? 0 : id + shift; }
    [[nodiscard]] static PathId moved(PathId path, StringId shift) { return {moved(path.dir, shift), moved(path.name, shift)}; }

    // Forgets everything, keeps one chunk. Every view and id but 0 is void.
    void clear() {
        slots_.clear();
        recent_.clear();
        last_dir_ = 0;
        used_ = 0;
        if (chunks_.empty()) return;
        chunks_.resize(1);
        // It may be an oversized one: it holds at least chunk_bytes either way.
        filling_ = 0;
        chunk_used_ = unit;
    }

    [[nodiscard]] std::string_view get(StringId id) const {
        if (id == 0) return {"", 0};
        const char* const at = chunks_[id >> place_bits].get() + std::size_t{id & place_mask} * unit;
        std::uint32_t length = 0;
        std::memcpy(&length, at, sizeof length);
        return {at + sizeof length, length};
    }
    // Valid as long as `joined`, too, which holds what is in two pieces; a NUL stands behind it.
    [[nodiscard]] std::string_view path(PathId path, std::string& joined) const {
        if (path.dir == 0) return get(path.name);
        joined = get(path.dir);
        joined += get(path.name);
        return joined;
    }

private:
    static constexpr std::size_t chunk_bytes = 64 * 1024;
    static constexpr std::size_t recent_strings = 4096;  // a power of two
    // Each text stands behind its length, at a multiple of `unit`.
    static constexpr std::size_t unit = 4;
    static constexpr unsigned place_bits = 14;
    static constexpr StringId place_mask = (StringId{1} << place_bits) - 1;
    static constexpr std::size_t chunks_max = std::size_t{1} << (32 - place_bits);
    static_assert(chunk_bytes == unit << place_bits);

    struct Slot {
        std::uint32_t tag = 0;
        StringId id = 0;  // 0: free
    };

    static std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
        __extension__ using Wide = unsigned __int128;
        const Wide product = static_cast<Wide>(a) * b;
        return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
    }
    // Eight bytes a step; the last step overlaps the one before it.
    static std::uint64_t hash_of(std::string_view text) {
        constexpr std::uint64_t odd = 0x9E3779B97F4A7C15;
        std::uint64_t hash = text.size() * odd;
        std::uint64_t word = 0;
        if (text.size() < sizeof word) {
            std::memcpy(&word, text.data(), text.size());
            return mix(hash ^ word ^ odd, odd);
        }
        for (std::size_t at = 0; at + sizeof word < text.size(); at += sizeof word) {
            std::memcpy(&word, text.data() + at, sizeof word);
            hash = mix(hash ^ word, odd);
        }
        std::memcpy(&word, text.data() + text.size() - sizeof word, sizeof word);
        return mix(hash ^ word, odd);
    }
    [[nodiscard]] std::size_t place(std::uint32_t tag) const { return tag & (slots_.size() - 1); }

    void grow() {
        std::vector<Slot> old(slots_.empty() ? 64 : slots_.size() * 2);
        old.swap(slots_);
        for (const Slot& slot : old) {
            if (slot.id == 0) continue;
            std::size_t at = place(slot.tag);
            while (slots_[at].id != 0) at = (at + 1) & (slots_.size() - 1);
            slots_[at] = slot;
        }
    }

    StringId store(std::string_view text) {
        const auto length = static_cast<std::uint32_t>(text.size());
        const std::size_t needed = (sizeof length + text.size() + 1 + unit - 1) / unit * unit;
        if (chunks_.empty() || needed > chunk_bytes - chunk_used_) {
            if (chunks_.size() == chunks_max) throw std::bad_alloc();
            // No text has the id 0.
            const std::size_t first = chunks_.empty() ? unit : 0;
            const bool oversized = first + needed > chunk_bytes;
            chunks_.push_back(std::make_unique_for_overwrite<char[]>(oversized ? first + needed : chunk_bytes));
            filling_ = chunks_.size() - 1;
            chunk_used_ = oversized ? chunk_bytes : first + needed;
            return put(text, filling_, first);
        }
        const std::size_t at = chunk_used_;
        chunk_used_ += needed;
        return put(text, filling_, at);
    }

    StringId put(std::string_view text, std::size_t chunk, std::size_t place) {
        const auto length = static_cast<std::uint32_t>(text.size());
        char* const at = chunks_[chunk].get() + place;
        std::memcpy(at, &length, sizeof length);
        std::memcpy(at + sizeof length, text.data(), text.size());
        at[sizeof length + text.size()] = '\0';
        return static_cast<StringId>(chunk) << place_bits | static_cast<StringId>(place / unit);
    }

    void swap(StringTable& other) noexcept {
        chunks_.swap(other.chunks_);
        slots_.swap(other.slots_);
        recent_.swap(other.recent_);
        std::swap(last_dir_, other.last_dir_);
        std::swap(filling_, other.filling_);
        std::swap(chunk_used_, other.chunk_used_);
        std::swap(used_, other.used_);
    }

    std::vector<std::unique_ptr<char[]>> chunks_;
    std::size_t filling_ = 0;     // the chunk that the next text goes to
    std::size_t chunk_used_ = 0;  // bytes of it
    std::vector<Slot> slots_;  // open addressing; as many as a power of two
    std::size_t used_ = 0;
    std::vector<Slot> recent_;  // by hash, the last that came
    StringId last_dir_ = 0;     // of the path that came last
};

}  // namespace fdspan
