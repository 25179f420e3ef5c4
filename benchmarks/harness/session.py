"""What the commands share: options, the peers that are there, rows that are measured until the time is up."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine, Program, UnavailableError
from .machine import machine
from .network import Network, real_input
from .process import hold_packages, settle
from .results import Results
from .timing import interleaved


def options(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    parser.add_argument(
        "--isa", choices=("avx2", "native"), default="native", help="hold every engine to AVX2 (default: native)"
    )
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="interleaved rounds per row (default 15)")
    parser.add_argument(
        "--row-seconds", type=float, default=4.0, metavar="S", help="fewer rounds where they take longer (default 4)"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="start no row after this time")
    parser.add_argument("--results", type=Path, default=Path("benchmark-results"), metavar="DIR")
    parser.add_argument("--again", action="store_true", help="measure rows too that DIR has already")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows with this in their name")
    parser.add_argument("--smoke", action="store_true", help="a few tiny rows, two rounds: does it all work?")
    return parser.parse_args(arguments)


class Session:
    def __init__(self, arguments: argparse.Namespace, peers: list[Engine]) -> None:
        settle(arguments.isa, arguments.threads)
        self.arguments = arguments
        self.threads: int = arguments.threads
        self._start = time.monotonic()
        self._failures = 0
        self.peers: list[Engine] = []
        self.skipped: dict[str, str] = {}
        versions = {}
        cannot_hold = hold_packages(arguments.isa) if peers else {}
        for peer in peers:
            try:
                if reason := cannot_hold.get(peer.name.split()[0]):
                    raise UnavailableError(reason)
                versions[peer.name] = peer.version()
                self.peers.append(peer)
            except UnavailableError as reason:
                self.skipped[peer.name] = str(reason)
        self.machine = machine(arguments.isa, self.threads, versions)

    def build_peers(self, network: Network, x: np.ndarray) -> tuple[dict[str, Program], dict[str, str]]:
        """Programs of the peers that can run the network, and why the others cannot."""
        programs, skipped = {}, dict(self.skipped)
        for peer in self.peers:
            try:
                tensor = x if peer.is_integer else real_input(network, x)
                programs[peer.name] = peer.build(network, tensor, self.threads)
            except Exception as error:  # a peer's trouble is a line of the report
                skipped[peer.name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return programs, skipped

    def measure(self, part: str, rows: Iterable[tuple[str, Callable[[], dict[str, Any]]]]) -> None:
        """Measures rows that are not there yet, and writes each as soon as it is done."""
        results = Results(self.arguments.results, self.arguments.isa, part)
        left = []
        for position, (name, row) in enumerate(rows):
            if self.arguments.only not in name or (name in results and not self.arguments.again):
                continue
            if time.monotonic() - self._start > self.arguments.seconds:
                left.append(name)
                continue
            result = row()
            head = {"part": part, "name": name, "position": position, "machine": self.machine}
            results.write(name, head | result)
            self._failures += sum(engine.get("differing", 0) > 0 for engine in result["engines"].values())
            print(name, _line(result["engines"]), sep=": ", flush=True)
        if left:
            print(f"{len(left)} rows of {part} are left: run the same command again")

    def time(self, programs: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
        """Microseconds of each round."""
        rounds = 2 if self.arguments.smoke else self.arguments.rounds
        settle_seconds = 0.1 if self.threads > 1 else 0.0
        return interleaved(programs, rounds, self.arguments.row_seconds, settle_seconds=settle_seconds)

    def finish(self) -> None:
        for engine, reason in self.skipped.items():
            print(f"skipped: {engine}: {reason}")
        if self._failures:
            sys.exit(f"{self._failures} results of qstep differ from the reference")


def _line(engines: dict[str, Any]) -> str:
    return ", ".join(f"{name} {np.median(engine['times']):.0f}" for name, engine in engines.items()) + " us"
