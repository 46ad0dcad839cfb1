# Filters select what they say, and exit codes tell what came of it.
. "$(dirname "$0")/lib.sh"

mkdir "$work/dir" "$work/dirt"
start_holder "
import os, select, mmap
os.chdir('$work/dir')
file = open('$work/dir/file', 'w+'); file.write('x' * 5000); file.flush()
other = open('$work/dirt/other', 'w')
gone = open('$work/dir/gone', 'w'); os.unlink('$work/dir/gone')
os.mkdir('$work/dir/old'); inside = open('$work/dir/old/inside', 'w'); os.unlink('$work/dir/old/inside'); os.rmdir('$work/dir/old')
poll = select.epoll()
reader, writer = os.pipe()
mapped = mmap.mmap(file.fileno(), 4096)
"
ln -s "$work/dir" "$work/link"
ln -s "$work/dir/file" "$work/link-to-file"
ln "$work/dir/file" "$work/hardlink"

paths() { jq -r '.references[] | select(.ref == "fd") | .path' "$work/out" | sort -u; }

run ls -p "$holder" --json
expect_code 0 "a readable process"
jq_check '.schema == 1 and .complete == true and (.references | length > 8)' "one document"
jq_check '[.references[].ref] | unique == ["cwd", "exe", "fd", "mem", "root"]' "JSON has every kind of reference"
jq_check '.references[] | select(.ref == "cwd") | .path | endswith("/dir")' "cwd"
jq_check '[.references[] | select(.path | endswith("/dir/file")) | select(.ref == "fd") | .size] | unique == [5000]' "the size of a file"

run ls -p "$holder" -n -o FD
grep -qvE '^ *[0-9]+$' "$work/out" && fail "a table shows descriptors only, unless asked"
run ls -p "$holder" -n -o FD --all
grep -qE 'cwd' "$work/out" || fail "--all shows cwd too"

run ls -p "$holder" --json "$work/dir"
expect_code 0 "a directory"
[ "$(paths)" = "$(printf '%s\n' "$work/dir/file" "$work/dir/gone" "$work/dir/old/inside" | sort)" ] || fail "a directory gives what is below it: $(paths)"
jq_check '[.references[].ref] | unique == ["cwd", "fd", "mem"]' "a directory is itself held as cwd"
run ls -p "$holder" --json "$work/link"
[ "$(paths | wc -l)" -eq 3 ] || fail "a symbolic link to a directory is followed"
for file in dir/file link-to-file hardlink dir/../dir/file; do
    run ls -p "$holder" --json "$work/$file"
    [ "$(paths)" = "$work/dir/file" ] || fail "$file leads to the file: $(paths)"
done
(cd "$work/dir" && timeout 180 "$FDSPAN" ls -p "$holder" --json ./file >"$work/out" 2>"$work/err")
[ "$(paths)" = "$work/dir/file" ] || fail "a relative path"
run ls -p "$holder" --json "$work/dir/gone"
expect_code 0 "the former name of a deleted file"
[ "$(paths)" = "$work/dir/gone" ] || fail "the former name of a deleted file"
run ls -p "$holder" --json "$work/dir/old"
[ "$(paths)" = "$work/dir/old/inside" ] || fail "the former name of a deleted directory"
run ls --json -p "$holder" -- -p
expect_code 1 "-- ends the options"

run ls -p "$holder" "$work/no-such-file"
expect_code 1 "a path that does not exist"
[ "$(wc -l <"$work/err")" -eq 1 ] && grep -q 'no-such-file: does not exist' "$work/err" || fail "one line for a path that does not exist: $(cat "$work/err")"
[ ! -s "$work/out" ] || fail "no table without rows"

run ls -p "$holder" --deleted --json
[ "$(paths)" = "$(printf '%s\n' "$work/dir/gone" "$work/dir/old/inside" | sort)" ] || fail "--deleted: $(paths)"
run ls -p "$holder" --type eventpoll --json
jq_check '[.references[].type] == ["eventpoll"]' "--type eventpoll"
run ls -p "$holder" --type fifo,EVENTPOLL --json
expect_code 2 "class names are exact"
run ls -p "$holder" --type fifo --type eventpoll --json
jq_check '[.references[].type] | unique == ["FIFO", "eventpoll"]' "--type twice"
run ls -p "$holder" --ref cwd,root --json
jq_check '[.references[].ref] | sort == ["cwd", "root"]' "--ref"
run ls -p "$holder" --fd 0,1 --json
jq_check '[.references[].fd] - [0, 1] == []' "--fd"
run ls -p "$holder" --comm 'pyth*' --user "$(id -un)" --json
expect_code 0 "--comm and --user"
run ls -p "$holder" --comm no-such-command
expect_code 1 "no such command"
run ls -p "$holder,$$" --json
jq_check "[.references[].pid] | unique == ([$holder, $$] | sort)" "a list of processes"
run ls -p 2147483647
expect_code 1 "no such process"
grep -q 2147483647 "$work/err" || fail "which process is missing: $(cat "$work/err")"
run ls -p "$holder" -p 2147483647
expect_code 3 "one of two processes is missing"

run ls -p "$holder" --limit 3 --json
jq_check '.references | length == 3' "--limit"
run ls -p "$holder" --sort FD -n -o FD --ref fd
sort -n -c "$work/out" || fail "--sort FD"
run ls -p "$holder" --sort FD -r -n -o FD --ref fd
sort -rn -c "$work/out" || fail "--reverse"
run ls -p "$holder" --sort SIZE -n -o SIZE --ref fd
sort -n -c "$work/out" || fail "--sort SIZE"
run ls -p "$holder" --json -o PID,FD
jq_check '[.references[] | keys_unsorted] | unique == [["pid", "fd"]]' "-o selects JSON keys"
run ls -p "$holder" --older-than 10000d --json
expect_code 1 "nothing is that old"
jq_check '.references == []' "an empty document is one too"

# What is certain only: nobody has seen these descriptors being opened, unless tracking is armed.
run ls -p "$holder" --backend procfs --json
jq_check '[.references[] | select(.ref == "fd") | .opened.source] | unique == ["bounded"]' "procfs gives bounds"
jq_check '[.references[] | .age_max_ns == null or .age_max_ns >= .age_ns] | all' "bounds are in order"
run ls -p "$holder" --backend procfs -n -o AGE
grep -qvE '^ *(>= [0-9a-z]+|[0-9a-z]+\.\.[0-9a-z]+|-)$' "$work/out" && fail "a bounded age is never bare: $(grep -vE '>=|\.\.' "$work/out" | head -3)"
run ls -p "$holder" --backend procfs --newer-than 10000d --older-than 10000d
expect_code 1 "no age is both"
finish
