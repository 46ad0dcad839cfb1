# The headers compile alone, in each language and standard that they are for, without a warning.
. "$(dirname "$0")/lib.sh"
compile() { # COMPILER STANDARD HEADER SUFFIX
    printf '#include <fdspan/%s>\n#include <fdspan/%s>\n' "$3" "$3" >"$work/alone.$4"
    "$1" -std="$2" -Wall -Wextra -Wpedantic -Wconversion -Werror -I"$SOURCE_DIR/include" -fsyntax-only "$work/alone.$4" 2>"$work/err" ||
        fail "$3 as $2 with $1: $(head -n 5 "$work/err")"
}
for standard in c11 c17; do
    compile gcc "$standard" fdspan.h c
    compile clang "$standard" fdspan.h c
done
for standard in c++17 c++20; do
    compile g++ "$standard" fdspan.h cpp
    compile clang++ "$standard" fdspan.h cpp
done
compile g++ c++20 fdspan.hpp cpp
compile clang++ c++20 fdspan.hpp cpp
finish
