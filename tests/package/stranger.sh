# A stranger's project, built from the installed tree and nothing else: CMake and Makefile with pkg-config, shared and static.
. "$(dirname "$0")/lib.sh"
mkdir "$work/project"
cp "$SOURCE_DIR/tests/hosts/epoll_host.c" "$work/project/"
cat >"$work/project/snapshot.cpp" <<'END'
#include <fdspan/fdspan.hpp>
#include <cstdio>
#include <unistd.h>
// A name of the library's insides: static linking must not mix them up.
namespace fdspan { struct Index { int value; Index(); }; Index::Index() : value(42) {} }
int main() {
    fdspan::SnapshotOptions options;
    options.backend = FDSPAN_BACKEND_PROCFS;
    options.pids = {getpid()};
    unsigned rows = 0;
    const fdspan::Snapshot snapshot(options);
    fdspan::Cursor cursor = snapshot.query();
    for (const fdspan::Row& row : cursor) rows += row.process->pid == getpid();
    std::printf("%s %s %d\n", fdspan_version(), rows > 3 ? "rows" : "no rows", fdspan::Index().value);
}
END
cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.20)
project(stranger LANGUAGES C CXX)
set(CMAKE_CXX_STANDARD 20)
find_package(fdspan 0.1 REQUIRED COMPONENTS static)
foreach(kind fdspan static)
  add_executable(host_${kind} epoll_host.c)
  target_compile_definitions(host_${kind} PRIVATE _GNU_SOURCE)
  target_link_libraries(host_${kind} PRIVATE fdspan::${kind})
  add_executable(snapshot_${kind} snapshot.cpp)
  target_link_libraries(snapshot_${kind} PRIVATE fdspan::${kind})
endforeach()
END
cat >"$work/project/Makefile" <<'END'
CFLAGS += -D_GNU_SOURCE -Wall -Werror $(shell pkg-config --cflags fdspan)
CXXFLAGS += -std=c++20 -Wall -Werror $(shell pkg-config --cflags fdspan)
shared: LDLIBS = $(shell pkg-config --libs fdspan)
static: LDFLAGS = -static
static: LDLIBS = $(shell pkg-config --static --libs fdspan)
shared static: epoll_host snapshot
snapshot: snapshot.cpp
	$(CXX) $(CXXFLAGS) $(LDFLAGS) -o $@ $< $(LDLIBS)
END
expect_output() { # WHAT COMMAND…
    local what=$1 got
    shift
    got=$("$@" 2>&1)
    [ "$got" = "0.1.0 rows 42" ] || fail "$what: $got"
}

cmake -S "$work/project" -B "$work/cmake" -DCMAKE_PREFIX_PATH="$installed" >"$work/log" 2>&1 && cmake --build "$work/cmake" -j2 >>"$work/log" 2>&1 ||
    fail "a CMake project: $(tail -n 20 "$work/log")"
expect_output "CMake, shared" "$work/cmake/snapshot_fdspan"
expect_output "CMake, static" env -u LD_LIBRARY_PATH "$work/cmake/snapshot_static"
ldd "$work/cmake/host_static" | grep -q libfdspan && fail "the static host needs no libfdspan"
ldd "$work/cmake/host_fdspan" | grep -q 'libfdspan\.so\.0 ' || fail "the shared host has the versioned soname: $(ldd "$work/cmake/host_fdspan")"
# A project without C++ may take the static library, too.
sed -i 's/LANGUAGES C CXX/LANGUAGES C/; /CXX_STANDARD/d; /snapshot/d' "$work/project/CMakeLists.txt"
cmake -S "$work/project" -B "$work/c" -DCMAKE_PREFIX_PATH="$installed" >"$work/log" 2>&1 && cmake --build "$work/c" >>"$work/log" 2>&1 ||
    fail "a CMake project in C: $(tail -n 20 "$work/log")"

make -C "$work/project" shared >"$work/log" 2>&1 || fail "make, shared: $(tail -n 20 "$work/log")"
expect_output "make, shared" "$work/project/snapshot"
make -C "$work/project" -B static >"$work/log" 2>&1 || fail "make, static: $(tail -n 20 "$work/log")"
expect_output "make, static" env -u LD_LIBRARY_PATH "$work/project/snapshot"
file_is_static() { ! ldd "$1" >/dev/null 2>&1; }
file_is_static "$work/project/epoll_host" || fail "a static program needs nothing"

# The tree may be moved: nothing in it names where it was.
mv "$installed" "$work/moved"
export PKG_CONFIG_PATH=${PKG_CONFIG_PATH/$installed/$work/moved} LD_LIBRARY_PATH=${LD_LIBRARY_PATH/$installed/$work/moved}
make -C "$work/project" -B shared >"$work/log" 2>&1 && expect_output "moved" "$work/project/snapshot" || fail "a moved tree: $(tail -n 5 "$work/log")"

# Everything else that belongs to a package is there, and each public function has its page.
for file in bin/fdspan include/fdspan/fdspan.h include/fdspan/fdspan.hpp share/man/man1/fdspan.1 share/man/man7/fdspan.7 share/bash-completion/completions/fdspan; do
    [ -f "$work/moved/$file" ] || fail "$file is installed"
done
for symbol in $(nm -D --defined-only "$LD_LIBRARY_PATH/libfdspan.so" | sed -n 's/.* T \(fdspan_[a-z_]*\)@@FDSPAN_.*/\1/p'); do
    page=$work/moved/share/man/man3/$symbol.3
    [ -f "$page" ] || { fail "$symbol has a page"; continue; }
    complaints=$(LC_ALL=C.UTF-8 MANROFFOPT=-ww man --warnings=mac,font,syntax -l "$page" 2>&1 >/dev/null)
    [ -z "$complaints" ] || fail "$symbol.3: $complaints"
done
finish
