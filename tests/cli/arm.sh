# arm leaves no process behind and makes ages exact; disarm leaves nothing at all.
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" -eq 0 ] || { echo "needs root"; exit 77; }
"$FDSPAN" doctor --json >"$work/doctor"
if jq -e '.backend == "procfs"' "$work/doctor" >/dev/null; then
    echo "no BPF backend works here"
    exit 77
fi
if jq -e '.armed != null' "$work/doctor" >/dev/null; then
    echo "this machine is armed by somebody else"
    exit 77
fi
disarm() { "$FDSPAN" disarm >/dev/null 2>&1; cleanup; }
trap disarm EXIT

sleep 300 &
older=$!
background+=("$older")
run arm --json
expect_code 0 "arm"
jq_check '.armed and (.already_armed | not) and (.hooks | length > 0)' "arm reports"
start_holder "file = open('$work/file', 'w')"
run ls -p "$holder" "$work/file" --json
expect_code 0 "ls while armed"
jq_check '.armed and .backend != "procfs"' "times come from the armed tracking"
jq_check '[.references[].opened.source, .references[].description.opened.source] | unique == ["kernel"]' "what was opened since is exact"
jq_check '[.references[] | .age_ns == .age_max_ns] | all' "an exact age is one number"
run ls -p "$holder" -n -o AGE "$work/file"
grep -qE '^ *[0-9a-z]+$' "$work/out" || fail "an exact age is bare: $(cat "$work/out")"
run ls -p $older --fd 2 --json
jq_check '.references[0].opened.source == "bounded"' "what was open before has bounds"
run arm
expect_code 0 "arm again"
grep -q '^Already armed' "$work/out" || fail "arm again says so: $(cat "$work/out")"
run doctor --json
jq_check '.armed.descriptions > 0 and .armed.descriptions <= .armed.max_descriptions' "doctor shows how full the map is"
run disarm
expect_code 0 "disarm"
[ ! -e /sys/fs/bpf/fdspan ] || fail "a pin is left"
run disarm
expect_code 0 "disarm again"
grep -q '^Not armed' "$work/out" || fail "disarm again says so: $(cat "$work/out")"
run ls -p "$holder" --json
jq_check '.armed | not' "not armed any more"

# Where anybody may put pins, root takes the directory.
pins=/sys/fs/bpf/fdspan
mkdir -m 0777 "$pins"
chown 65534 "$pins"
run arm
expect_code 0 "arm in a directory of somebody else's"
[ "$(stat -c '%a %u' "$pins")" = "700 0" ] || fail "it stays $(stat -c '%a %u' "$pins")"

# What an older fdspan armed lies one directory higher: found there, not armed twice, and disarmed, together with what it left staged.
exec 7</dev/null
find "$pins/armed" -type f -exec mv -t "$pins" {} +
rmdir "$pins/armed"
mkdir "${pins}_staging"
mv "$(find "$pins" -name 'link_*' | head -n 1)" "${pins}_staging/"
run arm
grep -q '^Already armed' "$work/out" || fail "armed beside an older fdspan's: $(cat "$work/out" "$work/err")"
run ls -p $$ --fd 7 --json
jq_check '.armed and .references[0].opened.source == "kernel"' "its times are shown"
run disarm
grep -q '^Disarmed' "$work/out" || fail "disarm: $(cat "$work/out" "$work/err")"
[ -z "$(find /sys/fs/bpf -maxdepth 1 -name 'fdspan*')" ] || fail "disarm leaves $(find /sys/fs/bpf -maxdepth 1 -name 'fdspan*')"
finish
