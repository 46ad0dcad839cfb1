// What every fuzzer asserts besides not crashing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

inline void require(bool fact) {
    if (!fact) std::abort();
}

// A parser's views point into its input.
inline void require_inside(std::string_view part, std::string_view whole) {
    require(part.empty() || (part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size()));
}

inline std::string_view input(const std::uint8_t* data, std::size_t size) { return {reinterpret_cast<const char*>(data), size}; }
