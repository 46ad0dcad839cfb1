# Each event loop that a host may have takes a tracker in: it sees what a process opens and closes, and that it ends.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root to trace"; exit 77; }
hosts=$SOURCE_DIR/tests/hosts
touch "$work/file"

# check_host NAME COMMAND…: runs it with the pid of a process that opens and closes a file.
check_host() {
    local name=$1
    shift
    mkfifo "$work/go"
    python3 -c 'import os, sys, time
sys.stdin.readline()
fd = os.open(sys.argv[1], os.O_RDONLY)
time.sleep(0.2)
os.close(fd)
time.sleep(0.2)' "$work/file" <"$work/go" &
    local pid=$!
    background+=("$pid")
    exec 4>"$work/go"
    rm "$work/go"
    timeout 200 "$@" "$pid" >"$work/out" 2>"$work/err" &
    local host=$!
    for _ in $(seq 1000); do
        grep -q ^ready "$work/out" && break
        sleep 0.1
    done
    echo go >&4
    exec 4>&-
    wait "$host"
    code=$?
    expect_code 0 "$name"
    [ ! -s "$work/err" ] || fail "$name says nothing on stderr: $(head -c 300 "$work/err")"
    for kind in opened closed; do
        [ "$(grep -c "^$kind [0-9]* $work/file\$" "$work/out")" -eq 1 ] || fail "$name sees the file $kind once: $(head -c 900 "$work/out")"
    done
    wait "$pid"
}

# build NAME PACKAGES…: as a stranger would, against the installed tree and Debian's library.
build() {
    local name=$1 source compiler flags
    shift
    flags=$(pkg-config --cflags --libs fdspan "$@") || fail "pkg-config knows fdspan $*"
    source=$(echo "$hosts/$name".c*)
    compiler="${CC:-cc} -std=c11"
    [[ $source == *.cpp ]] && compiler="${CXX:-c++} -std=c++20 -pthread"
    # shellcheck disable=SC2086 # flags are words
    $compiler -D_GNU_SOURCE -O1 -Wall -Wextra -Werror -o "$work/$name" "$source" $flags >"$work/log" 2>&1 || fail "$name compiles: $(head -n 10 "$work/log")"
}

build epoll_host
build libevent_host libevent_core
build libuv_host libuv
build sd_event_host libsystemd
build glib_host glib-2.0
build asio_host
for name in epoll libevent libuv sd_event glib asio; do check_host "$name" "$work/${name}_host"; done
check_host python python3 "$hosts/python_host.py"

# The real collectd loads the plugin and writes what it reports.
flags=$(pkg-config --cflags --libs fdspan)
# shellcheck disable=SC2086
"${CC:-cc}" -shared -fPIC -DHAVE_CONFIG_H -I/usr/include/collectd -I/usr/include/collectd/core -I/usr/include/collectd/core/daemon -O1 -Wall -Wextra \
    -o "$work/fdspan.so" "$hosts/collectd_fdspan.c" $flags 2>"$work/log" || fail "the collectd plugin compiles: $(head -n 10 "$work/log")"
mkdir "$work/plugins" "$work/csv"
cp "$work/fdspan.so" /usr/lib/collectd/csv.so /usr/lib/collectd/logfile.so "$work/plugins/"
cat >"$work/collectd.conf" <<END
Hostname "test"
BaseDir "$work"
PIDFile "$work/collectd.pid"
PluginDir "$work/plugins"
TypesDB "/usr/share/collectd/types.db"
Interval 1
LoadPlugin logfile
<Plugin logfile>
  LogLevel "warning"
  File "$work/collectd.log"
</Plugin>
LoadPlugin csv
<Plugin csv>
  DataDir "$work/csv"
</Plugin>
LoadPlugin fdspan
END
# Half a megabyte that only a descriptor holds.
start_holder "import os
f = os.open('$work/held', os.O_RDWR | os.O_CREAT); os.write(f, b'x' * 524288); os.fsync(f); os.unlink('$work/held')"
timeout 300 /usr/sbin/collectd -f -C "$work/collectd.conf" >"$work/collectd.out" 2>&1 &
collectd=$!
background+=("$collectd")
last() { tail -q -n 1 "$work"/csv/test/fdspan/"$1"-* 2>/dev/null | cut -d, -f2; }
for _ in $(seq 600); do
    [ -n "$(last derive-lost_records)" ] && [ -n "$(last bytes-deleted_held)" ] && break
    sleep 0.2
done
kill "$collectd"
wait "$collectd"
[ ! -s "$work/collectd.log" ] || grep -v "fdspan: \|Exiting\|No global" "$work/collectd.log" | head -n 5 >&2
python3 - "$(last duration-oldest_open_file)" "$(last bytes-deleted_held)" "$(last count-descriptors)" "$(last derive-lost_records)" <<'PY' || fail "what collectd wrote: $(find "$work/csv" -type f) $(head -c 500 "$work/collectd.log" "$work/collectd.out")"
import sys
age, held, descriptors, lost = map(float, sys.argv[1:])
assert age > 0 and held >= 524288 and descriptors > 10 and lost >= 0, sys.argv
PY

for host in "$hosts"/*; do
    [ "$(wc -l <"$host")" -lt 80 ] || fail "${host##*/} has less than 80 lines"
done
finish
