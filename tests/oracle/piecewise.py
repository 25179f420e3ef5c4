"""Piecewise linear weights (Fang et al., Post-Training Piecewise Linear Quantization, ECCV 2020) in exact fractions.

The numerics contract (docs/numerics.md, "Piecewise weights"): one multiplier for each sum of the paper's inner product, all of a
channel on one shift, one rounding. :func:`exact_steps` is what the real numbers alone would give, with no multiplier rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """real = (-1 if negative else 1) * (start[r][c] + step[r][c] * magnitude) + constant[c]."""

    region: Codes
    magnitude: Codes
    negative: NDArray[np.bool_]
    step: list[list[Fraction]]  #: [regions][out]
    start: list[list[Fraction]]
    constant: list[Fraction]

    @property
    def regions(self) -> int:
        return len(self.step)

    def sign(self) -> Codes:
        return np.where(self.negative, -1, 1)

    def planes(self) -> list[Codes]:
        """What multiplies the input in each sum: the magnitudes of each region, the signs of all but the first, ones."""
        inside = [self.region == r for r in range(self.regions)]
        return [
            *(self.sign() * self.magnitude * here for here in inside),
            *(self.sign() * here for here in inside[1:]),
            np.ones_like(self.region),
        ]

    def worth(self, channel: int) -> list[Fraction]:
        """Real value of one unit of each of these sums."""
        return [
            *(step[channel] for step in self.step),
            *(start[channel] for start in self.start[1:]),
            self.constant[channel],
        ]

    def real(self, channel: int) -> list[Fraction]:
        """The weights of a channel, one by one."""
        parts = (a[channel].reshape(-1).tolist() for a in (self.region, self.magnitude, self.negative))
        return [
            (-1 if s else 1) * (self.start[r][channel] + self.step[r][channel] * m) + self.constant[channel]
            for r, m, s in zip(*parts, strict=True)
        ]


def exponent(x: Fraction) -> int:
    """e with 2^(e-1) <= |x| < 2^e; 0 for 0."""
    if x == 0:
        return 0
    e = abs(x.numerator).bit_length() - x.denominator.bit_length()
    return e + 1 if abs(x) >= Fraction(2) ** e else e


def constants(worths: list[Fraction], bounds: list[int], added: Fraction) -> tuple[list[int], int, int]:
    """Multipliers and constant on one shift: 30 bits where every t stays below 2^53, else 24 where it stays below 2^62."""
    largest = max(map(abs, worths))
    total = abs(added) + sum((abs(w) * b for w, b in zip(worths, bounds, strict=True)), Fraction(0))
    shift = min(
        62, 30 - exponent(largest), max(52 - exponent(total), min(61 - exponent(total), 24 - exponent(largest)))
    )
    unit = Fraction(2) ** shift
    return [round(w * unit) for w in worths], round(added * unit), shift


@dataclass(frozen=True)
class Channel:
    """A channel of the layer: y = factor * conv(x, w) + added, one step of its input and of its output."""

    factor: Fraction
    added: Fraction
    input_step: Fraction
    output_step: Fraction | None  #: None: the result is an accumulator, in a power of two


def layer_steps(
    pieces: Pieces, channels: list[Channel], largest_code: int, product: Callable[[Codes], Codes]
) -> tuple[Codes, list[Fraction]]:
    """Rounded results [N, out, ...] in steps of the output, and what a step is worth.

    Args:
        largest_code: largest magnitude of a centred input code.
        product: the layer's sums with integer weights.
    """
    sums = [product(plane).astype(object) for plane in pieces.planes()]
    bounds = [[largest_code * int(np.abs(p[c]).sum()) for p in pieces.planes()] for c in range(len(channels))]
    result = np.empty(sums[0].shape, object)
    units = []
    for c, channel in enumerate(channels):
        real = [channel.factor * channel.input_step * w for w in pieces.worth(c)]
        unit = channel.output_step
        if unit is None:
            total = abs(channel.added) + sum((abs(w) * b for w, b in zip(real, bounds[c], strict=True)), Fraction(0))
            unit = Fraction(2) ** (exponent(total) - 30)
        multipliers, constant, shift = constants([w / unit for w in real], bounds[c], channel.added / unit)
        total_sum = sum(m * s[:, c] for m, s in zip(multipliers, sums, strict=True)) + constant
        result[:, c] = np.vectorize(lambda t, one=2**shift: round(Fraction(t, one)), otypes=[object])(total_sum)
        units.append(unit)
    return result.astype(np.int64), units


def exact_steps(pieces: Pieces, channels: list[Channel], x: Codes) -> list[list[Fraction]]:
    """The real-valued formula itself for a linear layer on centred codes [N, in]; no rounding anywhere. [N][out]."""
    rows = [[int(v) for v in row] for row in x]
    results = []
    for row in rows:
        values = []
        for c, channel in enumerate(channels):
            y = (
                channel.factor
                * channel.input_step
                * sum((w * v for w, v in zip(pieces.real(c), row, strict=True)), Fraction(0))
            )
            values.append((y + channel.added) / (channel.output_step or 1))
        results.append(values)
    return results


def distance_to_rounding(exact: Fraction, rounded: int) -> float:
    """How far beyond half a step a rounded result lies from the exact one; 0 where it is as near as can be."""
    return max(0.0, float(abs(exact - rounded) - Fraction(1, 2)))
