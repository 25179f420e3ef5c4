"""Holds a Python package of machine code to AVX2 where it has no switch for it: a measuring device, for x86-64 Linux.

Libraries choose their kernels by CPUID. Here a package is imported from a copy in which every CPUID instruction (0F A2) is an undefined one
(UD2, 0F 0B); the signal that this raises is answered by ``held_cpuid.c``, which executes CPUID and leaves out AVX-512, VNNI and AMX. The
instructions are found by objdump. Nothing else of the package changes, and nothing is paid per inference: CPUID is executed once.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qstep-benchmarks"
CPUID = b"\x0f\xa2"
UD2 = b"\x0f\x0b"


class CannotHoldError(Exception):
    """Why a package cannot be held to AVX2 here."""


def _cpuid_offsets(library: Path) -> list[int]:
    """Places in the file where a CPUID instruction starts."""
    sections = {}
    headers = subprocess.run(["objdump", "-h", library], capture_output=True, text=True, check=True).stdout
    for name, address, offset in re.findall(r"^ *\d+ (\S+) +\w+ +(\w+) +\w+ +(\w+)", headers, re.M):
        sections[name] = int(offset, 16) - int(address, 16)
    command = f"objdump -d --no-show-raw-insn '{library}' | grep -E 'cpuid|^Disassembly of section'"
    lines = subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout.splitlines()
    offsets = []
    for line in lines:
        if section := re.match(r"Disassembly of section (\S+):", line):
            shift = sections[section[1]]
        elif instruction := re.match(r" *([0-9a-f]+):\s+cpuid\s*$", line):
            offsets.append(int(instruction[1], 16) + shift)
    return offsets


def _copy(package: Path, target: Path) -> None:
    """Links to the package's files, and altered copies of its libraries."""
    shutil.copytree(package, target, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    for link in [*target.rglob("*.so"), *target.rglob("*.so.*")]:
        offsets = _cpuid_offsets(link)
        if not offsets:
            continue
        code = bytearray(link.read_bytes())
        for offset in offsets:
            if code[offset : offset + 2] != CPUID:
                raise CannotHoldError(f"{link.name} has no CPUID at {offset:#x}, where objdump sees one")
            code[offset : offset + 2] = UD2
        link.unlink()
        link.write_bytes(code)


def _answer_cpuid() -> None:
    source = Path(__file__).with_suffix(".c")
    library = CACHE / f"held_cpuid-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        built = library.with_suffix(f".{os.getpid()}")
        subprocess.run([os.environ.get("CC", "cc"), "-O1", "-shared", "-fPIC", "-o", built, source], check=True)
        built.rename(library)
    ctypes.CDLL(str(library))


def hold(name: str) -> None:
    """Makes ``import name`` find the held copy. Raises CannotHoldError with a reason; does nothing where it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return
    if name in sys.modules:
        raise CannotHoldError(f"{name} is imported already")
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise CannotHoldError("only on x86-64 Linux")
    if shutil.which("objdump") is None:
        raise CannotHoldError("objdump is not installed")
    package = Path(spec.origin).parent
    key = hashlib.sha256(f"{package} {package.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    folder = CACHE / f"{name}-{key}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
            _copy(package, Path(unfinished) / "packages" / name)
            (Path(unfinished) / "packages").rename(folder)
    _answer_cpuid()
    sys.path.insert(0, str(folder))
