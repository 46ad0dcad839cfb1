# The shared library exports what its version script says, and the layouts of its structs are those that were released.
# After a wanted change: REGENERATE=1 tests/abi/abi.sh, and read the difference in libfdspan.abi.
. "$(dirname "$0")/lib.sh"
released=$SOURCE_DIR/tests/abi/libfdspan.abi
# describe HEADER OUT: the interface without what is behind it, the header's functions with empty bodies, in C.
describe() {
    sed '/^FDSPAN_API/s/;$/ { __builtin_trap(); }/' "$1" >"$work/interface.c"
    gcc -g -w -shared -fPIC -Wl,-soname,libfdspan.so.0 -o "$work/interface.so" "$work/interface.c" || fail "the header's functions in one line each"
    abidw --no-corpus-path --no-comp-dir-path --no-show-locs "$work/interface.so" | sed "s/path='[^']*'//" >"$2"
}
header=$SOURCE_DIR/include/fdspan/fdspan.h
describe "$header" "$work/now.abi"
if [ -n "${REGENERATE-}" ]; then cp "$work/now.abi" "$released"; fi
abidiff "$released" "$work/now.abi" >"$work/diff" || fail "the ABI changed: $(cat "$work/diff")"
grep -q "class-decl name='fdspan_options' size-in-bits='[1-9]" "$work/now.abi" || fail "the description has layouts"
# The guard bites: a field taken away is seen.
sed '/minimum_age_ns;/d' "$header" >"$work/other.h"
describe "$work/other.h" "$work/other.abi"
abidiff "$released" "$work/other.abi" >/dev/null && fail "abidiff sees a changed struct"

exported=$(nm -D --defined-only "$library" | sed -n 's/.* [A-Z] \(.*\)$/\1/p' | grep -v '^FDSPAN_0.1$' | sort)
wanted=$(sed -n 's/^ *\(fdspan_[a-z_]*\);$/\1@@FDSPAN_0.1/p' "$SOURCE_DIR/userspace/api/fdspan.map" | sort)
[ "$exported" = "$wanted" ] || fail "exported and wanted differ: $(diff <(echo "$exported") <(echo "$wanted"))"
declared=$(sed -n 's/^FDSPAN_API .*\(fdspan_[a-z_]*\)(.*/\1/p' "$header" | sort)
[ "$(sed 's/@@.*//' <<<"$exported")" = "$declared" ] || fail "exported and declared differ: $(diff <(echo "$exported") <(echo "$declared"))"
# The static library keeps its insides to itself as well.
inside=$(nm --defined-only --extern-only "$(dirname "$library")/libfdspan.a" | sed -n 's/.* [A-Z] \(.*\)$/\1/p' | sort)
[ "$inside" = "$declared" ] || fail "the static library's global symbols: $(diff <(echo "$inside") <(echo "$declared") | head -n 5)"
finish
