# The Debian package, in a throw-away copy of this system: installs, runs as its unit says, keeps exact ages over a kill, purges without a trace.
. "$(dirname "$0")/../cli/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root for a system of its own"; exit 77; }
# Mounts of its own, which go with it: what is pinned there is nobody else's.
if [ -z "${FDSPAN_DEB_INSIDE:-}" ]; then
    rmdir "$work"
    FDSPAN_DEB_INSIDE=1 exec unshare --mount --propagation private bash "$0"
fi
system=$work/system
trap 'umount -R -l "$system" 2>/dev/null; umount -l "$work/layer" 2>/dev/null; cleanup' EXIT
build=$(dirname "$BIN")
(cd "$build" && timeout 400 cpack -G DEB -B "$work/deb") >"$work/out" 2>&1 || { fail "cpack: $(tail -5 "$work/out")"; finish; }
package=$(echo "$work"/deb/*.deb)
dpkg-deb -f "$package" Depends | grep -q libsqlite3 || fail "its dependencies: $(dpkg-deb -f "$package" Depends)"

# Upper and work have to be on a file system that takes them; tmpfs does.
mkdir "$work/layer" "$system"
mount -t tmpfs tmpfs "$work/layer" && mkdir "$work/layer/upper" "$work/layer/work" &&
    mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layer/upper,workdir=$work/layer/work" "$system" &&
    mount -t proc proc "$system/proc" && mount -t sysfs sysfs "$system/sys" && mount -t bpf bpf "$system/sys/fs/bpf" && mount -t tmpfs -o mode=755 tmpfs "$system/run" && mount -t tmpfs -o mode=1777 tmpfs "$system/tmp" &&
    mount -t tmpfs -o mode=755 tmpfs "$system/dev" && mknod -m 666 "$system/dev/null" c 1 3 && mknod -m 666 "$system/dev/zero" c 1 5 &&
    mknod -m 666 "$system/dev/urandom" c 1 9 && mknod -m 666 "$system/dev/random" c 1 8 || { fail "a system of its own"; finish; }
cp "$package" "$system/tmp/fdspan.deb"
inside() {
    timeout 120 chroot "$system" "$@" >"$work/out" 2>"$work/err"
    code=$?
}
traces() { chroot "$system" find /etc /usr /var/lib /run /sys/fs/bpf -name '*fdspan*' -not -path '/usr/src/*' 2>/dev/null | sort; }
traces >"$work/before"
inside dpkg -i /tmp/fdspan.deb
expect_code 0 "dpkg -i: $(tail -3 "$work/out")"
for file in /usr/bin/fdspan /usr/sbin/fdspand /usr/lib/systemd/system/fdspand.service /usr/lib/systemd/system/fdspand.socket /usr/lib/sysusers.d/fdspan.conf \
    /usr/lib/tmpfiles.d/fdspan.conf /usr/share/man/man8/fdspand.8 /usr/share/fdspan/fdspan.rules.yml /usr/share/doc/fdspan/copyright; do
    [ -e "$system$file" ] || fail "$file is not in the package"
done
inside /usr/sbin/fdspand --config /usr/share/doc/fdspan/examples/fdspand.json --check-config
expect_code 0 "the example is good"

# Enabled at first, as it was left after that.
link=$system/etc/systemd/system/multi-user.target.wants/fdspand.service
is_enabled() { [ -L "$link" ] && [ -L "$system/etc/systemd/system/sockets.target.wants/fdspand.socket" ]; }
is_enabled || fail "it is enabled"
inside dpkg -r fdspan
expect_code 0 "dpkg -r: $(tail -3 "$work/err")"
inside dpkg -i /tmp/fdspan.deb
is_enabled || fail "removed and installed again it is enabled"
inside systemctl disable fdspand.service fdspand.socket
[ -L "$link" ] && fail "systemctl disable: $(cat "$work/err")"
inside dpkg -i /tmp/fdspan.deb
[ -L "$link" ] && fail "an upgrade enables what was disabled"
inside dpkg -r fdspan
inside dpkg -i /tmp/fdspan.deb
[ -L "$link" ] && fail "so does a removal"

# What was stopped is not started by an upgrade; what failed, or is about to be tried again, is.
mkdir -p "$system/run/systemd/system" "$system/tmp/said"
printf '#!/bin/sh\nfor unit; do :; done\ncat "/tmp/said/$unit"\ngrep -qx active "/tmp/said/$unit"\n' >"$system/tmp/said/systemctl"
chmod +x "$system/tmp/said/systemctl"
echo active >"$system/tmp/said/fdspand.socket"
started_by_upgrade() {
    echo "$1" >"$system/tmp/said/fdspand.service"
    inside env PATH="/tmp/said:$PATH" /var/lib/dpkg/info/fdspan.preinst upgrade 1
    expect_code 0 "preinst, the service $1: $(cat "$work/err")"
    inside env PATH="/tmp/said:$PATH" /var/lib/dpkg/info/fdspan.preinst abort-upgrade 2
    grep -qx fdspand.socket "$system/run/fdspand-running" || fail "the socket is started again: $(cat "$system/run/fdspand-running")"
    grep -qx fdspand.service "$system/run/fdspand-running"
}
for state in active activating reloading failed; do started_by_upgrade "$state" || fail "an upgrade starts what was $state"; done
for state in inactive deactivating unknown; do started_by_upgrade "$state" && fail "an upgrade starts what was $state"; done
rm -r "$system/run/systemd" "$system/run/fdspand-running" "$system/tmp/said"

inside usermod -aG fdspan nobody
expect_code 0 "its group takes members"

# As the unit starts it: its program, its user, its capabilities.
unit=$system/usr/lib/systemd/system/fdspand.service
program=$(sed -n 's/^ExecStart=//p' "$unit")
capabilities=$(sed -n 's/^AmbientCapabilities=//p' "$unit" | tr 'A-Z ' 'a-z,' | sed 's/cap_/+/g')
start() {
    chroot "$system" setpriv --reuid fdspan --regid fdspan --init-groups --no-new-privs --inh-caps "-all,$capabilities" --ambient-caps "-all,$capabilities" \
        --bounding-set "-all,$capabilities" "$program" --metrics '' 2>"$work/daemon.err" &
    daemon=$!
    background+=("$daemon")
    for _ in $(seq 600); do
        grep -q ': ready$' "$work/daemon.err" && return
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.1
    done
    fail "the service starts: $(tail -5 "$work/daemon.err")"
    finish
}
# What a member of the group is told about an own descriptor.
exact() {
    timeout 120 chroot "$system" setpriv --reuid nobody --regid nogroup --groups "$(chroot "$system" getent group fdspan | cut -d: -f3)" \
        /usr/bin/fdspan ls --json -p "$holder" >"$work/out" 2>"$work/err" &&
        jq -e '.references[] | select(.fd == 0) | .opened.source == "kernel" and .description.opened.source == "kernel"' "$work/out" >/dev/null
}
eventually_exact() {
    for _ in $(seq 300); do
        exact && return
        sleep 0.2
    done
    fail "$1: $(head -c 300 "$work/err"); fdspand said: $(tail -3 "$work/daemon.err")"
}
start
grep -E 'warning|error' "$work/daemon.err" | grep -v 'events were lost' && fail "it starts without a complaint"
setpriv --reuid nobody --regid nogroup --clear-groups sleep 300 </etc/hostname &
holder=$!
background+=("$holder")
eventually_exact "exact ages through the socket"
kill -KILL "$daemon"
wait "$daemon" 2>/dev/null
start
eventually_exact "and after the daemon was killed"
grep beside "$work/daemon.err" && fail "it takes over what it pinned itself"
kill -TERM "$daemon"
wait "$daemon"
code=$?
expect_code 0 "it ends by SIGTERM"
[ -s "$system/var/lib/fdspan/events.db" ] || fail "its log"
[ -d "$system/sys/fs/bpf/fdspan/armed" ] || fail "tracking stays armed without it"

inside dpkg --purge fdspan
expect_code 0 "dpkg --purge: $(tail -3 "$work/err")"
inside getent passwd fdspan
[ "$code" -ne 0 ] || fail "its user is left"
inside getent group fdspan
[ "$code" -ne 0 ] || fail "its group is left: $(cat "$work/out")"
traces | diff "$work/before" - >"$work/diff" || fail "a purge leaves: $(cat "$work/diff")"
finish
