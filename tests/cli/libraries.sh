# What has to be restarted, and what only looks like it.
. "$(dirname "$0")/lib.sh"

mounts=()
undo() {
    local pid
    for pid in "${background[@]}"; do
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    [ -n "${unit:-}" ] && rmdir "$unit" "${unit%/*}"
    local point
    for point in "${mounts[@]}"; do umount "$point"; done
    rm -rf "$work" "$shm"
}
trap undo EXIT
shm=$(mktemp -d /dev/shm/fdspan-libraries.XXXXXX)
mkdir "$work/lib"
library=$(ldd "$(command -v sleep)" | sed -nE 's/.*=> (\/[^ ]*libc\.so[^ ]*).*/\1/p' | head -1)
[ -f "$library" ] || { echo "no C library found" >&2; exit 1; }

# map(PATH, …) maps as the dynamic linker does: privately, one part executable.
maps="
import mmap, os, shutil
R, W, X = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
held = []
def map(path, prot=R | X, flags=mmap.MAP_PRIVATE):
    fd = os.open(path, os.O_RDWR); held.append(mmap.mmap(fd, 4096, flags, prot)); held.append(mmap.mmap(fd, 4096, flags, R)); os.close(fd)
def library(name, folder='$work/lib/'):
    shutil.copy('$library', folder + name)
    return folder + name
def close_copies():
    for fd in range(3, 64):  # mmap keeps a descriptor of its own
        try: os.close(fd)
        except OSError: pass
"
start_holder "$maps
map(library('deleted.so')); os.unlink('$work/lib/deleted.so')
map(library('replaced.so')); library('new'); os.rename('$work/lib/new', '$work/lib/replaced.so')
map(library('backed-up.so')); os.link('$work/lib/backed-up.so', '$work/lib/backup'); library('new'); os.rename('$work/lib/new', '$work/lib/backed-up.so')
map(library('live.so'))
map(library('live (deleted)'))
close_copies()
"
stale=$holder
start_holder "$maps
def removed(path, *how):
    map(path, *how); os.unlink(path)
removed(library('data.so'), R)
removed(library('shared.so'), R | X, mmap.MAP_SHARED)
removed(library('in-shm.so', '$shm/'))
open('$work/lib/jit', 'wb').write(b'\x90' * 8192); removed('$work/lib/jit')
memory = os.memfd_create('jit'); os.write(memory, open('$library', 'rb').read()); held.append(mmap.mmap(memory, 4096, mmap.MAP_PRIVATE, R | X))
nameless = os.open('$work/lib', os.O_TMPFILE | os.O_RDWR); os.write(nameless, open('$library', 'rb').read()); held.append(mmap.mmap(nameless, 4096, mmap.MAP_PRIVATE, R | X))
held.append(mmap.mmap(-1, 4096, prot=R | W | X))
open('$work/lib/data', 'wb').write(b'x' * 8192); removed('$work/lib/data', R | W, mmap.MAP_SHARED)
close_copies()
"
harmless=$holder
cp "$(command -v sleep)" "$work/lib/program"
"$work/lib/program" 60 &
background+=($!)
program=$!
until [ "$(readlink "/proc/$program/exe")" = "$work/lib/program" ]; do sleep 0.01; done
rm "$work/lib/program"

for backend in auto procfs; do
    run deleted --libraries --json --backend "$backend" -p "$stale,$harmless,$program"
    expect_code 0 "$backend"
    jq_check '.schema == 1 and .complete' "$backend: the frame"
    jq_check "[.services[].files[] | [.path, .state, .ref, .pids]] | sort == [[\"$work/lib/backed-up.so\", \"replaced\", \"mem\", [$stale]], [\"$work/lib/deleted.so\", \"deleted\", \"mem\", [$stale]],
        [\"$work/lib/program\", \"deleted\", \"exe\", [$program]], [\"$work/lib/replaced.so\", \"deleted\", \"mem\", [$stale]]]" "$backend: what is stale, and nothing else: $(jq -c '[.services[].files[] | [.path, .state, .ref, .pids]]' "$work/out")"
done
run deleted --libraries -p "$harmless"
expect_code 1 "no false alarm"
run deleted --libraries -p "$stale" "$work/lib/deleted.so" --json
jq_check '[.services[].files[].path] | length == 1' "PATH chooses a library"
run deleted --libraries -p "$stale,$program"
grep -qF "$work/lib/program (deleted)" "$work/out" && grep -qF "$work/lib/backed-up.so (replaced)" "$work/out" || fail "a table: $(cat "$work/out")"

# By service: the unit is in the name of the control group.
mkdir "$work/cgroup"
if mount -t cgroup2 cgroup2 "$work/cgroup" 2>/dev/null; then
    mounts+=("$work/cgroup")
    unit=$work/cgroup/fdspan$$.slice/upgraded.service
    mkdir -p "$unit"
    echo "$stale" >"$unit/cgroup.procs"
    echo "$program" >"$unit/cgroup.procs"
    run deleted --libraries --json -p "$stale,$program"
    jq_check ".services | length == 1 and .[0].service == \"upgraded.service\" and .[0].kind == \"system\" and .[0].restart == \"systemctl restart upgraded.service\" and ([.[0].processes[].pid] | sort == ([$stale, $program] | sort)) and (.[0].files | length == 4)" "one service: $(jq -c .services "$work/out")"
    run deleted --libraries -p "$stale,$program" -n
    [ "$(wc -l <"$work/out")" -eq 1 ] && grep -q '^upgraded.service systemctl restart upgraded.service ' "$work/out" || fail "one line a service: $(cat "$work/out")"
else
    echo "no control groups of version 2 here: not tested" >&2
fi

# overlayfs: what is mapped from a lower layer is live until something lies over it.
mkdir "$work/layers"
if mount -t tmpfs tmpfs "$work/layers"; then
    mounts=("$work/layers" "${mounts[@]}")
    mkdir "$work/layers/lower" "$work/layers/upper" "$work/layers/work" "$work/layers/merged"
    cp "$library" "$work/layers/lower/live.so"
    cp "$library" "$work/layers/lower/replaced.so"
    mount -t overlay overlay -o "lowerdir=$work/layers/lower,upperdir=$work/layers/upper,workdir=$work/layers/work" "$work/layers/merged" || fail "no overlayfs"
    mounts=("$work/layers/merged" "${mounts[@]}")
    start_holder "$maps
def map(path):
    fd = os.open(path, os.O_RDONLY); held.append(mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, R | X)); os.close(fd)
top = '$work/layers/merged/'
map(top + 'live.so'); map(top + 'replaced.so')
library('new', top); os.rename(top + 'new', top + 'replaced.so')
library('upper.so', top); map(top + 'upper.so'); os.unlink(top + 'upper.so')
close_copies()
"
    for backend in auto procfs; do
        run deleted --libraries --json --backend "$backend" -p "$holder"
        jq_check "[.services[].files[] | [.path, .state]] | sort == [[\"$work/layers/merged/replaced.so\", \"replaced\"], [\"$work/layers/merged/upper.so\", \"deleted\"]]" "$backend on overlayfs: $(jq -c '[.services[].files[] | [.path, .state]]' "$work/out") $(cat "$work/err")"
    done
fi
finish
