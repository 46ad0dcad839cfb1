# Completion offers every option that --help knows and every column that --list-columns knows; the man page names them all.
. "$(dirname "$0")/lib.sh"
: "${SOURCE_DIR:?}"
. "$SOURCE_DIR/tools/completions/fdspan.bash"
compopt() { :; }
complete_words() { # WORDS…, the last one is being typed
    COMP_WORDS=("$FDSPAN" "$@")
    COMP_CWORD=$#
    COMPREPLY=()
    _fdspan
}
has() { printf '%s\n' "${COMPREPLY[@]}" | grep -qxF -- "$1"; }
page=$(sed 's/\\-/-/g' "$SOURCE_DIR/tools/man/fdspan.1")
for command in ls watch deleted recover log check arm disarm doctor; do
    complete_words "$command"
    has "$command" || fail "the command $command"
    for option in $("$FDSPAN" "$command" --help | grep -oE -- '^ *(-[a-zA-Z],)?--[a-z-]+' | grep -oE -- '--[a-z-]+'); do
        complete_words "$command" "$option"
        has "$option" || fail "$command $option is not completed"
        grep -qF -- "$option" <<<"$page" || fail "$command $option is not in the man page"
    done
done
for column in $("$FDSPAN" ls --list-columns | cut -d' ' -f1); do
    complete_words ls -o "$column"
    has "$column" || fail "the column $column is not completed"
    complete_words ls -o "PID,$column"
    has "PID,$column" || fail "the column $column is not completed after a comma"
    grep -qw -- "$column" <<<"$page" || fail "the column $column is not in the man page"
done
page=$(sed 's/\\-/-/g' "$SOURCE_DIR/tools/man/fdspand.8")
for option in $("$BIN/fdspand" --help | grep -oE -- '^ *(-[a-zA-Z],)?--[a-z-]+' | grep -oE -- '--[a-z-]+'); do
    grep -qF -- "$option" <<<"$page" || fail "fdspand $option is not in its man page"
done
complete_words arm --backend ''
has procfs && fail "arm has no procfs"
if command -v man >/dev/null; then
    warnings=$(man --warnings -E UTF-8 -l -Tutf8 "$SOURCE_DIR/tools/man/fdspand.8" 2>&1 >/dev/null)
    [ -z "$warnings" ] || fail "the man page of fdspand: $warnings"
    warnings=$(man --warnings -E UTF-8 -l -Tutf8 "$SOURCE_DIR/tools/man/fdspan.1" 2>&1 >/dev/null)
    [ -z "$warnings" ] || fail "the man page: $warnings"
fi
finish
