// Names from the system are data: what happens to their bytes before they reach a terminal, a pipe or a JSON document.
#pragma once

#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

namespace fdspan::cli {

[[nodiscard]] bool is_valid_utf8(std::string_view bytes);

// For tables and messages: one line, harmless on a terminal, and reversible. A backslash becomes \\, newline \n, tab \t, other
// control characters (C0, DEL, C1), bidirectional overrides and line separators, and invalid UTF-8 become \xNN per byte.
[[nodiscard]] std::string escape(std::string_view bytes);
void append_escaped(std::string& out, std::string_view bytes);

// The same for a path to which the mark " (deleted)" may be added: a name that really ends so keeps apart by "\x20(deleted)".
[[nodiscard]] std::string escape_path(std::string_view path);
void append_escaped_path(std::string& out, std::string_view path);

// Terminal columns of text that escape() made.
[[nodiscard]] std::size_t display_width(std::string_view text);

// Cuts text that escape() made to `width` columns, with … where something is missing: at the end, or in the middle (paths).
[[nodiscard]] std::string shorten_end(std::string_view text, std::size_t width);
[[nodiscard]] std::string shorten_middle(std::string_view text, std::size_t width);

// A JSON string literal. Bytes that are not valid UTF-8 become the text \xNN; append_json_text() keeps those exactly.
void append_json_string(std::string& out, std::string_view bytes);

// "key":"text" and, where the bytes are not valid UTF-8, also "key_bytes":"base64 of the exact bytes". Ends in a comma.
void append_json_text(std::string& out, std::string_view key, std::string_view bytes);
// Of a text in two pieces.
void append_json_text(std::string& out, std::string_view key, std::string_view head, std::string_view tail);

void append_base64(std::string& out, std::string_view bytes);

// SIGKILL, SIGRTMIN+3, or a bare number.
[[nodiscard]] std::string signal_name(int number);

// A short text put together beside the string it goes to: one append to that instead of many.
template <std::size_t capacity>
class Piece {
public:
    // What does not fit is cut: capacity is for the caller to choose.
    // Of a constant size, which costs no call.
    template <std::size_t bytes>
    Piece& add(const char (&literal)[bytes]) { return add_constant<bytes - 1>(literal); }
    template <std::size_t bytes>
    Piece& add(const std::array<char, bytes>& text) { return add_constant<bytes>(text.data()); }
    Piece& add(std::string_view text) {
        const std::size_t bytes = text.size() < room() ? text.size() : room();
        std::memcpy(bytes_.data() + used_, text.data(), bytes);
        used_ += bytes;
        return *this;
    }
    Piece& add(unsigned long long value) {
        // A 32-bit division costs half.
        char* const at = bytes_.data() + used_;
        char* const end = bytes_.data() + capacity;
        used_ = static_cast<std::size_t>((value <= 0xffffffffULL ? std::to_chars(at, end, static_cast<unsigned>(value)).ptr : std::to_chars(at, end, value).ptr) -
                                         bytes_.data());
        return *this;
    }
    [[nodiscard]] std::string_view text() const { return {bytes_.data(), used_}; }

private:
    template <std::size_t bytes>
    Piece& add_constant(const char* text) {
        if (room() < bytes) return add(std::string_view(text, bytes));
        std::memcpy(bytes_.data() + used_, text, bytes);
        used_ += bytes;
        return *this;
    }
    [[nodiscard]] std::size_t room() const { return capacity - used_; }
    std::array<char, capacity> bytes_;
    std::size_t used_ = 0;
};

void append_number(std::string& out, unsigned long long value);
void append_number(std::string& out, long long value);

}  // namespace fdspan::cli
