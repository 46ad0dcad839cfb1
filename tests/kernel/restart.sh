#!/bin/bash
# Whenever `fdspan watch` is killed, the kernel frees all that it had loaded; the next one starts cleanly; what is armed meanwhile
# keeps its times, and nothing that is dead.
# BACKEND: which one (default: auto). ROUNDS: how many kills.
set -euo pipefail
export PATH=$PATH:/usr/sbin
backend=${BACKEND:-auto}
rounds=${ROUNDS:-6}
if [[ $EUID -ne 0 || $(stat -f -c %T /sys/fs/bpf) != bpf_fs ]]; then
  echo "needs root and a bpffs on /sys/fs/bpf"
  exit 77
fi
# The machine has one arming; another run of the tests waits its turn.
exec 9>/tmp/fdspan-arm.lock
flock 9
work=$(mktemp -d)
storm=''
cleanup() {
  if [[ -n $storm ]]; then kill "$storm" 2>/dev/null || true; fi
  "$FDSPAN" disarm >/dev/null 2>&1 || true
  rm -rf -- "$work"
}
trap cleanup EXIT
failed=0
fail() { echo "FAILED $*"; failed=1; }

loaded_by() { # what a process holds: "prog 12", "map 7", "link 3"
  sed -nE 's/^(prog|map|link)_id:[[:space:]]*/\1 /p' "/proc/$1/fdinfo/"* 2>/dev/null | sort -u || true
}
loaded() { # what the kernel has
  local kind
  for kind in prog map link; do bpftool "$kind" list | sed -nE "s/^([0-9]+): .*/$kind \1/p"; done | sort -u
}
expect_freed() { # WHAT: nothing in $work/held is left, within 60 s
  local left=''
  for _ in $(seq 300); do
    left=$(comm -12 "$work/held" <(loaded))
    if [[ -z $left ]]; then return; fi
    sleep 0.2
  done
  fail "$1: still loaded: $(tr '\n' ',' <<<"$left")"
}
start_watch() {
  "$FDSPAN" watch --json --backend "$backend" >"$work/watch" 2>"$work/errors" &
  watch=$!
}
wait_started() {
  for _ in $(seq 600); do
    if grep -q '"event":"started"' "$work/watch"; then return; fi
    sleep 0.1
  done
  fail "watch does not start: $(cat "$work/errors")"
}
kill_watch() { # stopped first, so that what it holds can be read
  kill -STOP "$watch" 2>/dev/null || true
  loaded_by "$watch" >"$work/held"
  kill -9 "$watch" 2>/dev/null || true
  wait "$watch" 2>/dev/null || true
}

started=$EPOCHREALTIME
start_watch
wait_started
whole_us=$((${EPOCHREALTIME/./} - ${started/./}))
kill_watch
backend=$(jq -r 'select(.event == "started") | .backend' "$work/watch")
if [[ $(grep -c '^prog' "$work/held") -eq 0 ]]; then fail "a watch with the backend $backend holds no program"; fi
expect_freed "killed after its start"
"$BIN/storm" --seconds 600 --workers 2 --pause-us 2000 >/dev/null </dev/zero 9>&- &
storm=$!
most=0
for round in $(seq "$rounds"); do
  start_watch
  # Spread over its start and somewhat beyond.
  delay_us=$((whole_us * round * 5 / (rounds * 4)))
  sleep "$((delay_us / 1000000)).$(printf %06d $((delay_us % 1000000)))"
  kill_watch
  count=$(wc -l <"$work/held")
  if [[ $count -gt $most ]]; then most=$count; fi
  expect_freed "round $round"
done
echo "$rounds killed over $((whole_us / 1000)) ms, with up to $most programs, maps and links"

# Armed: the same times before and after, from the same pins.
"$FDSPAN" arm --backend "$backend" >/dev/null
exec 8</dev/null
times() { "$FDSPAN" ls -p $$ --fd 8 --json | jq -c '.references[0] | [.opened, .description.opened | {source, at: .latest_boottime_ns}]'; }
before=$(times)
pins=$(find /sys/fs/bpf/fdspan | sort)
if ! jq -e 'map(.source == "kernel") | all' <<<"$before" >/dev/null; then fail "not exact while armed: $before"; fi
start_watch
wait_started
sleep 0.5
kill_watch
expect_freed "killed while armed"
if [[ $(find /sys/fs/bpf/fdspan | sort) != "$pins" ]]; then fail "the pins changed"; fi
if [[ $(times) != "$before" ]]; then fail "the times changed: $before, then $(times)"; fi
kill "$storm"
wait "$storm" 2>/dev/null || true
storm=''
sleep 0.5
"$FDSPAN" watch --json --backend "$backend" --verify --timeout 1s >"$work/watch" || { code=$?; if [[ $code -ne 1 ]]; then fail "a watch after the killed ones exits $code: $(tail -n 1 "$work/watch")"; fi; }
if [[ $(times) != "$before" ]]; then fail "the times changed: $before, then $(times)"; fi
"$FDSPAN" disarm >/dev/null
exit $failed
