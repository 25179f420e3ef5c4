#!/usr/bin/env bash
# Sets everything up and runs examples/quickstart.py: train on real images, export integers, run the integers.
# shellcheck source=third_party/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../third_party/setup.sh"
qstep_setup examples

say "Quickstart"
exec "$python" examples/quickstart.py "$@"
