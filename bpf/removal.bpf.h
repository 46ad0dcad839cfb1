/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Names that are taken away, moved or replaced: the news of it, with who did it, because a moment later `rm` is gone.
 * Needs track.bpf.h.
 */
#ifndef FDSPAN_REMOVAL_BPF_H
#define FDSPAN_REMOVAL_BPF_H

/*
 * Who waits for it may want to ask the kernel of a holder that is about to go, so it wakes the reader at once; but who removes a tree of
 * files is not made to pay for a wakeup each.
 */
#define FDSPAN_REMOVAL_WAKEUP_NS 1000000
__u64 fdspan_removal_woke_ns;

static __always_inline __u64 fdspan_removal_wakeup(struct fdspan_settings *with, __u64 now_ns)
{
	/* CPUs that come at the same moment wake it twice. */
	if (now_ns - fdspan_removal_woke_ns < FDSPAN_REMOVAL_WAKEUP_NS)
		return fdspan_wakeup(with);
	fdspan_removal_woke_ns = now_ns;
	return BPF_RB_FORCE_WAKEUP;
}

/* Names of a walk into a place for FDSPAN_NAMES_BYTES; any name fits the second half. */
struct fdspan_names {
	struct fdspan_walk walk;
	char *to;
};

static long fdspan_copy_name(__u32 index, void *context)
{
	struct fdspan_names *names = context;
	__u64 named = fdspan_walk_up(&names->walk);
	__u32 bytes = names->walk.bytes;

	if (!named)
		return names->walk.done != 0;
	if (bytes > FDSPAN_NAMES_BYTES / 2) {
		names->walk.cut = 1;
		return 1;
	}
	long copied = bpf_probe_read_kernel_str(names->to + bytes, FDSPAN_NAMES_BYTES / 2,
						(void *)FDSPAN_READ(struct dentry, named, d_name.name));
	if (copied > 0)
		names->walk.bytes = bytes + copied;
	return names->walk.done != 0;
}

static __always_inline void fdspan_copy_names(char *to, __u64 dentry, __u64 vfsmount, __u16 *bytes, __u16 *flags)
{
	struct fdspan_names names = {.to = to};

	fdspan_walk_from(&names.walk, dentry, vfsmount);
	bpf_loop(FDSPAN_MAX_NAMES, fdspan_copy_name, &names, 0);
	*bytes = names.walk.bytes;
	*flags = names.walk.cut || !names.walk.done ? FDSPAN_PLACE_BASE_CUT : 0;
}

#define FDSPAN_PF_IO_WORKER 0x10 /* include/linux/sched.h */

/* Who does it. `record` has room for all but what belongs to the backend. */
static __always_inline void fdspan_fill_culprit(struct fdspan_unlinked *record)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 exe = (__u64)BPF_CORE_READ(task, mm, exe_file);

	record->cgroup = bpf_get_current_cgroup_id();
	record->uid = task->cred->uid.val;
	record->exe_bytes = 0;
	record->exe_flags = 0;
	/* The kernel makes and names the workers of an io_uring (io_uring/io-wq.c): the name that says something is their process's. */
	struct task_struct *named = task->flags & FDSPAN_PF_IO_WORKER ? task->group_leader : task;

	bpf_probe_read_kernel_str(record->comm, sizeof(record->comm), (void *)named->comm);
	if (exe)
		fdspan_copy_names(record->exe, (__u64)FDSPAN_READ(struct file, exe, f_path.dentry),
				  (__u64)FDSPAN_READ(struct file, exe, f_path.mnt), &record->exe_bytes, &record->exe_flags);
}

#endif /* FDSPAN_REMOVAL_BPF_H */
