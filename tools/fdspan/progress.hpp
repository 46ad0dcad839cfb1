// A bar on the terminal behind stderr for what takes longer than a moment. Draws nothing where stderr is no terminal.
#pragma once

#include <cstdint>

namespace fdspan::cli {

class ProgressBar {
public:
    ProgressBar();
    ~ProgressBar();
    ProgressBar(const ProgressBar&) = delete;
    ProgressBar& operator=(const ProgressBar&) = delete;

    void show(std::uint64_t done_bytes, std::uint64_t total_bytes);
    // Takes the bar off the terminal.
    void clear();

private:
    bool terminal_;
    bool shown_ = false;
    std::uint64_t began_ns_;
    std::uint64_t drawn_ns_ = 0;
};

}  // namespace fdspan::cli
