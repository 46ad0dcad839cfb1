# What fdspan.h promises, with each source of events that works here, as root, with the few capabilities that it takes, and with none.
# CYCLES, BPF_CYCLES: how often a tracker is opened and closed, with the backend procfs and with the best one (which takes a second each
# on a busy machine).
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root to trace and to become somebody else"; exit 77; }
chmod 1777 "$work"
export TMPDIR=$work
cp "$BIN/contract" "$BIN/contract_cpp" "$library" "$work/"
ln -sf libfdspan.so "$work/libfdspan.so.0"
bpf_cycles=${BPF_CYCLES:-10}
contract() { LD_LIBRARY_PATH=$work timeout $((400 + 3 * bpf_cycles)) "$@" >"$work/out" 2>"$work/err"; code=$?; }
expect_quiet() { # WHAT
    [ "$code" -eq 0 ] || fail "$1: exit code $code: $(head -c 1500 "$work/out")"
    [ ! -s "$work/err" ] || fail "$1: nothing on stderr: $(head -c 600 "$work/err")"
}

contract "$work/contract" auto misuse events callbacks queries filters files places cgroup fork guest cramped memory
expect_quiet "the best backend"
contract "$work/contract" procfs misuse events callbacks queries filters files places cgroup fork guest cramped memory
expect_quiet "procfs"
for backend in auto procfs; do
    contract "$work/contract_cpp" $backend
    expect_quiet "C++, $backend"
done
contract "$work/contract" auto blocked
expect_quiet "a host that blocks"
# What the C library keeps in each thread's cache counts as used, and says nothing of leaks (mallinfo(3)).
contract env GLIBC_TUNABLES=glibc.malloc.tcache_count=0 "$work/contract" procfs cycles="${CYCLES:-1000}" auto cycles="$bpf_cycles"
expect_quiet "opened and closed over and over"
cat "$work/out"

# Without root: the four capabilities, and nothing else.
few=+bpf,+perfmon,+sys_ptrace,+dac_read_search
contract setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=$few --ambient-caps=$few --bounding-set=-all,$few "$work/contract" syscall events filters guest
expect_quiet "four capabilities"
contract setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all "$work/contract" auto events queries guest
expect_quiet "no capability"
# Opened by root, used by nobody.
contract "$work/contract" syscall dropped
expect_quiet "privileges dropped"
# Loaded by a helper, used by nobody.
contract "$work/contract" auto handover
expect_quiet "handed over"
finish
