# Settings are checked by name, SIGHUP reads them again, systemd is told and hands over the socket, the unit is hardened.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/daemon_lib.sh"
config=$work/config.json

check_config() { # TEXT…: leaves $code and $work/err
    printf '%s' "$1" >"$config"
    timeout 120 "$fdspand" --config "$config" --check-config >"$work/out" 2>"$work/err"
    code=$?
}
check_config '{"backend": "auto", "log": {"max_age": "7d", /* why */ "max_size": 1048576}, "pinned": false}'
expect_code 0 "good settings"
cp "$SOURCE_DIR/tools/fdspand/fdspand.json" "$config"
timeout 120 "$fdspand" --config "$config" --check-config >/dev/null || fail "the example"
refused() { # TEXT KEY
    check_config "$1"
    expect_code 2 "$1"
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail "$1: one line: $(cat "$work/err")"
    grep -qF -- "$2" "$work/err" || fail "$1: names $2: $(cat "$work/err")"
}
refused '{"logg": {}}' '"logg"'
refused '{"log": {"max_agee": "7d"}}' '"log.max_agee"'
refused '{"log": {"max_age": "7x"}}' 'log.max_age'
refused '{"log": {"max_age": ["7d"]}}' 'log.max_age'
refused '{"log": 5}' 'log'
refused '{"log": {"commit_interval": "2s"}}' 'log.commit_interval'
refused '{"log": {"database": "relative"}}' 'log.database'
refused '{"backend": "magic"}' 'backend'
refused '{"pinned": "perhaps"}' 'pinned'
refused '{"ring_size": 5000}' 'ring_size'
for address in localhost 127.0.0.1:99999 127.0.0.1:0 127.0.0.1:http 127.0.0.1: :9731; do
    refused "{\"metrics\": {\"listen\": \"$address\"}}" 'metrics.listen'
done
check_config '{"metrics": {"listen": "[::1]:9731"}}'
expect_code 0 "an address of IPv6"
refused '{"pinned": true, "pinned": false}' '"pinned"'
refused '{"log.max_age": "7d", "log": {"max_age": "8d"}}' '"log.max_age"'
refused '{"log": {"database": "/tmp/\u0000x"}}' 'log.database'
refused "{\"socket\": {\"path\": \"/$(printf '%0120d' 0)\"}}" 'socket.path'
refused "{\"log\": {}$(printf '%01100000d' 0 | tr 0 ' ')}" 'larger than'
refused '[]' 'object'
refused '{' 'JSON'
refused '{"monitor": {"leak_growth": 1e999}}' "$config"
refused '' 'JSON'
mkfifo "$work/pipe"
for arguments in '--config /nonexistent' "--config $work/pipe" '--config /dev/zero' '--config /tmp' '--bogus' '--database relative' '--check-config=x' 'surplus'; do
    # shellcheck disable=SC2086
    timeout 120 "$fdspand" $arguments >"$work/out" 2>"$work/err"
    code=$?
    expect_code 2 "fdspand $arguments"
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail "fdspand $arguments: one line: $(cat "$work/err")"
done

# Lines have a priority where standard error is the journal, and only there.
said_to_journal() { # DEVICE:INODE
    JOURNAL_STREAM=$1 "$fdspand" --config "$work/settled.json" --backend procfs --pinned false --database '' --metrics '' --socket "$work/prio.sock" 2>>"$work/journal" &
    daemon=$!
    background+=("$daemon")
    until_true "it is ready" grep -q 'ready$' "$work/journal"
    echo '{"backend": 5}' >"$work/settled.json"
    kill -HUP "$daemon"
    until_true "it says what is wrong" grep -q 'not reloaded' "$work/journal"
    stop_daemon
}
: >"$work/journal"
echo '{}' >"$work/settled.json"
said_to_journal "$(stat -c %d:%i "$work/journal")"
grep -q '^<6>ready$' "$work/journal" && grep -q '^<3>not reloaded' "$work/journal" || fail "priorities: $(cat "$work/journal")"
: >"$work/journal"
echo '{}' >"$work/settled.json"
said_to_journal 1:2
grep -q '^<' "$work/journal" && fail "priorities for nobody: $(cat "$work/journal")"

# systemd hears that it is ready, that it lives, and that it stops.
python3 - "$work/notify" >"$work/notified" <<'PY' &
import socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listener.bind(sys.argv[1])
listener.settimeout(60)
while True:
    text = listener.recv(4096).decode()
    print(text, flush=True)
    if "STOPPING" in text:
        break
PY
background+=("$!")
until_true "the listener starts" test -S "$work/notify"
echo '{"log": {"min_duration": "1h"}}' >"$config"
NOTIFY_SOCKET=$work/notify WATCHDOG_USEC=600000 start_daemon --config "$config"
until_true "READY=1" grep -q READY=1 "$work/notified"
until_true "WATCHDOG=1" grep -q WATCHDOG=1 "$work/notified"

python3 -c 'import os, sys, time; fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR); time.sleep(1.1); os.close(fd)' "$work/before"
echo '{"log": {"min_duration": "1x"}}' >"$config"
kill -HUP "$daemon"
until_true "bad settings change nothing" grep -q 'not reloaded.*log.min_duration' "$work/daemon.err"
echo '{"monitor": {"leak_growth": 1e999}}' >"$config"
kill -HUP "$daemon"
until_true "nor does a number that is too large" grep -q 'not reloaded.*1e999' "$work/daemon.err"
echo '{"log": {"min_duration": "500ms"}}' >"$config"
kill -HUP "$daemon"
until_true "good ones are taken" grep -q ': reloaded$' "$work/daemon.err"
python3 -c 'import os, sys, time; fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR); time.sleep(1.1); os.close(fd)' "$work/after"
until_logged --path "$work/after"
expect_code 0 "the new least duration holds"
expect_not_logged --path "$work/before"  # the old one held

# What it can't change while it runs it says.
echo '{"socket": {"max_clients": 7}}' >"$config"
kill -HUP "$daemon"
until_true "another bound of clients waits for the next start, and that is said" grep -q 'socket change with the next start only' "$work/daemon.err"

# What it does not need any more it has given up.
if [ "$(id -u)" -eq 0 ]; then
    effective=$(awk '/^CapEff/ {print $2}' "/proc/$daemon/status")
    # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_PERFMON, CAP_BPF
    [ $((0x$effective & ~((1 << 1) | (1 << 2) | (1 << 19) | (1 << 38) | (1 << 39)))) -eq 0 ] || fail "capabilities that are left: $effective"
    for thread in "/proc/$daemon/task/"*; do
        [ "$(awk '/^CapEff/ {print $2}' "$thread/status")" = "$effective" ] || fail "a thread has more of them"
    done
fi
stop_daemon
until_true "STOPPING=1" grep -q STOPPING=1 "$work/notified"

# A port that was busy is tried again.
python3 -c '
import socket, sys, time
busy = socket.socket()
busy.bind(("127.0.0.1", 0))
busy.listen()
print(busy.getsockname()[1], flush=True)
time.sleep(600)' >"$work/port" &
busy=$!
background+=("$busy")
until_true "the port is taken" test -s "$work/port"
metrics=127.0.0.1:$(cat "$work/port")
start_daemon --metrics "$metrics"
scraped() { python3 -c 'import sys, urllib.request; sys.exit(b"fdspan_info" not in urllib.request.urlopen(sys.argv[1], timeout=60).read())' "http://$metrics/metrics" 2>/dev/null; }
kill "$busy"
wait "$busy"
scraped && fail "somebody else had the port"
kill -HUP "$daemon"
until_true "SIGHUP serves the metrics once the port is free" scraped
stop_daemon

# Socket activation.
if command -v systemd-socket-activate >/dev/null; then
    systemd-socket-activate -l "$work/activated" "$fdspand" --pinned false --database "" --socket "" --metrics "" 2>>"$work/daemon.err" &
    daemon=$!
    background+=("$daemon")
    until_true "systemd-socket-activate listens" test -S "$work/activated"
    timeout 120 "$FDSPAN" check --socket "$work/activated" >"$work/out" 2>&1
    grep -q '^FDSPAN [A-Z]* - ' "$work/out" || fail "a socket that was handed over: $(cat "$work/out")"
    wait_ready
    run check --socket "$work/activated"
    [ "$code" -ne 3 ] || fail "answers over it: $(cat "$work/out")"
    stop_daemon
fi

if command -v systemd-analyze >/dev/null; then
    mkdir "$work/unit"
    sed 's|@SBINDIR@|/usr/sbin|' "$SOURCE_DIR/tools/fdspand/fdspand.service.in" >"$work/unit/fdspand.service"
    exposure=$(systemd-analyze security --offline=true "$work/unit/fdspand.service" 2>/dev/null | grep -oE 'service: [0-9.]+' | cut -d' ' -f2)
    awk -v exposure="${exposure:-10}" 'BEGIN {exit exposure <= 2.0 ? 0 : 1}' || fail "the unit's exposure is $exposure"
fi
finish
