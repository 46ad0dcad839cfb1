# A log of a million rows (FDSPAN_LOG_ROWS for another number) answers each kind of question in 100 ms, through an index.
. "$(dirname "$0")/lib.sh"
timeout 300 "$BIN/fdspan-bench-log" "${FDSPAN_LOG_ROWS:-1000000}" "$work/events.db" >"$work/out" 2>"$work/err"
code=$?
expect_code 0 "fdspan log on many rows"
cat "$work/out"
finish
