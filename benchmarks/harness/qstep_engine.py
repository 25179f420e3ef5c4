"""qstep on a description: the integer network, built through the public builder."""

from __future__ import annotations

import numpy as np

from qstep import _C

from .network import INPUT, LIMITS, Add, Conv, GlobalAveragePool, Grid, Linear, MaxPool, Network, Operation, Weight

CHANNELS_FIRST = [0, 3, 1, 2]
CHANNELS_LAST = [0, 2, 3, 1]


def _grid(grid: Grid) -> _C.Grid:
    return _C.Grid(scale=grid.scale, zero_point=grid.zero_point, quant_max=grid.quant_max)


def _weight(weight: Weight) -> _C.UniformWeight:
    largest = 2 ** (weight.bits - 1) - 1
    return _C.UniformWeight(weight.real, weight.scale, quant_min=-largest, quant_max=largest)


def _window(kernel: tuple[int, ...], stride: int, padding: int) -> _C.Window:
    return _C.Window(kernel, (stride, stride), (padding,) * 4, (1, 1))


def _append(builder: _C.Builder, op: Operation, x: int, other: int | None) -> int:
    match op:
        case Conv() | Linear():
            constants = {"weight": _weight(op.weight), "bias": op.bias.astype(np.float64)}
            if isinstance(op, Linear):
                target = op.grid and _C.Target(_grid(op.grid), *LIMITS[None])
                return builder.linear(op.name, x, **constants, target=target)
            target = op.grid and _C.Target(_grid(op.grid), *LIMITS[op.activation])
            window = _window(op.weight.codes.shape[2:], op.stride, op.padding)
            return builder.conv2d(op.name, x, window, op.groups, **constants, target=target)
        case Add():
            return builder.add(op.name, x, other, _C.Target(_grid(op.grid), *LIMITS[op.activation]))
        case MaxPool():
            return builder.max_pool2d(op.name, x, _window((op.kernel,) * 2, op.stride, op.padding), False)
        case GlobalAveragePool():
            target = _C.Target(_grid(op.grid), *LIMITS[None])
            pooled = builder.adaptive_avg_pool2d(f"{op.name}.pooled", x, 1, 1, target)
            return builder.reshape(op.name, pooled, [0, -1])


def _append_input(builder: _C.Builder, network: Network) -> int:
    shape = list(network.shape)
    if network.real:
        return builder.quantize(INPUT, builder.input("image", shape), _grid(network.grid))
    if network.is_image:
        stored = builder.input("image", [shape[i] for i in CHANNELS_LAST], _grid(network.grid))
        return builder.permute(INPUT, stored, CHANNELS_FIRST)
    return builder.input(INPUT, shape, _grid(network.grid))


def _corner(builder: _C.Builder, y: int) -> int:
    return builder.slice("row", builder.slice("corner", y, 1, 0, 1), 2, 0, 1)


def build_network(network: Network, *, isa: str | None, threads: int, corner_only: bool = False) -> _C.IntegerNetwork:
    """The network on an instruction set (None: the one in use).

    ``corner_only``: everything is computed and one pixel comes out, so that no copy of a layer's result is timed which a layer within a
    network does not make.
    """
    builder = _C.Builder()
    values = {INPUT: _append_input(builder, network)}
    for op in network.operations:
        other = values[op.other] if isinstance(op, Add) else None
        values[op.name] = _append(builder, op, values[op.x], other)
    y = values[network.output.name]
    if network.real:
        y = builder.dequantize("real", y)
    elif network.is_image and network.output.grid is not None:  # accumulators come out as [N, C, H, W]
        y = builder.permute("stored", y, CHANNELS_LAST)
        y = _corner(builder, y) if corner_only else y
    builder.output(y)
    return _C.IntegerNetwork(builder.finish(), isa, threads)


def build_call(network: Network) -> _C.IntegerNetwork:
    """What a call takes without the layer: the network's input, and a pixel of it as the output."""
    builder = _C.Builder()
    x = _append_input(builder, network)
    y = (
        _corner(builder, builder.permute("stored", x, CHANNELS_LAST))
        if network.is_image
        else builder.slice("corner", x, 1, 0, 1)
    )
    builder.output(y)
    return _C.IntegerNetwork(builder.finish(), None, 1)


class QstepProgram:
    def __init__(self, network: Network, x: np.ndarray, threads: int) -> None:
        self._network = network
        self._threads = threads
        self._input = [np.ascontiguousarray(x)]
        self._timed = build_network(network, isa=None, threads=threads, corner_only=True)
        self._empty = build_call(network)

    def run(self) -> None:
        self._timed.run(self._input)

    def call(self) -> None:
        """The same without the layer."""
        self._empty.run(self._input)

    def output(self) -> np.ndarray:
        return build_network(self._network, isa=None, threads=self._threads).run(self._input)[0]

    @property
    def kernel(self) -> str:
        """Of the last operation that computes."""
        return {node["name"]: node["kernel"] for node in self._timed.nodes()}[self._network.output.name]

    def memory(self) -> dict[str, int]:
        return self._timed.memory([list(self._input[0].shape)])

    def graph(self) -> bytes:
        return self._timed.graph().to_bytes()
