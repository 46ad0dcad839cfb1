// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/*
 * One tiny program of each kind that fdspan's backends need. `fdspan doctor` loads and attaches each alone, makes its event
 * happen, and looks whether it ran: a program that loads may not attach, and one that attached may never fire.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

__u64 fdspan_probe_fired = 0;

SEC("iter/task_file")
int fdspan_probe_iterator(void *ctx)
{
	__sync_fetch_and_add(&fdspan_probe_fired, 1);
	return 0;
}

SEC("tp_btf/sys_enter")
int fdspan_probe_tracepoint(void *ctx)
{
	__sync_fetch_and_add(&fdspan_probe_fired, 1);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int fdspan_probe_tp_btf(void *ctx)
{
	__sync_fetch_and_add(&fdspan_probe_fired, 1);
	return 0;
}

SEC("fentry/fd_install")
int fdspan_probe_fentry(void *ctx)
{
	__sync_fetch_and_add(&fdspan_probe_fired, 1);
	return 0;
}

SEC("kprobe/fd_install")
int fdspan_probe_kprobe(void *ctx)
{
	__sync_fetch_and_add(&fdspan_probe_fired, 1);
	return 0;
}
