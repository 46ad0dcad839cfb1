#!/bin/bash
# Kernel maps that are full: what found no room is counted, its times are bounds that contain the truth, and doctor and ls say so.
# BACKEND: which one (default: auto).
set -euo pipefail
backend=${BACKEND:-auto}
if [[ $EUID -ne 0 || $(stat -f -c %T /sys/fs/bpf) != bpf_fs ]]; then
  echo "needs root and a bpffs on /sys/fs/bpf"
  exit 77
fi
# The machine has one arming; another run of the tests waits its turn.
exec 9>/tmp/fdspan-arm.lock
flock 9
work=$(mktemp -d)
cleanup() {
  "$FDSPAN" disarm >/dev/null 2>&1 || true
  rm -rf -- "$work"
}
trap cleanup EXIT
failed=0
fail() { echo "FAILED $*"; failed=1; }
expect() { # WHAT FILTER: holds for the document in $work/out
  jq -e "$2" "$work/out" >/dev/null || fail "$1: not true: $2: $(head -c 400 "$work/out")"
}
run() {
  code=0
  "$FDSPAN" "$@" >"$work/out" 2>"$work/err" || code=$?
}
boottime_ns() { # in whole hundredths of a second
  local up
  read -r up _ </proc/uptime
  echo "$((${up/./}))0000000"
}

entries=4096
"$FDSPAN" disarm >/dev/null || [[ $? -eq 1 ]]
"$FDSPAN" arm --backend "$backend" --max-entries $entries >/dev/null
exec 8</dev/null
before=$(boottime_ns)
# More descriptions than there is room for, of a process of their own.
coproc HOLD {
  ulimit -n $((entries + 200))
  # shellcheck disable=SC2034 # the numbers are nobody's business
  for ((i = 0; i < entries + 100; i++)); do exec {held}</dev/null || break; done
  echo ready
  read -r _
}
hold=$HOLD_PID # gone as soon as it is reaped
read -r _ <&"${HOLD[0]}"
after=$(($(boottime_ns) + 20000000))
run ls -p "$hold" --json
if [[ $code -ne 3 ]]; then fail "ls exits $code instead of 3: $(cat "$work/err")"; fi
if ! grep -q 'maps were full' "$work/err"; then fail "ls does not say why: $(cat "$work/err")"; fi
expect "ls" ".complete == false and (.references | length > $entries)"
expect "some are exact, some are not" '.references | map(select(.path == "/dev/null" and .fd > 63) | .opened.source) | unique == ["bounded", "kernel"]'
expect "each interval contains the truth" "[.references[] | select(.path == \"/dev/null\" and .fd > 63) |
  (.opened, .description.opened) | (.earliest_boottime_ns // 0) <= $after and .latest_boottime_ns >= $before] | all"
run ls -p $$ --fd 8 --json
expect "what was there first stays exact" '.references[0].opened.source == "kernel"'
run doctor --json
if [[ $code -ne 3 ]]; then fail "doctor exits $code instead of 3"; fi
expect "doctor" ".armed | .descriptions_lost > 0 and .descriptions <= .max_descriptions and .max_descriptions == $entries"
run doctor
if ! grep -q 'a map was full' "$work/out"; then fail "doctor does not say it in words: $(tail -n 3 "$work/out")"; fi
echo >&"${HOLD[1]}"
wait "$hold" || fail "the holder exits $?"
# Entries that come and go while they are counted.
(
  ulimit -n $((entries + 200))
  held=()
  for ((i = 0; i < entries; i++)); do exec {held[i]}</dev/null; done
  : >"$work/full"
  for ((at = 0; ; at = (at * 5 + 1) % entries)); do
    exec {held[at]}<&-
    exec {held[at]}</dev/null
  done
) &
churn=$!
until [[ -e $work/full ]] || ! kill -0 "$churn"; do sleep 0.1; done
for _ in $(seq 20); do
  run doctor --json
  expect "doctor, beside open and close" ".armed.descriptions <= $entries"
done
kill "$churn" || fail "the churn had ended before"
wait "$churn" || [[ $? -eq 143 ]]
"$FDSPAN" disarm >/dev/null
exit $failed
