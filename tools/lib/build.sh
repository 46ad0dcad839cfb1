# Configures and builds; sourced after common.sh. Nothing here writes to stdout: that belongs to fdspan.
# shellcheck shell=bash

# NAME=VALUE for cmake, set before build(); a cache that has them already is left alone.
BUILD_OPTIONS=()

# build TARGET…
build() {
  if ! mkdir -p -- "$BUILD" || [[ ! -w $BUILD ]]; then
    die "$BUILD can't be written to (did another user build there?): remove it or become its owner"
  fi
  (
    # Two runs at once build one after the other. The lock ends with this subshell, before fdspan starts.
    flock 9
    local cache=$BUILD/CMakeCache.txt
    if [[ ! -f $BUILD/build.ninja || $(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$cache" 2>/dev/null) != "$ROOT" ]]; then
      note "building into $BUILD; the first time takes some minutes"
      # --fresh: a tree that was moved or copied brings a cache of its old place.
      quietly "$BUILD/configure.log" cmake --fresh -S "$ROOT" -B "$BUILD" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo || exit 2
    fi
    local option missing=()
    for option in "${BUILD_OPTIONS[@]}"; do
      if ! grep -qE "^${option%%=*}:[A-Z]+=${option#*=}\$" "$cache"; then missing+=("-D$option"); fi
    done
    if [[ ${#missing[@]} -ne 0 ]]; then quietly "$BUILD/configure.log" cmake "${missing[@]}" "$BUILD" || exit 2; fi
    quietly "$BUILD/build.log" cmake --build "$BUILD" --target "$@" || exit 2
  ) 9>"$BUILD/.lock"
}
