/* A tracker in a plain epoll loop: prints what a process opens and closes, until it ends. usage: epoll_host PID [BACKEND] */
#include <fdspan/fdspan.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

static int ended;

static void on_event(void *context, const struct fdspan_event *event)
{
	(void)context;
	if (event->kind == FDSPAN_EVENT_LOST)
		printf("lost %" PRIu64 "\n", event->lost);
	else if (event->reference)
		printf("%s %d %s\n", fdspan_event_name(event->kind), event->reference->fd, event->reference->path);
	if (event->kind == FDSPAN_EVENT_EXIT)
		ended = 1;
}

static void on_log(void *context, uint32_t level, const char *message)
{
	(void)context;
	if (level != FDSPAN_LOG_INFO)
		fprintf(stderr, "fdspan: %s\n", message);
}

/* How long epoll may sleep, rounded up to its milliseconds. */
static int milliseconds(struct fdspan_tracker *tracker)
{
	struct timespec now;
	uint64_t at_ns, now_ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	if (fdspan_get_timeout_ns(tracker, &at_ns) != 0 || at_ns == UINT64_MAX)
		return -1;
	return at_ns <= now_ns ? 0 : (int)((at_ns - now_ns + 999999) / 1000000);
}

int main(int argc, char **argv)
{
	int32_t pid = argc > 1 ? atoi(argv[1]) : 0;
	struct fdspan_options options = {.size = sizeof(options), .pids = &pid, .pid_count = 1};
	struct epoll_event ready = {.events = EPOLLIN};
	struct fdspan_tracker *tracker;
	int loop = epoll_create1(EPOLL_CLOEXEC), code;

	options.on_event = on_event;
	options.on_log = on_log;
	options.poll_interval_ns = 50000000;
	if (argc > 2 && strcmp(argv[2], "procfs") == 0)
		options.backend = FDSPAN_BACKEND_PROCFS;
	if ((code = fdspan_open(&options, &tracker)) < 0) {
		fprintf(stderr, "fdspan_open: %s\n", strerror(-code));
		return 2;
	}
	if (epoll_ctl(loop, EPOLL_CTL_ADD, fdspan_get_fd(tracker), &ready) != 0)
		return 2;
	printf("ready %s\n", fdspan_backend_name((uint32_t)fdspan_get_backend(tracker)));
	while (!ended) {
		fflush(stdout);
		epoll_wait(loop, &ready, 1, milliseconds(tracker));
		if ((code = fdspan_process(tracker, 1000)) < 0)
			break;
	}
	fdspan_close(tracker);
	close(loop);
	return code < 0 ? 2 : 0;
}
