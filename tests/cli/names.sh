# Whatever bytes a name has: one row is one line, a terminal is not obeyed, JSON gives the exact bytes back.
. "$(dirname "$0")/lib.sh"

start_holder "
import os
top = os.fsencode('$work') + b'/'
held = []
for name in [b'new\nline', b'esc\x1b[31mred', b'bad\xff\xfeutf8', b'live (deleted)', b'back\\\\slash', b'q\"uote', b'c1\xc2\x9b31m',
             b'bidi\xe2\x80\xae', b'tab\there', b'h\xc3\xa9\xe2\x82\xac', b'x' * 255, b'lone\xed\xa0\x80surrogate', b'del\x7f', b'sp ace']:
    held.append(open(top + name, 'w'))
held.append(open(top + b'gone', 'w'))
os.unlink(top + b'gone')
held.append(open(top + b'gone (deleted)', 'w'))
os.unlink(top + b'gone (deleted)')
"
for backend in auto procfs; do
    run ls -p "$holder" --ref fd --json --backend "$backend"
    expect_code 0 "hostile names as JSON ($backend)"
    python3 - "$work" "$work/out" <<'PY' || fail "the JSON round trip ($backend)"
import base64, json, os, sys
work = os.fsencode(sys.argv[1])
document = json.load(open(sys.argv[2], encoding="utf-8"))
found = {}
for reference in document["references"]:
    exact = base64.b64decode(reference["path_bytes"]) if "path_bytes" in reference else reference["path"].encode()
    if exact.startswith(work + b"/") and b"/ready." not in exact:
        found[exact[len(work) + 1:]] = reference["deleted"]
    if "path_bytes" in reference:
        assert "\\x" in reference["path"], reference
names = set(os.listdir(work)) - {b"out", b"err", b"holder.err", b"jq"}
names = {name for name in names if not name.startswith(b"ready.")}
missing = names - found.keys()
assert not missing, f"missing {missing}"
for name in names:
    assert found[name] is False, f"{name} is not deleted"
deleted = {name for name, is_deleted in found.items() if is_deleted}
assert deleted == {b"gone", b"gone (deleted)"}, f"deleted: {deleted}"
PY
    LC_ALL=C.UTF-8 run ls -p "$holder" --ref fd -o FD,NAME --backend "$backend"
    rows=$(wc -l <"$work/out")
    count=$(ls "/proc/$holder/fd" | wc -l)
    [ "$rows" -eq $((count + 1)) ] || fail "$rows lines for $count descriptors and a heading ($backend)"
    grep -qP '[\x00-\x09\x0b-\x1f\x7f]' "$work/out" && fail "a control byte reached the table ($backend)"
    LC_ALL=C grep -qP '\xc2[\x80-\x9f]|\xe2\x80\xae|\xff' "$work/out" && fail "C1, a bidirectional override or invalid UTF-8 reached the table ($backend)"
    for shown in 'new\nline' 'esc\x1b[31mred' 'bad\xff\xfeutf8' 'live\x20(deleted)' 'back\\slash' '/gone (deleted)' '/gone\x20(deleted) (deleted)'; do
        grep -qF -- "$shown" "$work/out" || fail "the table does not show $shown ($backend)"
    done
done
# A path argument has no need of escapes.
for name in $'new\nline' $'bad\xff\xfeutf8' 'live (deleted)' gone 'gone (deleted)'; do
    run ls -p "$holder" --json -- "$work/$name"
    expect_code 0 "ls of $(printf %q "$name")"
    jq_check '.references | length == 1' "ls of $(printf %q "$name") finds one reference"
done

# What a namespace says of an overlayfs is no promise: its lower layer is a FUSE server that hangs, mounted nowhere any more.
if [ "$(id -u)" -eq 0 ] && [ -w /dev/fuse ]; then
    mkdir "$work/lower" "$work/memory" "$work/merged"
    mkfifo "$work/go"
    unshare --mount bash -c 'mount -t tmpfs tmpfs "$1/memory" && mkdir "$1/memory/upper" "$1/memory/work" || exit
        "$2" "$1/lower" >"$1/served" & server=$!
        until [ -s "$1/served" ]; do sleep 0.01; done
        mount -t overlay none -o "lowerdir=$1/lower,upperdir=$1/memory/upper,workdir=$1/memory/work" "$1/merged" && umount -l "$1/lower"
        echo x >"$1/merged/kept"
        ln "$1/merged/kept" "$1/merged/other"
        exec 5<"$1/merged/kept"
        rm "$1/merged/kept"
        kill -STOP $server
        echo $server >"$1/server"
        read -r _ <"$1/go"
        kill -KILL $server' - "$work" "$BIN/hung_fuse" &
    overlay=$!
    background+=("$overlay")
    until [ -s "$work/server" ] || ! kill -0 "$overlay" 2>/dev/null; do sleep 0.05; done
    background+=("$(cat "$work/server")")
    for backend in procfs auto; do
        timeout -s KILL 60 "$FDSPAN" ls -p "$overlay" --fd 5 --json --backend "$backend" >"$work/out" 2>"$work/err"
        code=$?
        expect_code 0 "ls beside a layer that hangs ($backend)"
        jq_check '[.references[] | .deleted != true and .nlink == 1] == [true]' "a link on an overlayfs over what hangs ($backend)"
    done
    echo >"$work/go"
    wait "$overlay"
else
    echo "no FUSE here: not tested" >&2
fi
finish
