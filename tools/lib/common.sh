# Shared by the shell tools; sourced, with `set -euo pipefail` in force. Sets ROOT and BUILD, knows how to get packages.
# shellcheck shell=bash

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
BUILD=${FDSPAN_BUILD_DIR:-$ROOT/build}
# Where bpftool and mke2fs are; not every user has it in PATH.
PATH=$PATH:/usr/sbin:/sbin

note() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 2; }

# How to become root: an empty prefix as root, `sudo` where it works without asking or where somebody can answer, else failure.
root_prefix() {
  if [[ $EUID -eq 0 ]]; then return 0; fi
  if ! command -v sudo >/dev/null; then return 1; fi
  if sudo -n true 2>/dev/null; then printf 'sudo -n'; return 0; fi
  if [[ -t 0 && -t 2 ]]; then printf 'sudo'; return 0; fi
  return 1
}

# Prints the ones of the named packages that are not installed. One call for all of them: it is on the path of every run.
# shellcheck disable=SC2016 # ${…} is dpkg-query's own notation
packages_missing() {
  local installed
  # dpkg-query fails when it doesn't know one of the names, and still prints the others.
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' -- "$@" 2>/dev/null | sed -n 's/^installed //p' || true)
  comm -23 <(printf '%s\n' "$@" | sort -u) <(printf '%s\n' "$installed" | sort -u)
}

# packages_require WHAT PACKAGE…: installs what is missing; says what is missing when it can't.
packages_require() {
  local what=$1 prefix log
  shift
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    note "${0##*/}: this system has no apt-get, so I take it that these are there: $*"
    return 0
  fi
  local missing
  mapfile -t missing < <(packages_missing "$@")
  if [[ ${#missing[@]} -eq 0 ]]; then return 0; fi
  if ! prefix=$(root_prefix); then
    die "$what needs packages that are not installed, and installing takes root (sudo is missing or refused). Please run: apt-get install --no-install-recommends ${missing[*]}"
  fi
  note "installing for $what: ${missing[*]}"
  mkdir -p -- "$BUILD"
  log=$BUILD/packages.log
  # The lists are fetched only when apt can't do without: a machine with good lists may have no network to refresh them.
  # shellcheck disable=SC2086 # the prefix is words
  if ! apt_get $prefix -- install "${missing[@]}" >"$log" 2>&1; then
    if ! { apt_get $prefix -- update && apt_get $prefix -- install "${missing[@]}"; } >>"$log" 2>&1; then
      tail -n 15 -- "$log" >&2
      die "apt-get could not install what $what needs: ${missing[*]} (log: $log)"
    fi
  fi
  mapfile -t missing < <(packages_missing "$@")
  if [[ ${#missing[@]} -ne 0 ]]; then die "apt-get reported success, and these are still missing: ${missing[*]} (log: $log)"; fi
}

# apt_get [PREFIX…] -- COMMAND ARG…
apt_get() {
  local prefix=()
  while [[ $1 != -- ]]; do prefix+=("$1"); shift; done
  shift
  # Another apt may be at work (a machine's own timers): wait for its lock for a while.
  "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 -o APT::Install-Recommends=false \
    -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# Runs a command with its output in a log; shows the log only when the command fails.
quietly() {
  local log=$1
  shift
  mkdir -p -- "$(dirname -- "$log")"
  local code=0
  "$@" >"$log" 2>&1 </dev/null || code=$?
  if [[ $code -ne 0 ]]; then
    tail -n 60 -- "$log" >&2
    note "${0##*/}: failed (exit $code): $* (log: $log)"
  fi
  return "$code"
}
