"""Grids of activations and weights as integers, from the state of a model's quantizers.

Written from the papers (see the README of each method) and the numerics contract (docs/numerics.md), in float32 where they say so.

Sources: Jacob et al. (IAO), CVPR 2018; Esser et al. (LSQ), ICLR 2020; Bhalgat et al. (LSQ+), CVPRW 2020; Choi et al., PACT, 2018;
Zhou et al., Incremental Network Quantization, ICLR 2017; Fang et al., Post-Training Piecewise Linear Quantization, ECCV 2020.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oracle.piecewise import Codes, Pieces
from oracle.pwlq_weights import code_book, pieces_of
from qstep import quantizers


def exact(x: Any) -> Fraction:
    return Fraction(float(x))


@dataclass(frozen=True)
class Grid:
    """real = scale * (code - zero_point) + offset, codes from 0 to largest."""

    scale: np.float32
    zero_point: int
    offset: np.float32
    largest: int

    def codes(self, x: Any) -> Codes:
        """In float32: a difference, a true division, one rounding."""
        with np.errstate(over="ignore"):
            steps = np.rint((np.asarray(x, np.float32) - self.offset) / self.scale)
        return np.clip(steps.astype(np.float64) + self.zero_point, 0, self.largest).astype(np.int64)

    def values(self, codes: Codes) -> NDArray[np.float32]:
        """In float32: a rounded product, a rounded sum."""
        return self.scale * (codes - self.zero_point).astype(np.float32) + self.offset

    @property
    def zero_code(self) -> int:
        return min(max(round(-exact(self.offset) / exact(self.scale)) + self.zero_point, 0), self.largest)

    @property
    def residual(self) -> Fraction:
        """Real value of zero_code."""
        return exact(self.scale) * (self.zero_code - self.zero_point) + exact(self.offset)

    def steps(self, x: Fraction) -> Fraction:
        return x / exact(self.scale)


# --- activations -------------------------------------------------------------------------------------------------------


def learned_scale(scale: Any) -> NDArray[np.float32]:
    """LSQ's step: the raw parameter is kept away from 0."""
    return np.maximum(np.abs(scale.raw.detach().numpy()), scale.eps.numpy())


def affine_range(
    low: NDArray[np.float32], high: NDArray[np.float32], quant_min: int, quant_max: int
) -> tuple[NDArray[np.float32], Codes]:
    """IAO's scale and zero point of ranges, which are extended to contain 0."""
    low, high = np.minimum(low, 0).astype(np.float64), np.maximum(high, 0).astype(np.float64)
    empty = high == low
    scale = np.where(empty, 1.0, (high - low) / (quant_max - quant_min)).astype(np.float32)
    nearest = quant_min - np.where(empty, 0.0, low) / scale.astype(np.float64)
    nearest = np.where(empty, 0.0, np.copysign(np.floor(np.abs(nearest) + 0.5), nearest))
    return scale, np.clip(nearest, quant_min, quant_max).astype(np.int64)


def symmetric_range(low: NDArray[np.float32], high: NDArray[np.float32], quant_max: int) -> NDArray[np.float32]:
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    return np.where(largest == 0, 1.0, largest / quant_max).astype(np.float32)


def activation_grid(quantizer: quantizers.ActivationQuantizer) -> Grid:
    low, high = quantizer.quant_min, quantizer.quant_max
    zero_point: int | Codes = 0
    if isinstance(quantizer, quantizers.LsqPlusActivation):
        scale = learned_scale(quantizer._scale)
    elif isinstance(quantizer, quantizers.PactActivation):  # eq. 2: the levels up to alpha
        scale = learned_scale(quantizer.alpha) / np.float32(high)
    elif isinstance(quantizer, quantizers.PwlqActivation):  # calibration has fixed it
        scale, zero_point = quantizer.scale.numpy(), quantizer.zero_point.numpy()
    else:
        assert isinstance(quantizer, quantizers.IaoActivation)
        scale, zero_point = affine_range(quantizer.min.numpy(), quantizer.max.numpy(), low, high)
    return Grid(np.float32(scale), int(zero_point) - low, np.float32(quantizer.offset.detach().numpy()), high - low)


# --- weights -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Integers:
    """scale * integer. Where not every integer is a level, ``levels`` are those of each output channel."""

    values: Codes
    scale: list[Fraction]  #: of each output channel
    levels: list[list[int]] | None = None

    def nearest(self, channel: int, x: Fraction) -> int:
        return round(x) if self.levels is None else min(self.levels[channel], key=lambda level: abs(level - x))


def quantized_weight(quantizer: quantizers.WeightQuantizer, weight: NDArray[np.float32]) -> Integers | Pieces:
    if isinstance(quantizer, quantizers.InqWeight):
        return powers_of_two(quantizer, weight)
    if isinstance(quantizer, quantizers.PwlqWeight):
        if quantizer.representation == "piecewise":
            return pieces_of(weight, quantizer.options)
        return Integers(*code_book(weight, quantizer.options))
    return evenly_spaced(quantizer, weight)


def evenly_spaced(quantizer: quantizers.WeightQuantizer, weight: NDArray[np.float32]) -> Integers:
    """Integers code - zero_point."""
    low, high, channels = quantizer.quant_min, quantizer.quant_max, len(weight)
    per_channel = (-1, *[1] * (weight.ndim - 1))
    zero_point: int | Codes = 0
    if isinstance(quantizer, quantizers.LsqPlusWeight):
        scale = learned_scale(quantizer.scale)
    else:
        assert isinstance(quantizer, quantizers.IaoWeight)
        over = None if quantizer.axis is None else tuple(range(1, weight.ndim))
        smallest, largest = weight.min(axis=over), weight.max(axis=over)
        if quantizer.axis is None:
            scale, zero_point = affine_range(smallest, largest, low, high)
        else:
            scale = symmetric_range(smallest, largest, high)
    scale = np.broadcast_to(scale, (channels,))
    codes = np.clip(np.rint(weight / scale.reshape(per_channel)) + zero_point, low, high).astype(np.int64)
    return Integers(codes - zero_point, [exact(s) for s in scale])


def powers_of_two(quantizer: quantizers.InqWeight, weight: NDArray[np.float32]) -> Integers:
    """INQ, eq. 4: magnitudes half-way between neighbours of 0, 2^n2, ..., 2^n1 go to the larger; those beyond 2^n1 to 2^n1."""
    magnitudes = [0, *(2**j for j in range(2 ** (quantizer.bit_width - 2)))]
    unit = Fraction(2) ** (int(quantizer.n1) + 2 - len(magnitudes))  # 2^n2
    middles = [float(unit * Fraction(a + b, 2)) for a, b in itertools.pairwise(magnitudes)]
    above = np.searchsorted(middles, np.abs(weight).astype(np.float64), side="right")
    signed = np.where(weight < 0, -1, 1) * np.array(magnitudes)[above]
    levels = sorted({s * m for s in (-1, 1) for m in magnitudes})
    return Integers(signed, [unit] * len(weight), [levels] * len(weight))
