"""Functions of one number: fused limits and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as tF
from torch import Tensor


@dataclass(frozen=True)
class Activation:
    """A function of one number.

    ``function`` is a name the integer graph knows (``_C.Builder.lookup``). Those with ``clamp`` (ReLU, ReLU6, hardtanh) only limit a value and
    are fused into the layer before as limits on its codes.
    """

    function: str
    arguments: tuple[float, ...] = ()
    clamp: tuple[float, float] | None = None
    nonnegative: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.function == "relu":
            return torch.relu(x)
        if self.function == "clamp":
            return torch.clamp(x, *self.arguments)
        return _TABLE_FUNCTIONS[self.function](x, *self.arguments)

    def __str__(self) -> str:
        return self.function if not self.arguments else f"{self.function}{self.arguments}"


_TABLE_FUNCTIONS: dict[str, Any] = {
    "silu": tF.silu,
    "sigmoid": torch.sigmoid,
    "hardswish": tF.hardswish,
    "hardsigmoid": tF.hardsigmoid,
    "tanh": torch.tanh,
    "gelu": tF.gelu,
    "leaky_relu": tF.leaky_relu,
    "elu": tF.elu,
}

RELU = Activation("relu", clamp=(0.0, float("inf")), nonnegative=True)


def clamp(low: float, high: float) -> Activation:
    """ReLU6 and hardtanh."""
    return Activation("clamp", (low, high), clamp=(low, high), nonnegative=low >= 0)
