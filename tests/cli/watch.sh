# watch prints events, ends when it should, and says why in its exit code.
. "$(dirname "$0")/lib.sh"
touch "$work/file"

run watch --json --timeout 200ms --backend procfs --interval 50ms -p $$
head -1 "$work/out" | jq -e '.event == "started" and .schema == 1 and .backend == "procfs"' >/dev/null || fail "the first line is the start: $(head -1 "$work/out")"

for backend in procfs auto; do
    rm -f "$work/tell"
    mkfifo "$work/lines" "$work/tell"
    timeout 240 "$FDSPAN" watch --json --backend "$backend" --interval 50ms --event opened,closed --count 2 --timeout 180s "$work/file" >"$work/lines" 2>"$work/err" &
    watcher=$!
    exec 4<"$work/lines"
    rm "$work/lines"
    read -r started <&4
    jq -e '.event == "started"' <<<"$started" >/dev/null || fail "started first ($backend): $started"
    # Not by the shell's own exec 5<, which opens 3 and moves it. Open until watch has told of it, and 0.3 s.
    python3 -c 'import os, sys, time; began = time.monotonic(); fd = os.open(sys.argv[1], os.O_RDONLY); sys.stdin.readline()
time.sleep(max(0, 0.4 - (time.monotonic() - began))); os.close(fd); sys.stdin.readline()' "$work/file" <"$work/tell" &
    holder=$!
    exec 5>"$work/tell"
    read -r opened <&4
    echo >&5
    { echo "$opened"; cat <&4; } >"$work/out"
    exec 5>&-
    wait "$holder"
    exec 4<&-
    wait "$watcher"
    code=$?
    expect_code 0 "watch --count ($backend)"
    jq -s -e --arg path "$work/file" 'map([.event, .path]) == [["opened", $path], ["closed", $path]]' "$work/out" >/dev/null ||
        fail "an opened and a closed ($backend): $(head -c 600 "$work/out")"
    jq -s -e '.[1].duration_ns >= 0 and (.[1].duration_max_ns >= 300000000) and .[0].boottime_ns > 0' "$work/out" >/dev/null ||
        fail "closed carries its duration ($backend): $(head -c 900 "$work/out")"
done

run watch --backend procfs --interval 50ms --timeout 300ms "$work/no-such-file"
expect_code 1 "a timeout without an event"
[ ! -s "$work/err" ] || fail "a timeout is no complaint: $(cat "$work/err")"

for signal in INT TERM; do
    # Through python: a background job of this shell would ignore SIGINT.
    python3 - "$FDSPAN" "$signal" >"$work/out" <<'PY'
import signal, subprocess, sys
name = getattr(signal, "SIG" + sys.argv[2])
signal.signal(signal.SIGINT, signal.SIG_DFL)
process = subprocess.Popen([sys.argv[1], "watch", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
process.stdout.readline()
process.send_signal(name)
process.communicate(timeout=120)
print(process.returncode)
PY
    grep -qE '^[03]$' "$work/out" || fail "SIG$signal ends watch cleanly: $(cat "$work/out")"
done

# Constant events must not starve the signal, nor a reader that has stopped reading hold it up.
python3 - "$FDSPAN" >"$work/out" <<'PY'
import os, signal, subprocess, sys, threading, time
busy = True
def churn():
    while busy:
        os.close(os.open("/dev/null", os.O_RDONLY))
thread = threading.Thread(target=churn)
thread.start()
results = []
for reading in (True, False):
    process = subprocess.Popen([sys.argv[1], "watch", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)
    process.stdout.readline()
    if reading:
        reader = threading.Thread(target=lambda: [None for _ in iter(lambda: process.stdout.read(65536), b"")])
        reader.start()
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
    results.append(process.wait())
    if reading:
        reader.join()
busy = False
thread.join()
print(*results)
PY
grep -qE '^[03] [03]$' "$work/out" || fail "SIGTERM ends a busy watch, and one whose reader sleeps: $(cat "$work/out")"

# A reader that goes away ends it, though nothing happens.
timeout 120 "$FDSPAN" watch --json --event exit -p 2147483646 2>"$work/err" | head -1 >/dev/null
code=${PIPESTATUS[0]}
case $code in 0 | 2) ;; *) fail "a closed pipe ends watch: exit code $code" ;; esac
# How a process ended; what polling did not see is not made up.
for backend in procfs auto; do
    rm -f "$work/tell" "$work/out"
    mkfifo "$work/tell"
    bash -c 'read -r _; exit 3' <"$work/tell" &
    exits=$!
    exec 5>"$work/tell"
    sleep 600 &
    killed=$!
    background+=("$exits" "$killed")
    timeout 240 "$FDSPAN" watch --json --backend "$backend" --interval 50ms --event exit --count 2 --timeout 180s -p "$exits,$killed" >"$work/out" 2>"$work/err" &
    watcher=$!
    until [ -s "$work/out" ] || ! kill -0 "$watcher" 2>/dev/null; do sleep 0.05; done
    echo >&5
    exec 5>&-
    wait "$exits"
    kill -KILL "$killed"
    wait "$killed" 2>/dev/null
    wait "$watcher"
    code=$?
    expect_code 0 "watch --event exit ($backend)"
    expected="[[$exits, 3, null], [$killed, null, \"SIGKILL\"]]"
    if jq -s -e '.[0].backend == "procfs"' "$work/out" >/dev/null; then expected="[[$exits, null, null], [$killed, null, null]]"; fi
    jq -s -e ".[1:] | map([.pid, .exit_code, .signal]) | sort_by(.[0]) == ($expected | sort_by(.[0]))" "$work/out" >/dev/null ||
        fail "how a process ended ($backend): not $expected: $(cut -c1-400 "$work/out")"
done
finish
