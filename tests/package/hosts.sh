# Each event loop that a host may have takes a tracker in: it sees what a process opens and closes, and that it ends.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root to trace"; exit 77; }
hosts=$SOURCE_DIR/tests/hosts
touch "$work/file"

# check_host NAME COMMAND…: runs it with the pid of a process that opens and closes a file.
check_host() {
    local name=$1
    shift
    mkfifo "$work/go"
    python3 -c 'import os, sys, time
sys.stdin.readline()
fd = os.open(sys.argv[1], os.O_RDONLY)
time.sleep(0.2)
os.close(fd)
time.sleep(0.2)' "$work/file" <"$work/go" &
    local pid=$!
    background+=("$pid")
    exec 4>"$work/go"
    rm "$work/go"
    sleep 0.5
    timeout 20 "$@" "$pid" >"$work/out" 2>"$work/err" &
    local host=$!
    for _ in $(seq 100); do
        grep -q ^ready "$work/out" && break
        sleep 0.1
    done
    echo go >&4
    exec 4>&-
    wait "$host"
    code=$?
    expect_code 0 "$name"
    [ ! -s "$work/err" ] || fail "$name says nothing on stderr: $(head -c 300 "$work/err")"
    for kind in opened closed; do
        [ "$(grep -c "^$kind [0-9]* $work/file\$" "$work/out")" -eq 1 ] || fail "$name sees the file $kind once: $(head -c 900 "$work/out")"
    done
    wait "$pid"
}

flags=$(pkg-config --cflags --libs fdspan) || fail "pkg-config knows fdspan"
# shellcheck disable=SC2086 # flags are words
build() { "${CC:-cc}" -std=c11 -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -o "$work/$1" "$hosts/$1.c" $flags "${@:2}" || fail "$1 compiles"; }

build epoll_host
check_host epoll "$work/epoll_host"
[ "$(wc -l <"$hosts/epoll_host.c")" -lt 80 ] || fail "a host is short"
finish
