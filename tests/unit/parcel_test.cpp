#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <string>
#include <thread>

#include "base/unique_fd.hpp"
#include "kernel/parcel.hpp"

using namespace fdspan;

namespace {

struct Ends {
    UniqueFd here, there;
    explicit Ends(int type = SOCK_STREAM) {
        std::array<int, 2> ends{};
        REQUIRE(::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()) == 0);
        here.reset(ends[0]);
        there.reset(ends[1]);
    }
};

ino_t inode_of(int fd) {
    struct stat status{};
    REQUIRE(::fstat(fd, &status) == 0);
    return status.st_ino;
}

}  // namespace

TEST_CASE("Parcel: descriptors and facts arrive under their names, by each kind of unix socket") {
    for (const int type : {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM}) {
        const Ends ends(type);
        const UniqueFd one(::open("/", O_RDONLY | O_CLOEXEC)), two(::open("/proc", O_RDONLY | O_CLOEXEC)), three(::open("/dev", O_RDONLY | O_CLOEXEC));
        Parcel sent;
        sent.put("root", one.get());
        sent.put("many", two.get());
        sent.put("many", three.get());
        sent.tell("path", "/a b");
        sent.tell("path", "");
        REQUIRE(sent.send(ends.here.get()));
        Parcel second;
        second.put("root", two.get());
        REQUIRE(second.send(ends.here.get()));

        auto got = Parcel::receive(ends.there.get());
        REQUIRE(got);
        const auto root = got->take("root");
        REQUIRE(root);
        CHECK(inode_of(root->get()) == inode_of(one.get()));
        CHECK((::fcntl(root->get(), F_GETFD) & FD_CLOEXEC) != 0);
        CHECK(got->take("root").error().code == EPROTO);
        const auto many = got->take_all("many");
        REQUIRE(many.size() == 2);
        CHECK(inode_of(many[1].get()) == inode_of(three.get()));
        CHECK(got->facts() == std::multimap<std::string, std::string>{{"path", "/a b"}, {"path", ""}});
        // Not a byte of what came behind it was taken.
        auto next = Parcel::receive(ends.there.get());
        REQUIRE(next);
        CHECK(inode_of(next->take("root")->get()) == inode_of(two.get()));
    }
}

TEST_CASE("Parcel: more words than a socket's buffer holds arrive whole, by a socket that does not wait, too") {
    const Ends ends;
    REQUIRE(::fcntl(ends.here.get(), F_SETFL, O_NONBLOCK) == 0);
    Parcel sent;
    sent.put("end", ends.here.get());
    const std::string long_text(900'000, 'x');
    sent.tell("long", long_text);
    std::thread sender([&] { REQUIRE(sent.send(ends.here.get())); });
    auto got = Parcel::receive(ends.there.get());
    sender.join();
    REQUIRE(got);
    CHECK(got->facts().find("long")->second == long_text);
    sent.tell("more", long_text);
    CHECK(sent.send(ends.here.get()).error().code == E2BIG);
}

TEST_CASE("Parcel: what is none is refused") {
    const Ends ends;
    CHECK(Parcel().send(ends.here.get()).error().code == E2BIG);
    Parcel sent;
    sent.put("end", ends.here.get());
    CHECK(sent.send(STDIN_FILENO).error().code == ENOTSOCK);

    REQUIRE(::write(ends.here.get(), "fdspanp1aaaabbbb", 16) == 16);
    CHECK(Parcel::receive(ends.there.get()).error().code == EPROTO);
    // The right head without descriptors.
    REQUIRE(::write(ends.here.get(), "fdspanp1\1\0\0\0\4\0\0\0x\0y\0", 20) == 20);
    CHECK(Parcel::receive(ends.there.get()).error().code == EPROTO);

    const Ends others;
    REQUIRE(sent.send(others.here.get()));
    std::array<char, 16> head{};
    REQUIRE(::read(others.there.get(), head.data(), head.size()) == 16);  // the descriptors go with it
    CHECK(Parcel::receive(others.there.get()).error().code == EPROTO);

    const Ends closed;
    ::shutdown(closed.here.get(), SHUT_RDWR);
    CHECK(Parcel::receive(closed.there.get()).error().code == ECONNRESET);
}
