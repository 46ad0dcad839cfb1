#!/bin/bash
# Every interval that procfs alone can prove contains the truth, for every way to make a descriptor.
set -euo pipefail
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
"$BIN/check_truth" --mode polled --fdspan "$FDSPAN" --program "$BIN/make_spans"
