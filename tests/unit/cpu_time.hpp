// What work costs, to be held against what less or other work costs: never against a number of seconds.
#pragma once

#include <time.h>

#include <algorithm>

namespace fdspan::test {

inline double thread_cpu_s() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

template <class Work>
double cpu_s(Work&& work) {
    const double began_s = thread_cpu_s();
    work();
    return thread_cpu_s() - began_s;
}

// Of several runs: whatever else the machine does can only add to it.
template <class Work>
double least_cpu_s(Work&& work) {
    double least = cpu_s(work);
    for (int i = 0; i < 4; ++i) least = std::min(least, cpu_s(work));
    return least;
}

}  // namespace fdspan::test
