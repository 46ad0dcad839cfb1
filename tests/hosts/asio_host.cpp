// A tracker in Boost.Asio's loop, through the C++ interface. usage: asio_host PID
#include <fdspan/fdspan.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>

namespace {

class Host {
public:
    Host(boost::asio::io_context& loop, fdspan::Options options)
        : loop_(loop), tracker_(std::move(options)), readable_(loop, tracker_.fd()), timer_(loop) {}
    // The descriptor is the tracker's: Asio must not close it.
    ~Host() { readable_.release(); }

    void start() {
        wait_readable();
        wait_timer();
    }

private:
    void process() {
        tracker_.process([this](const fdspan::Event& event) {
            if (event.reference != nullptr) std::printf("%s %d %s\n", fdspan_event_name(event.kind), event.reference->fd, event.reference->path);
            if (event.kind == FDSPAN_EVENT_EXIT) loop_.stop();
        });
        std::fflush(stdout);
        wait_timer();
    }
    void wait_readable() {
        readable_.async_wait(boost::asio::posix::stream_descriptor::wait_read, [this](boost::system::error_code failed) {
            if (failed) return;
            process();
            wait_readable();
        });
    }
    void wait_timer() {
        const auto at = tracker_.timeout();
        if (!at) return;
        timer_.expires_at(*at);
        timer_.async_wait([this](boost::system::error_code cancelled) {
            if (!cancelled) process();
        });
    }

    boost::asio::io_context& loop_;
    fdspan::Tracker tracker_;
    boost::asio::posix::stream_descriptor readable_;
    boost::asio::steady_timer timer_;
};

}  // namespace

int main(int argc, char** argv) {
    try {
        boost::asio::io_context loop;
        fdspan::Options options;
        options.pids = {argc > 1 ? std::atoi(argv[1]) : 0};
        Host host(loop, std::move(options));
        std::printf("ready\n");
        std::fflush(stdout);
        host.start();
        loop.run();
        return 0;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "asio_host: %s\n", error.what());
        return 2;
    }
}
