// The BPF iterators against what the kernel says otherwise, and what they enter into and sweep out of the kernel maps.
// What both sources show alike is held together in sources_agree.cpp.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <tuple>
#include <vector>

#include "iterator_fixture.hpp"
#include "kernel/permutation.hpp"
#include "wire.h"

using namespace iterator_test;

namespace {

// Maps as the tracking makes them, without any hook that fills them.
class Maps {
public:
    explicit Maps(std::uint32_t max_descriptions = 1 << 16) {
        open_reader();  // ends the run where BPF is not permitted
        make(maps_.descriptions, BPF_MAP_TYPE_HASH, "descriptions", sizeof(std::uint64_t), sizeof(fdspan_description), max_descriptions, BPF_F_NO_PREALLOC);
        make(maps_.descriptors, BPF_MAP_TYPE_HASH, "descriptors", sizeof(fdspan_descriptor_key), sizeof(fdspan_descriptor), 1 << 16, BPF_F_NO_PREALLOC);
        make(maps_.tables, BPF_MAP_TYPE_HASH, "tables", sizeof(std::uint64_t), sizeof(fdspan_table), 1 << 12, BPF_F_NO_PREALLOC);
        make(maps_.table_chunks, BPF_MAP_TYPE_HASH, "table_chunks", sizeof(fdspan_chunk_key), sizeof(fdspan_chunk), 1 << 12, BPF_F_NO_PREALLOC);
        make(maps_.settings, BPF_MAP_TYPE_ARRAY, "settings", sizeof(std::uint32_t), sizeof(fdspan_settings), 1, BPF_F_MMAPABLE);
        make(maps_.counters, BPF_MAP_TYPE_PERCPU_ARRAY, "counters", sizeof(std::uint32_t), sizeof(fdspan_counters), 1, 0);
        fdspan_settings settings{};
        REQUIRE(make_permutation_key(settings));
        const std::uint32_t zero = 0;
        REQUIRE(::bpf_map_update_elem(maps_.settings, &zero, &settings, BPF_ANY) == 0);
    }
    [[nodiscard]] const TimeMaps& maps() const { return maps_; }

    [[nodiscard]] std::size_t entries() const {
        return count<std::uint64_t>(maps_.descriptions) + count<fdspan_descriptor_key>(maps_.descriptors) + count<std::uint64_t>(maps_.tables) +
               count<fdspan_chunk_key>(maps_.table_chunks);
    }
    [[nodiscard]] std::size_t descriptions() const { return count<std::uint64_t>(maps_.descriptions); }
    [[nodiscard]] std::size_t chunks() const { return count<fdspan_chunk_key>(maps_.table_chunks); }

    [[nodiscard]] fdspan_counters counters() const {
        std::vector<fdspan_counters> per_cpu(static_cast<std::size_t>(::libbpf_num_possible_cpus()));
        const std::uint32_t zero = 0;
        REQUIRE(::bpf_map_lookup_elem(maps_.counters, &zero, per_cpu.data()) == 0);
        fdspan_counters sum{};
        for (const fdspan_counters& one : per_cpu) {
            sum.description_full += one.description_full;
            sum.table_full += one.table_full;
        }
        return sum;
    }

    void add_descriptor(const fdspan_descriptor_key& key, const fdspan_descriptor& value) {
        REQUIRE(::bpf_map_update_elem(maps_.descriptors, &key, &value, BPF_ANY) == 0);
    }

private:
    void make(int& map, bpf_map_type type, const char* name, std::uint32_t key, std::uint32_t value, std::uint32_t entries, std::uint32_t flags) {
        LIBBPF_OPTS(bpf_map_create_opts, options, .map_flags = flags);
        owned_.emplace_back(::bpf_map_create(type, name, key, value, entries, &options));
        REQUIRE(owned_.back().valid());
        map = owned_.back().get();
    }
    template <class Key>
    static std::size_t count(int map) {
        Key key{};
        std::size_t found = 0;
        for (int error = ::bpf_map_get_next_key(map, nullptr, &key); error == 0; error = ::bpf_map_get_next_key(map, &key, &key)) ++found;
        return found;
    }

    std::vector<UniqueFd> owned_;
    TimeMaps maps_;
};

SweepResult sweep(IteratorReader& reader) {
    auto result = reader.sweep();
    if (!result) FAIL(result.error().message);
    return *result;
}

UniqueFd create(const std::string& path, int flags = O_RDWR | O_CREAT | O_CLOEXEC) {
    UniqueFd fd(::open(path.c_str(), flags, 0600));
    REQUIRE(fd.valid());
    return fd;
}

// A child that does what it is told, one letter at a time.
class Worker {
public:
    template <class Body>
    explicit Worker(Body&& body) {
        REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends_) == 0);
        child_ = std::make_unique<Child>([&] {
            Child::tell(0);
            char letter = 0;
            while (::read(ends_[1], &letter, 1) == 1) {
                body(letter);
                if (::write(ends_[1], &letter, 1) != 1) break;
            }
            ::_exit(0);
            return 0L;
        });
        ::close(ends_[1]);
    }
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;
    ~Worker() { ::close(ends_[0]); }
    void tell(char letter) {
        REQUIRE(::write(ends_[0], &letter, 1) == 1);
        REQUIRE(::read(ends_[0], &letter, 1) == 1);
    }
    [[nodiscard]] pid_t pid() const { return child_->pid(); }
    void kill() { child_.reset(); }

private:
    int ends_[2] = {-1, -1};
    std::unique_ptr<Child> child_;
};

}  // namespace

TEST_CASE("bpf: references of one description share its id, other openings of the file do not, and no id is an address") {
    const Folder folder;
    const UniqueFd one = create(folder / "file");
    const UniqueFd copy(::dup(one.get()));
    const UniqueFd other = create(folder / "file");
    REQUIRE(::ftruncate(one.get(), 4096) == 0);
    void* const mapped = ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, one.get(), 0);
    REQUIRE(mapped != MAP_FAILED);
    const Child child([] { return 0L; });
    const Snapshot snapshot = read(shared_reader(), request_for(::getpid()));
    const Snapshot inherited = read(shared_reader(), request_for(child.pid()));
    const Snapshot elsewhere = read(*open_reader(), request_for(::getpid()));
    const std::uint64_t id = find_fd(snapshot, one.get())->description_id;
    CHECK(id != 0);
    CHECK(find_fd(snapshot, copy.get())->description_id == id);
    CHECK(find_map(snapshot, mapped)->description_id == id);
    CHECK(find_fd(inherited, one.get())->description_id == id);
    CHECK(find_fd(snapshot, other.get())->description_id != id);
    CHECK(find_fd(elsewhere, one.get())->description_id != id);
    std::size_t like_addresses = 0;
    for (const Reference& reference : snapshot.references) like_addresses += reference.description_id >> 47 == 0x1ffff;
    CHECK(like_addresses == 0);
    ::munmap(mapped, 4096);
}

TEST_CASE("bpf: a name decides nothing, the link count and the kernel's own mark do") {
    const Folder folder;
    const UniqueFd real = create(folder / "real (deleted)");
    const UniqueFd removed = create(folder / "removed (deleted)");
    const UniqueFd gone = create(folder / "first");
    const UniqueFd back = create(folder / "back");
    REQUIRE(::unlink((folder / "removed (deleted)").c_str()) == 0);
    REQUIRE(::link((folder / "first").c_str(), (folder / "second").c_str()) == 0);
    REQUIRE(::unlink((folder / "first").c_str()) == 0);
    // Another file by the name that the kernel's mark makes of a deleted one.
    REQUIRE(::unlink((folder / "back").c_str()) == 0);
    const UniqueFd decoy = create(folder / "back (deleted)");
    const Snapshot snapshot = read(shared_reader(), request_for(::getpid()));
    const auto check = [&](const UniqueFd& fd, NameState name, const std::string& path) {
        const std::optional<Reference> row = find_fd(snapshot, fd.get());
        REQUIRE(row);
        CHECK(to_string(row->name) == to_string(name));
        CHECK(snapshot.path(*row) == path);
    };
    check(real, NameState::named, folder / "real (deleted)");
    check(removed, NameState::deleted, folder / "removed (deleted)");
    check(gone, NameState::gone, folder / "first");
    check(back, NameState::deleted, folder / "back");
    check(decoy, NameState::named, folder / "back (deleted)");

    SnapshotRequest request = request_for(::getpid());
    request.deleted_only = true;
    const Snapshot deleted = read(shared_reader(), request);
    // What a sanitizer maps for itself is deleted, too.
    CHECK(std::count_if(deleted.references.begin(), deleted.references.end(),
                        [](const Reference& reference) { return reference.ref == RefKind::fd; }) == 2);
}

TEST_CASE("bpf: what has no exact time lies between the start of its process and the row, and the birth of its file") {
    const Folder folder;
    const std::uint64_t before = boottime_now_ns();
    const UniqueFd file = create(folder / "file");
    const std::uint64_t after = boottime_now_ns();
    const Snapshot snapshot = read(shared_reader(), request_for(::getpid()));
    REQUIRE(snapshot.processes.size() == 1);
    const Process& self = snapshot.processes.front();
    CHECK(self.started.is_exact());
    const std::optional<Reference> row = find_fd(snapshot, file.get());
    REQUIRE(row);
    for (const Interval& opened : {row->opened, row->description_opened}) {
        CHECK_FALSE(opened.is_exact());
        CHECK(opened.earliest_ns <= before);
        CHECK(opened.latest_ns >= after);
        CHECK(opened.latest_ns <= snapshot.ended_ns);
        // The birth bounds it from below, less a second for what leap seconds do to the wall clock.
        CHECK(opened.earliest_ns + 2'000'000'000 >= before);
    }
    // This program did an exec and its executable was opened by that.
    const std::optional<Reference> exe = find_kind(snapshot, RefKind::exe);
    REQUIRE(exe);
    CHECK(exe->description_opened.earliest_ns >= self.started.latest_ns);
    CHECK(exe->opened.earliest_ns == self.started.latest_ns);

    // A child that did none has its parent's, which is older than the child.
    const Child child([] { return 0L; });
    const Snapshot forked = read(shared_reader(), request_for(child.pid()));
    const std::optional<Reference> inherited = find_kind(forked, RefKind::exe);
    REQUIRE(inherited);
    CHECK(inherited->description_opened.latest_ns <= forked.processes.front().started.earliest_ns);
    CHECK(inherited->description_opened.latest_ns > self.started.latest_ns);
    CHECK(inherited->description_id == exe->description_id);
}

TEST_CASE("bpf: a path longer than PATH_MAX is counted and its row stands without it") {
    const Folder folder;
    const Child child([&]() -> long {
        const std::string name(250, 'd');
        if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, 0x44000 /* MS_REC | MS_PRIVATE */, nullptr) != 0) return 1;
        if (::mount("t", folder.path().c_str(), "tmpfs", 0, nullptr) != 0 || ::chdir(folder.path().c_str()) != 0) return 2;
        for (int i = 0; i < 20; ++i) {
            if (::mkdir(name.c_str(), 0700) != 0 || ::chdir(name.c_str()) != 0) return 3;
        }
        if (::open("file", O_RDWR | O_CREAT, 0600) < 0) return 4;
        return 0;
    });
    REQUIRE(child.ready == 0);
    const Snapshot snapshot = read(shared_reader(), request_for(child.pid()));
    CHECK(snapshot.gaps.truncated_paths == 2);  // the file and the working directory
    CHECK_FALSE(snapshot.gaps.complete());
    const std::optional<Reference> cwd = find_kind(snapshot, RefKind::cwd);
    REQUIRE(cwd);
    CHECK((cwd->valid & field_path) == 0);
    CHECK((cwd->valid & field_stat) != 0);
    CHECK(cwd->type == FileType::dir);
}

TEST_CASE("bpf: paths of two thousand short names are whole") {
    const Folder folder;
    const std::size_t names = (4095 - folder.path().size()) / 2;
    const Child child([&]() -> long {
        if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, 0x44000, nullptr) != 0) return 1;
        if (::mount("t", folder.path().c_str(), "tmpfs", 0, nullptr) != 0 || ::chdir(folder.path().c_str()) != 0) return 2;
        for (std::size_t i = 0; i < names; ++i) {
            if (::mkdir("d", 0700) != 0 || ::chdir("d") != 0) return 3;
        }
        if (::open(".", O_RDONLY | O_DIRECTORY) < 0) return 4;
        return 0;
    });
    REQUIRE(child.ready == 0);
    const Snapshot snapshot = read(shared_reader(), request_for(child.pid()));
    std::string path = folder.path();
    for (std::size_t i = 0; i < names; ++i) path += "/d";
    CHECK(snapshot.gaps.truncated_paths == 0);
    CHECK(snapshot.path(*find_kind(snapshot, RefKind::cwd)) == path);
    CHECK(std::count_if(snapshot.references.begin(), snapshot.references.end(),
                        [&](const Reference& row) { return row.ref == RefKind::fd && snapshot.path(row) == path; }) == 1);
}

TEST_CASE("bpf: in a pid namespace the pids are those of that namespace, and nobody else is shown") {
    const Child outer([]() -> long {
        if (::unshare(CLONE_NEWPID) != 0) return 1;
        const pid_t first = ::fork();
        if (first < 0) return 2;
        if (first == 0) {
            const pid_t second = ::fork();
            if (second == 0) {
                for (;;) ::pause();
            }
            auto reader = IteratorReader::open({});
            if (!reader) ::_exit(11);
            const auto all = (*reader)->read({});
            if (!all || all->processes.size() != 2) ::_exit(12);
            if (all->processes[0].pid != 1 || all->processes[1].pid != second || all->processes[1].ppid != 1 || all->processes[0].ppid != 0) ::_exit(13);
            for (const Reference& row : all->references) {
                if (row.tid != all->processes[row.process].pid) ::_exit(14);
            }
            const auto one = (*reader)->read(request_for(second));
            if (!one || one->processes.size() != 1 || one->processes[0].pid != second || one->references.empty()) ::_exit(15);
            ::_exit(0);
        }
        int status = 0;
        ::waitpid(first, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
    });
    CHECK(outer.ready == 0);
}

TEST_CASE("bpf: rows stay grouped and whole while processes come and go") {
    SnapshotRequest request;
    request.fields = field_path | field_stat | field_fdinfo;
    const Child churn([] {
        Child::tell(0);
        for (;;) {
            const pid_t pid = ::fork();
            if (pid == 0) {
                ::close(::open("/dev/null", O_RDONLY));
                ::_exit(0);
            }
            ::waitpid(pid, nullptr, 0);
        }
        return 0L;
    });
    for (int i = 0; i < 30; ++i) {
        const Snapshot snapshot = read(shared_reader(), request);
        CHECK(std::is_sorted(snapshot.processes.begin(), snapshot.processes.end(), [](const Process& a, const Process& b) { return a.pid < b.pid; }));
        CHECK(std::is_sorted(snapshot.references.begin(), snapshot.references.end(),
                             [](const Reference& a, const Reference& b) { return a.process < b.process; }));
        REQUIRE_FALSE(snapshot.references.empty());
        CHECK(snapshot.references.back().process < snapshot.processes.size());
        // No descriptor twice, whoever it came through.
        std::set<std::tuple<std::uint32_t, pid_t, int>> seen;
        for (const Reference& row : snapshot.references) {
            if (row.ref == RefKind::fd && !seen.emplace(row.process, row.tid, row.fd).second) FAIL(line_of(snapshot, row));
        }
    }
}

TEST_CASE("bpf: ten thousand descriptors come whole, each once, across many reads of the iterator") {
    const rlimit limit{20'000, 20'000};
    const Child child([&]() -> long {
        ::setrlimit(RLIMIT_NOFILE, &limit);
        for (int i = 0; i < 10'000; ++i) {
            if (::open("/dev/null", O_RDONLY) < 0) return 1;
        }
        return 0;
    });
    REQUIRE(child.ready == 0);
    const Snapshot snapshot = read(shared_reader(), request_for(child.pid(), field_all, only(RefKind::fd)));
    const std::string folder = "/proc/" + std::to_string(child.pid()) + "/fd";
    const auto entries = std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator());
    CHECK(snapshot.references.size() == static_cast<std::size_t>(entries));
    std::set<int> fds;
    for (const Reference& row : snapshot.references) fds.insert(row.fd);
    CHECK(fds.size() == snapshot.references.size());
}

TEST_CASE("bpf: several threads show what one shows, in the same order") {
    const rlimit limit{20'000, 20'000};
    const auto open_many = [&]() -> long {
        ::setrlimit(RLIMIT_NOFILE, &limit);
        for (int i = 0; i < 9'000; ++i) {
            if (::open(i % 2 == 0 ? "/dev/null" : "/proc/self/maps", O_RDONLY) < 0) return 1;
        }
        return 0;
    };
    const Child first(open_many), second(open_many), third(open_many);
    SnapshotRequest request;
    request.fields = field_all;
    request.kinds = only(RefKind::fd);
    // Too many to be walked one by one.
    request.pids = {first.pid(), second.pid(), third.pid()};
    for (pid_t absent = 4'000'000; absent < 4'000'020; ++absent) request.pids.push_back(absent);
    const Snapshot one = read(shared_reader(), request);
    for (const unsigned threads : {2U, 3U, 100U}) {
        INFO(threads << " threads");
        request.threads = threads;
        const Snapshot several = read(shared_reader(), request);
        CHECK(several.gaps.missing_pids == one.gaps.missing_pids);
        REQUIRE(several.references.size() == one.references.size());
        std::size_t differing = 0;
        for (std::size_t at = 0; at < one.references.size(); ++at) {
            if (line_of(one, one.references[at]) != line_of(several, several.references[at])) ++differing;
        }
        CHECK(differing == 0);
    }
}

// ---- the census and the sweep -----------------------------------------------------------------------------------------------

TEST_CASE("bpf: what a census met is bounded by it ever after, what came later is not") {
    Maps maps;
    const auto reader = open_reader(maps.maps());
    const Folder folder;
    const std::string new_file = folder / "new";
    const rlimit limit{20'000, 20'000};
    Worker worker([&](char letter) {
        if (letter == 'a') {
            ::setrlimit(RLIMIT_NOFILE, &limit);
            for (const int fd : {100, 300, 5000, 19'999}) ::dup2(::open("/dev/zero", O_RDONLY), fd);
        }
        if (letter == 'b') ::dup2(::open(new_file.c_str(), O_RDWR | O_CREAT, 0600), 101);
        if (letter == 'c') ::dup2(::open(new_file.c_str(), O_RDWR | O_CREAT, 0600), 5000);
    });
    worker.tell('a');
    const SnapshotRequest request = request_for(worker.pid());
    const Snapshot census = read(*reader, request, true);
    CHECK(maps.chunks() == 3);  // of slots 256…4095, 4096…8191 and 16384…20479
    worker.tell('b');
    worker.tell('c');
    const Snapshot later = read(*reader, request);
    for (const int fd : {100, 300, 19'999}) {
        INFO(fd);
        const std::optional<Reference> row = find_fd(later, fd);
        REQUIRE(row);
        CHECK(row->opened.latest_ns <= census.ended_ns);
        CHECK(row->opened.latest_ns >= find_fd(census, fd)->opened.latest_ns);
        CHECK(row->description_opened.latest_ns <= find_fd(census, fd)->description_opened.latest_ns);
        CHECK_FALSE(row->opened.is_exact());
        CHECK(row->description_id == find_fd(census, fd)->description_id);
    }
    // A new descriptor, and an old number that somebody else got unseen.
    for (const int fd : {101, 5000}) {
        INFO(fd);
        CHECK(find_fd(later, fd)->opened.latest_ns > census.ended_ns);
        CHECK(find_fd(later, fd)->description_opened.latest_ns > census.ended_ns);
    }
    // A second census moves nothing, and finds nothing exact.
    const Snapshot again = read(*reader, request, true);
    CHECK(find_fd(again, 100)->opened.latest_ns == find_fd(later, 100)->opened.latest_ns);
    CHECK(find_fd(again, 100)->description_opened.latest_ns == find_fd(later, 100)->description_opened.latest_ns);
    CHECK(find_fd(again, 101)->opened.latest_ns > census.ended_ns);
}

TEST_CASE("bpf: maps that are full are counted, and the rows are all there") {
    Maps maps(4);
    const auto reader = open_reader(maps.maps());
    const Child child([] {
        for (int i = 0; i < 20; ++i) ::open("/dev/zero", O_RDONLY);
        return 0L;
    });
    const Snapshot census = read(*reader, request_for(child.pid(), field_all, only(RefKind::fd)), true);
    CHECK(census.references.size() >= 20);
    CHECK(maps.descriptions() == 4);
    CHECK(maps.counters().description_full >= 16);
}

TEST_CASE("bpf: a sweep keeps what lives and deletes all that died unseen") {
    Maps maps;
    const auto reader = open_reader(maps.maps());
    const rlimit limit{20'000, 20'000};
    Worker worker([&](char letter) {
        if (letter == 'a') {
            ::setrlimit(RLIMIT_NOFILE, &limit);
            for (int i = 0; i < 1000; ++i) ::open("/dev/zero", O_RDONLY);
        }
        if (letter == 'b') ::close_range(300, 799, 0);  // beyond what a shell hands on
    });
    worker.tell('a');
    const SnapshotRequest request = request_for(worker.pid(), field_all, only(RefKind::fd));
    read(*reader, request, true);
    const std::size_t entered = maps.entries();
    CHECK(entered > 1000);
    SweepResult result = sweep(*reader);
    CHECK(result.deleted == 0);
    CHECK(result.stale == 0);
    CHECK(result.kept == entered);

    worker.tell('b');
    result = sweep(*reader);
    CHECK(result.deleted == 500);
    CHECK(result.stale == 0);
    CHECK(maps.entries() == entered - 500);

    worker.kill();
    result = sweep(*reader);
    // What this process shares with the child by fork lives on.
    CHECK(result.stale == 0);
    CHECK(result.kept == maps.entries());
    CHECK(maps.entries() == maps.descriptions());
    const Snapshot self = read(*reader, request_for(::getpid()));
    std::set<std::uint64_t> ids;
    for (const Reference& row : self.references) ids.insert(row.description_id);
    CHECK(maps.descriptions() <= ids.size());
}

TEST_CASE("bpf: a sweep keeps a description that only a mapping or a message in flight holds") {
    Maps maps;
    const auto reader = open_reader(maps.maps());
    const Folder folder;
    const std::string mapped_file = folder / "mapped";
    const std::string sent_file = folder / "sent";
    Worker worker([&](char letter) {
        static int mapped = -1, sent = -1;
        if (letter == 'a') {
            mapped = ::open(mapped_file.c_str(), O_RDWR | O_CREAT, 0600);
            sent = ::open(sent_file.c_str(), O_RDWR | O_CREAT, 0600);
            if (::ftruncate(mapped, 4096) != 0) ::_exit(1);
        }
        if (letter == 'b') {
            ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, mapped, 0);
            std::array<int, 2> ends{};
            ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data());
            alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
            char byte = 'x';
            iovec data{&byte, 1};
            msghdr message{};
            message.msg_iov = &data;
            message.msg_iovlen = 1;
            message.msg_control = control.data();
            message.msg_controllen = control.size();
            cmsghdr* const header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET;
            header->cmsg_type = SCM_RIGHTS;
            header->cmsg_len = CMSG_LEN(sizeof(int));
            std::memcpy(CMSG_DATA(header), &sent, sizeof sent);
            if (::sendmsg(ends[0], &message, 0) != 1) ::_exit(1);
            ::close(sent);
            ::close(mapped);
        }
    });
    worker.tell('a');
    read(*reader, request_for(worker.pid(), field_all, only(RefKind::fd)), true);
    const std::size_t entered = maps.descriptions();
    worker.tell('b');
    const SweepResult result = sweep(*reader);
    CHECK(result.deleted == 0);
    CHECK(maps.descriptions() == entered);
    worker.kill();
    CHECK(sweep(*reader).deleted >= 2);
}

TEST_CASE("bpf: a sweep deletes descriptors of tables that nobody has") {
    Maps maps;
    const auto reader = open_reader(maps.maps());
    for (std::uint64_t table = 1; table <= 3000; ++table) maps.add_descriptor({table * 4096, 5, 0}, {1, 77});
    const std::uint64_t now = boottime_now_ns();
    maps.add_descriptor({4, 5, 0}, {now + 3'600'000'000'000, 77});  // as if it came while the sweep goes
    const SweepResult result = sweep(*reader);
    CHECK(result.deleted == 3000);
    CHECK(result.kept == 1);
    CHECK(result.stale == 0);
    CHECK(maps.entries() == 1);
}

TEST_CASE("bpf: without maps there is no census and no sweep") {
    CHECK(shared_reader().read({}, true).error().code == ENOTSUP);
    CHECK(shared_reader().sweep().error().code == ENOTSUP);
}
