#include "kernel/bpf_object.hpp"

#include <elf.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/unique_fd.hpp"
#include "wire.h"

namespace fdspan {

Result<void> may_load_programs() {
    const bpf_insn instructions[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0, .imm = 0},
        {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
    };
    const UniqueFd program(bpf_prog_load(BPF_PROG_TYPE_TRACEPOINT, "fdspan_may", "GPL", instructions, std::size(instructions), nullptr));
    if (program.valid()) return {};
    if (errno == EPERM) return fail(EPERM, "loading BPF programs is not permitted (needs CAP_BPF and CAP_PERFMON, and no lockdown)");
    return fail_errno(errno, "load a BPF program");
}

SignalsBlocked::SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
}
SignalsBlocked::~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

Result<void> room_for_descriptors(unsigned count) {
    std::vector<UniqueFd> taken;
    taken.reserve(count);
    while (taken.size() < count) {
        UniqueFd one(::eventfd(0, EFD_CLOEXEC));
        if (!one.valid()) return fail(errno, "loading BPF programs takes " + std::to_string(count) + " descriptors, and there are not so many left");
        taken.push_back(std::move(one));
    }
    return {};
}

Result<Btf> load_kernel_btf() {
    if (::access("/sys/kernel/btf/vmlinux", F_OK) != 0) return fail(ENOENT, "this kernel has no BTF (built without CONFIG_DEBUG_INFO_BTF)");
    btf* const types = btf__load_vmlinux_btf();
    if (types == nullptr) {
        return fail_errno(errno, "read the kernel's BTF");
    }
    return Btf(types);
}

bool btf_has_function(const btf& types, const char* name) {
    return btf__find_by_name_kind(&types, name, BTF_KIND_FUNC) > 0;
}

bool btf_has_tracepoint(const btf& types, const char* name) { return btf_tracepoint_arguments(types, name) >= 0; }

int btf_tracepoint_arguments(const btf& types, const char* name) {
    const std::string type_name = std::string("btf_trace_") + name;
    const int id = btf__find_by_name_kind(&types, type_name.c_str(), BTF_KIND_TYPEDEF);
    if (id < 0) return -1;
    const btf_type* type = btf__type_by_id(&types, static_cast<__u32>(id));
    if (type == nullptr) return -1;
    type = btf__type_by_id(&types, type->type);  // pointer
    if (type == nullptr || !btf_is_ptr(type)) return -1;
    type = btf__type_by_id(&types, type->type);  // function prototype
    if (type == nullptr || !btf_is_func_proto(type)) return -1;
    return static_cast<int>(btf_vlen(type)) - 1;
}

namespace {
struct Section {
    Elf64_Shdr header{};
    std::string_view name;
};

Result<std::vector<Section>> sections_of(std::string_view elf) {
    const auto fits = [&elf](std::uint64_t at, std::uint64_t bytes) { return at <= elf.size() && bytes <= elf.size() - at; };
    Elf64_Ehdr header{};
    if (!fits(0, sizeof header)) return fail(EINVAL, "not a BPF object");
    std::memcpy(&header, elf.data(), sizeof header);
    std::vector<Section> out(header.e_shnum);
    if (!fits(header.e_shoff, out.size() * sizeof(Elf64_Shdr)) || header.e_shstrndx >= out.size()) return fail(EINVAL, "a BPF object that ends early");
    for (std::size_t at = 0; at < out.size(); ++at) {
        Elf64_Shdr& section = out[at].header;
        std::memcpy(&section, elf.data() + header.e_shoff + at * sizeof section, sizeof section);
        if (section.sh_type != SHT_NOBITS && !fits(section.sh_offset, section.sh_size)) return fail(EINVAL, "a BPF object that ends early");
    }
    const Elf64_Shdr& names = out[header.e_shstrndx].header;
    const std::string_view texts = elf.substr(names.sh_offset, names.sh_size);
    for (Section& section : out) {
        const std::string_view rest = texts.substr(std::min<std::size_t>(section.header.sh_name, texts.size()));
        section.name = rest.substr(0, rest.find('\0'));
    }
    return out;
}
}  // namespace

Result<std::vector<char>> bind_calls(const void* bytes, std::size_t size, std::uint32_t rdonly_cast) {
    const auto* const first = static_cast<const char*>(bytes);
    const auto sections = sections_of({first, size});
    if (!sections) return tl::unexpected(sections.error());
    std::vector<char> out(first, first + size);
    constexpr std::uint8_t call = BPF_JMP | BPF_CALL, two_slots = BPF_LD | BPF_IMM | BPF_DW;
    for (const Section& section : *sections) {
        if (section.header.sh_type != SHT_PROGBITS || (section.header.sh_flags & SHF_EXECINSTR) == 0) continue;
        const std::size_t end = section.header.sh_offset + section.header.sh_size;
        bpf_insn instruction{};
        for (std::size_t at = section.header.sh_offset; at + sizeof instruction <= end; at += sizeof instruction) {
            std::memcpy(&instruction, &out[at], sizeof instruction);
            if (instruction.code == two_slots) at += sizeof instruction;
            if (instruction.code != call || instruction.src_reg != 0 || instruction.imm != FDSPAN_CALL_RDONLY_CAST) continue;
            // Without the function: something that is allowed anywhere.
            instruction = {};
            instruction.code = rdonly_cast != 0 ? call : BPF_ALU64 | BPF_MOV | BPF_K;
            instruction.src_reg = rdonly_cast != 0 ? BPF_PSEUDO_KFUNC_CALL : 0;
            instruction.imm = static_cast<std::int32_t>(rdonly_cast);
            std::memcpy(&out[at], &instruction, sizeof instruction);
        }
    }
    return out;
}

Result<Btf> own_types(const void* bytes, std::size_t size) {
    const auto* const first = static_cast<const char*>(bytes);
    const auto sections = sections_of({first, size});
    if (!sections) return tl::unexpected(sections.error());
    for (const Section& section : *sections) {
        if (section.name != ".BTF") continue;
        btf* const types = btf__new(first + section.header.sh_offset, static_cast<__u32>(section.header.sh_size));
        if (types == nullptr) return fail_errno(errno, "read the types of a BPF object");
        return Btf(types);
    }
    return fail(EINVAL, "a BPF object without types");
}

Result<BpfObject> open_bpf_object(const void* bytes, std::size_t size, const char* name, const btf& types) {
    const auto bound = bind_calls(bytes, size, static_cast<std::uint32_t>(std::max(0, btf__find_by_name_kind(&types, rdonly_cast_function, BTF_KIND_FUNC))));
    if (!bound) return tl::unexpected(bound.error());
    LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name);
    bpf_object* const object = bpf_object__open_mem(bound->data(), bound->size(), &options);
    if (object == nullptr) return fail_errno(errno, std::string("open BPF object ") + name);
    return BpfObject(object);
}

Result<void> set_constant(bpf_object& object, const char* variable, std::span<const std::uint8_t> value) {
    const btf* const types = bpf_object__btf(&object);
    const int section = btf__find_by_name_kind(types, ".rodata", BTF_KIND_DATASEC);
    if (section < 0) return fail(ENOENT, std::string("BPF object without constants, wanted ") + variable);
    const btf_type* const type = btf__type_by_id(types, static_cast<__u32>(section));
    const btf_var_secinfo* const variables = btf_var_secinfos(type);
    for (int i = 0; i < btf_vlen(type); ++i) {
        const btf_type* const candidate = btf__type_by_id(types, variables[i].type);
        if (std::strcmp(btf__name_by_offset(types, candidate->name_off), variable) != 0) continue;
        bpf_map* map = nullptr;
        bpf_object__for_each_map(map, &object) {
            if (std::strstr(bpf_map__name(map), ".rodata") == nullptr) continue;
            std::size_t bytes = 0;
            auto* const data = static_cast<unsigned char*>(const_cast<void*>(bpf_map__initial_value(map, &bytes)));
            if (data == nullptr || variables[i].offset >= bytes || value.size() > variables[i].size) continue;
            std::copy(value.begin(), value.end(), data + variables[i].offset);
            return {};
        }
    }
    return fail(ENOENT, std::string("BPF object without the constant ") + variable);
}

Result<void> set_compat_constants(bpf_object& object, const btf& types) {
    const std::uint8_t have[] = {btf_has_function(types, rdonly_cast_function)};
    return set_constant(object, "fdspan_have_rdonly_cast", have);
}

Result<bpf_map*> find_map(bpf_object& object, const char* name) {
    bpf_map* const map = bpf_object__find_map_by_name(&object, name);
    if (map == nullptr) return fail(ENOENT, std::string("BPF object without the map ") + name);
    return map;
}

}  // namespace fdspan
