/*
 * Random work on descriptor tables from a seed: open, dup, dup2, close, close_range, fork, exec, kill, SCM_RIGHTS, mappings,
 * threads, CLONE_FILES, unshared tables. Then it rests, holding descriptors whose times it knows, and says which, in the lines
 * of make_spans followed by {"event":"rest","pids":[...]}. It ends with its stdin.
 *
 * storm [--seconds N] [--seed N] [--workers N] [--pause-us N] [--unseen]
 *
 * --pause-us  sleeps about that long after each step
 * --unseen    also makes descriptors by ioctl, which no tracepoint of a syscall shows
 *
 * Every descriptor belongs to one thread, which alone closes it; so its times are known in shared tables too. Bounded: each
 * thread holds at most 128 descriptors, and each process has at most 4 children at a time.
 */
#include "truth.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

enum { most_held = 128, most_children = 4, most_workers = 16, threads_of_worker = 3, kept_at_rest = 24 };
#define SIOCGSKNS_REQUEST 0x894C

struct held {
	int fd;
	struct bracket opened;
	struct bracket description;
	bool seen; /* made by a call whose exit a tracepoint shows */
	bool description_seen;
};

/* One thread's part of the storm. */
struct party {
	uint64_t random;
	int count;
	struct held held[most_held];
	int children;
	bool childless; /* makes no processes */
	bool threadless; /* makes no threads */
	bool own_table; /* nobody else has descriptors in it */
	bool is_thread; /* with a table of its own, other than its process's */
	bool may_unshare;
	int mailbox;
	unsigned index;
};

/* What goes along with a descriptor in a message. */
struct letter {
	struct bracket description;
	bool description_seen;
};

static unsigned workers = 4, pause_us;
static uint64_t seed = 1;
static double seconds = 5;
static bool unseen;
static uint64_t stop_ns;
static int mailboxes[most_workers][2]; /* [0] to send, [1] to receive */
static char work_dir[64], work_file[96];
static _Atomic uint32_t *stopped; /* shared: parties that send no more */
static unsigned parties;

static uint64_t next_random(struct party *party)
{
	/* xorshift64* */
	party->random ^= party->random >> 12;
	party->random ^= party->random << 25;
	party->random ^= party->random >> 27;
	return party->random * 0x2545F4914F6CDD1Dull;
}

static unsigned below(struct party *party, unsigned bound)
{
	return (unsigned)((next_random(party) >> 33) % bound);
}

static void keep(struct party *party, int fd, struct bracket opened, struct bracket description, bool seen, bool description_seen)
{
	if (fd < 0)
		return; /* out of numbers: the storm goes on */
	if (party->count == most_held) {
		close(fd);
		return;
	}
	party->held[party->count++] = (struct held){
		.fd = fd, .opened = opened, .description = description, .seen = seen, .description_seen = description_seen};
}

static void keep_new(struct party *party, int fd, struct bracket bracket)
{
	keep(party, fd, bracket, bracket, true, true);
}

static void forget(struct party *party, int at)
{
	party->held[at] = party->held[--party->count];
}

/* ---- steps ---------------------------------------------------------------------------------------------------------- */

static void step_open(struct party *party)
{
	struct bracket bracket;
	int fd = -1, pair[2] = {-1, -1};
	char path[128];
	const unsigned kind = below(party, 11);
	begin(&bracket);
	switch (kind) {
	case 0:
		fd = open("/dev/null", O_RDONLY);
		break;
	case 1:
		fd = open(work_file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		break;
	case 2:
		fd = open("/proc/self/status", O_RDONLY);
		break;
	case 3:
		fd = socket(AF_UNIX, SOCK_STREAM, 0);
		break;
	case 4:
		fd = eventfd(0, EFD_CLOEXEC);
		break;
	case 5:
		fd = epoll_create1(0);
		break;
	case 6:
		fd = timerfd_create(CLOCK_MONOTONIC, 0);
		break;
	case 7:
		fd = (int)syscall(SYS_memfd_create, "storm", 0);
		break;
	case 8:
		(void)!pipe2(pair, O_NONBLOCK);
		break;
	case 9:
		(void)!socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
		break;
	default:
		snprintf(path, sizeof(path), "%s.%u.%d", work_file, party->index, thread_id());
		fd = open(path, O_RDWR | O_CREAT, 0600);
		end(&bracket);
		unlink(path);
		keep_new(party, fd, bracket);
		return;
	}
	end(&bracket);
	keep_new(party, fd, bracket);
	keep_new(party, pair[0], bracket);
	keep_new(party, pair[1], bracket);
}

static void step_unseen(struct party *party)
{
	struct bracket bracket;
	const int on = socket(AF_UNIX, SOCK_STREAM, 0);
	begin(&bracket);
	const int fd = ioctl(on, SIOCGSKNS_REQUEST);
	end(&bracket);
	keep(party, fd, bracket, bracket, false, false);
	if (on >= 0)
		close(on);
}

static void step_dup(struct party *party)
{
	if (party->count == 0)
		return;
	const struct held source = party->held[below(party, (unsigned)party->count)];
	struct bracket bracket;
	int fd;
	begin(&bracket);
	switch (below(party, 3)) {
	case 0:
		fd = dup(source.fd);
		break;
	case 1:
		fd = fcntl(source.fd, F_DUPFD, (int)below(party, 400));
		break;
	default:
		fd = fcntl(source.fd, F_DUPFD_CLOEXEC, (int)below(party, 40));
		break;
	}
	end(&bracket);
	keep(party, fd, bracket, source.description, true, source.description_seen);
}

/* Onto one of its own, which ends that. */
static void step_dup2(struct party *party)
{
	if (party->count < 2)
		return;
	const struct held source = party->held[below(party, (unsigned)party->count)];
	struct held *const target = &party->held[below(party, (unsigned)party->count)];
	if (target->fd == source.fd)
		return;
	struct bracket bracket;
	begin(&bracket);
	const int fd = below(party, 2) ? dup2(source.fd, target->fd) : dup3(source.fd, target->fd, O_CLOEXEC);
	end(&bracket);
	if (fd < 0)
		return;
	*target = source;
	target->fd = fd;
	target->opened = bracket;
	target->seen = true;
}

static void step_close(struct party *party)
{
	if (party->count == 0)
		return;
	const int at = (int)below(party, (unsigned)party->count);
	close(party->held[at].fd);
	forget(party, at);
}

static int find(const struct party *party, int fd)
{
	for (int i = 0; i < party->count; i++)
		if (party->held[i].fd == fd)
			return i;
	return -1;
}

/* A run of numbers that are all its own. */
static void step_close_range(struct party *party)
{
	if (party->count == 0)
		return;
	const int first = party->held[below(party, (unsigned)party->count)].fd;
	int last = first;
	while (last - first < 16 && find(party, last + 1) >= 0)
		last++;
	if (syscall(SYS_close_range, first, last, 0) != 0)
		return;
	for (int fd = first; fd <= last; fd++)
		forget(party, find(party, fd));
}

static void step_send(struct party *party)
{
	if (party->count == 0)
		return;
	const struct held *const held = &party->held[below(party, (unsigned)party->count)];
	struct letter letter = {.description = held->description, .description_seen = held->description_seen};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec data = {.iov_base = &letter, .iov_len = sizeof(letter)};
	struct msghdr message = {
		.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *const rights = CMSG_FIRSTHDR(&message);
	rights->cmsg_level = SOL_SOCKET;
	rights->cmsg_type = SCM_RIGHTS;
	rights->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(rights), &held->fd, sizeof(int));
	(void)!sendmsg(mailboxes[below(party, workers)][0], &message, MSG_DONTWAIT); /* a full mailbox is fine */
}

/* False: nothing was there. */
static bool step_receive(struct party *party)
{
	struct letter letter = {0};
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	struct iovec data = {.iov_base = &letter, .iov_len = sizeof(letter)};
	struct mmsghdr messages[1] = {
		{.msg_hdr = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)}}};
	struct bracket bracket;
	begin(&bracket);
	const bool got = below(party, 2) ? recvmsg(party->mailbox, &messages[0].msg_hdr, MSG_DONTWAIT) >= 0
					 : recvmmsg(party->mailbox, messages, 1, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, NULL) == 1;
	end(&bracket);
	if (!got)
		return false;
	const struct cmsghdr *const rights = CMSG_FIRSTHDR(&messages[0].msg_hdr);
	if (rights && rights->cmsg_type == SCM_RIGHTS) {
		int fd;
		memcpy(&fd, CMSG_DATA(rights), sizeof(fd));
		keep(party, fd, bracket, letter.description, true, letter.description_seen);
	}
	return true;
}

/* The description outlives its descriptor for a moment. */
static void step_map(struct party *party)
{
	const int fd = open(work_file, O_RDWR | O_CREAT, 0600);
	if (fd < 0)
		return;
	void *const at = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	step_open(party);
	if (at != MAP_FAILED)
		munmap(at, 4096);
}

static void do_steps(struct party *party, unsigned count);

static void reap(struct party *party, bool all)
{
	while (party->children > 0) {
		/* __WNOTHREAD: its own children only, not those of other threads. */
		const pid_t pid = (pid_t)syscall(SYS_wait4, -1, NULL, (all ? 0 : WNOHANG) | 0x20000000, NULL);
		if (pid <= 0) {
			if (pid < 0 && errno != EINTR)
				party->children = 0;
			if (pid == 0)
				return;
			continue;
		}
		party->children--;
	}
}

static char *const *child_arguments(struct party *party)
{
	static _Thread_local char number[24];
	static _Thread_local char *arguments[4];
	snprintf(number, sizeof(number), "%llu", (unsigned long long)(next_random(party) | 1));
	arguments[0] = (char *)"storm";
	arguments[1] = (char *)"--child";
	arguments[2] = number;
	return arguments;
}

static void step_fork(struct party *party)
{
	if (party->childless)
		return;
	reap(party, false);
	if (party->children >= most_children)
		return;
	char *const *const arguments = child_arguments(party);
	const unsigned kind = below(party, 6);
	pid_t pid;
	if (kind == 0) {
		pid = vfork();
		if (pid == 0) {
			execv("/proc/self/exe", arguments);
			_exit(1);
		}
	} else if (kind == 1) {
		extern char **environ;
		if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, arguments, environ) != 0)
			pid = -1;
	} else {
		pid = fork();
		if (pid == 0) {
			die_with_parent(); /* else a killed storm leaves it, with the locks and pipes of whoever ran the storm */
			party->own_table = true;
			party->may_unshare = false;
			party->childless = true;
			do_steps(party, 4 + below(party, 30));
			if (kind == 2)
				execv("/proc/self/exe", arguments);
			if (kind == 3)
				sleep(10); /* until it is killed */
			_exit(0);
		}
		if (pid > 0 && kind == 3) {
			usleep(below(party, 2000));
			kill(pid, SIGKILL);
		}
	}
	if (pid > 0)
		party->children++;
}

/* Another process in the same table, for some steps; it takes away what it brought. */
static void step_clone_files(struct party *party)
{
	if (party->childless)
		return;
	const unsigned steps = 2 + below(party, 10);
	const bool unshares = below(party, 3) == 0;
	const bool execs = below(party, 4) == 0;
	char *const *const arguments = child_arguments(party);
	reap(party, false);
	if (party->children >= most_children)
		return;
	const pid_t pid = (pid_t)syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		party->count = 0; /* the parent's are the parent's */
		party->may_unshare = false;
		party->childless = true;
		party->threadless = true; /* clone(2) behind libc's back: its locks may be held by threads that are not here */
		party->own_table = false;
		if (unshares && unshare(CLONE_FILES) == 0)
			party->own_table = true;
		do_steps(party, steps);
		if (!unshares)
			while (party->count > 0)
				step_close(party);
		if (execs)
			execv("/proc/self/exe", arguments);
		_exit(0);
	}
	if (pid > 0)
		party->children++;
}

/* A thread with a table of its own, which dies with it. */
static void *short_thread(void *argument)
{
	struct party *const party = argument;
	if (unshare(CLONE_FILES) == 0) {
		party->own_table = true;
		do_steps(party, 12);
	}
	return NULL;
}

static void step_thread(struct party *party)
{
	struct party other = {.random = next_random(party) | 1,
			      .mailbox = party->mailbox,
			      .index = party->index,
			      .childless = true};
	pthread_t thread;
	if (party->threadless)
		return;
	if (pthread_create(&thread, NULL, short_thread, &other) == 0)
		pthread_join(thread, NULL);
}

/* Leaves the process's table for one of its own. Its own descriptors go first: their copies there would be nobody's. */
static void step_unshare(struct party *party)
{
	while (party->count > 0)
		step_close(party);
	if (unshare(CLONE_FILES) != 0)
		return;
	party->own_table = true;
	party->is_thread = true;
	party->may_unshare = false;
}

static void one_step(struct party *party)
{
	const unsigned dice = below(party, 1000);
	if (dice < 330)
		step_open(party);
	else if (dice < 480)
		step_dup(party);
	else if (dice < 560)
		step_dup2(party);
	else if (dice < 780)
		step_close(party);
	else if (dice < 820)
		step_close_range(party);
	else if (dice < 880)
		step_send(party);
	else if (dice < 940)
		step_receive(party);
	else if (dice < 965)
		step_map(party);
	else if (dice < 980)
		step_fork(party);
	else if (dice < 988)
		step_clone_files(party);
	else if (dice < 994)
		step_thread(party);
	else if (dice < 996 && party->may_unshare)
		step_unshare(party);
	else if (unseen)
		step_unseen(party);
	if (pause_us > 0)
		usleep(below(party, 2 * pause_us));
}

static void do_steps(struct party *party, unsigned count)
{
	for (unsigned i = 0; i < count && boottime_ns() < stop_ns; i++)
		one_step(party);
}

/* ---- rest ----------------------------------------------------------------------------------------------------------- */

static void record_held(const struct party *party, const struct bracket *inherited)
{
	for (int i = 0; i < party->count; i++) {
		const struct held *const held = &party->held[i];
		struct record *const record = new_record(inherited ? "storm_fork" : party->is_thread ? "storm_thread" : "storm");
		record->fd = held->fd;
		record->opened = inherited ? *inherited : held->opened;
		record->description = held->description;
		record->exact = inherited ? held->description_seen : held->seen;
		record->description_exact = held->description_seen;
		if (party->is_thread && !inherited)
			record->tid = thread_id();
		atomic_store(&record->kind, record_fd);
	}
}

static void run_party(struct party *party)
{
	while (boottime_ns() < stop_ns)
		one_step(party);
	reap(party, true);
	/* Nobody sends any more when all have stopped; then the mailboxes are emptied, so that nothing is held by a message. */
	atomic_fetch_add(stopped, 1);
	futex_wake(stopped);
	uint32_t now;
	while ((now = atomic_load(stopped)) < parties)
		syscall(SYS_futex, stopped, FUTEX_WAIT, now, NULL, NULL, 0);
	while (step_receive(party))
		;
	while (party->count > kept_at_rest)
		step_close(party);
	record_held(party, NULL);
	settle();
	wait_phase(phase_end);
}

static void *run_thread(void *party)
{
	run_party(party);
	return NULL;
}

/* Forks a holder of what it has, before the storm: its copy lives through all of it. */
static void old_copy(struct party *party)
{
	struct bracket bracket;
	for (int i = 0; i < 20; i++)
		step_open(party);
	begin(&bracket);
	const pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid > 0)
		return;
	end(&bracket);
	die_with_parent();
	record_held(party, &bracket);
	settle();
	wait_phase(phase_end);
	_exit(0);
}

static void run_worker(unsigned index)
{
	static struct party party[threads_of_worker];
	pthread_t thread[threads_of_worker];
	/* Every other worker has threads, of which some leave the table for one of their own. */
	const unsigned count = index % 2 == 0 ? 1 : threads_of_worker;
	for (unsigned i = 0; i < count; i++) {
		party[i].random = (seed * 1000003u + index * 101u + i) | 1;
		party[i].mailbox = mailboxes[index][1];
		party[i].index = index;
		party[i].own_table = count == 1;
		party[i].may_unshare = i > 0;
		next_random(&party[i]);
	}
	old_copy(&party[0]);
	for (unsigned i = 1; i < count; i++)
		if (pthread_create(&thread[i], NULL, run_thread, &party[i]) != 0)
			die("pthread_create");
	run_party(&party[0]);
	for (unsigned i = 1; i < count; i++)
		pthread_join(thread[i], NULL);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	_exit(0);
}

/* An exec'd child: whatever it inherited, some steps of its own, and gone without closing. */
static int child_main(const char *number)
{
	static struct party party;
	party.random = strtoull(number, NULL, 10) | 1;
	party.childless = true;
	party.own_table = true;
	party.mailbox = -1;
	snprintf(work_file, sizeof(work_file), "/dev/null");
	for (unsigned i = 0; i < 10 + party.random % 20; i++) {
		step_open(&party);
		step_dup(&party);
		if (i % 2)
			step_close(&party);
	}
	return 0;
}

/* A child that was killed may have left its file. */
static void remove_work_dir(void)
{
	DIR *const dir = opendir(work_dir);
	const struct dirent *entry;
	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			unlinkat(dirfd(dir), entry->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(work_dir);
}

static int usage(const char *wrong)
{
	fprintf(stderr, "storm: what is \"%s\"? See the head of storm.c.\n", wrong);
	return 2;
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const bool more = i + 1 < argc;
		if (strcmp(argv[i], "--child") == 0 && more)
			return child_main(argv[i + 1]);
		if (strcmp(argv[i], "--seconds") == 0 && more && atof(argv[i + 1]) > 0)
			seconds = atof(argv[++i]);
		else if (strcmp(argv[i], "--seed") == 0 && more)
			seed = strtoull(argv[++i], NULL, 10);
		else if (strcmp(argv[i], "--workers") == 0 && more && atoi(argv[i + 1]) > 0 && atoi(argv[i + 1]) <= most_workers)
			workers = (unsigned)atoi(argv[++i]);
		else if (strcmp(argv[i], "--pause-us") == 0 && more && atoi(argv[i + 1]) >= 0)
			pause_us = (unsigned)atoi(argv[++i]);
		else if (strcmp(argv[i], "--unseen") == 0)
			unseen = true;
		else
			return usage(argv[i]);
	}
	signal(SIGPIPE, SIG_IGN);
	create_shared();
	close(truth_memfd);
	stopped = mmap(NULL, sizeof(*stopped), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (stopped == MAP_FAILED)
		die("mmap");
	const char *const parent = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
	if (snprintf(work_dir, sizeof(work_dir), "%s/storm-XXXXXX", parent) >= (int)sizeof(work_dir))
		return usage(parent);
	if (!mkdtemp(work_dir))
		die(work_dir);
	snprintf(work_file, sizeof(work_file), "%s/file", work_dir);
	const int made = open(work_file, O_RDWR | O_CREAT, 0600);
	if (made < 0 || ftruncate(made, 4096) != 0)
		die(work_file);
	close(made);
	for (unsigned i = 0; i < workers; i++)
		if (socketpair(AF_UNIX, SOCK_DGRAM, 0, mailboxes[i]) != 0)
			die("socketpair");
	stop_ns = boottime_ns() + (uint64_t)(seconds * 1e9);
	for (unsigned i = 0; i < workers; i++)
		parties += i % 2 == 0 ? 1 : threads_of_worker;
	const uint32_t expected = parties + workers; /* and each worker's old copy */
	for (unsigned i = 0; i < workers; i++) {
		const pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			die_with_parent();
			run_worker(i);
		}
	}
	uint32_t now;
	while ((now = atomic_load(&truth->settled)) < expected) {
		const struct timespec second = {.tv_sec = 1};
		syscall(SYS_futex, &truth->settled, FUTEX_WAIT, now, &second, NULL, 0);
		siginfo_t info = {0};
		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid > 0) {
			fprintf(stderr, "storm: a worker ended early\n");
			return 1;
		}
	}
	print_records(0);
	print_ready("rest");
	char line[64];
	while (next_command(line, sizeof(line)))
		;
	set_phase(phase_end);
	while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
		;
	remove_work_dir();
	return atomic_load(&truth->overflow) == 0 ? 0 : 1;
}
