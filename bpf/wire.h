/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Records that the BPF programs hand to user space, and the values of the kernel maps.
 * Included by both sides: fixed-width fields, explicit padding, sizes asserted in both.
 * All times are CLOCK_BOOTTIME nanoseconds (bpf_ktime_get_boot_ns).
 */
#ifndef FDSPAN_WIRE_H
#define FDSPAN_WIRE_H

#ifdef __cplusplus
#include <cstdint>
typedef std::uint8_t fdspan_u8;
typedef std::uint16_t fdspan_u16;
typedef std::uint32_t fdspan_u32;
typedef std::int32_t fdspan_s32;
typedef std::uint64_t fdspan_u64;
#define FDSPAN_ASSERT_SIZE(type, bytes) static_assert(sizeof(type) == (bytes), #type)
#else
typedef __u8 fdspan_u8;
typedef __u16 fdspan_u16;
typedef __u32 fdspan_u32;
typedef __s32 fdspan_s32;
typedef __u64 fdspan_u64;
#define FDSPAN_ASSERT_SIZE(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
#endif

/* Stands in an object where the kernel's bpf_rdonly_cast is called (compat.bpf.h); no helper has this number. */
#define FDSPAN_CALL_RDONLY_CAST 0x66647370

/* ---- kernel maps: the truth about times ------------------------------------------------------------------------ */

#define FDSPAN_WORD_BITS 64
#define FDSPAN_INLINE_WORDS 4 /* 256 descriptors; nearly every table */
#define FDSPAN_CHUNK_WORDS 64 /* 4096 descriptors per chunk of a larger table */

/* descriptions: struct file * -> its span. One insert and one delete for the usual open and close. */
struct fdspan_description {
	fdspan_u64 opened_earliest_ns; /* == opened_latest_ns when stamped as it happened; 0: no lower bound */
	fdspan_u64 opened_latest_ns;
	fdspan_u64 id;    /* the pointer under a keyed permutation; what user space sees. 0: made when it is asked for */
	fdspan_u64 inode; /* struct inode *: tells a reused struct file from the one that was stamped */
	fdspan_u64 table; /* files_struct * of the first descriptor while that one is open, else 0 */
	fdspan_s32 fd;    /* the first descriptor */
	fdspan_u32 flags; /* FDSPAN_DESCRIPTION_* */
};
#define FDSPAN_DESCRIPTION_CENSUS 1u /* found by a snapshot, not seen being opened */
FDSPAN_ASSERT_SIZE(struct fdspan_description, 48);

/* descriptors: only those that are not their description's first (dup, received, …). */
struct fdspan_descriptor_key {
	fdspan_u64 table; /* files_struct * */
	fdspan_s32 fd;
	fdspan_u32 pad;
};
struct fdspan_descriptor {
	fdspan_u64 opened_ns;
	fdspan_u64 file; /* struct file * it was opened on */
};
FDSPAN_ASSERT_SIZE(struct fdspan_descriptor_key, 16);
FDSPAN_ASSERT_SIZE(struct fdspan_descriptor, 16);

/* tables: files_struct * -> when it was made, and which slots were filled at three moments of its life. */
struct fdspan_table {
	fdspan_u64 born_ns;   /* made by fork or unshare, then; 0: before tracing began */
	fdspan_u64 exec_ns;   /* last exec that closed descriptors in it; 0: none seen */
	fdspan_u64 census_ns; /* a snapshot saw the slots of `present` filled, then; 0: none */
	fdspan_u64 inherited[FDSPAN_INLINE_WORDS]; /* filled at born_ns, and not closed since */
	fdspan_u64 survivors[FDSPAN_INLINE_WORDS]; /* filled at exec_ns */
	fdspan_u64 present[FDSPAN_INLINE_WORDS];   /* filled at census_ns, and not closed since */
	fdspan_u32 owner; /* pid of the process it was made for */
	fdspan_u32 flags; /* FDSPAN_TABLE_* */
};
#define FDSPAN_TABLE_FOREIGN 1u /* shared between processes (CLONE_FILES without CLONE_THREAD) */
#define FDSPAN_TABLE_LARGE 2u   /* has entries in the chunk map */
FDSPAN_ASSERT_SIZE(struct fdspan_table, 128);

/* table_chunks: the slots from FDSPAN_INLINE_WORDS * 64 on. */
struct fdspan_chunk_key {
	fdspan_u64 table;
	fdspan_u32 chunk; /* fd / 4096 */
	fdspan_u32 set;   /* FDSPAN_SET_* */
};
#define FDSPAN_SET_INHERITED 0u
#define FDSPAN_SET_SURVIVORS 1u
#define FDSPAN_SET_PRESENT 2u
struct fdspan_chunk {
	fdspan_u64 words[FDSPAN_CHUNK_WORDS];
};
FDSPAN_ASSERT_SIZE(struct fdspan_chunk_key, 16);

/* settings: one entry; written by the loader, `sleeping` by both sides. */
#define FDSPAN_ROUNDS 27
struct fdspan_settings {
	fdspan_u32 round_keys[FDSPAN_ROUNDS]; /* of the permutation that hides kernel pointers */
	fdspan_u32 emit;     /* 1: hand news to the ring; 0: kernel maps only */
	fdspan_u32 paths;    /* 1: OPENED carries the path */
	fdspan_u32 sleeping; /* 1: the reader waits; the next record wakes it and sets 0 */
	fdspan_u64 watermark_bytes; /* wake the reader when so much is waiting in the ring */
	fdspan_u64 tracking_since_ns; /* all hooks were attached then; 0: not yet, and the hooks do nothing */
	fdspan_u32 backend;  /* FDSPAN_HOOKS_* */
	fdspan_u32 check_pid; /* hooks that fire in this process say so in `hook_seen`; 0: none */
	fdspan_u64 census_ns; /* first census finished then; 0: none */
	fdspan_u32 version;  /* FDSPAN_MAPS_VERSION of who made the maps */
	fdspan_u32 scope;    /* FDSPAN_SCOPE_*; 0: everybody is tracked */
	fdspan_u64 build;    /* of the programs: who finds another number than its own can't read their records */
	fdspan_u64 outside_since; /* end of the last snapshot; 0: one is being read. `outside` is valid with this very number only */
};
#define FDSPAN_SCOPE_PROCESSES 1u /* those in `scope_processes` … */
#define FDSPAN_SCOPE_CGROUPS 2u   /* … and those in or below a cgroup of `scope_cgroups` */
#define FDSPAN_SCOPE_WHO (FDSPAN_SCOPE_PROCESSES | FDSPAN_SCOPE_CGROUPS)
#define FDSPAN_SCOPE_FILES 4u     /* of these, only files that `scope_files` has room for */
#define FDSPAN_MAPS_VERSION 3u /* a change of any value in this section moves it */
/* Places in hook_seen: a function's hook is at its attach cookie, a syscall's at its number. */
#define FDSPAN_MAX_HOOKS 1024
#define FDSPAN_HOOK_EXIT(number) (number)
#define FDSPAN_HOOK_ENTRY(number) ((number) + FDSPAN_SYSCALLS)
#define FDSPAN_HOOKS_SYSCALL 1u
#define FDSPAN_HOOKS_TRAMPOLINE 2u
#define FDSPAN_HOOKS_KPROBE 3u
FDSPAN_ASSERT_SIZE(struct fdspan_settings, 176);

/*
 * scope_files: one entry. What it leaves out, user space would leave out as well; what it lets through, user space looks at again: of
 * the directories only the outermost names are here, and of each name its beginning.
 */
#define FDSPAN_ALL_TYPES 0xffffu
#define FDSPAN_MAX_TOPS 8
#define FDSPAN_TOP_NAMES 16
#define FDSPAN_TOP_NAME_BYTES 16 /* of a name, the NUL behind it included */
struct fdspan_top {
	fdspan_u32 depth; /* names in use, from the root down */
	fdspan_u32 pad;
	fdspan_u32 lengths[FDSPAN_TOP_NAMES];
	char names[FDSPAN_TOP_NAMES][FDSPAN_TOP_NAME_BYTES];
};
struct fdspan_scope_files {
	fdspan_u32 types; /* bits by i_mode >> 12; bit 0 for what has no type */
	fdspan_u32 tops;  /* in use; 0: files anywhere */
	fdspan_u32 deepest; /* the largest of their depths */
	fdspan_u32 pad;
	struct fdspan_top top[FDSPAN_MAX_TOPS];
};
FDSPAN_ASSERT_SIZE(struct fdspan_scope_files, 2640);

/* outside: by a few bits of its address, the last struct file that `scope_files` left out when a descriptor of it began. */
#define FDSPAN_OUTSIDE_PLACES 4096u
struct fdspan_outside {
	fdspan_u64 file;
	fdspan_u64 inode;
	fdspan_u64 since; /* settings.outside_since before it was looked at */
};
FDSPAN_ASSERT_SIZE(struct fdspan_outside, 24);

/* What a syscall is to the syscall backend; at its entry and its exit it may be different things. From UNLINK on they remove names. */
enum fdspan_call {
	FDSPAN_CALL_NONE,
	FDSPAN_CALL_OPEN, /* returns a descriptor of a new description */
	FDSPAN_CALL_DUP,
	FDSPAN_CALL_DUP2,
	FDSPAN_CALL_PIDFD_GETFD,
	FDSPAN_CALL_FCNTL,
	FDSPAN_CALL_SIGNALFD,
	FDSPAN_CALL_LANDLOCK,
	FDSPAN_CALL_SECCOMP,
	FDSPAN_CALL_BPF,
	FDSPAN_CALL_PIPE,
	FDSPAN_CALL_SOCKETPAIR,
	FDSPAN_CALL_CLONE,
	FDSPAN_CALL_CLONE3,
	FDSPAN_CALL_RECVMSG,
	FDSPAN_CALL_RECVMMSG,
	FDSPAN_CALL_CLOSE,
	FDSPAN_CALL_CLOSE_RANGE,
	FDSPAN_CALL_UNSHARE,
	FDSPAN_CALL_EXEC,
	FDSPAN_CALL_UNLINK,
	FDSPAN_CALL_RMDIR,
	FDSPAN_CALL_UNLINKAT,
	FDSPAN_CALL_RENAME,
	FDSPAN_CALL_RENAMEAT,
	FDSPAN_CALL_RENAMEAT2,
};
#define FDSPAN_SYSCALLS 512u /* numbers that are looked at */

/* counters, one per CPU: what could not be kept or handed over. */
struct fdspan_counters {
	fdspan_u64 seq;               /* records attempted on this CPU; the next record's header.seq */
	fdspan_u64 ring_lost;         /* records that found no room in the ring */
	fdspan_u64 ring_lost_first_ns; /* of the losses since the last reset of ring_lost_first_ns to 0 by the reader */
	fdspan_u64 ring_lost_last_ns;
	fdspan_u64 description_full;  /* spans that found no room in `descriptions` */
	fdspan_u64 descriptor_full;
	fdspan_u64 table_full;
	fdspan_u64 truncated;         /* loops cut at their bound: cmsg arrays, huge tables */
};
FDSPAN_ASSERT_SIZE(struct fdspan_counters, 64);

/* ---- ring records: news ------------------------------------------------------------------------------------------ */

enum fdspan_record_type {
	FDSPAN_RECORD_OPENED = 1, /* a descriptor's span began */
	FDSPAN_RECORD_CLOSED = 2, /* a descriptor's span ended */
	FDSPAN_RECORD_RELEASED = 3, /* a description's span ended */
	FDSPAN_RECORD_FORK = 4,   /* a task was made: process or thread */
	FDSPAN_RECORD_EXEC = 5,
	FDSPAN_RECORD_EXIT = 6,   /* a task ended */
	FDSPAN_RECORD_UNSHARED = 7, /* a task got a copy of its descriptor table for itself */
	FDSPAN_RECORD_UNLINKED = 8, /* a name was removed, moved or replaced */
};

struct fdspan_record {
	fdspan_u16 type; /* enum fdspan_record_type */
	fdspan_u16 cpu;
	fdspan_u32 size; /* of the whole record, path included */
	fdspan_u64 seq;  /* per CPU; a gap is a loss */
	fdspan_u64 boottime_ns;
	fdspan_u32 pid;  /* thread group id */
	fdspan_u32 tid;
};
FDSPAN_ASSERT_SIZE(struct fdspan_record, 32);

/* FDSPAN_RECORD_OPENED, from the exit of a syscall that made a descriptor. */
struct fdspan_opened {
	struct fdspan_record header;
	fdspan_u64 description_id; /* 0: not known (map full) */
	fdspan_u64 description_earliest_ns; /* the description's span; both 0: not known */
	fdspan_u64 description_latest_ns;
	fdspan_u64 ino;
	fdspan_s32 fd;
	fdspan_u32 open_flags; /* file->f_flags; close-on-exec is `cloexec` */
	fdspan_u32 dev;  /* kernel encoding: major << 20 | minor */
	fdspan_u32 mode; /* inode->i_mode */
	fdspan_u32 nlink;
	fdspan_u32 fs_magic;
	fdspan_u16 how;  /* FDSPAN_HOW_* */
	fdspan_u8 cloexec;
	fdspan_u8 path_flags; /* FDSPAN_PATH_* */
	fdspan_u16 path_bytes; /* bytes behind this struct */
	fdspan_u16 pad;
	/* path_bytes follow: the names from the file up to the root, each ending in NUL */
};
FDSPAN_ASSERT_SIZE(struct fdspan_opened, 96);
#define FDSPAN_HOW_OPEN 0    /* a new description: open, socket, pipe, accept, memfd, … */
#define FDSPAN_HOW_DUP 1     /* dup, dup2, dup3, F_DUPFD: another descriptor of the same description */
#define FDSPAN_HOW_RECEIVED 2 /* SCM_RIGHTS, pidfd_getfd */
#define FDSPAN_PATH_NONE 1    /* no path was asked for, or the file has none (pipe, socket, anon_inode) */
#define FDSPAN_PATH_CUT 2     /* deeper or longer than the walk goes; the first names are missing */
#define FDSPAN_PATH_UNLINKED 4 /* the name was already gone */
#define FDSPAN_PATH_LABEL 8   /* one name that is a label, not a path: the d_name of an anon_inode */

/*
 * FDSPAN_RECORD_CLOSED and FDSPAN_RECORD_RELEASED. Header.pid of RELEASED is the task in whose context the last reference went,
 * which need not have held one: a kernel thread frees what was in flight.
 */
struct fdspan_closed {
	struct fdspan_record header;
	fdspan_u64 description_id; /* 0: not known */
	fdspan_u64 description_earliest_ns; /* both 0: not known */
	fdspan_u64 description_latest_ns;
	fdspan_s32 fd; /* -1 for RELEASED, which is not about a descriptor */
	fdspan_u16 last; /* CLOSED: 1 when no other reference kept the description: it was released with it */
	fdspan_u16 unlinked; /* 1: the file had no links; then this is the beginning of a fdspan_closed_unlinked */
};
FDSPAN_ASSERT_SIZE(struct fdspan_closed, 64);
struct fdspan_closed_unlinked {
	struct fdspan_closed closed;
	fdspan_u64 allocated; /* bytes, as far as the inode itself counts them */
	fdspan_u64 size;
};
FDSPAN_ASSERT_SIZE(struct fdspan_closed_unlinked, 80);

/* FDSPAN_RECORD_FORK; header.pid/tid is the parent. */
struct fdspan_fork {
	struct fdspan_record header;
	fdspan_u64 child_started_ns; /* task->start_boottime */
	fdspan_u32 child_pid;
	fdspan_u32 child_tid;
	fdspan_u32 shares_table; /* 1: CLONE_FILES */
	fdspan_u32 uid;
	char comm[16];
};
FDSPAN_ASSERT_SIZE(struct fdspan_fork, 72);

/* FDSPAN_RECORD_EXEC and FDSPAN_RECORD_UNSHARED: what is in the task's table now. */
struct fdspan_table_record {
	struct fdspan_record header;
	fdspan_u64 started_ns; /* task->start_boottime: an exec by a thread moves it to the leader's pid */
	fdspan_u32 old_tid;  /* EXEC: the tid before (a thread that execs takes the leader's) */
	fdspan_u32 new_table; /* 1: the table is a fresh copy, no longer shared */
	fdspan_u32 uid;
	fdspan_u32 words;    /* valid words of open_fds; 0: more than fit, read a snapshot instead */
	char comm[16];
	fdspan_u64 open_fds[32]; /* 2048 descriptors */
};
FDSPAN_ASSERT_SIZE(struct fdspan_table_record, 328);

/* FDSPAN_RECORD_EXIT */
struct fdspan_exit {
	struct fdspan_record header;
	fdspan_u32 group_dead; /* 1: last task of the process */
	fdspan_s32 exit_code;
	fdspan_u32 table_dead; /* 1: nobody else uses its descriptor table */
	fdspan_u32 pad;
};
FDSPAN_ASSERT_SIZE(struct fdspan_exit, 48);

#define FDSPAN_NAME_BYTES 256 /* one name, NUL included */

/*
 * FDSPAN_RECORD_UNLINKED: a name was taken away, or given to another file. The `trampoline` and `kprobe` backends tell which
 * file it led to, and send only what somebody may hold; the `syscall` backend tells the path as the caller gave it, and which
 * file that was is for user space to find out.
 */
#define FDSPAN_NAMES_BYTES 512
#define FDSPAN_GIVEN_BYTES 512

/* A path as a caller gave it, and the directory that it starts from. Behind them: base, given. */
struct fdspan_place {
	fdspan_u16 base_bytes;  /* names as in OPENED */
	fdspan_u16 given_bytes; /* with the NUL */
	fdspan_u16 flags;       /* FDSPAN_PLACE_* */
	fdspan_u16 pad;
	char base[FDSPAN_NAMES_BYTES];
	char given[FDSPAN_GIVEN_BYTES];
};
#define FDSPAN_PLACE_BASE_CUT 1  /* the outermost names are missing */
#define FDSPAN_PLACE_GIVEN_CUT 2 /* only the end of the text is here */
FDSPAN_ASSERT_SIZE(struct fdspan_place, 1032);

struct fdspan_unlinked {
	struct fdspan_record header;
	fdspan_u64 ino;       /* of the file that lost the name; 0: not known */
	fdspan_u64 began_ns;  /* the call; 0: not known */
	fdspan_u64 cgroup;    /* id in the unified hierarchy */
	fdspan_u64 allocated; /* bytes, as far as the inode itself counts them, or FDSPAN_ALLOCATED_BELOW; with ino only */
	fdspan_u32 dev;
	fdspan_u32 nlink;     /* what is left */
	fdspan_u32 uid;
	fdspan_u16 how;       /* FDSPAN_UNLINK_* */
	fdspan_u16 places;    /* that follow: with ino 1, which has the last name only; without 1, or 2 for a rename, from and to; or 0 */
	fdspan_u16 exe_bytes; /* names as in OPENED, of the caller's executable */
	fdspan_u16 exe_flags; /* FDSPAN_PLACE_BASE_CUT */
	fdspan_u32 mode;      /* with ino: inode->i_mode */
	char comm[16];
	char exe[FDSPAN_NAMES_BYTES];
	struct fdspan_place place[2];
};
#define FDSPAN_ALLOCATED_BELOW (~0ULL) /* an inode of overlayfs counts nothing: its layer's does, of which a record went before */
#define FDSPAN_UNLINK_UNLINK 0
#define FDSPAN_UNLINK_RMDIR 1
#define FDSPAN_UNLINK_RENAME 2
#define FDSPAN_UNLINK_EXCHANGE 3 /* two names changed places: nothing was removed */
#define FDSPAN_UNLINK_MOVED 4    /* with ino: the file has another name now */
FDSPAN_ASSERT_SIZE(struct fdspan_unlinked, 2680);
#define FDSPAN_UNLINKED_BYTES(places) (sizeof(struct fdspan_unlinked) - (2 - (places)) * sizeof(struct fdspan_place))

#endif /* FDSPAN_WIRE_H */
