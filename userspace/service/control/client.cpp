#include "service/control/client.hpp"

#include <poll.h>
#include <pwd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <map>
#include <optional>
#include <tuple>

#include "base/clock.hpp"
#include "base/unique_fd.hpp"

namespace fdspan::service {
namespace {

// A daemon that hangs must not hang its clients: not those that can do without it, and the others not for ever.
constexpr std::uint64_t times_silence_ns = 2'000'000'000;
constexpr std::uint64_t check_silence_ns = 8'000'000'000;  // monitoring gives a plugin 10 s

// Whom the package's unit runs the daemon as; where systemd made the socket, it is root that listens.
bool is_service_user(uid_t uid) {
    std::vector<char> text(16384);
    passwd entry{};
    passwd* found = nullptr;
    return ::getpwnam_r("fdspan", &entry, text.data(), text.size(), &found) == 0 && found != nullptr && entry.pw_uid == uid;
}

class Conversation {
public:
    static Result<Conversation> begin(const std::string& socket, MessageType type, std::string_view payload, std::uint64_t silence_ns);
    // One message of the answer. Empty at its end.
    Result<std::pair<MessageType, std::string>> next();

private:
    Result<void> wait(short events);
    Result<void> read_exactly(void* to, std::size_t bytes);
    UniqueFd fd_;
    std::uint64_t silence_ns_ = 0, deadline_ns_ = 0;
};

Result<void> Conversation::wait(short events) {
    while (true) {
        const std::uint64_t now = boottime_now_ns();
        if (now >= deadline_ns_) return fail(ETIMEDOUT, "the daemon does not answer");
        pollfd poll{fd_.get(), events, 0};
        const int ready = ::poll(&poll, 1, static_cast<int>((deadline_ns_ - now) / 1'000'000 + 1));
        if (ready > 0) return {};
        if (ready < 0 && errno != EINTR) return fail_errno(errno, "poll");
    }
}

Result<Conversation> Conversation::begin(const std::string& socket, MessageType type, std::string_view payload, std::uint64_t silence_ns) {
    Conversation conversation;
    conversation.silence_ns_ = silence_ns;
    conversation.deadline_ns_ = boottime_now_ns() + silence_ns;
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (socket.size() >= sizeof address.sun_path) return fail(ENAMETOOLONG, "the socket's path is too long: " + socket);
    socket.copy(address.sun_path, socket.size());
    conversation.fd_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!conversation.fd_.valid()) return fail_errno(errno, "make a socket");
    while (::connect(conversation.fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
        // The backlog is full; there is nothing to poll for then (unix(7)).
        if (errno != EAGAIN && errno != EINTR) return fail_errno(errno, "connect to " + socket);
        if (boottime_now_ns() >= conversation.deadline_ns_) return fail(ETIMEDOUT, "the daemon at " + socket + " does not accept");
        ::usleep(5000);
    }
    // Whoever else listens there could tell us anything.
    ucred peer{};
    socklen_t length = sizeof peer;
    if (::getsockopt(conversation.fd_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return fail_errno(errno, "SO_PEERCRED");
    if (peer.uid != 0 && peer.uid != ::geteuid() && !is_service_user(peer.uid)) {
        return fail(EPERM, "who listens at " + socket + " is neither root nor fdspan nor you, but the user " + std::to_string(peer.uid));
    }
    std::string request;
    append_message(request, type, payload);
    std::size_t sent = 0;
    while (sent < request.size()) {
        const ssize_t count = ::send(conversation.fd_.get(), request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
        if (count >= 0) {
            sent += static_cast<std::size_t>(count);
        } else if (errno == EAGAIN) {
            if (auto ready = conversation.wait(POLLOUT); !ready) return tl::unexpected(ready.error());
        } else if (errno != EINTR) {
            // Refused before it was read: the reason may still be there to be read.
            if (errno == EPIPE || errno == ECONNRESET) break;
            return fail_errno(errno, "ask the daemon");
        }
    }
    return conversation;
}

Result<void> Conversation::read_exactly(void* to, std::size_t bytes) {
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
        const ssize_t count = ::read(fd_.get(), at, bytes);
        if (count == 0) return fail(EPROTO, "the daemon broke off its answer");
        if (count > 0) {
            at += count;
            bytes -= static_cast<std::size_t>(count);
            deadline_ns_ = boottime_now_ns() + silence_ns_;
        } else if (errno == EAGAIN) {
            if (auto ready = wait(POLLIN); !ready) return ready;
        } else if (errno != EINTR) {
            return fail_errno(errno, "read the daemon's answer");
        }
    }
    return {};
}

Result<std::pair<MessageType, std::string>> Conversation::next() {
    MessageHeader header;
    if (auto done = read_exactly(&header, sizeof header); !done) return tl::unexpected(done.error());
    if (header.magic != protocol_magic || header.bytes > max_answer_bytes) return fail(EPROTO, "what listens there is not fdspand");
    std::string payload(header.bytes, '\0');
    if (auto done = read_exactly(payload.data(), payload.size()); !done) return tl::unexpected(done.error());
    const auto type = static_cast<MessageType>(header.type);
    if (type == MessageType::error) return fail(EPROTO, "the daemon says: " + payload);
    if (header.version != protocol_version) return fail(EPROTO, "the daemon speaks another version of the protocol");
    return std::pair{type, std::move(payload)};
}

Interval interval_of(std::uint64_t earliest, std::uint64_t latest, bool exact) {
    return exact ? Interval::exact(latest) : Interval::bounded(earliest, latest);
}

// Asks about these processes (empty: all), and takes the answer: its beginning, its rows, its end. `take` says no to a malformed row.
Result<TimesBegin> ask_about(const std::string& socket, MessageType what, const std::vector<pid_t>& pids, MessageType row,
                             const std::function<bool(std::string_view bytes)>& take) {
    std::string payload;
    for (const std::int32_t pid : pids) append_bytes(payload, &pid, sizeof pid);
    // More of them than fit: all then.
    if (payload.size() > max_request_bytes) payload.clear();
    auto conversation = Conversation::begin(socket, what, payload, times_silence_ns);
    if (!conversation) return tl::unexpected(conversation.error());
    TimesBegin begin;
    while (true) {
        auto message = conversation->next();
        if (!message) return tl::unexpected(message.error());
        std::string_view bytes = message->second;
        if (message->first == MessageType::end) return begin;
        if (message->first == MessageType::begin && bytes.size() == sizeof begin) {
            begin = take_struct<TimesBegin>(bytes);
            if (begin.backend <= static_cast<std::uint32_t>(Backend::kprobe)) continue;
        } else if (message->first == row && take(bytes)) {
            continue;
        }
        return fail(EPROTO, "a malformed answer");
    }
}

}  // namespace

bool is_no_daemon(const Error& error) { return error.code == ENOENT || error.code == ECONNREFUSED || error.code == EACCES; }

Result<TimesAnswer> ask_times(const std::string& socket, const std::vector<pid_t>& pids) {
    TimesAnswer answer;
    const auto begin = ask_about(socket, MessageType::ask_times, pids, MessageType::process, [&answer](std::string_view bytes) {
        if (bytes.size() < sizeof(TimesProcess)) return false;
        ProcessTimes process;
        process.process = take_struct<TimesProcess>(bytes);
        if (bytes.size() != process.process.rows * sizeof(TimesRow)) return false;
        process.rows.resize(process.process.rows);
        std::memcpy(process.rows.data(), bytes.data(), bytes.size());
        answer.processes.push_back(std::move(process));
        return true;
    });
    if (!begin) return tl::unexpected(begin.error());
    answer.backend = static_cast<Backend>(begin->backend);
    answer.certain = begin->certain != 0;
    return answer;
}

Result<DeletionsAnswer> ask_deletions(const std::string& socket, const std::vector<pid_t>& pids) {
    DeletionsAnswer answer;
    const auto begin = ask_about(socket, MessageType::ask_deletions, pids, MessageType::deletion, [&answer](std::string_view bytes) {
        if (bytes.size() < sizeof(DeletionRow)) return false;
        const auto row = take_struct<DeletionRow>(bytes);
        const std::size_t texts = std::size_t{row.comm_bytes} + row.exe_bytes + row.cgroup_bytes;
        if (bytes.size() != texts || row.how > static_cast<std::uint32_t>(Removal::rename)) return false;
        DeletionsAnswer::File& file = answer.files.emplace_back();
        file.id = {{row.dev_major, row.dev_minor}, row.ino};
        file.when = interval_of(row.earliest_ns, row.latest_ns, row.exact != 0);
        file.how = static_cast<Removal>(row.how);
        if (row.pid == 0) return true;
        const auto take_text = [&bytes](std::size_t length) {
            const std::string text(bytes.substr(0, length));
            bytes.remove_prefix(length);
            return text;
        };
        RemovedBy& by = file.by.emplace();
        by.pid = row.pid;
        by.uid = row.uid;
        by.comm = take_text(row.comm_bytes);
        by.exe = take_text(row.exe_bytes);
        by.cgroup = take_text(row.cgroup_bytes);
        return true;
    });
    if (!begin) return tl::unexpected(begin.error());
    answer.certain = begin->certain != 0;
    return answer;
}

Result<std::string> ask_check(const std::string& socket) {
    auto conversation = Conversation::begin(socket, MessageType::ask_check, {}, check_silence_ns);
    if (!conversation) return tl::unexpected(conversation.error());
    auto message = conversation->next();
    if (!message) return tl::unexpected(message.error());
    if (message->first != MessageType::check) return fail(EPROTO, "a malformed answer");
    return std::move(message->second);
}

std::size_t join_times(Snapshot& snapshot, const TimesAnswer& answer) {
    if (!answer.certain) return 0;
    std::map<pid_t, const ProcessTimes*> by_pid;
    for (const ProcessTimes& process : answer.processes) by_pid.emplace(process.process.pid, &process);
    using Place = std::tuple<std::int32_t, std::int32_t, std::uint64_t>;  // tid, fd, begin of the mapping
    std::map<Place, const TimesRow*> rows;
    std::optional<std::uint32_t> rows_of;
    std::size_t gained = 0;
    for (std::size_t at = 0; at < snapshot.references.size(); ++at) {
        Reference reference = snapshot.references[at];
        const bool is_fd = reference.ref == RefKind::fd;
        if ((!is_fd && reference.ref != RefKind::mem) || (reference.valid & field_stat) == 0) continue;
        const Process& process = snapshot.processes[reference.process];
        if (rows_of != reference.process) {
            rows_of = reference.process;
            rows.clear();
            const auto found = by_pid.find(process.pid);
            if (found == by_pid.end()) continue;
            // The same process, not another one of that number.
            const TimesProcess& known = found->second->process;
            // A fork record is stamped a little later than the task's own start.
            constexpr std::uint64_t slack_ns = 20'000'000;
            if (known.started_earliest_ns > process.started.latest_ns + slack_ns || known.started_latest_ns + slack_ns < process.started.earliest_ns) continue;
            for (const TimesRow& row : found->second->rows) rows.emplace(Place{row.tid, row.fd, row.map_start}, &row);
        }
        const auto found = rows.find({reference.tid, is_fd ? reference.fd : -1, is_fd ? 0 : reference.map_start});
        if (found == rows.end()) continue;
        const TimesRow& row = *found->second;
        if (row.ino != reference.ino || row.dev_major != reference.dev.major || row.dev_minor != reference.dev.minor) continue;
        // What began after the snapshot did may have taken the place of what it saw.
        if (row.opened_latest_ns > snapshot.began_ns) continue;
        const Interval opened = reference.opened, description_opened = reference.description_opened;
        reference.opened.narrow(interval_of(row.opened_earliest_ns, row.opened_latest_ns, (row.exact & 1U) != 0));
        reference.description_opened.narrow(interval_of(row.description_earliest_ns, row.description_latest_ns, (row.exact & 2U) != 0));
        if (reference.description_id == 0) reference.description_id = row.description_id;
        snapshot.references.set_times(at, reference.opened, reference.description_opened, reference.description_id);
        if (opened != reference.opened || description_opened != reference.description_opened) ++gained;
    }
    return gained;
}

std::size_t join_deletions(std::vector<DeletedFile>& files, const DeletionsAnswer& answer) {
    if (!answer.certain) return 0;
    std::map<std::pair<DeviceNumber, std::uint64_t>, const DeletionsAnswer::File*> known;
    for (const DeletionsAnswer::File& file : answer.files) known.emplace(std::pair{file.id.dev, file.id.ino}, &file);
    std::size_t gained = 0;
    for (DeletedFile& file : files) {
        const auto found = known.find({file.id.dev, file.id.ino});
        if (found == known.end() || !file.deleted) continue;
        const DeletionsAnswer::File& seen = *found->second;
        // What was deleted before this file was made, or after it had been, was another one of its number.
        if (seen.when.latest_ns < file.deleted->earliest_ns || seen.when.earliest_ns > file.deleted->latest_ns) continue;
        const Interval before = *file.deleted;
        file.deleted->narrow(seen.when);
        file.how = seen.how;
        file.by = seen.by;
        if (before != *file.deleted || seen.by) ++gained;
    }
    return gained;
}

}  // namespace fdspan::service
