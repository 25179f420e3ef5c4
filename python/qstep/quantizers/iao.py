"""IAO: ranges instead of learned scales."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from .base import ActivationQuantizer, QuantizedWeight, WeightQuantizer, unsigned_range


class IaoWeight(WeightQuantizer):
    """IAO weights: the grid follows the weights' own range at every step, so there is nothing to learn.

    Args:
        per_channel: symmetric codes with one scale per output channel; else the paper's one asymmetric range per tensor. Either way the
            most negative code is never used.
    """

    method = "iao"

    def __init__(self, bit_width: int, shape: torch.Size, *, per_channel: bool = False) -> None:
        limit = (1 << (bit_width - 1)) - 1
        super().__init__(bit_width, -limit, limit)
        self.axis = 0 if per_channel else None
        self._set_ready()

    def initialize(self, weight: Tensor) -> None:
        self.require_finite("weights", weight)

    def forward(self, weight: Tensor) -> QuantizedWeight:
        rows = weight.detach().flatten(1) if self.axis == 0 else weight.detach().reshape(1, -1)
        low, high = rows.aminmax(dim=1)
        scale, zero_point = F.affine_params(
            low, high, quant_min=self.quant_min, quant_max=self.quant_max, symmetric=self.axis == 0
        )
        values = F.fake_quantize_affine(
            weight, scale, zero_point, quant_min=self.quant_min, quant_max=self.quant_max, axis=self.axis
        )
        return QuantizedWeight(values, scale, zero_point)


class IaoActivation(ActivationQuantizer):
    """IAO activations: unsigned codes over a moving average of the batches' ranges.

    Args:
        smoothing: weight of the past in the moving average.
        delay: training steps before the quantizer starts to quantize (it observes from the first).
    """

    method = "iao"
    min: Tensor
    max: Tensor
    step: Tensor
    frozen: Tensor

    def __init__(self, bit_width: int, nonnegative: bool, *, smoothing: float = 0.99, delay: int = 0) -> None:
        if not 0 <= smoothing < 1:
            raise ValueError(f"IaoActivation: smoothing must be in [0, 1), got {smoothing!r}")
        if delay < 0:
            raise ValueError(f"IaoActivation: delay must not be negative, got {delay!r}")
        super().__init__(bit_width, *unsigned_range(bit_width))
        self.smoothing = smoothing
        self.delay = delay
        self.register_buffer("min", torch.zeros(()))
        self.register_buffer("max", torch.zeros(()))
        self.register_buffer("step", torch.tensor(0))
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("offset", torch.zeros(()), persistent=False)
        self._steps = 0  # host copies of the two buffers: no wait for a GPU in forward
        self._frozen = False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._steps = int(self.step)
        self._frozen = bool(self.frozen)

    def freeze(self, frozen: bool = True) -> None:
        """Stops the moving average (and starts quantizing, whatever the delay)."""
        self.frozen.fill_(frozen)
        self._frozen = frozen

    def _params(self) -> tuple[Tensor, Tensor]:
        return F.affine_params(self.min, self.max, quant_min=self.quant_min, quant_max=self.quant_max)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return self._params()[0]

    @property
    def zero_point(self) -> Tensor:  # type: ignore[override]
        return self._params()[1]

    def initialize(self, samples: Tensor) -> None:
        self.min.copy_(samples.min())
        self.max.copy_(samples.max())
        self._set_ready()

    @torch.no_grad()
    def _update(self, x: Tensor) -> None:
        in_memory_order = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))  # else channels_last is copied
        low, high = in_memory_order.aminmax()
        self.min.lerp_(low.to(self.min.dtype), 1 - self.smoothing)
        self.max.lerp_(high.to(self.max.dtype), 1 - self.smoothing)
        self.step += 1
        self._steps += 1

    def quantize(self, x: Tensor) -> Tensor:
        self.active = not self.training or self._frozen or self._steps >= self.delay
        if self.training and not self._frozen and x.numel() > 0:
            self._update(x)
        if not self.active:
            return x
        scale, zero_point = self._params()
        return F.fake_quantize_affine(x, scale, zero_point, quant_min=self.quant_min, quant_max=self.quant_max)
