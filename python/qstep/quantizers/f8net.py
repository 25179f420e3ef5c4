"""F8Net: 8-bit fixed-point formats, clipping levels learned through effective weights.

What a tensor holds is ``x / eta``: its grid is a pure fixed-point format ``2^-FL``, and ``eta`` goes into the weights of the layers on both
sides (``qstep.nn.AffineLayer``). ``csrc/qstep/methods/f8net/README.md`` has the equations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from .base import ActivationQuantizer, ClippingLevel, QuantizedWeight, WeightQuantizer, check_alpha_init, unsigned_range

_ops = torch.ops.qstep


def _check_format(owner: str, format: str, bit_width: int) -> None:
    if format not in ("std", "grid"):
        raise ValueError(f"{owner}: format must be 'std' or 'grid', got {format!r}")
    if format == "std" and bit_width != 8:
        raise ValueError(f"{owner}: format='std' is defined for 8 bits only, got {bit_width}: use format='grid'")


def _check_mask(owner: str, mask: str) -> None:
    if mask not in ("pact", "reference"):
        raise ValueError(f"{owner}: mask must be 'pact' or 'reference', got {mask!r}")


def _signed_limit(bit_width: int) -> int:
    return (1 << (bit_width - 1)) - 1  # the most negative code is never used


class F8NetWeight(WeightQuantizer):
    """F8Net weights: signed fixed point, one format per tensor, chosen anew from the effective weights in every forward pass.

    Args:
        format: ``"std"``, the rule of the standard deviation (8 bits only), or ``"grid"``, the least squared error.
        mask: where the gradient passes, see :func:`qstep.functional.fixed_point`.
    """

    method = "f8net"

    def __init__(self, bit_width: int, shape: torch.Size, *, format: str = "std", mask: str = "pact") -> None:
        _check_format("F8NetWeight", format, bit_width)
        _check_mask("F8NetWeight", mask)
        limit = _signed_limit(bit_width)
        super().__init__(bit_width, -limit, limit)
        self.format = format
        self.mask = mask
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)
        self._set_ready()

    def initialize(self, weight: Tensor) -> None:
        self.require_finite("weights", weight)
        if self.format == "grid" or weight.numel() == 0:
            return
        values = weight.detach().double()
        low, high = (v.item() for v in values.aminmax())
        if low == high != 0 and values.numel() > 1:
            raise ValueError(
                f"{self.path}: the rule format='std' needs weights of more than one value: use format='grid'"
            )
        mean, largest = values.mean().item(), self.quant_max * 2.0 ** -int(self._format_of(weight.detach()))
        if abs(mean) > largest:
            raise ValueError(
                f"{self.path}: the rule format='std' is for weights around zero, but their mean is {mean:g} where the format that it"
                f" gives ends at {largest:g}: use format='grid'"
            )

    def _format_of(self, weight: Tensor) -> Tensor:
        return F.f8net_format(weight, word_length=self.bit_width, signed=True, rule=self.format)

    def forward(self, weight: Tensor) -> QuantizedWeight:
        length = self._format_of(weight)
        values = F.fixed_point(weight, fraction_length=length, word_length=self.bit_width, signed=True, mask=self.mask)
        return QuantizedWeight(values, _ops.power_of_two(-length), self.zero_point)


LARGEST_RANGE_EXPONENT = 16  # of a dead tensor's level to that of a live one


class F8NetActivation(ActivationQuantizer):
    """F8Net activations: PACT in fixed point, unsigned behind a ReLU, signed ("double-side") elsewhere.

    The clipping level ``alpha`` has no gradient of its own here: it is learned through ``eta = 2^FL * alpha / levels`` in the weights
    of the layer before and the layers behind. Tensors that additions connect form a chain with one ``alpha``; each keeps a fraction
    length of its own, so that all their ``eta`` differ by exact powers of two. In a chain with unsigned members a signed tensor counts in
    steps of ``2 alpha / levels``, with the levels of the unsigned ones. With ``private_range`` a tensor clips at ``2^range_exponent alpha``
    and counts in steps as much finer or coarser.

    Args:
        nonnegative: whether an activation function made the tensor: unsigned codes.
        alpha_init: first clipping level: ``"mse"`` (least squared error on the calibration batches), ``"max"``, or a number (the
            official code starts at 8). In a chain the largest of its members', or with ``private_range`` that of the first.
        clipping: learn a clipping level; else ``eta`` is 1 ("no clipping", for short fine-tuning).
        format: ``"std"``, the rule of the standard deviation (8 bits only), or ``"grid"``, the least squared error.
        rectified: a ReLU made the tensor, so its standard deviation is put back to that of the Gaussian that the rule is for.
        momentum: weight of the batch in the moving average of fraction lengths. What it rounds to is in force from the next step on.
        mask: where the gradient passes, see :func:`qstep.functional.fixed_point`.
        private_range: tensors of a chain clip at levels that are powers of two apart, each at the least that holds its own first level.
            Beyond the paper, whose chains have one level and so one step; skips are shifted all the same.
        reference_fl: quantize with the format of the batch in training, while ``eta`` follows the moving average, as the official code.
        reference_residual: additions ignore that their operands' ``eta`` differ, as the official code.
    """

    method = "f8net"
    alpha: ClippingLevel | None
    fraction_length: Tensor
    range_exponent: Tensor
    average: Tensor
    frozen: Tensor

    def __init__(
        self,
        bit_width: int,
        nonnegative: bool,
        *,
        alpha_init: str | float = "mse",
        clipping: bool = True,
        format: str = "std",
        rectified: bool = True,
        momentum: float = 0.1,
        mask: str = "pact",
        private_range: bool = False,
        reference_fl: bool = False,
        reference_residual: bool = False,
    ) -> None:
        _check_format("F8NetActivation", format, bit_width)
        _check_mask("F8NetActivation", mask)
        check_alpha_init("F8NetActivation", alpha_init)
        if not 0 < momentum <= 1:
            raise ValueError(f"F8NetActivation: momentum must be in (0, 1], got {momentum!r}")
        limit = _signed_limit(bit_width)
        super().__init__(bit_width, *(unsigned_range(bit_width) if nonnegative else (-limit, limit)))
        self.alpha_init = alpha_init
        self.format = format
        self.rectified = rectified and nonnegative
        self.momentum = momentum
        self.mask = mask
        self.private_range = private_range
        self.reference_fl = reference_fl
        self.reference_residual = reference_residual
        self.alpha = ClippingLevel() if clipping else None
        self.register_buffer("fraction_length", torch.tensor(6, dtype=torch.int32))
        self.register_buffer("range_exponent", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("average", torch.tensor(6.0))
        self.register_buffer("frozen", torch.tensor(False))
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)
        self.register_buffer("offset", torch.zeros(()), persistent=False)
        self._frozen = False  # host copy of the buffer: no wait for a GPU in forward
        self._batch_length: Tensor | None = None  # what the last training step quantized with, for reference_fl
        # Others are referred to, not registered, so that each parameter stands once in the state_dict.
        self._leader: tuple[F8NetActivation, ...] = ()  # member of the chain that holds alpha, where it is another
        self._source: tuple[F8NetActivation, ...] = ()  # whose eta this one follows
        self._compensation = 1.0
        self._chain_unsigned = nonnegative  # of a leader: whether the chain has an unsigned member
        self._alpha_known = False  # of a leader, while calibrating: whether a member has set alpha

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._frozen = bool(self.frozen)

    # --- eta, and who shares it ---

    @property
    def signed(self) -> bool:
        return self.quant_min < 0

    @property
    def leader(self) -> F8NetActivation:
        """The member of the chain that holds ``alpha``."""
        if self._source and self._compensation == 1:
            return self._source[0].leader
        return self._leader[0].leader if self._leader else self

    @property
    def depends_on(self) -> tuple[ActivationQuantizer, ...]:
        return (*self._leader, *self._source, *(d for q in (*self._leader, *self._source) for d in q.depends_on))

    @property
    def levels(self) -> int:
        """Codes from 0 to ``alpha`` in the chain."""
        return unsigned_range(self.bit_width)[1] if self.leader._chain_unsigned else _signed_limit(self.bit_width)

    @property
    def exponent(self) -> Tensor:
        """``eta = alpha / levels * 2^exponent``."""
        if self._source:
            return self._source[0].exponent
        if self.leader.alpha is None:
            return torch.zeros_like(self.fraction_length)
        return self.fraction_length + self.range_exponent + (1 if self.signed and self.leader._chain_unsigned else 0)

    @property
    def eta(self) -> Tensor:  # type: ignore[override]
        """Real value of what the tensor holds as 1.0; shape []."""
        if self._source:
            return self._source[0].eta * self._compensation
        alpha = self.leader.alpha
        if alpha is None:
            return torch.ones_like(self.average)
        return _ops.f8net_eta(alpha(), self.exponent, levels=self.levels)

    def ratio_to(self, other: ActivationQuantizer) -> Tensor | None:
        assert isinstance(other, F8NetActivation)
        return None if other.reference_residual else _ops.power_of_two(self.exponent - other.exponent)

    def join(self, other: ActivationQuantizer) -> None:
        assert isinstance(other, F8NetActivation)
        if any(q._source and q._compensation != 1 for q in (self, other)):
            raise NotImplementedError("F8Net cannot add the mean over a window whose size is not a power of two")
        mine, its = self.leader, other.leader
        if mine is its:
            return
        if self.bit_width != other.bit_width:
            raise NotImplementedError(
                f"F8Net adds tensors of one word length only, got {self.bit_width} and {other.bit_width} bits"
            )
        first, second = (its, mine) if mine is self else (mine, its)
        if second.alpha is None:
            first.alpha = None
        second.alpha = None
        second._leader = (first,)
        first._chain_unsigned = first._chain_unsigned or second._chain_unsigned

    def follow(self, source: ActivationQuantizer, compensation: float) -> None:
        assert isinstance(source, F8NetActivation)
        self._source, self._compensation, self.alpha = (source,), compensation, None

    def hold_real_values(self, *, entering: bool) -> None:
        if self._source and self._compensation != 1:
            raise NotImplementedError(
                "F8Net: a mean over a window whose size is not a power of two cannot be an output"
            )
        self.leader.alpha = None
        if entering:  # not a rectified tensor, and the same at every step: one search instead of the rule
            self.format = "grid"
            self.momentum = 0.0

    # --- format ---

    @property
    def largest_fraction_length(self) -> int:
        return self.bit_width - 1 if self.signed else self.bit_width

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        of_batch = self.training and self.reference_fl and self._batch_length is not None
        return _ops.power_of_two(-(self._batch_length if of_batch else self.fraction_length))  # type: ignore[operator]

    def freeze(self, frozen: bool = True) -> None:
        """Stops the moving average of fraction lengths."""
        self.frozen.fill_(frozen)
        self._frozen = frozen
        self._batch_length = None

    def _format_of(self, x: Tensor) -> Tensor:
        return F.f8net_format(
            x, word_length=self.bit_width, signed=self.signed, rule=self.format, rectified=self.rectified
        )

    @property
    def _format_moves(self) -> bool:
        return self.training and not self._frozen and self.momentum > 0

    @torch.no_grad()
    def advance(self) -> None:
        if self._format_moves and not self.calibrating:
            self.fraction_length.copy_(self.average.round().clamp(0, self.largest_fraction_length))

    # --- calibration ---

    def start_calibration(self) -> None:
        super().start_calibration()
        self.leader._alpha_known = False

    def finish_calibration(self) -> None:
        for source in self._source:
            if source.calibrating:
                source.finish_calibration()
        super().finish_calibration()

    def _first_alpha(self, samples: Tensor) -> Tensor:
        if self.alpha_init == "max":
            return samples.abs().max()
        if self.alpha_init == "mse":
            limits = {"quant_min": self.quant_min, "quant_max": self.quant_max}
            scale, _ = _ops.lsq_activation_init(samples, **limits, learn_offset=False, method="mse")
            return scale * self.quant_max
        return torch.tensor(float(self.alpha_init))

    @torch.no_grad()
    def initialize(self, samples: Tensor) -> None:
        leader = self.leader
        if leader.alpha is not None and not self._source:
            alpha = self._first_alpha(samples).to(self.average.device)
            alpha = torch.where(alpha > 0, alpha, 1.0)
            if not leader._alpha_known:
                leader.alpha.set(alpha)
            elif not self.private_range:
                leader.alpha.set(torch.maximum(alpha, leader.alpha()))
            leader._alpha_known = True
            if self.private_range:
                rounding = 1e-3  # of the division: the leader's own exponent is 0
                exponent = ((alpha / leader.alpha()).log2() - rounding).ceil()
                self.range_exponent.copy_(exponent.clamp(-LARGEST_RANGE_EXPONENT, LARGEST_RANGE_EXPONENT))
        # The first format is that of the real values: with a clipping level of a few deviations, eta starts near 1.
        self.average.copy_(self._format_of(samples / self.eta.cpu() if self._source else samples))
        self.fraction_length.copy_(self.average)
        self._set_ready()

    # --- forward ---

    def quantize(self, x: Tensor) -> Tensor:
        length = self.fraction_length
        if self._format_moves and x.numel() > 0:
            with torch.no_grad():
                of_batch = self._format_of(x)
                self.average.lerp_(of_batch.float(), self.momentum)
            if self.reference_fl:
                self._batch_length = length = of_batch
        return F.fixed_point(x, fraction_length=length, word_length=self.bit_width, signed=self.signed, mask=self.mask)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {'signed' if self.signed else 'unsigned'}, format={self.format}"
