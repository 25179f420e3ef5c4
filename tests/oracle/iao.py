"""IAO's fake quantization in float64 and its grids in exact fractions, written from the paper.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018, eq. 1 and 12, section 3.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _round(v: Array, rounding: str) -> Array:
    if rounding == "half_even":
        return np.rint(v)
    floor = np.floor(v)
    return floor + (v - floor >= 0.5)  # the fraction is exact


def fake_quantize(
    x: ArrayLike, scale: ArrayLike, zero_point: ArrayLike, quant_min: int, quant_max: int, rounding: str = "half_even"
) -> Array:
    with np.errstate(invalid="ignore"):
        code = np.clip(
            _round(np.float64(x) / np.float64(scale), rounding) + np.float64(zero_point), quant_min, quant_max
        )
    return np.float64(scale) * (code - np.float64(zero_point))


def grad_x(
    x: ArrayLike,
    grad_output: ArrayLike,
    scale: ArrayLike,
    zero_point: ArrayLike,
    quant_min: int,
    quant_max: int,
    dtype: type = np.float32,
) -> Array:
    """The gradient passes inside the nudged range, ends included. The ends are values of ``dtype``, in which x is compared with them."""
    scale, zero_point = np.asarray(scale, dtype), np.asarray(zero_point, dtype)
    low = np.asarray((quant_min - zero_point) * scale, dtype)
    high = np.asarray((quant_max - zero_point) * scale, dtype)
    outside = (np.asarray(x, dtype) < low) | (np.asarray(x, dtype) > high)
    return np.where(outside, 0.0, np.float64(grad_output))


def affine_params(
    low: float, high: float, quant_min: int, quant_max: int, *, symmetric: bool = False
) -> tuple[Fraction, int]:
    """Scale and zero point of a range, exactly."""
    a, b = min(Fraction(low), Fraction(0)), max(Fraction(high), Fraction(0))
    if symmetric:
        candidates = [a / quant_min if quant_min < 0 else Fraction(0), b / quant_max if quant_max > 0 else Fraction(0)]
        return (max(candidates) or Fraction(1)), 0
    if a == b:
        return Fraction(1), min(max(0, quant_min), quant_max)
    scale = (b - a) / (quant_max - quant_min)
    nearest = quant_min - a / scale
    zero_point = math.floor(abs(nearest) + Fraction(1, 2)) * (-1 if nearest < 0 else 1)  # half away from zero
    return scale, min(max(zero_point, quant_min), quant_max)
