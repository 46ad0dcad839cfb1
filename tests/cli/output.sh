# Where the output goes: terminals, pipes that close, full disks, missing descriptors.
. "$(dirname "$0")/lib.sh"

start_holder "
import os
long = open('$work/' + 'directory-with-a-long-name-' * 4 + 'and-its-end', 'w')
wide = open('$work/' + '日本語' * 20 + '.end', 'w')
gone = open('$work/gone', 'w'); os.unlink('$work/gone')
"

# terminal COLUMNS COMMAND…: runs it on a terminal of that width.
terminal() {
    python3 - "$@" <<'PY'
import fcntl, os, pty, struct, sys, termios
columns, command = int(sys.argv[1]), sys.argv[2:]
pid, master = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
    os.execvp(command[0], command)
data = b""
while True:
    try:
        part = os.read(master, 65536)
    except OSError:
        break
    if not part:
        break
    data += part
os.waitpid(pid, 0)
sys.stdout.buffer.write(data.replace(b"\r\n", b"\n"))
PY
}
widest() {
    python3 -c '
import re, sys, unicodedata
text = re.sub(r"\x1b\[[0-9;]*m", "", sys.stdin.buffer.read().decode())
print(max(sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line) for line in text.splitlines()))'
}
export TERM=xterm
unset NO_COLOR
for columns in 20 40 80 120; do
    terminal "$columns" "$FDSPAN" ls -p "$holder" >"$work/out"
    width=$(widest <"$work/out")
    [ "$width" -le "$columns" ] || fail "a line of $width columns on a terminal of $columns"
    [ "$(wc -l <"$work/out")" -ge 4 ] || fail "rows on a terminal of $columns columns"
done
terminal 80 "$FDSPAN" ls -p "$holder" >"$work/out"
grep -q '…' "$work/out" || fail "what is missing is marked"
grep -q 'and-its-end' "$work/out" || fail "the end of a long path is kept"
run ls -p "$holder"
grep -q '…' "$work/out" && fail "nothing is cut in a pipe"
[ "$(widest <"$work/out")" -gt 120 ] || fail "a pipe gets whole names"

escape=$(printf '\033')
terminal 80 "$FDSPAN" ls -p "$holder" | grep -q "$escape" || fail "colours on a terminal"
NO_COLOR=1 terminal 80 "$FDSPAN" ls -p "$holder" | grep -q "$escape" && fail "NO_COLOR is honoured"
NO_COLOR='' terminal 80 "$FDSPAN" ls -p "$holder" | grep -q "$escape" || fail "an empty NO_COLOR means nothing"
TERM=dumb terminal 80 "$FDSPAN" ls -p "$holder" | grep -q "$escape" && fail "a dumb terminal gets no colours"
terminal 80 "$FDSPAN" ls --color=never -p "$holder" | grep -q "$escape" && fail "--color=never"
"$FDSPAN" ls -p "$holder" | grep -q "$escape" && fail "no colours in a pipe"
NO_COLOR=1 "$FDSPAN" ls --color=always -p "$holder" | grep -q "$escape" || fail "--color=always is stronger than NO_COLOR"

# Readers that go away.
for arguments in "ls --json" "ls" "doctor" "doctor --json" "--help" "ls --list-columns"; do
    # shellcheck disable=SC2086
    "$FDSPAN" $arguments 2>"$work/err" | true
    code=${PIPESTATUS[0]}
    grep -qi 'broken pipe\|cannot write' "$work/err" && fail "$arguments complains about a closed pipe: $(cat "$work/err")"
    case $code in 0 | 3) ;; *) fail "$arguments into a closed pipe: exit code $code" ;; esac
    # shellcheck disable=SC2086
    "$FDSPAN" $arguments >/dev/full 2>"$work/err"
    code=$?
    expect_code 2 "$arguments onto a full disk"
    [ "$(wc -l <"$work/err")" -eq 1 ] && grep -q 'No space left' "$work/err" || fail "$arguments onto a full disk: $(cat "$work/err")"
    # shellcheck disable=SC2086
    "$FDSPAN" $arguments >&- 2>"$work/err"
    code=$?
    expect_code 2 "$arguments without standard output"
done
"$FDSPAN" ls -p "$holder" >"$work/out" 2>&- <&-
code=$?
expect_code 0 "no standard input, no standard error"

# -o decides what is read.
run ls --list-columns --json
jq_check 'map(.name) | index("PID") != null and index("NAME") != null' "--list-columns --json"

# Tables of many slots promise rows that do not come: room for them is not worth an error.
last=$(($(ulimit -n) - 1))
for _ in $(seq 130); do
    (eval "exec $last</dev/null" && exec sleep 60) &
    background+=($!)
done
sleep 1
(ulimit -v 500000 && exec timeout 100 "$FDSPAN" ls --json >"$work/out" 2>"$work/err")
grep -q 'not enough memory' "$work/err" && fail "ls within 500 MB of addresses: $(cat "$work/err")"
jq_check '.references | length > 130' "ls within 500 MB of addresses"
finish
