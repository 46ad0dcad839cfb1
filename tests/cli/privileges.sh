# Without privileges: what may be read is shown, what may not is counted, exit code 3.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root to become somebody else"; exit 77; }

# The build directory may be closed to others.
cp "$FDSPAN" "$work/fdspan"
chmod 755 "$work" "$work/fdspan"
nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$work/fdspan" "$@" >"$work/out" 2>"$work/err"; code=$?; }

setpriv --reuid 65534 --regid 65534 --clear-groups sleep 300 &
own=$!
background+=("$own")
sleep 300 &
foreign=$!
background+=("$foreign")
until [ "$(cat "/proc/$own/comm" "/proc/$foreign/comm" | tr '\n' ' ')" = 'sleep sleep ' ]; do sleep 0.05; done

nobody ls --json
expect_code 3 "an unprivileged ls"
jq_check '.complete == false and .gaps.unreadable_processes > 0' "the document says that it is incomplete"
jq_check "[.references[] | select(.pid == $own)] | length > 0" "own processes are shown"
jq_check "[.references[] | select(.pid == $foreign)] | length == 0" "others' are not"
count=$(jq .gaps.unreadable_processes "$work/out")
grep -q "$count processes could not be read" "$work/err" || fail "stderr says how many: $(cat "$work/err")"

nobody ls -p "$own" --json
expect_code 0 "an own process is complete"
jq_check '.complete' "an own process is complete"
nobody ls -p "$foreign"
expect_code 3 "a foreign process can't be read"
[ ! -s "$work/out" ] || fail "no rows of a foreign process"
nobody ls -u 65534
expect_code 0 "all of one's own processes"
nobody ls --backend syscall
expect_code 2 "BPF without privileges"
[ "$(wc -l <"$work/err")" -eq 1 ] || fail "one line: $(cat "$work/err")"

nobody doctor --json
expect_code 0 "doctor without privileges"
jq_check '.backend == "procfs"' "only procfs is left"
jq_check '.backends | map(select(.name == "syscall"))[0] | .works == false and (.lacks | length > 0) and (.advice | length > 0)' "why, and what to do"
jq_check '.checks | map(select(.name == "cap_bpf"))[0].state == "no"' "the missing capability"
for command in arm watch\ --backend\ syscall; do
    # shellcheck disable=SC2086
    nobody $command
    expect_code 2 "$command without privileges"
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail "$command: one line: $(cat "$work/err")"
done
finish
