// PathStore: paths as (directory, name). Directories are a tree, each stored once and counted, so that equal prefixes cost
// nothing and dead ones go; the name of a file is stored per description. Not thread-safe.
// Text without a leading "/" ("pipe:[12]", "anon_inode:[eventpoll]") is a name in no directory.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "index/pool.hpp"

namespace fdspan {

// NameStore: byte strings up to 65535 bytes (longer ones are cut), in blocks that are used again by size.
class NameStore {
public:
    [[nodiscard]] std::uint32_t store(std::string_view text);  // 0 for ""
    void release(std::uint32_t name);
    [[nodiscard]] std::string_view get(std::uint32_t name) const;
    [[nodiscard]] std::size_t bytes() const;
    // For names of the same size only.
    [[nodiscard]] std::size_t free_bytes() const { return free_units_ * unit_bytes; }

private:
    static constexpr unsigned unit_bytes = 4;
    static constexpr unsigned chunk_bits = 16;  // units
    [[nodiscard]] static std::uint32_t units_of(std::size_t length) {
        return static_cast<std::uint32_t>((length + 2 + unit_bytes - 1) / unit_bytes);
    }
    [[nodiscard]] char* at(std::uint32_t name) const {
        return chunks_[name >> chunk_bits].get() + std::size_t{name & ((1U << chunk_bits) - 1)} * unit_bytes;
    }

    std::vector<std::unique_ptr<char[]>> chunks_;
    std::uint32_t next_ = 0;              // unit number in the newest chunk
    std::size_t free_units_ = 0;
    std::vector<std::uint32_t> free_;     // by units: the first free block; each holds the number of the next
};

class PathStore {
public:
    using Dir = std::uint32_t;
    static constexpr Dir none = 0;
    static constexpr Dir root = 1;  // "/"
    static constexpr Dir cut = 2;   // "…": what is above was not read

    struct Path {
        Dir dir = none;
        std::uint32_t name = 0;
    };

    PathStore();

    // A Path owns its name and one count of its directory until release().
    [[nodiscard]] Path intern(std::string_view text);
    // From names as a record carries them: file first, each ending in NUL.
    [[nodiscard]] Path intern_names(std::string_view names, bool is_cut);
    void release(const Path& path);

    void append_text(const Path& path, std::string& out) const;
    [[nodiscard]] bool equals(const Path& path, std::string_view text) const;
    [[nodiscard]] std::string_view name(std::uint32_t name) const { return names_.get(name); }

    // The directory of this text, none when nothing is stored below it.
    [[nodiscard]] Dir find(std::string_view text) const;
    // Of a name, wherever it stands.
    [[nodiscard]] static std::uint64_t hash_of(std::string_view name);
    // Splits "/a/b/c" into the text of its directory ("/a/b") and its last component; false for text in no directory.
    [[nodiscard]] static bool split(std::string_view text, std::string_view& dir, std::string_view& name);

    struct Node {
        Dir parent, first_child, next_sibling, previous_sibling;
        std::uint32_t first_description;  // list kept by the index
        std::uint32_t next_in_bucket;
        std::uint32_t refs;               // children, paths, and the cache
        std::uint32_t name;
    };
    // Of one more directory, beside its name.
    static constexpr std::size_t directory_bytes = sizeof(Node) + 2 * sizeof(std::uint32_t);
    [[nodiscard]] Node& node(Dir dir) { return nodes_[dir]; }
    [[nodiscard]] const Node& node(Dir dir) const { return nodes_[dir]; }

    [[nodiscard]] std::uint32_t directories() const { return nodes_.used(); }
    [[nodiscard]] std::size_t bytes() const;
    [[nodiscard]] std::size_t reusable_bytes() const { return nodes_.reusable_bytes(); }
    // What packing the names would give back is worth the work.
    [[nodiscard]] bool names_are_loose() const { return names_.free_bytes() * 8 >= names_.bytes(); }
    // Moves all names together. `held` are those of all paths: each is given its new number.
    void pack_names(std::vector<std::uint32_t*> held);

private:
    [[nodiscard]] static std::uint64_t hash(Dir parent, std::string_view name);
    [[nodiscard]] Dir child(Dir parent, std::string_view name) const;
    [[nodiscard]] Dir intern_child(Dir parent, std::string_view name);
    [[nodiscard]] Dir intern_dir(std::string_view text);
    [[nodiscard]] Dir intern_dir_names(std::string_view names, bool is_cut);
    void unref(Dir dir);

    // The directories of the last opens, by the bytes that stood for them: opens come in swarms.
    struct Cached {
        std::string names;
        bool is_cut = false;
        Dir dir = none;
    };
    static constexpr std::size_t cached_bytes = 512;

    // And the other way: what is reported of a span is mostly asked for once more when it ends.
    struct Shown {
        Dir dir = none;
        std::string text;  // with the slash at its end
    };
    [[nodiscard]] std::string_view text_of(Dir dir) const;

    NameStore names_;
    Pool<Node, 10> nodes_;
    Buckets buckets_;
    std::array<Cached, 64> cache_;
    mutable std::array<Shown, 64> shown_;
};

}  // namespace fdspan
