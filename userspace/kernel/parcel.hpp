// Parcel: named descriptors, and facts in words, that one process hands to another over a unix socket. A privileged helper gives in it a
// kernel side that it has loaded and attached; whoever has the descriptors may use them without any capability.
// Owns what it has received, not what is put into it. Not thread-safe.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace fdspan {

class Parcel {
public:
    void put(std::string name, int fd) { items_.push_back({std::move(name), fd, UniqueFd()}); }
    void own(std::string name, UniqueFd fd) { items_.push_back({std::move(name), fd.get(), std::move(fd)}); }
    void tell(std::string what, std::string value) { facts_.emplace(std::move(what), std::move(value)); }

    // Any kind of unix socket. E2BIG: more than 253 descriptors or 1 MiB of words.
    [[nodiscard]] Result<void> send(int socket) const;
    // Takes one parcel and not a byte more. EPROTO: something else came. ECONNRESET: the other end closed.
    static Result<Parcel> receive(int socket);

    // The descriptor of that name; EPROTO: there is none.
    [[nodiscard]] Result<UniqueFd> take(const std::string& name);
    [[nodiscard]] std::vector<UniqueFd> take_all(const std::string& name);
    [[nodiscard]] const std::multimap<std::string, std::string>& facts() const { return facts_; }

private:
    struct Item {
        std::string name;
        int fd = -1;
        UniqueFd own;
    };
    std::vector<Item> items_;
    std::multimap<std::string, std::string> facts_;
};

}  // namespace fdspan
