. "$(dirname "${BASH_SOURCE[0]}")/../cli/lib.sh"
: "${SOURCE_DIR:?}" "${BIN:?}"
library=$(dirname "$BIN")/libfdspan.so
