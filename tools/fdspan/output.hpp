// Standard output: buffered, every write checked. What goes wrong is remembered, and said once at the end.
#pragma once

#include <csignal>
#include <cstddef>
#include <string>
#include <string_view>

namespace fdspan::cli {

enum ExitCode : int {
    exit_done = 0,
    exit_nothing_matched = 1,
    exit_error = 2,
    exit_incomplete = 3,
};

// Owns the buffer in front of descriptor 1. One thread.
class Output {
public:
    void write(std::string_view text) {
        if (text.size() >= flush_bytes) {
            flush();
            send(text);
            return;
        }
        buffer_ += text;
        if (buffer_.size() >= flush_bytes) flush();
    }
    // For writers that append in place; call written() after each row.
    [[nodiscard]] std::string& buffer() { return buffer_; }
    void written() {
        if (buffer_.size() >= flush_bytes) flush();
    }
    void flush();

    // While *stop is set, a reader that does not read is waited for no longer than a second.
    void give_up_when(const volatile sig_atomic_t* stop) { stop_ = stop; }
    // Nothing that is written from now on can arrive: stop working.
    [[nodiscard]] bool broken() const { return error_ != 0; }
    // The exit code `code` would become: 0 when the reader went away on purpose (`| head`), 2 with one line on stderr when the
    // text could not be written (disk full).
    [[nodiscard]] int finish(int code);

private:
    static constexpr std::size_t flush_bytes = 64 * 1024;
    void send(std::string_view text);
    std::string buffer_;
    int error_ = 0;
    const volatile sig_atomic_t* stop_ = nullptr;
};

[[nodiscard]] bool stdout_is_terminal();
// Columns of the terminal on stdout; 80 where it does not say.
[[nodiscard]] std::size_t terminal_width();

enum class ColorMode { automatic, always, never };

// Escape sequences, all empty when there is no colour.
struct Palette {
    std::string_view bold, dim, red, green, yellow, reset;
};
[[nodiscard]] Palette make_palette(ColorMode mode);

// Ties descriptors 0 to 2 to something when the caller closed them, so that no file of ours is taken for them.
void secure_standard_descriptors();

}  // namespace fdspan::cli
