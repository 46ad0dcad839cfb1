/* A tracker in libevent's loop. usage: libevent_host PID */
#include <fdspan/fdspan.h>

#include <event2/event.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct host {
	struct event_base *loop;
	struct event *readable;
	struct fdspan_tracker *tracker;
	int failed;
};

static void on_event(void *context, const struct fdspan_event *event)
{
	struct host *host = context;

	if (event->reference)
		printf("%s %d %s\n", fdspan_event_name(event->kind), event->reference->fd, event->reference->path);
	if (event->kind == FDSPAN_EVENT_EXIT)
		event_base_loopbreak(host->loop);
}

static void arm(struct host *host)
{
	struct timeval wait = {3600, 0};
	struct timespec now;
	uint64_t at_ns, now_ns;

	clock_gettime(CLOCK_MONOTONIC, &now);
	now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	if (fdspan_get_timeout_ns(host->tracker, &at_ns) == 0 && at_ns != UINT64_MAX) {
		uint64_t left_us = at_ns > now_ns ? (at_ns - now_ns + 999) / 1000 : 0;

		wait = (struct timeval){(time_t)(left_us / 1000000), (suseconds_t)(left_us % 1000000)};
	}
	event_add(host->readable, &wait);
}

static void ready(evutil_socket_t fd, short what, void *context)
{
	struct host *host = context;

	(void)fd, (void)what;
	if (fdspan_process(host->tracker, 1000) < 0) {
		host->failed = 1;
		event_base_loopbreak(host->loop);
	}
	fflush(stdout);
	arm(host);
}

int main(int argc, char **argv)
{
	int32_t pid = argc > 1 ? atoi(argv[1]) : 0;
	struct host host = {.loop = event_base_new()};
	struct fdspan_options options = {.size = sizeof(options), .pids = &pid, .pid_count = 1, .on_event = on_event, .event_context = &host};

	if (fdspan_open(&options, &host.tracker) < 0)
		return 2;
	/* Level-triggered, and with a timeout that counts from each arm(). */
	host.readable = event_new(host.loop, fdspan_get_fd(host.tracker), EV_READ, ready, &host);
	arm(&host);
	printf("ready\n");
	fflush(stdout);
	event_base_dispatch(host.loop);
	event_free(host.readable);
	fdspan_close(host.tracker);
	event_base_free(host.loop);
	return host.failed ? 2 : 0;
}
