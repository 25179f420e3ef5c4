"""Convolution and linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as tF
from torch import Tensor, nn

from .. import _C
from ..quantizers import ActivationQuantizer, QuantizedWeight, WeightQuantizer
from .activation import Activation
from .layer import Layer

_ops = torch.ops.qstep


class AffineLayer(Layer):
    """Convolution or linear layer, batch norm, fused activation.

    Batch norm has three states: *batch* (training: batch statistics), *frozen* (training after :func:`qstep.freeze_batch_norm`, or
    with the batch norm module itself in ``eval()``) and *eval*; the last two use the moving statistics as one factor and one shift per channel. ``fold`` multiplies the factor into the weights
    before they are quantized (IAO, equation 14); otherwise it becomes part of the integer multiplier of each channel. ``fold_batch`` does
    so with the statistics of the batch too, those of the convolution with un-quantized weights (F8Net).
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        input_quantizer: ActivationQuantizer,
        weight_quantizer: WeightQuantizer,
        output_quantizer: ActivationQuantizer | None,
        batch_norm: nn.BatchNorm2d | nn.BatchNorm1d | None = None,
        fold: bool = False,
        fold_batch: bool = False,
        activation: Activation | None = None,
    ) -> None:
        super().__init__((input_quantizer,), output_quantizer, activation)
        if fold and not weight_quantizer.foldable:
            raise ValueError(
                f"{weight_quantizer.path}: batch_norm='fold' does not go with {weight_quantizer.method} weights; use 'absorb'"
            )
        self.weight = weight
        self.bias = bias
        self.weight_quantizer = weight_quantizer
        self.batch_norm = batch_norm
        self.fold = fold or fold_batch
        self.fold_batch = fold_batch
        self.batch_norm_frozen = False
        self.noisy_input = False  # behind a dropout: not on the grid in training

    def _real(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The float layer."""
        raise NotImplementedError

    def _on_codes(self, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        """The layer on codes, less the residual of the input's grid."""
        raise NotImplementedError

    def _has_codes(self, weight: QuantizedWeight) -> bool:
        """Whether input and weights lie on even grids, so that the layer can be computed on codes."""
        return weight.on_grid and self._inputs[0].active and not (self.noisy_input and self.training)

    def _centered(self, x: Tensor) -> Tensor:
        residual = self._inputs[0].residual
        return x if residual is None else x - residual

    @property
    def _uses_batch_statistics(self) -> bool:
        bn = self.batch_norm
        return bn is not None and (bn.running_mean is None or (bn.training and not self.batch_norm_frozen))

    def _frozen_affine(self) -> tuple[Tensor | None, Tensor | None]:
        """Factor and shift per channel, float64, of batch norm with moving statistics and of the layer's own bias."""
        bn = self.batch_norm
        if bn is None:
            return self._between_etas(None, None if self.bias is None else self.bias.double())
        return self._between_etas(
            *_ops.batch_norm_affine(bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.eps, self.bias)
        )

    def _batch_affine(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The same with the statistics of the batch, which un-quantized weights give; gradients flow through them (F8Net)."""
        bn = self.batch_norm
        assert bn is not None
        eta = self._inputs[0].eta
        y = self._real(x, self.weight if eta is None else self.weight * eta, self.bias)
        mean, var = _ops.mean_and_variance(y)
        if bn.training and bn.track_running_stats:
            self._update_moving_statistics(mean.detach(), var.detach(), y.numel() // max(1, y.shape[1]))
        return self._between_etas(*_ops.batch_norm_affine(bn.weight, bn.bias, mean, var, bn.eps, self.bias))

    @torch.no_grad()
    def _update_moving_statistics(self, mean: Tensor, var: Tensor, count: int) -> None:
        bn = self.batch_norm
        assert bn is not None
        if bn.num_batches_tracked is not None:
            bn.num_batches_tracked += 1
        momentum = 1 / int(bn.num_batches_tracked or 1) if bn.momentum is None else bn.momentum
        bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), momentum)  # type: ignore[union-attr]
        bn.running_var.lerp_((var * (count / max(1, count - 1))).to(bn.running_var.dtype), momentum)  # type: ignore[union-attr]

    def _between_etas(self, factor: Tensor | None, shift: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Factor and shift of what input and output tensors hold, from those of the real values they stand for."""
        source = self._inputs[0].eta
        if source is None:
            return factor, shift
        ratio = source.double()
        if self.output_quantizer is not None and self.output_quantizer.eta is not None:
            target = self.output_quantizer.eta.double()
            ratio = ratio / target
            shift = None if shift is None else shift / target
        return ratio if factor is None else factor * ratio, shift

    def _folded(self, factor: Tensor | None) -> Tensor:
        """The weights that are quantized."""
        if not self.fold or factor is None:
            return self.weight
        return self.weight * factor.to(self.weight.dtype).reshape(-1, *[1] * (self.weight.dim() - 1))

    def _quantized_weight(self, factor: Tensor | None) -> QuantizedWeight:
        return self.weight_quantizer(self._folded(factor))

    def initialize_weight(self) -> None:
        self.weight_quantizer.initialize(self._folded(self._frozen_affine()[0]))

    def float_forward(self, *inputs: Tensor) -> Tensor:
        y = self._real(inputs[0], self.weight, self.bias)
        return y if self.batch_norm is None else self.batch_norm(y)

    def _residual(self, weight: QuantizedWeight) -> Tensor | None:
        """What the residual of the input's grid adds to each channel: it acts on every tap, padded ones included."""
        residual = self._inputs[0].residual
        if residual is None:
            return None
        return residual.double() * weight.values.double().sum(dim=tuple(range(1, weight.values.dim())))

    def simulate(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self._uses_batch_statistics and not self.fold_batch:
            return self._simulate_batch(x)
        factor, bias = self._batch_affine(x) if self._uses_batch_statistics else self._frozen_affine()
        weight = self._quantized_weight(factor)
        absorbed = None if self.fold else factor
        unit = self._inputs[0].scale.detach().double() * weight.scale.detach().double()
        residual = self._residual(weight)
        if residual is not None:
            residual = residual if absorbed is None else residual * absorbed
            bias = residual if bias is None else bias + residual
        target = self.output_quantizer
        if bias is None:
            bias = torch.zeros(weight.values.shape[0], dtype=torch.float64, device=self.weight.device)
        if weight.on_grid and self._inputs[0].active and (target is None or target.active):
            unit = unit if absorbed is None else unit * absorbed.detach()
            bias = _ops.round_bias(bias, unit, None if target is None else target.offset.detach())
        if self._needs_double(weight, bias, unit):
            x, weight = x.double(), weight._replace(values=weight.values.double())
        bias = bias.to(x.dtype)
        if absorbed is None:
            return self._on_codes(x, weight, bias)
        sums = self._on_codes(x, weight, None)
        return torch.addcmul(self._per_channel(bias, sums), sums, self._per_channel(absorbed.to(sums.dtype), sums))

    def _needs_double(self, weight: QuantizedWeight, bias: Tensor, unit: Tensor) -> bool:
        """Whether sums may leave the integers of float32 where all else is exact: with powers of two only and frozen statistics."""
        source = self._inputs[0]
        if self.policy != "shift" or self._uses_batch_statistics or not self._has_codes(weight):
            return False
        largest = max(-source.quant_min, source.quant_max)
        return not _ops.sums_fit_float32(weight.values.detach(), weight.scale.detach(), largest, bias.detach(), unit)

    def _simulate_batch(self, x: Tensor) -> Tensor:
        bn = self.batch_norm
        assert bn is not None
        factor: Tensor | None = None
        if self.fold and bn.running_var is not None:
            factor, _ = _ops.batch_norm_affine(bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.eps)
            # Divided out again below: a channel that batch norm has switched off must not divide by 0.
            factor = torch.where(factor.abs() < 1e-6, 1e-6, factor)
        weight = self._quantized_weight(factor)
        residual = self._residual(weight)
        y = self._on_codes(x, weight, None if residual is None else residual.to(x.dtype))
        if factor is not None:
            y = y / self._per_channel(factor.to(y.dtype), y)
        if self.bias is not None:
            y = y + self._per_channel(self.bias, y)
        return bn(y)

    @staticmethod
    def _per_channel(t: Tensor, like: Tensor) -> Tensor:
        return t.reshape(-1, 1, 1) if like.dim() == 4 else t

    def _lowered_layer(self) -> dict[str, Any]:
        """Arguments that conv2d and linear of the graph builder share."""
        if self.batch_norm is not None and self.batch_norm.running_mean is None:
            raise NotImplementedError(
                f"{self.path}: batch norm without running statistics cannot be exported; use track_running_stats=True"
            )
        with torch.no_grad():
            factor, bias = self._frozen_affine()
            weight = self._quantized_weight(factor)
            absorbed = None if self.fold else factor
            return {
                "weight": self.weight_quantizer.lowered(weight),
                "factor": None if absorbed is None else absorbed.cpu().numpy(),
                "bias": None if bias is None else bias.cpu().numpy(),
                "target": self.target(),
            }


class Conv2d(AffineLayer):
    """2-D convolution: grouped, depthwise, strided, dilated, padded by any amounts with zeros. [N, C, H, W] -> [N, O, H', W'].

    ``padding`` is (top, left, bottom, right).
    """

    channels_first = True

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *quantizers: Any,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(weight, bias, *quantizers, **options)
        self.stride, self.padding, self.dilation, self.groups = tuple(stride), tuple(padding), tuple(dilation), groups

    def _real(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        top, left, bottom, right = self.padding
        if (top, left) == (bottom, right):
            return tF.conv2d(x, weight, bias, self.stride, (top, left), self.dilation, self.groups)
        x = tF.pad(x, (left, right, top, bottom))
        return tF.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)

    def _on_codes(self, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        if not self._has_codes(weight):  # a real convolution with quantized weights
            return self._real(self._centered(x), weight.values, bias)
        source = self._inputs[0]
        return _ops.conv2d(
            x,
            weight.values,
            bias,
            source.scale.detach(),
            source.residual,
            weight.scale.detach(),
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        window = _C.Window(self.weight.shape[2:], self.stride, self.padding, self.dilation)
        return builder.conv2d(name, inputs[0], window, self.groups, **self._lowered_layer())

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}, stride={self.stride}, padding={self.padding}, groups={self.groups}"


class Linear(AffineLayer):
    """Linear layer over the last dimension: [..., in] -> [..., out]."""

    def _real(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return tF.linear(x, weight, bias)

    def _on_codes(self, x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
        if not self._has_codes(weight):
            return self._real(self._centered(x), weight.values, bias)
        source = self._inputs[0]
        return _ops.linear(x, weight.values, bias, source.scale.detach(), source.residual, weight.scale.detach())

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        return builder.linear(name, inputs[0], **self._lowered_layer())

    def extra_repr(self) -> str:
        return f"weight={tuple(self.weight.shape)}"
