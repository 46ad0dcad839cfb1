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
    // Of bytes(): what entries that come will take first.
    [[nodiscard]] std::size_t reusable_bytes() const { return ((chunks_.size() << chunk_bits) - used_) * sizeof(T); }

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

// Heads of hash chains; the links live in the entries. Grows one bucket at a time (linear hashing), so that no insert pays
// for all and about one bucket an entry is ever held.
class Buckets {
public:
    [[nodiscard]] std::uint32_t& head(std::uint64_t hash) { return at(place(hash)); }
    [[nodiscard]] std::uint32_t head(std::uint64_t hash) const {
        const std::uint32_t bucket = place(hash);
        return chunks_[bucket >> chunk_bits][bucket & chunk_mask];
    }
    [[nodiscard]] bool full(std::uint32_t entries) const { return entries > count_; }
    // Adds a bucket and returns the chain that has to be spread again: the caller puts each of its entries at its head().
    [[nodiscard]] std::uint32_t split() {
        const std::uint32_t from = count_ - base_;
        if (count_ >> chunk_bits >= chunks_.size()) chunks_.push_back(std::make_unique<std::uint32_t[]>(1U << chunk_bits));
        ++count_;
        if (count_ == base_ * 2) base_ = count_;
        const std::uint32_t chain = at(from);
        at(from) = 0;
        return chain;
    }
    [[nodiscard]] std::size_t bytes() const {
        return chunks_.size() * (sizeof(std::uint32_t) << chunk_bits) + chunks_.capacity() * sizeof(chunks_[0]);
    }

private:
    static constexpr unsigned chunk_bits = 10;
    static constexpr std::uint32_t chunk_mask = (1U << chunk_bits) - 1;
    [[nodiscard]] std::uint32_t& at(std::uint32_t bucket) { return chunks_[bucket >> chunk_bits][bucket & chunk_mask]; }
    [[nodiscard]] std::uint32_t place(std::uint64_t hash) const {
        const auto wide = static_cast<std::uint32_t>(hash) & (base_ * 2 - 1);
        return wide < count_ ? wide : wide & (base_ - 1);
    }
    std::uint32_t base_ = 1U << chunk_bits;   // a power of two, base_ <= count_ < 2 * base_
    std::uint32_t count_ = 1U << chunk_bits;  // buckets there are
    std::vector<std::unique_ptr<std::uint32_t[]>> chunks_ = first();
    static std::vector<std::unique_ptr<std::uint32_t[]>> first() {
        std::vector<std::unique_ptr<std::uint32_t[]>> out;
        out.push_back(std::make_unique<std::uint32_t[]>(1U << chunk_bits));
        return out;
    }
};

}  // namespace fdspan
