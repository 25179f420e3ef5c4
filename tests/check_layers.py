#!/usr/bin/env python3
"""Fails on an #include that goes against the arrows of docs/architecture.md.

python tests/check_layers.py [CSRC]      prints each wrong include as FILE:LINE, exit status 1 if there is one
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# What each layer may include besides itself: other layers, and libraries.
LAYERS: dict[str, set[str]] = {
    "core": {"fmt"},
    "kernels": {"core"},
    "ir": {"core", "nlohmann"},
    "engine": {"core", "kernels", "ir"},
    "methods": {"core", "kernels", "ir", "torch"},
    "nn": {"core", "kernels", "ir", "engine", "methods", "torch"},
    "optim": {"core", "methods", "nn", "torch"},
    "graph": {"core", "kernels", "ir", "engine", "methods", "nn", "torch"},
    "bindings": {"core", "kernels", "ir", "engine", "methods", "nn", "optim", "graph", "torch", "pybind11"},
}
# The umbrella headers beside the layers may include every layer and each other.
UMBRELLA = set(LAYERS) | {"umbrella", "torch"}
# The library that an include path belongs to. The rest (standard library, CUDA, intrinsics) is free.
LIBRARIES = {
    "torch": "torch",
    "ATen": "torch",
    "c10": "torch",
    "pybind11": "pybind11",
    "nlohmann": "nlohmann",
    "fmt": "fmt",
}
SOURCES = {".h", ".cpp", ".cu", ".cuh", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]')


def target_of(include: str) -> str | None:
    """The layer or library that an include names, None where it is free."""
    first, *rest = include.split("/")
    if first != "qstep":
        return LIBRARIES.get(first)
    return rest[0] if len(rest) > 1 else "umbrella"


def wrong_includes(csrc: Path) -> list[str]:
    """One line per include that no arrow allows, for the tree under ``csrc/qstep``."""
    found = []
    for path in sorted((csrc / "qstep").rglob("*")):
        if path.suffix not in SOURCES:
            continue
        parts = path.relative_to(csrc / "qstep").parts
        layer = parts[0] if len(parts) > 1 else "umbrella"
        if layer != "umbrella" and layer not in LAYERS:
            found.append(f"{path}: {layer} is no layer; the layers are {', '.join(LAYERS)}")
            continue
        allowed = UMBRELLA if layer == "umbrella" else LAYERS[layer] | {layer}
        if path.suffix in {".cu", ".cuh"}:
            allowed = allowed - {"torch"}  # nvcc takes minutes over torch's headers: kernels get pointers and a stream
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            match = INCLUDE.match(line)
            target = match and target_of(match[1])
            if target and target not in allowed:
                rule = f"{layer} must not include {match[1]}; allowed: {', '.join(sorted(allowed))}"
                found.append(f"{path}:{number}: {rule}")
    return found


def main() -> int:
    csrc = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent / "csrc"
    found = wrong_includes(csrc)
    print("\n".join(found) or f"{csrc}: every include follows the arrows")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
