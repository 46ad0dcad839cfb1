// What a BPF iterator attaches to is a function of the kernel, "bpf_iter_task", said by its number in the kernel's BTF. libbpf looks the number
// up by reading all of that BTF into memory, twice: 12 MB and a quarter of the time that a short command takes. Where the number
// is known already, here is the way to say it.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace fdspan {

// By name, "bpf_iter_task": the numbers.
using IteratorTargets = std::map<std::string, std::uint32_t>;

// Changes what libbpf does with iterators in the whole process, and not thread-safely: for main() of a program of its own, before there is a
// second thread. Without it, and for targets that nobody names, all works as well, only slower.
void take_over_iterator_sections();

// Names targets to what the calling thread loads while this lives.
class NamedIteratorTargets {
public:
    explicit NamedIteratorTargets(const IteratorTargets& targets);
    ~NamedIteratorTargets();
    NamedIteratorTargets(const NamedIteratorTargets&) = delete;
    NamedIteratorTargets& operator=(const NamedIteratorTargets&) = delete;
};

}  // namespace fdspan
