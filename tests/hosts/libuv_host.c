/* A tracker in libuv's loop. usage: libuv_host PID */
#include <fdspan/fdspan.h>

#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

static struct fdspan_tracker *tracker;
static uv_poll_t readable;
static uv_timer_t timer;
static int failed;

static void on_event(void *context, const struct fdspan_event *event)
{
	if (event->reference)
		printf("%s %d %s\n", fdspan_event_name(event->kind), event->reference->fd, event->reference->path);
	if (event->kind == FDSPAN_EVENT_EXIT)
		uv_stop(context);
}

static void process(void);

static void on_timer(uv_timer_t *handle)
{
	(void)handle;
	process();
}

static void on_readable(uv_poll_t *handle, int status, int events)
{
	(void)handle, (void)events;
	failed |= status < 0;
	process();
}

static void process(void)
{
	uint64_t at_ns, now_ns = uv_hrtime(); /* CLOCK_MONOTONIC, in nanoseconds */

	failed |= fdspan_process(tracker, 1000) < 0;
	if (failed)
		uv_stop(timer.loop);
	uv_timer_stop(&timer);
	if (fdspan_get_timeout_ns(tracker, &at_ns) == 0 && at_ns != UINT64_MAX)
		uv_timer_start(&timer, on_timer, at_ns > now_ns ? (at_ns - now_ns + 999999) / 1000000 : 0, 0);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int32_t pid = argc > 1 ? atoi(argv[1]) : 0;
	uv_loop_t *loop = uv_default_loop();
	struct fdspan_options options = {.size = sizeof(options), .pids = &pid, .pid_count = 1, .on_event = on_event, .event_context = loop};

	if (fdspan_open(&options, &tracker) < 0)
		return 2;
	uv_timer_init(loop, &timer);
	uv_poll_init(loop, &readable, fdspan_get_fd(tracker));
	uv_poll_start(&readable, UV_READABLE, on_readable);
	printf("ready\n");
	process();
	uv_run(loop, UV_RUN_DEFAULT);
	uv_close((uv_handle_t *)&readable, NULL);
	uv_close((uv_handle_t *)&timer, NULL);
	uv_run(loop, UV_RUN_DEFAULT);
	fdspan_close(tracker);
	uv_loop_close(loop);
	return failed ? 2 : 0;
}
