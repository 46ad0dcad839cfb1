# The kernels of the matrix, and where they lie; sourced after tools/lib/common.sh.
# shellcheck shell=bash

VM_DIR=$BUILD/vm
VM_KERNELS=(6.1 6.12 uml)
# Whose BTF is taken out of the package, and nothing booted: the BPF objects are to run there too.
VM_BTF_ONLY=(6.1-arm64 6.12-arm64)
# jq, lsof and fuse3 are for the tests in the machines (tools/vm/cells).
VM_PACKAGES=(qemu-system-x86 busybox-static cpio e2fsprogs util-linux xz-utils zstd lz4 binutils bpftool clang jq lsof fuse3)

vm_architecture() { if [[ $1 == *-arm64 ]]; then printf arm64; else printf amd64; fi; }

# The package names that can carry a kernel: the newest is taken. Signed ones first: only their modules load under lockdown.
vm_package_pattern() {
  case $1 in
    6.1 | 6.1-arm64) printf '^linux-image-6\.1\.0-[0-9]+-cloud-%s\n' "$(vm_architecture "$1")"'(-unsigned)?$' ;;
    6.12 | 6.12-arm64) printf '^linux-image-6\.12\.[0-9]+\+deb12-cloud-%s\n' "$(vm_architecture "$1")"'(-unsigned)?$' ;;
    uml) echo '^user-mode-linux$' ;;
    *) die "no such kernel: $1 (there are: ${VM_KERNELS[*]} ${VM_BTF_ONLY[*]})" ;;
  esac
}

# build/vm/kernels/NAME holds `kernel` (vmlinuz or linux.uml), `modules/*.ko`, `package`, and `btf` for kernels that have one.
vm_kernel_dir() { printf '%s/kernels/%s' "$VM_DIR" "$1"; }

# Modules that the tests want to have, loaded by /init in this order where the kernel has them as modules.
VM_MODULES=(loop fuse overlay)
