# Deleted files that are still held: one row a file, the space they take, since when, and who holds them.
. "$(dirname "$0")/lib.sh"

loops=()
mounts=()
undo() {
    local loop point
    for loop in "${loops[@]}"; do losetup -d "$loop"; done
    cleanup_processes
    for point in "${mounts[@]}"; do umount "$point"; done
    rm -rf "$work"
}
cleanup_processes() {
    local pid
    for pid in "${background[@]}"; do
        kill "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
}
trap undo EXIT

before=$(date +%s%N)
start_holder "
import os, mmap, time
os.mkdir('$work/held'); os.chdir('$work/held')
def make(name, data=b'x' * 10000):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, data)
    return fd
twice = make('twice', b'x' * 100000); copy = os.dup(twice); os.unlink('twice')
open('$work/numbers', 'w').write(f'twice={twice} copy={copy}')
sparse = make('sparse', b'x'); os.truncate(sparse, 10 << 30); os.unlink('sparse')
mapped = make('mapped'); memory = mmap.mmap(mapped, 5000, mmap.MAP_PRIVATE, mmap.PROT_READ)
os.unlink('mapped')
real = make('really (deleted)')
both = make('both (deleted)'); os.unlink('both (deleted)')
odd = make(b'new\nline \x1b[31m\xff'); os.unlink(b'new\nline \x1b[31m\xff')
linked = make('one of two'); os.link('one of two', 'two of two'); os.unlink('one of two')
replaced = make('replaced'); os.close(make('by this')); os.rename('by this', 'replaced')
os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')
os.memfd_create('memory')
os.open('$work/held', os.O_TMPFILE | os.O_RDWR)
nothing = mmap.mmap(-1, 4096)
"
after=$(date +%s%N)
second=$holder
chmod 755 "$work"
. "$work/numbers"
# shellcheck disable=SC2154 # twice and copy: descriptors of the process above
sleep 600 <"/proc/$holder/fd/$twice" &
background+=($!)
sleeper=$!
until [ "$(cat "/proc/$sleeper/comm")" = sleep ]; do sleep 0.01; done

check_json() { # BACKEND…
    run deleted -p "$holder,$sleeper" --json "$@"
    expect_code 0 "$* JSON"
    jq_check '.schema == 1 and .complete' "$* the frame"
    jq_check "[.files[].path] | sort == (([\"twice\", \"sparse\", \"mapped\", \"both (deleted)\", \"replaced\", \"gone\"] | map(\"$work/held/\" + .)) + [\"$work/held/new\\nline \\u001b[31m\\\\xff\"] | sort)" "$* one row per file: $(jq -c '[.files[].path]' "$work/out")"
    jq_check '[.files[].allocated] as $sizes | $sizes == ($sizes | sort | reverse)' "$* largest first"
    jq_check '.files[] | select(.path | endswith("/sparse")) | .size == 10737418240 and .allocated <= 8192' "$* bytes on disk, not the length"
    jq_check ".files[] | select(.path | endswith(\"/twice\")) | [.holders[] | [.pid, .ref]] | sort == ([[$holder, \"fd\"], [$holder, \"fd\"], [$sleeper, \"fd\"]] | sort)" "$* all holders of a file"
    jq_check '.files[] | select(.path | endswith("/mapped")) | [.holders[].ref] | unique == ["fd", "mem"]' "$* a mapping holds"
    jq_check '.files[] | select(.path | endswith("/gone")) | .type == "DIR" and [.holders[].ref] == ["cwd"]' "$* a working directory"
    jq_check '.total.files == (.files | length) and .total.allocated == ([.files[].allocated] | add)' "$* the total"
    jq_check '[.files[] | .state == "deleted" and .nlink == 0 and .deleted.source == "bounded"] | all' "$* deleted, and only bounds of when"
    # The truth lies inside every interval: it happened between the two clock readings.
    jq_check "def ns: (.[0:19] + \"Z\" | fromdate) * 1000 + (.[20:23] | tonumber); [.files[].deleted | (.latest | ns) >= $((before / 1000000 - 1)) and (.earliest == null or (.earliest | ns) <= $((after / 1000000)))] | all" "$* when: $(jq -c '[.files[].deleted | [.earliest, .latest]]' "$work/out")"
}
check_json
check_json --backend procfs

run deleted -p "$holder"
expect_code 0 "a table"
[ "$(wc -l <"$work/out")" -eq 9 ] || fail "seven files, a heading and a total: $(cat "$work/out")"
LC_ALL=C grep -q '[^ -~]' "$work/out" && fail "a table is harmless on a terminal"
grep -qE '^ *102400 +(>= |[0-9a-z]+\.\.)[0-9a-z]+ python3\[[0-9]+\] fd '"$twice,$copy"' +'"$work"'/held/twice \(deleted\)$' "$work/out" || fail "a row: $(cat "$work/out")"
tail -1 "$work/out" | grep -qE '^[0-9]+ bytes in 7 files held by 1 process$' || fail "the total: $(tail -1 "$work/out")"
run deleted -p "$holder" --noheadings --human --limit 1
[ "$(wc -l <"$work/out")" -eq 1 ] && grep -q '^100K ' "$work/out" || fail "--noheadings --human --limit: $(cat "$work/out")"
run deleted -p "$holder" --min-bytes 100K -n
[ "$(wc -l <"$work/out")" -eq 1 ] || fail "--min-bytes: $(cat "$work/out")"
run deleted -p "$holder" --json "$work/held/mapped"
jq_check '[.files[].path] | length == 1' "PATH, a former name"
run deleted -p "$holder" --json "$work/held"
jq_check '[.files[].path] | length == 7' "PATH, what was below it"
run deleted --json --comm sleep "$work"
jq_check "[.files[].holders[].pid] | unique == [$sleeper]" "--comm leaves the other holders out"
run deleted -p "$holder" --older-than 1000d
expect_code 1 "nothing has been deleted for so long"
run deleted -p "$$"
expect_code 1 "a process that holds nothing deleted"
[ "$(wc -l <"$work/err")" -eq 1 ] || fail "one line: $(cat "$work/err")"
run deleted -p "$holder" --nameless --gone --json
jq_check '[.files[] | select(.state != "deleted") | .state] | sort == ["gone", "memfd", "shm", "tmpfile"]' "--nameless and --gone: $(jq -c '[.files[].state]' "$work/out")"
jq_check '.files[] | select(.state == "gone") | .nlink == 1 and .deleted == null' "a link is left: not deleted"
run deleted -p "$holder" --nameless --gone --json --backend procfs
jq_check '[.files[] | select(.state != "deleted") | .state] | sort == ["gone", "memfd", "shm", "tmpfile"]' "--nameless and --gone through /proc"
run deleted -p "$holder,$sleeper" --by process --json
jq_check "[.groups[] | [.pid, .files]] == [[$holder, 7], [$sleeper, 1]] and .total.files == 7" "--by process: $(jq -c .groups "$work/out")"
run deleted -p "$holder" --by filesystem --json
jq_check '.groups | length == 1 and .[0].files == 7 and (.[0].mount_point | startswith("/"))' "--by filesystem"
run deleted -p "$holder" --by container
expect_code 0 "--by container"
run deleted -p "$holder" --explain "$work/held/twice"
expect_code 0 "--explain"
bash -c "cd $work && $(grep -m1 '^cp ' "$work/out")" && [ "$(stat -c %s "$work/twice")" -eq 100000 ] || fail "the command of --explain copies the file"
bash -c "$(grep '^truncate ' "$work/out")"
[ "$(stat -L -c %s "/proc/$holder/fd/$twice")" -eq 0 ] || fail "the command of --explain gives the space back"

# A FUSE server keeps the ctime of a file that is deleted as it was.
if [ "$(id -u)" -eq 0 ] && [ -w /dev/fuse ]; then
    mkdir "$work/fuse"
    mkfifo "$work/fuse.ready"
    "$BIN/lying_fuse" "$work/fuse" >"$work/fuse.ready" &
    background+=("$!")
    read -r _ <"$work/fuse.ready"
    mounts+=("$work/fuse")
    sleep 600 <"$work/fuse/no-data" &
    background+=("$!")
    until [ "$(cat "/proc/$!/comm")" = sleep ]; do sleep 0.01; done
    unlinked=$(date +%s%N)
    rm "$work/fuse/no-data"
    for backend in auto procfs; do
        run deleted -p "$!" --json --backend "$backend"
        jq_check "def ns: (.[0:19] + \"Z\" | fromdate) * 1000 + (.[20:23] | tonumber); [.files[].deleted.latest | ns >= $((unlinked / 1000000))] == [true]" "$backend: when a FUSE file was deleted: $(jq -c '[.files[].deleted]' "$work/out")"
    done
    kill "$!"
else
    echo "no FUSE here: not tested" >&2
fi

# Loop devices: no process shows what they hold.
if [ "$(id -u)" -eq 0 ] && losetup -f >/dev/null 2>&1; then
    mkdir "$work/memory"
    mount -t tmpfs tmpfs "$work/memory" && mounts+=("$work/memory")
    for file in "$work/disk" "$work/live (deleted)" "$work/two" "$work/memory/disk"; do
        head -c 1003520 /dev/urandom >"$file"
        sum=${sum:-$(sha256sum <"$file")}
        loops+=("$(losetup -f --show "$file")") || fail "no loop device for $file"
    done
    ln "$work/two" "$work/second"
    rm "$work/disk" "$work/two" "$work/memory/disk"
    sync
    run deleted --json "$work"
    jq_check ".files[] | select(.path == \"$work/disk\") | .state == \"deleted\" and .allocated == 1003520 and .holders == [{\"ref\":\"loop\",\"device\":\"${loops[0]}\"}]" "what only a loop device holds: $(jq -c .files "$work/out")"
    jq_check "[.files[] | select(.path | test(\"live\") or endswith(\"/two\"))] == []" "a loop device's file with a name, or with another link"
    jq_check ".files[] | select(.path == \"$work/memory/disk\") | .state == \"unknown\" and .allocated == null" "a loop device's file on tmpfs: its links are not known"
    run deleted --json --gone "$work"
    jq_check ".files[] | select(.path == \"$work/two\") | .state == \"gone\" and .nlink == 1" "a loop device's file with another link, --gone"
    run deleted --explain "$work/disk"
    grep -qx "losetup -d ${loops[0]}" "$work/out" || fail "how a loop device gives its file up: $(cat "$work/out")"
    id=$(timeout 180 "$FDSPAN" deleted --json "$work/disk" 2>/dev/null | jq -r '.files[0] | "\(.dev):\(.ino)"')
    run recover --inode "$id" "$work/copy"
    expect_code 0 "what only a loop device holds can be recovered: $(cat "$work/err")"
    [ "$(sha256sum <"$work/copy")" = "$sum" ] || fail "what only a loop device holds is recovered as it was"
else
    echo "no loop devices here: not tested" >&2
fi

# Another mount namespace and another root, as in a container.
start_holder "
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    assert result == 0, os.strerror(ctypes.get_errno())
must(libc.unshare(0x20000))
must(libc.mount(b'none', b'/', None, 0x44000, None))
root = b'$work/container'
os.mkdir(root)
must(libc.mount(b'tmpfs', root, b'tmpfs', 0, None))
os.mkdir(root + b'/data'); os.mkdir(root + b'/old')
must(libc.syscall(155 if platform.machine() == 'x86_64' else 41, root, root + b'/old'))
os.chdir('/')
must(libc.umount2(b'/old', 2))
inside = os.open('/data/log', os.O_RDWR | os.O_CREAT); os.write(inside, b'x' * 5000); os.unlink('/data/log')
open('/data/live', 'w').write('live'); live = open('/data/live')
"
for backend in auto procfs; do
    run deleted -p "$holder" --json --backend "$backend"
    jq_check ".files | length == 1 and .[0].path == \"/data/log\" and .[0].outside_path == \"/proc/$holder/root/data/log\"" "$backend: a path inside, and the way from outside: $(jq -c '[.files[] | [.path, .outside_path]]' "$work/out")"
done
run deleted -p "$holder"
grep -qF "/proc/$holder/root/data/log" "$work/out" || fail "a table shows the way from outside: $(cat "$work/out")"
run ls -p "$holder" --json
jq_check ".references[] | select(.path == \"/data/live\") | .outside_path == \"/proc/$holder/root/data/live\"" "ls: the way from outside"
[ "$(cat "/proc/$holder/root/data/live")" = live ] || fail "the way from outside leads there"
run ls -p "$second" --json -o OUTSIDE
jq_check '[.references[].outside_path] | unique == [null]' "nothing is outside here"
run recover "$holder" "$(timeout 180 "$FDSPAN" deleted -p "$holder" --json | jq '.files[0].holders[0].fd')" "$work/from-container"
[ "$(stat -c %s "$work/from-container")" -eq 5000 ] || fail "recovered out of a container"
finish
