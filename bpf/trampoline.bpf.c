// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * The `trampoline` and `kprobe` backends: hooks at the entry of the few functions through which every descriptor goes,
 * whoever makes it (a syscall of a 32-bit task, io_uring, an ioctl, a message), and at the last put of every description.
 * Each hook comes twice, as fentry and as kprobe; the loader takes one kind. Nothing is needed at a function's exit.
 *
 * Which function fires where was found with the function tracer on Debian's 6.1 and 6.12 (fs/file.c unless said otherwise):
 *   begins      fd_install                                  all but dup2, dup3 and replace_fd
 *               do_dup2                                     these; the descriptor that stood there ends
 *   ends        pick_file, file_close_fd_locked since 6.8   close, close_range, io_uring; no matter which syscall table
 *               sched_process_exec, sched_process_exit      close-on-exec and exit, by the slots that are left
 *   description __fput (fs/file_table.c)                    in the last user's context, in task work, or in a kernel thread
 *   table       dup_fd, then put_files_struct               unshare, close_range and exec: the task has a copy by then
 *   names       d_delete                                    unlink and rmdir, once they succeeded and the link count is what is left
 *               d_move, d_exchange (fs/dcache.c)            rename, likewise; not an NFS silly-rename's unlink, only its rename
 *
 * No hook stands where a description is made (do_dentry_open, alloc_empty_file): with only one reference at fd_install it
 * is new there, and one insert for each span is all that an open costs. What io_uring opens into its own table, where it has
 * no descriptor, is stamped as it enters that.
 *
 * A fentry program that is preempted while another task of that CPU comes through the same hook is skipped for that one
 * (kernel/bpf/trampoline.c, __bpf_prog_enter_recur). Kprobes and tracepoints run with preemption off, and do_dup2, pick_file and
 * file_close_fd_locked with a spinlock held: where the kernel preempts, the other hooks of `trampoline` are kprobes. What is
 * skipped all the same is counted by the kernel (recursion_misses) and is a loss.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "wire.h"
#include "compat.bpf.h"
#include "maps.bpf.h"

#define FDSPAN_SEES_LAST_PUT 1
#include "track.bpf.h"
#include "tasks.bpf.h"
#include "removal.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define O_CLOEXEC 02000000
#define FMODE_OPENED 0x80000 /* include/linux/fs.h: not set in what a failed open leaves */

/*
 * One hook, as fentry and as kprobe. The arguments reach the handler as numbers: read through the context of a fentry they
 * would be pointers to the verifier, which nobody may compute with.
 */
#define FDSPAN_HOOK1(name, function, handler, p0) FDSPAN_HOOK1_OF(name, function, handler, p0, FDSPAN_ENTER)
#define FDSPAN_HOOK1_OF(name, function, handler, p0, enter)                                                            \
	SEC("fentry/" #function)                                                                                       \
	int fdspan_at_##name(void *ctx)                                                                                   \
	{                                                                                                              \
		__u64 a0 = 0;                                                                                          \
                                                                                                                       \
		enter(ctx);                                                                                            \
		bpf_get_func_arg(ctx, p0, &a0);                                                                        \
		handler(a0);                                                                                           \
		return 0;                                                                                              \
	}                                                                                                              \
	SEC("kprobe/" #function)                                                                                       \
	int fdspan_at_##name##_kprobe(struct pt_regs *ctx)                                                                \
	{                                                                                                              \
		enter(ctx);                                                                                            \
		handler(FDSPAN_PARAMETER##p0(ctx));                                                                    \
		return 0;                                                                                              \
	}

#define FDSPAN_HOOK2(name, function, handler) FDSPAN_HOOK2_OF(name, function, handler, FDSPAN_ENTER)
#define FDSPAN_HOOK2_OF(name, function, handler, enter)                                                                \
	SEC("fentry/" #function)                                                                                       \
	int fdspan_at_##name(void *ctx)                                                                                   \
	{                                                                                                              \
		__u64 a0 = 0, a1 = 0;                                                                                  \
                                                                                                                       \
		enter(ctx);                                                                                            \
		bpf_get_func_arg(ctx, 0, &a0);                                                                         \
		bpf_get_func_arg(ctx, 1, &a1);                                                                         \
		handler(a0, a1);                                                                                       \
		return 0;                                                                                              \
	}                                                                                                              \
	SEC("kprobe/" #function)                                                                                       \
	int fdspan_at_##name##_kprobe(struct pt_regs *ctx)                                                                \
	{                                                                                                              \
		enter(ctx);                                                                                            \
		handler(FDSPAN_PARAMETER0(ctx), FDSPAN_PARAMETER1(ctx));                                               \
		return 0;                                                                                              \
	}

#define FDSPAN_HOOK4(name, function, handler)                                                                          \
	SEC("fentry/" #function)                                                                                       \
	int fdspan_at_##name(void *ctx)                                                                                   \
	{                                                                                                              \
		__u64 a0 = 0, a1 = 0, a2 = 0, a3 = 0;                                                                  \
                                                                                                                       \
		FDSPAN_ENTER(ctx);                                                                                     \
		bpf_get_func_arg(ctx, 0, &a0);                                                                         \
		bpf_get_func_arg(ctx, 1, &a1);                                                                         \
		bpf_get_func_arg(ctx, 2, &a2);                                                                         \
		bpf_get_func_arg(ctx, 3, &a3);                                                                         \
		handler(a0, a1, a2, a3);                                                                               \
		return 0;                                                                                              \
	}                                                                                                              \
	SEC("kprobe/" #function)                                                                                       \
	int fdspan_at_##name##_kprobe(struct pt_regs *ctx)                                                                \
	{                                                                                                              \
		FDSPAN_ENTER(ctx);                                                                                     \
		handler(FDSPAN_PARAMETER0(ctx), FDSPAN_PARAMETER1(ctx), FDSPAN_PARAMETER2(ctx), FDSPAN_PARAMETER3(ctx)); \
		return 0;                                                                                              \
	}

static __always_inline struct files_struct *fdspan_own_files(void)
{
	return ((struct task_struct *)bpf_get_current_task_btf())->files;
}

/* ---- descriptors that begin ---- */

/*
 * void fd_install(unsigned int fd, struct file *file), about to fill the slot. Without an entry and with no other reference
 * the description is new: one that came in a message or over a pidfd is still held by its sender's side, and one that began
 * since tracing did has an entry until its last put.
 */
static __always_inline void fdspan_handle_install(__u64 fd, __u64 file)
{
	struct fdspan_settings *with = fdspan_settings_get();
	struct files_struct *files = fdspan_own_files();
	__u64 inode = fdspan_inode(file);
	bool fresh = !fdspan_description_of(file, inode) && fdspan_file_count((const struct file *)file) == 1;

	if (with && files && fdspan_begin_in_scope(with, file, inode, fresh))
		fdspan_begins(with, files, fd, file, inode, fresh ? FDSPAN_HOW_OPEN : FDSPAN_HOW_DUP, FDSPAN_CLOEXEC_LOOK,
			      bpf_ktime_get_boot_ns());
}
FDSPAN_HOOK2(fd_install, fd_install, fdspan_handle_install)

/*
 * int do_dup2(struct files_struct *files, struct file *file, unsigned fd, unsigned flags), under the table's lock. It fails
 * only where another thread has the slot reserved for an open.
 */
static __always_inline void fdspan_handle_dup2(__u64 table, __u64 file, __u64 number, __u64 flags)
{
	struct fdspan_settings *with = fdspan_settings_get();
	struct files_struct *files = fdspan_own_files();
	__u64 now = bpf_ktime_get_boot_ns();
	__s32 fd = number;

	if (!with || !files || (__u64)files != table)
		return;
	__u64 victim = fdspan_slot(files, fd);

	if (victim)
		fdspan_slot_ends(table, fd, victim, now, FDSPAN_NEWS_CLOSED);
	else if (fdspan_open_word(files, (__u32)fd / FDSPAN_WORD_BITS) >> ((__u32)fd % FDSPAN_WORD_BITS) & 1)
		return;
	if (fdspan_begin_in_scope(with, file, fdspan_inode(file), false))
		fdspan_begins(with, files, fd, file, fdspan_inode(file), FDSPAN_HOW_DUP,
			      flags & O_CLOEXEC ? FDSPAN_CLOEXEC_YES : FDSPAN_CLOEXEC_NO, now);
}
FDSPAN_HOOK4(do_dup2, do_dup2, fdspan_handle_dup2)

/*
 * int io_fixed_fd_install(req, issue_flags, struct file *file, file_slot) (io_uring/filetable.c): opened, accepted or made by
 * io_uring into its own table.
 */
static __always_inline void fdspan_handle_direct(__u64 file)
{
	struct fdspan_settings *with = fdspan_settings_get();
	__u64 inode = fdspan_inode(file);
	__u64 now = bpf_ktime_get_boot_ns();

	if (!with || fdspan_description_of(file, inode) || fdspan_file_count((const struct file *)file) != 1)
		return;
	struct fdspan_description begun = {
		.opened_earliest_ns = now,
		.opened_latest_ns = now,
		.id = fdspan_hide(with, file),
		.inode = inode,
		.fd = -1,
	};

	if (bpf_map_update_elem(&descriptions, &file, &begun, BPF_ANY))
		FDSPAN_COUNT(description_full);
}
FDSPAN_HOOK1(uring_direct, io_fixed_fd_install, fdspan_handle_direct, 2)

/* ---- descriptors that end ---- */

/*
 * struct file *pick_file(struct files_struct *files, unsigned fd), and file_close_fd_locked. close_range(CLOSE_RANGE_UNSHARE)
 * closes in a copy that is not the task's own yet; what is left in that is taken down when it is.
 */
static __always_inline void fdspan_handle_closing(__u64 table, __u64 fd)
{
	struct files_struct *files = fdspan_own_files();

	if (!files || (__u64)files != table)
		return;
	__u64 file = fdspan_slot(files, fd);

	if (file)
		fdspan_slot_ends(table, fd, file, 0, FDSPAN_NEWS_CLOSED);
}
FDSPAN_HOOK2(closing, file_close_fd_locked, fdspan_handle_closing)

/* ---- descriptions that end ---- */

/*
 * void __fput(struct file *file), in the context of anybody. Files that never had a descriptor come here too; user space may know one from a snapshot,
 * by the id that its pointer gives.
 */
static __always_inline void fdspan_handle_last_put(__u64 file)
{
	struct fdspan_description *description = bpf_map_lookup_elem(&descriptions, &file);
	struct fdspan_settings *with = fdspan_settings_get();
	__u64 id = 0, earliest = 0, latest = 0;

	if (!with)
		return;
	if (description) {
		if (description->inode == fdspan_inode(file)) {
			id = description->id;
			earliest = description->opened_earliest_ns;
			latest = description->opened_latest_ns;
		}
		bpf_map_delete_elem(&descriptions, &file);
	}
	if (!fdspan_emits(with) || (!id && (with->scope || !(FDSPAN_READ(struct file, file, f_mode) & FMODE_OPENED))))
		return;
	fdspan_send_closed(with, FDSPAN_RECORD_RELEASED, id ?: fdspan_hide(with, file), earliest, latest, -1, true,
			   fdspan_remains_of(fdspan_inode(file)), bpf_ktime_get_boot_ns());
}
FDSPAN_HOOK1_OF(last_put, __fput, fdspan_handle_last_put, 0, FDSPAN_ENTER_ANYBODY)

/* ---- names that are taken away: by anybody, of files that may be open in a process in scope ---- */

#define S_IFMT 0170000
#define S_IFDIR 0040000
#define OVERLAYFS_SUPER_MAGIC 0x794c7630

static __always_inline void fdspan_send_removal(__u16 how, __u64 dentry, __u64 inode)
{
	struct fdspan_settings *with = fdspan_settings_get();
	__u64 now = bpf_ktime_get_boot_ns();

	if (!with || !fdspan_emits(with))
		return;
	__u64 seq = fdspan_next_seq();
	struct fdspan_unlinked *record = bpf_ringbuf_reserve(&ring, FDSPAN_UNLINKED_BYTES(1), 0);

	if (!record) {
		fdspan_lost(now);
		return;
	}
	__u64 sb = (__u64)FDSPAN_READ(struct inode, inode, i_sb);

	fdspan_header(&record->header, FDSPAN_RECORD_UNLINKED, FDSPAN_UNLINKED_BYTES(1), seq, now);
	record->ino = FDSPAN_READ(struct inode, inode, i_ino);
	record->dev = FDSPAN_READ(struct super_block, sb, s_dev);
	record->nlink = FDSPAN_READ(struct inode, inode, i_nlink);
	record->began_ns = 0;
	record->mode = FDSPAN_READ(struct inode, inode, i_mode);
	record->allocated = FDSPAN_READ(struct super_block, sb, s_magic) == OVERLAYFS_SUPER_MAGIC ? FDSPAN_ALLOCATED_BELOW :
												   fdspan_allocated(inode);
	record->how = how;
	record->places = 1;
	fdspan_fill_culprit(record);
	record->place[0].base_bytes = 0;
	record->place[0].flags = FDSPAN_PLACE_BASE_CUT;
	record->place[0].pad = 0;
	long copied = bpf_probe_read_kernel_str(record->place[0].given, FDSPAN_GIVEN_BYTES,
						(void *)FDSPAN_READ(struct dentry, dentry, d_name.name));
	record->place[0].given_bytes = copied > 0 ? copied : 0;
	bpf_ringbuf_submit(record, fdspan_removal_wakeup(with, now));
}

/*
 * Who holds a file has its dentry, or another one of the same inode. `own_dentry` and `own_inode` are the references that the caller
 * needs for the removal itself.
 */
static __always_inline bool fdspan_may_be_held(__u64 dentry, __u64 inode, int own_dentry, int own_inode)
{
	return FDSPAN_READ(struct dentry, dentry, d_lockref.count) > own_dentry ||
	       FDSPAN_READ(struct inode, inode, i_count).counter > own_inode;
}

/* The dentry of a name that went before, which only a holder keeps: overlayfs, say, which comes here with fewer references of its own. */
static __always_inline bool fdspan_was_linked(__u64 inode)
{
	__u64 alias = (__u64)FDSPAN_READ(struct inode, inode, i_dentry.first);

	return alias && FDSPAN_READ(struct hlist_node, alias, next) && !FDSPAN_READ(struct inode, inode, i_nlink);
}

/*
 * void d_delete(struct dentry *dentry). A directory's inode is held by its dentry and by d_delete_notify, a file's also by
 * do_unlinkat (fs/namei.c). Nearly all that is removed is held by nobody else, and costs no news.
 */
static __always_inline void fdspan_handle_deleted(__u64 dentry)
{
	__u64 inode = (__u64)FDSPAN_READ(struct dentry, dentry, d_inode);

	if (!inode)
		return;
	bool directory = (FDSPAN_READ(struct inode, inode, i_mode) & S_IFMT) == S_IFDIR;

	if (fdspan_may_be_held(dentry, inode, 1, directory ? 2 : 3) || fdspan_was_linked(inode))
		fdspan_send_removal(directory ? FDSPAN_UNLINK_RMDIR : FDSPAN_UNLINK_UNLINK, dentry, inode);
}
FDSPAN_HOOK1_OF(deleted, d_delete, fdspan_handle_deleted, 0, FDSPAN_ENTER_ANYBODY)

/* Looked up for the rename, and cached: with no other reference nobody has it, or anything below it. */
static __always_inline void fdspan_moved(__u64 dentry)
{
	__u64 inode = (__u64)FDSPAN_READ(struct dentry, dentry, d_inode);

	if (inode && fdspan_may_be_held(dentry, inode, 1, 1))
		fdspan_send_removal(FDSPAN_UNLINK_MOVED, dentry, inode);
}

/* void d_move(struct dentry *dentry, struct dentry *target): `dentry` takes the place of `target`, which may be a file's. */
static __always_inline void fdspan_handle_move(__u64 dentry, __u64 target)
{
	__u64 inode = (__u64)FDSPAN_READ(struct dentry, target, d_inode);

	if (inode && fdspan_may_be_held(target, inode, 1, 1))
		fdspan_send_removal(FDSPAN_UNLINK_RENAME, target, inode);
	fdspan_moved(dentry);
}
FDSPAN_HOOK2_OF(moved, d_move, fdspan_handle_move, FDSPAN_ENTER_ANYBODY)

static __always_inline void fdspan_handle_exchange(__u64 dentry, __u64 other)
{
	fdspan_moved(dentry);
	fdspan_moved(other);
}
FDSPAN_HOOK2_OF(exchanged, d_exchange, fdspan_handle_exchange, FDSPAN_ENTER_ANYBODY)

/* ---- tables ---- */

/* struct files_struct *dup_fd(struct files_struct *oldf, …): for fork, unshare, close_range and exec. */
static __always_inline void fdspan_handle_copy(__u64 table)
{
	struct files_struct *files = fdspan_own_files();

	if (files && (__u64)files == table)
		fdspan_table_may_change();
}
FDSPAN_HOOK1(table_copied, dup_fd, fdspan_handle_copy, 0)

static __always_inline bool fdspan_last_user(__u64 table)
{
	return FDSPAN_READ(struct files_struct, table, count).counter == 1;
}

/*
 * void put_files_struct(struct files_struct *files): a task gives a table back. With its copy in place already it unshared;
 * without any it exits, which sched_process_exit took care of, unless another process shares the table.
 */
static __always_inline void fdspan_handle_leave(__u64 table)
{
	struct files_struct *files = fdspan_own_files();
	__u64 thread = fdspan_pending_key(false), process = fdspan_pending_key(true);
	struct fdspan_pending *before;

	if (!files) {
		struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

		if (known && (known->flags & FDSPAN_TABLE_FOREIGN) && fdspan_last_user(table))
			fdspan_table_dies((struct files_struct *)table);
		return;
	}
	before = bpf_map_lookup_elem(&pending, &thread);
	if (!before || before->table != table || (__u64)files == table)
		return;
	if (fdspan_last_user(table))
		fdspan_table_dies((struct files_struct *)table);
	before = bpf_map_lookup_elem(&pending, &process);
	/* sched_process_exec tells of the copy that an exec makes. */
	if (!before || !before->committed)
		fdspan_table_changed(true);
}
FDSPAN_HOOK1(table_left, put_files_struct, fdspan_handle_leave, 0)

/* ---- exec ---- */

/* struct linux_binprm *alloc_bprm(…) (fs/exec.c): before the executable is opened. */
static __always_inline void fdspan_handle_exec_begin(__u64 unused)
{
	fdspan_exec_begins();
}
FDSPAN_HOOK1(exec_begin, alloc_bprm, fdspan_handle_exec_begin, 0)

/* int begin_new_exec(struct linux_binprm *bprm) (fs/exec.c): the point of no return. */
static __always_inline void fdspan_handle_exec_commit(__u64 unused)
{
	fdspan_exec_commits();
}
FDSPAN_HOOK1(exec_commit, begin_new_exec, fdspan_handle_exec_commit, 0)
