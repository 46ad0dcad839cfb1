// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The snapshot's programs for kernels before 6.2, which have no bpf_rdonly_cast. */
#define FDSPAN_BY_PROBE_READ
#include "snapshot.bpf.c"
