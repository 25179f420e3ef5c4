"""One function per formula. Each is differentiable and works on CPU and CUDA, per tensor and per channel.

The mathematics lives in C++ (``torch.ops.qstep``); ``csrc/qstep/methods/*/README.md`` links each equation to its code and its test.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library  # noqa: F401  (registers torch.ops.qstep)


def lsq_plus(
    x: Tensor,
    scale: Tensor,
    offset: Tensor | None = None,
    *,
    quant_min: int,
    quant_max: int,
    axis: int | None = None,
    grad_scale: float = 1.0,
    boundary: str = "strict",
) -> Tensor:
    """Learned step size (LSQ) and offset (LSQ+): ``round(clamp((x - offset) / scale, quant_min, quant_max)) * scale + offset``.

    Rounds half to even. With ``v = (x - offset) / scale`` the gradients are, element-wise,

    ============================ ====== ============== ========
    region                       x      scale          offset
    ============================ ====== ============== ========
    quant_min < v < quant_max    1      round(v) - v   0
    v <= quant_min               0      quant_min      1
    v >= quant_max               0      quant_max      1
    ============================ ====== ============== ========

    summed over the elements that share a parameter and multiplied by ``grad_scale``. ``boundary="inclusive"`` counts the two bounds
    themselves as inside.

    Args:
        x: any shape; float32, float64, bfloat16 or float16.
        scale: positive and finite; one element, or the size of ``axis``.
        offset: as ``scale``; ``None`` for LSQ.
        quant_min, quant_max: smallest and largest integer code, ``quant_min < quant_max``.
        axis: dimension of ``x`` that ``scale`` runs along; ``None`` for one scale.

    Returns:
        The de-quantized tensor, with the shape and dtype of ``x``.

    Source: Esser et al., Learned Step Size Quantization, ICLR 2020, equations 1 to 5; Bhalgat et al., LSQ+, CVPRW 2020.

    >>> x = torch.tensor([-1.0, 0.3, 0.8], requires_grad=True)
    >>> y = lsq_plus(x, torch.tensor(0.5), quant_min=0, quant_max=3); y
    tensor([0.0000, 0.5000, 1.0000], grad_fn=<...>)
    >>> y.sum().backward(); x.grad
    tensor([0., 1., 1.])
    """
    return torch.ops.qstep.lsq_plus(
        x, scale, offset, quant_min=quant_min, quant_max=quant_max, axis=axis, grad_scale=grad_scale, boundary=boundary
    )


def fake_quantize_affine(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    *,
    quant_min: int,
    quant_max: int,
    axis: int | None = None,
    rounding: str = "half_even",
) -> Tensor:
    """IAO's simulated quantization: ``(clamp(round(x / scale) + zero_point, quant_min, quant_max) - zero_point) * scale``.

    The gradient to ``x`` is 1 inside the represented range, bounds included, and 0 outside; none flows to the parameters.
    ``rounding="half_up"`` reproduces TensorFlow's kernels.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018,
    equation 12 (with ``clamp`` as min(max(r, a), b)).
    """
    return torch.ops.qstep.fake_quantize_affine(
        x, scale, zero_point, quant_min=quant_min, quant_max=quant_max, axis=axis, rounding=rounding
    )


def affine_params(
    min: Tensor, max: Tensor, *, quant_min: int, quant_max: int, symmetric: bool = False
) -> tuple[Tensor, Tensor]:
    """``(scale, zero_point)`` of a range, nudged so that real zero is a code (IAO, equation 13 and appendix).

    Args:
        min, max: ends of the range, of one shape; the range is extended to contain 0.
        symmetric: ``zero_point`` 0 and the larger magnitude as range, for weights.
    """
    return torch.ops.qstep.affine_params(min, max, quant_min=quant_min, quant_max=quant_max, symmetric=symmetric)


def pact(x: Tensor, alpha: Tensor, *, bit_width: int, signed: bool = False, gradient: str = "pact") -> Tensor:
    """PACT: ``x`` clipped at a learned level ``alpha`` and quantized, ``round(clamp(x / scale, quant_min, levels)) * scale``.

    One-sided, ``levels`` is 2^b - 1 and ``quant_min`` 0; ``signed``, ``levels`` is 2^(b-1) - 1 and ``quant_min`` is ``-levels``.
    ``scale`` is ``alpha / levels``, rounded once. Rounds half to even. With ``v = x / scale`` the gradients are, element-wise,

    ========================================== ====== ================== ===================
    region                                     x      alpha              alpha, ``"ste"``
    ========================================== ====== ================== ===================
    x >= alpha                                 0      1                  1
    0 <= x < alpha; signed: abs(x) < alpha     1      0                  (q - v) / levels
    x < 0; signed: x <= -alpha                 0      0; signed: -1      0; signed: -1
    ========================================== ====== ================== ===================

    Args:
        x: any shape; float32, float64, bfloat16 or float16.
        alpha: positive and finite; one element.
        bit_width: 2 to 8.
        signed: clip on both sides of 0.
        gradient: ``"pact"`` is the paper's; ``"ste"`` counts the rounding errors of what is not clipped, too (F8Net).

    Returns:
        The de-quantized tensor, with the shape and dtype of ``x``.

    Source: Choi et al., PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018, equations 1 to 3.

    >>> x, alpha = torch.tensor([-1.0, 0.3, 2.0], requires_grad=True), torch.tensor(1.5, requires_grad=True)
    >>> y = pact(x, alpha, bit_width=2); y
    tensor([0.0000, 0.5000, 1.5000], grad_fn=<...>)
    >>> y.sum().backward(); x.grad, alpha.grad
    (tensor([0., 1., 0.]), tensor(1.))
    """
    return torch.ops.qstep.pact(x, alpha, bit_width=bit_width, signed=signed, gradient=gradient)


def pwlq(
    w: Tensor,
    *,
    bit_width: int,
    breakpoint: Tensor | float | None = None,
    axis: int | None = None,
    estimate: str = "gaussian",
    breakpoints: int = 1,
    scheme: str = "paper",
    bias_correction: str | None = None,
) -> Tensor:
    """Piecewise linear quantization (PWLQ) of weights.

    The breakpoints ``p_1 < ... < p_n`` cut the magnitudes into pieces ``[p_r, p_(r+1)]`` with ``p_0 = 0`` and ``p_(n+1) = max|w|``; inside
    a piece magnitudes are uniform with ``bit_width - 1`` bits, and the sign is kept::

        sign(w) * (p_r + step_r * clamp(round((|w| - p_r) / step_r), 0, 2^(bit_width - 1) - 1))

    The gradient to ``w`` is 1 everywhere. That is beyond the paper, which quantizes trained networks.

    Args:
        w: finite, any shape; float32, float64, bfloat16 or float16.
        bit_width: 2 to 8, of sign and magnitude.
        breakpoint: above 0 and below ``max|w|``, ascending: shape ``[]`` or ``[n]``; with ``axis``, ``[channels]`` or ``[channels, n]``.
            ``None``: as :func:`pwlq_breakpoint` estimates them.
        axis: dimension that the breakpoints run along; ``None`` for one set.
        estimate, breakpoints: see :func:`pwlq_breakpoint`.
        scheme: ``"paper"``, whose first piece has steps of ``p_1 / (2^(bit_width - 1) - 1)``; ``"repo"``, as the authors' code has it,
            ``2 p_1 / (2^bit_width - 1)``.
        bias_correction: moves mean and standard deviation of the result to those of ``w``, over all that shares breakpoints. With ``r =
            sd(w) / sd(w_hat)``: ``"repo"`` (w_hat + mean(w) - mean(w_hat)) r, ``"exact"`` (w_hat - mean(w_hat)) r + mean(w).

    Returns:
        The quantized weights, with the shape and dtype of ``w``.

    Source: Fang et al., Post-Training Piecewise Linear Quantization for Deep Neural Networks, ECCV 2020, equations 1 to 8.

    >>> pwlq(torch.tensor([-4.0, -0.3, 0.2, 0.9, 2.6]), bit_width=3, breakpoint=1.0)
    tensor([-4.0000, -0.3333,  0.3333,  1.0000,  3.0000])
    """
    if breakpoint is not None and not isinstance(breakpoint, Tensor):
        breakpoint = torch.tensor(breakpoint, dtype=torch.float64, device=w.device)
    return torch.ops.qstep.pwlq(
        w,
        breakpoint,
        bit_width=bit_width,
        axis=axis,
        estimate=estimate,
        breakpoints=breakpoints,
        scheme=scheme,
        bias_correction=bias_correction or "none",
    )


def pwlq_breakpoint(
    w: Tensor,
    *,
    bit_width: int,
    axis: int | None = None,
    estimate: str = "gaussian",
    breakpoints: int = 1,
    scheme: str = "paper",
) -> Tensor:
    """Breakpoints of :func:`pwlq` for the weights ``w``, in units of ``w``.

    Args:
        estimate: ``"gaussian"`` and ``"laplace"`` are the paper's fits for one breakpoint, from ``max|w| / sd(w)``; ``"optimal_gaussian"``
            and ``"optimal_laplace"`` minimise the expected error itself, as the fits do for two and three breakpoints; ``"search"``
            minimises the error on ``w``, on grids of a tenth, a hundredth and a thousandth of ``max|w|``.
        breakpoints: how many, 1 to 3.
        bit_width, axis, scheme: as in :func:`pwlq`; bit width and scheme matter to the search alone.

    Returns:
        Shape ``[]``, or ``[breakpoints]`` where there are several; with ``axis``, ``[channels]`` or ``[channels, breakpoints]``. float32, or
        float64 for float64. Weights that are all zero count as of range 1.

    Source: Fang et al., ECCV 2020, equations 5 to 8; supplement, equation 4 (which prints ``p / m`` for ``p``) and algorithm 1.
    """
    return torch.ops.qstep.pwlq_breakpoint(
        w, bit_width=bit_width, axis=axis, estimate=estimate, breakpoints=breakpoints, scheme=scheme
    )


def top_k_range(x: Tensor, *, k: int = 10) -> tuple[Tensor, Tensor]:
    """``(low, high)``: the medians of the ``k`` smallest and of the ``k`` largest values of ``x`` (PWLQ, section 4).

    All values count where ``x`` has fewer than ``k``. The median of an even number is the mean of the two middle ones.
    """
    return torch.ops.qstep.top_k_range(x, k=k)


def fixed_point(
    x: Tensor, *, fraction_length: int | Tensor, word_length: int = 8, signed: bool, mask: str = "pact"
) -> Tensor:
    """Fixed point (F8Net): ``clamp(round(x * 2^fraction_length)) * 2^-fraction_length``. Rounds half to even.

    Signed codes are -(2^(word_length-1) - 1) .. 2^(word_length-1) - 1, never the most negative one; unsigned ones 0 .. 2^word_length - 1.
    The gradient to ``x`` is 1 where the code is strictly inside that range, else 0.

    Args:
        x: any shape; float32, float64, bfloat16 or float16.
        fraction_length: in [0, word_length - 1] signed, [0, word_length] unsigned; an int, or an integer tensor of one element.
        word_length: bits, in [2, 8].
        mask: ``"pact"`` looks at the code before rounding, ``"reference"`` after it, as the official code.

    Source: Jin et al., F8Net: Fixed-Point 8-bit Only Multiplication for Network Quantization, ICLR 2022.

    >>> fixed_point(torch.tensor([-0.3, 0.3, 9.0]), fraction_length=4, signed=False)
    tensor([ 0.0000,  0.3125, 9.0000])
    """
    if not isinstance(fraction_length, Tensor):
        fraction_length = torch.tensor(fraction_length, dtype=torch.int32, device=x.device)
    return torch.ops.qstep.fixed_point(x, fraction_length, word_length=word_length, signed=signed, mask=mask)


def f8net_fraction_length(std: Tensor | float, *, signed: bool) -> Tensor:
    """Fraction length of 8-bit words for a standard deviation: ``floor(log2(C / std))``, C = 40 signed and 70 unsigned, with exact thresholds.

    Args:
        std: not negative; that of the tensor (signed), or of the Gaussian before it was rectified (unsigned).

    Returns:
        int32 of the shape of ``std``, in [0, 7] signed and [0, 8] unsigned.

    >>> f8net_fraction_length(0.625, signed=True)
    tensor(6, dtype=torch.int32)
    """
    return torch.ops.qstep.f8net_fraction_length(torch.as_tensor(std), signed=signed)


def f8net_format(
    x: Tensor, *, word_length: int = 8, signed: bool, rule: str = "std", rectified: bool = False
) -> Tensor:
    """Fraction length (int32, shape []) that suits the values of ``x`` (F8Net).

    Args:
        rule: ``"std"`` is :func:`f8net_fraction_length` of the unbiased standard deviation (0 for fewer than two elements), for
            ``word_length`` 8 only; ``"grid"`` the format of least squared error, the first of several.
        rectified: unsigned ``x`` went through a ReLU: its deviation is divided by sqrt(1/2 - 1/(2 pi)), that of a rectified unit Gaussian.
    """
    return torch.ops.qstep.f8net_format(x, word_length=word_length, signed=signed, rule=rule, rectified=rectified)


def f8net_pact(
    x: Tensor, alpha: Tensor, *, fraction_length: int | Tensor, word_length: int = 8, signed: bool, mask: str = "pact"
) -> Tensor:
    """PACT by way of fixed point (F8Net): ``eta * fixed_point(x / eta)``, ``eta = 2^fraction_length * |alpha| / largest code``.

    Clips at ``alpha`` and rounds to steps of ``|alpha| / largest code``, whatever the fraction length. With v = x / step the gradients are,
    element-wise, 1 to ``x`` and (round(v) - v) / largest code to ``alpha`` inside the range; 0 and 1 (-1 below) outside.

    Args:
        alpha: one element, not 0.
    """
    if not isinstance(fraction_length, Tensor):
        fraction_length = torch.tensor(fraction_length, dtype=torch.int32, device=x.device)
    return torch.ops.qstep.f8net_pact(x, alpha, fraction_length, word_length=word_length, signed=signed, mask=mask)


def inq_quantize(w: Tensor, *, bit_width: int, n1: int | Tensor | None = None) -> Tensor:
    """Incremental quantization (INQ): weights on the powers of two ``{0, +-2^n2, ..., +-2^n1}``, ``n2 = n1 + 1 - 2^(bit_width - 2)``.

    A magnitude goes to the nearest one, midpoints to the larger; what exceeds ``1.5 * 2^n1`` to ``2^n1``. The gradient to ``w`` is 1
    everywhere (straight through).

    Args:
        w: any shape; float32, float64, bfloat16 or float16. NaN stays NaN.
        bit_width: 2 to 5.
        n1: exponent of the largest power; ``None`` for that of :func:`inq_range`.

    Source: Zhou et al., Incremental Network Quantization, ICLR 2017, equations 1 to 4.

    >>> inq_quantize(torch.tensor([-1.4, 0.75, 0.3, 0.2, 0.1]), bit_width=3)
    tensor([-1.0000,  1.0000,  0.5000,  0.0000,  0.0000])
    """
    if n1 is None:
        n1 = torch.ops.qstep.inq_range(w, bit_width=bit_width)
    elif not isinstance(n1, Tensor):
        n1 = torch.tensor(n1, device=w.device)
    return torch.ops.qstep.inq_quantize(w, n1, bit_width=bit_width)


def inq_range(w: Tensor, bit_width: int, rule: str = "max") -> tuple[int, int]:
    """``(n1, n2)``, the exponents of INQ's largest and smallest power of two.

    Args:
        w: finite weights. All-zero and empty ones give ``n1 = 0``.
        bit_width: 2 to 5.
        rule: ``"max"`` is the paper's, ``n1 = floor(log2(4 max|w| / 3))``, exactly. ``"mse"`` takes, of this n1 and the seven below it,
            the one with which :func:`inq_quantize` has the least squared error: at 2 and 3 bits the paper's set, which reaches up to the
            largest weight, turns nearly all others to zero. Beyond the paper.

    Source: Zhou et al., Incremental Network Quantization, ICLR 2017, equations 2 and 3.

    >>> w = torch.tensor([1.0, 0.2, -0.3, 0.25])
    >>> inq_range(w, 2), inq_range(w, 2, "mse")
    ((0, 0), (-1, -1))
    """
    n1 = int(torch.ops.qstep.inq_range(w, bit_width=bit_width, rule=rule))
    return n1, n1 + 1 - (1 << (bit_width - 2))


def inq_partition(
    w: Tensor,
    frozen: Tensor,
    fraction: float,
    strategy: str = "magnitude",
    generator: torch.Generator | None = None,
) -> Tensor:
    """A larger frozen mask: ``frozen`` with weights added, ``floor(fraction * w.numel() + 1/2)`` altogether.

    Args:
        w: finite weights.
        frozen: bool, of the shape of ``w``; all of them stay frozen.
        fraction: cumulative share, in (0, 1] and not below the share that is frozen already.
        strategy: ``"magnitude"`` takes the largest of the rest, ties in the order of indices (the paper's pruning-inspired strategy);
            ``"random"`` draws uniformly from the rest.
        generator: for ``"random"``; torch's default CPU generator if not given.

    Source: Zhou et al., Incremental Network Quantization, ICLR 2017, equation 5 and section 2.2.

    >>> frozen = torch.tensor([True, False, False, False])
    >>> inq_partition(torch.tensor([0.1, 0.2, -0.4, 0.3]), frozen, 0.75)
    tensor([ True, False,  True,  True])
    """
    return torch.ops.qstep.inq_partition(w, frozen, fraction=fraction, strategy=strategy, generator=generator)
