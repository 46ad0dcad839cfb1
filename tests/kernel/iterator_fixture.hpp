// What the tests of the BPF iterators share: a reader (or the end of the run where BPF is not permitted), folders and children.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

#include "base/unique_fd.hpp"
#include "kernel/iterators.hpp"

namespace iterator_test {

using namespace fdspan;

inline std::unique_ptr<IteratorReader> open_reader(const TimeMaps& maps = {}) {
    auto reader = IteratorReader::open(maps);
    if (!reader && (reader.error().code == EPERM || reader.error().code == EACCES)) {
        std::fprintf(stderr, "BPF is not permitted here: %s\n", reader.error().message.c_str());
        std::exit(77);
    }
    if (!reader) FAIL(reader.error().message);
    return std::move(*reader);
}

// Loading takes longer than most tests: those that need no maps share one.
inline IteratorReader& shared_reader() {
    static const std::unique_ptr<IteratorReader> reader = open_reader();
    return *reader;
}

inline Snapshot read(IteratorReader& reader, const SnapshotRequest& request, bool census = false) {
    auto snapshot = reader.read(request, census);
    if (!snapshot) FAIL(snapshot.error().message);
    return std::move(*snapshot);
}

inline SnapshotRequest request_for(pid_t pid, std::uint32_t fields = field_all, std::uint8_t kinds = 0xff) {
    SnapshotRequest request;
    request.pids = {pid};
    request.fields = fields;
    request.kinds = kinds;
    return request;
}

constexpr std::uint8_t only(RefKind kind) { return static_cast<std::uint8_t>(1U << static_cast<unsigned>(kind)); }

inline std::optional<Reference> find_fd(const Snapshot& snapshot, int fd, pid_t tid = 0) {
    for (const Reference& reference : snapshot.references) {
        if (reference.ref == RefKind::fd && reference.fd == fd && (tid == 0 || reference.tid == tid)) return reference;
    }
    return std::nullopt;
}

inline std::optional<Reference> find_map(const Snapshot& snapshot, const void* address) {
    for (const Reference& reference : snapshot.references) {
        const auto at = reinterpret_cast<std::uint64_t>(address);
        if (reference.ref == RefKind::mem && reference.map_start <= at && at < reference.map_end) return reference;
    }
    return std::nullopt;
}

inline std::optional<Reference> find_kind(const Snapshot& snapshot, RefKind kind) {
    for (const Reference& reference : snapshot.references) {
        if (reference.ref == kind) return reference;
    }
    return std::nullopt;
}

// Everything of a row but its times, as one line.
inline std::string line_of(const Snapshot& snapshot, const Reference& row) {
    const Process& process = snapshot.processes[row.process];
    std::ostringstream line;
    line << process.pid << " tid " << row.tid << ' ' << to_string(row.ref) << ' ' << row.fd << ' ' << to_string(row.type) << ' '
         << snapshot.text(row.type_name) << ' ' << to_string(row.name) << ' ' << Catch::Detail::stringify(std::string(snapshot.path(row)))
         << " dev " << row.dev.major << ':' << row.dev.minor << " rdev " << row.rdev.major << ':' << row.rdev.minor << " ino " << row.ino
         << " nlink " << row.nlink << " size " << row.size << " allocated " << row.allocated << std::oct << " flags " << row.flags << std::hex
         << " at " << row.pos << " end " << row.map_end << " map " << row.map_flags << std::dec << " mnt " << row.mnt_id << " valid "
         << unsigned{row.valid};
    return line.str();
}

class Folder {
public:
    explicit Folder(std::string pattern = "/tmp/fdspan-iter-XXXXXX") {
        REQUIRE(::mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() {
        if (std::system(("rm -rf " + path_).c_str()) != 0) std::fprintf(stderr, "%s stays\n", path_.c_str());
    }
    [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    [[nodiscard]] const std::string& path() const { return path_; }

private:
    std::string path_;
};

// A child that runs `body` and then waits. Killed at the end of its scope. `ready` holds what body returned.
// They talk through shared memory: a pipe would be one more descriptor, open or closed at any moment.
class Child {
public:
    template <class Body>
    explicit Child(Body&& body) {
        void* const memory = ::mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        REQUIRE(memory != MAP_FAILED);
        report_ = new (memory) Report;
        pid_ = ::fork();
        REQUIRE(pid_ >= 0);
        if (pid_ == 0) {
            tell(body());
            for (;;) ::pause();
        }
        Report* const report = report_;
        while (!report->told && ::waitpid(pid_, nullptr, WNOHANG) == 0) ::usleep(1000);
        ready = report->value;
        const bool told = report->told;
        ::munmap(memory, sizeof(Report));
        REQUIRE(told);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    [[nodiscard]] pid_t pid() const { return pid_; }
    // In the child: says that it is ready, for a body that never returns.
    static void tell(long value) {
        report_->value = value;
        report_->told = true;
    }
    long ready = 0;

private:
    struct Report {
        std::atomic<long> value{0};
        std::atomic<bool> told{false};
    };
    static inline Report* report_ = nullptr;
    pid_t pid_ = -1;
};

}  // namespace iterator_test
