# kill -9 at random moments under load: the database opens, is whole, and has what was committed; ages that are pinned stay exact.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root"; exit 77; }
exec 8>/tmp/fdspan-arm.lock
flock 8
was_armed=no
[ -d /sys/fs/bpf/fdspan/armed ] && was_armed=yes
python3 - "$BIN/fdspand" "$FDSPAN" "$work" "${FDSPAN_KILLS:-20}" >"$work/out" 2>"$work/err" <<'PY'
import json, os, random, sqlite3, subprocess, sys, threading, time
fdspand, fdspan, work, kills = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
database = work + "/events.db"
random.seed(os.getpid())
busy = True
def load():
    number = 0
    while busy:
        number += 1
        os.close(os.open(f"{work}/file-{number % 200}", os.O_CREAT | os.O_RDWR))
        if number % 50 == 0:
            held = os.open(f"{work}/deleted", os.O_CREAT | os.O_RDWR)
            os.unlink(f"{work}/deleted")
            os.close(held)
        time.sleep(0.0005)
threads = [threading.Thread(target=load) for _ in range(2)]
for thread in threads: thread.start()
committed, held = [], []
with open(work + "/config.json", "w") as config:
    config.write('{"log": {"commit_interval": "50ms"}}')
pinned = True
for round in range(kills):
    log = open(work + "/daemon.err", "w+")
    daemon = subprocess.Popen([fdspand, "--config", work + "/config.json", "--database", database, "--socket", work + "/socket", "--metrics", "", "--min-duration", "0"], stderr=log)
    # Some die while they start.
    if random.random() < 0.8:
        deadline = time.monotonic() + 120
        while ": ready\n" not in open(work + "/daemon.err").read():
            assert daemon.poll() is None, open(work + "/daemon.err").read()
            assert time.monotonic() < deadline, "not ready"
            time.sleep(0.02)
        pinned = pinned and "not pinned" not in open(work + "/daemon.err").read()
        if len(held) < 5:
            path = f"{work}/held-{len(held)}"
            held.append((path, os.open(path, os.O_CREAT | os.O_RDWR)))
    time.sleep(random.random())
    rows = 0
    if os.path.exists(database):
        # What another process can read has been committed.
        try:
            reader = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
            rows, last = reader.execute("SELECT count(*), max(id) FROM events").fetchone()
            reader.close()
            committed = (rows, last)
        except sqlite3.OperationalError as error:
            assert "no such table" in str(error) or "unable to open" in str(error), error
    daemon.kill()
    daemon.wait()
    if not committed:
        continue
    after = sqlite3.connect(database, timeout=60)
    assert after.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "integrity"
    found = after.execute("SELECT count(*) FROM events WHERE id <= ?", (committed[1],)).fetchone()[0]
    assert found == committed[0], f"{found} of {committed[0]} committed rows are there"
    after.close()
busy = False
for thread in threads: thread.join()
assert committed and committed[0] > 100, committed
if pinned:
    # Nobody but the kernel has followed these through all the deaths.
    answer = json.loads(subprocess.run([fdspan, "ls", "--json", "-p", str(os.getpid()), "--no-daemon"], stdout=subprocess.PIPE).stdout)
    sources = {row["path"]: row["opened"]["source"] for row in answer["references"] if row["fd"] is not None}
    assert held
    for path, fd in held:
        assert sources[path] == "kernel", (path, sources[path])
print(kills, "kills,", committed[0], "rows, pinned" if pinned else "rows, not pinned")
PY
code=$?
expect_code 0 "kill -9"
cat "$work/out"
[ "$was_armed" = yes ] || "$FDSPAN" disarm >/dev/null 2>&1
finish
