#!/usr/bin/env bash
# What the Makefile does: tools/make.sh all|demo|test|bench|sanitize|clean
#
# Two builds of the library, one per OpenBLAS: the Python wheel carries its own (build/wheel), everything for C and C++ links the
# system's (build/release). Paths are relative to the top of the repository, which may have spaces in its name.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
target=${1:-all}
export PIP_DISABLE_PIP_VERSION_CHECK=1 SWIFT_BACKTRACE=enable=no
# SwiftPM obeys these and they are rarely meant for it.
unset CFLAGS CXXFLAGS CPPFLAGS LDFLAGS SDKROOT UNMERGE_OPENBLAS UNMERGE_LIBRARY PYTHONPATH PYTHONHOME
venv=.venv/bin/python

# ---------------------------------------------------------------- saying and doing

say() { printf '%s\n' "$*"; }
stop() { printf '\n%s\n' "$*" >&2; exit 1; }

# step <name> <command...>: runs with its output in build/logs/<name>.log; on failure shows the end of it.
step() {
  local name=$1 began=$SECONDS log=build/logs/$1.log status
  shift
  mkdir -p build/logs
  printf '  %-10s ' "$name"
  "$@" >"$log" 2>&1
  status=$?
  if [ $status -eq 0 ]; then
    say "ok, $((SECONDS - began)) s"
  else
    say "FAILED, $((SECONDS - began)) s; the end of $log:"
    tail -n 80 "$log" | sed 's/^/    /'
  fi
  return $status
}

# ---------------------------------------------------------------- what the machine has to have

python_fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate candidates=(python3 python3.13 python3.12 python3.11)
  [ -n "${PYTHON:-}" ] && candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if python_fits "$candidate"; then
      python=$candidate
      return 0
    fi
  done
  return 1
}

find_openblas() {
  local name
  for name in /usr/lib/*/libopenblas.so /usr/lib64/libopenblas.so /usr/lib/libopenblas.so /usr/local/lib*/libopenblas.so; do
    [ -e "$name" ] && return 0
  done
  echo 'int main(void) { return 0; }' | cc -x c - -o /dev/null -lopenblas 2>/dev/null
}

# Debian packages that are missing for <target>, in $missing.
find_missing() {
  missing=()
  command -v g++ >/dev/null || missing+=(g++) # with it come the C and C++ libraries Swift links
  if ! find_python; then
    [ -n "${PYTHON:-}" ] && stop "$PYTHON is not Python 3.11 or newer."
    command -v python3 >/dev/null && say "python3 is older than 3.11; looking for a newer one in the package list."
    missing+=(python3 python3-venv)
  elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    missing+=("python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv")
  fi
  if [ "$target" = test ] || [ "$target" = sanitize ]; then
    find_openblas || missing+=(libopenblas-dev)
    command -v pkg-config >/dev/null || missing+=(pkg-config)
  fi
}

install_missing() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      stop "Packages are missing and this user may not install them. As root:

    apt-get install ${missing[*]}"
    fi
  fi
  command -v apt-get >/dev/null || stop "Please install what corresponds to these Debian packages: ${missing[*]}"
  step apt env DEBIAN_FRONTEND=noninteractive "${as_root[@]}" sh -c \
    'apt-get update && apt-get install -y --no-install-recommends "$@"' sh "${missing[@]}" ||
    stop "apt-get install ${missing[*]} did not work."
}

requirements() {
  command -v swift >/dev/null || stop "Swift was not found. Install a Swift 6.1 or newer toolchain (https://www.swift.org/install/linux) and put
its usr/bin on PATH."
  swift --version >/dev/null 2>&1 || stop "swift --version does not work: $(swift --version 2>&1 | tail -n 1)"
  find_missing
  if [ ${#missing[@]} -gt 0 ]; then
    install_missing
    find_missing
    [ ${#missing[@]} -eq 0 ] || stop "Installed, but still not found: ${missing[*]}. (Python has to be 3.11 or newer; PYTHON=... names one.)"
  fi
  # The toolchain's clang, for the header checks.
  PATH=$PATH:$(dirname "$(readlink -f "$(command -v swift)")")
}

# ---------------------------------------------------------------- the steps

make_venv() {
  if [ -e .venv ] && ! python_fits "$venv"; then rm -rf .venv; fi
  [ -x "$venv" ] || "$python" -m venv .venv
}

# The wheel is built as a user's `pip install .` builds it, in an isolated environment.
make_wheel() {
  rm -f build/wheel/unmerge-*.whl
  "$venv" -m pip wheel . --no-deps --wheel-dir build/wheel
}

install_wheel() { # install_wheel <extras>
  local wheel
  wheel=$(ls build/wheel/unmerge-*.whl) || return 1
  "$venv" -m pip install "$wheel[$1]" && "$venv" -m pip install --force-reinstall --no-deps "$wheel"
}

# CMake and Ninja: the system's when they are new enough, otherwise from PyPI into .venv.
find_cmake() {
  cmake=cmake ctest=ctest
  local version
  version=$(cmake --version 2>/dev/null | sed -n 's/^cmake version //p')
  if [ -z "$version" ] || [ "$(printf '%s\n3.25\n' "$version" | sort -V | head -n 1)" != 3.25 ]; then
    step cmake "$venv" -m pip install 'cmake>=3.25' || exit 1
    cmake=.venv/bin/cmake ctest=.venv/bin/ctest
  fi
  if ! command -v ninja >/dev/null; then
    step ninja "$venv" -m pip install ninja || exit 1
    ninja=("-DCMAKE_MAKE_PROGRAM=$PWD/.venv/bin/ninja")
  fi
}
ninja=()

cmake_build() { # cmake_build <directory> <options...>
  local directory=$1
  shift
  "$cmake" -G Ninja -S . -B "$directory" "${ninja[@]}" "$@" && "$cmake" --build "$directory"
}

python_package() { # python_package <extras>
  step venv make_venv || exit 1
  step wheel make_wheel || exit 1
  step install install_wheel "$1" || exit 1
}

swift_tests() { env -u CC -u CXX swift test --scratch-path build/swift-test; }
c_tests() { "$ctest" --test-dir build/release --output-on-failure --timeout 600; }
python_tests() { "$venv" -m pytest Tests/python -q -ra; }
wheel_tests() {
  rm -rf build/wheel-venv
  "$python" -m venv build/wheel-venv &&
    build/wheel-venv/bin/python -m pip install "$(ls build/wheel/unmerge-*.whl)" &&
    (cd build && wheel-venv/bin/python -I ../tools/check_wheel.py)
}

# ---------------------------------------------------------------- the targets

case $target in
all)
  requirements
  python_package cli,hf,plot
  say "The command is .venv/bin/unmerge; .venv/bin/python has the package."
  ;;

demo)
  requirements
  python_package cli,hf,plot
  say
  .venv/bin/unmerge demo
  ;;

test)
  requirements
  python_package test
  find_cmake
  failed=()
  step swift swift_tests || failed+=(swift)
  if step library cmake_build build/release -DCMAKE_BUILD_TYPE=Release; then
    step c c_tests || failed+=(c)
  else
    failed+=(library c)
  fi
  step wheel-run wheel_tests || failed+=(wheel-run)
  step python python_tests || failed+=(python)
  say
  say "Swift    $(grep -hoE '(Test run with|Executed [1-9][0-9]*) .*' build/logs/swift.log | tail -n 1)"
  say "C, C++   $(grep -h 'tests passed, ' build/logs/c.log 2>/dev/null)"
  say "Wheel    $(tail -n 1 build/logs/wheel-run.log)"
  say "Python   $(tail -n 1 build/logs/python.log)"
  if [ ${#failed[@]} -gt 0 ]; then
    say "FAILED: ${failed[*]} (after $SECONDS s; logs in build/logs)"
    exit 1
  fi
  say "All tests passed in $SECONDS s."
  ;;

bench)
  requirements
  python_package cli,hf,plot
  bench_venv() {
    [ -x build/bench-venv/bin/python ] || "$python" -m venv build/bench-venv || return 1
    # A peer that cannot be installed is listed as such by the benchmark.
    grep -vE '^ *(#|$)' benchmarks/requirements.txt | while read -r requirement; do
      build/bench-venv/bin/python -m pip install "$requirement" || say "not installed: $requirement"
    done
    build/bench-venv/bin/python -m pip install --force-reinstall --no-deps build/wheel/unmerge-*.whl
  }
  step peers bench_venv || exit 1
  # shellcheck disable=SC2086 # several options in one variable
  build/bench-venv/bin/python benchmarks/run.py ${BENCH-}
  ;;

sanitize)
  requirements
  step venv make_venv || exit 1
  find_cmake
  export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
  step library cmake_build build/sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DUNMERGE_SANITIZE=address \
    -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ || exit 1
  step c "$ctest" --test-dir build/sanitize --output-on-failure --timeout 900
  status=$?
  grep -h 'tests passed, ' build/logs/c.log
  exit $status
  ;;

clean)
  rm -rf build .venv
  ;;

*) stop "make.sh all|demo|test|bench|sanitize|clean, not \"$target\"" ;;
esac
