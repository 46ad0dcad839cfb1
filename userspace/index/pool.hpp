// Pool: entries of one type, addressed by 4-byte numbers instead of pointers, in chunks that never move.
// Number 0 means "none". Freed entries are used again, last freed first. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace fdspan {

template <class T, unsigned chunk_bits = 12>
class Pool {
public:
    // The entry is as it was left (zero at first): the caller sets every field.
    [[nodiscard]] std::uint32_t take() {
        ++used_;
        if (!free_.empty()) {
            const std::uint32_t number = free_.back();
            free_.pop_back();
            return number;
        }
        if (next_ >> chunk_bits >= chunks_.size()) chunks_.push_back(std::make_unique<T[]>(std::size_t{1} << chunk_bits));
        return next_++;
    }
    void give(std::uint32_t number) {
        --used_;
        free_.push_back(number);
    }

    [[nodiscard]] T& operator[](std::uint32_t number) { return chunks_[number >> chunk_bits][number & mask]; }
    [[nodiscard]] const T& operator[](std::uint32_t number) const { return chunks_[number >> chunk_bits][number & mask]; }

    [[nodiscard]] std::uint32_t used() const { return used_; }
    // One more than the highest number ever taken.
    [[nodiscard]] std::uint32_t end() const { return next_; }
    [[nodiscard]] std::size_t bytes() const {
        return (chunks_.size() << chunk_bits) * sizeof(T) + chunks_.capacity() * sizeof(chunks_[0]) +
               free_.capacity() * sizeof(std::uint32_t);
    }

private:
    static constexpr std::uint32_t mask = (1U << chunk_bits) - 1;
    std::vector<std::unique_ptr<T[]>> chunks_;
    std::vector<std::uint32_t> free_;
    std::uint32_t next_ = 1;
    std::uint32_t used_ = 0;
};

// Mixes a key so that its low bits may choose a bucket (the finalizer of MurmurHash3).
[[nodiscard]] constexpr std::uint64_t mix(std::uint64_t key) {
    key ^= key >> 33;
    key *= 0xff51afd7ed558ccdULL;
    key ^= key >> 33;
    key *= 0xc4ceb9fe1a85ec53ULL;
    key ^= key >> 33;
    return key;
}

// Heads of hash chains; the links live in the entries. Grows by half, so that there are 1 to 1.5 entries a bucket at most.
class Buckets {
public:
    [[nodiscard]] std::uint32_t& head(std::uint64_t hash) { return heads_[place(hash)]; }
    [[nodiscard]] std::uint32_t head(std::uint64_t hash) const { return heads_[place(hash)]; }
    [[nodiscard]] bool full(std::uint32_t entries) const { return entries > heads_.size(); }
    // Returns the old heads; the caller moves every chain.
    [[nodiscard]] std::vector<std::uint32_t> grow() {
        std::vector<std::uint32_t> old(heads_.size() + heads_.size() / 2, 0);
        old.swap(heads_);
        return old;
    }
    [[nodiscard]] std::size_t bytes() const { return heads_.capacity() * sizeof(std::uint32_t); }

private:
    [[nodiscard]] std::size_t place(std::uint64_t hash) const {
        return static_cast<std::size_t>((hash >> 32) * heads_.size() >> 32);
    }
    std::vector<std::uint32_t> heads_ = std::vector<std::uint32_t>(256, 0);
};

}  // namespace fdspan
