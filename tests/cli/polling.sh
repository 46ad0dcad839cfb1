# watch --backend procfs: what lasts from one poll to another has intervals that contain the truth; what does not is not claimed.
. "$(dirname "$0")/lib.sh"
boottime_ns() { # in whole hundredths of a second
    local up rest
    read -r up rest </proc/uptime
    echo "${up%.*}${up#*.}0000000"
}
# event WHICH FILE [PID]: the first event of that kind about the file
event() { jq -c --arg kind "$1" --arg path "$2" --arg pid "${3:-}" 'select(.event == $kind and .path == $path and ($pid == "" or .pid == ($pid | tonumber)))' "$work/events" | head -1; }
# contains INTERVAL BEFORE AFTER WHAT: the truth lies somewhere in [BEFORE, AFTER + a tick]
contains() {
    jq -e --argjson before "$2" --argjson after $(($3 + 10000000)) \
        '.source == "bounded" and (.earliest_boottime_ns // 0) <= $after and .latest_boottime_ns >= $before' <<<"$1" >/dev/null ||
        fail "$4: $1 does not contain $2..$3"
}
# Narrowed by the poll before it, not only by what is known of process and file.
narrow() { # INTERVAL NOT_BEFORE WHAT
    jq -e --argjson least "$2" '.earliest_boottime_ns != null and .earliest_boottime_ns >= $least' <<<"$1" >/dev/null || fail "$3: no poll since $2 counts: $1"
}
until_told() { # KIND FILE [PID]
    for _ in $(seq 600); do
        [ -n "$(event "$@")" ] && return
        sleep 0.1
    done
}
touch "$work/lasting" "$work/deleted"
for i in 1 2 3 4 5; do touch "$work/short.$i"; done
watching=$(boottime_ns)
"$FDSPAN" watch --json --backend procfs --interval 1s "$work" >"$work/events" 2>"$work/err" &
watcher=$!
background+=("$watcher")
for _ in $(seq 600); do
    grep -q started "$work/events" && break
    sleep 0.1
done

opening=$(boottime_ns)
exec 7<"$work/lasting" 6<"$work/deleted"
opened=$(boottime_ns)
for i in 1 2 3 4 5; do
    (exec 5<"$work/short.$i")
    sleep 0.13
done
lived=$(boottime_ns)
until_told opened "$work/lasting" $$ # the short lives inherit it
deleting=$(boottime_ns)
rm "$work/deleted"
deleted=$(boottime_ns)
until_told deleted "$work/deleted"
closing=$(boottime_ns)
exec 7<&- 6<&-
closed=$(boottime_ns)
until_told closed "$work/lasting" $$
kill "$watcher"
wait "$watcher" 2>/dev/null
head -1 "$work/events" | jq -e '.event == "started" and .backend == "procfs"' >/dev/null || fail "started: $(head -1 "$work/events")"

found=$(event opened "$work/lasting" $$)
[ -n "$found" ] || fail "no opened event: $(head -c 500 "$work/events")"
contains "$(jq -c .opened <<<"$found")" "$opening" "$opened" "opened"
narrow "$(jq -c .opened <<<"$found")" "$watching" "opened"
found=$(event closed "$work/lasting" $$)
[ -n "$found" ] || fail "no closed event: $(head -c 500 "$work/events")"
contains "$(jq -c .when <<<"$found")" "$closing" "$closed" "closed"
narrow "$(jq -c .when <<<"$found")" "$opened" "closed"
jq -e --argjson least $((closing - opened - 20000000)) --argjson most $((closed - opening + 20000000)) \
    '.duration_ns <= $most and .duration_max_ns >= $least' <<<"$found" >/dev/null || fail "the duration of closed: $found"
found=$(jq -c --arg path "$work/deleted" 'select(.event == "deleted" and (.path | startswith($path)))' "$work/events" | head -1)
[ -n "$found" ] || fail "no deleted event: $(head -c 500 "$work/events")"
contains "$(jq -c .when <<<"$found")" "$deleting" "$deleted" "deleted"

# A poll may fall into one of those short lives, not into most; whatever is claimed then has to be true.
claimed=0
for i in 1 2 3 4 5; do
    found=$(event opened "$work/short.$i")
    [ -n "$found" ] || continue
    claimed=$((claimed + 1))
    contains "$(jq -c .opened <<<"$found")" "$opened" "$lived" "a short life that was seen"
done
[ "$claimed" -le 2 ] || [ $((lived - opened)) -gt 1500000000 ] || fail "$claimed of 5 short lives were seen by polls 1 s apart"
finish
