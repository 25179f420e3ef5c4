"""INQ: weights that become powers of two, some at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _C
from .. import functional as F
from .base import QuantizedWeight, WeightQuantizer


class InqWeight(WeightQuantizer):
    """INQ weights: powers of two with one scale, ``2^n2``, per tensor; see :func:`qstep.functional.inq_quantize`.

    A frozen weight is the quantized value that :meth:`freeze` wrote into the parameter, and gets no gradient; the others train as real
    numbers. In ``eval()`` and as integers all of them are quantized. :class:`qstep.optim.InqSchedule` calls :meth:`freeze` and keeps
    optimizers from moving what is frozen.

    Args:
        bit_width: 2 to 5.
        shape: of the weight.
        n1_rule: what chooses the exponents, ``"max"`` (the paper's rule) or ``"mse"``; see :func:`qstep.functional.inq_range`.
        recompute_n1: choose the exponents anew at every :meth:`freeze`, from the weights as they are then; else those of the calibration
            stay.
        variable_length: store one bit for a zero and ``bit_width`` bits for any other weight in the checkpoint, instead of ``bit_width``
            bits for each.
    """

    method = "inq"
    foldable = False  # what is frozen is the parameter
    frozen: Tensor  #: bool, of the shape of the weight
    n1: Tensor  #: exponent of the largest power of two, int32, shape []
    scale: Tensor  #: 2^n2, shape []

    def __init__(
        self,
        bit_width: int,
        shape: torch.Size,
        *,
        n1_rule: str = "max",
        recompute_n1: bool = False,
        variable_length: bool = False,
    ) -> None:
        if not 2 <= bit_width <= 5:
            raise ValueError(
                f"InqWeight: bit_width must be in [2, 5], got {bit_width!r}: first_layer_bits=None and last_layer_bits=None of the QConfig"
                " leave first and last layer the width of the others"
            )
        self.magnitudes = 1 << (bit_width - 2)
        largest = 1 << (self.magnitudes - 1)
        super().__init__(bit_width, -largest, largest)
        if n1_rule not in ("max", "mse"):
            raise ValueError(f"InqWeight: n1_rule must be 'max' or 'mse', got {n1_rule!r}")
        self.n1_rule = n1_rule
        self.recompute_n1 = recompute_n1
        self.variable_length = variable_length
        self.register_buffer("frozen", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("n1", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("scale", torch.tensor(1.0), persistent=False)
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)
        self.all_frozen = False  # a host copy of frozen.all(): no wait for a GPU in forward

    def _read_buffers(self) -> None:
        self.all_frozen = bool(self.frozen.all())
        self.scale.fill_(2.0 ** (int(self.n1) + 1 - self.magnitudes))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read_buffers()

    def _choose_exponents(self, weight: Tensor) -> None:
        self.n1.fill_(F.inq_range(weight.detach(), self.bit_width, self.n1_rule)[0])

    def initialize(self, weight: Tensor) -> None:
        self.require_finite("weights", weight)
        if not self.frozen.any():  # else frozen weights are on the set that there is
            self._choose_exponents(weight)
        self._read_buffers()
        self._set_ready()

    def quantize(self, weight: Tensor) -> Tensor:
        """All of ``weight`` on the powers of two."""
        return F.inq_quantize(weight, bit_width=self.bit_width, n1=self.n1)

    @torch.no_grad()
    def freeze(
        self,
        weight: Tensor,
        fraction: float,
        strategy: str = "magnitude",
        generator: torch.Generator | None = None,
    ) -> None:
        """Freezes ``fraction`` of the weights altogether, and writes their quantized values into ``weight``, the layer's parameter.

        Where ``recompute_n1`` changes the exponents, weights frozen earlier move to the new set.
        """
        self.require_ready()
        frozen = F.inq_partition(weight, self.frozen, fraction, strategy, generator)  # raises before anything changes
        if self.recompute_n1:
            self._choose_exponents(weight)
        weight.copy_(torch.where(frozen, self.quantize(weight), weight))
        self.frozen.copy_(frozen)
        self._read_buffers()

    def forward(self, weight: Tensor) -> QuantizedWeight:
        self.require_ready()
        if self.training:
            values = torch.where(self.frozen, weight.detach(), weight)
            return QuantizedWeight(values, self.scale, self.zero_point, on_grid=self.all_frozen)
        return QuantizedWeight(self.quantize(weight), self.scale, self.zero_point)

    def lowered(self, weight: QuantizedWeight) -> _C.PowerOfTwoWeight:
        return _C.PowerOfTwoWeight(
            self.quantize(weight.values).float().cpu().contiguous().numpy(),
            bit_width=self.bit_width,
            max_exponent=int(self.n1),
            variable_length=self.variable_length,
        )
