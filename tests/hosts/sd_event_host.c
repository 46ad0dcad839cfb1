/* A tracker in systemd's sd-event loop. usage: sd_event_host PID */
#include <fdspan/fdspan.h>

#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-event.h>
#include <time.h>

static struct fdspan_tracker *tracker;
static sd_event_source *timer;

static void on_event(void *context, const struct fdspan_event *event)
{
	if (event->reference)
		printf("%s %d %s\n", fdspan_event_name(event->kind), event->reference->fd, event->reference->path);
	if (event->kind == FDSPAN_EVENT_EXIT)
		sd_event_exit(context, 0);
}

static int process(void)
{
	uint64_t at_ns;
	int code = fdspan_process(tracker, 1000);

	fflush(stdout);
	if (code < 0)
		return code;
	/* The same clock; sd-event counts microseconds. */
	if (fdspan_get_timeout_ns(tracker, &at_ns) < 0 || at_ns == UINT64_MAX)
		return sd_event_source_set_enabled(timer, SD_EVENT_OFF);
	sd_event_source_set_time(timer, (at_ns + 999) / 1000);
	return sd_event_source_set_enabled(timer, SD_EVENT_ONESHOT);
}

static int on_readable(sd_event_source *source, int fd, uint32_t events, void *context)
{
	(void)source, (void)fd, (void)events, (void)context;
	return process();
}

static int on_timer(sd_event_source *source, uint64_t at_us, void *context)
{
	(void)source, (void)at_us, (void)context;
	return process();
}

int main(int argc, char **argv)
{
	int32_t pid = argc > 1 ? atoi(argv[1]) : 0;
	sd_event_source *readable = NULL;
	sd_event *loop = NULL;
	int code;

	sd_event_default(&loop);
	struct fdspan_options options = {.size = sizeof(options), .pids = &pid, .pid_count = 1, .on_event = on_event, .event_context = loop};

	if (fdspan_open(&options, &tracker) < 0)
		return 2;
	sd_event_add_time(loop, &timer, CLOCK_MONOTONIC, UINT64_MAX, 0, on_timer, NULL);
	sd_event_add_io(loop, &readable, fdspan_get_fd(tracker), EPOLLIN, on_readable, NULL);
	printf("ready\n");
	code = process();
	if (code >= 0)
		code = sd_event_loop(loop);
	sd_event_source_unref(readable);
	sd_event_source_unref(timer);
	sd_event_unref(loop);
	fdspan_close(tracker);
	return code < 0 ? 2 : 0;
}
