/*
 * fdspan-bench-load: loads for tools/bench/bench, and what they cost. Each mode says on stdout what it did.
 *   hold DIR PROCESSES DESCRIPTORS FILES DEPTH NAME_BYTES DELETED
 *       PROCESSES processes hold DESCRIPTORS descriptors each, of FILES files each, in a directory DEPTH levels below DIR,
 *       with names of NAME_BYTES bytes; every file up to number DELETED is unlinked once it is held. Prints "ready" and holds
 *       until standard input ends.
 *   pairs CPU MILLISECONDS PATH
 *       open and close PATH on this CPU. Prints the fastest and the median slice in ns per pair, and how many pairs it made.
 *   calls CPU MILLISECONDS
 *       getppid(2) on this CPU; likewise, in ns per call.
 *   unlink CPU MILLISECONDS DIR RATE
 *       open and close a file at RATE pairs per second; every 10 ms open another, unlink it, and print the file's name and
 *       the CLOCK_BOOTTIME ns at which unlink(2) returned.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <signal.h>

/* One look at the clock costs a percent of this many pairs. */
#define SLICE 1000
#define MAX_SLICES 1000000

static void die(const char *what)
{
	fprintf(stderr, "fdspan-bench-load: %s: %s\n", what, strerror(errno));
	exit(2);
}

static uint64_t now_ns(clockid_t clock)
{
	struct timespec at;

	clock_gettime(clock, &at);
	return (uint64_t)at.tv_sec * 1000000000 + (uint64_t)at.tv_nsec;
}

static void pin(const char *cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(atoi(cpu), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (*end || end == text) {
		fprintf(stderr, "fdspan-bench-load: %s is not a number\n", text);
		exit(2);
	}
	return value;
}

/* ---- hold ---- */

static void hold_files(int process, uint64_t descriptors, uint64_t files, uint64_t name_bytes, uint64_t deleted)
{
	char name[256];

	for (uint64_t i = 0; i < descriptors; i++) {
		uint64_t file = i % files;
		int length = snprintf(name, sizeof(name), "%d-%" PRIu64 "-", process, file);

		for (; (uint64_t)length < name_bytes && length < 255; length++)
			name[length] = 'x';
		name[length] = 0;
		/* Past the first round a deleted file has no name: hold it again through its first descriptor. */
		int fd = i < files ? open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : dup((int)file + 3);

		if (fd < 0)
			die("open a file to hold");
		if (i < files && file < deleted && unlink(name))
			die("unlink");
	}
}

static int hold(char **argv)
{
	int processes = (int)number(argv[1]);
	uint64_t descriptors = number(argv[2]), files = number(argv[3]), depth = number(argv[4]);
	struct rlimit limit;
	int ready[2], gate[2];
	char byte;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		die("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		die("setrlimit");
	if (limit.rlim_cur < descriptors + 8) {
		fprintf(stderr, "fdspan-bench-load: RLIMIT_NOFILE allows %llu descriptors in a process\n",
			(unsigned long long)limit.rlim_cur);
		return 2;
	}
	if (chdir(argv[0]))
		die(argv[0]);
	for (uint64_t level = 0; level < depth; level++) {
		char name[32];

		snprintf(name, sizeof(name), "level-%" PRIu64, level);
		if ((mkdir(name, 0700) && errno != EEXIST) || chdir(name))
			die(name);
	}
	if (pipe2(ready, O_CLOEXEC) || pipe2(gate, O_CLOEXEC))
		die("pipe2");
	for (int process = 0; process < processes; process++) {
		pid_t pid = fork();

		if (pid < 0)
			die("fork");
		if (pid > 0)
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Standard descriptors and nothing else, so that file n is descriptor n + 3. */
		dup2(gate[0], 0);
		dup2(ready[1], 1);
		close_range(3, ~0U, 0);
		hold_files(process, descriptors, files, number(argv[5]), number(argv[6]));
		if (write(1, "", 1) != 1)
			die("write");
		if (read(0, &byte, 1) < 0)
			die("read");
		_exit(0);
	}
	close(ready[1]);
	close(gate[0]);
	for (int process = 0; process < processes; process++) {
		if (read(ready[0], &byte, 1) != 1) {
			fprintf(stderr, "fdspan-bench-load: a holding process ended early\n");
			return 2;
		}
	}
	printf("ready\n");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	close(gate[1]);
	while (wait(NULL) > 0)
		;
	return 0;
}

/* ---- slices ---- */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int slices(uint64_t milliseconds, void (*work)(const char *), const char *path)
{
	static double took[MAX_SLICES];
	size_t count = 0;
	uint64_t end = now_ns(CLOCK_MONOTONIC) + milliseconds * 1000000;

	while (count < MAX_SLICES) {
		if (now_ns(CLOCK_MONOTONIC) >= end)
			break;
		/* The CPU time of this thread: what the hooks do in its syscalls, not what others do on its core. */
		uint64_t before = now_ns(CLOCK_THREAD_CPUTIME_ID);

		for (int i = 0; i < SLICE; i++)
			work(path);
		took[count++] = (double)(now_ns(CLOCK_THREAD_CPUTIME_ID) - before) / SLICE;
	}
	if (count == 0)
		return 2;
	qsort(took, count, sizeof(took[0]), by_value);
	printf("%.1f %.1f %zu\n", took[0], took[count / 2], count * SLICE);
	return 0;
}

static void open_and_close(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		die(path);
	close(fd);
}

static void unrelated(const char *path)
{
	(void)path;
	syscall(SYS_getppid);
}

/* ---- unlink ---- */

static int unlink_under_load(uint64_t milliseconds, const char *dir, uint64_t rate)
{
	const uint64_t period_ns = 10000000;
	uint64_t begin = now_ns(CLOCK_MONOTONIC), next_unlink = begin + period_ns, made = 0, unlinked = 0;
	char name[64];

	if (chdir(dir))
		die(dir);
	int fd = open("busy", O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		die("busy");
	close(fd);
	for (;;) {
		uint64_t now = now_ns(CLOCK_MONOTONIC);

		if (now - begin >= milliseconds * 1000000)
			break;
		/* In portions of ten, so that the clock costs little beside them. */
		if (made * 1000000000 <= rate * (now - begin)) {
			for (int i = 0; i < 10; i++)
				open_and_close("busy");
			made += 10;
		}
		if (now < next_unlink)
			continue;
		next_unlink += period_ns;
		snprintf(name, sizeof(name), "unlinked-%" PRIu64, unlinked++);
		fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || unlink(name))
			die(name);
		printf("%s %" PRIu64 "\n", name, now_ns(CLOCK_BOOTTIME));
		close(fd);
	}
	fprintf(stderr, "%" PRIu64 "\n", made * 1000 / milliseconds);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 9 && strcmp(argv[1], "hold") == 0)
		return hold(argv + 2);
	if (argc == 5 && strcmp(argv[1], "pairs") == 0) {
		pin(argv[2]);
		return slices(number(argv[3]), open_and_close, argv[4]);
	}
	if (argc == 4 && strcmp(argv[1], "calls") == 0) {
		pin(argv[2]);
		return slices(number(argv[3]), unrelated, NULL);
	}
	if (argc == 6 && strcmp(argv[1], "unlink") == 0) {
		pin(argv[2]);
		return unlink_under_load(number(argv[3]), argv[4], number(argv[5]));
	}
	fprintf(stderr, "usage: fdspan-bench-load hold|pairs|calls|unlink ARGUMENTS… (see load.c)\n");
	return 2;
}
