"""PWLQ weights (Fang et al., Post-Training Piecewise Linear Quantization, ECCV 2020) as integers: pieces with codes of their own, or
a code book of multiples of one unit.

Written from the method's README: breakpoints, steps and correction in float64, a weight's piece and magnitude in float32 (of a code
book in float64). One breakpoint by the supplement's fits; several, and the search, have no closed form and are judged op by op.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from oracle.piecewise import Codes, Pieces
from oracle.pwlq import fitted_breakpoint

Reals = NDArray[np.float64]
LARGEST_LEVEL = 2**15 - 1  #: of a code book


@dataclass(frozen=True)
class Partition:
    """[0, end] of the magnitudes that share a breakpoint."""

    breakpoint: float
    end: float


def magnitudes(options: Mapping[str, Any]) -> int:
    """The largest one inside a piece."""
    return 2 ** (options["bit_width"] - 1) - 1


def rows_of(weight: NDArray[np.float32], options: Mapping[str, Any]) -> NDArray[np.float32]:
    """Weights that share a breakpoint, one set in a row."""
    return weight.reshape(1 if options["axis"] is None else len(weight), -1)


def partition(w: Reals, options: Mapping[str, Any]) -> Partition:
    """Equal pieces where there is no deviation to speak of; a range of 0 counts as 1."""
    assert options["breakpoints"] == 1 and options["estimate"] in ("gaussian", "laplace"), "no closed form"
    largest = float(np.abs(w).max())
    if largest < 2.0**-100:
        return Partition(0.5, 1.0)
    deviation = float(w.std(ddof=1)) if w.size > 1 else 0.0
    if deviation == 0:
        return Partition(largest / 2, largest)
    return Partition(fitted_breakpoint(options["estimate"], largest / deviation) * deviation, largest)


def correction(w: Reals, quantized: ArrayLike, largest: float, variant: str) -> tuple[float, float]:
    """Factor and constant that give the quantized weights the mean and the deviation of the real ones."""
    if variant == "none":
        return 1.0, 0.0
    w_hat = np.asarray(quantized, np.float64)
    all_but_constant = min(w.std(), w_hat.std()) <= largest * 2.0**-20
    ratio = 1.0 if all_but_constant else float(w.std() / (w_hat.std() + 1e-12))
    if variant == "repo":
        return ratio, float((w.mean() - w_hat.mean()) * ratio)
    return ratio, float(w.mean() - w_hat.mean() * ratio)


def fractions(values: list[float], channels: int) -> list[Fraction]:
    """One of each channel."""
    return [Fraction(v) for v in (values if len(values) == channels else values * channels)]


# --- pieces -----------------------------------------------------------------------------------------------------------


def pieces_of(weight: NDArray[np.float32], options: Mapping[str, Any]) -> Pieces:
    largest = magnitudes(options)
    region, magnitude, negative = (np.empty(rows_of(weight, options).shape, np.int64) for _ in range(3))
    inner_steps, outer_steps, starts, constants = [], [], [], []
    for r, row in enumerate(rows_of(weight, options)):
        real = row.astype(np.float64)
        cut = partition(real, options)
        inner = cut.breakpoint / (largest + 0.5 if options["scheme"] == "repo" else largest)
        outer = (cut.end - cut.breakpoint) / largest

        region[r] = np.abs(row) >= np.float32(cut.breakpoint)
        start, step = (np.array(ends, np.float32)[region[r]] for ends in ((0, cut.breakpoint), (inner, outer)))
        steps = np.clip(np.rint((np.abs(row) - start) / step), 0, largest)
        magnitude[r] = steps
        negative[r] = (row < 0) & ((region[r] > 0) | (steps > 0))
        quantized = np.copysign(start + step * steps, row)  # in float32
        ratio, constant = correction(real, quantized, float(np.abs(real).max()), options["bias_correction"])
        inner_steps.append(inner * ratio)
        outer_steps.append(outer * ratio)
        starts.append(cut.breakpoint * ratio)
        constants.append(constant)
    channels = len(weight)
    return Pieces(
        region.reshape(weight.shape),
        magnitude.reshape(weight.shape),
        negative.reshape(weight.shape).astype(bool),
        [fractions(inner_steps, channels), fractions(outer_steps, channels)],
        [[Fraction(0)] * channels, fractions(starts, channels)],
        fractions(constants, channels),
    )


# --- code books -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CommonGrid:
    """Magnitudes unit * inner * q in the first piece, unit * (border + outer * q) in the second."""

    inner: int
    border: int
    outer: int
    unit: float
    largest: int

    @classmethod
    def with_outer_step(cls, outer: int, end: float, options: Mapping[str, Any]) -> CommonGrid:
        largest = magnitudes(options)
        inner, border = (2, 2 * largest + 1) if options["scheme"] == "repo" else (1, largest)
        return cls(inner, border, outer, end / (border + outer * largest), largest)

    def integers(self, w: Reals) -> Codes:
        beyond = np.abs(w) >= self.unit * self.border
        start, step = np.where(beyond, self.border, 0), np.where(beyond, self.outer, self.inner)
        steps = np.clip(np.rint((np.abs(w) - self.unit * start) / (self.unit * step)), 0, self.largest)
        return np.where(w < 0, -1, 1) * (start + step * steps.astype(np.int64))

    def squared_error(self, w: Reals) -> float:
        return float(((w - self.unit * self.integers(w)) ** 2).sum())

    def levels(self) -> Codes:
        q = np.arange(self.largest + 1)
        positive = np.concatenate([self.inner * q, self.border + self.outer * q])
        return np.unique(np.concatenate([-positive, positive]))


def common_grid(w: Reals, options: Mapping[str, Any]) -> CommonGrid:
    """From the multiple nearest to the outer step, downhill in squared error."""
    cut, largest = partition(w, options), magnitudes(options)
    border = CommonGrid.with_outer_step(1, cut.end, options).border
    longest = (LARGEST_LEVEL - border) // largest
    nearest = math.floor((cut.end - cut.breakpoint) / cut.breakpoint * border / largest + 0.5)
    best = CommonGrid.with_outer_step(min(max(nearest, 1), longest), cut.end, options)
    while True:
        beside = [s for s in (best.outer - 1, best.outer + 1) if 1 <= s <= longest]
        candidate = min(
            (CommonGrid.with_outer_step(s, cut.end, options) for s in beside), key=lambda grid: grid.squared_error(w)
        )
        if candidate.squared_error(w) >= best.squared_error(w):
            return best
        best = candidate


def code_book(weight: NDArray[np.float32], options: Mapping[str, Any]) -> tuple[Codes, list[Fraction], list[list[int]]]:
    """Integers, the scale (a float32) of each output channel, and the integers that its table has."""
    rows = rows_of(weight, options).astype(np.float64)
    integers, scales, tables = np.empty(rows.shape, np.int64), [], []
    for r, row in enumerate(rows):
        grid = common_grid(row, options)
        found = grid.integers(row)
        ratio, constant = correction(row, grid.unit * found, float(np.abs(row).max()), options["bias_correction"])
        shift = round(constant / (grid.unit * ratio))
        integers[r] = found + shift
        scales.append(float(np.float32(grid.unit * ratio)))
        tables.append((grid.levels() + shift).tolist())
    channels = len(weight)
    return (
        integers.reshape(weight.shape),
        fractions(scales, channels),
        tables if len(tables) == channels else tables * channels,
    )
