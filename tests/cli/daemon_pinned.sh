# Pinned tracking is one kernel side for all daemons to come: each takes it over with its exact times, one at a time reads it, and one that
# another build pinned is left alone.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/daemon_lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root"; exit 77; }
command -v bpftool >/dev/null || { echo "FAILED: bpftool is missing" >&2; exit 1; }
exec 8>/tmp/fdspan-arm.lock
flock 8
[ -d /sys/fs/bpf/fdspan/armed ] && { echo "tracking is armed on this machine"; exit 77; }
pins=/sys/fs/bpf/fdspan/armed
# The program behind a pinned link: as long as it is the same, nobody has pinned anew.
stamping() { bpftool -j link show pinned "$pins/link_fdspan_fork" | jq .prog_id; }
setting() { # BYTE
    bpftool -j map dump pinned "$pins/map_settings" | jq -r ".[0].value[$1]"
}
# First bytes in struct fdspan_settings.
emit=108
build=160
exact() { # PATH
    run ls --json --socket "$socket" -p $$
    [ "$code" -le 3 ] && jq -e --arg path "$1" '.references[] | select(.path == $path and .opened.source == "kernel")' "$work/out" >/dev/null
}
said() { grep -q "$1" "$work/daemon.err"; }

start_daemon --pinned true
if said "not pinned"; then
    echo "this machine can't pin: $(cat "$work/daemon.err")"
    exit 77
fi
running=$(stamping)
exec 21>"$work/first"
until_true "what the first daemon saw is exact" exact "$work/first"
stop_daemon
[ "$(stamping)" = "$running" ] || fail "tracking ended with the daemon"
[ "$(setting $emit)" = 0x00 ] || fail "the hooks go on telling a ring that nobody reads"
exec 22>"$work/meanwhile"

start_daemon --pinned true
said "beside" && fail "the second daemon did not take over: $(cat "$work/daemon.err")"
[ "$(stamping)" = "$running" ] || fail "the second daemon pinned its own programs"
[ "$(setting $emit)" = 0x01 ] || fail "the hooks tell the second daemon nothing"
exec 23>"$work/second"
for name in first meanwhile second; do until_true "$name is exact after a restart" exact "$work/$name"; done

# kill -9 leaves the hooks telling a ring that nobody reads.
kill -9 "$daemon"
wait "$daemon" 2>/dev/null
for _ in $(seq 2000); do : <"$work/first"; done
start_daemon --pinned true
said "events were lost" && fail "what nobody was there to read is told as lost: $(cat "$work/daemon.err")"
exec 24>"$work/third"
for name in first meanwhile second third; do until_true "$name is exact after kill -9" exact "$work/$name"; done

# Another one beside it reads nothing of the first one's.
"$fdspand" --pinned true --database "$work/other.db" --socket "$work/other.sock" --metrics '' 2>"$work/other.err" &
other=$!
background+=("$other")
until_true "the other daemon starts" grep -q ': ready$' "$work/other.err"
grep -q "beside what is pinned: another process reads" "$work/other.err" || fail "two daemons read one ring: $(cat "$work/other.err")"
exec 25>"$work/fourth"
until_true "the first daemon goes on beside another" exact "$work/fourth"
kill "$other"
wait "$other"
stop_daemon

# Another build's records are not to be read.
value=$(bpftool -j map dump pinned "$pins/map_settings" | python3 -c '
import json, sys
bytes = [int(byte, 16) for byte in json.load(sys.stdin)[0]["value"]]
bytes[int(sys.argv[1])] ^= 1
print(*bytes)' "$build") || fail "the settings can't be read"
# shellcheck disable=SC2086
bpftool map update pinned "$pins/map_settings" key 0 0 0 0 value $value || fail "the settings can't be written"
start_daemon --pinned true
said "beside what is pinned: .*another build" || fail "another build's programs were taken over: $(cat "$work/daemon.err")"
exec 26>"$work/fifth"
for name in first fourth fifth; do until_true "$name is exact beside another build" exact "$work/$name"; done
stop_daemon

run disarm
expect_code 0 "disarm"
[ -e $pins ] && fail "disarm leaves pins"
finish
