#!/bin/bash
# After a storm of random work the index equals a snapshot, and the kernel maps hold nothing dead.
# STORM_SECONDS: how long each storm lasts. STORM_SEED: another one.
set -euo pipefail
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
seconds=${STORM_SECONDS:-10}
seed=${STORM_SEED:-$RANDOM}
failed=0
storm() {
  echo "== $*"
  "$BIN/check_storm" --fdspan "$FDSPAN" --program "$BIN/storm" --backend syscall --seed "$seed" "$@" || failed=1
}
storm --seconds "$seconds" --pause-us 500
storm --seconds "$seconds"
# A ring that the test itself can fill, where the storm is too slow for that.
storm --seconds "$seconds" --ring-bytes 1M --stop-reader 3
storm --seconds "$seconds" --pause-us 500 --ring-bytes 512K --stop-reader 2
exit $failed
