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

# A mapping's links are asked for through map_files, which nobody may follow: then "nothing is deleted" is no answer.
chmod 1777 "$work"
python3 -c "
import ctypes, os, time
libc = ctypes.CDLL(None)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: else /proc/PID stays root's
path = '$work/mapped'
open(path, 'w').write('x' * 5000)
fd = os.open(path, os.O_RDONLY)
libc.mmap(None, ctypes.c_size_t(4096), 1, 2, fd, ctypes.c_long(0))
os.close(fd)
os.unlink(path)
open('$work/mapped.ready', 'w')
time.sleep(300)" &
mapping=$!
background+=("$mapping")
until [ -e "$work/mapped.ready" ]; do sleep 0.05; done
nobody deleted -p "$mapping"
expect_code 3 "a mapping whose links can't be asked for"
grep -q '1 mapping looks deleted' "$work/err" || fail "it is said: $(cat "$work/err")"
nobody deleted -p "$mapping" --json
jq_check '.complete == false and .gaps.undecided_names == 1' "the document says so, too"
run deleted -p "$mapping"
expect_code 0 "root may ask"

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
