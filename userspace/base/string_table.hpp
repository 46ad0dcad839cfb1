// StringTable: interns byte strings (paths, comms), so that a row holds 4 bytes instead of a copy.
// Owns the bytes; views stay valid as long as the table, and a NUL stands behind each. Not thread-safe. Id 0 is the empty string.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

namespace fdspan {

using StringId = std::uint32_t;

class StringTable {
public:
    StringTable() : strings_(1, empty) {}
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
    StringId append(std::string_view text) {
        if (text.empty()) return 0;
        strings_.push_back(store(text));
        return static_cast<StringId>(strings_.size() - 1);
    }

    // Finds an equal one only among those that came this way last: for many strings that mostly differ, of which all would take a table
    // as large as they are, and a miss of the cache each.
    StringId intern_recent(std::string_view text) {
        if (text.empty()) return 0;
        if (recent_.empty()) recent_.resize(recent_strings);
        const std::uint64_t hash = hash_of(text);
        const auto tag = static_cast<std::uint32_t>(hash >> 32);
        Slot& slot = recent_[tag & (recent_strings - 1)];
        if (slot.id != 0 && slot.tag == tag && get(slot.id) == text) return slot.id;
        slot = {tag, append(text)};
        return slot.id;
    }

    // Takes over all strings of another table. An id of that one becomes moved(id, what is returned). They are not looked up: a
    // later intern() may store one of them again.
    StringId adopt(StringTable&& other) {
        const auto shift = static_cast<StringId>(strings_.size() - 1);
        strings_.insert(strings_.end(), other.strings_.begin() + 1, other.strings_.end());
        // In front, so that the chunk being filled stays the last.
        chunks_.insert(chunks_.begin(), std::make_move_iterator(other.chunks_.begin()), std::make_move_iterator(other.chunks_.end()));
        other = StringTable();
        return shift;
    }
    [[nodiscard]] static StringId moved(StringId id, StringId shift) { return id == 0 ? 0 : id + shift; }

    // Forgets everything, keeps one chunk. Every view and id but 0 is void.
    void clear() {
        strings_.resize(1);
        slots_.clear();
        recent_.clear();
        used_ = 0;
        while (chunks_.size() > 1) chunks_.pop_back();
        // The chunk that stays may be an oversized one: it holds at least chunk_bytes either way.
        chunk_next_ = chunks_.empty() ? nullptr : chunks_.back().get();
        chunk_left_ = chunks_.empty() ? 0 : chunk_bytes;
    }

    [[nodiscard]] std::string_view get(StringId id) const {
        const char* const at = strings_[id];
        std::uint32_t length = 0;
        std::memcpy(&length, at - sizeof length, sizeof length);
        return {at, length};
    }
    [[nodiscard]] std::size_t count() const { return strings_.size(); }

private:
    static constexpr std::size_t chunk_bytes = 64 * 1024;
    static constexpr std::size_t recent_strings = 4096;  // a power of two
    // Each text stands behind its length.
    static constexpr char empty_bytes[sizeof(std::uint32_t) + 1] = {};
    static constexpr const char* empty = empty_bytes + sizeof(std::uint32_t);

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

    const char* store(std::string_view text) {
        const auto length = static_cast<std::uint32_t>(text.size());
        const std::size_t needed = sizeof length + text.size() + 1;
        if (needed > chunk_left_) {
            const std::size_t bytes = needed > chunk_bytes ? needed : chunk_bytes;
            chunks_.push_back(std::make_unique_for_overwrite<char[]>(bytes));
            chunk_next_ = chunks_.back().get();
            chunk_left_ = bytes;
        }
        char* const at = chunk_next_ + sizeof length;
        std::memcpy(chunk_next_, &length, sizeof length);
        std::memcpy(at, text.data(), text.size());
        at[text.size()] = '\0';
        chunk_next_ += needed;
        chunk_left_ -= needed;
        return at;
    }

    void swap(StringTable& other) noexcept {
        chunks_.swap(other.chunks_);
        strings_.swap(other.strings_);
        slots_.swap(other.slots_);
        recent_.swap(other.recent_);
        std::swap(chunk_next_, other.chunk_next_);
        std::swap(chunk_left_, other.chunk_left_);
        std::swap(used_, other.used_);
    }

    std::vector<std::unique_ptr<char[]>> chunks_;
    char* chunk_next_ = nullptr;
    std::size_t chunk_left_ = 0;
    std::vector<const char*> strings_;
    std::vector<Slot> slots_;  // open addressing; as many as a power of two
    std::size_t used_ = 0;
    std::vector<Slot> recent_;  // by hash, the last that came
};

}  // namespace fdspan
