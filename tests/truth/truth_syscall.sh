#!/bin/bash
# Armed tracking with the syscall backend: exact wherever a syscall shows the descriptor, never wrong anywhere.
# 10,000 opens, idle and busy; descriptors older than the tracking and copies of them; the same through `watch`.
set -euo pipefail
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
# The machine has one arming; another run of the tests waits its turn.
exec 9>/tmp/fdspan-arm.lock
flock 9
failed=0
check() {
  echo "== $*"
  "$BIN/check_truth" --fdspan "$FDSPAN" --program "$BIN/make_spans" --backend syscall "$@" || failed=1
}
check --mode armed
check --mode older
check --mode armed --count 10000
check --mode armed --count 10000 --busy
check --mode live
check --mode armed --program "$BIN/storm" --seconds 3 --pause-us 100 --unseen
exit $failed
