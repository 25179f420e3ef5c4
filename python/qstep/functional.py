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
