# What befalls a disk and a ring befalls neither the tracing nor what was committed: a full disk, a deleted database, a ring that is too small.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root for a file system of its own"; exit 77; }
. "$(dirname "$0")/daemon_lib.sh"
mkdir "$work/small"
mount -t tmpfs -o size=64m tmpfs "$work/small" || exit 77
trap 'umount -l "$work/small"; cleanup' EXIT
database=$work/small/events.db

# Other programs' rows go the same way; those of deleted files are always kept.
spans() { # PREFIX COUNT: deletes so many files that it holds
    python3 - "$work" "$1" "$2" <<'PY'
import os, sys
for number in range(int(sys.argv[3])):
    path = f"{sys.argv[1]}/{sys.argv[2]}-{number % 50}"
    held = os.open(path, os.O_CREAT | os.O_RDWR)
    os.unlink(path)
    os.close(held)
PY
}
logged() { "$FDSPAN" log --database "$database" --path "$1" --limit all 2>/dev/null | wc -l; }
at_least() { [ "$(logged "$1")" -ge "$2" ]; }
said() { grep -q "$1" "$work/daemon.err"; }

start_daemon
spans x-first 100
until_true "rows before" at_least "$work/*-first-*" 100
# Until the disk is full, and while it stays so.
head -c 80M /dev/zero >"$work/small/filler" 2>/dev/null
spans x-full 3000
until_true "it says that the disk is full" said 'disk is full\|disk I/O error\|unable to open'
spans x-still 100
sleep "$([ -n "${FDSPAN_LONG:-}" ] && echo 60 || echo 2)"
rm "$work/small/filler"
until_true "it says that it goes on" said 'is written again'
until_true "what came while the disk was full is there, as far as memory held it" at_least "$work/*-still-*" 100
at_least "$work/*-first-*" 100 || fail "rows that were committed before are gone: $(logged "$work/*-first-*")"
kept=$(logged "$work/*-full-*")
lost=$("$FDSPAN" log --database "$database" --json --limit all 2>/dev/null | jq -s 'map(select(.event == "lost").lost) | add // 0')
[ $((kept + lost)) -ge 2900 ] || fail "of 3000 rows $kept are there and $lost are told of"

rm "$database" "$database-wal" "$database-shm"
until_true "a deleted database is put back" test -e "$database"
# Not once: what memory could not hold while the disk was full may still be on its way, and a busy machine loses news; both are told of.
after() {
    spans x-after 10
    at_least "$work/*-after-*" 10
}
until_true "with what came since" after
at_least "$work/*-first-*" 100 || fail "and with what was in it"
[ "$(sqlite3 "$database" 'PRAGMA integrity_check')" = ok ] || fail "and whole"
stop_daemon

# A ring of one page: losses are told, and what is open is right again afterwards.
database=$work/events.db
echo '{"ring_size": "4096"}' >"$work/config.json"
start_daemon --config "$work/config.json"
python3 - <<'PY'
import os, threading
def churn():
    for _ in range(20000):
        os.close(os.open("/dev/null", os.O_RDONLY))
threads = [threading.Thread(target=churn) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
PY
if grep -q 'tracing with the backend procfs' "$work/daemon.err"; then
    echo "no ring here"
else
    until_true "a loss is said" said 'events were lost'
    until_logged
    until_true "and stands in the log" sh -c "'$FDSPAN' log --database '$database' --json 2>/dev/null | grep -q '\"event\":\"lost\"'"
    run log --database "$database"
    expect_code 3 "a log with losses is incomplete"
    run log --database "$database" --path /nonexistent
    expect_code 3 "and so is an answer that has nothing in it"
    grep -q 'nothing matched' "$work/err" || fail "which is said: $(cat "$work/err")"
fi
exec 7</etc/hostname
shown() {
    run ls --json -p $$ --socket "$socket"
    jq -e '.references[] | select(.fd == 7) | .path == "/etc/hostname"' "$work/out" >/dev/null
}
until_true "what is opened afterwards is shown" shown
stop_daemon
finish
