"""A process that measures: its instruction set, its threads and its processors are settled before any library is loaded."""

from __future__ import annotations

import os
import sys

from .held_cpuid import CannotHoldError, hold

MARK = "QSTEP_BENCHMARK"
AVX2 = {
    "QSTEP_ISA": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
WITHOUT_SWITCH = {"onnxruntime": "onnxruntime", "openvino": "OpenVINO", "ai_edge_litert": "LiteRT"}


def settle(mode: str, threads: int) -> None:
    """Starts this program anew with the environment that ``mode`` ("avx2" or "native") and ``threads`` need, unless it has it."""
    mark = f"{mode} {threads}"
    if os.environ.get(MARK) == mark:
        return
    environment = {key: value for key, value in os.environ.items() if key not in AVX2}
    environment |= AVX2 if mode == "avx2" else {}
    environment |= {MARK: mark, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])  # no library can use more
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def hold_packages(mode: str) -> dict[str, str]:
    """Holds what has no switch. Gives the reasons for what cannot be held, by the first word of an engine's name."""
    reasons = {}
    for package, engine in WITHOUT_SWITCH.items() if mode == "avx2" else ():
        try:
            hold(package)
        except CannotHoldError as error:
            reasons[engine] = f"cannot be held to AVX2: {error}"
    return reasons
