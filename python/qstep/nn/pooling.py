"""Average pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as tF
from torch import Tensor

from .. import _C
from .layer import Layer


class AvgPool2d(Layer):
    """Average pooling. Padding counts as the code of zero, like everywhere.

    ``divisor_override``: what sums are divided by instead of the number of taps; padding then adds nothing.
    """

    def __init__(
        self,
        *quantizers: Any,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*quantizers, **options)
        self.kernel, self.stride, self.padding = tuple(kernel), tuple(stride), tuple(padding)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def simulate(self, *inputs: Tensor) -> Tensor:
        pads = any(self.padding) and self.divisor_override is None
        residual = self._inputs[0].residual if pads and not self.calibrating else None
        x = inputs[0] if residual is None else inputs[0] - residual
        window = self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        y = tF.avg_pool2d(x, *window, self.divisor_override)
        return y if residual is None else y + residual

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        window = _C.Window(self.kernel, self.stride, (*self.padding, *self.padding), (1, 1))
        options = self.ceil_mode, self.count_include_pad, self.target()
        return builder.avg_pool2d(name, inputs[0], window, *options, divisor_override=self.divisor_override or 0)


class ShiftAvgPool2d(AvgPool2d):
    """Average pooling of a network without multipliers (F8Net): the sum over a window, divided by the power of two next to its size.

    The rest of the division is part of the output's ``eta``, and so of the weights of the layers behind.
    """

    def __init__(self, *quantizers: Any, **options: Any) -> None:
        super().__init__(*quantizers, **options)
        assert self.output_quantizer is not None
        wanted = self.divisor_override or self.kernel[0] * self.kernel[1]
        self.divisor = 1 << (wanted - 1).bit_length()
        self.output_quantizer.follow(self._inputs[0], self.divisor / wanted)

    def float_forward(self, *inputs: Tensor) -> Tensor:
        return super().simulate(*inputs)

    def simulate(self, *inputs: Tensor) -> Tensor:
        return tF.avg_pool2d(inputs[0], self.kernel, self.stride, self.padding, divisor_override=self.divisor)

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        window = _C.Window(self.kernel, self.stride, (*self.padding, *self.padding), (1, 1))
        return builder.avg_pool2d(name, inputs[0], window, False, True, self.target(), divisor_override=self.divisor)


class AdaptiveAvgPool2d(Layer):
    """Average pooling to a given size; 0 keeps a dimension."""

    def __init__(self, *quantizers: Any, output_size: Sequence[int], **options: Any) -> None:
        super().__init__(*quantizers, **options)
        self.output_size = tuple(output_size)

    def simulate(self, *inputs: Tensor) -> Tensor:
        height, width = self.output_size
        return tF.adaptive_avg_pool2d(inputs[0], (height or None, width or None))

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        height, width = self.output_size
        return builder.adaptive_avg_pool2d(name, inputs[0], height, width, self.target())
