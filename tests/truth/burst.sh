#!/bin/bash
# 1,000 deletions a second while 10,000 files are held: each told once, with the right culprit and holder.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"$BIN/check_burst" --fdspan "$FDSPAN" --backend syscall "$directory"
