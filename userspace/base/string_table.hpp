// StringTable: interns byte strings (paths, comms), so that a row holds 4 bytes instead of a copy.
// Owns the bytes; views stay valid as long as the table, and a NUL stands behind each. Not thread-safe. Id 0 is the empty string.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace fdspan {

using StringId = std::uint32_t;

class StringTable {
public:
    StringTable() { intern({}); }

    StringId intern(std::string_view text) {
        if (const auto known = ids_.find(text); known != ids_.end()) return known->second;
        const std::string_view stored = store(text);
        const StringId id = static_cast<StringId>(strings_.size());
        strings_.push_back(stored);
        ids_.emplace(stored, id);
        return id;
    }

    // Keeps a copy without looking for an equal one: for short-lived tables, where the look-up would cost more than it saves.
    StringId append(std::string_view text) {
        if (text.empty()) return 0;
        strings_.push_back(store(text));
        return static_cast<StringId>(strings_.size() - 1);
    }

    // Forgets everything, keeps one chunk. Every view and id but 0 is void.
    void clear() {
        strings_.resize(1);
        if (ids_.size() > 1) {
            ids_.clear();
            ids_.emplace(strings_.front(), 0);
        }
        while (chunks_.size() > 1) chunks_.pop_back();
        // The chunk that stays may be an oversized one: it holds at least chunk_bytes either way.
        chunk_next_ = chunks_.empty() ? nullptr : chunks_.back().get();
        chunk_left_ = chunks_.empty() ? 0 : chunk_bytes;
    }

    [[nodiscard]] std::string_view get(StringId id) const { return strings_[id]; }
    [[nodiscard]] std::size_t count() const { return strings_.size(); }

private:
    static constexpr std::size_t chunk_bytes = 64 * 1024;

    std::string_view store(std::string_view text) {
        if (text.empty()) return std::string_view("", 0);
        const std::size_t needed = text.size() + 1;
        if (needed > chunk_left_) {
            const std::size_t bytes = needed > chunk_bytes ? needed : chunk_bytes;
            chunks_.push_back(std::make_unique<char[]>(bytes));
            chunk_next_ = chunks_.back().get();
            chunk_left_ = bytes;
        }
        char* const at = chunk_next_;
        std::memcpy(at, text.data(), text.size());
        at[text.size()] = '\0';
        chunk_next_ += needed;
        chunk_left_ -= needed;
        return {at, text.size()};
    }

    std::vector<std::unique_ptr<char[]>> chunks_;
    char* chunk_next_ = nullptr;
    std::size_t chunk_left_ = 0;
    std::vector<std::string_view> strings_;
    std::unordered_map<std::string_view, StringId> ids_;
};

}  // namespace fdspan
