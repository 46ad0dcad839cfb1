/* A tracker in GLib's main loop. usage: glib_host PID */
#include <fdspan/fdspan.h>

#include <glib-unix.h>
#include <stdio.h>
#include <stdlib.h>

static struct fdspan_tracker *tracker;
static GMainLoop *loop;
static guint timer;
static int failed;

static void on_event(void *context, const struct fdspan_event *event)
{
	(void)context;
	if (event->reference)
		printf("%s %d %s\n", fdspan_event_name(event->kind), event->reference->fd, event->reference->path);
	if (event->kind == FDSPAN_EVENT_EXIT)
		g_main_loop_quit(loop);
}

static void process(void);

static gboolean on_timer(gpointer context)
{
	(void)context;
	timer = 0;
	process();
	return G_SOURCE_REMOVE;
}

static gboolean on_readable(gint fd, GIOCondition condition, gpointer context)
{
	(void)fd, (void)condition, (void)context;
	process();
	return G_SOURCE_CONTINUE;
}

static void process(void)
{
	guint64 at_us, now_us = (guint64)g_get_monotonic_time(); /* CLOCK_MONOTONIC */
	uint64_t at_ns;

	if (fdspan_process(tracker, 1000) < 0) {
		failed = 1;
		g_main_loop_quit(loop);
	}
	g_clear_handle_id(&timer, g_source_remove);
	if (fdspan_get_timeout_ns(tracker, &at_ns) == 0 && at_ns != UINT64_MAX) {
		at_us = (at_ns + 999) / 1000;
		timer = g_timeout_add(at_us > now_us ? (guint)((at_us - now_us + 999) / 1000) : 0, on_timer, NULL);
	}
	fflush(stdout);
}

int main(int argc, char **argv)
{
	int32_t pid = argc > 1 ? atoi(argv[1]) : 0;
	struct fdspan_options options = {.size = sizeof(options), .pids = &pid, .pid_count = 1, .on_event = on_event};

	if (fdspan_open(&options, &tracker) < 0)
		return 2;
	loop = g_main_loop_new(NULL, FALSE);
	g_unix_fd_add(fdspan_get_fd(tracker), G_IO_IN, on_readable, NULL);
	printf("ready\n");
	process();
	g_main_loop_run(loop);
	g_main_loop_unref(loop);
	fdspan_close(tracker);
	return failed ? 2 : 0;
}
