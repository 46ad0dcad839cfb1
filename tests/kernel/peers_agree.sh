#!/bin/bash
# `fdspan ls --json` of a quiet process full of descriptors is held against lsof -F and lsfd -J, field by field, through both
# sources. What the peers can't see, or show by another rule, is named where it is left out.
set -u
: "${FDSPAN:?path of the fdspan binary}"
for tool in lsof lsfd python3; do
    command -v "$tool" >/dev/null || { echo "FAILED: $tool is missing" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'kill "$holder" 2>/dev/null; wait "$holder" 2>/dev/null; rm -rf "$work"' EXIT

mkfifo "$work/ready"
# Nothing inherited stays open: the log of who runs the tests grows between two listings.
python3 - "$work" <<'PYTHON' >"$work/holder.out" 2>&1 &
import mmap, os, select, signal, socket, sys
folder = sys.argv[1]
os.closerange(3, os.sysconf("SC_OPEN_MAX"))
keep = []
def make(name, flags=os.O_RDWR | os.O_CREAT, data=b""):
    fd = os.open(os.path.join(folder, name), flags, 0o600)
    if data:
        os.write(fd, data)
    keep.append(fd)
    return fd
make("plain", data=b"x" * 5000)
make("append", os.O_WRONLY | os.O_CREAT | os.O_APPEND, b"abc")
os.ftruncate(make("sparse"), 1 << 30)
make("real (deleted)")
make("removed", data=b"y" * 100)
os.unlink(os.path.join(folder, "removed"))
make("one")
os.link(os.path.join(folder, "one"), os.path.join(folder, "two"))
fd = make("mapped", data=b"z" * 8192)
keep.append(mmap.mmap(fd, 8192, mmap.MAP_SHARED, mmap.PROT_READ))
os.close(fd)
keep.remove(fd)
os.mkfifo(os.path.join(folder, "fifo"))
make("fifo", os.O_RDWR)
keep += [os.open(folder, os.O_RDONLY | os.O_DIRECTORY), os.open("/dev/null", os.O_RDWR), os.open("/proc/self/ns/net", os.O_RDONLY)]
keep += list(os.pipe()) + [os.eventfd(3), os.memfd_create("memory"), select.epoll(), os.pidfd_open(os.getpid())]
keep += [socket.socket(), socket.socket(socket.AF_UNIX), *socket.socketpair()]
os.sync()
ready = os.open(os.path.join(folder, "ready"), os.O_WRONLY)
os.write(ready, b"ready")
os.close(ready)
signal.pause()
PYTHON
holder=$!
read -r -n 5 _ <"$work/ready"

lsof -n -P -p "$holder" -F pftDsikn >"$work/lsof" 2>/dev/null
lsfd -J -p "$holder" -o ASSOC,TYPE,INODE,MAJ:MIN,SIZE,NLINK,POS,FLAGS,MNTID,DELETED,NAME,MAPLEN >"$work/lsfd"
status=0
for backend in auto procfs; do
    "$FDSPAN" ls --json --backend "$backend" -p "$holder" >"$work/fdspan" || { echo "FAILED: fdspan ls --backend $backend" >&2; exit 1; }
    python3 - "$work" "$backend" <<'PYTHON' || status=1
import json, os, sys
work, backend = sys.argv[1:]
rows = json.load(open(os.path.join(work, "fdspan")))["references"]
failures = []
def check(what, ours, theirs):
    if ours != theirs:
        failures.append(f"{what}: fdspan says {ours!r}, it {theirs!r}")

fds = {row["fd"]: row for row in rows if row["ref"] == "fd"}
places = {row["ref"]: row for row in rows if row["ref"] in ("exe", "cwd", "root")}
maps = {row["path"] for row in rows if row["ref"] == "mem"}
plain = ("REG", "DIR", "CHR", "FIFO")

# ---- lsof: one block of lines per file, each line a letter and a value
blocks = []
for line in open(os.path.join(work, "lsof"), errors="surrogateescape"):
    if line[0] == "f":
        blocks.append({})
    if blocks:
        blocks[-1][line[0]] = line[1:].rstrip("\n")
seen = set()
lsof_maps = set()
for block in blocks:
    name = block["f"]
    if name == "mem":
        lsof_maps.add(block["n"])
        continue
    row = places.get({"cwd": "cwd", "rtd": "root", "txt": "exe"}.get(name, "")) or fds.get(int(name) if name.isdigit() else -1)
    what = f"lsof {name} {block.get('n')}"
    if row is None:
        failures.append(what + ": not in fdspan's answer")
        continue
    seen.add(name)
    if row["type"] in plain:
        check(what + " type", row["type"], block["t"])
        check(what + " inode", row["ino"], int(block["i"]))
        if row["type"] in ("REG", "DIR"):
            device = int(block["D"], 16)
            check(what + " device", row["dev"], f"{device >> 8}:{device & 0xff}")
        if row["type"] == "REG" and row["path"].startswith("/") and not row["path"].startswith("/memfd:"):
            check(what + " links", row["nlink"], int(block["k"]))
            check(what + " size", row["size"], int(block["s"]))
            check(what + " path", row["path"] + (" (deleted)" if row["deleted"] else ""), block["n"])
check("lsof's descriptors", sorted(int(name) for name in seen if name.isdigit()), sorted(fds))
# lsof shows each mapped file once, and the executable's own mapping as "txt".
check("lsof's mappings", sorted(lsof_maps), sorted(path for path in maps if path.startswith("/") and path != places["exe"]["path"]))

# ---- lsfd
listed = set()
for entry in json.load(open(os.path.join(work, "lsfd")))["lsfd"]:
    name = entry["assoc"]
    row = places.get({"cwd": "cwd", "rtd": "root", "exe": "exe"}.get(name, "")) or fds.get(int(name) if name.isdigit() else -1)
    if name in ("mem", "shm"):
        continue
    what = f"lsfd {name} {entry['name']}"
    if row is None:
        if not name.isdigit():  # namespaces and the like, which lsfd counts among what a process holds
            continue
        failures.append(what + ": not in fdspan's answer")
        continue
    listed.add(name)
    check(what + " inode", row["ino"], entry["inode"])
    check(what + " links", row["nlink"], entry["nlink"])
    check(what + " size", row["size"], entry["size"] or 0)
    if row["name_state"] in ("named", "deleted"):  # lsfd calls a file deleted whose opened name is gone, another link or not
        check(what + " deleted", row["deleted"], entry["deleted"])
    if row["ref"] == "fd":
        check(what + " position", row["pos"], entry["pos"])
        check(what + " device", row["dev"] if row["type"] in ("REG", "DIR") else None, entry["maj:min"] if row["type"] in ("REG", "DIR") else None)
        flags = (entry["flags"] or "").split(",")
        for flag, short in {"O_WRONLY": "wronly", "O_RDWR": "rdwr", "O_APPEND": "append", "O_DIRECTORY": "directory"}.items():
            check(what + " " + flag, flag in row["flags"], short in flags)
check("lsfd's descriptors", sorted(int(name) for name in listed if name.isdigit()), sorted(fds))

for failure in failures[:20]:
    print(f"FAILED ({backend}): {failure}", file=sys.stderr)
if len(fds) < 20:
    print(f"FAILED ({backend}): only {len(fds)} descriptors", file=sys.stderr)
sys.exit(1 if failures or len(fds) < 20 else 0)
PYTHON
done
exit $status
