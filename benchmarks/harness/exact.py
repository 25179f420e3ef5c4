"""Exact arithmetic beside what the engines compute."""

from __future__ import annotations

import numpy as np

from .network import Network
from .qstep_engine import build_network
from .random_layer import without_requantization

ROUNDING = 0.51  #: engines round a real-valued product each in their way; whoever is further away has another sum


def accumulators(network: Network, x: np.ndarray, isa: str | None, threads: int) -> np.ndarray:
    """The int32 sums of a network of one layer; images as [N, C, H, W]."""
    return build_network(without_requantization(network), isa=isa, threads=threads).run([x])[0]


def wrong_outputs(network: Network, sums: np.ndarray, codes: np.ndarray) -> float:
    """Share of the codes that are not the rounded product of the exact sum."""
    (op,) = network.operations
    sums = np.moveaxis(sums, 1, -1) if sums.ndim == 4 else sums
    exact = sums * (network.grid.scale * op.weight.scale.astype(np.float64) / op.grid.scale) + op.grid.zero_point
    return float(np.mean(np.abs(np.clip(exact, 0, op.grid.quant_max) - codes) > ROUNDING))
