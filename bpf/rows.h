/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Rows that the iterator programs write into their sequence file, and what they are asked for. Included by both sides, like
 * wire.h. A row is one bpf_seq_write of one contiguous piece: the kernel takes back what a program wrote for an object whose
 * last write did not fit and runs it again for the next read(2) (kernel/bpf/bpf_iter.c, bpf_seq_read), so a row is whole or absent.
 */
#ifndef FDSPAN_ROWS_H
#define FDSPAN_ROWS_H

#include "wire.h"

enum fdspan_row_kind {
	FDSPAN_ROW_PROCESS = 1, /* struct fdspan_process_row */
	FDSPAN_ROW_FD = 2,      /* the others: struct fdspan_row */
	FDSPAN_ROW_MEM = 3,
	FDSPAN_ROW_EXE = 4,
	FDSPAN_ROW_CWD = 5,
	FDSPAN_ROW_ROOT = 6,
	FDSPAN_ROW_THREAD = 7, /* a live thread of a process whose leader is dead: only table_id and place_id */
	FDSPAN_ROW_HIDDEN = 8, /* a live description of a deleted file, whoever has it; of no process */
};

struct fdspan_row_header {
	fdspan_u32 size; /* of the whole row, text included */
	fdspan_u16 kind; /* enum fdspan_row_kind */
	fdspan_u16 text_bytes; /* behind the fixed part */
	fdspan_u32 pid;  /* of the process, in the reader's pid namespace */
	fdspan_u32 tid;
	fdspan_u64 started_ns; /* start_boottime of the process's leader: with pid, its identity */
};
FDSPAN_ASSERT_SIZE(struct fdspan_row_header, 24);

struct fdspan_process_row {
	struct fdspan_row_header header;
	fdspan_u32 ppid; /* 0: outside the reader's pid namespace */
	fdspan_u32 uid;  /* real, in the initial user namespace */
	fdspan_u32 task_flags; /* PF_* */
	fdspan_u32 slots; /* of its descriptor table, open or not; 0: none is open */
	char comm[64]; /* kernel threads may have longer ones than 15 */
};
FDSPAN_ASSERT_SIZE(struct fdspan_process_row, 104);

struct fdspan_row {
	struct fdspan_row_header header;
	fdspan_s32 fd;
	fdspan_u32 flags; /* FDSPAN_ROW_* flags */
	fdspan_u64 at_ns; /* CLOCK_BOOTTIME when the row was read; 0: user space knows it well enough */
	/* set where tid is not pid: */
	fdspan_u64 table_id; /* FD, THREAD: several threads may share a table of their own */
	fdspan_u64 place_id; /* CWD, ROOT, THREAD: likewise their cwd and root (struct fs_struct) */
	/* the file */
	fdspan_u64 inode_id; /* set where user space has to complete the row with statx: equal for equal inodes */
	fdspan_u64 ino;
	fdspan_u64 size;
	fdspan_u64 blocks; /* 512 bytes each */
	fdspan_u64 born_seconds; /* inode birth time, wall clock, two's complement; FDSPAN_ROW_HAS_BIRTH */
	fdspan_u64 changed_seconds; /* inode ctime, likewise; 0: not known */
	fdspan_u32 born_nanoseconds;
	fdspan_u32 fs_magic;
	fdspan_u32 dev; /* kernel encoding: major << 20 | minor */
	fdspan_u32 rdev;
	fdspan_u32 nlink;
	fdspan_u32 mode;
	/* the reference */
	fdspan_u64 position; /* FD: f_pos; MEM: start of the mapping */
	fdspan_u64 end;      /* MEM */
	fdspan_u32 open_flags; /* FD: f_flags, O_CLOEXEC from the table */
	fdspan_u32 map_flags;  /* MEM: as in Reference */
	fdspan_s32 mnt_id;
	fdspan_u32 pad;
	/* what the maps know; latest 0: nothing */
	fdspan_u64 opened_earliest_ns;
	fdspan_u64 opened_latest_ns; /* MEM, EXE: of the process's last exec that was seen */
	fdspan_u64 description_earliest_ns;
	fdspan_u64 description_latest_ns;
	fdspan_u64 description_id;
};
FDSPAN_ASSERT_SIZE(struct fdspan_row, 200);

#define FDSPAN_ROW_MARKED 1u        /* the kernel appended " (deleted)" to the path: the name is unhashed */
#define FDSPAN_ROW_PSEUDO 2u        /* in no directory: memfd, SysV shm, socket, … */
#define FDSPAN_ROW_HAS_PATH 4u      /* the text is a path */
#define FDSPAN_ROW_HAS_LABEL 8u     /* the text is the last name only */
#define FDSPAN_ROW_NAMES 16u        /* the text is names from the file up to the root, each ending in NUL */
#define FDSPAN_ROW_CUT 32u          /* the path is longer than PATH_MAX: none is given */
#define FDSPAN_ROW_HAS_BIRTH 64u
#define FDSPAN_ROW_ASK_STAT 128u    /* this file system keeps what stat(2) says elsewhere than in its inode */
#define FDSPAN_ROW_OPENED_BY_EXEC 256u /* EXE, MEM: the description is one that execve(2) made */
#define FDSPAN_ROW_FORKED 512u      /* and the process has it from its parent: it did no exec itself */

#define FDSPAN_MAX_READERS 8 /* threads that read at once */

#define FDSPAN_MAX_TYPES 1024 /* a power of two, more than the object has types of its own */

#define FDSPAN_PATH_BYTES 4096 /* PATH_MAX, and what readlink(2) of a magic link is limited to (fs/proc/base.c) */
#define FDSPAN_LABEL_BYTES 64

/* What the next read is about; user space writes it between reads, never during one. */
struct fdspan_iteration {
	fdspan_u32 fields; /* FDSPAN_WANT_* */
	fdspan_u32 deleted_only;
	fdspan_u32 filtered; /* 1: only processes in `wanted` */
	fdspan_u32 census;
	fdspan_u64 began_ns;
	fdspan_u32 kinds; /* 1 << fdspan_row_kind */
	fdspan_u32 linked; /* with deleted_only, files that have links left too: FDSPAN_LINKED_* */
};
FDSPAN_ASSERT_SIZE(struct fdspan_iteration, 32);
#define FDSPAN_WANT_PATH 1u
#define FDSPAN_WANT_STAT 2u
#define FDSPAN_WANT_FDINFO 4u
#define FDSPAN_WANT_TIMES 8u
#define FDSPAN_WANT_IDS 16u /* with times: description_id */
#define FDSPAN_LINKED_UNHASHED 1u /* the name it was opened by is gone */
#define FDSPAN_LINKED_NFS 2u      /* user space looks for silly renames among them */

/* A sweep: one byte per entry visited goes into the sequence file. */
#define FDSPAN_SWEEP_KEPT 1
#define FDSPAN_SWEEP_DEAD 2 /* deleted, unless something newer took its key meanwhile */

#endif /* FDSPAN_ROWS_H */
