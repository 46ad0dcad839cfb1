# fdspan check says what it was told, and never a verdict that nobody could read.
. "$(dirname "$0")/lib.sh"
socket=$work/fdspan.sock

# Answers every check with the text in $work/answer.
cat >"$work/daemon.py" <<'PY'
import socket, struct, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
while True:
    peer = listening.accept()[0]
    peer.recv(4096)
    answer = open(sys.argv[2], "rb").read()
    peer.sendall(b"fdsp" + struct.pack("=HHI", 1, 104, len(answer)) + answer)
    peer.close()
PY
python3 "$work/daemon.py" "$socket" "$work/answer" &
background+=("$!")
for _ in $(seq 600); do
    [ -S "$socket" ] && break
    sleep 0.1
done
told() { # JSON: over an answer with nothing to complain of
    jq -nc "{schema: 1, certain: true, at_boottime_ns: 1, deleted_bytes: 4096, deleted_files: 1, deleted_oldest_ns: 0, deleted_more: false,
             deleted: [{bytes: 4096, age_ns: 0, pid: 7, comm: \"a\", path: \"/x\"}], loads: [], leaks: []} + $1" >"$work/answer"
    run check --socket "$socket"
}

told '{}'
expect_code 0 "nothing to complain of"
grep -q '^FDSPAN OK - 4.0K in 1 deleted file held (the largest: /x, 4.0K, by a\[7\]) | ' "$work/out" || fail "the line: $(cat "$work/out")"
told '{certain: false}'
expect_code 0 "what is mended in a moment wakes nobody"
grep -q '^FDSPAN OK - 4.0K .*; events were lost or wait to be read, so that figures may be out of date | ' "$work/out" || fail "losses are told: $(cat "$work/out")"
told '{certain: false, deleted_bytes: 20000000000}'
expect_code 2 "critical all the same"
grep -q '^FDSPAN CRITICAL - .*; events were lost or wait to be read' "$work/out" || fail "losses are told beside it: $(cat "$work/out")"
told '{deleted_more: true}'
grep -q '^FDSPAN OK - at least 4.0K in ' "$work/out" || fail "a sum of a part: $(cat "$work/out")"
told '{loads: [{}]}'
expect_code 3 "an answer that is not understood"

for facts in '{}' '{deleted_bytes: 20000000000}'; do
    told "$facts"
    timeout 180 "$FDSPAN" check --socket "$socket" >/dev/full 2>"$work/err"
    code=$?
    expect_code 3 "a verdict that can't be written is unknown"
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail "it says why: $(cat "$work/err")"
done
finish
