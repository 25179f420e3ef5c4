"""LSQ and LSQ+ in float64, element by element, written from the papers' formulas.

Esser et al., Learned Step Size Quantization, ICLR 2020, eq. 1 to 5; Bhalgat et al., LSQ+, CVPR workshops 2020, for the offset. LSQ is offset 0.
Parameters broadcast against x; the caller reduces gradients over whatever shares a parameter.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Gradients(NamedTuple):
    """What every element adds to each gradient."""

    x: Array
    scale: Array
    offset: Array


def position(x: ArrayLike, scale: ArrayLike, offset: ArrayLike) -> Array:
    """v: where x lies on the grid, in codes, not yet rounded or clipped."""
    return (np.float64(x) - np.float64(offset)) / np.float64(scale)


def fake_quantize(x: ArrayLike, scale: ArrayLike, offset: ArrayLike, quant_min: int, quant_max: int) -> Array:
    with np.errstate(invalid="ignore"):
        code = np.rint(np.clip(position(x, scale, offset), quant_min, quant_max))
    return code * np.float64(scale) + np.float64(offset)


def gradients(
    x: ArrayLike,
    grad_output: ArrayLike,
    scale: ArrayLike,
    offset: ArrayLike,
    quant_min: int,
    quant_max: int,
    boundary: str = "strict",
) -> Gradients:
    """Case by case as the papers state it; ``boundary="inclusive"`` moves the bounds to the inside."""
    upstream = np.float64(grad_output)
    v = position(x, scale, offset)
    scale_slope, x_slope, offset_slope = (np.empty_like(v) for _ in range(3))
    for index, value in np.ndenumerate(v):
        if value < quant_min or (boundary == "strict" and value == quant_min):
            slopes = (quant_min, 0.0, 1.0)
        elif value > quant_max or (boundary == "strict" and value == quant_max):
            slopes = (quant_max, 0.0, 1.0)
        else:
            slopes = (np.rint(value) - value, 1.0, 0.0)
        scale_slope[index], x_slope[index], offset_slope[index] = slopes
    return Gradients(upstream * x_slope, upstream * scale_slope, upstream * offset_slope)


def weight_scale(w: ArrayLike, quant_min: int, quant_max: int, rule: str) -> float:
    """First scale of a weight: LSQ section 2.1, or LSQ+'s three standard deviations."""
    values = np.float64(w).ravel()
    if rule == "lsq":
        return float(2 * np.abs(values).mean() / np.sqrt(quant_max))
    mean = values.sum() / values.size
    deviation = np.sqrt(((values - mean) ** 2).sum() / values.size)
    return float(max(abs(mean - 3 * deviation), abs(mean + 3 * deviation)) / max(-quant_min, quant_max))


def squared_error(x: Array, scale: float, offset: float, quant_min: int, quant_max: int) -> float:
    return float(((fake_quantize(x, scale, offset, quant_min, quant_max) - x) ** 2).mean())


def least_squared_error(x: Array, quant_min: int, quant_max: int, *, learn_offset: bool) -> float:
    """The best mean squared error that a fine grid over scale and offset finds, by brute force."""
    low, high = x.min(), x.max()
    if not learn_offset:
        widest = max(high / quant_max, low / quant_min if quant_min < 0 else 0.0)
        return min(squared_error(x, s, 0.0, quant_min, quant_max) for s in np.geomspace(0.01, 1.15, 1000) * widest)
    best = np.inf
    for width in np.geomspace(0.02, 1.15, 80) * (high - low):
        scale = width / (quant_max - quant_min)
        slack = max(0.0, 1.1 * (high - low) - width)
        for start in low - 0.05 * (high - low) + np.linspace(0.0, 1.0, 50) * slack:
            best = min(best, squared_error(x, scale, start - quant_min * scale, quant_min, quant_max))
    return float(best)
