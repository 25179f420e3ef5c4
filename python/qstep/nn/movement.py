"""Operations that move values and keep their grid, where the float network's own module would not do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as tF
from torch import Tensor, nn

from ..quantizers import ActivationQuantizer


class RandomDrop(nn.Module):
    """A dropout function of the float network. Tracing turned its ``training`` argument into a constant: here it follows the module's mode."""

    def __init__(self, function: Callable[..., Tensor], arguments: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.arguments = arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.arguments, training=self.training)


class Pad(nn.Module):
    """Padding with real zero of a tensor on a grid: with the value that the code nearest to zero stands for.

    Args:
        quantizer: what put the tensor on its grid; referred to, not registered.
        padding: as :func:`torch.nn.functional.pad` takes it, from the last dimension on.
    """

    def __init__(self, quantizer: ActivationQuantizer, padding: Sequence[int]) -> None:
        super().__init__()
        self._grid = (quantizer,)
        self.padding = tuple(padding)

    def forward(self, x: Tensor) -> Tensor:
        (quantizer,) = self._grid
        padded = tF.pad(x, self.padding)
        residual = None if quantizer.calibrating else quantizer.residual
        if residual is None or not quantizer.active:
            return padded
        zero = quantizer.decode(quantizer.encode(residual))  # not real zero: the code's own value, bit for bit
        inside = tF.pad(torch.ones(x.shape, dtype=torch.bool, device=x.device), self.padding)
        return torch.where(inside, padded, zero.detach().to(x.dtype))

    def extra_repr(self) -> str:
        return f"padding={self.padding}"
