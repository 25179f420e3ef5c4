"""torch's own int8 operators, on the engines FBGEMM and oneDNN, as long as torch has them."""

from __future__ import annotations

import numpy as np
import torch

from harness.engine import UnavailableError
from harness.network import (
    INPUT,
    Add,
    Conv,
    GlobalAveragePool,
    Grid,
    Linear,
    MaxPool,
    Network,
    Operation,
    Weight,
    real_input,
)


def _quantized_weight(weight: Weight) -> torch.Tensor:
    zero_points = torch.zeros(len(weight.scale), dtype=torch.int64)
    scale = torch.from_numpy(weight.scale.astype(np.float64))
    return torch.quantize_per_channel(torch.from_numpy(weight.real), scale, zero_points, 0, torch.qint8)


class Int8Program:
    def __init__(self, network: Network, x: np.ndarray, threads: int, engine: str) -> None:
        torch.set_num_threads(threads)
        torch.backends.quantized.engine = engine
        self._network = network
        real = torch.from_numpy(real_input(network, x))
        if network.is_image:
            real = real.contiguous(memory_format=torch.channels_last)
        self._input = real if network.real else self._codes(real, network.grid)
        self._packed = {op.name: self._pack(op) for op in network.operations if isinstance(op, Conv | Linear)}
        self.run()

    @staticmethod
    def _codes(x: torch.Tensor, grid: Grid) -> torch.Tensor:
        return torch.quantize_per_tensor(x, grid.scale, grid.zero_point, torch.quint8)

    @staticmethod
    def _pack(op: Conv | Linear) -> torch.ScriptObject:
        bias = torch.from_numpy(op.bias.astype(np.float32))
        if isinstance(op, Linear):
            return torch.ops.quantized.linear_prepack(_quantized_weight(op.weight), bias)
        window = ([op.stride] * 2, [op.padding] * 2, [1, 1], op.groups)
        return torch.ops.quantized.conv2d_prepack(_quantized_weight(op.weight), bias, *window)

    def _apply(self, op: Operation, values: dict[str, torch.Tensor]) -> torch.Tensor:
        x = values[op.x]
        match op:
            case Conv():
                # ReLU6 is a clamp to codes of its grid: [0, 6] is what that grid spans.
                convolution = torch.ops.quantized.conv2d_relu if op.activation else torch.ops.quantized.conv2d
                return convolution(x, self._packed[op.name], op.grid.scale, op.grid.zero_point)
            case Linear():
                return torch.ops.quantized.linear(x, self._packed[op.name], op.grid.scale, op.grid.zero_point)
            case Add():
                add = torch.ops.quantized.add_relu if op.activation else torch.ops.quantized.add
                return add(x, values[op.other], op.grid.scale, op.grid.zero_point)
            case MaxPool():
                return torch.nn.functional.max_pool2d(x, op.kernel, op.stride, op.padding)
            case GlobalAveragePool():
                return torch.nn.functional.adaptive_avg_pool2d(x, 1).flatten(1)

    @torch.inference_mode()
    def run(self) -> None:
        values = {INPUT: self._codes(self._input, self._network.grid) if self._network.real else self._input}
        for op in self._network.operations:
            values[op.name] = self._apply(op, values)
        y = values[self._network.output.name]
        self._output = y.dequantize() if self._network.real else y

    def output(self) -> np.ndarray:
        y = self._output
        if y.is_quantized:
            y = y.int_repr()
        return (y.permute(0, 2, 3, 1) if y.dim() == 4 else y).contiguous().numpy()


class TorchInt8:
    is_integer = True

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self.name = f"torch int8 {'FBGEMM' if engine == 'fbgemm' else 'oneDNN'}"

    def version(self) -> str:
        if self._engine not in torch.backends.quantized.supported_engines:
            raise UnavailableError(f"torch {torch.__version__} no longer has the engine {self._engine}")
        return f"torch {torch.__version__}"

    def build(self, network: Network, x: np.ndarray, threads: int) -> Int8Program:
        return Int8Program(network, x, threads, self._engine)
