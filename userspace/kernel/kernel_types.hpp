// KernelTypes: the few types of the running kernel that one BPF object speaks of, picked out of its BTF in one pass.
//
// libbpf looks each type that an object names up in the whole of the kernel's BTF (150,000 types), some 60 ms for the iterators;
// given a BTF of those types alone (bpf_object_open_opts::btf_custom_path), it is done in 1. Numbers of types are not the same
// there: bpf_rdonly_cast needs the kernel's own, so the object reads them from its constants (FDSPAN_TYPE_ID in the program).
#pragma once

#include <bpf/btf.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "base/unique_fd.hpp"

namespace fdspan {

// Owns a memory file with the BTF. Not thread-safe.
class KernelTypes {
public:
    static Result<KernelTypes> create();

    // Where libbpf is to look, said as the object is opened; empty until pick().
    [[nodiscard]] const std::string& path() const { return path_; }
    // Fills it for an object whose own types are `wanted`, before that is loaded. ENOENT: the kernel has no BTF.
    [[nodiscard]] Result<void> pick(const btf& wanted, std::span<const char* const> functions);
    // The kernel's numbers of those functions; 0 where it has none.
    [[nodiscard]] const std::map<std::string, std::uint32_t>& function_ids() const { return function_ids_; }
    // By the object's own number of a struct: the kernel's number of the struct of that name, 0 where it has none.
    [[nodiscard]] const std::vector<std::uint32_t>& kernel_ids() const { return kernel_ids_; }

private:
    UniqueFd file_;
    std::string path_;
    std::vector<std::uint32_t> kernel_ids_;
    std::map<std::string, std::uint32_t> function_ids_;
};

}  // namespace fdspan
