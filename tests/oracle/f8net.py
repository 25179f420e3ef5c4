"""F8Net's fixed point in Python's exact fractions, written from the formulas: Jin et al., F8Net, ICLR 2022.

A number x has the code nearest to x * 2^FL, ties to even, limited to the range of the word; everything is a Fraction until the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def code_range(word_length: int, signed: bool) -> tuple[int, int]:
    return (1 - 2 ** (word_length - 1), 2 ** (word_length - 1) - 1) if signed else (0, 2**word_length - 1)


def code(x: float, fraction_length: int, word_length: int, signed: bool) -> int:
    low, high = code_range(word_length, signed)
    if math.isinf(x):
        return high if x > 0 else low
    return min(max(round(Fraction(x) * 2**fraction_length), low), high)  # round() of a Fraction is half to even


def fixed_point(x: float, fraction_length: int, word_length: int, signed: bool) -> float:
    if math.isnan(x):
        return x
    return float(Fraction(code(x, fraction_length, word_length, signed), 2**fraction_length))


def passes(x: float, fraction_length: int, word_length: int, signed: bool, mask: str) -> bool:
    """Whether the straight-through gradient passes."""
    if math.isnan(x):
        return True
    low, high = code_range(word_length, signed)
    if math.isinf(x):
        return False
    v = Fraction(x) * 2**fraction_length
    return low < (round(v) if mask == "reference" else v) < high


def fraction_length(std: float, signed: bool) -> int:
    """The largest f with std * 2^f <= C, that is floor(log2(C / std)), in the range of 8-bit words."""
    constant, largest = (40, 7) if signed else (70, 8)
    fitting = [f for f in range(largest + 1) if Fraction(std) * 2**f <= constant] if math.isfinite(std) else []
    return max(fitting, default=0)


def search(x: Sequence[float], word_length: int, signed: bool) -> int:
    """The format of least squared error, the first of several."""
    errors = []
    for f in range(word_length + (0 if signed else 1)):
        errors.append(sum((Fraction(v) - Fraction(code(v, f, word_length, signed), 2**f)) ** 2 for v in x))
    return errors.index(min(errors))


def pact(x: float, alpha: float, word_length: int, signed: bool) -> tuple[Fraction, Fraction, Fraction]:
    """PACT as a uniform quantizer with step alpha / levels: value, and the gradients to x and alpha of clip, round and scale."""
    low, high = code_range(word_length, signed)
    v = Fraction(x) * high / Fraction(alpha)
    if v <= low:
        return Fraction(low, high) * Fraction(alpha), Fraction(0), Fraction(low, high)
    if v >= high:
        return Fraction(alpha), Fraction(0), Fraction(1)
    return Fraction(round(v), high) * Fraction(alpha), Fraction(1), (round(v) - v) / high
