# What a process holds can be copied out whole, or nothing is left under the name.
. "$(dirname "$0")/lib.sh"

mkdir "$work/held" "$work/dest" "$work/full"
umount_all() {
    umount "$work/full" 2>/dev/null
    umount -l "$work/fuse" 2>/dev/null
    cleanup
}
trap umount_all EXIT
cd "$work/dest" || exit 1
start_holder "
import os, mmap, socket
os.chdir('$work/held')
def make(name, data=b'', mode=0o600):
    fd = os.open(name, os.O_RDWR | os.O_CREAT, mode)
    os.fchmod(fd, mode)
    os.write(fd, data)
    return fd
rotated = make(b'old\n\xff\x1b[31m (deleted)', os.urandom(100000), 0o640)
os.fchown(rotated, 1234, 5678)
os.setxattr(rotated, 'user.origin', b'here')
os.utime(rotated, (1000000000, 1100000000.123456789))
os.unlink(b'old\n\xff\x1b[31m (deleted)')
sparse = make('sparse'); os.truncate(sparse, 10 << 30); os.pwrite(sparse, b'z', 5 << 30); os.unlink('sparse')
nameless = os.open('.', os.O_TMPFILE | os.O_RDWR, 0o600); os.write(nameless, b'never had a name')
live = make('live', b'still here')
empty = make('empty'); os.unlink('empty')
mapped = make('mapped', b'm' * 5000); memory = mmap.mmap(mapped, 5000, mmap.MAP_PRIVATE, mmap.PROT_READ); os.close(mapped); os.unlink('mapped')
memfd = os.memfd_create('secret'); os.write(memfd, b'in memory')
write_only = os.open('write-only', os.O_WRONLY | os.O_CREAT, 0o200); os.write(write_only, b'written'); os.unlink('write-only')
fifo, fifo_end = os.pipe()
os.mkfifo('fifo'); named_fifo = os.open('fifo', os.O_RDWR)
sock = socket.socket(socket.AF_UNIX)
null = os.open('/dev/null', os.O_RDWR)
directory = os.open('.', os.O_RDONLY)
path = os.open('live', os.O_PATH)
[span] = [line.split()[0] for line in open('/proc/self/maps') if 'mapped' in line]
numbers = dict(rotated=rotated, sparse=sparse, nameless=nameless, live=live, empty=empty, memfd=memfd, write_only=write_only, fifo=fifo, named_fifo=named_fifo,
               sock=sock.fileno(), null=null, directory=directory, path=path, span='-'.join(part.lstrip('0') for part in span.split('-')))
open('$work/numbers', 'w').write(''.join(f'{name}={number}\n' for name, number in numbers.items()))
"
. "$work/numbers"
# shellcheck disable=SC2154 # named by the process above
fds=/proc/$holder/fd
nothing_left() { # WHAT: no file, hidden ones too
    [ -z "$(ls -A .)" ] || fail "$1: something was left: $(ls -A .)"
    rm -rf -- "$PWD"/* "$PWD"/.[!.]*
}
one_line() {
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail "$1: not one line on stderr: $(cat "$work/err")"
}

run recover "$holder" "$rotated" out
expect_code 0 "a deleted file"
[ ! -s "$work/err" ] || fail "nothing to say about a copy that keeps everything: $(cat "$work/err")"
cmp -s out "$fds/$rotated" || fail "the copy has other bytes"
[ "$(stat -c '%a %u %g %s' out)" = '640 1234 5678 100000' ] || fail "mode, owner, size: $(stat -c '%a %u %g %s' out)"
[ "$(stat -c %y out)" = "$(stat -L -c %y "$fds/$rotated")" ] || fail "the time of the last write"
[ "$(python3 -c "import os; print(os.getxattr('out', 'user.origin'))")" = "b'here'" ] || fail "an extended attribute"
[ "$(wc -l <"$work/out")" -eq 1 ] && grep -qF 'old\n\xff\x1b[31m\x20(deleted) (deleted): 100000 bytes' "$work/out" || fail "one harmless line: $(cat -v "$work/out")"
before=$(stat -c %i out)
run recover "$holder" "$live" out
expect_code 2 "the name exists"
one_line "the name exists"
run recover --force "$holder" "$live" out
expect_code 0 "--force"
[ "$(cat out)" = 'still here' ] && [ "$(stat -c %i out)" != "$before" ] || fail "--force puts another file in its place"

echo victim >victim
ln -s victim link
ln -s nowhere dangling
for name in link dangling; do
    run recover "$holder" "$live" "$name"
    expect_code 2 "a symbolic link, $name"
    grep -q 'symbolic link' "$work/err" || fail "what is wrong with $name: $(cat "$work/err")"
done
[ "$(cat victim)" = victim ] && [ ! -e nowhere ] || fail "a symbolic link was followed"
run recover --force "$holder" "$live" link
expect_code 0 "--force follows a symbolic link"
[ "$(cat victim)" = 'still here' ] && [ -L link ] || fail "--force replaces what the link leads to"
run recover --force "$holder" "$live" dangling
[ -L dangling ] && [ "$(cat nowhere)" = 'still here' ] || fail "--force makes what a dangling link leads to"
mkfifo fifo
run recover --force "$holder" "$live" fifo
expect_code 2 "not even --force replaces a FIFO"
run recover --force "$holder" "$live" "$work/held/live"
expect_code 2 "onto itself"
[ "$(cat "$work/held/live")" = 'still here' ] || fail "the source was touched"
rm -f ./*

started=$(date +%s%N)
run recover "$holder" "$sparse" sparse
took=$((($(date +%s%N) - started) / 1000000))
expect_code 0 "10 GiB with one block"
[ "$took" -lt 1000 ] || fail "10 GiB with one block took $took ms"
[ "$(stat -c %s sparse)" -eq $((10 << 30)) ] && [ $(($(stat -c %b sparse) * 512)) -le 65536 ] || fail "sparse stays sparse: $(stat -c '%s %b' sparse)"
[ "$(dd if=sparse bs=4096 skip=$(((5 << 30) / 4096)) count=1 2>/dev/null | head -c 1)" = z ] || fail "the one block of a sparse file"
run recover --json "$holder" exe program
expect_code 0 "an executable"
cmp -s program "/proc/$holder/exe" || fail "an executable has the same bytes"
jq_check '.schema == 1 and .source.ref == "exe" and .dest == "program" and .how == "copy" and .size == .data_bytes and (.changed | not)' "JSON"
run recover "$holder" "$span" mapped
expect_code 0 "a mapping whose descriptor is closed"
[ "$(cat mapped)" = "$(printf 'm%.0s' {1..5000})" ] || fail "a mapping's file"
run recover "$holder" "${span%-*}-fffffffff000" other
expect_code 1 "no such mapping"
run recover "$holder" "$memfd" memfd
[ "$(cat memfd)" = 'in memory' ] || fail "a memfd"
run recover "$holder" "$write_only" write-only
[ "$(cat write-only)" = written ] || fail "what is open for writing only"
run recover "$holder" "$path" opath
[ "$(cat opath)" = 'still here' ] || fail "what is held by O_PATH"
run recover "$holder" "$empty" empty
expect_code 0 "an empty file"
[ -f empty ] && [ ! -s empty ] || fail "an empty file"
rm -f ./*

# A descriptor that only a thread has.
run_holder=$holder
start_holder "
import ctypes, os, threading
def own():
    assert ctypes.CDLL(None).unshare(0x400) == 0
    fd = os.open('$work/held/of-thread', os.O_RDWR | os.O_CREAT); os.write(fd, b'of a thread'); os.unlink('$work/held/of-thread')
    open('$work/thread', 'w').write(f'{threading.get_native_id()} {fd}')
    ready.set()
    threading.Event().wait()
ready = threading.Event()
threading.Thread(target=own, daemon=True).start()
ready.wait()
"
read -r tid fd <"$work/thread"
run recover --tid "$tid" "$holder" "$fd" of-thread
expect_code 0 "--tid"
[ "$(cat of-thread)" = 'of a thread' ] || fail "a descriptor that only a thread has"
rm of-thread
run recover --inode "$(timeout 180 "$FDSPAN" deleted -p "$holder" --json | jq -r '.files[0] | "\(.dev):\(.ino)"')" of-thread
[ "$(cat of-thread)" = 'of a thread' ] || fail "--inode finds what only a thread has"
rm of-thread
run recover "$holder" "$fd" of-thread
expect_code 1 "the process's own table has no such descriptor"
holder=$run_holder

# A program whose file is gone, through the process that runs it.
cp "$(command -v sleep)" "$work/held/program"
"$work/held/program" 300 &
program=$!
background+=("$program")
until [ "$(readlink "/proc/$program/exe")" = "$work/held/program" ]; do sleep 0.01; done
rm "$work/held/program"
[ ! -e "$(readlink "/proc/$program/exe")" ] || fail "the text of a deleted program's link leads nowhere"
run recover "$program" exe program
expect_code 0 "a deleted program"
cmp -s program "$(command -v sleep)" && [ -x program ] || fail "a deleted program comes back as it was"
rm program

for what in fifo named_fifo sock null directory; do
    run recover "$holder" "${!what}" refused
    expect_code 2 "$what is refused"
    grep -q 'only regular files' "$work/err" || fail "$what: $(cat "$work/err")"
    one_line "$what"
done
run recover "$holder" cwd refused
expect_code 2 "cwd is refused"
run recover "$holder" 9999 refused
expect_code 1 "no such descriptor"
run recover 2147483647 0 refused
expect_code 1 "no such process"
run recover "$holder" "$live" no-such-directory/refused
expect_code 2 "no such directory"
nothing_left "refused"

run recover "$holder" "$live" .
expect_code 0 "a directory"
[ "$(cat live)" = 'still here' ] || fail "a directory gets the file under its own name"
run recover "$holder" "$rotated" .
expect_code 2 "a name with control characters is not used without a look"
rm -f ./*

run recover --link "$holder" "$nameless" linked
expect_code 0 "--link of what O_TMPFILE made"
[ "$(stat -c %i linked)" = "$(stat -L -c %i "$fds/$nameless")" ] || fail "--link makes another name, no copy"
run recover --link "$holder" "$live" linked
expect_code 2 "--link where the name exists"
run recover --link --force "$holder" "$live" linked
[ "$(cat linked)" = 'still here' ] || fail "--link --force"
run recover --link "$holder" "$rotated" again
expect_code 2 "--link of a deleted file"
grep -q 'last link is gone' "$work/err" || fail "why --link is not possible: $(cat "$work/err")"
rm -f ./*

id=$(stat -L -c '%Hd:%Ld:%i' "$fds/$rotated")
run recover --inode "$id" by-inode
expect_code 0 "--inode"
cmp -s by-inode "$fds/$rotated" || fail "--inode finds who holds it"
run recover --inode "$id" "$holder" "$live" other
expect_code 1 "another file than the one that is meant"
touch nobody-holds-this
run recover --inode "$(stat -c '%Hd:%Ld:%i' nobody-holds-this)" none
expect_code 1 "nobody holds it"
rm -f ./*
run recover "$holder" "$rotated" -
cmp -s "$work/out" "$fds/$rotated" || fail "standard output"
nothing_left "standard output"

# What --explain prints does what it says.
run recover --explain "$holder" "$rotated" $'it\'s\n"here" \xff'
expect_code 0 "--explain"
LC_ALL=C grep -q '[^ -~]' "$work/out" && fail "--explain is harmless on a terminal"
nothing_left "--explain"
bash -c "$(grep -m1 '^cp ' "$work/out")" || fail "the command of --explain"
cmp -s $'it\'s\n"here" \xff' "$fds/$rotated" || fail "the command of --explain copies the file"
grep -qF "truncate -s 0 -- $fds/$rotated" "$work/out" || fail "how to get the space back"
rm -f ./*
run recover --explain "$holder" "$live"
grep -q truncate "$work/out" && fail "nothing to get back from a file that has a name"

# File systems without O_TMPFILE, or that can't rename without replacing.
: "${BIN:?folder of the helper programs}"
other_ways() {
    timeout 180 "$BIN/no_tmpfile" "$FDSPAN" "$@" >"$work/out" 2>"$work/err"
    code=$?
}
other_ways recover "$holder" "$rotated" out
expect_code 0 "without O_TMPFILE"
cmp -s out "$fds/$rotated" || fail "without O_TMPFILE the copy has other bytes"
other_ways recover "$holder" "$live" out
expect_code 2 "without O_TMPFILE the name exists"
other_ways recover --force "$holder" "$live" out
[ "$(cat out)" = 'still here' ] || fail "--force without O_TMPFILE"
[ "$(ls -A)" = out ] || fail "without O_TMPFILE a temporary file stays: $(ls -A)"
rm out

# A file system that says wrong things about its holes.
mkdir "$work/fuse"
mkfifo "$work/fuse.ready"
"$BIN/lying_fuse" "$work/fuse" >"$work/fuse.ready" &
background+=("$!")
read -r _ <"$work/fuse.ready"
for name in data-behind no-data; do
    sleep 600 <"$work/fuse/$name" &
    background+=("$!")
    until [ "$(cat "/proc/$!/comm")" = sleep ]; do sleep 0.01; done
    timeout 20 "$FDSPAN" recover "$!" 0 "$name" >"$work/out" 2>"$work/err" || fail "$name: exit code $?: $(cat "$work/err")"
    cmp "$name" "/proc/$!/fd/0" || fail "$name: the copy has other bytes"
    kill "$!"
done
rm -f ./*
umount -l "$work/fuse"

mount -t tmpfs -o size=64k tmpfs "$work/full" || { fail "mount a tmpfs"; finish; }
cd "$work/full" || exit 1
run recover "$holder" "$rotated" out
expect_code 2 "a full disk"
grep -q 'No space left on device; nothing was left' "$work/err" || fail "a full disk is said: $(cat "$work/err")"
one_line "a full disk"
nothing_left "a full disk"
other_ways recover "$holder" "$rotated" out
expect_code 2 "a full disk without O_TMPFILE"
nothing_left "a full disk without O_TMPFILE"
cd / && umount "$work/full"

# In the middle of a copy: it is stopped there, something happens, it goes on.
mount -t tmpfs -o size=1g tmpfs "$work/full" || { fail "mount a tmpfs"; finish; }
FDSPAN=$FDSPAN python3 - "$work/full" <<'END' || fail "faults in the middle of a copy"
import fcntl, os, re, signal, struct, subprocess, sys, termios, time
fdspan = os.environ['FDSPAN']
size = 128 << 20
failures = 0
os.chdir(sys.argv[1])
os.mkdir('out')

def check(true, what):
    global failures
    if not true:
        failures += 1
        print('FAILED:', what, file=sys.stderr)

def with_copy(happens, terminal=None):
    """A holder of a deleted file of 128 MiB, a copy that has begun: what happens(source, holder, copy) makes of it."""
    holder = subprocess.Popen(['sleep', '600'], stdin=(source := os.open('source', os.O_RDWR | os.O_CREAT, 0o600)))
    for _ in range(size >> 20):
        os.write(source, b'x' * (1 << 20))
    os.unlink('source')
    caught = False
    for _ in range(20):
        copy = subprocess.Popen([fdspan, 'recover', str(holder.pid), '0', 'out/copy'], stderr=terminal or subprocess.PIPE, stdout=subprocess.DEVNULL)
        part = 0
        while copy.poll() is None and not caught:
            try:
                for fd in os.listdir(f'/proc/{copy.pid}/fd'):
                    link = f'/proc/{copy.pid}/fd/{fd}'
                    if os.readlink(link).startswith(os.path.realpath('out/#')):
                        part = os.stat(link).st_size
                        if 0 < part < size:
                            copy.send_signal(signal.SIGSTOP)
                            caught = True
                            break
            except OSError:
                pass
        if caught:
            break
        if os.path.exists('out/copy'):
            os.unlink('out/copy')
    check(caught, 'the copy could not be stopped in the middle')
    happens(source, holder, copy)
    copy.send_signal(signal.SIGCONT)
    copy.wait(180)
    left = os.listdir('out')
    text = '' if terminal else copy.stderr.read().decode()
    same = left == ['copy'] and os.stat('out/copy').st_size == os.fstat(source).st_size and open('out/copy', 'rb').read() == os.pread(source, 2 * size, 0)
    for name in left:
        os.unlink('out/' + name)
    if holder.poll() is None:
        holder.kill()
    holder.wait()
    os.close(source)
    return copy.returncode, left, text, same

def ends(source, holder, copy):
    holder.kill()
    holder.wait()
code, left, text, same = with_copy(ends)
check(code == 0 and same and 'ended meanwhile' in text, f'the holder ends: {code} {left} {text}')

code, left, text, same = with_copy(lambda source, holder, copy: copy.send_signal(signal.SIGINT))
check(code == 130 and left == [] and 'interrupted' in text, f'SIGINT: {code} {left} {text}')
code, left, text, same = with_copy(lambda source, holder, copy: copy.send_signal(signal.SIGTERM))
check(code == 143 and left == [], f'SIGTERM: {code} {left} {text}')
code, left, text, same = with_copy(lambda source, holder, copy: copy.send_signal(signal.SIGKILL))
check(left == [], f'SIGKILL: {left}')

code, left, text, same = with_copy(lambda source, holder, copy: os.pwrite(source, b'y' * 5000000, size))
check(code == 3 and same and 'grew by 5000000 bytes' in text, f'the source grows: {code} {left} {text}')
code, left, text, same = with_copy(lambda source, holder, copy: os.pwrite(source, b'y', size - 1))
check(code == 3 and same and 'written to' in text, f'the source is written to: {code} {left} {text}')
code, left, text, same = with_copy(lambda source, holder, copy: os.truncate(source, 1000))
check(code == 2 and left == [] and 'cut shorter' in text, f'the source shrinks: {code} {left} {text}')

# On a terminal a bar shows what takes longer than a moment, however narrow it is, and is taken away.
ours, theirs = os.openpty()
fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 50, 0, 0))
def waits(source, holder, copy):
    time.sleep(0.7)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 30, 0, 0))
code, left, text, same = with_copy(waits, theirs)
os.write(theirs, b'END')
shown = b''
while not shown.endswith(b'END'):
    shown += os.read(ours, 4096)
lines = re.findall(rb'\r([^\r]*)\x1b\[K', shown)
check(code == 0 and same and len(lines) >= 2 and re.match(rb' *[0-9]+% ', lines[0]) and all(len(line) < 30 for line in lines) and lines[-1] == b'' and shown.endswith(b'\x1b[KEND'),
      f'the bar: {code} {shown}')

def appears(source, holder, copy):
    open('out/copy', 'w').write('somebody was faster')
code, left, text, same = with_copy(appears)
check(code == 2 and left == ['copy'] and 'exists by now' in text, f'the name is taken meanwhile: {code} {left} {text}')
sys.exit(failures != 0)
END
finish
