"""What the benchmarks want of an engine: build a program for a network and an input, run it, show its output."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .network import Network


class UnavailableError(Exception):
    """The engine is not there, or cannot run this network: the reason, for the report."""


class Program(Protocol):
    def run(self) -> None:
        """One inference, from an input to an output that stay where they are."""

    def output(self) -> np.ndarray:
        """The last run's result: uint8 codes, images as [N, H, W, C], or float32 values."""


class Engine(Protocol):
    name: str
    is_integer: bool  #: False: computes in float32, on the real values

    def build(self, network: Network, x: np.ndarray, threads: int) -> Program:
        """Raises UnavailableError with a reason."""

    def version(self) -> str:
        """Raises UnavailableError where it is not installed."""
