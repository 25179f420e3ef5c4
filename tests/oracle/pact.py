"""PACT in float64, element by element, written from the paper's equations.

Choi et al., PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018: eq. 1 clips, eq. 2 rounds to 2^b - 1
steps, eq. 3 is the derivative. Two-sided, and the derivative through the rounding ("ste"), as F8Net uses them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Gradients(NamedTuple):
    """What every element adds to each gradient."""

    x: Array
    alpha: Array


def levels(bit_width: int, signed: bool) -> int:
    return 2 ** (bit_width - 1) - 1 if signed else 2**bit_width - 1


def clip(x: ArrayLike, alpha: float, signed: bool) -> Array:
    """Eq. 1 by cases."""
    return np.clip(np.float64(x), -alpha if signed else 0.0, alpha)


def fake_quantize(x: ArrayLike, alpha: float, bit_width: int, signed: bool = False) -> Array:
    """Eq. 2: the product with levels / alpha, as the paper writes it."""
    steps = levels(bit_width, signed)
    return np.rint(clip(x, alpha, signed) * (steps / np.float64(alpha))) * (np.float64(alpha) / steps)


def gradients(
    x: ArrayLike,
    grad_output: ArrayLike,
    alpha: float,
    bit_width: int,
    signed: bool = False,
    gradient: str = "pact",
) -> Gradients:
    """Case by case, eq. 3; inside, "ste" adds d/d alpha of alpha / levels * round(x * levels / alpha) with d round(v) / dv = 1."""
    steps = levels(bit_width, signed)
    x = np.float64(x)
    x_slope, alpha_slope = np.empty_like(x), np.empty_like(x)
    for index, value in np.ndenumerate(x):
        if value >= alpha:
            slopes = (0.0, 1.0)
        elif signed and value <= -alpha:
            slopes = (0.0, -1.0)
        elif not signed and value < 0:
            slopes = (0.0, 0.0)
        elif gradient == "ste":
            position = value * steps / alpha
            slopes = (1.0, (np.rint(position) - position) / steps)
        else:
            slopes = (1.0, 0.0)
        x_slope[index], alpha_slope[index] = slopes
    upstream = np.float64(grad_output)
    return Gradients(upstream * x_slope, upstream * alpha_slope)
