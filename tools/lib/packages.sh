# Debian's names for what fdspan takes to build and to test; sourced.
# shellcheck shell=bash disable=SC2034

# Catch2 and FUSE are among them, for the tests, because one configuration serves both commands: no rebuild when they alternate.
BUILD_PACKAGES=(g++ cmake ninja-build pkg-config clang bpftool libbpf-dev libelf-dev zlib1g-dev
  libspdlog-dev nlohmann-json3-dev libcli11-dev libexpected-dev catch2 libfuse3-dev
  libsqlite3-dev libsystemd-dev libcap-ng-dev prometheus-cpp-dev python3)

# The second line: what the hosts of the library are built with, and what guards its ABI.
TEST_PACKAGES=(jq sqlite3 prometheus dpkg-dev file lsof python3 util-linux mount procps fuse3 libclang-rt-14-dev valgrind
  libevent-dev libuv1-dev libsystemd-dev libboost-dev libglib2.0-dev collectd-core collectd-dev abigail-tools man-db make)

# What tools/bench/bench measures fdspan beside, and with.
BENCH_PACKAGES=(python3 procps lsof util-linux psmisc bpftrace libbpf-tools strace)
