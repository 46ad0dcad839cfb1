# 20,000 opens and closes a second, and a hundred files deleted while open: memory stays flat, losses are told, what is in the index at the end
# is what /proc shows. FDSPAN_SOAK_SECONDS for longer than 10.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root"; exit 77; }
. "$(dirname "$0")/daemon_lib.sh"
seconds=${FDSPAN_SOAK_SECONDS:-10}
start_daemon --textfile "$work/fdspan.prom" --interval 1s
mkdir "$work/load"
"$BIN/fdspan-bench-load" unlink 1 $((seconds * 1000)) "$work/load" 20000 >"$work/unlinked" 2>"$work/rate" &
load=$!
background+=("$load")
# What is reserved once and fills (ring, caches) has filled by then. What one look at the whole machine takes comes and goes: the most there
# ever was is what has to stay.
peak_kib() { awk '/^VmHWM/ {print $2}' "/proc/$daemon/status"; }
sleep $((seconds / 2))
half=$(peak_kib)
for second in $(seq $((seconds / 60))); do
    [ "$second" -lt $((seconds / 120)) ] || { sleep 59; echo "resident: $(resident_kib) KiB, $(awk '/^Rss(Anon|File|Shmem)/ {print $1, $2}' "/proc/$daemon/status" | tr '\n' ' ')"; }
done
wait "$load" || fail "the load: $(cat "$work/rate")"
end=$(peak_kib)
[ $((end - half)) -lt 16384 ] || fail "memory grows: at most $half KiB in the first half, $end KiB in the second"

figure() { awk -v name="$1" '$1 == name {print $2}' "$work/fdspan.prom"; }
# A loss is in the figures first, and in the log within a second.
told() {
    lost=$(figure fdspan_lost_events_total)
    logged=$("$FDSPAN" log --database "$database" --json --limit all 2>/dev/null |
        jq -n 'reduce (inputs | select(.event == "lost").lost) as $lost (0; . + $lost)')
    [ "$(figure fdspan_log_queued_rows)" = 0 ] && [ "$logged" -ge "${lost:-1}" ]
}
until_true "what is lost stands in the log" told
made=$(wc -l <"$work/unlinked")
all_deleted() {
    deleted=$("$FDSPAN" log --database "$database" --deleted --json --limit all 2>/dev/null |
        jq -n --arg path "$work/load/" 'reduce (inputs | select(.event == "deleted" and (.path | startswith($path)))) as $_ (0; . + 1)')
    [ "$deleted" -eq "$made" ]
}
[ "${lost:-0}" != 0 ] || until_true "each deletion is in the log" all_deleted
all_deleted

# Whatever is there before and after the question is in the answer, and what is in the answer is there before or after.
cat >"$work/compare.py" <<'PY'
import os, socket, struct, sys, time
def snapshot():
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            for fd in os.listdir(f"/proc/{name}/fd"):
                found.add((int(name), int(fd), os.stat(f"/proc/{name}/fd/{fd}").st_ino))
        except PermissionError:
            skipped.add(int(name))
        except OSError:
            pass
    return found
def index():
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(60)
    peer.connect(sys.argv[1])
    peer.sendall(b"fdsp" + struct.pack("=HHI", 1, 1, 0))
    data = b""
    while more := peer.recv(1 << 16):
        data += more
    found, type, at = set(), 0, 0
    while len(data) - at >= 12:
        _, _, type, size = struct.unpack_from("=4sHHI", data, at)
        body = data[at + 12:at + 12 + size]
        at += 12 + size
        if type != 102:
            continue
        pid, rows = struct.unpack_from("=iI", body)
        for row in range(rows):
            tid, fd, _, _, inode = struct.unpack_from("=iiIIQ", body, 24 + row * 80)
            if tid == pid and fd >= 0:
                found.add((pid, fd, inode))
    return found, type == 103
skipped = {os.getpid()}
lasting = None
for attempt in range(120):
    before, (shown, whole), after = snapshot(), index(), snapshot()
    wrong = {("lacking", row) for row in (before & after) - shown} | {("claimed", row) for row in shown - before - after}
    wrong = {row for row in wrong if row[1][0] not in skipped}
    # A row that a racing process makes wrong once is right the next time.
    lasting = wrong if lasting is None else lasting & wrong
    if whole and not lasting:
        print(len(shown), "descriptors")
        break
    time.sleep(0.5)
else:
    sys.exit(f"whole: {whole}, {sorted(lasting)[:8]}")
PY
python3 "$work/compare.py" "$socket" >"$work/out" 2>"$work/err"
code=$?
expect_code 0 "the index is what /proc shows"
echo "$(cat "$work/rate") pairs/s for $seconds s, $lost events lost, $deleted of $made deletions logged, resident at most $half KiB, then $end KiB," \
    "$(figure process_cpu_seconds_total) s of CPU, $(cat "$work/out")"
stop_daemon
finish
