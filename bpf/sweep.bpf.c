// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * A sweep of the kernel maps: entries whose object died unseen (a struct file that went with its last mapping or from a queue,
 * a table whose end was lost) are deleted. Everything is decided in the kernel, so that no pointer leaves it.
 *
 * An iterator over a hash map stands on the element it shows, so an entry is deleted when the next one is shown. Where the
 * iterator takes a break in a bucket it may miss a neighbour of what was deleted; the sweep goes round until it finds nothing.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "wire.h"
#include "rows.h"
#include "compat.bpf.h"
#include "maps.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

__u64 sweep_began_ns;     /* entries that are not older are kept */
__u64 live_tables_missed; /* tables that found no room: nothing about tables can be said then */

/* files_struct * of every task -> sweep_began_ns of the sweep that saw it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, __u64);
	__type(value, __u64);
} live_tables SEC(".maps");

/* The entry that goes when the iterator has left it. Not in .bss, which user space sees. */
struct fdspan_doomed {
	__u64 pointer;
	struct fdspan_descriptor_key descriptor;
	struct fdspan_chunk_key chunk;
	__u64 evidence; /* of what it was judged by; another value is a new entry */
	__u64 waiting;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fdspan_doomed);
} doomed SEC(".maps");

static __always_inline struct fdspan_doomed *fdspan_doomed_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&doomed, &zero);
}

/* Tells user space of the verdict. False: no room now, the same element comes again with the next read. */
static __always_inline bool fdspan_tell(struct bpf_iter_meta *meta, __u8 verdict)
{
	return !bpf_seq_write(meta->seq, &verdict, sizeof(verdict));
}

static __always_inline bool fdspan_table_lives(__u64 table)
{
	__u64 *seen = bpf_map_lookup_elem(&live_tables, &table);

	return live_tables_missed || (seen && *seen == sweep_began_ns);
}

static __always_inline bool fdspan_table_young(const struct fdspan_table *table)
{
	return table->born_ns >= sweep_began_ns || table->exec_ns >= sweep_began_ns || table->census_ns >= sweep_began_ns;
}

SEC("iter/task")
int fdspan_mark_tables(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	__u64 table = 0, now = sweep_began_ns;

	if (!task)
		return 0;
	bpf_core_read(&table, sizeof(table), &task->files);
	if (table && bpf_map_update_elem(&live_tables, &table, &now, BPF_ANY))
		__sync_fetch_and_add(&live_tables_missed, 1);
	return 0;
}

/* What earlier sweeps saw. */
SEC("iter/bpf_map_elem")
int fdspan_sweep_live_tables(struct bpf_iter__bpf_map_elem *ctx)
{
	struct fdspan_doomed *last = fdspan_doomed_get();
	__u64 *key = ctx->key, *value = ctx->value;

	if (!last)
		return 0;
	if (last->waiting) {
		last->waiting = 0;
		bpf_map_delete_elem(&live_tables, &last->pointer);
	}
	if (!key || !value || *value == sweep_began_ns || !fdspan_tell(ctx->meta, FDSPAN_SWEEP_DEAD))
		return 0;
	last->pointer = *key;
	last->waiting = 1;
	return 0;
}

/*
 * The memory of a struct file is never given back for another type while somebody may look at it (SLAB_TYPESAFE_BY_RCU), and
 * afterwards a read either fails or finds what is no live file with this inode.
 */
static __always_inline bool fdspan_description_dead(__u64 file, const struct fdspan_description *description)
{
	if (description->opened_latest_ns >= sweep_began_ns)
		return false;
	return fdspan_file_count((const struct file *)file) <= 0 ||
	       (__u64)FDSPAN_READ(struct file, file, f_inode) != description->inode;
}

SEC("iter/bpf_map_elem")
int fdspan_sweep_descriptions(struct bpf_iter__bpf_map_elem *ctx)
{
	struct fdspan_doomed *last = fdspan_doomed_get();
	struct fdspan_description *description;
	__u64 *key = ctx->key;

	if (!last)
		return 0;
	if (last->waiting) {
		last->waiting = 0;
		description = bpf_map_lookup_elem(&descriptions, &last->pointer);
		if (description && description->opened_latest_ns == last->evidence)
			bpf_map_delete_elem(&descriptions, &last->pointer);
	}
	description = ctx->value;
	if (!key || !description)
		return 0;
	bool dead = fdspan_description_dead(*key, description);

	if (!fdspan_tell(ctx->meta, dead ? FDSPAN_SWEEP_DEAD : FDSPAN_SWEEP_KEPT) || !dead)
		return 0;
	last->pointer = *key;
	last->evidence = description->opened_latest_ns;
	last->waiting = 1;
	return 0;
}

/* Descriptor (table, fd) of an entry holds another file by now, or none. */
static __always_inline bool fdspan_descriptor_dead(const struct fdspan_descriptor_key *key,
						   const struct fdspan_descriptor *descriptor)
{
	struct files_struct *files = (struct files_struct *)key->table;
	struct fdtable *fdt;
	__u64 file = 0;

	if (descriptor->opened_ns >= sweep_began_ns)
		return false;
	if (!fdspan_table_lives(key->table))
		return true;
	if (live_tables_missed)
		return false;
	fdt = BPF_CORE_READ(files, fdt);
	if ((__u32)key->fd >= BPF_CORE_READ(fdt, max_fds))
		return true;
	bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(fdt, fd) + key->fd);
	return file != descriptor->file;
}

SEC("iter/bpf_map_elem")
int fdspan_sweep_descriptors(struct bpf_iter__bpf_map_elem *ctx)
{
	struct fdspan_doomed *last = fdspan_doomed_get();
	struct fdspan_descriptor_key *key = ctx->key;
	struct fdspan_descriptor *descriptor;

	if (!last)
		return 0;
	if (last->waiting) {
		last->waiting = 0;
		descriptor = bpf_map_lookup_elem(&descriptors, &last->descriptor);
		if (descriptor && descriptor->opened_ns == last->evidence)
			bpf_map_delete_elem(&descriptors, &last->descriptor);
	}
	descriptor = ctx->value;
	if (!key || !descriptor)
		return 0;
	struct fdspan_descriptor_key copy = {.table = key->table, .fd = key->fd};
	bool dead = fdspan_descriptor_dead(&copy, descriptor);

	if (!fdspan_tell(ctx->meta, dead ? FDSPAN_SWEEP_DEAD : FDSPAN_SWEEP_KEPT) || !dead)
		return 0;
	last->descriptor = copy;
	last->evidence = descriptor->opened_ns;
	last->waiting = 1;
	return 0;
}

SEC("iter/bpf_map_elem")
int fdspan_sweep_tables(struct bpf_iter__bpf_map_elem *ctx)
{
	struct fdspan_doomed *last = fdspan_doomed_get();
	struct fdspan_table *table;
	__u64 *key = ctx->key;

	if (!last)
		return 0;
	if (last->waiting) {
		last->waiting = 0;
		table = bpf_map_lookup_elem(&tables, &last->pointer);
		if (table && !fdspan_table_young(table))
			bpf_map_delete_elem(&tables, &last->pointer);
	}
	table = ctx->value;
	if (!key || !table)
		return 0;
	__u64 pointer = *key;
	bool dead = !fdspan_table_young(table) && !fdspan_table_lives(pointer);

	if (!fdspan_tell(ctx->meta, dead ? FDSPAN_SWEEP_DEAD : FDSPAN_SWEEP_KEPT) || !dead)
		return 0;
	last->pointer = pointer;
	last->waiting = 1;
	return 0;
}

/* Of a table that no task has. A chunk has no time of its own; that of a table just made is as young as the table's entry. */
static __always_inline bool fdspan_chunk_dead(__u64 table)
{
	struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);

	return !fdspan_table_lives(table) && !(known && fdspan_table_young(known));
}

SEC("iter/bpf_map_elem")
int fdspan_sweep_chunks(struct bpf_iter__bpf_map_elem *ctx)
{
	struct fdspan_doomed *last = fdspan_doomed_get();
	struct fdspan_chunk_key *key = ctx->key;

	if (!last)
		return 0;
	if (last->waiting) {
		last->waiting = 0;
		if (fdspan_chunk_dead(last->chunk.table))
			bpf_map_delete_elem(&table_chunks, &last->chunk);
	}
	if (!key || !ctx->value)
		return 0;
	struct fdspan_chunk_key copy = {.table = key->table, .chunk = key->chunk, .set = key->set};
	bool dead = fdspan_chunk_dead(copy.table);

	if (!fdspan_tell(ctx->meta, dead ? FDSPAN_SWEEP_DEAD : FDSPAN_SWEEP_KEPT) || !dead)
		return 0;
	last->chunk = copy;
	last->waiting = 1;
	return 0;
}
