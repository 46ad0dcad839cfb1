// Running programs under test: start, talk over pipes, wait with a deadline. Independent of fdspan's own code.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace truth {

inline std::uint64_t boottime_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_BOOTTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U + static_cast<std::uint64_t>(now.tv_nsec);
}

inline std::runtime_error errno_error(const std::string& what) { return std::runtime_error(what + ": " + std::strerror(errno)); }

// One child process with pipes at its stdin and stdout. Killed and reaped when it goes. One thread.
class Program {
public:
    explicit Program(std::vector<std::string> arguments) : arguments_(std::move(arguments)) {
        int in[2], out[2];
        if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) throw errno_error("pipe2");
        pid_ = ::fork();
        if (pid_ < 0) throw errno_error("fork");
        if (pid_ == 0) {
            ::dup2(in[0], 0);
            ::dup2(out[1], 1);
            std::vector<char*> values;
            for (std::string& argument : arguments_) values.push_back(argument.data());
            values.push_back(nullptr);
            ::execvp(values[0], values.data());
            std::fprintf(stderr, "%s: %s\n", values[0], std::strerror(errno));
            ::_exit(127);
        }
        ::close(in[0]);
        ::close(out[1]);
        in_ = in[1];
        out_ = out[0];
    }
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    ~Program() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
        }
        close_stdin();
        if (out_ >= 0) ::close(out_);
    }

    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] const std::string& name() const { return arguments_[0]; }

    void say(const std::string& line) {
        const std::string text = line + "\n";
        if (::write(in_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) throw errno_error("write to " + name());
    }
    void close_stdin() {
        if (in_ >= 0) ::close(in_);
        in_ = -1;
    }
    void send_signal(int number) { ::kill(pid_, number); }

    // Reads what is there within `wait_ms`. False: the end.
    bool pump(int wait_ms) {
        pollfd ready{out_, POLLIN, 0};
        const int count = ::poll(&ready, 1, wait_ms);
        if (count < 0 && errno != EINTR) throw errno_error("poll");
        if (count <= 0) return true;
        char bytes[65536];
        const ssize_t got = ::read(out_, bytes, sizeof bytes);
        if (got < 0 && errno != EINTR && errno != EAGAIN) throw errno_error("read from " + name());
        if (got == 0) return false;
        if (got > 0) text_.append(bytes, static_cast<std::size_t>(got));
        return true;
    }

    // The next line of stdout, without its end. False: the program closed its stdout. Throws when nothing comes in time.
    bool line(std::string& into, std::chrono::seconds limit = std::chrono::seconds(300)) {
        const auto deadline = std::chrono::steady_clock::now() + limit;
        while (true) {
            if (const std::size_t end = text_.find('\n', scanned_); end != std::string::npos) {
                into.assign(text_, begin_, end - begin_);
                begin_ = scanned_ = end + 1;
                if (begin_ > (1U << 20)) {
                    text_.erase(0, begin_);
                    begin_ = scanned_ = 0;
                }
                return true;
            }
            scanned_ = text_.size();
            if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error(name() + " said nothing for too long");
            if (!pump(1000)) return false;
        }
    }

    // All the rest of stdout.
    std::string rest(std::chrono::seconds limit = std::chrono::seconds(300)) {
        const auto deadline = std::chrono::steady_clock::now() + limit;
        while (pump(1000)) {
            if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error(name() + " did not end in time");
        }
        std::string all = text_.substr(begin_);
        text_.clear();
        begin_ = scanned_ = 0;
        return all;
    }

    // The exit code; 128 + signal when one ended it.
    int wait(std::chrono::seconds limit = std::chrono::seconds(120)) {
        const auto deadline = std::chrono::steady_clock::now() + limit;
        int status = 0;
        pid_t got = 0;
        while ((got = ::waitpid(pid_, &status, WNOHANG)) == 0) {
            if (std::chrono::steady_clock::now() > deadline) throw std::runtime_error(name() + " did not end in time");
            if (out_ >= 0) pump(10);
        }
        if (got < 0) throw errno_error("waitpid");
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }

private:
    std::vector<std::string> arguments_;
    pid_t pid_ = -1;
    int in_ = -1;
    int out_ = -1;
    std::string text_;
    std::size_t begin_ = 0;
    std::size_t scanned_ = 0;
};

struct Outcome {
    int code = 0;
    std::string text;  // stdout
};

inline Outcome run(std::vector<std::string> arguments, std::chrono::seconds limit = std::chrono::seconds(300)) {
    Program program(std::move(arguments));
    program.close_stdin();
    Outcome outcome;
    outcome.text = program.rest(limit);
    outcome.code = program.wait();
    return outcome;
}

// A writer to a program that went away must not die of it.
inline void ignore_broken_pipes() { ::signal(SIGPIPE, SIG_IGN); }

}  // namespace truth
