// write_in_order: a long output made by several threads, piece by piece, and written in its order.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "output.hpp"

namespace fdspan::cli {

// Calls work(thread) in `threads` threads, numbered from 0, the caller's; returns when all are done. What one of them throws is thrown.
template <class Work>
void run_in_threads(unsigned threads, Work&& work) {
    std::vector<std::exception_ptr> failures(threads);
    const auto guarded = [&](unsigned thread) {
        try {
            work(thread);
        } catch (...) {
            failures[thread] = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    unsigned left = 1;
    try {
        others.reserve(threads);
        for (; left < threads; ++left) others.emplace_back(guarded, left);
    } catch (const std::exception&) {
        // No more threads for this process: the caller does what they were for.
    }
    guarded(0);
    for (; left < threads; ++left) guarded(left);
    for (std::thread& other : others) other.join();
    for (const std::exception_ptr& failure : failures) {
        if (failure) std::rethrow_exception(failure);
    }
}

// make(thread, begin, end, text) appends what items [begin, end) are to `text`. Whoever is done with a piece before its turn makes another
// one, up to two a thread; one thread at a time writes.
template <class Make>
void write_in_order(unsigned threads, std::size_t items, Output& output, Make&& make) {
    constexpr std::size_t piece_items = 1024;
    struct Piece {
        std::string text;
        bool made = false;
    };
    threads = static_cast<unsigned>(std::clamp<std::size_t>(items / piece_items, 1, threads));
    std::vector<Piece> pieces(2 * std::size_t{threads});  // by number, each in the place of one that was written
    std::mutex mutex;
    std::condition_variable written;
    std::size_t begun = 0;
    std::size_t turn = 0;  // the piece to be written next
    bool writing = false;
    bool ended = false;  // nothing more can be written
    const auto write_ready = [&](std::unique_lock<std::mutex>& lock) {
        writing = true;
        while (!ended && pieces[turn % pieces.size()].made) {
            Piece& piece = pieces[turn % pieces.size()];
            lock.unlock();
            output.write(piece.text);
            piece.text.clear();
            lock.lock();
            piece.made = false;
            ended = output.broken();
            ++turn;
            written.notify_all();
        }
        writing = false;
    };
    const auto work = [&](unsigned thread) {
        std::unique_lock lock(mutex);
        try {
            for (;;) {
                written.wait(lock, [&] { return ended || begun < turn + pieces.size(); });
                if (ended || begun * piece_items >= items) return;
                const std::size_t number = begun++;
                Piece& piece = pieces[number % pieces.size()];
                lock.unlock();
                make(thread, number * piece_items, std::min(items, (number + 1) * piece_items), piece.text);
                lock.lock();
                piece.made = true;
                if (!writing) write_ready(lock);
            }
        } catch (...) {
            if (!lock.owns_lock()) lock.lock();
            ended = true;
            written.notify_all();
            throw;
        }
    };
    run_in_threads(threads, work);
}

}  // namespace fdspan::cli
