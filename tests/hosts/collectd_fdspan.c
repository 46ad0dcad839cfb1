/* A plugin for collectd, which reads it from threads of its own, one at a time; in between the kernel's ring keeps the news. */
#include <collectd.h>
#include <plugin.h>

#include <fdspan/fdspan.h>
#include <time.h>

static struct fdspan_tracker *tracker;

static void on_log(void *context, uint32_t level, const char *message)
{
	(void)context;
	plugin_log(level == FDSPAN_LOG_ERROR ? LOG_ERR : level == FDSPAN_LOG_WARNING ? LOG_WARNING : LOG_INFO, "fdspan: %s", message);
}

static void submit(const char *type, const char *instance, value_t value)
{
	value_list_t list = VALUE_LIST_INIT;

	list.values = &value, list.values_len = 1;
	snprintf(list.plugin, sizeof(list.plugin), "fdspan");
	snprintf(list.type, sizeof(list.type), "%s", type);
	snprintf(list.type_instance, sizeof(list.type_instance), "%s", instance);
	plugin_dispatch_values(&list);
}

static int fdspan_collectd_init(void)
{
	return fdspan_open(&(struct fdspan_options){.size = sizeof(struct fdspan_options), .on_log = on_log}, &tracker);
}

static int fdspan_collectd_read(void)
{
	struct fdspan_statistics figures = {.size = sizeof(figures)};
	struct fdspan_query query = {.size = sizeof(query), .kinds = FDSPAN_REF_FD, .types = FDSPAN_TYPE_REGULAR};
	struct fdspan_snapshot_options deleted = {.size = sizeof(deleted), .flags = FDSPAN_SNAPSHOT_DELETED, .on_log = on_log};
	struct fdspan_snapshot *snapshot;
	struct fdspan_cursor *cursor;
	const struct fdspan_row *row;
	struct timespec now;
	uint64_t oldest_ns = UINT64_MAX, held = 0, seen[4096];
	size_t count = 0, i;

	for (int left = 64; left > 0 && fdspan_process(tracker, 10000) > 0; left--)
		;
	clock_gettime(CLOCK_BOOTTIME, &now);
	if (fdspan_cursor_open(tracker, &query, &cursor) < 0)
		return -1;
	while (fdspan_cursor_next(cursor, &row) > 0)
		if (row->reference->description_opened.latest_ns < oldest_ns)
			oldest_ns = row->reference->description_opened.latest_ns;
	fdspan_cursor_close(cursor);
	if (fdspan_get_statistics(tracker, &figures) < 0 || fdspan_snapshot_take(&deleted, &snapshot) < 0)
		return -1;
	query = (struct fdspan_query){.size = sizeof(query)};
	if (fdspan_cursor_open_snapshot(snapshot, &query, &cursor) < 0)
		cursor = NULL;
	while (cursor && fdspan_cursor_next(cursor, &row) > 0) { /* a file counts once, however many hold it */
		uint64_t file = row->reference->ino ^ (uint64_t)row->reference->dev_major << 44 ^ (uint64_t)row->reference->dev_minor << 32;
		for (i = 0; i < count && seen[i] != file; i++)
			;
		if (i == count && count < 4096)
			seen[count++] = file, held += row->reference->allocated_bytes;
	}
	fdspan_cursor_close(cursor);
	fdspan_snapshot_free(snapshot);
	if (oldest_ns != UINT64_MAX)
		submit("duration", "oldest_open_file", (value_t){.gauge = (double)now.tv_sec + now.tv_nsec / 1e9 - (double)oldest_ns / 1e9});
	submit("bytes", "deleted_held", (value_t){.gauge = (double)held});
	submit("count", "descriptors", (value_t){.gauge = (double)figures.descriptors});
	submit("derive", "lost_records", (value_t){.derive = (derive_t)figures.lost_records});
	return 0;
}

void module_register(void)
{
	plugin_register_init("fdspan", fdspan_collectd_init);
	plugin_register_read("fdspan", fdspan_collectd_read);
}
