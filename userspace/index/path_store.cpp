#include "index/path_store.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fdspan {
namespace {

constexpr std::string_view ellipsis = "…";
constexpr std::size_t max_name_bytes = 0xffff;

std::uint64_t hash_bytes(std::string_view text, std::uint64_t seed) {
    std::uint64_t state = seed ^ (text.size() * 0x9e3779b97f4a7c15ULL);
    while (text.size() >= 8) {
        std::uint64_t word = 0;
        std::memcpy(&word, text.data(), 8);
        state = (state ^ mix(word)) * 0x9e3779b97f4a7c15ULL;
        text.remove_prefix(8);
    }
    std::uint64_t word = 0;
    if (!text.empty()) std::memcpy(&word, text.data(), text.size());  // what is empty may have no address
    return mix(state ^ mix(word));
}

bool is_component(std::string_view name) { return !name.empty() && name != "/"; }

}  // namespace

// ---- names ----

std::uint32_t NameStore::store(std::string_view text) {
    if (text.empty()) return 0;
    text = text.substr(0, max_name_bytes);
    const std::uint32_t units = units_of(text.size());
    std::uint32_t name = units < free_.size() ? free_[units] : 0;
    if (name != 0) {
        std::memcpy(&free_[units], at(name), sizeof(std::uint32_t));
        free_units_ -= units;
    } else {
        if (chunks_.empty() || next_ + units > 1U << chunk_bits) {
            chunks_.push_back(std::make_unique<char[]>(std::size_t{unit_bytes} << chunk_bits));
            next_ = chunks_.size() == 1 ? 1 : 0;  // number 0 is ""
        }
        name = static_cast<std::uint32_t>((chunks_.size() - 1) << chunk_bits) + next_;
        next_ += units;
    }
    const auto length = static_cast<std::uint16_t>(text.size());
    std::memcpy(at(name), &length, sizeof length);
    std::memcpy(at(name) + sizeof length, text.data(), text.size());
    return name;
}

std::string_view NameStore::get(std::uint32_t name) const {
    if (name == 0) return {};
    std::uint16_t length = 0;
    std::memcpy(&length, at(name), sizeof length);
    return {at(name) + sizeof length, length};
}

void NameStore::release(std::uint32_t name) {
    if (name == 0) return;
    const std::uint32_t units = units_of(get(name).size());
    if (units >= free_.size()) free_.resize(units + 1, 0);
    std::memcpy(at(name), &free_[units], sizeof(std::uint32_t));
    free_[units] = name;
    free_units_ += units;
}

std::size_t NameStore::bytes() const {
    return chunks_.size() * (std::size_t{unit_bytes} << chunk_bits) + free_.capacity() * sizeof(std::uint32_t);
}

// ---- paths ----

PathStore::PathStore() {
    for (const Dir dir : {root, cut}) {
        // Numbers 1 and 2, never freed.
        Node& fresh = nodes_[nodes_.take()];
        fresh = Node{};
        fresh.refs = 1;
        if (dir == cut) fresh.name = names_.store(ellipsis);
    }
}

std::uint64_t PathStore::hash(Dir parent, std::string_view name) { return hash_bytes(name, parent); }

std::uint64_t PathStore::hash_of(std::string_view name) { return hash_bytes(name, none); }

PathStore::Dir PathStore::child(Dir parent, std::string_view name) const {
    Dir dir = buckets_.head(hash(parent, name));
    while (dir != none && (nodes_[dir].parent != parent || names_.get(nodes_[dir].name) != name)) dir = nodes_[dir].next_in_bucket;
    return dir;
}

// Without a count of its own: the caller adds one before it interns anything else.
PathStore::Dir PathStore::intern_child(Dir parent, std::string_view name) {
    name = name.substr(0, max_name_bytes);
    if (const Dir known = child(parent, name); known != none) return known;
    if (buckets_.full(nodes_.used() + 1)) {
        for (Dir dir = buckets_.split(), next = none; dir != none; dir = next) {
            next = nodes_[dir].next_in_bucket;
            Dir& head = buckets_.head(hash(nodes_[dir].parent, names_.get(nodes_[dir].name)));
            nodes_[dir].next_in_bucket = head;
            head = dir;
        }
    }
    const Dir dir = nodes_.take();
    Node& fresh = nodes_[dir];
    fresh = Node{};
    fresh.parent = parent;
    fresh.name = names_.store(name);
    Dir& head = buckets_.head(hash(parent, name));
    fresh.next_in_bucket = head;
    head = dir;
    Node& above = nodes_[parent];
    fresh.next_sibling = above.first_child;
    if (fresh.next_sibling != none) nodes_[fresh.next_sibling].previous_sibling = dir;
    above.first_child = dir;
    ++above.refs;
    return dir;
}

void PathStore::unref(Dir dir) {
    while (dir > cut && --nodes_[dir].refs == 0) {
        Node& dead = nodes_[dir];
        Dir* link = &buckets_.head(hash(dead.parent, names_.get(dead.name)));
        while (*link != dir) link = &nodes_[*link].next_in_bucket;
        *link = dead.next_in_bucket;
        if (dead.previous_sibling != none) nodes_[dead.previous_sibling].next_sibling = dead.next_sibling;
        else nodes_[dead.parent].first_child = dead.next_sibling;
        if (dead.next_sibling != none) nodes_[dead.next_sibling].previous_sibling = dead.previous_sibling;
        names_.release(dead.name);
        if (Shown& shown = shown_[dir % shown_.size()]; shown.dir == dir) shown.dir = none;
        const Dir parent = dead.parent;
        nodes_.give(dir);
        dir = parent;
    }
    if (dir != none && dir <= cut) --nodes_[dir].refs;
}

PathStore::Dir PathStore::intern_dir(std::string_view text) {
    Dir dir = root;
    if (text.starts_with(ellipsis)) {
        dir = cut;
        text.remove_prefix(ellipsis.size());
    }
    while (!text.empty()) {
        text.remove_prefix(1);  // the slash
        const std::string_view name = text.substr(0, text.find('/'));
        dir = intern_child(dir, name);
        text.remove_prefix(name.size());
    }
    return dir;
}

bool PathStore::split(std::string_view text, std::string_view& dir, std::string_view& name) {
    if (!text.starts_with('/') && !(text.starts_with(ellipsis) && text.substr(ellipsis.size()).starts_with('/'))) return false;
    const std::size_t slash = text.rfind('/');
    dir = text.substr(0, slash);
    name = text.substr(slash + 1);
    return true;
}

PathStore::Path PathStore::intern(std::string_view text) {
    std::string_view dir_text, name;
    if (!split(text, dir_text, name)) return {none, names_.store(text)};
    const Dir dir = intern_dir(dir_text);
    ++nodes_[dir].refs;
    return {dir, names_.store(name)};
}

PathStore::Dir PathStore::intern_dir_names(std::string_view names, bool is_cut) {
    const bool cacheable = names.size() <= cached_bytes;
    Cached& cached = cache_[hash_bytes(names, is_cut) % cache_.size()];
    if (cacheable && cached.dir != none && cached.is_cut == is_cut && cached.names == names) return cached.dir;

    Dir dir = is_cut ? cut : root;
    std::string_view rest = names;
    while (!rest.empty()) {
        rest.remove_suffix(1);  // the NUL
        const std::size_t before = rest.rfind('\0');
        const std::size_t begin = before == std::string_view::npos ? 0 : before + 1;
        const std::string_view name = rest.substr(begin);
        if (is_component(name)) dir = intern_child(dir, name);
        rest = rest.substr(0, begin);
    }
    if (cacheable) {
        ++nodes_[dir].refs;
        if (cached.dir != none) unref(cached.dir);
        cached.names = names;
        cached.is_cut = is_cut;
        cached.dir = dir;
    }
    return dir;
}

PathStore::Path PathStore::intern_names(std::string_view names, bool is_cut) {
    std::string_view name;
    while (!names.empty() && !is_component(name)) {
        name = names.substr(0, names.find('\0'));
        names.remove_prefix(name.size() + 1);
    }
    if (!is_component(name)) name = {};
    const Dir dir = intern_dir_names(names, is_cut);
    ++nodes_[dir].refs;
    return {dir, names_.store(name)};
}

void PathStore::release(const Path& path) {
    names_.release(path.name);
    if (path.dir != none) unref(path.dir);
}

std::string_view PathStore::text_of(Dir dir) const {
    Shown& shown = shown_[dir % shown_.size()];
    if (shown.dir == dir) return shown.text;
    // Upwards twice: first the length, then the bytes from the back.
    std::size_t bytes = 0;
    Dir top = dir;
    for (; top > cut; top = nodes_[top].parent) bytes += 1 + names_.get(nodes_[top].name).size();
    shown.text.assign(top == cut ? ellipsis : std::string_view());
    shown.text.resize(shown.text.size() + bytes);
    char* at = shown.text.data() + shown.text.size();
    for (Dir above = dir; above > cut; above = nodes_[above].parent) {
        const std::string_view name = names_.get(nodes_[above].name);
        at -= name.size();
        std::copy(name.begin(), name.end(), at);
        *--at = '/';
    }
    shown.text.push_back('/');
    shown.dir = dir;
    return shown.text;
}

void PathStore::append_text(const Path& path, std::string& out) const {
    if (path.dir != none) out.append(text_of(path.dir));
    out.append(names_.get(path.name));
}

bool PathStore::equals(const Path& path, std::string_view text) const {
    const std::string_view last = names_.get(path.name);
    if (!text.ends_with(last)) return false;
    text.remove_suffix(last.size());
    if (path.dir == none) return text.empty();
    for (Dir dir = path.dir;; dir = nodes_[dir].parent) {
        if (!text.ends_with('/')) return false;
        text.remove_suffix(1);
        const std::string_view name = names_.get(nodes_[dir].name);
        if (!text.ends_with(name)) return false;
        text.remove_suffix(name.size());
        if (dir <= cut) return text.empty();
    }
}

PathStore::Dir PathStore::find(std::string_view text) const {
    Dir dir = root;
    if (text.starts_with(ellipsis)) {
        dir = cut;
        text.remove_prefix(ellipsis.size());
    }
    if (text == "/") return dir;
    while (!text.empty() && dir != none) {
        if (text.front() != '/') return none;
        text.remove_prefix(1);
        const std::string_view name = text.substr(0, text.find('/'));
        dir = child(dir, name);
        text.remove_prefix(name.size());
    }
    return dir;
}

void PathStore::pack_names(std::vector<std::uint32_t*> held) {
    for (Dir dir = root; dir < nodes_.end(); ++dir) {
        if (nodes_[dir].refs != 0) held.push_back(&nodes_[dir].name);
    }
    // Nothing is changed until there was memory for all.
    NameStore packed;
    std::vector<std::uint32_t> moved;
    moved.reserve(held.size());
    for (const std::uint32_t* const name : held) moved.push_back(packed.store(names_.get(*name)));
    for (std::size_t i = 0; i < held.size(); ++i) *held[i] = moved[i];
    names_ = std::move(packed);
}

std::size_t PathStore::bytes() const {
    std::size_t cached = sizeof cache_ + sizeof shown_;
    for (const Cached& entry : cache_) cached += entry.names.capacity();
    for (const Shown& entry : shown_) cached += entry.text.capacity();
    return names_.bytes() + nodes_.bytes() + buckets_.bytes() + cached;
}

}  // namespace fdspan
