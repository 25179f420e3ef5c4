#!/usr/bin/env bash
# Sets everything up and runs every test: GoogleTest programs through ctest, then pytest. Arguments go to pytest.
# shellcheck source=third_party/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../third_party/setup.sh"
qstep_setup test

failed=()
say "C++ tests"
ctest --test-dir build/cmake --output-on-failure --no-tests=error --parallel 2 || failed+=("C++ tests")
say "Python tests"
"$python" -m pytest tests "$@" || failed+=("Python tests")

[ ${#failed[@]} -eq 0 ] || stop "failed: ${failed[*]}"
