"""PACT: a learned clipping level for activations."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from .base import ActivationQuantizer, ClippingLevel, check_alpha_init, unsigned_range


class PactActivation(ActivationQuantizer):
    """PACT activations: codes from 0 up to a learned clipping level alpha, or on both sides of 0.

    Args:
        nonnegative: whether an activation function made the tensor; elsewhere codes are signed and clipped at -alpha and alpha.
        alpha_init: first clipping level: a number (the paper 10, F8Net 8), ``"max"`` for the largest magnitude in the calibration
            batches, or ``"mse"`` for the level of least squared error on them. A number suits training from scratch; a trained network
            has ranges of its own, and at few bits a level far above them leaves most codes unused.
        gradient: of alpha; ``"pact"`` as in the paper, from clipped values alone, or ``"ste"``: from rounding errors, too.
    """

    method = "pact"

    def __init__(
        self, bit_width: int, nonnegative: bool, *, alpha_init: float | str = "mse", gradient: str = "pact"
    ) -> None:
        check_alpha_init("PactActivation", alpha_init)
        if gradient not in ("pact", "ste"):
            raise ValueError(f"PactActivation: gradient must be 'pact' or 'ste', got {gradient!r}")
        levels = unsigned_range(bit_width if nonnegative else bit_width - 1)[1]
        super().__init__(bit_width, 0 if nonnegative else -levels, levels)
        self.alpha_init = alpha_init
        self.gradient = gradient
        self.alpha = ClippingLevel()
        self.register_buffer("offset", torch.zeros(()), persistent=False)
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)

    @property
    def signed(self) -> bool:
        return self.quant_min < 0

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return torch.ops.qstep.pact_scale(self.alpha(), bit_width=self.bit_width, signed=self.signed)

    def initialize(self, samples: Tensor) -> None:
        if isinstance(self.alpha_init, str):
            scale, _ = torch.ops.qstep.lsq_activation_init(
                samples,
                quant_min=self.quant_min,
                quant_max=self.quant_max,
                learn_offset=False,
                method="mse" if self.alpha_init == "mse" else "min_max",
            )
            self.alpha.set(scale * self.quant_max)
        else:
            self.alpha.set(torch.tensor(float(self.alpha_init)))
        self._set_ready()

    def quantize(self, x: Tensor) -> Tensor:
        return F.pact(x, self.alpha(), bit_width=self.bit_width, signed=self.signed, gradient=self.gradient)
