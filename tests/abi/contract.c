/* What fdspan.h promises, held against the library: one named fact after the other. usage: contract [BACKEND] PART… Leaves files in $TMPDIR. */
#include <fdspan/fdspan.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <locale.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int failures;
static uint32_t backend = FDSPAN_BACKEND_AUTO;
static char directory[128];

#define CHECK(condition, ...)                                                                                          \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			failures++;                                                                                    \
			printf("FAILED, line %d: %s: ", __LINE__, #condition);                                         \
			printf(__VA_ARGS__);                                                                           \
			printf("\n");                                                                                  \
		}                                                                                                      \
	} while (0)
#define CHECK_CODE(wanted, call)                                                                                       \
	do {                                                                                                           \
		long long got__ = (call);                                                                              \
		CHECK(got__ == (wanted), "%s gave %lld instead of %lld", #call, got__, (long long)(wanted));          \
	} while (0)

static void log_to_stdout(void *context, uint32_t level, const char *message)
{
	(void)context;
	if (level == FDSPAN_LOG_ERROR)
		printf("error: %s\n", message);
}

static struct fdspan_options options_for(const int32_t *pids, size_t count)
{
	struct fdspan_options options = {.size = sizeof(options), .backend = backend, .pids = pids, .pid_count = count, .on_log = log_to_stdout};

	options.poll_interval_ns = 10000000;
	return options;
}

static struct fdspan_tracker *open_tracker(const struct fdspan_options *options)
{
	struct fdspan_tracker *tracker = NULL;
	int code = fdspan_open(options, &tracker);

	if (code < 0) {
		printf("FAILED: fdspan_open: %s\n", strerror(-code));
		exit(1);
	}
	return tracker;
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int is_readable(struct fdspan_tracker *tracker, int wait_ms)
{
	struct pollfd wait = {.fd = fdspan_get_fd(tracker), .events = POLLIN};

	return poll(&wait, 1, wait_ms) == 1;
}

/* What was seen of one file, or of all. */
struct seen {
	const char *path;
	unsigned opened, closed, exits, all;
	unsigned closed_exactly;
	uint64_t lost, last_sequence;
	int gap;
	struct fdspan_tracker *tracker;
	int reentry[6];
};

static void note(struct seen *seen, const struct fdspan_event *event)
{
	seen->all++;
	seen->gap |= event->sequence != seen->last_sequence + 1;
	seen->last_sequence = event->sequence;
	if (event->kind == FDSPAN_EVENT_LOST)
		seen->lost += event->lost;
	seen->exits += event->kind == FDSPAN_EVENT_EXIT;
	if (!event->reference || (seen->path && strcmp(event->reference->path, seen->path) != 0))
		return;
	seen->opened += event->kind == FDSPAN_EVENT_OPENED;
	seen->closed += event->kind == FDSPAN_EVENT_CLOSED;
	seen->closed_exactly += event->kind == FDSPAN_EVENT_CLOSED && event->when.source == FDSPAN_TIME_KERNEL;
}

static void on_event(void *context, const struct fdspan_event *event)
{
	note(context, event);
}

static void run(struct fdspan_tracker *tracker, int for_ms)
{
	uint64_t until = now_ns(CLOCK_MONOTONIC) + (uint64_t)for_ms * 1000000u;

	while (now_ns(CLOCK_MONOTONIC) < until) {
		is_readable(tracker, 10);
		int code = fdspan_process(tracker, 1000);

		CHECK(code >= 0, "fdspan_process: %d", code);
		if (code < 0)
			return;
	}
}

static void run_until(struct fdspan_tracker *tracker, const unsigned *figure, unsigned wanted)
{
	for (int i = 0; i < 3000 && *figure < wanted; i++)
		run(tracker, 20);
}

static const char *path_of(const char *name)
{
	static char paths[8][512];
	static int next;
	char *path = paths[next++ % 8];

	snprintf(path, sizeof(paths[0]), "%s/%s", directory, name);
	return path;
}

static int make(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	CHECK(fd >= 0, "open %s: %s", path, strerror(errno));
	return fd;
}

/* A process that opens and closes `path` when it gets a byte, and ends at the end of the pipe; with a grandchild in between on request. */
struct child {
	pid_t pid;
	int order, done;
};

static struct child start_child(const char *path, int grandchild)
{
	int order[2], done[2];
	struct child child;

	if (pipe2(order, O_CLOEXEC) || pipe2(done, O_CLOEXEC))
		exit(1);
	child.pid = fork();
	if (child.pid == 0) {
		char byte;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int fd = 3; fd < 1024; fd++) /* other children's pipes, too */
			if (fd != order[0] && fd != done[1])
				close(fd);
		while (read(order[0], &byte, 1) == 1) {
			pid_t worker = grandchild ? fork() : 0;

			if (worker == 0) {
				for (int i = 0; i < (byte == 'm' ? 100000 : 1); i++)
					close(open(path, O_RDONLY));
				if (grandchild)
					_exit(0);
			} else {
				waitpid(worker, NULL, 0);
			}
			if (write(done[1], "d", 1) != 1)
				break;
		}
		_exit(7);
	}
	close(order[0]);
	close(done[1]);
	child.order = order[1];
	child.done = done[0];
	return child;
}

static void tell(struct child child, char what)
{
	char byte;

	if (write(child.order, &what, 1) != 1 || read(child.done, &byte, 1) != 1)
		exit(1);
}

static void end_child(struct child child)
{
	int status;

	close(child.order);
	waitpid(child.pid, &status, 0);
	close(child.done);
}

/* ---- parts --------------------------------------------------------------------------------------------------------- */

static void part_misuse(void)
{
	int32_t self = getpid(), bad_pid = -1;
	const char *relative = "etc";
	struct fdspan_options options = options_for(&self, 1), broken;
	struct fdspan_tracker *tracker = NULL;
	struct fdspan_cursor *cursor = NULL;
	struct fdspan_snapshot *snapshot = NULL;
	struct fdspan_event_buffer *buffer = NULL;
	const struct fdspan_event *copy;
	const struct fdspan_row *row;
	uint64_t at_ns;

	CHECK_CODE(-EINVAL, fdspan_open(NULL, &tracker));
	CHECK_CODE(-EINVAL, fdspan_open(&options, NULL));
#define BROKEN(wanted, change)                                                                                         \
	broken = options;                                                                                              \
	change;                                                                                                        \
	tracker = (void *)1;                                                                                           \
	CHECK_CODE(wanted, fdspan_open(&broken, &tracker));                                                            \
	CHECK(!tracker, "nothing is handed out")
	BROKEN(-EINVAL, broken.size = 0);
	BROKEN(-EINVAL, broken.size = 8);
	BROKEN(-EINVAL, broken.size = sizeof(broken) - 1);
	BROKEN(-EINVAL, broken.backend = 99);
	BROKEN(-EINVAL, broken.flags = 1);
	BROKEN(-EINVAL, broken.events = 1u << 31);
	BROKEN(-EINVAL, broken.types = 1u << 31);
	BROKEN(-EINVAL, broken.pids = NULL);
	BROKEN(-EINVAL, broken.pids = &bad_pid);
	BROKEN(-EINVAL, (broken.paths = &relative, broken.path_count = 1));
	BROKEN(-EINVAL, (broken.cgroups = &relative, broken.cgroup_count = 1));
	BROKEN(-EINVAL, broken.memory_bytes = 1);
	BROKEN(-EINVAL, broken.poll_interval_ns = 1);
	BROKEN(-E2BIG, broken.size = SIZE_MAX);
	BROKEN(-E2BIG, broken.size = 4097);
	BROKEN(-E2BIG, broken.pid_count = SIZE_MAX);
	BROKEN(-E2BIG, (broken.paths = &relative, broken.path_count = SIZE_MAX));
#undef BROKEN

	/* A struct of a later version: fine as long as what is new in it is not asked for. */
	struct {
		struct fdspan_options options;
		uint64_t later[4];
	} longer = {.options = options};

	longer.options.size = sizeof(longer);
	longer.later[3] = 1;
	CHECK_CODE(-E2BIG, fdspan_open(&longer.options, &tracker));
	longer.later[3] = 0;
	CHECK_CODE(0, fdspan_open(&longer.options, &tracker));

	/* The largest values that there are. */
	struct fdspan_options huge = options;
	struct fdspan_tracker *large = NULL;

	huge.minimum_age_ns = huge.memory_bytes = huge.poll_interval_ns = UINT64_MAX;
	huge.resync_interval_ns = UINT64_MAX - 1;
	CHECK_CODE(0, fdspan_open(&huge, &large));
	CHECK_CODE(0, fdspan_resync(large));
	for (int i = 0; i < 20; i++)
		CHECK(fdspan_process(large, UINT32_MAX) >= 0, "all that there is");
	struct fdspan_statistics of_large = {.size = sizeof(of_large)};

	CHECK_CODE(0, fdspan_get_statistics(large, &of_large));
	CHECK(of_large.resyncs < 10, "never is not always: %" PRIu64, of_large.resyncs);
	fdspan_close(large);

	CHECK_CODE(-EINVAL, fdspan_get_fd(NULL));
	CHECK_CODE(-EINVAL, fdspan_get_timeout_ns(NULL, &at_ns));
	CHECK_CODE(-EINVAL, fdspan_get_timeout_ns(tracker, NULL));
	CHECK_CODE(-EINVAL, fdspan_process(NULL, 1));
	CHECK_CODE(-EINVAL, fdspan_process(tracker, 0));
	CHECK_CODE(-EINVAL, fdspan_resync(NULL));
	CHECK_CODE(-EINVAL, fdspan_get_backend(NULL));
	CHECK_CODE(-EINVAL, fdspan_get_statistics(tracker, NULL));
	struct fdspan_statistics figures = {.size = 4};

	CHECK_CODE(-EINVAL, fdspan_get_statistics(tracker, &figures));
	figures.size = sizeof(figures);
	CHECK_CODE(0, fdspan_get_statistics(tracker, &figures));
	CHECK(figures.size == sizeof(figures) && figures.processes == 1, "the statistics of one process: %" PRIu64, figures.processes);

	CHECK_CODE(-EINVAL, fdspan_event_buffer_new(0, &buffer));
	CHECK_CODE(-EINVAL, fdspan_event_buffer_new(SIZE_MAX, &buffer));
	CHECK_CODE(-EINVAL, fdspan_event_buffer_new(1, NULL));
	CHECK_CODE(-EINVAL, fdspan_read_events(tracker, NULL));
	CHECK(fdspan_event_buffer_count(NULL) == 0 && !fdspan_event_buffer_get(NULL, 0), "no buffer has no events");
	CHECK_CODE(-EINVAL, fdspan_event_copy(NULL, &copy));
	CHECK(!fdspan_event_free(NULL) && !fdspan_event_buffer_free(NULL) && !fdspan_cursor_close(NULL) && !fdspan_snapshot_free(NULL) && !fdspan_close(NULL),
	      "nothing can be freed");

	struct fdspan_query query = {.size = sizeof(query)}, wrong;

	CHECK_CODE(-EINVAL, fdspan_cursor_open(tracker, NULL, &cursor));
	CHECK_CODE(-EINVAL, fdspan_cursor_open(NULL, &query, &cursor));
	CHECK_CODE(-EINVAL, fdspan_cursor_open(tracker, &query, NULL));
#define WRONG(change)                                                                                                  \
	wrong = query;                                                                                                 \
	change;                                                                                                        \
	CHECK_CODE(-EINVAL, fdspan_cursor_open(tracker, &wrong, &cursor))
	WRONG(wrong.size = 3);
	WRONG(wrong.flags = 1u << 31);
	WRONG(wrong.kinds = 1u << 31);
	WRONG(wrong.types = 1u << 31);
	WRONG(wrong.pid = -1);
	WRONG(wrong.path = relative);
#undef WRONG
	CHECK_CODE(-EINVAL, fdspan_cursor_next(NULL, &row));
	CHECK_CODE(0, fdspan_cursor_open(tracker, &query, &cursor));
	CHECK_CODE(-EINVAL, fdspan_cursor_next(cursor, NULL));

	struct fdspan_snapshot_options take = {.size = sizeof(take), .flags = 1u << 31};

	CHECK_CODE(-EINVAL, fdspan_snapshot_take(NULL, &snapshot));
	CHECK_CODE(-EINVAL, fdspan_snapshot_take(&take, NULL));
	CHECK_CODE(-EINVAL, fdspan_snapshot_take(&take, &snapshot));
	CHECK_CODE(-EINVAL, fdspan_probe(NULL, NULL, NULL));
	struct fdspan_recover_options recover = {.size = sizeof(recover), .kind = FDSPAN_REF_CWD, .pid = self};

	CHECK_CODE(-EINVAL, fdspan_recover(NULL, 1, NULL));
	CHECK_CODE(-EINVAL, fdspan_recover(&recover, 1, NULL));
	CHECK(strcmp(fdspan_event_name(0), "?") == 0 && strcmp(fdspan_event_name(3), "?") == 0 && strcmp(fdspan_backend_name(77), "?") == 0 &&
		      strcmp(fdspan_type_name(1u << 31), "?") == 0 && strcmp(fdspan_ref_name(0), "?") == 0,
	      "unknown constants have no name");

	/* The host closed a descriptor that is not its own, and its number became another's. */
	int number = fdspan_get_fd(tracker);

	close(number);
	CHECK_CODE(-EBADF, fdspan_process(tracker, 1));
	CHECK_CODE(-EBADF, fdspan_resync(tracker));
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	for (int i = 0; i < 2; i++) {
		CHECK(dup2(i ? STDOUT_FILENO : epoll, number) == number, "dup2");
		CHECK_CODE(-EBADF, fdspan_process(tracker, 1));
		CHECK_CODE(-EBADF, fdspan_resync(tracker));
	}
	fdspan_close(tracker);
	CHECK(fcntl(number, F_GETFD) >= 0, "what has the number by now is left alone");
	close(number), close(epoll);
	CHECK_CODE(-ESTALE, fdspan_cursor_next(cursor, &row));
	fdspan_cursor_close(cursor);
}

static void part_events(void)
{
	const char *path = path_of("events");
	struct child child;
	struct seen seen = {.path = path};
	struct fdspan_event_buffer *buffer;
	const struct fdspan_event *copy = NULL;
	struct fdspan_options options;
	struct fdspan_tracker *tracker;

	close(make(path));
	child = start_child(path, 0);
	options = options_for(&child.pid, 1);
	options.on_event = on_event;
	options.event_context = &seen;
	tracker = open_tracker(&options);
	tell(child, 'o');
	run_until(tracker, &seen.closed, fdspan_get_backend(tracker) == FDSPAN_BACKEND_PROCFS ? 0 : 1);
	if (fdspan_get_backend(tracker) != FDSPAN_BACKEND_PROCFS)
		CHECK(seen.opened == 1 && seen.closed == 1, "one open and one close: %u, %u", seen.opened, seen.closed);

	/* An exit ends all descriptors at once: more events than the buffer holds. They come one after the other, and the descriptor says so. */
	CHECK_CODE(0, fdspan_event_buffer_new(1, &buffer));
	end_child(child);
	for (int i = 0; i < 1000 && seen.exits == 0; i++) {
		CHECK(is_readable(tracker, 60000), "there is more to come");
		int count = fdspan_read_events(tracker, buffer);

		CHECK(count == 0 || count == 1, "no more than the capacity: %d", count);
		if (count != 1)
			continue;
		const struct fdspan_event *event = fdspan_event_buffer_get(buffer, 0);

		note(&seen, event);
		CHECK(!fdspan_event_buffer_get(buffer, 1), "one event");
		if (event->kind == FDSPAN_EVENT_CLOSED && !copy)
			CHECK_CODE(0, fdspan_event_copy(event, &copy));
		if (event->kind == FDSPAN_EVENT_EXIT && (event->valid & FDSPAN_EVENT_HAS_EXIT_STATUS))
			CHECK(WEXITSTATUS(event->exit_status) == 7, "how it ended: %d", event->exit_status);
	}
	CHECK(seen.exits == 1, "the exit is told once: %u", seen.exits);
	CHECK(!seen.gap, "sequence numbers have no gap");
	fdspan_event_buffer_free(buffer);
	fdspan_close(tracker);
	CHECK(copy && copy->process && copy->process->pid == child.pid && copy->reference && copy->reference->path[0], "a copy outlives buffer and tracker");
	fdspan_event_free(copy);
}

static void on_event_again(void *context, const struct fdspan_event *event)
{
	struct seen *seen = context;
	struct fdspan_query query = {.size = sizeof(query)};
	struct fdspan_statistics figures = {.size = sizeof(figures)};
	struct fdspan_cursor *cursor;
	uint64_t at_ns;

	if (seen->all++)
		return;
	seen->reentry[0] = fdspan_process(seen->tracker, 1);
	seen->reentry[1] = fdspan_cursor_open(seen->tracker, &query, &cursor);
	seen->reentry[2] = fdspan_get_fd(seen->tracker);
	seen->reentry[3] = fdspan_get_statistics(seen->tracker, &figures);
	seen->reentry[4] = fdspan_get_timeout_ns(seen->tracker, &at_ns);
	seen->reentry[5] = fdspan_resync(seen->tracker);
	fdspan_close(seen->tracker);
	CHECK(event->sequence == 1, "the event outlives the close");
}

static void part_callbacks(void)
{
	const char *path = path_of("callbacks");
	struct seen seen = {.path = path};
	struct fdspan_options options;
	struct child child;
	int code = 0;

	close(make(path));
	child = start_child(path, 0);
	options = options_for(&child.pid, 1);
	options.on_event = on_event_again;
	options.event_context = &seen;
	seen.tracker = open_tracker(&options);
	end_child(child);
	for (int i = 0; i < 3000 && !seen.all; i++) {
		is_readable(seen.tracker, 20);
		code = fdspan_process(seen.tracker, 1000);
	}
	for (int i = 0; i < 6; i++)
		CHECK(seen.reentry[i] == -EBUSY, "call %d from a callback: %d", i, seen.reentry[i]);
	CHECK(seen.all == 1, "no event after the close: %u", seen.all);
	CHECK_CODE(-ECANCELED, code);
}

static unsigned count_rows(struct fdspan_tracker *tracker, struct fdspan_query query)
{
	struct fdspan_cursor *cursor;
	const struct fdspan_row *row;
	unsigned count = 0;
	int code;

	query.size = sizeof(query);
	CHECK_CODE(0, fdspan_cursor_open(tracker, &query, &cursor));
	while ((code = fdspan_cursor_next(cursor, &row)) == 1) {
		CHECK(row->process && row->reference && row->process->comm && row->reference->path, "a row is whole");
		count++;
	}
	CHECK_CODE(0, code);
	CHECK_CODE(0, fdspan_cursor_next(cursor, &row));
	fdspan_cursor_close(cursor);
	return count;
}

static void part_queries(void)
{
	const char *kept = path_of("queries/kept"), *gone = path_of("queries/gone");
	int32_t self = getpid();
	struct fdspan_options options = options_for(&self, 1);
	struct fdspan_tracker *tracker;
	struct fdspan_cursor *cursor;
	const struct fdspan_row *row;
	struct stat stat;
	int first, second, third;

	mkdir(path_of("queries"), 0700);
	first = make(kept);
	second = fcntl(first, F_DUPFD_CLOEXEC, 0);
	third = make(gone);
	unlink(gone);
	fstat(first, &stat);
	tracker = open_tracker(&options);
	unsigned all = count_rows(tracker, (struct fdspan_query){0});

	CHECK(all >= 3, "all rows: %u", all);
	CHECK(count_rows(tracker, (struct fdspan_query){.pid = self}) == all, "the process's rows are all");
	CHECK(count_rows(tracker, (struct fdspan_query){.pid = 1}) == 0, "what is not tracked is not there");
	CHECK(count_rows(tracker, (struct fdspan_query){.path = path_of("queries")}) == 3, "below a directory");
	CHECK(count_rows(tracker, (struct fdspan_query){.path = kept}) == 2, "of a path");
	CHECK(count_rows(tracker, (struct fdspan_query){.path = path_of("quer")}) == 0, "a part of a name is no directory");
	CHECK(count_rows(tracker, (struct fdspan_query){.path = path_of("queries"), .flags = FDSPAN_QUERY_DELETED}) == 1, "deleted below a directory");
	CHECK(count_rows(tracker, (struct fdspan_query){.path = path_of("queries"), .kinds = FDSPAN_REF_FD, .types = FDSPAN_TYPE_DIRECTORY}) == 0, "kinds and types");
	struct fdspan_query file = {.ino = stat.st_ino};

	CHECK(count_rows(tracker, (struct fdspan_query){.minimum_age_ns = 3600ull * 24 * 365 * 1000000000u}) == 0, "nothing is a year old");
	CHECK(count_rows(tracker, (struct fdspan_query){.minimum_age_ns = 1}) == all, "everything is older than a nanosecond");

	/* The row is right. */
	struct fdspan_query by_path = {.size = sizeof(by_path), .path = gone};

	CHECK_CODE(0, fdspan_cursor_open(tracker, &by_path, &cursor));
	CHECK_CODE(1, fdspan_cursor_next(cursor, &row));
	CHECK(row->reference->kind == FDSPAN_REF_FD && row->reference->fd == third && row->reference->name == FDSPAN_NAME_DELETED &&
		      row->reference->type == FDSPAN_TYPE_REGULAR && row->process->pid == self,
	      "fd %d, name %u", row->reference->fd, row->reference->name);
	CHECK((row->reference->open_flags & O_CLOEXEC) && (row->reference->open_flags & O_ACCMODE) == O_RDWR, "flags %o", row->reference->open_flags);
	file.dev_major = row->reference->dev_major;
	file.dev_minor = row->reference->dev_minor;
	uint64_t opened = row->reference->opened.latest_ns;

	CHECK(opened <= now_ns(CLOCK_BOOTTIME), "opened in the past");
	CHECK(count_rows(tracker, file) == 2, "by inode");
	/* What another cursor does leaves this one's row and place alone. */
	CHECK(strcmp(row->reference->path, gone) == 0 && row->reference->fd == third, "the row is still there");
	CHECK_CODE(0, fdspan_cursor_next(cursor, &row));
	CHECK(fdspan_process(tracker, 10) >= 0, "processed");
	CHECK_CODE(-ESTALE, fdspan_cursor_next(cursor, &row));
	fdspan_cursor_close(cursor);
	fdspan_close(tracker);

	/* The same from a snapshot; and the bytes back. */
	struct fdspan_snapshot_options take = {.size = sizeof(take), .pids = &self, .pid_count = 1};
	struct fdspan_snapshot *snapshot;
	struct fdspan_snapshot_info info = {.size = sizeof(info)};

	CHECK(write(third, "bytes", 5) == 5, "write");
	CHECK_CODE(0, fdspan_snapshot_take(&take, &snapshot));
	CHECK_CODE(0, fdspan_snapshot_get_info(snapshot, &info));
	CHECK(info.processes == 1 && info.references >= 3 && info.ended_ns >= info.began_ns, "the snapshot's account");
	CHECK_CODE(0, fdspan_cursor_open_snapshot(snapshot, &by_path, &cursor));
	CHECK_CODE(1, fdspan_cursor_next(cursor, &row));
	CHECK((row->reference->valid & FDSPAN_FIELD_SIZE) && row->reference->size_bytes == 5, "its size: %" PRIu64, row->reference->size_bytes);
	struct fdspan_recover_options recover = {.size = sizeof(recover), .kind = FDSPAN_REF_FD, .pid = self, .fd = third,
		.dev_major = row->reference->dev_major, .dev_minor = row->reference->dev_minor, .ino = row->reference->ino};
	struct fdspan_recovered recovered = {.size = sizeof(recovered)};
	int target = make(path_of("queries/back"));
	char text[8] = "";

	CHECK_CODE(0, fdspan_recover(&recover, target, &recovered));
	CHECK(recovered.file_bytes == 5 && pread(target, text, 8, 0) == 5 && strcmp(text, "bytes") == 0, "the bytes are back: '%s'", text);
	recover.ino++;
	CHECK_CODE(-ESTALE, fdspan_recover(&recover, target, NULL));
	fdspan_snapshot_free(snapshot);
	CHECK_CODE(-ESTALE, fdspan_cursor_next(cursor, &row));
	fdspan_cursor_close(cursor);
	close(first), close(second), close(third), close(target);
}

static uint64_t records_of(struct fdspan_tracker *tracker)
{
	struct fdspan_statistics figures = {.size = sizeof(figures)};

	CHECK_CODE(0, fdspan_get_statistics(tracker, &figures));
	return figures.records;
}

/* Two trackers of one process, each with its own filter; one of them over a tree. */
static void part_filters(void)
{
	const char *one = path_of("one"), *two = path_of("two");
	struct seen seen_one = {.path = one}, seen_two = {.path = two}, other_one = {.path = two}, other_two = {.path = one};
	struct child first, second, stranger;
	struct fdspan_options options;
	struct fdspan_tracker *tracker_one, *tracker_two;

	close(make(one)), close(make(two));
	first = start_child(one, 0);
	second = start_child(two, 1);
	stranger = start_child(two, 0);
	options = options_for(&first.pid, 1);
	options.on_event = on_event;
	options.event_context = &seen_one;
	tracker_one = open_tracker(&options);
	options = options_for(NULL, 0);
	options.trees = &second.pid;
	options.tree_count = 1;
	options.on_event = on_event;
	options.event_context = &seen_two;
	tracker_two = open_tracker(&options);
	int polls = fdspan_get_backend(tracker_two) == FDSPAN_BACKEND_PROCFS;

	for (int i = 0; i < 3; i++)
		tell(first, 'o'), tell(second, 'o');
	if (!polls) {
		run_until(tracker_one, &seen_one.closed, 3);
		run_until(tracker_two, &seen_two.closed, 3);
		CHECK(seen_one.opened == 3 && seen_one.closed == 3, "the first tracker sees its process: %u, %u", seen_one.opened, seen_one.closed);
		CHECK(seen_two.opened == 3 && seen_two.closed == 3, "the second sees what its process forks: %u, %u", seen_two.opened, seen_two.closed);
	}
	CHECK(other_one.opened + other_two.opened == 0, "neither sees the other's");
	CHECK(count_rows(tracker_one, (struct fdspan_query){.pid = second.pid}) == 0 && count_rows(tracker_one, (struct fdspan_query){.pid = first.pid}) > 0,
	      "the index claims the filtered process only");
	struct fdspan_statistics figures = {.size = sizeof(figures)};

	CHECK_CODE(0, fdspan_get_statistics(tracker_one, &figures));
	CHECK(figures.processes == 1, "one process: %" PRIu64, figures.processes);
	/* Anybody's names that go are told of; of 100,000 opens of somebody else's nothing is. */
	uint64_t before = records_of(tracker_one);

	tell(stranger, 'm');
	uint64_t after = records_of(tracker_one);

	CHECK(polls || after - before < 50000, "the kernel hands over little: %" PRIu64 " records", after - before);
	end_child(stranger);
	end_child(first);
	end_child(second);
	run_until(tracker_one, &seen_one.exits, 1);
	run_until(tracker_two, &seen_two.exits, polls ? 1 : 4);
	CHECK(seen_one.exits == 1 && (polls || seen_two.exits == 4), "the ends of a process, and of a tree: %u, %u", seen_one.exits, seen_two.exits);
	CHECK(count_rows(tracker_one, (struct fdspan_query){0}) == 0 && count_rows(tracker_two, (struct fdspan_query){0}) == 0, "nothing is left");
	fdspan_close(tracker_one);
	fdspan_close(tracker_two);

	/* Types and paths. */
	int32_t self = getpid();
	struct seen all = {0};

	options = options_for(&self, 1);
	options.types = FDSPAN_TYPE_REGULAR;
	options.paths = &one;
	options.path_count = 1;
	options.events = FDSPAN_EVENT_OPENED;
	options.on_event = on_event;
	options.event_context = &all;
	tracker_one = open_tracker(&options);
	int regular = make(one), other = make(two), directory_fd = open(directory, O_RDONLY | O_CLOEXEC);

	run_until(tracker_one, &all.opened, 1);
	CHECK(all.opened == 1 && all.closed == 0, "one path, one type, one kind of event: %u", all.opened);
	CHECK(count_rows(tracker_one, (struct fdspan_query){0}) == 1, "its index, too: %u", count_rows(tracker_one, (struct fdspan_query){0}));
	close(regular), close(other), close(directory_fd);
	fdspan_close(tracker_one);
}

/* Of files that are not asked for the kernel tells nothing. */
static void part_files(void)
{
	char inside[200], moved[220], path[220], beside[220];
	const char *outside = path_of("outside"), *top = inside;
	int32_t self = getpid();
	struct seen seen = {.path = path}, seen_moved = {.path = moved};
	struct fdspan_options options = options_for(&self, 1);

	snprintf(inside, sizeof(inside), "%s/a-directory-of-a-long-name", directory);
	snprintf(path, sizeof(path), "%s/below", inside);
	snprintf(moved, sizeof(moved), "%s/moved", inside);
	/* Alike in what the kernel compares. */
	snprintf(beside, sizeof(beside), "%s/a-directory-of-a-l0ng-name", directory);
	mkdir(inside, 0755), mkdir(beside, 0755);
	strcat(beside, "/below");
	close(make(outside)), close(make(path)), close(make(beside));
	options.paths = &top;
	options.path_count = 1;
	options.on_event = on_event;
	options.event_context = &seen;
	struct fdspan_tracker *tracker = open_tracker(&options);
	int polls = fdspan_get_backend(tracker) == FDSPAN_BACKEND_PROCFS;
	uint64_t before = records_of(tracker);

	for (int i = 0; i < 1000; i++) {
		int fd = open(outside, O_RDONLY | O_CLOEXEC), again = dup(fd), pair[2];

		CHECK(again >= 0 && pipe(pair) == 0, "descriptors");
		close(fd), close(again), close(pair[0]), close(pair[1]);
	}
	uint64_t after = records_of(tracker);

	/* Whoever removes a name is told of. */
	CHECK(polls || after - before < 1000, "8000 ends of spans outside gave %" PRIu64 " records", after - before);
	int fd = make(path), again = dup(fd), other = make(beside);

	if (polls) {
		run_until(tracker, &seen.opened, 2);
		close(fd), close(again);
	} else {
		close(fd), close(again);
		run_until(tracker, &seen.closed, 2);
	}
	run_until(tracker, &seen.closed, 2);
	CHECK(seen.opened == 2 && seen.closed == 2, "spans below the directory: %u, %u", seen.opened, seen.closed);
	close(other);
	CHECK(seen.all - seen.opened - seen.closed <= 2, "nothing else: %u events", seen.all);

	/* Opened outside and moved in: a snapshot finds it, and from then on it is followed. */
	seen = seen_moved;
	fd = open(outside, O_RDONLY | O_CLOEXEC);
	CHECK(rename(outside, moved) == 0, "rename");
	CHECK_CODE(0, fdspan_resync(tracker));
	CHECK(count_rows(tracker, (struct fdspan_query){.path = moved}) == 1, "a file that was moved in");
	close(fd);
	run_until(tracker, &seen.closed, 1);
	CHECK(seen.closed == 1, "its end: %u", seen.closed);
	CHECK(polls || seen.closed_exactly == 1, "the end of what a snapshot found is news of the kernel");
	/* Opened inside and moved out: it is gone from the index once it is closed. */
	fd = open(moved, O_RDONLY | O_CLOEXEC);
	for (int i = 0; i < 3000 && count_rows(tracker, (struct fdspan_query){.path = moved}) == 0; i++)
		run(tracker, 20);
	CHECK(rename(moved, outside) == 0, "rename");
	close(fd);
	for (int i = 0; i < 3000 && count_rows(tracker, (struct fdspan_query){0}) != 0; i++)
		run(tracker, 20);
	CHECK(count_rows(tracker, (struct fdspan_query){0}) == 0, "nothing is left");
	fdspan_close(tracker);

	/* By type. */
	options.paths = NULL;
	options.path_count = 0;
	options.types = FDSPAN_TYPE_DIRECTORY | FDSPAN_TYPE_ANON;
	seen = (struct seen){.path = inside};
	tracker = open_tracker(&options);
	before = records_of(tracker);
	for (int i = 0; i < 1000; i++)
		close(open(outside, O_RDONLY | O_CLOEXEC));
	after = records_of(tracker);
	CHECK(polls || after - before < 1000, "2000 ends of spans of another type gave %" PRIu64 " records", after - before);
	fd = open(inside, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	run_until(tracker, &seen.opened, 1);
	close(fd);
	run_until(tracker, &seen.closed, 1);
	CHECK(seen.opened == 1 && seen.closed == 1, "a directory: %u, %u", seen.opened, seen.closed);
	fdspan_close(tracker);
}

/* A cgroup, with one below it. */
/* Opens and closes a file, and another again and again; what the tracker sees of the first, and how much the kernel tells of the second. */
static void check_place(const char *const *tops, size_t count, const char *wanted, const char *elsewhere)
{
	int32_t self = getpid();
	struct seen seen = {.path = wanted};
	struct fdspan_options options = options_for(&self, 1);

	close(make(wanted)), close(make(elsewhere));
	options.paths = tops;
	options.path_count = count;
	options.on_event = on_event;
	options.event_context = &seen;
	struct fdspan_tracker *tracker = open_tracker(&options);
	uint64_t before = records_of(tracker);

	for (int i = 0; i < 100; i++)
		close(open(elsewhere, O_RDONLY | O_CLOEXEC));
	uint64_t after = records_of(tracker);

	CHECK(after - before < 100, "200 ends of spans of %s gave %" PRIu64 " records", elsewhere, after - before);
	close(open(wanted, O_RDONLY | O_CLOEXEC));
	run_until(tracker, &seen.closed_exactly, 1);
	CHECK(seen.opened == 1 && seen.closed_exactly == 1, "%s: %u, %u", wanted, seen.opened, seen.closed_exactly);
	fdspan_close(tracker);
}

/* Directories that differ in one byte or in length, are deep, or are one of eight. */
static void part_places(void)
{
	static const int lengths[] = {1, 7, 8, 9, 14, 15, 16, 17, 100};
	char place[400], beside[500], wanted[600], elsewhere[600];
	const char *top = place, *tops[8];
	size_t at;

	if (backend == FDSPAN_BACKEND_PROCFS)
		return;
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		at = (size_t)snprintf(place, sizeof(place), "%s/", directory);
		memset(place + at, 'n', (size_t)lengths[i]);
		place[at + (size_t)lengths[i]] = 0;
		strcpy(beside, place);
		/* The kernel compares 15 bytes and the length. */
		beside[at + (size_t)(lengths[i] < 15 ? lengths[i] : 15) - 1] = 'm';
		mkdir(place, 0755), mkdir(beside, 0755);
		snprintf(wanted, sizeof(wanted), "%s/below", place);
		snprintf(elsewhere, sizeof(elsewhere), "%s/below", beside);
		check_place(&top, 1, wanted, elsewhere);
		if (i % 3 == 0) {
			snprintf(beside, sizeof(beside), "%sn", place);
			mkdir(beside, 0755);
			snprintf(elsewhere, sizeof(elsewhere), "%s/below", beside);
			check_place(&top, 1, wanted, elsewhere);
		}
	}
	/* Deeper than most: a file far below its directory, and a directory that is itself far down, beside a file as deep. */
	snprintf(place, sizeof(place), "%s/deep", directory);
	mkdir(place, 0755);
	strcpy(wanted, place);
	for (int level = 0; level < 11; level++) {
		strcat(wanted, "/level");
		mkdir(wanted, 0755);
	}
	strcpy(beside, wanted);
	strcat(wanted, "/below");
	snprintf(elsewhere, sizeof(elsewhere), "%s/n/below", directory);
	check_place(&top, 1, wanted, elsewhere);
	strcpy(elsewhere, beside);
	strcpy(place, beside);
	*strrchr(elsewhere, '/') = 0;
	strcat(elsewhere, "/beside");
	check_place(&top, 1, wanted, elsewhere);
	/* The eighth of eight. */
	for (int i = 0; i < 7; i++)
		tops[i] = path_of("nowhere");
	snprintf(place, sizeof(place), "%s/nnnnnnn", directory);
	tops[7] = place;
	snprintf(wanted, sizeof(wanted), "%s/below", place);
	snprintf(elsewhere, sizeof(elsewhere), "%s/nnnnnnnn/below", directory);
	check_place(tops, 8, wanted, elsewhere);
	/* Through a mount at another place it has another path; below a mount inside the directory it has the directory's. */
	snprintf(beside, sizeof(beside), "%s/mounted", directory);
	mkdir(beside, 0755);
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount(place, beside, NULL, MS_BIND, NULL))
		return;
	top = beside;
	snprintf(elsewhere, sizeof(elsewhere), "%s/below", place);
	snprintf(wanted, sizeof(wanted), "%s/below", beside);
	check_place(&top, 1, wanted, elsewhere);
	top = place;
	check_place(&top, 1, elsewhere, wanted);
	CHECK(umount2(beside, MNT_DETACH) == 0, "umount");
	snprintf(beside, sizeof(beside), "%s/inner", place);
	mkdir(beside, 0755);
	if (mount("tmpfs", beside, "tmpfs", 0, NULL))
		return;
	snprintf(wanted, sizeof(wanted), "%s/below", beside);
	snprintf(elsewhere, sizeof(elsewhere), "%s/n/below", directory);
	check_place(&top, 1, wanted, elsewhere);
	CHECK(umount2(beside, MNT_DETACH) == 0, "umount");
}

static void part_cgroup(void)
{
	const char *one = path_of("in-cgroup"), *two = path_of("outside");
	char line[512], mount[256] = "", group[300] = "", below[320], procs[340];
	struct seen seen = {.path = one}, outside = {.path = two};
	FILE *mounts = fopen("/proc/self/mounts", "re");

	while (mounts && fgets(line, sizeof(line), mounts))
		if (sscanf(line, "%*s %255s cgroup2", mount) == 1 && strstr(line, " cgroup2 "))
			break;
	fclose(mounts);
	snprintf(group, sizeof(group), "%s/fdspan-contract-%d", mount, getpid());
	snprintf(below, sizeof(below), "%s/below", group);
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", below);
	CHECK(mkdir(group, 0755) == 0 && mkdir(below, 0755) == 0, "a cgroup in %s: %s", mount, strerror(errno));
	close(make(one)), close(make(two));
	struct child inside = start_child(one, 0), other = start_child(two, 0);
	FILE *file = fopen(procs, "we");

	CHECK(file && fprintf(file, "%d", inside.pid) > 0 && fclose(file) == 0, "moved into %s", procs);
	const char *groups[] = {group};
	struct fdspan_options options = options_for(NULL, 0);
	struct fdspan_tracker *tracker;

	options.cgroups = groups;
	options.cgroup_count = 1;
	options.on_event = on_event;
	options.event_context = &seen;
	tracker = open_tracker(&options);
	tell(inside, 'o'), tell(other, 'o');
	if (fdspan_get_backend(tracker) != FDSPAN_BACKEND_PROCFS) {
		run_until(tracker, &seen.closed, 1);
		CHECK(seen.opened == 1 && seen.closed == 1, "what is below the cgroup is seen: %u, %u", seen.opened, seen.closed);
	}
	CHECK(count_rows(tracker, (struct fdspan_query){.pid = inside.pid}) > 0 && count_rows(tracker, (struct fdspan_query){.pid = other.pid}) == 0,
	      "who is in the cgroup, and nobody else");
	end_child(inside), end_child(other);
	run_until(tracker, &seen.exits, 1);
	CHECK(seen.exits == 1 && outside.all == 0, "its end: %u", seen.exits);
	fdspan_close(tracker);
	groups[0] = directory;
	CHECK_CODE(-EINVAL, fdspan_open(&options, &tracker));
	groups[0] = "/nowhere";
	CHECK_CODE(-ENOENT, fdspan_open(&options, &tracker));
	CHECK(rmdir(below) == 0 && rmdir(group) == 0, "rmdir: %s", strerror(errno));
}

static void part_fork(void)
{
	const char *path = path_of("fork");
	struct child child;
	struct seen seen = {.path = path};
	struct fdspan_options options;
	struct fdspan_tracker *tracker;
	struct fdspan_cursor *cursor;
	struct fdspan_query query = {.size = sizeof(query)};
	const struct fdspan_row *row;
	int status;

	close(make(path));
	child = start_child(path, 0);
	options = options_for(&child.pid, 1);
	options.on_event = on_event;
	options.event_context = &seen;
	tracker = open_tracker(&options);
	CHECK_CODE(0, fdspan_cursor_open(tracker, &query, &cursor));
	fflush(stdout);
	pid_t forked = fork();

	if (forked == 0) {
		struct fdspan_event_buffer *buffer;
		struct fdspan_statistics figures = {.size = sizeof(figures)};
		struct fdspan_cursor *other;
		uint64_t at_ns;

		failures = 0;
		CHECK_CODE(0, fdspan_event_buffer_new(4, &buffer));
		CHECK_CODE(-ECHILD, fdspan_process(tracker, 1));
		CHECK_CODE(-ECHILD, fdspan_read_events(tracker, buffer));
		CHECK_CODE(-ECHILD, fdspan_get_fd(tracker));
		CHECK_CODE(-ECHILD, fdspan_get_timeout_ns(tracker, &at_ns));
		CHECK_CODE(-ECHILD, fdspan_resync(tracker));
		CHECK_CODE(-ECHILD, fdspan_get_backend(tracker));
		CHECK_CODE(-ECHILD, fdspan_get_statistics(tracker, &figures));
		CHECK_CODE(-ECHILD, fdspan_cursor_open(tracker, &query, &other));
		CHECK_CODE(-ECHILD, fdspan_cursor_next(cursor, &row));
		fdspan_cursor_close(cursor);
		fdspan_close(tracker);
		fdspan_event_buffer_free(buffer);
		fflush(stdout);
		_exit(failures ? 1 : 0);
	}
	waitpid(forked, &status, 0);
	CHECK(status == 0, "the child");
	/* The child's close left the parent's alone. */
	CHECK(fdspan_cursor_next(cursor, &row) == 1, "the parent's cursor");
	fdspan_cursor_close(cursor);
	tell(child, 'o');
	if (fdspan_get_backend(tracker) != FDSPAN_BACKEND_PROCFS) {
		run_until(tracker, &seen.closed, 1);
		CHECK(seen.opened == 1 && seen.closed == 1, "the parent's tracker still sees: %u, %u", seen.opened, seen.closed);
	}
	end_child(child);
	fdspan_close(tracker);
}

/* A host that does not look for 10 s, while more happens than the ring holds. */
static void part_blocked(void)
{
	const char *path = path_of("blocked");
	struct seen seen = {.path = path};
	struct fdspan_options options;
	struct fdspan_tracker *tracker;
	struct child child;

	close(make(path));
	child = start_child(path, 0);
	options = options_for(&child.pid, 1);
	options.memory_bytes = 4 << 20;
	options.on_event = on_event;
	options.event_context = &seen;
	tracker = open_tracker(&options);
	if (fdspan_get_backend(tracker) != FDSPAN_BACKEND_PROCFS) {
		uint64_t began = now_ns(CLOCK_MONOTONIC);

		tell(child, 'm');
		while (now_ns(CLOCK_MONOTONIC) - began < 10000000000u)
			usleep(100000);
		struct fdspan_statistics figures = {.size = sizeof(figures)};

		/* What was kept back is taken and told, what was lost mended. */
		for (int i = 0; i < 3000; i++) {
			run(tracker, 20);
			CHECK_CODE(0, fdspan_get_statistics(tracker, &figures));
			if (figures.resyncs > 0 && figures.pending_events == 0 && seen.lost == figures.lost_records)
				break;
		}
		CHECK(seen.lost > 0, "the loss is told: %" PRIu64, seen.lost);
		CHECK(figures.lost_records > 0 && figures.resyncs > 0, "and counted: %" PRIu64 ", mended %" PRIu64 " times", figures.lost_records, figures.resyncs);
		CHECK(seen.lost == figures.lost_records, "no loss is silent: %" PRIu64 " of %" PRIu64, seen.lost, figures.lost_records);
		unsigned open_now = count_rows(tracker, (struct fdspan_query){.path = path});

		CHECK(open_now == 0, "nothing is left over: %u", open_now);
		seen.opened = seen.closed = 0;
		tell(child, 'o');
		run_until(tracker, &seen.closed, 1);
		CHECK(seen.opened == 1 && seen.closed == 1, "and it goes on: %u, %u", seen.opened, seen.closed);
		CHECK(figures.index_bytes < 4 << 20, "memory stays within its bound: %" PRIu64, figures.index_bytes);
	}
	end_child(child);
	fdspan_close(tracker);
}

/* More is open than memory_bytes has room for, and then less. */
/* More than fits, read by a poll or asked for: it is told, keeps nobody busy, and is over when there is room again. */
static void check_polled_bound(void)
{
	enum { first = 1000, most = first + 15000 };
	const char *many = path_of("polled");
	int32_t self = getpid();
	struct seen seen = {0};
	struct fdspan_options options = options_for(&self, 1);
	struct rlimit before, limit;
	uint64_t at_ns = 0;

	getrlimit(RLIMIT_NOFILE, &before);
	limit = before;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	options.memory_bytes = 4 << 20;
	options.poll_interval_ns = 50000000;
	options.on_event = on_event;
	options.event_context = &seen;
	struct fdspan_tracker *tracker = open_tracker(&options);
	int fd = make(many);

	for (int i = first; i < most; i++)
		CHECK(dup2(fd, i) == i, "dup2: %s", strerror(errno));
	CHECK_CODE(0, fdspan_resync(tracker));
	run(tracker, 1);
	CHECK(seen.lost > 0, "what is refused is told");
	for (int i = first; i < most; i++)
		close(i);
	for (int i = 0; i < 3000 && count_rows(tracker, (struct fdspan_query){.path = many}) != 1; i++)
		run(tracker, 20);
	CHECK(count_rows(tracker, (struct fdspan_query){.path = many}) == 1, "there is room again");
	CHECK_CODE(0, fdspan_get_timeout_ns(tracker, &at_ns));
	CHECK(at_ns == UINT64_MAX, "polls wake by the descriptor alone: %" PRIu64, at_ns);
	close(fd);
	fdspan_close(tracker);
	setrlimit(RLIMIT_NOFILE, &before);
}

/* What is open for a moment only leaves nothing behind that takes the room of what is open. */
static void check_churn(void)
{
	const char *path = path_of("churn");
	int32_t self = getpid();
	struct fdspan_options options = options_for(&self, 1);
	struct fdspan_statistics figures = {.size = sizeof(figures)};

	close(make(path));
	options.memory_bytes = 4 << 20;
	options.resync_interval_ns = UINT64_MAX;
	struct fdspan_tracker *tracker = open_tracker(&options);

	for (int i = 0; i < 80000; i++) {
		close(open(path, O_RDONLY | O_CLOEXEC));
		for (int more = 1; i % 100 == 0 && more > 0;)
			CHECK((more = fdspan_process(tracker, 1000)) >= 0, "fdspan_process: %d", more);
	}
	run(tracker, 100);
	CHECK_CODE(0, fdspan_get_statistics(tracker, &figures));
	CHECK(figures.refused_spans == 0, "%" PRIu64 " refused of an index of %" PRIu64 " bytes", figures.refused_spans, figures.index_bytes);
	fdspan_close(tracker);
}

/* The room of names that went serves names of other lengths. */
static void check_names(void)
{
	enum { each = 1500 };
	int32_t self = getpid();
	struct fdspan_options options = options_for(&self, 1);
	struct fdspan_statistics figures = {.size = sizeof(figures)};
	struct rlimit before, limit;
	char name[256];

	getrlimit(RLIMIT_NOFILE, &before);
	limit = before;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	options.memory_bytes = 4 << 20;
	options.resync_interval_ns = UINT64_MAX;
	struct fdspan_tracker *tracker = open_tracker(&options);
	int fds[each];

	for (int length = 20; length < 210; length += 7) {
		memset(name, 'n', sizeof(name));
		name[length] = 0;
		for (int i = 0; i < each; i++) {
			int digits = snprintf(name, 8, "%06d", i);

			name[digits] = 'n';
			fds[i] = make(path_of(name));
			unlink(path_of(name));
			for (int more = 1; i % 100 == 0 && more > 0;)
				CHECK((more = fdspan_process(tracker, 1000)) >= 0, "fdspan_process: %d", more);
		}
		for (int i = 0; i < each; i++)
			close(fds[i]);
		run(tracker, 20);
	}
	run(tracker, 1500); /* what was refused at last is made good */
	CHECK_CODE(0, fdspan_get_statistics(tracker, &figures));
	CHECK(figures.index_bytes <= options.memory_bytes, "the index keeps within its bound: %" PRIu64, figures.index_bytes);
	fdspan_close(tracker);
	setrlimit(RLIMIT_NOFILE, &before);
}

static void part_memory(void)
{
	enum { children = 4, each = 15000, pause_every = 100 };
	const char *many = path_of("many"), *late = path_of("late");
	int32_t self = getpid();
	int go[2], ready[2];
	pid_t pids[children];
	struct seen seen = {.path = late};
	struct fdspan_options options = options_for(NULL, 0);
	struct fdspan_statistics figures = {.size = sizeof(figures)};

	close(make(many)), close(make(late));
	CHECK(pipe(go) == 0 && pipe(ready) == 0, "pipes");
	options.trees = &self;
	options.tree_count = 1;
	options.memory_bytes = 4 << 20;
	options.on_event = on_event;
	options.event_context = &seen;
	struct fdspan_tracker *tracker = open_tracker(&options);

	for (int i = 0; i < children; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			struct rlimit limit;
			char byte;

			getrlimit(RLIMIT_NOFILE, &limit);
			limit.rlim_cur = limit.rlim_max;
			setrlimit(RLIMIT_NOFILE, &limit);
			/* In a pace that the ring, which is small as well, keeps up with. */
			for (int n = 0; n < each; n++) {
				if (open(many, O_RDONLY | O_CLOEXEC) < 0)
					_exit(1);
				if (n % pause_every == 0)
					usleep(2000);
			}
			_exit(write(ready[1], "x", 1) != 1 || read(go[0], &byte, 1) != 1);
		}
	}
	struct pollfd wait = {.fd = ready[0], .events = POLLIN};
	unsigned filled = 0;

	while (filled < children) {
		char byte;

		run(tracker, 10);
		while (poll(&wait, 1, 0) == 1 && filled < children)
			filled += read(ready[0], &byte, 1) == 1;
	}
	for (int i = 0; i < 3000 && figures.refused_spans == 0; i++) {
		run(tracker, 20);
		CHECK_CODE(0, fdspan_get_statistics(tracker, &figures));
	}
	CHECK(seen.lost > 0 && figures.refused_spans > 0, "what is refused is told: %" PRIu64 ", %" PRIu64, seen.lost, figures.refused_spans);
	CHECK(figures.index_bytes <= options.memory_bytes, "the index keeps within its bound: %" PRIu64, figures.index_bytes);

	for (int i = 0; i < children; i++)
		CHECK(write(go[1], "x", 1) == 1, "write");
	for (int i = 0; i < children; i++) {
		int status = 0;
		pid_t ended;

		do
			ended = waitpid(pids[i], &status, 0);
		while (ended < 0 && errno == EINTR); /* the other parts have handlers */
		CHECK(ended == pids[i] && status == 0, "a child: %d, %#x", (int)ended, (unsigned)status);
	}
	/* There is room again. */
	int fd = open(late, O_RDONLY | O_CLOEXEC);

	for (int i = 0; i < 3000; i++) {
		run(tracker, 20);
		if (count_rows(tracker, (struct fdspan_query){.path = late}) == 1 && count_rows(tracker, (struct fdspan_query){.path = many}) == 0)
			break;
	}
	CHECK(count_rows(tracker, (struct fdspan_query){.path = late}) == 1 && count_rows(tracker, (struct fdspan_query){.path = many}) == 0,
	      "the index is right again: %u, %u", count_rows(tracker, (struct fdspan_query){.path = late}),
	      count_rows(tracker, (struct fdspan_query){.path = many}));
	close(fd);
	for (int i = 0; i < 3000 && count_rows(tracker, (struct fdspan_query){.path = late}) != 0; i++)
		run(tracker, 20);
	seen.opened = 0;
	fd = open(late, O_RDONLY | O_CLOEXEC);
	run_until(tracker, &seen.opened, 1);
	CHECK(seen.opened == 1, "and follows: %u", seen.opened);
	close(fd);
	close(go[0]), close(go[1]), close(ready[0]), close(ready[1]);
	int polls = fdspan_get_backend(tracker) == FDSPAN_BACKEND_PROCFS;

	fdspan_close(tracker);
	if (polls)
		check_polled_bound();
	else
		check_churn(), check_names();
}

static unsigned open_descriptors(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 4096; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

/* BPF objects in the kernel, by kind. */
enum { PROGRAMS, MAPS, LINKS, KINDS };
static const struct {
	const char *name, *field;
	enum bpf_cmd open, next;
} bpf_kinds[KINDS] = {
	{"programs", "prog_id: %u", BPF_PROG_GET_FD_BY_ID, BPF_PROG_GET_NEXT_ID},
	{"maps", "map_id: %u", BPF_MAP_GET_FD_BY_ID, BPF_MAP_GET_NEXT_ID},
	{"links", "link_id: %u", BPF_LINK_GET_FD_BY_ID, BPF_LINK_GET_NEXT_ID},
};
/* Those that trackers had. The kernel gives an id again only after all others. */
static struct {
	uint32_t ids[1 << 17];
	size_t count;
} bpf_seen[KINDS];

static void note_bpf_objects(void)
{
	char line[128], name[64];
	uint32_t id;

	for (int fd = 0; fd < 4096; fd++) {
		if (fcntl(fd, F_GETFD) < 0)
			continue;
		snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", fd);
		FILE *file = fopen(name, "re");

		while (file && fgets(line, sizeof(line), file))
			for (int kind = 0; kind < KINDS; kind++)
				if (sscanf(line, bpf_kinds[kind].field, &id) == 1 && bpf_seen[kind].count < sizeof(bpf_seen[0].ids) / sizeof(id))
					bpf_seen[kind].ids[bpf_seen[kind].count++] = id;
		if (file)
			fclose(file);
	}
}

static unsigned bpf_left(int kind)
{
	unsigned left = 0;

	for (size_t i = 0; i < bpf_seen[kind].count; i++) {
		union bpf_attr attributes = {.prog_id = bpf_seen[kind].ids[i]}; /* one union: every kind's id is there */
		int fd = (int)syscall(SYS_bpf, bpf_kinds[kind].open, &attributes, sizeof(attributes));

		/* -EAGAIN: a link that is being freed */
		if (fd < 0)
			continue;
		close(fd);
		left++;
	}
	return left;
}

/* Of everybody on this machine. */
static unsigned bpf_all(int kind)
{
	union bpf_attr attributes = {0};
	unsigned count = 0;

	while (syscall(SYS_bpf, bpf_kinds[kind].next, &attributes, sizeof(attributes)) == 0) {
		attributes.start_id = attributes.next_id;
		count++;
	}
	return count;
}

static unsigned long resident_kib(void)
{
	unsigned long kib = 0;
	char line[128];
	FILE *file = fopen("/proc/self/status", "re");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmRSS: %lu", &kib) == 1)
			break;
	fclose(file);
	return kib;
}

static void part_cycles(int cycles)
{
	int32_t self = getpid();
	struct fdspan_options options = options_for(&self, 1);
	size_t heap = 0;
	unsigned long resident = 0;
	unsigned descriptors = 0, before[KINDS] = {0}, all[KINDS], left[KINDS];
	int polls = 0;

	for (int i = 0; i <= cycles; i++) {
		struct fdspan_tracker *tracker = open_tracker(&options);

		polls = fdspan_get_backend(tracker) == FDSPAN_BACKEND_PROCFS;
		CHECK(fdspan_process(tracker, 10) >= 0, "cycle %d", i);
		if (!polls)
			note_bpf_objects();
		fdspan_close(tracker);
		/* The first ones pay for what the C library keeps. */
		if (i == (cycles > 2 ? 2 : 0)) {
			for (int kind = 0; kind < KINDS; kind++)
				before[kind] = bpf_all(kind);
			descriptors = open_descriptors();
			heap = mallinfo2().uordblks;
			resident = resident_kib();
		}
	}
	CHECK(open_descriptors() == descriptors, "descriptors: %u, then %u", descriptors, open_descriptors());
	size_t after = mallinfo2().uordblks;

	CHECK(after <= heap + 4096, "heap: %zu, then %zu", heap, after);
	/* Freed behind a grace period. */
	for (int round = 0; !polls && round < 600; round++) {
		unsigned sum = 0;

		for (int kind = 0; kind < KINDS; kind++)
			sum += left[kind] = bpf_left(kind);
		if (sum == 0)
			break;
		usleep(100000);
	}
	printf("%d cycles: descriptors %u -> %u, heap %zu -> %zu bytes, resident %lu -> %lu KiB\n", cycles, descriptors, open_descriptors(), heap, after, resident,
	       resident_kib());
	if (polls)
		return;
	for (int kind = 0; kind < KINDS; kind++) {
		CHECK(bpf_seen[kind].count >= (size_t)cycles, "%zu %s were seen", bpf_seen[kind].count, bpf_kinds[kind].name);
		CHECK(left[kind] == 0, "%u of %zu %s are left in the kernel", left[kind], bpf_seen[kind].count, bpf_kinds[kind].name);
		/* Also what no descriptor was kept of. Others on this machine come and go meanwhile, by a few hundred. */
		all[kind] = bpf_all(kind);
		CHECK(cycles < 1000 || all[kind] < before[kind] + (unsigned)cycles, "%s: %u, then %u", bpf_kinds[kind].name, before[kind], all[kind]);
		printf("  %s in the kernel: %zu that trackers had, %u left; of everybody %u -> %u\n", bpf_kinds[kind].name, bpf_seen[kind].count, left[kind],
		       before[kind], all[kind]);
	}
}

static void handler(int number)
{
	(void)number;
}

/* Leaves no descriptor to be had; gives back what it was before. */
static struct rlimit leave_no_descriptor(void)
{
	struct rlimit before, none;

	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &none);
	return before;
}

/* A correcting snapshot that fails: what it was for is made good when there are descriptors again, though no other one is to come. */
static void check_failed_correction(void)
{
	const char *path = path_of("owed");
	int32_t self = getpid();
	int fds[5];
	struct seen seen = {0};
	struct fdspan_options options = options_for(&self, 1);
	struct fdspan_tracker *tracker;
	struct rlimit limit;

	close(make(path));
	options.resync_interval_ns = UINT64_MAX;
	options.memory_bytes = 4 << 20;
	options.on_log = NULL;
	options.on_event = on_event;
	options.event_context = &seen;
	tracker = open_tracker(&options);
	if (fdspan_get_backend(tracker) == FDSPAN_BACKEND_PROCFS) {
		fdspan_close(tracker);
		return;
	}
	for (int i = 0; i < 20000; i++) /* more than the ring holds */
		close(open(path, O_RDONLY | O_CLOEXEC));
	for (int i = 0; i < 5; i++)
		fds[i] = open(path, O_RDONLY | O_CLOEXEC);
	limit = leave_no_descriptor();
	int code = 0;

	for (int i = 0; i < 3000 && code >= 0; i++) {
		is_readable(tracker, 10);
		code = fdspan_process(tracker, 1000);
	}
	CHECK(code == -EMFILE && seen.lost > 0, "the correction of a loss of %" PRIu64 " fails: %d", seen.lost, code);
	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 0; i < 200 && count_rows(tracker, (struct fdspan_query){.path = path}) != 5; i++)
		run(tracker, 20);
	CHECK(count_rows(tracker, (struct fdspan_query){.path = path}) == 5, "and comes later: %u", count_rows(tracker, (struct fdspan_query){.path = path}));
	for (int i = 0; i < 5; i++)
		close(fds[i]);
	fdspan_close(tracker);
}

/* While no snapshot can be read, a host that keeps to the timeouts is not kept busy. */
static void check_pause_of_failures(void)
{
	int32_t self = getpid();
	struct fdspan_options options = options_for(&self, 1);
	struct fdspan_tracker *tracker;
	struct rlimit limit;
	unsigned calls = 0, failed = 0;
	uint64_t at_ns = 0, until_ns;

	options.resync_interval_ns = 50000000;
	options.on_log = NULL;
	tracker = open_tracker(&options);
	limit = leave_no_descriptor();
	until_ns = now_ns(CLOCK_MONOTONIC) + 1000000000;
	for (uint64_t now = 0; now < until_ns && calls < 100000; calls++) {
		CHECK_CODE(0, fdspan_get_timeout_ns(tracker, &at_ns));
		now = now_ns(CLOCK_MONOTONIC);
		is_readable(tracker, at_ns <= now ? 0 : at_ns - now < 1000000000 ? (int)((at_ns - now + 999999) / 1000000) : 1000);
		failed += fdspan_process(tracker, 1000) == -EMFILE;
	}
	setrlimit(RLIMIT_NOFILE, &limit);
	if (fdspan_get_backend(tracker) != FDSPAN_BACKEND_PROCFS)
		CHECK(failed >= 2 && failed <= 15 && calls < 500, "a second of failures: %u in %u calls", failed, calls);
	fdspan_close(tracker);
}

/* What was given before a snapshot failed is not taken back: the error comes with the next call, and no number is left out. */
static void check_events_before_failure(void)
{
	const char *path = path_of("before-failure");
	int32_t self = getpid();
	int fds[10], code = 0, next = 0;
	struct seen seen = {.path = path};
	struct fdspan_options options = options_for(&self, 1);
	struct fdspan_event_buffer *buffer;
	struct fdspan_tracker *tracker;
	struct rlimit limit;

	close(make(path));
	options.resync_interval_ns = 100000000;
	options.on_log = NULL;
	tracker = open_tracker(&options);
	if (fdspan_get_backend(tracker) == FDSPAN_BACKEND_PROCFS) {
		fdspan_close(tracker);
		return;
	}
	CHECK_CODE(0, fdspan_event_buffer_new(1000, &buffer));
	usleep(200000); /* a snapshot is due */
	for (int i = 0; i < 10; i++)
		fds[i] = open(path, O_RDONLY | O_CLOEXEC);
	limit = leave_no_descriptor();
	for (int i = 0; i < 100 && code >= 0; i++) {
		CHECK(code == 0 || is_readable(tracker, 0), "an error is to come");
		code = fdspan_read_events(tracker, buffer);
		CHECK(fdspan_event_buffer_count(buffer) == (code > 0 ? (size_t)code : 0), "%d, but %zu in the buffer", code, fdspan_event_buffer_count(buffer));
		for (int n = 0; n < code; n++)
			note(&seen, fdspan_event_buffer_get(buffer, (size_t)n));
	}
	next = fdspan_read_events(tracker, buffer);
	setrlimit(RLIMIT_NOFILE, &limit);
	CHECK(code == -EMFILE && next >= 0, "the error comes once: %d, %d", code, next);
	for (int i = 0; i < 10; i++)
		close(fds[i]);
	for (int i = 0; i < 500 && seen.closed < 10; i++) {
		is_readable(tracker, 10);
		code = fdspan_read_events(tracker, buffer);
		for (int n = 0; n < code; n++)
			note(&seen, fdspan_event_buffer_get(buffer, (size_t)n));
	}
	CHECK(seen.opened == 10 && seen.closed == 10 && !seen.gap, "every event: %u, %u", seen.opened, seen.closed);
	fdspan_event_buffer_free(buffer);
	fdspan_close(tracker);
}

/* A profiler's timer, and hardly a descriptor left. */
static void part_cramped(void)
{
	const char *path = path_of("cramped");
	int32_t self = getpid();
	struct seen seen = {.path = path};
	struct fdspan_options options = options_for(&self, 1);
	struct fdspan_capabilities machine = {.size = sizeof(machine)};
	struct fdspan_tracker *tracker;
	struct sigaction tick = {.sa_handler = handler};
	struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
	struct rlimit limit, few;

	CHECK_CODE(0, fdspan_probe(&machine, NULL, NULL));
	options.on_event = on_event;
	options.event_context = &seen;
	sigaction(SIGALRM, &tick, NULL); /* without SA_RESTART */
	setitimer(ITIMER_REAL, &often, NULL);
	tracker = open_tracker(&options);
	CHECK(backend == FDSPAN_BACKEND_PROCFS || fdspan_get_backend(tracker) == (int)machine.chosen, "the best backend, in spite of signals: %d", fdspan_get_backend(tracker));
	int fd = make(path);

	run_until(tracker, &seen.opened, 1);
	CHECK_CODE(0, fdspan_resync(tracker));
	CHECK(seen.opened == 1 && count_rows(tracker, (struct fdspan_query){.path = path}) == 1, "an event and a row: %u", seen.opened);
	setitimer(ITIMER_REAL, &never, NULL);
	fdspan_close(tracker);
	close(fd);

	getrlimit(RLIMIT_NOFILE, &limit);
	options.on_event = NULL;
	options.on_log = NULL;
	unsigned before = open_descriptors();
	int refused = 0;

	for (rlim_t room = 0; room < 90; room += 3) {
		few = limit;
		few.rlim_cur = before + room;
		setrlimit(RLIMIT_NOFILE, &few);
		int code = fdspan_open(&options, &tracker);

		CHECK(code == 0 || code == -EMFILE, "with room for %u descriptors: %d", (unsigned)room, code);
		refused += code != 0;
		CHECK(code != 0 || fdspan_resync(tracker) == 0, "with room for %u descriptors", (unsigned)room);
		fdspan_close(tracker);
		setrlimit(RLIMIT_NOFILE, &limit);
		CHECK(open_descriptors() == before, "with room for %u: %u descriptors, then %u", (unsigned)room, before, open_descriptors());
	}
	CHECK(refused > 0, "without any room there is no tracker");
	check_failed_correction();
	check_pause_of_failures();
	check_events_before_failure();
}

/* Nothing of a tracker stands where the host has its standard streams closed; it may put /dev/null there later, as daemons do. */
static void check_closed_streams(void)
{
	pid_t child = fork();
	int status = 0;

	if (child == 0) {
		const char *path = path_of("without-streams");
		struct seen seen = {.path = path};
		int32_t self = getpid();
		struct fdspan_options options = options_for(&self, 1);
		struct fdspan_tracker *tracker = NULL;

		close(make(path));
		options.on_log = NULL;
		options.on_event = on_event;
		options.event_context = &seen;
		for (int fd = 0; fd < 3; fd++)
			close(fd);
		if (fdspan_open(&options, &tracker) != 0)
			_exit(1);
		for (int fd = 0; fd < 3; fd++)
			if (fcntl(fd, F_GETFD) != -1)
				_exit(2);
		for (int fd = 0; fd < 3; fd++)
			if (open("/dev/null", O_RDWR) != fd)
				_exit(3);
		int fd = make(path);

		run_until(tracker, &seen.opened, 1);
		close(fd);
		run_until(tracker, &seen.closed, 1);
		fdspan_close(tracker);
		_exit(seen.opened == 1 && seen.closed == 1 ? 0 : 4);
	}
	waitpid(child, &status, 0);
	CHECK(status == 0, "a host without standard streams: %d", WEXITSTATUS(status));
}

/* The host's own things are as they were. */
static void part_guest(void)
{
	int numbers[] = {SIGCHLD, SIGPIPE, SIGALRM, SIGUSR1, SIGSEGV, SIGTERM};
	struct rlimit files, memlock, now;
	struct sigaction mine = {.sa_handler = handler}, found;
	struct fdspan_capabilities machine = {.size = sizeof(machine)};
	struct fdspan_options options = options_for(NULL, 0);
	struct fdspan_tracker *tracker;
	sigset_t mask, mask_now;

	check_closed_streams();
	options.on_log = NULL;
	setlocale(LC_ALL, "C.UTF-8");
	umask(0027);
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		sigaction(numbers[i], &mine, NULL);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR2);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	getrlimit(RLIMIT_NOFILE, &files);
	getrlimit(RLIMIT_MEMLOCK, &memlock);

	CHECK_CODE(0, fdspan_probe(&machine, NULL, NULL));
	CHECK(machine.backends & 1u << FDSPAN_BACKEND_PROCFS, "procfs works everywhere");
	tracker = open_tracker(&options);
	run(tracker, 200);
	CHECK_CODE(0, fdspan_resync(tracker));
	fdspan_close(tracker);

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		sigaction(numbers[i], NULL, &found);
		CHECK(found.sa_handler == handler, "the handler of signal %d", numbers[i]);
	}
	sigprocmask(SIG_SETMASK, NULL, &mask_now);
	CHECK(sigismember(&mask_now, SIGUSR2) == 1 && sigismember(&mask_now, SIGTERM) == 0, "the signal mask");
	CHECK(strcmp(setlocale(LC_ALL, NULL), "C.UTF-8") == 0, "the locale: %s", setlocale(LC_ALL, NULL));
	CHECK(umask(0027) == 0027, "the umask");
	getrlimit(RLIMIT_NOFILE, &now);
	CHECK(now.rlim_cur == files.rlim_cur && now.rlim_max == files.rlim_max, "the limit of descriptors");
	getrlimit(RLIMIT_MEMLOCK, &now);
	CHECK(now.rlim_cur == memlock.rlim_cur && now.rlim_max == memlock.rlim_max, "the limit of locked memory");
}

/* Opened with privileges, used without: still sees and still mends. */
static void part_dropped(void)
{
	const char *path = path_of("dropped");
	struct seen seen = {.path = path};
	struct fdspan_options options;
	struct fdspan_tracker *tracker;
	struct child child;

	close(make(path));
	child = start_child(path, 0);
	options = options_for(&child.pid, 1);
	options.on_event = on_event;
	options.event_context = &seen;
	tracker = open_tracker(&options);
	CHECK(setgid(65534) == 0 && setuid(65534) == 0, "become nobody");
	tell(child, 'o');
	run_until(tracker, &seen.closed, 1);
	CHECK(seen.opened == 1 && seen.closed == 1, "events: %u, %u", seen.opened, seen.closed);
	CHECK_CODE(0, fdspan_resync(tracker));
	CHECK(count_rows(tracker, (struct fdspan_query){.pid = child.pid}) > 0, "the index is whole after a resync");
	tell(child, 'o');
	run_until(tracker, &seen.closed, 2);
	CHECK(seen.closed == 2, "and events go on: %u", seen.closed);
	fdspan_close(tracker);
	end_child(child);
}

/* Nobody, with the capabilities that fdspan(7) names. */
static int keep_few_capabilities(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0}};
	const int few[] = {CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, 38 /* CAP_PERFMON */, 39 /* CAP_BPF */};

	for (size_t i = 0; i < sizeof(few) / sizeof(*few); i++)
		data[few[i] / 32].permitted |= 1u << few[i] % 32;
	data[0].effective = data[0].permitted, data[1].effective = data[1].permitted;
	return prctl(PR_SET_KEEPCAPS, 1) == 0 && setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0 &&
	       syscall(SYS_capset, &header, data) == 0;
}

/* A helper with few capabilities hands over what it loads; a process that may nothing uses it, after the helper has ended. */
static void part_handover(void)
{
	const char *path = path_of("handover"), *other = path_of("other");
	struct seen seen = {.path = path};
	struct fdspan_statistics figures = {.size = sizeof(figures)};
	struct fdspan_options options, mine = {.size = sizeof(mine), .on_event = on_event, .event_context = &seen, .on_log = log_to_stdout};
	struct fdspan_tracker *tracker = NULL;
	struct child child, stranger;
	int ends[2], status = 0;

	close(make(path)), close(make(other));
	child = start_child(path, 0), stranger = start_child(other, 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
	options = options_for(&child.pid, 1);
	options.poll_interval_ns = 0;
	CHECK_CODE(-EINVAL, fdspan_hand_over(NULL, ends[0]));
	options.on_event = on_event;
	CHECK_CODE(-EINVAL, fdspan_hand_over(&options, ends[0]));
	options.on_event = NULL;
	options.backend = FDSPAN_BACKEND_PROCFS;
	CHECK_CODE(-EINVAL, fdspan_hand_over(&options, ends[0]));
	options.backend = backend;
	options.on_log = NULL;
	CHECK_CODE(-ENOTSOCK, fdspan_hand_over(&options, STDOUT_FILENO));
	options.on_log = log_to_stdout;
	fflush(stdout);
	pid_t helper = fork();

	if (helper == 0)
		_exit(!keep_few_capabilities() ? 2 : fdspan_hand_over(&options, ends[0]) == 0 ? 0 : 1);
	CHECK(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0, "become nobody");
	CHECK(waitpid(helper, &status, 0) == helper && status == 0, "the helper: %#x", (unsigned)status);
	if (status != 0)
		return; /* nothing will ever come */

	mine.on_log = NULL;
	options = mine;
	options.backend = FDSPAN_BACKEND_SYSCALL;
	CHECK_CODE(-EPERM, fdspan_open(&options, &tracker));
	CHECK_CODE(-EINVAL, fdspan_adopt(&options, ends[1], &tracker));
	options.backend = FDSPAN_BACKEND_AUTO;
	options.pids = &child.pid, options.pid_count = 1;
	CHECK_CODE(-EINVAL, fdspan_adopt(&options, ends[1], &tracker));
	CHECK_CODE(-EINVAL, fdspan_adopt(NULL, ends[1], &tracker));
	CHECK_CODE(-EINVAL, fdspan_adopt(&mine, ends[1], NULL));

	mine.on_log = log_to_stdout;
	CHECK_CODE(0, fdspan_adopt(&mine, ends[1], &tracker));
	if (!tracker)
		return;
	int taken = fdspan_get_backend(tracker);

	CHECK(taken != FDSPAN_BACKEND_PROCFS && (backend == FDSPAN_BACKEND_AUTO || taken == (int)backend), "it traces, with the helper's backend: %d", taken);
	CHECK(count_rows(tracker, (struct fdspan_query){.pid = child.pid}) > 0, "what is open already is in the index, though /proc would not say it");
	CHECK(count_rows(tracker, (struct fdspan_query){.pid = stranger.pid}) == 0, "the helper's filter");
	tell(stranger, 'o'), tell(child, 'o');
	run_until(tracker, &seen.closed, 1);
	CHECK(seen.opened == 1 && seen.closed == 1, "events: %u, %u", seen.opened, seen.closed);
	CHECK_CODE(0, fdspan_resync(tracker));
	CHECK(count_rows(tracker, (struct fdspan_query){.pid = child.pid}) > 0, "the index is whole after a resync");
	CHECK_CODE(0, fdspan_get_statistics(tracker, &figures));
	CHECK(figures.records > 0 && figures.resyncs == 1 && figures.kernel_bytes > 0 && figures.description_capacity > 0 && figures.processes == 1,
	      "statistics: %" PRIu64 " records, %" PRIu64 " resyncs, %" PRIu64 " bytes", figures.records, figures.resyncs, figures.kernel_bytes);
	tell(child, 'o');
	run_until(tracker, &seen.closed, 2);
	CHECK(seen.closed == 2 && seen.lost == 0, "and events go on: %u", seen.closed);
	end_child(child);
	run_until(tracker, &seen.exits, 1);
	CHECK(seen.exits == 1, "its end: %u", seen.exits);
	fdspan_close(tracker);

	/* What is no handover. */
	mine.on_log = NULL;
	CHECK(write(ends[0], "GET / HTTP/1.1\r\nHost: localhost", 31) == 31, "write");
	CHECK_CODE(-EPROTO, fdspan_adopt(&mine, ends[1], &tracker));
	close(ends[0]), close(ends[1]);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0, "socketpair");
	CHECK_CODE(-EAGAIN, fdspan_adopt(&mine, ends[1], &tracker));
	close(ends[0]);
	CHECK_CODE(-ECONNRESET, fdspan_adopt(&mine, ends[1], &tracker));
	close(ends[1]);
	CHECK(!tracker, "nothing is handed out");
	end_child(stranger);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	snprintf(directory, sizeof(directory), "%s/contract-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
	if (!mkdtemp(directory))
		return 2;
	chmod(directory, 0755);
	for (int i = 1; i < argc; i++) {
		const char *part = argv[i];

		for (uint32_t b = 0; b <= FDSPAN_BACKEND_PROCFS; b++)
			if (strcmp(part, fdspan_backend_name(b)) == 0)
				backend = b;
		if (!strcmp(part, "misuse"))
			part_misuse();
		else if (!strcmp(part, "events"))
			part_events();
		else if (!strcmp(part, "callbacks"))
			part_callbacks();
		else if (!strcmp(part, "queries"))
			part_queries();
		else if (!strcmp(part, "filters"))
			part_filters();
		else if (!strcmp(part, "files"))
			part_files();
		else if (!strcmp(part, "places"))
			part_places();
		else if (!strcmp(part, "cgroup"))
			part_cgroup();
		else if (!strcmp(part, "fork"))
			part_fork();
		else if (!strcmp(part, "blocked"))
			part_blocked();
		else if (!strcmp(part, "memory"))
			part_memory();
		else if (!strcmp(part, "cramped"))
			part_cramped();
		else if (!strcmp(part, "guest"))
			part_guest();
		else if (!strcmp(part, "dropped"))
			part_dropped();
		else if (!strcmp(part, "handover"))
			part_handover();
		else if (!strncmp(part, "cycles=", 7))
			part_cycles(atoi(part + 7));
	}
	return failures ? 1 : 0;
}
