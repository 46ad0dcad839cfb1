#include "service/control/server.hpp"

#include <fcntl.h>
#include <grp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/clock.hpp"
#include "index/index.hpp"
#include "service/control/protocol.hpp"

namespace fdspan::service {
namespace {

constexpr int backlog = 1024;
constexpr int accepted_per_turn = 64;
constexpr int events_per_turn = 256;
// A look at /proc takes as long as making so many bytes.
constexpr std::size_t look_bytes = 1024;
constexpr std::uint64_t never_ns = ~std::uint64_t{0};

Result<sockaddr_un> address_of(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path) return fail(ENAMETOOLONG, "the socket's path is too long: " + path);
    path.copy(address.sun_path, path.size());
    return address;
}

std::optional<gid_t> group_id(const std::string& name) {
    std::vector<char> text(16384);
    group entry{};
    group* found = nullptr;
    if (::getgrnam_r(name.c_str(), &entry, text.data(), text.size(), &found) != 0 || found == nullptr) return std::nullopt;
    return entry.gr_gid;
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::open(const ControlSettings& settings, int listening,
                                                           const std::function<void(const std::string&)>& say) {
    std::unique_ptr<ControlServer> server(new ControlServer);
    server->max_clients_ = settings.max_clients;
    server->max_clients_of_user_ = settings.max_clients_of_user;
    if (listening >= 0) {
        server->listening_.reset(listening);
        if (::fcntl(listening, F_SETFL, O_NONBLOCK) != 0) return fail_errno(errno, "the socket that was handed over");
    } else {
        auto address = address_of(settings.path);
        if (!address) return tl::unexpected(address.error());
        server->listening_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (!server->listening_.valid()) return fail_errno(errno, "make a socket");
        // A socket that nobody listens on is what a killed daemon left.
        const UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) == 0 || errno == EAGAIN) {
            return fail(EADDRINUSE, settings.path + ": another daemon answers there");
        }
        struct stat status {};
        if (::lstat(settings.path.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)) ::unlink(settings.path.c_str());
        const std::size_t slash = settings.path.rfind('/');
        if (slash != std::string::npos && slash != 0) ::mkdir(settings.path.substr(0, slash).c_str(), 0755);
        // Nobody gets in before the group is right.
        const mode_t mask = ::umask(0177);
        const int bound = ::bind(server->listening_.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address);
        const int error = errno;
        ::umask(mask);
        if (bound != 0) return fail_errno(error, "bind " + settings.path);
        server->path_ = settings.path;
        if (const auto group = group_id(settings.group); !group) {
            say("there is no group \"" + settings.group + "\": only root may ask over " + settings.path);
            // The unit's filter of system calls has no chown; the group is right there.
        } else if (::lstat(settings.path.c_str(), &status) == 0 && status.st_gid != *group &&
                   ::chown(settings.path.c_str(), static_cast<uid_t>(-1), *group) != 0) {
            say("give " + settings.path + " to the group " + settings.group + ": " + std::generic_category().message(errno));
        } else if (::chmod(settings.path.c_str(), 0660) != 0) {
            return fail_errno(errno, "chmod " + settings.path);
        }
        if (::listen(server->listening_.get(), backlog) != 0) return fail_errno(errno, "listen on " + settings.path);
    }
    server->poll_.reset(::epoll_create1(EPOLL_CLOEXEC));
    if (!server->poll_.valid()) return fail_errno(errno, "epoll_create1");
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = server->listening_.get();
    if (::epoll_ctl(server->poll_.get(), EPOLL_CTL_ADD, server->listening_.get(), &event) != 0) return fail_errno(errno, "epoll_ctl");
    return server;
}

ControlServer::~ControlServer() {
    if (!path_.empty()) ::unlink(path_.c_str());
}

ControlCounts ControlServer::counts() const {
    ControlCounts counts = counts_;
    counts.clients = clients_.size();
    return counts;
}

int ControlServer::timeout_ms() const {
    if (clients_.empty()) return -1;
    std::uint64_t first = ~std::uint64_t{0};
    for (const auto& [fd, client] : clients_) first = std::min({first, client->deadline_ns, client->total_deadline_ns});
    const std::uint64_t now = boottime_now_ns();
    return first <= now ? 0 : static_cast<int>((first - now) / 1'000'000 + 1);
}

void ControlServer::poll_for(Client& client, std::uint32_t events) {
    if (client.polled == events) return;
    epoll_event event{};
    event.events = events;
    event.data.fd = client.fd.get();
    ::epoll_ctl(poll_.get(), client.polled == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, client.fd.get(), &event);
    client.polled = events;
}

void ControlServer::refuse(Client& client, std::string_view why) {
    append_message(client.out, MessageType::error, why);
    client.asked = client.begun = client.ended = client.refused = true;
    ++counts_.refused;
}

void ControlServer::accept_clients() {
    for (int number = 0; number < accepted_per_turn; ++number) {
        UniqueFd fd(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        // Without descriptors to spare the connection waits in the backlog; the pause keeps that from being a busy loop.
        if (!fd.valid()) {
            if (errno == EMFILE || errno == ENFILE) ::usleep(1000);
            return;
        }
        auto client = std::make_unique<Client>();
        client->viewer = Viewer::of_peer(fd.get());
        client->fd = std::move(fd);
        const uid_t uid = client->viewer.uid();
        const auto of_user = static_cast<std::size_t>(
            std::count_if(clients_.begin(), clients_.end(), [uid](const auto& other) { return other.second->viewer.uid() == uid; }));
        if (clients_.size() >= max_clients_ || (uid != 0 && of_user >= max_clients_of_user_)) {
            refuse(*client, "too many clients; try again");
            (void)write_answer(*client);
            continue;
        }
        const std::uint64_t now = boottime_now_ns();
        client->deadline_ns = now + patience_ns;
        client->total_deadline_ns = now + total_patience_ns;
        poll_for(*client, EPOLLIN);
        const int key = client->fd.get();
        clients_.emplace(key, std::move(client));
    }
}

bool ControlServer::receive() {
    epoll_event ready[events_per_turn];
    const int count = ::epoll_wait(poll_.get(), ready, events_per_turn, 0);
    for (int at = 0; at < count; ++at) {
        const int fd = ready[at].data.fd;
        if (fd == listening_.get()) {
            accept_clients();
            continue;
        }
        const auto place = clients_.find(fd);
        if (place == clients_.end()) continue;
        Client& client = *place->second;
        const bool going_on = client.asked ? (ready[at].events & (EPOLLERR | EPOLLHUP)) == 0 : read_request(client);
        if (!going_on) clients_.erase(place);
    }
    const std::uint64_t now = boottime_now_ns();
    bool waiting = false;
    for (auto place = clients_.begin(); place != clients_.end();) {
        Client& client = *place->second;
        if (now >= std::min(client.deadline_ns, client.total_deadline_ns)) {
            ++counts_.timed_out;
            place = clients_.erase(place);
            continue;
        }
        waiting = waiting || client.asked;
        ++place;
    }
    return waiting;
}

bool ControlServer::read_request(Client& client) {
    char bytes[4096];
    const ssize_t count = ::read(client.fd.get(), bytes, sizeof bytes);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    if (count == 0) return false;
    client.in.append(bytes, static_cast<std::size_t>(count));
    return parse_request(client);
}

bool ControlServer::parse_request(Client& client) {
    std::string_view bytes = client.in;
    if (bytes.size() < sizeof(MessageHeader)) {
        // The first byte decides already whether it is worth waiting for the rest.
        const MessageHeader expected;
        if (std::memcmp(bytes.data(), &expected, std::min(bytes.size(), sizeof expected.magic)) == 0) return true;
        ++counts_.refused;
        return false;
    }
    const auto header = take_struct<MessageHeader>(bytes);
    if (header.magic != protocol_magic || header.bytes > max_request_bytes) {
        ++counts_.refused;
        return false;
    }
    if (header.version != protocol_version) {
        refuse(client, "the daemon speaks version " + std::to_string(protocol_version) + " of the protocol, you version " + std::to_string(header.version));
        return true;
    }
    if (bytes.size() < header.bytes) return true;
    const bool known = header.type >= static_cast<std::uint16_t>(MessageType::ask_times) && header.type <= static_cast<std::uint16_t>(MessageType::ask_deletions);
    if (!known || bytes.size() > header.bytes || header.bytes % sizeof(std::int32_t) != 0) {
        refuse(client, "the daemon does not understand this request");
        return true;
    }
    client.asked = true;
    client.asked_ns = boottime_now_ns();
    client.type = header.type;
    while (!bytes.empty()) client.pids.push_back(take_struct<std::int32_t>(bytes));
    std::sort(client.pids.begin(), client.pids.end(), std::greater<>());
    client.pids.erase(std::unique(client.pids.begin(), client.pids.end()), client.pids.end());
    client.in.clear();
    return true;
}

void ControlServer::append_process(Client& client, pid_t pid, const Index& index) {
    if (!client.viewer.sees_present(pid)) return;
    TimesProcess process;
    std::string rows;
    index.for_each_of_process(pid, [&](const IndexRow& row) {
        const Reference& reference = row.reference;
        process.pid = row.process.pid;
        process.started_earliest_ns = row.process.started.earliest_ns;
        process.started_latest_ns = row.process.started.latest_ns;
        const bool is_fd = reference.ref == RefKind::fd;
        if ((!is_fd && reference.ref != RefKind::mem) || process.rows >= max_rows_of_process) return;
        // The index says 0 where a snapshot says the process's own number.
        const pid_t tid = reference.tid != 0 ? reference.tid : row.process.pid;
        // A thread may have other credentials than its process.
        if (tid != row.process.pid && !client.viewer.sees_all()) return;
        TimesRow out;
        out.tid = tid;
        out.fd = is_fd ? reference.fd : -1;
        out.dev_major = reference.dev.major;
        out.dev_minor = reference.dev.minor;
        out.ino = reference.ino;
        out.map_start = is_fd ? 0 : reference.map_start;
        out.description_id = reference.description_id;
        out.opened_earliest_ns = reference.opened.earliest_ns;
        out.opened_latest_ns = reference.opened.latest_ns;
        out.description_earliest_ns = reference.description_opened.earliest_ns;
        out.description_latest_ns = reference.description_opened.latest_ns;
        out.exact = (reference.opened.is_exact() ? 1U : 0U) | (reference.description_opened.is_exact() ? 2U : 0U);
        append_bytes(rows, &out, sizeof out);
        ++process.rows;
    });
    // The pid may have become somebody else's before the index knew, or while the rows were made.
    if (process.rows == 0 || !client.viewer.sees(pid, Interval::bounded(process.started_earliest_ns, process.started_latest_ns))) return;
    append_message(client.out, MessageType::process, {reinterpret_cast<const char*>(&process), sizeof process}, rows);
}

// Who sees somebody that holds a file may know what became of its name. What others than root are told of who took it is what
// everybody's /proc shows, of their own processes.
void ControlServer::append_deletion(Client& client, const std::pair<DeviceNumber, std::uint64_t>& file, const Index& index, Sight& sight) {
    const auto& [dev, ino] = file;
    const std::optional<DeletedView> deleted = index.deleted_file(dev, ino);
    if (!deleted) return;  // released meanwhile
    bool shown = client.pids.empty() && client.viewer.sees_all();
    if (!shown) {
        index.for_each_of_file(dev, ino, [&](const IndexRow& row) {
            const pid_t pid = row.process.pid;
            if (shown || pid == 0 || (!client.pids.empty() && !std::binary_search(client.pids.begin(), client.pids.end(), pid, std::greater<>()))) return;
            shown = sight.sees(pid, row.process.started);
        });
    }
    if (!shown) return;
    DeletionRow out;
    out.dev_major = dev.major;
    out.dev_minor = dev.minor;
    out.ino = ino;
    out.earliest_ns = deleted->when.earliest_ns;
    out.latest_ns = std::min(deleted->when.latest_ns, boottime_now_ns());
    out.exact = deleted->when.is_exact() ? 1 : 0;
    out.how = static_cast<std::uint32_t>(deleted->how);
    std::string texts;
    if (deleted->by && (client.viewer.sees_all() || deleted->by->uid == client.viewer.uid())) {
        const auto text = [&texts](std::string_view value) {
            constexpr std::size_t longest = 4096;
            texts += value.substr(0, longest);
            return static_cast<std::uint16_t>(std::min(value.size(), longest));
        };
        out.pid = deleted->by->pid;
        out.uid = deleted->by->uid;
        out.comm_bytes = text(deleted->by->comm);
        if (client.viewer.sees_all()) out.exe_bytes = text(deleted->by->exe);
        out.cgroup_bytes = text(deleted->by->cgroup);
    }
    append_message(client.out, MessageType::deletion, {reinterpret_cast<const char*>(&out), sizeof out}, texts);
}

// Between two polls of /proc nobody knows what became of what the last one saw.
bool ControlServer::waits_for_poll(const Client& client, const Source& source) {
    return !client.begun && !client.ended && client.type != static_cast<std::uint16_t>(MessageType::ask_check) && client.asked_ns > source.known_until_ns;
}

std::size_t ControlServer::bytes_of(const Client& client) {
    return client.out.capacity() + client.pids.capacity() * sizeof client.pids[0] + client.files.capacity() * sizeof client.files[0];
}

void ControlServer::begin_answer(Client& client, const Source& source) {
    client.begun = true;
    const TimesBegin begin{static_cast<std::uint32_t>(source.backend), source.certain ? 1U : 0U};
    append_message(client.out, MessageType::begin, {reinterpret_cast<const char*>(&begin), sizeof begin});
}

void ControlServer::produce_times(Client& client, const Source& source, std::size_t& budget) {
    if (!client.begun) {
        begin_answer(client, source);
        if (client.pids.empty()) {
            client.pids = client.viewer.sees_all() ? source.index.processes() : source.index.processes_of(client.viewer.uid());
        }
        std::sort(client.pids.begin(), client.pids.end(), std::greater<>());
    }
    while (!client.pids.empty() && client.out.size() - client.out_at < buffer_bytes && budget > 0) {
        const std::size_t before = client.out.size();
        append_process(client, client.pids.back(), source.index);
        client.pids.pop_back();
        budget -= std::min(budget, client.out.size() - before + look_bytes);
    }
    client.ended = client.pids.empty();
}

void ControlServer::produce_deletions(Client& client, const Source& source, std::size_t& budget) {
    if (!client.begun) {
        begin_answer(client, source);
        client.files = source.index.deleted_files();
    }
    Sight sight(client.viewer);
    while (!client.files.empty() && client.out.size() - client.out_at < buffer_bytes && budget > 0) {
        const std::size_t before = client.out.size(), looked = sight.looks();
        append_deletion(client, client.files.back(), source.index, sight);
        client.files.pop_back();
        budget -= std::min(budget, client.out.size() - before + 64 + look_bytes * (sight.looks() - looked));
    }
    client.ended = client.files.empty();
}

void ControlServer::produce(Client& client, const Source& source, std::size_t& budget) {
    if (client.ended) return;
    switch (static_cast<MessageType>(client.type)) {
        case MessageType::ask_check: {
            if (budget == 0) return;
            Sight sight(client.viewer);
            append_message(client.out, MessageType::check, source.check(sight));
            budget -= std::min(budget, client.out.size() + look_bytes * (1 + sight.looks()));
            client.begun = client.ended = true;
            return;
        }
        case MessageType::ask_deletions: produce_deletions(client, source, budget); break;
        default: produce_times(client, source, budget); break;
    }
    if (client.ended) append_message(client.out, MessageType::end, {});
}

bool ControlServer::write_answer(Client& client) {
    while (client.out_at < client.out.size()) {
        const ssize_t count = ::send(client.fd.get(), client.out.data() + client.out_at, client.out.size() - client.out_at, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return false;
            if (client.out_at > buffer_bytes) {
                client.out.erase(0, client.out_at);
                client.out_at = 0;
            }
            return true;
        }
        client.out_at += static_cast<std::size_t>(count);
        client.deadline_ns = boottime_now_ns() + patience_ns;
    }
    client.out = {};
    client.out_at = 0;
    if (!client.ended) return true;
    counts_.answered += client.refused ? 0U : 1U;
    return false;
}

void ControlServer::answer(const Source& source) {
    std::size_t budget = bytes_per_turn;
    // Nobody comes last in every turn.
    std::vector<int> order, crowded;
    std::map<uid_t, std::size_t> bytes;
    for (const auto& [fd, client] : clients_) {
        order.push_back(fd);
        bytes[client->viewer.uid()] += bytes_of(*client);
    }
    std::rotate(order.begin(), std::upper_bound(order.begin(), order.end(), last_answered_), order.end());
    for (const int fd : order) {
        Client& client = *clients_.at(fd);
        if (!client.asked) continue;
        std::size_t& of_user = bytes[client.viewer.uid()];
        of_user -= bytes_of(client);
        const bool no_room = !client.ended && of_user >= bytes_of_user;
        if (waits_for_poll(client, source) || (no_room && client.out.empty())) {
            // Whoever waits for us shows no sign of life, and must not wake the loop all the time.
            client.deadline_ns = never_ns;
            poll_for(client, EPOLLERR);
            if (no_room) crowded.push_back(fd);
            of_user += bytes_of(client);
            continue;
        }
        if (client.deadline_ns == never_ns) client.deadline_ns = boottime_now_ns() + patience_ns;
        if (budget > 0) last_answered_ = fd;
        if (!no_room) produce(client, source, budget);
        if (!write_answer(client)) {
            clients_.erase(fd);
            continue;
        }
        // Also while there is nothing to write yet: level-triggered, so the loop comes back to make more.
        poll_for(client, EPOLLOUT);
        of_user += bytes_of(client);
    }
    for (const int fd : crowded) {
        if (bytes[clients_.at(fd)->viewer.uid()] < bytes_of_user) poll_for(*clients_.at(fd), EPOLLOUT);
    }
}

}  // namespace fdspan::service
