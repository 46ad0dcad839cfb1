# What the package tests share: the installed tree, and nothing but it, for a stranger's compiler.
. "$(dirname "${BASH_SOURCE[0]}")/../cli/lib.sh"
: "${SOURCE_DIR:?}" "${BIN:?}"
installed=$work/installed
cmake --install "$(dirname "$BIN")" --prefix "$installed" >"$work/install.log" 2>&1 || { cat "$work/install.log" >&2; exit 1; }
libdir=$(dirname "$(find "$installed" -name libfdspan.so)")
export PKG_CONFIG_PATH=$libdir/pkgconfig
export LD_LIBRARY_PATH=$libdir
