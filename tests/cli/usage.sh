# Every option with nonsense gets exactly one clear line on stderr, nothing on stdout, and exit code 2.
. "$(dirname "$0")/lib.sh"

refused() {
    run "$@"
    local what
    what=$(printf '%q ' "$@")
    expect_code 2 "$what"
    [ "$(wc -l <"$work/err")" -eq 1 ] || fail "$what: $(wc -l <"$work/err") lines on stderr: $(head -c 400 "$work/err")"
    grep -q '^fdspan: .' "$work/err" || fail "$what: the line does not say who speaks: $(cat "$work/err")"
    [ ! -s "$work/out" ] || fail "$what: something on stdout"
}

refused
refused bogus
refused ''
refused $'line\nbreak'
refused --bogus
refused --json
for command in ls watch deleted recover log arm disarm doctor; do
    refused "$command" --bogus
    refused "$command" $'--bo\ngus'
    refused "$command" --json=3
    refused "$command" --json --json=no
    refused "$command" -Z
done
for command in arm disarm doctor; do
    refused "$command" surplus
done
for command in ls watch deleted; do
    refused "$command" --pid
    for pid in x '' 0 -1 1x 99999999999 1,, ,1 ' 1' 0x10 $'1\n'; do
        refused "$command" -p "$pid"
    done
    for duration in '' x 5 -5s 5S 1.5h '1h 5m' 5m1h 5m5m 99999999999999999999s $'5s\n'; do
        refused "$command" --older-than "$duration"
    done
    for color in '' x ALWAYS 1; do
        refused "$command" --color "$color"
    done
    for backend in '' x PROCFS ebpf; do
        refused "$command" --backend "$backend"
    done
    refused "$command" --json --color=always
    refused "$command" ''
    refused "$command" --backend
done
refused ls --newer-than nonsense
for number in '' x -1 0 1.5 99999999999999999999 1k; do
    refused ls --limit "$number"
    refused watch --count "$number"
done
for size in '' x 0 1000 3K 2K 2G 4096K1 -4K 4k 99999999999999999999 16777216G; do
    refused watch --ring-bytes "$size"
done
for number in '' x 0 -1 1.5 134217729; do
    refused watch --max-entries "$number"
    refused arm --max-entries "$number"
done
for column in '' , NOPE PID, PID,,FD + +NOPE 'PID FD'; do
    refused ls -o "$column"
done
refused ls --sort NOPE
refused ls --sort ''
refused ls --type BOGUS
refused ls --type ''
refused ls --ref bogus
refused ls --ref ''
refused ls --user no-such-user-here
refused ls --user ''
refused ls --user -1
refused ls --user 4294967295
refused ls --comm ''
refused ls --fd x
refused ls --fd -1
refused ls --fd 0 --ref cwd
refused ls --json --human
refused ls --json --noheadings
refused ls --json -o FD_AGE
refused watch --event bogus
refused watch --event ''
refused watch --interval 0
refused watch --interval 1ns
refused watch --timeout 0
refused watch --timeout x
for time in '' x 5 2026 2026-13-01T00:00:00Z 2026-02-31T00:00:00Z 2026-01-01T00:00:00 2026-01-01T00:00:00Zx 2026-01-01T25:00:00Z -5s; do
    refused log --since "$time"
    refused log --until "$time"
done
for bytes in '' x -1 1.5G 1KB 99999999999999999999 9999999999T; do
    refused log --min-bytes "$bytes"
done
for number in '' x -1 0 1k ALL; do
    refused log --limit "$number"
done
refused log --path ''
refused log --pid x
refused log --min-duration 5
refused log --json --csv
refused log --csv --color=always
refused log --database ''
refused log --database /nonexistent/events.db
refused log --database /etc/passwd
refused arm --backend procfs
refused arm --backend x

refused deleted --by
refused deleted --by x
refused deleted --min-bytes x
refused deleted --min-bytes 1.5M
refused deleted --min-bytes -1
refused deleted --min-bytes 99999999999T
refused deleted --limit 0
refused deleted --json --human
refused deleted --json --noheadings
refused deleted --json --explain
refused deleted --by process --explain
refused deleted --libraries --by process
refused deleted --libraries --explain
refused deleted --libraries --older-than 3h
refused deleted --libraries --gone
refused deleted --comm ''
refused deleted --user no-such-user-here
refused recover
refused recover 1
refused recover 1 2
refused recover 1 2 3 4
refused recover 1,2 3 x
refused recover x 3 x
refused recover $$ cwd x
refused recover $$ -1 x
refused recover $$ 3x x
refused recover $$ 1000-z x
refused recover $$ 0 ''
refused recover --inode 1:2 x
refused recover --inode 1:2:3:4 x
refused recover --inode 1:2:-3 x
refused recover --inode 1:2:3
refused recover --inode 1:2:3 --tid 5 x
refused recover --tid x $$ 0 x
refused recover --tid 1 $$ exe x
refused recover --link $$ exe -
refused recover --json $$ exe -
refused recover --force $$ exe -
refused recover --json --explain $$ exe
for arguments in --help --version 'ls --help' 'watch --help' 'deleted --help' 'recover --help' 'log --help' 'arm --help' 'disarm --help' 'doctor --help' 'ls --list-columns'; do
    # shellcheck disable=SC2086
    run $arguments
    expect_code 0 "$arguments"
    [ -s "$work/out" ] || fail "$arguments says nothing"
    [ ! -s "$work/err" ] || fail "$arguments writes to stderr: $(cat "$work/err")"
done
finish
