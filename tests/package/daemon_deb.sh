# The Debian package, in a throw-away copy of this system: installs, has what it says, runs, and purges without a trace.
. "$(dirname "$0")/../cli/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root for a system of its own"; exit 77; }
command -v cpack >/dev/null || { echo "needs cpack"; exit 77; }
# upper and work have to be on a file system that takes overlays; tmpfs does.
mkdir "$work/layer" "$work/system"
mount -t tmpfs tmpfs "$work/layer" || exit 77
mkdir "$work/layer/upper" "$work/layer/work" "$work/layer/deb"
trap 'umount -l "$work/system/proc" "$work/system" "$work/layer" 2>/dev/null; cleanup' EXIT
build=$(dirname "$BIN")
(cd "$build" && timeout 200 cpack -G DEB -B "$work/layer/deb") >"$work/out" 2>&1 || { fail "cpack: $(tail -5 "$work/out")"; finish; }
package=$(ls "$work"/layer/deb/*.deb)
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layer/upper,workdir=$work/layer/work" "$work/system" || exit 77
mount -t proc proc "$work/system/proc" || exit 77
mkdir -p "$work/system/tmp"
cp "$package" "$work/system/tmp/fdspan.deb"
inside() { timeout 120 chroot "$work/system" "$@" >"$work/out" 2>"$work/err"; code=$?; }
inside sh -c 'rm -rf /var/lib/fdspan /etc/fdspan; find / -xdev \( -path /proc -o -path /tmp -o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache \) -prune -o -name "*fdspan*" -path "/[ueloprs]*" -print 2>/dev/null | grep -vE "^/(root|home|work)" | sort > /tmp/before'
inside dpkg -i /tmp/fdspan.deb
expect_code 0 "dpkg -i: $(tail -3 "$work/out")"
inside getent passwd fdspan
expect_code 0 "its user"
for file in /usr/bin/fdspan /usr/sbin/fdspand /usr/lib/systemd/system/fdspand.service /usr/lib/systemd/system/fdspand.socket /usr/lib/sysusers.d/fdspan.conf \
    /usr/lib/tmpfiles.d/fdspan.conf /usr/share/man/man8/fdspand.8 /usr/share/fdspan/fdspan.rules.yml /usr/share/doc/fdspan/copyright; do
    [ -e "$work/system$file" ] || fail "$file is not in the package"
done
grep -q '^ExecStart=/usr/sbin/fdspand$' "$work/system/usr/lib/systemd/system/fdspand.service" || fail "the unit's program"
dpkg-deb -f "$package" Depends | grep -q libsqlite3 || fail "its dependencies: $(dpkg-deb -f "$package" Depends)"
inside /usr/sbin/fdspand --config /usr/share/doc/fdspan/examples/fdspand.json --check-config
expect_code 0 "the example is good"
inside sh -c 'timeout -s TERM 4 /usr/sbin/fdspand --backend procfs --metrics "" --socket /tmp/s; /usr/bin/fdspan log --limit 1; [ -s /var/lib/fdspan/events.db ]'
expect_code 0 "it runs: $(tail -2 "$work/err")"
inside dpkg --purge fdspan
expect_code 0 "dpkg --purge: $(tail -3 "$work/err")"
inside getent passwd fdspan
[ "$code" -ne 0 ] || fail "the user is left"
inside sh -c 'find / -xdev \( -path /proc -o -path /tmp -o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache \) -prune -o -name "*fdspan*" -path "/[ueloprs]*" -print 2>/dev/null | grep -vE "^/(root|home|work)" | sort | diff /tmp/before - && [ ! -e /var/lib/fdspan ]'
expect_code 0 "nothing is left: $(cat "$work/out")"
finish
