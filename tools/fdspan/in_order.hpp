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

// make(thread, begin, end, text) appends what items [begin, end) are to `text`. Each thread has one piece in memory.
template <class Make>
void write_in_order(unsigned threads, std::size_t items, Output& output, Make&& make) {
    constexpr std::size_t piece_items = 1024;
    std::mutex mutex;
    std::condition_variable turned;
    std::size_t made = 0;  // pieces that somebody makes or has made
    std::size_t turn = 0;  // the piece to be written next
    bool failed = false;
    const auto work = [&](unsigned thread) {
        std::string text;
        std::unique_lock lock(mutex);
        while (!failed && !output.broken() && made * piece_items < items) {
            const std::size_t piece = made++;
            lock.unlock();
            text.clear();
            try {
                make(thread, piece * piece_items, std::min(items, (piece + 1) * piece_items), text);
            } catch (...) {
                lock.lock();
                failed = true;
                turned.notify_all();
                throw;
            }
            lock.lock();
            turned.wait(lock, [&] { return failed || turn == piece; });
            if (failed) return;
            output.write(text);
            ++turn;
            turned.notify_all();
        }
    };
    run_in_threads(static_cast<unsigned>(std::clamp<std::size_t>(items / piece_items, 1, threads)), work);
}

}  // namespace fdspan::cli
