# While tracking is armed, deleted files are found that no process shows: in flight over a socket.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root"; exit 77; }
exec 9>/tmp/fdspan-arm.lock
flock -w 120 9 || { echo "this machine is armed by somebody else"; exit 77; }
"$FDSPAN" doctor --json >"$work/doctor"
if jq -e '.backend == "procfs" or .armed != null' "$work/doctor" >/dev/null; then
    echo "no BPF backend works here, or this machine is armed by somebody else"
    exit 77
fi
disarm() { "$FDSPAN" disarm >/dev/null 2>&1; cleanup; }
trap disarm EXIT
run arm
expect_code 0 "arm"
start_holder "
import array, os, socket
os.chdir('$work')
here, there = socket.socketpair()
def make(name):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600); os.write(fd, b'x' * 20000)
    return fd
def send(fd):
    here.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fd]))]); os.close(fd)
flying = make('flying'); os.unlink('flying'); send(flying)
named = make('named'); send(named)
kept = make('kept'); os.unlink('kept'); send(os.dup(kept))
closed = make('closed'); os.unlink('closed'); os.close(closed)
"
run deleted --json "$work"
jq_check "[.files[] | [.path, .allocated, [.holders[].ref]]] | sort == [[\"$work/flying\", 20480, [\"hidden\"]], [\"$work/kept\", 20480, [\"fd\"]]]" "what is in flight, once, and nothing else: $(jq -c '[.files[] | [.path, .allocated, [.holders[].ref]]]' "$work/out")"
jq_check '.files[] | select(.path | endswith("/flying")) | .holders[0] | .age_ns != null and .description.opened.source == "kernel"' "since when it is open"
run deleted "$work"
grep -q 'in flight, io_uring or kernel' "$work/out" || fail "a table: $(cat "$work/out")"
run deleted -p "$holder" --json
jq_check "[.files[].path] == [\"$work/kept\"]" "what is in flight is of no process"
kill "$holder"
wait "$holder" 2>/dev/null
run deleted "$work"
expect_code 1 "with the last socket it is gone"
finish
