"""INQ in exact fractions and Python integers, written from the paper.

Zhou et al., Incremental Network Quantization: Towards Lossless CNNs with Low-Precision Weights, ICLR 2017, eq. 1 to 5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction


def power(exponent: int) -> Fraction:
    return Fraction(2) ** exponent


def exponents(weights: Sequence[float], bit_width: int) -> tuple[int, int]:
    """Eq. 2 and 3: n1 is the largest integer with 2^n1 <= 4 s / 3."""
    s = max((abs(Fraction(w)) for w in weights), default=Fraction(0))
    n1 = 0
    if s > 0:
        while power(n1) <= 4 * s / 3:
            n1 += 1
        while power(n1) > 4 * s / 3:
            n1 -= 1
    return n1, n1 + 1 - 2 ** (bit_width - 1) // 2


def least_error_exponent(weights: Sequence[float], bit_width: int) -> int:
    """Of eq. 2's n1 and the seven below it the one whose set is nearest to the weights; the largest of several."""
    n1, _ = exponents(weights, bit_width)

    def error(candidate: int) -> Fraction:
        return sum(((Fraction(w) - Fraction(quantize(w, candidate, bit_width))) ** 2 for w in weights), Fraction(0))

    return min(range(n1, n1 - 8, -1), key=error)


def quantize(w: float, n1: int, bit_width: int) -> float:
    """Eq. 4, interval by interval; beyond the last one the largest value."""
    if math.isnan(w):
        return w
    n2 = n1 + 1 - 2 ** (bit_width - 1) // 2
    values = [Fraction(0)] + [power(k) for k in range(n2, n1 + 1)]
    magnitude = abs(Fraction(w)) if math.isfinite(w) else power(n1 + 1)
    chosen = Fraction(0)
    for alpha, beta in itertools.pairwise(values):
        if (alpha + beta) / 2 <= magnitude < 3 * beta / 2:
            chosen = beta
    if magnitude >= 3 * power(n1) / 2:
        chosen = power(n1)
    return float(chosen if w > 0 else -chosen)


def frozen_count(fraction: float, elements: int) -> int:
    """The decimal share of the elements, halves up."""
    return int((Decimal(repr(fraction)) * elements).quantize(Decimal(1), ROUND_HALF_UP))


def largest_first(weights: Sequence[float], frozen: Sequence[bool], fraction: float) -> list[bool]:
    """The pruning-inspired partition, one weight at a time."""
    mask = list(frozen)
    for _ in range(frozen_count(fraction, len(mask)) - sum(mask)):
        best = -1
        for i, w in enumerate(weights):
            if not mask[i] and (best < 0 or abs(w) > abs(weights[best])):
                best = i
        mask[best] = True
    return mask
