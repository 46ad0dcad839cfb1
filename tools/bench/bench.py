"""Measures fdspan beside its peers. Run it through tools/bench/bench; the method is in README.md next to it."""
import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PARTS = ["start", "snapshot", "tracing", "consumer", "latency"]
# Whoever arms the tracking of this machine, tests included, holds this.
ARM_LOCK = "/tmp/fdspan-arm.lock"
SYSCALL_BUFFER_S = 0.3


class Failed(Exception):
    """A subject that did not do what it was started for; its message says what."""


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="tools/bench/bench", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures fdspan and its peers in one run, interleaved, and prints ratios with minimum, median and maximum.",
        epilog="parts: start (fdspan ls on the machine as it is), snapshot (many held descriptors), tracing (cost of an open+close pair),\n"
               "consumer (decode and index), latency (unlink to the line in watch). The method: tools/bench/README.md.")
    parser.add_argument("parts", nargs="*", metavar="PART", help="what to measure [all]: " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="how often each subject is measured [5]")
    parser.add_argument("--processes", type=int, default=10, help="snapshot: processes that hold descriptors [10]")
    parser.add_argument("--descriptors", type=int, default=10_000, help="snapshot: descriptors in each [10000]")
    parser.add_argument("--files", type=int, help="snapshot: different files in each process [as many as descriptors]")
    parser.add_argument("--depth", type=int, default=4, help="directories between the bench's own and the files [4]")
    parser.add_argument("--name-bytes", type=int, default=24, help="length of a file's name [24]")
    parser.add_argument("--deleted", type=int, default=10, help="snapshot: files of each process that are deleted [10]")
    parser.add_argument("--milliseconds", type=int, default=1000, help="tracing: length of one measurement [1000]")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="tracing: the core the loop runs on [the last]")
    parser.add_argument("--rate", type=int, default=50_000, help="latency: opens per second meanwhile [50000]")
    parser.add_argument("--index", type=int, default=1_000_000, help="consumer: descriptors in the index [1000000]")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the files are made [%(default)s]")
    parser.add_argument("--no-peers", action="store_true", help="measure fdspan alone")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, 2 rounds: shows that everything runs, its figures are no good")
    parser.add_argument("--bin", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"there is no part {part}; expected {', '.join(PARTS)}")
    if options.quick:
        options.rounds = 2
        options.descriptors = max(1, options.descriptors // 10)
        options.milliseconds = max(100, options.milliseconds // 5)
        options.index //= 10
    if options.files is None:
        options.files = options.descriptors
    if not 0 <= options.deleted <= options.files <= options.descriptors:
        parser.error("there have to be --deleted <= --files <= --descriptors")
    if options.rounds < 1 or options.processes < 1 or options.depth < 0 or not 1 <= options.name_bytes <= 255:
        parser.error("--rounds and --processes are at least 1, --depth 0, --name-bytes 1 to 255")
    options.parts = options.parts or PARTS
    return options


# ---- figures --------------------------------------------------------------------------------------------------------------


def spread(values, form="{:.2f}"):
    return " ".join(form.format(value).rjust(7) for value in (min(values), statistics.median(values), max(values)))


class Table:
    """Rows of figures, each with its ratios to a reference of the same round."""

    def __init__(self, title, unit, heading):
        print(f"\n{title}\n")
        print(f"{'':<44} {unit + ': min median max':>23}   {heading + ': min median max':>23}  goal")

    @staticmethod
    def row(name, values, ratios=None, goal="", form="{:.1f}"):
        shown = spread(ratios) if ratios else ""
        print(f"{name:<44} {spread(values, form):>23}   {shown:>23}  {goal}".rstrip())
        sys.stdout.flush()


def goal_text(ratios, limit, at_least):
    median = statistics.median(ratios)
    met = median >= limit if at_least else median <= limit
    return f"{'>=' if at_least else '<='} {limit:g}: {'met' if met else 'NOT MET'}"


# ---- running things -------------------------------------------------------------------------------------------------------


def run_timed(command, accepted=(0,)):
    """Wall seconds, CPU seconds, largest resident KB of a command whose output goes to /dev/null."""
    with tempfile.TemporaryFile() as errors:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in accepted:
            errors.seek(0)
            raise Failed(f"{' '.join(command)}: exit code {process.returncode}: {errors.read().decode(errors='replace').strip()[-300:]}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


@contextlib.contextmanager
def background(command, **how):
    """A command that runs meanwhile; ended by SIGINT."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **how)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def count_descriptors():
    """Descriptors of the whole machine, and how many processes there are."""
    descriptors = processes = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            processes += 1
        except OSError:
            pass
    return descriptors, processes


class Bench:
    def __init__(self, options, directory):
        self.options = options
        self.directory = directory
        self.fdspan = os.path.join(options.bin, "fdspan")
        self.load = os.path.join(options.bin, "fdspan-bench-load")
        self.failures = []
        self.traces_with = None

    def lasting(self, name):
        """A peer's path, or None when it is not to be measured."""
        return None if self.options.no_peers else shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

    def rounds(self, subjects, measure):
        """{name: [result per round]}; each round runs every subject once, in another order than the last."""
        results = {name: [] for name in subjects}
        names = list(subjects)
        for turn in range(self.options.rounds):
            for name in names[turn % len(names):] + names[:turn % len(names)]:
                if results[name] is None:
                    continue
                try:
                    results[name].append(measure(subjects[name]))
                except Failed as failure:
                    self.failures.append(f"{name}: {failure}")
                    results[name] = None
        return {name: result for name, result in results.items() if result}

    @staticmethod
    def require(results, *names):
        for name in names:
            if name not in results:
                raise Failed(f"without a figure of {name} there is nothing to compare")

    # ---- start ----

    def start(self):
        descriptors, processes = count_descriptors()
        table = Table(f"Start: {processes} processes with {descriptors} descriptors on this machine, whole command, output to /dev/null",
                      "ms", "ratio to fdspan")
        commands = {
            "fdspan ls": [self.fdspan, "ls"],
            "fdspan ls --backend procfs": [self.fdspan, "ls", "--backend", "procfs"],
            "fdspan ls -p (one process)": [self.fdspan, "ls", "-p", str(os.getpid())],
            "fdspan --version (no BPF)": [self.fdspan, "--version"],
        }
        if self.lasting("lsof"):
            commands["lsof -n -P"] = ["lsof", "-n", "-P"]
        if self.lasting("lsfd"):
            commands["lsfd"] = ["lsfd"]
        results = self.rounds(commands, lambda command: run_timed(command, (0, 3)))
        self.require(results, "fdspan ls")
        base = [wall for wall, _, _ in results["fdspan ls"]]
        for name, result in results.items():
            walls = [wall * 1000 for wall, _, _ in result]
            goal = ""
            if name == "fdspan ls":
                goal = f"< 50 ms: {'met' if statistics.median(walls) < 50 else 'NOT MET'}"
            table.row(name, walls, [wall / 1000 / reference for wall, reference in zip(walls, base)], goal)
        self.start_parts()

    def start_parts(self):
        """Where `fdspan ls` spends its time, by what strace sees; strace itself slows each syscall."""
        if not self.lasting("strace"):
            return
        log = os.path.join(self.directory, "strace")
        run_timed(["strace", "-f", "-T", "-e", "trace=bpf", "-o", log, self.fdspan, "ls"], (0, 3))
        spent = {}
        with open(log, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                # Two threads at once: strace breaks one of the lines in two.
                if "bpf(BPF_" in line and line.rstrip().endswith(">") and "<unfinished" not in line:
                    what = line.split("bpf(", 1)[1].split(",", 1)[0]
                    if what == "BPF_PROG_LOAD" and "BPF_PROG_TYPE_TRACING" not in line:
                        what = "libbpf's questions to the kernel"
                    seconds, count = spent.get(what, (0, 0))
                    spent[what] = seconds + float(line.rsplit("<", 1)[1].rstrip(">\n")), count + 1
        print("\n  of that, in bpf(2): " + ", ".join(
            f"{what} {seconds * 1000:.1f} ms ({count})" for what, (seconds, count) in sorted(spent.items(), key=lambda item: -item[1][0])[:5]))
        print("  (BPF_PROG_LOAD is verification and compilation to machine code)")

    # ---- snapshot ----

    @contextlib.contextmanager
    def held(self):
        options = self.options
        where = os.path.join(self.directory, "held")
        os.mkdir(where)
        process = subprocess.Popen([self.load, "hold", where] + [str(value) for value in (
            options.processes, options.descriptors, options.files, options.depth, options.name_bytes, options.deleted)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            if process.stdout.readline() != "ready\n":
                raise Failed("the processes that hold descriptors did not start")
            yield
        finally:
            process.stdin.close()
            process.wait()
            shutil.rmtree(where)

    def snapshot(self):
        options = self.options
        with self.held():
            held = options.processes * options.descriptors
            pid = subprocess.run(["pgrep", "-n", "-f", "fdspan-bench-load hold"], capture_output=True, text=True, check=True).stdout.strip()
            table = Table(f"Snapshot: {held} descriptors in {options.processes} processes, {options.files} files each, {options.deleted} deleted, "
                          f"{options.depth} directories deep, names of {options.name_bytes} bytes", "ms", "lsof is slower by")
            commands = {
                "fdspan ls": [self.fdspan, "ls"],
                "fdspan ls --json": [self.fdspan, "ls", "--json"],
                "fdspan ls --backend procfs": [self.fdspan, "ls", "--backend", "procfs"],
                "fdspan ls -o PID,FD": [self.fdspan, "ls", "-o", "PID,FD"],
                "fdspan ls --deleted": [self.fdspan, "ls", "--deleted"],
                "fdspan ls -p (one process)": [self.fdspan, "ls", "-p", pid],
            }
            if subprocess.run([self.fdspan, "deleted", "--help"], capture_output=True, check=False).returncode == 0:
                commands["fdspan deleted"] = [self.fdspan, "deleted"]
            peers = {"lsof -n -P": ["lsof", "-n", "-P"], "lsof +L1": ["lsof", "-n", "-P", "+L1"], "lsof -p (one process)": ["lsof", "-n", "-P", "-p", pid],
                     "lsfd": ["lsfd"], "fuser -m (one file system)": ["fuser", "-m", self.directory]}
            commands.update({name: command for name, command in peers.items() if self.lasting(command[0])})
            results = self.rounds(commands, lambda command: run_timed(command, (0, 1, 3)))

        self.require(results, "fdspan ls", "fdspan ls --json")
        references = {"fdspan ls --deleted": "lsof +L1", "fdspan deleted": "lsof +L1", "fdspan ls -p (one process)": "lsof -p (one process)"}
        goals = {"fdspan ls": 20, "fdspan ls --backend procfs": 4, "fdspan deleted": 40}
        for name, result in results.items():
            walls = [wall for wall, _, _ in result]
            reference = references.get(name, "lsof -n -P")
            ratios = goal = None
            if name.startswith("fdspan") and reference in results:
                ratios = [other[0] / wall for wall, other in zip(walls, results[reference])]
                goal = goal_text(ratios, goals[name], True) if name in goals else ""
            table.row(name, [wall * 1000 for wall in walls], ratios, goal or "")
        first = [wall for wall, _, _ in results["fdspan ls"]]
        print()
        if "lsfd" in results:
            ratios = [other[0] / wall for wall, other in zip(first, results["lsfd"])]
            print(f"  fdspan ls is faster than lsfd by {spread(ratios)}, goal {goal_text(ratios, 15, True)}")
        ratios = [other[0] / wall for wall, other in zip(first, results["fdspan ls --json"])]
        print(f"  --json takes {spread(ratios)} of the table, goal {goal_text(ratios, 1.5, False)}")
        for name in ("fdspan ls", "fdspan ls --json", "lsof -n -P", "lsfd"):
            if name in results:
                wall, cpu, memory = min(results[name])
                print(f"  {name:<26} {wall * 1e6 / held:6.2f} us and {memory * 1024 / held:4.0f} bytes a descriptor, {cpu * 1000:.0f} ms of CPU time")

    # ---- tracing ----

    def pairs(self, path):
        """ns per open+close pair (fastest and median slice) and their number."""
        out = self.run_load("pairs", str(self.options.cpu), str(self.options.milliseconds), path)
        return float(out[0]), float(out[1]), int(out[2])

    def calls(self):
        out = self.run_load("calls", str(self.options.cpu), str(max(50, self.options.milliseconds // 4)))
        return float(out[1])

    def run_load(self, *arguments):
        done = subprocess.run([self.load, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(done.stderr.strip())
        return done.stdout.split()

    @contextlib.contextmanager
    def armed(self, *arguments):
        with open(ARM_LOCK, "a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = subprocess.run([self.fdspan, "arm", *arguments], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Failed(done.stderr.strip())
            try:
                yield None
            finally:
                subprocess.run([self.fdspan, "disarm"], capture_output=True, check=True)

    def backend(self):
        """The best that this machine can trace with, which `watch --json` says in its first line."""
        if self.traces_with is None:
            done = subprocess.run([self.fdspan, "watch", "--json", "--timeout", "1s", "--event", "lost"], capture_output=True, text=True, check=False)
            if not done.stdout:
                raise Failed(f"watch: {done.stderr.strip()}")
            self.traces_with = json.loads(done.stdout.splitlines()[0])["backend"]
            if self.traces_with == "procfs":
                raise Failed(f"watch can't trace here: {done.stderr.strip()}")
        return self.traces_with

    @contextlib.contextmanager
    def watched(self, *arguments):
        # --interval: no correcting snapshot falls into a measurement.
        # --backend: one that only polled would cost nothing and see nothing.
        with tempfile.TemporaryFile() as errors, background(
                [self.fdspan, "watch", "--json", "--interval", "1h", "--backend", self.backend(), *arguments], stdout=subprocess.DEVNULL, stderr=errors) as process:
            # It opens its timer last, and then sleeps until something happens.
            for _ in range(400):
                with contextlib.suppress(OSError):
                    links = [os.readlink(f"/proc/{process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{process.pid}/fd")]
                    if "anon_inode:[timerfd]" in links:
                        break
                time.sleep(0.05)
            time.sleep(1)
            if process.poll() is not None:
                raise Failed("watch ended at once")
            yield process
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
            errors.seek(0)
            said = errors.read().decode(errors="replace")
            process.lost = int(said.split(" event")[0].rsplit(" ", 1)[-1]) if "lost" in said else 0

    @contextlib.contextmanager
    def bpftrace(self, script):
        with background([shutil.which("bpftrace"), "-e", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            if not process.stdout.readline().startswith("Attaching"):
                raise Failed("bpftrace did not attach")
            time.sleep(1)
            yield None

    @contextlib.contextmanager
    def opensnoop(self):
        with background([self.lasting("opensnoop")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            time.sleep(2)
            yield None

    def tracing(self):
        options = self.options
        where = self.directory
        for level in range(options.depth):
            where = os.path.join(where, f"level-{level}")
            os.makedirs(where, exist_ok=True)
        path = os.path.join(where, ("opened-" + "x" * 255)[:max(options.name_bytes, 8)])
        with open(path, "w", encoding="utf-8"):
            pass
        tracers = {
            "armed (kernel maps only)": self.armed,
            "watch --json, all processes": self.watched,
            "watch --json -p OTHER (excluded)": lambda: self.watched("-p", str(os.getpid())),
            "watch --json DIR (file elsewhere)": lambda: self.watched(os.path.join(self.directory, "elsewhere")),
        }
        if self.lasting("bpftrace"):
            tracers["bpftrace, three empty programs"] = lambda: self.bpftrace(
                "tracepoint:syscalls:sys_exit_openat { } tracepoint:syscalls:sys_enter_close { } tracepoint:syscalls:sys_exit_close { }")
            tracers["bpftrace, start times in a map"] = lambda: self.bpftrace(
                "tracepoint:syscalls:sys_exit_openat /args->ret >= 0/ { @opened[pid, args->ret] = nsecs; } "
                "tracepoint:syscalls:sys_enter_close { delete(@opened[pid, args->fd]); } END { clear(@opened); }")
        if self.lasting("opensnoop"):
            tracers["opensnoop"] = self.opensnoop
        Table(f"Tracing: open+close of one file {options.depth} directories deep, on core {options.cpu}, {options.milliseconds} ms each",
              "ns", "ratio to untraced")

        def measure(tracer):
            before = self.pairs(path)
            calls_before = self.calls()
            with tracer() as process:
                # The first opens make what later ones find.
                spent = cpu_seconds(process.pid) if process else 0
                traced = self.pairs(path)
                if process:
                    time.sleep(SYSCALL_BUFFER_S)
                    spent = cpu_seconds(process.pid) - spent
                calls = self.calls()
            after = self.pairs(path)
            untraced = min(before[1], after[1])
            return {"untraced": untraced, "traced": traced[1], "ratio": traced[1] / untraced, "pairs": traced[2],
                    "calls": calls, "calls ratio": calls / calls_before, "spent": spent, "lost": getattr(process, "lost", None)}

        results = self.rounds(tracers, measure)
        Table.row("untraced", [result["untraced"] for rows in results.values() for result in rows])
        by_map = results.get("bpftrace, start times in a map")
        empty = results.get("bpftrace, three empty programs")
        for name, rows in results.items():
            ratios = [row["ratio"] for row in rows]
            goal = ""
            if name.startswith("armed"):
                goal = goal_text(ratios, 1.5, False)
            elif name.endswith("all processes"):
                goal = goal_text(ratios, 2.0, False)
            elif name.endswith(("(excluded)", "elsewhere)")) and empty:
                limit = round(1.1 * statistics.median([row["ratio"] for row in empty]), 2)
                goal = goal_text(ratios, limit, False)
            Table.row(name, [row["traced"] for row in rows], ratios, goal)
        print()
        armed = results.get("armed (kernel maps only)")
        if armed and by_map:
            print(f"  armed against the bpftrace script that keeps start times: {spread([a['ratio'] / b['ratio'] for a, b in zip(armed, by_map)])}, "
                  f"goal {goal_text([a['ratio'] / b['ratio'] for a, b in zip(armed, by_map)], 1.0, False)}")
        for row in results.get("watch --json, all processes", []):
            records = row["pairs"] * 2
            print(f"  watch: {records} spans begun and ended, {row['lost']} lost ({100 * row['lost'] / records:.2f} %), "
                  f"{row['spent'] * 1e9 / records:.0f} ns of its CPU time each")
        print()
        Table.row("getppid(2) untraced, ns", [row["calls"] / row["calls ratio"] for rows in results.values() for row in rows])
        for name, rows in results.items():
            Table.row(f"getppid(2), {name}"[:44], [row["calls"] for row in rows], [row["calls ratio"] for row in rows])

    # ---- consumer ----

    def consumer(self):
        print("\nConsumer: decode and index in one thread, records made beforehand (tools/bench/replay.cpp), CPU time\n")
        done = subprocess.run([os.path.join(self.options.bin, "fdspan-replay"), str(self.options.index), str(self.options.index * 2)],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"fdspan-replay: exit code {done.returncode} {done.stderr.strip()}")
        print(done.stdout, end="")
        print("  goals: 1000000 /s, at most 128 bytes each")

    # ---- latency ----

    def latency(self):
        options = self.options
        where = os.path.join(self.directory, "latency")
        os.mkdir(where)
        command = [self.fdspan, "watch", "--json", "--event", "deleted", "--interval", "1h", where]
        milliseconds = options.milliseconds * 5
        delays = []
        with background(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as watch:
            watch.stdout.readline()
            with subprocess.Popen([self.load, "unlink", str(options.cpu), str(milliseconds), where, str(options.rate)],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
                arrived = self.read_deleted(watch.stdout.fileno(), milliseconds / 1000 + 1)
                out, errors = load.communicate()
        unlinked = [line.split() for line in out.splitlines()]
        for name, at_ns in unlinked:
            if name in arrived:
                delays.append((arrived[name] - int(at_ns)) / 1e6)
        print(f"\nLatency: from unlink(2) returning to its line in watch --json, {errors.strip()} opens per second meanwhile\n")
        if not delays:
            print(f"  none of {len(unlinked)} deletions was seen")
            self.failures.append("latency: watch showed no deletion")
        else:
            delays.sort()
            p99 = delays[min(len(delays) - 1, len(delays) * 99 // 100)]
            print(f"  {len(delays)} of {len(unlinked)} seen; median {statistics.median(delays):.2f} ms, 99 % {p99:.2f} ms, largest {delays[-1]:.2f} ms, "
                  f"goal p99 < 10 ms: {'met' if p99 < 10 and len(delays) == len(unlinked) else 'NOT MET'}")
        self.visible(where)

    @staticmethod
    def read_deleted(fd, seconds):
        """{file name: CLOCK_BOOTTIME ns at which its line was read}"""
        arrived = {}
        rest = b""
        os.set_blocking(fd, False)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                text = os.read(fd, 1 << 20)
            except BlockingIOError:
                time.sleep(0.0002)
                continue
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            if not text:
                break
            *lines, rest = (rest + text).split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["event"] == "deleted":
                    arrived.setdefault(os.path.basename(event["path"]), now)
        return arrived

    def visible(self, where):
        tries = self.options.rounds * 2
        seen = exact = 0
        with self.armed():
            for turn in range(tries):
                path = os.path.join(where, f"visible-{turn}")
                with open(path, "w", encoding="utf-8"):
                    done = subprocess.run([self.fdspan, "ls", "--json", "-p", str(os.getpid()), path], capture_output=True, text=True, check=False)
                rows = json.loads(done.stdout)["references"] if done.returncode == 0 else []
                seen += len(rows) == 1
                exact += len(rows) == 1 and rows[0]["opened"]["source"] == "kernel"
        print(f"  from open to visible: fdspan ls started right after open(2) showed the descriptor in {seen} of {tries} tries, "
              f"with its exact time in {exact}")


def main():
    options = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="fdspan-bench-", dir=options.directory) as directory:
        bench = Bench(options, directory)
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), os.uname().machine)
        print(f"{os.uname().release}, {os.cpu_count()} cores ({model}), load {os.getloadavg()[0]:.1f}, {options.rounds} rounds" +
              (", QUICK: no figures to quote" if options.quick else ""))
        for part in options.parts:
            try:
                getattr(bench, part)()
            except Failed as failure:
                bench.failures.append(f"{part}: {failure}")
        for failure in bench.failures:
            print(f"failed: {failure}", file=sys.stderr)
        return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
