#include "kernel/iterator_sections.hpp"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cerrno>
#include <string_view>

namespace fdspan {
namespace {

constexpr std::string_view section_prefix = "iter/";
thread_local const IteratorTargets* named_targets = nullptr;

// Called by libbpf before it loads a program.
int name_target(bpf_program* program, bpf_prog_load_opts* options, long) {
    const std::string target(std::string_view(bpf_program__section_name(program)).substr(section_prefix.size()));
    std::uint32_t id = 0;
    if (named_targets != nullptr) {
        if (const auto known = named_targets->find("bpf_iter_" + target); known != named_targets->end()) id = known->second;
    }
    if (id == 0) {
        const int found = libbpf_find_vmlinux_btf_id(target.c_str(), BPF_TRACE_ITER);
        if (found < 0) return found;
        id = static_cast<std::uint32_t>(found);
    }
    options->attach_btf_id = id;
    options->expected_attach_type = BPF_TRACE_ITER;
    return bpf_program__set_type(program, BPF_PROG_TYPE_TRACING);
}

}  // namespace

void take_over_iterator_sections() {
    LIBBPF_OPTS(libbpf_prog_handler_opts, options, .prog_prepare_load_fn = name_target);
    // For an object with a program of type TRACING libbpf reads the BTF before it asks; so it is one only from name_target() on.
    static const int registered = libbpf_register_prog_handler(section_prefix.data(), BPF_PROG_TYPE_RAW_TRACEPOINT, BPF_TRACE_ITER, &options);
    static_cast<void>(registered);  // without it, libbpf goes its own way
}

NamedIteratorTargets::NamedIteratorTargets(const IteratorTargets& targets) { named_targets = &targets; }
NamedIteratorTargets::~NamedIteratorTargets() { named_targets = nullptr; }

}  // namespace fdspan
