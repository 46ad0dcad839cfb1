#include "kernel/parcel.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace fdspan {
namespace {

constexpr std::size_t max_descriptors = 253;  // include/net/scm.h, SCM_MAX_FD
constexpr std::size_t max_word_bytes = 1U << 20;

struct Head {
    std::array<char, 8> magic{'f', 'd', 's', 'p', 'a', 'n', 'p', '1'};
    std::uint32_t descriptors = 0;
    std::uint32_t word_bytes = 0;
};

// The message that a parcel begins with: its head, and room for the descriptors.
struct Opening {
    Head head;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(max_descriptors * sizeof(int))> control{};
    iovec part{&head, sizeof head};
    msghdr message{};

    explicit Opening(std::size_t descriptors) {
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(descriptors * sizeof(int));
    }
    Opening(const Opening&) = delete;  // the message points into it
    Opening& operator=(const Opening&) = delete;
};

// A socket may be non-blocking; half a parcel is no use to anybody.
template <class Transfer>
Result<void> whole(int socket, short ready, std::size_t bytes, Transfer&& transfer) {
    for (std::size_t done = 0; done < bytes;) {
        const ssize_t moved = transfer(done);
        if (moved > 0) {
            done += static_cast<std::size_t>(moved);
        } else if (moved == 0) {
            return fail(ECONNRESET, "the other end of the socket closed");
        } else if (errno == EAGAIN) {
            pollfd wait{socket, ready, 0};
            if (::poll(&wait, 1, -1) < 0 && errno != EINTR) return fail_errno(errno, "wait for the socket");
        } else if (errno != EINTR) {
            return fail_errno(errno, "hand over by a socket");
        }
    }
    return {};
}

}  // namespace

Result<void> Parcel::send(int socket) const {
    std::string words;
    std::vector<int> fds;
    for (const Item& item : items_) {
        words.append(item.name).push_back('\0');
        fds.push_back(item.fd);
    }
    for (const auto& [what, value] : facts_) {
        words.append(what).push_back('\0');
        words.append(value).push_back('\0');
    }
    if (fds.empty() || fds.size() > max_descriptors || words.size() > max_word_bytes) return fail(E2BIG, "too much to hand over");

    Opening opening(fds.size());
    opening.head.descriptors = static_cast<std::uint32_t>(fds.size());
    opening.head.word_bytes = static_cast<std::uint32_t>(words.size());
    msghdr& message = opening.message;
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    if (auto done = whole(socket, POLLOUT, sizeof opening.head, [&](std::size_t) { return ::sendmsg(socket, &message, MSG_NOSIGNAL); }); !done) return done;
    return whole(socket, POLLOUT, words.size(),
                 [&](std::size_t from) { return ::send(socket, words.data() + from, words.size() - from, MSG_NOSIGNAL); });
}

Result<Parcel> Parcel::receive(int socket) {
    Opening opening(max_descriptors);
    const Head& head = opening.head;
    msghdr& message = opening.message;
    ssize_t got = -1;
    do got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0) return fail_errno(errno, "take a handed over tracker");
    if (got == 0) return fail(ECONNRESET, "the other end of the socket closed");

    Parcel parcel;
    for (cmsghdr* rights = CMSG_FIRSTHDR(&message); rights != nullptr; rights = CMSG_NXTHDR(&message, rights)) {
        if (rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS) continue;
        for (std::size_t at = 0; at + sizeof(int) <= rights->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(rights) + at, sizeof fd);
            parcel.items_.push_back({{}, fd, UniqueFd(fd)});
        }
    }
    // The kernel leaves out what this process has no number for.
    if ((message.msg_flags & MSG_CTRUNC) != 0) return fail(EMFILE, "no descriptors left for a handed over tracker");
    if (static_cast<std::size_t>(got) != sizeof head || head.magic != Head{}.magic || head.descriptors != parcel.items_.size() ||
        head.word_bytes == 0 || head.word_bytes > max_word_bytes) {
        return fail(EPROTO, "what came by the socket is no tracker that was handed over");
    }
    std::string words(head.word_bytes, '\0');
    if (auto done = whole(socket, POLLIN, words.size(), [&](std::size_t from) { return ::recv(socket, words.data() + from, words.size() - from, 0); });
        !done) {
        return tl::unexpected(done.error());
    }
    std::vector<std::string> split;
    for (std::size_t from = 0; from < words.size();) {
        const std::size_t end = std::min(words.find('\0', from), words.size());
        split.push_back(words.substr(from, end - from));
        from = end + 1;
    }
    if (split.size() < parcel.items_.size() || (split.size() - parcel.items_.size()) % 2 != 0) {
        return fail(EPROTO, "what came by the socket is no tracker that was handed over");
    }
    for (std::size_t i = 0; i < parcel.items_.size(); ++i) parcel.items_[i].name = std::move(split[i]);
    for (std::size_t i = parcel.items_.size(); i < split.size(); i += 2) parcel.tell(std::move(split[i]), std::move(split[i + 1]));
    return parcel;
}

Result<UniqueFd> Parcel::take(const std::string& name) {
    const auto found = std::find_if(items_.begin(), items_.end(), [&](const Item& item) { return item.own.valid() && item.name == name; });
    if (found == items_.end()) return fail(EPROTO, "what was handed over lacks " + name);
    return std::move(found->own);
}

std::vector<UniqueFd> Parcel::take_all(const std::string& name) {
    std::vector<UniqueFd> all;
    for (Item& item : items_) {
        if (item.own.valid() && item.name == name) all.push_back(std::move(item.own));
    }
    return all;
}

}  // namespace fdspan
