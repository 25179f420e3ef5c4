"""Activations that stay in floating point."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from .base import ActivationQuantizer


class FloatActivation(ActivationQuantizer):
    """No quantization, to train and to compare with (INQ's paper quantizes weights only).

    ``eval()`` simulates such layers, and :func:`qstep.convert` raises ``NotImplementedError``.
    """

    method = "float"
    has_grid = False

    def __init__(self, bit_width: int = 32, nonnegative: bool = False) -> None:
        super().__init__(bit_width, 0, 0)
        self.active = False
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)
        self.register_buffer("offset", torch.tensor(0.0), persistent=False)
        self._set_ready()

    def initialize(self, samples: Tensor) -> None:
        pass

    def quantize(self, x: Tensor) -> Tensor:
        return x

    def grid(self) -> NoReturn:
        raise NotImplementedError(
            f"{self.path}: activations in floating point are for training and comparison; an integer network needs act_bits"
        )
