# shellcheck shell=bash
# Sourced by examples/quickstart.sh and tests/run.sh: brings a machine to the point where qstep is built and installed.
#
#   qstep_setup EXTRA    EXTRA: the set of Python dependencies in pyproject.toml, "examples" or "test"
#
# Afterwards the working directory is the root of the checkout and $python is the interpreter of the environment.
# Used as it is: an active environment that has torch (else .venv, created where there is none), the caches of pip and ccache,
# build/cmake. Running it again does only what is left to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
stop() {
  printf '\nqstep: stopped: %s\n' "$*" >&2
  exit 1
}

has_header() { [ -e "/usr/include/$1" ] || c++ -E -x c++ -include "$1" /dev/null >/dev/null 2>&1; }

# Names of the Debian packages that this machine lacks, for EXTRA $1.
missing_packages() {
  command -v c++ >/dev/null || echo g++
  command -v cmake >/dev/null || echo cmake
  command -v ninja >/dev/null || echo ninja-build
  command -v ccache >/dev/null || echo ccache
  has_header fmt/format.h || echo libfmt-dev
  has_header nlohmann/json.hpp || echo nlohmann-json3-dev
  [ "$1" != test ] || has_header gtest/gtest.h || echo libgtest-dev
  command -v python3 >/dev/null || echo python3
  python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3-venv
  python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || echo python3-dev
}

install_system_packages() {
  local packages as_root=()
  mapfile -t packages < <(missing_packages "$1")
  [ ${#packages[@]} -gt 0 ] || return 0
  say "System packages: ${packages[*]}"
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
    stop "these system packages are missing: ${packages[*]}
Install them and run this again. On Debian or Ubuntu:
  sudo apt-get install ${packages[*]}"
  fi
  "${as_root[@]}" apt-get update -q || stop "apt-get update failed (network?), see above"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${packages[@]}" ||
    stop "apt-get could not install ${packages[*]} (network? disk?), see above"
}

check_compiler() {
  echo '#include <version>
#if __cplusplus < 202002L || !defined(__cpp_lib_span) || !defined(__cpp_lib_bit_cast)
#error
#endif' | c++ -std=c++20 -fsyntax-only -x c++ - 2>/dev/null ||
    stop "$(c++ --version | head -n 1) has no C++20: gcc 11, clang 14 or newer is needed (choose it with CXX=...)"
}

has_torch() { "$1" -c 'from importlib.util import find_spec; raise SystemExit(not find_spec("torch"))' 2>/dev/null; }

require_disk() {
  local free_mib
  free_mib=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1024))
  [ "$free_mib" -ge "$1" ] || stop "$free_mib MiB are free on the disk of $PWD, $1 MiB are needed"
}

choose_python() {
  python=$(command -v python3)
  if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && has_torch "$python"; then
    say "Python: the active environment, $python"
    return
  fi
  if [ ! -x .venv/bin/python ]; then
    say "Python: creating .venv"
    "$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 10))' || stop "$("$python" --version) is too old: 3.10 or newer is needed"
    # A torch that is already installed for the whole system is used, not downloaded.
    local site_packages=()
    ! has_torch "$python" || site_packages=(--system-site-packages)
    "$python" -m venv "${site_packages[@]}" .venv || stop "python3 could not create .venv, see above"
  fi
  python=$PWD/.venv/bin/python
}

pip_install() { "$python" -m pip install --disable-pip-version-check "$@" || stop "pip could not install $* (network? disk?), see above"; }

install_build_dependencies() {
  local needs=()
  has_torch "$python" || needs+=("torch>=2.11")
  "$python" -c 'import setuptools; raise SystemExit(int(setuptools.__version__.split(".")[0]) < 77)' 2>/dev/null || needs+=("setuptools>=77")
  [ "$(printf '3.24\n%s\n' "$(cmake --version | awk 'NR == 1 {print $3}')" | sort -V | head -n 1)" = 3.24 ] || needs+=("cmake>=3.24")
  has_torch "$python" || require_disk 12000  # torch with its CUDA libraries, unpacked and in pip's cache
  [ ${#needs[@]} -eq 0 ] || { say "Python packages for the build: ${needs[*]}" && pip_install "${needs[@]}"; }
}

build_and_install() {
  local options=(-DPython3_EXECUTABLE="$python")
  require_disk 1000
  if [ "$1" = test ]; then
    options+=(-DQSTEP_TESTS=ON)
  elif [ ! -e build/cmake/CMakeCache.txt ]; then
    options+=(-DQSTEP_TESTS=OFF)
  fi
  [ -e build/cmake/CMakeCache.txt ] || options+=(-G Ninja)
  say "Build"
  # shellcheck disable=SC2086
  cmake -S . -B build/cmake "${options[@]}" ${QSTEP_CMAKE_ARGS:-} || stop "CMake could not configure the build, see above"
  cmake --build build/cmake --parallel "$(nproc)" || stop "the build failed, see above"
  say "Install into $("$python" -c 'import sys; print(sys.prefix)')"
  # The installed torch stays: torchvision is chosen to fit it.
  "$python" -m pip freeze | grep '^torch==' >build/constraints.txt || true
  pip_install --no-build-isolation --constraint build/constraints.txt ".[$1]"
}

qstep_setup() {
  install_system_packages "$1"
  check_compiler
  choose_python
  PATH=$(dirname "$python"):$PATH
  install_build_dependencies
  build_and_install "$1"
}
