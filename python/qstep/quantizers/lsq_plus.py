"""LSQ and LSQ+: learned scale, learned offset."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import functional as F
from .base import ActivationQuantizer, LearnedScale, QuantizedWeight, WeightQuantizer, signed_range, unsigned_range

_ops = torch.ops.qstep


class LsqPlusWeight(WeightQuantizer):
    """LSQ and LSQ+ weights: symmetric, signed, learned scale.

    Args:
        per_channel: one scale per output channel instead of one.
        rule: first scale; ``"lsq_plus"`` max(|mean - 3 sd|, |mean + 3 sd|) / 2^(b-1), ``"lsq"`` 2 mean|w| / sqrt(quant_max).
        grad_scale: multiplies the scale's gradient; ``None`` for LSQ's 1 / sqrt(elements per scale * quant_max).
        boundary: ``"strict"`` or ``"inclusive"``, see :func:`qstep.functional.lsq_plus`.
    """

    method = "lsq_plus"

    def __init__(
        self,
        bit_width: int,
        shape: torch.Size,
        *,
        per_channel: bool = False,
        rule: str = "lsq_plus",
        grad_scale: float | None = None,
        boundary: str = "strict",
    ) -> None:
        super().__init__(bit_width, *signed_range(bit_width))
        self.axis = 0 if per_channel else None
        self.rule = rule
        self.boundary = boundary
        channels = shape[0] if per_channel else 1
        self.grad_scale = (
            grad_scale if grad_scale is not None else 1 / math.sqrt(max(1, shape.numel() // channels) * self.quant_max)
        )
        self.scale = LearnedScale((channels,) if per_channel else ())
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)

    def initialize(self, weight: Tensor) -> None:
        self.require_finite("weights", weight)
        scale = _ops.lsq_weight_scale(
            weight.detach(), quant_min=self.quant_min, quant_max=self.quant_max, axis=self.axis, rule=self.rule
        )
        self.scale.set(scale)
        self._set_ready()

    def forward(self, weight: Tensor) -> QuantizedWeight:
        self.require_ready()
        scale = self.scale()
        values = F.lsq_plus(
            weight,
            scale,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            axis=self.axis,
            grad_scale=self.grad_scale,
            boundary=self.boundary,
        )
        return QuantizedWeight(values, scale, self.zero_point)


class LsqPlusActivation(ActivationQuantizer):
    """LSQ and LSQ+ activations.

    Args:
        nonnegative: whether an activation function made the tensor; configuration 1 turns into 2 elsewhere.
        configuration: 1 unsigned, 2 signed, 3 signed with offset, 4 unsigned with offset (LSQ+, table 1).
        init: ``"mse"`` (least squared error on the calibration batches) or ``"min_max"``.
        gradient_elements: LSQ's N: ``"batch"`` all elements of the tensor, ``"sample"`` those of one sample.
        grad_scale, boundary: as in :class:`LsqPlusWeight`.
    """

    method = "lsq_plus"

    def __init__(
        self,
        bit_width: int,
        nonnegative: bool,
        *,
        configuration: int = 4,
        init: str = "mse",
        gradient_elements: str = "batch",
        grad_scale: float | None = None,
        boundary: str = "strict",
    ) -> None:
        if configuration not in (1, 2, 3, 4):
            raise ValueError(f"LsqPlusActivation: configuration must be 1, 2, 3 or 4, got {configuration!r}")
        if init not in ("mse", "min_max"):
            raise ValueError(f"LsqPlusActivation: init must be 'mse' or 'min_max', got {init!r}")
        if gradient_elements not in ("batch", "sample"):
            raise ValueError(
                f"LsqPlusActivation: gradient_elements must be 'batch' or 'sample', got {gradient_elements!r}"
            )
        if configuration == 1 and not nonnegative:
            configuration = 2
        signed = configuration in (2, 3)
        super().__init__(bit_width, *(signed_range if signed else unsigned_range)(bit_width))
        self.configuration = configuration
        self.init = init
        self.gradient_elements = gradient_elements
        self.grad_scale = grad_scale
        self.boundary = boundary
        self.has_residual = configuration in (3, 4)
        self._scale = LearnedScale(())
        if self.has_residual:
            self.offset = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("offset", torch.zeros(()), persistent=False)
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return self._scale()

    def initialize(self, samples: Tensor) -> None:
        scale, offset = _ops.lsq_activation_init(
            samples,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            learn_offset=self.has_residual,
            method=self.init,
        )
        self._scale.set(scale)
        if self.has_residual:
            with torch.no_grad():
                self.offset.copy_(offset)
        self._set_ready()

    def quantize(self, x: Tensor) -> Tensor:
        grad_scale = self.grad_scale
        if grad_scale is None:
            elements = x.numel() if self.gradient_elements == "batch" else x.numel() // max(1, x.shape[0])
            grad_scale = 1 / math.sqrt(max(1, elements) * self.quant_max)
        return F.lsq_plus(
            x,
            self.scale,
            self.offset if self.has_residual else None,
            quant_min=self.quant_min,
            quant_max=self.quant_max,
            grad_scale=grad_scale,
            boundary=self.boundary,
        )
