# The control socket: exact ages for those who may not trace, nothing for those who may not look, and no harm from whoever abuses it.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root to become somebody else"; exit 77; }
. "$(dirname "$0")/daemon_lib.sh"
cp "$FDSPAN" "$work/fdspan"
chmod 755 "$work/fdspan"
# A group that exists everywhere.
echo '{"socket": {"group": "nogroup"}}' >"$work/config.json"
start_daemon --config "$work/config.json"
[ "$(stat -c '%a %G' "$socket")" = "660 nogroup" ] || fail "mode and group of the socket: $(stat -c '%a %G' "$socket")"

# Its pid is that of what it runs only where it is written out.
as_user() { setpriv --reuid 1000 --regid 1000 --groups 65534 "$@"; }
setpriv --reuid 1000 --regid 1000 --groups 65534 /usr/bin/python3 -c 'import os, sys, time; f = open("/etc/hostname"); g = open("/etc/passwd"); print(f.fileno(), flush=True); time.sleep(600)' >"$work/fd" &
own=$!
background+=("$own")
sleep 600 </etc/hostname &
foreign=$!
background+=("$foreign")
until_true "the holder starts" test -s "$work/fd"
fd=$(cat "$work/fd")

# A machine that is busy may keep the daemon from answering in time, once.
exact() {
    as_user "$work/fdspan" ls --json -p "$own" --socket "$socket" >"$work/out" 2>"$work/err" &&
        jq -e ".references[] | select(.fd == $fd) | .opened.source == \"kernel\" and .description.opened.source == \"kernel\"" "$work/out" >/dev/null
}
until_true "ls without privileges has exact times, by the daemon" exact
jq_check '.source == "procfs" and .backend != "procfs"' "the backend is the daemon's"
as_user "$work/fdspan" ls --json -p "$own" --no-daemon >"$work/out" 2>"$work/err"
jq_check ".references[] | select(.fd == $fd) | .opened.source == \"bounded\"" "--no-daemon does not ask it"
setpriv --reuid 1000 --regid 1000 --clear-groups "$work/fdspan" ls --json -p "$own" --socket "$socket" >"$work/out" 2>"$work/err"
jq_check ".references[] | select(.fd == $fd) | .opened.source == \"bounded\"" "who is not in the group is not answered"

# Who deleted what, and when: told to root, and to a user about what own processes hold.
mkdir -m 777 "$work/held"
holding='import os, sys, time; f = open(sys.argv[1], "w+"); f.write("x" * 5000); f.flush(); print("ready", flush=True); time.sleep(600)'
setpriv --reuid 1000 --regid 1000 --groups 65534 /usr/bin/python3 -c "$holding" "$work/held/mine" >"$work/ready1" &
background+=("$!")
holder1=$!
/usr/bin/python3 -c "$holding" "$work/held/roots" >"$work/ready2" &
background+=("$!")
holder2=$!
until_true "they hold" test -s "$work/ready1" -a -s "$work/ready2"
before=$(date +%s%N)
setpriv --reuid 1000 --regid 1000 --groups 65534 rm "$work/held/mine" &
rm1=$!
wait "$rm1"
rm "$work/held/roots" &
rm2=$!
wait "$rm2"
after=$(date +%s%N)
deleted_as() { # USER-PREFIX ARGS…: what is told of the two files, by name
    "$@" "$work/held" >"$work/out" 2>"$work/err"
    jq -c '[.files[] | [(.path | sub(".*/"; "")), .deleted.source, .how, .by.pid, .by.comm, (.by.exe // "" | sub(".*/"; ""))]] | sort' "$work/out"
}
seen_by_root() {
    [ "$(deleted_as "$FDSPAN" deleted --json --socket "$socket")" = "[[\"mine\",\"kernel\",\"unlink\",$rm1,\"rm\",\"rm\"],[\"roots\",\"kernel\",\"unlink\",$rm2,\"rm\",\"rm\"]]" ]
}
until_true "root is told who deleted what" seen_by_root
jq_check "def ns: (.[0:19] + \"Z\" | fromdate) * 1000000000 + (.[20:29] | tonumber); [.files[].deleted.latest | ns | . >= $before - 1000000 and . <= $after + 1000000] | all" "and when: $before..$after $(jq -c '[.files[].deleted]' "$work/out")"
"$FDSPAN" deleted --socket "$socket" "$work/held" >"$work/out"
grep -qE "^ *[0-9]+ +[0-9a-z]+ +rm\[$rm1\] +python3\[[0-9]+\] fd 3 +$work/held/mine \(deleted\)\$" "$work/out" || fail "a table says by whom: $(cat "$work/out")"
seen_by_user() {
    [ "$(deleted_as as_user "$work/fdspan" deleted --json --socket "$socket")" = "[[\"mine\",\"kernel\",\"unlink\",$rm1,\"rm\",\"\"]]" ]
}
until_true "a user is told of what own processes hold: $(cat "$work/out")" seen_by_user
"$FDSPAN" deleted --json --socket "$socket" --no-daemon "$work/held" >"$work/out"
jq_check '[.files[] | [.deleted.source, .how, .by]] | unique == [["bounded", "unknown", null]]' "--no-daemon does not ask"

cat >"$work/client.py" <<'PY'
import os, socket, struct, sys, time
path = sys.argv[1]
def connect():
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(20)
    peer.connect(path)
    return peer
def ask(pids, type=1, version=1, magic=b"fdsp", size=None):
    peer = connect()
    payload = b"".join(struct.pack("=i", pid) for pid in pids)
    peer.sendall(magic + struct.pack("=HHI", version, type, len(payload) if size is None else size) + payload)
    return peer
def messages(peer):
    data = b""
    while True:
        try:
            more = peer.recv(1 << 16)
        except ConnectionResetError:
            more = b""
        if not more:
            break
        data += more
    found = []
    while data:
        magic, version, type, size = struct.unpack("=4sHHI", data[:12])
        assert magic == b"fdsp" and version == 1, data[:12]
        found.append((type, data[12:12 + size]))
        data = data[12 + size:]
    return found
def processes(found):
    return {struct.unpack("=iI", body[:8]) for type, body in found if type == 102}
def whole(found):
    return found and found[0][0] == 101 and found[-1][0] == 103
PY

# The user asks for everything, by name and by number.
as_user /usr/bin/python3 - "$socket" "$daemon" "$foreign" "$own" "$holder2" "$(stat -L -c %i "/proc/$holder1/fd/3")" "$(stat -L -c %i "/proc/$holder2/fd/3")" >"$work/out" 2>&1 <<PY
exec(open("$work/client.py").read())
daemon, foreign, own, roots, inode, roots_inode = map(int, sys.argv[2:])
assert whole(messages(ask([]))), "a whole answer"
named = processes(messages(ask([daemon, foreign, 1, os.getppid(), -5, 2147483647])))
assert named == set(), f"told of {named}"
# Files without a name: inode numbers of those that a process of this user holds, no others.
def deletions(found):
    assert whole(found)
    return {struct.unpack("=IIQ", body[:16])[2] for type, body in found if type == 105}
told = deletions(messages(ask([], type=3)))
assert inode in told and roots_inode not in told, told
assert deletions(messages(ask([daemon, foreign, roots], type=3))) == set()
shown = processes(messages(ask([])))
assert own in {pid for pid, rows in shown}, shown
for pid, rows in shown:
    if os.path.exists(f"/proc/{pid}"):
        os.readlink(f"/proc/{pid}/cwd")
        os.listdir(f"/proc/{pid}/fd")
import json
check = json.loads(messages(ask([], type=2))[0][1])
assert all(os.stat(f"/proc/{load['pid']}").st_uid == 1000 for load in check["loads"] + check["leaks"] + check["deleted"]), check
print("ok")
PY
[ "$(tail -1 "$work/out")" = ok ] || fail "an unprivileged user learns what /proc tells, no more: $(tail -3 "$work/out")"

# A set-uid-like process: same user, but not dumpable.
setpriv --reuid 1000 --regid 1000 --groups 65534 /usr/bin/python3 -c 'import ctypes, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); print("ready", flush=True); time.sleep(600)' >"$work/undumpable" &
undumpable=$!
background+=("$undumpable")
until_true "it starts" test -s "$work/undumpable"
as_user /usr/bin/python3 - "$socket" "$undumpable" >"$work/out" 2>&1 <<PY
exec(open("$work/client.py").read())
assert processes(messages(ask([int(sys.argv[2])]))) == set()
assert [type for type, body in messages(ask([int(sys.argv[2])], type=3))] == [101, 103]
print("ok")
PY
[ "$(tail -1 "$work/out")" = ok ] || fail "a process that is not dumpable is hidden: $(tail -3 "$work/out")"

before=$(resident_kib)
python3 - "$socket" "${FDSPAN_LONG:+1024}" >"$work/out" 2>&1 <<PY
exec(open("$work/client.py").read())
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
assert whole(messages(ask([]))), "root is told of everybody"
# Not our protocol, one way or another.
for wrong in (dict(version=7), dict(type=55), dict(size=1 << 31), dict(magic=b"GET "), dict(pids=[1] * 5000)):
    arguments = {"pids": [], **wrong}
    found = messages(ask(**arguments))
    assert not found or found[0][0] == 199, (wrong, found[:1])
# Garbage, as much as it takes.
megabytes, refused = int(sys.argv[2] or 16), 0
block = os.urandom(1 << 20)
sent = 0
while sent < megabytes:
    peer = connect()
    try:
        peer.sendall(block)
        sent += 1
    except (BrokenPipeError, ConnectionResetError):
        sent += 1
        refused += 1
    peer.close()
assert refused > 0, "garbage is not read to its end"
# A thousand that say nothing, and some that never read their answer.
silent = [connect() for _ in range(1000)]
deaf = []
for _ in range(8):
    peer = socket.socket(socket.AF_UNIX)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.connect(path)
    peer.sendall(b"fdsp" + struct.pack("=HHI", 1, 1, 0))
    deaf.append(peer)
began = time.monotonic()
assert whole(messages(ask([]))), "answered beside them"
assert time.monotonic() - began < 50, time.monotonic() - began  # the deaf are waited for 60 s
# Patience ends.
deadline = time.monotonic() + 180
for peer in silent:
    peer.settimeout(max(0.1, deadline - time.monotonic()))
    assert peer.recv(1) == b""
for peer in silent + deaf:
    peer.close()
assert whole(messages(ask([]))), "and afterwards"
print("ok")
PY
[ "$(tail -1 "$work/out")" = ok ] || fail "abuse: $(tail -3 "$work/out")"
after=$(resident_kib)
[ $((after - before)) -lt 65536 ] || fail "abuse makes the daemon large: $before KiB, then $after KiB"

# Too many of one user leave room for the others.
as_user /usr/bin/python3 - "$socket" >"$work/out" 2>&1 <<PY &
exec(open("$work/client.py").read())
held = [connect() for _ in range(400)]
print("held", flush=True)
time.sleep(3)
PY
background+=("$!")
until_true "one user's clients are there" grep -q held "$work/out"
python3 - "$socket" >"$work/out2" 2>&1 <<PY
exec(open("$work/client.py").read())
assert whole(messages(ask([])))
print("ok")
PY
[ "$(tail -1 "$work/out2")" = ok ] || fail "one user's clients keep nobody out: $(tail -3 "$work/out2")"
stop_daemon
[ ! -e "$socket" ] || fail "the socket is removed at the end"
finish
