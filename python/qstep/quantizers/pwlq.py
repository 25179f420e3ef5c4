"""PWLQ: weights in pieces of differing steps, ranges of activations from their largest and smallest values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _C
from .. import functional as F
from .base import ActivationQuantizer, QuantizedWeight, WeightQuantizer, unsigned_range

_ops = torch.ops.qstep


class PwlqWeight(WeightQuantizer):
    """PWLQ weights: breakpoints and steps follow the weights, so there is nothing to learn and nothing to calibrate.

    Training passes gradients straight through, which is beyond the paper: it quantizes trained networks.

    Args:
        bit_width: of sign and magnitude inside a piece; the piece takes 1 (one breakpoint) or 2 bits more.
        per_channel: breakpoints, steps and correction of each output channel; else of the whole layer.
        breakpoints: 1 to 3.
        estimate: ``"gaussian"``, ``"laplace"``, ``"optimal_gaussian"``, ``"optimal_laplace"`` or ``"search"``.
        scheme: ``"paper"`` or ``"repo"``, see :func:`qstep.functional.pwlq`.
        bias_correction: ``"repo"``, ``"exact"`` or ``None``.
        representation: ``"piecewise"``, the paper's accumulators; or ``"code_book"``, all levels on one grid, which runs as an ordinary
            layer and costs a little accuracy.
    """

    method = "pwlq"

    def __init__(
        self,
        bit_width: int,
        shape: torch.Size,
        *,
        per_channel: bool = True,
        breakpoints: int = 1,
        estimate: str = "gaussian",
        scheme: str = "paper",
        bias_correction: str | None = "repo",
        representation: str = "piecewise",
    ) -> None:
        if representation not in ("piecewise", "code_book"):
            raise ValueError(f"PwlqWeight: representation must be 'piecewise' or 'code_book', got {representation!r}")
        # Magnitudes inside a piece; in a code book, any level.
        largest = torch.iinfo(torch.int16).max if representation == "code_book" else (1 << (bit_width - 1)) - 1
        super().__init__(bit_width, -largest, largest)
        self.representation = representation
        self.options: dict[str, Any] = {
            "bit_width": bit_width,
            "axis": 0 if per_channel else None,
            "breakpoints": breakpoints,
            "estimate": estimate,
            "scheme": scheme,
            "bias_correction": bias_correction or "none",
        }
        with torch.no_grad():  # a wrong option is better named here than in the first forward pass
            self._quantized(torch.ones((shape[0] if per_channel else 1, 1)))
        self.register_buffer("zero_point", torch.tensor(0), persistent=False)
        self._set_ready()

    def initialize(self, weight: Tensor) -> None:
        self.require_finite("weights", weight)

    def _quantized(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self.representation == "code_book":
            values, scale, _ = _ops.pwlq_code_book(weight, **self.options)
            return values, scale
        return _ops.pwlq(weight, **self.options), weight.new_ones(())

    def forward(self, weight: Tensor) -> QuantizedWeight:
        values, scale = self._quantized(weight)
        return QuantizedWeight(
            values, scale, self.zero_point, on_grid=self.representation == "code_book", source=weight
        )

    @property
    def stored_bits(self) -> int:
        return self.bit_width + (1 if self.options["breakpoints"] == 1 else 2)  # which piece

    def lowered(self, weight: QuantizedWeight) -> _C.RealWeight:
        assert weight.source is not None
        source = weight.source.detach().float().cpu()
        if self.representation == "code_book":
            values, scale, levels = _ops.pwlq_code_book(source, **self.options)
            return _C.CodeBookWeight(values.contiguous().numpy(), scale.reshape(-1).numpy(), levels.numpy())
        region, magnitude, negative, start, step, constant = _ops.pwlq_encode(source, **self.options)
        return _C.PiecewiseWeight(
            bit_width=self.bit_width,
            region=region.contiguous().numpy(),
            magnitude=magnitude.contiguous().numpy(),
            negative=negative.contiguous().numpy(),
            step=step.numpy(),
            start=start.numpy(),
            constant=constant.expand(source.shape[0]).contiguous().numpy(),
        )

    def extra_repr(self) -> str:
        options = self.options
        return (
            f"{self.method}, bits={self.bit_width}, {options['breakpoints']} breakpoints ({options['estimate']}), "
            f"{self.representation}, scheme={options['scheme']}, bias_correction={options['bias_correction']}"
        )


class PwlqActivation(ActivationQuantizer):
    """PWLQ activations: a fixed affine grid over the range that calibration found.

    The range of a batch goes from the median of its ``top_k`` smallest values to the median of its ``top_k`` largest; those of the
    batches are averaged.

    Args:
        nonnegative: has no part in it: the range says whether a tensor has negative values.
        top_k: the paper's 10.
        asymmetric: cover the range itself (the paper); else, as the authors' code does, a range with negative values is widened to be
            symmetric around zero.
    """

    method = "pwlq"

    def __init__(self, bit_width: int, nonnegative: bool, *, top_k: int = 10, asymmetric: bool = False) -> None:
        if not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"PwlqActivation: top_k must be an integer of at least 1, got {top_k!r}")
        super().__init__(bit_width, *unsigned_range(bit_width))
        self.top_k = top_k
        self.asymmetric = asymmetric
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.tensor(0, dtype=torch.int32))
        self.register_buffer("offset", torch.zeros(()), persistent=False)

    def observe(self, x: Tensor) -> None:
        assert self._samples is not None
        self.require_finite("calibration data", x)
        if x.numel() > 0:
            low, high = F.top_k_range(x.float(), k=self.top_k)
            self._samples.append(torch.stack([low, high]).reshape(1, 2).cpu())

    def initialize(self, samples: Tensor) -> None:
        low, high = samples.mean(0)
        middle = 1 << (self.bit_width - 1)
        if self.asymmetric or low >= 0:
            scale, zero_point = F.affine_params(low, high, quant_min=self.quant_min, quant_max=self.quant_max)
        else:  # codes from -middle, stored from 0
            scale, zero_point = F.affine_params(low, high, quant_min=-middle, quant_max=middle - 1, symmetric=True)
            zero_point = zero_point + middle
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)
        self._set_ready()

    def quantize(self, x: Tensor) -> Tensor:
        return F.fake_quantize_affine(
            x, self.scale, self.zero_point, quant_min=self.quant_min, quant_max=self.quant_max
        )
