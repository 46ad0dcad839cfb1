#include "progress.hpp"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>

#include "base/clock.hpp"
#include "columns.hpp"
#include "duration.hpp"

namespace fdspan::cli {
namespace {

constexpr std::uint64_t first_after_ns = 500'000'000;
constexpr std::uint64_t every_ns = 100'000'000;

// Asked for each time: the window may have been resized.
std::size_t error_width() {
    winsize size{};
    return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void write_error(const std::string& text) {
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace

ProgressBar::ProgressBar() : terminal_(::isatty(STDERR_FILENO) == 1), began_ns_(boottime_now_ns()) {}
ProgressBar::~ProgressBar() { clear(); }

void ProgressBar::show(std::uint64_t done_bytes, std::uint64_t total_bytes) {
    if (!terminal_ || total_bytes == 0) return;
    const std::uint64_t now = boottime_now_ns();
    if (now - began_ns_ < first_after_ns || now - drawn_ns_ < every_ns) return;
    drawn_ns_ = now;
    const double part = std::min(1.0, static_cast<double>(done_bytes) / static_cast<double>(total_bytes));
    const auto seconds = static_cast<double>(now - began_ns_) / 1e9;
    std::string figures;
    append_human(figures, done_bytes);
    figures += '/';
    append_human(figures, total_bytes);
    figures += ' ';
    append_human(figures, static_cast<std::uint64_t>(static_cast<double>(done_bytes) / seconds));
    figures += "/s";
    if (part > 0) figures += ' ' + format_duration(static_cast<std::uint64_t>(seconds * (1 - part) / part) * 1'000'000'000) + " left";
    std::array<char, 8> percent{};
    std::snprintf(percent.data(), percent.size(), "%3d%% ", static_cast<int>(part * 100));
    std::string line = percent.data();
    const std::size_t width = error_width();
    if (width > line.size() + figures.size() + 14) {
        const std::size_t room = std::min<std::size_t>(50, width - line.size() - figures.size() - 4);
        const auto filled = static_cast<std::size_t>(part * static_cast<double>(room));
        line += '[' + std::string(filled, '#') + std::string(room - filled, ' ') + "] ";
    }
    line += figures;
    // One column is left free: a full line would wrap, and could not be taken back.
    if (line.size() >= width) line.resize(width - 1);
    write_error("\r" + line + "\x1b[K");
    shown_ = true;
}

void ProgressBar::clear() {
    if (shown_) write_error("\r\x1b[K");
    shown_ = false;
}

}  // namespace fdspan::cli
