#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <clocale>
#include <nlohmann/json.hpp>

#include "text.hpp"

using namespace fdspan::cli;
using namespace std::string_literals;

namespace {

std::string json_of(std::string_view bytes) {
    std::string out;
    append_json_string(out, bytes);
    return out;
}

std::string base64_of(std::string_view bytes) {
    std::string out;
    append_base64(out, bytes);
    return out;
}

}  // namespace

TEST_CASE("escaped text has no byte that a terminal obeys") {
    CHECK(escape("/var/log/x") == "/var/log/x");
    CHECK(escape("a\nb\tc\rd") == "a\\nb\\tc\\x0dd");
    CHECK(escape("\x1b[31m") == "\\x1b[31m");
    CHECK(escape("\x7f") == "\\x7f");
    CHECK(escape("\xc2\x9b") == "\\xc2\\x9b");              // C1: CSI
    CHECK(escape("\xe2\x80\xae") == "\\xe2\\x80\\xae");      // right-to-left override
    CHECK(escape("\xff\xfe") == "\\xff\\xfe");
    CHECK(escape("\xc0\xaf") == "\\xc0\\xaf");              // overlong
    CHECK(escape("\xed\xa0\x80") == "\\xed\\xa0\\x80");      // surrogate
    CHECK(escape("h\xc3\xa9\xe2\x82\xac") == "h\xc3\xa9\xe2\x82\xac");
    CHECK(escape("\0"s) == "\\x00");
}

TEST_CASE("two different names never look the same after escaping") {
    CHECK(escape("a\\nb") == "a\\\\nb");
    CHECK(escape("a\\nb") != escape("a\nb"));
    CHECK(escape("\\xff") != escape("\xff"));
}

TEST_CASE("a name that really ends in (deleted) keeps apart from the mark") {
    CHECK(escape_path("/tmp/x (deleted)") == "/tmp/x\\x20(deleted)");
    CHECK(escape_path("/tmp/x") == "/tmp/x");
    CHECK(escape_path("/tmp/\n (deleted)") == "/tmp/\\n\\x20(deleted)");
}

TEST_CASE("every byte string gives valid JSON of one line, and valid UTF-8 comes back unchanged") {
    for (int byte = 0; byte < 256; ++byte) {
        const std::string text = "a"s + static_cast<char>(byte) + "b";
        const std::string encoded = json_of(text);
        CHECK(encoded.find('\n') == std::string::npos);
        const auto parsed = nlohmann::json::parse(encoded, nullptr, false);
        REQUIRE(parsed.is_string());
        if (is_valid_utf8(text)) CHECK(parsed.get<std::string>() == text);
    }
    for (const char* text : {"\"\\/", "\xc2\x9b", "\xe2\x80\xae", "\xf0\x9f\x92\xa9", "\x1b", "h\xc3\xa9"}) {
        CHECK(nlohmann::json::parse(json_of(text)).get<std::string>() == text);
    }
}

TEST_CASE("JSON on a terminal is harmless too") {
    CHECK(json_of("\x7f\xc2\x9b\xe2\x80\xae") == "\"\\u007f\\u009b\\u202e\"");
}

TEST_CASE("a name that is not valid UTF-8 is given exactly, in base64") {
    std::string out = "{";
    append_json_text(out, "path", "/tmp/\xff");
    out.back() = '}';
    const auto parsed = nlohmann::json::parse(out);
    CHECK(parsed["path"] == "/tmp/\\xff");
    CHECK(parsed["path_bytes"] == "L3RtcC//");
    out = "{";
    append_json_text(out, "path", "/tmp/ok");
    CHECK(out == "{\"path\":\"/tmp/ok\",");
}

TEST_CASE("base64 is that of RFC 4648") {
    CHECK(base64_of("") == "");
    CHECK(base64_of("f") == "Zg==");
    CHECK(base64_of("fo") == "Zm8=");
    CHECK(base64_of("foo") == "Zm9v");
    CHECK(base64_of("foobar") == "Zm9vYmFy");
    CHECK(base64_of("\xff\xff\xfe") == "///+");
}

TEST_CASE("shortened text fits, keeps its ends and whole characters") {
    std::setlocale(LC_CTYPE, "C.UTF-8");
    CHECK(shorten_end("short", 5) == "short");
    CHECK(shorten_end("longer", 5) == "long…");
    CHECK(shorten_middle("/var/log/nginx/access.log", 15) == "/var…access.log");
    for (std::size_t width = 0; width < 30; ++width) {
        for (const char* text : {"/var/log/nginx/access.log", "/日本語/日本語/日本語/日本語", "/tmp/h\xc3\xa9/h\xc3\xa9/h\xc3\xa9/h\xc3\xa9"}) {
            INFO(text << " in " << width);
            CHECK(display_width(shorten_middle(text, width)) <= width);
            CHECK(display_width(shorten_end(text, width)) <= width);
            CHECK(is_valid_utf8(shorten_middle(text, width)));
        }
    }
}
