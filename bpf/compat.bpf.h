/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Every difference between kernels that fdspan knows, each decided by what BTF says exists, never by a version number.
 * Include after kernel.h and the libbpf headers.
 */
#ifndef FDSPAN_COMPAT_BPF_H
#define FDSPAN_COMPAT_BPF_H

#include "wire.h"

/*
 * bpf_rdonly_cast (kfunc, since 6.2) lets a program dereference a pointer that it read as a number; without it every step
 * is a probe read. The loader sets this from BTF before the load.
 */
const volatile bool fdspan_have_rdonly_cast = false;
/*
 * The loader puts the call of the kernel's function in the place of this one, whose number no helper has (bind_calls() in bpf_object.cpp). As a weak
 * symbol, libbpf would look for it in the BTF of every module where the kernel lacks it, and that takes CAP_SYS_ADMIN (BPF_BTF_GET_NEXT_ID).
 */
static void *(*const fdspan_rdonly_cast)(void *obj, __u32 btf_id) = (void *)FDSPAN_CALL_RDONLY_CAST;

/* The kernel's number of a type. An object that is given a BTF of few types at load gets it in another way. */
#ifndef FDSPAN_TYPE_ID
#define FDSPAN_TYPE_ID(type) bpf_core_type_id_kernel(type)
#endif
#define FDSPAN_CAST(type, pointer) ((type *)fdspan_rdonly_cast((void *)(pointer), FDSPAN_TYPE_ID(type)))

/* One field of a kernel object whose address is only a number to the verifier. */
#define FDSPAN_READ(type, pointer, field)                                                                              \
	({                                                                                                             \
		typeof(((type *)0)->field) __value;                                                                    \
		/* Evaluated first: what stands inside BPF_CORE_READ is relocated too, be it our own struct. */        \
		type *__object = (type *)(pointer);                                                                    \
		if (fdspan_have_rdonly_cast)                                                                           \
			__value = FDSPAN_CAST(type, __object)->field;                                                  \
		else                                                                                                   \
			__value = BPF_CORE_READ(__object, field);                                                      \
		__value;                                                                                               \
	})

/*
 * Reference count of a struct file. Since 6.13 (include/linux/file_ref.h) it is f_ref, which holds
 * the count less one; before, f_count.
 */
typedef struct {
	long long counter;
} fdspan_atomic64___local;
struct fdspan_file_ref___local {
	fdspan_atomic64___local refcnt;
} __attribute__((preserve_access_index));
struct file___file_ref {
	struct fdspan_file_ref___local f_ref;
} __attribute__((preserve_access_index));
struct file___f_count {
	struct {
		long long counter;
	} f_count;
} __attribute__((preserve_access_index));

static __always_inline long long fdspan_file_count(const struct file *file)
{
	long long count = 0;

	if (bpf_core_field_exists(((struct file___file_ref *)0)->f_ref)) {
		const struct file___file_ref *ref = (const void *)file;

		if (fdspan_have_rdonly_cast)
			return FDSPAN_CAST(struct file___file_ref, file)->f_ref.refcnt.counter + 1;
		bpf_core_read(&count, sizeof(count), &ref->f_ref.refcnt.counter);
		return count + 1;
	}
	const struct file___f_count *counted = (const void *)file;

	bpf_core_read(&count, sizeof(count), &counted->f_count.counter);
	return count;
}

/* 32-bit tasks, and 32-bit syscalls, whose numbers are other ones. */
struct fdspan_thread_info___local {
	unsigned long flags;
	__u32 status;
} __attribute__((preserve_access_index));
struct task_struct___thread_info {
	struct fdspan_thread_info___local thread_info;
} __attribute__((preserve_access_index));
#if defined(__TARGET_ARCH_x86)
#define FDSPAN_TIF_32BIT 29 /* TIF_ADDR32 */
#define FDSPAN_TS_COMPAT 2  /* arch/x86/include/asm/thread_info.h */
#else
#define FDSPAN_TIF_32BIT 22 /* TIF_32BIT */
#endif

/* `current_task` is in a syscall. */
static __always_inline bool fdspan_syscall_is_compat(const struct task_struct *current_task)
{
	const struct task_struct___thread_info *task = (const void *)current_task;

#if defined(__TARGET_ARCH_x86)
	return bpf_core_field_exists(task->thread_info.status) && task->thread_info.status & FDSPAN_TS_COMPAT;
#else
	return task->thread_info.flags >> FDSPAN_TIF_32BIT & 1;
#endif
}

/* Syscall arguments, still in place at syscall exit (only the return register is overwritten). */
#if defined(__TARGET_ARCH_x86)
#define FDSPAN_ARG1(regs) ((regs)->di)
#define FDSPAN_ARG2(regs) ((regs)->si)
#define FDSPAN_ARG3(regs) ((regs)->dx)
#define FDSPAN_ARG4(regs) ((regs)->r10)
#define FDSPAN_ARG5(regs) ((regs)->r8)
#define FDSPAN_SYSCALL_NUMBER(regs) ((regs)->orig_ax)
#elif defined(__TARGET_ARCH_arm64) /* the member is called regs, so the parameter can not be */
#define FDSPAN_ARG1(saved) ((saved)->orig_x0)
#define FDSPAN_ARG2(saved) ((saved)->regs[1])
#define FDSPAN_ARG3(saved) ((saved)->regs[2])
#define FDSPAN_ARG4(saved) ((saved)->regs[3])
#define FDSPAN_ARG5(saved) ((saved)->regs[4])
#define FDSPAN_SYSCALL_NUMBER(saved) ((saved)->syscallno)
#endif

/* Arguments of a function in the registers at its entry, where a kprobe stands. */
#if defined(__TARGET_ARCH_x86)
#define FDSPAN_PARAMETER0(registers) ((registers)->di)
#define FDSPAN_PARAMETER1(registers) ((registers)->si)
#define FDSPAN_PARAMETER2(registers) ((registers)->dx)
#define FDSPAN_PARAMETER3(registers) ((registers)->cx)
#elif defined(__TARGET_ARCH_arm64)
#define FDSPAN_PARAMETER0(registers) ((registers)->regs[0])
#define FDSPAN_PARAMETER1(registers) ((registers)->regs[1])
#define FDSPAN_PARAMETER2(registers) ((registers)->regs[2])
#define FDSPAN_PARAMETER3(registers) ((registers)->regs[3])
#endif

#endif /* FDSPAN_COMPAT_BPF_H */
