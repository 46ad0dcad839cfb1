/*
 * What a test program knows about the descriptors it made: readings of CLOCK_BOOTTIME right before and right after each
 * call. The records live in memory that all processes of the program share, so that forked, exec'd and table-sharing holders
 * report without a descriptor of their own. Independent of fdspan; libc and raw syscalls only.
 */
#ifndef FDSPAN_TRUTH_H
#define FDSPAN_TRUTH_H

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define TRUTH_RECORDS 131072u /* bound of one run */
#define TRUTH_HOLDERS 1024u

struct bracket {
	uint64_t before_ns;
	uint64_t after_ns;
};

enum record_kind { record_fd = 1, record_mem, record_unsupported, record_failed };

struct record {
	char way[32];
	char text[128]; /* unsupported, failed: why; mem: the path */
	struct bracket opened;      /* of the call that put the descriptor into its table */
	struct bracket description; /* of the call that made the open file description */
	struct bracket closed;      /* filled when the holder closes it */
	uint64_t joined_ns; /* not 0: the process came to share the table then, after the descriptor was opened */
	pid_t pid;
	pid_t tid; /* != pid: in the table of that thread */
	int fd;
	bool exact; /* a syscall shows it, so the syscall backend has to know the time exactly */
	bool description_exact;
	_Atomic uint8_t kind; /* enum record_kind; written last */
};

/* Phases that holders wait for. */
enum phase { phase_make, phase_copy, phase_end };

struct shared {
	_Atomic uint32_t phase;   /* futex */
	_Atomic uint32_t settled; /* futex: how many holders have made what they hold */
	_Atomic uint32_t holders;
	_Atomic bool holder_settled[TRUTH_HOLDERS]; /* which of them */
	_Atomic uint32_t records;
	_Atomic uint32_t overflow; /* records that found no room: the run fails */
	bool close_at_end;
	struct record record[TRUTH_RECORDS];
};

static struct shared *truth;
static int truth_memfd = -1;
static uint32_t own_holder; /* place of this process in holder_settled */

static inline uint64_t boottime_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void begin(struct bracket *bracket)
{
	bracket->before_ns = boottime_ns();
}

static inline void end(struct bracket *bracket)
{
	const int saved = errno;
	bracket->after_ns = boottime_ns();
	errno = saved;
}

static inline void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

static inline pid_t thread_id(void)
{
	return (pid_t)syscall(SYS_gettid);
}

static inline void map_shared(int memfd)
{
	void *const at = mmap(NULL, sizeof(*truth), PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (at == MAP_FAILED)
		die("map the shared records");
	truth = at;
}

/* The descriptor stays open, so that an exec'd holder can map it again; `keep_memfd` is for programs that exec. */
static inline void create_shared(void)
{
	truth_memfd = (int)syscall(SYS_memfd_create, "truth", 0);
	if (truth_memfd < 0)
		die("memfd_create");
	if (ftruncate(truth_memfd, sizeof(*truth)) != 0)
		die("ftruncate");
	map_shared(truth_memfd);
}

static inline struct record *new_record(const char *way)
{
	const uint32_t index = atomic_fetch_add(&truth->records, 1);
	if (index >= TRUTH_RECORDS) {
		atomic_fetch_add(&truth->overflow, 1);
		static struct record spare; /* written and never read */
		return &spare;
	}
	struct record *const record = &truth->record[index];
	snprintf(record->way, sizeof(record->way), "%s", way);
	record->pid = getpid();
	record->tid = record->pid;
	record->fd = -1;
	return record;
}

static inline uint32_t record_count(void)
{
	const uint32_t count = atomic_load(&truth->records);
	return count < TRUTH_RECORDS ? count : TRUTH_RECORDS;
}

static inline void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static inline void set_phase(enum phase phase)
{
	atomic_store(&truth->phase, (uint32_t)phase);
	futex_wake(&truth->phase);
}

static inline void wait_phase(enum phase phase)
{
	uint32_t now;
	while ((now = atomic_load(&truth->phase)) < (uint32_t)phase)
		syscall(SYS_futex, &truth->phase, FUTEX_WAIT, now, NULL, NULL, 0);
}

static inline uint32_t new_holder(void)
{
	const uint32_t holder = atomic_fetch_add(&truth->holders, 1) + 1;
	if (holder >= TRUTH_HOLDERS) {
		errno = ENOSPC;
		die("one more holder");
	}
	return holder;
}

static inline void settle(void)
{
	atomic_store(&truth->holder_settled[own_holder], true);
	atomic_fetch_add(&truth->settled, 1);
	futex_wake(&truth->settled);
}

/* The kernel kills this task when the one that made it dies: no holder outlives a crashed test. */
static inline void die_with_parent(void)
{
	prctl(PR_SET_PDEATHSIG, 9);
}

static inline void close_own_records(void)
{
	const pid_t tid = thread_id();
	const uint32_t count = record_count();
	for (uint32_t i = 0; i < count; i++) {
		struct record *const record = &truth->record[i];
		if (atomic_load(&record->kind) != record_fd || record->tid != tid)
			continue;
		begin(&record->closed);
		const int closed = close(record->fd);
		end(&record->closed);
		if (closed != 0 && errno == EBADF)
			record->closed.after_ns = 0; /* another task that shares the table was first */
	}
}

/* What every holder does when it has made its descriptors. */
static inline void hold_until_end(void)
{
	settle();
	wait_phase(phase_end);
	if (truth->close_at_end)
		close_own_records();
}

static inline void print_escaped(const char *text)
{
	putchar('"');
	for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
		if (*at == '"' || *at == '\\')
			printf("\\%c", *at);
		else if (*at < 0x20)
			printf("\\u%04x", *at);
		else
			putchar(*at);
	}
	putchar('"');
}

static inline void print_number(const char *name, uint64_t value)
{
	printf(",\"%s\":%llu", name, (unsigned long long)value);
}

/* One JSON line for each record from `first` on; returns how many are failures of the program itself. */
static inline uint32_t print_records(uint32_t first)
{
	uint32_t failed = 0;
	const uint32_t count = record_count();
	for (uint32_t i = first; i < count; i++) {
		const struct record *const record = &truth->record[i];
		const uint8_t kind = atomic_load(&record->kind);
		if (kind == 0)
			continue; /* given up by its maker */
		printf("{\"way\":");
		print_escaped(record->way);
		if (kind == record_unsupported || kind == record_failed) {
			printf(kind == record_failed ? ",\"failed\":" : ",\"unsupported\":");
			print_escaped(record->text);
			printf("}\n");
			failed += kind == record_failed;
			continue;
		}
		if (kind == record_mem) {
			printf(",\"ref\":\"mem\",\"path\":");
			print_escaped(record->text);
		} else {
			printf(",\"ref\":\"fd\",\"fd\":%d", record->fd);
		}
		printf(",\"pid\":%d,\"tid\":%d", record->pid, record->tid);
		print_number("before_ns", record->opened.before_ns);
		print_number("after_ns", record->opened.after_ns);
		print_number("description_before_ns", record->description.before_ns);
		print_number("description_after_ns", record->description.after_ns);
		if (record->joined_ns)
			print_number("joined_ns", record->joined_ns);
		printf(",\"exact\":%s,\"description_exact\":%s}\n", record->exact ? "true" : "false",
		       record->description_exact ? "true" : "false");
	}
	return failed;
}

static inline void print_closed(void)
{
	const uint32_t count = record_count();
	for (uint32_t i = 0; i < count; i++) {
		const struct record *const record = &truth->record[i];
		if (atomic_load(&record->kind) != record_fd || record->closed.after_ns == 0)
			continue;
		printf("{\"event\":\"closed\",\"way\":");
		print_escaped(record->way);
		printf(",\"fd\":%d,\"pid\":%d,\"tid\":%d", record->fd, record->pid, record->tid);
		print_number("before_ns", record->opened.before_ns);
		print_number("after_ns", record->opened.after_ns);
		print_number("close_before_ns", record->closed.before_ns);
		print_number("close_after_ns", record->closed.after_ns);
		printf(",\"exact\":%s}\n", record->exact ? "true" : "false");
	}
}

/* The line that says: nothing moves any more until a line comes on stdin. */
static inline void print_ready(const char *event)
{
	pid_t *const pids = calloc(TRUTH_RECORDS, sizeof(*pids));
	uint32_t known = 0, descriptors = 0;
	if (!pids)
		die("calloc");
	const uint32_t count = record_count();
	for (uint32_t i = 0; i < count; i++) {
		const struct record *const record = &truth->record[i];
		const uint8_t kind = atomic_load(&record->kind);
		if (kind != record_fd && kind != record_mem)
			continue;
		descriptors++;
		uint32_t at = known; /* the newest first: records of one process stand together */
		while (at > 0 && pids[at - 1] != record->pid)
			at--;
		if (at == 0)
			pids[known++] = record->pid;
	}
	printf("{\"event\":\"%s\",\"descriptors\":%u,\"pids\":[", event, descriptors);
	for (uint32_t i = 0; i < known; i++)
		printf("%s%d", i ? "," : "", pids[i]);
	printf("]}\n");
	fflush(stdout);
	free(pids);
}

/* Waits for one line on stdin; false at its end. */
static inline bool next_command(char *line, size_t size)
{
	size_t length = 0;
	for (;;) {
		char byte;
		const ssize_t got = read(0, &byte, 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return false;
		if (byte == '\n')
			break;
		if (length + 1 < size)
			line[length++] = byte;
	}
	line[length] = '\0';
	return true;
}

#endif
