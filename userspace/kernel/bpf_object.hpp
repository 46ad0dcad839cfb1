// What every user of BPF objects here shares: loading from memory, settings before load, and questions to the kernel's BTF.
#pragma once

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include <signal.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace fdspan {

struct BpfObjectDeleter {
    void operator()(bpf_object* object) const { bpf_object__close(object); }
};
using BpfObject = std::unique_ptr<bpf_object, BpfObjectDeleter>;

struct BtfDeleter {
    void operator()(btf* data) const { btf__free(data); }
};
using Btf = std::unique_ptr<btf, BtfDeleter>;

// The running kernel's types. ENOENT: the kernel has no BTF (CONFIG_DEBUG_INFO_BTF).
[[nodiscard]] Result<Btf> load_kernel_btf();

// Whether BPF programs may be loaded at all, asked without libbpf's loader: that writes its complaint to the host's stderr.
[[nodiscard]] Result<void> may_load_programs();

// While it lives, no signal reaches the calling thread: the verifier gives up with EAGAIN when one waits (do_check() in the kernel's
// kernel/bpf/verifier.c), and libbpf tries five times only, so that a host with a profiler's timer would never load anything.
class SignalsBlocked {
public:
    SignalsBlocked();
    ~SignalsBlocked();
    SignalsBlocked(const SignalsBlocked&) = delete;
    SignalsBlocked& operator=(const SignalsBlocked&) = delete;

private:
    sigset_t before_{};
};

// EMFILE, ENFILE: so many more descriptors can't be had. Asked before libbpf loads: it writes its complaint to the host's stderr.
[[nodiscard]] Result<void> room_for_descriptors(unsigned count);

[[nodiscard]] bool btf_has_function(const btf& types, const char* name);
// A tracepoint that tp_btf programs can attach to: its typedef btf_trace_NAME.
[[nodiscard]] bool btf_has_tracepoint(const btf& types, const char* name);
// Number of arguments of that tracepoint, the leading context not counted; -1 when there is none.
[[nodiscard]] int btf_tracepoint_arguments(const btf& types, const char* name);

// The kernel's function that programs call through FDSPAN_CALL_RDONLY_CAST (compat.bpf.h).
inline constexpr const char* rdonly_cast_function = "bpf_rdonly_cast";

// A copy of an embedded object that calls the kernel's function of that number in its BTF; 0: there is none, and nobody comes there.
[[nodiscard]] Result<std::vector<char>> bind_calls(const void* bytes, std::size_t size, std::uint32_t rdonly_cast);

// The types that an embedded object names itself.
[[nodiscard]] Result<Btf> own_types(const void* bytes, std::size_t size);

// Parses an embedded object and binds its calls. Nothing is loaded into the kernel yet.
[[nodiscard]] Result<BpfObject> open_bpf_object(const void* bytes, std::size_t size, const char* name, const btf& types);

// Sets the first bytes of a `const volatile` of the object before load.
[[nodiscard]] Result<void> set_constant(bpf_object& object, const char* variable, std::span<const std::uint8_t> value);

// Sets what compat.bpf.h asks for, from what BTF says. Call before load on every object that includes compat.bpf.h.
[[nodiscard]] Result<void> set_compat_constants(bpf_object& object, const btf& types);

// The map of that name; every object here is built with the maps it is asked for.
[[nodiscard]] Result<bpf_map*> find_map(bpf_object& object, const char* name);

}  // namespace fdspan
