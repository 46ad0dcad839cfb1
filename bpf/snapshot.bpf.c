// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * Snapshots: iterators over all tasks, their descriptors and their mappings. One object per reader, and a reader reads with
 * one thread: the scratch row is the object's own and is never used twice at once.
 * The iterators show the pid namespace of the one who opened them; so do the rows.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "wire.h"
#include "rows.h"
#include "compat.bpf.h"
#include "maps.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The maps of tracking were handed over; otherwise what needs them is not even verified. */
const volatile bool fdspan_have_times = false;

struct fdspan_iteration iteration;

struct {
	struct fdspan_row row;
	char text[FDSPAN_PATH_BYTES + FDSPAN_NAME_BYTES];
} scratch;

struct fdspan_process_row process_row;

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
 * Since 6.2 the verifier looks each pointer that is loaded through a trusted one up by name in the whole BTF (kernel/bpf/verifier.c,
 * type_is_trusted), half a millisecond a time. Only bpf_d_path needs trust; the rest walks a copy without it. The kfunc for
 * that came with the same release as struct bpf_list_head, which, unlike a function, a program can ask for.
 */
struct bpf_list_head___since_6_2 {
	__u64 __opaque[2];
} __attribute__((preserve_access_index));

#define FDSPAN_UNTRUSTED(type, pointer)                                                                                \
	(bpf_core_type_exists(struct bpf_list_head___since_6_2) ? FDSPAN_CAST(type, pointer) : (pointer))

/* A pointer of the context as a number, which the verifier lets nobody compute with otherwise. */
static __always_inline __u64 fdspan_number(const void *pointer)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &pointer);
	return number;
}

/* ---- tasks ---- */

static __always_inline struct task_struct *fdspan_reader(void)
{
	struct task_struct *current = (struct task_struct *)bpf_get_current_task_btf();

	return FDSPAN_UNTRUSTED(struct task_struct, current);
}

/* kernel/pid.c, pid_nr_ns: the number of `pid` in the namespace of the reader, 0 outside of it. */
static __always_inline __u32 fdspan_pid_number(struct pid *pid)
{
	struct pid *reader = fdspan_reader()->thread_pid;
	__u32 level = reader->level;
	struct upid own = {}, seen = {};

	if (pid->level < level)
		return 0;
	/* numbers[] ends the struct; its elements are as large as the kernel's, which CO-RE does not know of. */
	bpf_probe_read_kernel(&own, sizeof(own), (void *)reader + bpf_core_field_offset(struct pid, numbers) +
							level * sizeof(struct upid));
	bpf_probe_read_kernel(&seen, sizeof(seen), (void *)pid + bpf_core_field_offset(struct pid, numbers) +
							level * sizeof(struct upid));
	return seen.ns == own.ns ? (__u32)seen.nr : 0;
}

static __always_inline bool fdspan_reader_sees_all_pids(void)
{
	return fdspan_reader()->thread_pid->level == 0;
}

static __always_inline __u32 fdspan_tid(struct task_struct *task)
{
	return fdspan_reader_sees_all_pids() ? (__u32)task->pid : fdspan_pid_number(task->thread_pid);
}

static __always_inline bool fdspan_task_wanted(struct task_struct *task, struct fdspan_row_header *header)
{
	struct task_struct *leader = task->group_leader;
	__u32 pid = fdspan_tid(leader);

	if (iteration.filtered && !bpf_map_lookup_elem(&wanted, &pid))
		return false;
	header->pid = pid;
	header->tid = task == leader ? pid : fdspan_tid(task);
	header->started_ns = leader->start_boottime;
	return true;
}

/* Syscalls of 32-bit tasks have other tracepoints: what they did to their table was not seen. */
struct fdspan_thread_info___local {
	unsigned long flags;
} __attribute__((preserve_access_index));
struct task_struct___thread_info {
	struct fdspan_thread_info___local thread_info;
} __attribute__((preserve_access_index));
#if defined(__TARGET_ARCH_x86)
#define FDSPAN_TIF_32BIT 29 /* TIF_ADDR32 */
#else
#define FDSPAN_TIF_32BIT 22 /* TIF_32BIT */
#endif

static __always_inline bool fdspan_task_trusted(struct task_struct *task)
{
	const struct task_struct___thread_info *with_info = (void *)task;

	if (!bpf_core_field_exists(with_info->thread_info.flags))
		return true;
	return !(BPF_CORE_READ(with_info, thread_info.flags) >> FDSPAN_TIF_32BIT & 1);
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
struct ext4_sb_info {
	unsigned int s_cluster_bits;
} __attribute__((preserve_access_index));
struct shmem_inode_info {
	struct inode vfs_inode;
	struct timespec64 i_crtime; /* since 6.0 (commit f7cd16a55837 "mm: shmem: implement POSIX_FADV_..." era) */
} __attribute__((preserve_access_index));

/* The inode's ctime was i_ctime, __i_ctime since 6.6, and seconds and nanoseconds of their own since 6.11. */
struct inode___seconds {
	__s64 i_ctime_sec;
} __attribute__((preserve_access_index));
struct inode___hidden {
	struct timespec64 __i_ctime;
} __attribute__((preserve_access_index));
struct inode___plain {
	struct timespec64 i_ctime;
} __attribute__((preserve_access_index));

static __always_inline __s64 fdspan_changed(struct inode *inode)
{
	struct inode___seconds *seconds = (void *)inode;
	struct inode___hidden *hidden = (void *)inode;
	struct inode___plain *plain = (void *)inode;

	if (bpf_core_field_exists(seconds->i_ctime_sec))
		return BPF_CORE_READ(seconds, i_ctime_sec);
	if (bpf_core_field_exists(hidden->__i_ctime))
		return BPF_CORE_READ(hidden, __i_ctime.tv_sec);
	if (bpf_core_field_exists(plain->i_ctime))
		return BPF_CORE_READ(plain, i_ctime.tv_sec);
	return 0;
}

static __always_inline void fdspan_fill_birth(struct fdspan_row *row, struct inode *inode, __s64 seconds,
					      long nanoseconds)
{
	if (seconds <= 0)
		return;
	row->changed_seconds = fdspan_changed(inode);
	row->born_seconds = seconds;
	row->born_nanoseconds = nanoseconds;
	row->flags |= FDSPAN_ROW_HAS_BIRTH;
}

/* fs/ext4/inode.c, ext4_getattr and ext4_file_getattr: blocks promised to delayed writes count as allocated. */
static __always_inline void fdspan_fill_ext4(struct fdspan_row *row, struct inode *inode, struct super_block *sb)
{
	__u32 type = 0;

	/* The ext2 driver has the same magic and other inodes; ext4 driving ext2 or ext3 delays no allocation. */
	bpf_probe_read_kernel(&type, sizeof(type), sb->s_type->name);
	if (type != ('e' | 'x' << 8 | 't' << 16 | '4' << 24) || !bpf_core_type_exists(struct ext4_inode_info))
		return;
	struct ext4_inode_info *info = (void *)inode - bpf_core_field_offset(struct ext4_inode_info, vfs_inode);
	__u32 reserved = BPF_CORE_READ(info, i_reserved_data_blocks);

	if (reserved) {
		struct ext4_sb_info *sbi = sb->s_fs_info;

		row->blocks += (__u64)reserved << (BPF_CORE_READ(sbi, s_cluster_bits) & 31)
			       << ((sb->s_blocksize_bits - 9) & 31);
	}
	if (BPF_CORE_READ(info, i_inline_off))
		row->flags |= FDSPAN_ROW_ASK_STAT;
	if (iteration.fields & FDSPAN_WANT_TIMES)
		fdspan_fill_birth(row, inode, BPF_CORE_READ(info, i_crtime.tv_sec), BPF_CORE_READ(info, i_crtime.tv_nsec));
}

static __always_inline void fdspan_fill_shmem(struct fdspan_row *row, struct inode *inode)
{
	if (!(iteration.fields & FDSPAN_WANT_TIMES) || !bpf_core_field_exists(((struct shmem_inode_info *)0)->i_crtime))
		return;
	struct shmem_inode_info *info = (void *)inode - bpf_core_field_offset(struct shmem_inode_info, vfs_inode);

	fdspan_fill_birth(row, inode, BPF_CORE_READ(info, i_crtime.tv_sec), BPF_CORE_READ(info, i_crtime.tv_nsec));
}

static __always_inline void fdspan_fill_inode(struct fdspan_row *row, struct inode *inode)
{
	struct super_block *sb = inode->i_sb;
	__u64 magic = sb->s_magic;

	row->ino = inode->i_ino;
	row->size = inode->i_size;
	row->blocks = inode->i_blocks;
	row->fs_magic = magic;
	row->dev = sb->s_dev;
	row->rdev = inode->i_rdev;
	row->nlink = inode->i_nlink;
	row->mode = inode->i_mode;
	if (magic == EXT4_SUPER_MAGIC)
		fdspan_fill_ext4(row, inode, sb);
	else if (magic == TMPFS_MAGIC)
		fdspan_fill_shmem(row, inode);
	else if (!fdspan_inode_tells(magic))
		row->flags |= FDSPAN_ROW_ASK_STAT;
	if (row->flags & FDSPAN_ROW_ASK_STAT) {
		struct fdspan_settings *with = fdspan_settings_get();

		if (with)
			row->inode_id = fdspan_hide(with, fdspan_number(inode));
	}
}

static __always_inline __s32 fdspan_mount_id(struct vfsmount *mnt)
{
	struct mount *mount = (void *)mnt - bpf_core_field_offset(struct mount, mnt);

	return BPF_CORE_READ(mount, mnt_id);
}

/* include/linux/dcache.h, d_unlinked: such a path gets " (deleted)" appended (fs/d_path.c). */
static __always_inline bool fdspan_unlinked(struct dentry *dentry)
{
	return !dentry->d_hash.pprev && dentry->d_parent != dentry;
}

/* In no directory and not a root: simple_dname and its like make up the path. */
static __always_inline bool fdspan_pseudo(struct dentry *dentry, struct vfsmount *mnt)
{
	return dentry->d_parent == dentry && mnt->mnt_root != dentry;
}

static __always_inline void fdspan_fill_label(struct fdspan_row *row, struct dentry *dentry)
{
	long copied = bpf_probe_read_kernel_str(scratch.text, FDSPAN_LABEL_BYTES, dentry->d_name.name);

	if (copied > 0)
		row->header.text_bytes = copied - 1;
	row->flags |= FDSPAN_ROW_HAS_LABEL;
}

/* The path of the file that the iterator holds, or as much of its name as decides what it is. */
static __always_inline void fdspan_fill_path(struct fdspan_row *row, struct file *file, struct file *held)
{
	struct dentry *dentry = file->f_path.dentry;
	__u32 magic = row->fs_magic;
	bool unlinked = fdspan_unlinked(dentry);

	if (fdspan_pseudo(dentry, file->f_path.mnt))
		row->flags |= FDSPAN_ROW_PSEUDO;
	if (magic == PIPEFS_MAGIC || magic == SOCKFS_MAGIC)
		return; /* the path is "pipe:[INO]": user space can write that */
	if (magic == ANON_INODE_FS_MAGIC) {
		fdspan_fill_label(row, dentry);
		return;
	}
	if (iteration.fields & FDSPAN_WANT_PATH) {
		long bytes = bpf_d_path(&held->f_path, scratch.text, FDSPAN_PATH_BYTES);

		if (fdspan_unlinked(dentry) != unlinked) {
			/* Unlinked at this moment; a second look finds it done. */
			unlinked = true;
			bytes = bpf_d_path(&held->f_path, scratch.text, FDSPAN_PATH_BYTES);
		}
		if (bytes > 0) {
			row->header.text_bytes = bytes - 1;
			row->flags |= FDSPAN_ROW_HAS_PATH;
		} else {
			row->flags |= FDSPAN_ROW_CUT;
		}
	} else if (unlinked || (row->flags & FDSPAN_ROW_PSEUDO)) {
		fdspan_fill_label(row, dentry);
	}
	if (unlinked)
		row->flags |= FDSPAN_ROW_MARKED;
}

/* ---- a path by hand, for what the iterator does not hold: every step is a read that may fail, none can fault ---- */

struct fdspan_steps {
	__u64 dentry;
	__u64 mount;
	__u64 root_dentry;
	__u64 root_mnt;
	__u32 bytes;
	__u32 flags;
	__u32 done;
};
#define FDSPAN_MAX_STEPS 4096 /* names of one byte in a path of PATH_MAX, and mounts */

/* One step of fs/d_path.c, prepend_path. */
static long fdspan_step(__u32 index, void *context)
{
	struct fdspan_steps *steps = context;
	struct mount *mount = (struct mount *)steps->mount;
	struct dentry *dentry = (struct dentry *)steps->dentry;
	__u32 bytes = steps->bytes;

	if (steps->dentry == steps->root_dentry &&
	    steps->mount + bpf_core_field_offset(struct mount, mnt) == steps->root_mnt) {
		steps->done = 1;
		return 1;
	}
	if (dentry == BPF_CORE_READ(mount, mnt.mnt_root)) {
		__u64 parent = (__u64)BPF_CORE_READ(mount, mnt_parent);

		if (parent == steps->mount || !parent) {
			steps->done = 1;
			return 1;
		}
		steps->dentry = (__u64)BPF_CORE_READ(mount, mnt_mountpoint);
		steps->mount = parent;
		return 0;
	}
	__u64 parent = (__u64)BPF_CORE_READ(dentry, d_parent);

	if (parent == steps->dentry) {
		steps->done = 1;
		if (bytes)
			return 1;
		steps->flags |= FDSPAN_ROW_PSEUDO;
	}
	if (bytes >= FDSPAN_PATH_BYTES)
		return 1;
	long copied = bpf_probe_read_kernel_str(scratch.text + bytes, FDSPAN_NAME_BYTES, BPF_CORE_READ(dentry, d_name.name));

	if (copied <= 0)
		return 1;
	steps->bytes = bytes + copied;
	steps->dentry = parent;
	return steps->done;
}

static __always_inline void fdspan_fill_steps(struct fdspan_row *row, __u64 dentry, __u64 mnt)
{
	struct fs_struct *own = fdspan_reader()->fs;
	struct fdspan_steps steps = {
		.dentry = dentry,
		.mount = mnt - bpf_core_field_offset(struct mount, mnt),
		.root_dentry = fdspan_number(own->root.dentry),
		.root_mnt = fdspan_number(own->root.mnt),
	};
	struct dentry *named = (struct dentry *)dentry;
	bool unlinked = !BPF_CORE_READ(named, d_hash.pprev) && (__u64)BPF_CORE_READ(named, d_parent) != dentry;

	row->flags &= ~(FDSPAN_ROW_HAS_PATH | FDSPAN_ROW_HAS_LABEL | FDSPAN_ROW_MARKED | FDSPAN_ROW_PSEUDO);
	row->header.text_bytes = 0;
	bpf_loop(FDSPAN_MAX_STEPS, fdspan_step, &steps, 0);
	row->flags |= steps.flags;
	if (unlinked)
		row->flags |= FDSPAN_ROW_MARKED;
	if (!steps.done || steps.bytes > FDSPAN_PATH_BYTES) {
		row->flags |= FDSPAN_ROW_CUT;
		return;
	}
	row->header.text_bytes = steps.bytes;
	row->flags |= FDSPAN_ROW_NAMES;
}

/*
 * What overlayfs maps is a file of its layer, which says itself whose it is (struct backing_file: since 6.5 with the path
 * below as a field, since 6.8 (commit def3ae83da02 "fs: store real path instead of fake path in backing file f_path") with
 * the path above). The mapping is shown as the file above.
 */
struct backing_file___user {
	struct path user_path;
} __attribute__((preserve_access_index));

/* FMODE_BACKING was bit 25 until 6.14 gave that to FMODE_NONOTIFY, with the pre-content events (commit 95101401bb50). */
enum fsnotify_data_type___since_6_14 { FSNOTIFY_EVENT_FILE_RANGE___since_6_14 };

static __always_inline bool fdspan_backing(struct file *file)
{
	struct backing_file___user *backing = (void *)file;
	__u32 bit = bpf_core_enum_value_exists(enum fsnotify_data_type___since_6_14,
					       FSNOTIFY_EVENT_FILE_RANGE___since_6_14) ? 24 : 25;

	return bpf_core_field_exists(backing->user_path) && (file->f_mode >> bit & 1);
}

static __always_inline void fdspan_fill_backing(struct fdspan_row *row, struct file *file)
{
	struct backing_file___user *backing = (void *)file;

	struct dentry *dentry = BPF_CORE_READ(backing, user_path.dentry);
	struct vfsmount *mnt = BPF_CORE_READ(backing, user_path.mnt);
	struct inode *inode = BPF_CORE_READ(dentry, d_inode);
	struct fdspan_settings *with = fdspan_settings_get();

	row->flags |= FDSPAN_ROW_ASK_STAT;
	row->ino = BPF_CORE_READ(inode, i_ino);
	row->size = BPF_CORE_READ(inode, i_size);
	row->blocks = BPF_CORE_READ(inode, i_blocks);
	row->nlink = BPF_CORE_READ(inode, i_nlink);
	row->mode = BPF_CORE_READ(inode, i_mode);
	row->fs_magic = BPF_CORE_READ(inode, i_sb, s_magic);
	row->dev = BPF_CORE_READ(inode, i_sb, s_dev);
	row->mnt_id = fdspan_mount_id(mnt);
	if (with)
		row->inode_id = fdspan_hide(with, fdspan_number(inode));
	fdspan_fill_steps(row, fdspan_number(dentry), fdspan_number(mnt));
}

/* ---- rows ---- */

static __always_inline void fdspan_begin_row(struct fdspan_row *row, __u16 kind)
{
	struct fdspan_row_header header = row->header;

	__builtin_memset(row, 0, sizeof(*row));
	row->header = header;
	row->header.kind = kind;
	row->header.text_bytes = 0;
	row->fd = -1;
	row->mnt_id = -1;
}

static __always_inline void fdspan_write_row(struct seq_file *seq)
{
	__u32 size = sizeof(scratch.row) + scratch.row.header.text_bytes;

	if (size > sizeof(scratch))
		return;
	scratch.row.header.size = size;
	bpf_seq_write(seq, &scratch, size);
}

/* A description that no hook saw being opened: it is open now. */
static __always_inline void fdspan_census_description(__u64 file, __u64 inode, __u64 now)
{
	struct fdspan_settings *with = fdspan_settings_get();
	struct fdspan_description *known = bpf_map_lookup_elem(&descriptions, &file);

	if (!with || (known && known->inode == inode))
		return;
	if (known)
		bpf_map_delete_elem(&descriptions, &file);
	struct fdspan_description found = {
		.opened_latest_ns = now,
		.id = fdspan_hide(with, file),
		.inode = inode,
		.fd = -1,
		.flags = FDSPAN_DESCRIPTION_CENSUS,
	};

	/* A hook that stamps it in this moment knows better. */
	if (bpf_map_update_elem(&descriptions, &file, &found, BPF_NOEXIST) && !bpf_map_lookup_elem(&descriptions, &file))
		FDSPAN_COUNT(description_full);
}

struct fdspan_chunk empty_chunk;

/*
 * Slot (table, fd) has no evidence: it is filled now. Only tables that no census met before take part; in the others the
 * bits are as old as census_ns says.
 */
static __always_inline void fdspan_census_slot(__u64 table, __s32 fd, __u32 owner, __u64 now)
{
	struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

	if (!known) {
		struct fdspan_table found = {.census_ns = now, .owner = owner};

		bpf_map_update_elem(&tables, &table, &found, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&tables, &table);
		if (!known) {
			FDSPAN_COUNT(table_full);
			return;
		}
	}
	if (known->census_ns && known->census_ns < iteration.census_began_ns)
		return;
	if ((__u32)fd >= FDSPAN_INLINE_WORDS * FDSPAN_WORD_BITS) {
		struct fdspan_chunk_key key = {
			.table = table,
			.chunk = (__u32)fd / FDSPAN_WORD_BITS / FDSPAN_CHUNK_WORDS,
			.set = FDSPAN_SET_PRESENT,
		};

		known->flags |= FDSPAN_TABLE_LARGE;
		bpf_map_update_elem(&table_chunks, &key, &empty_chunk, BPF_NOEXIST);
	}
	__u64 *word = fdspan_slot_word(known, table, FDSPAN_SET_PRESENT, fd);

	if (!word) {
		FDSPAN_COUNT(table_full);
		return;
	}
	/* All slots of the set were filled by then, this last one included. */
	known->census_ns = now;
	__sync_fetch_and_or(word, 1ULL << ((__u32)fd % FDSPAN_WORD_BITS));
}

/* Last exec that the hooks saw of the process whose table this is; 0: none. */
static __always_inline __u64 fdspan_exec_of(struct task_struct *task)
{
	__u64 table = fdspan_number(task->files);
	struct fdspan_table *known;

	if (!fdspan_have_times || !table)
		return 0;
	known = bpf_map_lookup_elem(&tables, &table);
	return known && !(known->flags & FDSPAN_TABLE_FOREIGN) ? known->exec_ns : 0;
}

/* The description behind a mapping or an executable. */
static __always_inline void fdspan_fill_description(struct fdspan_row *row, struct task_struct *task, __u64 file,
						    __u64 inode, bool by_exec, bool backing)
{
	struct fdspan_settings *with = fdspan_settings_get();

	if (by_exec)
		row->flags |= FDSPAN_ROW_OPENED_BY_EXEC;
	if (task->flags & PF_FORKNOEXEC)
		row->flags |= FDSPAN_ROW_FORKED;
	if (!(iteration.fields & FDSPAN_WANT_TIMES) || !with)
		return;
	row->opened_latest_ns = fdspan_exec_of(task);
	row->description_id = fdspan_hide(with, file);
	/* What exec opened, no hook stamps: an entry for it would be a leftover. */
	if (!fdspan_have_times || by_exec || backing)
		return;
	if (iteration.census)
		fdspan_census_description(file, inode, row->at_ns);
	struct fdspan_description *description = fdspan_description_of(file, inode);

	if (description) {
		row->description_earliest_ns = description->opened_earliest_ns;
		row->description_latest_ns = description->opened_latest_ns;
		row->description_id = description->id;
	}
}

SEC("iter/task_file")
int fdspan_task_file(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *held = ctx->file;
	struct fdspan_row *row = &scratch.row;

	if (!task || !held)
		return 0;
	struct file *file = FDSPAN_UNTRUSTED(struct file, held);

	task = FDSPAN_UNTRUSTED(struct task_struct, task);
	struct inode *inode = file->f_inode;

	if (iteration.deleted_only && inode->i_nlink)
		return 0;
	if (!fdspan_task_wanted(task, &row->header))
		return 0;
	fdspan_begin_row(row, FDSPAN_ROW_FD);
	struct files_struct *files = task->files;
	struct fdspan_settings *with = fdspan_settings_get();
	__u64 table = fdspan_number(files), number = fdspan_number(file);
	__u32 fd = ctx->fd;

	if (!with)
		return 0;
	row->at_ns = bpf_ktime_get_boot_ns();
	row->fd = fd;
	if (!task->group_leader->files)
		row->flags |= FDSPAN_ROW_LEADERLESS;
	if (row->header.tid != row->header.pid)
		row->table_id = fdspan_hide(with, table);
	fdspan_fill_inode(row, inode);
	fdspan_fill_path(row, file, held);
	if (iteration.fields & FDSPAN_WANT_FDINFO) {
		struct fdtable *fdt = files->fdt;
		__u64 cloexec = 0;

		bpf_probe_read_kernel(&cloexec, sizeof(cloexec), fdt->close_on_exec + fd / FDSPAN_WORD_BITS);
		row->open_flags = file->f_flags & ~O_CLOEXEC;
		if (cloexec >> (fd % FDSPAN_WORD_BITS) & 1)
			row->open_flags |= O_CLOEXEC;
		row->position = file->f_pos;
	}
	if (iteration.fields & (FDSPAN_WANT_FDINFO | FDSPAN_WANT_STAT))
		row->mnt_id = fdspan_mount_id(file->f_path.mnt);
	if (iteration.fields & FDSPAN_WANT_TIMES) {
		struct fdspan_times times = {};

		if (fdspan_have_times) {
			__u64 inode_number = fdspan_number(inode);

			/* First: what the census enters is no evidence for what came before it. */
			fdspan_join(table, fd, number, inode_number, fdspan_task_trusted(task), &times);
			if (iteration.census) {
				fdspan_census_description(number, inode_number, row->at_ns);
				if (!times.opened_latest_ns)
					fdspan_census_slot(table, fd, task->tgid, row->at_ns);
			}
		}
		row->opened_earliest_ns = times.opened_earliest_ns;
		row->opened_latest_ns = times.opened_latest_ns;
		row->description_earliest_ns = times.description_earliest_ns;
		row->description_latest_ns = times.description_latest_ns;
		row->description_id = times.description_id ?: fdspan_hide(with, number);
	}
	fdspan_write_row(ctx->meta->seq);
	return 0;
}

SEC("iter/task_vma")
int fdspan_task_vma(struct bpf_iter__task_vma *ctx)
{
	struct task_struct *task = ctx->task;
	struct vm_area_struct *vma = ctx->vma;
	struct fdspan_row *row = &scratch.row;

	if (!task || !vma)
		return 0;
	struct file *held = vma->vm_file;

	if (!held)
		return 0;
	struct file *file = FDSPAN_UNTRUSTED(struct file, held);

	task = FDSPAN_UNTRUSTED(struct task_struct, task);
	/* Threads share their leader's memory; one without leader speaks for all. */
	if (task != task->group_leader && task->group_leader->mm)
		return 0;
	struct inode *inode = file->f_inode;
	bool backing = fdspan_backing(file);

	if (iteration.deleted_only && !backing && inode->i_nlink)
		return 0;
	if (!fdspan_task_wanted(task, &row->header))
		return 0;
	fdspan_begin_row(row, FDSPAN_ROW_MEM);
	row->at_ns = bpf_ktime_get_boot_ns();
	row->position = vma->vm_start;
	row->end = vma->vm_end;
	__u64 flags = vma->vm_flags;

	row->map_flags = (flags & VM_READ ? 1 : 0) | (flags & VM_WRITE ? 2 : 0) | (flags & VM_EXEC ? 4 : 0) |
			 (flags & VM_MAYSHARE ? 1U << 31 : 0);
	row->mnt_id = fdspan_mount_id(file->f_path.mnt);
	fdspan_fill_inode(row, inode);
	fdspan_fill_path(row, file, held);
	if (backing)
		fdspan_fill_backing(row, file);
	if (iteration.deleted_only && row->nlink)
		return 0;
	fdspan_fill_description(row, task, fdspan_number(file), fdspan_number(inode), file->f_flags & FMODE_EXEC_FLAG,
				backing);
	fdspan_write_row(ctx->meta->seq);
	return 0;
}

static __always_inline bool fdspan_wants_kind(__u32 kind)
{
	return iteration.kinds >> kind & 1;
}

/* exe, cwd and root are not held by the iterator: what was read counts only if the task still has them afterwards. */
static __always_inline void fdspan_place_row(struct seq_file *seq, struct task_struct *task, struct fs_struct *fs,
					     __u16 kind)
{
	struct fdspan_row *row = &scratch.row;
	struct dentry *dentry = kind == FDSPAN_ROW_CWD ? fs->pwd.dentry : fs->root.dentry;
	struct vfsmount *mnt = kind == FDSPAN_ROW_CWD ? fs->pwd.mnt : fs->root.mnt;

	if (!dentry || !mnt)
		return;
	fdspan_begin_row(row, kind);
	row->at_ns = bpf_ktime_get_boot_ns();
	struct inode *inode = dentry->d_inode;

	if (iteration.deleted_only && inode->i_nlink)
		return;
	fdspan_fill_inode(row, inode);
	row->mnt_id = fdspan_mount_id(mnt);
	fdspan_fill_steps(row, fdspan_number(dentry), fdspan_number(mnt));
	if (task->fs == fs)
		fdspan_write_row(seq);
}

static __always_inline void fdspan_exe_row(struct seq_file *seq, struct task_struct *task, struct mm_struct *mm)
{
	struct fdspan_row *row = &scratch.row;
	struct file *file = mm->exe_file;

	if (!file)
		return;
	struct dentry *dentry = file->f_path.dentry;
	struct inode *inode = file->f_inode;

	fdspan_begin_row(row, FDSPAN_ROW_EXE);
	row->at_ns = bpf_ktime_get_boot_ns();
	if (iteration.deleted_only && inode->i_nlink)
		return;
	fdspan_fill_inode(row, inode);
	row->mnt_id = fdspan_mount_id(file->f_path.mnt);
	fdspan_fill_steps(row, fdspan_number(dentry), fdspan_number(file->f_path.mnt));
	fdspan_fill_description(row, task, fdspan_number(file), fdspan_number(inode), file->f_flags & FMODE_EXEC_FLAG,
				false);
	if (task->mm == mm)
		fdspan_write_row(seq);
}

/* fs/proc/array.c, proc_task_name: the names of kernel threads do not end at 15 bytes (since 5.17). */
struct kthread {
	char *full_name;
} __attribute__((preserve_access_index));
struct task_struct___worker {
	void *worker_private;
} __attribute__((preserve_access_index));

static __always_inline void fdspan_fill_comm(struct fdspan_process_row *process, struct task_struct *task)
{
	struct task_struct___worker *worker = (void *)task;

	bpf_probe_read_kernel_str(process->comm, sizeof(process->comm), task->comm);
	if ((task->flags & (PF_KTHREAD | PF_WQ_WORKER)) != PF_KTHREAD || !bpf_core_field_exists(worker->worker_private) ||
	    !bpf_core_field_exists(((struct kthread *)0)->full_name))
		return;
	struct kthread *own = BPF_CORE_READ(worker, worker_private);
	char *name = own ? BPF_CORE_READ(own, full_name) : NULL;

	if (name)
		bpf_probe_read_kernel_str(process->comm, sizeof(process->comm), name);
}

SEC("iter/task")
int fdspan_task(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct seq_file *seq = ctx->meta->seq;
	struct fdspan_process_row *process = &process_row;

	if (!task)
		return 0;
	task = FDSPAN_UNTRUSTED(struct task_struct, task);
	struct task_struct *leader = task->group_leader;

	if (task == leader) {
		if (!fdspan_task_wanted(task, &process->header))
			return 0;
		struct task_struct *parent = task->real_parent;

		process->header.size = sizeof(*process);
		process->header.kind = FDSPAN_ROW_PROCESS;
		process->ppid = fdspan_tid(parent->group_leader);
		process->uid = task->real_cred->uid.val;
		process->task_flags = task->flags;
		fdspan_fill_comm(process, task);
		bpf_seq_write(seq, process, sizeof(*process));
	}
	if (!fdspan_task_wanted(task, &scratch.row.header))
		return 0;
	struct mm_struct *mm = task->mm;
	struct fs_struct *fs = task->fs;

	if (fdspan_wants_kind(FDSPAN_ROW_EXE) && mm && (task == leader || !leader->mm))
		fdspan_exe_row(seq, task, mm);
	if (!fs || (task != leader && leader->fs))
		return 0;
	if (fdspan_wants_kind(FDSPAN_ROW_CWD))
		fdspan_place_row(seq, task, fs, FDSPAN_ROW_CWD);
	if (fdspan_wants_kind(FDSPAN_ROW_ROOT))
		fdspan_place_row(seq, task, fs, FDSPAN_ROW_ROOT);
	return 0;
}
