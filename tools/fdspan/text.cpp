#include "text.hpp"

#include <signal.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <cwchar>

namespace fdspan::cli {
namespace {

constexpr std::string_view hex_digits = "0123456789abcdef";
constexpr std::string_view ellipsis = "…";
constexpr std::string_view deleted_mark = " (deleted)";

struct Decoded {
    char32_t code_point = 0;
    std::size_t bytes = 0;  // 0: not valid UTF-8 here
};

Decoded decode(std::string_view text, std::size_t at) {
    const auto byte = [&](std::size_t index) { return static_cast<unsigned char>(text[index]); };
    const unsigned char lead = byte(at);
    if (lead < 0x80) return {lead, 1};
    std::size_t length = 0;
    char32_t value = 0;
    if (lead >= 0xc2 && lead <= 0xdf) {
        length = 2;
        value = lead & 0x1fU;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        length = 3;
        value = lead & 0x0fU;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        length = 4;
        value = lead & 0x07U;
    } else {
        return {};
    }
    if (text.size() - at < length) return {};
    for (std::size_t index = 1; index < length; ++index) {
        const unsigned char next = byte(at + index);
        if ((next & 0xc0U) != 0x80) return {};
        value = (value << 6U) | (next & 0x3fU);
    }
    // Overlong forms, surrogates, beyond Unicode.
    if ((length == 3 && value < 0x800) || (length == 4 && (value < 0x10000 || value > 0x10ffff)) ||
        (value >= 0xd800 && value <= 0xdfff)) {
        return {};
    }
    return {value, length};
}

// Valid characters that change what the terminal does with the ones around them.
bool is_unsafe(char32_t c) {
    return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x2028 && c <= 0x202e) ||
           (c >= 0x2066 && c <= 0x2069) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb);
}

void append_hex_escape(std::string& out, unsigned char byte) {
    out += "\\x";
    out += hex_digits[byte >> 4U];
    out += hex_digits[byte & 0x0fU];
}

std::size_t width_of(char32_t c) {
    if (c < 0x80) return 1;
    const int width = ::wcwidth(static_cast<wchar_t>(c));
    return width < 0 ? 1 : static_cast<std::size_t>(width);
}

// ---- eight bytes at a time: nearly all text is printable ASCII, and a listing has megabytes of it ----

constexpr std::uint64_t every_byte = 0x0101010101010101;
constexpr std::uint64_t top_bits = 0x80 * every_byte;

std::uint64_t load_word(const char* at) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    return word;
}
// Top bit of each byte that is zero; only bytes above a hit may be wrong, and bytes from 0x80 on are left out.
constexpr std::uint64_t zero_bytes(std::uint64_t word) { return (word - every_byte) & ~word & top_bits; }

// Whether every byte stands for itself, quoted or not.
bool is_plain_ascii(std::string_view text) {
    const auto is_plain = [](std::uint64_t word) {
        const std::uint64_t low = (word - 0x20 * every_byte) & ~word;
        return ((low | word) & top_bits) == 0 &&
               (zero_bytes(word ^ 0x7f * every_byte) | zero_bytes(word ^ '\\' * every_byte) | zero_bytes(word ^ '"' * every_byte)) == 0;
    };
    if (text.size() < 8) {
        for (const char c : text) {
            if (c < 0x20 || c == 0x7f || c == '\\' || c == '"') return false;  // negative chars are non-ASCII
        }
        return true;
    }
    for (std::size_t at = 0; at + 8 < text.size(); at += 8) {
        if (!is_plain(load_word(text.data() + at))) return false;
    }
    return is_plain(load_word(text.data() + text.size() - 8));
}

bool is_ascii(std::string_view text) {
    std::size_t at = 0;
    for (; at + 8 <= text.size(); at += 8) {
        if ((load_word(text.data() + at) & top_bits) != 0) return false;
    }
    for (; at < text.size(); ++at) {
        if (static_cast<unsigned char>(text[at]) >= 0x80) return false;
    }
    return true;
}

// The longest prefix of at most `width` columns.
std::size_t prefix_bytes(std::string_view text, std::size_t width) {
    std::size_t at = 0;
    std::size_t used = 0;
    while (at < text.size()) {
        const Decoded next = decode(text, at);
        const std::size_t bytes = next.bytes == 0 ? 1 : next.bytes;
        const std::size_t columns = next.bytes == 0 ? 1 : width_of(next.code_point);
        if (used + columns > width) break;
        used += columns;
        at += bytes;
    }
    return at;
}

}  // namespace

bool is_valid_utf8(std::string_view bytes) {
    if (is_ascii(bytes)) return true;
    for (std::size_t at = 0; at < bytes.size();) {
        if (static_cast<unsigned char>(bytes[at]) < 0x80) {
            ++at;
            continue;
        }
        const Decoded next = decode(bytes, at);
        if (next.bytes == 0) return false;
        at += next.bytes;
    }
    return true;
}

void append_escaped(std::string& out, std::string_view bytes) {
    if (is_plain_ascii(bytes)) {
        out += bytes;
        return;
    }
    for (std::size_t at = 0; at < bytes.size();) {
        const Decoded next = decode(bytes, at);
        if (next.bytes == 0) {
            append_hex_escape(out, static_cast<unsigned char>(bytes[at]));
            ++at;
            continue;
        }
        if (next.code_point == '\\') {
            out += "\\\\";
        } else if (next.code_point == '\n') {
            out += "\\n";
        } else if (next.code_point == '\t') {
            out += "\\t";
        } else if (is_unsafe(next.code_point)) {
            for (std::size_t index = 0; index < next.bytes; ++index) {
                append_hex_escape(out, static_cast<unsigned char>(bytes[at + index]));
            }
        } else {
            out.append(bytes.substr(at, next.bytes));
        }
        at += next.bytes;
    }
}

std::string escape(std::string_view bytes) {
    std::string out;
    append_escaped(out, bytes);
    return out;
}

void append_escaped_path(std::string& out, std::string_view path) {
    append_escaped(out, path);
    if (path.ends_with(deleted_mark)) out.replace(out.size() - deleted_mark.size(), 1, "\\x20");
}

std::string escape_path(std::string_view path) {
    std::string out;
    append_escaped_path(out, path);
    return out;
}

std::size_t display_width(std::string_view text) {
    if (is_ascii(text)) return text.size();
    std::size_t width = 0;
    for (std::size_t at = 0; at < text.size();) {
        const Decoded next = decode(text, at);
        width += next.bytes == 0 ? 1 : width_of(next.code_point);
        at += next.bytes == 0 ? 1 : next.bytes;
    }
    return width;
}

std::string shorten_end(std::string_view text, std::size_t width) {
    if (display_width(text) <= width) return std::string(text);
    if (width == 0) return {};
    return std::string(text.substr(0, prefix_bytes(text, width - 1))) + std::string(ellipsis);
}

std::string shorten_middle(std::string_view text, std::size_t width) {
    const std::size_t whole = display_width(text);
    if (whole <= width) return std::string(text);
    if (width < 5) return shorten_end(text, width);
    // The end of a path says more than its beginning.
    const std::size_t head_width = (width - 1) / 3;
    const std::size_t tail_width = width - 1 - head_width;
    std::size_t tail_at = prefix_bytes(text, whole - tail_width);
    // A wide character may straddle the cut.
    while (display_width(text.substr(tail_at)) > tail_width) {
        const Decoded next = decode(text, tail_at);
        tail_at += next.bytes == 0 ? 1 : next.bytes;
    }
    std::string out(text.substr(0, prefix_bytes(text, head_width)));
    out += ellipsis;
    out += text.substr(tail_at);
    return out;
}

void append_json_string(std::string& out, std::string_view bytes) {
    out += '"';
    if (is_plain_ascii(bytes)) {
        out += bytes;
        out += '"';
        return;
    }
    for (std::size_t at = 0; at < bytes.size();) {
        const Decoded next = decode(bytes, at);
        if (next.bytes == 0) {
            out += '\\';  // the text \xNN, its backslash escaped for JSON
            append_hex_escape(out, static_cast<unsigned char>(bytes[at]));
            ++at;
            continue;
        }
        const char32_t c = next.code_point;
        if (c == '"' || c == '\\') {
            out += '\\';
            out += static_cast<char>(c);
        } else if (c == '\n') {
            out += "\\n";
        } else if (is_unsafe(c)) {  // all of them are in the basic plane
            out += "\\u";
            for (const unsigned shift : {12U, 8U, 4U, 0U}) out += hex_digits[(c >> shift) & 0x0fU];
        } else {
            out.append(bytes.substr(at, next.bytes));
        }
        at += next.bytes;
    }
    out += '"';
}

void append_json_text(std::string& out, std::string_view key, std::string_view bytes) {
    if (key.size() + bytes.size() <= 200 && is_plain_ascii(bytes)) {
        Piece<208> piece;
        out += piece.add("\"").add(key).add("\":\"").add(bytes).add("\",").text();
        return;
    }
    out += '"';
    out += key;
    out += "\":";
    append_json_string(out, bytes);
    out += ',';
    if (is_valid_utf8(bytes)) return;
    out += '"';
    out += key;
    out += "_bytes\":\"";
    append_base64(out, bytes);
    out += "\",";
}

void append_json_text(std::string& out, std::string_view key, std::string_view head, std::string_view tail) {
    if (key.size() + head.size() + tail.size() <= 200 && is_plain_ascii(head) && is_plain_ascii(tail)) {
        Piece<208> piece;
        out += piece.add("\"").add(key).add("\":\"").add(head).add(tail).add("\",").text();
        return;
    }
    std::string joined(head);
    joined += tail;
    append_json_text(out, key, joined);
}

void append_base64(std::string& out, std::string_view bytes) {
    constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::size_t at = 0; at < bytes.size(); at += 3) {
        const std::size_t count = bytes.size() - at < 3 ? bytes.size() - at : 3;
        std::uint32_t group = 0;
        for (std::size_t index = 0; index < 3; ++index) {
            group = (group << 8U) | (index < count ? static_cast<unsigned char>(bytes[at + index]) : 0U);
        }
        for (std::size_t index = 0; index < 4; ++index) {
            out += index <= count ? alphabet[(group >> (18 - 6 * index)) & 0x3fU] : '=';
        }
    }
}

void append_number(std::string& out, unsigned long long value) {
    Piece<24> digits;
    out += digits.add(value).text();
}

void append_number(std::string& out, long long value) {
    std::array<char, 24> digits{};
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr;
    out.append(digits.data(), static_cast<std::size_t>(end - digits.data()));
}

std::string signal_name(int number) {
    if (const char* const name = sigabbrev_np(number); name != nullptr) return "SIG" + std::string(name);
    if (number >= SIGRTMIN && number <= SIGRTMAX) return "SIGRTMIN+" + std::to_string(number - SIGRTMIN);
    return std::to_string(number);
}

}  // namespace fdspan::cli
