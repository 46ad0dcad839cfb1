#!/bin/bash
# Whenever `fdspan arm` is killed, the next arm works, and disarm leaves no pin, no program and no map.
# BACKEND: which one (default: auto). ROUNDS: how many kills.
set -euo pipefail
export PATH=$PATH:/usr/sbin
backend=${BACKEND:-auto}
rounds=${ROUNDS:-8}
pins=/sys/fs/bpf
if [[ $EUID -ne 0 || $(stat -f -c %T "$pins") != bpf_fs ]]; then
  echo "needs root and a bpffs on $pins"
  exit 77
fi
# The machine has one arming; another run of the tests waits its turn.
exec 9>/tmp/fdspan-arm.lock
flock 9
failed=0
fail() { echo "FAILED $*"; failed=1; }
objects() { # what is loaded with fdspan's names: the kernel frees it a moment after the last reference
  { bpftool prog list; bpftool map list; } | grep -cE 'name (fdspan_|descriptions|descriptors|tables|table_chunks|settings|counters|hook_seen|chunk_template|pending|ring)' || true
}
nothing_left() {
  local left=''
  left=$(find "$pins" -mindepth 1 -maxdepth 1 -name 'fdspan*')
  if [[ -n $left ]]; then fail "$1: pins left: $left"; fi
  for _ in $(seq 600); do
    if [[ $(objects) -le $before ]]; then return; fi
    sleep 0.1
  done
  fail "$1: $(objects) programs and maps, $before before"
}

"$FDSPAN" disarm >/dev/null || [[ $? -eq 1 ]]
before=$(objects)
started=$EPOCHREALTIME
"$FDSPAN" arm --backend "$backend" >/dev/null
whole_us=$((${EPOCHREALTIME/./} - ${started/./}))
"$FDSPAN" disarm >/dev/null
nothing_left "arm and disarm"
killed=0
for round in $(seq "$rounds"); do
  "$FDSPAN" arm --backend "$backend" >/dev/null 2>&1 &
  arming=$!
  # Spread over the whole of its life.
  delay_us=$((whole_us * round / rounds))
  sleep "$((delay_us / 1000000)).$(printf %06d $((delay_us % 1000000)))"
  if kill -9 "$arming" 2>/dev/null; then killed=$((killed + 1)); fi
  wait "$arming" 2>/dev/null || true
  if [[ $((round % 3)) -ne 0 ]]; then
    "$FDSPAN" arm --backend "$backend" >/dev/null || fail "round $round: arm after a kill exits $?"
    "$FDSPAN" ls --backend "$backend" -p $$ >/dev/null || { code=$?; if [[ $backend != auto || $code -ne 3 ]]; then fail "round $round: ls exits $code"; fi; }
  fi
  "$FDSPAN" disarm >/dev/null || [[ $? -eq 1 ]] || fail "round $round: disarm"
  nothing_left "round $round"
done
echo "$killed of $rounds killed, over $((whole_us / 1000)) ms"
if [[ $killed -eq 0 ]]; then fail "no arm was killed"; fi
exit $failed
