"""What the quantizers of all methods share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import _C

_ops = torch.ops.qstep

#: Values kept of each tensor for the initialisation of its scale.
CALIBRATION_SAMPLES = 65536


class QuantizedWeight(NamedTuple):
    """Weights on their grid: ``values = scale * (code - zero_point)``.

    ``on_grid`` is false where that does not hold: while a method still trains some of the weights as real numbers, or where levels are
    not evenly spaced. Layers then convolve the values themselves instead of codes, and ``scale`` has no part in it. ``source`` are the
    weights that were quantized, where a method needs them to lower what it made of them.
    """

    values: Tensor
    scale: Tensor
    zero_point: Tensor
    on_grid: bool = True
    source: Tensor | None = None


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

    def require_finite(self, what: str, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise ValueError(f"{self.path}: {what} must be finite, got NaN or infinity")

    def _set_ready(self) -> None:
        self.initialized.fill_(True)
        self._ready = True

    def extra_repr(self) -> str:
        return f"{self.method}, bits={self.bit_width}, codes=[{self.quant_min}, {self.quant_max}]"


class WeightQuantizer(Quantizer):
    """``forward(weight)`` gives a :class:`QuantizedWeight`. Output channels are dimension 0."""

    zero_point: Tensor
    foldable = True  #: whether batch norm may be multiplied into the weights before they are quantized

    def initialize(self, weight: Tensor) -> None:
        """Sets the first scales from the weights."""
        raise NotImplementedError

    @property
    def stored_bits(self) -> int:
        """Bits of one weight in the checkpoint (with a variable length: at most)."""
        return self.bit_width

    def lowered(self, weight: QuantizedWeight) -> _C.RealWeight:
        """The weights as ``_C.Builder.conv2d`` and ``linear`` take them: a uniform grid, unless a method says otherwise."""
        return _C.UniformWeight(
            weight.values.float().cpu().contiguous().numpy(),
            weight.scale.float().cpu().reshape(-1).numpy(),
            zero_point=int(weight.zero_point.reshape(-1)[0]),
            quant_min=self.quant_min,
            quant_max=self.quant_max,
        )


class ActivationQuantizer(Quantizer):
    """``forward(x)`` gives ``x`` on the grid; one grid per tensor."""

    scale: Tensor  #: positive, shape []
    zero_point: Tensor  #: integer-valued, shape []
    offset: Tensor  #: real-valued, shape []
    has_grid = True  #: whether the integer network has the tensor: not where it stays in floating point
    has_residual = False  #: whether real zero may lie off the grid (a learned real offset)
    eta: Tensor | None = (
        None  #: real value of what the tensor holds as 1.0, where the network exchanges x / eta (F8Net); else 1
    )

    def __init__(self, bit_width: int, quant_min: int, quant_max: int) -> None:
        super().__init__(bit_width, quant_min, quant_max)
        self.active = True  #: whether the last forward pass quantized (IAO may start late)
        self._samples: list[Tensor] | None = None

    @property
    def calibrating(self) -> bool:
        return self._samples is not None

    def forward(self, x: Tensor) -> Tensor:
        if self.calibrating:
            self.observe(x)
            return x
        self.require_ready()
        return self.quantize(x)

    def quantize(self, x: Tensor) -> Tensor:
        """``x`` on the grid, differentiable."""
        raise NotImplementedError

    def start_calibration(self) -> None:
        self._samples = []

    def observe(self, x: Tensor) -> None:
        """Keeps an evenly spaced part of ``x``, and its extremes."""
        assert self._samples is not None
        flat = x.detach().flatten().float()
        self.require_finite("calibration data", flat)
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

    # --- for networks that exchange x / eta ---

    @property
    def depends_on(self) -> tuple[ActivationQuantizer, ...]:
        """Other quantizers whose parameters ``eta`` depends on."""
        return ()

    def advance(self) -> None:
        """Called in training before a layer computes what this quantizer will quantize: formats change here, and only here."""

    def join(self, other: ActivationQuantizer) -> None:
        """An addition connects the two tensors. Raises NotImplementedError where the method does not define that."""

    def follow(self, source: ActivationQuantizer, compensation: float) -> None:
        """The tensor is made of another's values alone, which stand for ``compensation`` times as much in it."""

    def hold_real_values(self, *, entering: bool) -> None:
        """The tensor enters or leaves the network. Raises NotImplementedError where its ``eta`` cannot be 1."""

    def ratio_to(self, other: ActivationQuantizer) -> Tensor | None:
        """``eta / other.eta`` of tensors that were joined; ``None`` for 1."""
        return None

    def encode(self, x: Tensor) -> Tensor:
        """uint8 codes of ``x``, counted from ``quant_min``."""
        return _ops.encode(x.float(), self.scale, self.zero_point, self.offset, self.quant_min, self.quant_max)

    def decode(self, codes: Tensor) -> Tensor:
        return _ops.decode(codes, self.scale, self.zero_point, self.offset, self.quant_min)


def signed_range(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def unsigned_range(bits: int) -> tuple[int, int]:
    return 0, (1 << bits) - 1


class LearnedScale(nn.Module):
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


def check_alpha_init(owner: str, alpha_init: float | str) -> None:
    """Raises ValueError unless it is a rule for a first clipping level, or such a level."""
    if isinstance(alpha_init, str):
        if alpha_init not in ("mse", "max"):
            raise ValueError(f"{owner}: alpha_init must be a number, 'mse' or 'max', got {alpha_init!r}")
    elif not (alpha_init > 0 and math.isfinite(alpha_init)):
        raise ValueError(f"{owner}: alpha_init must be above 0 and finite, got {alpha_init!r}")


class ClippingLevel(LearnedScale):
    """The learned level that an activation is clipped at, shape []: what PACT regularises (:func:`qstep.parameter_groups`)."""

    def __init__(self) -> None:
        super().__init__(())
