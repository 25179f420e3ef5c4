"""Sums, products, functions by table and concatenation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _C
from ..quantizers import ActivationQuantizer
from .layer import Layer


class Add(Layer):
    """Sum of two quantized tensors, requantized once."""

    def __init__(self, *quantizers: Any, **options: Any) -> None:
        super().__init__(*quantizers, **options)
        assert self.output_quantizer is not None
        for source in self._inputs:
            self.output_quantizer.join(source)

    def _ratios(self) -> list[Tensor | None]:
        """What one unit of each input is in units of the output."""
        assert self.output_quantizer is not None
        return [source.ratio_to(self.output_quantizer) for source in self._inputs]

    def float_forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + inputs[1]

    def simulate(self, *inputs: Tensor) -> Tensor:
        a, b = (x if ratio is None else x * ratio for x, ratio in zip(inputs, self._ratios(), strict=True))
        return a + b

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        left, right = (1.0 if ratio is None else float(ratio) for ratio in self._ratios())
        return builder.add(name, inputs[0], inputs[1], self.target(), left, right)


class Multiply(Layer):
    """Product of two quantized tensors (squeeze-and-excite, gates), requantized once."""

    def simulate(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        return builder.multiply(name, inputs[0], inputs[1], self.target())


class Elementwise(Layer):
    """A function of one quantized tensor: a table of at most 256 codes as integers."""

    def simulate(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        assert self.activation is not None and self.output_quantizer is not None
        return builder.lookup(
            name, inputs[0], self.activation.function, list(self.activation.arguments), self.output_quantizer.grid()
        )


class Concat(Layer):
    """Quantized tensors side by side on one grid."""

    def __init__(self, inputs: Sequence[ActivationQuantizer], output_quantizer: ActivationQuantizer, axis: int) -> None:
        super().__init__(inputs, output_quantizer)
        self.axis = axis

    def simulate(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.axis)

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        assert self.output_quantizer is not None
        return builder.concat(name, list(inputs), self.axis % len(shape), self.output_quantizer.grid())
