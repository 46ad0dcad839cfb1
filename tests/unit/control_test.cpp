#include <malloc.h>
#include <poll.h>

#include <map>

#include "base/clock.hpp"
#include "index_feed.hpp"
#include "peer.hpp"
#include "service/control/protocol.hpp"
#include "service/control/server.hpp"

using namespace fdspan;
using namespace fdspan::service;
using namespace fdspan::test;

namespace {

constexpr std::uint64_t second = 1'000'000'000;
constexpr DeviceNumber disk{8, 1};

struct Message {
    MessageType type;
    std::string payload;
};

struct Served : Feed {
    Listening listening;
    Peer peer;
    std::unique_ptr<ControlServer> server;
    std::vector<std::string> received;

    explicit Served(std::size_t clients) : peer(listening, clients), received(clients) {
        auto opened = ControlServer::open({}, listening.fd.release(), {});
        REQUIRE(opened);
        server = std::move(*opened);
        now_ns = 100;
        fork(1, 2);
        settle({1, 2});
    }
    void start(pid_t pid, std::uint64_t at_ns, std::int32_t files) {
        now_ns = at_ns;
        fork(1, static_cast<std::uint32_t>(pid));
        settle({pid});
        for (std::int32_t fd = 0; fd < files; ++fd) {
            Opened what;
            what.id = static_cast<std::uint64_t>(100 + fd);
            open(static_cast<std::uint32_t>(pid), fd, what);
        }
    }
    void ask(std::size_t client, MessageType type, const std::vector<std::int32_t>& pids = {}) const {
        std::string request, payload;
        for (const std::int32_t pid : pids) append_bytes(payload, &pid, sizeof pid);
        append_message(request, type, payload);
        REQUIRE(::send(peer.sockets[client].get(), request.data(), request.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(request.size()));
    }
    // One turn of the daemon's loop.
    void turn(std::uint64_t known_until_ns = ~std::uint64_t{0}) {
        if (server->receive()) server->answer({index, Backend::trampoline, true, known_until_ns, check});
    }
    std::function<std::string(Sight&)> check = [](Sight&) { return std::string("{}"); };
    // What is there to be read by now. False: the answer is at its end.
    bool read(std::size_t client) {
        char bytes[65536];
        while (true) {
            const ssize_t count = ::recv(peer.sockets[client].get(), bytes, sizeof bytes, MSG_DONTWAIT);
            if (count <= 0) return count < 0;
            received[client].append(bytes, static_cast<std::size_t>(count));
        }
    }
    std::vector<Message> answer(std::size_t client) {
        for (int turns = 0; turns < 10000; ++turns) {
            turn();
            if (!read(client)) break;
        }
        return messages(client);
    }
    [[nodiscard]] std::vector<Message> messages(std::size_t client) const {
        std::vector<Message> found;
        for (std::string_view rest = received[client]; rest.size() >= sizeof(MessageHeader);) {
            const auto header = take_struct<MessageHeader>(rest);
            REQUIRE(rest.size() >= header.bytes);
            found.push_back({static_cast<MessageType>(header.type), std::string(rest.substr(0, header.bytes))});
            rest.remove_prefix(header.bytes);
        }
        return found;
    }
};

std::size_t count_of(const std::vector<Message>& messages, MessageType type) {
    return static_cast<std::size_t>(std::count_if(messages.begin(), messages.end(), [type](const Message& message) { return message.type == type; }));
}

}  // namespace

TEST_CASE("an answer tells nothing of a process whose pid is another's by now") {
    Served world(2);
    const bool reused = GENERATE(true, false);
    world.start(world.peer.pid, reused ? world.peer.started_ns - second : world.peer.started_ns, 40);
    RemovalNote note;
    note.when = Interval::exact(world.now_ns);
    REQUIRE(world.index.note_deleted(disk, 100, note, {}));
    world.ask(0, MessageType::ask_times, {world.peer.pid});
    world.ask(1, MessageType::ask_deletions);
    const std::size_t told = reused ? 0 : 1;
    const auto times = world.answer(0), deletions = world.answer(1);
    CHECK(count_of(times, MessageType::process) == told);
    CHECK(count_of(times, MessageType::end) == 1);
    CHECK(count_of(deletions, MessageType::deletion) == told);
    CHECK(count_of(deletions, MessageType::end) == 1);
}

TEST_CASE("between two polls of /proc a question waits for the next one") {
    Served world(2);
    world.start(world.peer.pid, world.peer.started_ns, 4);
    const std::uint64_t polled_ns = boottime_now_ns();
    world.ask(0, MessageType::ask_times, {world.peer.pid});
    world.ask(1, MessageType::ask_check);
    for (int turns = 0; turns < 3; ++turns) world.turn(polled_ns);
    CHECK(world.read(0));
    CHECK(world.received[0].empty());
    CHECK_FALSE(world.read(1));
    CHECK(count_of(world.messages(1), MessageType::check) == 1);
    // It does not wake the loop until then.
    pollfd quiet{world.server->fd(), POLLIN, 0};
    CHECK(::poll(&quiet, 1, 0) == 0);
    CHECK(count_of(world.answer(0), MessageType::process) == 1);
}

TEST_CASE("checks that have to look at many processes are made a few a turn") {
    constexpr std::size_t clients = 8;
    Served world(clients);
    std::size_t made = 0;
    world.check = [&made](Sight& sight) {
        ++made;
        // Nobody is process 0.
        for (std::uint64_t began = 0; began < 3000; ++began) (void)sight.sees(0, Interval::exact(began));
        return std::string("{}");
    };
    world.turn();
    for (std::size_t client = 0; client < clients; ++client) world.ask(client, MessageType::ask_check);
    world.turn();
    CHECK(made == 2);
    for (std::size_t turns = 0; turns < clients; ++turns) world.turn();
    CHECK(made == clients);
    for (std::size_t client = 0; client < clients; ++client) CHECK(count_of(world.answer(client), MessageType::check) == 1);
}

TEST_CASE("whoever asks again and again keeps nobody from an answer") {
    Served world(8);
    world.check = [](Sight& sight) {
        for (std::uint64_t began = 0; began < 5000; ++began) (void)sight.sees(0, Interval::exact(began));
        return std::string("{}");
    };
    world.turn();
    // One a turn; those with a lower number come first.
    world.ask(1, MessageType::ask_check);
    world.ask(7, MessageType::ask_check);
    world.turn();
    CHECK_FALSE(world.read(1));
    world.ask(0, MessageType::ask_check);
    world.turn();
    CHECK_FALSE(world.read(7));
    CHECK(world.read(0));
}

TEST_CASE("clients of one user that do not read share one bound of memory, and are answered in turn") {
    constexpr std::size_t clients = 16;
    constexpr std::int32_t files = 65536;
    Served world(clients);
    world.quiet = true;
    world.start(world.peer.pid, world.peer.started_ns, files);
    const auto heap_bytes = [] {
        const auto heap = ::mallinfo2();
        return heap.uordblks + heap.hblkhd;
    };
    const std::size_t before = heap_bytes();
    for (std::size_t client = 0; client < clients; ++client) world.ask(client, MessageType::ask_times, {world.peer.pid});
    for (std::size_t turns = 0; turns < 2 * clients; ++turns) world.turn();
    CHECK(heap_bytes() - before < 24U << 20);
    for (std::size_t client = 0; client < clients; ++client) {
        const auto messages = world.answer(client);
        REQUIRE(count_of(messages, MessageType::end) == 1);
        REQUIRE(messages[1].payload.size() == sizeof(TimesProcess) + files * sizeof(TimesRow));
        world.received[client].clear();
    }
}

TEST_CASE("who is refused is not counted as answered") {
    Served world(2);
    world.ask(0, MessageType::error);
    world.ask(1, MessageType::ask_check);
    CHECK(count_of(world.answer(0), MessageType::error) == 1);
    CHECK(count_of(world.answer(1), MessageType::check) == 1);
    CHECK(world.server->counts().refused == 1);
    CHECK(world.server->counts().answered == 1);
}
