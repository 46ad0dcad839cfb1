# What the CLI's tests share. Each test is a script that runs $FDSPAN and says with fail() which fact does not hold.
set -u
: "${FDSPAN:?path of the fdspan binary}"
work=$(mktemp -d)
background=()
cleanup() {
    for pid in "${background[@]}"; do
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    # Never into what a test has mounted there.
    rm -rf --one-file-system -- "$work"
}
trap cleanup EXIT

failures=0
fail() {
    echo "FAILED: $*" >&2
    failures=$((failures + 1))
}
finish() {
    [ "$failures" -eq 0 ] || exit 1
    exit 0
}

# run ARGS…: leaves $code, $work/out and $work/err.
run() {
    timeout 180 "$FDSPAN" "$@" >"$work/out" 2>"$work/err"
    code=$?
}
expect_code() { # EXPECTED WHAT
    [ "$code" -eq "$1" ] || fail "$2: exit code $code instead of $1; stderr: $(head -c 300 "$work/err")"
}
# jq_check FILTER WHAT: FILTER holds for the document in $work/out.
jq_check() {
    jq -e "$1" "$work/out" >/dev/null 2>"$work/jq" || fail "$2: not true: $1 $(head -c 200 "$work/jq")"
}

# start_holder PYTHON: runs PYTHON in the background, waits for its line "ready", leaves its pid in $holder.
start_holder() {
    mkfifo "$work/ready.$$.${#background[@]}"
    local ready=$work/ready.$$.${#background[@]}
    python3 -c "$1
import sys, time
print('ready', flush=True)
sys.stdout.close()
time.sleep(600)" >"$ready" 2>"$work/holder.err" &
    holder=$!
    background+=("$holder")
    local line=
    read -r line <"$ready"
    [ "$line" = ready ] || { echo "the helper process did not start: $(cat "$work/holder.err")" >&2; exit 1; }
}
