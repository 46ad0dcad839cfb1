#include "output.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include <spdlog/spdlog.h>

namespace fdspan::cli {

void Output::flush() {
    send(buffer_);
    buffer_.clear();
}

void Output::send(std::string_view text) {
    // poll(2) calls a pipe writable when a page of it is free.
    constexpr std::size_t page_bytes = 4096;
    constexpr int patience_ms = 1000;
    std::size_t at = 0;
    while (error_ == 0 && at < text.size()) {
        std::size_t bytes = text.size() - at;
        if (stop_ != nullptr && *stop_ != 0) {
            pollfd wait{STDOUT_FILENO, POLLOUT, 0};
            if (::poll(&wait, 1, patience_ms) == 0) {
                error_ = ECANCELED;
                break;
            }
            bytes = std::min(bytes, page_bytes);
        }
        const ssize_t count = ::write(STDOUT_FILENO, text.data() + at, bytes);
        if (count >= 0) {
            at += static_cast<std::size_t>(count);
        } else if (errno != EINTR) {
            error_ = errno;
        }
    }
}

int Output::finish(int code) {
    flush();
    if (error_ == 0) return code;
    if (error_ == EPIPE || error_ == ECANCELED) return exit_done;
    spdlog::error("cannot write to standard output: {}", std::generic_category().message(error_));
    return exit_error;
}

bool stdout_is_terminal() { return ::isatty(STDOUT_FILENO) == 1; }

std::size_t terminal_width() {
    winsize size{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return 80;
}

Palette make_palette(ColorMode mode) {
    if (mode == ColorMode::automatic) {
        // https://no-color.org: present and not empty, whatever its value.
        const char* const no_color = std::getenv("NO_COLOR");
        const char* const term = std::getenv("TERM");
        const bool wanted = stdout_is_terminal() && (no_color == nullptr || *no_color == '\0') && term != nullptr &&
                            std::string_view(term) != "dumb" && *term != '\0';
        mode = wanted ? ColorMode::always : ColorMode::never;
    }
    if (mode == ColorMode::never) return {};
    return {"\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"};
}

void secure_standard_descriptors() {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
        if (::fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        // Lowest free number first, so it becomes `fd`. Read-only for 1: a write must still fail.
        const int opened = ::open("/dev/null", fd == STDERR_FILENO ? O_RDWR : O_RDONLY);
        if (opened >= 0 && opened != fd) ::close(opened);
    }
}

}  // namespace fdspan::cli
