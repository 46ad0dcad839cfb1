/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Tasks that begin, exec and end: the scheduler's tracepoints, which every backend shares. Needs track.bpf.h.
 */
#ifndef FDSPAN_TASKS_BPF_H
#define FDSPAN_TASKS_BPF_H

SEC("tp_btf/sched_process_fork")
int BPF_PROG(fdspan_fork, struct task_struct *parent, struct task_struct *child)
{
	FDSPAN_ENTER_UNCHECKED();
	fdspan_forked(parent, child);
	return 0;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(fdspan_exec, struct task_struct *task, int old_tid)
{
	FDSPAN_ENTER_UNCHECKED();
	fdspan_execed(task, old_tid);
	return 0;
}

/* Fires before the table is given back (kernel/exit.c, do_exit: exit_files comes later). */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(fdspan_exit, struct task_struct *task)
{
	FDSPAN_ENTER_UNCHECKED();
	fdspan_exiting(task);
	return 0;
}

#endif /* FDSPAN_TASKS_BPF_H */
