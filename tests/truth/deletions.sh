#!/bin/bash
# Every way of removing a name x every way of holding the file x ext4, tmpfs, overlayfs: told once, rightly, by each backend of this host.
set -euo pipefail
directory=$(mktemp -d)
cleanup() {
  local point
  for point in overlay layers ext4; do
    if mountpoint -q "$directory/$point"; then umount "$directory/$point"; fi
  done
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
# Who may not see other users' processes sees their own as well; here also where the numbers of a mapping are not those of its file.
mkdir "$directory/layers" "$directory/overlay"
mount -t tmpfs fdspan "$directory/layers"
mkdir "$directory/layers"/{lower,upper,work}
mount -t overlay fdspan -o "lowerdir=$directory/layers/lower,upperdir=$directory/layers/upper,workdir=$directory/layers/work" "$directory/overlay"
chmod 755 "$directory"
chmod 1777 "$directory"/{ext4,layers,overlay}
cp "$BIN/check_deletions" "$FDSPAN" "$directory/"
setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all \
  "$directory/check_deletions" --fdspan "$directory/fdspan" --backend procfs "$directory"/{ext4,layers,overlay} || failed=1
exit $failed
