#!/bin/bash
# How many instructions one record or one line costs (callgrind), against what tests/speed/instructions.txt says. A count that grew
# by more than a tenth fails; one that shrank so much is to be written down: instructions.sh --update
# Counts belong to a compiler: where another one builds, they say nothing and the test is skipped.
set -u
: "${BIN:?folder of the helper programs}" "${SOURCE_DIR:?}"
figures=$SOURCE_DIR/tests/speed/instructions.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v valgrind >/dev/null || { echo "FAILED: valgrind is missing" >&2; exit 1; }

compiler=$("$BIN/speed_work" --compiler 2>/dev/null)
count() { # PART: instructions per item
    local times
    times=$(valgrind -q --tool=callgrind --toggle-collect=measured --callgrind-out-file="$work/out" "$BIN/speed_work" "$1") || return 1
    awk -v times="$times" '/^(summary|totals):/ { printf "%.1f\n", $2 / times; exit }' "$work/out"
}
measure() {
    local part counted
    for part in $("$BIN/speed_work"); do
        counted=$(count "$part") && [ -n "$counted" ] || { echo "FAILED: $part could not be counted" >&2; return 1; }
        echo "$part $counted"
    done
}
if [ "${1:-}" = --update ]; then
    { echo "# instructions per item, as tests/speed/instructions.sh --update counts them"; echo "compiler $compiler"; measure; } >"$work/new" || exit 1
    mv "$work/new" "$figures"
    exit 0
fi
expected=$(sed -n 's/^compiler //p' "$figures")
if [ "$compiler" != "$expected" ]; then
    echo "skipped: the figures are of $expected, this is $compiler"
    exit 77
fi
measure >"$work/now" || exit 1
awk '
    NR == FNR { if ($1 != "#" && $1 != "compiler") wanted[$1] = $2; next }
    !($1 in wanted) { printf "FAILED: %s has no figure: %s\n", $1, $2; failed = 1; next }
    { seen[$1] = 1; change = 100 * ($2 / wanted[$1] - 1); printf "%-24s %9.1f instructions, %+.1f %%\n", $1, $2, change }
    change > 10 { printf "FAILED: %s costs %.1f instructions instead of %.1f\n", $1, $2, wanted[$1]; failed = 1 }
    change < -10 { printf "FAILED: %s became cheaper, %.1f instructions instead of %.1f: write that down\n", $1, $2, wanted[$1]; failed = 1 }
    END { for (part in wanted) if (!(part in seen)) { printf "FAILED: %s is not counted any more\n", part; failed = 1 } exit failed }
' "$figures" "$work/now"
