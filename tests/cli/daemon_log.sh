# fdspand writes down what fdspan log shows: spans, filters, formats, --follow, a JSON file that is rotated.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/daemon_lib.sh"

start_daemon --jsonl "$work/log.jsonl"
began=$(date -u +%Y-%m-%dT%H:%M:%SZ)
# --foreground: in the other mode timeout signals twice, and the second SIGTERM kills.
timeout --foreground 300 "$FDSPAN" log --database "$database" --follow --json --path "$work/span-*" --limit 1 >"$work/followed" 2>"$work/follow.err" &
follower=$!
background+=("$follower")
python3 - "$work" <<'PY'
import os, sys, time
long = os.open(sys.argv[1] + "/span-long", os.O_CREAT | os.O_RDWR)
for number in range(20):
    os.close(os.open(sys.argv[1] + "/span-short", os.O_CREAT | os.O_RDWR))
time.sleep(1.3)
os.close(long)
PY
until_logged --path "$work/span-*" --json
expect_code 0 "a span that lived longer than a second is in the log: $(cat "$work/daemon.err")"
jq -s -e --arg path "$work/span-long" 'map([.event, .path, .comm]) == [["closed", $path, "python3"]]' "$work/out" >/dev/null ||
    fail "it alone, not the short ones: $(head -c 600 "$work/out")"
jq_check '.duration_ns >= 1300000000 and .duration_max_ns < 30000000000 and .id > 0 and (.boot | length) == 36' "its figures"
jq_check '.opened.source == "kernel" and .opened.latest_boottime_ns + .duration_ns == .boottime_ns' "it is exact"
grep -q "$work/span-long" "$work/log.jsonl" || fail "the JSON file has it, too"
jq -s -e --arg path "$work/span-long" 'map(select(.path == $path)) | length == 1 and (.[0].time | startswith("20"))' "$work/log.jsonl" >/dev/null ||
    fail "and the JSON file has its time: $(grep "$work/span-long" "$work/log.jsonl")"
run log --database "$database" --path "$work/span-long" --since "$began" --min-duration 1s --pid "$(jq --arg path "$work/span-long" 'select(.path == $path).pid' "$work/log.jsonl")"
grep -q "span-long after 1s" "$work/out" || fail "by process: $(cat "$work/out" "$work/err")"
for arguments in "--since $began" "--since 1h" "--min-duration 1s"; do
    # shellcheck disable=SC2086
    run log --database "$database" --path "$work/span-*" $arguments
    # 3: other programs of this machine made the kernel lose events.
    [ "$code" -eq 3 ] || expect_code 0 "log $arguments"
    grep -q "span-long after 1s" "$work/out" || fail "log $arguments: $(cat "$work/out")"
done
for arguments in "--until 1h" "--min-duration 1h" "--deleted" "--min-bytes 1" "--pid 2147483646"; do
    # shellcheck disable=SC2086
    expect_not_logged --path "$work/span-*" $arguments
done
run log --database "$database" --csv --path "$work/span-long"
python3 -c 'import csv, sys
rows = list(csv.DictReader(open(sys.argv[1])))
assert len(rows) == 1 and rows[0]["path"] == sys.argv[2] and rows[0]["event"] == "closed" and int(rows[0]["duration_ns"]) > 10**9, rows' \
    "$work/out" "$work/span-long" || fail "CSV: $(cat "$work/out")"
until_true "--follow shows it: $(cat "$work/follow.err")" grep -q span-long "$work/followed"
[ "$(grep -c span-long "$work/followed")" -eq 1 ] || fail "--follow shows it once: $(cat "$work/followed" "$work/follow.err")"
kill -TERM "$follower"
wait "$follower"
code=$?
expect_code 0 "SIGTERM ends --follow"

# What has no name is found by the label that it is shown by.
for make in 'os.pipe()[0]' 'os.eventfd(0)'; do
    label=$(python3 -c "import os, time; fd = os.dup($make); time.sleep(1.2); print(os.readlink(f'/proc/self/fd/{fd}')); os.close(fd)")
    until_logged --path "$label" --json
    expect_code 0 "--path $label"
    jq -s -e --arg path "$label" 'length >= 1 and all(.[]; .path == $path)' "$work/out" >/dev/null || fail "and it alone: $(head -c 600 "$work/out")"
done
expect_not_logged --path "pipe:[1]"

# A file renamed by logrotate is opened anew.
mv "$work/log.jsonl" "$work/log.jsonl.old"
kill -HUP "$daemon"
python3 -c 'import os, sys, time; fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR); time.sleep(1.1); os.close(fd)' "$work/span-rotated"
until_true "after SIGHUP the JSON file is a new one" grep -qs span-rotated "$work/log.jsonl"
stop_daemon

# What may block is not waited for, and what is no regular file is not put aside.
mkfifo "$work/pipe"
ln -s /dev/null "$work/device"
start_daemon --jsonl "$work/pipe" --textfile "$work/device" --interval 300ms
until_true "a FIFO is refused" grep -q "$work/pipe is not a regular file" "$work/daemon.err"
until_true "a device is refused" grep -q "$work/device is not a regular file" "$work/daemon.err"
python3 -c 'import os, sys, time; fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR); time.sleep(1.1); os.close(fd)' "$work/span-beside"
until_logged --path "$work/span-beside"
expect_code 0 "the database is written all the same"
stop_daemon
[ -p "$work/pipe" ] && [ -c "$work/device" ] || fail "they are what they were: $(ls -l "$work")"

run log --database "$work/none.db"
expect_code 2 "no database"
grep -q 'is fdspand running' "$work/err" || fail "what to do about it: $(cat "$work/err")"
finish
