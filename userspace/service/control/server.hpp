// ControlServer: the daemon's end of the socket. Owns the listening socket and the clients; everything is non-blocking, every buffer,
// count and patience has a bound, so that nobody at the other end can hold up or bloat the daemon. One thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "api/snapshot.hpp"
#include "base/result.hpp"
#include "base/unique_fd.hpp"
#include "service/control/viewer.hpp"

namespace fdspan {
class Index;
}

namespace fdspan::service {

struct ControlSettings {
    std::string path;
    std::string group = "fdspan";        // that may connect; where it does not exist, only the daemon's own
    std::size_t max_clients = 1024;
    std::size_t max_clients_of_user = 256;  // root has no such bound
};

struct ControlCounts {
    std::uint64_t clients = 0;
    std::uint64_t answered = 0;
    std::uint64_t refused = 0;    // too many, or not our protocol
    std::uint64_t timed_out = 0;
};

class ControlServer {
public:
    // How long a client may take for its request, and between two signs of life while it is answered, and for everything.
    static constexpr std::uint64_t patience_ns = 5'000'000'000;
    static constexpr std::uint64_t total_patience_ns = 60'000'000'000;
    // An answer is made as it is read: no client has more than this waiting, give or take one process.
    static constexpr std::size_t buffer_bytes = 256 * 1024;
    // … and what waits for all clients of one user together has a bound as well; beyond it they are answered one after the other.
    static constexpr std::size_t bytes_of_user = 8U << 20;
    static constexpr std::size_t bytes_per_turn = 4U << 20;   // made for all clients before the ring is looked at again

    struct Source {
        const Index& index;
        Backend backend;
        bool certain;                  // the index has all that happened until …
        std::uint64_t known_until_ns;  // … then; who asks for rows later waits for the next poll of /proc
        std::function<std::string(Sight&)> check;
    };

    // `listening` as systemd hands it over; -1: makes the socket itself. `say` gets a sentence about what is not as asked for.
    static Result<std::unique_ptr<ControlServer>> open(const ControlSettings& settings, int listening, const std::function<void(const std::string&)>& say);
    ~ControlServer();
    ControlServer(const ControlServer&) = delete;
    ControlServer& operator=(const ControlServer&) = delete;

    // Readable when there is something to do.
    [[nodiscard]] int fd() const { return poll_.get(); }
    // Until a client runs out of patience; -1: there is none.
    [[nodiscard]] int timeout_ms() const;
    // Takes connections and requests. True: somebody waits for an answer; what happened until now should be in the index first.
    bool receive();
    void answer(const Source& source);

    [[nodiscard]] ControlCounts counts() const;

private:
    struct Client {
        UniqueFd fd;
        Viewer viewer;
        std::string in, out;
        std::size_t out_at = 0;
        bool asked = false, begun = false, ended = false, refused = false;
        std::uint16_t type = 0;
        std::vector<pid_t> pids;         // still to be answered for, the last first; ask_deletions: whose files, all if empty
        std::vector<std::pair<DeviceNumber, std::uint64_t>> files;  // ask_deletions: likewise
        std::uint64_t asked_ns = 0, deadline_ns = 0, total_deadline_ns = 0;
        std::uint32_t polled = 0;
    };
    ControlServer() = default;
    void accept_clients();
    // False: it is done with.
    bool read_request(Client& client);
    bool parse_request(Client& client);
    void produce(Client& client, const Source& source, std::size_t& budget);
    void append_process(Client& client, pid_t pid, const Index& index);
    void append_deletion(Client& client, const std::pair<DeviceNumber, std::uint64_t>& file, const Index& index, Sight& sight);
    [[nodiscard]] static bool waits_for_poll(const Client& client, const Source& source);
    [[nodiscard]] static std::size_t bytes_of(const Client& client);
    void begin_answer(Client& client, const Source& source);
    void produce_times(Client& client, const Source& source, std::size_t& budget);
    void produce_deletions(Client& client, const Source& source, std::size_t& budget);
    bool write_answer(Client& client);
    void poll_for(Client& client, std::uint32_t events);
    void refuse(Client& client, std::string_view why);

    std::string path_;           // to be removed at the end; "": not ours
    std::size_t max_clients_ = 0, max_clients_of_user_ = 0;
    UniqueFd listening_, poll_;
    std::map<int, std::unique_ptr<Client>> clients_;
    int last_answered_ = -1;     // the next turn begins behind it
    ControlCounts counts_;
};

}  // namespace fdspan::service
