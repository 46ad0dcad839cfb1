# Real Prometheus scrapes the daemon and a rule fires; the shipped rules and the dashboard are good; fdspan check judges; a leak is found by its evidence.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/daemon_lib.sh"
monitoring=$SOURCE_DIR/tools/fdspand/monitoring
promtool check rules "$monitoring/fdspan.rules.yml" >"$work/out" 2>&1 || fail "the shipped rules: $(cat "$work/out")"
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
metrics=127.0.0.1:$(port)
server=127.0.0.1:$(port)
echo '{"monitor": {"leak_samples": 5, "leak_growth": 20}}' >"$work/config.json"
start_daemon --config "$work/config.json" --metrics "$metrics" --textfile "$work/fdspan.prom" --interval 300ms

# Every metric that the rules and the dashboard speak of is there.
scrape() { python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=60).read().decode())' "http://$metrics/metrics"; }
scrape >"$work/scraped"
promtool check metrics <"$work/scraped" >"$work/out" 2>&1 || fail "promtool about the metrics: $(head -3 "$work/out")"
for name in $(grep -ohE '(fdspan|process)_[a-z_]+' "$monitoring/fdspan.rules.yml" "$monitoring/grafana.json" | sort -u); do
    grep -qE "^$name[{ ]" "$work/scraped" || fail "nobody serves $name"
done
jq -e '.panels | length > 5' "$monitoring/grafana.json" >/dev/null || fail "the dashboard"
# Whoever connects and never asks keeps nobody from scraping for long.
python3 - "$metrics" >"$work/out" 2>&1 <<'PY' || fail "idle connections: $(tail -3 "$work/out")"
import socket, sys, urllib.request
host, port = sys.argv[1].split(":")
idle = [socket.create_connection((host, int(port))) for _ in range(20)]
for peer in idle:
    peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ")
assert b"fdspan_" in urllib.request.urlopen("http://" + sys.argv[1] + "/metrics", timeout=40).read()
PY
promtool check metrics <"$work/fdspan.prom" >/dev/null 2>&1 || fail "the text file"
grep '^process_' "$work/fdspan.prom" && fail "the text file has names that are node_exporter's own"
[ "$(stat -c %a "$work/fdspan.prom")" = 644 ] || fail "the text file can be read by node_exporter"

# A mount point may have any bytes: one label each, as fdspan shows it, and Prometheus takes the rest, too.
if [ "$(id -u)" -eq 0 ]; then
    odd=$work/mnt$'\xff' even=$work/'mnt\xff' plain=$work/'a mount'
    mkdir "$odd" "$even" "$plain"
    unmount() { umount -l "$odd" "$even" "$plain" 2>/dev/null; }
    trap 'unmount; cleanup' EXIT
    for place in "$odd" "$even" "$plain"; do
        mount -t tmpfs tmpfs "$place" || fail "mount on $place"
    done
    start_holder "
import os, sys
held = []
for place, bytes in ((b'mnt\xff', 8192), (b'mnt\\\\xff', 16384), (b'a mount', 4096)):
    path = os.fsencode('$work/') + place + b'/x'
    held.append(os.open(path, os.O_CREAT | os.O_RDWR))
    os.write(held[-1], b'x' * bytes)
    os.unlink(path)"
    labelled() {
        scrape >"$work/scraped" 2>"$work/scrape.err" &&
            grep -qF "fdspan_deleted_bytes{filesystem=\"$work/mnt\\\\xff\"} 8192" "$work/scraped" &&
            grep -qF "fdspan_deleted_bytes{filesystem=\"$work/mnt\\\\\\\\xff\"} 16384" "$work/scraped" &&
            grep -qF "fdspan_deleted_bytes{filesystem=\"$work/a mount\"} 4096" "$work/scraped"
    }
    until_true "labels of odd mount points" labelled
    promtool check metrics <"$work/scraped" >"$work/out" 2>&1 || fail "promtool about odd mount points: $(head -3 "$work/out")"
    kill "$holder"
    unmount
    trap cleanup EXIT
fi

# A deleted file that is held: the metric, the rule, the plugin.
start_holder "
import os
held = os.open('$work/large', os.O_CREAT | os.O_RDWR)
os.write(held, b'x' * 3000000)
os.fsync(held)
os.unlink('$work/large')"
run check --socket "$socket"
case $code in 0 | 1 | 2) ;; *) fail "check: $code $(cat "$work/out" "$work/err")" ;; esac
plugin() { run check --socket "$socket" "$@"; }
bytes_seen() {
    plugin --warn-bytes 1 --crit-bytes none --warn-age none --warn-fds none --crit-fds none --warn-leaks none
    [ "$code" -eq 1 ] && [ "$(grep -oE 'deleted_bytes=[0-9]+' "$work/out" | cut -d= -f2)" -ge 3000000 ]
}
until_true "check sees the bytes" bytes_seen
grep -qE '^FDSPAN WARNING - .* held .*\| deleted_bytes=[0-9]+B;1;;0 ' "$work/out" || fail "the plugin's line: $(cat "$work/out")"
[ "$(wc -l <"$work/out")" -eq 1 ] || fail "one line"
plugin --warn-bytes none --crit-bytes 1000 --warn-age none --warn-fds none --crit-fds none --warn-leaks none
expect_code 2 "critical"
plugin --warn-bytes none --crit-bytes none --warn-age none --warn-fds none --crit-fds none --warn-leaks none
expect_code 0 "nothing is judged"
run check --socket "$work/nobody"
expect_code 3 "no daemon"
grep -q '^FDSPAN UNKNOWN' "$work/out" || fail "unknown is said"
run check --bogus
expect_code 3 "a usage error of a plugin"

sed -e 's/10 \* 2^30/1000000/' -e 's/for: [0-9]*m/for: 0s/' "$monitoring/fdspan.rules.yml" >"$work/rules.yml"
cat >"$work/prometheus.yml" <<END
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["$work/rules.yml"]
scrape_configs:
  - job_name: fdspan
    static_configs: [{targets: ["$metrics"]}]
END
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/tsdb" --web.listen-address="$server" >"$work/prometheus.err" 2>&1 &
background+=("$!")
fires() {
    python3 -c 'import json, sys, urllib.request
alerts = json.load(urllib.request.urlopen(sys.argv[1], timeout=60))["data"]["alerts"]
sys.exit(0 if any(a["labels"]["alertname"] == "DeletedFilesHoldSpace" and a["state"] == "firing" for a in alerts) else 1)' "http://$server/api/v1/alerts" 2>/dev/null
}
# Prometheus takes a few seconds to begin, more on a machine that never ran it.
fired=no
for _ in $(seq 240); do
    fires && fired=yes && break
    sleep 0.5
done
[ "$fired" = yes ] || fail "the rule fires in Prometheus: $(tail -2 "$work/prometheus.err")"

# A process that opens and never closes, and one that only did so at its start.
start_holder "
import os, threading, time
opened = [os.open('/etc/hostname', os.O_RDONLY) for _ in range(100)]"
steady=$holder
start_holder "
import os, threading, time
def leak():
    number = 0
    while number < 900:
        number += 1
        os.open(f'$work/spool-{number}', os.O_CREAT | os.O_RDWR)
        time.sleep(0.04)
threading.Thread(target=leak, daemon=True).start()"
leaking=$holder
suspected() {
    plugin --warn-bytes none --crit-bytes none --warn-age none --warn-fds none --crit-fds none
    [ "$code" -eq 1 ] && grep -q "\[$leaking\] may leak" "$work/out"
}
until_true "the leak is suspected: $(cat "$work/out")" suspected
grep -q "spool-#" "$work/out" || fail "its evidence: $(cat "$work/out")"
grep -q "\[$steady\] may leak" "$work/out" && fail "a process that stays as it is leaks nothing: $(cat "$work/out")"
stop_daemon
[ -e "$work/fdspan.prom" ] && fail "the text file outlives the daemon"

cat >"$work/rules_test.yml" <<END
rule_files: ["$monitoring/fdspan.rules.yml"]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'node_textfile_mtime_seconds{instance="a", file="/var/lib/x/fdspan.prom"}', values: '0x30'}
      - {series: 'node_textfile_mtime_seconds{instance="b", file="/var/lib/x/fdspan.prom"}', values: '0+60x30'}
      - {series: 'node_textfile_mtime_seconds{instance="c", file="/var/lib/fdspan/other.prom"}', values: '0x30'}
    alert_rule_test:
      - {eval_time: 5m, alertname: FdspanTextfileOld}
      - eval_time: 10m
        alertname: FdspanTextfileOld
        exp_alerts:
          - exp_labels: {severity: warning, instance: a, file: /var/lib/x/fdspan.prom}
            exp_annotations: {summary: "fdspand of a has not written /var/lib/x/fdspan.prom for 10m 0s"}
END
promtool test rules "$work/rules_test.yml" >"$work/out" 2>&1 || fail "the rule for a text file: $(cat "$work/out")"
finish
