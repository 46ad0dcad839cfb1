#!/bin/bash
# How many instructions the verifier walks through for each program (verified_insns of its fdinfo), against tests/speed/verified.txt:
# what a start costs, and how near a program is to the verifier's million. Counts belong to a kernel: on another than those in the file
# they are printed and nothing is compared. verified.sh --update writes the ones of this kernel.
set -u
: "${FDSPAN:?path of the fdspan binary}" "${SOURCE_DIR:?}"
figures=$SOURCE_DIR/tests/speed/verified.txt
PATH=$PATH:/usr/sbin
work=$(mktemp -d)
watch=
trap 'kill "$watch" 2>/dev/null; rm -rf "$work"' EXIT
kernel=$(uname -r | grep -oE '^[0-9]+\.[0-9]+')-$(uname -m)

# watch holds the programs of its backend and the iterators, all at once.
"$FDSPAN" watch --json --backend syscall --timeout 300s >"$work/events" 2>"$work/err" &
watch=$!
for _ in $(seq 1200); do
    [ -s "$work/events" ] && break
    kill -0 "$watch" 2>/dev/null || break
    sleep 0.1
done
# A link names its program as well, but not what that took.
for fd in /proc/"$watch"/fdinfo/*; do
    awk '/^prog_id:/ { id = $2 } /^verified_insns:/ { count = $2 } END { if (id && count) print id, count }' "$fd" 2>/dev/null
done >"$work/ids"
[ -s "$work/ids" ] || { echo "FAILED: watch holds no BPF program: $(cat "$work/err")" >&2; exit 1; }
while read -r id count; do
    name=$(bpftool -j prog show id "$id" | jq -r .name) || exit 1
    case $name in fdspan_*) echo "$name $count" ;; esac
done <"$work/ids" | sort -u >"$work/now"

if [ "${1:-}" = --update ]; then
    { grep -v "^$kernel " "$figures" 2>/dev/null; sed "s/^/$kernel /" "$work/now"; } >"$work/new"
    mv "$work/new" "$figures"
    exit 0
fi
if ! grep -q "^$kernel " "$figures"; then
    cat "$work/now"
    echo "skipped: there are no figures of $kernel"
    exit 77
fi
awk -v kernel="$kernel" '
    NR == FNR { if ($1 == kernel) wanted[$2] = $3; next }
    !($1 in wanted) { printf "FAILED: %s has no figure: %s\n", $1, $2; failed = 1; next }
    { seen[$1] = 1; change = 100 * ($2 / wanted[$1] - 1); total += $2 }
    change > 25 { printf "FAILED: %s: the verifier walks %d instructions instead of %d\n", $1, $2, wanted[$1]; failed = 1 }
    change < -25 { printf "FAILED: %s became cheaper, %d instructions instead of %d: write that down\n", $1, $2, wanted[$1]; failed = 1 }
    END {
        for (name in wanted) if (!(name in seen)) { printf "FAILED: %s is not loaded any more\n", name; failed = 1 }
        printf "%d instructions in all\n", total
        exit failed
    }
' "$figures" "$work/now"
