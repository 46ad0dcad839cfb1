# doctor tells what works by having tried it, and agrees with what the other commands can do.
. "$(dirname "$0")/lib.sh"
run doctor --json
expect_code 0 "doctor"
jq_check '.schema == 1 and (.kernel | length > 0)' "one document"
jq_check '[.backends[].name] - ["kprobe"] == ["trampoline", "syscall", "procfs"]' "each backend has a verdict"
jq_check '[.backends[] | .works == (.lacks | length == 0)] | all' "what does not work lacks something"
jq_check '[.checks[] | .name] | unique | length > 12' "checks have names of their own"
jq_check '.backend as $chosen | [.backends[] | select(.works)][0].name == $chosen' "auto takes the best that works"
for backend in $(jq -r '.backends[] | select(.works) | .name' "$work/out"); do
    run watch --backend "$backend" --timeout 100ms --json
    case $code in 0 | 1) ;; *) fail "doctor says that $backend works, watch does not: $(cat "$work/err")" ;; esac
done
run doctor
expect_code 0 "doctor in words"
grep -q '^Backends' "$work/out" || fail "the words begin with backends"
grep -qE '"auto" takes' "$work/out" || fail "which one auto takes"
[ ! -s "$work/err" ] || fail "doctor's findings are its output: $(cat "$work/err")"

# A /proc that hides processes.
if [ "$(id -u)" -eq 0 ]; then
    unshare -m sh -c 'mount -t proc -o hidepid=2 proc /proc 2>/dev/null && "$1" doctor --json' sh "$FDSPAN" >"$work/out" 2>"$work/err"
    if [ -s "$work/out" ]; then jq_check '.processes.hidden and (.checks | map(select(.name == "hidepid"))[0].state == "no")' "hidepid is seen"; fi
    unshare -m sh -c 'umount -l /sys/fs/bpf /sys/kernel/tracing 2>/dev/null; "$1" doctor --json' sh "$FDSPAN" >"$work/out" 2>"$work/err"
    jq_check '.checks | map(select(.name == "bpffs"))[0] | .state == "no" and (.advice | startswith("mount"))' "a missing bpffs is named, and how to mount it"
    jq_check '.backends | map(select(.name == "syscall"))[0] | .works' "the syscall backend needs no tracefs"
fi
finish
