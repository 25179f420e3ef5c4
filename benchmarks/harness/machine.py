"""What a result was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import qstep


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _system() -> str:
    """Such as Linux 6.1, glibc 2.36: what follows a kernel's major and minor release is its distributor's affair."""
    release = ".".join(platform.release().split(".")[:2])
    return f"{platform.system()} {release}, {' '.join(platform.libc_ver())}"


def _commit() -> str:
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + (" with changes" if changed.stdout else "")


def machine(mode: str, threads: int, versions: dict[str, str]) -> dict[str, object]:
    """
    Args:
        mode: "avx2" where peers are held to that, else "native".
        versions: of the peers, by name.
    """
    isas = list(qstep.available_isas())
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "isas": isas,
        "isa": os.environ.get("QSTEP_ISA") or isas[-1],
        "mode": mode,
        "threads": threads,
        "qstep": qstep.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": _system(),
        "versions": versions,
    }
