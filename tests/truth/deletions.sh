#!/bin/bash
# Every way of removing a name x every way of holding the file x ext4, tmpfs, overlayfs: told once, rightly, by each backend of this host.
set -euo pipefail
directory=$(mktemp -d)
cleanup() {
  umount "$directory/ext4" 2>/dev/null || true
  rm -rf --one-file-system "$directory"
}
trap cleanup EXIT
mkdir "$directory/ext4"
truncate -s 64M "$directory/image"
mkfs.ext4 -q -F "$directory/image"
mount -o loop "$directory/image" "$directory/ext4"
failed=0
for arguments in '--backend syscall' '--backend syscall --older' '--backend procfs'; do
  # shellcheck disable=SC2086 # words
  "$BIN/check_deletions" --fdspan "$FDSPAN" $arguments "$directory/ext4" || failed=1
done
exit $failed
