// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The `syscall` backend: two programs, at the entry and at the exit of every syscall, that read the new descriptor's struct file
 * through current->files; and the scheduler's and io_uring's tracepoints. What no syscall shows (a descriptor made by an ioctl)
 * stays without evidence in the maps and is bounded by snapshots.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "wire.h"
#include "compat.bpf.h"
#include "maps.bpf.h"
#include "track.bpf.h"
#include "tasks.bpf.h"
#include "removal.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* ---- descriptors that begin ---- */

/*
 * dup2 and dup3 close what the new number held, if they succeed; whether they do shows at their exit, when the struct file
 * that stood there may be gone. Its facts are kept from the entry; another thread may have closed or refilled the number meanwhile,
 * so that whatever is ended at the exit has to be the very thing that was seen at the entry.
 */
struct fdspan_replacing {
	__u64 table;
	__u64 source; /* struct file * that goes there */
	__u64 victim; /* struct file * that stands there */
	__u64 victim_inode;
	__u64 victim_opened_ns; /* of its description; 0: not known */
	struct fdspan_remains victim_remains;
	__s32 fd;
	__u8 victim_is_last;
	__u8 inherited, present; /* whether these sets had the slot */
	__u8 pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct fdspan_replacing);
} replacing SEC(".maps");

static __noinline int fdspan_enter_dup2(__s32 from, __s32 onto)
{
	struct files_struct *files = ((struct task_struct *)bpf_get_current_task_btf())->files;
	struct fdspan_replacing begun = {
		.table = (__u64)files,
		.source = fdspan_slot(files, from),
		.victim = fdspan_slot(files, onto),
		.fd = onto,
	};
	__u64 thread = fdspan_pending_key(false);

	if (from == onto || !begun.source || !begun.victim)
		return 0;
	begun.victim_inode = fdspan_inode(begun.victim);
	begun.victim_is_last = fdspan_is_last(begun.victim);
	begun.victim_remains = fdspan_remains_of(begun.victim_inode);
	struct fdspan_description *description = fdspan_description_of(begun.victim, begun.victim_inode);
	struct fdspan_table *known = bpf_map_lookup_elem(&tables, &begun.table);

	if (description)
		begun.victim_opened_ns = description->opened_latest_ns;
	/* The sets speak of a slot, not of a file: until the outcome is known they must not speak for the new one. */
	if (known) {
		begun.inherited = fdspan_slot_test(known, begun.table, FDSPAN_SET_INHERITED, onto);
		begun.present = fdspan_slot_test(known, begun.table, FDSPAN_SET_PRESENT, onto);
		if (begun.inherited)
			fdspan_slot_clear(known, begun.table, FDSPAN_SET_INHERITED, onto);
		if (begun.present)
			fdspan_slot_clear(known, begun.table, FDSPAN_SET_PRESENT, onto);
	}
	bpf_map_update_elem(&replacing, &thread, &begun, BPF_ANY);
	return 0;
}

static __always_inline void fdspan_not_replaced(const struct fdspan_replacing *begun, struct files_struct *files)
{
	__u64 table = begun->table;
	struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

	if (!known || fdspan_slot(files, begun->fd) != begun->victim)
		return;
	if (begun->inherited)
		fdspan_slot_set(known, table, FDSPAN_SET_INHERITED, begun->fd);
	if (begun->present)
		fdspan_slot_set(known, table, FDSPAN_SET_PRESENT, begun->fd);
}

static __always_inline void fdspan_replaced(const struct fdspan_replacing *begun, __u64 now)
{
	__u64 victim = begun->victim;
	struct fdspan_description *description = fdspan_description_of(victim, begun->victim_inode);
	struct fdspan_descriptor_key key = {.table = begun->table, .fd = begun->fd};
	struct fdspan_descriptor *own = bpf_map_lookup_elem(&descriptors, &key);
	bool first = false;

	if (description && description->opened_latest_ns != begun->victim_opened_ns)
		description = NULL;
	if (description)
		first = description->table == begun->table && description->fd == begun->fd;
	if (own && own->file == victim)
		bpf_map_delete_elem(&descriptors, &key);
	fdspan_span_ends(begun->fd, victim, description, first, begun->victim_is_last,
			 &begun->victim_remains, now, FDSPAN_NEWS_CLOSED);
}

/*
 * The fate of what stood where dup2 put a descriptor. Returns whether something else stands there again. A function of its own: 6.1
 * allows 512 bytes of stack for all frames together.
 */
__noinline int fdspan_replacement_ends(__s64 result)
{
	struct files_struct *files = ((struct task_struct *)bpf_get_current_task_btf())->files;
	__u64 thread = fdspan_pending_key(false);
	struct fdspan_replacing *found = bpf_map_lookup_elem(&replacing, &thread);

	if (!found)
		return 0;
	struct fdspan_replacing begun = *found;

	bpf_map_delete_elem(&replacing, &thread);
	if (result < 0) {
		fdspan_not_replaced(&begun, files);
		return 0;
	}
	fdspan_replaced(&begun, bpf_ktime_get_boot_ns());
	return fdspan_slot(files, begun.fd) != begun.source;
}

/* dup2(n, n) does nothing. */
static __noinline int fdspan_exit_dup2(__s32 from, __s32 onto, __s64 result)
{
	int doubtful = fdspan_replacement_ends(result);

	if (result >= 0 && from != onto)
		fdspan_opened(result, FDSPAN_HOW_DUP, doubtful);
	return 0;
}

static __always_inline void fdspan_opened_at(__u64 user)
{
	__s32 fd;

	if (!bpf_probe_read_user(&fd, sizeof(fd), (void *)user))
		fdspan_opened(fd, FDSPAN_HOW_OPEN, true);
}

static __always_inline void fdspan_opened_pair(__u64 user)
{
	fdspan_opened_at(user);
	fdspan_opened_at(user + sizeof(__s32));
}

/* ---- descriptors that came over a socket: their numbers stand in the receiver's control buffer ---- */

struct fdspan_user_msghdr {
	__u64 name, namelen, iov, iovlen, control, controllen, flags;
};

struct fdspan_user_cmsghdr {
	__u64 length;
	__s32 level, type;
};

#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define SCM_PIDFD 4
#define SCM_MAX_FD 253 /* include/net/scm.h */
#define FDSPAN_MAX_CMSGS 16
#define FDSPAN_MAX_MMSGS 64

struct fdspan_received {
	__u64 at;
	__u64 end;
	__u16 how; /* FDSPAN_HOW_* */
};

static long fdspan_received_one(__u32 index, void *context)
{
	struct fdspan_received *received = context;
	__s32 fd;

	if (received->at + sizeof(fd) > received->end || bpf_probe_read_user(&fd, sizeof(fd), (void *)received->at))
		return 1;
	received->at += sizeof(fd);
	fdspan_opened(fd, received->how, true);
	return 0;
}

/* 6.1 allows 512 bytes of stack for all frames together: one place here for the header and for what it says. */
static long fdspan_received_cmsg(__u32 index, void *context)
{
	struct fdspan_received *control = context;
	union {
		struct fdspan_user_cmsghdr header;
		struct fdspan_received fds;
	} message;
	__u64 at = control->at, length;
	__u32 type;

	if (at + sizeof(message.header) > control->end ||
	    bpf_probe_read_user(&message.header, sizeof(message.header), (void *)at))
		return 1;
	length = message.header.length;
	if (length < sizeof(message.header) || length > control->end - at)
		return 1;
	type = message.header.level == SOL_SOCKET ? message.header.type : 0;
	if (type == SCM_RIGHTS || type == SCM_PIDFD) {
		message.fds.at = at + sizeof(message.header);
		message.fds.end = at + length;
		message.fds.how = type == SCM_RIGHTS ? FDSPAN_HOW_RECEIVED : FDSPAN_HOW_OPEN;
		bpf_loop(type == SCM_RIGHTS ? SCM_MAX_FD : 1, fdspan_received_one, &message.fds, 0);
	}
	control->at = at + ((length + 7) & ~7ULL);
	return 0;
}

static __always_inline void fdspan_received_message(__u64 user_msghdr)
{
	__u64 control_of[2]; /* control, controllen */

	if (bpf_probe_read_user(control_of, sizeof(control_of),
				(void *)(user_msghdr + __builtin_offsetof(struct fdspan_user_msghdr, control))) ||
	    control_of[1] <= sizeof(struct fdspan_user_cmsghdr))
		return;
	struct fdspan_received control = {.at = control_of[0], .end = control_of[0] + control_of[1]};

	if (bpf_loop(FDSPAN_MAX_CMSGS, fdspan_received_cmsg, &control, 0) == FDSPAN_MAX_CMSGS)
		FDSPAN_COUNT(truncated);
}

struct fdspan_messages {
	__u64 at;
	__s64 left;
};

static long fdspan_received_mmsg(__u32 index, void *context)
{
	struct fdspan_messages *messages = context;

	if (messages->left-- <= 0)
		return 1;
	fdspan_received_message(messages->at);
	messages->at += sizeof(struct fdspan_user_msghdr) + 8; /* struct mmsghdr: msg_len, padded */
	return 0;
}

static __always_inline void fdspan_received_messages(__u64 at, __s64 count)
{
	struct fdspan_messages messages = {.at = at, .left = count};

	bpf_loop(FDSPAN_MAX_MMSGS, fdspan_received_mmsg, &messages, 0);
	if (messages.left > 0)
		FDSPAN_COUNT(truncated);
}

/* ---- the other calls that make descriptors ---- */

#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030
#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_NEW_LISTENER (1UL << 3)
#define CLONE_PIDFD 0x1000
#define CLONE_FILES 0x400

/* The commands of bpf(2) that return a descriptor (include/uapi/linux/bpf.h, enum bpf_cmd). */
#define FDSPAN_BPF_COMMANDS                                                                                            \
	(1ULL << 0 /* MAP_CREATE */ | 1ULL << 5 /* PROG_LOAD */ | 1ULL << 7 /* OBJ_GET */ |                            \
	 1ULL << 13 /* PROG_GET_FD_BY_ID */ | 1ULL << 14 /* MAP_GET_FD_BY_ID */ | 1ULL << 17 /* RAW_TRACEPOINT_OPEN */ | \
	 1ULL << 18 /* BTF_LOAD */ | 1ULL << 19 /* BTF_GET_FD_BY_ID */ | 1ULL << 28 /* LINK_CREATE */ |                \
	 1ULL << 30 /* LINK_GET_FD_BY_ID */ | 1ULL << 32 /* ENABLE_STATS */ | 1ULL << 33 /* ITER_CREATE */ |           \
	 1ULL << 36 /* TOKEN_CREATE */)

static __always_inline int fdspan_exit_other(__u32 call, struct pt_regs *regs, __s32 fd)
{
	__u16 how = FDSPAN_HOW_OPEN;
	__u64 first = FDSPAN_ARG1(regs), second = FDSPAN_ARG2(regs);

	if (fd < 0)
		return 0;
	switch (call) {
	case FDSPAN_CALL_DUP:
		how = FDSPAN_HOW_DUP;
		break;
	case FDSPAN_CALL_PIDFD_GETFD:
		how = FDSPAN_HOW_RECEIVED;
		break;
	case FDSPAN_CALL_FCNTL:
		if ((__u32)second != F_DUPFD && (__u32)second != F_DUPFD_CLOEXEC)
			return 0;
		how = FDSPAN_HOW_DUP;
		break;
	/* A descriptor handed in is changed, not made. */
	case FDSPAN_CALL_SIGNALFD:
		if ((__s32)first != -1)
			return 0;
		break;
	/* With a flag set it returns a version number or errata, not a descriptor (landlock_create_ruleset(2)). */
	case FDSPAN_CALL_LANDLOCK:
		if (FDSPAN_ARG3(regs))
			return 0;
		break;
	case FDSPAN_CALL_SECCOMP:
		if (first != SECCOMP_SET_MODE_FILTER || !(second & SECCOMP_FILTER_FLAG_NEW_LISTENER))
			return 0;
		break;
	case FDSPAN_CALL_BPF:
		if ((__u32)first >= 64 || !(FDSPAN_BPF_COMMANDS >> (__u32)first & 1))
			return 0;
		break;
	case FDSPAN_CALL_PIPE:
		fdspan_opened_pair(first);
		return 0;
	case FDSPAN_CALL_SOCKETPAIR:
		fdspan_opened_pair(FDSPAN_ARG4(regs));
		return 0;
	case FDSPAN_CALL_CLONE:
		if (fd && (first & CLONE_PIDFD))
			fdspan_opened_at(FDSPAN_ARG3(regs));
		return 0;
	case FDSPAN_CALL_CLONE3: {
		__u64 arguments[2]; /* struct clone_args: flags, pidfd */

		if (fd && !bpf_probe_read_user(arguments, sizeof(arguments), (void *)first) && (arguments[0] & CLONE_PIDFD))
			fdspan_opened_at(arguments[1]);
		return 0;
	}
	case FDSPAN_CALL_RECVMSG:
		fdspan_received_message(second);
		return 0;
	case FDSPAN_CALL_RECVMMSG:
		fdspan_received_messages(second, fd);
		return 0;
	default:
		return 0;
	}
	fdspan_opened(fd, how, false);
	return 0;
}

/* ---- descriptors that end: at syscall entry, while their struct file can still be looked at ---- */

#define CLOSE_RANGE_UNSHARE 2
#define CLOSE_RANGE_CLOEXEC 4

static __always_inline int fdspan_enter_close_range(__u32 first, __u32 last, __u32 flags)
{
	struct files_struct *files = bpf_get_current_task_btf()->files;

	if (first > last || (flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC)))
		return 0;
	if ((flags & CLOSE_RANGE_UNSHARE) && files->count.counter > 1)
		fdspan_table_may_change();
	else if (!(flags & CLOSE_RANGE_CLOEXEC))
		fdspan_closing_range(files, first, last, true);
	return 0;
}

/* ---- names that are taken away ---- */

#define AT_FDCWD (-100)
#define AT_REMOVEDIR 0x200
#define RENAME_EXCHANGE 2
#define FDSPAN_GIVEN_CHUNKS 9 /* of a path of PATH_MAX */

/* At the exit the kernel has just read the text, so that it can be read without a page fault. */
static __always_inline void fdspan_fill_place(struct fdspan_place *place, __s32 dfd, __u64 user)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 dentry = 0, mnt = 0, at = 0;
	long got = 0;

	place->base_bytes = 0;
	place->given_bytes = 0;
	place->flags = 0;
	place->pad = 0;
	/* A long text ends in another chunk than it begins; what is wanted is its end. */
	for (int i = 0; i < FDSPAN_GIVEN_CHUNKS; i++) {
		got = bpf_probe_read_user_str(place->given, FDSPAN_GIVEN_BYTES, (void *)(user + at));
		if (got < FDSPAN_GIVEN_BYTES)
			break;
		at += FDSPAN_GIVEN_BYTES - 1;
	}
	bool absolute = at == 0 && place->given[0] == '/';

	if (got > 0 && at) {
		char first = 0;

		bpf_probe_read_user(&first, sizeof(first), (void *)user);
		absolute = first == '/';
		got = bpf_probe_read_user_str(place->given, FDSPAN_GIVEN_BYTES, (void *)(user + at + got - FDSPAN_GIVEN_BYTES));
		place->flags = FDSPAN_PLACE_GIVEN_CUT;
	}
	if (got <= 0)
		return;
	place->given_bytes = got;

	__u64 fs = (__u64)task->fs;

	if (absolute && fs) {
		dentry = (__u64)FDSPAN_READ(struct fs_struct, fs, root.dentry);
		mnt = (__u64)FDSPAN_READ(struct fs_struct, fs, root.mnt);
	} else if (dfd == AT_FDCWD && fs) {
		dentry = (__u64)FDSPAN_READ(struct fs_struct, fs, pwd.dentry);
		mnt = (__u64)FDSPAN_READ(struct fs_struct, fs, pwd.mnt);
	} else {
		__u64 file = fdspan_slot(task->files, dfd);

		if (file) {
			dentry = (__u64)FDSPAN_READ(struct file, file, f_path.dentry);
			mnt = (__u64)FDSPAN_READ(struct file, file, f_path.mnt);
		}
	}
	if (!dentry)
		return;
	__u16 cut = 0;

	fdspan_copy_names(place->base, dentry, mnt, &place->base_bytes, &cut);
	place->flags |= cut;
}

/* Calls under way that may remove a name: by thread, since when. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u64);
} removing SEC(".maps");

static __noinline int fdspan_enter_removal(void)
{
	struct fdspan_settings *with = fdspan_settings_get();
	__u64 thread = bpf_get_current_pid_tgid();

	if (!with || !fdspan_emits(with))
		return 0;
	__u64 now = bpf_ktime_get_boot_ns();

	bpf_map_update_elem(&removing, &thread, &now, BPF_ANY);
	return 0;
}

/* `places` is a constant: the verifier knows the record's size by it. */
static __always_inline void fdspan_removed(__u16 how, __u16 places, __s32 dfd, __u64 user, __s32 to_dfd, __u64 to_user)
{
	struct fdspan_settings *with = fdspan_settings_get();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!with || !fdspan_emits(with))
		return;
	__u64 seq = fdspan_next_seq();
	struct fdspan_unlinked *record = bpf_ringbuf_reserve(&ring, FDSPAN_UNLINKED_BYTES(places), 0);

	if (!record) {
		fdspan_lost(now);
		return;
	}
	fdspan_header(&record->header, FDSPAN_RECORD_UNLINKED, FDSPAN_UNLINKED_BYTES(places), seq, now);
	__u64 thread = bpf_get_current_pid_tgid();
	__u64 *began = places ? bpf_map_lookup_elem(&removing, &thread) : NULL;

	record->began_ns = began ? *began : 0;
	record->ino = 0;
	record->dev = 0;
	record->nlink = 0;
	record->allocated = 0;
	record->mode = 0;
	record->how = how;
	record->places = places;
	fdspan_fill_culprit(record);
	if (places > 0)
		fdspan_fill_place(&record->place[0], dfd, user);
	if (places > 1)
		fdspan_fill_place(&record->place[1], to_dfd, to_user);
	bpf_ringbuf_submit(record, fdspan_removal_wakeup(with, now));
}

static __noinline int fdspan_exit_removal(__u32 call, struct pt_regs *regs)
{
	switch (call) {
	case FDSPAN_CALL_UNLINK:
		fdspan_removed(FDSPAN_UNLINK_UNLINK, 1, AT_FDCWD, FDSPAN_ARG1(regs), 0, 0);
		break;
	case FDSPAN_CALL_RMDIR:
		fdspan_removed(FDSPAN_UNLINK_RMDIR, 1, AT_FDCWD, FDSPAN_ARG1(regs), 0, 0);
		break;
	case FDSPAN_CALL_UNLINKAT:
		fdspan_removed(FDSPAN_ARG3(regs) & AT_REMOVEDIR ? FDSPAN_UNLINK_RMDIR : FDSPAN_UNLINK_UNLINK, 1, FDSPAN_ARG1(regs),
			       FDSPAN_ARG2(regs), 0, 0);
		break;
	case FDSPAN_CALL_RENAME:
		fdspan_removed(FDSPAN_UNLINK_RENAME, 2, AT_FDCWD, FDSPAN_ARG1(regs), AT_FDCWD, FDSPAN_ARG2(regs));
		break;
	case FDSPAN_CALL_RENAMEAT:
		fdspan_removed(FDSPAN_UNLINK_RENAME, 2, FDSPAN_ARG1(regs), FDSPAN_ARG2(regs), FDSPAN_ARG3(regs), FDSPAN_ARG4(regs));
		break;
	case FDSPAN_CALL_RENAMEAT2:
		fdspan_removed(FDSPAN_ARG5(regs) & RENAME_EXCHANGE ? FDSPAN_UNLINK_EXCHANGE : FDSPAN_UNLINK_RENAME, 2, FDSPAN_ARG1(regs),
			       FDSPAN_ARG2(regs), FDSPAN_ARG3(regs), FDSPAN_ARG4(regs));
		break;
	}
	return 0;
}

/* ---- every syscall ---- */

/*
 * Raw tracepoints, not the 60 of single syscalls: each of those is a perf event, which the kernel frees after a grace period of its own,
 * with its one event_mutex held (kernel/trace/trace_event_perf.c, perf_trace_destroy): seconds, in which nobody else could trace.
 * By number: what a syscall is at its entry and at its exit; 0 for those that make, end or remove nothing. The loader fills them in.
 */
const volatile __u8 fdspan_entry_calls[FDSPAN_SYSCALLS];
const volatile __u8 fdspan_exit_calls[FDSPAN_SYSCALLS];

/* What the hooks of syscalls begin with. `task` is the current one; `hook`: its place in hook_seen. */
static __always_inline bool fdspan_syscall_matters(const struct task_struct *task, __u32 hook, bool whoever)
{
	struct fdspan_settings *with = fdspan_settings_get();

	if (!with)
		return false;
	if (with->check_pid)
		fdspan_note_hook(with, hook);
	return with->tracking_since_ns && (whoever || fdspan_in_scope(with)) && !fdspan_syscall_is_compat(task);
}

/*
 * In functions of their own, for the stack: 6.1 allows 512 bytes for all frames together. The programs only tell one syscall from
 * another, because most have nothing to do with files and should not pay for more. A call costs some 10 ns where returns are guarded, so
 * that a close, and an open without news, take as few as they can.
 */
static __noinline int fdspan_enter_close(struct pt_regs *regs, __u32 hook)
{
	struct task_struct *task = bpf_get_current_task_btf();

	/* A descriptor ends at the entry, while its struct file can still be looked at. */
	if (fdspan_syscall_matters(task, hook, false))
		fdspan_closing(task, FDSPAN_ARG1(regs));
	return 0;
}

static __noinline int fdspan_other_matters(__u32 hook, __u32 call)
{
	/* A removal matters, whoever does it: the file may be open in a process that is in scope. */
	return fdspan_syscall_matters(bpf_get_current_task_btf(), hook, call >= FDSPAN_CALL_UNLINK);
}

static __noinline int fdspan_enter_table(__u32 call)
{
	if (call == FDSPAN_CALL_EXEC)
		fdspan_exec_begins();
	else
		fdspan_table_may_change();
	return 0;
}

static __noinline int fdspan_enter_not_close(struct pt_regs *regs, __u32 call, __u32 hook)
{
	if (!fdspan_other_matters(hook, call))
		return 0;
	switch (call) {
	case FDSPAN_CALL_UNLINK:
		fdspan_enter_removal();
		break;
	case FDSPAN_CALL_CLOSE_RANGE:
		fdspan_enter_close_range(FDSPAN_ARG1(regs), FDSPAN_ARG2(regs), FDSPAN_ARG3(regs));
		break;
	case FDSPAN_CALL_DUP2:
		fdspan_enter_dup2(FDSPAN_ARG1(regs), FDSPAN_ARG2(regs));
		break;
	case FDSPAN_CALL_UNSHARE:
		if (FDSPAN_ARG1(regs) & CLONE_FILES)
			fdspan_enter_table(call);
		break;
	case FDSPAN_CALL_EXEC:
		fdspan_enter_table(call);
		break;
	}
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(fdspan_sys_enter, struct pt_regs *regs, long id)
{
	__u64 number = id;
	__u32 call;

	if (number >= FDSPAN_SYSCALLS)
		return 0;
	call = fdspan_entry_calls[number];
	if (!call)
		return 0;
	if (call == FDSPAN_CALL_CLOSE)
		return fdspan_enter_close(regs, FDSPAN_HOOK_ENTRY(number));
	return fdspan_enter_not_close(regs, call, FDSPAN_HOOK_ENTRY(number));
}

static __noinline int fdspan_exit_open(__s64 result, __u32 hook)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (!fdspan_syscall_matters(task, hook, false) || result < 0)
		return 0;
	/* With news it takes more stack than there is here. */
	if (fdspan_may_emit || fdspan_sieves_files) {
		fdspan_opened(result, FDSPAN_HOW_OPEN, false);
		return 0;
	}
	struct files_struct *files = task->files;
	__u64 file = fdspan_slot(files, result);

	if (file)
		fdspan_stamp((__u64)files, result, file, fdspan_inode(file), 0, 0);
	return 0;
}

static __noinline int fdspan_exit_not_open(__u32 call, struct pt_regs *regs, __s64 result, __u32 hook)
{
	if (!fdspan_other_matters(hook, call))
		return 0;
	if (call >= FDSPAN_CALL_UNLINK) {
		if (result == 0)
			fdspan_exit_removal(call, regs);
	} else if (call == FDSPAN_CALL_DUP2) {
		fdspan_exit_dup2(FDSPAN_ARG1(regs), FDSPAN_ARG2(regs), result);
	} else if (call == FDSPAN_CALL_UNSHARE) {
		fdspan_table_changed(result == 0); /* did the task get a table of its own? */
	} else {
		fdspan_exit_other(call, regs, result);
	}
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(fdspan_sys_exit, struct pt_regs *regs, long result)
{
	__u64 number = FDSPAN_SYSCALL_NUMBER(regs);
	__u32 call;

	if (number >= FDSPAN_SYSCALLS)
		return 0;
	call = fdspan_exit_calls[number];
	if (!call)
		return 0;
	if (call == FDSPAN_CALL_OPEN)
		return fdspan_exit_open(result, FDSPAN_HOOK_EXIT(number));
	return fdspan_exit_not_open(call, regs, result, FDSPAN_HOOK_EXIT(number));
}

/* ---- io_uring: works on the table of current, which its workers share ---- */

struct io_cmd_data {
	struct file *file;
} __attribute__((preserve_access_index));

struct io_kiocb {
	struct io_cmd_data cmd;
	__u8 opcode;
} __attribute__((preserve_access_index));

struct io_close {
	int fd;
	__u32 file_slot;
} __attribute__((preserve_access_index));

struct io_open {
	__u32 file_slot;
} __attribute__((preserve_access_index));

struct io_accept {
	__u32 file_slot;
} __attribute__((preserve_access_index));

struct io_socket {
	__u32 file_slot;
} __attribute__((preserve_access_index));

/* include/uapi/linux/io_uring.h, enum io_uring_op */
#define IORING_OP_ACCEPT 13
#define IORING_OP_OPENAT 18
#define IORING_OP_CLOSE 19
#define IORING_OP_OPENAT2 28
#define IORING_OP_RENAMEAT 35
#define IORING_OP_UNLINKAT 36
#define IORING_OP_SOCKET 45
#define IORING_OP_FIXED_FD_INSTALL 54

/*
 * A close is taken at submission, while the file is there. Done later or cancelled it only costs the exact time; unseen it
 * would leave evidence for the wrong file.
 */
static __always_inline void fdspan_uring_submitted(struct io_kiocb *request)
{
	if (BPF_CORE_READ(request, opcode) != IORING_OP_CLOSE || !bpf_core_type_exists(struct io_close))
		return;
	struct io_close *close = (void *)&request->cmd;

	if (!BPF_CORE_READ(close, file_slot))
		fdspan_closing(bpf_get_current_task_btf(), BPF_CORE_READ(close, fd));
}

static __always_inline void fdspan_uring_completed(struct io_kiocb *request, __s32 result)
{
	__u32 file_slot = 0;

	if (!request || result < 0)
		return;
	void *command = (void *)&request->cmd;

	switch (BPF_CORE_READ(request, opcode)) {
	case IORING_OP_OPENAT:
	case IORING_OP_OPENAT2:
		if (bpf_core_field_exists(((struct io_open *)0)->file_slot))
			file_slot = BPF_CORE_READ((struct io_open *)command, file_slot);
		break;
	case IORING_OP_ACCEPT:
		if (bpf_core_field_exists(((struct io_accept *)0)->file_slot))
			file_slot = BPF_CORE_READ((struct io_accept *)command, file_slot);
		break;
	case IORING_OP_SOCKET:
		if (bpf_core_field_exists(((struct io_socket *)0)->file_slot))
			file_slot = BPF_CORE_READ((struct io_socket *)command, file_slot);
		break;
	case IORING_OP_FIXED_FD_INSTALL:
		fdspan_opened(result, FDSPAN_HOW_RECEIVED, false);
		return;
	/* The paths are given back by now (io_uring/fs.c, do_unlinkat, do_renameat2). */
	case IORING_OP_UNLINKAT:
		fdspan_removed(FDSPAN_UNLINK_UNLINK, 0, 0, 0, 0, 0);
		return;
	case IORING_OP_RENAMEAT:
		fdspan_removed(FDSPAN_UNLINK_RENAME, 0, 0, 0, 0, 0);
		return;
	default:
		return;
	}
	if (!file_slot)
		fdspan_opened(result, FDSPAN_HOW_OPEN, false);
}

SEC("tp_btf/io_uring_submit_req")
int BPF_PROG(fdspan_uring_submit, struct io_kiocb *request)
{
	FDSPAN_ENTER_UNCHECKED();
	fdspan_uring_submitted(request);
	return 0;
}

/* The name of the event in 6.1 (its BTF has btf_trace_io_uring_submit_sqe). */
SEC("tp_btf/io_uring_submit_sqe")
int BPF_PROG(fdspan_uring_submit_sqe, struct io_kiocb *request)
{
	FDSPAN_ENTER_UNCHECKED();
	fdspan_uring_submitted(request);
	return 0;
}

struct io_uring_cqe {
	__u64 user_data;
	__s32 res;
} __attribute__((preserve_access_index));

SEC("tp_btf/io_uring_complete")
int BPF_PROG(fdspan_uring_complete, void *ring, struct io_kiocb *request, struct io_uring_cqe *cqe)
{
	FDSPAN_ENTER_UNCHECKED();
	fdspan_uring_completed(request, BPF_CORE_READ(cqe, res));
	return 0;
}

/* In 6.1 the event's arguments are (ring, request, user_data, res, …); the loader tells the two by their number. */
SEC("tp_btf/io_uring_complete")
int BPF_PROG(fdspan_uring_complete_res, void *ring, struct io_kiocb *request, __u64 user_data, int res)
{
	FDSPAN_ENTER_UNCHECKED();
	fdspan_uring_completed(request, res);
	return 0;
}
