#!/usr/bin/env bash
# run.sh FOLDER [SECONDS]: runs each fuzzer of FOLDER for SECONDS (default 10), starting from seeds/NAME. Fails when one crashes,
# hangs or runs out of memory; the input that did it stays in FOLDER/NAME.found and belongs into seeds/NAME once mended.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?folder of the fuzzers}
seconds=${2:-${FUZZ_SECONDS:-10}}
count=0
failed=()
for source in "$here"/*.cpp; do
    name=$(basename "$source" .cpp)
    corpus=$folder/$name.corpus
    mkdir -p "$corpus" "$folder/$name.found"
    log=$folder/$name.log
    if "$folder/$name" -max_total_time="$seconds" -max_len=65536 -timeout=60 -rss_limit_mb=512 -artifact_prefix="$folder/$name.found/" \
        "$corpus" "$here/seeds/$name" >"$log" 2>&1; then
        printf '%-10s %s\n' "$name" "$(grep -o 'Done [0-9]* runs in [0-9]* second(s)' "$log")"
    else
        printf '%-10s failed\n' "$name"
        tail -n 30 "$log"
        failed+=("$name")
    fi
    count=$((count + 1))
done
((count > 0)) || { echo "no fuzzer in $here" >&2; exit 1; }
((${#failed[@]} == 0)) || { echo "failed: ${failed[*]}" >&2; exit 1; }
