/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fdspan: how long has this file been open, by whom, and was it deleted meanwhile?
 *
 * The C interface of libfdspan; fdspan.hpp puts C++20 over it. The words (descriptor, description, span, loss, …) and
 * the model of time are explained in fdspan(7).
 *
 * Conventions, unless a function says otherwise:
 * - Functions return a value >= 0, or a negative errno.
 * - A handle belongs to the thread that uses it: any thread, but one at a time. Different handles may be used by
 *   different threads at once. The library has no threads of its own and no global state.
 * - After fork(2), every function but those that close and free returns -ECHILD for a handle of the parent.
 * - From inside a callback of a tracker, every function on that tracker and its cursors returns -EBUSY.
 * - Structs that the caller fills begin with `size`, set to sizeof(struct …), and are otherwise zeroed. A size below that
 *   of its first version is -EINVAL; a tail that this library does not know and that is not zero, or a size above 4096, is
 *   -E2BIG. Structs that the library fills only grow at their end. A list has at most 65536 members; more are -E2BIG.
 * - Strings are bytes as the kernel has them (no encoding is promised), end in NUL, and are "" rather than NULL where
 *   nothing is known.
 * - Times are CLOCK_BOOTTIME in nanoseconds; the one exception says so.
 */
#ifndef FDSPAN_FDSPAN_H
#define FDSPAN_FDSPAN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FDSPAN_API __attribute__((visibility("default")))
#define FDSPAN_MUST_CHECK __attribute__((warn_unused_result))
#else
#define FDSPAN_API
#define FDSPAN_MUST_CHECK
#endif

#define FDSPAN_VERSION_MAJOR 0
#define FDSPAN_VERSION_MINOR 1
#define FDSPAN_VERSION_PATCH 0

/* ---- constants ---------------------------------------------------------------------------------------------------- */

/* Where events come from; the best that works first. FDSPAN_BACKEND_AUTO takes the best, see fdspan_get_backend(). */
#define FDSPAN_BACKEND_AUTO 0u
#define FDSPAN_BACKEND_TRAMPOLINE 1u /* fentry on the VFS: sees everything */
#define FDSPAN_BACKEND_KPROBE 2u     /* the same through kprobes */
#define FDSPAN_BACKEND_SYSCALL 3u    /* syscall tracepoints: sees nearly everything */
#define FDSPAN_BACKEND_PROCFS 4u     /* polls /proc: needs nothing, and all its times are bounded */

/* Bits: what an event tells of. */
#define FDSPAN_EVENT_OPENED (1u << 0)   /* a descriptor's span began */
#define FDSPAN_EVENT_CLOSED (1u << 1)   /* a descriptor's span ended */
#define FDSPAN_EVENT_RELEASED (1u << 2) /* an open file description's span ended: nothing refers to it any more */
#define FDSPAN_EVENT_DELETED (1u << 3)  /* the last name of an open file went */
#define FDSPAN_EVENT_EXEC (1u << 4)     /* a process runs another program now */
#define FDSPAN_EVENT_EXIT (1u << 5)     /* a process ended */
#define FDSPAN_EVENT_LOST (1u << 6)     /* the kernel could not hand over events; always delivered */
#define FDSPAN_EVENT_RESYNCED (1u << 7) /* a snapshot was read and the index made equal to it; always delivered */
#define FDSPAN_EVENT_ALL 0xffu

/* Bits: file types. */
#define FDSPAN_TYPE_UNKNOWN (1u << 0)
#define FDSPAN_TYPE_REGULAR (1u << 1)
#define FDSPAN_TYPE_DIRECTORY (1u << 2)
#define FDSPAN_TYPE_CHARACTER (1u << 3)
#define FDSPAN_TYPE_BLOCK (1u << 4)
#define FDSPAN_TYPE_FIFO (1u << 5)
#define FDSPAN_TYPE_SOCKET (1u << 6)
#define FDSPAN_TYPE_LINK (1u << 7)
#define FDSPAN_TYPE_ANON (1u << 8) /* an anonymous inode; fdspan_reference.type_name says which class */
#define FDSPAN_TYPE_ALL 0x1ffu

/* Bits: what keeps a file in use. */
#define FDSPAN_REF_FD (1u << 0)      /* a descriptor */
#define FDSPAN_REF_MAPPING (1u << 1) /* a memory mapping */
#define FDSPAN_REF_EXE (1u << 2)     /* the executable of a process */
#define FDSPAN_REF_CWD (1u << 3)     /* its working directory */
#define FDSPAN_REF_ROOT (1u << 4)    /* its root directory */
#define FDSPAN_REF_ALL 0x1fu

/* The name of a file. What never had a name is not "deleted". */
#define FDSPAN_NAME_NAMED 0u    /* the path leads to the file */
#define FDSPAN_NAME_GONE 1u     /* the name it was opened by is gone, another hard link is left */
#define FDSPAN_NAME_DELETED 2u  /* no link is left */
#define FDSPAN_NAME_MEMFD 3u    /* memfd_create(2) */
#define FDSPAN_NAME_TMPFILE 4u  /* O_TMPFILE */
#define FDSPAN_NAME_SHM 5u      /* System V shared memory, or a shared anonymous mapping */
#define FDSPAN_NAME_NAMELESS 6u /* pipes, sockets, anonymous inodes */
#define FDSPAN_NAME_UNKNOWN 7u  /* could not be decided without risking to block */
#define FDSPAN_NAME_SILLY 8u    /* deleted here; NFS keeps it as .nfsXXXX until it is closed, with a link count of 1 */

/* Where a time comes from. */
#define FDSPAN_TIME_UNKNOWN 0u
#define FDSPAN_TIME_BOUNDED 1u /* nobody saw it happen: the truth lies inside the interval */
#define FDSPAN_TIME_KERNEL 2u  /* stamped in the kernel as it happened: earliest == latest */

/* How the last name of a file went. */
#define FDSPAN_REMOVAL_UNKNOWN 0u
#define FDSPAN_REMOVAL_UNLINK 1u
#define FDSPAN_REMOVAL_RMDIR 2u
#define FDSPAN_REMOVAL_RENAME 3u

/* Levels of the log callback. */
#define FDSPAN_LOG_ERROR 0u   /* why the call that is about to return failed */
#define FDSPAN_LOG_WARNING 1u /* what the host's operator should know */
#define FDSPAN_LOG_INFO 2u    /* why a better backend was not taken */

/* ---- what the library fills ---------------------------------------------------------------------------------------- */

/* When something happened, as far as it is known: a closed interval. Available since 0.1; never changes. */
struct fdspan_time {
	uint64_t earliest_ns; /* 0: no lower bound is known */
	uint64_t latest_ns;   /* UINT64_MAX: not known */
	uint32_t source;      /* FDSPAN_TIME_* */
	uint32_t reserved;
};

/* fdspan_process_info.flags */
#define FDSPAN_PROCESS_UNREADABLE (1u << 0) /* it exists, its references could not be read */

/* A process; (pid, started) identifies it. Since 0.1. */
struct fdspan_process_info {
	int32_t pid;
	int32_t ppid;
	uint32_t uid; /* real user */
	uint32_t flags;
	const char *comm;
	const char *cgroup;    /* path in the hierarchy */
	const char *container; /* a hint from the cgroup: "docker:3f2a…" */
	struct fdspan_time started;
};

/* fdspan_reference.valid: which fields were really read. */
#define FDSPAN_FIELD_PATH (1u << 0)  /* path */
#define FDSPAN_FIELD_STAT (1u << 1)  /* type, device, inode, nlink, name */
#define FDSPAN_FIELD_FLAGS (1u << 2) /* open_flags */
#define FDSPAN_FIELD_TIMES (1u << 3) /* opened, description_opened */
#define FDSPAN_FIELD_SIZE (1u << 4)  /* size_bytes, allocated_bytes: snapshots only */
#define FDSPAN_FIELD_POSITION (1u << 5) /* position_bytes, mount_id: snapshots only */

/* One reference that keeps a file in use. Since 0.1. */
struct fdspan_reference {
	uint32_t kind;  /* one FDSPAN_REF_* bit */
	uint32_t type;  /* one FDSPAN_TYPE_* bit */
	uint32_t name;  /* FDSPAN_NAME_* */
	uint32_t valid; /* FDSPAN_FIELD_* bits */
	int32_t fd;     /* -1 unless kind is FDSPAN_REF_FD */
	int32_t tid;    /* 0, or the thread whose own descriptor table this is */
	const char *path;      /* as readlink(2) on the magic link shows it, without the kernel's " (deleted)" */
	const char *type_name; /* FDSPAN_TYPE_ANON: "eventpoll", "eventfd", … */
	uint32_t dev_major, dev_minor;   /* of the file system */
	uint32_t rdev_major, rdev_minor; /* character and block devices: of the device */
	uint64_t ino;
	uint32_t nlink;
	uint32_t open_flags; /* as fcntl(F_GETFL) has them, and O_CLOEXEC */
	uint64_t size_bytes;
	uint64_t allocated_bytes; /* on disk */
	uint64_t position_bytes;
	uint64_t map_start, map_end; /* FDSPAN_REF_MAPPING: addresses */
	uint32_t map_flags;          /* PROT_* bits, and bit 31 for a shared mapping */
	int32_t mount_id;            /* -1: not known */
	uint64_t description_id;     /* equal where references share one open file description; 0: not known */
	struct fdspan_time opened;             /* this reference began */
	struct fdspan_time description_opened; /* what open(2) made began: the age that people mean */
};

/* A reference and who has it. Since 0.1; never changes. */
struct fdspan_row {
	const struct fdspan_process_info *process;
	const struct fdspan_reference *reference;
};

/* fdspan_event.valid */
#define FDSPAN_EVENT_HAS_DURATION (1u << 0)     /* duration_*: closed, released */
#define FDSPAN_EVENT_HAS_ALLOCATED (1u << 1)    /* allocated_bytes: deleted; released, of a deleted file */
#define FDSPAN_EVENT_HAS_HELD_DELETED (1u << 2) /* held_deleted_*: released, of a deleted file */
#define FDSPAN_EVENT_HAS_EXIT_STATUS (1u << 3)  /* exit_status: exit, when its end was seen */

/* One event. Since 0.1. */
struct fdspan_event {
	uint32_t kind;     /* one FDSPAN_EVENT_* bit */
	uint32_t valid;    /* FDSPAN_EVENT_HAS_* bits */
	uint64_t sequence; /* of this tracker's delivered events, from 1, without a gap */
	struct fdspan_time when;
	const struct fdspan_process_info *process; /* NULL: lost, resynced, or not known */
	const struct fdspan_reference *reference;  /* NULL: lost, resynced, exec, exit */
	uint64_t duration_ns;     /* the span lasted at least so long … */
	uint64_t duration_max_ns; /* … and at most so long; UINT64_MAX: not known */
	uint64_t lost;            /* lost: how many events; they happened within `when` */
	uint32_t added, ended;    /* resynced: spans that the snapshot added and ended */
	int32_t exit_status;      /* as wait(2) has it */
	uint32_t removal;         /* deleted: FDSPAN_REMOVAL_* */
	const struct fdspan_process_info *by; /* deleted: whose call took the name; NULL when nobody saw it */
	const char *by_executable;            /* deleted: its program */
	const struct fdspan_row *holders;     /* deleted: who has the file open */
	size_t holder_count;
	uint64_t allocated_bytes;     /* deleted: on disk; released: given back to it */
	uint64_t held_deleted_ns;     /* released: held after its deletion at least so long … */
	uint64_t held_deleted_max_ns; /* … and at most so long */
};

/* ---- callbacks ----------------------------------------------------------------------------------------------------- */

/*
 * Receives one event. It and all it points to are valid during the call only; fdspan_event_copy() keeps one. Must return
 * normally: no longjmp, no exception.
 */
typedef void (*fdspan_event_fn)(void *context, const struct fdspan_event *event);

/* Receives one sentence without a newline, valid during the call only. `level` is FDSPAN_LOG_*. */
typedef void (*fdspan_log_fn)(void *context, uint32_t level, const char *message);

/* ---- trackers ------------------------------------------------------------------------------------------------------ */

struct fdspan_tracker;

/*
 * What to track. Zeroed but for `size` it means: everything on this machine, with the best backend. Filters restrict
 * each other (and); the members of one list are alternatives (or), and so are pids, trees and cgroups. Which filters the
 * kernel applies is told in fdspan(7). Since 0.1.
 */
struct fdspan_options {
	size_t size;
	uint32_t backend; /* FDSPAN_BACKEND_* */
	uint32_t flags;   /* none yet: 0 */
	uint32_t events;  /* FDSPAN_EVENT_* bits that are delivered; 0: all */
	uint32_t types;   /* FDSPAN_TYPE_* bits of files to track; 0: all */
	const int32_t *pids; /* only these processes, until each ends */
	size_t pid_count;
	const int32_t *trees; /* only these processes and whatever descends from them from now on, or does already */
	size_t tree_count;
	const char *const *cgroups; /* only processes in or below these cgroups: their directories in the v2 hierarchy */
	size_t cgroup_count;
	const char *const *paths; /* only files at or below these absolute paths */
	size_t path_count;
	uint64_t minimum_age_ns; /* closed and released: only of spans that certainly lasted so long */
	/* Bound of ring, kernel maps and index together; least: 4 MiB. 0: 52 to 310 MiB in the kernel, by fill; the index is as large as it gets. */
	uint64_t memory_bytes;
	uint64_t poll_interval_ns;   /* backend procfs: a snapshot so often; 0: 1 s; least: 10 ms */
	uint64_t resync_interval_ns; /* others: a correcting snapshot so often; 0: 30 s; UINT64_MAX: only after a loss */
	fdspan_event_fn on_event;    /* for fdspan_process(); may be NULL */
	void *event_context;
	fdspan_log_fn on_log; /* may be NULL: nothing is written anywhere then */
	void *log_context;
};

/*
 * Opens a tracker: loads and attaches what the backend needs, then reads the first snapshot. What is open already gives
 * no events and is in the index. Takes 0.1 to 1 s.
 *
 * Needs for a backend other than procfs: CAP_BPF and CAP_PERFMON; CAP_SYS_PTRACE to read what BPF can't show of other
 *   users' processes. Capabilities may be dropped as soon as this returned.
 *
 * Ownership: *tracker is the caller's, to be given to fdspan_close(). Nothing that `options` points to is kept, but the
 *   callbacks and contexts.
 * Threads: any.
 * Returns: 0.
 * Errors: -EINVAL: a NULL pointer, a wrong size, an unknown flag, event, type or backend, a path or cgroup that is not
 *   absolute, a pid below 1. -E2BIG: an unknown tail is not zero. -EPERM: capabilities are missing. -ENOENT: this kernel
 *   lacks what the backend needs; a cgroup does not exist. -ENOSYS: a hook attached but does not fire. -ENOSPC: what is
 *   open already does not fit memory_bytes. -ENOMEM, -EMFILE, -ENFILE: as usual. FDSPAN_BACKEND_AUTO falls back to
 *   procfs, and says why with FDSPAN_LOG_WARNING.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_open(const struct fdspan_options *options, struct fdspan_tracker **tracker);

/*
 * For a privileged helper of a host without privileges: loads and attaches what `options` ask for, and gives it to whoever calls
 * fdspan_adopt() at the other end of `socket`, a unix socket of any kind. It keeps nothing; the helper may end. Filters, backend and
 * memory_bytes are said here; events, minimum_age_ns, intervals and on_event belong to the receiver and have to be zero.
 *
 * Whoever has the descriptors may read of every process what the programs show, and may widen the filters: give them to none that
 * you would not let watch the machine.
 *
 * Needs what fdspan_open() needs.
 *
 * Ownership: `socket` stays the caller's.
 * Threads: any.
 * Returns: 0.
 * Errors: as fdspan_open(). -EINVAL for FDSPAN_BACKEND_PROCFS and for what belongs to the receiver, too. -E2BIG for filters of more than
 *   1 MiB. Others: what sending gives.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_hand_over(const struct fdspan_options *options, int socket);

/*
 * Opens a tracker from what fdspan_hand_over() sent, with no capability at all, then reads the first snapshot. Takes exactly one
 * handover from the socket, and waits for it as the socket does. Of `options` only events, minimum_age_ns, resync_interval_ns and the
 * callbacks may be set; the rest comes along.
 *
 * What BPF can't show of other users' processes, birth times above all, such a host can't ask /proc for: intervals are wider there. What
 * armed tracking knows of the time before is not taken over.
 *
 * Ownership: *tracker is the caller's, to be given to fdspan_close(). `socket` stays the caller's.
 * Threads: any.
 * Returns: 0.
 * Errors: -EINVAL: NULL, a wrong size, an unknown flag or event, an option that comes along. -E2BIG: an unknown tail is not zero.
 *   -EPROTO: what came is no handover, or one of another version of the library. -ECONNRESET: the other end closed. -EAGAIN: nothing came
 *   yet, and the socket does not wait. -EMFILE: no room for the descriptors. -EPERM: a kernel before 5.19 that keeps bpf(2) to the
 *   privileged. -ENOSPC: what is open already does not fit memory_bytes. -ENOMEM.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_adopt(const struct fdspan_options *options, int socket, struct fdspan_tracker **tracker);

/*
 * Closes a tracker: detaches its programs, closes its descriptors, frees its memory. Its cursors stay valid for
 * fdspan_cursor_close() only. In a child of fork(2) it frees what the child has and leaves the parent's tracker alone.
 * From inside one of its callbacks it takes effect when the call that called back returns; that returns -ECANCELED then.
 *
 * Ownership: ends. NULL is allowed and does nothing.
 * Threads: one at a time.
 * Returns: NULL.
 * Since: 0.1
 */
FDSPAN_API struct fdspan_tracker *fdspan_close(struct fdspan_tracker *tracker);

/*
 * The descriptor to wait on: readable (POLLIN, level-triggered) when fdspan_process() or fdspan_read_events() has work.
 * Nothing else may be done with it.
 *
 * Ownership: the tracker's; it is closed by fdspan_close().
 * Threads: one at a time.
 * Returns: the descriptor.
 * Errors: -EINVAL: NULL. -ECHILD, -EBUSY.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_get_fd(struct fdspan_tracker *tracker);

/*
 * When fdspan_process() or fdspan_read_events() wants to be called although the descriptor is quiet: an absolute time on
 * CLOCK_MONOTONIC in nanoseconds (the clock of event loops), UINT64_MAX for never. Ask again after each of these calls.
 * Being late costs nothing but freshness.
 *
 * Threads: one at a time.
 * Returns: 0.
 * Errors: -EINVAL: NULL. -ECHILD, -EBUSY.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_get_timeout_ns(struct fdspan_tracker *tracker, uint64_t *monotonic_ns);

/*
 * Takes what the kernel has to tell, brings the index up to date and gives at most `max_events` events to
 * fdspan_options.on_event, in order. Does not block, but may read a snapshot (about 1 us for each open reference) after
 * a loss, or when fdspan_get_timeout_ns() has come. Events beyond max_events are kept; the descriptor stays readable.
 * Every call makes the tracker's cursors stale.
 *
 * Threads: one at a time; on_event runs in the calling thread.
 * Returns: the number of events that were delivered.
 * Errors: -EINVAL: NULL, or max_events is 0. -EBADF: somebody closed the tracker's descriptor. -ECHILD, -EBUSY, -ENOMEM.
 *   -ECANCELED: a callback closed the tracker. Others: what the kernel said; the log callback has it in words, and the
 *   call may be repeated. An error that comes after events were delivered is the next call's: this one returns their
 *   number, and the descriptor stays readable.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_process(struct fdspan_tracker *tracker, uint32_t max_events);

/*
 * Reads a snapshot now and makes the index equal to it; differences become events of the next fdspan_process() or
 * fdspan_read_events(). For hosts that can't wait for the correcting snapshot.
 *
 * Threads: one at a time.
 * Returns: 0.
 * Errors: as fdspan_process().
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_resync(struct fdspan_tracker *tracker);

/*
 * The backend that was taken: FDSPAN_BACKEND_*, never FDSPAN_BACKEND_AUTO.
 *
 * Threads: one at a time.
 * Errors: -EINVAL: NULL. -ECHILD, -EBUSY.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_get_backend(struct fdspan_tracker *tracker);

/*
 * Figures of a tracker, since it was opened. `size` is set by the caller; what a smaller one has no room for is left
 * out. Since 0.1.
 */
struct fdspan_statistics {
	size_t size;
	uint64_t events;            /* delivered */
	uint64_t pending_events;    /* made, not delivered yet */
	uint64_t records;           /* that the kernel side made; 0 for procfs */
	uint64_t lost_records;      /* of these: the ring had no room */
	uint64_t missed_calls;      /* of hooked functions: their program could not run */
	uint64_t refused_spans;     /* not taken into the index because memory_bytes was reached */
	uint64_t resyncs;           /* snapshots read after the first */
	uint64_t processes;         /* in the index */
	uint64_t descriptors;
	uint64_t descriptions;
	uint64_t index_bytes;
	uint64_t kernel_bytes;      /* ring and kernel maps, at their present fill */
	uint64_t description_entries, description_capacity; /* of the kernel map that has the times */
	uint64_t full_map_spans;    /* spans that found a kernel map full: their times are bounded */
	uint64_t unreadable_processes; /* in the last snapshot */
};

/*
 * Fills *statistics. Walks a kernel map to count its entries: some 0.2 us for each.
 *
 * Threads: one at a time.
 * Returns: 0.
 * Errors: -EINVAL: NULL, or a size below that of its first version. -ECHILD, -EBUSY. Others: what the kernel said when its
 * maps were read.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_get_statistics(struct fdspan_tracker *tracker, struct fdspan_statistics *statistics);

/* ---- events, pulled ------------------------------------------------------------------------------------------------ */

struct fdspan_event_buffer;

/*
 * Makes a buffer for `capacity` events (1 to 65536), which is used again and again.
 *
 * Ownership: *buffer is the caller's, to be given to fdspan_event_buffer_free(). It belongs to no tracker.
 * Threads: any.
 * Returns: 0.
 * Errors: -EINVAL: NULL, or the capacity. -ENOMEM.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_event_buffer_new(size_t capacity, struct fdspan_event_buffer **buffer);

/*
 * Frees a buffer and the events in it. NULL is allowed.
 *
 * Threads: one at a time.
 * Returns: NULL.
 * Since: 0.1
 */
FDSPAN_API struct fdspan_event_buffer *fdspan_event_buffer_free(struct fdspan_event_buffer *buffer);

/*
 * Like fdspan_process(), but puts the events into `buffer`, at most its capacity, in place of what was in it.
 * fdspan_options.on_event is not called.
 *
 * Threads: one at a time, for tracker and buffer.
 * Returns: the number of events in the buffer.
 * Errors: as fdspan_process(), and then the buffer is empty; -EINVAL for a NULL buffer.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_read_events(struct fdspan_tracker *tracker, struct fdspan_event_buffer *buffer);

/*
 * The number of events in the buffer; 0 for NULL.
 *
 * Threads: one at a time.
 * Since: 0.1
 */
FDSPAN_API size_t fdspan_event_buffer_count(const struct fdspan_event_buffer *buffer);

/*
 * Event number `index` of the buffer, from 0; NULL when there is none.
 *
 * Ownership: the buffer's, until it is filled again or freed.
 * Threads: one at a time.
 * Since: 0.1
 */
FDSPAN_API const struct fdspan_event *fdspan_event_buffer_get(const struct fdspan_event_buffer *buffer, size_t index);

/*
 * Copies an event with all that it points to.
 *
 * Ownership: *copy is the caller's, to be given to fdspan_event_free().
 * Threads: one at a time, for the buffer that has the event.
 * Returns: 0.
 * Errors: -EINVAL: NULL. -ENOMEM.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_event_copy(const struct fdspan_event *event, const struct fdspan_event **copy);

/*
 * Frees what fdspan_event_copy() made, and nothing else. NULL is allowed.
 *
 * Threads: any.
 * Returns: NULL.
 * Since: 0.1
 */
FDSPAN_API const struct fdspan_event *fdspan_event_free(const struct fdspan_event *copy);

/* ---- queries ------------------------------------------------------------------------------------------------------- */

struct fdspan_cursor;

/* fdspan_query.flags */
#define FDSPAN_QUERY_DELETED (1u << 0) /* only files without a link left (FDSPAN_NAME_DELETED) */

/* Which references to show. Conditions restrict each other; zeroed but for `size` it means all. Since 0.1. */
struct fdspan_query {
	size_t size;
	uint32_t flags; /* FDSPAN_QUERY_* */
	uint32_t kinds; /* FDSPAN_REF_* bits; 0: all */
	uint32_t types; /* FDSPAN_TYPE_* bits; 0: all */
	int32_t pid;    /* of this process; 0: of any */
	const char *path; /* at or below this absolute path; NULL: anywhere */
	uint64_t ino;     /* this file, with the device below; 0: any */
	uint32_t dev_major, dev_minor;
	uint64_t minimum_age_ns; /* description_opened.latest_ns is at least so long ago */
};

/*
 * Opens a cursor over the rows of the tracker's index that match, and that the tracker's own filters let through. Costs
 * about what it shows, copies nothing but one row at a time, and asks the kernel nothing. The order of rows is not
 * promised.
 *
 * Ownership: *cursor is the caller's, to be given to fdspan_cursor_close().
 * Threads: one at a time, for the tracker and all its cursors.
 * Returns: 0.
 * Errors: -EINVAL: NULL, a wrong size, an unknown bit, a path that is not absolute. -E2BIG: an unknown tail is not zero.
 *   -ECHILD, -EBUSY, -ENOMEM.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_cursor_open(struct fdspan_tracker *tracker, const struct fdspan_query *query, struct fdspan_cursor **cursor);

/*
 * The next row.
 *
 * Ownership: *row and all it points to are the cursor's, valid until the next call with it.
 * Threads: one at a time, for the tracker or snapshot and all its cursors.
 * Returns: 1, and *row is set; 0 at the end.
 * Errors: -EINVAL: NULL. -ESTALE: the tracker was processed, resynced or closed since fdspan_cursor_open(). -ECHILD,
 *   -EBUSY, -ENOMEM.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_cursor_next(struct fdspan_cursor *cursor, const struct fdspan_row **row);

/*
 * Closes a cursor, before or after its tracker or snapshot. NULL is allowed.
 *
 * Threads: one at a time, for the tracker or snapshot and all its cursors.
 * Returns: NULL.
 * Since: 0.1
 */
FDSPAN_API struct fdspan_cursor *fdspan_cursor_close(struct fdspan_cursor *cursor);

/* ---- snapshots ----------------------------------------------------------------------------------------------------- */

struct fdspan_snapshot;

/* fdspan_snapshot_options.flags */
#define FDSPAN_SNAPSHOT_DELETED (1u << 0) /* only files without a link left */
#define FDSPAN_SNAPSHOT_CGROUPS (1u << 1) /* with cgroup and container of each process */

/* What to read. Zeroed but for `size` it means all of it. Since 0.1. */
struct fdspan_snapshot_options {
	size_t size;
	/* AUTO: through BPF where it loads, with the times of armed tracking where there is one; PROCFS: /proc; others: only if armed with it. */
	uint32_t backend;
	uint32_t flags;   /* FDSPAN_SNAPSHOT_* */
	uint32_t fields;  /* FDSPAN_FIELD_* bits: what is not asked for is not paid for; 0: all */
	uint32_t kinds;   /* FDSPAN_REF_* bits; 0: all */
	const int32_t *pids; /* only these processes */
	size_t pid_count;
	fdspan_log_fn on_log; /* may be NULL */
	void *log_context;
};

/* What a snapshot is worth. `size` is set by the caller. Since 0.1. */
struct fdspan_snapshot_info {
	size_t size;
	uint32_t backend; /* whose times these are: of the armed tracking, else FDSPAN_BACKEND_PROCFS (bounds only) */
	uint32_t complete; /* 1: nothing is missing */
	uint64_t began_ns, ended_ns;
	int64_t realtime_offset_ns; /* CLOCK_REALTIME - CLOCK_BOOTTIME as it began */
	uint64_t processes;
	uint64_t references;
	uint64_t unreadable_processes;
	uint64_t truncated_paths;
};

/*
 * Reads what is open now, without tracing anything.
 *
 * Ownership: *snapshot is the caller's, to be given to fdspan_snapshot_free().
 * Threads: any.
 * Returns: 0.
 * Errors: -EINVAL: NULL, a wrong size, an unknown bit or backend. -E2BIG: an unknown tail is not zero. -ENOENT: a
 *   backend was forced that is not armed. -EBUSY: another one is armed. -EPERM, -EACCES: capabilities are missing for a
 *   forced backend. -ENOMEM.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_snapshot_take(const struct fdspan_snapshot_options *options, struct fdspan_snapshot **snapshot);

/*
 * Frees a snapshot. NULL is allowed.
 *
 * Threads: one at a time.
 * Returns: NULL.
 * Since: 0.1
 */
FDSPAN_API struct fdspan_snapshot *fdspan_snapshot_free(struct fdspan_snapshot *snapshot);

/*
 * Fills *info.
 *
 * Threads: any, at the same time too.
 * Returns: 0.
 * Errors: -EINVAL: NULL, or a size below that of its first version.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_snapshot_get_info(const struct fdspan_snapshot *snapshot, struct fdspan_snapshot_info *info);

/*
 * Opens a cursor over the rows of a snapshot that match. It never becomes stale, except by fdspan_snapshot_free(). Works
 * in a child of fork(2), too.
 *
 * Ownership: *cursor is the caller's, to be given to fdspan_cursor_close().
 * Threads: one at a time, for the snapshot and all its cursors.
 * Returns: 0.
 * Errors: as fdspan_cursor_open(), without -ECHILD and -EBUSY.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_cursor_open_snapshot(struct fdspan_snapshot *snapshot, const struct fdspan_query *query, struct fdspan_cursor **cursor);

/* ---- recovery ------------------------------------------------------------------------------------------------------- */

/* fdspan_recover_options.flags */
#define FDSPAN_RECOVER_STREAM (1u << 0) /* the target is a pipe or a socket: the bytes alone, holes as zeroes */

/* Which file to copy out: the fields of a row. Since 0.1. */
struct fdspan_recover_options {
	size_t size;
	uint32_t flags; /* FDSPAN_RECOVER_* */
	uint32_t kind;  /* FDSPAN_REF_FD, FDSPAN_REF_EXE or FDSPAN_REF_MAPPING */
	int32_t pid;
	int32_t tid; /* 0, or the thread whose own table has the descriptor */
	int32_t fd;  /* FDSPAN_REF_FD */
	uint32_t dev_major, dev_minor; /* with ino: the file that is meant; another one there by now is refused */
	uint64_t ino;                  /* 0: whichever is there */
	uint64_t map_start, map_end;   /* FDSPAN_REF_MAPPING */
	struct fdspan_time started;    /* the process that is meant; zeroed: whichever has the pid */
	fdspan_log_fn on_log;          /* may be NULL: what of owner, mode, times and attributes could not be kept is told here */
	void *log_context;
};

/* What was copied. `size` is set by the caller. Since 0.1. */
struct fdspan_recovered {
	size_t size;
	uint64_t file_bytes; /* length of the copy */
	uint64_t data_bytes; /* of these copied: what is no hole */
	uint32_t changed;    /* 1: it was written to meanwhile, so that the copy may be of no one moment */
	uint32_t cloned;     /* 1: the copy shares its blocks with the file */
};

/*
 * Copies a file that a process holds, deleted or not, into `target`: an empty regular file open for writing (holes stay
 * holes; owner, mode, times and extended attributes are kept as far as they may be), or with FDSPAN_RECOVER_STREAM
 * anything that can be written to. Blocks until all is copied. Does not fsync(2).
 *
 * Needs what the holder's user has, or CAP_SYS_PTRACE; CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN for FDSPAN_REF_MAPPING.
 *
 * Ownership: `target` stays the caller's. After an error it holds a part.
 * Threads: any.
 * Returns: 0; *recovered (may be NULL) is filled.
 * Errors: -EINVAL: NULL, a wrong size, an unknown flag or kind, not a regular file. -E2BIG: an unknown tail is not zero.
 *   -ESRCH: the process is gone. -ENOENT: it has no such reference. -ESTALE: that is another file by now. -ENODATA: the
 *   file was cut shorter meanwhile. -EPERM, -EACCES, -ENOSPC, -ENOMEM, and what reading and writing give.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_recover(const struct fdspan_recover_options *options, int target, struct fdspan_recovered *recovered);

/* ---- what this machine allows -------------------------------------------------------------------------------------- */

/* Bits: capabilities(7) that the calling thread lacks. */
#define FDSPAN_LACKS_BPF (1u << 0)
#define FDSPAN_LACKS_PERFMON (1u << 1)
#define FDSPAN_LACKS_SYS_PTRACE (1u << 2)
#define FDSPAN_LACKS_DAC_READ_SEARCH (1u << 3)

/* What this kernel and these privileges allow. `size` is set by the caller. Since 0.1. */
struct fdspan_capabilities {
	size_t size;
	uint32_t backends;      /* bits 1 << FDSPAN_BACKEND_* that work */
	uint32_t chosen;        /* what FDSPAN_BACKEND_AUTO takes */
	uint32_t bpf_snapshots; /* 1: snapshots come from BPF iterators */
	uint32_t lacks;         /* FDSPAN_LACKS_* bits */
	uint64_t processes;
	uint64_t unreadable_processes;
};

/*
 * Receives one fact about this machine: `name` is stable, `state` is "yes", "no" or "unknown". All are valid during the
 * call only.
 */
typedef void (*fdspan_check_fn)(void *context, const char *name, const char *state, const char *detail, const char *advice);

/*
 * Finds out what works here by trying: loads and attaches one tiny program of each kind for a moment. Needs no
 * privileges: what is refused is the answer. `on_check` may be NULL. Takes some 0.1 s.
 *
 * Threads: any.
 * Returns: 0.
 * Errors: -EINVAL: NULL, or a size below that of its first version. -ENOMEM.
 * Since: 0.1
 */
FDSPAN_API FDSPAN_MUST_CHECK int fdspan_probe(struct fdspan_capabilities *capabilities, fdspan_check_fn on_check, void *context);

/* ---- names --------------------------------------------------------------------------------------------------------- */

/*
 * The version of the library that runs, "0.1.0".
 *
 * Threads: any.
 * Since: 0.1
 */
FDSPAN_API const char *fdspan_version(void);

/*
 * "opened", "closed", … of one FDSPAN_EVENT_* bit; "?" for anything else.
 *
 * Threads: any.
 * Since: 0.1
 */
FDSPAN_API const char *fdspan_event_name(uint32_t kind);

/*
 * "auto", "trampoline", … of a FDSPAN_BACKEND_*; "?" for anything else.
 *
 * Threads: any.
 * Since: 0.1
 */
FDSPAN_API const char *fdspan_backend_name(uint32_t backend);

/*
 * "REG", "DIR", … of one FDSPAN_TYPE_* bit; "?" for anything else.
 *
 * Threads: any.
 * Since: 0.1
 */
FDSPAN_API const char *fdspan_type_name(uint32_t type);

/*
 * "fd", "mem", "exe", "cwd", "root" of one FDSPAN_REF_* bit; "?" for anything else.
 *
 * Threads: any.
 * Since: 0.1
 */
FDSPAN_API const char *fdspan_ref_name(uint32_t kind);

#ifdef __cplusplus
}
#endif

#endif /* FDSPAN_FDSPAN_H */
