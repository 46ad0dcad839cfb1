#include "kernel/iterators.hpp"

#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/file_mode.hpp"
#include "base/unique_fd.hpp"
#include "kernel/bpf_object.hpp"
#include "kernel/iterator_sections.hpp"
#include "kernel/kernel_types.hpp"
#include "kernel/permutation.hpp"
#include "rows.h"
#include "snapshot/procfs_parse.hpp"
#include "snapshot.skel.h"
#include "snapshot_read.skel.h"
#include "sweep.skel.h"

namespace fdspan {
namespace {

// One read(2) never brings more than the kernel's buffer of 8 pages (kernel/bpf/bpf_iter.c).
std::size_t buffer_bytes() {
    static const auto bytes = 8 * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    return bytes;
}
// More pids than these are picked out of a walk over all tasks.
constexpr std::size_t pids_walked_singly = 16;
// Several threads pay where a process has more slots than these on average: a walk of its own costs it about 20 us.
constexpr std::uint64_t slots_worth_a_walk = 256;
constexpr std::uint64_t rows_reserved_max = 4'000'000;
// include/linux/proc_ns.h, PROC_PID_INIT_INO: the inode of the initial pid namespace.
constexpr ino_t initial_pid_namespace = 0xEFFFFFFC;
// A birth time is wall clock; a leap second sets that back by one second (as in the procfs reader).
constexpr std::uint64_t birth_margin_ns = 1'000'000'000;
constexpr std::size_t text_bytes_max = 1024 * 1024;
constexpr std::uint32_t task_flag_wq_worker = 0x20;  // PF_WQ_WORKER, include/linux/sched.h
constexpr std::uint32_t task_flag_kthread = 0x00200000;  // PF_KTHREAD
constexpr int statx_flags = AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT;
constexpr unsigned statx_mask = STATX_BASIC_STATS | STATX_BTIME;

// include/uapi/linux/magic.h, and the like from file systems that keep theirs to themselves.
constexpr std::uint32_t magic_anon_inode = 0x09041934;
constexpr std::uint32_t magic_pipe = 0x50495045;
constexpr std::uint32_t magic_socket = 0x534F434B;
constexpr std::uint32_t magic_pid = 0x50494446;
constexpr std::uint32_t magic_dma_buf = 0x444d4142;
constexpr std::uint32_t magic_nfs = 0x6969;
constexpr std::uint32_t magic_xfs = 0x58465342;
constexpr std::uint32_t magic_btrfs = 0x9123683E;
constexpr std::uint32_t magic_f2fs = 0xF2F52010;
constexpr std::uint32_t magic_bcachefs = 0xca451a4e;
// Here a dentry may be unhashed because the other side said something, not because the name is gone.
constexpr std::array<std::uint32_t, 11> remote_magics{magic_nfs,     0xFF534D42 /* CIFS */, 0xFE534D42 /* SMB2 */, 0x65735546 /* FUSE */,
                                                      0x00C36400 /* Ceph */, 0x01021997 /* 9p */,   0x5346414F /* AFS */,  0x73757245 /* Coda */,
                                                      0x01161970 /* GFS2 */, 0x0BD00BD0 /* Lustre */, 0x786F4256 /* vboxsf */};

bool is_remote(std::uint32_t magic) { return std::find(remote_magics.begin(), remote_magics.end(), magic) != remote_magics.end(); }

DeviceNumber device_of(std::uint32_t kernel_dev) { return {kernel_dev >> 20, kernel_dev & 0xfffff}; }

FileType type_of(std::uint32_t mode, std::uint32_t magic) {
    // Since 6.16 the kernel gives anon_inodes a type and takes it out of what stat shows.
    if (magic == magic_anon_inode || magic == magic_pid) return FileType::anon;
    return file_type_of_mode(mode, FileType::anon);
}

RefKind ref_of(std::uint16_t kind) {
    switch (kind) {
        case FDSPAN_ROW_MEM: return RefKind::mem;
        case FDSPAN_ROW_EXE: return RefKind::exe;
        case FDSPAN_ROW_CWD: return RefKind::cwd;
        case FDSPAN_ROW_ROOT: return RefKind::root;
        default: return RefKind::fd;
    }
}

struct SkeletonDeleter {
    void operator()(fdspan_snapshot_bpf* skeleton) const { fdspan_snapshot_bpf__destroy(skeleton); }
    void operator()(fdspan_sweep_bpf* skeleton) const { fdspan_sweep_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<fdspan_snapshot_bpf, SkeletonDeleter>;
using SweepSkeleton = std::unique_ptr<fdspan_sweep_bpf, SkeletonDeleter>;

// What reads and sweeps use of the loaded objects. Borrowed from a skeleton, or adopted.
struct ReadPrograms {
    int task = -1, task_file = -1, task_vma = -1, hidden_files = -1;
    int wanted = -1;  // the map of that name
    std::remove_pointer_t<decltype(fdspan_snapshot_bpf::bss)>* bss = nullptr;
};
struct SweepPrograms {
    int mark_tables = -1, live = -1, descriptions = -1, descriptors = -1, tables = -1, chunks = -1;
    int live_tables = -1;  // the map of that name
    std::remove_pointer_t<decltype(fdspan_sweep_bpf::bss)>* bss = nullptr;
};

// The programs' variables, where no skeleton has mapped them.
class Variables {
public:
    Variables() = default;
    Variables(Variables&& other) noexcept : at_(std::exchange(other.at_, nullptr)), bytes_(other.bytes_) {}
    Variables& operator=(Variables&& other) noexcept {
        std::swap(at_, other.at_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }
    ~Variables() {
        if (at_ != nullptr) ::munmap(at_, bytes_);
    }
    template <class Layout>
    Result<void> map(int fd, Layout*& layout) {
        bpf_map_info info{};
        std::uint32_t info_bytes = sizeof info;
        if (bpf_obj_get_info_by_fd(fd, &info, &info_bytes) != 0) return fail_errno(errno, "ask about the iterators' variables");
        if (info.type != BPF_MAP_TYPE_ARRAY || (info.value_size + alignof(Layout) - 1) / alignof(Layout) * alignof(Layout) != sizeof(Layout)) {
            return fail(EPROTO, "what was handed over has other iterators");
        }
        void* const at = ::mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) return fail_errno(errno, "map the iterators' variables");
        at_ = at;
        bytes_ = sizeof(Layout);
        layout = static_cast<Layout*>(at);
        return {};
    }

private:
    void* at_ = nullptr;
    std::size_t bytes_ = 0;
};

bool asks(std::uint8_t kinds, RefKind kind) { return (kinds >> static_cast<unsigned>(kind) & 1U) != 0; }

// What loading takes at the most.
constexpr unsigned reader_descriptors = 32;
constexpr unsigned sweeper_descriptors = 24;

Error load_error(int code) {
    if (code == EPERM || code == EACCES) {
        return {code, "load the BPF iterators: not permitted; that takes CAP_BPF and CAP_PERFMON (or root), and no lockdown=confidentiality"};
    }
    if (::access("/sys/kernel/btf/vmlinux", R_OK) != 0) {
        return {ENOENT, "load the BPF iterators: this kernel has no BTF (built without CONFIG_DEBUG_INFO_BTF)"};
    }
    return {code, "load the BPF iterators: " + std::generic_category().message(code) + "; this kernel is older than 6.1 or built without them"};
}

// Gives an object that is not loaded yet the maps of the tracking in place of its own.
template <class AnySkeleton>
Result<void> share_maps(AnySkeleton& skeleton, const TimeMaps& maps) {
    const std::array<std::pair<bpf_map*, int>, 6> shared{{{skeleton.maps.descriptions, maps.descriptions},
                                                          {skeleton.maps.descriptors, maps.descriptors},
                                                          {skeleton.maps.tables, maps.tables},
                                                          {skeleton.maps.table_chunks, maps.table_chunks},
                                                          {skeleton.maps.settings, maps.settings},
                                                          {skeleton.maps.counters, maps.counters}}};
    for (const auto& [map, fd] : shared) {
        if (fd < 0) return fail(EINVAL, "load the BPF iterators: not all maps of the tracking were given");
        if (const int error = bpf_map__reuse_fd(map, fd); error != 0) return fail_errno(-error, std::string("share the map ") + bpf_map__name(map));
    }
    return {};
}

// Link of an iterator program over what `info` says: the elements of a map, or the tasks of a process.
Result<UniqueFd> attach(int program, bpf_iter_link_info info) {
    LIBBPF_OPTS(bpf_link_create_opts, options, .iter_info = &info, .iter_info_len = sizeof info);
    UniqueFd link(bpf_link_create(program, 0, BPF_TRACE_ITER, &options));
    if (!link.valid()) return fail_errno(errno, "attach a BPF iterator");
    return link;
}

// Reads an iteration to its end; calls take(bytes) per read(2).
template <class Take>
Result<void> iterate(const UniqueFd& link, std::vector<char>& buffer, Take&& take) {
    const UniqueFd iterator(bpf_iter_create(link.get()));
    if (!iterator.valid()) return fail_errno(errno, "open a BPF iterator");
    for (;;) {
        const ssize_t got = ::read(iterator.get(), buffer.data(), buffer.size());
        // EAGAIN: a million objects went by without a row.
        if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (got < 0) return fail_errno(errno, "read a BPF iterator");
        if (got == 0) return {};
        if (auto taken = take(std::string_view(buffer.data(), static_cast<std::size_t>(got))); !taken) return taken;
    }
}

struct PidKey {
    pid_t pid = 0;
    std::uint64_t table_id = 0;
    friend bool operator==(const PidKey&, const PidKey&) = default;
};
struct PidKeyHash {
    std::size_t operator()(const PidKey& key) const { return key.table_id ^ (static_cast<std::uint64_t>(key.pid) * 0x9E3779B97F4A7C15ULL); }
};

struct Known {
    std::uint32_t index = 0;
    std::uint64_t started_ns = 0;
    bool survived = false;
    // Rows of a process without leader come through every thread: these are the ones that count.
    pid_t mem_tid = 0, exe_tid = 0;
    // Of what stands for the process's own: the descriptor table, and what cwd and root are in (struct fs_struct).
    std::uint64_t table_id = 0, place_id = 0;
    std::uint32_t slots = 0;  // of its descriptor table
    bool is_worker = false;  // what a kworker works on stands in /proc only (kernel/workqueue.c, wq_worker_comm)
};
using KnownProcesses = std::unordered_map<pid_t, Known>;

// Turns the rows of one read into a snapshot; or those of some processes into a part of one, beside others that share what is known of
// all processes: nobody adds to that meanwhile, and each process is in one part.
class Collector {
public:
    Collector(const SnapshotRequest& request, KnownProcesses& processes, Snapshot& out) : request_(request), processes_(processes), out_(out) {
        want_path_ = request.wants(field_path);
        want_times_ = request.wants(field_times);
        want_stat_ = request.wants(field_stat) || want_times_ || request.deleted_only;
        want_fdinfo_ = request.wants(field_fdinfo);
    }

    Result<void> take(std::string_view bytes) {
        if (want_times_) read_ns_ = boottime_now_ns();
        return each_row(bytes, [this](const fdspan_row_header& header, std::string_view row) {
            if (header.kind == FDSPAN_ROW_PROCESS) add_process(row);
            else if (header.kind == FDSPAN_ROW_THREAD) add_thread(row);
            else add_reference(row);
        });
    }

    // Descriptions that are there before and after the walk over the processes, and that no process showed, are hidden.
    Result<void> take_hidden(std::string_view bytes, bool first) {
        return each_row(bytes, [&](const fdspan_row_header&, std::string_view row_bytes) {
            fdspan_row row{};
            std::memcpy(&row, row_bytes.data(), sizeof row);
            if (first) hidden_before_.insert(row.description_id);
            else if (hidden_before_.contains(row.description_id)) add_hidden(row, row_bytes.substr(sizeof row));
        });
    }

    // A second look at who is there: rows of a process that ended meanwhile are half of what it had.
    Result<void> take_survivors(std::string_view bytes) {
        return each_row(bytes, [this](const fdspan_row_header& header, std::string_view) {
            const auto known = processes_.find(static_cast<pid_t>(header.pid));
            if (known != processes_.end() && known->second.started_ns == header.started_ns) known->second.survived = true;
        });
    }

    // What another collector has read apart.
    void adopt(Snapshot&& part, const Collector& reader) {
        const StringId shift = out_.strings.adopt(std::move(part.strings));
        if (!part.references.empty()) {
            grouped_ = grouped_ && reader.grouped_ && last_process_ <= part.references.process_of(0);
            last_process_ = reader.last_process_;
        }
        out_.references.append(std::move(part.references), shift);
        out_.gaps += part.gaps;
        part = Snapshot();
    }

    void finish() {
        if (request_.deleted_only) {
            std::vector<bool> holds(out_.processes.size());
            for (std::size_t at = 0; at < out_.references.size(); ++at) holds[out_.references.process_of(at)] = true;
            for (const auto& [pid, known] : processes_) {
                if (holds[known.index]) ask_proc(known, out_.processes[known.index]);
            }
        }
        std::vector<std::uint32_t> place(out_.processes.size(), UINT32_MAX);
        std::vector<Process> left;
        left.reserve(out_.processes.size());
        for (const auto& [pid, known] : processes_) {
            if (known.survived) place[known.index] = 0;
        }
        std::vector<std::uint32_t> order;  // ascending by pid, the walk's own order
        for (std::uint32_t i = 0; i < out_.processes.size(); ++i) {
            if (place[i] == UINT32_MAX) ++out_.gaps.vanished_processes;
            else order.push_back(i);
        }
        std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return out_.processes[a].pid < out_.processes[b].pid; });
        for (const std::uint32_t i : order) {
            place[i] = static_cast<std::uint32_t>(left.size());
            left.push_back(out_.processes[i]);
        }
        out_.processes = std::move(left);
        bool moved = false;  // mostly none: a pass over all rows is spared
        for (std::uint32_t i = 0; i < place.size(); ++i) moved = moved || place[i] != i;
        if (moved) {
            out_.references.erase_if([&](const Reference& reference) { return place[reference.process] == UINT32_MAX; });
            for (std::size_t at = 0; at < out_.references.size(); ++at) out_.references.set_process(at, place[out_.references.process_of(at)]);
            grouped_ = false;
        }
        std::unordered_set<std::uint64_t> shown;
        if (!out_.hidden.empty()) {
            for (const Reference& reference : out_.references) shown.insert(reference.description_id);
        }
        std::erase_if(out_.hidden, [&](const Reference& reference) { return shown.contains(reference.description_id); });
        // The walks each go by process; together they have to be put in order.
        if (!grouped_) out_.references.group_by_process();
        for (const pid_t pid : request_.pids) {
            if (!processes_.contains(pid)) ++out_.gaps.missing_pids;
        }
    }

private:
    struct Completion {
        bool there = false;
        struct statx stx{};
    };

    template <class Each>
    Result<void> each_row(std::string_view bytes, Each&& each) {
        while (!bytes.empty()) {
            fdspan_row_header header{};
            if (bytes.size() < sizeof header) return malformed();
            std::memcpy(&header, bytes.data(), sizeof header);
            const std::size_t fixed = header.kind == FDSPAN_ROW_PROCESS ? sizeof(fdspan_process_row) : sizeof(fdspan_row);
            if (header.kind < FDSPAN_ROW_PROCESS || header.kind > FDSPAN_ROW_HIDDEN || header.size != fixed + header.text_bytes || header.size > bytes.size()) {
                return malformed();
            }
            each(header, bytes.substr(0, header.size));
            bytes.remove_prefix(header.size);
        }
        return {};
    }

    static tl::unexpected<Error> malformed() { return fail(EPROTO, "a BPF iterator wrote a row of another layout than this program's"); }

    void add_process(std::string_view bytes) {
        fdspan_process_row row{};
        std::memcpy(&row, bytes.data(), sizeof row);
        const auto pid = static_cast<pid_t>(row.header.pid);
        const auto [known, fresh] = processes_.try_emplace(pid);
        if (!fresh) return;
        known->second.index = static_cast<std::uint32_t>(out_.processes.size());
        known->second.started_ns = row.header.started_ns;
        // Threads of a process may have tables of their own; kernel threads are alone.
        known->second.slots = row.slots == 0 && (row.task_flags & task_flag_kthread) == 0 ? 1 : row.slots;
        Process process;
        process.pid = pid;
        process.ppid = static_cast<pid_t>(row.ppid);
        process.uid = row.uid;
        process.comm = out_.strings.intern({row.comm, ::strnlen(row.comm, sizeof row.comm)});
        process.started = Interval::exact(row.header.started_ns);
        known->second.is_worker = (row.task_flags & task_flag_wq_worker) != 0;
        // Few hold what is deleted: who does is known at the end.
        if (!request_.deleted_only) ask_proc(known->second, process);
        out_.processes.push_back(process);
    }

    // What no iterator tells of a process.
    void ask_proc(const Known& known, Process& process) {
        if (known.is_worker && read_file(process.pid, "comm")) {
            std::string_view comm(text_.data(), filled_);
            if (comm.ends_with('\n')) comm.remove_suffix(1);
            process.comm = out_.strings.intern(comm);
        }
        if (request_.wants(field_cgroup)) read_cgroup(process);
    }

    // The first one that lives stands for a process whose leader is dead.
    void add_thread(std::string_view bytes) {
        fdspan_row row{};
        std::memcpy(&row, bytes.data(), sizeof row);
        const auto found = processes_.find(static_cast<pid_t>(row.header.pid));
        if (found == processes_.end() || found->second.started_ns != row.header.started_ns || found->second.place_id != 0) return;
        found->second.table_id = row.table_id;
        found->second.place_id = row.place_id;
    }

    // A file of /proc/PID, into text_ and filled_.
    bool read_file(pid_t pid, const char* name) {
        const UniqueFd file(::open(("/proc/" + std::to_string(pid) + '/' + name).c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
        if (!file.valid()) return false;
        filled_ = 0;
        for (;;) {
            if (filled_ == text_.size()) {
                if (text_.size() >= text_bytes_max) return true;
                text_.resize(std::max<std::size_t>(4096, text_.size() * 2));
            }
            const ssize_t got = ::read(file.get(), text_.data() + filled_, text_.size() - filled_);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return false;
            if (got == 0) return true;
            filled_ += static_cast<std::size_t>(got);
        }
    }

    void read_cgroup(Process& process) {
        if (!read_file(process.pid, "cgroup")) return;
        const procfs::CgroupChoice choice = procfs::choose_cgroup({text_.data(), filled_});
        out_.gaps.unparsed_lines += choice.unparsed_lines;
        process.cgroup = out_.strings.intern(choice.path);
        process.container = out_.strings.intern(procfs::container_hint(choice.path));
    }

    // Through which task a row counts, and under which number it is shown. False: another row says the same.
    bool settle_task(const fdspan_row& row, Known& known, Reference& reference) {
        const auto tid = static_cast<pid_t>(row.header.tid);
        reference.tid = tid;
        if (row.header.tid == row.header.pid) return true;
        const auto first = [&](pid_t& speaker) {
            if (speaker == 0) speaker = tid;
            reference.tid = static_cast<pid_t>(row.header.pid);
            return speaker == tid;
        };
        switch (reference.ref) {
            case RefKind::mem: return first(known.mem_tid);
            case RefKind::exe: return first(known.exe_tid);
            case RefKind::cwd:
            case RefKind::root:
            case RefKind::fd: break;
        }
        const bool table = reference.ref == RefKind::fd;
        const std::uint64_t id = table ? row.table_id : row.place_id;
        const auto [speaker, fresh] = (table ? tables_ : places_).try_emplace(PidKey{static_cast<pid_t>(row.header.pid), id}, tid);
        if (speaker->second != tid) return false;
        if ((table ? known.table_id : known.place_id) == id) reference.tid = static_cast<pid_t>(row.header.pid);
        return true;
    }

    // There is no link to complete it through: what the inode says has to do.
    void add_hidden(const fdspan_row& row, std::string_view names) {
        const std::string_view text = text_of(row, names);
        const NameState name = name_of(row, text);
        if (!request_.wants(name)) return;
        Reference reference;
        reference.process = UINT32_MAX;
        reference.name = name;
        reference.type = type_of(row.mode, row.fs_magic);
        reference.dev = device_of(row.dev);
        reference.ino = row.ino;
        reference.nlink = row.nlink;
        reference.size = row.size;
        reference.allocated = row.blocks * 512;
        reference.flags = row.open_flags;
        reference.path = PathId::whole(out_.strings.intern(path_of(row, text)));
        reference.description_id = row.description_id;
        reference.description_opened = reference.opened = interval(row.description_earliest_ns, row.description_latest_ns);
        reference.valid = field_path | field_stat | field_size | field_times;
        out_.hidden.push_back(reference);
    }

    void add_reference(std::string_view bytes) {
        fdspan_row row{};
        std::memcpy(&row, bytes.data(), sizeof row);
        if (row.at_ns == 0) row.at_ns = read_ns_;
        // Rows come by process.
        if (last_ == nullptr || last_pid_ != static_cast<pid_t>(row.header.pid)) {
            last_pid_ = static_cast<pid_t>(row.header.pid);
            const auto found = processes_.find(last_pid_);
            last_ = found == processes_.end() ? nullptr : &found->second;
        }
        // One that was not there when the snapshot began is none of its business, and neither is a pid's next owner.
        if (last_ == nullptr || last_->started_ns != row.header.started_ns) return;
        Reference reference;
        reference.process = last_->index;
        reference.ref = ref_of(row.header.kind);
        if (!settle_task(row, *last_, reference)) return;
        reference.fd = row.fd;
        if (want_stat_ && (row.flags & FDSPAN_ROW_ASK_STAT) != 0) complete(row, reference.ref);
        if (row.nlink != 0 && !request_.wants_linked()) return;

        const std::string_view text = text_of(row, bytes.substr(sizeof row));
        const FileType type = type_of(row.mode, row.fs_magic);
        const std::string_view path = path_of(row, text);
        const NameState name = name_of(row, text);
        if (request_.deleted_only && !request_.wants(name)) return;
        if ((row.flags & FDSPAN_ROW_CUT) != 0) ++out_.gaps.truncated_paths;
        // Nobody looked at the file where neither was asked for.
        if (type == FileType::anon && (want_stat_ || want_path_)) {
            reference.type = type;
            reference.type_name = out_.strings.intern(class_of(row, text));
        }
        if (want_stat_) {
            reference.type = type;
            reference.name = name;
            reference.dev = device_of(row.dev);
            if (type == FileType::chr || type == FileType::blk) reference.rdev = device_of(row.rdev);
            reference.ino = row.ino;
            reference.nlink = row.nlink;
            reference.size = row.size;
            reference.allocated = row.blocks * 512;
            reference.mnt_id = row.mnt_id;
            reference.valid |= field_stat | field_size;
        }
        if (want_path_ && (row.flags & FDSPAN_ROW_CUT) == 0) {
            reference.path = out_.strings.intern_path(path);
            reference.valid |= field_path;
        }
        if (reference.ref == RefKind::mem) {
            reference.map_start = row.position;
            reference.map_end = row.end;
            reference.map_flags = row.map_flags;
        } else if (reference.ref == RefKind::fd && want_fdinfo_) {
            reference.pos = row.position;
            reference.flags = row.open_flags;
            reference.mnt_id = row.mnt_id;
            reference.valid |= field_fdinfo | field_position;
        }
        if (want_times_) set_times(row, reference);
        keep(reference);
    }

    void keep(const Reference& reference) {
        if (last_process_ > reference.process) grouped_ = false;
        last_process_ = reference.process;
        out_.references.push_back(reference);
    }

    // ---- names ----------------------------------------------------------------------------------------------------------

    // The path, or the last name where no path was asked for.
    std::string_view text_of(const fdspan_row& row, std::string_view text) {
        if ((row.flags & FDSPAN_ROW_NAMES) == 0) return text;
        path_.clear();
        while (!text.empty()) {
            const std::size_t last = text.size() - 1;  // the NUL of the outermost name that is left
            const std::size_t before = last == 0 ? std::string_view::npos : text.rfind('\0', last - 1);
            const std::size_t begin = before == std::string_view::npos ? 0 : before + 1;
            path_ += '/';
            path_ += text.substr(begin, last - begin);
            text = text.substr(0, begin);
        }
        if (path_.empty()) path_ = "/";
        return path_;
    }

    // What the kernel appended comes off, what is part of the name stays.
    static std::string_view bare(const fdspan_row& row, std::string_view text) {
        if ((row.flags & FDSPAN_ROW_HAS_PATH) == 0) return text;
        const bool made_up = (row.flags & FDSPAN_ROW_PSEUDO) != 0 && row.fs_magic != magic_dma_buf && text.starts_with('/');
        return (made_up || (row.flags & FDSPAN_ROW_MARKED) != 0) && text.ends_with(procfs::deleted_mark) ? procfs::without_mark(text) : text;
    }

    std::string_view path_of(const fdspan_row& row, std::string_view text) {
        const auto bracket = [&](std::string_view prefix) {
            path_ = prefix;
            path_ += std::to_string(row.ino);
            path_ += ']';
            return std::string_view(path_);
        };
        switch (row.fs_magic) {
            case magic_pipe:
                if ((row.flags & FDSPAN_ROW_PSEUDO) != 0) return bracket("pipe:[");
                break;
            case magic_socket: return bracket("socket:[");
            case magic_anon_inode:
                if ((row.flags & FDSPAN_ROW_HAS_LABEL) == 0) break;
                path_ = "anon_inode:";
                path_ += text;
                return path_;
            default: break;
        }
        return bare(row, text);
    }

    static std::string_view class_of(const fdspan_row& row, std::string_view text) {
        if (row.fs_magic == magic_pid) return "pidfd";
        if (row.fs_magic != magic_anon_inode) return {};
        if (text.size() >= 2 && text.front() == '[' && text.back() == ']') return text.substr(1, text.size() - 2);
        return text;
    }

    NameState name_of(const fdspan_row& row, std::string_view text) const {
        if (row.fs_magic == magic_pipe || row.fs_magic == magic_socket || row.fs_magic == magic_anon_inode) return NameState::nameless;
        if ((row.flags & FDSPAN_ROW_PSEUDO) != 0) {
            // Made by the kernel for itself. Those with a path-like label are memory; "/" stands before it in a path only.
            const std::string_view label = text.starts_with('/') ? bare(row, text).substr(1) : text;
            if (label.starts_with("memfd:") || label == "secretmem") return NameState::memfd;
            const bool has_memory = (row.mode & S_IFMT) == S_IFREG && row.nlink == 0;
            return has_memory || label == "dev/zero" || label.starts_with("SYSV") || label == "anon_hugepage" ? NameState::shm
                                                                                                              : NameState::nameless;
        }
        if (row.nlink == 0) {
            const std::string_view path = bare(row, text);
            const std::size_t slash = path.rfind('/');
            const std::string_view last = slash == std::string_view::npos ? path : path.substr(slash + 1);
            const bool flagged = want_fdinfo_ && (row.open_flags & O_TMPFILE) == O_TMPFILE;
            return flagged || procfs::is_tmpfile_name(last, row.ino) ? NameState::tmpfile : NameState::deleted;
        }
        if (row.fs_magic == magic_nfs && procfs::is_silly_name(text)) return NameState::silly;
        if ((row.flags & FDSPAN_ROW_MARKED) == 0) return NameState::named;
        return is_remote(row.fs_magic) ? NameState::unknown : NameState::gone;
    }

    // ---- what the inode does not tell -----------------------------------------------------------------------------------

    void complete(fdspan_row& row, RefKind ref) {
        Completion& completion = completions_[row.inode_id];
        if (!completion.there && ::statx(AT_FDCWD, magic_link(row, ref).c_str(), statx_flags, statx_mask, &completion.stx) == 0) {
            // A slot that was reused meanwhile leads to another file; numbers differ rightly on file systems that stack others.
            completion.there = (completion.stx.stx_mode & S_IFMT) == (row.mode & S_IFMT);
        }
        if (!completion.there) {
            ++out_.gaps.unstatable_references;
            return;
        }
        const struct statx& stx = completion.stx;
        row.dev = stx.stx_dev_major << 20 | (stx.stx_dev_minor & 0xfffff);
        row.rdev = stx.stx_rdev_major << 20 | (stx.stx_rdev_minor & 0xfffff);
        row.ino = stx.stx_ino;
        row.nlink = stx.stx_nlink;
        row.size = stx.stx_size;
        row.blocks = stx.stx_blocks;
        const bool born_here = row.fs_magic == magic_xfs || row.fs_magic == magic_btrfs || row.fs_magic == magic_f2fs || row.fs_magic == magic_bcachefs;
        if (born_here && (stx.stx_mask & STATX_BTIME) != 0 && stx.stx_btime.tv_sec > 0) {
            row.flags |= FDSPAN_ROW_HAS_BIRTH;
            row.born_seconds = static_cast<std::uint64_t>(stx.stx_btime.tv_sec);
            row.born_nanoseconds = stx.stx_btime.tv_nsec;
            row.changed_seconds = static_cast<std::uint64_t>(stx.stx_ctime.tv_sec);
        }
    }

    static std::string magic_link(const fdspan_row& row, RefKind ref) {
        const std::string tid = std::to_string(row.header.tid);
        std::string path = "/proc/";
        if (ref == RefKind::mem) {
            // Threads have no map_files under task/, but /proc/TID, which is not listed, has.
            std::array<char, 48> range{};
            std::snprintf(range.data(), range.size(), "/map_files/%llx-%llx", static_cast<unsigned long long>(row.position),
                          static_cast<unsigned long long>(row.end));
            return path + tid + range.data();
        }
        path += std::to_string(row.header.pid) + "/task/" + tid;
        if (ref == RefKind::fd) return path + "/fd/" + std::to_string(row.fd);
        return path + '/' + std::string(to_string(ref));
    }

    // ---- times ----------------------------------------------------------------------------------------------------------

    // Lower bound from the inode's birth; the same rule as the procfs reader's.
    std::uint64_t birth_ns(const fdspan_row& row) const {
        if ((row.flags & FDSPAN_ROW_HAS_BIRTH) == 0) return Interval::unknown_earliest;
        const auto realtime_ns = [](std::uint64_t seconds, std::uint32_t nanoseconds) {
            return std::clamp<std::int64_t>(static_cast<std::int64_t>(seconds), 0, 4'000'000'000) * 1'000'000'000 + nanoseconds;
        };
        const std::uint64_t birth = out_.clock.to_boottime_ns(realtime_ns(row.born_seconds, row.born_nanoseconds));
        const std::uint64_t changed = out_.clock.to_boottime_ns(realtime_ns(row.changed_seconds, 0));
        // Stamps in the future: the wall clock was set back since, and nothing is known of by how much.
        if (birth > row.at_ns || changed > row.at_ns + birth_margin_ns) return Interval::unknown_earliest;
        const std::uint64_t margin = birth_margin_ns + out_.clock.uncertainty_ns;
        return birth > margin ? birth - margin : Interval::unknown_earliest;
    }

    static Interval interval(std::uint64_t earliest_ns, std::uint64_t latest_ns) {
        if (earliest_ns == latest_ns) return Interval::exact(latest_ns);
        return Interval::bounded(std::min(earliest_ns, latest_ns), latest_ns);
    }

    void set_times(const fdspan_row& row, Reference& reference) const {
        const std::uint64_t started = row.header.started_ns;
        reference.valid |= field_times;
        if (reference.ref == RefKind::cwd || reference.ref == RefKind::root) {
            // No description: the reference is all there is.
            reference.opened = reference.description_opened = Interval::bounded(started, row.at_ns);
            return;
        }
        const std::uint64_t birth = birth_ns(row);
        Interval& opened = reference.opened;
        Interval& described = reference.description_opened;
        described = row.description_latest_ns != 0 ? interval(row.description_earliest_ns, row.description_latest_ns)
                                                   : Interval::bounded(birth, row.at_ns);
        described.narrow(Interval::bounded(birth, row.at_ns));
        reference.description_id = row.description_id;
        if (reference.ref == RefKind::fd) {
            opened = row.opened_latest_ns != 0 ? interval(row.opened_earliest_ns, row.opened_latest_ns)
                                               : Interval::bounded(row.opened_earliest_ns, row.at_ns);
            opened.narrow(Interval::bounded(std::max(started, birth), row.at_ns));
        } else {
            const std::uint64_t exec = row.opened_latest_ns;  // 0: none seen
            const bool by_exec = (row.flags & FDSPAN_ROW_OPENED_BY_EXEC) != 0;
            opened = Interval::bounded(started, row.at_ns);
            // A mapping came with or after the memory's own exec; the executable with it.
            if (exec != 0) opened.narrow(reference.ref == RefKind::mem ? Interval::bounded(exec, row.at_ns) : Interval::bounded(started, exec));
            // What exec opened, this process's exec did, or one of an ancestor before the fork.
            if (by_exec && (row.flags & FDSPAN_ROW_FORKED) != 0) described.narrow(Interval::bounded(birth, started));
            else if (by_exec) described.narrow(Interval::bounded(started, exec != 0 ? exec : row.at_ns));
        }
        // A reference is never older than its description.
        opened.narrow(Interval::bounded(described.earliest_ns, opened.latest_ns));
        described.narrow(Interval::bounded(described.earliest_ns, opened.latest_ns));
    }

    const SnapshotRequest& request_;
    KnownProcesses& processes_;
    Snapshot& out_;
    bool want_path_ = false;
    bool want_stat_ = false;
    bool want_fdinfo_ = false;
    bool want_times_ = false;
    bool grouped_ = true;  // the rows so far are in the order of their processes
    std::uint32_t last_process_ = 0;
    std::uint64_t read_ns_ = 0;  // when the kernel had made the rows at hand
    pid_t last_pid_ = 0;
    Known* last_ = nullptr;
    std::unordered_map<PidKey, pid_t, PidKeyHash> tables_, places_;
    std::unordered_map<std::uint64_t, Completion> completions_;
    std::unordered_set<std::uint64_t> hidden_before_;
    std::vector<char> text_;
    std::size_t filled_ = 0;
    std::string path_;
};

// A thread shows in the kernel under its number in the initial pid namespace, which it knows only there.
bool in_initial_pid_namespace() {
    struct stat status{};
    return ::stat("/proc/self/ns/pid", &status) == 0 && status.st_ino == initial_pid_namespace;
}

std::uint64_t rows_expected(const KnownProcesses& processes) {
    std::uint64_t slots = 0;
    for (const auto& [pid, known] : processes) slots += known.slots;
    return std::min(slots, rows_reserved_max);
}

// The processes that hold descriptors, most of them first, where it pays that several threads take one after the other; otherwise none.
std::vector<pid_t> shared_out(const SnapshotRequest& request, const KnownProcesses& processes) {
    std::uint64_t slots = 0;
    std::vector<std::pair<std::uint32_t, pid_t>> walks;
    for (const auto& [pid, known] : processes) {
        slots += known.slots;
        if (known.slots > 0) walks.emplace_back(known.slots, pid);
    }
    std::vector<pid_t> pids;
    if (request.threads < 2 || walks.size() < 2 || slots < walks.size() * slots_worth_a_walk || !in_initial_pid_namespace()) return pids;
    std::sort(walks.begin(), walks.end(), [](const auto& a, const auto& b) { return a.first != b.first ? a.first > b.first : a.second < b.second; });
    for (const auto& [own, pid] : walks) pids.push_back(pid);
    return pids;
}

// What an object's types are in this kernel, and these functions.
Result<KernelTypes> types_for(const void* elf, std::size_t bytes, std::span<const char* const> functions) {
    auto types = KernelTypes::create();
    if (!types) return types;
    const auto own = own_types(elf, bytes);
    if (!own) return tl::unexpected<Error>(own.error());
    if (auto picked = types->pick(**own, functions); !picked) return tl::unexpected<Error>(picked.error());
    return types;
}

}  // namespace

struct IteratorReader::State {
    TimeMaps maps;
    std::uint8_t kinds = 0;  // whose programs are loaded
    Skeleton skeleton;
    ReadPrograms programs;
    bool with_hidden = false;
    UniqueFd tasks, files, mappings;
    std::vector<char> buffer = std::vector<char>(buffer_bytes());
    std::vector<std::uint32_t> wanted;  // what the map of that name holds
    SweepSkeleton sweeper;              // loaded by the first sweep
    std::optional<SweepPrograms> sweeps;
    std::vector<UniqueFd> adopted;      // in place of the skeletons
    Variables variables, sweep_variables;

    void use_skeleton() {
        const auto& all = skeleton->progs;
        const auto fd = [](const bpf_program* program) { return bpf_program__autoload(program) ? bpf_program__fd(program) : -1; };
        programs = {fd(all.fdspan_task), fd(all.fdspan_task_file), fd(all.fdspan_task_vma), fd(all.fdspan_hidden_files),
                    bpf_map__fd(skeleton->maps.wanted), skeleton->bss};
    }

    Result<void> choose(const std::vector<pid_t>& pids) {
        const int map = programs.wanted;
        for (const std::uint32_t pid : wanted) bpf_map_delete_elem(map, &pid);
        wanted.clear();
        for (const pid_t pid : pids) {
            const auto key = static_cast<std::uint32_t>(pid);
            const std::uint8_t one = 1;
            if (bpf_map_update_elem(map, &key, &one, BPF_ANY) != 0) return fail_errno(errno, "choose processes to read");
            wanted.push_back(key);
        }
        return {};
    }

    template <class Take>
    Result<void> walk(int program, UniqueFd& all, const std::vector<pid_t>& singly, Take&& take) {
        if (!singly.empty()) {
            for (const pid_t pid : singly) {
                bpf_iter_link_info info{};
                info.task.pid = static_cast<std::uint32_t>(pid);
                auto link = attach(program, info);
                if (!link) return tl::unexpected<Error>(link.error());
                if (auto done = iterate(*link, buffer, take); !done) return done;
            }
            return {};
        }
        if (!all.valid()) {
            auto link = attach(program, {});
            if (!link) return tl::unexpected<Error>(link.error());
            all = std::move(*link);
        }
        return iterate(all, buffer, take);
    }

    // The threads of processes that no other thread has taken, one process after the other.
    static Result<void> walk_each(int program, const std::vector<pid_t>& pids, std::atomic<std::size_t>& next, Collector& collector) {
        std::vector<char> into(buffer_bytes());
        for (std::size_t at = next++; at < pids.size(); at = next++) {
            bpf_iter_link_info info{};
            info.task.pid = static_cast<std::uint32_t>(pids[at]);
            auto link = attach(program, info);
            if (!link) return tl::unexpected<Error>(link.error());
            auto done = iterate(*link, into, [&](std::string_view bytes) { return collector.take(bytes); });
            if (!done) return done;
        }
        return {};
    }

    // Descriptors, by several threads.
    Result<void> walk_apart(const std::vector<pid_t>& pids, const SnapshotRequest& request, KnownProcesses& processes, Snapshot& out, Collector& collector) {
        struct Part {
            Snapshot out;
            std::optional<Collector> collector;
            Result<void> done;
            std::thread thread;
        };
        const int program = programs.task_file;
        std::atomic<std::size_t> next = 0;
        std::atomic<bool> exhausted = false;  // no error of its own: that would take memory again
        std::vector<Part> parts(std::min<std::size_t>({request.threads, FDSPAN_MAX_READERS, pids.size()}) - 1);
        const auto read_part = [&](std::size_t at) {
            programs.bss->readers[at + 1] = static_cast<std::uint32_t>(::gettid());
            try {
                parts[at].done = walk_each(program, pids, next, parts[at].collector.emplace(request, processes, parts[at].out));
            } catch (const std::bad_alloc&) {
                exhausted = true;
            }
        };
        std::size_t started = 0;
        try {
            for (Part& part : parts) {
                part.out.clock = out.clock;
                if (!request.deleted_only) part.out.references.expect(rows_expected(processes));
            }
            for (; started < parts.size(); ++started) parts[started].thread = std::thread(read_part, started);
        } catch (const std::exception&) {
            // No more threads for this process: the ones it has read everything.
        }
        Result<void> done;
        try {
            done = walk_each(program, pids, next, collector);
        } catch (const std::bad_alloc&) {
            exhausted = true;
        }
        for (std::size_t at = 0; at < started; ++at) parts[at].thread.join();
        for (auto& reader : programs.bss->readers) reader = 0;
        if (exhausted) throw std::bad_alloc();
        for (std::size_t at = 0; done && at < started; ++at) {
            done = parts[at].done;
            if (done) collector.adopt(std::move(parts[at].out), *parts[at].collector);
        }
        return done;
    }

    template <class Take>
    Result<void> walk_hidden(Take&& take) {
        bpf_iter_link_info info{};
        info.map.map_fd = static_cast<std::uint32_t>(maps.descriptions);
        auto link = attach(programs.hidden_files, info);
        if (!link) return tl::unexpected<Error>(link.error());
        return iterate(*link, buffer, take);
    }
};

Result<std::unique_ptr<IteratorReader>> IteratorReader::open(const TimeMaps& maps, std::uint8_t kinds, bool with_hidden) {
    if (with_hidden && !maps.present()) return fail(EINVAL, "what no process shows is known to the maps of tracking only");
    try {
        auto state = std::make_unique<State>();
        state->maps = maps;
        if (auto may = may_load_programs(); !may) return tl::unexpected<Error>(load_error(may.error().code));
        state->kinds = kinds;
        const char* const functions[] = {rdonly_cast_function, "bpf_iter_task", "bpf_iter_task_file", "bpf_iter_task_vma", "bpf_iter_bpf_map_elem"};
        std::size_t bytes = 0;
        const void* elf = fdspan_snapshot_bpf__elf_bytes(&bytes);
        auto types = types_for(elf, bytes, functions);
        if (types && types->function_ids().at(rdonly_cast_function) == 0) {
            elf = fdspan_snapshot_read_bpf__elf_bytes(&bytes);
            types = types_for(elf, bytes, functions);
        }
        if (!types) return tl::unexpected<Error>(types.error());
        const auto bound = bind_calls(elf, bytes, types->function_ids().at(rdonly_cast_function));
        if (!bound) return tl::unexpected<Error>(bound.error());
        // As fdspan_snapshot_bpf__open_opts() does it, but with other bytes.
        state->skeleton.reset(static_cast<fdspan_snapshot_bpf*>(std::calloc(1, sizeof(fdspan_snapshot_bpf))));
        if (!state->skeleton) throw std::bad_alloc();
        if (const int error = fdspan_snapshot_bpf__create_skeleton(state->skeleton.get()); error != 0) return tl::unexpected<Error>(load_error(-error));
        auto& skeleton = *state->skeleton;
        skeleton.skeleton->data = bound->data();
        skeleton.skeleton->data_sz = bound->size();
        LIBBPF_OPTS(bpf_object_open_opts, options, .btf_custom_path = types->path().c_str());
        if (const int error = bpf_object__open_skeleton(skeleton.skeleton, &options); error != 0) return tl::unexpected<Error>(load_error(-error));
        if (types->kernel_ids().size() > std::size(skeleton.rodata->fdspan_type_ids)) return fail(EOVERFLOW, "the BPF iterators have too many types");
        std::copy(types->kernel_ids().begin(), types->kernel_ids().end(), skeleton.rodata->fdspan_type_ids);
        skeleton.rodata->fdspan_have_times = maps.present();
        skeleton.rodata->fdspan_have_places = asks(kinds, RefKind::exe) || asks(kinds, RefKind::cwd) || asks(kinds, RefKind::root);
        bpf_program__set_autoload(skeleton.progs.fdspan_task_file, asks(kinds, RefKind::fd));
        bpf_program__set_autoload(skeleton.progs.fdspan_task_vma, asks(kinds, RefKind::mem));
        bpf_program__set_autoload(skeleton.progs.fdspan_hidden_files, with_hidden);
        state->with_hidden = with_hidden;
        if (maps.present()) {
            if (auto shared = share_maps(*state->skeleton, maps); !shared) return tl::unexpected<Error>(shared.error());
        }
        if (auto room = room_for_descriptors(reader_descriptors); !room) return tl::unexpected<Error>(room.error());
        const SignalsBlocked quiet;
        const NamedIteratorTargets targets(types->function_ids());
        if (const int error = fdspan_snapshot_bpf__load(state->skeleton.get()); error != 0) return tl::unexpected<Error>(load_error(-error));
        if (!maps.present()) {
            fdspan_settings settings{};
            if (auto made = make_permutation_key(settings); !made) return tl::unexpected<Error>(made.error());
            const std::uint32_t zero = 0;
            if (bpf_map_update_elem(bpf_map__fd(state->skeleton->maps.settings), &zero, &settings, BPF_ANY) != 0) {
                return fail_errno(errno, "write the settings of the BPF iterators");
            }
        }
        state->use_skeleton();
        return std::unique_ptr<IteratorReader>(new IteratorReader(std::move(state)));
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "not enough memory for the BPF iterators");
    }
}

IteratorReader::IteratorReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
IteratorReader::~IteratorReader() = default;

Result<void> IteratorReader::give(Parcel& parcel) {
    if (auto ready = prepare_sweep(); !ready) return ready;
    const ReadPrograms& programs = state_->programs;
    const SweepPrograms& sweeps = *state_->sweeps;
    for (const auto& [name, fd] : {std::pair<const char*, int>{"read task", programs.task},
                                   {"read task_file", programs.task_file},
                                   {"read task_vma", programs.task_vma},
                                   {"read wanted", programs.wanted},
                                   {"read variables", bpf_map__fd(state_->skeleton->maps.bss)},
                                   {"sweep mark_tables", sweeps.mark_tables},
                                   {"sweep live", sweeps.live},
                                   {"sweep descriptions", sweeps.descriptions},
                                   {"sweep descriptors", sweeps.descriptors},
                                   {"sweep tables", sweeps.tables},
                                   {"sweep chunks", sweeps.chunks},
                                   {"sweep live_tables", sweeps.live_tables},
                                   {"sweep variables", bpf_map__fd(state_->sweeper->maps.bss)}}) {
        parcel.put(name, fd);
    }
    if (state_->with_hidden) parcel.put("read hidden_files", programs.hidden_files);
    return {};
}

Result<std::unique_ptr<IteratorReader>> IteratorReader::adopt(Parcel& parcel, const TimeMaps& maps) {
    auto state = std::make_unique<State>();
    state->maps = maps;
    state->kinds = 0xff;
    ReadPrograms& programs = state->programs;
    SweepPrograms& sweeps = state->sweeps.emplace();
    int variables = -1, sweep_variables = -1;
    for (const auto& [name, target] : {std::pair<const char*, int*>{"read task", &programs.task},
                                       {"read task_file", &programs.task_file},
                                       {"read task_vma", &programs.task_vma},
                                       {"read wanted", &programs.wanted},
                                       {"read variables", &variables},
                                       {"sweep mark_tables", &sweeps.mark_tables},
                                       {"sweep live", &sweeps.live},
                                       {"sweep descriptions", &sweeps.descriptions},
                                       {"sweep descriptors", &sweeps.descriptors},
                                       {"sweep tables", &sweeps.tables},
                                       {"sweep chunks", &sweeps.chunks},
                                       {"sweep live_tables", &sweeps.live_tables},
                                       {"sweep variables", &sweep_variables}}) {
        auto fd = parcel.take(name);
        if (!fd) return tl::unexpected<Error>(fd.error());
        *target = fd->get();
        state->adopted.push_back(std::move(*fd));
    }
    // A backend that does not see the last put has none.
    if (auto fd = parcel.take("read hidden_files")) {
        programs.hidden_files = fd->get();
        state->adopted.push_back(std::move(*fd));
        state->with_hidden = true;
    }
    if (auto mapped = state->variables.map(variables, programs.bss); !mapped) return tl::unexpected<Error>(mapped.error());
    if (auto mapped = state->sweep_variables.map(sweep_variables, sweeps.bss); !mapped) return tl::unexpected<Error>(mapped.error());
    return std::unique_ptr<IteratorReader>(new IteratorReader(std::move(state)));
}

Result<Snapshot> IteratorReader::read(const SnapshotRequest& request, bool census) {
    State& state = *state_;
    for (const RefKind kind : {RefKind::fd, RefKind::mem, RefKind::exe, RefKind::cwd, RefKind::root}) {
        if (request.wants(kind) && !asks(state.kinds, kind)) return fail(EINVAL, "this reader was opened without " + std::string(to_string(kind)));
    }
    if (census && !state.maps.present()) return fail(ENOTSUP, "a census needs the maps of the tracking");
    try {
        Snapshot snapshot;
        snapshot.source = "bpf";
        snapshot.began_ns = boottime_now_ns();
        snapshot.clock = WallClock::now();

        SnapshotRequest asked = request;
        std::sort(asked.pids.begin(), asked.pids.end());
        asked.pids.erase(std::unique(asked.pids.begin(), asked.pids.end()), asked.pids.end());
        fdspan_iteration& iteration = state.programs.bss->iteration;
        iteration = {};
        const bool stat = asked.wants(field_stat) || asked.wants(field_times) || asked.deleted_only;
        iteration.fields = (asked.wants(field_path) ? FDSPAN_WANT_PATH : 0) | (stat ? FDSPAN_WANT_STAT : 0) |
                           (asked.wants(field_fdinfo) ? FDSPAN_WANT_FDINFO : 0) | (asked.wants(field_times) || census ? FDSPAN_WANT_TIMES : 0) |
                           (asked.wants(field_ids) || asked.hidden ? FDSPAN_WANT_IDS : 0);
        iteration.deleted_only = asked.deleted_only;
        iteration.linked = (asked.wants(NameState::gone) ? FDSPAN_LINKED_UNHASHED : 0) | (asked.wants(NameState::silly) ? FDSPAN_LINKED_NFS : 0);
        iteration.census = census;
        iteration.began_ns = snapshot.began_ns;
        std::vector<pid_t> singly;
        if (!asked.pids.empty() && asked.pids.size() <= pids_walked_singly) {
            for (const pid_t pid : asked.pids) {
                if (pid > 0) singly.push_back(pid);
            }
        }
        // Always: a number of a thread that is not a process's would otherwise bring in the process.
        iteration.filtered = !asked.pids.empty();
        if (auto chosen = state.choose(asked.pids); !chosen) return tl::unexpected<Error>(chosen.error());

        KnownProcesses processes;
        Collector collector(asked, processes, snapshot);
        const auto take = [&](std::string_view bytes) { return collector.take(bytes); };
        const ReadPrograms& programs = state.programs;
        for (const auto& [ref, kind] : {std::pair{RefKind::exe, FDSPAN_ROW_EXE}, {RefKind::cwd, FDSPAN_ROW_CWD}, {RefKind::root, FDSPAN_ROW_ROOT}}) {
            if (asked.wants(ref)) iteration.kinds |= 1U << kind;
        }
        const bool nobody = !asked.pids.empty() && asked.pids.back() <= 0;
        if (!nobody) {
            programs.bss->threads_seen = 0;
            const bool hidden = state.with_hidden && asked.hidden;
            Result<void> done = hidden ? state.walk_hidden([&](std::string_view bytes) { return collector.take_hidden(bytes, true); }) : Result<void>();
            if (done) done = state.walk(programs.task, state.tasks, singly, take);
            // Their threads can't be told apart by the walk over one process on this kernel: pick them out of all.
            if (!asked.deleted_only) snapshot.references.expect(rows_expected(processes));
            const bool misjudged = programs.bss->threads_seen > 0 && programs.bss->threads_misjudged != 0;
            if (misjudged) singly.clear();
            if (done && asked.wants(RefKind::fd)) {
                const std::vector<pid_t> pids = misjudged || !singly.empty() ? std::vector<pid_t>() : shared_out(asked, processes);
                done = !pids.empty() ? state.walk_apart(pids, asked, processes, snapshot, collector)
                                     : state.walk(programs.task_file, state.files, singly, take);
            }
            if (done && asked.wants(RefKind::mem)) done = state.walk(programs.task_vma, state.mappings, singly, take);
            iteration.kinds = 0;
            if (done) {
                done = state.walk(programs.task, state.tasks, singly,
                                  [&](std::string_view bytes) { return collector.take_survivors(bytes); });
            }
            if (done && hidden) done = state.walk_hidden([&](std::string_view bytes) { return collector.take_hidden(bytes, false); });
            if (!done) return tl::unexpected<Error>(done.error());
        }
        collector.finish();
        snapshot.ended_ns = boottime_now_ns();
        return snapshot;
    } catch (const std::bad_alloc&) {
        return fail(ENOMEM, "not enough memory for a snapshot");
    }
}

Result<void> IteratorReader::prepare_sweep() {
    State& state = *state_;
    if (state.sweeps) return {};
    SweepSkeleton sweeper(fdspan_sweep_bpf__open());
    if (!sweeper) return tl::unexpected<Error>(load_error(errno));
    if (auto shared = share_maps(*sweeper, state.maps); !shared) return tl::unexpected<Error>(shared.error());
    if (auto room = room_for_descriptors(sweeper_descriptors); !room) return room;
    const SignalsBlocked quiet;
    if (const int error = fdspan_sweep_bpf__load(sweeper.get()); error != 0) return tl::unexpected<Error>(load_error(-error));
    state.sweeper = std::move(sweeper);
    const auto& all = state.sweeper->progs;
    state.sweeps = {bpf_program__fd(all.fdspan_mark_tables),        bpf_program__fd(all.fdspan_sweep_live_tables),
                    bpf_program__fd(all.fdspan_sweep_descriptions), bpf_program__fd(all.fdspan_sweep_descriptors),
                    bpf_program__fd(all.fdspan_sweep_tables),       bpf_program__fd(all.fdspan_sweep_chunks),
                    bpf_map__fd(state.sweeper->maps.live_tables),   state.sweeper->bss};
    return {};
}

Result<SweepResult> IteratorReader::sweep() {
    // A break of an iterator inside a bucket may hide an entry from one round; what is left then is found by the next.
    constexpr int rounds_max = 8;
    State& state = *state_;
    if (!state.maps.present()) return fail(ENOTSUP, "a sweep needs the maps of the tracking");
    // One that failed here, and that can't be loaded again, is done without: what it would have deleted is no evidence, only takes room.
    if (!state.sweeps && !state.adopted.empty()) return SweepResult{};
    if (auto ready = prepare_sweep(); !ready) return tl::unexpected<Error>(ready.error());
    const SweepPrograms& programs = *state.sweeps;
    const std::array<std::pair<int, int>, 4> walks{{{programs.descriptions, state.maps.descriptions},
                                                    {programs.descriptors, state.maps.descriptors},
                                                    {programs.tables, state.maps.tables},
                                                    {programs.chunks, state.maps.table_chunks}}};
    SweepResult result;
    const auto walk = [&](int program, int map, auto&& take) -> Result<void> {
        bpf_iter_link_info info{};
        if (map >= 0) info.map.map_fd = static_cast<std::uint32_t>(map);
        auto link = attach(program, info);
        if (!link) return tl::unexpected<Error>(link.error());
        return iterate(*link, state.buffer, take);
    };
    const auto ignore = [](std::string_view) -> Result<void> { return {}; };
    programs.bss->sweep_began_ns = boottime_now_ns();
    programs.bss->live_tables_missed = 0;
    Result<void> done = walk(programs.mark_tables, -1, ignore);
    if (done) done = walk(programs.live, programs.live_tables, ignore);
    for (int round = 0; done && round < rounds_max; ++round) {
        std::uint64_t kept = 0;
        std::uint64_t dead = 0;
        for (const auto& [program, map] : walks) {
            done = walk(program, map, [&](std::string_view verdicts) -> Result<void> {
                for (const char verdict : verdicts) ++(verdict == FDSPAN_SWEEP_DEAD ? dead : kept);
                return {};
            });
            if (!done) break;
        }
        result.kept = kept;
        result.stale = dead;
        if (dead == 0) break;
        if (round + 1 < rounds_max) result.deleted += dead;
    }
    if (!done) {
        state.sweeps.reset();
        state.sweeper.reset();  // it may remember an entry that it was about to delete
        return tl::unexpected<Error>(done.error());
    }
    return result;
}

}  // namespace fdspan
