"""Quantizers as modules: parameters, initialisation and the current grid of each method.

A thin shell: forward passes, gradients and initialisations are ``torch.ops.qstep`` operators. Each method has one class for weights and
one for activations; :data:`WEIGHT_METHODS` and :data:`ACTIVATION_METHODS` list them by the name that :class:`qstep.QConfig` uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import _C
from . import functional as F

_ops = torch.ops.qstep

#: Values kept of each tensor for the initialisation of its scale.
CALIBRATION_SAMPLES = 65536


class QuantizedWeight(NamedTuple):
    """Weights on their grid: ``values = scale * (code - zero_point)``."""

    values: Tensor
    scale: Tensor
    zero_point: Tensor


class Quantizer(nn.Module):
    """What weight and activation quantizers share: the code range and the state of initialisation."""

    method: str
    path = "quantizer"  #: place in the model, for messages; set by qstep.prepare
    initialized: Tensor

    def __init__(self, bit_width: int, quant_min: int, quant_max: int) -> None:
        super().__init__()
        self.bit_width = bit_width
        self.quant_min = quant_min
        self.quant_max = quant_max
        self.register_buffer("initialized", torch.tensor(False))
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether scales hold values: after :func:`qstep.calibrate`, or loaded from a ``state_dict``."""
        if not self._ready:  # the buffer may live on a GPU: ask it no oftener than needed
            self._ready = bool(self.initialized)
        return self._ready

    def require_ready(self) -> None:
        if not self.ready:
            raise RuntimeError(
                f"{self.path}: missing calibration: run qstep.calibrate(model, loader) or load a state_dict before the first forward pass"
            )

    def _set_ready(self) -> None:
        self.initialized.fill_(True)
        self._ready = True

    def extra_repr(self) -> str:
        return f"{self.method}, bits={self.bit_width}, codes=[{self.quant_min}, {self.quant_max}]"


class WeightQuantizer(Quantizer):
    """``forward(weight)`` gives a :class:`QuantizedWeight`. Output channels are dimension 0."""

    zero_point: Tensor

    def initialize(self, weight: Tensor) -> None:
        """Sets the first scales from the weights."""
        raise NotImplementedError


class ActivationQuantizer(Quantizer):
    """``forward(x)`` gives ``x`` on the grid; one grid per tensor."""

    scale: Tensor  #: positive, shape []
    zero_point: Tensor  #: integer-valued, shape []
    offset: Tensor  #: real-valued, shape []
    has_residual = False  #: whether real zero may lie off the grid (a learned real offset)

    def __init__(self, bit_width: int, quant_min: int, quant_max: int) -> None:
        super().__init__(bit_width, quant_min, quant_max)
        self.active = True  #: whether the last forward pass quantized (IAO may start late)
        self._samples: list[Tensor] | None = None

    @property
    def calibrating(self) -> bool:
        return self._samples is not None

    def start_calibration(self) -> None:
        self._samples = []

    def observe(self, x: Tensor) -> None:
        """Keeps an evenly spaced part of ``x``, and its extremes."""
        assert self._samples is not None
        flat = x.detach().flatten().float()
        if not torch.isfinite(flat).all():
            raise ValueError(f"{self.path}: calibration data must be finite, got NaN or infinity")
        stride = max(1, flat.numel() * 8 // CALIBRATION_SAMPLES)
        if flat.numel() > 0:
            self._samples.append(torch.cat([flat[::stride], torch.stack(flat.aminmax())]).cpu())

    def finish_calibration(self) -> None:
        samples, self._samples = self._samples, None
        if not samples:
            raise RuntimeError(f"{self.path}: missing calibration: no batch reached this quantizer")
        self.initialize(torch.cat(samples))

    def cancel_calibration(self) -> None:
        self._samples = None

    def initialize(self, samples: Tensor) -> None:
        """Sets the first grid from values of the tensor."""
        raise NotImplementedError

    @property
    def residual(self) -> Tensor | None:
        """What the code nearest to real zero stands for, or ``None`` where that is 0 by construction."""
        if not self.has_residual:
            return None
        return _ops.grid_residual(
            self.scale.detach(), self.zero_point, self.offset.detach(), self.quant_min, self.quant_max
        )

    def grid(self) -> _C.Grid:
        """The grid as the integer network knows it."""
        self.require_ready()
        return _C.Grid(
            scale=self.scale.item(),
            zero_point=int(self.zero_point.item()),
            offset=self.offset.item(),
            quant_min=self.quant_min,
            quant_max=self.quant_max,
        )

    def encode(self, x: Tensor) -> Tensor:
        """uint8 codes of ``x``, counted from ``quant_min``."""
        return _ops.encode(x.float(), self.scale, self.zero_point, self.offset, self.quant_min, self.quant_max)

    def decode(self, codes: Tensor) -> Tensor:
        return _ops.decode(codes, self.scale, self.zero_point, self.offset, self.quant_min)


def _signed_range(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def _unsigned_range(bits: int) -> tuple[int, int]:
    return 0, (1 << bits) - 1


class _LearnedScale(nn.Module):
    """A scale that cannot become 0 or negative: the raw parameter is stored, ``max(|raw|, eps)`` is used."""

    raw: Tensor
    eps: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.ones(shape))
        self.register_buffer("eps", torch.full(shape, 1e-8))

    def set(self, scale: Tensor) -> None:
        with torch.no_grad():
            self.raw.copy_(scale)
            self.eps.copy_((scale * 2.0**-24).clamp_min(torch.finfo(torch.float32).tiny))

    def forward(self) -> Tensor:
        return self.raw.abs().clamp_min(self.eps)


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
        super().__init__(bit_width, *_signed_range(bit_width))
        self.axis = 0 if per_channel else None
        self.rule = rule
        self.boundary = boundary
        channels = shape[0] if per_channel else 1
        self.grad_scale = (
            grad_scale if grad_scale is not None else 1 / math.sqrt(max(1, shape.numel() // channels) * self.quant_max)
        )
        self.scale = _LearnedScale((channels,) if per_channel else ())
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)

    def initialize(self, weight: Tensor) -> None:
        scale = _ops.lsq_weight_scale(
            weight.detach(), quant_min=self.quant_min, quant_max=self.quant_max, axis=self.axis, rule=self.rule
        )
        if not torch.isfinite(scale).all():
            raise ValueError(f"{self.path}: weights must be finite, got NaN or infinity")
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
        super().__init__(bit_width, *(_signed_range if signed else _unsigned_range)(bit_width))
        self.configuration = configuration
        self.init = init
        self.gradient_elements = gradient_elements
        self.grad_scale = grad_scale
        self.boundary = boundary
        self.has_residual = configuration in (3, 4)
        self._scale = _LearnedScale(())
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

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.observe(x)
            return x
        self.require_ready()
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
        if not torch.isfinite(weight).all():
            raise ValueError(f"{self.path}: weights must be finite, got NaN or infinity")

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
        super().__init__(bit_width, *_unsigned_range(bit_width))
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
        low, high = x.aminmax()
        self.min.lerp_(low.to(self.min.dtype), 1 - self.smoothing)
        self.max.lerp_(high.to(self.max.dtype), 1 - self.smoothing)
        self.step += 1
        self._steps += 1

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.observe(x)
            return x
        self.require_ready()
        self.active = not self.training or self._frozen or self._steps >= self.delay
        if self.training and not self._frozen and x.numel() > 0:
            self._update(x)
        if not self.active:
            return x
        scale, zero_point = self._params()
        return F.fake_quantize_affine(x, scale, zero_point, quant_min=self.quant_min, quant_max=self.quant_max)


WEIGHT_METHODS: dict[str, Callable[..., WeightQuantizer]] = {"lsq_plus": LsqPlusWeight, "iao": IaoWeight}
ACTIVATION_METHODS: dict[str, Callable[..., ActivationQuantizer]] = {
    "lsq_plus": LsqPlusActivation,
    "iao": IaoActivation,
}
