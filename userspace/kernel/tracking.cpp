#include "kernel/tracking.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <linux/limits.h>
#include <linux/perf_event.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <fstream>

#include "base/clock.hpp"
#include "base/file_mode.hpp"
#include "kernel/bpf_object.hpp"
#include "kernel/hook_check.hpp"
#include "kernel/hooks.hpp"
#include "kernel/permutation.hpp"
#include "wire.h"

namespace fdspan {
namespace {

constexpr std::uint64_t watermark_share = 4;  // wake the reader when the ring is filled to one part in four

// Not access(2): that looks with the real user's eyes, and without capabilities.
bool is_there(const std::string& path) { return ::faccessat(AT_FDCWD, path.c_str(), F_OK, AT_EACCESS) == 0; }

Result<std::uint64_t> read_number(const std::string& path) {
    std::ifstream file(path);
    std::uint64_t number = 0;
    if (file >> number) return number;
    return fail(EACCES, "can't read " + path);
}

// Not by libbpf, whose links end with an ioctl on the perf event: closed in a child of fork(2), it would switch off the parent's.
// The link holds the event (kernel/bpf/syscall.c, bpf_perf_link_attach), so that one descriptor is enough.
Result<UniqueFd> attach_to_kprobe(const bpf_program& program, const std::string& function, std::uint64_t cookie) {
    auto type = read_number("/sys/bus/event_source/devices/kprobe/type");
    if (!type) return tl::unexpected(type.error());
    perf_event_attr event{};
    event.size = sizeof(event);
    event.type = static_cast<std::uint32_t>(*type);
    event.config1 = reinterpret_cast<std::uint64_t>(function.c_str());
    const UniqueFd opened(static_cast<int>(::syscall(SYS_perf_event_open, &event, -1, 0, -1, PERF_FLAG_FD_CLOEXEC)));
    if (!opened.valid()) {
        const int code = errno;
        // Debian's kernels ask for CAP_SYS_ADMIN then, before anything looks at CAP_PERFMON (kernel/events/core.c, perf_event_open, perf_paranoid_any).
        const auto level = read_number("/proc/sys/kernel/perf_event_paranoid");
        if (code == EACCES && level && static_cast<std::int64_t>(*level) >= 3) {  // -1 is a level, too
            return fail(code, "perf_event_open is refused: kernel.perf_event_paranoid is " + std::to_string(*level) + ", and from 3 on that takes CAP_SYS_ADMIN");
        }
        return fail_errno(code, "open a perf event");
    }
    LIBBPF_OPTS(bpf_link_create_opts, options);
    options.perf_event.bpf_cookie = cookie;
    UniqueFd link(bpf_link_create(bpf_program__fd(&program), opened.get(), BPF_PERF_EVENT, &options));
    if (!link.valid()) return fail_errno(errno, "attach to a perf event");
    return link;
}

// tp_btf and fentry, whose target the program names.
Result<UniqueFd> attach_by_btf(const bpf_program& program, std::uint64_t cookie) {
    LIBBPF_OPTS(bpf_link_create_opts, options);
    options.tracing.cookie = cookie;
    UniqueFd link(bpf_link_create(bpf_program__fd(&program), 0, bpf_program__expected_attach_type(&program), &options));
    if (!link.valid()) return fail_errno(errno, "attach by BTF");
    return link;
}

// Some hosts kill themselves on an unusual syscall; a hook check must not make it.
bool is_seccomp_filtered() {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line)) {
        if (line.rfind("Seccomp:", 0) == 0) return line.find_first_of("12") != std::string::npos;
    }
    return true;
}

Result<std::vector<fdspan_counters>> read_cpu_counters(int map) {
    const int cpus = libbpf_num_possible_cpus();
    if (cpus < 0) return fail_errno(-cpus, "count CPUs");
    std::vector<fdspan_counters> values(static_cast<std::size_t>(cpus));
    const std::uint32_t zero = 0;
    if (bpf_map_lookup_elem(map, &zero, values.data()) != 0) return fail_errno(errno, "read the loss counters");
    return values;
}

Result<TrackingCounters> read_counters(int map) {
    auto values = read_cpu_counters(map);
    if (!values) return tl::unexpected(values.error());
    TrackingCounters sum;
    for (const fdspan_counters& value : *values) {
        sum.records += value.seq;
        sum.ring_lost += value.ring_lost;
        sum.description_full += value.description_full;
        sum.descriptor_full += value.descriptor_full;
        sum.table_full += value.table_full;
        sum.truncated += value.truncated;
        if (value.ring_lost_first_ns != 0 &&
            (sum.ring_lost_first_ns == 0 || value.ring_lost_first_ns < sum.ring_lost_first_ns)) {
            sum.ring_lost_first_ns = value.ring_lost_first_ns;
        }
        if (value.ring_lost_last_ns > sum.ring_lost_last_ns) sum.ring_lost_last_ns = value.ring_lost_last_ns;
    }
    return sum;
}

// Calls that a program missed: a fentry program that was running on that CPU already, preempted; a kprobe or tracepoint while any
// BPF program or map syscall was (kernel/trace/bpf_trace.c, trace_call_bpf), which kernels before 6.7 do not count.
std::uint64_t missed_by_program(int program) {
    bpf_prog_info info{};
    std::uint32_t info_bytes = sizeof(info);
    return bpf_obj_get_info_by_fd(program, &info, &info_bytes) == 0 ? info.recursion_misses : 0;
}

// Does this kernel preempt tasks that run in it? uname(2) says PREEMPT, PREEMPT_RT or PREEMPT_DYNAMIC; with that last one the command
// line decides, or the build. debugfs has the answer: "none voluntary (full)". Whoever can't look there takes it for granted.
bool kernel_preempts() {
    utsname name{};
    if (::uname(&name) == 0 && std::strstr(name.version, "PREEMPT") == nullptr) return false;
    std::ifstream mode("/sys/kernel/debug/sched/preempt");
    std::string text;
    std::getline(mode, text);
    return text.find("(none)") == std::string::npos && text.find("(voluntary)") == std::string::npos;
}

TrackingBackend backend_of(const fdspan_settings& settings) {
    switch (settings.backend) {
        case FDSPAN_HOOKS_TRAMPOLINE: return TrackingBackend::trampoline;
        case FDSPAN_HOOKS_KPROBE: return TrackingBackend::kprobe;
        default: return TrackingBackend::syscall;
    }
}

constexpr std::string_view link_prefix = "link_";
// Pinned beside their links, because only CAP_SYS_ADMIN opens a program by its number.
constexpr std::string_view program_prefix = "prog_";
constexpr std::uint32_t max_scope_processes = 65536;
constexpr unsigned loading_descriptors = 80;  // what loading and attaching takes at the most

// Keys of a hash map, in batches: one system call for a thousand.
Result<std::uint64_t> count_entries(int map, std::size_t key_bytes, std::size_t value_bytes) {
    constexpr std::uint32_t batch = 1024;
    std::vector<char> keys(key_bytes * batch), values(value_bytes * batch);
    std::uint64_t total = 0, position = 0;
    bool first = true;
    while (true) {
        std::uint32_t count = batch;
        const int code = bpf_map_lookup_batch(map, first ? nullptr : &position, &position, keys.data(), values.data(), &count, nullptr);
        // ENOSPC: one bucket holds more than a batch, which a hash map of these keys never does.
        if (code != 0 && errno != ENOENT) return fail_errno(errno, "count the entries of a kernel map");
        total += count;
        first = false;
        if (code != 0) return total;
    }
}

// false: nothing is left out.
bool make_file_sieve(const TrackingOptions& options, fdspan_scope_files& sieve) {
    sieve = {};
    sieve.types = FDSPAN_ALL_TYPES;
    if (options.types != 0) {
        const auto wanted = [&](FileType type) { return (options.types >> static_cast<unsigned>(type) & 1U) != 0; };
        sieve.types = wanted(FileType::anon) || wanted(FileType::unknown) ? 1 : 0;
        for (unsigned bits = 1; bits < 16; ++bits) {
            if (wanted(file_type_of_mode(bits << 12, FileType::unknown))) sieve.types |= 1U << bits;
        }
    }
    const auto is_root = [](const std::string& path) { return path == "/"; };
    if (options.tops.size() <= FDSPAN_MAX_TOPS && std::none_of(options.tops.begin(), options.tops.end(), is_root)) {
        for (const std::string& path : options.tops) {
            fdspan_top& top = sieve.top[sieve.tops++];
            for (std::size_t at = 1; at < path.size() && top.depth < FDSPAN_TOP_NAMES;) {
                const std::size_t end = std::min(path.find('/', at), path.size());
                top.lengths[top.depth] = static_cast<std::uint32_t>(end - at);
                path.copy(top.names[top.depth++], std::min<std::size_t>(end - at, FDSPAN_TOP_NAME_BYTES - 1), at);
                at = end + 1;
            }
            sieve.deepest = std::max(sieve.deepest, top.depth);
        }
    }
    return sieve.types != FDSPAN_ALL_TYPES || sieve.tops != 0;
}

constexpr const char* pinned_maps[] = {"descriptions", "descriptors", "tables", "table_chunks", "settings", "counters"};

// FNV-1a.
std::uint64_t build_of(const BackendHooks& backend) {
    std::size_t bytes = 0;
    const auto* const elf = static_cast<const unsigned char*>(backend.elf_bytes(&bytes));
    std::uint64_t hash = 0xcbf29ce484222325;
    for (std::size_t at = 0; at < bytes; ++at) hash = (hash ^ elf[at]) * 0x100000001b3;
    return hash;
}

// bpffs has no files to lock, its directories do.
Result<UniqueFd> lock_pins(const std::string& directory) {
    UniqueFd lock(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!lock.valid()) return fail_errno(errno, "open " + directory);
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
        return errno == EWOULDBLOCK ? fail(EBUSY, "another process reads what is pinned in " + directory) : fail_errno(errno, "lock " + directory);
    }
    return lock;
}

Result<std::vector<UniqueFd>> open_pins(const std::string& directory, std::string_view prefix) {
    const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(directory.c_str()), ::closedir);
    if (!listing) return fail_errno(errno, "list " + directory);
    std::vector<UniqueFd> opened;
    while (const dirent* const entry = ::readdir(listing.get())) {
        if (!std::string_view(entry->d_name).starts_with(prefix)) continue;
        const std::string path = directory + "/" + entry->d_name;
        UniqueFd pin(bpf_obj_get(path.c_str()));
        if (!pin.valid() && errno == ENOENT) continue;  // a disarm came between
        if (!pin.valid()) return fail_errno(errno, "open " + path);
        opened.push_back(std::move(pin));
    }
    return opened;
}

}  // namespace

// The smallest program: the real ones take longer to be refused.
Result<void> try_trampoline() {
    auto types = load_kernel_btf();
    if (!types) return tl::unexpected(types.error());
    const int id = btf__find_by_name_kind(types->get(), "fd_install", BTF_KIND_FUNC);
    if (id < 0) return fail(ENOENT, "this kernel has no function fd_install");
    const bpf_insn instructions[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .src_reg = 0, .off = 0, .imm = 0},
        {.code = BPF_JMP | BPF_EXIT, .dst_reg = 0, .src_reg = 0, .off = 0, .imm = 0},
    };
    LIBBPF_OPTS(bpf_prog_load_opts, load, .expected_attach_type = BPF_TRACE_FENTRY,
                .attach_btf_id = static_cast<__u32>(id));
    const UniqueFd program(
        bpf_prog_load(BPF_PROG_TYPE_TRACING, "fdspan_try", "GPL", instructions, std::size(instructions), &load));
    if (!program.valid()) return fail_errno(errno, "load a BPF trampoline program");
    const UniqueFd link(bpf_raw_tracepoint_open(nullptr, program.get()));
    if (!link.valid()) return fail_errno(errno, "attach a BPF trampoline");
    return {};
}

Result<void> try_kprobe() {
    if (is_there("/sys/bus/event_source/devices/kprobe")) return {};
    return fail(ENOENT, "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)");
}

struct Tracking::State {
    // One mapping of the settings' page: written here, read by the programs.
    struct SettingsPage {
        fdspan_settings* data = nullptr;
        ~SettingsPage() {
            if (data != nullptr) ::munmap(data, page_bytes());
        }
        static std::size_t page_bytes() { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }
    };
    struct RingDeleter {
        void operator()(ring_buffer* ring) const { ring_buffer__free(ring); }
    };

    TrackingOptions options;
    const BackendHooks* backend = nullptr;
    BpfObject object;
    std::vector<UniqueFd> adopted;  // maps and programs, in place of `object`
    std::vector<int> programs;      // that are loaded
    std::vector<UniqueFd> links;
    std::vector<std::string> link_names;
    std::vector<HookStatus> hooks;
    SettingsPage settings;
    std::unique_ptr<ring_buffer, RingDeleter> ring;
    fdspan_scope_files sieve{};  // what goes into the map scope_files …
    bool sieves_files = false;   // … if anything is left out
    TimeMaps maps;
    int hook_seen = -1;
    int scope_map = -1;
    int ring_fd = -1;
    // The function hooks as they were chosen for this kernel; a hook's place in `hooks` is its attach cookie.
    struct ChosenFunction {
        const char* role;       // the program's name in the table
        bpf_program* program;
        std::string function;
        bool as_kprobe;
        std::size_t hook = 0;
    };
    std::vector<ChosenFunction> functions;
    bool kprobes_where_preempted = false;  // in place of fentry programs that can be preempted
    UniqueFd pins;            // of what is pinned: the lock of its only reader
    bool taken_over = false;
    const TakeRecord* take = nullptr;

    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    // What is pinned goes on without a reader. A killed one leaves its hooks telling a ring that is full: dearer, not wrong.
    ~State() {
        if (pins.valid() && settings.data != nullptr) settings.data->emit = 0;
    }

    // What another process needs to go on with it.
    std::vector<std::pair<const char*, int*>> shared_maps() {
        return {{"descriptions", &maps.descriptions}, {"descriptors", &maps.descriptors}, {"tables", &maps.tables}, {"table_chunks", &maps.table_chunks},
                {"settings", &maps.settings},         {"counters", &maps.counters},       {"scope_processes", &scope_map}, {"ring", &ring_fd}};
    }
    Result<void> load();
    Result<void> start();
    Result<void> map_settings();
    Result<void> open_ring();
    Result<void> adopt(Parcel& parcel);
    Result<void> fill_scope();
    Result<void> attach_tracepoints(const btf& types);
    Result<void> attach_functions();
    Result<void> choose_programs(const btf& types);
    Result<void> choose_syscalls();
    Result<void> check_hooks();
    Result<void> check_syscalls();
    Result<void> check_functions();
    void add_link(UniqueFd link, std::string name, HookStatus status);
    Result<void> size_map(const char* name, std::uint32_t entries);
    Result<int> map_fd(const char* name);
};

Result<void> Tracking::State::size_map(const char* name, std::uint32_t entries) {
    auto map = find_map(*object, name);
    if (!map) return tl::unexpected(map.error());
    if (const int code = bpf_map__set_max_entries(*map, entries); code != 0) {
        return fail_errno(-code, std::string("size the map ") + name);
    }
    return {};
}

Result<int> Tracking::State::map_fd(const char* name) {
    auto map = find_map(*object, name);
    if (!map) return tl::unexpected(map.error());
    return bpf_map__fd(*map);
}

Result<void> Tracking::State::load() {
    if (auto room = room_for_descriptors(loading_descriptors); !room) return room;
    const SignalsBlocked quiet;
    if (auto done = may_load_programs(); !done) return done;
    auto types = load_kernel_btf();
    if (!types) return tl::unexpected(types.error());

    backend = &hooks_of(options.backend);
    if (!backend->functions.empty()) {
        if (auto done = backend->as_kprobes ? try_kprobe() : try_trampoline(); !done) return done;
    }
    std::size_t bytes = 0;
    const void* const elf = backend->elf_bytes(&bytes);
    auto opened = open_bpf_object(elf, bytes, backend->object_name, **types);
    if (!opened) return tl::unexpected(opened.error());
    object = std::move(*opened);

    if (auto done = set_compat_constants(*object, **types); !done) return done;
    sieves_files = make_file_sieve(options, sieve);
    for (const auto& [name, value] : {std::pair{"fdspan_sieves_files", sieves_files}, {"fdspan_may_emit", options.emit}}) {
        const std::uint8_t byte[] = {value};
        if (auto done = set_constant(*object, name, byte); !done) return done;
    }
    kprobes_where_preempted = !backend->functions.empty() && kernel_preempts() && try_kprobe();
    for (const auto& [name, entries] : {std::pair{"descriptions", options.max_descriptions},
                                        {"descriptors", options.max_descriptors},
                                        {"tables", options.max_tables},
                                        {"table_chunks", options.max_table_chunks},
                                        {"scope_processes", options.pids.empty() && options.trees.empty() ? 1 : max_scope_processes},
                                        {"scope_cgroups", static_cast<std::uint32_t>(std::max<std::size_t>(1, options.cgroup_ids.size()))},
                                        {"outside", sieves_files ? FDSPAN_OUTSIDE_PLACES : 1},
                                        {"ring", options.ring_bytes}}) {
        if (auto done = size_map(name, entries); !done) return done;
    }
    if (auto done = choose_programs(**types); !done) return done;
    if (auto done = choose_syscalls(); !done) return done;
    // Programs are attached one by one below, with a status each.
    if (const int code = bpf_object__load(object.get()); code != 0) {
        return fail_errno(-code, "load the programs of the backend " + std::string(to_string(options.backend)));
    }

    auto named = shared_maps();
    named.emplace_back("hook_seen", &hook_seen);
    for (const auto& [name, target] : named) {
        auto fd = map_fd(name);
        if (!fd) return tl::unexpected(fd.error());
        *target = *fd;
    }
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object.get()) {
        if (bpf_program__autoload(program)) programs.push_back(bpf_program__fd(program));
    }
    return start();
}

Result<void> Tracking::State::map_settings() {
    void* const page = ::mmap(nullptr, SettingsPage::page_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, maps.settings, 0);
    if (page == MAP_FAILED) return fail_errno(errno, "map the tracking settings");
    settings.data = static_cast<fdspan_settings*>(page);
    return {};
}

Result<void> Tracking::State::open_ring() {
    const auto callback = [](void* context, void* record, std::size_t size) {
        const auto* const state = static_cast<const State*>(context);
        return (*state->take)(record, size) ? 0 : -ECANCELED;
    };
    ring.reset(ring_buffer__new(ring_fd, callback, this, nullptr));
    if (!ring) return fail_errno(errno, "open the event ring");
    return {};
}

Result<void> Tracking::State::start() {
    if (auto done = map_settings(); !done) return done;
    if (options.pointer_key.size() == FDSPAN_ROUNDS) {
        std::copy(options.pointer_key.begin(), options.pointer_key.end(), settings.data->round_keys);
    } else if (auto done = make_permutation_key(*settings.data); !done) {
        return done;
    }
    settings.data->version = FDSPAN_MAPS_VERSION;
    settings.data->build = build_of(*backend);
    settings.data->backend = backend->wire_backend;
    settings.data->emit = options.emit ? 1 : 0;
    settings.data->paths = options.paths ? 1 : 0;
    settings.data->watermark_bytes = options.ring_bytes / watermark_share;
    if (auto done = fill_scope(); !done) return done;

    if (options.emit) {
        if (auto done = open_ring(); !done) return done;
    }
    auto types = load_kernel_btf();
    if (!types) return tl::unexpected(types.error());
    if (auto done = attach_tracepoints(**types); !done) return done;
    if (auto done = attach_functions(); !done) return done;
    if (auto done = check_hooks(); !done) return done;
    settings.data->tracking_since_ns = boottime_now_ns();
    return {};
}

Result<void> Tracking::State::fill_scope() {
    auto cgroups = map_fd("scope_cgroups");
    if (!cgroups) return tl::unexpected(cgroups.error());
    for (const auto& [list, joins] : {std::pair<const std::vector<pid_t>*, std::uint32_t>{&options.pids, 0}, {&options.trees, 1}}) {
        for (const pid_t pid : *list) {
            if (bpf_map_update_elem(scope_map, &pid, &joins, BPF_ANY) != 0) return fail_errno(errno, "choose processes to track");
        }
    }
    for (const std::uint64_t id : options.cgroup_ids) {
        const std::uint32_t one = 1;
        if (bpf_map_update_elem(*cgroups, &id, &one, BPF_ANY) != 0) return fail_errno(errno, "choose cgroups to track");
    }
    if (sieves_files) {
        auto files = map_fd("scope_files");
        if (!files) return tl::unexpected(files.error());
        const std::uint32_t zero = 0;
        if (bpf_map_update_elem(*files, &zero, &sieve, BPF_ANY) != 0) return fail_errno(errno, "choose files to track");
    }
    settings.data->scope = (options.pids.empty() && options.trees.empty() ? 0 : FDSPAN_SCOPE_PROCESSES) |
                           (options.cgroup_ids.empty() ? 0 : FDSPAN_SCOPE_CGROUPS) | (sieves_files ? FDSPAN_SCOPE_FILES : 0);
    return {};
}

// What of the object this kernel gets: by what its BTF says exists.
Result<void> Tracking::State::choose_programs(const btf& types) {
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object.get()) bpf_program__set_autoload(program, false);
    const auto take = [this](const std::string& name) -> Result<bpf_program*> {
        bpf_program* const found = bpf_object__find_program_by_name(object.get(), name.c_str());
        if (found == nullptr) return fail(ENOENT, "BPF object without the program " + name);
        bpf_program__set_autoload(found, true);
        return found;
    };
    for (const TracepointHook& hook : backend->tracepoints) {
        const int arguments = btf_tracepoint_arguments(types, hook.event);
        if (arguments >= 0 && (hook.arguments < 0 || hook.arguments == arguments)) {
            if (auto taken = take(hook.program); !taken) return tl::unexpected(taken.error());
        } else if (hook.required) {
            return fail(ENOENT, std::string("this kernel has no tracepoint ") + hook.event);
        }
    }
    for (const FunctionHook& hook : backend->functions) {
        const char* chosen = nullptr;
        for (const char* const function : hook.functions) {
            if (chosen == nullptr && btf_has_function(types, function)) chosen = function;
        }
        if (chosen == nullptr) {
            HookStatus status;
            status.name = *hook.functions.begin();
            if (hook.required) return fail(ENOENT, "this kernel has no function " + status.name);
            hooks.push_back(std::move(status));
            continue;
        }
        const bool as_kprobe = backend->as_kprobes || (kprobes_where_preempted && !hook.locked);
        auto taken = take(std::string(hook.program) + (as_kprobe ? "_kprobe" : ""));
        if (!taken) return tl::unexpected(taken.error());
        if (!as_kprobe) {
            if (const int code = bpf_program__set_attach_target(*taken, 0, chosen); code != 0) {
                return fail_errno(-code, std::string("aim at the function ") + chosen);
            }
        }
        functions.push_back({hook.program, *taken, chosen, as_kprobe});
    }
    return {};
}

Result<void> Tracking::State::choose_syscalls() {
    if (backend->syscalls.empty()) return {};
    std::array<std::uint8_t, FDSPAN_SYSCALLS> at_entry{}, at_exit{};
    for (const TracedSyscall& syscall : backend->syscalls) {
        at_entry.at(static_cast<std::size_t>(syscall.number)) = static_cast<std::uint8_t>(syscall.at_entry);
        at_exit.at(static_cast<std::size_t>(syscall.number)) = static_cast<std::uint8_t>(syscall.at_exit);
    }
    if (auto done = set_constant(*object, "fdspan_entry_calls", at_entry); !done) return done;
    return set_constant(*object, "fdspan_exit_calls", at_exit);
}

void Tracking::State::add_link(UniqueFd link, std::string name, HookStatus status) {
    status.attached = true;
    links.push_back(std::move(link));
    link_names.push_back(std::move(name));
    hooks.push_back(std::move(status));
}

Result<void> Tracking::State::attach_tracepoints(const btf& types) {
    for (const TracepointHook& hook : backend->tracepoints) {
        HookStatus status;
        status.name = hook.event;
        bpf_program* const program = bpf_object__find_program_by_name(object.get(), hook.program);
        status.exists = btf_has_tracepoint(types, hook.event);
        if (!bpf_program__autoload(program)) {
            if (!status.exists) hooks.push_back(std::move(status));
            continue;
        }
        auto link = attach_by_btf(*program, 0);
        if (!link) return fail(link.error().code, "the tracepoint " + status.name + ": " + link.error().message);
        add_link(std::move(*link), hook.program, std::move(status));
    }
    return {};
}

Result<void> Tracking::State::attach_functions() {
    for (ChosenFunction& chosen : functions) {
        HookStatus status;
        status.name = chosen.function;
        status.exists = true;
        chosen.hook = hooks.size();
        auto link = chosen.as_kprobe ? attach_to_kprobe(*chosen.program, chosen.function, chosen.hook)
                                     : attach_by_btf(*chosen.program, chosen.hook);
        if (!link) return fail(link.error().code, "the function " + chosen.function + ": " + link.error().message);
        add_link(std::move(*link), chosen.role, std::move(status));
    }
    return {};
}

Result<void> Tracking::State::check_hooks() {
    if (is_seccomp_filtered()) return {};
    settings.data->check_pid = static_cast<std::uint32_t>(::getpid());
    auto checked = check_syscalls();
    if (checked) checked = check_functions();
    settings.data->check_pid = 0;
    return checked;
}

Result<void> Tracking::State::check_syscalls() {
    for (const TracedSyscall& syscall : backend->syscalls) {
        if (syscall.harmless) {
            const auto& a = *syscall.harmless;
            ::syscall(syscall.number, a[0], a[1], a[2], a[3], a[4], a[5]);
        }
        const auto number = static_cast<std::uint32_t>(syscall.number);
        for (const auto& [prefix, call, place] : {std::tuple{"sys_enter_", syscall.at_entry, FDSPAN_HOOK_ENTRY(number)},
                                                  std::tuple{"sys_exit_", syscall.at_exit, FDSPAN_HOOK_EXIT(number)}}) {
            if (call == FDSPAN_CALL_NONE) continue;
            HookStatus hook;
            hook.name = prefix + std::string(syscall.name);
            hook.exists = hook.attached = true;
            hook.checked = syscall.harmless.has_value();
            std::uint32_t seen = 0;
            if (hook.checked && bpf_map_lookup_elem(hook_seen, &place, &seen) == 0) hook.seen = seen != 0;
            if (hook.broken()) return fail(ENOSYS, "the hook " + hook.name + " is attached but does not fire");
            hooks.push_back(std::move(hook));
        }
    }
    return {};
}

Result<void> Tracking::State::check_functions() {
    if (functions.empty()) return {};
    for (const FunctionEvent& event : function_events()) {
        std::vector<const ChosenFunction*> expected;
        for (const ChosenFunction& chosen : functions) {
            for (const char* const role : event.programs) {
                if (std::strcmp(chosen.role, role) == 0) expected.push_back(&chosen);
            }
        }
        const auto forget = [this](const ChosenFunction& chosen) {
            const auto key = static_cast<std::uint32_t>(chosen.hook);
            const std::uint32_t zero = 0;
            return bpf_map_update_elem(hook_seen, &key, &zero, BPF_ANY) == 0;
        };
        for (const ChosenFunction* const chosen : expected) {
            if (!forget(*chosen)) return fail_errno(errno, "reset the hook check");
        }
        if (!event.make_happen()) continue;
        for (const ChosenFunction* const chosen : expected) {
            const auto key = static_cast<std::uint32_t>(chosen->hook);
            std::uint32_t seen = 0;
            if (bpf_map_lookup_elem(hook_seen, &key, &seen) != 0) return fail_errno(errno, "read the hook check");
            hooks[chosen->hook].checked = true;
            hooks[chosen->hook].seen = seen != 0;
            if (seen == 0) {
                return fail(ENOSYS, "the hook on the function " + chosen->function + " attached but does not see " + event.name);
            }
        }
    }
    return {};
}

Tracking::Tracking(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tracking::~Tracking() = default;

Result<std::unique_ptr<Tracking>> Tracking::open(const TrackingOptions& options) {
    auto state = std::make_unique<State>();
    state->options = options;
    if (auto done = state->load(); !done) return tl::unexpected(done.error());
    return std::unique_ptr<Tracking>(new Tracking(std::move(state)));
}

// What an adopted map is trusted with: the sizes of key and value, which system calls write to without asking.
namespace {
struct AdoptedMap {
    const char* name;
    int* target;
    std::uint32_t type, key_bytes, value_bytes;
    std::uint32_t* max_entries;
};
}  // namespace

Result<void> Tracking::State::adopt(Parcel& parcel) {
    std::uint32_t scope_entries = 0, one = 0;
    for (const AdoptedMap& wanted : {AdoptedMap{"descriptions", &maps.descriptions, BPF_MAP_TYPE_HASH, sizeof(std::uint64_t), sizeof(fdspan_description), &options.max_descriptions},
                                     AdoptedMap{"descriptors", &maps.descriptors, BPF_MAP_TYPE_HASH, sizeof(fdspan_descriptor_key), sizeof(fdspan_descriptor), &options.max_descriptors},
                                     AdoptedMap{"tables", &maps.tables, BPF_MAP_TYPE_HASH, sizeof(std::uint64_t), sizeof(fdspan_table), &options.max_tables},
                                     AdoptedMap{"table_chunks", &maps.table_chunks, BPF_MAP_TYPE_HASH, sizeof(fdspan_chunk_key), sizeof(fdspan_chunk), &options.max_table_chunks},
                                     AdoptedMap{"settings", &maps.settings, BPF_MAP_TYPE_ARRAY, sizeof(std::uint32_t), sizeof(fdspan_settings), &one},
                                     AdoptedMap{"counters", &maps.counters, BPF_MAP_TYPE_PERCPU_ARRAY, sizeof(std::uint32_t), sizeof(fdspan_counters), &one},
                                     AdoptedMap{"scope_processes", &scope_map, BPF_MAP_TYPE_HASH, sizeof(pid_t), sizeof(std::uint32_t), &scope_entries},
                                     AdoptedMap{"ring", &ring_fd, BPF_MAP_TYPE_RINGBUF, 0, 0, &options.ring_bytes}}) {
        auto map = parcel.take(wanted.name);
        if (!map) return tl::unexpected(map.error());
        bpf_map_info info{};
        std::uint32_t info_bytes = sizeof(info);
        if (bpf_obj_get_info_by_fd(map->get(), &info, &info_bytes) != 0) return fail_errno(errno, std::string("ask about the map ") + wanted.name);
        if (info.type != wanted.type || info.key_size != wanted.key_bytes || info.value_size != wanted.value_bytes) {
            return fail(EPROTO, std::string("what was handed over has another map ") + wanted.name);
        }
        *wanted.max_entries = info.max_entries;
        *wanted.target = map->get();
        adopted.push_back(std::move(*map));
    }
    links = parcel.take_all("link");
    for (UniqueFd& program : parcel.take_all("program")) {
        programs.push_back(program.get());
        adopted.push_back(std::move(program));
    }
    if (auto done = map_settings(); !done) return done;
    if (settings.data->version != FDSPAN_MAPS_VERSION) return fail(EPROTO, "what was handed over is of another version of the library");
    options.backend = backend_of(*settings.data);
    return open_ring();
}

void Tracking::give(Parcel& parcel) const {
    for (const auto& [name, fd] : state_->shared_maps()) parcel.put(name, *fd);
    for (const UniqueFd& link : state_->links) parcel.put("link", link.get());
    for (const int program : state_->programs) parcel.put("program", program);
}

Result<std::unique_ptr<Tracking>> Tracking::adopt(Parcel& parcel) {
    auto state = std::make_unique<State>();
    if (auto done = state->adopt(parcel); !done) return tl::unexpected(done.error());
    return std::unique_ptr<Tracking>(new Tracking(std::move(state)));
}

Result<std::unique_ptr<Tracking>> Tracking::open_best(TrackingOptions options, std::vector<std::string>& refused) {
    for (const TrackingBackend backend : tracking_backends) {
        options.backend = backend;
        auto opened = open(options);
        if (opened) return opened;
        refused.push_back(std::string(to_string(backend)) + ": " + opened.error().message);
        if (backend == std::end(tracking_backends)[-1]) return opened;
    }
    return fail(EOPNOTSUPP, "no tracking backend");
}

const TrackingOptions& Tracking::options() const { return state_->options; }
TrackingBackend Tracking::backend() const { return state_->options.backend; }
TimeMaps Tracking::maps() const { return state_->maps; }
const std::vector<HookStatus>& Tracking::hooks() const { return state_->hooks; }
std::uint64_t Tracking::tracking_since_ns() const { return state_->settings.data->tracking_since_ns; }

TrackingCounters Tracking::counters() const {
    TrackingCounters counters = read_counters(state_->maps.counters).value_or(TrackingCounters{});
    for (const int program : state_->programs) counters.missed += missed_by_program(program);
    return counters;
}

Result<TrackingFill> Tracking::fill() const {
    const TrackingOptions& options = state_->options;
    // struct htab_elem before the key (kernel/bpf/hashtab.c), the allocator's link behind the value, and one bucket a possible entry.
    constexpr std::uint64_t element_bytes = 48 + 8, bucket_bytes = 16;
    TrackingFill out;
    out.max_descriptions = options.max_descriptions;
    out.kernel_bytes = options.ring_bytes;
    struct Map {
        int fd;
        std::uint64_t max_entries;
        std::size_t key_bytes, value_bytes;
    };
    for (const Map& map : {Map{state_->maps.descriptions, options.max_descriptions, sizeof(std::uint64_t), sizeof(fdspan_description)},
                           Map{state_->maps.descriptors, options.max_descriptors, sizeof(fdspan_descriptor_key), sizeof(fdspan_descriptor)},
                           Map{state_->maps.tables, options.max_tables, sizeof(std::uint64_t), sizeof(fdspan_table)},
                           Map{state_->maps.table_chunks, options.max_table_chunks, sizeof(fdspan_chunk_key), sizeof(fdspan_chunk)}}) {
        auto entries = count_entries(map.fd, map.key_bytes, map.value_bytes);
        if (!entries) return tl::unexpected(entries.error());
        out.kernel_bytes += map.max_entries * bucket_bytes + *entries * (element_bytes + map.key_bytes + map.value_bytes);
        if (map.fd == state_->maps.descriptions) out.descriptions = *entries;
    }
    return out;
}

bool Tracking::sieves_files() const { return (state_->settings.data->scope & FDSPAN_SCOPE_FILES) != 0; }

Result<std::vector<pid_t>> Tracking::scope_processes() const {
    std::vector<pid_t> pids;
    pid_t key = 0, next = 0;
    const void* previous = nullptr;
    // A process that ends meanwhile makes the walk begin again (htab_map_get_next_key): sorted out by the bound and below.
    while (pids.size() < 2 * max_scope_processes && bpf_map_get_next_key(state_->scope_map, previous, &next) == 0) {
        pids.push_back(next);
        key = next;
        previous = &key;
    }
    std::sort(pids.begin(), pids.end());
    pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
    return pids;
}

Result<bool> Tracking::add_to_trees(pid_t pid) {
    const std::uint32_t joins = 1;
    if (bpf_map_update_elem(state_->scope_map, &pid, &joins, BPF_NOEXIST) == 0) return true;
    if (errno == EEXIST) return false;
    return fail_errno(errno, "track a process of a tree");
}

std::vector<std::uint64_t> Tracking::next_sequence_numbers() const {
    std::vector<std::uint64_t> numbers;
    for (const fdspan_counters& value : read_cpu_counters(state_->maps.counters).value_or(std::vector<fdspan_counters>{})) {
        numbers.push_back(value.seq);
    }
    return numbers;
}

std::uint64_t Tracking::lost_records(std::uint32_t cpu) const {
    const auto counters = read_cpu_counters(state_->maps.counters).value_or(std::vector<fdspan_counters>{});
    return cpu < counters.size() ? counters[cpu].ring_lost : 0;
}

// The map itself, not libbpf's epoll over it: a host's loops may nest no deeper than four (fs/eventpoll.c, EP_MAX_NESTS).
int Tracking::ring_fd() const { return state_->ring_fd; }

Result<std::size_t> Tracking::drain(const TakeRecord& take) {
    std::size_t taken = 0;
    const TakeRecord counting = [&](const void* record, std::size_t size) {
        ++taken;
        return take(record, size);
    };
    state_->take = &counting;
    const int code = ring_buffer__consume(state_->ring.get());
    state_->take = nullptr;
    if (code < 0 && code != -ECANCELED) return fail_errno(-code, "read the event ring");
    return taken;
}

void Tracking::announce_waiting() {
    std::atomic_ref<std::uint32_t>(state_->settings.data->sleeping).store(1, std::memory_order_seq_cst);
}

void Tracking::snapshot_begins() {
    std::atomic_ref<std::uint64_t>(state_->settings.data->outside_since).store(0, std::memory_order_seq_cst);
}

void Tracking::snapshot_ended() {
    std::atomic_ref<std::uint64_t>(state_->settings.data->outside_since).store(boottime_now_ns(), std::memory_order_seq_cst);
}

void Tracking::set_census(std::uint64_t at_ns) { state_->settings.data->census_ns = at_ns; }

Result<void> Tracking::pin(const std::string& directory) {
    if (::mkdir(directory.c_str(), 0700) != 0) return fail_errno(errno, "make " + directory);
    if (state_->options.emit) {
        auto lock = lock_pins(directory);
        if (!lock) return tl::unexpected(lock.error());
        state_->pins = std::move(*lock);
    }
    for (const auto& [name, fd] : state_->shared_maps()) {
        const bool stamps = std::any_of(std::begin(pinned_maps), std::end(pinned_maps), [&](const char* pinned) { return std::strcmp(pinned, name) == 0; });
        if (!stamps && !state_->options.emit) continue;
        const std::string path = directory + "/map_" + name;
        if (bpf_obj_pin(*fd, path.c_str()) != 0) return fail_errno(errno, "pin " + path);
    }
    for (std::size_t i = 0; i < state_->links.size(); ++i) {
        const std::string path = directory + "/" + std::string(link_prefix) + state_->link_names[i];
        if (bpf_obj_pin(state_->links[i].get(), path.c_str()) != 0) return fail_errno(errno, "pin " + path);
    }
    for (std::size_t i = 0; i < state_->programs.size(); ++i) {
        const std::string path = directory + "/" + std::string(program_prefix) + std::to_string(i);
        if (bpf_obj_pin(state_->programs[i], path.c_str()) != 0) return fail_errno(errno, "pin " + path);
    }
    return {};
}

Result<std::unique_ptr<Tracking>> Tracking::take_over(const std::string& directory) {
    auto lock = lock_pins(directory);
    if (!lock) return tl::unexpected(lock.error());
    Parcel parcel;
    const auto get = [&](const std::string& name) -> Result<UniqueFd> {
        const std::string path = directory + "/" + name;
        UniqueFd pinned(bpf_obj_get(path.c_str()));
        if (!pinned.valid()) return fail_errno(errno, "open " + path);
        return pinned;
    };
    auto state = std::make_unique<State>();
    for (const auto& [name, unused] : state->shared_maps()) {
        auto map = get(std::string("map_") + name);
        if (!map) return tl::unexpected(map.error());
        parcel.own(name, std::move(*map));
    }
    for (const auto& [name, prefix] : {std::pair("link", link_prefix), std::pair("program", program_prefix)}) {
        auto pins = open_pins(directory, prefix);
        if (!pins) return tl::unexpected(pins.error());
        for (UniqueFd& pin : *pins) parcel.own(name, std::move(pin));
    }
    if (auto done = state->adopt(parcel); !done) return tl::unexpected(done.error());
    if (state->programs.empty() || state->settings.data->build != build_of(hooks_of(state->options.backend))) {
        return fail(EPROTO, "what is pinned in " + directory + " was pinned by another build of fdspan");
    }
    state->pins = std::move(*lock);
    state->taken_over = true;
    auto tracking = std::unique_ptr<Tracking>(new Tracking(std::move(state)));
    // What a killed reader left in the ring is older than the census that comes.
    if (auto done = tracking->drain([](const void*, std::size_t) { return true; }); !done) return tl::unexpected(done.error());
    fdspan_settings& settings = *tracking->state_->settings.data;
    settings.paths = 1;
    settings.sleeping = 0;
    settings.emit = 1;
    return tracking;
}

bool Tracking::is_taken_over() const { return state_->taken_over; }

Result<std::optional<PinnedTracking>> PinnedTracking::open(const std::string& directory) {
    PinnedTracking pinned;
    pinned.directory_ = directory;
    UniqueFd* const targets[] = {&pinned.descriptions_, &pinned.descriptors_, &pinned.tables_,
                                 &pinned.table_chunks_, &pinned.settings_,    &pinned.counters_};
    static_assert(std::size(targets) == std::size(pinned_maps));
    for (std::size_t i = 0; i < std::size(targets); ++i) {
        const std::string path = directory + "/map_" + pinned_maps[i];
        const int fd = bpf_obj_get(path.c_str());
        if (fd < 0 && errno == ENOENT && i == 0) return std::optional<PinnedTracking>{};
        if (fd < 0) return fail_errno(errno, "open " + path);
        targets[i]->reset(fd);
    }
    bpf_map_info info{};
    std::uint32_t info_bytes = sizeof(info);
    if (bpf_obj_get_info_by_fd(pinned.settings_.get(), &info, &info_bytes) != 0) {
        return fail_errno(errno, "ask about " + directory + "/map_settings");
    }
    fdspan_settings settings{};
    const std::uint32_t zero = 0;
    if (info.value_size != sizeof(settings) || bpf_map_lookup_elem(pinned.settings_.get(), &zero, &settings) != 0 ||
        settings.version != FDSPAN_MAPS_VERSION) {
        return fail(EPROTO, "the tracking pinned in " + directory +
                                " was armed by another version of fdspan; run `fdspan disarm` and `fdspan arm`");
    }
    pinned.backend_ = backend_of(settings);
    pinned.tracking_since_ns_ = settings.tracking_since_ns;
    pinned.census_ns_ = settings.census_ns;
    return std::optional<PinnedTracking>(std::move(pinned));
}

TimeMaps PinnedTracking::maps() const {
    TimeMaps maps;
    maps.descriptions = descriptions_.get();
    maps.descriptors = descriptors_.get();
    maps.tables = tables_.get();
    maps.table_chunks = table_chunks_.get();
    maps.settings = settings_.get();
    maps.counters = counters_.get();
    return maps;
}

Result<TrackingCounters> PinnedTracking::counters() const {
    auto counters = read_counters(counters_.get());
    if (!counters) return counters;
    auto programs = open_pins(directory_, program_prefix);
    if (!programs) return tl::unexpected(programs.error());
    for (const UniqueFd& program : *programs) counters->missed += missed_by_program(program.get());
    return counters;
}

Result<std::pair<std::uint64_t, std::uint64_t>> PinnedTracking::description_fill() const {
    bpf_map_info info{};
    std::uint32_t info_bytes = sizeof(info);
    if (bpf_obj_get_info_by_fd(descriptions_.get(), &info, &info_bytes) != 0) {
        return fail_errno(errno, "ask about the descriptions map");
    }
    auto count = count_entries(descriptions_.get(), info.key_size, info.value_size);
    if (!count) return tl::unexpected(count.error());
    // Entries that come and go meanwhile may be counted beside those that took their room.
    return std::pair<std::uint64_t, std::uint64_t>(std::min<std::uint64_t>(*count, info.max_entries), info.max_entries);
}

Result<std::vector<std::uint32_t>> PinnedTracking::pointer_key() const {
    fdspan_settings settings{};
    const std::uint32_t zero = 0;
    if (bpf_map_lookup_elem(settings_.get(), &zero, &settings) != 0) return fail_errno(errno, "read the settings");
    return std::vector<std::uint32_t>(std::begin(settings.round_keys), std::end(settings.round_keys));
}

}  // namespace fdspan
