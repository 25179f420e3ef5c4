"""Piecewise linear quantization by brute force, in float64, written from the paper.

Fang et al., Post-Training Piecewise Linear Quantization for Deep Neural Networks, ECCV 2020, and its supplement. Weights are mapped to
the nearest of all levels of their piece; expected errors are integrals over a density; optima are the best of many candidates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def piece_levels(breakpoints: Sequence[float], m: float, bit_width: int, scheme: str = "paper") -> list[Array]:
    """Magnitudes that each piece can stand for."""
    count = 2 ** (bit_width - 1)
    edges = [0.0, *breakpoints, m]
    levels = [np.linspace(low, high, count) for low, high in itertools.pairwise(edges)]
    if scheme == "repo":  # b bits over [-p, p]: the codes from 0 on
        levels[0] = 2 * edges[1] / (2**bit_width - 1) * np.arange(count)
    return levels


def quantize(w: ArrayLike, breakpoints: Sequence[float], bit_width: int, scheme: str = "paper") -> Array:
    """Each weight at the nearest level of its piece; weights half-way between two levels may go to either."""
    w = np.asarray(w, np.float64)
    m = float(np.abs(w).max())
    result = np.empty_like(w)
    pieces = piece_levels(breakpoints, m, bit_width, scheme)
    for index, value in np.ndenumerate(w):
        inside = sum(abs(value) >= p for p in breakpoints)
        levels = pieces[inside]
        result[index] = math.copysign(levels[np.argmin(np.abs(levels - abs(value)))], value)
    return result


def bias_corrected(w: Array, w_hat: Array, variant: str) -> Array:
    ratio = w.std() / (w_hat.std() + 1e-12)
    if variant == "repo":
        return (w_hat + w.mean() - w_hat.mean()) * ratio
    return (w_hat - w_hat.mean()) * ratio + w.mean()


# --- expected error ---


def gaussian_pdf(x: ArrayLike) -> Array:
    return np.exp(-(np.asarray(x) ** 2) / 2) / math.sqrt(2 * math.pi)


def laplace_pdf(x: ArrayLike) -> Array:
    return np.exp(-np.abs(x) * math.sqrt(2)) / math.sqrt(2)


def _mass(pdf: Callable[[ArrayLike], Array], low: float, high: float) -> float:
    """Integral of the density, by Simpson's rule."""
    x = np.linspace(low, high, 2001)
    y = pdf(x)
    return float((x[1] - x[0]) / 3 * (y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-2:2].sum()))


def expected_error(pdf: Callable[[ArrayLike], Array], m: float, breakpoints: Sequence[float]) -> float:
    """Of the pieces, over C(b - 1) = 1 / (12 (2^(b-1) - 1)^2). What lies beyond m counts in the last piece, as in equation 5."""
    edges = [0.0, *breakpoints, m]
    inner = [_mass(pdf, low, high) for low, high in itertools.pairwise(edges[:-1])]
    masses = [*inner, 0.5 - sum(inner)]
    return 2 * sum(
        (high - low) ** 2 * mass for (low, high), mass in zip(itertools.pairwise(edges), masses, strict=True)
    )


def uniform_error(m: float, bit_width: int) -> float:
    """Of b-bit uniform quantization of [-m, m], without any assumption on the density: C(b) (2 m)^2."""
    return (2 * m) ** 2 / (12 * (2**bit_width - 1) ** 2)


def fitted_breakpoint(estimate: str, m: float) -> float:
    """The supplement's fits, with the rule for ranges near a constant's and limits of 0.02 m and m / 2."""
    if m < 1.2:
        return m / 2
    fit = math.log(0.86143114 * m + 0.607901097) if estimate == "gaussian" else 0.80304483 * math.sqrt(m) - 0.316678551
    return min(max(fit, 0.02 * m), m / 2)


def best_breakpoint(pdf: Callable[[ArrayLike], Array], m: float) -> float:
    """The best of a grid of m / 20000 on (0, m / 2]. Midpoint sums of the density: another integral than above."""
    step = m / 20000
    p = step * np.arange(1, 10001)
    mass = np.cumsum(pdf(p - step / 2)) * step
    return float(p[np.argmin(p**2 * mass + (m - p) ** 2 * (0.5 - mass))])


def best_breakpoints(pdf: Callable[[ArrayLike], Array], m: float, count: int, cells: int) -> list[float]:
    """The best of all choices on a grid of m / cells, by dynamic programming over the last breakpoint."""
    step = m / cells
    edges = step * np.arange(cells + 1)
    fine = 50
    centres = (np.arange(cells * fine) + 0.5) * step / fine
    below = np.concatenate([[0.0], np.cumsum(pdf(centres).reshape(cells, fine).sum(1)) * step / fine])
    below[-1] = 0.5
    cost = (edges[None, :] - edges[:, None]) ** 2 * (below[None, :] - below[:, None])
    cost[np.tril_indices(cells + 1)] = np.inf
    best, came_from = cost[0], []
    for _ in range(count):
        total = best[:, None] + cost
        came_from.append(total.argmin(0))
        best = total.min(0)
    at, found = cells, []
    for origin in reversed(came_from):
        at = int(origin[at])
        found.append(float(edges[at]))
    return found[::-1]


# --- activations ---


def top_k_range(x: ArrayLike, k: int) -> tuple[float, float]:
    ordered = np.sort(np.asarray(x, np.float64).ravel())
    return float(np.median(ordered[:k])), float(np.median(ordered[-k:]))
