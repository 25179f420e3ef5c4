"""Quantized layers. Each takes and returns ordinary float tensors whose values lie on a grid.

A layer has three forward passes:

* training, and ``eval()`` with gradients: the simulated one, on codes held in floats (``torch.ops.qstep``);
* ``eval()`` without gradients: the integer kernels themselves, through the same lowering as :func:`qstep.convert`;
* while :func:`qstep.calibrate` runs: the float layer.

``lower`` appends the layer to a graph builder; it is the only description of what the layer is as integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as tF
from torch import Tensor, nn

from . import _C
from .quantizers import ActivationQuantizer, QuantizedWeight, WeightQuantizer

_ops = torch.ops.qstep


@dataclass(frozen=True)
class Activation:
    """A function of one number.

    ``function`` is a name the integer graph knows (``_C.Builder.lookup``). Those with ``clamp`` (ReLU, ReLU6, hardtanh) only limit a value and
    are fused into the layer before as limits on its codes.
    """

    function: str
    arguments: tuple[float, ...] = ()
    clamp: tuple[float, float] | None = None
    nonnegative: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.function == "relu":
            return torch.relu(x)
        if self.function == "clamp":
            return torch.clamp(x, *self.arguments)
        return _TABLE_FUNCTIONS[self.function](x, *self.arguments)

    def __str__(self) -> str:
        return self.function if not self.arguments else f"{self.function}{self.arguments}"


_TABLE_FUNCTIONS: dict[str, Any] = {
    "silu": tF.silu,
    "sigmoid": torch.sigmoid,
    "hardswish": tF.hardswish,
    "hardsigmoid": tF.hardsigmoid,
    "tanh": torch.tanh,
    "gelu": tF.gelu,
    "leaky_relu": tF.leaky_relu,
    "elu": tF.elu,
}

RELU = Activation("relu", clamp=(0.0, float("inf")), nonnegative=True)


def clamp(low: float, high: float) -> Activation:
    """ReLU6 and hardtanh."""
    return Activation("clamp", (low, high), clamp=(low, high), nonnegative=low >= 0)


class RandomDrop(nn.Module):
    """A dropout function of the float network. Tracing turned its ``training`` argument into a constant: here it follows the module's mode."""

    def __init__(self, function: Callable[..., Tensor], arguments: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        self.arguments = arguments

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.arguments, training=self.training)


class Pad(nn.Module):
    """Padding with real zero of a tensor on a grid: with the value that the code nearest to zero stands for.

    Args:
        quantizer: what put the tensor on its grid; referred to, not registered.
        padding: as :func:`torch.nn.functional.pad` takes it, from the last dimension on.
    """

    def __init__(self, quantizer: ActivationQuantizer, padding: Sequence[int]) -> None:
        super().__init__()
        self._grid = (quantizer,)
        self.padding = tuple(padding)

    def forward(self, x: Tensor) -> Tensor:
        (quantizer,) = self._grid
        padded = tF.pad(x, self.padding)
        residual = None if quantizer.calibrating else quantizer.residual
        if residual is None or not quantizer.active:
            return padded
        zero = quantizer.decode(quantizer.encode(residual))  # not real zero: the code's own value, bit for bit
        inside = tF.pad(torch.ones(x.shape, dtype=torch.bool, device=x.device), self.padding)
        return torch.where(inside, padded, zero.detach().to(x.dtype))

    def extra_repr(self) -> str:
        return f"padding={self.padding}"


class Layer(nn.Module):
    """What all quantized layers share: where their inputs' grids come from, their output's quantizer, and the integer forward pass.

    Args:
        inputs: the quantizers that the inputs were quantized with. They belong to the layers that made them: they are referred to, not
            registered, so that each parameter stands once in the ``state_dict``.
        output_quantizer: ``None`` for a last layer, whose real-valued accumulators are the network's output.
        activation: fused function, with ``clamp``; or the function of an :class:`Elementwise`.
    """

    path = "layer"  #: place in the model; set by qstep.prepare
    policy = "exact"  #: requantization policy

    def __init__(
        self,
        inputs: Sequence[ActivationQuantizer],
        output_quantizer: ActivationQuantizer | None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        self._inputs = tuple(inputs)
        self.output_quantizer = output_quantizer
        self.activation = activation
        self.calibrating = False
        self._engine: tuple[Any, Any] | None = None  # (state it was lowered from, IntegerNetwork)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}

    # --- to be given by each layer ---

    def simulate(self, *inputs: Tensor) -> Tensor:
        """The layer before activation and output quantizer, on tensors whose values lie on their grids."""
        raise NotImplementedError

    def float_forward(self, *inputs: Tensor) -> Tensor:
        """The same without any quantization, for calibration."""
        return self.simulate(*inputs)

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        """Appends the layer to ``builder``; returns the value it makes. ``shape`` is that of the first input."""
        raise NotImplementedError

    # --- shared ---

    def target(self) -> _C.Target | None:
        if self.output_quantizer is None:
            return None
        low, high = (
            self.activation.clamp if self.activation and self.activation.clamp else (-float("inf"), float("inf"))
        )
        eta = self.output_quantizer.eta
        if eta is not None:
            low, high = (float(b / eta.detach()) if 0 < abs(b) < float("inf") else b for b in (low, high))
        return _C.Target(self.output_quantizer.grid(), low, high)

    def _activate(self, y: Tensor) -> Tensor:
        """The fused activation. Where the tensor holds real values / eta, so do its limits."""
        if self.activation is None:
            return y
        eta = None if self.output_quantizer is None or self.calibrating else self.output_quantizer.eta
        if eta is None or self.activation.clamp is None:
            return self.activation(y)
        low, high = self.activation.clamp
        if low > -float("inf"):
            y = torch.relu(y) if low == 0 else torch.maximum(y, low / eta)
        return torch.minimum(y, high / eta) if high < float("inf") else y

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.calibrating:
            y = self.float_forward(*inputs)
        elif self.training or torch.is_grad_enabled() or not self._has_grids():
            if self.output_quantizer is not None:
                self.output_quantizer.advance()
            y = self.simulate(*inputs)
        else:
            return self.integer_forward(*inputs)
        y = self._activate(y)
        if self.output_quantizer is not None:
            y = self.output_quantizer(y)
        return y.to(inputs[0].dtype)  # float64 where float32 could not hold the sums

    def _has_grids(self) -> bool:
        """Whether the layer exists as integers."""
        output = self.output_quantizer
        return all(q.has_grid for q in self._inputs) and (output is None or output.has_grid)

    def integer_codes(self, *inputs: Tensor) -> Tensor:
        """What the integer engine makes of these inputs: uint8 codes, or int32 accumulators where there is no output quantizer."""
        codes = [q.encode(x).cpu().contiguous() for q, x in zip(self._inputs, inputs, strict=True)]
        return torch.from_numpy(self._lowered(codes).run([c.numpy() for c in codes])[0])

    def integer_forward(self, *inputs: Tensor) -> Tensor:
        codes = self.integer_codes(*inputs).to(inputs[0].device)
        if self.output_quantizer is not None:
            return self.output_quantizer.decode(codes)
        return (codes.double() * self.accumulator_scales(codes.device)).float()

    def accumulator_scales(self, device: torch.device) -> Tensor:
        """Real value of one accumulator step of the last integer forward pass, per channel, float64; shaped to multiply accumulators."""
        assert self._engine is not None and self.output_quantizer is None
        scales = torch.as_tensor(self._engine[1].output_scales(), device=device)
        return scales.reshape(-1, 1, 1) if isinstance(self, Conv2d) else scales

    def _lowered(self, codes: Sequence[Tensor]) -> _C.IntegerNetwork:
        # In-place updates raise a tensor's version; writes through .data do not, but change its sum of bits.
        quantizers = self._inputs if self.output_quantizer is None else (*self._inputs, self.output_quantizer)
        others = dict.fromkeys(d for q in quantizers for d in q.depends_on)
        tensors = [t for m in (self, *self._inputs, *others) for t in m.state_dict(keep_vars=True).values()]
        state = [
            (t.data_ptr(), t._version, int(t.detach().reshape(-1).view(torch.uint8).sum(dtype=torch.int64)))
            for t in tensors
        ]
        if self._engine is None or self._engine[0] != state:
            builder = _C.Builder(self.policy)
            inputs = [
                builder.input(f"input{i}", list(c.shape), q.grid())
                for i, (c, q) in enumerate(zip(codes, self._inputs, strict=True))
            ]
            builder.output(self.lower(builder, self.path, inputs, codes[0].shape))
            self._engine = (state, _C.IntegerNetwork(builder.finish()))
        return self._engine[1]


class Quantize(Layer):
    """Where a float tensor enters the network."""

    def __init__(self, output_quantizer: ActivationQuantizer) -> None:
        super().__init__((), output_quantizer)

    def simulate(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def integer_forward(self, *inputs: Tensor) -> Tensor:
        return self.output_quantizer.decode(self.integer_codes(*inputs))  # type: ignore[union-attr]

    def integer_codes(self, *inputs: Tensor) -> Tensor:
        if torch.isnan(inputs[0]).any():
            raise ValueError(f"{self.path}: the input of the network must not contain NaN")
        return self.output_quantizer.encode(inputs[0])  # type: ignore[union-attr]

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        return builder.quantize(name, inputs[0], self.output_quantizer.grid())  # type: ignore[union-attr]


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
        var, mean = torch.var_mean(y, [0, *range(2, y.dim())], correction=0)
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
        return tF.conv2d(
            tF.pad(x, (left, right, top, bottom)), weight, bias, self.stride, 0, self.dilation, self.groups
        )

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


class Add(Layer):
    """Sum of two quantized tensors, requantized once."""

    def __init__(self, *quantizers: Any, **options: Any) -> None:
        super().__init__(*quantizers, **options)
        assert self.output_quantizer is not None
        for source in self._inputs:
            self.output_quantizer.join(source)

    def _ratios(self) -> list[Tensor | None]:
        """What one unit of each input is in units of the output."""
        assert self.output_quantizer is not None
        return [source.ratio_to(self.output_quantizer) for source in self._inputs]

    def float_forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + inputs[1]

    def simulate(self, *inputs: Tensor) -> Tensor:
        a, b = (x if ratio is None else x * ratio for x, ratio in zip(inputs, self._ratios(), strict=True))
        return a + b

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        left, right = (1.0 if ratio is None else float(ratio) for ratio in self._ratios())
        return builder.add(name, inputs[0], inputs[1], self.target(), left, right)


class Multiply(Layer):
    """Product of two quantized tensors (squeeze-and-excite, gates), requantized once."""

    def simulate(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * inputs[1]

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        return builder.multiply(name, inputs[0], inputs[1], self.target())


class Elementwise(Layer):
    """A function of one quantized tensor: a table of at most 256 codes as integers."""

    def simulate(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        assert self.activation is not None and self.output_quantizer is not None
        return builder.lookup(
            name, inputs[0], self.activation.function, list(self.activation.arguments), self.output_quantizer.grid()
        )


class Concat(Layer):
    """Quantized tensors side by side on one grid."""

    def __init__(self, inputs: Sequence[ActivationQuantizer], output_quantizer: ActivationQuantizer, axis: int) -> None:
        super().__init__(inputs, output_quantizer)
        self.axis = axis

    def simulate(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.axis)

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        assert self.output_quantizer is not None
        return builder.concat(name, list(inputs), self.axis % len(shape), self.output_quantizer.grid())


class AvgPool2d(Layer):
    """Average pooling. Padding counts as the code of zero, like everywhere.

    ``divisor_override``: what sums are divided by instead of the number of taps; padding then adds nothing.
    """

    def __init__(
        self,
        *quantizers: Any,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*quantizers, **options)
        self.kernel, self.stride, self.padding = tuple(kernel), tuple(stride), tuple(padding)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def simulate(self, *inputs: Tensor) -> Tensor:
        pads = any(self.padding) and self.divisor_override is None
        residual = self._inputs[0].residual if pads and not self.calibrating else None
        x = inputs[0] if residual is None else inputs[0] - residual
        window = self.kernel, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        y = tF.avg_pool2d(x, *window, self.divisor_override)
        return y if residual is None else y + residual

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        window = _C.Window(self.kernel, self.stride, (*self.padding, *self.padding), (1, 1))
        options = self.ceil_mode, self.count_include_pad, self.target()
        return builder.avg_pool2d(name, inputs[0], window, *options, divisor_override=self.divisor_override or 0)


class ShiftAvgPool2d(AvgPool2d):
    """Average pooling of a network without multipliers (F8Net): the sum over a window, divided by the power of two next to its size.

    The rest of the division is part of the output's ``eta``, and so of the weights of the layers behind.
    """

    def __init__(self, *quantizers: Any, **options: Any) -> None:
        super().__init__(*quantizers, **options)
        assert self.output_quantizer is not None
        wanted = self.divisor_override or self.kernel[0] * self.kernel[1]
        self.divisor = 1 << (wanted - 1).bit_length()
        self.output_quantizer.follow(self._inputs[0], self.divisor / wanted)

    def float_forward(self, *inputs: Tensor) -> Tensor:
        return super().simulate(*inputs)

    def simulate(self, *inputs: Tensor) -> Tensor:
        return tF.avg_pool2d(inputs[0], self.kernel, self.stride, self.padding, divisor_override=self.divisor)

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        window = _C.Window(self.kernel, self.stride, (*self.padding, *self.padding), (1, 1))
        return builder.avg_pool2d(name, inputs[0], window, False, True, self.target(), divisor_override=self.divisor)


class AdaptiveAvgPool2d(Layer):
    """Average pooling to a given size; 0 keeps a dimension."""

    def __init__(self, *quantizers: Any, output_size: Sequence[int], **options: Any) -> None:
        super().__init__(*quantizers, **options)
        self.output_size = tuple(output_size)

    def simulate(self, *inputs: Tensor) -> Tensor:
        height, width = self.output_size
        return tF.adaptive_avg_pool2d(inputs[0], (height or None, width or None))

    def lower(self, builder: _C.Builder, name: str, inputs: Sequence[int], shape: Sequence[int]) -> int:
        height, width = self.output_size
        return builder.adaptive_avg_pool2d(name, inputs[0], height, width, self.target())
