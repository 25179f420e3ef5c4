"""Memory that a network takes as the operating system sees it, in a process of its own (Linux)."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from qstep import _C

STATUS = Path("/proc/self/status")


def _status(field: str) -> int:
    """Bytes: VmRSS (resident now) or VmHWM (at most, since it was reset)."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _run(connection: Connection, graph: bytes, shape: tuple[int, ...], threads: int) -> None:
    """Codes 1 as the input of one run; sends how far resident memory rose while the network was made and while it ran."""
    x = np.ones(shape, np.uint8)
    network = _C.Graph.from_bytes(graph)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM = VmRSS
    before = _status("VmRSS")
    engine = _C.IntegerNetwork(network, None, threads)
    built = _status("VmHWM") - before
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    engine.run([x])
    connection.send((built, _status("VmHWM") - before))


def resident_growth(graph: bytes, shape: tuple[int, ...], threads: int) -> tuple[int, int] | None:
    """Bytes by which resident memory rises at most, in construction and in the first run; None where the system does not tell."""
    if not STATUS.exists():
        return None
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, graph, shape, threads))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    finally:
        process.join()
