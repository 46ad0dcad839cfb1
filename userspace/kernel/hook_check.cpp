#include "kernel/hook_check.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <system_error>
#include <thread>

#include "base/unique_fd.hpp"
#include "kernel/bpf_object.hpp"

namespace fdspan {
namespace {

UniqueFd open_root() { return UniqueFd(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC)); }

bool make_install() { return open_root().valid(); }

bool make_dup() {
    const UniqueFd first = open_root();
    return first.valid() && UniqueFd(::fcntl(first.get(), F_DUPFD_CLOEXEC, 0)).valid();
}

bool make_dup3() {
    const UniqueFd first = open_root();
    const UniqueFd second = open_root();
    return first.valid() && second.valid() && ::dup3(first.get(), second.get(), O_CLOEXEC) >= 0;
}

bool make_close() {
    UniqueFd file = open_root();
    return file.valid() && ::close(file.release()) == 0;
}

bool make_close_range() {
    UniqueFd file = open_root();
    if (!file.valid()) return false;
    const int fd = file.release();
    constexpr long close_range_number = 436;
    if (::syscall(close_range_number, fd, fd, 0) == 0) return true;
    ::close(fd);
    return false;
}

// In a thread, which gets a table of its own and takes it along as it ends.
bool make_unshare() {
    bool done = false;
    // No signal of the host's may be handled in it.
    const SignalsBlocked quiet;
    try {
        std::thread([&done] { done = ::unshare(CLONE_FILES) == 0; }).join();
    } catch (const std::system_error&) {
        done = false;  // no thread to be had
    }
    return done;
}

// A message queue: a name that lives in kernel memory only.
bool make_unlink() {
    const std::string name = "fdspan-" + std::to_string(::getpid());
    const UniqueFd queue(static_cast<int>(::syscall(SYS_mq_open, name.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600, 0)));
    return queue.valid() && ::syscall(SYS_mq_unlink, name.c_str()) == 0;
}

const FunctionEvent events[] = {
    {"open(2)", make_install, {"fdspan_at_fd_install"}},
    {"fcntl(F_DUPFD)", make_dup, {"fdspan_at_fd_install"}},
    {"dup3(2)", make_dup3, {"fdspan_at_do_dup2"}},
    {"close(2)", make_close, {"fdspan_at_closing", "fdspan_at_last_put"}},
    {"close_range(2)", make_close_range, {"fdspan_at_closing", "fdspan_at_last_put"}},
    {"unshare(CLONE_FILES)", make_unshare, {"fdspan_at_table_copied", "fdspan_at_table_left"}},
    {"mq_unlink(3)", make_unlink, {"fdspan_at_deleted"}},
};

}  // namespace

std::span<const FunctionEvent> function_events() { return events; }

}  // namespace fdspan
