#include "api/doctor.hpp"

#include <sys/statfs.h>
#include <sys/utsname.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <thread>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <probe.skel.h>

#include "base/unique_fd.hpp"
#include "kernel/bpf_object.hpp"
#include "kernel/tracking.hpp"
#include "snapshot/snapshot.hpp"

namespace fdspan {
namespace {

constexpr std::size_t max_listed_unreadable = 10;

// Numbers of include/uapi/linux/capability.h; the ones since 5.8 are missing from older headers.
constexpr unsigned cap_dac_read_search = 2;
constexpr unsigned cap_sys_ptrace = 19;
constexpr unsigned cap_sys_admin = 21;
constexpr unsigned cap_perfmon = 38;
constexpr unsigned cap_bpf = 39;

std::optional<std::string> read_small_file(const char* path) {
    const UniqueFd file(::open(path, O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return std::nullopt;
    std::string text;
    std::array<char, 4096> part{};
    while (text.size() < 256 * 1024) {
        const ssize_t count = ::read(file.get(), part.data(), part.size());
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) break;
        text.append(part.data(), static_cast<std::size_t>(count));
    }
    while (text.ends_with('\n')) text.pop_back();
    return text;
}

std::string error_text(int code) { return std::generic_category().message(code); }

// ---- probes ------------------------------------------------------------------------------------------------------------

enum class Step : std::uint8_t { open, load, attach, fire, done };

struct ProbeResult {
    Step failed_at = Step::done;
    int code = 0;
    [[nodiscard]] bool works() const { return failed_at == Step::done; }
    [[nodiscard]] std::string detail() const {
        switch (failed_at) {
            case Step::open: return "its BPF object can't be opened: " + error_text(code);
            case Step::load: return "a program can't be loaded: " + error_text(code);
            case Step::attach: return "a program loads, but can't be attached: " + error_text(code);
            case Step::fire: return "a program attaches, but never runs";
            case Step::done: return "loaded, attached and seen running";
        }
        return {};
    }
};

struct ProbeObject {
    fdspan_probe_bpf* skeleton = nullptr;
    ~ProbeObject() { fdspan_probe_bpf__destroy(skeleton); }
};

// `make_happen` causes the event once; it gets the link for iterators, which are read rather than hit.
ProbeResult try_program(const char* name, const std::function<void(bpf_link*)>& make_happen) {
    if (const auto may = may_load_programs(); !may) return {Step::load, may.error().code};
    ProbeObject object;
    object.skeleton = fdspan_probe_bpf__open();
    if (object.skeleton == nullptr) return {Step::open, errno};
    bpf_program* wanted = nullptr;
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, object.skeleton->obj) {
        const bool is_wanted = std::strcmp(bpf_program__name(program), name) == 0;
        bpf_program__set_autoload(program, is_wanted);
        if (is_wanted) wanted = program;
    }
    if (wanted == nullptr) return {Step::open, ENOENT};
    const SignalsBlocked quiet;
    if (const int result = fdspan_probe_bpf__load(object.skeleton); result != 0) return {Step::load, -result};
    std::unique_ptr<bpf_link, int (*)(bpf_link*)> link(bpf_program__attach(wanted), bpf_link__destroy);
    if (!link) return {Step::attach, errno};
    make_happen(link.get());
    const std::uint64_t fired = __atomic_load_n(&object.skeleton->bss->fdspan_probe_fired, __ATOMIC_RELAXED);
    return fired > 0 ? ProbeResult{} : ProbeResult{Step::fire, 0};
}

void read_iterator(bpf_link* link) {
    const UniqueFd iterator(bpf_iter_create(bpf_link__fd(link)));
    if (!iterator.valid()) return;
    // The program prints nothing, so that one read runs it over every descriptor; bounded by doing it once.
    std::array<char, 64> sink{};
    while (::read(iterator.get(), sink.data(), sink.size()) < 0 && (errno == EINTR || errno == EAGAIN)) {
    }
}

void call_getpgid(bpf_link*) { ::getpgid(0); }
void install_descriptor(bpf_link*) {
    const UniqueFd installed(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}
// sched_process_fork fires for threads too, and a thread leaves the host's fork handlers alone.
void make_task(bpf_link*) {
    // No signal of the host's may be handled in it.
    const SignalsBlocked quiet;
    try {
        std::thread([] {}).join();
    } catch (const std::system_error&) {  // no task was made, so the probe reports that it never ran
    }
}

// ---- facts -------------------------------------------------------------------------------------------------------------

std::uint64_t effective_capabilities() {
    const std::optional<std::string> status = read_small_file("/proc/self/status");
    if (!status) return 0;
    const std::size_t at = status->find("\nCapEff:");
    return at == std::string::npos ? 0 : std::strtoull(status->c_str() + at + 8, nullptr, 16);
}

bool is_mounted(const char* path, long magic) {
    struct statfs found {};
    return ::statfs(path, &found) == 0 && static_cast<long>(found.f_type) == magic;
}

// The super block's hidepid option, or empty.
std::string proc_hidepid() {
    const std::optional<std::string> mounts = read_small_file("/proc/self/mountinfo");
    if (!mounts) return {};
    std::size_t line_at = 0;
    std::string value;
    while (line_at < mounts->size()) {
        const std::size_t line_end = std::min(mounts->find('\n', line_at), mounts->size());
        const std::string_view line = std::string_view(*mounts).substr(line_at, line_end - line_at);
        line_at = line_end + 1;
        if (line.find(" /proc ") == std::string_view::npos || line.find(" - proc ") == std::string_view::npos) continue;
        value.clear();  // a later mount covers an earlier one
        const std::size_t option = line.find("hidepid=", line.find(" - proc "));
        if (option == std::string_view::npos) continue;
        value = line.substr(option + 8);
        value.erase(std::min(value.find_first_of(", "), value.size()));
    }
    return value == "0" || value == "off" ? std::string() : value;
}

// "none [integrity] confidentiality" -> "integrity"
std::string active_lockdown(const std::string& text) {
    const std::size_t from = text.find('[');
    const std::size_t to = text.find(']');
    if (from == std::string::npos || to == std::string::npos || to < from) return text;
    return text.substr(from + 1, to - from - 1);
}

class Examination {
public:
    DoctorReport report;

    const Check& add(std::string name, std::string title, bool works, std::string detail, std::string advice) {
        return add(std::move(name), std::move(title), works ? CheckState::yes : CheckState::no, std::move(detail), std::move(advice));
    }
    const Check& add(std::string name, std::string title, CheckState state, std::string detail, std::string advice) {
        report.checks.push_back({std::move(name), std::move(title), state, std::move(detail), state == CheckState::yes ? "" : std::move(advice)});
        return report.checks.back();
    }
    [[nodiscard]] const Check* find(std::string_view name) const {
        for (const Check& check : report.checks) {
            if (check.name == name) return &check;
        }
        return nullptr;
    }

    void look_at_privileges();
    void look_at_mounts();
    void try_programs();
    void look_at_processes();
    void judge();

private:
    [[nodiscard]] std::string why_refused(const ProbeResult& result, const char* otherwise) const;
    void require(BackendVerdict& verdict, std::string_view check_name) const;

    bool may_load_ = false;     // CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN
    bool locked_down_ = false;  // confidentiality: BPF may not read kernel memory
};

void Examination::look_at_privileges() {
    const std::uint64_t caps = effective_capabilities();
    const auto has = [caps](unsigned cap) { return (caps >> cap & 1U) != 0; };
    struct Capability {
        unsigned number;
        const char* name;
        const char* what_for;
    };
    constexpr Capability capabilities[] = {
        {cap_bpf, "CAP_BPF", "loads BPF programs"},
        {cap_perfmon, "CAP_PERFMON", "lets them read kernel memory"},
        {cap_sys_admin, "CAP_SYS_ADMIN", "stands for both of these, and opens bpffs"},
        {cap_sys_ptrace, "CAP_SYS_PTRACE", "reads the descriptors of other users' processes"},
        {cap_dac_read_search, "CAP_DAC_READ_SEARCH", "reads directories that permissions close"},
    };
    for (const Capability& capability : capabilities) {
        std::string name = capability.name;
        for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
        add(std::move(name), capability.name, has(capability.number), capability.what_for, "run as root, or grant it with setcap or AmbientCapabilities=");
    }
    may_load_ = has(cap_sys_admin) || (has(cap_bpf) && has(cap_perfmon));

    const std::optional<std::string> unprivileged = read_small_file("/proc/sys/kernel/unprivileged_bpf_disabled");
    add("unprivileged_bpf", "BPF without privileges", !unprivileged ? CheckState::unknown : *unprivileged == "0" ? CheckState::yes : CheckState::no,
        unprivileged ? "kernel.unprivileged_bpf_disabled = " + *unprivileged + "; fdspan's programs need the capabilities either way"
                     : "kernel.unprivileged_bpf_disabled can't be read",
        "");

    const std::optional<std::string> lockdown = read_small_file("/sys/kernel/security/lockdown");
    const std::string mode = lockdown ? active_lockdown(*lockdown) : std::string();
    locked_down_ = mode == "confidentiality";
    add("lockdown", "kernel lockdown allows BPF to read", !locked_down_,
        lockdown ? "lockdown is \"" + mode + "\"" : "no lockdown (/sys/kernel/security/lockdown is absent)",
        "boot without lockdown=confidentiality; integrity is no obstacle");
}

void Examination::look_at_mounts() {
    const UniqueFd btf(::open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC));
    const int code = errno;
    add("btf", "type information of the kernel (BTF)", btf.valid(),
        btf.valid() ? "/sys/kernel/btf/vmlinux" : "/sys/kernel/btf/vmlinux: " + error_text(code),
        "needs a kernel built with CONFIG_DEBUG_INFO_BTF=y");
    const bool bpffs = is_mounted("/sys/fs/bpf", BPF_FS_MAGIC);
    add("bpffs", "bpffs for pinned tracking (arm)", bpffs, bpffs ? "/sys/fs/bpf" : "/sys/fs/bpf is not a bpf file system",
        "mount -t bpf bpf /sys/fs/bpf");
}

std::string Examination::why_refused(const ProbeResult& result, const char* otherwise) const {
    const bool refused = result.code == EPERM || result.code == EACCES;
    if (refused && !may_load_) {
        return report.effective_uid == 0 ? "this root lacks capabilities (in a container?): grant CAP_BPF and CAP_PERFMON"
                                         : "run as root, or with CAP_BPF and CAP_PERFMON";
    }
    if (refused && locked_down_) return "boot without lockdown=confidentiality";
    return otherwise;
}

void Examination::try_programs() {
    const ProbeResult iterator = try_program("fdspan_probe_iterator", read_iterator);
    report.iterators = iterator.works();
    add("iterators", "BPF iterators (iter/task_file)", iterator.works(), iterator.detail(),
        why_refused(iterator, "needs a kernel from 5.11 on with BTF"));

    const ProbeResult tracepoint = try_program("fdspan_probe_tracepoint", call_getpgid);
    add("tracepoints", "syscall tracepoints (sys_enter, sys_exit)", tracepoint.works(), tracepoint.detail(),
        why_refused(tracepoint, "needs a kernel with CONFIG_HAVE_SYSCALL_TRACEPOINTS=y and CONFIG_TRACEPOINTS=y"));

    const ProbeResult tp_btf = try_program("fdspan_probe_tp_btf", make_task);
    add("tp_btf", "typed tracepoints (tp_btf)", tp_btf.works(), tp_btf.detail(), why_refused(tp_btf, "needs a kernel with BTF"));

    // Asked first without libbpf, which writes to stderr when it is refused.
    const auto trampoline = try_trampoline();
    const ProbeResult fentry = trampoline ? try_program("fdspan_probe_fentry", install_descriptor)
                                          : ProbeResult{trampoline.error().message.starts_with("attach") ? Step::attach : Step::load, trampoline.error().code};
    add("fentry", "BPF trampolines (fentry)", fentry.works(), fentry.detail(),
        why_refused(fentry, "this kernel has no BPF trampolines for anybody; one with CONFIG_BPF_JIT=y, CONFIG_FUNCTION_TRACER=y and "
                            "CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y does"));

    const auto kprobes = try_kprobe();
    const ProbeResult kprobe = kprobes ? try_program("fdspan_probe_kprobe", install_descriptor) : ProbeResult{Step::attach, kprobes.error().code};
    add("kprobes", "kprobes", kprobe.works(), kprobe.detail(),
        why_refused(kprobe, "needs a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y"));
}

void Examination::look_at_processes() {
    const std::string hidepid = proc_hidepid();
    report.processes_hidden = !hidepid.empty();
    add("hidepid", "/proc shows every process", hidepid.empty(), hidepid.empty() ? "no hidepid option" : "mounted with hidepid=" + hidepid,
        "run as root, join the group of gid=, or mount -o remount,hidepid=0 /proc");

    SnapshotRequest request;
    request.fields = 0;
    request.kinds = 1U << static_cast<unsigned>(RefKind::fd);
    const Result<Snapshot> snapshot = read_procfs_snapshot(request);
    add("procfs", "/proc can be read", snapshot.has_value(), snapshot ? "/proc" : snapshot.error().message, "mount -t proc proc /proc");
    if (!snapshot) return;
    report.processes = snapshot->processes.size();
    for (const Process& process : snapshot->processes) {
        if (!process.unreadable) continue;
        ++report.unreadable_processes;
        if (report.unreadable.size() < max_listed_unreadable) {
            report.unreadable.push_back({process.pid, std::string(snapshot->text(process.comm))});
        }
    }
    add("all_processes", "every process can be read", report.unreadable_processes == 0,
        std::to_string(report.processes - report.unreadable_processes) + " of " + std::to_string(report.processes) + " processes can be read",
        report.effective_uid == 0 ? "something above root forbids it (a security module, a sandbox, another user namespace)"
                                  : "run as root, or with CAP_SYS_PTRACE");
}

void Examination::require(BackendVerdict& verdict, std::string_view check_name) const {
    const Check* const check = find(check_name);
    if (check == nullptr || check->state == CheckState::yes) return;
    verdict.works = false;
    verdict.lacks.push_back(check->title + ": " + check->detail);
    for (const std::string& known : verdict.advice) {
        if (known == check->advice) return;
    }
    if (!check->advice.empty()) verdict.advice.push_back(check->advice);
}

void Examination::judge() {
    BackendVerdict trampoline{Backend::trampoline, true, {}, {}};
    for (const char* name : {"btf", "fentry", "tp_btf", "iterators"}) require(trampoline, name);
    BackendVerdict kprobe{Backend::kprobe, true, {}, {}};
    for (const char* name : {"btf", "kprobes", "tp_btf", "iterators"}) require(kprobe, name);
    BackendVerdict syscall{Backend::syscall, true, {}, {}};
    for (const char* name : {"btf", "tracepoints", "tp_btf", "iterators"}) require(syscall, name);
    BackendVerdict procfs{Backend::procfs, true, {}, {}};
    require(procfs, "procfs");
    for (const BackendVerdict* verdict : {&procfs, &syscall, &kprobe, &trampoline}) {
        if (verdict->works) report.chosen = verdict->backend;
    }
    report.backends = {std::move(trampoline), std::move(kprobe), std::move(syscall), std::move(procfs)};
}

}  // namespace

Result<DoctorReport> examine_system() {
    utsname system{};
    if (::uname(&system) != 0) return fail_errno(errno, "uname");
    Examination examination;
    examination.report.kernel_release = system.release;
    examination.report.machine = system.machine;
    examination.report.effective_uid = ::geteuid();
    examination.look_at_privileges();
    examination.look_at_mounts();
    examination.try_programs();
    examination.look_at_processes();
    examination.judge();
    return std::move(examination.report);
}

}  // namespace fdspan
