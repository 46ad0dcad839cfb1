/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * What every tracing backend does when a span begins or ends: first the kernel maps, then news for the ring.
 * Times are taken once per hook. Needs maps.bpf.h.
 */
#ifndef FDSPAN_TRACK_BPF_H
#define FDSPAN_TRACK_BPF_H

/*
 * 1 when the backend's hooks see the last put of every description: then nothing else ends one. 0: it is taken to end with its
 * last descriptor, if that is its only reference.
 */
#ifndef FDSPAN_SEES_LAST_PUT
#define FDSPAN_SEES_LAST_PUT 0
#endif

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} ring SEC(".maps");

/* Between the entry and the exit of a syscall that may give its task another table: which one it had. */
struct fdspan_pending {
	__u64 table;
	__u64 entered_ns;
	__u64 committed; /* exec only: it can't fail any more */
};
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct fdspan_pending);
} pending SEC(".maps");

/* hook_seen: 1 when the hook fired in the process that checks (settings.check_pid). */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, FDSPAN_MAX_HOOKS);
	__type(key, __u32);
	__type(value, __u32);
} hook_seen SEC(".maps");

/* ---- scope: who is tracked, when not everybody is ---- */

/* scope_processes: tgid -> 1 when its children join, else 0. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} scope_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64); /* the id of a cgroup */
	__type(value, __u32);
} scope_cgroups SEC(".maps");

/* Known when the programs are verified, which is half the work without what these keep out: settings.scope has FDSPAN_SCOPE_FILES … */
const volatile bool fdspan_sieves_files = false;
/* … and settings.emit may ever be set. */
const volatile bool fdspan_may_emit = false;

static __always_inline bool fdspan_emits(const struct fdspan_settings *with)
{
	return fdspan_may_emit && with->emit;
}

#define FDSPAN_MAX_CGROUP_DEPTH 16

static __noinline bool fdspan_cgroup_in_scope(void)
{
	for (int level = 0; level < FDSPAN_MAX_CGROUP_DEPTH; level++) {
		__u64 id = bpf_get_current_ancestor_cgroup_id(level);

		if (!id)
			return false;
		if (bpf_map_lookup_elem(&scope_cgroups, &id))
			return true;
	}
	return false;
}

/* Whether the current process is tracked. Before anything else in every hook: what is not costs a look-up. */
static __always_inline bool fdspan_in_scope(const struct fdspan_settings *with)
{
	if (!(with->scope & FDSPAN_SCOPE_WHO))
		return true;
	__u32 process = bpf_get_current_pid_tgid() >> 32;

	if ((with->scope & FDSPAN_SCOPE_PROCESSES) && bpf_map_lookup_elem(&scope_processes, &process))
		return true;
	return (with->scope & FDSPAN_SCOPE_CGROUPS) && fdspan_cgroup_in_scope();
}

/* A process was made by one in scope: whether it is in scope, too. */
static __always_inline bool fdspan_child_in_scope(const struct fdspan_settings *with, __u32 parent, __u32 child)
{
	__u32 *joins = bpf_map_lookup_elem(&scope_processes, &parent);

	if (!(with->scope & FDSPAN_SCOPE_WHO) || child == parent)
		return true;
	if ((with->scope & FDSPAN_SCOPE_PROCESSES) && joins && *joins) {
		__u32 also = 1;

		/* Full: the child is not tracked, and the reader is told. */
		if (bpf_map_update_elem(&scope_processes, &child, &also, BPF_ANY))
			FDSPAN_COUNT(truncated);
		return true;
	}
	/* A child begins in its parent's cgroup, or in one that clone3(CLONE_INTO_CGROUP) names: then a snapshot corrects. */
	return (with->scope & FDSPAN_SCOPE_CGROUPS) && fdspan_cgroup_in_scope();
}

static __always_inline void fdspan_note_hook(const struct fdspan_settings *with, __u32 hook)
{
	__u32 *seen;

	if (with->check_pid == bpf_get_current_pid_tgid() >> 32 && (seen = bpf_map_lookup_elem(&hook_seen, &hook)))
		*seen = 1;
}

static __always_inline bool fdspan_tracking(void *ctx)
{
	struct fdspan_settings *with = fdspan_settings_get();

	if (!with)
		return false;
	if (with->check_pid)
		fdspan_note_hook(with, bpf_get_attach_cookie(ctx));
	return with->tracking_since_ns != 0;
}

/*
 * Every hook begins with this. Nothing is stamped before all hooks are attached: a begin whose end could not be seen yet
 * would become evidence for the wrong file.
 */
#define FDSPAN_ENTER_ANYBODY(ctx)                                                                                      \
	do {                                                                                                           \
		if (!fdspan_tracking(ctx))                                                                             \
			return 0;                                                                                      \
	} while (0)

/* … and this, where the current process is the one that it is about. */
#define FDSPAN_ENTER(ctx)                                                                                              \
	do {                                                                                                           \
		struct fdspan_settings *__scope;                                                                       \
		FDSPAN_ENTER_ANYBODY(ctx);                                                                             \
		__scope = fdspan_settings_get();                                                                       \
		if (!__scope || !fdspan_in_scope(__scope))                                                             \
			return 0;                                                                                      \
	} while (0)

/* tp_btf programs have no attach cookie before 6.10 (kernel/trace/bpf_trace.c, tracing_prog_func_proto). */
#define FDSPAN_ENTER_UNCHECKED()                                                                                       \
	do {                                                                                                           \
		struct fdspan_settings *__with = fdspan_settings_get();                                                \
		if (!__with || !__with->tracking_since_ns || !fdspan_in_scope(__with))                                 \
			return 0;                                                                                      \
	} while (0)

/* ---- looking at a table ---- */

/* One word of an array: as the first one of a kernel type that begins with some, it can be read without the call of a helper. */
static __always_inline __u64 fdspan_word_at(__u64 address)
{
	return FDSPAN_READ(struct cpumask, address, bits[0]);
}

static __always_inline __u64 fdspan_slot(struct files_struct *files, __s32 fd)
{
	struct fdtable *fdt = files->fdt;

	if (fd < 0 || (__u32)fd >= fdt->max_fds)
		return 0;
	return fdspan_word_at((__u64)(fdt->fd + fd));
}

static __always_inline __u64 fdspan_open_word(struct files_struct *files, __u32 word)
{
	struct fdtable *fdt = files->fdt;
	__u64 bits = 0;

	if (word < fdt->max_fds / FDSPAN_WORD_BITS)
		bpf_probe_read_kernel(&bits, sizeof(bits), fdt->open_fds + word);
	return bits;
}

static __always_inline __u64 fdspan_inode(__u64 file)
{
	return (__u64)FDSPAN_READ(struct file, file, f_inode);
}

/* include/linux/fs.h, __inode_get_bytes; without what a file system has promised and not yet placed. */
static __always_inline __u64 fdspan_allocated(__u64 inode)
{
	return (FDSPAN_READ(struct inode, inode, i_blocks) << 9) + FDSPAN_READ(struct inode, inode, i_bytes);
}

/* ---- news ---- */

/*
 * Waking the reader costs far more than the record: only the first record after it went to sleep wakes it, and the one with which a
 * ring that fills faster than the reader's timer drains it passes the watermark. CPUs that pass it at the same moment may wake it twice.
 * When the ring is about to overflow every record does: that slows those who write down to what the reader can take.
 */
#define FDSPAN_CROWDED_WATERMARKS 3 /* of the four that fill the ring */
__u32 fdspan_passed_watermark;

static __always_inline __u64 fdspan_wakeup(struct fdspan_settings *with)
{
	__u64 waiting;

	if (with->sleeping) {
		with->sleeping = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	waiting = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA);
	if (waiting < with->watermark_bytes) {
		if (fdspan_passed_watermark)
			fdspan_passed_watermark = 0;
		return BPF_RB_NO_WAKEUP;
	}
	if (fdspan_passed_watermark && waiting < FDSPAN_CROWDED_WATERMARKS * with->watermark_bytes)
		return BPF_RB_NO_WAKEUP;
	fdspan_passed_watermark = 1;
	return BPF_RB_FORCE_WAKEUP;
}

static __always_inline void fdspan_header(struct fdspan_record *record, __u16 type, __u32 size, __u64 seq, __u64 now_ns)
{
	__u64 pid_tid = bpf_get_current_pid_tgid();

	record->type = type;
	record->cpu = bpf_get_smp_processor_id();
	record->size = size;
	record->seq = seq;
	record->boottime_ns = now_ns;
	record->pid = pid_tid >> 32;
	record->tid = (__u32)pid_tid;
}

static __always_inline __u64 fdspan_next_seq(void)
{
	struct fdspan_counters *counted = fdspan_counters_get();

	return counted ? __sync_fetch_and_add(&counted->seq, 1) : 0;
}

static __always_inline void fdspan_lost(__u64 now_ns)
{
	struct fdspan_counters *counted = fdspan_counters_get();

	if (!counted)
		return;
	__sync_fetch_and_add(&counted->ring_lost, 1);
	if (!counted->ring_lost_first_ns)
		counted->ring_lost_first_ns = now_ns;
	counted->ring_lost_last_ns = now_ns;
}

/* Room for one record of a fixed size, header filled in; NULL counts a loss. */
#define FDSPAN_RESERVE(record_type, record, now_ns) FDSPAN_RESERVE_AS(record_type, record, header, now_ns)
#define FDSPAN_RESERVE_AS(record_type, record, header_field, now_ns)                                                   \
	({                                                                                                             \
		__u64 __seq = fdspan_next_seq();                                                                       \
		typeof(record) __room = bpf_ringbuf_reserve(&ring, sizeof(*(record)), 0);                              \
		if (__room)                                                                                            \
			fdspan_header(&__room->header_field, record_type, sizeof(*(record)), __seq, now_ns);           \
		else                                                                                                   \
			fdspan_lost(now_ns);                                                                           \
		__room;                                                                                                \
	})

/* ---- the path of a file: its names, from the file up to the root of its mount tree ---- */

#define FDSPAN_MAX_NAMES 64
#define ANON_INODE_FS_MAGIC 0x09041934
#define PIPEFS_MAGIC 0x50495045
#define SOCKFS_MAGIC 0x534F434B

struct fdspan_walk {
	__u64 dentry;
	__u64 mount;
	__u32 bytes; /* copied or needed */
	__u32 names; /* measured */
	__u32 longest;
	__u32 done;
	__u32 cut;
};

/* One step up: returns the dentry whose name is next, or 0 at the root. Like fs/d_path.c, prepend_path. */
static __always_inline __u64 fdspan_walk_up(struct fdspan_walk *walk)
{
	__u64 dentry = walk->dentry;
	__u64 root = (__u64)FDSPAN_READ(struct mount, walk->mount, mnt.mnt_root);

	if (dentry == root) {
		__u64 parent = (__u64)FDSPAN_READ(struct mount, walk->mount, mnt_parent);

		if (parent == walk->mount) {
			walk->done = 1;
			return 0;
		}
		walk->dentry = (__u64)FDSPAN_READ(struct mount, walk->mount, mnt_mountpoint);
		walk->mount = parent;
		return 0;
	}
	__u64 parent = (__u64)FDSPAN_READ(struct dentry, dentry, d_parent);

	if (parent == dentry) {
		/* A file that is in no directory, like a memfd, has one name all the same. */
		walk->done = 1;
		return walk->bytes ? 0 : dentry;
	}
	walk->dentry = parent;
	return dentry;
}

static long fdspan_measure_name(__u32 index, void *context)
{
	struct fdspan_walk *walk = context;
	__u64 named = fdspan_walk_up(walk);

	if (named) {
		__u32 length = FDSPAN_READ(struct dentry, named, d_name.len);

		walk->bytes += length + 1;
		walk->names++;
		if (length > walk->longest)
			walk->longest = length;
	}
	return walk->done != 0;
}

static __always_inline void fdspan_walk_from(struct fdspan_walk *walk, __u64 dentry, __u64 vfsmount)
{
	walk->dentry = dentry;
	walk->mount = vfsmount - bpf_core_field_offset(struct mount, mnt);
	walk->bytes = 0;
	walk->names = 0;
	walk->longest = 0;
	walk->done = 0;
	walk->cut = 0;
}

static __always_inline void fdspan_walk_start(struct fdspan_walk *walk, __u64 file)
{
	fdspan_walk_from(walk, (__u64)FDSPAN_READ(struct file, file, f_path.dentry),
			 (__u64)FDSPAN_READ(struct file, file, f_path.mnt));
}

/* ---- scope: which files, when not all ---- */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fdspan_scope_files);
} scope_files SEC(".maps");

struct fdspan_place_search {
	struct fdspan_walk walk;
	struct fdspan_scope_files *wanted;
	__u32 depth; /* of the name that comes next; those below the root have 1 */
	__u32 left;  /* bits: the tops that the path may be at or below */
};

static long fdspan_compare_name(__u32 index, void *context)
{
	struct fdspan_place_search *search = context;
	__u64 named = fdspan_walk_up(&search->walk);
	char name[FDSPAN_TOP_NAME_BYTES] = {};
	__u64 *words = (__u64 *)name;

	if (!named)
		return search->walk.done != 0;
	search->walk.bytes = 1; /* not the first any more */
	__u32 at = --search->depth;

	if (at >= FDSPAN_TOP_NAMES)
		return 0;
	__u32 length = FDSPAN_READ(struct dentry, named, d_name.len);

	bpf_probe_read_kernel_str(name, sizeof(name), (void *)FDSPAN_READ(struct dentry, named, d_name.name));
	for (int i = 0; i < FDSPAN_MAX_TOPS; i++) {
		struct fdspan_top *top = &search->wanted->top[i];
		__u64 *wanted = (__u64 *)top->names[at & (FDSPAN_TOP_NAMES - 1)];

		if (at < top->depth &&
		    (top->lengths[at & (FDSPAN_TOP_NAMES - 1)] != length || wanted[0] != words[0] || wanted[1] != words[1]))
			search->left &= ~(1U << i);
	}
	return !search->left || search->walk.done;
}

static __always_inline int fdspan_place_is_wanted(struct fdspan_scope_files *wanted, __u64 file)
{
	struct fdspan_place_search search = {.wanted = wanted};

	fdspan_walk_start(&search.walk, file);
	bpf_loop(FDSPAN_MAX_NAMES, fdspan_measure_name, &search.walk, 0);
	if (!search.walk.done)
		return 1;
	search.depth = search.walk.names;
	for (__u32 i = 0; i < FDSPAN_MAX_TOPS; i++) {
		if (i < search.wanted->tops && search.wanted->top[i].depth <= search.depth)
			search.left |= 1U << i;
	}
	if (!search.left)
		return 0;
	fdspan_walk_start(&search.walk, file);
	bpf_loop(FDSPAN_MAX_NAMES, fdspan_compare_name, &search, 0);
	return search.left != 0;
}

/*
 * The same where memory can be read directly, for nearly all files: on the way up no name is looked at, and then only as many from the
 * root down as it takes to leave the file out, mostly one. `unsure`: the walk above has to tell.
 */
#define FDSPAN_NEAR_NAMES 12

/* Of the tops in `left`, those that have this name at this level: its length and first 15 bytes. */
__noinline int fdspan_tops_with(__u32 level, __u32 left, __u32 length, __u64 begin, __u64 rest)
{
	__u32 zero = 0, at = level & (FDSPAN_TOP_NAMES - 1);
	struct fdspan_scope_files *wanted = bpf_map_lookup_elem(&scope_files, &zero);

	if (!wanted)
		return left;
	for (__u32 i = 0; i < FDSPAN_MAX_TOPS; i++) {
		struct fdspan_top *top = &wanted->top[i];
		__u64 *words = (__u64 *)top->names[at];

		if (i >= wanted->tops)
			return left & ((1U << i) - 1);
		if (level < top->depth && (top->lengths[at] != length || words[0] != begin || words[1] != rest))
			left &= ~(1U << i);
	}
	return left;
}

/* What stands behind the name is cut off. Wherever the kernel keeps one, 16 bytes can be read. */
static __always_inline __u64 fdspan_first_bytes(__u64 word, __u32 bytes)
{
	return bytes >= sizeof(word) ? word : word & ((1ULL << (8 * (bytes & 7))) - 1);
}

static __always_inline int fdspan_near_place_is_wanted(struct fdspan_scope_files *wanted, __u64 file, bool *unsure)
{
	struct dentry *way[FDSPAN_NEAR_NAMES] = {};
	struct dentry *dentry = FDSPAN_CAST(struct file, file)->f_path.dentry;
	__u64 at = (__u64)FDSPAN_CAST(struct file, file)->f_path.mnt - bpf_core_field_offset(struct mount, mnt);
	struct mount *mount = FDSPAN_CAST(struct mount, at);
	struct dentry *root = mount->mnt.mnt_root;
	__u32 names = 0, left = (1U << FDSPAN_MAX_TOPS) - 1;

	*unsure = true;
	if (dentry->d_parent == dentry && dentry != root) {
		/* In no directory, like a memfd or a pipe: it has one name all the same. */
		way[0] = dentry;
		names = 1;
	} else {
#define FDSPAN_STEP_UP(number)                                                                                         \
	if (dentry != root) {                                                                                          \
		way[number] = dentry;                                                                                  \
		names = (number) + 1;                                                                                  \
		dentry = dentry->d_parent;                                                                             \
	}
		FDSPAN_STEP_UP(0) FDSPAN_STEP_UP(1) FDSPAN_STEP_UP(2) FDSPAN_STEP_UP(3)
		FDSPAN_STEP_UP(4) FDSPAN_STEP_UP(5) FDSPAN_STEP_UP(6) FDSPAN_STEP_UP(7)
		FDSPAN_STEP_UP(8) FDSPAN_STEP_UP(9) FDSPAN_STEP_UP(10) FDSPAN_STEP_UP(11)
		if (dentry != root)
			return 1;
		/* The root of a mount tree is its own parent, or is mounted on the root of one that is. */
		struct mount *above = mount->mnt_parent;

		if (above != mount && (above->mnt_parent != above || mount->mnt_mountpoint != above->mnt.mnt_root))
			return 1;
	}
	*unsure = false;
	/* Below the file's own name there is one without a length, which no top has. */
	for (__u32 level = 0; level <= FDSPAN_NEAR_NAMES && level < wanted->deepest; level++) {
		__u32 length = 0;
		__u64 begin = 0, rest = 0;

		if (level < names) {
			struct dentry *named = FDSPAN_CAST(struct dentry, way[names - 1 - level]);
			__u64 text = (__u64)named->d_name.name;

			length = named->d_name.len;
			begin = fdspan_first_bytes(FDSPAN_CAST(struct cpumask, text)->bits[0], length);
			if (length > sizeof(begin))
				rest = fdspan_first_bytes(FDSPAN_CAST(struct cpumask, text + sizeof(begin))->bits[0],
							  length < FDSPAN_TOP_NAME_BYTES ? length - sizeof(begin) : sizeof(rest) - 1);
		}
		left = fdspan_tops_with(level, left, length, begin, rest);
		if (!left)
			return 0;
		if (!length)
			break;
	}
	return 1;
}

#define PIDFS_MAGIC 0x50494446

/*
 * Whether a file is one that is asked for: by its type, and by its path as a record of its opening has it. In doubt it is. A rename
 * of a directory above it in this very moment may give the wrong answer.
 */
__noinline int fdspan_file_in_scope(__u64 file)
{
	__u32 zero = 0;
	struct fdspan_scope_files *wanted = bpf_map_lookup_elem(&scope_files, &zero);

	if (!wanted)
		return 1;
	if (wanted->types != FDSPAN_ALL_TYPES) {
		__u64 inode = fdspan_inode(file);
		__u64 sb = (__u64)FDSPAN_READ(struct inode, inode, i_sb);
		__u64 magic = FDSPAN_READ(struct super_block, sb, s_magic);
		__u32 type = FDSPAN_READ(struct inode, inode, i_mode) >> 12 & 15;

		if (magic == ANON_INODE_FS_MAGIC || magic == PIDFS_MAGIC)
			type = 0;
		if (!(wanted->types >> type & 1))
			return 0;
	}
	if (!wanted->tops)
		return 1;
	if (fdspan_have_rdonly_cast) {
		bool unsure;
		int is_wanted = fdspan_near_place_is_wanted(wanted, file, &unsure);

		if (!unsure)
			return is_wanted;
	}
	return fdspan_place_is_wanted(wanted, file);
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fdspan_outside);
} outside SEC(".maps");

static __always_inline struct fdspan_outside *fdspan_outside_place(__u64 file)
{
	__u32 place = (file >> 6 ^ file >> 18) & (FDSPAN_OUTSIDE_PLACES - 1);

	return bpf_map_lookup_elem(&outside, &place);
}

/*
 * Whether the end of a file without an entry is no news. User space knows of it from a snapshot at the most, and so what was left out
 * since the last one needs no second look, even if it was moved meanwhile.
 */
static __always_inline bool fdspan_ends_outside(const struct fdspan_settings *with, __u64 file)
{
	struct fdspan_outside *left_out = fdspan_outside_place(file);

	if (with->outside_since && left_out && left_out->file == file && left_out->since == with->outside_since &&
	    left_out->inode == fdspan_inode(file))
		return true;
	return !fdspan_file_in_scope(file);
}

/*
 * A description with an entry is followed to its end, wherever its file is moved. Of another one that is not asked for nothing is
 * kept, and what an earlier one left under its address must not speak for it.
 */
static __always_inline bool fdspan_begin_in_scope(const struct fdspan_settings *with, __u64 file, __u64 inode, bool fresh)
{
	struct fdspan_description *description;
	struct fdspan_outside *left_out;
	__u64 since = with->outside_since;

	if (!fdspan_sieves_files)
		return true;
	description = bpf_map_lookup_elem(&descriptions, &file);
	if (description && !fresh && description->inode == inode)
		return true;
	left_out = fdspan_outside_place(file);
	if (fdspan_file_in_scope(file)) {
		if (left_out && left_out->file == file)
			left_out->file = 0;
		return true;
	}
	if (left_out) {
		left_out->file = file;
		left_out->inode = inode;
		left_out->since = since;
	}
	/* A look-up takes no lock. */
	if (description)
		bpf_map_delete_elem(&descriptions, &file);
	return false;
}

/*
 * Records come in three fixed sizes, by the length of the path; in each a name is copied with a constant bound, the
 * `slack`, so that the verifier sees that it stays inside. A rename between measuring and copying can only cut the path.
 */
#define FDSPAN_OPENED_CLASS(suffix, capacity, slack)                                                                   \
	struct fdspan_opened_##suffix {                                                                                \
		struct fdspan_opened opened;                                                                           \
		char path[capacity];                                                                                   \
	};                                                                                                             \
	struct fdspan_copy_##suffix {                                                                                  \
		struct fdspan_walk walk;                                                                               \
		struct fdspan_opened_##suffix *to;                                                                     \
	};                                                                                                             \
	static long fdspan_copy_name_##suffix(__u32 index, void *context)                                              \
	{                                                                                                              \
		struct fdspan_copy_##suffix *copy = context;                                                           \
		__u64 named = fdspan_walk_up(&copy->walk);                                                             \
		__u32 bytes = copy->walk.bytes;                                                                        \
                                                                                                                       \
		if (!named)                                                                                            \
			return copy->walk.done != 0;                                                                        \
		if (bytes > (capacity) - (slack)) {                                                                    \
			copy->walk.cut = 1;                                                                            \
			return 1;                                                                                      \
		}                                                                                                      \
		long copied = bpf_probe_read_kernel_str(copy->to->path + bytes, slack,                                 \
							(void *)FDSPAN_READ(struct dentry, named, d_name.name));      \
		if (copied > 0)                                                                                        \
			copy->walk.bytes = bytes + copied;                                                             \
		return copy->walk.done != 0;                                                                                \
	}                                                                                                              \
	static __always_inline void fdspan_send_##suffix(const struct fdspan_opened *head, __u64 file, __u64 now_ns,   \
							       struct fdspan_copy_##suffix *copy)                      \
	{                                                                                                              \
		__u64 seq = fdspan_next_seq();                                                                         \
		struct fdspan_settings *with = fdspan_settings_get();                                                  \
                                                                                                                       \
		copy->to = bpf_ringbuf_reserve(&ring, sizeof(*copy->to), 0);                                             \
		if (!copy->to) {                                                                                        \
			fdspan_lost(now_ns);                                                                           \
			return;                                                                                        \
		}                                                                                                      \
		fdspan_walk_start(&copy->walk, file);                                                                   \
		bpf_loop(FDSPAN_MAX_NAMES, fdspan_copy_name_##suffix, copy, 0);                                       \
		__builtin_memcpy(&copy->to->opened, head, sizeof(*head));                                               \
		fdspan_header(&copy->to->opened.header, FDSPAN_RECORD_OPENED, sizeof(*head) + copy->walk.bytes, seq,     \
			      now_ns);                                                                                 \
		copy->to->opened.path_bytes = copy->walk.bytes;                                                          \
		if (copy->walk.cut || !copy->walk.done)                                                                  \
			copy->to->opened.path_flags |= FDSPAN_PATH_CUT;                                                 \
		bpf_ringbuf_submit(copy->to, with ? fdspan_wakeup(with) : 0);                                           \
	}

FDSPAN_OPENED_CLASS(short, 160, 32)
FDSPAN_OPENED_CLASS(middle, 768, 256)
FDSPAN_OPENED_CLASS(long, 4352, 256)

/* Of a descriptor: set, not set, or as the table says. */
enum fdspan_cloexec { FDSPAN_CLOEXEC_NO, FDSPAN_CLOEXEC_YES, FDSPAN_CLOEXEC_LOOK };

static __always_inline void fdspan_send_opened(struct fdspan_settings *with, struct files_struct *files, __s32 fd,
					       __u64 file, __u16 how, enum fdspan_cloexec cloexec_from, __u64 id,
					       __u64 earliest_ns, __u64 latest_ns, __u64 now_ns)
{
	__u64 inode = fdspan_inode(file);
	__u64 dentry = (__u64)FDSPAN_READ(struct file, file, f_path.dentry);
	__u64 sb = (__u64)FDSPAN_READ(struct inode, inode, i_sb);
	struct fdspan_opened head = {};
	struct fdtable *fdt = files->fdt;
	__u64 cloexec = 0;

	head.description_id = id;
	head.description_earliest_ns = earliest_ns;
	head.description_latest_ns = latest_ns;
	head.ino = FDSPAN_READ(struct inode, inode, i_ino);
	head.fd = fd;
	head.open_flags = FDSPAN_READ(struct file, file, f_flags);
	head.dev = FDSPAN_READ(struct super_block, sb, s_dev);
	head.mode = FDSPAN_READ(struct inode, inode, i_mode);
	head.nlink = FDSPAN_READ(struct inode, inode, i_nlink);
	head.fs_magic = FDSPAN_READ(struct super_block, sb, s_magic);
	head.how = how;
	if (cloexec_from == FDSPAN_CLOEXEC_LOOK) {
		bpf_probe_read_kernel(&cloexec, sizeof(cloexec), fdt->close_on_exec + (__u32)fd / FDSPAN_WORD_BITS);
		head.cloexec = cloexec >> ((__u32)fd % FDSPAN_WORD_BITS) & 1;
	} else {
		head.cloexec = cloexec_from;
	}
	/* include/linux/dcache.h, d_unhashed */
	if (!FDSPAN_READ(struct dentry, dentry, d_hash.pprev))
		head.path_flags |= FDSPAN_PATH_UNLINKED;

	if (!with->paths || head.fs_magic == PIPEFS_MAGIC || head.fs_magic == SOCKFS_MAGIC) {
		struct fdspan_opened *bare = FDSPAN_RESERVE(FDSPAN_RECORD_OPENED, bare, now_ns);

		if (!bare)
			return;
		struct fdspan_record header = bare->header;

		__builtin_memcpy(bare, &head, sizeof(head));
		bare->header = header;
		bare->path_flags = FDSPAN_PATH_NONE;
		bpf_ringbuf_submit(bare, fdspan_wakeup(with));
		return;
	}
	if (head.fs_magic == ANON_INODE_FS_MAGIC)
		head.path_flags |= FDSPAN_PATH_LABEL;

	/* One after the other in one place. */
	union {
		struct fdspan_walk walk;
		struct fdspan_copy_short in_short;
		struct fdspan_copy_middle in_middle;
		struct fdspan_copy_long in_long;
	} at = {};

	fdspan_walk_start(&at.walk, file);
	bpf_loop(FDSPAN_MAX_NAMES, fdspan_measure_name, &at.walk, 0);
	if (at.walk.longest < 32 && at.walk.bytes <= 160 - 32)
		fdspan_send_short(&head, file, now_ns, &at.in_short);
	else if (at.walk.bytes <= 768 - 256)
		fdspan_send_middle(&head, file, now_ns, &at.in_middle);
	else
		fdspan_send_long(&head, file, now_ns, &at.in_long);
}

/* ---- a descriptor's span begins ---- */

/*
 * The entry of a description that begins with this descriptor. `now`: 0 has the clock read here, when all else is written: the kernel
 * copies the entry with an instruction that waits for what was written just before (17 ns on an EPYC), and that is over by then.
 */
static __always_inline void fdspan_stamp(__u64 table, __s32 fd, __u64 file, __u64 inode, __u64 id, __u64 now)
{
	struct fdspan_description begun = {.id = id, .inode = inode, .table = table, .fd = fd};

	if (!now) {
		asm volatile("" : "+m"(begun), "+m"(file));
		now = bpf_ktime_get_boot_ns();
	}
	begun.opened_earliest_ns = now;
	begun.opened_latest_ns = now;
	if (bpf_map_update_elem(&descriptions, &file, &begun, BPF_ANY))
		FDSPAN_COUNT(description_full);
}

/* Descriptor (files, fd) of `file`, which is in scope, begins now; with FDSPAN_HOW_OPEN so does its description. */
static __always_inline void fdspan_begins(struct fdspan_settings *with, struct files_struct *files, __s32 fd, __u64 file,
					  __u64 inode, __u16 how, enum fdspan_cloexec cloexec, __u64 now)
{
	__u64 table = (__u64)files;
	__u64 id = 0, earliest = 0, latest = 0;

	if (how == FDSPAN_HOW_OPEN) {
		/* Who reads the map without news knows how to make it. */
		if (fdspan_emits(with))
			id = fdspan_hide(with, file);
		fdspan_stamp(table, fd, file, inode, id, now);
		earliest = latest = now;
	} else {
		struct fdspan_descriptor_key key = {.table = table, .fd = fd};
		struct fdspan_descriptor begun = {.opened_ns = now, .file = file};
		struct fdspan_description *shared = fdspan_description_of(file, inode);

		if (bpf_map_update_elem(&descriptors, &key, &begun, BPF_ANY))
			FDSPAN_COUNT(descriptor_full);
		if (shared) {
			id = shared->id ?: fdspan_hide(with, file);
			earliest = shared->opened_earliest_ns;
			latest = shared->opened_latest_ns;
			/* Back in its first slot, which close-on-exec had emptied: it is not the first descriptor. */
			if (shared->table == table && shared->fd == fd)
				shared->table = 0;
		} else {
			id = fdspan_hide(with, file);
		}
	}
	if (fdspan_emits(with))
		fdspan_send_opened(with, files, fd, file, how, cloexec, id, earliest, latest, now);
}

/*
 * Whether `fd` of the current task's table, which is new, is one to keep. `doubtful`: the number was read from the caller's memory,
 * where another thread may have changed it: a descriptor that already has evidence keeps it.
 */
__noinline int fdspan_is_kept(__s32 fd, __u32 how, __u32 doubtful)
{
	struct files_struct *files = ((struct task_struct *)bpf_get_current_task_btf())->files;
	__u64 file = fdspan_slot(files, fd);
	struct fdspan_settings *with = fdspan_settings_get();

	if (!file || !with)
		return 0;
	__u64 inode = fdspan_inode(file);

	if (doubtful) {
		struct fdspan_times times = {};

		fdspan_join((__u64)files, fd, file, inode, true, &times);
		if (times.opened_latest_ns)
			return 0;
	}
	return fdspan_begin_in_scope(with, file, inode, how == FDSPAN_HOW_OPEN && !doubtful);
}

__noinline int fdspan_descriptor_begins(__s32 fd, __u32 how)
{
	struct files_struct *files = ((struct task_struct *)bpf_get_current_task_btf())->files;
	__u64 file = fdspan_slot(files, fd);
	struct fdspan_settings *with = fdspan_settings_get();

	if (file && with)
		fdspan_begins(with, files, fd, file, fdspan_inode(file), how, FDSPAN_CLOEXEC_LOOK, bpf_ktime_get_boot_ns());
	return 0;
}

/* In two calls: 6.1 allows 512 bytes of stack for all frames together. */
static __always_inline void fdspan_opened(__s32 fd, __u16 how, bool doubtful)
{
	if ((doubtful || fdspan_sieves_files) && !fdspan_is_kept(fd, how, doubtful))
		return;
	fdspan_descriptor_begins(fd, how);
}

/* ---- a descriptor's span ends ---- */

enum fdspan_news { FDSPAN_NEWS_NONE, FDSPAN_NEWS_CLOSED, FDSPAN_NEWS_RELEASED };

#define FDSPAN_FILL_CLOSED(record)                                                                                     \
	do {                                                                                                           \
		(record)->description_id = id;                                                                         \
		(record)->description_earliest_ns = earliest;                                                          \
		(record)->description_latest_ns = latest;                                                              \
		(record)->fd = fd;                                                                                     \
		(record)->last = last;                                                                                 \
		(record)->unlinked = remains.unlinked;                                                                 \
	} while (0)

/* A file without links: its deletion may have gone unseen, and its bytes may be given back now. */
struct fdspan_remains {
	__u64 allocated;
	__u64 size;
	__u64 unlinked;
};

static __always_inline struct fdspan_remains fdspan_remains_of(__u64 inode)
{
	struct fdspan_remains remains = {.unlinked = !FDSPAN_READ(struct inode, inode, i_nlink)};

	if (remains.unlinked) {
		remains.allocated = fdspan_allocated(inode);
		remains.size = FDSPAN_READ(struct inode, inode, i_size);
	}
	return remains;
}

static __always_inline void fdspan_send_closed(struct fdspan_settings *with, __u16 type, __u64 id, __u64 earliest, __u64 latest,
					       __s32 fd, bool last, struct fdspan_remains remains, __u64 now)
{
	if (remains.unlinked) {
		struct fdspan_closed_unlinked *record = FDSPAN_RESERVE_AS(type, record, closed.header, now);

		if (!record)
			return;
		FDSPAN_FILL_CLOSED(&record->closed);
		record->allocated = remains.allocated;
		record->size = remains.size;
		bpf_ringbuf_submit(record, fdspan_wakeup(with));
	} else {
		struct fdspan_closed *record = FDSPAN_RESERVE(type, record, now);

		if (!record)
			return;
		FDSPAN_FILL_CLOSED(record);
		bpf_ringbuf_submit(record, fdspan_wakeup(with));
	}
}

/*
 * A descriptor of `file` ends. Without other references (`last`) its description goes with it; with some it stays, and who
 * they are is for a snapshot to find out. `first`: it is the one that the description was made with. `remains`: what was
 * noted of its file when that may be gone. `now`: 0 has the clock read here, where there are news, because only they say when.
 */
static __always_inline void fdspan_span_ends(__s32 fd, __u64 file, struct fdspan_description *description, bool first,
					     bool last, const struct fdspan_remains *remains, __u64 now, enum fdspan_news news)
{
	__u64 id = 0, earliest = 0, latest = 0;

	if (description) {
		id = description->id;
		earliest = description->opened_earliest_ns;
		latest = description->opened_latest_ns;
		if (last)
			bpf_map_delete_elem(&descriptions, &file);
		else if (first)
			description->table = 0;
	}
	if (!fdspan_may_emit || news == FDSPAN_NEWS_NONE || (news == FDSPAN_NEWS_RELEASED && !last))
		return;
	struct fdspan_settings *with = fdspan_settings_get();

	if (!with || !fdspan_emits(with))
		return;
	/* With remains the file itself may be gone. */
	if (!description && !remains && fdspan_sieves_files && fdspan_ends_outside(with, file))
		return;
	if (!now)
		now = bpf_ktime_get_boot_ns();
	fdspan_send_closed(with, news == FDSPAN_NEWS_CLOSED ? FDSPAN_RECORD_CLOSED : FDSPAN_RECORD_RELEASED,
			   id ?: fdspan_hide(with, file), earliest, latest, news == FDSPAN_NEWS_CLOSED ? fd : -1, last,
			   remains ? *remains : fdspan_remains_of(fdspan_inode(file)), now);
}

static __always_inline bool fdspan_is_last(__u64 file)
{
	return !FDSPAN_SEES_LAST_PUT && fdspan_file_count((const struct file *)file) <= 1;
}

/* Descriptor (table, fd), which holds `file`, is about to go. */
static __always_inline void fdspan_slot_ends(__u64 table, __s32 fd, __u64 file, __u64 now, enum fdspan_news news)
{
	struct fdspan_description *description = bpf_map_lookup_elem(&descriptions, &file);
	bool first = false;

	if (description && description->inode != fdspan_inode(file)) {
		bpf_map_delete_elem(&descriptions, &file);
		description = NULL;
	}
	if (description)
		first = description->table == table && description->fd == fd;
	if (!first) {
		struct fdspan_descriptor_key key = {.table = table, .fd = fd};
		struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

		if (bpf_map_lookup_elem(&descriptors, &key)) /* takes no lock */
			bpf_map_delete_elem(&descriptors, &key);
		if (known) {
			fdspan_slot_clear(known, table, FDSPAN_SET_INHERITED, fd);
			fdspan_slot_clear(known, table, FDSPAN_SET_PRESENT, fd);
		}
	}
	fdspan_span_ends(fd, file, description, first, fdspan_is_last(file), NULL, now, news);
}

/* `task` is the current one. */
static __always_inline void fdspan_closing(struct task_struct *task, __s32 fd)
{
	struct files_struct *files = task->files;
	__u64 file = fdspan_slot(files, fd);

	if (file)
		fdspan_slot_ends((__u64)files, fd, file, 0, FDSPAN_NEWS_CLOSED);
}

/* Every descriptor of a table in [first, last]. */
struct fdspan_range {
	__u64 table;
	__u64 fds;       /* struct file ** */
	__u64 open_fds;  /* unsigned long * */
	__u64 now;
	__u64 bits;      /* of the word at hand */
	__u32 word;
	__u32 words;
	__u32 first, last;
	__u32 news;
};

static long fdspan_range_bit(__u32 bit, void *context)
{
	struct fdspan_range *range = context;
	__u32 fd = range->word * FDSPAN_WORD_BITS + bit;
	__u64 file = 0;

	if (!(range->bits >> (bit & (FDSPAN_WORD_BITS - 1)) & 1) || fd < range->first || fd > range->last)
		return 0;
	bpf_probe_read_kernel(&file, sizeof(file), (void *)(range->fds + fd * sizeof(file)));
	if (file)
		fdspan_slot_ends(range->table, fd, file, range->now, range->news);
	return 0;
}

static long fdspan_range_word(__u32 index, void *context)
{
	struct fdspan_range *range = context;

	if (range->word >= range->words)
		return 1;
	range->bits = 0;
	bpf_probe_read_kernel(&range->bits, sizeof(range->bits), (void *)(range->open_fds + range->word * sizeof(__u64)));
	if (range->bits)
		bpf_loop(FDSPAN_WORD_BITS, fdspan_range_bit, range, 0);
	range->word++;
	return 0;
}

#define FDSPAN_MAX_WORDS (1U << 17) /* of a table: 8 million descriptors, beyond sysctl fs.nr_open's default of 1 million */

static __always_inline void fdspan_closing_range(struct files_struct *files, __u32 first, __u32 last,
						 enum fdspan_news news)
{
	__u64 fdt = (__u64)FDSPAN_READ(struct files_struct, files, fdt);
	struct fdspan_range range = {
		.table = (__u64)files,
		.fds = (__u64)FDSPAN_READ(struct fdtable, fdt, fd),
		.open_fds = (__u64)FDSPAN_READ(struct fdtable, fdt, open_fds),
		.now = bpf_ktime_get_boot_ns(),
		.word = first / FDSPAN_WORD_BITS,
		.words = FDSPAN_READ(struct fdtable, fdt, max_fds) / FDSPAN_WORD_BITS,
		.first = first,
		.last = last,
		.news = news,
	};

	bpf_loop(FDSPAN_MAX_WORDS, fdspan_range_word, &range, 0);
}

/* ---- tables ---- */

struct fdspan_fill {
	__u64 table;
	__u64 open_fds;
	__u32 set;
	__u32 chunk;
	__u32 chunks;
	__u32 words;
};

/* chunk_template: zeroes, because 512 bytes don't fit the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fdspan_chunk);
} chunk_template SEC(".maps");

static long fdspan_fill_chunk(__u32 index, void *context)
{
	struct fdspan_fill *fill = context;
	struct fdspan_chunk_key key = {.table = fill->table, .chunk = fill->chunk, .set = fill->set};
	__u32 zero = 0;
	struct fdspan_chunk *chunk = bpf_map_lookup_elem(&chunk_template, &zero);

	if (fill->chunk >= fill->chunks || !chunk)
		return 1;
	if (bpf_map_update_elem(&table_chunks, &key, chunk, BPF_ANY)) {
		FDSPAN_COUNT(table_full);
		return 1;
	}
	chunk = bpf_map_lookup_elem(&table_chunks, &key);
	__u32 bytes = fill->words * sizeof(__u64) - fill->chunk * sizeof(chunk->words);

	barrier_var(bytes); /* keeps the compared register the one that is used */
	if (bytes > sizeof(chunk->words))
		bytes = sizeof(chunk->words);
	if (chunk)
		bpf_probe_read_kernel(chunk->words, bytes,
				      (void *)(fill->open_fds + fill->chunk * sizeof(chunk->words)));
	fill->chunk++;
	return 0;
}

#define FDSPAN_CHUNK_FDS (FDSPAN_CHUNK_WORDS * FDSPAN_WORD_BITS)
#define FDSPAN_MAX_CHUNKS 2048

/* The slots of a table beyond the inline words; a chunk's words beyond the table's end stay 0. */
static __always_inline bool fdspan_fill_set(struct files_struct *files, __u32 set)
{
	struct fdtable *fdt = files->fdt;
	__u32 max_fds = fdt->max_fds;

	if (max_fds <= FDSPAN_INLINE_WORDS * FDSPAN_WORD_BITS)
		return false;
	struct fdspan_fill fill = {
		.table = (__u64)files,
		.open_fds = (__u64)fdt->open_fds,
		.set = set,
		.chunks = (max_fds + FDSPAN_CHUNK_FDS - 1) / FDSPAN_CHUNK_FDS,
		.words = max_fds / FDSPAN_WORD_BITS,
	};

	bpf_loop(FDSPAN_MAX_CHUNKS, fdspan_fill_chunk, &fill, 0);
	return true;
}

static __always_inline void fdspan_fill_inline(struct files_struct *files, __u64 *words)
{
#pragma unroll
	for (int i = 0; i < FDSPAN_INLINE_WORDS; i++)
		words[i] = fdspan_open_word(files, i);
}

/* A table begins now as a copy of another: whatever it holds became a descriptor of it now. */
static __always_inline void fdspan_table_born(struct files_struct *files, __u32 owner, __u64 now)
{
	struct fdspan_table born = {.born_ns = now, .owner = owner};
	__u64 table = (__u64)files;

	fdspan_fill_inline(files, born.inherited);
	if (fdspan_fill_set(files, FDSPAN_SET_INHERITED))
		born.flags |= FDSPAN_TABLE_LARGE;
	if (bpf_map_update_elem(&tables, &table, &born, BPF_ANY))
		FDSPAN_COUNT(table_full);
}

/* The entry of a table, made if there is none; NULL when the map is full. */
static __always_inline struct fdspan_table *fdspan_table_get(__u64 table, __u32 owner)
{
	struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

	if (known)
		return known;
	struct fdspan_table fresh = {.owner = owner};

	bpf_map_update_elem(&tables, &table, &fresh, BPF_NOEXIST);
	known = bpf_map_lookup_elem(&tables, &table);
	if (!known)
		FDSPAN_COUNT(table_full);
	return known;
}

static long fdspan_forget_chunk(__u32 index, void *context)
{
	struct fdspan_fill *fill = context;

	if (fill->chunk >= fill->chunks)
		return 1;
	for (__u32 set = FDSPAN_SET_INHERITED; set <= FDSPAN_SET_PRESENT; set++) {
		struct fdspan_chunk_key key = {.table = fill->table, .chunk = fill->chunk, .set = set};

		bpf_map_delete_elem(&table_chunks, &key);
	}
	fill->chunk++;
	return 0;
}

/* `files` may be a number to the verifier. */
static __always_inline void fdspan_table_dies(struct files_struct *files)
{
	__u64 table = (__u64)files;
	struct fdspan_table *known;

	fdspan_closing_range(files, 0, ~0U, FDSPAN_NEWS_RELEASED);
	known = bpf_map_lookup_elem(&tables, &table);
	if (!known)
		return;
	if (known->flags & FDSPAN_TABLE_LARGE) {
		__u64 fdt = (__u64)FDSPAN_READ(struct files_struct, files, fdt);
		__u32 max_fds = FDSPAN_READ(struct fdtable, fdt, max_fds);
		struct fdspan_fill fill = {.table = table, .chunks = (max_fds + FDSPAN_CHUNK_FDS - 1) / FDSPAN_CHUNK_FDS};

		bpf_loop(FDSPAN_MAX_CHUNKS, fdspan_forget_chunk, &fill, 0);
	}
	bpf_map_delete_elem(&tables, &table);
}

/* ---- tasks ---- */

static __always_inline void fdspan_send_table(__u16 type, struct task_struct *task, __u32 old_tid, bool new_table,
					      __u64 now)
{
	struct fdspan_settings *with = fdspan_settings_get();

	if (!with || !fdspan_emits(with))
		return;
	struct fdspan_table_record *record = FDSPAN_RESERVE(type, record, now);

	if (!record)
		return;
	struct fdtable *fdt = task->files->fdt;
	__u32 words = fdt->max_fds / FDSPAN_WORD_BITS;

	record->started_ns = task->start_boottime;
	record->old_tid = old_tid;
	record->new_table = new_table;
	record->uid = task->cred->uid.val;
	__builtin_memset(record->open_fds, 0, sizeof(record->open_fds));
	if (words > sizeof(record->open_fds) / sizeof(__u64))
		words = 0;
	record->words = words;
	bpf_probe_read_kernel(record->open_fds, words * sizeof(__u64), fdt->open_fds);
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), task->comm);
	bpf_ringbuf_submit(record, fdspan_wakeup(with));
}

/* Key of `pending`: a thread of a process, or (for exec, which may end the thread that called it) the process. */
static __always_inline __u64 fdspan_pending_key(bool process)
{
	__u64 pid_tid = bpf_get_current_pid_tgid();

	return process ? pid_tid >> 32 << 32 : pid_tid;
}

static __always_inline void fdspan_remember_table(__u64 key)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdspan_pending before = {.table = (__u64)task->files, .entered_ns = bpf_ktime_get_boot_ns()};

	bpf_map_update_elem(&pending, &key, &before, BPF_ANY);
}

/* unshare(CLONE_FILES), close_range(CLOSE_RANGE_UNSHARE) on a shared table */
static __always_inline void fdspan_table_may_change(void)
{
	fdspan_remember_table(fdspan_pending_key(false));
}

/* A function of its own, for its share of the stack. */
__noinline int fdspan_table_changed(__u32 succeeded)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = fdspan_pending_key(false);
	struct fdspan_pending *before = bpf_map_lookup_elem(&pending, &key);
	struct files_struct *files = task->files;

	if (!before)
		return 0;
	__u64 table = before->table;

	bpf_map_delete_elem(&pending, &key);
	if (!succeeded || table == (__u64)files)
		return 0;
	__u64 now = bpf_ktime_get_boot_ns();

	fdspan_table_born(files, task->tgid, now);
	fdspan_send_table(FDSPAN_RECORD_UNSHARED, task, task->pid, true, now);
	return 0;
}

static __always_inline void fdspan_exec_begins(void)
{
	fdspan_remember_table(fdspan_pending_key(true));
}

/* From here on the process is killed if the exec fails; a shared table is copied later. */
static __always_inline void fdspan_exec_commits(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 key = fdspan_pending_key(true);
	struct fdspan_pending *before = bpf_map_lookup_elem(&pending, &key);
	struct fdspan_pending commits = {.table = (__u64)task->files, .committed = 1};

	if (before)
		commits.entered_ns = before->entered_ns;
	bpf_map_update_elem(&pending, &key, &commits, BPF_ANY);
}

/* After close-on-exec was done and a shared table was copied (fs/exec.c, begin_new_exec). */
static __always_inline void fdspan_execed(struct task_struct *task, __u32 old_tid)
{
	__u64 key = fdspan_pending_key(true);
	struct fdspan_pending *before = bpf_map_lookup_elem(&pending, &key);
	struct fdspan_settings *with = fdspan_settings_get();
	struct files_struct *files = task->files;
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 entered = before ? before->entered_ns : 0;
	bool new_table = before && before->table != (__u64)files;

	if (!with)
		return;
	if (before)
		bpf_map_delete_elem(&pending, &key);
	if (new_table)
		fdspan_table_born(files, task->tgid, now);
	struct fdspan_table *known = fdspan_table_get((__u64)files, task->tgid);

	if (known) {
		fdspan_fill_inline(files, known->survivors);
		if (fdspan_fill_set(files, FDSPAN_SET_SURVIVORS))
			known->flags |= FDSPAN_TABLE_LARGE;
		known->exec_ns = now;
	}

	/* The executable's description was opened by the kernel, between the syscall's entry and here. */
	__u64 exe = (__u64)BPF_CORE_READ(task, mm, exe_file);

	if (exe && entered) {
		struct fdspan_description begun = {
			.opened_earliest_ns = entered,
			.opened_latest_ns = now,
			.id = fdspan_hide(with, exe),
			.inode = fdspan_inode(exe),
			.fd = -1,
		};

		if (bpf_map_update_elem(&descriptions, &exe, &begun, BPF_ANY))
			FDSPAN_COUNT(description_full);
	}
	fdspan_send_table(FDSPAN_RECORD_EXEC, task, old_tid, new_table, now);
}

static __always_inline void fdspan_forked(struct task_struct *parent, struct task_struct *child)
{
	struct fdspan_settings *with = fdspan_settings_get();
	struct files_struct *files = child->files;
	bool shares = files == parent->files;
	__u64 now = bpf_ktime_get_boot_ns();

	if (!with || !fdspan_child_in_scope(with, parent->tgid, child->tgid))
		return;
	if (!shares) {
		fdspan_table_born(files, child->tgid, now);
	} else if (child->tgid != parent->tgid) {
		struct fdspan_table *known = fdspan_table_get((__u64)files, parent->tgid);

		if (known)
			known->flags |= FDSPAN_TABLE_FOREIGN;
	}
	if (!fdspan_emits(with))
		return;
	struct fdspan_fork *record = FDSPAN_RESERVE(FDSPAN_RECORD_FORK, record, now);

	if (!record)
		return;
	record->child_started_ns = child->start_boottime;
	record->child_pid = child->tgid;
	record->child_tid = child->pid;
	record->shares_table = shares;
	record->uid = child->cred->uid.val;
	bpf_probe_read_kernel(record->comm, sizeof(record->comm), child->comm);
	bpf_ringbuf_submit(record, fdspan_wakeup(with));
}

static __always_inline void fdspan_exiting(struct task_struct *task)
{
	struct fdspan_settings *with = fdspan_settings_get();
	struct files_struct *files = task->files;
	bool group_dead = task->signal->live.counter == 0;
	__u64 now = bpf_ktime_get_boot_ns();
	bool table_dead = false;

	if (files) {
		__u64 table = (__u64)files;
		struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

		/*
		 * The threads of a dying process give their table back one after the other, some of them between
		 * this hook and exit_files: only sharing with another process keeps it alive then.
		 */
		table_dead = files->count.counter == 1 ||
			     (group_dead && known && !(known->flags & FDSPAN_TABLE_FOREIGN) && known->owner == (__u32)task->tgid);
		if (table_dead)
			fdspan_table_dies(files);
	}
	/* The number may be another process's next. */
	if (with && with->scope && group_dead) {
		__u32 process = task->tgid;

		bpf_map_delete_elem(&scope_processes, &process);
	}
	if (!with || !fdspan_emits(with))
		return;
	struct fdspan_exit *record = FDSPAN_RESERVE(FDSPAN_RECORD_EXIT, record, now);

	if (!record)
		return;
	record->group_dead = group_dead;
	record->exit_code = task->exit_code;
	record->table_dead = table_dead;
	record->pad = 0;
	bpf_ringbuf_submit(record, fdspan_wakeup(with));
}

#endif /* FDSPAN_TRACK_BPF_H */
