"""The codes that the numerics contract (docs/numerics.md) demands of a prepared model, layer by layer.

Written from the papers and the contract alone. Of the model it reads parameters, buffers and settings; no quantizer, no
layer and no kernel of the package computes anything here. Real factors are exact fractions, integer sums run in float64
where every value is below 2^53 and hence exact, and a tensor is an int64 array of codes counted from 0.

What the weights and grids of each method are is in quantizers.py. F8Net's networks, which exchange x / eta, are judged by the reader of
the saved checkpoint alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import fx

from oracle.piecewise import Channel, Codes, Pieces, layer_steps
from oracle.quantizers import Grid, Integers, activation_grid, exact, quantized_weight
from qstep import nn as qnn

LARGEST_BIAS = 1 << 28


@dataclass(frozen=True)
class Rules:
    """The contract. A test breaks one rule to see that the comparison notices."""

    ties_to_even: bool = True  #: else ties go up
    residue: bool = True  #: what the code of zero really stands for enters the bias
    pad_with_zero_code: bool = True  #: else with code 0


CONTRACT = Rules()


# --- numbers ----------------------------------------------------------------------------------------------------------


def round_fraction(x: Fraction, rules: Rules) -> int:
    return round(x) if rules.ties_to_even else math.floor(x + Fraction(1, 2))


def round_shifted(numerator: Codes, shift: int | Codes, rules: Rules) -> Codes:
    """numerator / 2^shift to the nearest integer: below 2^53 the numerator and its quotient are exact in float64."""
    assert np.abs(numerator).max(initial=0) < 2**53, "not exact in float64"
    quotient = np.ldexp(numerator.astype(np.float64), -np.asarray(shift))
    return (np.rint(quotient) if rules.ties_to_even else np.floor(quotient + 0.5)).astype(np.int64)


def binary_exponent(x: Fraction) -> int:
    """e with 2^(e-1) <= |x| < 2^e."""
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    return exponent + 1 if abs(x) >= Fraction(2) ** exponent else exponent


def fixed_point(x: Fraction, bits: int, largest_shift: int) -> tuple[int, int]:
    """(mantissa of `bits` bits, shift), x close to mantissa / 2^shift; (0, 0) where x is 0 or the shift would be larger."""
    if x == 0:
        return 0, 0
    shift = bits - binary_exponent(x)
    mantissa = round(x * Fraction(2) ** shift)
    if abs(mantissa) == 1 << bits:
        mantissa, shift = mantissa // 2, shift - 1
    return (mantissa, shift) if shift <= largest_shift else (0, 0)


# --- convolution and linear -------------------------------------------------------------------------------------------


def batch_norm_affine(layer: qnn.AffineLayer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factor and shift of each channel, moving statistics and the layer's own bias included."""
    channels = len(layer.weight)
    bias = np.zeros(channels) if layer.bias is None else layer.bias.detach().numpy().astype(np.float64)
    bn = layer.batch_norm
    if bn is None:
        return np.ones(channels), bias
    gamma = np.ones(channels) if bn.weight is None else bn.weight.detach().numpy().astype(np.float64)
    beta = np.zeros(channels) if bn.bias is None else bn.bias.detach().numpy().astype(np.float64)
    factor = gamma / np.sqrt(bn.running_var.numpy().astype(np.float64) + bn.eps)
    return factor, beta + (bias - bn.running_mean.numpy().astype(np.float64)) * factor


def correlate(x: Codes, weight: Codes, layer: qnn.Conv2d, padding_value: int) -> Codes:
    """[N, C, H, W] with [O, C / groups, kernel_h, kernel_w] by patches and matrix products in float64, all sums exact."""
    top, left, bottom, right = layer.padding
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=padding_value)
    kernel = weight.shape[2:]
    extent = [d * (k - 1) + 1 for d, k in zip(layer.dilation, kernel, strict=True)]
    (sh, sw), (dh, dw) = layer.stride, layer.dilation
    patches = sliding_window_view(x, extent, axis=(2, 3))[
        :, :, ::sh, ::sw, ::dh, ::dw
    ]  # [N, C, H', W', kernel_h, kernel_w]
    n, _, height, width = patches.shape[:4]
    columns = patches.transpose(1, 4, 5, 0, 2, 3).reshape(layer.groups, -1, n * height * width)
    rows = weight.astype(np.float64).reshape(layer.groups, len(weight) // layer.groups, -1)
    return (rows @ columns).reshape(len(weight), n, height, width).swapaxes(0, 1).astype(np.int64)


def countable(unit: Fraction, bias: Fraction, weight: Integers, channel: int) -> tuple[Fraction, Codes]:
    """Where batch norm all but switches a channel off, its bias may need more units than an accumulator holds: the channel
    then counts in coarser ones, 2^28 to the bias, and its weights are rounded to them."""
    values = weight.values[channel]
    if abs(bias) < LARGEST_BIAS * abs(unit):
        return unit, values
    if bias == 0:
        return Fraction(1), np.zeros_like(values)
    coarser = abs(bias) / LARGEST_BIAS * (-1 if unit < 0 else 1)
    nearest = [weight.nearest(channel, int(w) * unit / coarser) for w in values.flat]
    return coarser, np.array(nearest, np.int64).reshape(values.shape)


@dataclass(frozen=True)
class AffineSums:
    """factor * conv(x, w) + shift of each output channel, from the input's grid to the next one, where there is one."""

    factor: list[Fraction]
    shift: list[Fraction]
    residual: Fraction  #: what the input's code of zero stands for
    source: Grid
    target: Grid | None
    of: Callable[[Codes], Codes]  #: of the centred codes with integers in the place of the weights

    def constant(self, channel: int, weight_sum: Fraction) -> Fraction:
        """What is added to a channel's sum."""
        offset = Fraction(0) if self.target is None else exact(self.target.offset)
        return self.shift[channel] + self.factor[channel] * self.residual * weight_sum - offset


def affine(layer: qnn.AffineLayer, x: Codes, *, rules: Rules) -> Codes:
    """Codes of the next grid; accumulators where there is none."""
    (grid,) = map(activation_grid, layer._inputs)
    target = None if layer.output_quantizer is None else activation_grid(layer.output_quantizer)
    factor, shift = batch_norm_affine(layer)
    real_weight = layer.weight.detach().numpy()
    if layer.fold:
        real_weight = real_weight * factor.astype(np.float32).reshape(-1, *[1] * (real_weight.ndim - 1))
        factor = np.ones_like(factor)
    centered = x - grid.zero_code

    def products(integers: Codes) -> Codes:
        if isinstance(layer, qnn.Conv2d):
            return correlate(centered, integers, layer, 0 if rules.pad_with_zero_code else -grid.zero_code)
        return (centered.astype(np.float64) @ integers.T.astype(np.float64)).astype(np.int64)

    residual = grid.residual if rules.residue else Fraction(0)
    sums = AffineSums([exact(f) for f in factor], [exact(s) for s in shift], residual, grid, target, products)
    weight = quantized_weight(layer.weight_quantizer, real_weight)
    steps = piecewise(sums, weight) if isinstance(weight, Pieces) else one_sum(sums, weight, layer.policy, rules)
    return steps if target is None else finish(steps, layer, target)


def one_sum(sums: AffineSums, weight: Integers, policy: str, rules: Rules) -> Codes:
    """sum (q_x - zero_code) * integer + bias, in steps of the next grid."""
    integers, units, biases = np.empty_like(weight.values), [], []
    for channel, values in enumerate(weight.values):
        scale = weight.scale[channel]
        constant = sums.constant(channel, scale * int(values.sum()))
        unit = exact(sums.source.scale) * scale * sums.factor[channel]
        unit, integers[channel] = countable(unit, constant, weight, channel)
        units.append(unit)
        biases.append(round_fraction(constant / unit, rules))
    per_channel = (-1, *[1] * (weight.values.ndim - 2))
    accumulators = sums.of(integers) + np.array(biases, np.int64).reshape(per_channel)
    assert np.abs(accumulators).max(initial=0) < 2**31
    if sums.target is None:
        return accumulators
    rescale = {"exact": rescale_exact, "gemmlowp": rescale_gemmlowp}[policy]
    return rescale(accumulators, [sums.target.steps(u) for u in units], per_channel, rules)


def piecewise(sums: AffineSums, weight: Pieces) -> Codes:
    """The paper's sums, each with its multiplier, in steps of the next grid."""
    target_step = None if sums.target is None else exact(sums.target.scale)
    channels = [
        Channel(factor, sums.constant(c, sum(weight.real(c), Fraction(0))), exact(sums.source.scale), target_step)
        for c, factor in enumerate(sums.factor)
    ]
    zero = sums.source.zero_code
    return layer_steps(weight, channels, max(zero, sums.source.largest - zero), sums.of)[0]


def rescale_exact(accumulators: Codes, factors: list[Fraction], per_channel: tuple[int, ...], rules: Rules) -> Codes:
    """A 24-bit multiplier and one rounding."""
    multiplier, shift = (
        np.array(part, np.int64).reshape(per_channel)
        for part in zip(*(fixed_point(f, 24, 62) for f in factors), strict=True)
    )
    return round_shifted(accumulators * multiplier, shift, rules)


def rescale_gemmlowp(accumulators: Codes, factors: list[Fraction], per_channel: tuple[int, ...], rules: Rules) -> Codes:
    """IAO as TFLite computes it: 31-bit multiplier, high half of the doubled product (ties up), shift (ties away from 0)."""
    mantissas, shifts = [], []
    for factor in factors:
        exponent = binary_exponent(factor) if factor else 0
        mantissa = math.floor(abs(factor) * Fraction(2) ** (31 - exponent) + Fraction(1, 2)) * (1 if factor > 0 else -1)
        if abs(mantissa) == 1 << 31:
            mantissa, exponent = mantissa // 2, exponent + 1
        mantissas.append(mantissa if exponent >= -31 else 0)
        shifts.append(exponent if exponent >= -31 else 0)
    multiplier, shift = np.array(mantissas, object).reshape(per_channel), np.array(shifts, object).reshape(per_channel)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    shifted = np.clip(accumulators.astype(object) * 2**left, -(2**31), 2**31 - 1)
    high = (shifted * multiplier + 2**30) // 2**31  # in Python integers, where // is the floor
    away = np.where(high < 0, -1, 1)
    return (away * ((abs(high) + 2**right // 2) // 2**right)).astype(np.int64)


def finish(steps: Codes, layer: qnn.Layer, target: Grid) -> Codes:
    """Steps of the target grid to codes. ReLU, ReLU6 and hardtanh limit codes: rounding keeps the order."""
    low, high = layer.activation.clamp if layer.activation and layer.activation.clamp else (-math.inf, math.inf)
    return np.clip(steps + target.zero_point, target.codes(low), target.codes(high))


# --- layers without weights -------------------------------------------------------------------------------------------


def bilinear(layer: qnn.Layer, a: Codes, b: Codes, *, rules: Rules) -> Codes:
    """Sum or product of two tensors: centred codes times integers on one shift, which gives the largest of them 24 bits."""
    left_grid, right_grid = map(activation_grid, layer._inputs)
    target = activation_grid(layer.output_quantizer)
    s_a, s_b, r_a, r_b = exact(left_grid.scale), exact(right_grid.scale), left_grid.residual, right_grid.residual
    if isinstance(layer, qnn.Add):
        product, left, right, constant = Fraction(0), s_a, s_b, r_a + r_b
    else:
        product, left, right, constant = s_a * s_b, s_a * r_b, s_b * r_a, r_a * r_b
    if not rules.residue:
        constant = Fraction(0)
    coefficients = [target.steps(c) for c in (product, left, right, constant - exact(target.offset))]
    _, shift = fixed_point(max(coefficients[:3], key=abs), 24, 62)
    product_, left_, right_, constant_ = (round(c * 2**shift) for c in coefficients)
    a, b = a - left_grid.zero_code, b - right_grid.zero_code
    return finish(round_shifted(product_ * a * b + left_ * a + right_ * b + constant_, shift, rules), layer, target)


def elementwise(layer: qnn.Elementwise, x: Codes, *, rules: Rules) -> Codes:
    """A table: the function in float64 of each code's float32 value, rounded to float32, quantized."""
    del rules
    (grid,) = map(activation_grid, layer._inputs)
    target = activation_grid(layer.output_quantizer)
    values = grid.values(np.arange(grid.largest + 1)).astype(np.float64)
    results = [FUNCTIONS[layer.activation.function](v, *layer.activation.arguments) for v in values.tolist()]
    return target.codes(np.array(results))[x]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def hardsigmoid(x: float) -> float:
    return min(max(x + 3, 0.0), 6.0) / 6


FUNCTIONS: dict[str, Callable[..., float]] = {
    "relu": lambda x: max(x, 0.0),
    "clamp": lambda x, low, high: min(max(x, low), high),
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "hardswish": lambda x: x * hardsigmoid(x),
    "hardsigmoid": hardsigmoid,
    "tanh": math.tanh,
    "gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "leaky_relu": lambda x, slope=0.01: x if x >= 0 else slope * x,
    "elu": lambda x, alpha=1.0: x if x > 0 else alpha * math.expm1(x),
}


def concat(layer: qnn.Concat, *inputs: Codes, rules: Rules) -> Codes:
    """Each input goes to the output's grid by value, where it is not there already."""
    del rules
    target = activation_grid(layer.output_quantizer)
    grids = map(activation_grid, layer._inputs)
    return np.concatenate(
        [x if g == target else target.codes(g.values(x)) for g, x in zip(grids, inputs, strict=True)], layer.axis
    )


@dataclass(frozen=True)
class Span:
    """What one window covers along one dimension."""

    start: int  #: inside the image
    stop: int
    padded: int  #: taps inside the image or its padding


def sliding_spans(size: int, kernel: int, stride: int, before: int, after: int, ceil_mode: bool) -> list[Span]:
    count = (size + before + after - kernel) / stride + 1
    count = math.ceil(count) if ceil_mode else math.floor(count)
    if (count - 1) * stride >= size + before:  # would start in the padding after the image or beyond
        count -= 1
    starts = [i * stride - before for i in range(count)]
    return [Span(max(s, 0), min(s + kernel, size), min(s + kernel, size + after) - s) for s in starts]


def adaptive_spans(size: int, count: int) -> list[Span]:
    count = count or size
    limits = [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
    return [Span(a, b, b - a) for a, b in limits]


def average(layer: qnn.AvgPool2d | qnn.AdaptiveAvgPool2d, x: Codes, *, rules: Rules) -> Codes:
    """Mean of each window, by exact division."""
    (grid,) = map(activation_grid, layer._inputs)
    target = activation_grid(layer.output_quantizer)
    if isinstance(layer, qnn.AdaptiveAvgPool2d):
        spans = [adaptive_spans(size, count) for size, count in zip(x.shape[2:], layer.output_size, strict=True)]
    else:
        padding = layer.padding if len(layer.padding) == 4 else (*layer.padding, *layer.padding)
        spans = [
            sliding_spans(x.shape[2 + i], layer.kernel[i], layer.stride[i], padding[i], padding[i + 2], layer.ceil_mode)
            for i in range(2)
        ]
    multiplier, shift = fixed_point(target.steps(exact(grid.scale)), 24, 62)
    residual = grid.residual if rules.residue else Fraction(0)
    override = getattr(layer, "divisor_override", None)
    per_window, per_tap = -exact(target.offset), residual  # real values to add, before the division
    if override is None:  # as many taps as the sum is divided by: one constant for both
        per_window, per_tap = per_window + per_tap, Fraction(0)
    per_window_, per_tap_ = (round(target.steps(x) * Fraction(2) ** shift) for x in (per_window, per_tap))
    centered = x - grid.zero_code
    steps = np.empty((*x.shape[:2], *map(len, spans)), np.int64)
    for (i, rows), (j, columns) in itertools.product(enumerate(spans[0]), enumerate(spans[1])):
        inside = (rows.stop - rows.start) * (columns.stop - columns.start)
        taps = rows.padded * columns.padded if getattr(layer, "count_include_pad", False) else inside
        divisor = override or taps
        sums, where = np.unique(
            centered[:, :, rows.start : rows.stop, columns.start : columns.stop].sum((2, 3)), return_inverse=True
        )
        added = inside * per_tap_ + divisor * per_window_
        means = [round_fraction(Fraction(multiplier * int(s) + added, divisor << shift), rules) for s in sums]
        steps[:, :, i, j] = np.array(means, np.int64)[where.reshape(x.shape[:2])]
    return finish(steps, layer, target)


def quantize(layer: qnn.Quantize, x: NDArray[np.float32], *, rules: Rules) -> Codes:
    del rules
    return activation_grid(layer.output_quantizer).codes(x)


# --- networks ---------------------------------------------------------------------------------------------------------

LAYERS: dict[type[qnn.Layer], Callable[..., Codes]] = {
    qnn.Quantize: quantize,
    qnn.Conv2d: affine,
    qnn.Linear: affine,
    qnn.Add: bilinear,
    qnn.Multiply: bilinear,
    qnn.Elementwise: elementwise,
    qnn.Concat: concat,
    qnn.AvgPool2d: average,
    qnn.AdaptiveAvgPool2d: average,
}


def layer_codes(layer: qnn.Layer, *inputs: NDArray[Any], rules: Rules = CONTRACT) -> Codes:
    """Output codes (accumulators of a last layer) for codes of the inputs; for Quantize, of float values."""
    return LAYERS[type(layer)](layer, *inputs, rules=rules)


class _OnCodes(fx.Interpreter):
    """Runs the graph on codes. What is no layer only moves them, or takes the largest: the same for codes as for values.
    Padding is with the code of zero."""

    def __init__(self, model: fx.GraphModule, rules: Rules) -> None:
        super().__init__(model)
        self.rules = rules
        self.codes: dict[str, Codes] = {}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self.fetch_attr(target)
        if isinstance(layer, qnn.Pad):
            zero_code = activation_grid(layer._grid[0]).zero_code if self.rules.pad_with_zero_code else 0
            return torch.nn.functional.pad(args[0], layer.padding, value=zero_code)
        if not isinstance(layer, qnn.Layer):
            return super().call_module(target, args, kwargs)
        inputs = [x.numpy() if isinstance(layer, qnn.Quantize) else x.numpy().astype(np.int64) for x in args]
        self.codes[layer.path] = layer_codes(layer, *inputs, rules=self.rules)
        return torch.from_numpy(self.codes[layer.path].astype(np.float64))  # pooling wants floating point


def network_codes(model: fx.GraphModule, *inputs: torch.Tensor, rules: Rules = CONTRACT) -> dict[str, Codes]:
    """Codes of every layer by its path, each computed from those before it. The model must be in eval mode."""
    assert not model.training
    run = _OnCodes(model, rules)
    with torch.no_grad():
        run.run(*inputs)
    return run.codes


@dataclass(frozen=True)
class Seen:
    """One call of a layer in the model itself."""

    layer: qnn.Layer
    arguments: tuple[torch.Tensor, ...]  #: real values
    codes: tuple[NDArray[Any], ...]  #: the same on their grids; for Quantize as they are


def layer_inputs(model: fx.GraphModule, *inputs: torch.Tensor) -> dict[str, Seen]:
    """What each layer gets when the model itself runs, by the layer's path."""
    calls: dict[str, Seen] = {}

    def record(layer: qnn.Layer, arguments: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        grids = [activation_grid(q) for q in layer._inputs]
        codes = tuple(g.codes(x) for g, x in zip(grids, arguments, strict=True)) if grids else (arguments[0].numpy(),)
        calls[layer.path] = Seen(layer, arguments, codes)

    handles = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, qnn.Layer)]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls
