// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Snapshots: iterators over all tasks, their descriptors and their mappings. One object per reader; each of its threads
 * that read at once has a place of its own for the row at hand (struct fdspan_private).
 * The iterators show the pid namespace of the one who opened them; so do the rows.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "wire.h"
#include "rows.h"

/* By the object's own number of a type, the kernel's (userspace/kernel/kernel_types.hpp). */
const volatile __u32 fdspan_type_ids[FDSPAN_MAX_TYPES] = {0};
#define FDSPAN_TYPE_ID(type) fdspan_type_ids[bpf_core_type_id_local(type) & (FDSPAN_MAX_TYPES - 1)]

#include "compat.bpf.h"
#include "maps.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The maps of tracking were handed over; otherwise what needs them is not even verified. */
const volatile bool fdspan_have_times = false;
/* Likewise: exe, cwd and root may be asked for. */
const volatile bool fdspan_have_places = false;

struct fdspan_iteration iteration;

/* Thread ids, in the initial namespace, of the threads that read beside the first. */
__u32 readers[FDSPAN_MAX_READERS];

/* On the way from a dentry up to the root. */
struct fdspan_steps {
	__u64 dentry;
	__u64 mount;
	__u64 root_dentry;
	__u64 root_mnt;
	__u32 bytes;
	__u32 flags;
	__u32 done;
	__u32 pad;
};

#define FDSPAN_AHEAD 8 /* a power of two, and no more than the smallest table has slots */

/* What user space must not see, unlike .bss, and what one thread that reads has for itself. */
struct fdspan_private {
	struct fdspan_row row;
	char text[FDSPAN_PATH_BYTES + FDSPAN_NAME_BYTES]; /* right behind the row */
	__u64 number; /* see fdspan_number */
	/* Whose rows these are, which is the same for all descriptors of a table. */
	__u64 task;
	__u64 began_ns; /* of the read */
	__u32 task_pid;
	__u32 skipped; /* nobody asked for them */
	struct fdspan_row_header header;
	__u64 ext4;   /* struct file_system_type * of ext4, once met */
	/* The slots whose files fdspan_look_ahead has touched, from ahead_fd on. */
	__u64 ahead_table;
	__u64 ahead_fd;
	__u64 ahead_files[FDSPAN_AHEAD];
	struct fdspan_ahead {
		__u64 inode;
		__u64 dentry;
	} ahead[FDSPAN_AHEAD];
	/* In a map, where the verifier takes them for any value: on the stack it would follow each length a path may have. */
	struct fdspan_steps steps;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FDSPAN_MAX_READERS);
	__type(key, __u32);
	__type(value, struct fdspan_private);
} private_state SEC(".maps");

struct fdspan_process_row process_row;

/*
 * What the walks over the tasks found out. Before 6.7 an iterator over one process judged each thread by the one before it
 * when it left out those with their leader's table (kernel/bpf/task_iter.c, task_group_seq_get_next); the fix came with the
 * same release as struct bpf_iter_task.
 */
__u32 threads_seen; /* tasks that are not their process's leader */
__u32 threads_misjudged;

struct bpf_iter_task___since_6_7 {
	__u64 __opaque[3];
} __attribute__((preserve_access_index));

/* Pids (of processes, in the reader's namespace) that a filtered read is about. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, __u8);
} wanted SEC(".maps");

#define PF_WQ_WORKER 0x20
#define PF_FORKNOEXEC 0x40
#define PF_KTHREAD 0x00200000
#define O_CLOEXEC 02000000
#define FMODE_EXEC_FLAG 0x20 /* __FMODE_EXEC in f_flags: opened by exec (include/linux/fs.h) */

#define S_IFMT 0170000
#define S_IFREG 0100000

#define VM_READ 0x1
#define VM_WRITE 0x2
#define VM_EXEC 0x4
#define VM_MAYSHARE 0x80 /* what /proc/PID/maps shows as 's' */

/* include/uapi/linux/magic.h */
#define ANON_INODE_FS_MAGIC 0x09041934
#define DEVPTS_SUPER_MAGIC 0x1cd1
#define DMA_BUF_MAGIC 0x444d4142
#define EXT4_SUPER_MAGIC 0xEF53
#define HUGETLBFS_MAGIC 0x958458f6
#define NFS_SUPER_MAGIC 0x6969
#define NSFS_MAGIC 0x6e736673
#define PID_FS_MAGIC 0x50494446
#define PIPEFS_MAGIC 0x50495045
#define RAMFS_MAGIC 0x858458f6
#define SECRETMEM_MAGIC 0x5345434d
#define SOCKFS_MAGIC 0x534F434B
#define TMPFS_MAGIC 0x01021994
#define BPF_FS_MAGIC 0xcafe4a11
#define MQUEUE_MAGIC 0x19800202

/*
 * File systems whose inode says what stat(2) says. The others' getattr asks elsewhere (overlayfs the layer below, btrfs its
 * subvolume, xfs and network file systems their own inode, procfs and kernfs whoever counts): user space completes their
 * rows.
 */
static __always_inline bool fdspan_inode_tells(__u64 magic)
{
	switch (magic) {
	case ANON_INODE_FS_MAGIC:
	case BPF_FS_MAGIC:
	case DEVPTS_SUPER_MAGIC:
	case DMA_BUF_MAGIC:
	case EXT4_SUPER_MAGIC:
	case HUGETLBFS_MAGIC:
	case MQUEUE_MAGIC:
	case NSFS_MAGIC:
	case PID_FS_MAGIC:
	case PIPEFS_MAGIC:
	case RAMFS_MAGIC:
	case SECRETMEM_MAGIC:
	case SOCKFS_MAGIC:
	case TMPFS_MAGIC:
		return true;
	}
	return false;
}

/*
 * Kernel objects are numbers here, and a field is read by FDSPAN_GET. Walking the context's own pointers instead would be
 * checked at length: since 6.2 the verifier looks each pointer that is loaded through a trusted one up by name in the
 * whole BTF (kernel/bpf/verifier.c, type_is_trusted), half a millisecond a time. bpf_rdonly_cast makes an object of a number
 * without trust, and a load from it can't fault. Kernels that have no such function take snapshot_read.bpf.c, where each
 * step is a probe read. Both in one object would be dead code to each kernel, which the verifier takes out piece by piece,
 * moving all that stands behind (verifier_remove_insns): a tenth of a start.
 */
#ifdef FDSPAN_BY_PROBE_READ
#define FDSPAN_GET(type, number, field)                                                                                \
	({                                                                                                             \
		__u64 __from = (number);                                                                               \
		BPF_CORE_READ((type *)__from, field);                                                                  \
	})
#else
#define FDSPAN_GET(type, number, field) (FDSPAN_CAST(type, number)->field)
#endif

/* A pointer as a number: the verifier lets nobody compute with a pointer, but forgets what it was in a map. */
static __always_inline __u64 fdspan_number(struct fdspan_private *own, const void *pointer)
{
	*(const void *volatile *)&own->number = pointer;
	return *(volatile __u64 *)&own->number;
}

/* A field that is a pointer, as a number. */
#define FDSPAN_FOLLOW(own, type, number, field) fdspan_number(own, FDSPAN_GET(type, number, field))

static __always_inline struct fdspan_private *fdspan_private_of(__u32 reader)
{
	return bpf_map_lookup_elem(&private_state, &reader);
}

/* Which of the threads that read runs this program: an iterator's programs run inside its read(2). */
static __always_inline __u32 fdspan_reader(void)
{
	__u32 tid = bpf_get_current_pid_tgid();

#pragma unroll
	for (__u32 i = 1; i < FDSPAN_MAX_READERS; i++) {
		if (readers[i] == tid)
			return i;
	}
	return 0;
}

/*
 * Functions that are not static are verified once, whoever calls them, and their arguments are numbers of any value. The
 * verifier also wants them to return one.
 */

__noinline __u64 fdspan_hidden(__u64 number)
{
	struct fdspan_settings *with = fdspan_settings_get();

	return with ? fdspan_hide(with, number) : 0;
}

/* ---- tasks ---- */

struct fdspan_upid {
	int nr;
	__u64 ns;
};

/* kernel/pid.c, pid_nr_ns: the number of `pid` in the namespace of the reader, 0 outside of it. */
static __always_inline __u32 fdspan_pid_number(__u64 reader, __u64 pid)
{
	__u32 level = FDSPAN_GET(struct pid, reader, level);
	__u64 at = bpf_core_field_offset(struct pid, numbers) + level * sizeof(struct fdspan_upid);
	struct fdspan_upid own = {}, seen = {};

	if (FDSPAN_GET(struct pid, pid, level) < level)
		return 0;
	/* numbers[] ends the struct; the size of its elements is one that CO-RE does not know of. */
	bpf_probe_read_kernel(&own, sizeof(own), (void *)(reader + at));
	bpf_probe_read_kernel(&seen, sizeof(seen), (void *)(pid + at));
	return seen.ns == own.ns ? (__u32)seen.nr : 0;
}

__noinline __u32 fdspan_tid(__u32 reader, __u64 task)
{
	struct fdspan_private *own = fdspan_private_of(reader);

	if (!own)
		return 0;
	__u64 current = fdspan_number(own, (void *)bpf_get_current_task());
	__u64 asking = FDSPAN_FOLLOW(own, struct task_struct, current, thread_pid);

	if (FDSPAN_GET(struct pid, asking, level) == 0)
		return FDSPAN_GET(struct task_struct, task, pid);
	return fdspan_pid_number(asking, FDSPAN_FOLLOW(own, struct task_struct, task, thread_pid));
}

/* Whose rows come next, as far as all of them share it; 0 if nobody asked for them. */
__noinline int fdspan_begin_task(__u32 reader, __u64 task)
{
	struct fdspan_private *own = fdspan_private_of(reader);

	if (!own)
		return 0;
	__u64 leader = FDSPAN_FOLLOW(own, struct task_struct, task, group_leader);
	__u32 pid = fdspan_tid(reader, leader);
	struct fdspan_row_header *header = &own->header;

	own->task = task;
	own->began_ns = iteration.began_ns;
	own->task_pid = FDSPAN_GET(struct task_struct, task, pid);
	own->skipped = iteration.filtered && !bpf_map_lookup_elem(&wanted, &pid);
	header->size = 0;
	header->kind = 0;
	header->text_bytes = 0;
	header->pid = pid;
	header->tid = task == leader ? pid : fdspan_tid(reader, task);
	header->started_ns = FDSPAN_GET(struct task_struct, leader, start_boottime);
	return !own->skipped;
}

/* The next row of the task of fdspan_begin_task. */
static __always_inline void fdspan_next_row(struct fdspan_private *own, __u32 kind)
{
	struct fdspan_row *row = &own->row;

	__builtin_memset(row, 0, sizeof(*row));
	row->header = own->header;
	row->header.kind = kind;
	row->fd = -1;
	row->mnt_id = -1;
	if (iteration.census)
		row->at_ns = bpf_ktime_get_boot_ns();
}

static __always_inline bool fdspan_begin_row(__u32 reader, struct fdspan_private *own, __u64 task, __u32 kind)
{
	if (!fdspan_begin_task(reader, task))
		return false;
	fdspan_next_row(own, kind);
	return true;
}

/* The syscall backend looks at no syscall of a 32-bit task: what these did to their table was not seen. */
static __always_inline bool fdspan_task_trusted(struct fdspan_settings *with, __u64 task)
{
	/* The other backends hook what the syscalls of both kinds come to. */
	if (with->backend != FDSPAN_HOOKS_SYSCALL || !bpf_core_field_exists(((struct task_struct___thread_info *)0)->thread_info.flags))
		return true;
	return !(BPF_CORE_READ((struct task_struct___thread_info *)task, thread_info.flags) >> FDSPAN_TIF_32BIT & 1);
}

/* ---- files ---- */

struct timespec64 {
	__s64 tv_sec;
	long tv_nsec;
} __attribute__((preserve_access_index));
struct ext4_inode_info {
	struct inode vfs_inode;
	struct timespec64 i_crtime;
	unsigned int i_reserved_data_blocks;
	__u16 i_inline_off;
} __attribute__((preserve_access_index));
struct shmem_inode_info {
	struct inode vfs_inode;
	struct timespec64 i_crtime; /* not in kernels before 5.19 */
} __attribute__((preserve_access_index));

/* The inode's ctime was i_ctime, __i_ctime since 6.6, and seconds and nanoseconds of their own since 6.11. */
struct inode___times {
	__s64 i_ctime_sec;
	struct timespec64 __i_ctime;
	struct timespec64 i_ctime;
} __attribute__((preserve_access_index));

static __always_inline void fdspan_fill_birth(struct fdspan_row *row, __u64 inode, __s64 seconds, long nanoseconds)
{
	struct inode___times *times = NULL;

	if (seconds <= 0)
		return;
	if (bpf_core_field_exists(times->i_ctime_sec))
		row->changed_seconds = FDSPAN_GET(struct inode___times, inode, i_ctime_sec);
	else if (bpf_core_field_exists(times->__i_ctime))
		row->changed_seconds = FDSPAN_GET(struct inode___times, inode, __i_ctime.tv_sec);
	else if (bpf_core_field_exists(times->i_ctime))
		row->changed_seconds = FDSPAN_GET(struct inode___times, inode, i_ctime.tv_sec);
	row->born_seconds = seconds;
	row->born_nanoseconds = nanoseconds;
	row->flags |= FDSPAN_ROW_HAS_BIRTH;
}

/* fs/ext4/inode.c, ext4_getattr and ext4_file_getattr: what is inline or promised to delayed writes counts as allocated. */
static __always_inline void fdspan_fill_ext4(struct fdspan_private *own, __u64 inode, __u64 sb)
{
	__u64 type = FDSPAN_FOLLOW(own, struct super_block, sb, s_type);

	if (!bpf_core_type_exists(struct ext4_inode_info))
		return;
	/* The ext2 driver has the same magic and other inodes; ext4 driving ext2 or ext3 does neither. */
	if (type != own->ext4) {
		__u32 name = 0;

		bpf_probe_read_kernel(&name, sizeof(name), FDSPAN_GET(struct file_system_type, type, name));
		if (name != ('e' | 'x' << 8 | 't' << 16 | '4' << 24))
			return;
		own->ext4 = type;
	}
	__u64 info = inode - bpf_core_field_offset(struct ext4_inode_info, vfs_inode);

	__u64 promised = FDSPAN_GET(struct ext4_inode_info, info, i_reserved_data_blocks);

	if (promised || FDSPAN_GET(struct ext4_inode_info, info, i_inline_off))
		own->row.flags |= FDSPAN_ROW_ASK_STAT;
	/* For whom there is nothing to ask; with clusters of several blocks it is less than what stat says. */
	own->row.blocks += promised << (FDSPAN_GET(struct super_block, sb, s_blocksize_bits) - 9 & 31);
	if (iteration.fields & FDSPAN_WANT_TIMES)
		fdspan_fill_birth(&own->row, inode, FDSPAN_GET(struct ext4_inode_info, info, i_crtime.tv_sec),
				  FDSPAN_GET(struct ext4_inode_info, info, i_crtime.tv_nsec));
}

static __always_inline void fdspan_fill_shmem(struct fdspan_row *row, __u64 inode)
{
	if (!(iteration.fields & FDSPAN_WANT_TIMES) || !bpf_core_field_exists(((struct shmem_inode_info *)0)->i_crtime))
		return;
	__u64 info = inode - bpf_core_field_offset(struct shmem_inode_info, vfs_inode);

	fdspan_fill_birth(row, inode, FDSPAN_GET(struct shmem_inode_info, info, i_crtime.tv_sec),
			  FDSPAN_GET(struct shmem_inode_info, info, i_crtime.tv_nsec));
}

/* The file's part of the reader's row. */
__noinline int fdspan_fill_inode(__u32 reader, __u64 inode)
{
	struct fdspan_private *own = fdspan_private_of(reader);
	struct fdspan_row *row = &own->row;

	if (!own)
		return 0;
	__u64 sb = FDSPAN_FOLLOW(own, struct inode, inode, i_sb);
	__u64 magic = FDSPAN_GET(struct super_block, sb, s_magic);

	row->ino = FDSPAN_GET(struct inode, inode, i_ino);
	row->size = FDSPAN_GET(struct inode, inode, i_size);
	row->blocks = FDSPAN_GET(struct inode, inode, i_blocks);
	row->fs_magic = magic;
	row->dev = FDSPAN_GET(struct super_block, sb, s_dev);
	row->rdev = FDSPAN_GET(struct inode, inode, i_rdev);
	row->nlink = FDSPAN_GET(struct inode, inode, i_nlink);
	row->mode = FDSPAN_GET(struct inode, inode, i_mode);
	if (magic == EXT4_SUPER_MAGIC)
		fdspan_fill_ext4(own, inode, sb);
	else if (magic == TMPFS_MAGIC)
		fdspan_fill_shmem(row, inode);
	else if (!fdspan_inode_tells(magic))
		row->flags |= FDSPAN_ROW_ASK_STAT;
	if (row->flags & FDSPAN_ROW_ASK_STAT)
		row->inode_id = fdspan_hidden(inode);
	return 0;
}

static __always_inline __u64 fdspan_mount_of(__u64 mnt)
{
	return mnt - bpf_core_field_offset(struct mount, mnt);
}

/* include/linux/dcache.h, d_unlinked: such a path gets " (deleted)" appended (fs/d_path.c). */
static __always_inline bool fdspan_unlinked(__u64 dentry)
{
	return !FDSPAN_GET(struct dentry, dentry, d_hash.pprev) &&
	       (__u64)FDSPAN_GET(struct dentry, dentry, d_parent) != dentry;
}

/* Whether a read of deleted files only is not about this one. */
__noinline int fdspan_left_out(__u32 reader, __u64 inode, __u64 dentry)
{
	struct fdspan_private *own = fdspan_private_of(reader);

	if (!own || !iteration.deleted_only || !FDSPAN_GET(struct inode, inode, i_nlink))
		return 0;
	if ((iteration.linked & FDSPAN_LINKED_UNHASHED) && fdspan_unlinked(dentry))
		return 0;
	return !((iteration.linked & FDSPAN_LINKED_NFS) &&
		 FDSPAN_GET(struct super_block, FDSPAN_FOLLOW(own, struct inode, inode, i_sb), s_magic) == NFS_SUPER_MAGIC);
}

/* In no directory and not a root: simple_dname and its like make up the path. */
static __always_inline bool fdspan_pseudo(__u64 dentry, __u64 mnt)
{
	return (__u64)FDSPAN_GET(struct dentry, dentry, d_parent) == dentry &&
	       (__u64)FDSPAN_GET(struct vfsmount, mnt, mnt_root) != dentry;
}

static __always_inline void fdspan_fill_label(struct fdspan_private *own, __u64 dentry)
{
	struct fdspan_row *row = &own->row;
	long copied = bpf_probe_read_kernel_str(own->text, FDSPAN_LABEL_BYTES,
						FDSPAN_GET(struct dentry, dentry, d_name.name));

	if (copied > 0)
		row->header.text_bytes = copied - 1;
	row->flags |= FDSPAN_ROW_HAS_LABEL;
}

/* The path of the file that the iterator holds, or as much of its name as decides what it is. */
static __always_inline void fdspan_fill_path(struct fdspan_private *own, struct file *held, __u64 file)
{
	struct fdspan_row *row = &own->row;
	__u64 dentry = FDSPAN_FOLLOW(own, struct file, file, f_path.dentry);
	__u32 magic = row->fs_magic;
	bool unlinked = fdspan_unlinked(dentry);

	if (fdspan_pseudo(dentry, FDSPAN_FOLLOW(own, struct file, file, f_path.mnt)))
		row->flags |= FDSPAN_ROW_PSEUDO;
	if (magic == PIPEFS_MAGIC || magic == SOCKFS_MAGIC)
		return; /* the path is "pipe:[INO]": user space can write that */
	if (magic == ANON_INODE_FS_MAGIC) {
		fdspan_fill_label(own, dentry);
		return;
	}
	if (iteration.fields & FDSPAN_WANT_PATH) {
		long bytes = bpf_d_path(&held->f_path, own->text, FDSPAN_PATH_BYTES);

		if (fdspan_unlinked(dentry) != unlinked) {
			/* Unlinked at this moment; a second look finds it done. */
			unlinked = true;
			bytes = bpf_d_path(&held->f_path, own->text, FDSPAN_PATH_BYTES);
		}
		if (bytes > 0) {
			row->header.text_bytes = bytes - 1;
			row->flags |= FDSPAN_ROW_HAS_PATH;
		} else {
			row->flags |= FDSPAN_ROW_CUT;
		}
	} else if (unlinked || (row->flags & FDSPAN_ROW_PSEUDO)) {
		fdspan_fill_label(own, dentry);
	}
	if (unlinked)
		row->flags |= FDSPAN_ROW_MARKED;
}

/* ---- a path by hand, for what the iterator does not hold: every step is a read that may fail, none can fault ---- */

#define FDSPAN_MAX_STEPS 4096 /* names of one byte in a path of PATH_MAX, and mounts */

/* One step of fs/d_path.c, prepend_path. */
static long fdspan_step(__u32 index, void *context)
{
	struct fdspan_private *own = fdspan_private_of(*(__u32 *)context);

	if (!own)
		return 1;
	struct fdspan_steps *steps = &own->steps;
	__u64 dentry = steps->dentry, mount = steps->mount;
	__u32 bytes = steps->bytes;

	steps->done = 1;
	if (dentry == steps->root_dentry && mount + bpf_core_field_offset(struct mount, mnt) == steps->root_mnt)
		return 1;
	if (dentry == FDSPAN_FOLLOW(own, struct mount, mount, mnt.mnt_root)) {
		__u64 parent = FDSPAN_FOLLOW(own, struct mount, mount, mnt_parent);

		if (parent == mount || !parent)
			return 1;
		steps->done = 0;
		steps->dentry = FDSPAN_FOLLOW(own, struct mount, mount, mnt_mountpoint);
		steps->mount = parent;
		return 0;
	}
	__u64 parent = FDSPAN_FOLLOW(own, struct dentry, dentry, d_parent);
	bool ends = parent == dentry;

	if (ends) {
		if (bytes)
			return 1;
		steps->flags |= FDSPAN_ROW_PSEUDO;
	}
	steps->done = 0;
	if (bytes >= FDSPAN_PATH_BYTES)
		return 1;
	const void *name = FDSPAN_GET(struct dentry, dentry, d_name.name);

	/* The comparison may be with a copy: said once more to the verifier, of what is used. */
	barrier_var(bytes);
	long copied = bpf_probe_read_kernel_str(own->text + (bytes & (FDSPAN_PATH_BYTES - 1)), FDSPAN_NAME_BYTES, name);

	if (copied <= 0)
		return 1;
	steps->done = ends;
	steps->bytes = bytes + copied;
	steps->dentry = parent;
	return ends;
}

/* The path of (dentry, mnt), as seen from the reader's root, as names behind the row. */
__noinline int fdspan_fill_steps(__u32 reader, __u64 dentry, __u64 mnt)
{
	struct fdspan_private *own = fdspan_private_of(reader);
	struct fdspan_row *row = &own->row;

	if (!own)
		return 0;
	__u64 fs = FDSPAN_FOLLOW(own, struct task_struct, fdspan_number(own, (void *)bpf_get_current_task()), fs);
	struct fdspan_steps *steps = &own->steps;

	steps->dentry = dentry;
	steps->mount = fdspan_mount_of(mnt);
	steps->root_dentry = FDSPAN_FOLLOW(own, struct fs_struct, fs, root.dentry);
	steps->root_mnt = FDSPAN_FOLLOW(own, struct fs_struct, fs, root.mnt);
	steps->bytes = steps->flags = steps->done = 0;
	row->flags &= ~(FDSPAN_ROW_HAS_PATH | FDSPAN_ROW_HAS_LABEL | FDSPAN_ROW_MARKED | FDSPAN_ROW_PSEUDO);
	row->header.text_bytes = 0;
	if (fdspan_unlinked(dentry))
		row->flags |= FDSPAN_ROW_MARKED;
	bpf_loop(FDSPAN_MAX_STEPS, fdspan_step, &reader, 0);
	row->flags |= steps->flags;
	if (!steps->done || steps->bytes > FDSPAN_PATH_BYTES) {
		row->flags |= FDSPAN_ROW_CUT;
		return 0;
	}
	row->header.text_bytes = steps->bytes;
	row->flags |= FDSPAN_ROW_NAMES;
	return 0;
}

/* Everything about the file of (dentry, mnt), into the reader's row; 0: it is not what was asked for. */
__noinline int fdspan_fill_place(__u32 reader, __u64 dentry, __u64 mnt)
{
	struct fdspan_private *own = fdspan_private_of(reader);

	if (!own)
		return 0;
	__u64 inode = FDSPAN_FOLLOW(own, struct dentry, dentry, d_inode);

	if (fdspan_left_out(reader, inode, dentry))
		return 0;
	fdspan_fill_inode(reader, inode);
	own->row.mnt_id = FDSPAN_GET(struct mount, fdspan_mount_of(mnt), mnt_id);
	fdspan_fill_steps(reader, dentry, mnt);
	return 1;
}

/*
 * What overlayfs maps is a file of its layer. Until 6.7 its f_path is that of the file above, since then struct backing_file
 * has that in user_path. The mapping is shown as the file above.
 */
struct backing_file___user {
	struct path user_path;
} __attribute__((preserve_access_index));

/*
 * FMODE_BACKING was bit 25 in 6.5, and became 24 when that went to FMODE_NONOTIFY in 6.14 and in stable kernels before it. Either
 * bit may mean something else, and nothing in BTF tells; a struct backing_file shows by its path, whose two halves belong
 * together and to another file system than the file's own.
 */
static __always_inline bool fdspan_backing(struct fdspan_private *own, __u64 file)
{
	struct backing_file___user *backing = NULL;

	if (!bpf_core_field_exists(backing->user_path) || !(FDSPAN_GET(struct file, file, f_mode) >> 24 & 3))
		return false;
	__u64 dentry = FDSPAN_FOLLOW(own, struct backing_file___user, file, user_path.dentry);
	__u64 mnt = FDSPAN_FOLLOW(own, struct backing_file___user, file, user_path.mnt);
	__u64 sb = FDSPAN_FOLLOW(own, struct vfsmount, mnt, mnt_sb);
	__u64 inode = FDSPAN_FOLLOW(own, struct file, file, f_inode);
	__u64 above = FDSPAN_FOLLOW(own, struct dentry, dentry, d_inode);

	return sb && sb == FDSPAN_FOLLOW(own, struct inode, above, i_sb) &&
	       sb != FDSPAN_FOLLOW(own, struct inode, inode, i_sb);
}

/* ---- rows ---- */

static __always_inline void fdspan_write_row(struct fdspan_private *own, struct seq_file *seq)
{
	__u32 size = sizeof(own->row) + own->row.header.text_bytes;

	if (size > sizeof(own->row) + sizeof(own->text))
		return;
	own->row.header.size = size;
	bpf_seq_write(seq, own, size);
}

/* A description that no hook saw being opened: it is open now. */
__noinline int fdspan_census_description(__u64 file, __u64 inode, __u64 now)
{
	struct fdspan_description *known = bpf_map_lookup_elem(&descriptions, &file);

	if (known && known->inode == inode)
		return 0;
	if (known)
		bpf_map_delete_elem(&descriptions, &file);
	struct fdspan_description found = {
		.opened_latest_ns = now,
		.id = fdspan_hidden(file),
		.inode = inode,
		.fd = -1,
		.flags = FDSPAN_DESCRIPTION_CENSUS,
	};

	/* A hook that stamps it in this moment knows better. */
	if (bpf_map_update_elem(&descriptions, &file, &found, BPF_NOEXIST) && !bpf_map_lookup_elem(&descriptions, &file))
		FDSPAN_COUNT(description_full);
	return 0;
}

struct fdspan_chunk empty_chunk;

/*
 * Slot (table, fd) has no evidence: it is filled now. Only tables that no census met before take part; in the others the
 * bits are as old as census_ns says.
 */
__noinline int fdspan_census_slot(__u64 table, __u32 fd, __u32 owner, __u64 now)
{
	struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

	if (!known) {
		struct fdspan_table found = {.census_ns = now, .owner = owner};

		bpf_map_update_elem(&tables, &table, &found, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&tables, &table);
		if (!known) {
			FDSPAN_COUNT(table_full);
			return 0;
		}
	}
	if (known->census_ns && known->census_ns < iteration.began_ns)
		return 0;
	if (fd >= FDSPAN_INLINE_WORDS * FDSPAN_WORD_BITS) {
		struct fdspan_chunk_key key = {
			.table = table,
			.chunk = fd / FDSPAN_WORD_BITS / FDSPAN_CHUNK_WORDS,
			.set = FDSPAN_SET_PRESENT,
		};

		known->flags |= FDSPAN_TABLE_LARGE;
		bpf_map_update_elem(&table_chunks, &key, &empty_chunk, BPF_NOEXIST);
	}
	__u64 *word = fdspan_slot_word(known, table, FDSPAN_SET_PRESENT, fd);

	if (!word) {
		FDSPAN_COUNT(table_full);
		return 0;
	}
	/* All slots of the set were filled by then, this last one included. */
	known->census_ns = now;
	__sync_fetch_and_or(word, 1ULL << (fd % FDSPAN_WORD_BITS));
	return 0;
}

/* The times of a descriptor into the reader's row. */
__noinline int fdspan_fill_descriptor(__u32 reader, __u64 task, __u64 table, __u64 file, __u64 inode)
{
	struct fdspan_private *own = fdspan_private_of(reader);
	struct fdspan_settings *with = fdspan_settings_get();
	struct fdspan_times times = {};

	if (!own || !with)
		return 0;
	struct fdspan_row *row = &own->row;

	if (fdspan_have_times) {
		/* First: what the census enters is no evidence for what came before it. */
		fdspan_join(table, row->fd, file, inode, fdspan_task_trusted(with, task), &times);
		if (iteration.census) {
			fdspan_census_description(file, inode, row->at_ns);
			if (!times.opened_latest_ns)
				fdspan_census_slot(table, row->fd, FDSPAN_GET(struct task_struct, task, tgid),
						   row->at_ns);
		}
	}
	row->opened_earliest_ns = times.opened_earliest_ns;
	row->opened_latest_ns = times.opened_latest_ns;
	row->description_earliest_ns = times.description_earliest_ns;
	row->description_latest_ns = times.description_latest_ns;
	if (iteration.fields & FDSPAN_WANT_IDS)
		row->description_id = times.description_id ?: fdspan_hidden(file);
	return 0;
}

/* The description behind a mapping or an executable, into the reader's row. */
__noinline int fdspan_fill_description(__u32 reader, __u64 task, __u64 file, __u32 backing)
{
	struct fdspan_private *own = fdspan_private_of(reader);
	struct fdspan_row *row = &own->row;

	if (!own)
		return 0;
	bool by_exec = FDSPAN_GET(struct file, file, f_flags) & FMODE_EXEC_FLAG;
	__u64 inode = FDSPAN_FOLLOW(own, struct file, file, f_inode);

	if (by_exec)
		row->flags |= FDSPAN_ROW_OPENED_BY_EXEC;
	if (FDSPAN_GET(struct task_struct, task, flags) & PF_FORKNOEXEC)
		row->flags |= FDSPAN_ROW_FORKED;
	if (!(iteration.fields & FDSPAN_WANT_TIMES))
		return 0;
	if (iteration.fields & FDSPAN_WANT_IDS)
		row->description_id = fdspan_hidden(file);
	if (!fdspan_have_times)
		return 0;
	__u64 table = FDSPAN_FOLLOW(own, struct task_struct, task, files);
	struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

	/* A table that several processes share saw the exec of any of them. */
	if (known && !(known->flags & FDSPAN_TABLE_FOREIGN))
		row->opened_latest_ns = known->exec_ns;
	/* What exec opened, no hook stamps: an entry for it would be a leftover. */
	if (by_exec || backing)
		return 0;
	if (iteration.census)
		fdspan_census_description(file, inode, row->at_ns);
	struct fdspan_description *description = fdspan_description_of(file, inode);

	if (description) {
		row->description_earliest_ns = description->opened_earliest_ns;
		row->description_latest_ns = description->opened_latest_ns;
		if (description->id && (iteration.fields & FDSPAN_WANT_IDS))
			row->description_id = description->id;
	}
	return 0;
}

#ifndef FDSPAN_BY_PROBE_READ
/* Has the CPU read a field, and with it its cache line. */
#define FDSPAN_TOUCH(type, number, field)                                                                              \
	({                                                                                                             \
		typeof(((type *)0)->field) __value = FDSPAN_GET(type, number, field);                                  \
		asm volatile("" : : "r"((__u64)__value));                                                              \
	})

static long fdspan_touch_file(__u32 index, void *context)
{
	struct fdspan_private *own = fdspan_private_of(*(__u32 *)context);
	struct fdspan_ahead *ahead = own ? &own->ahead[index & (FDSPAN_AHEAD - 1)] : NULL;

	if (!ahead)
		return 1;
	__u64 file = own->ahead_files[index & (FDSPAN_AHEAD - 1)];

	*(const void *volatile *)&ahead->inode = FDSPAN_GET(struct file, file, f_inode);
	*(const void *volatile *)&ahead->dentry = FDSPAN_GET(struct file, file, f_path.dentry);
	long count = fdspan_file_count((const struct file *)file);

	asm volatile("" : : "r"(count));
	return 0;
}

static long fdspan_touch_inode(__u32 index, void *context)
{
	struct fdspan_private *own = fdspan_private_of(*(__u32 *)context);
	struct fdspan_ahead *ahead = own ? &own->ahead[index & (FDSPAN_AHEAD - 1)] : NULL;

	if (!ahead)
		return 1;
	__u64 inode = ahead->inode, dentry = ahead->dentry;

	FDSPAN_TOUCH(struct inode, inode, i_nlink);
	/* Few are looked at further. */
	if (iteration.deleted_only)
		return 0;
	FDSPAN_TOUCH(struct inode, inode, i_blocks);
	FDSPAN_TOUCH(struct dentry, dentry, d_parent);
	FDSPAN_TOUCH(struct dentry, dentry, d_sb); /* beside a short name */
	__u64 sb = FDSPAN_FOLLOW(own, struct inode, inode, i_sb);

	if (own->ext4 && (__u64)FDSPAN_GET(struct super_block, sb, s_type) == own->ext4) {
		__u64 info = inode - bpf_core_field_offset(struct ext4_inode_info, vfs_inode);

		FDSPAN_TOUCH(struct ext4_inode_info, info, i_reserved_data_blocks);
		FDSPAN_TOUCH(struct ext4_inode_info, info, i_inline_off);
	}
	return 0;
}

/*
 * What is read of a file lies in some ten cache lines that nobody used lately. One after the other each takes its 100 ns; those of
 * several files, of which none needs another, the CPU fetches side by side. What the table showed while it was still the task's is
 * freed after the end of this program only, which runs in an RCU read side (kernel/bpf/bpf_iter.c, bpf_iter_run_prog).
 */
__noinline int fdspan_look_ahead(__u32 reader, __u64 task, __u32 fd)
{
	struct fdspan_private *own = fdspan_private_of(reader);

	if (!own)
		return 0;
	__u64 table = FDSPAN_FOLLOW(own, struct task_struct, task, files);
	__u64 fdt = FDSPAN_FOLLOW(own, struct files_struct, table, fdt);

	fd &= ~(FDSPAN_AHEAD - 1);
	own->ahead_table = table;
	own->ahead_fd = fd;
	if (fd + FDSPAN_AHEAD > FDSPAN_GET(struct fdtable, fdt, max_fds))
		return 0;
	bpf_probe_read_kernel(own->ahead_files, sizeof(own->ahead_files), FDSPAN_GET(struct fdtable, fdt, fd) + fd);
	if ((__u64)FDSPAN_GET(struct task_struct, task, files) != table)
		return 0;
	bpf_loop(FDSPAN_AHEAD, fdspan_touch_file, &reader, 0);
	bpf_loop(FDSPAN_AHEAD, fdspan_touch_inode, &reader, 0);
	return 0;
}
#endif

SEC("iter/task_file")
int fdspan_task_file(struct bpf_iter__task_file *ctx)
{
	__u32 reader = fdspan_reader();
	struct fdspan_private *own = fdspan_private_of(reader);
	struct file *held = ctx->file;

	if (!own || !ctx->task || !held)
		return 0;
	struct fdspan_row *row = &own->row;
	__u64 task = fdspan_number(own, ctx->task), file = fdspan_number(own, held);
	__u64 inode = FDSPAN_FOLLOW(own, struct file, file, f_inode);
	__u32 fd = ctx->fd;
	__u64 table = FDSPAN_FOLLOW(own, struct task_struct, task, files);

#ifndef FDSPAN_BY_PROBE_READ
	if ((iteration.deleted_only || iteration.fields & FDSPAN_WANT_STAT) &&
	    (own->ahead_table != table || fd - own->ahead_fd >= FDSPAN_AHEAD))
		fdspan_look_ahead(reader, task, fd);
#endif
	if (iteration.deleted_only && fdspan_left_out(reader, inode, FDSPAN_FOLLOW(own, struct file, file, f_path.dentry)))
		return 0;
	/* The memory of a task that is gone may be another's; its number is not, so soon. */
	if ((own->task != task || own->began_ns != iteration.began_ns ||
	     own->task_pid != (__u32)FDSPAN_GET(struct task_struct, task, pid)) &&
	    !fdspan_begin_task(reader, task))
		return 0;
	if (own->skipped)
		return 0;
	fdspan_next_row(own, FDSPAN_ROW_FD);
	row->fd = fd;
	if (row->header.tid != row->header.pid)
		row->table_id = fdspan_hidden(table);
	if (iteration.fields & (FDSPAN_WANT_PATH | FDSPAN_WANT_STAT)) {
		fdspan_fill_inode(reader, inode);
		fdspan_fill_path(own, held, file);
	}
	if (iteration.fields & FDSPAN_WANT_FDINFO) {
		__u64 fdt = FDSPAN_FOLLOW(own, struct files_struct, table, fdt);
		__u64 cloexec = 0;

		bpf_probe_read_kernel(&cloexec, sizeof(cloexec),
				      FDSPAN_GET(struct fdtable, fdt, close_on_exec) + fd / FDSPAN_WORD_BITS);
		row->open_flags = FDSPAN_GET(struct file, file, f_flags) & ~O_CLOEXEC;
		if (cloexec >> (fd % FDSPAN_WORD_BITS) & 1)
			row->open_flags |= O_CLOEXEC;
		row->position = FDSPAN_GET(struct file, file, f_pos);
	}
	if (iteration.fields & (FDSPAN_WANT_FDINFO | FDSPAN_WANT_STAT))
		row->mnt_id = FDSPAN_GET(struct mount, fdspan_mount_of(FDSPAN_FOLLOW(own, struct file, file, f_path.mnt)),
					 mnt_id);
	if (iteration.fields & FDSPAN_WANT_TIMES)
		fdspan_fill_descriptor(reader, task, table, file, inode);
	fdspan_write_row(own, ctx->meta->seq);
	return 0;
}

SEC("iter/task_vma")
int fdspan_task_vma(struct bpf_iter__task_vma *ctx)
{
	__u32 reader = fdspan_reader();
	struct fdspan_private *own = fdspan_private_of(reader);
	struct vm_area_struct *vma = ctx->vma;

	if (!own || !ctx->task || !vma)
		return 0;
	struct fdspan_row *row = &own->row;
	struct file *held = vma->vm_file;

	if (!held)
		return 0;
	__u64 task = fdspan_number(own, ctx->task), file = fdspan_number(own, held);
	__u64 leader = FDSPAN_FOLLOW(own, struct task_struct, task, group_leader);

	/* Threads share their leader's memory; one without leader speaks for all. */
	if (task != leader && FDSPAN_GET(struct task_struct, leader, mm))
		return 0;
	bool backing = fdspan_backing(own, file);

	if (!fdspan_begin_row(reader, own, task, FDSPAN_ROW_MEM))
		return 0;
	__u64 flags = vma->vm_flags;

	row->position = vma->vm_start;
	row->end = vma->vm_end;
	row->map_flags = (flags & VM_READ ? 1 : 0) | (flags & VM_WRITE ? 2 : 0) | (flags & VM_EXEC ? 4 : 0) |
			 (flags & VM_MAYSHARE ? 1U << 31 : 0);
	if (backing) {
		__u64 dentry = FDSPAN_FOLLOW(own, struct backing_file___user, file, user_path.dentry);

		if (!fdspan_fill_place(reader, dentry, FDSPAN_FOLLOW(own, struct backing_file___user, file, user_path.mnt)))
			return 0;
	} else {
		__u64 dentry = FDSPAN_FOLLOW(own, struct file, file, f_path.dentry);

		row->mnt_id = FDSPAN_GET(struct mount, fdspan_mount_of(FDSPAN_FOLLOW(own, struct file, file, f_path.mnt)),
					 mnt_id);
		/* Not f_inode: before 6.5 what overlayfs maps has the path above and the inode below. */
		__u64 inode = FDSPAN_FOLLOW(own, struct dentry, dentry, d_inode);

		if (fdspan_left_out(reader, inode, dentry))
			return 0;
		fdspan_fill_inode(reader, inode);
		fdspan_fill_path(own, held, file);
	}
	fdspan_fill_description(reader, task, file, backing);
	fdspan_write_row(own, ctx->meta->seq);
	return 0;
}

/*
 * exe, cwd and root are not held by the iterator: what was read of them counts only if the task still has them afterwards,
 * because until then nobody can have freed what leads there.
 */
__noinline int fdspan_fill_held(__u32 reader, __u64 task, __u32 kind)
{
	struct fdspan_private *own = fdspan_private_of(reader);

	if (!own || !fdspan_begin_row(reader, own, task, kind))
		return 0;
	if (kind == FDSPAN_ROW_EXE) {
		__u64 mm = FDSPAN_FOLLOW(own, struct task_struct, task, mm);
		__u64 file = mm ? FDSPAN_FOLLOW(own, struct mm_struct, mm, exe_file) : 0;

		if (!file || !fdspan_fill_place(reader, FDSPAN_FOLLOW(own, struct file, file, f_path.dentry),
						FDSPAN_FOLLOW(own, struct file, file, f_path.mnt)))
			return 0;
		fdspan_fill_description(reader, task, file, false);
		return (__u64)FDSPAN_GET(struct task_struct, task, mm) == mm;
	}
	__u64 fs = FDSPAN_FOLLOW(own, struct task_struct, task, fs);

	if (!fs)
		return 0;
	__u64 at = fs + (kind == FDSPAN_ROW_CWD ? bpf_core_field_offset(struct fs_struct, pwd)
						: bpf_core_field_offset(struct fs_struct, root));
	__u64 dentry = FDSPAN_FOLLOW(own, struct path, at, dentry), mnt = FDSPAN_FOLLOW(own, struct path, at, mnt);

	if (!dentry || !mnt || !fdspan_fill_place(reader, dentry, mnt))
		return 0;
	if (own->row.header.tid != own->row.header.pid)
		own->row.place_id = fdspan_hidden(fs);
	return (__u64)FDSPAN_GET(struct task_struct, task, fs) == fs;
}

/* The memory of a struct file is none of another type while somebody may look at it (SLAB_TYPESAFE_BY_RCU). */
static __always_inline bool fdspan_description_lives(__u64 file, __u64 inode)
{
	return fdspan_file_count((const struct file *)file) > 0 &&
	       (__u64)FDSPAN_READ(struct file, file, f_inode) == inode;
}

/*
 * Descriptions that no table and no mapping may show: in flight over a socket, fixed in an io_uring, held by the kernel. Only the maps
 * of tracking lead to them.
 */
SEC("iter/bpf_map_elem")
int fdspan_hidden_files(struct bpf_iter__bpf_map_elem *ctx)
{
	__u32 reader = fdspan_reader();
	struct fdspan_private *own = fdspan_private_of(reader);
	struct fdspan_description *description = ctx->value;
	__u64 *key = ctx->key;

	if (!own || !key || !description)
		return 0;
	struct fdspan_row *row = &own->row;
	__u64 file = *key, inode = description->inode;

	if (!fdspan_description_lives(file, inode) || FDSPAN_GET(struct inode, inode, i_nlink))
		return 0;
	__builtin_memset(row, 0, sizeof(*row));
	row->header.kind = FDSPAN_ROW_HIDDEN;
	row->fd = -1;
	row->at_ns = bpf_ktime_get_boot_ns();
	fdspan_fill_place(reader, FDSPAN_FOLLOW(own, struct file, file, f_path.dentry),
			  FDSPAN_FOLLOW(own, struct file, file, f_path.mnt));
	row->open_flags = FDSPAN_GET(struct file, file, f_flags);
	row->description_earliest_ns = description->opened_earliest_ns;
	row->description_latest_ns = description->opened_latest_ns;
	row->description_id = description->id ?: fdspan_hidden(file);
	/* Until now it was alive: so was all that was read. */
	if (fdspan_description_lives(file, inode))
		fdspan_write_row(own, ctx->meta->seq);
	return 0;
}

/* fs/proc/array.c, proc_task_name: the names of kernel threads do not end at 15 bytes (since 5.17). */
struct kthread {
	char *full_name;
} __attribute__((preserve_access_index));
struct task_struct___worker {
	void *worker_private;
} __attribute__((preserve_access_index));

static __always_inline void fdspan_fill_comm(struct fdspan_private *own, __u64 task)
{
	struct fdspan_process_row *process = &process_row;

	bpf_probe_read_kernel_str(process->comm, sizeof(process->comm),
				  (void *)(task + bpf_core_field_offset(struct task_struct, comm)));
	if ((process->task_flags & (PF_KTHREAD | PF_WQ_WORKER)) != PF_KTHREAD ||
	    !bpf_core_field_exists(((struct task_struct___worker *)0)->worker_private) ||
	    !bpf_core_field_exists(((struct kthread *)0)->full_name))
		return;
	__u64 kthread = FDSPAN_FOLLOW(own, struct task_struct___worker, task, worker_private);
	const char *name = kthread ? FDSPAN_GET(struct kthread, kthread, full_name) : NULL;

	if (name)
		bpf_probe_read_kernel_str(process->comm, sizeof(process->comm), name);
}

/* Which thread comes first, and so stands for its process, may not be seen from rows of which some are left out. */
static __always_inline void fdspan_write_thread(__u32 reader, struct fdspan_private *own, struct seq_file *seq, __u64 task)
{
	__u64 fs = FDSPAN_FOLLOW(own, struct task_struct, task, fs);

	if (!fs || !fdspan_begin_row(reader, own, task, FDSPAN_ROW_THREAD))
		return;
	own->row.table_id = fdspan_hidden(FDSPAN_FOLLOW(own, struct task_struct, task, files));
	own->row.place_id = fdspan_hidden(fs);
	fdspan_write_row(own, seq);
}

/* How many slots a table has; 0: none of its first is taken. */
static __always_inline __u32 fdspan_slots(struct fdspan_private *own, __u64 table)
{
	__u64 open = 0;

	if (!table)
		return 0;
	__u64 fdt = FDSPAN_FOLLOW(own, struct files_struct, table, fdt);
	__u32 slots = FDSPAN_GET(struct fdtable, fdt, max_fds);

	bpf_probe_read_kernel(&open, sizeof(open), FDSPAN_GET(struct fdtable, fdt, open_fds));
	return slots <= FDSPAN_WORD_BITS && !open ? 0 : slots;
}

SEC("iter/task")
int fdspan_task(struct bpf_iter__task *ctx)
{
	__u32 reader = fdspan_reader();
	struct fdspan_private *own = fdspan_private_of(reader);
	struct seq_file *seq = ctx->meta->seq;
	struct fdspan_process_row *process = &process_row;

	if (!own || !ctx->task)
		return 0;
	__u64 task = fdspan_number(own, ctx->task);
	__u64 leader = FDSPAN_FOLLOW(own, struct task_struct, task, group_leader);
	__u32 kinds = fdspan_have_places ? iteration.kinds : 0;

	if (task == leader) {
		if (!fdspan_begin_task(reader, task))
			return 0;
		__u64 parent = FDSPAN_FOLLOW(own, struct task_struct, task, real_parent);

		process->header = own->header;
		process->header.size = sizeof(*process);
		process->header.kind = FDSPAN_ROW_PROCESS;
		process->slots = fdspan_slots(own, FDSPAN_FOLLOW(own, struct task_struct, task, files));
		process->ppid = fdspan_tid(reader, FDSPAN_FOLLOW(own, struct task_struct, parent, group_leader));
		process->uid = FDSPAN_GET(struct cred, FDSPAN_FOLLOW(own, struct task_struct, task, real_cred), uid.val);
		process->task_flags = FDSPAN_GET(struct task_struct, task, flags);
		fdspan_fill_comm(own, task);
		bpf_seq_write(seq, process, sizeof(*process));
	} else {
		threads_seen++;
		threads_misjudged = !bpf_core_type_exists(struct bpf_iter_task___since_6_7);
		if (!FDSPAN_GET(struct task_struct, leader, fs))
			fdspan_write_thread(reader, own, seq, task);
		/* What a thread shares with a leader that is alive is the leader's. */
		if (FDSPAN_GET(struct task_struct, leader, mm))
			kinds &= ~(1U << FDSPAN_ROW_EXE);
		if (FDSPAN_GET(struct task_struct, leader, fs) == FDSPAN_GET(struct task_struct, task, fs))
			kinds &= ~(1U << FDSPAN_ROW_CWD | 1U << FDSPAN_ROW_ROOT);
	}
	if ((kinds >> FDSPAN_ROW_EXE & 1) && fdspan_fill_held(reader, task, FDSPAN_ROW_EXE))
		fdspan_write_row(own, seq);
	if ((kinds >> FDSPAN_ROW_CWD & 1) && fdspan_fill_held(reader, task, FDSPAN_ROW_CWD))
		fdspan_write_row(own, seq);
	if ((kinds >> FDSPAN_ROW_ROOT & 1) && fdspan_fill_held(reader, task, FDSPAN_ROW_ROOT))
		fdspan_write_row(own, seq);
	return 0;
}
