from collections.abc import Sequence
from typing import Any

import numpy as np

__version__: str

class Error(ValueError): ...

class Grid:
    scale: float
    zero_point: int
    offset: float
    quant_min: int
    quant_max: int
    def __init__(
        self, *, scale: float, zero_point: int = 0, offset: float = 0.0, quant_min: int = 0, quant_max: int = 255
    ) -> None: ...

class Window:
    def __init__(
        self, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
    ) -> None: ...

class Target:
    def __init__(self, grid: Grid, clamp_low: float, clamp_high: float) -> None: ...

class Graph:
    @staticmethod
    def load(path: str) -> Graph: ...
    def save(self, path: str) -> None: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> Graph: ...

class UniformWeight:
    def __init__(
        self, values: np.ndarray, scale: np.ndarray, *, zero_point: int = 0, quant_min: int, quant_max: int
    ) -> None: ...

class PowerOfTwoWeight:
    def __init__(
        self, values: np.ndarray, *, bit_width: int, max_exponent: int, variable_length: bool = False
    ) -> None: ...

class CodeBookWeight:
    def __init__(self, values: np.ndarray, scale: np.ndarray, levels: np.ndarray) -> None: ...

class PiecewiseWeight:
    def __init__(
        self,
        *,
        bit_width: int,
        region: np.ndarray,
        magnitude: np.ndarray,
        negative: np.ndarray,
        step: np.ndarray,
        start: np.ndarray,
        constant: np.ndarray | None = None,
    ) -> None: ...

RealWeight = UniformWeight | PowerOfTwoWeight | CodeBookWeight | PiecewiseWeight

class Builder:
    def __init__(self, policy: str = "exact") -> None: ...
    def input(self, name: str, shape: Sequence[int], grid: Grid = ...) -> int: ...
    def quantize(self, name: str, x: int, grid: Grid) -> int: ...
    def conv2d(
        self,
        name: str,
        x: int,
        window: Window,
        groups: int,
        *,
        weight: RealWeight,
        factor: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        target: Target | None = None,
    ) -> int: ...
    def linear(
        self,
        name: str,
        x: int,
        *,
        weight: RealWeight,
        factor: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        target: Target | None = None,
    ) -> int: ...
    def add(
        self,
        name: str,
        left: int,
        right: int,
        target: Target | None,
        left_factor: float = 1.0,
        right_factor: float = 1.0,
    ) -> int: ...
    def multiply(self, name: str, left: int, right: int, target: Target | None) -> int: ...
    def lookup(self, name: str, x: int, function: str, arguments: Sequence[float], grid: Grid) -> int: ...
    def max_pool2d(self, name: str, x: int, window: Window, ceil_mode: bool) -> int: ...
    def avg_pool2d(
        self,
        name: str,
        x: int,
        window: Window,
        ceil_mode: bool,
        count_include_pad: bool,
        target: Target | None,
        factor: float = 1.0,
        divisor_override: int = 0,
    ) -> int: ...
    def adaptive_avg_pool2d(
        self,
        name: str,
        x: int,
        height: int,
        width: int,
        target: Target | None,
        factor: float = 1.0,
        divisor_override: int = 0,
    ) -> int: ...
    def concat(self, name: str, inputs: Sequence[int], axis: int, grid: Grid) -> int: ...
    def reshape(self, name: str, x: int, shape: Sequence[int]) -> int: ...
    def permute(self, name: str, x: int, order: Sequence[int]) -> int: ...
    def slice(self, name: str, x: int, axis: int, start: int, stop: int) -> int: ...
    def dequantize(self, name: str, x: int) -> int: ...
    def output(self, x: int) -> None: ...
    def finish(self) -> Graph: ...

class IntegerNetwork:
    def __init__(self, graph: Graph, isa: str | None = None, num_threads: int | None = None) -> None: ...
    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]: ...
    def capture(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]: ...
    def run_node(self, name: str, inputs: Sequence[np.ndarray]) -> np.ndarray: ...
    def output_scales(self) -> np.ndarray: ...
    def nodes(self) -> list[dict[str, Any]]: ...
    def input_shapes(self) -> list[list[int]]: ...
    def arena_bytes(self, input_shapes: Sequence[Sequence[int]]) -> int: ...
    def graph(self) -> Graph: ...
    def save(self, path: str) -> None: ...
    def isa(self) -> str: ...
    def num_threads(self) -> int: ...

def available_isas() -> list[str]: ...
