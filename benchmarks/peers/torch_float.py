"""torch in float32: oneDNN's kernels in eager mode, images in channels_last."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from harness.network import INPUT, Add, Conv, GlobalAveragePool, Linear, MaxPool, Network, Operation

ACTIVATIONS = {None: lambda y: y, "relu": F.relu_, "relu6": F.relu6}


class FloatProgram:
    def __init__(self, network: Network, x: np.ndarray, threads: int) -> None:
        torch.set_num_threads(threads)
        self._network = network
        self._input = torch.from_numpy(x)
        if network.is_image:
            self._input = self._input.contiguous(memory_format=torch.channels_last)
        self._weights = {
            op.name: (self._stored(torch.from_numpy(op.weight.real)), torch.from_numpy(op.bias.astype(np.float32)))
            for op in network.operations
            if isinstance(op, Conv | Linear)
        }
        self.run()

    @staticmethod
    def _stored(weight: torch.Tensor) -> torch.Tensor:
        return weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight

    def _apply(self, op: Operation, values: dict[str, torch.Tensor]) -> torch.Tensor:
        x = values[op.x]
        match op:
            case Conv():
                y = F.conv2d(x, *self._weights[op.name], op.stride, op.padding, 1, op.groups)
                return ACTIVATIONS[op.activation](y)
            case Linear():
                return F.linear(x, *self._weights[op.name])
            case Add():
                return ACTIVATIONS[op.activation](x + values[op.other])
            case MaxPool():
                return F.max_pool2d(x, op.kernel, op.stride, op.padding)
            case GlobalAveragePool():
                return x.mean((2, 3))

    @torch.inference_mode()
    def values(self) -> dict[str, torch.Tensor]:
        values = {INPUT: self._input}
        for op in self._network.operations:
            values[op.name] = self._apply(op, values)
        return values

    def run(self) -> None:
        self._output = self.values()[self._network.output.name]

    def output(self) -> np.ndarray:
        y = self._output
        return (y.permute(0, 2, 3, 1) if y.dim() == 4 else y).numpy()


class TorchFloat:
    is_integer = False
    name = "torch float32"

    def version(self) -> str:
        return f"torch {torch.__version__}"

    def build(self, network: Network, x: np.ndarray, threads: int) -> FloatProgram:
        return FloatProgram(network, x, threads)
