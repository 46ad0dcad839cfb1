// What fdspan.hpp promises beyond fdspan.h: exceptions, moves, a callback that destroys its tracker. usage: contract_cpp [BACKEND]; leaves files in $TMPDIR.
#include <fcntl.h>
#include <fdspan/fdspan.hpp>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

namespace {

int failures = 0;

void check(bool fact, const char* what, int line) {
    if (fact) return;
    ++failures;
    std::printf("FAILED, line %d: %s\n", line, what);
}
#define CHECK(fact) check(fact, #fact, __LINE__)

// The errno that `body` throws; 0: none.
template <class Body>
int thrown_by(Body&& body) {
    try {
        body();
    } catch (const std::system_error& error) {
        return error.code().value();
    }
    return 0;
}

std::string directory;
std::uint32_t backend = FDSPAN_BACKEND_AUTO;

fdspan::Options own() {
    fdspan::Options options;
    options.backend = backend;
    options.pids = {getpid()};
    options.poll_interval = std::chrono::milliseconds(10);
    return options;
}

bool is_about(const fdspan::Event& event, const std::string& path) { return event.reference != nullptr && event.reference->path == path; }

// Opens a file, keeps it, and waits until the tracker has something to tell.
int cause_event(fdspan::Tracker& tracker, const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    pollfd wait{tracker.fd(), POLLIN, 0};
    CHECK(::poll(&wait, 1, 60'000) == 1);
    return fd;
}

// process() until `done` or a minute has gone; what it throws comes out.
template <class Done>
void process_until(fdspan::Tracker& tracker, const fdspan::Tracker::EventCallback& callback, Done&& done) {
    for (int i = 0; i < 3000 && !done(); ++i) {
        pollfd wait{tracker.fd(), POLLIN, 0};
        ::poll(&wait, 1, 20);
        tracker.process(callback);
    }
}

void a_callback_throws_and_the_tracker_goes_on() {
    fdspan::Tracker tracker(own());
    const int fd = cause_event(tracker, directory + "/thrown");
    bool caught = false;
    try {
        process_until(tracker, [&](const fdspan::Event& event) { if (is_about(event, directory + "/thrown")) throw std::runtime_error("a host's own"); }, [] { return false; });
    } catch (const std::runtime_error& error) {
        caught = std::string("a host's own") == error.what();
    }
    CHECK(caught);
    bool closed = false;
    ::close(fd);
    process_until(tracker, [&](const fdspan::Event& event) { closed = closed || (event.kind == FDSPAN_EVENT_CLOSED && is_about(event, directory + "/thrown")); }, [&] { return closed; });
    CHECK(closed);
}

void a_callback_calls_its_tracker() {
    fdspan::Tracker tracker(own());
    const int fd = cause_event(tracker, directory + "/reentered");
    int process = -1, query = -1;
    unsigned events = 0;
    fdspan::Tracker::EventCallback callback;
    callback = [&](const fdspan::Event&) {
        ++events;
        process = thrown_by([&] { tracker.process(callback); });
        query = thrown_by([&] { (void)tracker.query({}); });
    };
    process_until(tracker, callback, [&] { return events > 0; });
    CHECK(process == EBUSY);
    CHECK(query == EBUSY);
    // It is still the one that is called.
    const unsigned before = events;
    ::close(fd);
    process_until(tracker, callback, [&] { return events > before; });
    CHECK(events > before);
}

void a_callback_destroys_its_tracker() {
    auto tracker = std::make_unique<fdspan::Tracker>(own());
    const int fd = cause_event(*tracker, directory + "/destroyed");
    unsigned events = 0;
    int code = 0;
    for (int i = 0; i < 3000 && tracker; ++i) {
        ::poll(nullptr, 0, 10);
        code = thrown_by([&] { tracker->process([&](const fdspan::Event&) { ++events; tracker.reset(); }); });
    }
    CHECK(events == 1);
    CHECK(code == ECANCELED);
    ::close(fd);
}

void what_was_moved_from_throws() {
    fdspan::Tracker first(own());
    fdspan::Tracker second = std::move(first);
    CHECK(thrown_by([&] { (void)first.fd(); }) == EINVAL);                                // NOLINT: that is the point
    CHECK(thrown_by([&] { first.process([](const fdspan::Event&) {}); }) == EINVAL);
    CHECK(thrown_by([&] { first.resync(); }) == EINVAL);
    fdspan::EventBuffer buffer(4);
    CHECK(thrown_by([&] { first.read_events(buffer); }) == EINVAL);
    CHECK(thrown_by([&] { (void)first.query({}); }) == EINVAL);
    CHECK(thrown_by([&] { (void)first.statistics(); }) == EINVAL);
    CHECK(second.statistics().processes == 1);
    first = std::move(second);
    CHECK(first.statistics().processes == 1);
    fdspan::Options wrong = own();
    wrong.backend = 99;
    CHECK(thrown_by([&] { fdspan::Tracker tracker(wrong); }) == EINVAL);
    CHECK(thrown_by([] { fdspan::EventBuffer none(0); }) == EINVAL);
}

void a_cursor_outlives_its_tracker_and_a_copy_its_event() {
    std::optional<fdspan::Cursor> cursor;
    std::optional<fdspan::StoredEvent> kept;
    {
        fdspan::Tracker tracker(own());
        const int fd = cause_event(tracker, directory + "/kept");
        process_until(tracker, [&](const fdspan::Event& event) { if (is_about(event, directory + "/kept")) kept.emplace(event); }, [&] { return kept.has_value(); });
        ::close(fd);
        cursor.emplace(tracker.query({}));
        CHECK(cursor->next() != nullptr);
    }
    CHECK(thrown_by([&] { (void)cursor->next(); }) == ESTALE);
    CHECK(kept && is_about(**kept, directory + "/kept"));
}

void a_deleted_file_is_recovered() {
    const std::string path = directory + "/deleted";
    const int held = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(::write(held, "bytes", 5) == 5);
    ::unlink(path.c_str());
    fdspan::SnapshotOptions options;
    options.pids = {getpid()};
    const fdspan::Snapshot snapshot(options);
    fdspan::Query query;
    query.path = path;
    query.deleted = true;
    fdspan::Cursor cursor = snapshot.query(query);
    const fdspan::Row* const row = cursor.next();
    CHECK(row != nullptr);
    if (row == nullptr) return;
    fdspan_recover_options which{};
    which.kind = row->reference->kind;
    which.pid = row->process->pid;
    which.fd = row->reference->fd;
    which.ino = row->reference->ino;
    which.dev_major = row->reference->dev_major;
    which.dev_minor = row->reference->dev_minor;
    which.started = row->process->started;
    const int target = ::open((directory + "/back").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fdspan::recover(which, target).file_bytes == 5);
    char text[8] = "";
    CHECK(::pread(target, text, sizeof(text), 0) == 5 && std::strcmp(text, "bytes") == 0);
    which.fd = 9999;
    CHECK(thrown_by([&] { fdspan::recover(which, target); }) == ENOENT);
    ::close(target);
    ::close(held);
}

}  // namespace

int main(int count, char** values) {
    for (std::uint32_t b = 0; count > 1 && b <= FDSPAN_BACKEND_PROCFS; ++b) {
        if (std::strcmp(values[1], fdspan_backend_name(b)) == 0) backend = b;
    }
    const char* const parent = std::getenv("TMPDIR");
    directory = std::string(parent != nullptr ? parent : "/tmp") + "/contract-cpp-XXXXXX";
    if (::mkdtemp(directory.data()) == nullptr) return 2;
    a_callback_throws_and_the_tracker_goes_on();
    a_callback_calls_its_tracker();
    a_callback_destroys_its_tracker();
    what_was_moved_from_throws();
    a_cursor_outlives_its_tracker_and_a_copy_its_event();
    a_deleted_file_is_recovered();
    return failures != 0 ? 1 : 0;
}
