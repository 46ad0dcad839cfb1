// Peer: a process of a user without privileges at the other end of a unix socket, as the daemon meets it.
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include <grp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/interval.hpp"
#include "base/unique_fd.hpp"
#include "snapshot/procfs_parse.hpp"

namespace fdspan::test {

// An address that the kernel chooses and nobody has to remove.
struct Listening {
    UniqueFd fd{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_un address{};
    socklen_t length = sizeof address;
    Listening() {
        address.sun_family = AF_UNIX;
        REQUIRE(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address.sun_family) == 0);
        REQUIRE(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
        REQUIRE(::listen(fd.get(), 1024) == 0);
    }
};

class Peer {
public:
    Peer(const Listening& listening, std::size_t connections) {
        int ready[2];
        REQUIRE(::pipe(ready) == 0);
        for (std::size_t at = 0; at < connections; ++at) sockets.emplace_back(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        pid = ::fork();
        REQUIRE(pid >= 0);
        if (pid == 0) live(listening, ready[1]);
        ::close(ready[1]);
        char byte = 0;
        const bool connected = ::read(ready[0], &byte, 1) == 1;
        ::close(ready[0]);
        REQUIRE(connected);
        std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
        const std::string text{std::istreambuf_iterator<char>(file), {}};
        const auto stat = procfs::parse_stat(text);
        REQUIRE(stat);
        started_ns = stat->start_ticks * (1'000'000'000 / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK)));
    }
    ~Peer() {
        ::kill(pid, SIGKILL);
        ::waitpid(pid, nullptr, 0);
    }
    Peer(const Peer&) = delete;
    Peer& operator=(const Peer&) = delete;

    pid_t pid = 0;
    std::uint64_t started_ns = 0;   // cut to a tick
    std::vector<UniqueFd> sockets;  // connected with its credentials

private:
    [[noreturn]] void live(const Listening& listening, int ready) {
        constexpr uid_t user = 1000;
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        bool good = true;
        if (::geteuid() == 0) {
            good = ::setgroups(0, nullptr) == 0 && ::setresgid(user, user, user) == 0 && ::setresuid(user, user, user) == 0;
            // As an exec would make it.
            ::prctl(PR_SET_DUMPABLE, 1);
        }
        for (const UniqueFd& socket : sockets) {
            good = good && ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&listening.address), listening.length) == 0;
        }
        if (good) (void)!::write(ready, "", 1);
        ::close(ready);
        while (good) ::pause();
        ::_exit(1);
    }
};

}  // namespace fdspan::test
