#include "kernel/kernel_types.hpp"

#include <fcntl.h>
#include <linux/btf.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <span>
#include <string_view>
#include <unordered_map>

namespace fdspan {
namespace {

constexpr const char* kernel_btf_path = "/sys/kernel/btf/vmlinux";

// "struct file___file_ref" stands for the kernel's struct file (libbpf's essential name).
std::string_view essential_name(std::string_view name) {
    const std::size_t flavour = name.rfind("___");
    return flavour == std::string_view::npos || flavour == 0 ? name : name.substr(0, flavour);
}

unsigned kind_of(const btf_type& type) { return BTF_INFO_KIND(type.info); }
unsigned count_of(const btf_type& type) { return BTF_INFO_VLEN(type.info); }

// Bytes behind the btf_type; npos for a kind that is not known (Documentation/bpf/btf.rst).
std::size_t tail_bytes(const btf_type& type) {
    switch (kind_of(type)) {
        case BTF_KIND_PTR:
        case BTF_KIND_FWD:
        case BTF_KIND_TYPEDEF:
        case BTF_KIND_VOLATILE:
        case BTF_KIND_CONST:
        case BTF_KIND_RESTRICT:
        case BTF_KIND_FUNC:
        case BTF_KIND_FLOAT:
        case BTF_KIND_TYPE_TAG: return 0;
        case BTF_KIND_INT: return sizeof(std::uint32_t);
        case BTF_KIND_VAR: return sizeof(struct btf_var);
        case BTF_KIND_DECL_TAG: return sizeof(struct btf_decl_tag);
        case BTF_KIND_ARRAY: return sizeof(struct btf_array);
        case BTF_KIND_STRUCT:
        case BTF_KIND_UNION: return count_of(type) * sizeof(struct btf_member);
        case BTF_KIND_ENUM: return count_of(type) * sizeof(struct btf_enum);
        case BTF_KIND_ENUM64: return count_of(type) * sizeof(struct btf_enum64);
        case BTF_KIND_FUNC_PROTO: return count_of(type) * sizeof(struct btf_param);
        case BTF_KIND_DATASEC: return count_of(type) * sizeof(struct btf_var_secinfo);
        default: return std::string::npos;
    }
}

// The kernel's BTF in memory: mapped where the kernel allows that (since 6.16), else read.
class KernelBtf {
public:
    KernelBtf() = default;
    KernelBtf(const KernelBtf&) = delete;
    KernelBtf& operator=(const KernelBtf&) = delete;
    ~KernelBtf() {
        if (mapped_ != nullptr) ::munmap(mapped_, bytes_.size());
    }

    Result<void> open() {
        const UniqueFd file(::open(kernel_btf_path, O_RDONLY | O_CLOEXEC));
        if (!file.valid()) {
            if (errno == ENOENT) return fail(ENOENT, "this kernel has no BTF (built without CONFIG_DEBUG_INFO_BTF)");
            return fail_errno(errno, std::string("open ") + kernel_btf_path);
        }
        struct stat status{};
        if (::fstat(file.get(), &status) != 0) return fail_errno(errno, std::string("stat ") + kernel_btf_path);
        const auto size = static_cast<std::size_t>(status.st_size);
        void* const page = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file.get(), 0);
        if (page != MAP_FAILED) {
            mapped_ = page;
            bytes_ = {static_cast<const char*>(page), size};
            return {};
        }
        read_.resize(size);
        for (std::size_t at = 0; at < size;) {
            const ssize_t got = ::read(file.get(), read_.data() + at, size - at);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) return fail_errno(got == 0 ? EIO : errno, std::string("read ") + kernel_btf_path);
            at += static_cast<std::size_t>(got);
        }
        bytes_ = {read_.data(), size};
        return {};
    }
    [[nodiscard]] std::span<const char> bytes() const { return bytes_; }

private:
    void* mapped_ = nullptr;
    std::vector<char> read_;
    std::span<const char> bytes_;
};

// Finds the wanted types in the kernel's BTF and writes them, and what they are made of, as a BTF of its own.
class Picker {
public:
    Result<void> parse(std::span<const char> bytes) {
        btf_header header{};
        if (bytes.size() < sizeof header) return damaged();
        std::memcpy(&header, bytes.data(), sizeof header);
        const std::size_t left = bytes.size() - std::min<std::size_t>(bytes.size(), header.hdr_len);
        if (header.magic != BTF_MAGIC || header.hdr_len < sizeof header || header.type_off > left || header.type_len > left - header.type_off ||
            header.str_off > left || header.str_len > left - header.str_off || header.str_len == 0 ||
            bytes[header.hdr_len + header.str_off + header.str_len - 1] != '\0') {
            return damaged();
        }
        types_ = bytes.subspan(header.hdr_len + header.type_off, header.type_len);
        strings_ = bytes.subspan(header.hdr_len + header.str_off, header.str_len);
        return {};
    }

    void want(std::string_view name) { wanted_.try_emplace(name, 0U); }
    // Its number goes to where `id` leads.
    void want_function(std::string_view name, std::uint32_t& id) {
        functions_.emplace_back(name, &id);
        want(name);
    }

    // One pass over the types; of most, the first two bytes of the name say that nobody wants them.
    Result<void> find() {
        std::vector<bool> likely(std::size_t{1} << 16);
        for (const auto& [name, id] : wanted_) likely[beginning(name[0], name.size() > 1 ? name[1] : '\0')] = true;
        places_.reserve(types_.size() / 24);
        places_.push_back(0);  // type 0 is void
        for (std::size_t at = 0; at < types_.size();) {
            if (types_.size() - at < sizeof(btf_type)) return damaged();
            const btf_type& type = *reinterpret_cast<const btf_type*>(&types_[at]);
            const std::size_t tail = tail_bytes(type);
            if (tail == std::string::npos || tail > types_.size() - at - sizeof type || type.name_off >= strings_.size()) return damaged();
            const auto id = static_cast<std::uint32_t>(places_.size());
            places_.push_back(static_cast<std::uint32_t>(at));
            at += sizeof type + tail;
            const unsigned kind = kind_of(type);
            const bool named = kind == BTF_KIND_STRUCT || kind == BTF_KIND_UNION || kind == BTF_KIND_TYPEDEF || kind == BTF_KIND_ENUM ||
                               kind == BTF_KIND_ENUM64 || kind == BTF_KIND_FUNC;
            const char* const name = &strings_[type.name_off];
            if (!named || *name == '\0' || !likely[beginning(name[0], name[1])]) continue;
            const auto hit = wanted_.find(name);
            if (hit == wanted_.end()) continue;
            if (kind == BTF_KIND_FUNC) {
                for (const auto& [function, number] : functions_) {
                    if (function == name) *number = id;
                }
                continue;
            }
            if (kind == BTF_KIND_STRUCT) hit->second = id;
            found_.push_back(id);
        }
        return {};
    }

    [[nodiscard]] std::uint32_t struct_id(std::string_view name) const {
        const auto found = wanted_.find(name);
        return found == wanted_.end() ? 0 : found->second;
    }

    // The types that were found, with what they hold by value: where a pointer leads does not matter for where it lies.
    Result<std::vector<char>> write() {
        for (const std::uint32_t id : found_) take(id);
        std::vector<char> types;
        for (std::size_t next = 0; next < order_.size(); ++next) {
            if (auto done = append(order_[next], types); !done) return tl::unexpected<Error>(done.error());
        }
        btf_header header{};
        header.magic = BTF_MAGIC;
        header.version = BTF_VERSION;
        header.hdr_len = sizeof header;
        header.type_len = static_cast<std::uint32_t>(types.size());
        header.str_off = header.type_len;
        header.str_len = static_cast<std::uint32_t>(names_.size());
        std::vector<char> out(sizeof header);
        std::memcpy(out.data(), &header, sizeof header);
        out.insert(out.end(), types.begin(), types.end());
        out.insert(out.end(), names_.begin(), names_.end());
        return out;
    }

private:
    static tl::unexpected<Error> damaged() { return fail(EINVAL, std::string(kernel_btf_path) + " is not a BTF that this program understands"); }

    static std::size_t beginning(char first, char second) {
        return static_cast<std::size_t>(static_cast<unsigned char>(first)) << 8 | static_cast<unsigned char>(second);
    }

    // The number of a type in what is written.
    std::uint32_t take(std::uint32_t id) {
        if (id == 0) return 0;
        const auto [known, fresh] = numbers_.try_emplace(id, static_cast<std::uint32_t>(order_.size() + 1));
        if (fresh) order_.push_back(id);
        return known->second;
    }

    std::uint32_t name(std::uint32_t offset) {
        if (offset == 0 || offset >= strings_.size()) return 0;
        const auto [known, fresh] = name_places_.try_emplace(offset, static_cast<std::uint32_t>(names_.size()));
        if (fresh) names_.append(&strings_[offset]).push_back('\0');
        return known->second;
    }

    Result<void> append(std::uint32_t id, std::vector<char>& out) {
        if (id >= places_.size()) return damaged();
        const char* const from = &types_[places_[id]];
        btf_type type{};
        std::memcpy(&type, from, sizeof type);
        const std::size_t tail_size = tail_bytes(type);
        const std::size_t begin = out.size();
        out.insert(out.end(), from, from + sizeof type + tail_size);
        char* const tail = out.data() + begin + sizeof type;
        type.name_off = name(type.name_off);
        switch (kind_of(type)) {
            case BTF_KIND_PTR: type.type = 0; break;
            case BTF_KIND_TYPEDEF:
            case BTF_KIND_VOLATILE:
            case BTF_KIND_CONST:
            case BTF_KIND_RESTRICT:
            case BTF_KIND_TYPE_TAG: type.type = take(type.type); break;
            case BTF_KIND_ARRAY: {
                auto& array = *reinterpret_cast<struct btf_array*>(tail);
                array.type = take(array.type);
                array.index_type = take(array.index_type);
                break;
            }
            case BTF_KIND_STRUCT:
            case BTF_KIND_UNION:
                for (struct btf_member& member : std::span(reinterpret_cast<struct btf_member*>(tail), count_of(type))) {
                    member.name_off = name(member.name_off);
                    member.type = take(member.type);
                }
                break;
            case BTF_KIND_ENUM:
                for (struct btf_enum& value : std::span(reinterpret_cast<struct btf_enum*>(tail), count_of(type))) value.name_off = name(value.name_off);
                break;
            case BTF_KIND_ENUM64:
                for (struct btf_enum64& value : std::span(reinterpret_cast<struct btf_enum64*>(tail), count_of(type))) value.name_off = name(value.name_off);
                break;
            case BTF_KIND_FUNC_PROTO:  // behind a typedef: functions lie in no struct
                out.resize(begin + sizeof type);
                type.info = BTF_KIND_FUNC_PROTO << 24;
                type.type = 0;
                break;
            default: break;
        }
        std::memcpy(out.data() + begin, &type, sizeof type);
        return {};
    }

    std::span<const char> types_, strings_;
    std::vector<std::pair<std::string_view, std::uint32_t*>> functions_;
    std::unordered_map<std::string_view, std::uint32_t> wanted_;  // to the kernel's number of the struct
    std::vector<std::uint32_t> places_;                           // by number
    std::vector<std::uint32_t> found_;
    std::unordered_map<std::uint32_t, std::uint32_t> numbers_, name_places_;
    std::vector<std::uint32_t> order_;
    std::string names_ = std::string(1, '\0');
};

}  // namespace

Result<KernelTypes> KernelTypes::create() {
    KernelTypes types;
    types.file_.reset(::memfd_create("fdspan-btf", MFD_CLOEXEC));
    if (!types.file_.valid()) return fail_errno(errno, "make a memory file for the kernel's types");
    types.path_ = "/proc/self/fd/" + std::to_string(types.file_.get());
    return types;
}

Result<void> KernelTypes::pick(const btf& wanted, std::span<const char* const> functions) {
    try {
        KernelBtf kernel;
        if (auto opened = kernel.open(); !opened) return tl::unexpected<Error>(opened.error());
        Picker picker;
        if (auto parsed = picker.parse(kernel.bytes()); !parsed) return tl::unexpected<Error>(parsed.error());
        const auto name_of = [&wanted](std::uint32_t id) {
            const char* const name = btf__name_by_offset(&wanted, btf__type_by_id(&wanted, id)->name_off);
            return essential_name(name == nullptr ? "" : name);
        };
        const std::uint32_t count = btf__type_cnt(&wanted);
        for (std::uint32_t id = 1; id < count; ++id) {
            const btf_type* const type = btf__type_by_id(&wanted, id);
            if ((btf_is_composite(type) || btf_is_typedef(type) || btf_is_any_enum(type)) && !name_of(id).empty()) picker.want(name_of(id));
        }
        for (const char* const function : functions) {
            const auto place = function_ids_.insert_or_assign(function, 0U).first;
            picker.want_function(place->first, place->second);
        }
        if (auto found = picker.find(); !found) return tl::unexpected<Error>(found.error());

        kernel_ids_.assign(count, 0);
        for (std::uint32_t id = 1; id < count; ++id) {
            if (btf_is_struct(btf__type_by_id(&wanted, id))) kernel_ids_[id] = picker.struct_id(name_of(id));
        }
        auto bytes = picker.write();
        if (!bytes) return tl::unexpected<Error>(bytes.error());
        for (std::size_t at = 0; at < bytes->size();) {
            const ssize_t written = ::write(file_.get(), bytes->data() + at, bytes->size() - at);
            if (written < 0) return fail_errno(errno, "write the kernel's types");
            at += static_cast<std::size_t>(written);
        }
        return {};
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "not enough memory for the kernel's types");
    }
}

}  // namespace fdspan
