# What the daemon's tests share: a daemon with everything in $work. Sourced after lib.sh.
fdspand=$BIN/fdspand
database=$work/events.db
socket=$work/fdspan.sock
chmod 755 "$work"

# start_daemon ARGS…: leaves its pid in $daemon; what it says is in $work/daemon.err.
starts=0
start_daemon() {
    "$fdspand" --pinned false --database "$database" --socket "$socket" --metrics '' "$@" 2>>"$work/daemon.err" &
    daemon=$!
    background+=("$daemon")
    wait_ready
}
log_opens() {
    run log --database "$database" --limit 1
    [ "$code" -ne 2 ]
}
wait_ready() {
    for _ in $(seq 1200); do
        if [ "$(grep -c ': ready$' "$work/daemon.err")" -gt "$starts" ]; then
            starts=$((starts + 1))
            # A slow disk keeps the log waiting, not the daemon.
            until_true "the event log can be read" log_opens
            return
        fi
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    echo "fdspand did not start: $(cat "$work/daemon.err")" >&2
    exit 1
}
stop_daemon() {
    kill -TERM "$daemon"
    wait "$daemon"
    code=$?
    expect_code 0 "fdspand ends by SIGTERM"
}
# until_logged ARGS…: of fdspan log; leaves $code and $work/out. A loss of others' events is told (3), and no business of a test for one row.
# expect_not_logged ARGS…: the same for none.
until_logged() {
    for _ in $(seq 1200); do
        run log --database "$database" "$@"
        [ "$code" -eq 1 ] || { [ "$code" -eq 3 ] && grep -q 'nothing matched' "$work/err"; } || break
        sleep 0.1
    done
    [ "$code" -ne 3 ] || code=0
}
expect_not_logged() {
    run log --database "$database" "$@"
    [ "$code" -eq 3 ] && grep -q 'nothing matched' "$work/err" && code=1
    expect_code 1 "log $*"
}
# until_true WHAT COMMAND…
until_true() {
    local what=$1
    shift
    for _ in $(seq 1200); do
        "$@" && return 0
        sleep 0.1
    done
    fail "$what; fdspand said: $(tail -5 "$work/daemon.err")"
}
resident_kib() { awk '/^VmRSS/ {print $2}' "/proc/$daemon/status"; }
