/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The kernel maps that are the truth about times, and the operations on them that every program shares.
 * The loader sets max_entries; an object that only reads them is given the others' maps before load.
 */
#ifndef FDSPAN_MAPS_BPF_H
#define FDSPAN_MAPS_BPF_H

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64); /* struct file * */
	__type(value, struct fdspan_description);
} descriptions SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct fdspan_descriptor_key);
	__type(value, struct fdspan_descriptor);
} descriptors SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64); /* struct files_struct * */
	__type(value, struct fdspan_table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct fdspan_chunk_key);
	__type(value, struct fdspan_chunk);
} table_chunks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fdspan_settings);
} settings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct fdspan_counters);
} counters SEC(".maps");

static __always_inline struct fdspan_settings *fdspan_settings_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline struct fdspan_counters *fdspan_counters_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&counters, &zero);
}

#define FDSPAN_COUNT(field)                                                                                            \
	do {                                                                                                           \
		struct fdspan_counters *__counters = fdspan_counters_get();                                            \
		if (__counters)                                                                                        \
			__sync_fetch_and_add(&__counters->field, 1);                                                   \
	} while (0)

/*
 * Speck64/128 (Beaulieu et al., 2013): a keyed permutation of 64-bit values. User space needs to tell objects apart, not
 * to know where they are; being a permutation, two live objects never share an id.
 */
static __always_inline __u64 fdspan_hide(const struct fdspan_settings *with, __u64 pointer)
{
	__u32 x = pointer >> 32, y = (__u32)pointer;

#pragma unroll
	for (int i = 0; i < FDSPAN_ROUNDS; i++) {
		x = ((x >> 8) | (x << 24)) + y;
		x ^= with->round_keys[i];
		y = ((y << 3) | (y >> 29)) ^ x;
	}
	return ((__u64)x << 32) | y;
}

/* ---- the three sets of slots of a table ---- */

static __always_inline __u64 *fdspan_inline_words(struct fdspan_table *table, __u32 set)
{
	if (set == FDSPAN_SET_INHERITED)
		return table->inherited;
	if (set == FDSPAN_SET_SURVIVORS)
		return table->survivors;
	return table->present;
}

static __always_inline __u64 *fdspan_slot_word(struct fdspan_table *table, __u64 pointer, __u32 set, __s32 fd)
{
	__u32 word = (__u32)fd / FDSPAN_WORD_BITS;

	if (word < FDSPAN_INLINE_WORDS)
		return &fdspan_inline_words(table, set)[word & (FDSPAN_INLINE_WORDS - 1)];
	struct fdspan_chunk_key key = {.table = pointer, .chunk = word / FDSPAN_CHUNK_WORDS, .set = set};
	struct fdspan_chunk *chunk = bpf_map_lookup_elem(&table_chunks, &key);

	if (!chunk)
		return NULL;
	barrier_var(chunk); /* clang would compute the address before the test, which the verifier refuses */
	return &chunk->words[word & (FDSPAN_CHUNK_WORDS - 1)];
}

static __always_inline bool fdspan_slot_test(struct fdspan_table *table, __u64 pointer, __u32 set, __s32 fd)
{
	__u64 *word = fdspan_slot_word(table, pointer, set, fd);

	return word && (*word >> ((__u32)fd % FDSPAN_WORD_BITS) & 1);
}

static __always_inline void fdspan_slot_clear(struct fdspan_table *table, __u64 pointer, __u32 set, __s32 fd)
{
	__u64 *word = fdspan_slot_word(table, pointer, set, fd);

	/* Mostly there is nothing to clear, and looking takes no lock of the bus. */
	if (word && (*word >> ((__u32)fd % FDSPAN_WORD_BITS) & 1))
		__sync_fetch_and_and(word, ~(1ULL << ((__u32)fd % FDSPAN_WORD_BITS)));
}

static __always_inline void fdspan_slot_set(struct fdspan_table *table, __u64 pointer, __u32 set, __s32 fd)
{
	__u64 *word = fdspan_slot_word(table, pointer, set, fd);

	if (word)
		__sync_fetch_and_or(word, 1ULL << ((__u32)fd % FDSPAN_WORD_BITS));
}

/* ---- what the maps know about one reference ---- */

struct fdspan_times {
	__u64 opened_earliest_ns;
	__u64 opened_latest_ns; /* 0: not known */
	__u64 description_earliest_ns;
	__u64 description_latest_ns; /* 0: not known */
	__u64 description_id;
};

/*
 * The span of the description that `file` is, or NULL. An entry may be left over from a struct file whose end nobody saw
 * (unmapped after its descriptor was closed) and whose memory was reused since: the inode has to be the same, and the
 * caller has to have further evidence.
 */
static __always_inline struct fdspan_description *fdspan_description_of(__u64 file, __u64 inode)
{
	struct fdspan_description *description = bpf_map_lookup_elem(&descriptions, &file);

	return description && description->inode == inode ? description : NULL;
}

/*
 * The times of descriptor (table, fd), which holds `file` now. A time is only claimed with evidence for this very
 * descriptor: it is the one its description was made with, or was seen being duplicated or received, or was in the table
 * when that was copied or counted. `trusted` is false for tasks whose syscalls the hooks don't see (32-bit ones).
 */
static __always_inline void fdspan_join(__u64 table, __s32 fd, __u64 file, __u64 inode, bool trusted,
					struct fdspan_times *times)
{
	struct fdspan_description *description = fdspan_description_of(file, inode);
	struct fdspan_table *known = bpf_map_lookup_elem(&tables, &table);
	__u64 born = known ? known->born_ns : 0;
	__u64 exec = known ? known->exec_ns : 0;
	bool survived = !exec || fdspan_slot_test(known, table, FDSPAN_SET_SURVIVORS, fd);
	struct fdspan_descriptor_key key = {.table = table, .fd = fd};
	struct fdspan_descriptor *own;

	times->opened_earliest_ns = born;
	if (!trusted)
		return;
	if (description && description->table == table && description->fd == fd &&
	    description->opened_latest_ns >= born && (survived || description->opened_latest_ns > exec)) {
		times->opened_earliest_ns = description->opened_earliest_ns;
		times->opened_latest_ns = description->opened_latest_ns;
	} else if ((own = bpf_map_lookup_elem(&descriptors, &key)) && own->file == file && own->opened_ns >= born &&
		   (survived || own->opened_ns > exec)) {
		times->opened_earliest_ns = times->opened_latest_ns = own->opened_ns;
	} else if (born && survived && fdspan_slot_test(known, table, FDSPAN_SET_INHERITED, fd)) {
		/* Without its description's entry, the slot may as well have been emptied and refilled unseen. */
		if (!description || description->opened_latest_ns > born)
			return;
		times->opened_latest_ns = born;
	} else if (known && known->census_ns && survived && fdspan_slot_test(known, table, FDSPAN_SET_PRESENT, fd)) {
		if (!description || description->opened_latest_ns > known->census_ns)
			return;
		times->opened_latest_ns = known->census_ns;
	} else {
		return;
	}
	if (description) {
		times->description_earliest_ns = description->opened_earliest_ns;
		times->description_latest_ns = description->opened_latest_ns;
		times->description_id = description->id;
	}
}

#endif /* FDSPAN_MAPS_BPF_H */
