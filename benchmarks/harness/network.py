"""A quantized network as every engine of the benchmarks is given it: real weights with their codes, and a grid for each tensor.

One description is built for qstep and for all of its peers, so they compute the same function on the same tensors. Tensors are known by name;
an operation has the name of the tensor that it makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np


@dataclass(frozen=True)
class Grid:
    """real = scale * (code - zero_point), 0 <= code < 2**bits."""

    scale: float
    zero_point: int = 0
    bits: int = 8

    @property
    def quant_max(self) -> int:
        return 2**self.bits - 1


@dataclass(frozen=True, eq=False)
class Weight:
    """real = scale[output channel] * code; codes in [-2**(bits-1) + 1, 2**(bits-1) - 1]."""

    codes: np.ndarray  #: int8, [out, in / groups, height, width] or [out, in]
    scale: np.ndarray  #: float32, [out]
    bits: int

    @property
    def real(self) -> np.ndarray:
        return (self.codes * self.scale.reshape(-1, *[1] * (self.codes.ndim - 1))).astype(np.float32)


def quantize_weight(real: np.ndarray, bits: int) -> Weight:
    """Per channel, over the whole range of its values; at 2 bits narrower, or nearly all codes would be 0."""
    largest = 2 ** (bits - 1) - 1
    rows = np.abs(real).reshape(len(real), -1)
    scale = np.minimum(rows.max(1) / largest, 2 * rows.mean(1) / np.sqrt(largest)).astype(np.float32)
    codes = np.rint(real / scale.reshape(-1, *[1] * (real.ndim - 1)))
    return Weight(np.clip(codes, -largest, largest).astype(np.int8), scale, bits)


@dataclass(frozen=True, eq=False)
class Conv:
    name: str
    x: str
    weight: Weight
    bias: np.ndarray  #: float32, [out]
    grid: Grid | None  #: of the result; None: it stays in accumulators
    activation: str | None = None  #: "relu", "relu6" or None
    stride: int = 1
    padding: int = 0
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Linear:
    name: str
    x: str
    weight: Weight
    bias: np.ndarray
    grid: Grid | None


@dataclass(frozen=True)
class Add:
    name: str
    x: str
    other: str
    grid: Grid
    activation: str | None = None


@dataclass(frozen=True)
class MaxPool:
    name: str
    x: str
    kernel: int
    stride: int
    padding: int


@dataclass(frozen=True)
class GlobalAveragePool:
    """[N, C, H, W] to [N, C]."""

    name: str
    x: str
    grid: Grid


Operation: TypeAlias = Conv | Linear | Add | MaxPool | GlobalAveragePool

INPUT = "input"


@dataclass(frozen=True, eq=False)
class Network:
    """``real`` networks take float images [N, C, H, W], quantize them, and dequantize their result; the others take and give codes.

    Images of codes are [N, H, W, C] outside, as they lie in memory inside: single layers are timed without a change of layout.
    """

    name: str
    shape: tuple[int, ...]  #: of the input: [N, C, H, W] or [N, K]
    grid: Grid  #: of the input
    operations: tuple[Operation, ...]
    real: bool = False

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 4

    @property
    def output(self) -> Operation:
        return self.operations[-1]

    def grids(self) -> dict[str, Grid | None]:
        """The grid of every tensor; a max pooling has that of its input."""
        grids: dict[str, Grid | None] = {INPUT: self.grid}
        for op in self.operations:
            grids[op.name] = grids[op.x] if isinstance(op, MaxPool) else op.grid
        return grids


LIMITS = {None: (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


def real_input(network: Network, x: np.ndarray) -> np.ndarray:
    """What an engine that computes in float32 is given: the values that codes stand for, images as [N, C, H, W]."""
    if network.real:
        return x
    values = (x.astype(np.float32) - network.grid.zero_point) * np.float32(network.grid.scale)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if network.is_image else values
