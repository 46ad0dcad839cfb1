/*
 * Makes descriptors in every way that Linux knows, between two readings of CLOCK_BOOTTIME, holds them, and prints one JSON
 * line for each. Whoever answers "since when is this open" is held against these lines.
 *
 * make_spans [--way NAME]... [--count N] [--busy] [--close] [--copy] [--self-check]
 * make_spans --list        each way: its name, and what the syscall backend owes ("exact" or "bounded")
 *
 * Ends its first part with {"event":"ready","pids":[...]}, then waits for a line on stdin or its end. With --copy the first
 * line makes copies (dup, fork, SCM_RIGHTS) of what is held, followed by {"event":"copied",...}, and it waits again: copies
 * of descriptions that are older than the tracing. With --close everything is closed before it ends, and the lines say when.
 * A way that this kernel or these privileges do not support is printed as {"way":...,"unsupported":"why"}.
 */
#include "truth.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/openat2.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/filter.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>

/* Values that Debian 12's headers lack or that clash between libc's and the kernel's headers. */
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#define UFFD_USER_MODE_ONLY_FLAG 1
#define NS_GET_USERNS_REQUEST _IO(0xb7, 0x1)
#define SIOCGSKNS_REQUEST 0x894C
#define PIDFD_GET_NET_NAMESPACE_REQUEST _IO(0xFF, 4) /* since 6.11 */
#define F_DUPFD_QUERY_COMMAND (1024 + 3)             /* since 6.10 */
#define SO_PASSPIDFD_OPTION 76                       /* since 6.5 */
#define SO_PEERPIDFD_OPTION 77                       /* since 6.5 */
#define SCM_PIDFD_TYPE 4
#define IORING_OP_SOCKET_CODE 45           /* since 5.19 */
#define IORING_OP_FIXED_FD_INSTALL_CODE 54 /* since 6.8 */
#define OPEN_TREE_CLONE_FLAG 1
#define FSCONFIG_CMD_CREATE_COMMAND 6
#define CLONE_PIDFD_FLAG 0x1000

struct way {
	const char *name;
	void (*make)(void);
	bool exact; /* the syscall backend can see it */
	bool cheap; /* may be repeated thousands of times: leaves nothing but counted descriptors */
};

/* A descriptor that others are copied from. */
struct source {
	int fd;
	struct bracket description;
	bool exact;
};

static const struct way *current;
static char work_dir[96];
static bool busy;

static char *path_of(const char *name)
{
	static char buffers[4][160];
	static unsigned next;
	char *const buffer = buffers[next++ % 4];
	snprintf(buffer, sizeof(buffers[0]), "%s/%s", work_dir, name);
	return buffer;
}

/* ---- records -------------------------------------------------------------------------------------------------------- */

static struct record *hold(const char *way, int fd, struct bracket opened, struct bracket description, bool exact,
			   bool description_exact)
{
	struct record *const record = new_record(way);
	record->fd = fd;
	record->opened = opened;
	record->description = description;
	record->exact = exact;
	record->description_exact = description_exact;
	atomic_store(&record->kind, record_fd);
	return record;
}

__attribute__((format(printf, 1, 2))) static void refuse(const char *format, ...)
{
	struct record *const record = new_record(current->name);
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(record->text, sizeof(record->text), format, arguments);
	va_end(arguments);
	atomic_store(&record->kind, record_unsupported);
}

/* Only these say "not here"; anything else means that the test itself is broken. */
static bool means_unsupported(int error)
{
	switch (error) {
	case ENOSYS:
	case EPERM:
	case EACCES:
	case EOPNOTSUPP:
	case ENODEV:
	case ENXIO:
	case ENOENT:
	case ENOTTY:
	case EINVAL:
	case EAFNOSUPPORT:
	case EPROTONOSUPPORT:
	case ENOPROTOOPT:
	case ESOCKTNOSUPPORT:
		return true;
	default:
		return false;
	}
}

static void refuse_errno(const char *what)
{
	const int error = errno;
	if (means_unsupported(error)) {
		refuse("%s: %s", what, strerror(error));
		return;
	}
	struct record *const record = new_record(current->name);
	snprintf(record->text, sizeof(record->text), "%s: %s", what, strerror(error));
	atomic_store(&record->kind, record_failed);
}

/* A descriptor with a description of its own. */
static bool made(int fd, const struct bracket *bracket)
{
	if (fd < 0) {
		refuse_errno("call");
		return false;
	}
	hold(current->name, fd, *bracket, *bracket, current->exact, current->exact);
	return true;
}

/* One more descriptor of a known description. */
static bool copied(int fd, const struct bracket *bracket, const struct source *source)
{
	if (fd < 0) {
		refuse_errno("call");
		return false;
	}
	/* Who did not see the descriptor come can't be sure that its description is still the one that was seen. */
	hold(current->name, fd, *bracket, source->description, current->exact, current->exact && source->exact);
	return true;
}

static int open_file(const char *name, int flags, struct bracket *bracket)
{
	begin(bracket);
	const int fd = (int)syscall(SYS_openat, AT_FDCWD, path_of(name), flags | O_CREAT, 0600);
	end(bracket);
	if (fd < 0)
		die("open a work file");
	return fd;
}

/* One source for each process; a forked child has its parent's, as a descriptor as old as the fork. */
static struct source get_source(void)
{
	static struct source source = {.fd = -1};
	if (source.fd < 0) {
		source.fd = open_file("source", O_RDWR, &source.description);
		source.exact = true;
		hold("openat", source.fd, source.description, source.description, true, true);
	}
	return source;
}

static struct source new_source(void)
{
	struct source source = {.exact = true};
	source.fd = open_file("source", O_RDWR, &source.description);
	return source;
}

static struct source new_held_source(void)
{
	const struct source source = new_source();
	hold("openat", source.fd, source.description, source.description, true, true);
	return source;
}

/* ---- holders: other processes --------------------------------------------------------------------------------------- */

static void wait_settled(uint32_t holder, pid_t child)
{
	const struct timespec tenth = {.tv_nsec = 100000000};
	while (!atomic_load(&truth->holder_settled[holder])) {
		const uint32_t now = atomic_load(&truth->settled);
		siginfo_t info = {0};
		if (atomic_load(&truth->holder_settled[holder]))
			return;
		if (child > 0 && waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child)
			return; /* it had nothing to hold */
		syscall(SYS_futex, &truth->settled, FUTEX_WAIT, now, &tenth, NULL, 0);
	}
}

static _Atomic uint32_t threads_left; /* of this process, that still hold something */

/* The end of every holder; waits for its threads and children, which would die with it. */
__attribute__((noreturn)) static void hold_and_exit(void)
{
	uint32_t left;
	hold_until_end();
	while ((left = atomic_load(&threads_left)) > 0)
		syscall(SYS_futex, &threads_left, FUTEX_WAIT, left, NULL, NULL, 0);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	_exit(0);
}

/* Runs `body` in a forked child, which then holds until the end. Returns the child's pid when it has settled. */
static pid_t holder(void (*body)(struct bracket fork_bracket))
{
	const uint32_t place = new_holder();
	struct bracket bracket;
	fflush(stdout);
	begin(&bracket);
	const pid_t pid = fork();
	if (pid == 0) {
		end(&bracket);
		own_holder = place;
		die_with_parent();
		body(bracket);
		hold_and_exit();
	}
	if (pid < 0)
		die("fork");
	wait_settled(place, pid);
	return pid;
}

/*
 * Records what a child got from its parent's table. The moment is known for all of it; but for a description that nobody saw
 * being made, nobody can exclude that it was made in the child, in a slot that was emptied unseen.
 */
static void inherit(pid_t parent, struct bracket bracket)
{
	const uint32_t count = record_count();
	for (uint32_t i = 0; i < count; i++) {
		const struct record *const old = &truth->record[i];
		if (atomic_load(&old->kind) == record_fd && old->pid == parent && old->tid == parent)
			hold(current->name, old->fd, bracket, old->description, old->description_exact, old->description_exact);
	}
}

static void exec_holder(uint32_t place)
{
	char memfd[16], holder_place[16];
	snprintf(memfd, sizeof(memfd), "%d", truth_memfd);
	snprintf(holder_place, sizeof(holder_place), "%u", place);
	char *const arguments[] = {(char *)"make_spans", (char *)"--holder", memfd, holder_place, NULL};
	execv("/proc/self/exe", arguments);
	_exit(127);
}

/* ---- opens ---------------------------------------------------------------------------------------------------------- */

__attribute__((unused)) static void no_such_call(void)
{
	refuse("this architecture has no such call");
}

static void way_open(void)
{
#ifdef SYS_open
	struct bracket bracket;
	const char *const path = path_of("file");
	begin(&bracket);
	const int fd = (int)syscall(SYS_open, path, O_RDWR);
	end(&bracket);
	made(fd, &bracket);
#else
	no_such_call();
#endif
}

static void openat_with(const char *path, int flags)
{
	struct bracket bracket;
	begin(&bracket);
	const int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600);
	end(&bracket);
	made(fd, &bracket);
}

static void way_openat(void)
{
	openat_with(path_of("file"), O_RDWR | O_CLOEXEC);
}

static void way_openat2(void)
{
	struct bracket bracket;
	const struct open_how how = {.flags = O_RDONLY};
	const char *const path = path_of("file");
	begin(&bracket);
	const int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
	end(&bracket);
	made(fd, &bracket);
}

static void way_creat(void)
{
#ifdef SYS_creat
	struct bracket bracket;
	const char *const path = path_of("created");
	begin(&bracket);
	const int fd = (int)syscall(SYS_creat, path, 0600);
	end(&bracket);
	made(fd, &bracket);
#else
	no_such_call();
#endif
}

static void way_open_by_handle_at(void)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} file = {.handle.handle_bytes = MAX_HANDLE_SZ};
	int mount_id;
	if (name_to_handle_at(AT_FDCWD, path_of("file"), &file.handle, &mount_id, 0) != 0) {
		refuse_errno("name_to_handle_at");
		return;
	}
	const int dir = open(work_dir, O_RDONLY | O_DIRECTORY);
	struct bracket bracket;
	begin(&bracket);
	const int fd = (int)syscall(SYS_open_by_handle_at, dir, &file.handle, O_RDONLY);
	end(&bracket);
	made(fd, &bracket);
	close(dir);
}

static void way_o_path(void)
{
	openat_with(path_of("file"), O_PATH);
}

static void way_o_path_symlink(void)
{
	openat_with(path_of("link"), O_PATH | O_NOFOLLOW);
}

static void way_o_tmpfile(void)
{
	openat_with(work_dir, O_TMPFILE | O_RDWR);
}

static void way_directory(void)
{
	openat_with(work_dir, O_RDONLY | O_DIRECTORY);
}

static void way_chr_device(void)
{
	openat_with("/dev/null", O_RDWR);
}

static void way_proc_file(void)
{
	openat_with("/proc/self/status", O_RDONLY);
}

static void way_fifo(void)
{
	openat_with(path_of("fifo"), O_RDWR);
}

static void *late_fifo_writer(void *unused)
{
	(void)unused;
	usleep(20000);
	close(open(path_of("fifo_late"), O_WRONLY));
	return NULL;
}

/* The call sleeps until a writer comes: the time between its start and its end is long. */
static void way_fifo_waited(void)
{
	pthread_t writer;
	const char *const path = path_of("fifo_late");
	if (pthread_create(&writer, NULL, late_fifo_writer, NULL) != 0)
		die("pthread_create");
	openat_with(path, O_RDONLY);
	pthread_join(writer, NULL);
}

static void way_magic_link_reopen(void)
{
	const struct source source = get_source();
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", source.fd);
	openat_with(path, O_RDONLY);
}

/* The number and its history stay, the file is another one. */
static void way_slot_reuse(void)
{
	const int first = open(path_of("file"), O_RDONLY);
	close(first);
	struct bracket bracket;
	begin(&bracket);
	const int fd = open("/dev/null", O_RDONLY);
	end(&bracket);
	made(fd, &bracket);
}

/* Not even the file changes: procfs can't tell these apart. */
static void way_slot_reuse_same_file(void)
{
	const char *const path = path_of("file");
	close(open(path, O_RDONLY));
	struct bracket bracket;
	begin(&bracket);
	const int fd = open(path, O_RDONLY);
	end(&bracket);
	made(fd, &bracket);
}

static void way_failed_open_before(void)
{
	struct bracket bracket;
	const char *const path = path_of("file");
	(void)!open(path_of("missing"), O_RDONLY);
	(void)!dup(-1);
	begin(&bracket);
	const int fd = open(path, O_RDONLY);
	end(&bracket);
	made(fd, &bracket);
	(void)!open(path_of("missing"), O_RDONLY);
	(void)!dup2(-1, fd); /* EBADF: fd stays what it is */
	(void)!dup3(fd, fd, 0); /* EINVAL */
}

static void way_close_range_reuse(void)
{
	const struct source source = get_source();
	const int base = fcntl(source.fd, F_DUPFD, 700);
	for (int i = 1; i < 5; i++)
		dup2(source.fd, base + i);
	if (syscall(SYS_close_range, base, base + 4, 0) != 0) {
		for (int i = 0; i < 5; i++)
			close(base + i);
		refuse_errno("close_range");
		return;
	}
	struct bracket bracket;
	begin(&bracket);
	const int fd = fcntl(source.fd, F_DUPFD, base);
	end(&bracket);
	copied(fd, &bracket, &source);
}

/* ---- copies --------------------------------------------------------------------------------------------------------- */

static int free_slot(int at_least)
{
	const int fd = fcntl(get_source().fd, F_DUPFD, at_least);
	if (fd < 0)
		die("F_DUPFD");
	close(fd);
	return fd;
}

static void way_dup(void)
{
	const struct source source = get_source();
	struct bracket bracket;
	begin(&bracket);
	const int fd = dup(source.fd);
	end(&bracket);
	copied(fd, &bracket, &source);
}

static void dup_onto(int target, bool with_dup3)
{
	const struct source source = get_source();
	struct bracket bracket;
	begin(&bracket);
	const int fd = with_dup3 ? dup3(source.fd, target, O_CLOEXEC) : dup2(source.fd, target);
	end(&bracket);
	copied(fd, &bracket, &source);
}

static void way_dup2_free(void)
{
	dup_onto(free_slot(10), false);
}

static void way_dup2_onto(void)
{
	dup_onto(open("/dev/null", O_RDONLY), false);
}

static void way_dup3_free(void)
{
	dup_onto(free_slot(10), true);
}

static void way_dup3_onto(void)
{
	dup_onto(open("/dev/null", O_RDONLY), true);
}

#define NOT_A_DUP3_FLAG O_DIRECTORY

/* Refused with EINVAL: what stands there stays what it is. */
static void way_dup3_refused(void)
{
	const struct source source = get_source();
	struct bracket bracket;
	const int fd = open_file("file", O_RDONLY, &bracket);
	(void)!dup3(source.fd, fd, NOT_A_DUP3_FLAG);
	made(fd, &bracket);
}

/* dup2 onto itself returns the descriptor and begins nothing. */
static void way_dup2_self(void)
{
	struct bracket bracket;
	const int fd = open_file("file", O_RDONLY, &bracket);
	made(dup2(fd, fd), &bracket);
}

/* Onto a descriptor of the same description: the descriptor is new, the description is not. */
static void way_dup2_onto_same(void)
{
	const struct source source = get_source();
	dup_onto(dup(source.fd), false);
}

static void fcntl_copy(int command)
{
	const struct source source = get_source();
	struct bracket bracket;
	begin(&bracket);
	const int fd = fcntl(source.fd, command, 20);
	end(&bracket);
	copied(fd, &bracket, &source);
}

static void way_f_dupfd(void)
{
	fcntl_copy(F_DUPFD);
}

static void way_f_dupfd_cloexec(void)
{
	fcntl_copy(F_DUPFD_CLOEXEC);
}

/* The first descriptor goes, the copy stays: the description is as old as ever. */
static void way_dup_outlives_first(void)
{
	const struct source source = new_source();
	struct bracket bracket;
	begin(&bracket);
	const int fd = dup(source.fd);
	end(&bracket);
	copied(fd, &bracket, &source);
	close(source.fd);
}

/* The first descriptor goes, its slot gets another file, then a copy comes back to that slot. */
static void way_dup_back_to_first_slot(void)
{
	const struct source source = new_source();
	const int keeper = dup(source.fd);
	close(source.fd);
	struct bracket bracket;
	begin(&bracket);
	const int fd = fcntl(keeper, F_DUPFD, source.fd);
	end(&bracket);
	copied(fd, &bracket, &source);
	close(keeper);
}

/* ---- pipes and sockets ---------------------------------------------------------------------------------------------- */

static void made_pair(int result, const int pair[2], const struct bracket *bracket)
{
	if (result < 0) {
		refuse_errno("call");
		return;
	}
	made(pair[0], bracket);
	made(pair[1], bracket);
}

static void way_pipe(void)
{
#ifdef SYS_pipe
	int pair[2];
	struct bracket bracket;
	begin(&bracket);
	const int result = (int)syscall(SYS_pipe, pair);
	end(&bracket);
	made_pair(result, pair, &bracket);
#else
	no_such_call();
#endif
}

static void way_pipe2(void)
{
	int pair[2];
	struct bracket bracket;
	begin(&bracket);
	const int result = pipe2(pair, O_CLOEXEC | O_NONBLOCK);
	end(&bracket);
	made_pair(result, pair, &bracket);
}

static void socket_of(int family, int type, int protocol)
{
	struct bracket bracket;
	begin(&bracket);
	const int fd = socket(family, type, protocol);
	end(&bracket);
	made(fd, &bracket);
}

static void way_socket_unix(void)
{
	socket_of(AF_UNIX, SOCK_STREAM, 0);
}

static void way_socket_inet(void)
{
	socket_of(AF_INET, SOCK_DGRAM, 0);
}

static void way_socket_netlink(void)
{
	socket_of(AF_NETLINK, SOCK_RAW, 0);
}

static void way_socketpair(void)
{
	int pair[2];
	struct bracket bracket;
	begin(&bracket);
	const int result = socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
	end(&bracket);
	made_pair(result, pair, &bracket);
}

struct listener {
	int fd;
	struct sockaddr_un address;
	socklen_t length;
};

/* On an abstract name that the kernel chooses. */
static struct listener listen_somewhere(void)
{
	struct listener listener = {.address.sun_family = AF_UNIX, .length = sizeof(listener.address)};
	listener.fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (listener.fd < 0 || bind(listener.fd, (struct sockaddr *)&listener.address, sizeof(sa_family_t)) != 0 ||
	    listen(listener.fd, 16) != 0 || getsockname(listener.fd, (struct sockaddr *)&listener.address, &listener.length) != 0)
		die("listen on a unix socket");
	return listener;
}

static int connect_to(const struct listener *listener)
{
	const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (const struct sockaddr *)&listener->address, listener->length) != 0)
		die("connect to a unix socket");
	return fd;
}

static void accept_one(bool accept4_call)
{
	const struct listener listener = listen_somewhere();
	const int client = connect_to(&listener);
	struct bracket bracket;
	begin(&bracket);
	const int fd = accept4_call ? accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC) : accept(listener.fd, NULL, NULL);
	end(&bracket);
	made(fd, &bracket);
	close(client);
	close(listener.fd);
}

static void way_accept(void)
{
	accept_one(false);
}

static void way_accept4(void)
{
	accept_one(true);
}

static void *late_client(void *listener)
{
	usleep(20000);
	close(connect_to(listener));
	return NULL;
}

static void way_accept_waited(void)
{
	struct listener listener = listen_somewhere();
	pthread_t client;
	if (pthread_create(&client, NULL, late_client, &listener) != 0)
		die("pthread_create");
	struct bracket bracket;
	begin(&bracket);
	const int fd = accept(listener.fd, NULL, NULL);
	end(&bracket);
	made(fd, &bracket);
	pthread_join(client, NULL);
	close(listener.fd);
}

static void way_so_peerpidfd(void)
{
	const struct listener listener = listen_somewhere();
	const int client = connect_to(&listener);
	int fd = -1;
	socklen_t size = sizeof(fd);
	struct bracket bracket;
	begin(&bracket);
	const int result = getsockopt(client, SOL_SOCKET, SO_PEERPIDFD_OPTION, &fd, &size);
	end(&bracket);
	made(result < 0 ? -1 : fd, &bracket);
	close(client);
	close(listener.fd);
}

/* ---- anonymous inodes ----------------------------------------------------------------------------------------------- */

#define SIMPLE_WAY(name, call)                                       \
	static void way_##name(void)                                 \
	{                                                            \
		struct bracket bracket;                              \
		begin(&bracket);                                     \
		const int fd = (int)(call);                          \
		end(&bracket);                                       \
		made(fd, &bracket);                                   \
	}

#ifdef SYS_epoll_create
SIMPLE_WAY(epoll_create, syscall(SYS_epoll_create, 1))
#else
static void way_epoll_create(void) { no_such_call(); }
#endif
#ifdef SYS_eventfd
SIMPLE_WAY(eventfd, syscall(SYS_eventfd, 0))
#else
static void way_eventfd(void) { no_such_call(); }
#endif
#ifdef SYS_inotify_init
SIMPLE_WAY(inotify_init, syscall(SYS_inotify_init))
#else
static void way_inotify_init(void) { no_such_call(); }
#endif
SIMPLE_WAY(epoll_create1, epoll_create1(EPOLL_CLOEXEC))
SIMPLE_WAY(eventfd2, syscall(SYS_eventfd2, 0, EFD_CLOEXEC))
SIMPLE_WAY(inotify_init1, inotify_init1(IN_CLOEXEC))
SIMPLE_WAY(timerfd_create, timerfd_create(CLOCK_MONOTONIC, 0))
SIMPLE_WAY(fanotify_init, syscall(SYS_fanotify_init, FAN_CLASS_NOTIF, O_RDONLY))
SIMPLE_WAY(memfd_create, syscall(SYS_memfd_create, "truth (deleted)", 0))
SIMPLE_WAY(memfd_secret, syscall(SYS_memfd_secret, 0))
SIMPLE_WAY(pidfd_open, syscall(SYS_pidfd_open, getpid(), 0))
SIMPLE_WAY(userfaultfd, syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY_FLAG))

/* The kernel's sigset_t is 8 bytes; libc's is larger. */
#define KERNEL_SIGSET_BYTES 8

static void way_signalfd(void)
{
#ifdef SYS_signalfd
	const uint64_t mask = 1u << (SIGUSR2 - 1);
	struct bracket bracket;
	begin(&bracket);
	const int fd = (int)syscall(SYS_signalfd, -1, &mask, KERNEL_SIGSET_BYTES);
	end(&bracket);
	made(fd, &bracket);
#else
	no_such_call();
#endif
}

static int signalfd4_call(int fd, uint64_t mask)
{
	return (int)syscall(SYS_signalfd4, fd, &mask, KERNEL_SIGSET_BYTES, SFD_CLOEXEC);
}

static void way_signalfd4(void)
{
	struct bracket bracket;
	begin(&bracket);
	const int fd = signalfd4_call(-1, 1u << (SIGUSR2 - 1));
	end(&bracket);
	made(fd, &bracket);
}

/* signalfd on a signalfd changes its mask and returns the same number: nothing begins. */
static void way_signalfd4_again(void)
{
	struct bracket bracket;
	begin(&bracket);
	const int fd = signalfd4_call(-1, 1u << (SIGUSR2 - 1));
	end(&bracket);
	if (made(fd, &bracket) && signalfd4_call(fd, 1u << (SIGUSR1 - 1)) != fd)
		die("signalfd4 on a signalfd");
}

static int perf_event(void)
{
	struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE,
					     .size = sizeof(attributes),
					     .config = PERF_COUNT_SW_CPU_CLOCK,
					     .disabled = 1,
					     .exclude_kernel = 1};
	return (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
}
SIMPLE_WAY(perf_event_open, perf_event())

static int bpf_call(int command, union bpf_attr *attributes)
{
	return (int)syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

static int bpf_map(void)
{
	union bpf_attr attributes = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
	return bpf_call(BPF_MAP_CREATE, &attributes);
}
SIMPLE_WAY(bpf_map_create, bpf_map())

static int bpf_program(void)
{
	static const struct bpf_insn instructions[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	union bpf_attr attributes = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
				     .insn_cnt = 2,
				     .insns = (uint64_t)(uintptr_t)instructions,
				     .license = (uint64_t)(uintptr_t) "GPL"};
	return bpf_call(BPF_PROG_LOAD, &attributes);
}
SIMPLE_WAY(bpf_prog_load, bpf_program())

static int bpf_stats(void)
{
	union bpf_attr attributes = {.enable_stats.type = BPF_STATS_RUN_TIME};
	return bpf_call(BPF_ENABLE_STATS, &attributes);
}
SIMPLE_WAY(bpf_enable_stats, bpf_stats())

/* A map has many descriptions: each descriptor got by id is one of its own. */
static void way_bpf_map_get_fd_by_id(void)
{
	const int map = bpf_map();
	if (map < 0) {
		refuse_errno("BPF_MAP_CREATE");
		return;
	}
	struct bpf_map_info info = {0};
	union bpf_attr query = {
		.info = {.bpf_fd = (uint32_t)map, .info_len = sizeof(info), .info = (uint64_t)(uintptr_t)&info}};
	if (bpf_call(BPF_OBJ_GET_INFO_BY_FD, &query) != 0) {
		refuse_errno("BPF_OBJ_GET_INFO_BY_FD");
	} else {
		union bpf_attr attributes = {.map_id = info.id};
		struct bracket bracket;
		begin(&bracket);
		const int fd = bpf_call(BPF_MAP_GET_FD_BY_ID, &attributes);
		end(&bracket);
		made(fd, &bracket);
	}
	close(map);
}

static void way_bpf_obj_get(void)
{
	char path[64];
	const int map = bpf_map();
	snprintf(path, sizeof(path), "/sys/fs/bpf/fdspan-truth-%d", getpid());
	union bpf_attr pin = {.pathname = (uint64_t)(uintptr_t)path, .bpf_fd = (uint32_t)map};
	if (map < 0 || bpf_call(BPF_OBJ_PIN, &pin) != 0) {
		refuse_errno("BPF_OBJ_PIN");
	} else {
		union bpf_attr get = {.pathname = (uint64_t)(uintptr_t)path};
		struct bracket bracket;
		begin(&bracket);
		const int fd = bpf_call(BPF_OBJ_GET, &get);
		end(&bracket);
		made(fd, &bracket);
		unlink(path);
	}
	if (map >= 0)
		close(map);
}

static void way_mq_open(void)
{
	char name[64];
	struct bracket bracket;
	snprintf(name, sizeof(name), "fdspan-truth-%d", getpid());
	begin(&bracket);
	const int fd = (int)syscall(SYS_mq_open, name, O_RDWR | O_CREAT, 0600, NULL);
	end(&bracket);
	if (made(fd, &bracket))
		syscall(SYS_mq_unlink, name);
}

static void way_landlock_create_ruleset(void)
{
	const uint64_t handled_access_fs = 1;
	struct bracket bracket;
	begin(&bracket);
	const int fd = (int)syscall(SYS_landlock_create_ruleset, &handled_access_fs, sizeof(handled_access_fs), 0);
	end(&bracket);
	made(fd, &bracket);
}

/* ---- mounts --------------------------------------------------------------------------------------------------------- */

SIMPLE_WAY(open_tree, syscall(SYS_open_tree, AT_FDCWD, work_dir, O_CLOEXEC))
SIMPLE_WAY(open_tree_clone, syscall(SYS_open_tree, AT_FDCWD, work_dir, OPEN_TREE_CLONE_FLAG))
SIMPLE_WAY(fsopen, syscall(SYS_fsopen, "tmpfs", 0))
SIMPLE_WAY(fspick, syscall(SYS_fspick, AT_FDCWD, "/", 0))

static void way_fsmount(void)
{
	const int context = (int)syscall(SYS_fsopen, "tmpfs", 0);
	if (context < 0 || syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE_COMMAND, NULL, NULL, 0) != 0) {
		refuse_errno("fsconfig");
	} else {
		struct bracket bracket;
		begin(&bracket);
		const int fd = (int)syscall(SYS_fsmount, context, 0, 0);
		end(&bracket);
		made(fd, &bracket);
	}
	if (context >= 0)
		close(context);
}

/* ---- pidfds --------------------------------------------------------------------------------------------------------- */

static void way_clone_pidfd(void)
{
	int fd = -1;
	struct bracket bracket;
	begin(&bracket);
	const pid_t pid = (pid_t)syscall(SYS_clone, CLONE_PIDFD_FLAG | SIGCHLD, 0, &fd, 0, 0);
	if (pid == 0)
		_exit(0);
	end(&bracket);
	if (pid < 0) {
		refuse_errno("clone");
		return;
	}
	made(fd, &bracket);
	waitpid(pid, NULL, 0);
}

static void way_clone3_pidfd(void)
{
	struct {
		uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	} arguments = {.flags = CLONE_PIDFD_FLAG, .exit_signal = SIGCHLD};
	int fd = -1;
	arguments.pidfd = (uint64_t)(uintptr_t)&fd;
	struct bracket bracket;
	begin(&bracket);
	const pid_t pid = (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
	if (pid == 0)
		_exit(0);
	end(&bracket);
	if (pid < 0) {
		refuse_errno("clone3");
		return;
	}
	made(fd, &bracket);
	waitpid(pid, NULL, 0);
}

static uint32_t last_of(pid_t pid)
{
	for (uint32_t i = record_count(); i > 0; i--)
		if (truth->record[i - 1].pid == pid && atomic_load(&truth->record[i - 1].kind) == record_fd)
			return i - 1;
	errno = ESRCH;
	die("a holder's record");
	return 0;
}

static void hold_one_file(struct bracket unused)
{
	(void)unused;
	new_held_source();
}

static void way_pidfd_getfd(void)
{
	const pid_t child = holder(hold_one_file);
	const struct record *const theirs = &truth->record[last_of(child)];
	const struct source source = {.fd = theirs->fd, .description = theirs->description, .exact = true};
	const int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	if (pidfd < 0) {
		refuse_errno("pidfd_open");
		return;
	}
	struct bracket bracket;
	begin(&bracket);
	const int fd = (int)syscall(SYS_pidfd_getfd, pidfd, source.fd, 0);
	end(&bracket);
	copied(fd, &bracket, &source);
	close(pidfd);
}

/* ---- io_uring ------------------------------------------------------------------------------------------------------- */

struct ring {
	int fd;
	unsigned char *rings;
	struct io_uring_sqe *entries;
	struct io_uring_params parameters;
};

static struct ring *get_ring(void)
{
	static struct ring ring = {.fd = -1};
	static pid_t owner;
	if (ring.fd >= 0 && owner == getpid())
		return &ring;
	memset(&ring, 0, sizeof(ring));
	owner = getpid();
	struct bracket bracket;
	begin(&bracket);
	ring.fd = (int)syscall(SYS_io_uring_setup, 8, &ring.parameters);
	end(&bracket);
	if (ring.fd < 0)
		return NULL;
	hold("io_uring_setup", ring.fd, bracket, bracket, true, true);
	const struct io_uring_params *const p = &ring.parameters;
	const size_t bytes = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
	ring.rings = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	ring.entries = mmap(NULL, p->sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES);
	if (ring.rings == MAP_FAILED || (void *)ring.entries == MAP_FAILED)
		die("map an io_uring");
	return &ring;
}

/* Submits one request and waits for its completion, whose result or -1 with errno it returns. */
static int ring_do(struct ring *ring, const struct io_uring_sqe *entry)
{
	const struct io_uring_params *const p = &ring->parameters;
	_Atomic uint32_t *const sq_tail = (_Atomic uint32_t *)(ring->rings + p->sq_off.tail);
	uint32_t *const sq_array = (uint32_t *)(ring->rings + p->sq_off.array);
	_Atomic uint32_t *const cq_head = (_Atomic uint32_t *)(ring->rings + p->cq_off.head);
	_Atomic uint32_t *const cq_tail = (_Atomic uint32_t *)(ring->rings + p->cq_off.tail);
	const struct io_uring_cqe *const completions = (const struct io_uring_cqe *)(ring->rings + p->cq_off.cqes);
	const uint32_t tail = atomic_load(sq_tail);
	const uint32_t index = tail & (p->sq_entries - 1);
	ring->entries[index] = *entry;
	sq_array[index] = index;
	atomic_store(sq_tail, tail + 1);
	if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
		return -1;
	while (atomic_load(cq_tail) == atomic_load(cq_head))
		syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	const uint32_t head = atomic_load(cq_head);
	const int result = completions[head & (p->cq_entries - 1)].res;
	atomic_store(cq_head, head + 1);
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

static void ring_made(const struct io_uring_sqe *entry)
{
	struct ring *const ring = get_ring();
	if (!ring) {
		refuse_errno("io_uring_setup");
		return;
	}
	struct bracket bracket;
	begin(&bracket);
	const int fd = ring_do(ring, entry);
	end(&bracket);
	made(fd, &bracket);
}

static bool ring_close(int fd)
{
	struct ring *const ring = get_ring();
	if (!ring) {
		refuse_errno("io_uring_setup");
		return false;
	}
	const struct io_uring_sqe entry = {.opcode = IORING_OP_CLOSE, .fd = fd};
	if (ring_do(ring, &entry) < 0) {
		refuse_errno("IORING_OP_CLOSE");
		return false;
	}
	return true;
}

/* The ring that the other ways share is announced as this way. */
static void way_io_uring_setup(void)
{
	struct io_uring_params parameters = {0};
	struct bracket bracket;
	begin(&bracket);
	const int fd = (int)syscall(SYS_io_uring_setup, 4, &parameters);
	end(&bracket);
	made(fd, &bracket);
}

static struct io_uring_sqe openat_entry(uint8_t flags)
{
	return (struct io_uring_sqe){.opcode = IORING_OP_OPENAT,
				     .flags = flags,
				     .fd = AT_FDCWD,
				     .addr = (uint64_t)(uintptr_t)path_of("file"),
				     .open_flags = O_RDONLY};
}

static void way_io_uring_openat(void)
{
	const struct io_uring_sqe entry = openat_entry(0);
	ring_made(&entry);
}

/* A kernel worker thread opens it. */
static void way_io_uring_openat_async(void)
{
	const struct io_uring_sqe entry = openat_entry(IOSQE_ASYNC);
	ring_made(&entry);
}

static void way_io_uring_accept(void)
{
	const struct listener listener = listen_somewhere();
	const int client = connect_to(&listener);
	const struct io_uring_sqe entry = {.opcode = IORING_OP_ACCEPT, .fd = listener.fd};
	ring_made(&entry);
	close(client);
	close(listener.fd);
}

static void way_io_uring_socket(void)
{
	const struct io_uring_sqe entry = {.opcode = IORING_OP_SOCKET_CODE, .fd = AF_UNIX, .off = SOCK_STREAM};
	ring_made(&entry);
}

/* Opened into the ring's own table, where no process has a descriptor of it; the descriptor comes later. */
static void way_io_uring_fixed_install(void)
{
	struct ring *const ring = get_ring();
	if (!ring) {
		refuse_errno("io_uring_setup");
		return;
	}
	int none[4] = {-1, -1, -1, -1};
	if (syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_FILES, none, 4) < 0 && errno != EBUSY) {
		refuse_errno("IORING_REGISTER_FILES");
		return;
	}
	struct source source = {.exact = false};
	struct io_uring_sqe open_entry = openat_entry(0);
	open_entry.file_index = 1; /* the first slot; 0 means an ordinary descriptor */
	begin(&source.description);
	const int opened = ring_do(ring, &open_entry);
	end(&source.description);
	if (opened < 0) {
		refuse_errno("IORING_OP_OPENAT into a fixed slot");
		return;
	}
	usleep(2000);
	const struct io_uring_sqe install = {
		.opcode = IORING_OP_FIXED_FD_INSTALL_CODE, .flags = IOSQE_FIXED_FILE, .fd = 0};
	struct bracket bracket;
	begin(&bracket);
	const int fd = ring_do(ring, &install);
	end(&bracket);
	copied(fd, &bracket, &source);
}

/* ---- made by ioctl and by read -------------------------------------------------------------------------------------- */

static void way_ioctl_tiocgptpeer(void)
{
	const int master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	int unlocked = 0;
	if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked) != 0) {
		refuse_errno("/dev/ptmx");
	} else {
		struct bracket bracket;
		begin(&bracket);
		const int fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
		end(&bracket);
		made(fd, &bracket);
	}
	if (master >= 0)
		close(master);
}

static int ioctl_on(const char *path, unsigned long request, struct bracket *bracket)
{
	const int on = open(path, O_RDONLY);
	if (on < 0)
		return -1;
	begin(bracket);
	const int fd = ioctl(on, request, 0);
	end(bracket);
	const int saved = errno;
	close(on);
	errno = saved;
	return fd;
}

static void way_ioctl_ns_get_userns(void)
{
	struct bracket bracket = {0};
	made(ioctl_on("/proc/self/ns/net", NS_GET_USERNS_REQUEST, &bracket), &bracket);
}

static void way_ioctl_userfaultfd(void)
{
	struct bracket bracket = {0};
	made(ioctl_on("/dev/userfaultfd", USERFAULTFD_IOC_NEW, &bracket), &bracket);
}

static int net_namespace_of_socket(int on, struct bracket *bracket)
{
	begin(bracket);
	const int fd = ioctl(on, SIOCGSKNS_REQUEST);
	end(bracket);
	return fd;
}

static void way_ioctl_siocgskns(void)
{
	const int on = socket(AF_UNIX, SOCK_STREAM, 0);
	struct bracket bracket;
	made(net_namespace_of_socket(on, &bracket), &bracket);
	close(on);
}

static void way_ioctl_pidfd_namespace(void)
{
	const int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	struct bracket bracket;
	begin(&bracket);
	const int fd = ioctl(pidfd, PIDFD_GET_NET_NAMESPACE_REQUEST, 0);
	end(&bracket);
	made(fd, &bracket);
	if (pidfd >= 0)
		close(pidfd);
}

/* read(2) on a fanotify descriptor opens the file of the event for the reader. */
static void way_fanotify_event(void)
{
	const int watch = (int)syscall(SYS_fanotify_init, FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY);
	if (watch < 0 || fanotify_mark(watch, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, path_of("watched")) != 0) {
		refuse_errno("fanotify");
		if (watch >= 0)
			close(watch);
		return;
	}
	close(open(path_of("watched"), O_RDONLY));
	struct fanotify_event_metadata event = {.fd = -1};
	struct bracket bracket;
	begin(&bracket);
	const ssize_t got = read(watch, &event, sizeof(event));
	end(&bracket);
	made(got == (ssize_t)sizeof(event) ? event.fd : -1, &bracket);
	close(watch);
}

/* ---- descriptors in messages ---------------------------------------------------------------------------------------- */

#define SCM_MOST 253 /* SCM_MAX_FD */

struct control {
	_Alignas(struct cmsghdr) char room[CMSG_SPACE(sizeof(int) * SCM_MOST) + 256];
};

/* Sends `count` copies of `fd`, as `messages` control messages of one message. */
static bool send_fds(int to, const int *fds, int count, int messages)
{
	struct control control = {0};
	char byte = 'x';
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
	struct cmsghdr *at = CMSG_FIRSTHDR(&message);
	size_t used = 0;
	for (int i = 0; i < messages; i++) {
		const int first = count * i / messages;
		const size_t bytes = sizeof(int) * (size_t)(count * (i + 1) / messages - first);
		at->cmsg_level = SOL_SOCKET;
		at->cmsg_type = SCM_RIGHTS;
		at->cmsg_len = CMSG_LEN(bytes);
		memcpy(CMSG_DATA(at), fds + first, bytes);
		used += CMSG_SPACE(bytes);
		if (i + 1 < messages)
			at = CMSG_NXTHDR(&message, at);
	}
	message.msg_controllen = used;
	return sendmsg(to, &message, 0) == 1;
}

/* The numbers of the descriptors that came with the message; returns how many. */
static int received_fds(struct msghdr *message, int *fds)
{
	int count = 0;
	for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
		if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
			continue;
		const int here = (int)((at->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds + count, CMSG_DATA(at), sizeof(int) * (size_t)here);
		count += here;
	}
	return count;
}

static int receive_fds(int from, int flags, size_t control_bytes, int *fds)
{
	struct control control;
	char byte;
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = control_bytes};
	if (recvmsg(from, &message, flags) < 0)
		return -1;
	return received_fds(&message, fds);
}

struct scm {
	int send;
	int receive;
	struct bracket *sent; /* shared with the sender: brackets of the opens */
};

static struct scm scm_begin(void)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) != 0)
		die("socketpair");
	struct bracket *const sent =
		mmap(NULL, sizeof(struct bracket) * SCM_MOST, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sent == MAP_FAILED)
		die("mmap");
	return (struct scm){.send = pair[0], .receive = pair[1], .sent = sent};
}

static void scm_end(const struct scm *scm)
{
	munmap(scm->sent, sizeof(struct bracket) * SCM_MOST);
	close(scm->send);
	close(scm->receive);
}

/* A process opens `count` files, sends them and is gone, before the receiver takes them: only the message holds them. */
static void scm_send_from_child(const struct scm *scm, int count, int messages, int repeat)
{
	const pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		int fds[SCM_MOST];
		for (int m = 0; m < repeat; m++) {
			for (int i = 0; i < count; i++)
				fds[i] = open_file("source", O_RDWR, &scm->sent[m * count + i]);
			if (!send_fds(scm->send, fds, count, messages))
				die("sendmsg");
			for (int i = 0; i < count; i++)
				close(fds[i]);
		}
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	usleep(1000); /* the sender's own references go at its exit, maybe a moment later */
}

static void scm_received(const struct scm *scm, const int *fds, int count, int expected, struct bracket bracket)
{
	if (count != expected) {
		errno = count < 0 ? errno : EBADMSG;
		refuse_errno("recvmsg");
		return;
	}
	for (int i = 0; i < count; i++) {
		const struct source source = {.description = scm->sent[i], .exact = true};
		copied(fds[i], &bracket, &source);
	}
}

static void scm_plain(int count, int messages, int flags, size_t control_bytes, int expected)
{
	const struct scm scm = scm_begin();
	int fds[SCM_MOST];
	struct bracket bracket;
	scm_send_from_child(&scm, count, messages, 1);
	begin(&bracket);
	const int got = receive_fds(scm.receive, flags, control_bytes, fds);
	end(&bracket);
	scm_received(&scm, fds, got, expected, bracket);
	scm_end(&scm);
}

static void way_scm_one(void)
{
	scm_plain(1, 1, 0, sizeof(struct control), 1);
}

static void way_scm_many(void)
{
	scm_plain(10, 1, MSG_CMSG_CLOEXEC, sizeof(struct control), 10);
}

static void way_scm_most(void)
{
	scm_plain(SCM_MOST, 1, 0, sizeof(struct control), SCM_MOST);
}

static void way_scm_many_control_messages(void)
{
	scm_plain(9, 3, 0, sizeof(struct control), 9);
}

/* The control buffer has room for two of three: the third never gets a number. */
static void way_scm_truncated(void)
{
	scm_plain(3, 1, 0, CMSG_LEN(sizeof(int) * 2), 2);
}

/* A process that sends to itself: sender and receiver share one table, and the source is still open. */
static void way_scm_self(void)
{
	const struct source source = get_source();
	const struct scm scm = scm_begin();
	int fd = -1;
	struct bracket bracket;
	if (!send_fds(scm.send, &source.fd, 1, 1))
		die("sendmsg");
	begin(&bracket);
	const int got = receive_fds(scm.receive, 0, sizeof(struct control), &fd);
	end(&bracket);
	copied(got == 1 ? fd : -1, &bracket, &source);
	scm_end(&scm);
}

/* A peek makes descriptors too, and the receive after it makes them again. */
static void way_scm_peek(void)
{
	const struct scm scm = scm_begin();
	int fds[SCM_MOST];
	struct bracket bracket;
	scm_send_from_child(&scm, 2, 1, 1);
	begin(&bracket);
	int got = receive_fds(scm.receive, MSG_PEEK, sizeof(struct control), fds);
	end(&bracket);
	scm_received(&scm, fds, got, 2, bracket);
	begin(&bracket);
	got = receive_fds(scm.receive, 0, sizeof(struct control), fds);
	end(&bracket);
	scm_received(&scm, fds, got, 2, bracket);
	scm_end(&scm);
}

/* Credentials stand before the descriptors in the control buffer. */
static void way_scm_with_credentials(void)
{
	const struct scm scm = scm_begin();
	const int on = 1;
	int fds[SCM_MOST];
	struct bracket bracket;
	setsockopt(scm.receive, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
	scm_send_from_child(&scm, 2, 1, 1);
	begin(&bracket);
	const int got = receive_fds(scm.receive, 0, sizeof(struct control), fds);
	end(&bracket);
	scm_received(&scm, fds, got, 2, bracket);
	scm_end(&scm);
}

/* The kernel makes a pidfd of the sender for the receiver. */
static void way_scm_pidfd(void)
{
	const struct scm scm = scm_begin();
	const int on = 1;
	if (setsockopt(scm.receive, SOL_SOCKET, SO_PASSPIDFD_OPTION, &on, sizeof(on)) != 0) {
		refuse_errno("SO_PASSPIDFD");
		scm_end(&scm);
		return;
	}
	struct control control;
	char byte = 'x';
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
	if (send(scm.send, &byte, 1, 0) != 1)
		die("send");
	struct bracket bracket;
	begin(&bracket);
	const ssize_t got = recvmsg(scm.receive, &message, 0);
	end(&bracket);
	int fd = -1;
	for (struct cmsghdr *at = got < 0 ? NULL : CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at))
		if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SCM_PIDFD_TYPE)
			memcpy(&fd, CMSG_DATA(at), sizeof(fd));
	made(fd, &bracket);
	scm_end(&scm);
}

static void way_scm_recvmmsg(void)
{
	enum { messages = 3, each = 2 };
	const struct scm scm = scm_begin();
	static struct control control[messages];
	struct mmsghdr headers[messages];
	struct iovec data[messages];
	char bytes[messages];
	scm_send_from_child(&scm, each, 1, messages);
	for (int i = 0; i < messages; i++) {
		data[i] = (struct iovec){.iov_base = &bytes[i], .iov_len = 1};
		headers[i].msg_hdr = (struct msghdr){.msg_iov = &data[i],
						     .msg_iovlen = 1,
						     .msg_control = control[i].room,
						     .msg_controllen = sizeof(control[i].room)};
	}
	struct bracket bracket;
	begin(&bracket);
	const int got = recvmmsg(scm.receive, headers, messages, 0, NULL);
	end(&bracket);
	int fds[messages * each * 2];
	int count = 0;
	for (int i = 0; i < got; i++)
		count += received_fds(&headers[i].msg_hdr, fds + count);
	scm_received(&scm, fds, got < 0 ? -1 : count, messages * each, bracket);
	scm_end(&scm);
}

static void way_scm_io_uring(void)
{
	struct ring *const ring = get_ring();
	if (!ring) {
		refuse_errno("io_uring_setup");
		return;
	}
	const struct scm scm = scm_begin();
	static struct control control;
	char byte;
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
	scm_send_from_child(&scm, 2, 1, 1);
	const struct io_uring_sqe entry = {
		.opcode = IORING_OP_RECVMSG, .fd = scm.receive, .addr = (uint64_t)(uintptr_t)&message, .len = 1};
	int fds[SCM_MOST];
	struct bracket bracket;
	begin(&bracket);
	const int got = ring_do(ring, &entry);
	end(&bracket);
	scm_received(&scm, fds, got < 0 ? -1 : received_fds(&message, fds), 2, bracket);
	scm_end(&scm);
}

/* ---- seccomp -------------------------------------------------------------------------------------------------------- */

struct seccomp_work {
	bool inject;
	int listener;
	struct bracket bracket;
	int error;
	_Atomic uint32_t installed;
};

/* Every call passes, but getpgid(0x5eccc0) asks the listener. */
static void *install_listener(void *argument)
{
	struct seccomp_work *const work = argument;
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgid, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x5eccc0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	begin(&work->bracket);
	work->listener = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	end(&work->bracket);
	work->error = errno;
	atomic_store(&work->installed, 1);
	futex_wake(&work->installed);
	if (work->listener >= 0 && work->inject)
		syscall(SYS_getpgid, 0x5eccc0);
	return NULL;
}

static void seccomp_in_child(bool inject)
{
	static struct seccomp_work work;
	pthread_t thread;
	work.inject = inject;
	const struct source source = new_source();
	if (pthread_create(&thread, NULL, install_listener, &work) != 0)
		die("pthread_create");
	while (atomic_load(&work.installed) == 0)
		syscall(SYS_futex, &work.installed, FUTEX_WAIT, 0, NULL, NULL, 0);
	if (work.listener < 0) {
		errno = work.error;
		refuse_errno("seccomp");
	} else if (inject) {
		struct seccomp_notif request = {0};
		if (ioctl(work.listener, SECCOMP_IOCTL_NOTIF_RECV, &request) != 0)
			die("SECCOMP_IOCTL_NOTIF_RECV");
		struct seccomp_notif_addfd add = {.id = request.id, .srcfd = (uint32_t)source.fd};
		struct bracket bracket;
		begin(&bracket);
		const int fd = ioctl(work.listener, SECCOMP_IOCTL_NOTIF_ADDFD, &add);
		end(&bracket);
		copied(fd, &bracket, &source);
		struct seccomp_notif_resp response = {.id = request.id};
		ioctl(work.listener, SECCOMP_IOCTL_NOTIF_SEND, &response);
	} else {
		made(work.listener, &work.bracket);
	}
	pthread_join(thread, NULL);
}

static void seccomp_listener_body(struct bracket unused)
{
	(void)unused;
	seccomp_in_child(false);
}

static void seccomp_addfd_body(struct bracket unused)
{
	(void)unused;
	seccomp_in_child(true);
}

static void way_seccomp_new_listener(void)
{
	holder(seccomp_listener_body);
}

/* A supervisor puts a descriptor into the table of the task that it supervises. */
static void way_seccomp_addfd(void)
{
	holder(seccomp_addfd_body);
}

/* ---- calls that return a number which is no descriptor -------------------------------------------------------------- */

/*
 * A child whose descriptors 0 to 15 are known, because small numbers are what the calls below return: a version, a flag, a
 * zero. Whoever takes a result for a descriptor moves the time of one of them.
 */
static void not_a_descriptor_body(struct bracket unused)
{
	(void)unused;
	for (int fd = 0; fd < 16; fd++) {
		if (fd == truth_memfd)
			continue;
		struct source source = new_source();
		struct bracket bracket;
		if (source.fd == fd) {
			bracket = source.description;
		} else {
			begin(&bracket);
			if (dup2(source.fd, fd) != fd)
				die("dup2");
			end(&bracket);
			close(source.fd);
		}
		hold(current->name, fd, bracket, source.description, true, true);
	}
	fcntl(0, F_SETFD, FD_CLOEXEC);
	(void)!fcntl(0, F_GETFD);          /* 1 */
	(void)!fcntl(1, F_GETFD);          /* 0 */
	(void)!fcntl(1, F_GETFL);          /* flags */
	(void)!fcntl(1, F_GETLEASE);       /* 2 */
	(void)!fcntl(0, F_DUPFD_QUERY_COMMAND, 0); /* 1 */
	(void)!fcntl(0, F_SETFD, 0);
	syscall(SYS_landlock_create_ruleset, NULL, 0, 1u /* LANDLOCK_CREATE_RULESET_VERSION */);
	const int map = bpf_map();
	if (map >= 0) {
		const uint32_t key = 0;
		const uint64_t value = 7;
		union bpf_attr update = {.map_fd = (uint32_t)map,
					 .key = (uint64_t)(uintptr_t)&key,
					 .value = (uint64_t)(uintptr_t)&value};
		bpf_call(BPF_MAP_UPDATE_ELEM, &update); /* 0 */
		union bpf_attr next = {0};
		bpf_call(BPF_MAP_GET_NEXT_ID, &next); /* 0 */
		close(map);
	}
	syscall(SYS_close_range, 900, 1000, 0);
	struct iovec empty = {0};
	struct msghdr message = {.msg_iov = &empty, .msg_iovlen = 0};
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0) {
		char five[5] = "12345";
		(void)!write(pair[0], five, sizeof(five));
		struct iovec data = {.iov_base = five, .iov_len = sizeof(five)};
		struct msghdr plain = {.msg_iov = &data, .msg_iovlen = 1};
		(void)!recvmsg(pair[1], &plain, 0); /* 5 */
		(void)!recvmsg(pair[1], &message, MSG_DONTWAIT); /* EAGAIN */
		close(pair[0]);
		close(pair[1]);
	}
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	const struct sock_fprog program = {.len = 1, .filter = &allow};
	syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program); /* 0 */
	syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &(uint32_t){SECCOMP_RET_ALLOW});
}

static void way_not_a_descriptor(void)
{
	holder(not_a_descriptor_body);
}

/* ---- processes ------------------------------------------------------------------------------------------------------ */

static pid_t main_pid;

static void inherit_body(struct bracket bracket)
{
	inherit(main_pid, bracket);
}

static void way_fork(void)
{
	get_source();
	holder(inherit_body);
}

static void inherit_refusing_body(struct bracket bracket)
{
	const struct source source = get_source();
	for (int fd = 0; fd < 256; fd++)
		(void)!dup3(source.fd, fd, NOT_A_DUP3_FLAG);
	inherit(main_pid, bracket);
}

static void way_fork_dup3_refused(void)
{
	get_source();
	holder(inherit_refusing_body);
}

static void inherit_and_open_body(struct bracket bracket)
{
	inherit(main_pid, bracket);
	new_held_source();
	way_dup();
}

/* A child that goes on opening, and a grandchild that has both generations. */
static void grandchild_body(struct bracket bracket)
{
	inherit(getppid(), bracket);
}

static void fork_twice_body(struct bracket bracket)
{
	inherit_and_open_body(bracket);
	holder(grandchild_body);
}

static void way_fork_of_fork(void)
{
	get_source();
	holder(fork_twice_body);
}

/* The child closes and reopens a slot that it inherited. */
static void fork_reuse_body(struct bracket unused)
{
	(void)unused;
	const struct source source = get_source();
	close(source.fd);
	struct bracket bracket;
	begin(&bracket);
	const int fd = open(path_of("file"), O_RDONLY);
	end(&bracket);
	made(fd, &bracket);
}

static void way_fork_slot_reuse(void)
{
	get_source();
	holder(fork_reuse_body);
}

static void way_fork_syscall(void)
{
#ifdef SYS_fork
	get_source();
	const uint32_t place = new_holder();
	struct bracket bracket;
	begin(&bracket);
	const pid_t pid = (pid_t)syscall(SYS_fork);
	if (pid == 0) {
		end(&bracket);
		own_holder = place;
		die_with_parent();
		inherit(main_pid, bracket);
		hold_and_exit();
	}
	if (pid < 0)
		refuse_errno("fork");
	else
		wait_settled(place, pid);
#else
	no_such_call();
#endif
}

/* What a program started by `bracket` holds: those of its parent's descriptors that survive exec. */
static void inherit_over_exec(pid_t child, struct bracket bracket)
{
	const uint32_t count = record_count();
	for (uint32_t i = 0; i < count; i++) {
		const struct record *const old = &truth->record[i];
		if (atomic_load(&old->kind) != record_fd || old->pid != getpid() || old->tid != old->pid)
			continue;
		const int flags = fcntl(old->fd, F_GETFD);
		if (flags < 0 || (flags & FD_CLOEXEC))
			continue;
		struct record *const record = hold(current->name, old->fd, bracket, old->description, old->description_exact,
						   old->description_exact);
		record->pid = child;
		record->tid = child;
	}
}

static void way_vfork_exec(void)
{
	get_source();
	const uint32_t place = new_holder();
	volatile uint64_t after_ns = 0;
	struct bracket bracket;
	begin(&bracket);
	const pid_t pid = vfork();
	if (pid == 0) {
		after_ns = boottime_ns();
		exec_holder(place);
	}
	if (pid < 0) {
		refuse_errno("vfork");
		return;
	}
	bracket.after_ns = after_ns;
	wait_settled(place, pid);
	inherit_over_exec(pid, bracket);
}

static void way_posix_spawn(void)
{
	get_source();
	const uint32_t place = new_holder();
	char memfd[16], holder_place[16];
	snprintf(memfd, sizeof(memfd), "%d", truth_memfd);
	snprintf(holder_place, sizeof(holder_place), "%u", place);
	char *const arguments[] = {(char *)"make_spans", (char *)"--holder", memfd, holder_place, NULL};
	extern char **environ;
	pid_t pid;
	struct bracket bracket;
	begin(&bracket);
	const int error = posix_spawn(&pid, "/proc/self/exe", NULL, NULL, arguments, environ);
	end(&bracket);
	if (error != 0) {
		errno = error;
		refuse_errno("posix_spawn");
		return;
	}
	wait_settled(place, pid);
	inherit_over_exec(pid, bracket);
}

/* One process opens and then becomes another program: what is not close-on-exec keeps its times. */
static void exec_survivor_body(struct bracket fork_bracket)
{
	const struct source source = get_source();
	hold(current->name, source.fd, fork_bracket, source.description, true, true);
	struct bracket bracket;
	open_file("file", O_RDWR | O_CLOEXEC, &bracket); /* does not survive, so nobody may report it */
	const int own = open_file("file", O_RDWR, &bracket);
	made(own, &bracket);
	begin(&bracket);
	const int copy = dup(source.fd);
	end(&bracket);
	copied(copy, &bracket, &source);
	exec_holder(own_holder);
}

static void way_exec_survivors(void)
{
	get_source();
	holder(exec_survivor_body);
}

static void *exec_from_thread(void *unused)
{
	(void)unused;
	exec_holder(own_holder);
	return NULL;
}

/* A thread that execs takes the process over: the other threads die, the descriptors stay. */
static void exec_thread_body(struct bracket unused)
{
	(void)unused;
	struct bracket bracket;
	made(open_file("file", O_RDWR, &bracket), &bracket);
	pthread_t thread;
	if (pthread_create(&thread, NULL, exec_from_thread, NULL) != 0)
		die("pthread_create");
	pause();
}

static void way_exec_from_thread(void)
{
	holder(exec_thread_body);
}

/* ---- shared and unshared tables ------------------------------------------------------------------------------------- */

/* A process of its own that shares the caller's descriptor table. */
static pid_t clone_files(void)
{
	return (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
}

static struct record *also_held_by(pid_t pid, const struct record *record, uint64_t joined_ns)
{
	struct record *const other =
		hold(record->way, record->fd, record->opened, record->description, record->exact, record->description_exact);
	other->pid = pid;
	other->tid = pid;
	other->joined_ns = joined_ns;
	return other;
}

static struct record *hold_new_file(void)
{
	struct bracket bracket;
	const int fd = open_file("file", O_RDWR, &bracket);
	return hold(current->name, fd, bracket, bracket, true, true);
}

static void clone_files_body(struct bracket fork_bracket)
{
	const struct source source = get_source();
	const pid_t older_pid = getpid();
	struct record *const inherited =
		hold(current->name, source.fd, fork_bracket, source.description, true, true);
	const struct record *const older = hold_new_file();
	const uint32_t place = new_holder();
	const pid_t pid = clone_files();
	if (pid < 0) {
		refuse_errno("clone");
		return;
	}
	if (pid == 0) {
		const uint64_t joined_ns = boottime_ns();
		own_holder = place;
		die_with_parent();
		/* By the table these are older than the process; by the process they began with it. */
		also_held_by(getpid(), inherited, joined_ns);
		also_held_by(getpid(), older, joined_ns);
		also_held_by(older_pid, hold_new_file(), 0);
		hold_and_exit();
	}
	wait_settled(place, pid);
	also_held_by(pid, hold_new_file(), 0);
}

static void way_clone_files(void)
{
	get_source();
	holder(clone_files_body);
}

static uint32_t orphan_place;

/* The process that made the table goes; one that shares it keeps it. */
static void clone_files_orphan_body(struct bracket unused)
{
	(void)unused;
	const int seen = (int)getpid();
	const struct record *const older = hold_new_file();
	struct record *const given_up = (struct record *)older;
	const pid_t pid = clone_files();
	if (pid < 0) {
		refuse_errno("clone");
		atomic_store(&truth->holder_settled[orphan_place], true);
		return;
	}
	if (pid == 0) {
		const uint64_t joined_ns = boottime_ns();
		own_holder = orphan_place;
		while (getppid() == seen)
			usleep(1000);
		/*
		 * The new parent shows before the old one looks whom its death kills, both under tasklist_lock, which this takes
		 * (kernel/exit.c, forget_original_parent and __do_wait).
		 */
		siginfo_t nobody;
		waitid(P_ALL, 0, &nobody, WEXITED | WNOHANG);
		die_with_parent(); /* the subreaper now */
		atomic_store(&given_up->kind, 0);
		also_held_by(getpid(), older, joined_ns);
		hold_new_file();
		hold_and_exit();
	}
	_exit(0);
}

static void way_clone_files_orphan(void)
{
	orphan_place = new_holder();
	holder(clone_files_orphan_body);
	wait_settled(orphan_place, 0);
}

/* Exec gives a task that shares its table a copy: a table that begins then. */
static void clone_files_exec_body(struct bracket unused)
{
	(void)unused;
	const struct record *const older = hold_new_file();
	const uint32_t place = new_holder();
	const pid_t pid = clone_files();
	if (pid < 0) {
		refuse_errno("clone");
		return;
	}
	if (pid == 0) {
		const uint64_t joined_ns = boottime_ns();
		own_holder = place;
		die_with_parent();
		struct record *const copy = also_held_by(getpid(), older, joined_ns);
		begin(&copy->opened);
		copy->opened.after_ns = 0; /* the new program fills it in */
		exec_holder(own_holder);
	}
	wait_settled(place, pid);
	hold_new_file(); /* not in the copy */
}

static void way_clone_files_exec(void)
{
	holder(clone_files_exec_body);
}

static void clone_files_unshare_body(struct bracket unused)
{
	(void)unused;
	const struct record *const older = hold_new_file();
	const uint32_t place = new_holder();
	const pid_t pid = clone_files();
	if (pid < 0) {
		refuse_errno("clone");
		return;
	}
	if (pid == 0) {
		own_holder = place;
		die_with_parent();
		struct record *const copy = also_held_by(getpid(), older, 0);
		begin(&copy->opened);
		const int result = unshare(CLONE_FILES);
		end(&copy->opened);
		if (result != 0)
			die("unshare");
		hold_new_file();
		hold_and_exit();
	}
	wait_settled(place, pid);
	hold_new_file(); /* maybe the same number, in the other table */
}

static void way_clone_files_unshare(void)
{
	holder(clone_files_unshare_body);
}

/* unshare(2) of a table that nobody shares changes nothing. */
static void unshare_alone_body(struct bracket unused)
{
	(void)unused;
	hold_new_file();
	if (unshare(CLONE_FILES) != 0)
		die("unshare");
	hold_new_file();
}

static void way_unshare_alone(void)
{
	holder(unshare_alone_body);
}

struct own_table {
	const struct record *older;
	int doomed;  /* closed in the thread's copy only */
	int use_close_range;
	_Atomic uint32_t ready;
};

static void *thread_with_own_table(void *argument)
{
	struct own_table *const own = argument;
	const pid_t tid = thread_id();
	struct bracket bracket;
	begin(&bracket);
	const long result = own->use_close_range
				    ? syscall(SYS_close_range, own->doomed, own->doomed, 2u /* CLOSE_RANGE_UNSHARE */)
				    : unshare(CLONE_FILES);
	end(&bracket);
	if (result != 0) {
		refuse_errno("unshare");
	} else {
		hold(own->older->way, own->older->fd, bracket, own->older->description, true, true)->tid = tid;
		hold_new_file()->tid = tid;
	}
	atomic_store(&own->ready, 1);
	futex_wake(&own->ready);
	wait_phase(phase_end);
	if (truth->close_at_end)
		close_own_records();
	atomic_fetch_sub(&threads_left, 1);
	futex_wake(&threads_left);
	return NULL;
}

static void own_table_in(bool use_close_range)
{
	static struct own_table own;
	static pthread_t thread;
	own.older = hold_new_file();
	own.doomed = hold_new_file()->fd;
	own.use_close_range = use_close_range;
	atomic_fetch_add(&threads_left, 1);
	if (pthread_create(&thread, NULL, thread_with_own_table, &own) != 0)
		die("pthread_create");
	while (atomic_load(&own.ready) == 0)
		syscall(SYS_futex, &own.ready, FUTEX_WAIT, 0, NULL, NULL, 0);
	hold_new_file();
}

static void unshare_thread_body(struct bracket unused)
{
	(void)unused;
	own_table_in(false);
}

static void way_unshare_thread(void)
{
	holder(unshare_thread_body);
}

static void close_range_unshare_body(struct bracket unused)
{
	(void)unused;
	own_table_in(true);
}

static void way_close_range_unshare(void)
{
	holder(close_range_unshare_body);
}

static void *thread_that_stays(void *argument)
{
	_Atomic uint32_t *const leader_gone = argument;
	while (atomic_load(leader_gone) == 0)
		usleep(1000);
	usleep(10000);
	die_with_parent();
	hold_new_file()->tid = thread_id();
	hold_and_exit();
}

/* The main thread ends, another one goes on: /proc/PID/fd is empty then, /proc/PID/task/TID/fd is not. */
static void leader_exited_body(struct bracket unused)
{
	(void)unused;
	static _Atomic uint32_t leader_gone;
	pthread_t thread;
	if (pthread_create(&thread, NULL, thread_that_stays, &leader_gone) != 0)
		die("pthread_create");
	prctl(PR_SET_PDEATHSIG, 0);
	atomic_store(&leader_gone, 1);
	syscall(SYS_exit, 0);
}

static void way_leader_exited(void)
{
	holder(leader_exited_body);
}

/* ---- references that are no descriptors ----------------------------------------------------------------------------- */

static void way_mmap_held(void)
{
	struct bracket opened, mapped;
	const char *const path = path_of("mapped");
	const int fd = open_file("mapped", O_RDWR, &opened);
	if (ftruncate(fd, 4096) != 0)
		die("ftruncate");
	begin(&mapped);
	void *const at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	end(&mapped);
	if (at == MAP_FAILED)
		die("mmap");
	close(fd);
	struct record *const record = new_record(current->name);
	snprintf(record->text, sizeof(record->text), "%s", path);
	record->opened = mapped;
	record->description = opened;
	atomic_store(&record->kind, record_mem);
}

/* ---- memory that the kernel uses again ------------------------------------------------------------------------------ */

enum { pointers = 64 };

static void leave_stale_pointers(void)
{
	void *at[pointers];
	for (int i = 0; i < pointers; i++) {
		const int fd = open(path_of("mapped_for_a_moment"), O_RDWR | O_CREAT, 0600);
		if (fd < 0 || ftruncate(fd, 4096) != 0)
			die("a file to map");
		at[i] = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
		close(fd); /* the description lives on in the mapping, so that no close ends it */
	}
	for (int i = 0; i < pointers; i++)
		if (at[i] != MAP_FAILED)
			munmap(at[i], 4096);
}

/* Descriptions that ended unseen, then new ones that began unseen, in the same memory. */
static void way_pointer_reuse_ioctl(void)
{
	const int on = socket(AF_UNIX, SOCK_STREAM, 0);
	leave_stale_pointers();
	for (int i = 0; i < pointers; i++) {
		struct bracket bracket;
		if (!made(net_namespace_of_socket(on, &bracket), &bracket))
			break;
	}
	close(on);
}

static void way_pointer_reuse_io_uring(void)
{
	if (!get_ring()) {
		refuse_errno("io_uring_setup");
		return;
	}
	leave_stale_pointers();
	for (int i = 0; i < pointers; i++)
		way_io_uring_openat();
}

/* The same file and inode too: nothing but the hooks can tell the two descriptions apart. */
static void way_pointer_reuse_same_file(void)
{
	struct ring *const ring = get_ring();
	if (!ring) {
		refuse_errno("io_uring_setup");
		return;
	}
	const struct io_uring_sqe entry = openat_entry(0);
	for (int i = 0; i < 16; i++) {
		const int first = open(path_of("file"), O_RDONLY);
		void *const at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, first, 0);
		close(first);
		if (at != MAP_FAILED)
			munmap(at, 4096);
		struct bracket bracket;
		begin(&bracket);
		const int fd = ring_do(ring, &entry);
		end(&bracket);
		if (!made(fd, &bracket))
			break;
	}
}

/* A slot that was stamped, closed unseen, and filled unseen. */
static void way_slot_reuse_unseen(void)
{
	const int on = socket(AF_UNIX, SOCK_STREAM, 0);
	const int first = open(path_of("file"), O_RDONLY);
	struct bracket bracket;
	if (ring_close(first))
		made(net_namespace_of_socket(on, &bracket), &bracket);
	close(on);
}

static void way_slot_reuse_unseen_dup(void)
{
	const int on = socket(AF_UNIX, SOCK_STREAM, 0);
	const int copy = dup(get_source().fd);
	struct bracket bracket;
	if (ring_close(copy))
		made(net_namespace_of_socket(on, &bracket), &bracket);
	close(on);
}

/* A copy that was stamped and closed unseen; the same description comes back to the same slot unseen. */
static void slot_reuse_same_description_body(struct bracket unused)
{
	(void)unused;
	struct ring *const ring = get_ring();
	int self;
	if (!ring) {
		refuse_errno("io_uring_setup");
		return;
	}
	const struct source source = new_source();
	const struct scm scm = scm_begin();
	const int first = dup(source.fd);
	if (!send_fds(scm.send, &source.fd, 1, 1))
		die("sendmsg");
	if (!ring_close(first))
		return;
	static struct control control;
	char byte;
	struct iovec data = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
	const struct io_uring_sqe entry = {
		.opcode = IORING_OP_RECVMSG, .fd = scm.receive, .addr = (uint64_t)(uintptr_t)&message, .len = 1};
	struct bracket bracket;
	begin(&bracket);
	const int got = ring_do(ring, &entry);
	end(&bracket);
	if (got >= 0 && received_fds(&message, &self) == 1)
		copied(self, &bracket, &source);
	else
		refuse_errno("IORING_OP_RECVMSG");
}

static void way_slot_reuse_same_description(void)
{
	holder(slot_reuse_same_description_body);
}

/* ---- the list ------------------------------------------------------------------------------------------------------- */

#define EXACT true, false
#define EXACT_CHEAP true, true
#define BOUNDED false, false

static const struct way ways[] = {
	{"open", way_open, EXACT_CHEAP},
	{"openat", way_openat, EXACT_CHEAP},
	{"openat2", way_openat2, EXACT_CHEAP},
	{"creat", way_creat, EXACT_CHEAP},
	{"open_by_handle_at", way_open_by_handle_at, EXACT_CHEAP},
	{"o_path", way_o_path, EXACT_CHEAP},
	{"o_path_symlink", way_o_path_symlink, EXACT},
	{"o_tmpfile", way_o_tmpfile, EXACT_CHEAP},
	{"directory", way_directory, EXACT_CHEAP},
	{"chr_device", way_chr_device, EXACT_CHEAP},
	{"proc_file", way_proc_file, EXACT_CHEAP},
	{"fifo", way_fifo, EXACT_CHEAP},
	{"fifo_waited", way_fifo_waited, EXACT},
	{"magic_link_reopen", way_magic_link_reopen, EXACT_CHEAP},
	{"slot_reuse", way_slot_reuse, EXACT_CHEAP},
	{"slot_reuse_same_file", way_slot_reuse_same_file, EXACT_CHEAP},
	{"failed_open_before", way_failed_open_before, EXACT_CHEAP},
	{"close_range_reuse", way_close_range_reuse, EXACT_CHEAP},
	{"dup", way_dup, EXACT_CHEAP},
	{"dup2_free", way_dup2_free, EXACT_CHEAP},
	{"dup2_onto", way_dup2_onto, EXACT_CHEAP},
	{"dup2_onto_same", way_dup2_onto_same, EXACT_CHEAP},
	{"dup2_self", way_dup2_self, EXACT_CHEAP},
	{"dup3_free", way_dup3_free, EXACT_CHEAP},
	{"dup3_onto", way_dup3_onto, EXACT_CHEAP},
	{"dup3_refused", way_dup3_refused, EXACT_CHEAP},
	{"f_dupfd", way_f_dupfd, EXACT_CHEAP},
	{"f_dupfd_cloexec", way_f_dupfd_cloexec, EXACT_CHEAP},
	{"dup_outlives_first", way_dup_outlives_first, EXACT_CHEAP},
	{"dup_back_to_first_slot", way_dup_back_to_first_slot, EXACT_CHEAP},
	{"pipe", way_pipe, EXACT_CHEAP},
	{"pipe2", way_pipe2, EXACT_CHEAP},
	{"socket_unix", way_socket_unix, EXACT_CHEAP},
	{"socket_inet", way_socket_inet, EXACT_CHEAP},
	{"socket_netlink", way_socket_netlink, EXACT},
	{"socketpair", way_socketpair, EXACT_CHEAP},
	{"accept", way_accept, EXACT_CHEAP},
	{"accept4", way_accept4, EXACT_CHEAP},
	{"accept_waited", way_accept_waited, EXACT},
	{"epoll_create", way_epoll_create, EXACT_CHEAP},
	{"epoll_create1", way_epoll_create1, EXACT_CHEAP},
	{"eventfd", way_eventfd, EXACT_CHEAP},
	{"eventfd2", way_eventfd2, EXACT_CHEAP},
	{"signalfd", way_signalfd, EXACT_CHEAP},
	{"signalfd4", way_signalfd4, EXACT_CHEAP},
	{"signalfd4_again", way_signalfd4_again, EXACT_CHEAP},
	{"timerfd_create", way_timerfd_create, EXACT_CHEAP},
	{"inotify_init", way_inotify_init, EXACT},
	{"inotify_init1", way_inotify_init1, EXACT},
	{"fanotify_init", way_fanotify_init, EXACT},
	{"memfd_create", way_memfd_create, EXACT_CHEAP},
	{"memfd_secret", way_memfd_secret, EXACT},
	{"pidfd_open", way_pidfd_open, EXACT_CHEAP},
	{"pidfd_getfd", way_pidfd_getfd, EXACT},
	{"clone_pidfd", way_clone_pidfd, EXACT},
	{"clone3_pidfd", way_clone3_pidfd, EXACT},
	{"perf_event_open", way_perf_event_open, EXACT},
	{"bpf_map_create", way_bpf_map_create, EXACT},
	{"bpf_prog_load", way_bpf_prog_load, EXACT},
	{"bpf_map_get_fd_by_id", way_bpf_map_get_fd_by_id, EXACT},
	{"bpf_obj_get", way_bpf_obj_get, EXACT},
	{"bpf_enable_stats", way_bpf_enable_stats, EXACT},
	{"userfaultfd", way_userfaultfd, EXACT},
	{"mq_open", way_mq_open, EXACT},
	{"landlock_create_ruleset", way_landlock_create_ruleset, EXACT},
	{"open_tree", way_open_tree, EXACT},
	{"open_tree_clone", way_open_tree_clone, EXACT},
	{"fsopen", way_fsopen, EXACT},
	{"fspick", way_fspick, EXACT},
	{"fsmount", way_fsmount, EXACT},
	{"io_uring_setup", way_io_uring_setup, EXACT},
	{"io_uring_openat", way_io_uring_openat, BOUNDED},
	{"io_uring_openat_async", way_io_uring_openat_async, BOUNDED},
	{"io_uring_accept", way_io_uring_accept, BOUNDED},
	{"io_uring_socket", way_io_uring_socket, BOUNDED},
	{"io_uring_fixed_install", way_io_uring_fixed_install, BOUNDED},
	{"ioctl_tiocgptpeer", way_ioctl_tiocgptpeer, BOUNDED},
	{"ioctl_ns_get_userns", way_ioctl_ns_get_userns, BOUNDED},
	{"ioctl_siocgskns", way_ioctl_siocgskns, BOUNDED},
	{"ioctl_pidfd_namespace", way_ioctl_pidfd_namespace, BOUNDED},
	{"ioctl_userfaultfd", way_ioctl_userfaultfd, BOUNDED},
	{"fanotify_event", way_fanotify_event, BOUNDED},
	{"so_peerpidfd", way_so_peerpidfd, BOUNDED},
	{"scm_one", way_scm_one, EXACT},
	{"scm_many", way_scm_many, EXACT},
	{"scm_most", way_scm_most, EXACT},
	{"scm_many_control_messages", way_scm_many_control_messages, EXACT},
	{"scm_truncated", way_scm_truncated, EXACT},
	{"scm_self", way_scm_self, EXACT_CHEAP},
	{"scm_peek", way_scm_peek, EXACT},
	{"scm_with_credentials", way_scm_with_credentials, EXACT},
	{"scm_recvmmsg", way_scm_recvmmsg, EXACT},
	{"scm_pidfd", way_scm_pidfd, BOUNDED},
	{"scm_io_uring", way_scm_io_uring, BOUNDED},
	{"seccomp_new_listener", way_seccomp_new_listener, EXACT},
	{"seccomp_addfd", way_seccomp_addfd, BOUNDED},
	{"not_a_descriptor", way_not_a_descriptor, EXACT},
	{"fork", way_fork, EXACT},
	{"fork_syscall", way_fork_syscall, EXACT},
	{"fork_dup3_refused", way_fork_dup3_refused, EXACT},
	{"fork_of_fork", way_fork_of_fork, EXACT},
	{"fork_slot_reuse", way_fork_slot_reuse, EXACT},
	{"vfork_exec", way_vfork_exec, EXACT},
	{"posix_spawn", way_posix_spawn, EXACT},
	{"exec_survivors", way_exec_survivors, EXACT},
	{"exec_from_thread", way_exec_from_thread, EXACT},
	{"clone_files", way_clone_files, EXACT},
	{"clone_files_orphan", way_clone_files_orphan, EXACT},
	{"clone_files_exec", way_clone_files_exec, EXACT},
	{"clone_files_unshare", way_clone_files_unshare, EXACT},
	{"unshare_alone", way_unshare_alone, EXACT},
	{"unshare_thread", way_unshare_thread, EXACT},
	{"close_range_unshare", way_close_range_unshare, EXACT},
	{"leader_exited", way_leader_exited, EXACT},
	{"mmap_held", way_mmap_held, BOUNDED},
	{"pointer_reuse_ioctl", way_pointer_reuse_ioctl, BOUNDED},
	{"pointer_reuse_io_uring", way_pointer_reuse_io_uring, BOUNDED},
	{"pointer_reuse_same_file", way_pointer_reuse_same_file, BOUNDED},
	{"slot_reuse_unseen", way_slot_reuse_unseen, BOUNDED},
	{"slot_reuse_unseen_dup", way_slot_reuse_unseen_dup, BOUNDED},
	{"slot_reuse_same_description", way_slot_reuse_same_description, BOUNDED},
};
enum { way_count = sizeof(ways) / sizeof(ways[0]) };

/* ---- many ----------------------------------------------------------------------------------------------------------- */

enum { most_in_one_process = 4000 };

static bool chosen[way_count];
static uint32_t wanted; /* by the next bulk holder */

static void bulk_body(struct bracket unused)
{
	(void)unused;
	const uint32_t first = record_count();
	uint32_t quiet = 0;
	for (unsigned i = 0; record_count() - first < wanted && quiet < 2 * way_count; i++) {
		current = &ways[i % way_count];
		const uint32_t before = record_count();
		if (chosen[i % way_count] && current->cheap)
			current->make();
		/* Now and then a hole, so that later opens land in slots with a history. */
		if (i % 7 == 0 && record_count() > before + 1)
			close(dup(truth->record[before].fd));
		quiet = record_count() == before ? quiet + 1 : 0;
	}
}

static void make_many(uint32_t count)
{
	while (count > 0 && atomic_load(&truth->overflow) == 0) {
		wanted = count < most_in_one_process ? count : most_in_one_process;
		holder(bulk_body);
		count -= wanted;
	}
}

/* ---- noise ---------------------------------------------------------------------------------------------------------- */

enum { noise_children = 6 };
static pid_t noise[noise_children];

static void start_noise(void)
{
	for (int i = 0; i < noise_children; i++) {
		noise[i] = fork();
		if (noise[i] < 0)
			die("fork");
		if (noise[i] > 0)
			continue;
		die_with_parent();
		for (unsigned turn = 0;; turn++) {
			if (i % 2 == 0)
				continue; /* burns the CPU */
			const int fd = open("/dev/null", O_RDONLY);
			close(dup(fd));
			close(fd);
		}
	}
}

static void stop_noise(void)
{
	for (int i = 0; i < noise_children; i++) {
		kill(noise[i], SIGKILL);
		waitpid(noise[i], NULL, 0);
	}
}

/* ---- copies of what is older than the tracing ----------------------------------------------------------------------- */

static const struct way copy_ways[] = {
	{"copy_dup", NULL, EXACT}, {"copy_scm", NULL, EXACT}, {"copy_fork", NULL, EXACT}, {"copy_reopen", NULL, EXACT}};

static void make_copies(void)
{
	const uint32_t count = record_count();
	for (uint32_t i = 0; i < count; i++) {
		const struct record *const old = &truth->record[i];
		if (atomic_load(&old->kind) != record_fd || old->pid != main_pid || old->tid != main_pid)
			continue;
		const struct source source = {
			.fd = old->fd, .description = old->description, .exact = old->description_exact};
		struct bracket bracket;
		current = &copy_ways[0];
		begin(&bracket);
		int fd = dup(source.fd);
		end(&bracket);
		copied(fd, &bracket, &source);
		if (i % 8 != 0)
			continue;
		current = &copy_ways[1];
		const struct scm scm = scm_begin();
		int received = -1;
		/* An io_uring can't be sent. */
		if (send_fds(scm.send, &source.fd, 1, 1)) {
			begin(&bracket);
			const int got = receive_fds(scm.receive, 0, sizeof(struct control), &received);
			end(&bracket);
			copied(got == 1 ? received : -1, &bracket, &source);
		}
		scm_end(&scm);
	}
	current = &copy_ways[3];
	way_magic_link_reopen();
	current = &copy_ways[2];
	holder(inherit_body);
}

/* ---- self check ----------------------------------------------------------------------------------------------------- */

/* Is every announced descriptor there, and are the brackets in order? */
static uint32_t self_check(void)
{
	uint32_t wrong = 0, held = 0;
	const uint32_t count = record_count();
	for (uint32_t i = 0; i < count; i++) {
		const struct record *const record = &truth->record[i];
		if (atomic_load(&record->kind) != record_fd)
			continue;
		char path[96], text[PATH_MAX];
		snprintf(path, sizeof(path), "/proc/%d/task/%d/fd/%d", record->pid, record->tid, record->fd);
		const bool there = readlink(path, text, sizeof(text)) >= 0;
		const bool ordered = record->opened.before_ns <= record->opened.after_ns &&
				     record->description.before_ns <= record->description.after_ns &&
				     record->description.before_ns <= record->opened.after_ns && record->opened.before_ns > 0 &&
				     record->description.before_ns > 0;
		held++;
		if (there && ordered)
			continue;
		wrong++;
		fprintf(stderr, "%s: pid %d tid %d fd %d %s\n", record->way, record->pid, record->tid, record->fd,
			there ? "has brackets out of order" : "is not there");
	}
	fprintf(stderr, "self-check: %u descriptors, %u wrong\n", held, wrong);
	return wrong;
}

/* ---- main ----------------------------------------------------------------------------------------------------------- */

static void make_work_dir(void)
{
	const char *const parent = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	if (snprintf(work_dir, sizeof(work_dir), "%s/make_spans-XXXXXX", parent) >= (int)sizeof(work_dir) || !mkdtemp(work_dir))
		die("make a work directory");
	for (const char *const *name = (const char *const[]){"file", "watched", NULL}; *name; name++) {
		const int fd = open(path_of(*name), O_WRONLY | O_CREAT, 0600);
		if (fd < 0 || ftruncate(fd, 4096) != 0)
			die("make a work file");
		close(fd);
	}
	if (mkfifo(path_of("fifo"), 0600) != 0 || mkfifo(path_of("fifo_late"), 0600) != 0 || symlink("file", path_of("link")) != 0)
		die("make work files");
}

static void remove_work_dir(void)
{
	for (const char *const *name = (const char *const[]){"file", "watched", "created", "source", "mapped", "mapped_for_a_moment",
							      "fifo", "fifo_late", "link", NULL};
	     *name; name++)
		unlink(path_of(*name));
	rmdir(work_dir);
}

/* Every slot gets a history before anything is recorded. */
static void dirty_slots(void)
{
	enum { slots = 250 };
	int fds[slots];
	for (int i = 0; i < slots; i++)
		fds[i] = i % 3 == 0 && i > 0 ? dup(fds[i - 1]) : open("/dev/null", O_RDONLY);
	for (int i = 0; i < slots; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

/* An exec'd holder: maps the records again, and owns those that carry its pid. */
static int holder_main(int memfd, uint32_t place)
{
	const uint64_t now_ns = boottime_ns();
	map_shared(memfd);
	truth_memfd = memfd;
	own_holder = place;
	die_with_parent();
	const uint32_t count = record_count();
	for (uint32_t i = 0; i < count; i++)
		if (truth->record[i].pid == getpid() && truth->record[i].opened.after_ns == 0)
			truth->record[i].opened.after_ns = now_ns;
	hold_until_end();
	return 0;
}

static int usage(const char *wrong)
{
	fprintf(stderr, "make_spans: what is \"%s\"? See the head of make_spans.c.\n", wrong);
	return 2;
}

int main(int argc, char **argv)
{
	uint32_t count = 0;
	bool any_chosen = false, copy = false, check = false, closing = false;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--holder") == 0 && i + 2 < argc)
			return holder_main(atoi(argv[i + 1]), (uint32_t)atoi(argv[i + 2]));
		if (strcmp(argv[i], "--list") == 0) {
			for (int way = 0; way < way_count; way++)
				printf("%s\t%s\n", ways[way].name, ways[way].exact ? "exact" : "bounded");
			return 0;
		}
		if (strcmp(argv[i], "--way") == 0 && i + 1 < argc) {
			int way = 0;
			while (way < way_count && strcmp(ways[way].name, argv[i + 1]) != 0)
				way++;
			if (way == way_count)
				return usage(argv[i + 1]);
			chosen[way] = any_chosen = true;
			i++;
		} else if (strcmp(argv[i], "--count") == 0 && i + 1 < argc && atoi(argv[i + 1]) > 0) {
			count = (uint32_t)atoi(argv[++i]);
		} else if (strcmp(argv[i], "--busy") == 0) {
			busy = true;
		} else if (strcmp(argv[i], "--close") == 0) {
			closing = true;
		} else if (strcmp(argv[i], "--copy") == 0) {
			copy = true;
		} else if (strcmp(argv[i], "--self-check") == 0) {
			check = true;
		} else {
			return usage(argv[i]);
		}
	}
	if (count > TRUTH_RECORDS / 2)
		return usage("a --count of more than half the records");
	if (!any_chosen)
		memset(chosen, true, sizeof(chosen));

	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* for the process whose maker exits */
	main_pid = getpid();
	create_shared();
	truth->close_at_end = closing;
	make_work_dir();
	if (busy)
		start_noise();
	dirty_slots();
	for (int way = 0; way < way_count; way++) {
		if (!chosen[way] || (count > 0 && ways[way].cheap))
			continue;
		if (count > 0 && !any_chosen)
			continue; /* --count repeats the cheap ones, and does nothing else */
		current = &ways[way];
		current->make();
	}
	if (count > 0)
		make_many(count);

	uint32_t failed = print_records(0);
	print_ready("ready");
	if (check)
		failed += self_check();
	char line[64];
	bool more = next_command(line, sizeof(line));
	if (copy && more) {
		const uint32_t first = record_count();
		make_copies();
		failed += print_records(first);
		print_ready("copied");
		more = next_command(line, sizeof(line));
	}
	if (busy)
		stop_noise();
	set_phase(phase_end);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	if (closing) {
		close_own_records();
		print_closed();
	}
	remove_work_dir();
	if (atomic_load(&truth->overflow) > 0) {
		fprintf(stderr, "make_spans: more than %u records\n", TRUTH_RECORDS);
		return 1;
	}
	return failed == 0 ? 0 : 1;
}
