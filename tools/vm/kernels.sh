# The kernels of the matrix, and where they lie; sourced after tools/lib/common.sh.
# shellcheck shell=bash

VM_DIR=$BUILD/vm
VM_KERNELS=(6.1 6.12 uml)
VM_PACKAGES=(qemu-system-x86 busybox-static cpio e2fsprogs util-linux xz-utils zstd lz4 binutils bpftool)

# The package names that can carry a kernel: the newest is taken. Signed ones first: only their modules load under lockdown.
vm_package_patterns() {
  case $1 in
    6.1) printf '%s\n' '^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' '^linux-image-6\.1\.0-[0-9]+-cloud-amd64-unsigned$' ;;
    6.12) printf '%s\n' '^linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64$' '^linux-image-6\.12\.[0-9]+\+deb12-cloud-amd64-unsigned$' ;;
    uml) printf '%s\n' '^user-mode-linux$' ;;
    *) die "no such kernel: $1 (there are: ${VM_KERNELS[*]})" ;;
  esac
}

# build/vm/kernels/NAME holds `kernel` (vmlinuz or linux.uml), `modules/*.ko`, `package`, and `btf` for kernels that have one.
vm_kernel_dir() { printf '%s/kernels/%s' "$VM_DIR" "$1"; }

# Modules that the tests want to have, loaded by /init in this order where the kernel has them as modules.
VM_MODULES=(loop fuse overlay)
