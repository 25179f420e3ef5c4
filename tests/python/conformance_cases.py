"""What the conformance suite has to know of each registered method: its oracle, options worth trying, a network it stands in.

An oracle here reads options and state of a quantizer and hands them to the method's formulas in ``tests/oracle``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from conformance import Array, Case, Expected

import qstep
from oracle import f8net, iao, inq, lsq_plus, pact, pwlq


def _column(values: Any, dim: int) -> Array:
    """One value, or one per channel, shaped to broadcast against a weight of ``dim`` dimensions."""
    values = np.float64(values.detach())
    return values if values.ndim == 0 or values.size == 1 else values.reshape(-1, *[1] * (dim - 1))


def lsq_plus_weight(quantizer: Any, w: Array, grad_output: Array) -> Expected:
    scale = _column(quantizer.scale(), w.ndim)
    codes = (quantizer.quant_min, quantizer.quant_max)
    values = lsq_plus.fake_quantize(w, scale, 0.0, *codes)
    gradients = lsq_plus.gradients(w, grad_output, scale, 0.0, *codes, quantizer.boundary)
    shared = tuple(range(1, w.ndim)) if scale.ndim else None
    factor = 1 / math.sqrt(w.size / scale.size * quantizer.quant_max)
    return Expected(values, {"x": gradients.x, "scale.raw": factor * gradients.scale.sum(axis=shared)})


def lsq_plus_activation(quantizer: Any, x: Array, grad_output: Array) -> Expected:
    arguments = (quantizer.scale.item(), quantizer.offset.item(), quantizer.quant_min, quantizer.quant_max)
    gradients = lsq_plus.gradients(x, grad_output, *arguments, quantizer.boundary)
    elements = x.size if quantizer.gradient_elements == "batch" else x[0].size
    factor = 1 / math.sqrt(elements * quantizer.quant_max)
    parameters = {"_scale.raw": factor * gradients.scale.sum()}
    if quantizer.configuration >= 3:
        parameters["offset"] = factor * gradients.offset.sum()
    return Expected(lsq_plus.fake_quantize(x, *arguments), {"x": gradients.x, **parameters})


def iao_weight(quantizer: Any, w: Array, grad_output: Array) -> Expected:
    codes = (quantizer.quant_min, quantizer.quant_max)
    rows = w.reshape(1, -1) if quantizer.axis is None else w.reshape(len(w), -1)
    grids = [iao.affine_params(r.min(), r.max(), *codes, symmetric=quantizer.axis == 0) for r in rows]
    column = (-1, *[1] * (w.ndim - 1))
    scale, zero_point = (np.array([float(g[i]) for g in grids]).reshape(column) for i in (0, 1))
    values = iao.fake_quantize(w, scale, zero_point, *codes)
    return Expected(values, {"x": iao.grad_x(w, grad_output, scale, zero_point, *codes)})


def iao_activation(quantizer: Any, x: Array, grad_output: Array) -> Expected:
    codes = (quantizer.quant_min, quantizer.quant_max)
    scale, zero_point = iao.affine_params(quantizer.min.item(), quantizer.max.item(), *codes)
    values = iao.fake_quantize(x, float(scale), zero_point, *codes)
    return Expected(values, {"x": iao.grad_x(x, grad_output, float(scale), zero_point, *codes)})


def pact_activation(quantizer: Any, x: Array, grad_output: Array) -> Expected:
    arguments = (quantizer.alpha().item(), quantizer.bit_width, quantizer.quant_min < 0)
    gradients = pact.gradients(x, grad_output, *arguments, quantizer.gradient)
    return Expected(pact.fake_quantize(x, *arguments), {"x": gradients.x, "alpha.raw": gradients.alpha.sum()})


def _fixed_point(x: Array, grad_output: Array, length: int, bits: int, signed: bool, mask: str) -> Expected:
    values = np.array([f8net.fixed_point(v, length, bits, signed) for v in x.flat]).reshape(x.shape)
    passes = np.array([f8net.passes(v, length, bits, signed, mask) for v in x.flat]).reshape(x.shape)
    return Expected(values, {"x": np.where(passes, grad_output, 0.0)})


def f8net_weight(quantizer: Any, w: Array, grad_output: Array) -> Expected:
    if quantizer.format == "std":
        length = f8net.fraction_length(w.std(ddof=1), True)
    else:
        length = f8net.search(w.flatten().tolist(), quantizer.bit_width, True)
    return _fixed_point(w, grad_output, length, quantizer.bit_width, True, quantizer.mask)


def f8net_activation(quantizer: Any, x: Array, grad_output: Array) -> Expected:
    length, signed = int(quantizer.fraction_length), quantizer.quant_min < 0
    expected = _fixed_point(x, grad_output, length, quantizer.bit_width, signed, quantizer.mask)
    # A clipping level is learned through the weights of neighbouring layers: test_f8net.py.
    return (
        expected if quantizer.alpha is None else expected._replace(gradients={**expected.gradients, "alpha.raw": None})
    )


def pwlq_weight(quantizer: Any, w: Array, grad_output: Array) -> Expected:
    options = quantizer.options
    values = []
    for row in w.reshape(1, -1) if options["axis"] is None else w.reshape(len(w), -1):
        m, sd = np.abs(row).max(), row.std(ddof=1)
        p = sd * pwlq.fitted_breakpoint(options["estimate"], m / sd)
        values.append(pwlq.quantize(row, [p], quantizer.bit_width, options["scheme"]))
        if options["bias_correction"] != "none":
            values[-1] = pwlq.bias_corrected(row, values[-1], options["bias_correction"])
    return Expected(np.reshape(values, w.shape), {"x": grad_output})


def pwlq_activation(quantizer: Any, x: Array, grad_output: Array) -> Expected:
    grid = (quantizer.scale.item(), quantizer.zero_point.item(), quantizer.quant_min, quantizer.quant_max)
    return Expected(iao.fake_quantize(x, *grid), {"x": iao.grad_x(x, grad_output, *grid)})


def inq_weight(quantizer: Any, w: Array, grad_output: Array) -> Expected:
    find = inq.least_error_exponent if quantizer.n1_rule == "mse" else lambda *arguments: inq.exponents(*arguments)[0]
    n1 = find(w.reshape(-1).tolist(), quantizer.bit_width)
    values = [inq.quantize(v, n1, quantizer.bit_width) for v in w.reshape(-1)]
    return Expected(np.array(values).reshape(w.shape), {"x": grad_output})


def float_activation(quantizer: Any, x: Array, grad_output: Array) -> Expected:
    return Expected(x, {"x": grad_output})


WEIGHTS: dict[str, Case] = {
    "lsq_plus": Case(
        lsq_plus_weight,
        lambda: qstep.QConfig.lsq_plus(4, 4, act_config=1),
        options=({}, {"per_channel": True}, {"rule": "lsq", "boundary": "inclusive"}),
    ),
    # The range moves with the values, and with it the grid.
    "iao": Case(iao_weight, lambda: qstep.QConfig.iao(8, 8), options=({}, {"per_channel": True}), idempotent=False),
    "f8net": Case(
        f8net_weight,
        qstep.QConfig.f8net,
        options=({"format": "grid"}, {"format": "grid", "mask": "reference"}),
        options_at_8_bits=({}, {"mask": "reference"}),
    ),
    # So do breakpoints.
    "pwlq": Case(
        pwlq_weight,
        lambda: qstep.QConfig.pwlq(4, 8),
        options=(
            {},
            {"estimate": "laplace", "scheme": "repo", "bias_correction": "exact"},
            {"per_channel": False, "bias_correction": None},
        ),
        idempotent=False,
    ),
    # In training the weights that are not frozen are real numbers: test_inq.py.
    "inq": Case(
        inq_weight,
        lambda: qstep.QConfig.inq(5),
        options=({}, {"n1_rule": "mse"}, {"recompute_n1": True}, {"variable_length": True}),
        bit_widths=(2, 3, 4, 5),
    ),
}

ACTIVATIONS: dict[str, Case] = {
    "lsq_plus": Case(
        lsq_plus_activation,
        lambda: qstep.QConfig.lsq_plus(4, 4, per_channel=True),
        options=(
            *({"configuration": c} for c in (1, 2, 3, 4)),
            {"boundary": "inclusive", "init": "min_max"},
            {"gradient_elements": "sample"},
        ),
    ),
    "iao": Case(iao_activation, lambda: qstep.QConfig.iao(8, 8)),
    "pact": Case(
        pact_activation,
        lambda: qstep.QConfig.pact(4, 4),
        options=({}, {"gradient": "ste"}, {"alpha_init": "max"}, {"alpha_init": 3.0}),
    ),
    "f8net": Case(
        f8net_activation,
        qstep.QConfig.f8net,
        options=(
            {"format": "grid", "clipping": False},
            {"format": "grid", "clipping": False, "mask": "reference"},
        ),
        options_at_8_bits=({}, {"clipping": False}),
    ),
    "pwlq": Case(pwlq_activation, lambda: qstep.QConfig.pwlq(6, 6), options=({}, {"asymmetric": True}, {"top_k": 1})),
    "float": Case(float_activation, lambda: qstep.QConfig.inq(4, act_bits=None), bit_widths=(32,), integers=False),
}
